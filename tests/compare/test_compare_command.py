"""The command: its table, its exit status, its files, and a real kernel."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbclient
import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_output

from funcgrad import cli
from funcgrad.compare import as_json, read, run
from funcgrad.compare.recorded.compare import compare
from funcgrad.errors import CompareError

ROOT = Path(cli.__file__).parents[1]


@pytest.fixture
def recording(notebook):
    return notebook(
        "recording.ipynb",
        (16, "", "tensor([0., 1., 2., 3.])"),
        (19, "", "(tensor(112.), tensor([   0.,  896., 1792., 2688.]))"),
        (20, "", new_output("stream", text="tensor(0.3333, grad_fn=<DivBackward0>) True\n")),
    )


@pytest.fixture
def stored(notebook):
    """A port whose outputs are stored."""

    def write(last="2688.", name="port.ipynb"):
        return notebook(
            name,
            (1, "# In [16]\nx", "Array([0., 1., 2., 3.], dtype=float32)"),
            (2, "# In [19]\ny", f"(Array(112., dtype=float32), Array([0., 896., 1792., {last}]))"),
            (3, "# In [20]\nz", new_output("stream", text="0.33333334 True\n")),
        )

    return write


@pytest.fixture
def live(tmp_path):
    """A port to be run, without stored outputs."""

    def write(*sources):
        made = [nbformat.v4.new_code_cell(source) for source in sources]
        path = tmp_path / "live.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=made), path)
        return path

    return write


def invoke(*arguments):
    """Exit status and output, through click's own runner."""
    done = CliRunner().invoke(cli.group(), [*map(str, arguments)])
    return done.exit_code, done.stdout


