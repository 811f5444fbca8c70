"""The programs of docs/models.md, one for each library, where the library is installed."""

import re
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest
from page import ROOT

PAGE = ROOT / "docs" / "models.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FIRST, *SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
IMPORTED = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
PROGRAMS = {section.partition("\n")[0]: BLOCK.findall(section) for section in SECTIONS}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_the_page_runs(name, monkeypatch, tmp_path):
    blocks = [*BLOCK.findall(FIRST), *PROGRAMS[name]]
    missing = [lib for block in blocks for lib in IMPORTED.findall(block) if not find_spec(lib)]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: pip install 'funcgrad[models]'")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    names = {"__name__": "__main__"}
    with jax.numpy_dtype_promotion("standard"):  # as it is for who reads the page
        for number, block in enumerate(blocks):
            exec(compile(block, f"<{Path(PAGE).name}, {name}, block {number}>", "exec"), names)


def test_each_library_of_the_table_has_its_program():
    rows = re.findall(r"^\| \[(.+?)\]", FIRST, flags=re.MULTILINE)
    assert [*PROGRAMS] == [*rows, "Inside a model"]
    assert all(PROGRAMS.values())
