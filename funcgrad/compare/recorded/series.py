"""Sums up what a training log shows under one name: one row for the losses of 200 epochs."""

from collections import defaultdict
from collections.abc import Sequence

from .report import CellReport, Row

_LEAST = 20  # values of one name; fewer are shown one by one
_RANK = {"differ": 2, "missing": 1, "agree": 0}
Shown = tuple[str, Row]  # which value of the cell, or which values, and their row


def shown_rows(cell: CellReport) -> list[Shown]:
    """The rows of a cell, the single numbers of a log summed up by their names.

    A row that sums up has the status and the verdict of the worst, and says how many agree and from
    where on they do not.

    >>> rows = [Row(f"{i}.5", f"{i}.5", "agree", "loss") for i in range(30)]
    >>> [(where, row.recorded) for where, row in shown_rows(CellReport("In [1]", tuple(rows)))]
    [('values 1 to 30', '30 values: 0.5 ... 29.5')]
    """
    series: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(cell.rows):
        if row.name and row.status in _RANK and _is_number(row):
            series[row.name].append(place)
    long = {name: places for name, places in series.items() if len(places) >= _LEAST}
    members = {place for places in long.values() for place in places}
    first = {places[0]: places for places in long.values()}
    return [
        _summed(cell.rows, first[place]) if place in first else (f"value {place + 1}", row)
        for place, row in enumerate(cell.rows)
        if place in first or place not in members
    ]


def _is_number(row: Row) -> bool:
    """Whether a row is of one single number, or of what faces nothing."""
    return row.verdict is None or (row.verdict.compared == 1 and row.verdict.at in (None, ()))


def _summed(rows: Sequence[Row], places: Sequence[int]) -> Shown:
    """One row for all rows at some places."""
    worst = max(places, key=lambda place: _badness(rows[place]))
    wrong = [place for place in places if rows[place].status != "agree"]
    ours = [rows[place].ours for place in places if rows[place].ours]
    reason = ""
    if wrong:
        counts = {
            status: sum(rows[place].status == status for place in wrong)
            for status in ("differ", "missing")
        }
        said = " and ".join(f"{count} {status}" for status, count in counts.items() if count)
        reason = (
            f"{len(places) - len(wrong)} of {len(places)} agree, {said}, from value {wrong[0] + 1}"
            f" on; the worst is value {worst + 1}: {rows[worst].reason}"
        )
    summed = rows[worst]._replace(
        recorded=_ends([rows[place].recorded for place in places]),
        ours=_ends(ours),
        reason=reason,
        marks=((), ()),
    )
    return f"values {places[0] + 1} to {places[-1] + 1}", summed


def _badness(row: Row) -> tuple[int, float, float]:
    verdict = row.verdict
    if verdict is None or verdict.difference is None:
        return _RANK[row.status], 0.0, 0.0
    return _RANK[row.status], verdict.difference - (verdict.allowed or 0.0), verdict.difference


def _ends(texts: Sequence[str]) -> str:
    """How many there are, the first and the last."""
    return f"{len(texts)} values: {texts[0]} ... {texts[-1]}" if texts else ""