def refused(capsys, *arguments):
    """The one line that a command which could not run leaves."""
    assert cli.status([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_all_agree(recording, stored):
    code, out = invoke("compare", recording, stored(), "--no-run")
    assert code == 0
    assert "3 recorded cells, 5 values, port as stored: 5 agree, 0 differ, 0 missing" in out


def test_a_wrong_number_is_located(recording, stored):
    code, out = invoke("compare", recording, stored("2689."), "--no-run")
    assert code == 1
    assert (
        "In [19], value 2: differ: 1 of 4 numbers differs, at [3]: recorded 2688.0, ours 2689.0;"
        " they are 1 apart, 0.00128 is allowed"
    ) in out
    assert "4 agree, 1 differ, 0 missing" in out


def test_a_dropped_cell_and_a_dropped_value_are_missing(recording, notebook):
    port = notebook(
        "port.ipynb",
        (1, "# In [16]\nx", "Array([0., 1., 2., 3.], dtype=float32)"),
        (2, "# In [19]\ny", "Array(112., dtype=float32)"),
        (9, "z", "5"),
    )
    code, out = invoke("compare", recording, port, "--no-run")
    assert code == 1
    assert "In [19], value 2: missing: the port's cell lacks this" in out
    assert "In [20], value 1: missing: the port has no such cell" in out
    assert "only in the port, not compared: cell 3 (1)" in out
    assert "2 agree, 0 differ, 3 missing" in out


def test_table_fits_80_columns_and_cuts_nothing_silently(recording, stored):
    _, out = invoke("compare", recording, stored(), "--no-run")
    table = out.split("3 recorded cells")[0]
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "…" not in table
    assert {"896.,", "1792.,", "2688.])"} <= set(table.replace("[", " ").split())


def test_a_notebook_agrees_with_itself(notebook):
    path = notebook(
        "a.ipynb",
        (3, "# In [16]\nx", "tensor([1., nan])"),
        (None, "plot()", new_output("display_data", data={"image/png": "AAAA"})),
        (1, "", "'text'", new_output("stream", text="loss: 0.5, tensor([[1, 2]])\n")),
        (1, "fail()", new_output("error", ename="ValueError", evalue="no", traceback=[])),
        (7, "# In [16]\ny", "torch.Size([2, 3])"),
    )
    code, out = invoke("compare", path, path, "--no-run")
    assert code == 0
    assert "0 differ, 0 missing" in out


def test_text_export_as_recording(tmp_path, stored):
    path = tmp_path / "export.txt"
    path.write_text("In [16]:\nx\n\ntensor([0., 1., 2., 3.])\n\nIn [17]:\ny = 1\n")
    code, out = invoke("compare", path, stored(), "--no-run")
    assert code == 0
    assert "1 recorded cells, 1 values" in out


def test_json_is_strict_and_whole(recording, stored, notebook, tmp_path):
    target = tmp_path / "result.json"
    code, _ = invoke("compare", recording, stored("nan"), "--no-run", "--json", target)
    assert code == 1
    data = json.loads(target.read_text(), parse_constant=pytest.fail)
    assert data["counts"] == {"agree": 4, "differ": 1, "missing": 0, "note": 0}
    row = data["cells"][1]["values"][1]
    assert (row["verdict"], row["index"], row["our_number"]) == ("differ", [3], "nan")
    assert row["largest_difference"] == "inf"
    assert [path.name for path in tmp_path.glob("*part")] == []


def test_json_that_cannot_be_written(recording, stored, tmp_path, capsys):
    port = stored()
    for target, reason in [
        (tmp_path / "absent" / "x.json", "there is no folder"),
        (tmp_path, "not a plain file"),
        (port, "is an input of the comparison"),
        (recording, "is an input of the comparison"),
        (os.devnull, "not a plain file"),
    ]:
        line = refused(capsys, "compare", recording, port, "--no-run", "--json", target)
        assert reason in line


def test_what_cannot_run_is_one_line(recording, stored, notebook, tmp_path, capsys):
    port = stored()
    empty = notebook("empty.ipynb", (1, "x"))
    words = notebook("words.ipynb", (1, "x", new_output("stream", text="hello\n")))
    (tmp_path / "broken.ipynb").write_text("{")
    script, text = tmp_path / "script.py", tmp_path / "export.txt"
    script.write_text("# %%\n1\n")
    text.write_text("In [1]:\nx = 1\n")
    torch = "run it where PyTorch is installed, and compare with that: "
    for arguments, reason in [
        ((tmp_path / "absent.ipynb", port), "absent.ipynb: no such file"),
        ((recording, tmp_path / "absent.ipynb"), "absent.ipynb: no such file"),
        ((tmp_path / "broken.ipynb", port), "not a notebook: it is not valid JSON"),
        ((recording, empty), "has no outputs to compare; run it afresh, without --no-run"),
        ((empty, port), f"has no outputs to compare; {torch}jupyter execute --inplace {empty}"),
        ((script, port), f"{torch}jupytext --to ipynb {script} && jupyter execute --inplace "),
        ((text, port), "has no outputs to compare; end each cell with what it is to show"),
        ((words, port), "no value in them to compare"),
        ((recording,), "recording.ipynb alone, and wants RECORDING and PORT, or neither"),
        ((recording, port, "third"), "unexpected extra argument"),
        ((recording, port, "--timeout", "-1"), "Invalid value for '--timeout'"),
        ((recording, port, "--timeout", "0.5"), "Invalid value for '--timeout'"),
        ((recording, port, "--timeout", "inf"), "Invalid value for '--timeout'"),
        ((recording, port, "--unknown"), "No such option"),
    ]:
        assert reason in refused(capsys, "compare", *arguments, "--no-run")
    assert "No such command" in refused(capsys, "nothing")


def test_a_missing_library_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    line = refused(capsys, "compare")
    assert "rich, which is not installed" in line
    assert "pip install 'funcgrad[compare]'" in line


def test_errors_are_funcgrad_errors():
    from funcgrad.errors import FuncgradError

    assert issubclass(CompareError, FuncgradError)
    assert issubclass(CompareError, ValueError)


@pytest.mark.one_line
def test_importing_loads_no_heavy_library():
    code = (
        "import sys, types; package = types.ModuleType('funcgrad');"
        f"package.__path__ = [{str(ROOT / 'funcgrad')!r}]; sys.modules['funcgrad'] = package;"
        "import funcgrad.compare, funcgrad.cli;"
        "print([m for m in 'torch IPython click rich lark nbformat nbclient jupytext'.split()"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.kernel
def test_run_afresh_in_a_process(live, recording, tmp_path):
    port = live(
        "# In [16]\nimport os, sys\n'tensor([0., 1., 2., 3.])'",
        "# In [19]\nprint('tensor(112.) [0. 896. 1792. 2688.]')",
        "# In [20]\nprint(1 / 3, os.path.exists('live.ipynb'))",
    )
    before = port.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "funcgrad", "compare", recording, port, "--json", "out.json"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "port run afresh: 5 agree, 0 differ, 0 missing" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["ran"] is True
    assert port.read_bytes() == before


@pytest.mark.kernel
def test_a_cell_that_raises_is_one_line_from_a_process(live, recording):
    port = live("1", "# In [16]\nraise ValueError('broken\\nbadly')")
    done = subprocess.run(
        [sys.executable, "-m", "funcgrad", "compare", recording, port],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    line = r"funcgrad: .*live\.ipynb: cell 2 \('# In \[16\]'\) raised ValueError: broken\n"
    assert re.fullmatch(line, done.stderr)


@pytest.mark.kernel
def test_kernel_is_this_python_and_numbers_are_kept(notebook):
    path = notebook("port.ipynb", (7, "import sys; print(sys.executable)"), (9, "2.5", "9.9"))
    seen = []
    cells = run(path, progress=lambda done, total: seen.append((done, total)))
    assert [cell.number for cell in cells] == [7, 9]
    assert cells[0].outputs[0].text.strip() == sys.executable
    assert cells[1].outputs[0].text == "2.5"
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert read(path)[1].outputs[0].text == "9.9"


@pytest.mark.kernel
def test_a_hung_cell_has_a_limit(live):
    with pytest.raises(CompareError, match=r"cell 1 \('import time'\) ran over 1 s"):
        run(live("import time\ntime.sleep(60)"), timeout=1)


def test_a_result_in_full_is_exact_and_a_formatted_print_is_rounded(notebook):
    full = notebook("a.ipynb", (1, "", "3.5"))
    printed = notebook("b.ipynb", (1, "print(f'{x:.1f}')", new_output("stream", text="3.5")))
    port = notebook("c.ipynb", (1, "", "3.54"))
    assert not compare(full, port, fresh=False).agrees
    assert compare(printed, port, fresh=False).agrees


def test_shipped_files_are_found_in_an_installed_package(tmp_path, monkeypatch):
    from funcgrad.compare.recorded import compare as _compare

    shutil.copy(_compare.default_file("original_outputs.ipynb"), tmp_path / "autograd.ipynb")
    monkeypatch.setattr(_compare, "_FOLDERS", (tmp_path,))
    assert _compare.default_file("autograd.ipynb") == tmp_path / "autograd.ipynb"
    with pytest.raises(CompareError, match="name the file to compare"):
        _compare.default_file("absent.ipynb")


def test_report_of_complex_numbers_is_json(notebook):
    path = notebook("a.ipynb", (1, "", "tensor([1.+2.j])"))
    data = json.loads(as_json(compare(path, path, fresh=False)))
    assert data["cells"][0]["values"][0]["recorded_number"] == "(1+2j)"


# --- options -------------------------------------------------------------------------------------


def test_page_and_json_are_written_together(recording, stored, tmp_path):
    code, _ = invoke(
        "compare", recording, stored("2689."), "--no-run", "--html", tmp_path / "a.html",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert code == 1
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "a.json").read_text())["counts"]["differ"] == 1


def test_a_page_that_cannot_be_written(recording, stored, tmp_path, capsys):
    port = stored()
    same = tmp_path / "same"
    for options, reason in [
        (["--html", tmp_path / "absent" / "x.html"], "there is no folder"),
        (["--html", recording], "is an input of the comparison"),
        (["--html", same, "--json", same], "cannot hold both the JSON and the page"),
    ]:
        assert reason in refused(capsys, "compare", recording, port, "--no-run", *options)
    assert not same.exists()


def test_strict_makes_a_note_a_difference(notebook):
    recorded = notebook("a.ipynb", (1, "", "tensor([1, 2])"))
    port = notebook("b.ipynb", (1, "", "Array([1, 2], dtype=int32)"))
    code, out = invoke("compare", recorded, port, "--no-run")
    assert (code, "note: recorded int64, ours is int32" in out) == (0, True)
    code, out = invoke("compare", recorded, port, "--no-run", "--strict")
    assert (code, "differ: recorded int64, ours is int32" in out) == (1, True)


def test_a_map_pairs_what_order_would_not(recording, notebook, tmp_path):
    port = notebook(
        "port.ipynb",
        (1, "", "Array(112.)", "Array([0., 896., 1792., 2688.])"),
        (2, "", "Array([0., 1., 2., 3.])"),
    )
    (tmp_path / "map.toml").write_text(
        '"In [16]" = "cell 2"\n"In [19]" = "cell 1"\n"In [20]" = []\n'
    )
    code, out = invoke("compare", recording, port, "--no-run", "--map", tmp_path / "map.toml")
    assert code == 0
    assert "In [20], value 1: note: the map says that the port has nothing for this" in out
    assert "3 agree, 0 differ, 0 missing" in out


def test_a_map_with_a_fault_is_one_line(recording, stored, tmp_path, capsys):
    (tmp_path / "map.toml").write_text('"In [99]" = "cell 1"')
    for name, reason in [
        ("map.toml", "the recording has no code cell"),
        ("no.toml", "no such file"),
    ]:
        line = refused(capsys, "compare", recording, stored(), "--no-run", "--map", tmp_path / name)
        assert reason in line


def test_cells_run_out_of_order_are_noted(notebook):
    path = notebook("a.ipynb", (5, "", "1"), (2, "", "2"))
    _, out = invoke("compare", path, path, "--no-run")
    assert "In [5] stands before In [2]: the cells were not run from top to bottom" in out


@pytest.mark.parametrize("side", ["recording", "port"])
def test_random_cells_of_either_side(notebook, side):
    marked = "torch.rand(1)  # random"
    recorded = notebook("a.ipynb", (1, marked if side == "recording" else "", "tensor([0.5])"))
    port = notebook("b.ipynb", (1, marked if side == "port" else "", "Array([0.7])"))
    code, out = invoke("compare", recorded, port, "--no-run")
    assert code == 0
    assert "marked random: kind, shape and dtype agree, numbers are not compared" in out
    assert "0 agree, 0 differ, 0 missing" in out


def test_a_python_file_stores_no_outputs(recording, tmp_path, capsys):
    port = tmp_path / "port.py"
    port.write_text("# %%\n1\n")
    line = refused(capsys, "compare", recording, port, "--no-run")
    assert "has no outputs to compare; run it afresh, without --no-run" in line


@pytest.mark.kernel
def test_a_cell_may_raise_where_it_is_tagged(tmp_path, notebook):
    port = tmp_path / "port.py"
    port.write_text('# %% tags=["raises-exception"]\n1 / 0\n# %%\n2.5\n')
    recorded = notebook("a.ipynb", (1, "", "2.5"))
    assert compare(recorded, port).agrees


@pytest.mark.one_line
def test_a_very_long_cell_is_cut_and_counted(notebook, tmp_path):
    lines = [f"({i}) {i}.5" for i in range(2000)]
    recorded = notebook("a.ipynb", (1, "", new_output("stream", text="\n".join(lines))))
    ours = [line.replace(".5", ".7") if place > 1500 else line for place, line in enumerate(lines)]
    port = notebook("b.ipynb", (1, "", new_output("stream", text="\n".join(ours))))
    code, out = invoke("compare", recorded, port, "--no-run", "--html", tmp_path / "a.html")
    assert code == 1
    assert "3501 agree, 499 differ, 0 missing" in out
    assert "In [1], value 3004: differ: recorded 1501.5, ours 1501.7" in out
    assert "In [1]: there is more to say than of these 200 values" in out
    assert len(out.splitlines()) < 1000
    page = (tmp_path / "a.html").read_text()
    assert "3600 more values, of which 299 do not agree" in page
    assert page.count("<tr") == 401


def test_a_training_log_is_summed_up(notebook, tmp_path):
    lines = [f"Epoch {i}, loss {2 / (i + 1):.4f}" for i in range(200)]
    code = "print(f'Epoch {i}, loss {loss:.4f}')"
    recorded = notebook("a.ipynb", (1, code, new_output("stream", text="\n".join(lines))))
    ours = [f"Epoch {i}, loss {2 / (i + 1) + (i > 150) / 1e3:.4f}" for i in range(200)]
    port = notebook("b.ipynb", (1, code, new_output("stream", text="\n".join(ours))))
    target = tmp_path / "a.json"
    page = tmp_path / "a.html"
    code, out = invoke("compare", recorded, port, "--no-run", "--json", target, "--html", page)
    assert code == 1
    assert (
        "In [1], values 2 to 400 (loss): differ: 151 of 200 agree, 49 differ, from value 304 on;"
        " the worst is value "
    ) in out
    assert "they are 0.001 apart, 5e-05 is allowed" in out
    assert len(out.splitlines()) < 20
    assert page.read_text().count("<tr") == 3  # the head, the epochs, the losses
    assert "200 values: 2.0000 ... 0.0100" in page.read_text()
    assert len(json.loads(target.read_text())["cells"][0]["values"]) == 400


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("option", ["--json", "--html"])
def test_standard_output_takes_a_file_and_standard_error_the_table(recording, stored, name, option):
    done = CliRunner().invoke(
        cli.group(), ["compare", str(recording), str(stored()), "--no-run", option, name]
    )
    assert done.exit_code == 0
    if option == "--json":
        assert json.loads(done.stdout)["counts"]["agree"] == 5
    else:
        assert done.stdout.startswith("<!doctype html>")
    assert "5 agree, 0 differ" in done.stderr
    assert not Path("-").exists()


def test_standard_output_cannot_hold_both(recording, stored, capsys):
    line = refused(
        capsys, "compare", recording, stored(), "--no-run", "--json", "-", "--html", "/dev/stdout"
    )
    assert "cannot hold both the JSON and the page" in line


@pytest.mark.parametrize("names", [["a.json"], ["a.json", "b.json"]])
def test_a_file_keeps_its_mode_and_its_other_names(recording, stored, tmp_path, names):
    target, *others = (tmp_path / name for name in names)
    target.touch(0o600)
    for other in others:
        other.hardlink_to(target)
    invoke("compare", recording, stored(), "--no-run", "--json", target)
    for path in (target, *others):
        assert json.loads(path.read_text())["agrees"]
        assert path.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".*part"))


def test_a_size_above_the_limit_is_one_line(recording, stored, capsys):
    line = refused(capsys, "compare", recording, stored(), "--no-run", "--max-size", "0.0001")
    assert "at most 0.0001 MB are read; show less in its cells, or raise `--max-size`" in line
    for given in ("0", "-1", "x"):
        line = refused(capsys, "compare", recording, stored(), "--no-run", "--max-size", given)
        assert "Invalid value for '--max-size'" in line


@pytest.mark.one_line
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_what_goes_wrong_in_a_process_is_never_taken_for_a_difference(recording, stored, tmp_path):
    port = stored()
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff.ipynb"))
    shutil.copy(port, odd)
    shutil.copy(port, tmp_path / "é.ipynb")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def status(file, out=subprocess.PIPE, options=(), **environment):
        command = [
            sys.executable,
            "-m",
            "funcgrad",
            "compare",
            recording,
            file,
            "--no-run",
            *options,
        ]
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )  # fmt: skip
        return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()

    with open("/dev/full", "wb") as full:
        code, _, err = status(port, full)
    assert (code, "funcgrad: stopped by the system at standard output: No space left" in err) == (
        2,
        True,
    )
    assert len(err.splitlines()) == 1
    for name in ("--json", "--html"):
        assert status(odd, options=[name, tmp_path / "out"])[0] == 0
        assert status(tmp_path / "é.ipynb", options=[name, tmp_path / "out"], **ascii_only)[0] == 0
    code, out, _ = status(port, COLUMNS="0")
    assert (code, "5 agree" in out) == (0, True)


