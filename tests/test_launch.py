"""Several processes: `microbatch` across them, and what happens when one of them does not come."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from closeness import TOLERANCE
from models import MODELS, transformer_by_hand, whole

from funcgrad import launch

TESTS = Path(__file__).parent
HOST = str(TESTS / "host.py")
PATHS = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
BOUND = 120  # seconds in which everything here has ended, also on a busy machine


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Children find the tests, compile fast, and have not the eight devices that there are here."""
    monkeypatch.setenv("PYTHONPATH", PATHS)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture
def start(monkeypatch):
    """Starts one process of several without the launcher; all are ended after the test."""
    started = []

    def begin(index, does, address, **variables):
        told = dict(zip(launch.VARIABLES, (address, "2", str(index)), strict=True))
        command = [sys.executable, HOST, does, "."]
        environment = {**os.environ, **told, **variables}
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, env=environment, stderr=pipe, stdout=pipe, text=True)
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def here():
    return f"127.0.0.1:{launch._free_port()}"


# Gradients.


@pytest.mark.hosts
@pytest.mark.parametrize(
    ("processes", "devices"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.nightly)]
)
def test_processes_with_a_part_of_the_batch_each_give_the_gradient_of_all(
    processes, devices, tmp_path, monkeypatch
):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(devices))
    assert launch.launch([HOST, "steps", str(tmp_path)], processes, BOUND) == 0
    want = {name: whole(name) for name in MODELS if name != "rnn"}
    want["transformer"] = transformer_by_hand()
    for index in range(processes):
        got = dict(np.load(tmp_path / f"{index}.npz"))
        for name, result in want.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(result):
                ours, limit = got.pop(name + jax.tree_util.keystr(path)), TOLERANCE[str(leaf.dtype)]
                theirs = np.asarray(leaf).astype(np.float64)
                np.testing.assert_allclose(ours, theirs, limit, limit * np.abs(theirs).max())
        assert not got


# Ends.


@pytest.mark.hosts
def test_a_process_that_never_comes_ends_the_one_that_waits(start):
    waiting = [start(index, "absent", here(), LIMIT="4") for index in (0, 1)]
    for index, process in enumerate(waiting):
        _, said = process.communicate(timeout=BOUND)
        assert process.returncode == -signal.SIGABRT
        assert "`connect` got fewer than the 2 processes in 3 s, and gives up" in said
        assert f"process {index} waits at 127.0.0.1:" in said
        assert "DEADLINE_EXCEEDED" in said


@pytest.mark.hosts
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_dies_ends_the_other(who, start):
    address = here()
    pair = [start(index, "dies", address, LIMIT="10", WHO=str(who)) for index in (0, 1)]
    _, said = pair[1 - who].communicate(timeout=BOUND)
    assert pair[1 - who].returncode not in (0, None)
    assert "another process has failed first" in said or "another task died" in said
    assert pair[who].wait(BOUND) == -signal.SIGKILL


@pytest.mark.hosts
def test_an_error_in_one_process_ends_both_long_before_the_limit(start):
    address = here()
    pair = [start(index, "raises", address, LIMIT=str(3 * BOUND), WHO="1") for index in (0, 1)]
    said = [process.communicate(timeout=BOUND)[1] for process in pair]
    assert all(process.returncode not in (0, None) for process in pair)
    assert "OSError: no more rows\n`connect` ends this process at once" in said[1]
    assert "another process has failed first" in said[0] or "another task died" in said[0]


@pytest.mark.hosts
def test_a_process_that_stops_is_named_to_the_other_which_ends(start):
    address = here()
    pair = [start(index, "stops", address, LIMIT="10", WHO="1") for index in (0, 1)]
    _, said = pair[0].communicate(timeout=BOUND)
    assert pair[0].returncode == -signal.SIGABRT
    assert "The following tasks are unhealthy (stopped sending heartbeats):\n1" in said


# The launcher.


def run(code, processes, **keywords):
    """Launches a line of Python that does not use JAX."""
    return launch.launch(["-c", code], processes, **keywords)


def test_each_process_is_told_which_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ", ".join(f"os.environ[{name!r}]" for name in launch.VARIABLES)
    code = f"import os; print({names}, file=open(os.environ['JAX_PROCESS_ID'], 'w'))"
    assert run(code, 3) == 0
    told = [Path(str(index)).read_text().split() for index in range(3)]
    assert [(count, index) for _, count, index in told] == [("3", str(i)) for i in range(3)]
    assert len({address for address, _, _ in told}) == 1


def test_the_first_failure_ends_all_and_is_told(capfd):
    start = time.monotonic()
    code = "import os, time; os.environ['JAX_PROCESS_ID'] == '1' and exit(3); time.sleep(99)"
    assert run(code, 3) == 3
    assert time.monotonic() - start < 60
    assert "`launch` got status 3 from process 1 of 3 after" in capfd.readouterr().err


