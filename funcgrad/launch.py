"""Several processes on one machine: `python -m funcgrad.launch --processes 4 train.py`.

What `torchrun --nproc-per-node 4 train.py` does, and `torch.distributed.init_process_group` in the
script is [`connect`][funcgrad.launch.connect]. The launcher starts the script so many times, tells
each which of them it is, and when one fails, or a signal ends the launcher, ends the others with
whatever they started, and says which one it was. The same
script runs without the launcher, on several machines: where JAX itself detects what surrounds it
(Cloud TPU, Slurm, Open MPI, Kubernetes) as it is, and elsewhere with the three variables that the
launcher sets.

Sharp edges. A process that has died, or has not come, ends the others within the time limit of
`connect`. One that lives and does nothing (a deadlock, a `while True`) still sends its heartbeat,
and the others wait for it in their next collective: give the launcher a `--timeout`, or the job.
After `connect` an error that nobody catches ends its process at once, without `atexit` functions:
JAX's is to wait for the others, which wait for this one.
"""

import argparse
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .errors import UsageError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
GRACE = 5.0  # seconds from the request to end to the end


def connect(*, timeout: int = 60, **keywords: Any) -> None:
    """Joins this process with the others of the job, before anything else is asked of JAX.

    Stands for `torch.distributed.init_process_group(timeout=...)`. It is
    `jax.distributed.initialize` with what the launcher said, or else what JAX detects, and with one
    limit of time where JAX has three of up to five minutes. After it `jax.devices()` are those of
    all processes; give `microbatch` a mesh of them.

    Args:
        timeout: seconds, for each of: all processes to come together at the start, a heartbeat to
            be missed, and all processes to end at the end. When it passes, JAX ends this process
            (SIGABRT), and its message on stderr names the processes that it misses. It must be
            more than the longest time that the others may be late, because of a longer queue or a
            slower disk, say.
        **keywords: passed to `jax.distributed.initialize`; they take precedence.

    Raises:
        UsageError: nothing says which of how many processes this is.

    Not affected: errors are shown as they are. The others notice that a process is gone in their
    next collective, or by its missing heartbeat.
    """
    import jax

    address, count, index = (os.environ.get(name) for name in VARIABLES)
    told = {
        "coordinator_address": address,
        "num_processes": None if count is None else int(count),
        "process_id": None if index is None else int(index),
        "initialization_timeout": timeout,
        "heartbeat_timeout_seconds": timeout,
        "shutdown_timeout_seconds": timeout,
        **keywords,
    }
    late = threading.Timer(
        max(told["initialization_timeout"] - 1, 0.5), _complain, (told, time.monotonic())
    )
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(**told)
    except ValueError as error:
        raise UsageError(
            f"`connect` got no answer to which of how many processes this is ({error}), and wants"
            " `python -m funcgrad.launch`, a cluster that JAX detects, or the variables"
            f" {', '.join(VARIABLES)}"
        ) from error
    finally:
        late.cancel()
    sys.excepthook = functools.partial(_leave, sys.excepthook)


def _leave(show: Callable[..., object], kind: Any, error: Any, trace: Any) -> None:
    """Shows an error that nobody caught, and ends the process there and then."""
    show(kind, error, trace)
    _say(
        "`connect` ends this process at once, for the error above; if that tells of a collective"
        " or a connection, another process has failed first: see its output"
    )
    sys.stdout.flush()
    os._exit(1)


def _complain(told: dict[str, Any], start: float) -> None:
    """Says what is awaited, just before JAX gives up."""
    index, count = told["process_id"], told["num_processes"]
    _say(
        f"`connect` got fewer than the {count or 'expected'} processes in"
        f" {time.monotonic() - start:.0f} s, and gives up: process"
        f" {'of unknown number' if index is None else index} waits at"
        f" {told['coordinator_address'] or 'the address that JAX detected'} for the others. Look"
        " at their output for an earlier error, see that all were started with the same address"
        " and number of processes and that the port is open, or raise `timeout`"
    )


