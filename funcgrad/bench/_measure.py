"""Measures a problem: first whether all contenders agree, then what each one costs.

Stages are apart: tracing and lowering are timed several times from empty caches, ours and the
hand-written version in turn; compiling once; running when all is warm, each result waited for.
Contenders run in turn, without garbage collection. Those in JAX, which are close, run in turn once
more by themselves, where PyTorch's threads do not disturb them; their ratios are of that run.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import BenchError
from . import _torch
from ._case import CONTENDERS, Function, Problem
from ._timer import Times, clock, interleaved, uncollected
from ._torch import Contender
from .program import normalized


class Plan(NamedTuple):
    """How long to measure.

    Fields:
        rounds: of running, at most.
        stages: how often tracing and lowering are timed.
        at_least: seconds; a call that takes less is repeated within a round.
        budget: seconds; problems that take longer get fewer rounds, but at least five.
    """

    rounds: int = 21
    stages: int = 15
    at_least: float = 0.002
    budget: float = 2.0


class Program(NamedTuple):
    """What the compiler says of a program; `None` where it says nothing.

    Fields:
        flops: floating-point operations.
        bytes: bytes read and written.
        arguments, outputs, temporary, peak: bytes of memory.
        same: whether the instructions are those of the hand-written version.
    """

    flops: float | None
    bytes: float | None
    arguments: int | None
    outputs: int | None
    temporary: int | None
    peak: int | None
    same: bool | None


class Cost(NamedTuple):
    """What one contender costs; fields that do not apply are `None`.

    Fields:
        missing: why there is nothing to tell: not installed, no such form, or how it fails.
        times: of running, a number for each round.
        close: of running beside those in JAX alone.
        trace, lower: seconds, a number for each time.
        compile: seconds; of PyTorch those of the first call less those of the second.
        program: what the compiler says.
    """

    missing: str | None = None
    times: Times | None = None
    close: Times | None = None
    trace: Times | None = None
    lower: Times | None = None
    compile: float | None = None
    program: Program | None = None


Costs = dict[str, Cost]


def measure(problem: Problem, wanted: Collection[str], plan: Plan, gpu: bool = False) -> Costs:
    """What each contender costs.

    Args:
        problem: what to compute.
        wanted: names of contenders.
        plan: how long to measure.
        gpu: whether PyTorch's contenders run on a GPU.

    Raises:
        BenchError: contenders do not return the same; nothing was timed.
    """
    costs, ready = compiled(problem, wanted, plan)
    for name, one in _torch.contenders(problem.torch, wanted, gpu).items():
        if isinstance(one, str):
            costs[name] = Cost(missing=one)
            continue
        try:
            first = clock(one.call)
            costs[name] = Cost(compile=max(0.0, first - clock(one.call)))
            ready[name] = one
        except Exception as error:  # whatever a compiler may raise
            costs[name] = Cost(missing=_torch.reason(error))
    agree({name: results(one) for name, one in ready.items() if name != "control"}, problem)
    if "unjitted" in ready:
        times = Times(tuple(clock(ready["unjitted"].call) for _ in range(3)))
        costs["unjitted"] = costs["unjitted"]._replace(times=times)
    for field, names, rounds in (
        ("times", [name for name in ready if name != "unjitted"], plan.rounds),
        ("close", ["funcgrad", "jax", *problem.peers, "control"], 2 * plan.rounds),
    ):
        calls = {name: ready[name].call for name in names if name in ready}
        for name, times in timed(calls, plan._replace(rounds=rounds)).items():
            costs[name] = costs[name]._replace(**{field: times})  # type: ignore[arg-type]
    return {name: costs[name] for name in CONTENDERS if name in costs}


def timed(calls: Mapping[str, Callable[[], Any]], plan: Plan) -> dict[str, Times]:
    """The times of calls in turn, in as many rounds as there is time for."""
    if not calls:
        return {}
    once = sum(max(clock(call), plan.at_least) for call in calls.values())
    rounds = min(plan.rounds, max(min(5, plan.rounds), math.ceil(plan.budget / once)))
    return interleaved(calls, rounds, plan.at_least)


def functions(problem: Problem, wanted: Collection[str]) -> dict[str, Function | str]:
    """The functions in JAX by contender, or why one is not there."""
    found: dict[str, Function | str] = {"funcgrad": problem.ours, "jax": problem.hand}
    for name, make in problem.peers.items():
        try:
            found[name] = make() if name in wanted else ""
        except ImportError:
            found[name] = "not installed"
    return {name: fun for name, fun in found.items() if name in wanted}


def compiled(
    problem: Problem, wanted: Collection[str], plan: Plan
) -> tuple[Costs, dict[str, Contender]]:
    """What JAX's contenders cost before they run, and those that are ready to run."""
    args = jax.block_until_ready(jax.device_put(problem.args))
    found = functions(problem, wanted)
    costs = {name: Cost(missing=fun) for name, fun in found.items() if isinstance(fun, str)}
    making = {name: fun for name, fun in found.items() if not isinstance(fun, str)}
    ready: dict[str, Any] = {}
    if problem.host:
        ready = dict(making)
        costs |= dict.fromkeys(making, Cost())
    else:
        paths = {name: fun for name, fun in making.items() if name in ("funcgrad", "jax")}
        traces, lowers = staged(paths, args, plan.stages)
        jax.clear_caches()
        texts: dict[str, str] = {}
        for name, fun in making.items():
            ready[name] = jax.jit(fun)
            lowered = ready[name].lower(*args)
            made: list[Any] = []
            seconds = clock(lambda made=made, low=lowered: made.append(low.compile()))  # type: ignore[misc]
            texts[name] = normalized(made[0].as_text())
            same = texts[name] == texts["jax"] if "jax" in texts else None
            costs[name] = Cost(None, None, None, traces.get(name), lowers.get(name), seconds)
            costs[name] = costs[name]._replace(program=told(made[0], same))
        if "jax" in texts and "funcgrad" in texts:
            mine = costs["funcgrad"].program
            assert mine
            same = texts["funcgrad"] == texts["jax"]
            costs["funcgrad"] = costs["funcgrad"]._replace(program=mine._replace(same=same))
    if "unjitted" in wanted and not problem.host:
        ready["unjitted"], costs["unjitted"] = problem.ours, Cost()
    if "control" in wanted:
        ready["control"] = problem.control or empty(problem.ours, args)
        costs["control"] = Cost()
    return costs, {name: Contender(waited(fun, args), _torch.same) for name, fun in ready.items()}


