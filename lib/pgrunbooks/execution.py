"""The execution of a notebook through papermill, in a kernel that starts while papermill is imported."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.utils import run_sync

from pgrunbooks.errors import ConfigurationError

if TYPE_CHECKING:
    from nbformat import NotebookNode

_CELL_TIMEOUT_S = 300
_PRELOADED = [
    "--HistoryManager.hist_file=:memory:",
    "--IPKernelApp.extra_extensions=sql",
    "--matplotlib=inline",
    # What was imported stays until the end: to search it for garbage takes the kernel half a second as it ends.
    "--IPKernelApp.exec_lines=__import__('gc').freeze()",
]


def execute(source: Path, parameters: Mapping[str, Any], *, progress: bool) -> tuple[NotebookNode, str | None]:
    """Execute a notebook; return it as far as it came, and what went wrong in one line.

    Raises ConfigurationError where the notebook refuses a parameter.
    """
    problem = None
    with tempfile.TemporaryDirectory(prefix="pgrunbooks-") as aside, _kernel(Path(aside)) as kernel:
        output = Path(aside) / "notebook.ipynb"
        import nbformat  # with papermill more than a second, in which the kernel starts
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError

        logging.getLogger("papermill").setLevel(logging.CRITICAL)
        try:
            papermill.execute_notebook(
                source,
                output,
                parameters=dict(parameters),
                kernel_name=kernel.kernel_name,
                km=kernel,
                progress_bar=progress,
                log_output=False,
                request_save_on_cell_execute=False,  # a record appears whole: nobody reads it half way
                execution_timeout=_CELL_TIMEOUT_S,
            )
        except papermill.PapermillExecutionError as error:
            if error.ename.endswith("ConfigurationError"):
                raise ConfigurationError(error.evalue) from None
            problem = f"{error.ename}: {error.evalue}".splitlines()[0]
            if error.ename.endswith(("ConnectError", "ConnectionLostError")):
                problem = error.evalue
        except DeadKernelError:
            problem = "the kernel died"
        except CellTimeoutError:
            problem = f"a cell took longer than {_CELL_TIMEOUT_S} s"
        notebook = nbformat.read(output, as_version=4)
    for key in ("input_path", "output_path"):  # the paths of this machine are nobody else's business
        if key in notebook.metadata.get("papermill", {}):
            notebook.metadata.papermill[key] = Path(notebook.metadata.papermill[key]).name
    return notebook, problem


def text_of(notebook: NotebookNode) -> str:
    """Return a notebook as it stands in its file."""
    import nbformat

    return nbformat.writes(notebook)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _kernel(folder: Path) -> Iterator[AsyncKernelManager]:
    """Yield a kernel that has begun to start, with what runbooks import, on sockets that only its owner can read.

    They lie in ``folder``, the run's own: by default they lie in the current directory under fixed names, where two
    runs at the same minute take each other's, and where a scheduler's directory may not be written to at all. What the
    kernel itself writes to standard error, tracebacks of its sockets when it is shut down in mid reply, is left out
    of the run's own, which is one line or none; what cells write is in the notebook.
    """
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
    try:
        run_sync(kernel.start_kernel)(extra_arguments=_PRELOADED, stderr=subprocess.DEVNULL)
        yield kernel
    finally:
        if kernel.has_kernel:
            run_sync(kernel.shutdown_kernel)()
