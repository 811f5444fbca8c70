"""The sentences of a report, for the terminal, the page and pytest alike."""

from collections.abc import Iterator
from itertools import islice

from .report import STATUSES, CellReport, Report, Row
from .series import shown_rows

_MOST_LINES = 2000
_MOST_CELLS = 500  # in a terminal's table, those that differ first; --html and --json have all
_MOST_ROWS = 200  # of one cell that agree, and as many that do not; the rest is counted


def remarks(report: Report) -> Iterator[tuple[str, str]]:
    """A line and its status for each value that does not plainly agree, and for each note."""
    lines = (line for cell in report.cells if not cell.only_ours for line in lines_of(cell))
    yield from islice(lines, _MOST_LINES)
    if next(lines, None):
        yield f"there is more to say than in these {_MOST_LINES} lines; --html has it all", "note"
    ours = [f"{cell.label} ({len(cell.rows)})" for cell in report.cells if cell.only_ours]
    if ours:
        more = f" and {len(ours) - _MOST_CELLS} more" if len(ours) > _MOST_CELLS else ""
        said = ", ".join(ours[:_MOST_CELLS]) + more
        yield f"only in the port, not compared: {said}", "note"
    for note in report.notes:
        yield f"recording: note: {note}", "note"


def lines_of(cell: CellReport) -> Iterator[tuple[str, str]]:
    """A line and its status for each value of a cell that does not plainly agree."""
    told = 0
    for which, row in shown_rows(cell):
        notes = row.verdict.notes if row.verdict else ()
        if row.status == "agree" and not notes:
            continue
        told += 1
        if told > _MOST_ROWS:
            yield f"{cell.label}: there is more to say than of these {_MOST_ROWS} values", "note"
            return
        where = f"{cell.label}, {which}{f' ({row.name})' if row.name else ''}"
        if row.status != "agree":
            yield f"{where}: {row.status}: {row.reason}{by_how_much(row)}", row.status
        for note in notes:
            yield f"{where}: note: {note}", "note"


def by_how_much(row: Row) -> str:
    """The end of a sentence about a difference: how large it is, and what is allowed."""
    verdict = row.verdict
    if verdict is None or verdict.difference is None or verdict.agrees:
        return ""
    return f"; they are {verdict.difference:.3g} apart, {verdict.allowed:.3g} is allowed"


def closing_line(report: Report) -> str:
    """The counts, in one line."""
    counts = {status: report.count(status) for status in STATUSES}
    cells = sum(any(row.recorded for row in cell.rows) for cell in report.cells)
    how = "run afresh" if report.ran else "as stored"
    total = counts["agree"] + counts["differ"] + counts["missing"]
    line = f"{cells} recorded cells, {total} values, port {how}: {counts['agree']} agree"
    return line + f", {counts['differ']} differ, {counts['missing']} missing"


def cells_shown(report: Report) -> tuple[list[CellReport], str]:
    """The cells to show in a terminal, and in words what is left out.

    >>> cell = CellReport("In [1]", ())
    >>> shown, left = cells_shown(Report("recorded.ipynb", "port.py", True, (cell,) * 600))
    >>> len(shown), left
    (500, '100 more cells, of which 0 do not agree')
    """
    cells = report.cells
    order = sorted(range(len(cells)), key=lambda place: (cells[place].agrees, place))
    kept, left = sorted(order[:_MOST_CELLS]), order[_MOST_CELLS:]
    wrong = sum(not cells[place].agrees for place in left)
    more = f"{len(left)} more cells, of which {wrong} do not agree" if left else ""
    return [cells[place] for place in kept], more


def rows_shown(cell: CellReport) -> tuple[list[Row], str]:
    """The rows of a cell to show, and in words what is left out; a usual cell is shown whole.

    What a log shows under one name is summed up in one row.

    >>> from funcgrad.compare import Row
    >>> rows = (Row("1", "1", "agree"),) * 300 + (Row("1", "2", "differ"),)
    >>> shown, more = rows_shown(CellReport("In [1]", rows))
    >>> len(shown), shown[-1].status, more
    (201, 'differ', '100 more values, of which 0 do not agree')
    """
    all_rows = [row for _, row in shown_rows(cell)]
    fine = [place for place, row in enumerate(all_rows) if row.status == "agree"]
    other = [place for place, row in enumerate(all_rows) if row.status != "agree"]
    kept = sorted(fine[:_MOST_ROWS] + other[:_MOST_ROWS])
    left = len(all_rows) - len(kept)
    more = f"{left} more values, of which {len(other[_MOST_ROWS:])} do not agree" if left else ""
    return [all_rows[place] for place in kept], more
