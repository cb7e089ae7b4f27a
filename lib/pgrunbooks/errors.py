"""What can go wrong, as a person reads it: what was asked, what was found, what to type next."""

from __future__ import annotations


class RunbookError(Exception):
    """A run cannot go on; the message is one line and holds no secret. Exit status 3 (unknown)."""

    exit_status = 3

    def _render_traceback_(self) -> list[str]:
        """Show the one line in a notebook; IPython asks for this instead of the traceback."""
        return [f"{type(self).__name__}: {self}"]


class ConfigurationError(RunbookError):
    """A parameter, an option or the targets file is wrong. Exit status 64 (usage)."""

    exit_status = 64


class ConnectError(RunbookError):
    """The target cannot be connected to."""


class ConnectionLostError(RunbookError):
    """The target went away while it was being asked."""


class HistoryError(RunbookError):
    """The store of the history cannot be reached, or does not answer."""


class SandboxError(RunbookError):
    """The embedded PostgreSQL cannot be made, started or found."""


class LabError(RunbookError):
    """The what-if lab cannot be opened, or a statement cannot be explained in it."""


class UnknownNameError(LabError):
    """A statement in the lab has a name that PostgreSQL does not know; ``place`` is where in its stripped text."""

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        self.place = place


class IndexRefusedError(LabError):
    """PostgreSQL refuses an index in the lab; the message is its own."""
