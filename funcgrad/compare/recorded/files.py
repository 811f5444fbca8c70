"""`read`: the cells of a notebook, of a `.py` in percent format, or of a text export."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import CompareError
from .cells import Cell, clean
from .notebook import cells_of, notebook_of
from .text_export import cells_of_export

MAX_SIZE = 100  # megabytes


def read(path: str | Path, *, max_size: float = MAX_SIZE) -> list[Cell]:
    """Read the code cells of a notebook, of a `.py` in percent format, or of a text export.

    A notebook is an `.ipynb` of nbformat 3 or 4. A `.py` in percent format has a line `# %%` above
    each cell, and stores no outputs. A text export has a heading `In [n]:` above each cell, and
    `Out[n]:` above its result or nothing but a blank line.

    Args:
        path: the file.
        max_size: the most megabytes that it may have.

    Returns:
        The cells in the order of the file.

    Raises:
        CompareError: the file cannot be read, or is none of the three.

    >>> from funcgrad.compare.recorded.compare import default_file
    >>> cell, *_ = read(default_file("original_outputs.ipynb"))
    >>> cell.number, cell.outputs
    (16, (Output(kind='result', text='tensor([0., 1., 2., 3.])'),))
    """
    path = Path(path)
    text = text_of(path, max_size)
    if path.suffix in (".ipynb", ".py") or text.lstrip()[:1] == "{":
        return cells_of(notebook_of(path, text), path)
    cells = list(cells_of_export(clean(text)))
    if not cells:
        raise CompareError(f"{path}: neither a notebook nor a text export with `In [n]:` headings")
    return cells


def text_of(path: Path, max_size: float = MAX_SIZE) -> str:
    """The text of a file of at most so many megabytes.

    Raises:
        CompareError: it is none that can be read; a pipe or a device is not waited for.
    """
    with _told(path):
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CompareError(f"{path}: {_what(found.st_mode)}")
    if found.st_size > max_size * 1e6:
        raise CompareError(
            f"{path}: has {found.st_size / 1e6:,.0f} MB, and at most {max_size:g} MB are read;"
            " show less in its cells, or raise `--max-size`"
        )
    with _told(path):
        return path.read_text(encoding="utf-8-sig")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says in one line why a file cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise CompareError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise CompareError(f"{path}: not a text file (UTF-8)") from None
    except OSError as error:
        raise CompareError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise CompareError(f"{str(path)!r}: no file can have this name") from None


def _what(mode: int) -> str:
    """What something is that is no regular file."""
    if stat.S_ISDIR(mode):
        return "a folder, not a file"
    kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    kind = next((said for holds, said in kinds if holds(mode)), "a device")
    return f"not a regular file, but {kind}"