def staged(
    paths: Mapping[str, Function], args: Sequence[Any], times: int
) -> tuple[dict[str, Times], dict[str, Times]]:
    """The times of tracing and of lowering each function, in turn, each from empty caches."""
    traces: dict[str, list[float]] = {name: [] for name in paths}
    lowers: dict[str, list[float]] = {name: [] for name in paths}
    with uncollected():
        for turn in range(times):
            for name in list(paths)[:: -1 if turn % 2 else 1]:
                trace, lower, _ = stages(paths[name], args)
                traces[name].append(trace)
                lowers[name].append(lower)
    as_times = lambda lists: {name: Times(tuple(each)) for name, each in lists.items() if each}  # noqa: E731
    return as_times(traces), as_times(lowers)


def stages(fun: Function, args: Sequence[Any]) -> tuple[float, float, Any]:
    """The seconds of tracing and of lowering from empty caches, and what is to be compiled."""
    jax.clear_caches()
    made: list[Any] = [jax.jit(lambda *args: fun(*args))]  # new to every cache
    trace = clock(lambda: made.append(made[-1].trace(*args)))
    lower = clock(lambda: made.append(made[-1].lower()))
    return trace, lower, made[-1]


def told(program: Any, same: bool | None) -> Program:
    """What the compiler says of a compiled program."""
    costs, memory = program.cost_analysis() or {}, program.memory_analysis()
    at = functools.partial(getattr, memory)
    return Program(
        costs.get("flops"),
        costs.get("bytes accessed"),
        at("argument_size_in_bytes", None),
        at("output_size_in_bytes", None),
        at("temp_size_in_bytes", None),
        at("peak_memory_in_bytes", None),
        same,
    )


def empty(fun: Function, args: Sequence[Any]) -> Function:
    """A jitted function that takes the same, computes nothing, and returns zeros of the same kind.

    >>> empty(lambda x, y: {"sum": x + y}, [jnp.ones(2), jnp.ones(2)])(jnp.ones(2), jnp.ones(2))
    {'sum': Array([0., 0.], dtype=float32)}
    """
    shapes = jax.eval_shape(fun, *args)
    zeros = lambda *_: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)  # noqa: E731
    return jax.jit(zeros, keep_unused=True)


def waited(fun: Function, args: Sequence[Any]) -> Callable[[], Any]:
    """The call that returns when the results are there."""
    return lambda: jax.block_until_ready(fun(*args))


def results(contender: Contender) -> list[np.ndarray]:
    """What a contender computes, leaf by leaf."""
    return [_torch.plain(leaf) for leaf in jax.tree.leaves(contender.view(contender.call()))]


def agree(found: Mapping[str, list[np.ndarray]], problem: Problem) -> None:
    """Checks that all results are those of the hand-written version, or of the first.

    Raises:
        BenchError: one differs by more than the problem's tolerance, or in shape.
    """
    if not found:
        return
    first = "jax" if "jax" in found else next(iter(found))
    for name, got in found.items():
        shapes = [[array.shape for array in found[one]] for one in (name, first)]
        if shapes[0] != shapes[1]:
            raise BenchError(
                f"`{name}` returns {shapes[0]} where `{first}` returns {shapes[1]};"
                " nothing was timed"
            )
        off = max(map(distance, got, found[first]), default=0.0)
        if not off <= problem.tolerance:  # NaN is not
            raise BenchError(
                f"`{name}` is off by {off:.2g} of what `{first}` returns; nothing was timed"
            )


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """The greatest difference, relative to the greatest number.

    >>> distance(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    0.5
    >>> distance(np.zeros(2), np.zeros(2))
    0.0
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.size == 0:
        return 0.0
    scale: Any = np.max(np.abs(want))
    return float(np.max(np.abs(got - want)) / (scale or 1.0))
