"""Loops of `x = tanh(W @ x)`, of known and of unknown length, and of Python's own statements.

By hand a loop of unknown length is a `lax.scan` over all the room that masks the steps past the
last. A `lax.scan` that knows the number of trips while tracing, and can do less therefore, stands
beside it; in the closer looks it is what all others are measured against.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg

from .._case import Function, Problem, Torch, case


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


def ours(room: int, checkpoints: int | None = None) -> Function:
    """The loop by funcgrad."""
    return until(fg.while_loop, max_steps=room, checkpoints=checkpoints)


def theirs(room: int, kind: str = "checkpointed", **options: Any) -> Function:
    """The loop by Equinox's internal `while_loop`."""
    import equinox.internal as eqxi

    return until(eqxi.while_loop, kind=kind, max_steps=room, **options)


def operands(width: int, trips: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`x`, `W` and the number of trips.

    `W` is orthogonal: values and gradients fall like a power of the number of trips, and neither
    overflow nor become denormal, which would be timed instead of the loop.
    """
    random = np.random.default_rng(width)
    w = np.linalg.qr(random.standard_normal((width, width)))[0]
    x = random.standard_normal(width)
    return x.astype(np.float32), w.astype(np.float32), np.asarray(trips, np.int32)


def gradient(loop: Function) -> Function:
    """The gradient of the sum of the last `x` with respect to the first and to `W`."""
    return jax.grad(lambda x, w, n: jnp.sum(loop(x, w, n)), argnums=(0, 1))


def derivative(loop: Function) -> Function:
    """The last `x` and its derivative, where `x` and `W` move by their own hundredth."""

    def fun(x: Any, w: Any, n: Any) -> Any:
        return jax.jvp(lambda x, w: loop(x, w, n), (x, w), (0.01 * x, 0.01 * w))

    return fun


def torch_loop(args: Any, trips: int) -> Callable[[], Torch]:
    """Python's loop; compiled is its body, since the loop itself would be unrolled."""

    def make() -> Torch:
        import torch

        def body(x: Any, w: Any) -> Any:
            return torch.tanh(w @ x)

        def step_of(body: Function) -> Function:
            def step(x: Any, w: Any, n: Any) -> Any:
                x.grad = w.grad = None
                y = x
                for _ in range(trips):
                    y = body(y, w)
                y.sum().backward()
                return x.grad, w.grad

            return step

        return Torch(
            args, (0, 1), eager=step_of(body), backward=lambda compile: step_of(compile(body)),
            why="would unroll the loop",
        )  # fmt: skip

    return make


@case(
    "loops/while",
    "tanh(W @ x), 1000 trips, room for 1024",
    {"tiny": 1, "medium": 64, "large": 256},
)
def tanh_loop(width: int, trips: int = 1000, room: int = 1024) -> Problem:
    """A loop of unknown length, with room for a little more than its trips."""
    args = operands(width, trips)
    peers = {
        "equinox": lambda: gradient(theirs(room, checkpoints=room)),
        "known": lambda: gradient(scan(trips)),
    }
    torch = torch_loop(args, trips)
    hand = gradient(masked(room))
    return Problem(args, gradient(ours(room)), hand, torch, peers, tolerance=1e-3)


@case("loops/fixed", "tanh(W @ x), bounds known when tracing", {"tiny": 1, "large": 256})
def fixed_loop(width: int, trips: int = 100) -> Problem:
    """A `fori_loop` of known length."""
    args = operands(width, trips)

    def loop(x: Any, w: Any, n: Any) -> Any:
        del n
        return fg.fori_loop(0, trips, lambda _, x: jnp.tanh(w @ x), x)

    torch = torch_loop(args, trips)
    return Problem(args, gradient(loop), gradient(scan(trips)), torch, tolerance=1e-3)


@case(
    "loops/filled",
    "tanh(W @ x) of width 64, room for 16384, some of it filled",
    [10, 100, 1_000, 10_000],
    sweep="trips",
    extra=True,
)
def filled(trips: int) -> Problem:
    """By the number of trips of one and the same program."""
    return tanh_loop(64, trips, 16_384)


# Closer looks, by width and trips.

SIZES = [(1, 1000), (64, 1000), (256, 1000)]


def room_for(trips: int) -> int:
    """The next power of two."""
    return max(2, 1 << (trips - 1).bit_length())


def with_room(room: int, forward: bool) -> dict[str, Callable[[], Function]]:
    """Makers of loops with so much room, by name; Equinox's checkpoints have no forward mode."""
    few = math.isqrt(room - 1) + 1  # the square root, rounded up
    make = functools.partial
    made: dict[str, Callable[[], Function]] = {
        f"funcgrad, room {room}": make(ours, room),
        f"funcgrad, room {room}, {few} checkpoints": make(ours, room, few),
        f"funcgrad, room {room}, {room} checkpoints": make(ours, room, room),
        f"equinox, room {room}, bounded": make(theirs, room, "bounded"),
    }
    if not forward:
        made |= {
            f"equinox, room {room}, {room} checkpoints": make(theirs, room, checkpoints=room),
            f"equinox, room {room}, its own checkpoints": make(theirs, room),
        }
    return made


def by_room(differentiated: Callable[[Function], Function], size: tuple[int, int]) -> Problem:
    """Room for a little more than the trips, then for sixteen times as many."""
    width, trips = size
    rooms = [room_for(trips), 16 * room_for(trips)]
    (_, first), *others = [
        pair for room in rooms for pair in with_room(room, differentiated is derivative).items()
    ]
    peers = {name: lambda make=make: differentiated(make()) for name, make in others}
    mine, known = differentiated(first()), differentiated(scan(trips))
    return Problem(operands(width, trips), mine, known, peers=peers, tolerance=1e-3)


for _mode, _way in (("gradient", gradient), ("derivative", derivative)):
    case(
        f"loops/{_mode}-by-room",
        f"the {_mode} of tanh(W @ x) by room and checkpoints; by hand the trips are known",
        SIZES,
        closer=True,
    )(functools.partial(by_room, _way))


@case(
    "loops/equal-memory",
    "tanh(W @ x) by checkpoints, and Equinox in as much memory",
    SIZES,
    closer=True,
)
def equal_memory(size: tuple[int, int]) -> Problem:
    """Fewer and fewer checkpoints; Equinox's loop gets as many as take the memory of ours."""
    width, trips = size
    room, args = room_for(trips), operands(width, trips)
    peers: dict[str, Callable[[], Function]] = {}
    for count in (count for count in (256, 64, 16) if count < room):
        mine = ours(room, count)
        peers[f"funcgrad, {count} checkpoints"] = functools.partial(gradient, mine)
        peers[f"equinox in the memory of {count}"] = functools.partial(alike, mine, room, args)
    return Problem(args, gradient(ours(room)), gradient(scan(trips)), peers=peers, tolerance=1e-3)


def alike(loop: Function, room: int, args: Any) -> Function:
    """The gradient of Equinox's loop in the memory of another's; it is linear in checkpoints."""
    few, many = 4, 64
    low, high = (memory(theirs(room, checkpoints=count), args) for count in (few, many))
    slope = max(1, high - low) / (many - few)
    count = few + int((memory(loop, args) - low) / slope)
    return gradient(theirs(room, checkpoints=max(1, min(room, count))))


def memory(loop: Function, args: Any) -> int:
    """The temporary memory of a loop's gradient."""
    program: Any = jax.jit(gradient(loop)).lower(*args).compile()
    return program.memory_analysis().temp_size_in_bytes


# Python's own loop.


def doubling(x: Any) -> Any:
    """Doubles until it is long, then turns around if it points down: the loop of In [25]."""
    while jnp.linalg.norm(x) < 1000:
        x = x * 2
    return jnp.sum(x) if jnp.sum(x) > 0 else -jnp.sum(x)


@case("loops/autograph", "Python's while and if on values", {"tiny": 4, "large": 1_000_000})
def python_loop(n: int, room: int = 20) -> Problem:
    """The loop that `autograph` makes; by hand a scan over all the room."""

    def ours(x: Any) -> Any:
        return fg.grad(fg.autograph(doubling, max_steps=room))(x)

    def hand(x: Any) -> Any:
        def fun(x: Any) -> Any:
            def step(x: Any, _: Any) -> Any:
                return jnp.where(jnp.linalg.norm(x) < 1000, x * 2, x), None

            total = jnp.sum(lax.scan(step, x, length=room)[0])
            return jnp.where(total > 0, total, -total)

        return jax.grad(fun)(x)

    def torch() -> Torch:
        def loss(x: Any) -> Any:
            while x.norm() < 1000:
                x = x * 2
            total = x.sum()
            return (total if total > 0 else -total), ()

        def view(value: Any, others: Any, gradients: Any) -> Any:
            return gradients[0]

        return Torch((x,), (0,), loss, view=view)

    x = np.linspace(0.5, 1.5, n, dtype=np.float32) * np.float32(2 / n**0.5)
    return Problem((x,), ours, hand, torch)
