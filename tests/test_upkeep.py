"""The papers for those who carry funcgrad on say what is so: floors, commands, what is executed."""

import ast
import re
import tomllib
from pathlib import Path

import architecture
import nbformat
import pytest
from architecture import PACKAGE
from nbformat.v4 import new_code_cell, new_notebook, new_output

from funcgrad.cli import status
from funcgrad.compare import compare, read

ROOT = Path(__file__).parents[1]
PAPERS = [ROOT / f"{name}.md" for name in ("CONTRIBUTING", "RELEASING", "SECURITY")]
PATH = re.compile(r"`((?:\.ci|\.github|docs|funcgrad|notebooks|tests)/[\w./-]*)`")
LINES = ("FIRST", "SECOND")
EVALUATES = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "literal_eval",
    "loads",
    "load",
    "system",
    "Popen",
}


def test_the_page_has_the_floors_as_they_are():
    assert architecture.written() == architecture.table(), "run: python tests/architecture.py"


@pytest.mark.parametrize("paper", [*PAPERS, architecture.PAGE], ids=lambda paper: paper.name)
def test_what_a_paper_names_is_there(paper):
    named = PATH.findall(paper.read_text())
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAPERS, ids=lambda paper: paper.name)
def test_links_of_a_paper_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_lines_of_jax_are_what_is_declared_and_said():
    said = dict(re.findall(r"^(\w+)=(\S+)$", (ROOT / ".ci" / "lines").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classifiers = "\n".join(project["classifiers"])
    assert project["requires-python"] == f">={said['FIRST_PYTHON']}"
    assert f"jax>={said['FIRST_JAX']}" in [one.partition(",")[0] for one in project["dependencies"]]
    assert all(f":: Python :: {said[f'{line}_PYTHON']}" in classifiers for line in LINES)
    supported = "Python {FIRST_PYTHON} and newer; JAX {FIRST_JAX} and {SECOND_JAX}.".format(**said)
    assert supported in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("form", ["bug", "wrong_number", "jax_version"])
def test_a_form_for_issues_is_whole(form):
    yaml = pytest.importorskip("yaml")
    text = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
    assert text.keys() == {"name", "description", "labels", "body"}
    fields = [field for field in text["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] and field["id"] for field in fields)


# What is executed.


def called(path):
    """The names of the functions that a file calls, `re.compile` and its like apart."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            place, dot, name = ast.unparse(node.func).rpartition(".")
            if place not in ("re", "tomllib", "json"):
                yield name if dot else place + name


@pytest.mark.parametrize("path", sorted((PACKAGE / "compare").rglob("*.py")), ids=str)
def test_nothing_in_compare_evaluates_text(path):
    assert not EVALUATES & set(called(path))


@pytest.fixture
def hostile(tmp_path):
    """A notebook that would leave a file behind, by its cell and by its output, were it run."""
    left = tmp_path / "left"
    deed = f"open({str(left)!r}, 'w')"
    outputs = [new_output("execute_result", data={"text/plain": f"tensor([1., {deed}])"})]
    for name in ("recording.ipynb", "port.ipynb"):
        cells = [new_code_cell(deed, execution_count=1, outputs=outputs)]
        nbformat.write(new_notebook(cells=cells), tmp_path / name)
    return tmp_path, left


@pytest.mark.kernel
def test_a_recording_is_never_executed_and_a_port_not_with_no_run(hostile):
    folder, left = hostile
    recording, port = folder / "recording.ipynb", folder / "port.ipynb"
    read(recording)
    compare(recording, port, fresh=False)
    status(["compare", str(recording), str(port), "--no-run", "--html", str(folder / "page.html")])
    assert not left.exists()
    (folder / "own.py").write_text("# %%\n1.0\n")
    compare(recording, folder / "own.py", timeout=120)
    assert not left.exists()


@pytest.mark.kernel
def test_a_port_is_executed(hostile):
    folder, left = hostile
    compare(folder / "recording.ipynb", folder / "port.ipynb", timeout=120)
    assert left.exists()
