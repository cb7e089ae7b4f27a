"""``python -m pgrunbooks`` is the command ``pgrunbooks``."""

from pgrunbooks.cli import run

run()
