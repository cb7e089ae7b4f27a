"""A forecast: what a series of sizes says of its future, how sure that is, and what in its past was no growth.

Pure: no database, no clock. A bulk load or a purge is taken out as a level shift and named, shifts that come back
regularly are carried on, and the past is cut where its rate changed. Which of four models goes on from there is decided
by a back-test: each has to foretell the end of the series from its beginning. The width of the interval comes from
the noise of the series and from the errors of that back-test. How well this does: benchmarks/results/forecast.md.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

HORIZON_DAYS = 365.0
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
_FEWEST, _ENOUGH, _ENOUGH_DAYS = 3, 8, 3.0
_DAY_S = 86400.0
_WEEK = 7
_MOST = 400  # points; more of them are thinned, which changes no answer and bounds the time
_BLOCKS = (1, 3, 7)
_MOST_SHIFTS = 3
_ORIGINS = 8  # of the back-test
_BENDS = np.array([-6, -4, -3, -2, -1.4, -1, -0.6, -0.3, 0.3, 0.6, 1, 1.4, 2, 3, 4])  # over the span of a series
_Array: TypeAlias = Any  # numpy's generic arrays say no more under a strict checker
_Model: TypeAlias = Callable[[_Array, _Array], "_Trend"]


@dataclass(frozen=True)
class Shift:
    """A jump of the level that is no growth: between which points, and by how much; negative where it fell."""

    after: datetime.datetime
    at: datetime.datetime
    bytes: int

    @property
    def is_up(self) -> bool:
        """Tell whether the level rose, as with a bulk load; a purge or VACUUM FULL lowers it."""
        return self.bytes > 0


@dataclass(frozen=True)
class Days:
    """In how many days a size is reached: the 80 % interval and its middle; None is 'not within the horizon'."""

    lower: float | None
    median: float | None
    upper: float | None


@dataclass(frozen=True)
class _Trend:
    """A growth of ``rate`` bytes a day now that changes by ``bend`` of itself a day; ``start`` days ago it began."""

    rate: float
    bend: float = 0.0
    end: float = 0.0
    start: float = 0.0

    def grown(self, days: _Array) -> _Array:
        """Return the growth until so many days from now."""
        return self.rate * (np.expm1(np.clip(self.bend * days, -50, 50)) / self.bend if self.bend else days)


@dataclass(frozen=True)
class _Cycle:
    """A shift that comes back: by how much, every how many days, and in how many days the next one."""

    bytes: float
    every: float
    next_in: float

    def sum(self, days: _Array) -> _Array:
        """Return what all of them until then come to."""
        return self.bytes * np.maximum(np.floor((days - self.next_in) / self.every) + 1, 0)


@dataclass(frozen=True)
class _Spread:
    """How far the truth may lie from the middle: a noise that stays, one that adds up, an unsure rate and bend."""

    level: float = 0.0
    step: float = 0.0
    rate: float = 0.0
    bend: float = 0.0
    freedom: float = 30.0

    def at(self, days: _Array) -> _Array:
        """Return the standard deviation so many days from now."""
        return np.sqrt(self.level**2 + self.step**2 * days + (self.rate * days) ** 2 + (self.bend * days**2) ** 2)


@dataclass(frozen=True)
class Forecast:
    """What may come after ``last``, and why.

    ``basis`` is 'model', 'range' (too few points: from the slowest to the fastest growth that was seen) or 'none' (no
    answer at all), ``model`` says the same in words. ``daily_bytes`` is the rate of now with its 80 % interval, less
    what drops regularly; level shifts are left out. ``is_plateau`` means that it has grown, and does not any more.
    """

    basis: Literal["model", "range", "none"]
    model: str
    last: tuple[datetime.datetime, int] | None
    points: int
    shifts: tuple[Shift, ...] = ()
    daily_bytes: tuple[float, float, float] | None = None
    is_plateau: bool = False
    _base: float = 0.0
    _trend: _Trend = _Trend(0.0)
    _cycles: tuple[_Cycle, ...] = ()
    _spread: _Spread = _Spread()

    def sizes(self, share: float, days: Sequence[float]) -> list[float]:
        """Return the size that is not exceeded with a probability of ``share``, so many days after the last point.

        Raises ValueError where there is no answer.
        """
        return [float(size) for size in self._sizes(share, np.asarray(days, dtype=float))]

    def paths(
        self, horizon_days: float = 90.0, shares: Sequence[float] = SHARES
    ) -> tuple[list[datetime.datetime], dict[float, list[float]]]:
        """Return the times of a fan chart up to the horizon, and the sizes at each of them by share."""
        days = np.linspace(0, horizon_days, 91)
        if self.last is None:
            raise ValueError(self.model)
        times = [self.last[0] + datetime.timedelta(days=float(day)) for day in days]
        return times, {share: self.sizes(share, list(days)) for share in shares}

    def days_until(self, size: float, horizon_days: float = HORIZON_DAYS) -> Days | None:
        """Return in how many days after the last point ``size`` bytes are reached; None where there is no answer."""
        if self.basis == "none" or self.last is None:
            return None
        if self.last[1] >= size:
            return Days(0.0, 0.0, 0.0)
        days = np.unique(
            np.concatenate([np.linspace(0, min(60.0, horizon_days), 961), np.linspace(0, horizon_days, 1461)])
        )
        return Days(*(self._crossing(days, size, share) for share in (0.9, 0.5, 0.1)))

    def _crossing(self, days: _Array, size: float, share: float) -> float | None:
        sizes = self._sizes(share, days)
        reached = np.flatnonzero(sizes >= size)
        if not len(reached):
            return None
        first = int(reached[0])
        if first == 0:
            return 0.0
        before, after = sizes[first - 1], sizes[first]
        return float(days[first - 1] + (days[first] - days[first - 1]) * (size - before) / (after - before))

    def _sizes(self, share: float, days: _Array) -> _Array:
        if self.basis == "none":
            raise ValueError(self.model)
        from scipy.special import stdtrit  # a quarter of a second that nobody else need wait for

        middle = self._base + self._trend.grown(days) + sum(cycle.sum(days) for cycle in self._cycles)
        return np.maximum(middle + float(stdtrit(self._spread.freedom, share)) * self._spread.at(days), 0.0)


def forecast(points: Sequence[tuple[datetime.datetime, int]]) -> Forecast:
    """Return what a series of (time, bytes) says of its future; in any order, with gaps, at any spacing.

    From eight points over three days on there is a model, from three on a range. Times of one kind: all with a time
    zone, or none.
    """
    known = _thinned(sorted(dict(points).items()))
    latest = known[-1] if known else None
    if len(known) < _FEWEST or known[-1][0] - known[0][0] < datetime.timedelta(hours=1):
        return Forecast(
            "none",
            f"{len(known)} point{'s are' if len(known) != 1 else ' is'} too few to say anything",
            latest,
            len(known),
        )
    days = np.array([(at - known[-1][0]).total_seconds() / _DAY_S for at, _ in known])
    sizes = np.array([float(size) for _, size in known])
    if len(known) < _ENOUGH or -days[0] < _ENOUGH_DAYS:
        return _range(days, sizes, known)
    sizes = sizes - _weekly(days, sizes)
    steps = _shifts(days, sizes)
    cycles, single = _cycles(days, steps)
    level = _levelled(days, sizes, steps)
    chosen = _choose(days, level)
    spread, is_flat, base = _spread(days, level, chosen)
    trend = _Trend(0.0, start=chosen.trend.start) if is_flat else chosen.trend
    has_grown = bool(level[-1] - level[0] > 4 * abs(chosen.trend.rate) * -trend.start)
    net = trend.rate + sum(cycle.bytes / cycle.every for cycle in cycles)
    low, high = (net + side * _t80(spread.freedom) * spread.rate for side in (-1, 1))
    shifts = tuple(Shift(known[first - 1][0], known[last][0], round(by)) for first, last, by in _merged(single))
    words = "no growth" if is_flat else chosen.words
    since = known[-1][0] + datetime.timedelta(days=trend.start)
    return Forecast(
        "model",
        f"{words} since {since:%Y-%m-%d}" + "".join(_in_words(cycle) for cycle in cycles),
        latest,
        len(known),
        shifts,
        (low, net, high),
        is_flat and has_grown,
        float(sizes[-1] + base),
        trend,
        tuple(cycles),
        spread,
    )


def _t80(freedom: float) -> float:
    from scipy.special import stdtrit  # as above

    return float(stdtrit(freedom, 0.9))


def _in_words(cycle: _Cycle) -> str:
    return f", {'a rise' if cycle.bytes > 0 else 'a drop'} every {cycle.every:.3g} days"


def _thinned(points: Sequence[tuple[datetime.datetime, int]]) -> list[tuple[datetime.datetime, int]]:
    """Return the last point of each day where there are ten days at least, and of any series at most 400 points."""
    if len(points) < 2:
        return list(points)
    end = points[-1][0]
    span_s = (end - points[0][0]).total_seconds()
    wide_s = _DAY_S if span_s >= 10 * _DAY_S else 0.0
    wide_s = max(wide_s, span_s / _MOST)
    kept: dict[int, tuple[datetime.datetime, int]] = {}
    for at, size in points:
        # half a bucket of tolerance: a daily run is never exactly a day after the other
        kept[int(((end - at).total_seconds()) / wide_s + 0.49)] = (at, size)
    return sorted(kept.values())


def _range(days: _Array, sizes: _Array, known: Sequence[tuple[datetime.datetime, int]]) -> Forecast:
    """Return the cone between the slowest and the fastest growth that was seen, made wider by half."""
    rates = np.diff(sizes) / np.diff(days)
    middle = float((sizes[-1] - sizes[0]) / (days[-1] - days[0]))
    half = 1.5 * float(max(rates.max() - middle, middle - rates.min(), 0.1 * abs(middle)))
    spread = _Spread(rate=half / _t80(30.0))
    words = f"too few points ({len(known)}): the range of the growth that was seen"
    rate = (middle - half, middle, middle + half)
    return Forecast(
        "range", words, known[-1], len(known), (), rate, False, float(sizes[-1]), _Trend(middle), (), spread
    )


# ---- what is no trend --------------------------------------------------------------------------------------------


def _weekly(days: _Array, sizes: _Array) -> _Array:
    """Return what the days of the week add to daily sizes, nothing where they do not differ; 0 at the end."""
    steps = np.diff(days)
    nothing = np.zeros_like(sizes)
    if len(sizes) < 3 * _WEEK + 1 or not 0.9 < float(np.median(steps)) < 1.1:
        return nothing
    rates = np.diff(sizes) / steps
    away = rates - _running_median(rates, _WEEK)
    weekday = np.round(days[1:]).astype(int) % _WEEK
    profile = np.array([np.median(away[weekday == day]) if (weekday == day).any() else 0.0 for day in range(_WEEK)])
    profile -= profile.mean()
    left = away - profile[weekday]
    if _scale(left) > 0.6 * max(float(np.std(away)), 1e-9) or not profile.any():
        return nothing
    path = np.concatenate([[0.0], np.cumsum(profile[weekday] * steps)])
    return np.asarray(path - path[-1])


def _running_median(values: _Array, width: int) -> _Array:
    """Return the median around each value; at the ends, of the first and last ``width``."""
    width = min(width, len(values))
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    medians = np.median(windows, axis=1)
    before = (width - 1) // 2
    return np.concatenate([[medians[0]] * before, medians, [medians[-1]] * (len(values) - len(medians) - before)])


def _scale(values: _Array) -> float:
    """Return the standard deviation that the middle half of the values lets expect."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _shifts(days: _Array, sizes: _Array) -> list[tuple[int, float]]:
    """Return the level shifts as (index of the first point after it, bytes)."""
    gaps, steps = np.diff(days), np.diff(sizes)
    usual = _running_median(steps / gaps, 9)
    odd = steps - usual * gaps
    limit = np.maximum(6 * _scale(odd), 0.005 * np.maximum(sizes[1:], sizes[:-1]))
    limit = np.maximum(limit, 2.5 * np.abs(usual) * gaps)
    found = [(int(it) + 1, float(odd[it])) for it in np.flatnonzero(np.abs(odd) > limit)]
    # where loads are what it grows by they are no exception; unless they come back as a clock does
    _, single = _cycles(days, found)
    return found if len(single) <= max(_MOST_SHIFTS, len(days) // 20) else []


def _cycles(days: _Array, steps: Sequence[tuple[int, float]]) -> tuple[list[_Cycle], list[tuple[int, float]]]:
    """Return the shifts that come back at even intervals and sizes, and those that stand alone."""
    cycles, single = [], list(steps)
    for sign in (1, -1):
        alike = [(it, by) for it, by in steps if by * sign > 0]
        if len(alike) < 3:
            continue
        at, by = days[[it for it, _ in alike]], np.array([by for _, by in alike])
        every = np.diff(at)
        if every.std() > 0.25 * every.mean() or by.std() > 0.6 * abs(by.mean()):
            continue
        period = float(every.mean())
        next_in = float(at[-1] + period)
        cycles.append(_Cycle(float(by.mean()), period, max(next_in, 0.5)))
        single = [step for step in single if step not in alike]
    return cycles, single


def _merged(steps: Sequence[tuple[int, float]]) -> list[tuple[int, int, float]]:
    """Return shifts as (first point after it, last point, bytes), those of one direction in a row as one."""
    merged: list[tuple[int, int, float]] = []
    for it, by in steps:
        if merged and merged[-1][1] == it - 1 and merged[-1][2] * by > 0:
            merged[-1] = (merged[-1][0], it, merged[-1][2] + by)
        else:
            merged.append((it, it, by))
    return merged


def _levelled(days: _Array, sizes: _Array, steps: Sequence[tuple[int, float]]) -> _Array:
    """Return the sizes without their level shifts, with the last as it is."""
    level = sizes.copy()
    for it, by in steps:
        level[:it] += by
    return level


# ---- the trend ---------------------------------------------------------------------------------------------------


def _noise(rates: _Array) -> float:
    """Return how much neighbouring rates differ, as a standard deviation; never nothing."""
    pairs = float(np.sqrt(np.mean(np.diff(rates) ** 2) / 2))
    return max(pairs, 0.02 * float(np.median(np.abs(rates))), 1e-6 + 1e-9 * float(np.abs(rates).max()))


def _last_change(days: _Array, level: _Array) -> int:
    """Return the index of the point since which the rate has been the same."""
    import ruptures  # half a second that nobody else need wait for

    rates = np.diff(level) / np.diff(days)
    if len(rates) < 2 * 3:
        return 0
    signal = np.clip((rates - np.median(rates)) / _noise(rates), -50, 50).reshape(-1, 1)
    finder = ruptures.KernelCPD(kernel="linear", min_size=3).fit(signal)
    ends = finder.predict(pen=8.0 * float(np.log(len(rates))))
    return int(ends[-2]) if len(ends) > 1 else 0


def _line(days: _Array, level: _Array) -> _Trend:
    slope, end = np.polyfit(days - days[-1], level, 1)
    return _Trend(float(slope), end=float(end), start=float(days[0]))


def _since_change(days: _Array, level: _Array) -> _Trend:
    first = _last_change(days, level)
    return _line(days[first:], level[first:])


def _of_week(days: _Array, level: _Array) -> _Trend:
    first = min(int(np.searchsorted(days, days[-1] - _WEEK)), len(days) - 4)
    return _line(days[max(first, 0) :], level[max(first, 0) :])


def _bent(days: _Array, level: _Array) -> _Trend:
    """Fit a growth whose rate rises or falls off by the same share each day."""
    ago, span = days - days[-1], float(days[-1] - days[0])

    def fit(bend: float) -> tuple[float, _Trend]:
        shape = np.column_stack([np.ones_like(ago), np.expm1(bend * ago) / bend])
        (end, rate), *_ = np.linalg.lstsq(shape, level, rcond=None)
        return float(np.sum((level - shape @ (end, rate)) ** 2)), _Trend(float(rate), bend, float(end), float(days[0]))

    def best(bends: Iterable[float]) -> _Trend:
        return min((fit(bend) for bend in bends if bend), key=lambda it: it[0])[1]

    near = best(_BENDS / span).bend
    return best(near + np.linspace(-0.4, 0.4, 9) / span)


_MODELS: dict[str, _Model] = {
    "a steady rate": _since_change,
    "the same rate": _line,
    "the rate of the last week": _of_week,
    "a bent rate": _bent,
}


def _added(moves: _Array, gaps: _Array, block: int) -> float:
    """Return the variance that a day adds, by the sums of so many moves in a row; 0 where there are too few."""
    if len(moves) < 4 * block:
        return 0.0
    window = np.ones(block)
    return float(np.mean(np.convolve(moves, window, "valid") ** 2 / np.convolve(gaps, window, "valid")))


@dataclass(frozen=True)
class _Choice:
    words: str
    trend: _Trend
    errors: tuple[tuple[float, float], ...]  # days foretold, error of the rate


def _choose(days: _Array, level: _Array) -> _Choice:
    """Return the model that foretold the end of the series best, and how far it was off each time."""
    count = len(days)
    origins = np.unique(np.linspace(max(5, count // 2), count - 3, _ORIGINS).astype(int))
    ahead = max(3, count // 4)
    best: tuple[float, _Choice] | None = None
    for words, model in _MODELS.items():
        errors, weights = [], []
        for origin in origins:
            seen, until = slice(0, origin + 1), min(origin + ahead, count - 1)
            trend = model(days[seen], level[seen])
            span = days[until] - days[origin]
            told = level[origin] + trend.grown(span)
            errors.append((float(span), float((level[until] - told) / span)))
            weights.append(0.8 ** float((count - 1 - origin) / ahead * 2))
        score = float(np.average([abs(error) for _, error in errors], weights=weights))
        score *= 1.0 if model is _since_change else 1.25
        if best is None or score < best[0]:
            trend = model(days, level)
            if model is _bent:
                words = "a rate that rises" if trend.bend * trend.rate > 0 else "a rate that falls off"
            best = score, _Choice(words, trend, tuple(errors))
    assert best
    return best[1]


def _spread(days: _Array, level: _Array, choice: _Choice) -> tuple[_Spread, bool, float]:
    """Return the width of the interval, whether the growth has ended, and what the last point is too low by."""
    trend = choice.trend
    own = days >= trend.start - 1e-9
    ago, sizes = days[own], level[own]
    left = sizes - (trend.end + trend.grown(ago))
    gaps = np.diff(ago)
    # what grows faster is louder too: the noise of each step, as it would be at the rate of now
    moves = np.diff(left) * np.exp(np.clip(-trend.bend * ago[1:], -3, 3))
    together = float(np.mean(moves[1:] * moves[:-1])) if len(moves) > 2 else 0.0
    stays = max(-together, 0.0)  # of a noise around the line each move is half undone by the next
    adds = max(_added(moves, gaps, block) - 2 * stays / (block * float(gaps.mean())) for block in _BLOCKS)
    adds = max(adds, 0.0)
    span = float(-ago[0]) or 1.0
    by_noise = (12 * stays / len(ago) + 1.5 * adds * span) / span**2
    by_noise *= 8 if trend.bend else 1  # the end of a line through rates is twice as unsure as their mean
    by_test = float(np.mean([error**2 for _, error in choice.errors]))
    base = trend.end - float(level[-1]) if stays > adds * float(np.median(np.diff(days))) else 0.0
    flat_se = np.sqrt(by_noise)
    is_flat = abs(trend.rate) < max(2 * flat_se, 0.0) and abs(trend.rate) * 30 < 0.02 * abs(float(level[-1]))
    is_flat = is_flat or abs(trend.rate) * 90 < 0.002 * abs(float(level[-1]))
    rate = np.sqrt(by_noise + (0.0 if is_flat else 0.6 * by_test))
    # the slope of a rate that was seen through a noise which adds up
    bend = np.sqrt(100 * adds / span**3) / 2 if trend.bend else 0.0
    freedom = max(len(ago) - 2.0, 3.0)
    spread = _Spread(float(np.sqrt(stays)), float(np.sqrt(adds)), float(rate), float(bend), freedom)
    return spread, bool(is_flat), base
