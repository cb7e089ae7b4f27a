"""A workspace: runbooks and walkthroughs of one's own, with a targets file to fill in."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from pgrunbooks.errors import ConfigurationError
from pgrunbooks.record import shipped


def make_workspace(directory: Path) -> tuple[list[Path], list[Path]]:
    """Copy the runbooks, the walkthroughs and a commented targets.yml to a folder; return what was written and kept.

    A file that is there already is never touched. Raises ConfigurationError where the folder cannot be written.
    """
    sources = {Path("targets.yml"): Path(str(resources.files("pgrunbooks").joinpath("targets_example.yml")))}
    for folder in ("runbooks", "notebooks"):
        sources |= {Path(folder) / path.name: path for path in sorted(shipped(folder).glob("*.ipynb"))}
    written, kept = [], []
    try:
        for name, source in sources.items():
            place = directory / name
            if place.exists():
                kept.append(name)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
            written.append(name)
    except OSError as error:
        raise ConfigurationError(f"{directory}: cannot be written: {error.strerror}") from None
    return written, kept
