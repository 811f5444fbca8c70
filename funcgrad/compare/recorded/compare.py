"""`compare`: reads a recording, runs or reads the port, pairs what they show, and judges it."""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ...errors import CompareError
from ..tolerances import Tolerance
from .align_cells import Pair, pair_cells
from .align_values import pair_values
from .asked import allowed_by, is_random, widest
from .cells import Cell, order_notes
from .contents import contents_of
from .files import MAX_SIZE, read
from .judge import Verdict, judge
from .map import read_map, read_tolerances
from .marks import spans
from .report import CellReport, Report, Row
from .rounding import with_formats
from .run import DEFAULT_TIMEOUT, Progress, run
from .values import JUDGED, Value

_STATE = re.compile(r"\.(requires_grad|is_leaf|retains_grad|grad_fn|is_cuda|device)\b")
_MOST_JUDGED = 2**14
_LEFT_OUT = "the map says that the port has nothing for this"
_SHOWS_NOTHING = "end each cell with what it is to show"
_NOT_RUN = "run it afresh, without --no-run"
_NEVER = "a progress bar, a timing, an address, a device or a module: not compared"
_FOLDERS = (
    Path(__file__).parents[2] / "notebooks",  # where a wheel puts them
    Path(__file__).parents[3] / "notebooks",  # in a source checkout
)


def default_file(name: str) -> Path:
    """A notebook that comes with funcgrad: installed with it, or in the source checkout.

    Raises:
        CompareError: it is in neither place.
    """
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise CompareError(f"{name}: not in this installation of funcgrad; name the file to compare")


def compare(
    recording: str | Path,
    port: str | Path,
    *,
    fresh: bool = True,
    timeout: int = DEFAULT_TIMEOUT,
    strict: bool = False,
    mapping: str | Path | None = None,
    progress: Progress | None = None,
    max_size: float = MAX_SIZE,
) -> Report:
    """Compare a port with the recorded outputs of what it ports.

    Args:
        recording: a notebook with outputs, or a text export.
        port: a notebook, or a `.py` in percent format. With `fresh=False` anything that
            `recording` may be.
        fresh: execute the port in a new kernel; otherwise its stored outputs are compared.
        timeout: the limit for each cell, in whole seconds.
        strict: another width of a dtype, `int32` for `int64`, is a difference.
        mapping: a file that says which cells belong together; `map.py` tells its format.
        progress: called with the number of cells run and of all.
        max_size: the most megabytes that a file may have.

    Returns:
        What came of it, cell by cell, as plain data.

    Raises:
        CompareError: a file cannot be read or run, or one of the two shows no value.

    >>> recording = default_file("original_outputs.ipynb")
    >>> report = compare(recording, recording, fresh=False)
    >>> report.agrees, len(report.cells), report.count("agree")
    (True, 13, 31)
    """
    try:
        return _compare(recording, port, fresh, timeout, strict, mapping, progress, max_size)
    finally:
        contents_of.cache_clear()


def _compare(
    recording: str | Path,
    port: str | Path,
    fresh: bool,
    timeout: int,
    strict: bool,
    mapping: str | Path | None,
    progress: Progress | None,
    max_size: float,
) -> Report:
    recorded = with_formats(read(recording, max_size=max_size))
    _require_values(recording, recorded, _to_execute(Path(recording)))
    stored = read(port, max_size=max_size)
    places = None if mapping is None else read_map(mapping, recorded, stored)
    ours = stored
    if fresh:
        ours = run(port, timeout=timeout, progress=progress, max_size=max_size)
    _require_values(port, ours, _SHOWS_NOTHING if fresh else _NOT_RUN)
    allowed = None if mapping is None else read_tolerances(mapping, recorded)
    cells = compare_cells(recorded, ours, strict, places, allowed)
    return Report(str(recording), str(port), fresh, cells, tuple(order_notes(recorded)))


def compare_cells(
    recorded: Sequence[Cell],
    ours: Sequence[Cell],
    strict: bool = False,
    mapping: Mapping[int, Sequence[int]] | None = None,
    allowed: Mapping[int, Tolerance] | None = None,
) -> tuple[CellReport, ...]:
    """Compare cells that have been read, as `compare` does.

    Args:
        recorded: the cells of the recording.
        ours: the cells of the port.
        strict: as for `compare`.
        mapping: as for `pair_cells`.
        allowed: for places of recorded cells the tolerance that the map asks for.
    """
    pairs = pair_cells(recorded, ours, mapping)
    return tuple(_cell_report(pair, strict, allowed or {}) for pair in pairs)


def _require_values(path: str | Path, cells: Sequence[Cell], fix: str) -> None:
    if not any(cell.outputs for cell in cells):
        raise CompareError(f"{path}: has no outputs to compare; {fix}")
    if not any(contents_of(cell).values for cell in cells):
        raise CompareError(f"{path}: has outputs, but no value in them to compare")


