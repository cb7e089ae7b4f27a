"""Series of sizes whose future is known: shapes that databases grow in, and public data summed up to look like sizes.

The shapes in ``TUNED`` were looked at while the forecast was written, ``batches`` from its second round on; those in
``HELD_OUT`` and the public data were seen in one run with other seeds, after which two faults were mended; ``imports``
was never seen before the page was written.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

START = datetime.datetime(2026, 1, 1, 3, tzinfo=datetime.UTC)
GB = 1024**3
FUTURE = 90  # days


@dataclass(frozen=True)
class Series:
    """Days and bytes that are known, a size to be reached, and in how many days it is; None where never."""

    shape: str
    days: list[float]
    sizes: list[int]
    threshold: float
    truth: float | None

    @property
    def points(self) -> list[tuple[datetime.datetime, int]]:
        """Return the series as the forecast takes it."""
        return [(START + datetime.timedelta(days=day), size) for day, size in zip(self.days, self.sizes, strict=True)]


Rates = Callable[[np.random.Generator, int], "np.ndarray"]


def _noisy(rng: np.random.Generator, rates: np.ndarray, share: float = 0.15) -> np.ndarray:
    return np.asarray(rates * rng.gamma(1 / share**2, share**2, len(rates)))


def linear(rng: np.random.Generator, n: int) -> np.ndarray:
    """Grow by the same each day, give or take."""
    return _noisy(rng, np.full(n + FUTURE, 1.0))


def weekly(rng: np.random.Generator, n: int) -> np.ndarray:
    """Working days only."""
    return _noisy(rng, np.where((np.arange(n + FUTURE) + rng.integers(7)) % 7 < 5, 1.35, 0.12))


def exponential(rng: np.random.Generator, n: int) -> np.ndarray:
    """More each day."""
    return _noisy(rng, 0.4 * np.exp(np.arange(n + FUTURE) * rng.uniform(0.01, 0.03)))


def slope_change(rng: np.random.Generator, n: int) -> np.ndarray:
    """Slower or faster since some days."""
    at = n - int(rng.integers(8, 25))
    return _noisy(rng, np.where(np.arange(n + FUTURE) < at, 1.0, rng.choice([0.3, 2.5, 4.0])))


def step(rng: np.random.Generator, n: int) -> np.ndarray:
    """One bulk load."""
    rates = linear(rng, n)
    rates[int(rng.integers(5, n - 3))] += rng.uniform(10, 60)
    return rates


def purge(rng: np.random.Generator, n: int) -> np.ndarray:
    """One purge or VACUUM FULL."""
    rates = linear(rng, n)
    at = int(rng.integers(n // 2, n - 3))
    rates[at] -= rates[:at].sum() * rng.uniform(0.4, 0.9)
    return rates


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """Grow steadily, measured badly or with tables that are rewritten all the time."""
    level = rng.normal(0, 1.5, n + FUTURE + 1)
    return linear(rng, n) + np.diff(level)


def plateau(rng: np.random.Generator, n: int) -> np.ndarray:
    """Growth that stopped."""
    at = n - int(rng.integers(5, 25))
    rates = _noisy(rng, np.where(np.arange(n + FUTURE) < at, 1.0, 0.0))
    return rates + np.diff(rng.normal(0, 0.02, len(rates) + 1))


def batches(rng: np.random.Generator, n: int) -> np.ndarray:
    """Load in bursts, and nothing in between."""
    return np.asarray(rng.poisson(0.4, n + FUTURE) * rng.gamma(2, 1.2, n + FUTURE))


# ---- held out ----------------------------------------------------------------------------------------------------


def levelling_off(rng: np.random.Generator, n: int) -> np.ndarray:
    """Less each day."""
    return _noisy(rng, 3 * np.exp(-np.arange(n + FUTURE) / rng.uniform(25, 60)))


def two_changes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Three rates one after the other."""
    day = np.arange(n + FUTURE)
    first, second = n // 3, n - int(rng.integers(10, 20))
    rates = rng.choice([0.5, 1.0, 2.0, 4.0], 3, replace=False)
    return _noisy(rng, np.select([day < first, day < second], rates[:2], rates[2]), 0.3)


def partitions_dropped(rng: np.random.Generator, n: int) -> np.ndarray:
    """Steady growth, less a partition every week or two."""
    rates, every = linear(rng, n) * 1.5, int(rng.integers(7, 15))
    rates[int(rng.integers(every)) :: every] -= every * rng.uniform(0.4, 0.7) * 1.5
    return rates


