"""The store: where the files of the history lie, a folder of this machine or a URL that fsspec can reach.

Either way a file appears whole or not at all, and never in the place of another. On this machine it is written aside,
fsynced and then named; elsewhere it is one PUT under a name that nobody else takes.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar
from urllib.parse import unquote

from pgrunbooks.errors import ConfigurationError, HistoryError, RunbookError

Location: TypeAlias = Path | str  # of a folder or a file; a text is a URL
T = TypeVar("T")
R = TypeVar("R")
_ABANDONED_S = 3600.0
_AT_ONCE = 16  # requests; each waits for the network far longer than it works
# An object store that does not answer must not hold up the page of an incident; an answer is asked for twice.
_PATIENCE: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 5, "retries": {"max_attempts": 1}}}
}
_SILENT_S = 60.0  # a store that did not answer is not asked again for so long
_PUT_S, _PUT_BYTES_A_S = 8.0, 50_000  # s3 waits without end to be told that it may send


def location(text: str) -> Location:
    """Return the folder that a path or a URL such as ``s3://bucket/prefix`` names; nothing is asked yet."""
    if "://" not in text:
        return Path(text).expanduser().absolute()
    protocol, _, rest = text.partition("://")
    return Path(unquote(rest)).absolute() if protocol == "file" else text.rstrip("/")


def below(folder: Location, *names: str) -> Location:
    """Return a place further down."""
    return folder.joinpath(*names) if isinstance(folder, Path) else "/".join((folder, *names))


def shown(place: Location) -> str:
    """Return a place as a message may name it, without a password."""
    return re.sub(r"(://)[^/@]*@", r"\1", str(place))


def names(folder: Location) -> list[str]:
    """Return the names of the Parquet files in a folder, sorted; none where there is no such folder.

    Raises HistoryError where the store cannot be reached, ConfigurationError where it refuses or is none.
    """
    if isinstance(folder, Path):
        found = [path.name for path in folder.glob("*.parquet")]
    else:
        with _reached(folder) as (files, path):
            files.invalidate_cache()  # others write too
            try:
                found = [str(it).rpartition("/")[2] for it in files.ls(path, detail=False)]
            except FileNotFoundError:
                found = []
    return sorted(name for name in found if name.endswith(".parquet") and not name.startswith("."))


@contextlib.contextmanager
def opened(place: Location) -> Iterator[BinaryIO]:
    """Open a file to read any part of it. Raises OSError where it cannot be opened, and as ``names`` does."""
    if isinstance(place, Path):
        with place.open("rb") as file:
            yield file
    else:
        with _reached(place, is_read=True) as (files, path), files.open(path, "rb") as file:
            yield file


def put(folder: Location, stem: str, write: Callable[[BinaryIO], None]) -> Location:
    """Write a new file called after ``stem`` and return where it is; the name may grow to be nobody else's.

    Raises OSError where the folder cannot be written to, and as ``names`` does.
    """
    if isinstance(folder, Path):
        return _put_here(folder, stem, write)
    place = f"{folder}/{stem}-{secrets.token_hex(4)}.parquet"
    with tempfile.TemporaryFile() as file:
        write(file)
        file.seek(0)
        with _reached(place) as (files, path):
            content = file.read()
            limit = {"timeout": _PUT_S + len(content) / _PUT_BYTES_A_S} if files.async_impl else {}
            files.pipe_file(path, content, **limit)
    return place


def remove(place: Location) -> None:
    """Remove a file, which somebody else may have done already."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
    else:
        with contextlib.suppress(FileNotFoundError), _reached(place, is_read=True) as (files, path):
            files.rm_file(path)


@contextlib.contextmanager
def on_this_machine(places: Iterable[Location]) -> Iterator[list[Path]]:
    """Return the files as paths: those of another machine are copied, and the copies are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pgrunbooks-") as copies:

        def here(place: Location) -> Path:
            if isinstance(place, Path):
                return place
            copy = Path(copies) / place.rpartition("/")[2]
            with _reached(place, is_read=True) as (files, path):
                files.get_file(path, str(copy))
            return copy

        yield each(here, list(places))


def each(ask: Callable[[T], R], places: list[T]) -> list[R]:
    """Return the answers about some places in their order; those elsewhere are asked side by side."""
    if not places or isinstance(places[0], Path):
        return [ask(place) for place in places]
    with ThreadPoolExecutor(_AT_ONCE) as workers:
        return list(workers.map(ask, places))


def _put_here(folder: Path, stem: str, write: Callable[[BinaryIO], None]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    aside = folder / f".{stem}-{secrets.token_hex(4)}.partial"
    try:
        with aside.open("x+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        path = _publish(aside, folder / f"{stem}.parquet")
    finally:
        aside.unlink(missing_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return path


def _publish(aside: Path, path: Path) -> Path:
    """Give a finished file its name; never takes that of another, as a rename would."""
    try:
        os.link(aside, path)
    except OSError:  # somebody was first with this name, or the file system has no links
        path = aside.rename(path.with_name(f"{aside.stem.removeprefix('.')}.parquet"))
    return path


def _clear(folder: Path) -> None:
    """Remove what a writer that was killed left behind; one that still lives is never that old."""
    for aside in folder.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - aside.stat().st_mtime > _ABANDONED_S:
                aside.unlink()


@contextlib.contextmanager
def _reached(url: str, *, is_read: bool = False) -> Iterator[tuple[Any, str]]:
    """Yield the file system of a URL and the path in it; what goes wrong there becomes one line.

    While a file is read, what is wrong with its content (or that it is gone) is the reader's to tell.
    """
    from fsspec.core import url_to_fs  # a tenth of a second, for those who keep their history elsewhere

    try:
        # a copy, since s3fs writes into it, and fsspec then takes the next request for that of another store
        files, path = url_to_fs(url, **copy.deepcopy(_PATIENCE.get(url.partition("://")[0], {})))
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"{shown(url)}: no store for a history: {_line(error)}") from None
    if hasattr(files, "retries"):
        files.retries = 1  # s3fs: five, each of which botocore repeats
    silent = getattr(files, "silent", None)  # fsspec keeps the object for the next request
    if silent and time.monotonic() - silent[0] < _SILENT_S:
        raise HistoryError(silent[1])
    try:
        yield files, path
    except RunbookError:
        raise
    except Exception as error:  # each driver raises whatever its library raises
        if is_read and _tells_of_content(error):
            raise
        refusal = _refusal(error, url)
        if isinstance(refusal, HistoryError):
            files.silent = time.monotonic(), str(refusal)
        raise refusal from None


def _tells_of_content(error: Exception) -> bool:
    if isinstance(error, (FileNotFoundError, ValueError)) or type(error).__module__.startswith("pyarrow"):
        return True
    return type(error) is OSError and error.errno is None  # pyarrow's own; a driver's has a number


def _refusal(error: Exception, url: str) -> RunbookError:
    is_setting = (
        isinstance(error, (FileNotFoundError, PermissionError, ValueError)) or "Credentials" in type(error).__name__
    )
    kind = ConfigurationError if is_setting else HistoryError
    what = "refuses" if is_setting else "cannot be reached"
    return kind(f"{shown(url)}: the store of the history {what}: {_line(error)}")


def _line(error: Exception) -> str:
    silence = "it does not answer" if isinstance(error, TimeoutError) else type(error).__name__
    said = re.sub(r"\?[^\s\"]*", "", str(error))  # what was asked of a URL, in its own code
    return " ".join(said.split()) or silence
