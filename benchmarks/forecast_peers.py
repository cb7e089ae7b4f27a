"""What others foretell of the same series; runs in an environment of its own, JSON in, JSON out.

``public`` prints series that packages ship, one value a step; ``foretell`` answers each series of its input.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np

HORIZON = 365
Path = tuple[np.ndarray, np.ndarray, np.ndarray]  # 10 %, 50 % and 90 %, a value a day


def public() -> dict[str, list[float]]:
    """Return public data as paths that grow: counts and amounts summed up, levels as they are."""
    import statsmodels.api as sm
    from vega_datasets import local_data as vega

    temperatures = vega.sf_temps().groupby(lambda row: row // 24)["temp"].sum()
    elnino = sm.datasets.elnino.load_pandas().data.drop(columns="YEAR").to_numpy().ravel()
    return {
        "rain in Seattle, daily (vega)": vega.seattle_weather()["precipitation"].cumsum().tolist(),
        "warmth in San Francisco, daily (vega)": temperatures.cumsum().tolist(),
        "US jobs outside farms, monthly (vega)": vega.us_employment()["nonfarm"].astype(float).tolist(),
        "CO2 at Mauna Loa, weekly (statsmodels)": sm.datasets.co2.load_pandas().data["co2"].dropna().tolist(),
        "sunspots, yearly (statsmodels)": sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].cumsum().tolist(),
        "sea temperatures, monthly (statsmodels)": np.cumsum(elnino[np.isfinite(elnino)]).tolist(),
    }


def _line(days: np.ndarray, sizes: np.ndarray, ahead: np.ndarray) -> Path:
    """Return an ordinary regression with its prediction interval."""
    from scipy.stats import t

    (slope, start), count = np.polyfit(days, sizes, 1), len(days)
    left = sizes - (start + slope * days)
    error = np.sqrt((left**2).sum() / max(count - 2, 1))
    at = days[-1] + ahead
    wide = error * np.sqrt(1 + 1 / count + (at - days.mean()) ** 2 / ((days - days.mean()) ** 2).sum())
    wide = wide * t.ppf(0.9, max(count - 2, 1))
    middle = start + slope * at
    return middle - wide, middle, middle + wide


def predict_linear(days: np.ndarray, sizes: np.ndarray, ahead: np.ndarray) -> Path:
    """Return the regression over seven days, as the Prometheus function draws it."""
    own = days >= days[-1] - 7
    return _line(days[own], sizes[own], ahead)


def theil_sen(days: np.ndarray, sizes: np.ndarray, ahead: np.ndarray) -> Path:
    """Return the median of all slopes with its interval."""
    from scipy.stats import theilslopes

    fit = theilslopes(sizes, days, 0.8)
    return tuple(sizes[-1] + slope * ahead for slope in (fit.low_slope, fit.slope, fit.high_slope))  # type: ignore[return-value]


def _daily(days: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.interp(np.arange(-round(days[-1] - days[0]), 1) + days[-1], days, sizes)


def auto_ets(days: np.ndarray, sizes: np.ndarray, ahead: np.ndarray) -> Path:
    """Return statsforecast's AutoETS with a week as its season; gaps are filled by straight lines."""
    from statsforecast.models import AutoETS

    series = _daily(days, sizes)
    model = AutoETS(season_length=7 if len(series) > 21 else 1)
    told = model.forecast(y=series, h=HORIZON, level=[80])
    return tuple(np.concatenate([[sizes[-1]], told[key]]) for key in ("lo-80", "mean", "hi-80"))  # type: ignore[return-value]


def prophet(days: np.ndarray, sizes: np.ndarray, ahead: np.ndarray) -> Path:
    """Return Prophet with its defaults and an interval of 80 %."""
    import pandas
    from prophet import Prophet

    start = pandas.Timestamp("2026-01-01")
    scale = float(sizes.max())
    model = Prophet(interval_width=0.8)
    model.fit(pandas.DataFrame({"ds": start + pandas.to_timedelta(days, unit="D"), "y": sizes / scale}))
    told = model.predict(pandas.DataFrame({"ds": start + pandas.to_timedelta(days[-1] + ahead, unit="D")}))
    return tuple(told[key].to_numpy() * scale for key in ("yhat_lower", "yhat", "yhat_upper"))  # type: ignore[return-value]


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Path]] = {
    "OLS over all points": _line,
    "predict_linear over 7 days": predict_linear,
    "Theil-Sen over all points": theil_sen,
    "statsforecast AutoETS": auto_ets,
    "Prophet": prophet,
}


def _reached(path: np.ndarray, threshold: float) -> float | None:
    """Return the day on which a path first reaches a size."""
    at = np.flatnonzero(path >= threshold)
    if not len(at):
        return None
    first = int(at[0])
    return 0.0 if not first else first - 1 + float((threshold - path[first - 1]) / (path[first] - path[first - 1]))


def foretell(series: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return what each method says of each series: lower, median and upper in days, and the milliseconds it took."""
    ahead = np.arange(HORIZON + 1, dtype=float)
    answers: list[dict[str, object]] = []
    for it in series:
        days, sizes = np.array(it["days"]), np.array(it["sizes"], dtype=float)
        said: dict[str, object] = {}
        for name, method in METHODS.items():
            start = time.perf_counter()
            try:
                low, middle, high = method(days, sizes, ahead)
            except (
                ValueError,
                RuntimeError,
                IndexError,
                ZeroDivisionError,
                NotImplementedError,
                FloatingPointError,
            ) as error:
                said[name] = {"refused": f"{type(error).__name__}: {error}"}
                continue
            ms = (time.perf_counter() - start) * 1000
            reached = [_reached(path, float(it["threshold"])) for path in (high, middle, low)]  # type: ignore[arg-type]
            said[name] = dict(zip(("lower", "median", "upper"), reached, strict=True)) | {"ms": ms}
        answers.append(said)
    return answers


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(json.dumps(public() if sys.argv[1] == "public" else foretell(json.load(sys.stdin))))
