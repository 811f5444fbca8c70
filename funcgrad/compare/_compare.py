"""Arranges the parts: reads or runs two files, lines them up, judges. Its result is plain data."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from ._align import Pair, pair_cells, pair_values
from ._cells import Cell
from ._errors import CompareError
from ._judge import Verdict, judge
from ._parse import parse
from ._read import read
from ._run import DEFAULT_TIMEOUT, Progress, run
from ._values import Value

_FOLDERS = (
    Path(__file__).parents[1] / "notebooks",  # where a wheel puts them
    Path(__file__).parents[2] / "notebooks",  # in a source checkout
)


class Row(NamedTuple):
    """One line of a report.

    Attributes:
        recorded: what the recording shows, empty where it shows nothing.
        ours: what the port shows, empty where it shows nothing.
        status: `agree`, `differ`, `missing` (the port lacks it; that is a difference), or `note`
            (there was nothing to compare).
        verdict: what `judge` said, `None` where it was not asked.
        reason: why it differs, is missing or was not compared.
    """

    recorded: str
    ours: str
    status: str
    verdict: Verdict | None = None
    reason: str = ""


class CellReport(NamedTuple):
    """What came of one cell.

    Attributes:
        label: how it is called, `In [18]`.
        rows: a row for each of its values, or for each output where none is a value.
        only_ours: whether no recorded cell belongs to it, so that nothing could be compared.
    """

    label: str
    rows: tuple[Row, ...]
    only_ours: bool = False


class Report(NamedTuple):
    """What came of a comparison.

    Attributes:
        recording: the file of the recording.
        port: the file of the port.
        ran: whether the port was executed afresh.
        cells: the cells, in the order of the recording.
    """

    recording: str
    port: str
    ran: bool
    cells: tuple[CellReport, ...]

    def count(self, status: str) -> int:
        """How many rows have a status."""
        return sum(row.status == status for cell in self.cells for row in cell.rows)

    @property
    def agrees(self) -> bool:
        """Whether nothing differs and nothing is missing."""
        return not self.count("differ") and not self.count("missing")


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
    progress: Progress | None = None,
) -> Report:
    """Compare a port with the recorded outputs of what it ports.

    Args:
        recording: a notebook with outputs, or a text export.
        port: a notebook. With `fresh=False` anything that `recording` may be.
        fresh: execute the port in a new kernel; otherwise its stored outputs are compared.
        timeout: the limit for each cell, in whole seconds.
        progress: called with the number of cells run and of all.

    Raises:
        CompareError: a file cannot be read or run, or one of the two shows no value.
    """
    recorded = read(recording)
    _require_values(recording, recorded)
    shown = run(port, timeout=timeout, progress=progress) if fresh else read(port)
    _require_values(port, shown)
    cells = tuple(map(_cell_report, pair_cells(recorded, shown)))
    return Report(str(recording), str(port), fresh, cells)


def _require_values(path: str | Path, cells: Sequence[Cell]) -> None:
    if not any(cell.outputs for cell in cells):
        raise CompareError(f"{path}: has no outputs to compare")
    if not any(values_of(cell) for cell in cells):
        raise CompareError(f"{path}: has outputs, but no value in them to compare")


def values_of(cell: Cell) -> list[Value]:
    """The values a cell shows: what it printed and its result, in order."""
    return [
        _in_full(value) if output.kind == "result" else value
        for output in cell.outputs
        if output.kind in ("stdout", "result")
        for value in parse(output.text).values
    ]


def _in_full(value: Value) -> Value:
    """A Python float that is a cell's result, which Python prints in full."""
    if value.form != "scalar" or not value.units:
        return value
    return value._replace(units=(0.0,) * len(value.units))


def _cell_report(pair: Pair) -> CellReport:
    recorded = [value for cell in pair.recorded for value in values_of(cell)]
    ours = [value for cell in pair.port for value in values_of(cell)]
    rows = [_row(one, other, pair) for one, other in pair_values(recorded, ours)]
    rows = rows or _without_values(pair)
    return CellReport(pair.label, tuple(rows), only_ours=not pair.recorded)


def _row(recorded: Value | None, ours: Value | None, pair: Pair) -> Row:
    if recorded is None:
        assert ours is not None
        where = "not in the recorded cell" if pair.recorded else "no recorded cell answers to this"
        return Row("", ours.text, "note", reason=where)
    if ours is None:
        where = "the port's cell lacks this" if pair.port else "the port has no such cell"
        return Row(recorded.text, "", "missing", reason=where)
    verdict = judge(recorded, ours)
    status = "agree" if verdict.agrees else "differ"
    if verdict.agrees and verdict.reason:
        status = "note"
    return Row(recorded.text, ours.text, status, verdict, verdict.reason)


def _without_values(pair: Pair) -> list[Row]:
    """Cells that show something, but no value: pictures, errors, words."""
    sides = [_other_outputs(pair.recorded), _other_outputs(pair.port)]
    return [
        Row(theirs, ours, "note", reason="no value to compare")
        for theirs, ours in zip_longest(*sides, fillvalue="")
    ]


def _other_outputs(cells: Sequence[Cell]) -> list[str]:
    return [f"{one.kind}: {one.text.strip()}" for cell in cells for one in cell.outputs]
