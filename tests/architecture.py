"""The table of `docs/architecture.md`: `python tests/architecture.py` writes it."""

import ast
import re
import tomllib
from pathlib import Path

import funcgrad

PACKAGE = Path(funcgrad.__file__).parent

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
CONTRACTS = tomllib.loads((PAGE.parents[1] / "pyproject.toml").read_text())["tool"]["importlinter"]
FLOORS = [
    module
    for layer in reversed(CONTRACTS["contracts"][0]["layers"])
    for module in re.split(r" [:|] ", layer)
]
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
