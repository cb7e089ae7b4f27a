"""Index advice: which indexes would pay for themselves on the observed workload, and which can go, each proved in the
what-if lab.
"""

from pgrunbooks.advice.advisor import Advice, Helped, Proposal, advise, what_if_dropped
from pgrunbooks.advice.drops import Drop

__all__ = ["Advice", "Drop", "Helped", "Proposal", "advise", "what_if_dropped"]
