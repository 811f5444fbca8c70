"""Measures loops of unknown length side by side: `python -m funcgrad.bench.loops`.

The loop is `x = tanh(W @ x)`, so many trips of it, and what is measured is its gradient with
respect to `x` and `W` (and, as forward mode, its derivative in one direction), in float32:

- `lax.scan`, which is given the number of trips while tracing; everything is relative to it;
- `funcgrad.while_loop`, which learns the number at run time and has room for a little more steps
  (`max_steps`, the next power of two) or sixteen times as many, with and without `checkpoints=`;
- Equinox's internal `while_loop` with the same room, where Equinox is installed: its kind
  `checkpointed`, with as many checkpoints as it chooses or as there is room for, and `bounded`.

All results are compared before anything is timed. Then the contenders run in turn, and ratios are
medians of ratios taken in one round: quote these, since times differ between machines, and on one
machine between minutes. Temporary memory is what XLA says that the compiled program allocates.
Compile time is that of a new function from empty caches, the least of three.
"""

import argparse
import functools
import importlib.util
import inspect
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg

from .._files import write_whole
from ._timer import Times, clock, interleaved, table, uncollected

Function = Callable[..., Any]


class Contender(NamedTuple):
    """A way to run the loop.

    Fields:
        name: what the tables call it.
        loop: from `x`, `W` and the number of trips to the last `x`; `None` where what it needs is
            not installed.
        forward: whether it has forward mode.
    """

    name: str
    loop: Function | None
    forward: bool = True


class Cost(NamedTuple):
    """What one program costs.

    Fields:
        trace, lower, compile: seconds of these stages.
        bytes: temporary memory.
        times: of running it.
    """

    trace: float
    lower: float
    compile: float
    bytes: int
    times: Times


def scan(trips: int) -> Function:
    """The loop whose length is known while tracing."""

    def loop(x: Any, w: Any, n: Any) -> Any:
        del n
        return lax.scan(lambda x, _: (jnp.tanh(w @ x), None), x, length=trips)[0]

    return loop


def masked(room: int) -> Function:
    """The loop whose length is an operand, as one writes it by hand for reverse mode.

    It goes through all the room, and keeps what it has where it is done. With a `lax.cond` in place
    of the `where` it took 6 to 9 times as long (width 64, 1000 of 1024 trips and 16 of 64).
    """

    def loop(x: Any, w: Any, n: Any) -> Any:
        def step(x: Any, i: Any) -> Any:
            return jnp.where(i < n, jnp.tanh(w @ x), x), None

        return lax.scan(step, x, jnp.arange(room, dtype=jnp.int32))[0]

    return loop


def until(while_loop: Function, **options: Any) -> Function:
    """The loop whose length is an operand, made of a `while_loop`."""

    def loop(x: Any, w: Any, n: Any) -> Any:
        def body(carry: Any) -> Any:
            i, x = carry
            return i + 1, jnp.tanh(w @ x)

        start = jnp.zeros((), jnp.int32), x
        return while_loop(lambda carry: carry[0] < n, body, start, **options)[1]

    return loop


def contenders(trips: int, rooms: Iterable[int]) -> list[Contender]:
    """The loops to compare, the known length first."""
    return [Contender("lax.scan", scan(trips)), *(c for room in rooms for c in _with_room(room))]


def _with_room(room: int) -> list[Contender]:
    few = math.isqrt(room - 1) + 1  # its square root, rounded up
    return [
        Contender(f"funcgrad, room {room}", until(fg.while_loop, max_steps=room)),
        *([ours(room, few), ours(room, room)] if has_checkpoints() else []),
        Contender(f"equinox bounded, room {room}", _equinox("bounded", room)),
        theirs(room, room),
        theirs(room, None),
    ]


def has_checkpoints() -> bool:
    """Whether `funcgrad.while_loop` takes `checkpoints=`."""
    return "checkpoints" in inspect.signature(fg.while_loop).parameters


