"""Shows a `Report`: as a table for a terminal, and as strict JSON."""

from collections.abc import Iterator
from typing import Any

from ..strict_json import strict_json
from .compare import CellReport, Report, Row
from .judge import Verdict

_STYLES = {"agree": "green", "differ": "bold red", "missing": "bold red", "note": "yellow"}
_LONGEST = 240  # characters of one value in the table; the rest is counted, not dropped silently
_MOST_ROWS = 200  # of one cell that agree, and as many that do not; the rest is counted too


def print_report(report: Report, console: Any) -> None:
    """Print the table, a line for each difference and note, and a closing line.

    Args:
        report: what to show.
        console: a `rich.console.Console`.

    >>> from io import StringIO
    >>> from rich.console import Console
    >>> console = Console(file=StringIO())
    >>> cell = CellReport("In [1]", (Row("tensor(2.)", "2.5", "differ", reason="numbers"),))
    >>> print_report(Report("recorded.ipynb", "port.py", False, (cell,)), console)
    >>> print(console.file.getvalue().splitlines()[-2])
    In [1], value 1: differ: numbers
    """
    console.print(table(report))
    for line, style in remarks(report):
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    style = "bold green" if report.agrees else "bold red"
    console.print(closing_line(report), style=style, markup=False, highlight=False, soft_wrap=True)


def table(report: Report) -> Any:
    """The report as a `rich` table: a row for each value, cells apart."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    drawn.add_column("cell", overflow="fold", min_width=7)
    drawn.add_column("recorded", overflow="fold", ratio=3)
    drawn.add_column("ours", overflow="fold", ratio=3)
    for name in ("largest difference", "allowed"):
        drawn.add_column(name, overflow="fold", justify="right", max_width=10)
    drawn.add_column("verdict", overflow="fold", min_width=7)
    for cell in report.cells:
        rows, more = ([], "") if cell.only_ours else rows_shown(cell)
        for place, row in enumerate(rows):
            drawn.add_row(
                Text(cell.label if place == 0 else ""),
                Text(shorten(row.recorded)),
                Text(shorten(row.ours)),
                *_numbers(row.verdict),
                Text(row.status, style=_STYLES[row.status]),
                end_section=place == len(rows) - 1 and not more,
            )
        if more:
            drawn.add_row("", Text(f"[{more}]"), "", "", "", "", end_section=True)
    return drawn


def rows_shown(cell: CellReport) -> tuple[list[Row], str]:
    """The rows of a cell to show, and what is left out, in words: nothing of a cell of usual size.

    >>> from funcgrad.compare import Row
    >>> rows = (Row("1", "1", "agree"),) * 300 + (Row("1", "2", "differ"),)
    >>> shown, more = rows_shown(CellReport("In [1]", rows))
    >>> len(shown), shown[-1].status, more
    (201, 'differ', '100 more values, of which 0 do not agree')
    """
    fine = [place for place, row in enumerate(cell.rows) if row.status == "agree"]
    other = [place for place, row in enumerate(cell.rows) if row.status != "agree"]
    kept = sorted(fine[:_MOST_ROWS] + other[:_MOST_ROWS])
    left = len(cell.rows) - len(kept)
    more = f"{left} more values, of which {len(other[_MOST_ROWS:])} do not agree" if left else ""
    return [cell.rows[place] for place in kept], more


def shorten(text: str) -> str:
    r"""A value on few lines: white space run together, the middle of a long one counted.

    >>> shorten("tensor([[1., 2.],\n        [3., 4.]])")
    'tensor([[1., 2.], [3., 4.]])'
    """
    text = " ".join(text.split())
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} [... {len(text) - 2 * half} more characters ...] {text[-half:]}"


def _numbers(verdict: Verdict | None) -> tuple[str, str]:
    if verdict is None or verdict.difference is None or verdict.allowed is None:
        return "", ""
    return f"{verdict.difference:.2g}", f"{verdict.allowed:.2g}"


def remarks(report: Report) -> Iterator[tuple[str, str]]:
    """A line and its style for each value that does not plainly agree."""
    for cell in report.cells:
        if not cell.only_ours:
            yield from lines_of(cell)
    ours = [f"{cell.label} ({len(cell.rows)})" for cell in report.cells if cell.only_ours]
    if ours:
        yield f"only in the port, not compared: {', '.join(ours)}", _STYLES["note"]
    for note in report.notes:
        yield f"recording: note: {note}", _STYLES["note"]


def lines_of(cell: CellReport) -> Iterator[tuple[str, str]]:
    """A line and its style for each value of one cell that does not plainly agree."""
    told = 0
    for place, row in enumerate(cell.rows, start=1):
        notes = row.verdict.notes if row.verdict else ()
        if row.status == "agree" and not notes:
            continue
        told += 1
        if told > _MOST_ROWS:
            yield f"{cell.label}: there is more to say than of these {_MOST_ROWS} values", "yellow"
            return
        where = f"{cell.label}, value {place}{f' ({row.name})' if row.name else ''}"
        if row.status != "agree":
            yield f"{where}: {row.status}: {row.reason}{by_how_much(row)}", _STYLES[row.status]
        for note in notes:
            yield f"{where}: note: {note}", _STYLES["note"]


def by_how_much(row: Row) -> str:
    """The end of a sentence about a difference: how far, and how far would have been fine."""
    verdict = row.verdict
    if verdict is None or verdict.difference is None or verdict.agrees:
        return ""
    return f"; they are {verdict.difference:.3g} apart, {verdict.allowed:.3g} is allowed"


def closing_line(report: Report) -> str:
    """The counts, in one line."""
    counts = {status: report.count(status) for status in _STYLES}
    cells = sum(any(row.recorded for row in cell.rows) for cell in report.cells)
    how = "run afresh" if report.ran else "as stored"
    total = counts["agree"] + counts["differ"] + counts["missing"]
    line = f"{cells} recorded cells, {total} values, port {how}: {counts['agree']} agree"
    return line + f", {counts['differ']} differ, {counts['missing']} missing"


def as_json(report: Report) -> str:
    """The whole report as strict JSON; infinities and NaN become strings.

    >>> import json
    >>> row = Row("tensor(2.)", "2.0", "agree")
    >>> report = Report("recorded.ipynb", "port.py", True, (CellReport("In [1]", (row,)),))
    >>> json.loads(as_json(report))["counts"]
    {'agree': 1, 'differ': 0, 'missing': 0, 'note': 0}
    """
    counts = {status: report.count(status) for status in _STYLES}
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
