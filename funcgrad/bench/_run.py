"""Runs cases in a process of their own, and goes on with the next one if that process dies."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import BenchError
from ._case import Case
from ._measure import Plan
from ._worker import threads as allowed

PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
START = (
    "import os, runpy\n"
    "if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {cpus})\n"
    "runpy.run_module('funcgrad.bench._worker', run_name='__main__')"
)

Job = tuple[Case, str]
Result = dict[str, Any]


class Setting(NamedTuple):
    """How to run.

    Fields:
        contenders: names of those to run.
        plan: how long to measure.
        device: `cpu`, `gpu` or `tpu`; `None`: what JAX finds.
        threads: how many processors both libraries get; `None`: all that this process may use.
    """

    contenders: Sequence[str]
    plan: Plan = Plan()
    device: str | None = None
    threads: int | None = None


def run(
    jobs: Sequence[Job], setting: Setting, progress: Callable[[Result], None] = lambda _: None
) -> Result:
    """Measures cases.

    Args:
        jobs: cases and names of sizes.
        setting: how to run them.
        progress: called with each result.

    Returns:
        A report: `header` says what the numbers depend on, `results` has one entry for each job.

    Raises:
        BenchError: the device is not there, or no case could be started.
    """
    left = [(case.name, size) for case, size in jobs]
    report: Result = {"header": None, "results": []}
    while left:
        began = len(left)
        with tempfile.TemporaryFile("w+") as log:
            for told in _answers(left, setting, log):
                if "header" in told:
                    report["header"] = report["header"] or told["header"]
                    continue
                report["results"].append(told)
                progress(told)
                del left[0]
            last = _last_line(log)
        if report["header"] is None:
            raise BenchError(f"nothing could be measured on {setting.device or 'any'}: {last}")
        if left and len(left) < began + 1:
            name, size = left.pop(0)
            told = {"case": name, "size": size, "error": f"the process died: {last}"}
            report["results"].append(told)
            progress(told)
    return report


def _answers(left: Sequence[tuple[str, str]], setting: Setting, log: Any) -> Iterator[Result]:
    """What a new process says, until it is done or dead."""
    cpus = _processors(setting.threads)
    job = {
        "jobs": list(left),
        "contenders": list(setting.contenders),
        "plan": setting.plan._asdict(),
        "threads": len(cpus),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", START.format(cpus=cpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment(setting.device, len(cpus)),
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        with process.stdin:
            process.stdin.write(json.dumps(job))
        for line in process.stdout:
            yield json.loads(line)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _processors(threads: int | None) -> list[int]:
    if not hasattr(os, "sched_getaffinity"):
        return list(range(threads or allowed()))
    return sorted(os.sched_getaffinity(0))[:threads]


def environment(device: str | None, threads: int) -> dict[str, str]:
    """The variables that libraries read when they start: device, and as many threads for each.

    OpenMP's threads wait without spinning unless the user says otherwise: in turns with another
    library, threads that spin after their own turn would take the other's processors.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
    set_here = dict.fromkeys(names, str(threads)) | {
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "PYTHONWARNINGS": "ignore",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if device:
        set_here["JAX_PLATFORMS"] = PLATFORMS[device]
    return {**os.environ, **set_here}


def _last_line(log: Any) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
