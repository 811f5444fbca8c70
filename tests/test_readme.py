"""The README's lines run, and its two commands are the ones continuous integration runs."""

import linecache
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETTING = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
ROWS = re.findall(r"^\| (.+?) \| `(.+?)` \|$", README, re.MULTILINE)


def run(text, names):
    """As from a file: `autograph` reads the source of a function."""
    file = f"<README: {text[:20]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), names)


def test_the_table_has_rows():
    assert len(ROWS) >= 15


@pytest.mark.parametrize(("idiom", "line"), ROWS, ids=[line for _, line in ROWS])
def test_each_line_of_the_table_runs(idiom, line):
    names = {}
    run(SETTING, names)
    run(line, names)


@pytest.mark.parametrize("end", ["funcgrad compare", "python -m pytest -n auto -m quick"])
def test_continuous_integration_runs_the_command_of_the_readme(end):
    (command,) = re.findall(rf"^python3 -m venv .*{re.escape(end)}$", README, re.MULTILINE)
    assert f"readme_command '{end}$'" in (ROOT / ".ci" / "run").read_text()
    assert command.count("\n") == 0
