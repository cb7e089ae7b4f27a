"""Pictures of sessions: who waits for whom, what they wait for, and who holds the connection slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from pgrunbooks.check import Rows
from pgrunbooks.checks._sessions import Row, Tree, count, trees
from pgrunbooks.display import duration
from pgrunbooks.masking import command
from pgrunbooks.plots._style import (
    FOUND,
    HEAP,
    INDEX,
    INK,
    MOST_BARS,
    NOT_ASKED,
    QUIET,
    ROOT,
    TOAST,
    canvas,
    claim,
    legend,
    measure,
    name_bars,
    nothing,
    tail,
    written,
)

_MOST_LINES = 24
_STATES = {"in transaction": ROOT, "active": INDEX, "idle": HEAP}


def lock_tree(rows: Rows | None) -> Axes:
    """Draw who waits for whom, and for how long: one line a session, the roots at the margin.

    ``rows`` are those of the check blocking-lock, None where it could not be asked. Up to 24 sessions are drawn, the
    longest waits of each root first; the rest is counted in the last line.
    """
    if rows is None:
        return nothing(NOT_ASKED)
    forest = sorted(trees(rows), key=lambda tree: -len(tree.waiters))
    if not forest:
        return nothing("Nobody waits for a lock", height=1.2)
    lines = list(_lines(forest))
    longest = max(tree.longest_s for tree in forest)
    axes = canvas(height=0.9 + 0.3 * len(lines))
    claim(axes, _lock_claim(forest))
    for y, line in enumerate(lines):
        axes.barh(y, line.waiting_s, height=0.62, color=HEAP, alpha=0.75)
        margin = {"transform": axes.get_yaxis_transform(), "family": "monospace", **(FOUND if line.is_root else {})}
        tail(axes, -0.45, y, line.session, **margin)
        tail(axes, line.waiting_s + 0.01 * longest, y, line.does, color=ROOT if line.is_root else INK)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.35 or 1)
    axes.set_yticks([])
    measure(axes, x="waiting for a lock, seconds")
    return axes


def _lock_claim(forest: Sequence[Tree]) -> str:
    waiting = len({row["id"] for tree in forest for row in tree.waiters})
    roots = count(len(forest), "session") if len(forest) > 1 else "one session"
    return f"{count(waiting, 'session')} wait{'s' if waiting == 1 else ''} behind {roots}"


@dataclass(frozen=True)
class _Line:
    """A session of the tree, or what counts the rest: its name, what it does, and for how long it has waited."""

    session: str
    does: str
    waiting_s: float = 0.0
    is_root: bool = False


def _lines(forest: Sequence[Tree]) -> Iterator[_Line]:
    room = _MOST_LINES
    for number, tree in enumerate(forest):
        share = max(1, room // (len(forest) - number) - 1)
        yield _Line(_name(tree.root), f"root: {tree.root['state'] or 'state not visible'}", is_root=True)
        for row in tree.waiters[:share]:
            waiting_s = row["waiting_s"] or 0.0
            what = command(row["query"]) if row["query"] else row["lock_mode"]
            yield _Line("  " * (row["depth"] - 1) + "└ " + _name(row), f"{duration(waiting_s)}  {what}", waiting_s)
        if len(tree.waiters) > share:
            yield _Line("", f"and {len(tree.waiters) - share} more")
        room -= share + 1


def _name(row: Row) -> str:
    return written(f"{row['name']} {row['application'] or row['role'] or row['backend_type'] or ''}")


def waits(rows: Rows | None) -> Axes:
    """Draw what the active sessions wait for: one bar a wait event, as long as the sessions that were in it.

    ``rows`` are those of the check wait-event-hotspot, None where it could not be asked: a row for each active session
    in each sample. Sessions without a wait event are on the CPU. Beyond the tenth event all are one bar.
    """
    if not rows:
        return nothing("No session was active in the samples" if rows is not None else NOT_ASKED)
    samples = 1 + max(row["sample"] for row in rows)
    events = Counter(
        f"{row['wait_event_type']}:{row['wait_event']}" if row["wait_event"] else "on the CPU" for row in rows
    ).most_common()
    name, most = events[0]
    if len(rest := events[MOST_BARS:]) > 1:
        events[MOST_BARS:] = [(f"{len(rest)} others", sum(number for _, number in rest))]
    axes = canvas(height=1.0 + 0.3 * len(events))
    does = "is" if name == "on the CPU" else "waits for"
    claim(axes, f"{len(rows) / samples:.3g} active on average; {most / len(rows):.0%} of that {does} {written(name)}")
    longest = max(number for _, number in events) / samples  # it may be the rest
    for y, (event, number) in enumerate(events):
        colour = ROOT if event.startswith("Lock:") else INDEX if event == "on the CPU" else TOAST
        axes.barh(y, number / samples, height=0.62, color=colour, alpha=0.85)
        tail(axes, number / samples + 0.01 * longest, y, f"{number / samples:.3g} ({number / len(rows):.0%})")
    name_bars(axes, [event for event, _ in events])
    axes.set_xlim(0, 1.25 * longest)
    measure(axes, x=f"active sessions, mean of {count(samples, 'sample')}")
    return axes


def connection_slots(rows: Rows | None) -> Axes:
    """Draw who fills the connection slots: one bar a role and application, each begins where the one above it ends.

    ``rows`` are those of the check connection-saturation, None where it could not be asked. The line is the number of
    slots that an ordinary role may take. Beyond the tenth consumer all are one bar.
    """
    if not rows:
        return nothing("No session but this one holds a slot" if rows is not None else NOT_ASKED)
    slots, used = rows[0]["max_connections"] - rows[0]["reserved"], rows[0]["used"]
    holders = _holders(rows)
    axes = canvas(height=1.25 + 0.3 * len(holders))
    claim(axes, f"{used} of {count(slots, 'slot')} are taken ({used / slots:.0%})", above_legend=True)
    left, right = 0, 1.3 * max(slots, used)
    labels: set[str] = set()
    for y, (_, states) in enumerate(holders):
        start = left
        for state in sorted(states, key=lambda it: [*_STATES, it].index(it)):
            label = f"_{state}" if state in labels else state
            axes.barh(
                y, states[state], left=left, height=0.62, color=_STATES.get(state, QUIET), alpha=0.85, label=label
            )
            labels.add(state)
            left += states[state]
        _say_states(axes, y, states, (start, left, right))
    axes.axvline(slots, color=ROOT if used >= slots else INK, linewidth=1, linestyle="--")
    name_bars(axes, [name for name, _ in holders])
    tail(axes, slots + 0.006 * right, -0.5, f"limit {slots}")
    axes.set_ylim(len(holders) - 0.4, -0.8)
    axes.set_xlim(0, right)
    measure(axes, x="connection slots, added up")
    legend(axes)
    return axes


def _holders(rows: Rows) -> list[tuple[str, Counter[str]]]:
    """Return the sessions by state of each role and application, the most first."""
    holders: dict[str, Counter[str]] = {}
    for row in rows:
        states = holders.setdefault(f"{row['role'] or 'no role'} {row['application']}".strip(), Counter())
        states["in transaction" if row["state"].startswith("idle in") else row["state"]] += row["sessions"]
    found = sorted(holders.items(), key=lambda it: (-it[1].total(), it[0]))
    if len(rest := found[MOST_BARS:]) > 1:
        found[MOST_BARS:] = [(f"{len(rest)} others", sum((states for _, states in rest), Counter()))]
    return found


def _say_states(axes: Axes, y: int, states: Counter[str], ends: tuple[float, float, float]) -> None:
    """Write the sessions of a bar behind it; where there is no room, before it, or on it if it begins early."""
    start, end, right = ends
    gap = 0.006 * right
    text = ", ".join(f"{number} {state}" for state, number in states.most_common())
    if end <= 0.6 * right:
        tail(axes, end + gap, y, text, zorder=3)
    elif start >= 0.3 * right:
        tail(axes, start - gap, y, text, ha="right", zorder=3)
    else:
        tail(axes, end - gap, y, text, ha="right", color="white", zorder=3)
