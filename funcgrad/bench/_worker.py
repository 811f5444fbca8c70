"""The process in which cases are measured: threads and device are set before anything starts.

It reads one JSON object, which says what to measure, from its input, and writes to its output one
JSON object on a line for each thing that is done: first the header, then a result for each case.
What libraries print goes to the error stream.
"""

import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

import jax

from ..errors import BenchError
from ._case import cases
from ._measure import Cost, Costs, Plan, measure
from ._timer import Times
from ._torch import NAMES

LIBRARIES = ("jax", "jaxlib", "torch", "equinox", "flax", "optax")
IN_SWEEPS = ("funcgrad", "jax", "torch", "known", "control")


def main() -> None:
    """Measures what it is told to."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    jax.config.update("jax_enable_compilation_cache", False)
    torch = bool({*NAMES} & {*job["contenders"]}) and importlib.util.find_spec("torch") is not None
    try:
        gpu = jax.default_backend() == "gpu"
    except Exception as error:  # whatever a plugin may raise
        sys.exit(f"JAX finds no such device ({' '.join(str(error).split()) or repr(error)})")
    settle(torch, job["threads"], gpu)

    def answer(it: Any) -> None:
        print(json.dumps(it), file=answers, flush=True)

    answer({"header": header(torch)})
    for name, size in job["jobs"]:
        answer(result(name, size, job["contenders"], Plan(**job["plan"]), gpu))
        between(torch)


def settle(torch: bool, threads: int, gpu: bool) -> None:
    """Gives both libraries the same threads and the same precision, and wakes up the compiler."""
    jax.jit(lambda x: x + 1)(1.0).block_until_ready()
    if gpu:  # where JAX would round to fewer bits than PyTorch does
        jax.config.update("jax_default_matmul_precision", "highest")
    if torch:
        import torch as library

        library.set_num_threads(threads)
        library.set_float32_matmul_precision("highest")


def between(torch: bool) -> None:
    """Forgets what was compiled."""
    jax.clear_caches()
    if torch:
        import torch as library

        library._dynamo.reset()
    gc.collect()


def result(name: str, size: str, wanted: Sequence[str], plan: Plan, gpu: bool) -> dict[str, Any]:
    """What is measured of one case at one size, or why nothing is, as JSON has it."""
    case = cases()[name]
    told: dict[str, Any] = {
        **{"case": name, "size": size, "about": case.about, "sweep": case.sweep},
        **{"closer": case.closer, "dispatch": size in case.dispatch},
    }
    if case.sweep:
        wanted = [one for one in wanted if one in IN_SWEEPS]
    start = time.perf_counter()
    try:
        problem = case.build(case.size(size))
        told["host"] = problem.host
        costs = measure(problem, wanted, plan, gpu)
        told["costs"] = {one: plain(cost, costs) for one, cost in costs.items()}
    except BenchError as error:
        told["error"] = str(error)
    except Exception as error:  # of a library; the other cases go on
        told["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    told["seconds"] = round(time.perf_counter() - start, 2)
    return told


def plain(cost: Cost, costs: Costs) -> dict[str, Any]:
    """A cost as JSON has it: seconds and bytes, and ratios to others in the same rounds."""
    if cost.missing is not None:
        return {"missing": cost.missing}
    told = {**spread(cost.times), "compile": cost.compile}
    if cost.close:
        beside = {base: its.close for base, its in costs.items() if its.close}
        told |= {f"to_{base}": ratio(cost.close, its) for base, its in beside.items()}
    for stage in ("trace", "lower"):
        mine, its_stage = getattr(cost, stage), getattr(costs.get("jax", Cost()), stage)
        told |= {stage: mine and mine.median, f"{stage}_to_jax": ratio(mine, its_stage)}
    if cost.program:
        told["program"] = cost.program._asdict()
    return told


def spread(times: Times | None) -> dict[str, Any]:
    """The median, the quartiles, the least, and how many rounds there were.

    >>> spread(Times((1.0, 2.0, 3.0, 4.0, 9.0)))
    {'median': 3.0, 'low': 2.0, 'high': 4.0, 'least': 1.0, 'rounds': 5}
    """
    if times is None:
        return {}
    ordered = sorted(times.rounds)
    quarter = len(ordered) // 4
    return {
        "median": times.median,
        "low": ordered[quarter],
        "high": ordered[-1 - quarter],
        "least": times.minimum,
        "rounds": len(ordered),
    }


def ratio(mine: Times | None, its: Times | None) -> float | None:
    """The median ratio in the same round, where both were timed."""
    return mine.ratio(its) if mine and its else None


def header(torch: bool) -> dict[str, Any]:
    """What the numbers depend on."""
    device = jax.devices()[0]
    told: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": f"{device.platform}: {device.device_kind}",
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(LIBRARIES),
        "threads": threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    if torch:
        import torch as library

        told["torch threads"] = library.get_num_threads()
    settings = ("XLA_FLAGS", "OMP_WAIT_POLICY")
    told |= {name: os.environ[name] for name in settings if os.environ.get(name)}
    return told


def threads() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The name of the processor, where the system tells."""
    try:
        with open("/proc/cpuinfo") as file:
            named = (line for line in file if line.startswith("model name"))
            return next(named, "").partition(":")[2].strip() or platform.processor()
    except OSError:
        return platform.processor()


def versions(libraries: Collection[str]) -> dict[str, str]:
    """The versions of libraries, "not installed" where there is none."""
    found = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    main()
