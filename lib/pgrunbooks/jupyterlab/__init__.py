"""JupyterLab on a workspace: how ``pgrunbooks lab`` starts it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgrunbooks.errors import ConfigurationError
from pgrunbooks.targets import targets_file
from pgrunbooks.workspace import shipped

_OURS = Path(__file__).parent
_PACKAGE = _OURS.parent.resolve()


def workspace() -> Path:
    """Return the folder that JupyterLab opens on: the workspace or the checkout we are in.

    Raises ConfigurationError where there is none: the notebooks of an installed package are no place to write to.
    """
    targets = targets_file()
    places = [*([targets.parent] if targets else []), shipped("runbooks").parent]
    found = next((it for it in places if (it / "runbooks").is_dir() and it.resolve() != _PACKAGE), None)
    if not found:
        where = f"no runbooks beside {targets}" if targets else "no workspace here"
        raise ConfigurationError(f"{where}; 'pgrunbooks init my-runbooks' makes a workspace, then go there")
    return found.resolve()


def command(folder: Path, arguments: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that runs JupyterLab on a workspace, and the environment to run it in; makes ``.lab`` there.

    Settings, layout and scheduled jobs lie in the folder's own ``.lab``, so that what another JupyterLab of the same
    user has open, allows or listens on is not taken over, and ``~/.jupyter`` stays as it is. Nothing asks another host.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise ConfigurationError("JupyterLab is not installed; type: pip install 'pgrunbooks[lab]'")
    state = folder / ".lab"
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        (state / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{state}: cannot be written: {error.strerror}") from None
    targets = targets_file()
    settings = {
        "ServerApp.root_dir": folder,
        "ServerApp.jpserver_extensions": "pgrunbooks.jupyterlab.server=True",
        "LabApp.app_settings_dir": _OURS / "settings",
        "LabApp.extra_labextensions_path": _OURS / "labextensions",
        "LabApp.extension_manager": "readonly",  # the other kind asks PyPI
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LanguageServerManager.autodetect": False,  # runs npm to look for language servers
        "SchedulerApp.db_url": f"sqlite:///{state / 'scheduler.sqlite'}",
        "Scheduler.staging_path": state / "jobs",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    options += ["--allow-root"] if os.geteuid() == 0 else []
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(state)}
    if targets:  # a scheduled job runs in a folder of its own
        environment["PGRUNBOOKS_TARGETS"] = str(targets.absolute())
    return [sys.executable, "-m", "jupyterlab", *options, *arguments], environment
