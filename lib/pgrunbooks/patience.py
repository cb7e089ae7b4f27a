"""Patience: what somebody at a terminal reads while a command takes its time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

AFTER_S = 2.0
_ERASED = "\r\033[K"


@contextlib.contextmanager
def patience(what: str) -> Iterator[None]:
    """Keep a line with what is under way, and since when, on a terminal from the second second on; then erase it.

    It goes to standard error; where that is no terminal nothing is said at all.
    """
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(what, done), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(what: str, done: threading.Event) -> None:
    start, wait_s, end = time.monotonic(), AFTER_S, ""
    while not done.wait(wait_s):
        sys.stderr.write(f"{_ERASED}{what} ... {time.monotonic() - start:.0f} s")
        sys.stderr.flush()
        wait_s, end = 1.0, _ERASED
    sys.stderr.write(end)
    sys.stderr.flush()
