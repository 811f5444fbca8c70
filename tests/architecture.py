"""The table of `docs/architecture.md`: `python tests/architecture.py` writes it."""

import ast
import re
from pathlib import Path

from test_package import FLOORS, PACKAGE

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
TABLE = re.compile(r"(?<=<!-- floors -->\n).*?(?=<!-- /floors -->)", re.DOTALL)


def first_sentence(floor):
    """Of a module's docstring, or of a folder's, as Markdown for one cell of a table."""
    path = PACKAGE / f"{floor}.py"
    path = path if path.exists() else PACKAGE / floor / "__init__.py"
    line, *_ = ast.get_docstring(ast.parse(path.read_text())).splitlines()
    return line.replace("|", "\\|")


def table():
    rows = [f"| `{floor}` | {first_sentence(floor)} |" for floor in FLOORS]
    return "\n".join(["| floor | |", "|---|---|", *rows, ""])


def written():
    return TABLE.search(PAGE.read_text()).group()


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text()))
