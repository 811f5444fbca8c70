"""`run`: executes a port afresh in a real Jupyter kernel, and leaves its file as it is.

The kernel is the Python that runs this, whatever kernels are installed under whichever names, and
it works in the notebook's folder. JAX's platform is left to the user's environment. The kernel is
shut down however the run ends.
"""

import asyncio
import atexit
import signal
import sys
from bisect import bisect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._extras import need
from ..._mistakes import fix_for
from ...errors import CompareError
from .cells import Cell
from .files import MAX_SIZE, text_of
from .notebook import cells_of, notebook_of

Progress = Callable[[int, int], None]
DEFAULT_TIMEOUT = 600
_START_TIMEOUT = 120
_PACKAGE_ROOT = Path(__file__).parents[3]


def run(
    path: str | Path,
    *,
    timeout: int = DEFAULT_TIMEOUT,
    progress: Progress | None = None,
    max_size: float = MAX_SIZE,
) -> list[Cell]:
    r"""Execute a notebook and read what it shows now.

    Args:
        path: the notebook.
        timeout: the limit for each cell, in whole seconds.
        progress: called with the number of code cells done and of all.
        max_size: the most megabytes that the file may have.

    Returns:
        Its cells with the new outputs, under the numbers that the file gives them.

    Raises:
        CompareError: it is no notebook, a cell raised or ran out of time, or the kernel died.
        KeyboardInterrupt: it was stopped with Ctrl-C or SIGTERM; the kernel is shut down.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     port = Path(folder, "port.py")
    ...     _ = port.write_text("# %%\n1 + 1\n")
    ...     (cell,) = run(port)
    >>> cell.outputs
    (Output(kind='result', text='2'),)
    """
    need(["nbformat", "nbclient", "ipykernel"], "running a notebook", "compare")
    path = Path(path)
    import nbformat

    notebook = nbformat.from_dict(notebook_of(path, text_of(path, max_size)))
    numbers = [cell.number for cell in cells_of(notebook, path)]
    notebook.setdefault("metadata", nbformat.from_dict({}))
    for cell in notebook["cells"]:
        cell.setdefault("metadata", nbformat.from_dict({}))
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    _execute(notebook, path, timeout, progress or (lambda done, total: None))
    return [
        cell._replace(number=number)
        for cell, number in zip(cells_of(notebook, path), numbers, strict=True)
    ]


def _execute(notebook: Any, path: Path, timeout: int, progress: Progress) -> None:
    import nbclient
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import CellExecutionError, CellTimeoutError
    from nbclient.util import run_sync

    watch = _Watch(notebook, progress)
    manager = AsyncKernelManager(kernel_spec_manager=_kernel_specs())

    class Client(nbclient.NotebookClient):
        """Listens for Ctrl-C from before the kernel is there, not only when it is ready."""

        async def async_start_new_kernel(self, **options: Any) -> None:
            watch.listen()
            await super().async_start_new_kernel(**options)

    client = Client(
        notebook,
        km=manager,
        timeout=timeout,
        startup_timeout=_START_TIMEOUT,
        shutdown_kernel="immediate",
        resources={"metadata": {"path": str(path.parent.resolve())}},
        on_cell_start=watch.started,
        on_cell_complete=watch.completed,
    )
    try:
        client.execute(cleanup_kc=True)
    except CellTimeoutError:
        raise CompareError(f"{path}: {watch.where()} ran over {timeout} s") from None
    except CellExecutionError as error:
        message = f"{error.ename}: {error.evalue}".strip().splitlines()[0]
        fix = fix_for([error.ename], error.evalue)
        message = f"{message}; {fix}" if fix else message
        raise CompareError(f"{path}: {watch.where()} raised {message}") from None
    except (Exception, asyncio.CancelledError) as error:  # jupyter_client and zmq have their own
        if watch.interrupted or isinstance(error, asyncio.CancelledError):
            raise KeyboardInterrupt from None
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CompareError(f"{path}: the kernel stopped at {watch.where()}: {reason[-1]}") from None
    finally:
        # It would shut the kernel down at exit, once more, and complain where there is none.
        atexit.unregister(client._cleanup_kernel)
        if manager.has_kernel:  # it was stopped while it started, where nbclient does not clean up
            run_sync(manager.shutdown_kernel)(now=True)


class _Watch:
    """Follows a run: which cell it is at, and whether the user stopped it."""

    def __init__(self, notebook: Any, progress: Progress) -> None:
        self.cells = notebook["cells"]
        self.places = [i for i, cell in enumerate(self.cells) if cell["cell_type"] == "code"]
        self.progress = progress
        self.at: int | None = None
        self.interrupted = False
        progress(0, len(self.places))

    def started(self, cell: Any, cell_index: int) -> None:
        self.at = cell_index

    def completed(self, cell: Any, cell_index: int) -> None:
        self.progress(bisect(self.places, cell_index), len(self.places))

    def where(self) -> str:
        """The running cell, for a person: which one it is and how it begins."""
        if self.at is None:
            return "its start"
        source = str(self.cells[self.at]["source"]).strip()
        return f"cell {self.at + 1} ({source.splitlines()[0][:60] if source else ''!r})"

    def listen(self) -> None:
        """Let Ctrl-C and SIGTERM cancel the run, and nbclient shut the kernel down on its way out.

        Its own handler kills the kernel under a run that goes on and then fails in odd places.
        """
        task = asyncio.current_task()

        def stop() -> None:
            self.interrupted = True
            if task is not None:
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(RuntimeError, NotImplementedError, ValueError):  # only in the main thread
                loop.add_signal_handler(number, stop)


def _kernel_specs() -> Any:
    """A kernel that is this very Python, with this very funcgrad in a source checkout."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    argv.append(
        "--log-level=ERROR"
    )  # it warns that its sockets, on this machine, are not encrypted
    env = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # a debugger's note about frozen modules
    if (_PACKAGE_ROOT / "pyproject.toml").is_file():
        env["PYTHONPATH"] = f"{_PACKAGE_ROOT}:${{PYTHONPATH}}"

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> Any:
            return KernelSpec(argv=argv, env=env, display_name="Python", language="python")

    return ThisPython()