def test_a_signal_gives_the_status_that_a_shell_gives(capfd):
    assert run("import os; os.kill(os.getpid(), 9)", 1) == 137
    assert "`launch` got SIGKILL from process 0 of 1 after" in capfd.readouterr().err


@pytest.mark.one_line
def test_processes_that_do_not_end_are_ended_also_those_that_do_not_listen(capfd, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"
    assert run(deaf, 2, timeout=2) == 124
    assert "got no end of 2 of 2 processes (numbers 0, 1) within 2 s" in capfd.readouterr().err


def ended(number):
    """Whether a process is gone, or only its entry is left."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{number}/status").read_text()
    except FileNotFoundError:
        return True


def until(holds):
    end = time.monotonic() + BOUND
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


@pytest.mark.one_line
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT"])
def test_a_signal_to_the_launcher_ends_its_processes_and_theirs(tmp_path, name):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
        "with open(f'{os.environ[\"JAX_PROCESS_ID\"]}.pid', 'w') as file:\n"
        "    file.write(f'{os.getpid()} {worker.pid} .')\n"
        "time.sleep(99)\n"
    )
    ask = [sys.executable, "-m", "funcgrad.launch", "--processes", "2", str(script)]
    launcher = subprocess.Popen(ask, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    notes = [tmp_path / "0.pid", tmp_path / "1.pid"]
    assert until(lambda: all(note.exists() and "." in note.read_text() for note in notes))
    numbers = [int(one) for note in notes for one in note.read_text().split()[:2]]
    launcher.send_signal(getattr(signal, name))
    _, err = launcher.communicate(timeout=BOUND)
    assert launcher.returncode == 128 + getattr(signal, name)
    assert f"`launch` got {name}, and ends its processes" in err
    assert "Traceback" not in err
    assert until(lambda: all(map(ended, numbers)))


@pytest.mark.one_line
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_what_a_failed_process_started_is_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import subprocess, sys; worker = subprocess.Popen(['sleep', '99']);"
        "open('pid', 'w').write(str(worker.pid)); sys.exit(3)"
    )
    assert run(code, 1) == 3
    assert until(lambda: ended(int(Path("pid").read_text())))


def test_a_process_that_cannot_be_started_ends_those_that_were(capfd, monkeypatch):
    real, started = launch._start, []

    def start(command, environment):
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(real(command, environment))
        return started[-1]

    monkeypatch.setattr(launch, "_start", start)
    assert run("import time; time.sleep(99)", 4) == 1
    assert all(process.poll() is not None for process in started)
    said = "`launch` could not start process 2 of 4 (Resource temporarily unavailable)"
    assert said in capfd.readouterr().err


def test_a_signal_without_a_name_is_told_by_its_number(capfd):
    assert run("import os; os.kill(os.getpid(), 40)", 1) == 168
    assert "`launch` got signal 40 from process 0 of 1" in capfd.readouterr().err


def test_a_process_may_leave_something_behind_when_all_is_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import subprocess; worker = subprocess.Popen(['sleep', '99']);"
        "open('pid', 'w').write(str(worker.pid))"
    )
    assert run(code, 1) == 0
    worker = int(Path("pid").read_text())
    assert not ended(worker)
    os.kill(worker, signal.SIGKILL)


@pytest.mark.one_line
def test_the_command_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.exit(int(sys.argv[1]))")
    ask = [sys.executable, "-m", "funcgrad.launch", "--processes", "2"]
    done = subprocess.run([*ask, str(script), "4"], capture_output=True, timeout=BOUND)
    assert done.returncode == 4
    assert b"`launch` got status 4 from process" in done.stderr
    module = [*ask, "-m", "script", "5"]
    assert subprocess.run(module, timeout=BOUND, cwd=tmp_path).returncode == 5
    for wrong in (ask, [*ask[:-1], "0", str(script)]):
        refused = subprocess.run(wrong, capture_output=True, timeout=BOUND, text=True)
        assert refused.returncode == 2
        assert "wants --processes of at least 1, then a script" in refused.stderr


@pytest.mark.slow
def test_nothing_says_which_process_this_is():
    code = "from funcgrad.launch import connect; connect(cluster_detection_method='deactivate')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=BOUND)
    assert b"UsageError: `connect` got no answer to which of how many processes" in done.stderr


@pytest.mark.hosts
def test_what_slurm_says_is_enough(monkeypatch):
    """The variables of a Slurm job step, on one machine: JAX finds the rest."""
    node = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    code = "from funcgrad.launch import connect; connect(); import jax; print(jax.device_count())"
    port = {"JAX_COORDINATOR_PORT": str(launch._free_port())}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **node, **port, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stdout=subprocess.PIPE,
        )
        for i in range(2)
    ]
    try:
        assert [process.communicate(timeout=BOUND)[0].split() for process in pair] == [[b"2"]] * 2
    finally:
        for process in pair:
            process.kill()