def _to_execute(recording: Path) -> str:
    """What makes a recording that was never run hold what its cells show."""
    if recording.suffix not in (".ipynb", ".py"):
        return _SHOWS_NOTHING
    steps = [f"jupytext --to ipynb {recording}"] if recording.suffix == ".py" else []
    steps += [f"jupyter execute --inplace {recording.with_suffix('.ipynb')}"]
    return "run it where PyTorch is installed, and compare with that: " + " && ".join(steps)


def _cell_report(pair: Pair, strict: bool, allowed: Mapping[int, Tolerance]) -> CellReport:
    recorded = [value for cell in pair.recorded for value in contents_of(cell).values]
    ours = [value for cell in pair.port for value in contents_of(cell).values]
    asked = [allowed.get(cell.place, Tolerance()) for cell in pair.recorded]
    options = {
        "strict": strict,
        "random": any(map(is_random, (*pair.recorded, *pair.port))),
        "tolerance": widest([*asked, *map(allowed_by, pair.port)]),
    }
    judged: dict[Any, Verdict] = {}
    pairs = pair_values(recorded, ours)
    rows = [_row(one, other, pair, options, judged) for one, other in pairs]
    if any(row.status in ("differ", "missing") for row in rows):
        said = _only_state(pair.recorded, recorded)
        rows = [row if row.status == "agree" else _with(row, said) for row in rows]
    rows += _incomparable(pair)
    return CellReport(
        pair.label,
        tuple(rows or _without_values(pair)),
        only_ours=not pair.recorded,
        port=", ".join(f"cell {cell.place}" for cell in pair.port),
        places=tuple(cell.place for cell in pair.recorded),
    )


def _row(
    recorded: Value | None,
    ours: Value | None,
    pair: Pair,
    options: Mapping[str, Any],
    judged: dict[Any, Verdict],
) -> Row:
    if recorded is None:
        assert ours is not None
        where = "not in the recorded cell" if pair.recorded else "no recorded cell answers to this"
        return Row("", ours.text, "note", ours.label, reason=where)
    if ours is None:
        if pair.mapped and not pair.port:
            return Row(recorded.text, "", "note", recorded.label, reason=_LEFT_OUT)
        where = "the port's cell lacks this" if pair.port else "the port has no such cell"
        return Row(recorded.text, "", "missing", recorded.label, reason=where)
    verdict = _verdict(recorded, ours, options, judged)
    status = "agree" if verdict.agrees else "differ"
    if verdict.agrees and verdict.reason:
        status = "note"
    reason = "; ".join(filter(None, (verdict.reason, verdict.hint)))
    marks: Any = ((), ())
    if verdict.marks:
        places = zip(*verdict.marks, strict=True)
        marks = tuple(map(spans, (recorded, ours), places))
    return Row(recorded.text, ours.text, status, recorded.label, verdict, reason, marks)


def _verdict(
    recorded: Value, ours: Value, options: Mapping[str, Any], judged: dict[Any, Verdict]
) -> Verdict:
    """What `judge` says, which it is asked once of all single numbers that read alike in a cell."""
    if len(recorded.numbers) != 1 or len(judged) >= _MOST_JUDGED:
        return judge(recorded, ours, **options)
    key = (*recorded[:JUDGED], recorded.text, *ours[:JUDGED], ours.text)
    found = judged.get(key)
    if found is None:
        found = judged[key] = judge(recorded, ours, **options)
    return found


def _only_state(cells: Sequence[Cell], values: Sequence[Value]) -> str:
    """That recorded cells only show what JAX has not, and the line of a map that leaves them out.

    A flag of a tensor is a bool, and `grad_fn` or a gradient that is not there a `None`.
    """
    kinds = {value.kind for value in values}
    named = dict.fromkeys(name for cell in cells for name in _STATE.findall(cell.source))
    if not kinds or not kinds <= {"bool", "none"} or ("bool" in kinds and not named):
        return ""
    shown = " and ".join(f"`{name}`" for name in named) if "bool" in kinds else "`None`"
    lines = ", ".join(f'`"cell {cell.place}" = []`' for cell in cells)
    return f"this cell only shows {shown}, which a port may lack; a map leaves it out: {lines}"


def _with(row: Row, said: str) -> Row:
    return row._replace(reason=f"{row.reason}; {said}") if said else row


def _incomparable(pair: Pair) -> list[Row]:
    """A row for each line that no two runs share."""
    sides = [
        [line for cell in cells for line in contents_of(cell).skipped]
        for cells in (pair.recorded, pair.port)
    ]
    return [
        Row(theirs, ours, "note", reason=_NEVER)
        for theirs, ours in zip_longest(*sides, fillvalue="")
    ]


def _without_values(pair: Pair) -> list[Row]:
    """Cells that show something, but no value: pictures, errors, words."""
    sides = [_other_outputs(pair.recorded), _other_outputs(pair.port)]
    return [
        Row(theirs, ours, "note", reason="no value to compare")
        for theirs, ours in zip_longest(*sides, fillvalue="")
    ]


def _other_outputs(cells: Sequence[Cell]) -> list[str]:
    return [f"{one.kind}: {one.text.strip()}" for cell in cells for one in cell.outputs]