def ours(room: int, checkpoints: int) -> Contender:
    """Ours with checkpoints."""
    loop = until(fg.while_loop, max_steps=room, checkpoints=checkpoints)
    return Contender(f"funcgrad, room {room}, {checkpoints} checkpoints", loop)


def theirs(room: int, checkpoints: int | None) -> Contender:
    """Equinox's with so many checkpoints, or with as many as it chooses."""
    name = f"equinox, room {room}, {checkpoints or 'its own'} checkpoints"
    return Contender(name, _equinox("checkpointed", room, checkpoints=checkpoints), forward=False)


def _equinox(kind: str, room: int, **options: Any) -> Function | None:
    if importlib.util.find_spec("equinox") is None:
        return None
    import equinox.internal as eqxi

    return until(eqxi.while_loop, kind=kind, max_steps=room, **options)


def operands(width: int, trips: int) -> tuple[Any, Any, Any]:
    """`x`, `W` and the number of trips.

    `W` is orthogonal: values and gradients fall like a power of the number of trips, and neither
    overflow nor become denormal, which would be timed instead of the loop.
    """
    random = np.random.default_rng(width)
    w = np.linalg.qr(random.standard_normal((width, width)))[0]
    x = random.standard_normal(width)
    return jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32), jnp.asarray(trips, jnp.int32)


def gradient(loop: Function) -> Function:
    """The gradient of the sum of the last `x` with respect to the first and to `W`."""
    return jax.grad(lambda x, w, n: jnp.sum(loop(x, w, n)), argnums=(0, 1))


def derivative(loop: Function) -> Function:
    """The last `x` and its derivative, where `x` and `W` move by their own hundredth."""

    def fun(x: Any, w: Any, n: Any) -> Any:
        return jax.jvp(lambda x, w: loop(x, w, n), (x, w), (0.01 * x, 0.01 * w))

    return fun


def stages(fun: Function, args: Sequence[Any]) -> tuple[tuple[float, float, float], Any]:
    """The seconds of tracing, lowering and compiling, and the compiled program."""
    jax.clear_caches()
    made: list[Any] = [jax.jit(lambda *args: fun(*args))]  # new to every cache
    seconds = (
        clock(lambda: made.append(made[-1].trace(*args))),
        clock(lambda: made.append(made[-1].lower())),
        clock(lambda: made.append(made[-1].compile())),
    )
    return seconds, made[-1]


def measure(functions: dict[str, Function], args: Sequence[Any], rounds: int) -> dict[str, Cost]:
    """The costs of functions that return the same, the first of them the reference.

    Raises:
        ValueError: a function returns other numbers than the first.
    """
    stages(next(iter(functions.values())), args)  # the first to compile pays for the compiler
    least = dict.fromkeys(functions, (math.inf,) * 3)
    programs: dict[str, Any] = {}
    with uncollected():
        for name, fun in min(3, rounds) * [*functions.items()]:
            seconds, programs[name] = stages(fun, args)
            least[name] = tuple(map(min, seconds, least[name]))  # type: ignore[assignment]
    agree({name: program(*args) for name, program in programs.items()})
    calls = {
        name: functools.partial(lambda run: jax.block_until_ready(run(*args)), program)
        for name, program in programs.items()
    }
    times = interleaved(calls, rounds, at_least=0.005)
    return {
        name: Cost(*least[name], program.memory_analysis().temp_size_in_bytes, times[name])
        for name, program in programs.items()
    }


def agree(results: dict[str, Any], tolerance: float = 1e-3) -> None:
    """Checks that all results are the first one, relative to the greatest number in each array.

    >>> agree({"a": [np.ones(2)], "b": [np.ones(2) + 1e-5]})
    >>> agree({"a": [np.ones(2)], "b": [np.array([1.0, 1.1])]})
    Traceback (most recent call last):
    ValueError: `b` is off by 0.1 of what `a` returns; nothing was timed
    """
    first, *others = results
    for name in others:
        for got, want in zip(*map(jax.tree.leaves, (results[name], results[first])), strict=True):
            off: Any = np.max(np.abs(got - want)) / np.max(np.abs(want))
            if not off <= tolerance:  # NaN is not
                raise ValueError(
                    f"`{name}` is off by {off:.2g} of what `{first}` returns; nothing was timed"
                )


