"""`read`: the cells of a recording, from a notebook or from a text export of one."""

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ._errors import CompareError, need
from ._split import split

_HEADING = re.compile(r"^(In|Out)[ ]?\[[ ]*(\d{0,9}|\*)[ ]*\]:[ \t]*", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Output(NamedTuple):
    """One output of a cell.

    Attributes:
        kind: `stdout`, `stderr`, `result`, `error`, or `other` for what is no text.
        text: the text; for an error its name and message, for `other` its media types.
    """

    kind: str
    text: str


class Cell(NamedTuple):
    """One code cell.

    Attributes:
        number: its execution count, `None` where it has none.
        outputs: its outputs, in order.
        source: its code, where a notebook has it.
        tags: its tags, where a notebook has them.
        place: which cell of the file it is, counted from 1.
    """

    number: int | None
    outputs: tuple[Output, ...]
    source: str = ""
    tags: tuple[str, ...] = ()
    place: int = 0


def read(path: str | Path) -> list[Cell]:
    """Read the code cells of a notebook (`.ipynb`, nbformat 3 or 4) or of a text export.

    A text export has a heading `In [n]:` above each cell, and `Out[n]:` above its result or
    nothing but a blank line.

    Args:
        path: the file.

    Returns:
        The cells in the order of the file.

    Raises:
        CompareError: the file cannot be read, or is neither of the two.
    """
    path = Path(path)
    text = _text_of(path)
    if path.suffix == ".ipynb" or text.lstrip()[:1] == "{":
        return cells_of(notebook_of(path, text))
    cells = list(_cells_of_export(text))
    if not cells:
        raise CompareError(f"{path}: neither a notebook nor a text export with `In [n]:` headings")
    return cells


def _text_of(path: Path) -> str:
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


def notebook_of(path: str | Path, text: str | None = None) -> Any:
    """A notebook as nbformat 4, whichever version it was written in.

    Raises:
        CompareError: the file cannot be read or is not a notebook.
    """
    need(["nbformat"], "reading notebooks")
    import nbformat
    import nbformat.reader

    path = Path(path)
    text = _text_of(path) if text is None else text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files lack cell ids; that is no concern here
            notebook = nbformat.convert(nbformat.reader.reads(text), 4)
        cells = notebook["cells"]
        if not all("cell_type" in cell for cell in cells):
            raise KeyError("cell_type")
    except nbformat.reader.NotJSONError:
        raise CompareError(f"{path}: not a notebook: it is not valid JSON") from None
    except Exception as error:  # nbformat raises whatever a malformed file makes it stumble over
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CompareError(f"{path}: not a notebook ({reason})") from None
    return notebook


def cells_of(notebook: Any) -> list[Cell]:
    """The code cells of a notebook as nbformat 4."""
    return [
        Cell(
            _count(cell.get("execution_count")),
            tuple(_merged(_outputs(cell.get("outputs") or []))),
            _joined(cell.get("source")),
            tuple(map(str, (cell.get("metadata") or {}).get("tags") or [])),
            place,
        )
        for place, cell in enumerate(notebook["cells"], start=1)
        if cell["cell_type"] == "code"
    ]


def _count(count: Any) -> int | None:
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _joined(text: Any) -> str:
    return "".join(map(str, text)) if isinstance(text, list) else str(text or "")


def _outputs(outputs: Iterable[Any]) -> Iterator[Output]:
    for output in outputs:
        kind = output.get("output_type")
        if kind == "stream":
            name = "stderr" if output.get("name") == "stderr" else "stdout"
            yield Output(name, _joined(output.get("text")))
        elif kind == "error":
            text = f"{output.get('ename', 'error')}: {output.get('evalue', '')}"
            yield Output("error", _ANSI.sub("", text))
        elif kind in ("execute_result", "display_data"):
            data = output.get("data") or {}
            if "text/plain" in data:
                yield Output("result", _ANSI.sub("", _joined(data["text/plain"])))
            else:
                yield Output("other", ", ".join(sorted(data)))


def _merged(outputs: Iterable[Output]) -> Iterator[Output]:
    """Pieces of one stream as one output, as a terminal would show them."""
    held: Output | None = None
    for output in outputs:
        if held and held.kind == output.kind and output.kind in ("stdout", "stderr"):
            held = Output(held.kind, held.text + output.text)
            continue
        if held:
            yield _shown(held)
        held = output
    if held:
        yield _shown(held)


def _shown(output: Output) -> Output:
    r"""A stream as a terminal leaves it: no colours, and `\r` writes over the line."""
    if output.kind not in ("stdout", "stderr"):
        return output
    lines = _ANSI.sub("", output.text).replace("\r\n", "\n").split("\n")
    return Output(output.kind, "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines))


def _cells_of_export(text: str) -> Iterator[Cell]:
    """The cells of a text export: a heading, its code, and its output."""
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings), len(text)][1:]
    held: Cell | None = None
    for heading, end in zip(headings, ends, strict=True):
        section = text[heading.end() : end].strip("\n")
        number = int(heading.group(2)) if heading.group(2).isdecimal() else None
        if heading.group(1) == "Out" and held is not None:
            held = held._replace(outputs=(*held.outputs, Output("result", section)))
            continue
        if held is not None:
            yield held
        code, printed = ("", section) if heading.group(1) == "Out" else split(section)
        outputs = (Output("stdout", printed),) if printed.strip() else ()
        held = Cell(number, outputs, code, (), (held.place if held else 0) + 1)
    if held is not None:
        yield held
