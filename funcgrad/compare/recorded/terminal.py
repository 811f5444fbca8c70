"""Shows a report as a table in a terminal."""

from typing import Any

from .judge import Verdict
from .remarks import cells_shown, closing_line, remarks, rows_shown
from .report import Report

_STYLES = {"agree": "green", "differ": "bold red", "missing": "bold red", "note": "yellow"}
_LONGEST = 240  # characters of one value in the table; the rest is counted, not dropped silently


def print_report(report: Report, console: Any) -> None:
    """Print the table, a line for each difference and note, and a closing line.

    Args:
        report: what to show.
        console: a `rich.console.Console`.

    >>> from io import StringIO
    >>> from rich.console import Console
    >>> from funcgrad.compare import CellReport, Row
    >>> console = Console(file=StringIO())
    >>> cell = CellReport("In [1]", (Row("tensor(2.)", "2.5", "differ", reason="numbers"),))
    >>> print_report(Report("recorded.ipynb", "port.py", False, (cell,)), console)
    >>> print(console.file.getvalue().splitlines()[-2])
    In [1], value 1: differ: numbers
    """
    console.print(table(report))
    for line, status in remarks(report):
        console.print(line, style=_STYLES[status], markup=False, highlight=False, soft_wrap=True)
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
    shown, left = cells_shown(report)
    for cell in shown:
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
    if left:
        drawn.add_row("", Text(f"[{left}]"), "", "", "", "")
    return drawn


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
