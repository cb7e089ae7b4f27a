"""The command ``pgrunbooks``, which is ``python -m pgrunbooks`` too: a signal ends it quietly from its first line."""

import os
import signal
from types import FrameType


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def run() -> None:
    """Import the command line, which takes a third of a second, and run it."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and a shell's & have it
            signal.signal(number, _leave)  # nothing is begun yet that would have to be cleared away
    from pgrunbooks.cli import run as run_command_line

    run_command_line()


if __name__ == "__main__":
    run()
