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

import funcgrad
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


# Workflows, and what those who package or cite funcgrad read.

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SAID = [ROOT / ".ci" / "run", ROOT / "README.md", *PAPERS]
SETTING_UP = ("python -m pip ", "python -c ", "printf ", "echo ", "test ")
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def parsed(path):
    return pytest.importorskip("yaml").safe_load((ROOT / path).read_text())


def steps(path):
    return [step for job in parsed(path)["jobs"].values() for step in job["steps"]]


def test_there_is_a_workflow_for_each_occasion():
    on = {path.stem: set(parsed(path)[True]) for path in WORKFLOWS}  # YAML takes `on` for true
    assert on == {
        "ci": {"push", "pull_request"},
        "docs": {"push", "pull_request"},
        "nightly": {"schedule", "workflow_dispatch"},
        "release": {"push"},
    }


@each_workflow
def test_a_workflow_is_bounded_and_may_only_read(path):
    workflow = parsed(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 90
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        # Pinned by its major version.
        assert re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", step.get("uses", "a/a@v1"))


@each_workflow
def test_a_workflow_runs_the_commands_of_the_papers(path):
    said = [paper.read_text().replace(".venv/bin/", "") for paper in SAID]
    commands = [line for step in steps(path) for line in step.get("run", "").splitlines()]
    for command in commands:
        if shown := re.fullmatch(r"""bash -c "\$\(grep -m1 -- '(.+)' README\.md\)\"""", command):
            assert any(re.search(shown[1], line) for line in said[1].splitlines())
        elif not command.startswith(SETTING_UP):
            assert any(command.removeprefix("python -m ") in text for text in said), command


def test_workflows_run_the_pythons_of_the_lines():
    lines = dict(re.findall(r"^(\w+)=(.+)$", (ROOT / ".ci" / "lines").read_text(), re.MULTILINE))
    one, two = lines["FIRST_PYTHON"], lines["SECOND_PYTHON"]
    first, second, *newer = parsed(WORKFLOWS[0])["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert first == {"python": one, "jax": lines["FIRST_JAX"]}
    assert second == {"python": two, "jax": "newest"}
    assert all(row["python"] > two and row["jax"] == "newest" for row in newer)
    jobs = {name: job for path in WORKFLOWS for name, job in parsed(path)["jobs"].items()}
    assert jobs["try"]["strategy"]["matrix"]["python"] == [one, two]
    wanted = [step.get("with", {}).get("python-version") for step in jobs["everything"]["steps"]]
    assert [python for python in wanted if python] == [two, one]  # the later one is `python3`
    given = {
        step.get("with", {}).get("python-version") for path in WORKFLOWS for step in steps(path)
    }
    assert given <= {None, "${{ matrix.python }}", one, two, *(row["python"] for row in newer)}


def test_the_canary_runs_the_forms_that_jax_has_announced():
    canary = parsed(".github/workflows/nightly.yml")["jobs"]["canary"]
    assert set(canary["env"]) == {"JAX_REMAT3", "JAX_CUSTOM_VJP3", "JAX_CUSTOM_JVP3"}
    assert set(canary["env"].values()) == {"${{ matrix.forms }}"}
    assert canary["strategy"]["matrix"]["forms"] == [0, 1]


def test_hooks_before_a_commit_run_the_same_tools_and_leave_notebooks_alone():
    theirs, ours = parsed(".pre-commit-config.yaml")["repos"]
    said = (ROOT / "CONTRIBUTING.md").read_text()
    for hook in ours["hooks"]:
        assert hook["entry"].partition(" --")[0] in said
    (end_of_file,) = (hook for hook in theirs["hooks"] if hook["id"] == "end-of-file-fixer")
    assert re.search(end_of_file["exclude"], "notebooks/autograd.ipynb")
    assert not re.search(end_of_file["exclude"], "funcgrad/cli.py")


def test_dependencies_are_looked_after():
    updates = parsed(".github/dependabot.yml")["updates"]
    assert [one["package-ecosystem"] for one in updates] == ["pip", "github-actions"]


def test_there_is_one_version(capsys):
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert ROOT / PROJECT["tool"]["hatch"]["version"]["path"] == PACKAGE / "__init__.py"
    assert status(["--version"]) == 0
    assert capsys.readouterr().out == f"funcgrad {funcgrad.__version__}\n"
    assert parsed("CITATION.cff")["version"] == funcgrad.__version__
    assert parsed("conda/recipe.yaml")["context"]["version"] == funcgrad.__version__


def test_the_recipe_for_conda_forge_wants_what_the_project_wants():
    recipe, project = parsed("conda/recipe.yaml"), PROJECT["project"]
    spaced = [re.sub(r"(?<=\w)(?=[><=!])", " ", one, count=1) for one in project["dependencies"]]
    assert recipe["requirements"]["run"] == ["python >=${{ python_min }}", *spaced]
    (backend,) = PROJECT["build-system"]["requires"]
    assert backend.replace(">", " >") in recipe["requirements"]["host"]
    assert project["requires-python"] == f">={recipe['context']['python_min']}"
    scripts = [f"{name} = {place}" for name, place in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


def test_all_name_one_address_and_one_licence():
    cited, about = parsed("CITATION.cff"), parsed("conda/recipe.yaml")["about"]
    urls = PROJECT["project"]["urls"]
    assert cited["repository-code"] == about["repository"] == urls["Homepage"]
    assert cited["url"] == about["documentation"] == urls["Documentation"]
    assert cited["license"] == about["license"] == PROJECT["project"]["license"]
    assert urls["Homepage"] in urls["Changelog"]
    assert urls["Homepage"] in urls["Issues"]


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
