"""Small notebooks, written on the spot."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

# Programs and sources, which must not be imported: `--doctest-modules` would run them.
collect_ignore_glob = ["fuzz_parse.py", "recordings/*.py", "recordings/sources"]


def result(text, number=1):
    return new_output("execute_result", data={"text/plain": text}, execution_count=number)


def stream(text, name="stdout"):
    return new_output("stream", text=text, name=name)


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook: each cell is its number, its source, and its outputs (text or nodes)."""

    def write(name, *cells):
        made = []
        for number, source, *outputs in cells:
            nodes = [result(one, number) if isinstance(one, str) else one for one in outputs]
            made.append(new_code_cell(source, execution_count=number, outputs=nodes))
        path = tmp_path / name
        nbformat.write(new_notebook(cells=made), path)
        return path

    return write
