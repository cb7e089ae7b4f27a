"""Pictures: one function each, rows in, Axes out; the title is the claim, and it is readable on light and dark.

By what they show: ``sessions``, ``indexes``, ``tables``, ``writes`` and ``forecasts``.
"""

from pgrunbooks.plots.forecasts import disk_fan, fan_chart, growth_lines
from pgrunbooks.plots.indexes import benefit_curve, index_use, index_weight
from pgrunbooks.plots.sessions import connection_slots, lock_tree, waits
from pgrunbooks.plots.tables import growth_parts, size_by_kind, table_lines
from pgrunbooks.plots.writes import write_rates

__all__ = [
    "benefit_curve",
    "connection_slots",
    "disk_fan",
    "fan_chart",
    "growth_lines",
    "growth_parts",
    "index_use",
    "index_weight",
    "lock_tree",
    "size_by_kind",
    "table_lines",
    "waits",
    "write_rates",
]
