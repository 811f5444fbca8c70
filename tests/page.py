"""Pages of docs/ as tests read them: the code in front, and the rows of the tables."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def settings(page):
    """The blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def tables(page):
    """The rows of a page's tables, a list of cells each, under the headings they stand below."""
    found = {}
    for line in page.read_text().splitlines():
        if line.startswith("## "):
            rows = found.setdefault(line[3:].strip("`"), [])
        elif line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return {heading: rows[2:] for heading, rows in found.items() if rows}


def spans(cell):
    """What stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def code(cell):
    """What stands in backticks at the start of a cell, if anything does."""
    return spans(cell)[0] if cell.startswith("`") else None
