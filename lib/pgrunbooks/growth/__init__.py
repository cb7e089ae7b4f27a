"""Growth, told from many snapshots of the history at once: what grew, why, and what was written.

Partitions count under their root.
"""

from pgrunbooks.growth._asking import read_known
from pgrunbooks.growth.causes import PARTS, attribution, changes, compared, fastest
from pgrunbooks.growth.rates import write_rates
from pgrunbooks.growth.sizes import (
    database_sizes,
    growers,
    growth,
    table_sizes,
    table_steps,
    tablespace_sizes,
    what_moved,
)

__all__ = [
    "PARTS",
    "attribution",
    "changes",
    "compared",
    "database_sizes",
    "fastest",
    "growers",
    "growth",
    "read_known",
    "table_sizes",
    "table_steps",
    "tablespace_sizes",
    "what_moved",
    "write_rates",
]
