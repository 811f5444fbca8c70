"""`read`: the cells of a notebook, of a `.py` in percent format, or of a text export."""

from pathlib import Path

from ...errors import CompareError
from .cells import Cell, clean
from .notebook import cells_of, notebook_of
from .text_export import cells_of_export


def read(path: str | Path) -> list[Cell]:
    """Read the code cells of a notebook, of a `.py` in percent format, or of a text export.

    A notebook is an `.ipynb` of nbformat 3 or 4. A `.py` in percent format has a line `# %%` above
    each cell, and stores no outputs. A text export has a heading `In [n]:` above each cell, and
    `Out[n]:` above its result or nothing but a blank line.

    Args:
        path: the file.

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
    text = text_of(path)
    if path.suffix in (".ipynb", ".py") or text.lstrip()[:1] == "{":
        return cells_of(notebook_of(path, text), path)
    cells = list(cells_of_export(clean(text)))
    if not cells:
        raise CompareError(f"{path}: neither a notebook nor a text export with `In [n]:` headings")
    return cells


def text_of(path: Path) -> str:
    """The text of a file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CompareError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CompareError(f"{path}: a folder, not a file") from None
    except UnicodeDecodeError:
        raise CompareError(f"{path}: not a text file (UTF-8)") from None
    except (OSError, ValueError) as error:
        raise CompareError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