Costs = dict[str, dict[str, Cost | None]]


def side_by_side(width: int, trips: int, rooms: Sequence[int], rounds: int) -> Costs:
    """The costs of all contenders in reverse and forward mode, `None` where there are none."""
    everyone = contenders(trips, rooms)
    args = operands(width, trips)
    here = [(c.name, c.loop, c.forward) for c in everyone if c.loop]
    reverse = measure({name: gradient(loop) for name, loop, _ in here}, args, rounds)
    forward = measure({name: derivative(loop) for name, loop, has in here if has}, args, rounds)
    both = {"reverse": reverse, "forward": forward}
    return {c.name: {mode: costs.get(c.name) for mode, costs in both.items()} for c in everyone}


def by_checkpoints(
    width: int, trips: int, room: int, rounds: int, counts: Sequence[int] = (16, 64, 256)
) -> Costs:
    """The costs in reverse mode of ours by checkpoints, and of Equinox's in as much memory."""
    args = operands(width, trips)
    everyone = [Contender("lax.scan", scan(trips))]
    for count in (count for count in counts if has_checkpoints() and count < room):
        mine = ours(room, count)
        everyone += [mine, theirs(room, _affordable(memory(mine, args), room, args))]
    here = {c.name: gradient(c.loop) for c in everyone if c.loop}
    costs = measure(here, args, rounds)
    return {c.name: {"reverse": costs.get(c.name)} for c in everyone}


def memory(contender: Contender, args: Sequence[Any]) -> int:
    """The temporary memory of a contender's gradient."""
    assert contender.loop
    _, program = stages(gradient(contender.loop), args)
    return program.memory_analysis().temp_size_in_bytes