def test_a_fault_of_funcgrad_is_no_difference(recording, stored, monkeypatch, capsys):
    from funcgrad.compare import _command

    monkeypatch.setattr(_command, "compare", lambda *given, **more: 1 / 0)
    assert cli.status(["compare", str(recording), str(stored()), "--no-run"]) == 2
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert err.splitlines()[-1].startswith("funcgrad: stopped by a fault of its own")


@pytest.mark.slow
def test_a_report_of_many_cells_is_bounded_in_a_terminal(notebook):
    path = notebook("a.ipynb", *[(i, "", f"{i}.5") for i in range(600)])
    code, out = invoke("compare", path, path, "--no-run")
    assert code == 0
    assert "[100 more cells, of which 0 do not agree]" in " ".join(out.split())


@pytest.mark.kernel
def test_a_kernel_that_does_not_start_is_one_line(recording, tmp_path):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "ipykernel_launcher.py").write_text("import sys; sys.exit(3)")
    port = tmp_path / "port.py"
    port.write_text("# %%\n1.5\n")
    done = subprocess.run(
        [sys.executable, "-m", "funcgrad", "compare", recording, port],
        capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path / 'evil'}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 2
    line = next(iter(done.stderr.splitlines()))
    assert "port.py: the kernel stopped at its start" in line
    assert "Exception ignored" not in done.stderr


