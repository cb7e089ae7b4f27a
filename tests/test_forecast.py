"""What a series says of its future: the right words, an honest width, and nothing where nothing can be known."""

import datetime
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from pgrunbooks.forecast import forecast

START = datetime.datetime(2026, 9, 1, 3, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
GB = 1024**3
RNG = np.random.default_rng(11)
NOISE = RNG.gamma(40, 1 / 40, 400)  # around 1


def series(rates, start=100.0, every=DAY):
    """Return points that begin at so many GB and grow by these GB from one to the next."""
    sizes = start + np.concatenate([[0.0], np.cumsum(rates)])
    return [(START + number * every, int(size * GB)) for number, size in enumerate(sizes)]


def steady(days=60, rate=1.0):
    return rate * NOISE[:days]


def with_steps(**steps):
    rates = steady()
    for day, by in steps.items():
        rates[int(day.removeprefix("day"))] += by
    return series(rates)


WEEK = np.where(np.arange(60) % 7 < 5, 1.4, 0.0) * NOISE[:60]
SAID = {
    "steady": (series(steady()), "a steady rate", 1.0),
    "faster since ten days": (series(np.r_[steady(50), 3 * steady(10)]), "a steady rate since 2026-10-21", 3.0),
    "rising": (series(0.4 * np.exp(0.03 * np.arange(60)) * NOISE[:60]), "a rate that rises", 0.4 * np.exp(0.03 * 60)),
    "falling off": (series(3 * np.exp(-0.04 * np.arange(60)) * NOISE[:60]), "a rate that falls off", 3 * np.exp(-2.4)),
    "on working days": (series(WEEK), "a steady rate", 1.0),
    "bulk load": (with_steps(day30=80), "a steady rate", 1.0),
    "purge": (with_steps(day40=-70), "a steady rate", 1.0),
    "stopped": (series(np.r_[steady(50), np.zeros(10)]), "no growth since 2026-10-21", 0.0),
    "never grew": (series(np.zeros(60)), "no growth", 0.0),
}


@pytest.mark.parametrize("name", SAID)
def test_the_model_is_named_and_the_rate_is_near(name):
    points, words, rate = SAID[name]
    told = forecast(points)
    assert told.basis == "model"
    assert told.model.startswith(words)
    low, middle, high = (it / GB for it in told.daily_bytes)
    assert middle == pytest.approx(rate, rel=0.2, abs=0.01)
    assert low - 0.1 <= rate <= high + 0.1


@pytest.mark.parametrize(
    ("points", "shifts"),
    [
        (series(steady()), []),
        (with_steps(day30=80), [(30, 80)]),
        (with_steps(day30=40, day31=45), [(31, 85)]),
        (with_steps(day40=-70), [(40, -70)]),
        (with_steps(day10=50, day40=-60), [(10, 50), (40, -60)]),
    ],
)
def test_a_level_shift_is_told_with_its_time_and_size(points, shifts):
    told = forecast(points).shifts
    assert [(it.at, it.is_up) for it in told] == [(START + (day + 1) * DAY, by > 0) for day, by in shifts]
    assert [it.bytes / GB for it in told] == pytest.approx([by for _, by in shifts], abs=1)


def test_partitions_that_are_dropped_regularly_are_carried_on():
    rates = 1.5 * steady()
    rates[9::10] -= 9
    told = forecast(series(rates))
    assert told.shifts == ()
    assert "a drop every 10 days" in told.model
    assert told.daily_bytes[1] / GB == pytest.approx(0.6, abs=0.1)
    middle = told.sizes(0.5, range(31))
    assert middle[30] - middle[0] == pytest.approx(18 * GB, abs=3 * GB)
    assert min(after - before for before, after in pairwise(middle)) < -6 * GB


@pytest.mark.parametrize(("days", "expected"), [(5, True), (10, True), (25, True)])
def test_growth_that_stopped_is_a_plateau_and_no_alarm(days, expected):
    points = series(np.r_[steady(60 - days), RNG.normal(0, 0.01, days)])
    told = forecast(points)
    assert told.is_plateau is expected
    assert told.days_until(points[-1][1] + 5 * GB).median is None
    lower = told.days_until(points[-1][1] + 5 * GB).lower
    assert lower is None or lower > 30


@pytest.mark.parametrize("name", ["steady", "rising", "bulk load", "never grew"])
def test_what_grows_or_never_grew_is_no_plateau(name):
    assert not forecast(SAID[name][0]).is_plateau


def test_the_days_to_a_size_are_an_interval_around_the_truth():
    points = series(steady())
    days = forecast(points).days_until(points[-1][1] + 30 * GB)
    assert days.lower < days.median < days.upper
    assert days.lower <= 30 <= days.upper
    assert days.upper - days.lower < 10


@pytest.mark.parametrize(("more", "expected"), [(0, 0.0), (-5, 0.0), (100_000, None)])
def test_a_size_that_is_reached_already_or_never_within_the_horizon(more, expected):
    points = series(steady())
    days = forecast(points).days_until(points[-1][1] + more * GB)
    assert (days.lower, days.median, days.upper) == (expected,) * 3


class TestFewPoints:
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_are_no_answer(self, count):
        told = forecast(series(steady())[:count])
        assert (told.basis, told.days_until(10**15), told.daily_bytes) == ("none", None, None)
        with pytest.raises(ValueError, match="too few"):
            told.sizes(0.5, [1])
        with pytest.raises(ValueError, match="too few"):
            told.paths()

    @pytest.mark.parametrize(
        "points", [series(steady())[:3], series(steady())[:7], series(steady(), every=DAY / 24)[:40]]
    )
    def test_or_little_time_are_a_range(self, points):
        told = forecast(points)
        assert told.basis == "range"
        assert "too few points" in told.model
        low, middle, high = told.daily_bytes
        assert low < middle < high

    def test_of_one_moment_are_no_answer(self):
        assert forecast([(START, GB), (START + DAY / 1440, 2 * GB), (START + DAY / 720, 3 * GB)]).basis == "none"


def test_gaps_disorder_and_several_runs_a_day_change_little():
    points = series(np.tile(NOISE, 4)[:1440] / 24, every=DAY / 24)
    few = [points[it] for it in RNG.permutation(len(points))[:300]]
    rates = [forecast(it).daily_bytes[1] / GB for it in (points, few, points[::24])]
    assert rates == pytest.approx([1, 1, 1], rel=0.1)


def test_the_fan_begins_at_the_last_point_and_opens():
    points = series(steady())
    times, paths = forecast(points).paths(60, (0.1, 0.5, 0.9))
    assert times[0] == points[-1][0]
    assert (times[-1] - times[0]).days == 60
    widths = [high - low for low, high in zip(paths[0.1], paths[0.9], strict=True)]
    assert widths == sorted(widths)
    assert paths[0.5][0] == pytest.approx(points[-1][1], rel=0.01)


def test_no_size_is_below_nothing():
    points = series(-steady(60, 1.5), start=100)
    assert min(forecast(points).sizes(0.1, range(100))) == 0


def test_four_of_five_futures_lie_in_the_interval_of_eighty_percent():
    held = 0
    for seed in range(40):
        rates = np.random.default_rng(seed).gamma(20, 1 / 20, 90)
        points = series(rates)
        days = forecast(points[:61]).days_until(points[-1][1])
        held += days.lower <= 30 <= (days.upper or 400)
    assert held >= 28


def test_importing_it_costs_neither_scipy_nor_ruptures():
    script = "import sys, pgrunbooks.forecast; print(*{'scipy', 'ruptures', 'pandas'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.split() == []
