"""The pytest plugin, in a pytest of its own: one that runs in a folder of recordings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_output

import pytest_funcgrad

ROOT = Path(pytest_funcgrad.__file__).parents[1]


def run_pytest(folder, *arguments):
    """The exit status and what pytest printed, with nothing of this suite's configuration."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p pytest_funcgrad -p no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path, notebook):
    """Recordings, most with a port whose outputs are stored."""
    notebook(
        "good.ipynb",
        (1, "x", "tensor([1., 2.])"),
        (2, "plot()", new_output("display_data", data={"image/png": "AAAA"})),
        (2, "y", "tensor(5)"),
    )
    notebook(
        "good.port.ipynb",
        (1, "x", "Array([1., 2.], dtype=float32)"),
        (2, "plot()", new_output("display_data", data={"image/png": "AAAA"})),
        (3, "y", "Array(5, dtype=int32)"),
        (4, "z", "'more'"),
    )
    notebook("bad.ipynb", (1, "x.grad", "tensor(0.5000)"), (2, "y", "tensor(1.)"), (3, "z", "None"))
    notebook("bad.port.ipynb", (1, "x", "Array(0.5002, dtype=float32)"), (2, "y", "Array(1.)"))
    notebook("alone.ipynb", (7, "x", "tensor(1.)"))
    (tmp_path / "notes.txt").write_text("not a recording")
    (tmp_path / "test_other.py").write_text("def test_other():\n    pass\n")
    return tmp_path


@pytest.mark.one_line
def test_a_test_for_each_recorded_cell(folder):
    code, out = run_pytest(
        folder, "--funcgrad-recordings", ".", "--funcgrad-no-run", "-v", "-rs", "."
    )
    assert code == 1
    found = dict(re.findall(r"^(\S+::.*?) (PASSED|FAILED|SKIPPED|ERROR)", out, re.MULTILINE))
    assert found == {
        "alone.ipynb::In [7]": "SKIPPED",
        "bad.ipynb::In [1]": "FAILED",
        "bad.ipynb::In [2]": "PASSED",
        "bad.ipynb::In [3]": "FAILED",
        "good.ipynb::In [1]": "PASSED",
        "good.ipynb::In [2]": "SKIPPED",
        "good.ipynb::In [2], cell 3": "PASSED",
        "test_other.py::test_other": "PASSED",
    }
    assert "no port: neither alone.port.ipynb nor alone.port.py is there" in out
    assert "no value to compare" in out
    assert (
        "In [1], value 1 (x.grad): differ: recorded 0.5, ours 0.5002; by 2 units in the last"
        " printed place; they are 0.0002 apart, 5e-05 is allowed"
    ) in out
    assert "In [3], value 1 (z): missing: the port has no such cell" in out
    assert "good.port.ipynb: only in the port, not compared: cell 4" in out
    assert "Traceback" not in out


@pytest.mark.one_line
def test_one_cell_by_its_name_and_strict(folder):
    cells = "good.ipynb::In [1]", "good.ipynb::In [2], cell 3"
    options = "--funcgrad-no-run", "--funcgrad-strict"
    code, out = run_pytest(folder, "--funcgrad-recordings", ".", *options, *cells)
    assert code == 1
    assert "differ: recorded int64, ours is int32" in out
    assert "1 failed, 1 passed in" in out


@pytest.mark.kernel
def test_the_port_is_run_once_and_only_if_it_is_needed(folder, notebook):
    (folder / "sub").mkdir()
    (folder / "sub" / "live.ipynb").write_bytes((folder / "good.ipynb").read_bytes())
    (folder / "sub" / "live.port.py").write_text(
        "# %%\nopen('runs', 'a').write('run ')\n[1.0, 2.0]\n# %%\nprint(5)\n# %%\nassert __name__\n"
    )
    (folder / "sub" / "live.map.toml").write_text('"cell 1" = "cell 1"\n"cell 3" = "cell 2"\n')
    arguments = ["--funcgrad-recordings", "sub", "--doctest-modules"]
    code, out = run_pytest(folder, *arguments, "test_other.py", "-k", "other")
    assert (code, "1 passed, 3 deselected" in out) == (0, True)
    assert not (folder / "sub" / "runs").exists()
    code, out = run_pytest(folder, *arguments, "sub")
    assert (code, "2 passed, 1 skipped" in out) == (0, True)
    assert (folder / "sub" / "runs").read_text() == "run "


@pytest.mark.kernel
def test_a_port_that_cannot_run_is_an_error_of_one_line(folder):
    for path in folder.glob("*.ipynb"):
        path.unlink() if "alone" not in path.name else None
    (folder / "alone.port.py").write_text("# %%\n1 / 0\n")
    code, out = run_pytest(folder, "--funcgrad-recordings", ".", "alone.ipynb")
    assert code == 1
    assert "alone.port.py: cell 1 ('1 / 0') raised ZeroDivisionError: division by zero" in out
    assert "1 error" in out
    assert "Traceback" not in out


@pytest.mark.one_line
def test_faults_in_the_option_and_in_a_recording(folder):
    code, out = run_pytest(folder, "--funcgrad-recordings", "absent")
    assert (code, "--funcgrad-recordings: absent is not a folder" in out) == (4, True)
    (folder / "broken.ipynb").write_text("{")
    code, out = run_pytest(folder, "--funcgrad-recordings", ".", "broken.ipynb")
    assert code == 2
    assert "broken.ipynb: not a notebook: it is not valid JSON" in out


@pytest.mark.one_line
def test_a_missing_library_is_an_error_of_one_line_that_names_the_extra(folder):
    (folder / "conftest.py").write_text("import sys\nsys.modules['nbformat'] = None\n")
    (folder / "old.ipynb").write_text('{"nbformat": 3, "worksheets": []}')
    code, out = run_pytest(folder, "--funcgrad-recordings", ".", "old.ipynb")
    assert code == 2
    assert "needs nbformat, which is not installed" in out
    assert "pip install 'funcgrad[compare]'" in out
    assert "_extras.py" not in out


@pytest.mark.one_line
def test_without_the_option_it_does_nothing_and_loads_nothing(folder):
    code, out = run_pytest(folder)
    assert (code, "1 passed" in out) == (0, True)
    heavy = {"jax", "torch", "funcgrad", "nbformat", "nbclient", "lark", "rich", "jupytext"}
    code = f"import pytest_funcgrad, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "set()\n"