# --- stopping it ---------------------------------------------------------------------------------


def alive(process):
    """Whether a process is there and is no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.kernel
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["in a cell", "while it starts"])
def test_stopping_leaves_no_kernel_and_no_file_behind(live, recording, tmp_path, signum, when):
    note = tmp_path / "pid"
    waits = f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    port = live(waits if when == "in a cell" else "1")
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "wait.py").write_text(waits if when == "while it starts" else "")
    running = subprocess.Popen(
        [sys.executable, "-m", "funcgrad", "compare", recording, port, "--json", tmp_path / "j"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / "ipython")},
    )  # fmt: skip
    try:
        assert wait_for(lambda: note.exists() and note.read_text().isdigit())
        kernel = int(note.read_text())
        assert alive(kernel)
        running.send_signal(signum)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, out, err.strip()) == (2, "", "funcgrad: interrupted")
    assert wait_for(lambda: not alive(kernel), 10)
    assert not (tmp_path / "j").exists()


@pytest.mark.kernel
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_stopping_when_the_kernel_is_there_and_not_yet_ready(live, monkeypatch):
    start, kernels = nbclient.NotebookClient.async_start_new_kernel, []

    async def start_and_stop(self, **options):
        await start(self, **options)
        kernels.append(self.km.provisioner.pid)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.1)

    monkeypatch.setattr(nbclient.NotebookClient, "async_start_new_kernel", start_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(live("1"))
    assert wait_for(lambda: not alive(kernels[0]), 10)


@pytest.mark.kernel
def test_progress_is_shown_on_a_terminal(live, recording):
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    port = live("# In [16]\n'tensor([0., 1., 2., 3.])'", "import time; time.sleep(0.5)")
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "funcgrad", "compare", recording, port],
        stdout=subprocess.DEVNULL, stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    shown = b"".join(iter(lambda: read_some(ours), b""))
    os.close(ours)
    assert running.wait(timeout=60) == 1
    assert b"running the port" in shown
    assert b"1/2" in shown


def read_some(terminal):
    """What a program wrote to a terminal; nothing once it has ended."""
    try:
        return os.read(terminal, 1024)
    except OSError:
        return b""
