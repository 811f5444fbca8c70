"""Measures a problem: first whether all contenders agree, then what each one costs.

Stages are apart: tracing and lowering are timed several times from empty caches, ours and the
hand-written version in turn; compiling once; running when all is warm, each result waited for.
Contenders run in turn, without garbage collection. Those in JAX, which are close, run in turn once
more by themselves, where PyTorch's threads do not disturb them; their ratios are of that run.
"""

import functools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import BenchError
from . import _torch
from ._case import CONTENDERS, Function, Own, Problem
from ._timer import Times, clock, in_turn, interleaved, uncollected
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
        compile: seconds; of PyTorch those of the first call less those of the second; where
            functions are called as they are, those of the first call from empty caches.
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
        wanted: names of contenders; those that have a name of the problem's own always take part.
        plan: how long to measure.
        gpu: whether PyTorch's contenders run on a GPU.

    Raises:
        BenchError: contenders do not return the same; nothing was timed.
    """
    problem = problem._replace(args=jax.device_put(problem.args))
    found = functions(problem, wanted)
    costs = {name: Cost(missing=one) for name, one in found.items() if isinstance(one, str)}
    made = {name: one for name, one in found.items() if isinstance(one, Own)}
    costs |= compiled(problem, made, plan)
    ready = {} if problem.traced else in_jax(problem, made, wanted)
    costs |= {name: Cost() for name in ready if name not in costs}
    results: dict[str, list[np.ndarray]] = {}
    for name, contender in ready.items():
        if problem.host:
            jax.clear_caches()
        first, results[name] = ran(contender)
        if problem.host:
            costs[name] = costs[name]._replace(compile=first)
    results.pop("control", None)
    for name, one in _torch.contenders(problem.torch, wanted, gpu).items():
        if isinstance(one, str):
            costs[name] = Cost(missing=one)
            continue
        try:
            first, results[name] = ran(one)
            costs[name] = Cost(compile=max(0.0, first - clock(one.call)))
            ready[name] = one
        except Exception as error:  # whatever a compiler may raise
            costs[name] = Cost(missing=_torch.reason(error))
    agree(results, problem)
    if "unjitted" in ready:
        call = ready.pop("unjitted").call
        costs["unjitted"] = Cost(times=Times(tuple(clock(call) for _ in range(3))))
    alone = {name: one.call for name, one in ready.items() if name not in _torch.NAMES}
    close = timed(alone, plan._replace(rounds=2 * plan.rounds))
    everyone = {name: one.call for name, one in ready.items()}
    times = timed(everyone, plan) if len(everyone) > len(alone) else close
    for name in ready:
        costs[name] = costs[name]._replace(times=times[name], close=close.get(name))
    return {name: costs[name] for name in [*CONTENDERS, *problem.peers] if name in costs}


def functions(problem: Problem, wanted: Collection[str]) -> dict[str, Own | str]:
    """The functions in JAX by contender, with their arguments, or why one is not there."""
    makes = {"funcgrad": lambda: problem.ours, "jax": lambda: problem.hand, **problem.peers}
    found: dict[str, Own | str] = {}
    for name, make in makes.items():
        if name in wanted or name not in CONTENDERS:
            try:
                made = make()
                one = made if isinstance(made, Own) else Own(made, problem.args)
                found[name] = one._replace(args=jax.block_until_ready(jax.device_put(one.args)))
            except ImportError:
                found[name] = "not installed"
    return found


def compiled(problem: Problem, made: Mapping[str, Own], plan: Plan) -> Costs:
    """What functions cost before they run."""
    if problem.host:
        return {}
    close = {n: one for n, one in made.items() if n in ("funcgrad", "jax") or n not in CONTENDERS}
    before = staged(close, plan.stages)
    if problem.traced:
        return before
    jax.clear_caches()
    programs: dict[str, tuple[float, Any]] = {}
    for name, one in made.items():
        lowered = jitted(problem, one).lower(*one.args)
        start = time.perf_counter()
        program = lowered.compile()
        programs[name] = time.perf_counter() - start, program
    texts = {name: normalized(program.as_text()) for name, (_, program) in programs.items()}
    return {
        name: before.get(name, Cost())._replace(
            compile=seconds,
            program=told(program, texts[name] == texts["jax"] if "jax" in texts else None),
        )
        for name, (seconds, program) in programs.items()
    }


def jitted(problem: Problem, one: Own) -> Any:
    """The function that is compiled and called."""
    return jax.jit(one.fun, donate_argnums=tuple(range(problem.carry)))


def in_jax(
    problem: Problem, made: Mapping[str, Own], wanted: Collection[str]
) -> dict[str, Contender]:
    """The contenders in JAX that are ready to run, and what they are measured against."""
    calls = {
        name: waited(one.fun if problem.host else jitted(problem, one), one.args, problem.carry)
        for name, one in made.items()
    }
    if "unjitted" in wanted and not problem.host:
        calls["unjitted"] = waited(problem.ours, problem.args)
    if "control" in wanted:
        control = problem.control or empty(problem.ours, problem.args)
        calls["control"] = waited(control, problem.args)
    return {name: Contender(call, problem.view) for name, call in calls.items()}


def timed(calls: Mapping[str, Callable[[], Any]], plan: Plan) -> dict[str, Times]:
    """The times of calls in turn, in as many rounds as there is time for."""
    if not calls:
        return {}
    once = sum(max(clock(call), plan.at_least) for call in calls.values())
    rounds = min(plan.rounds, max(min(5, plan.rounds), math.ceil(plan.budget / once)))
    return interleaved(calls, rounds, plan.at_least)


def staged(made: Mapping[str, Own], rounds: int) -> Costs:
    """The times of tracing and of lowering each function, in turn, each from empty caches."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    with uncollected():
        for turn in range(rounds):
            for name in in_turn(made, turn):
                seconds[name].append(stages(*made[name]))
    times = {name: map(Times, zip(*each, strict=True)) for name, each in seconds.items() if each}
    return {name: Cost(trace=next(each), lower=next(each)) for name, each in times.items()}


def stages(fun: Function, args: Sequence[Any]) -> tuple[float, float]:
    """The seconds of tracing and of lowering, from empty caches."""
    jax.clear_caches()
    made: list[Any] = [jax.jit(lambda *args: fun(*args))]  # new to every cache
    trace = clock(lambda: made.append(made[-1].trace(*args)))
    return trace, clock(lambda: made[-1].lower())


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


def waited(fun: Function, args: Sequence[Any], carry: int = 0) -> Callable[[], Any]:
    """The call that returns when the results are there; with `carry` it goes on from the first."""
    if not carry:
        return lambda: jax.block_until_ready(fun(*args))
    state, rest = jax.tree.map(jnp.copy, tuple(args[:carry])), args[carry:]

    def call() -> Any:
        nonlocal state
        results = jax.block_until_ready(fun(*state, *rest))
        state = results[:carry]
        return results

    return call


def ran(contender: Contender) -> tuple[float, list[np.ndarray]]:
    """The seconds of a call, and what it computes, leaf by leaf."""
    made: list[Any] = []
    seconds = clock(lambda: made.append(contender.call()))
    return seconds, [_torch.plain(leaf) for leaf in jax.tree.leaves(contender.view(made[0]))]


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
