"""Pictures: one function each, rows in, Axes out; the title is the claim, and it is readable on light and dark."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from pgrunbooks.check import Rows
from pgrunbooks.checks._sessions import Row, Tree, count, trees
from pgrunbooks.display import cut, duration, printable
from pgrunbooks.masking import command

INK, QUIET, ROOT, WAITER = "#7c7c84", "#a5a5ad", "#c8372d", "#8e8e96"
_MOST_LINES = 24


def lock_tree(rows: Rows) -> Axes:
    """Draw who waits for whom, and for how long: one line a session, the roots at the margin.

    ``rows`` are those of the check blocking-lock. Up to 24 sessions are drawn, the longest waits of each root first;
    the rest is counted in the last line.
    """
    forest = sorted(trees(rows), key=lambda tree: -len(tree.waiters))
    lines = list(_lines(forest))
    waiting = len({row["id"] for tree in forest for row in tree.waiters})
    axes: Axes
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.3 * max(len(lines), 1)), layout="constrained")
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    if not forest:
        axes.set_title("Nobody waits for a lock", loc="left", color=INK, fontsize=11, fontweight="bold")
        axes.axis("off")
        return axes
    roots = count(len(forest), "session") if len(forest) > 1 else "one session"
    axes.set_title(
        f"{count(waiting, 'session')} wait{'s' if waiting == 1 else ''} behind {roots}",
        loc="left",
        color=INK,
        fontsize=11,
        fontweight="bold",
    )
    longest = max(tree.longest_s for tree in forest)
    for y, (row, text, tail) in enumerate(lines):
        waits = (row.get("waiting_s") or 0.0) if row else 0.0
        is_root = bool(row) and not row["blocked_by"]
        axes.barh(y, waits, height=0.62, color=WAITER, alpha=0.75)
        axes.text(
            -0.45,
            y,
            text,
            transform=axes.get_yaxis_transform(),
            va="center",
            family="monospace",
            fontsize=8.5,
            color=ROOT if is_root else INK,
            fontweight="bold" if is_root else "normal",
        )
        axes.text(waits + 0.01 * longest, y, tail, va="center", fontsize=8.5, color=ROOT if is_root else INK)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.35 or 1)
    axes.set_yticks([])
    axes.set_xlabel("waiting for a lock, seconds", color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(QUIET)
    return axes


def _lines(forest: list[Tree]) -> Iterator[tuple[Row, str, str]]:
    """Yield a line for each session: its row (empty for the line that counts the rest), its label, its tail."""
    room = _MOST_LINES
    for number, tree in enumerate(forest):
        share = max(1, room // (len(forest) - number) - 1)
        yield tree.root, _name(tree.root), f"root: {tree.root['state'] or 'state not visible'}"
        for row in tree.waiters[:share]:
            what = command(row["query"]) if row["query"] else row["lock_mode"]
            yield row, "  " * (row["depth"] - 1) + "└ " + _name(row), f"{duration(row['waiting_s'] or 0)}  {what}"
        if len(tree.waiters) > share:
            yield {}, "", f"and {len(tree.waiters) - share} more"
        room -= share + 1


def _name(row: Row) -> str:
    return cut(printable(f"{row['name']} {row['application'] or row['role'] or row['backend_type'] or ''}"), 34)