def imports(rng: np.random.Generator, n: int) -> np.ndarray:
    """Files that arrive in one night of three, of very different sizes."""
    return np.asarray(0.2 + (rng.random(n + FUTURE) < 0.3) * rng.lognormal(0.5, 0.7, n + FUTURE))


def wandering(rng: np.random.Generator, n: int) -> np.ndarray:
    """Drift from rate to rate."""
    return _noisy(rng, np.exp(np.cumsum(rng.normal(0, 0.06, n + FUTURE))))


def load_and_change(rng: np.random.Generator, n: int) -> np.ndarray:
    """Grow faster since some days, with a bulk load near by."""
    rates = _noisy(rng, np.where(np.arange(n + FUTURE) < n - 20, 1.0, 2.5))
    at = n - 20 + int(rng.integers(-10, 10))
    rates[at : at + 2] += rng.uniform(10, 40) / 2
    return rates


def vacuum_full_twice(rng: np.random.Generator, n: int) -> np.ndarray:
    """Working days, and two purges."""
    rates = weekly(rng, n)
    for at in rng.choice(np.arange(10, n - 4), 2, replace=False):
        rates[at] -= rates[:at].sum() * 0.3
    return rates


def plateau_of_a_weekly_load(rng: np.random.Generator, n: int) -> np.ndarray:
    """Working days, until it stopped."""
    at = n - int(rng.integers(9, 30))
    rates = np.where(np.arange(n + FUTURE) < at, weekly(rng, n), 0.0)
    return np.asarray(rates + np.abs(rng.normal(0, 0.01, len(rates))))


def plateau_after_a_rise(rng: np.random.Generator, n: int) -> np.ndarray:
    """More each day, until it stopped."""
    at = n - int(rng.integers(5, 25))
    rates = np.where(np.arange(n + FUTURE) < at, exponential(rng, n), 0.0)
    return np.asarray(rates + np.diff(rng.normal(0, 0.1, len(rates) + 1)))


TUNED: Mapping[str, Rates] = {
    it.__name__: it for it in (linear, weekly, exponential, slope_change, step, purge, noise, plateau, batches)
}
HELD_OUT: Mapping[str, Rates] = {
    it.__name__: it
    for it in (
        levelling_off,
        two_changes,
        partitions_dropped,
        imports,
        wandering,
        load_and_change,
        vacuum_full_twice,
        plateau_of_a_weekly_load,
        plateau_after_a_rise,
    )
}
PLATEAUS = ("plateau", "plateau_of_a_weekly_load", "plateau_after_a_rise")
FEW = ("missing_runs", "three_points")


def made(shape: str, seed: int, n: int = 60) -> Series:
    """Return a series of a shape; the shapes of ``FEW`` are a linear one of which little was measured."""
    rng = np.random.default_rng([seed, *shape.encode()])
    rates = {**TUNED, **HELD_OUT}.get(shape, linear)(rng, n)
    sizes = GB * (rng.uniform(20, 200) + np.cumsum(rates))
    days, known = np.arange(n) + rng.uniform(-0.02, 0.02, n), sizes[:n]
    if shape == "missing_runs":
        kept = np.sort(rng.choice(n, n // 3, replace=False))
        kept[-1] = n - 1
        days, known = days[kept], known[kept]
    elif shape == "three_points":
        days, known = days[-3:], known[-3:]
    in_days = float(rng.uniform(8, 60))
    return until(shape, days, known, sizes[n:], in_days, rates[: n - 30].mean() * GB)


def until(
    shape: str, days: np.ndarray, known: np.ndarray, future: Sequence[float] | np.ndarray, in_days: float, usual: float
) -> Series:
    """Return a series with a threshold that is reached about ``in_days`` ahead, or never after a plateau."""
    if shape in PLATEAUS:
        threshold: float = float(known[-1] + usual * min(in_days, 25.0))
        return Series(shape, days.tolist(), [round(it) for it in known], threshold, None)
    path = np.concatenate([[known[-1]], future])
    highest = float(path[: int(in_days) + 1].max())
    threshold = highest if highest > path[0] else float(path[0] + abs(usual) + 1)
    at = np.flatnonzero(path >= threshold)
    truth = None
    if len(at):
        it = int(at[0])
        truth = it - 1 + (threshold - path[it - 1]) / (path[it] - path[it - 1])
    return Series(shape, days.tolist(), [round(it) for it in known], threshold, truth)
