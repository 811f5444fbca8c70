"""Shows a `Report` as one HTML page, side by side, the differing numbers marked.

The page needs nothing else: no network, no script. What was recorded is escaped, and the page
forbids scripts and whatever would be loaded, so an output that holds HTML is shown as its text.
"""

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from .remarks import by_how_much, closing_line, rows_shown
from .report import CellReport, Report, Row

_MOST = 20_000  # characters of one value; the rest is counted, not dropped silently
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def as_html(report: Report) -> str:
    """The whole report as one self-contained HTML page.

    Args:
        report: what `compare` gave.

    Returns:
        The page; it follows the reader's choice of light or dark.

    >>> page = as_html(Report("recorded.ipynb", "port.py", False, ()))
    >>> "<title>port.py against recorded.ipynb</title>" in page
    True
    """
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    style = files("funcgrad.compare.recorded").joinpath("report.css").read_text(encoding="utf-8")
    title = f"{_name(report.port)} against {_name(report.recording)}"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>"
    verdict = ("agree", "All values agree") if report.agrees else ("differ", _counts(report))
    yield f'<header>\n<h1 class="{verdict[0]}">{verdict[1]}</h1>'
    yield f'<p class="files">recording <b>{escape(report.recording)}</b></p>'
    yield f'<p class="files">port <b>{escape(report.port)}</b></p>'
    yield f'<p class="how">{escape(closing_line(report))}</p>'
    for note in report.notes:
        yield f'<p class="note">recording: {escape(note)}</p>'
    yield '<label><input type="checkbox" id="only"> only cells that differ</label>\n</header>'
    yield "<nav>"
    for place, cell in enumerate(report.cells):
        yield f'<a class="{_status(cell)}" href="#c{place}">{escape(cell.label)}</a>'
    yield "</nav>\n<main>"
    for place, cell in enumerate(report.cells):
        yield from _section(cell, place)
    yield "</main>\n</body>\n</html>"


def _name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _counts(report: Report) -> str:
    counts = {"differ": report.count("differ"), "missing": report.count("missing")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _status(cell: CellReport) -> str:
    """What a cell is coloured by: the worst of its rows."""
    found = {row.status for row in cell.rows}
    return next((one for one in ("missing", "differ", "agree", "note") if one in found), "note")


def _section(cell: CellReport, place: int) -> Iterator[str]:
    status = _status(cell)
    fine = " fine" if cell.agrees else ""
    port = "only in the port" if cell.only_ours else cell.port or "nothing in the port"
    yield f'<section id="c{place}" class="{status}-cell{fine}">'
    yield f"<h2>{escape(cell.label)} <small>{escape(port)}</small></h2>"
    yield "<table>\n<thead><tr><th>recorded</th><th>ours</th><th>verdict</th></tr></thead>\n<tbody>"
    rows, more = rows_shown(cell)
    for row in rows:
        yield f'<tr class="{row.status}">'
        yield f'<td data-side="recorded">{_text(row.recorded, row.marks[0])}</td>'
        yield f'<td data-side="ours">{_text(row.ours, row.marks[1])}</td>'
        yield f'<td class="verdict">{_verdict(row)}</td>\n</tr>'
    yield f'</tbody>\n</table>\n<p class="how">{more}</p>\n</section>'


def _text(text: str, marks: Sequence[tuple[int, int]]) -> str:
    """A value with its marks; an empty one says so."""
    if not text:
        return '<pre class="empty">nothing</pre>'
    pieces, done = [], 0
    for start, end in marks:
        if end > _MOST:
            break
        pieces += [escape(text[done:start]), "<mark>", escape(text[start:end]), "</mark>"]
        done = end
    pieces.append(escape(text[done:_MOST]))
    if len(text) > _MOST:
        pieces.append(f"\n[... {len(text) - _MOST} more characters ...]")
    return f"<pre>{''.join(pieces)}</pre>"


def _verdict(row: Row) -> str:
    lines = [f'<b class="{row.status}">{row.status}</b>']
    if row.name:
        lines.append(f"<i>{escape(row.name)}</i>")
    if row.reason:
        lines.append(escape(row.reason + by_how_much(row)))
    if row.verdict is not None:
        lines += [f'<span class="note">note: {escape(note)}</span>' for note in row.verdict.notes]
        if row.status == "agree" and row.verdict.difference:
            largest, allowed = row.verdict.difference, row.verdict.allowed or 0.0
            lines.append(f"largest difference {largest:.2g}, {allowed:.2g} allowed")
    return "<br>".join(lines)