def launch(command: Sequence[str], processes: int, timeout: float | None = None) -> int:
    """Runs a Python script in so many processes on this machine, until all of them are done.

    Stands for `torchrun --nproc-per-node`. What they print goes where this process prints.

    Args:
        command: the script and its arguments, as for `python`.
        processes: how many; on CPU each has one device, or `JAX_NUM_CPU_DEVICES`.
        timeout: seconds after which they are ended, if they are not done.

    Returns:
        0 if all ended with 0; else the status of the first that failed (128 and the number of the
        signal, where a signal ended it, or the launcher), 124 if the time was up, or 1 if a process
        could not be started.
    """
    address = f"127.0.0.1:{_free_port()}"
    start = time.monotonic()
    started: dict[int, subprocess.Popen[bytes]] = {}
    status = 1
    with _stopped_by_signals():
        try:
            for index in range(processes):
                started[index] = _start(command, _environment(address, processes, index))
            status = _watch(dict(started), processes, start, timeout)
            return status
        except _Stopped as stopped:
            _say(f"`launch` got {_name(stopped.number)}, and ends its processes")
            return 128 + stopped.number
        except OSError as error:
            _say(
                f"`launch` could not start process {len(started)} of {processes}"
                f" ({error.strerror or error}), and ends the others"
            )
            return 1
        finally:
            if status:
                _end(list(started.values()))


class _Stopped(BaseException):
    """A signal asked the launcher to end; no `except Exception` on its way out holds it up."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Turns the signals that ask for an end into `_Stopped`, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)  # once is enough: the end is under way
        raise _Stopped(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts one process, with a group of its own for what it starts in turn."""
    return subprocess.Popen([sys.executable, *command], env=environment, start_new_session=True)


def _name(number: int) -> str:
    """A signal by its name; those of real time have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _environment(address: str, processes: int, index: int) -> dict[str, str]:
    return {
        **os.environ,
        **dict(zip(VARIABLES, (address, str(processes), str(index)), strict=True)),
    }


def _watch(
    running: dict[int, subprocess.Popen[bytes]], processes: int, start: float, timeout: float | None
) -> int:
    """Waits until all are done or one has failed, which is said; the status to return."""
    while running:
        for index, status in [(i, process.poll()) for i, process in running.items()]:
            if status is not None:
                del running[index]
            if status:
                how = _name(-status) if status < 0 else f"status {status}"
                _say(
                    f"`launch` got {how} from process {index} of {processes} after"
                    f" {time.monotonic() - start:.1f} s, and ends the others; the cause is the"
                    " first error above, of whichever process"
                )
                return 128 - status if status < 0 else status
        if timeout is not None and time.monotonic() - start > timeout:
            _say(
                f"`launch` got no end of {len(running)} of {processes} processes (numbers"
                f" {', '.join(map(str, running))}) within {timeout:g} s, and ends them"
            )
            return 124
        time.sleep(0.05)
    return 0


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Asks processes and what they started to end, and ends what has not after a while."""
    for process in processes:
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0))
    for process in processes:
        _send(process, signal.SIGKILL)
        process.wait()


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to the group of a process, which outlives it while it has members."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line and runs it."""
    parser = argparse.ArgumentParser(
        prog="python -m funcgrad.launch",
        description="Runs a script or a module in several processes on this machine.",
    )
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--timeout", type=float, metavar="S", help="end them after S seconds")
    parser.add_argument("-m", "--module", action="store_true", help="run a module, as `python -m`")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="script ... | -m module ...")
    given = parser.parse_args(argv)
    if given.processes < 1 or not given.command:
        parser.error(
            "wants --processes of at least 1, then a script, or -m and a module, with its arguments"
        )
    command = ["-m", *given.command] if given.module else given.command
    return launch(command, given.processes, given.timeout)


if __name__ == "__main__":
    sys.exit(main())
