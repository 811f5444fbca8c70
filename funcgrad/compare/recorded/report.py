"""A comparison's result as plain data, and as strict JSON."""

from typing import Any, NamedTuple

from ..strict_json import strict_json
from .judge import Verdict

STATUSES = ("agree", "differ", "missing", "note")


class Row(NamedTuple):
    """One line of a report.

    Attributes:
        recorded: what the recording shows, empty where it shows nothing.
        ours: what the port shows, empty where it shows nothing.
        status: `agree`, `differ`, `missing` (the port lacks it; that is a difference), or `note`
            (there was nothing to compare).
        name: what the value goes by, where that is known: the expression, or the words before it.
        verdict: what `judge` said, `None` where it was not asked.
        reason: why it differs, is missing or was not compared.
        marks: where in `recorded` and where in `ours` the numbers that differ stand.
    """

    recorded: str
    ours: str
    status: str
    name: str = ""
    verdict: Verdict | None = None
    reason: str = ""
    marks: tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]] = ((), ())


class CellReport(NamedTuple):
    """What came of one cell.

    Attributes:
        label: how it is called, `In [18]`.
        rows: a row for each of its values, or for each output where none is a value.
        only_ours: whether no recorded cell belongs to it, so that nothing could be compared.
        port: how the port's cells are called, empty where it has none.
        places: the places of the recorded cells in their file.
    """

    label: str
    rows: tuple[Row, ...]
    only_ours: bool = False
    port: str = ""
    places: tuple[int, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether nothing differs and nothing is missing."""
        return not any(row.status in ("differ", "missing") for row in self.rows)


class Report(NamedTuple):
    """What came of a comparison.

    Attributes:
        recording: the file of the recording.
        port: the file of the port.
        ran: whether the port was executed afresh.
        cells: the cells, in the order of the recording.
        notes: what is worth knowing about the recording as a whole.
    """

    recording: str
    port: str
    ran: bool
    cells: tuple[CellReport, ...]
    notes: tuple[str, ...] = ()

    def count(self, status: str) -> int:
        """How many rows have a status."""
        return sum(row.status == status for cell in self.cells for row in cell.rows)

    @property
    def agrees(self) -> bool:
        """Whether nothing differs and nothing is missing."""
        return not self.count("differ") and not self.count("missing")


def as_json(report: Report) -> str:
    """The whole report as strict JSON; infinities and NaN become strings.

    >>> import json
    >>> row = Row("tensor(2.)", "2.0", "agree")
    >>> report = Report("recorded.ipynb", "port.py", True, (CellReport("In [1]", (row,)),))
    >>> json.loads(as_json(report))["counts"]
    {'agree': 1, 'differ': 0, 'missing': 0, 'note': 0}
    """
    counts = {status: report.count(status) for status in STATUSES}
    data = {
        "recording": report.recording,
        "port": report.port,
        "ran": report.ran,
        "agrees": report.agrees,
        "counts": counts,
        "notes": report.notes,
        "cells": [_cell(cell) for cell in report.cells],
    }
    return strict_json(data)


def _cell(cell: CellReport) -> dict[str, Any]:
    values = [_row(row) for row in cell.rows]
    return {
        "cell": cell.label,
        "port": cell.port,
        "only_ours": cell.only_ours,
        "values": values,
    }


def _row(row: Row) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": row.name,
        "recorded": row.recorded,
        "ours": row.ours,
        "verdict": row.status,
        "reason": row.reason,
    }
    verdict = row.verdict
    if verdict is not None and verdict.compared:
        data |= {
            "largest_difference": verdict.difference,
            "allowed": verdict.allowed,
            "index": verdict.at or (),
            "recorded_number": verdict.recorded,
            "our_number": verdict.actual,
            "compared": verdict.compared,
            "differing": verdict.differing,
            "hint": verdict.hint,
        }
    if verdict is not None:
        data |= {"what": verdict.what, "notes": verdict.notes}
    return data
