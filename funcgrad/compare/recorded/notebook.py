"""Notebooks: `.ipynb` of any version, with whatever metadata, and `.py` in percent format."""

import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..._extras import need
from ...errors import CompareError
from .cells import Cell, Output, clean, without_surrogates

_PERCENT = re.compile(r"^# ?%%", re.MULTILINE)
_STREAMS = ("stdout", "stderr")
_WIDGET = "application/vnd.jupyter.widget-view+json"


def notebook_of(path: Path, text: str) -> Any:
    """A notebook as nbformat 4, whichever version it was written in, or from percent format.

    Args:
        path: the file; its name tells the format.
        text: what it holds.

    Raises:
        CompareError: the file is not a notebook.
    """
    return _of_percent(path, text) if path.suffix == ".py" else _of_json(path, text)


def _of_json(path: Path, text: str) -> Any:
    need(["nbformat"], "reading notebooks", "compare")
    import nbformat
    import nbformat.reader

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files lack cell ids; that is no concern here
            notebook = nbformat.convert(nbformat.reader.reads(text), 4)
        for cell in notebook["cells"]:
            if "cell_type" not in cell:
                raise KeyError("cell_type")
            cell["source"] = _joined(cell.get("source"))
    except nbformat.reader.NotJSONError:
        raise CompareError(f"{path}: not a notebook: it is not valid JSON") from None
    except Exception as error:  # nbformat raises whatever a malformed file makes it stumble over
        raise CompareError(f"{path}: not a notebook ({_first_line(error)})") from None
    return notebook


def _of_percent(path: Path, text: str) -> Any:
    """A notebook from a Python file whose cells begin with `# %%`."""
    if not _PERCENT.search(text):
        raise CompareError(
            f"{path}: not in percent format; write `# %%` on a line above each of its cells"
        )
    need(["jupytext"], "reading a `.py` in percent format", "compare")
    import jupytext

    try:
        return jupytext.reads(text, fmt="py:percent")
    except Exception as error:  # jupytext raises whatever a malformed file makes it stumble over
        raise CompareError(f"{path}: not in percent format ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def cells_of(notebook: Any, path: Path) -> list[Cell]:
    """The code cells of a notebook as nbformat 4.

    Raises:
        CompareError: a cell is not made as cells are; `path` says of which file.
    """
    try:
        return [
            _cell(cell, place)
            for place, cell in enumerate(notebook["cells"], start=1)
            if cell["cell_type"] == "code"
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CompareError(f"{path}: not a notebook ({_first_line(error)})") from None


def _cell(cell: Any, place: int) -> Cell:
    return Cell(
        _count(cell.get("execution_count")),
        tuple(_merged(_outputs(cell.get("outputs") or []))),
        _joined(cell.get("source")),
        tuple(_joined(str(tag)) for tag in (cell.get("metadata") or {}).get("tags") or []),
        place,
    )


def _count(count: Any) -> int | None:
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _joined(text: Any) -> str:
    joined = "".join(map(str, text)) if isinstance(text, list) else str(text or "")
    return without_surrogates(joined)


def _outputs(outputs: Iterable[Any]) -> Iterator[Output]:
    for output in outputs:
        kind = output.get("output_type")
        if kind == "stream":
            name = "stderr" if output.get("name") == "stderr" else "stdout"
            yield Output(name, _joined(output.get("text")))
        elif kind == "error":
            text = f"{output.get('ename', 'error')}: {output.get('evalue', '')}"
            yield Output("error", clean(_joined(text)))
        elif kind in ("execute_result", "display_data"):
            data = output.get("data") or {}
            if "text/plain" in data and _WIDGET not in data:
                yield Output("result", clean(_joined(data["text/plain"])))
            else:
                yield Output("other", clean(_joined(", ".join(sorted(map(str, data))))))


def _merged(outputs: Iterable[Output]) -> Iterator[Output]:
    """Pieces of one stream as one output, also where the other stream came between them."""
    held: list[tuple[str, list[str]]] = []
    open_streams: dict[str, list[str]] = {}
    for kind, text in outputs:
        if kind in open_streams:
            open_streams[kind].append(text)
            continue
        held.append((kind, [text]))
        if kind in _STREAMS:
            open_streams[kind] = held[-1][1]
        else:
            open_streams.clear()
    for kind, texts in held:
        yield _shown(Output(kind, "".join(texts)))


def _shown(output: Output) -> Output:
    r"""A stream as a terminal leaves it: `\r` writes over the line."""
    if output.kind not in _STREAMS:
        return output
    lines = clean(output.text).replace("\r\n", "\n").split("\n")
    return Output(output.kind, "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines))
