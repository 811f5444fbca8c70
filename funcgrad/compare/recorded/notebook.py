"""Notebooks: `.ipynb` of any version, with whatever metadata, and `.py` in percent format."""

import json
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
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
_MARKDOWN = "a line `# %%` or the header at its top is malformed"
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
    try:
        held = json.loads(text)
    except RecursionError:
        raise CompareError(f"{path}: not a notebook: its JSON is nested too deeply") from None
    except ValueError:
        raise CompareError(f"{path}: not a notebook: it is not valid JSON") from None
    _want(path, held, dict, "the file")
    version = held.get("nbformat", 4 if "cells" in held else 3)
    if not isinstance(version, int) or isinstance(version, bool):
        raise CompareError(f"{path}: not a notebook: its `nbformat` is no whole number")
    notebook = held if version >= 4 else _converted(path, held, version)
    for place, cell in enumerate(_want(path, notebook.get("cells"), list, "`cells`"), start=1):
        _want(path, cell, dict, f"cell {place}")
        if not isinstance(cell.get("cell_type"), str):
            raise CompareError(f"{path}: not a notebook: cell {place} has no `cell_type`")
        cell["source"] = _joined(cell.get("source"))
    return notebook


def _converted(path: Path, held: Any, version: int) -> Any:
    """A notebook of an older format as nbformat 4."""
    need(["nbformat"], "reading notebooks before nbformat 4", "compare")
    import nbformat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nbformat.convert(nbformat.from_dict({"nbformat": version, **held}), 4)
    except Exception:  # nbformat raises whatever a malformed file makes it stumble over
        raise CompareError(
            f"{path}: not a notebook: it has no `cells`, nor what a notebook of nbformat {version}"
            " has in their place"
        ) from None


def _want(path: Path, found: Any, kind: type, what: str) -> Any:
    """What was found, which must be an object or a list of JSON.

    Raises:
        CompareError: it is something else.
    """
    if isinstance(found, kind):
        return found
    wanted = _KINDS[kind]
    got = next((said for one, said in _KINDS.items() if isinstance(found, one)), "a number")
    raise CompareError(
        f"{path}: not a notebook: {what} is {'missing' if found is None else got}, and {wanted} is"
        " wanted"
    )


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
    except Exception:  # jupytext raises whatever a malformed file makes it stumble over
        raise CompareError(f"{path}: not in percent format: {_MARKDOWN}") from None


def cells_of(notebook: Any, path: Path) -> list[Cell]:
    """The code cells of a notebook as nbformat 4.

    Raises:
        CompareError: a cell is not made as cells are; `path` says of which file.
    """
    return [
        _cell(cell, place, path)
        for place, cell in enumerate(notebook["cells"], start=1)
        if cell["cell_type"] == "code"
    ]


def _cell(cell: Any, place: int, path: Path) -> Cell:
    outputs = _want(path, cell.get("outputs") or [], list, f"`outputs` of cell {place}")
    for output in outputs:
        _want(path, output, dict, f"an output of cell {place}")
        _want(path, output.get("data") or {}, dict, f"`data` in an output of cell {place}")
    metadata = _want(path, cell.get("metadata") or {}, dict, f"`metadata` of cell {place}")
    tags = _want(path, metadata.get("tags") or [], list, f"`tags` of cell {place}")
    return Cell(
        _count(cell.get("execution_count")),
        tuple(_merged(_outputs(outputs))),
        _joined(cell.get("source")),
        tuple(_joined(str(tag)) for tag in tags),
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