def _affordable(target: int, room: int, args: Sequence[Any]) -> int:
    """With how many checkpoints Equinox takes so much memory, which is linear in their number."""
    few, many = 4, 64
    if theirs(room, few).loop is None or room <= few:
        return room
    low, high = (memory(theirs(room, count), args) for count in (few, many))
    return max(1, min(room, few + (target - low) * (many - few) // max(1, high - low)))


def by_trips(width: int, counts: Sequence[int], room: int, rounds: int) -> dict[int, Times]:
    """The times of one program, ours, by the number of trips it takes."""
    fun = gradient(until(fg.while_loop, max_steps=room))
    _, program = stages(fun, operands(width, 0))
    calls = {
        str(n): functools.partial(lambda args: jax.block_until_ready(program(*args)), args)
        for n, args in ((n, operands(width, n)) for n in counts)
    }
    times = interleaved(calls, rounds, at_least=0.005)
    return {n: times[str(n)] for n in counts}


HEAD = (
    *("", "median, ms", "least, ms", "spread", "/ scan", "least / scan", "temp, KiB", "/ scan"),
    *("trace, s", "lower, s", "compile, s", "forward / scan", "temp, KiB"),
)


def rows(costs: Costs) -> list[tuple[str, ...]]:
    """A table of costs."""
    base = next(iter(costs.values()))
    return [HEAD, *((name, *_row(cost, base)) for name, cost in costs.items())]


def _row(cost: dict[str, Cost | None], base: dict[str, Cost | None]) -> Iterable[str]:
    mine, its = cost["reverse"], base["reverse"]
    if mine is None or its is None:
        yield from ("not installed", *[""] * (len(HEAD) - 2))
        return
    yield from (f"{mine.times.median * 1e3:.2f}", f"{mine.times.minimum * 1e3:.2f}")
    yield from (f"{mine.times.spread:.0%}", f"{mine.times.ratio(its.times):.2f}")
    yield f"{mine.times.minimum / its.times.minimum:.2f}"
    yield from (f"{mine.bytes / 1024:.1f}", f"{mine.bytes / max(its.bytes, 1):.2f}")
    yield from (f"{seconds:.3f}" for seconds in (mine.trace, mine.lower, mine.compile))
    mine, its = cost.get("forward"), base.get("forward")
    yield f"{mine.times.ratio(its.times):.2f}" if mine and its else "-"
    yield f"{mine.bytes / 1024:.1f}" if mine else "-"


def header() -> dict[str, str]:
    """What the numbers depend on."""
    versions = {"jax": jax.__version__, "jaxlib": importlib.import_module("jaxlib").__version__}
    if importlib.util.find_spec("equinox"):
        versions["equinox"] = importlib.import_module("equinox").__version__
    device = jax.devices()[0]
    able = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return {
        "python": platform.python_version(),
        **versions,
        "device": f"{device.platform} ({device.device_kind})",
        "machine": f"{platform.machine()}, {len(able)} threads",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def write(path: Path, report: Any) -> None:
    """Writes JSON, the whole of it or, where that fails, nothing."""
    write_whole(path, json.dumps(report, indent=1) + "\n")


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        "python -m funcgrad.bench.loops", description="Loops of unknown length, side by side."
    )
    positive = {"type": _positive, "metavar": "N"}
    parser.add_argument("--width", nargs="+", default=[1, 64, 256], **positive)  # type: ignore[arg-type]
    parser.add_argument("--steps", default=1000, help="trips of the loop (1000)", **positive)  # type: ignore[arg-type]
    parser.add_argument("--repeat", default=40, help="rounds of timing (40)", **positive)  # type: ignore[arg-type]
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--quick", action="store_true", help="one width, 100 steps, 5 rounds")
    given = parser.parse_args(arguments)
    if given.quick:
        given.width, given.steps, given.repeat = [64], 100, 5
    return given


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables, each as soon as it is measured."""
    given = options(arguments)
    jax.config.update("jax_enable_compilation_cache", False)
    trips, rounds = given.steps, given.repeat
    room = max(2, 1 << (trips - 1).bit_length())
    print("\n".join(f"{key}: {value}" for key, value in header().items() if value))
    report: dict[str, Any] = {"header": header(), **{part: {} for part in PARTS}}
    for width in given.width:
        print(f"\nwidth {width}, {trips} trips: gradient; on the right forward mode")
        costs = side_by_side(width, trips, [room, 16 * room], rounds)
        print(table(rows(costs)), flush=True)
        report["side by side"][width] = costs
    for width in given.width:
        print(f"\nwidth {width}, {trips} trips, room {room}: gradient by checkpoints, equal memory")
        costs = by_checkpoints(width, trips, room, rounds)
        print(table(rows(costs)), flush=True)
        report["checkpoints"][width] = costs
    counts = sorted({max(1, trips * 10**k // 100) for k in range(4)})
    for width in given.width:
        print(f"\nwidth {width}, funcgrad, room {16 * room}: gradient by trips")
        times = by_trips(width, counts, 16 * room, rounds)
        print(table(_by_trips(times)), flush=True)
        report["trips"][width] = times
    if given.json:
        write(given.json, plain(report))


PARTS = ("side by side", "checkpoints", "trips")


def _by_trips(times: dict[int, Times]) -> list[tuple[str, str, str]]:
    lines = (
        (str(n), f"{t.median * 1e3:.3f}", f"{t.minimum / n * 1e6:.2f}") for n, t in times.items()
    )
    return [("trips", "median, ms", "least, us a trip"), *lines]


def plain(tree: Any) -> Any:
    """A report with dictionaries in place of named tuples."""
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if hasattr(tree, "_asdict"):
        return plain(tree._asdict())
    return tree


if __name__ == "__main__":
    main()
