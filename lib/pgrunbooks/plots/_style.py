"""What all pictures share: their colours, the empty axes, the claim above them and the words beside the marks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from pgrunbooks.display import cut, printable, size
from pgrunbooks.forecast import Shift

INK, QUIET, ROOT = "#7c7c84", "#a5a5ad", "#c8372d"
HEAP, TOAST, INDEX = "#8e8e96", "#c98a2b", "#3f7fbf"
FOUND: dict[str, Any] = {"color": ROOT, "fontweight": "bold"}  # the words beside what a finding names
_MOST_SHIFTS = 4
MOST_BARS = 10  # with one more for the rest
NOT_ASKED = "This could not be asked; the verdict says why"


def canvas(height: float) -> Axes:
    """Return empty axes in a figure of that many inches; they show through to a light or dark page."""
    axes: Axes
    figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
    figure.patch.set_alpha(0)
    plain(axes)
    return axes


def plain(axes: Axes) -> None:
    """Let axes show through to the page, with a line at their foot alone."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(QUIET)


def nothing(sentence: str, height: float = 0.9) -> Axes:
    """Return axes that hold one sentence and no picture."""
    axes = canvas(height)
    claim(axes, sentence)
    axes.axis("off")
    return axes


def claim(axes: Axes, title: str, *, above_legend: bool = False) -> None:
    """Write what the picture shows above it."""
    pad = 24 if above_legend else None
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=pad)


def legend(axes: Axes, columns: int = 4) -> None:
    """Name the colours in a line between the claim and the picture."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns}
    axes.legend(**place, frameon=False, fontsize=8.5, labelcolor=INK, borderpad=0, borderaxespad=0.2, handlelength=1)


def measure(axes: Axes, *, x: str | None = None, y: str | None = None, fontsize: float = 9) -> None:
    """Write beside the axes what they measure, and in which unit."""
    if x:
        axes.set_xlabel(x, color=INK, fontsize=fontsize)
    if y:
        axes.set_ylabel(y, color=INK, fontsize=fontsize)


def name_bars(axes: Axes, names: Sequence[str], *, are_relations: bool = False) -> None:
    """Name horizontal bars, the first of them on top; what has no schema is not the name of a relation."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [written(name) for name in names])
    axes.tick_params(axis="y", length=0)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontfamily("monospace" if are_relations and "." in name else "sans-serif")


def tail(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write the number, or the word, at the end of a bar."""
    axes.text(x, y, text, va="center", **{"fontsize": 8.5, "color": INK, **style})


def note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Write words beside a point, so many points of type away from it."""
    style = {"va": "center", "fontsize": 8.5, "color": INK, **style}
    axes.annotate(text, at, xytext=offset, textcoords="offset points", **style)


def dates(axes: Axes) -> None:
    """Write times on the x axis in few words, and lines for the sizes."""
    locator = mdates.AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set_color(INK)
    axes.xaxis.get_offset_text().set_fontsize(8.5)
    axes.spines["left"].set_visible(True)
    axes.grid(axis="y", color=QUIET, alpha=0.3, linewidth=0.6)


def written(name: str, width: int = 34) -> str:
    """Return a name as it can stand in a picture: what is between a pair of dollars would be set as a formula."""
    return cut(printable(name), width).replace("$", r"\$")


def best_unit(largest: float) -> tuple[str, int]:
    """Return the unit in which a size is written best, and the bytes in one of it."""
    names = ["bytes", "kB", "MB", "GB", "TB", "PB"]
    power = min(int(math.log(max(largest, 1), 1024)), len(names) - 1)
    return names[power], 1024**power


def signed(by: float) -> str:
    """Return a growth in bytes with its sign."""
    return f"{'-' if by < 0 else '+' if by else ''}{size(abs(by))}"


def largest(shifts: Iterable[Shift]) -> list[Shift]:
    """Return the few level shifts that are worth a mark."""
    return sorted(shifts, key=lambda it: -abs(it.bytes))[:_MOST_SHIFTS]
