"""Loops whose length is known at run time only: the gradient of `x = tanh(W @ x)`, 1000 times.

By hand it is a `lax.scan` over all the room that masks the steps past the last. A `lax.scan` that
knows the number of trips while tracing, and can do less therefore, stands beside it.
`python -m funcgrad.bench.loops` looks at the same loops more closely: room, checkpoints, forward
mode.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg

from .. import loops
from .._case import Function, Problem, Torch, case


def numpy(args: Any) -> Any:
    """Arrays of NumPy."""
    return jax.tree.map(np.asarray, args)


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
    """The loop of `funcgrad.bench.loops`, with room for a little more than its trips."""
    args = numpy(loops.operands(width, trips))

    def equinox() -> Function:
        loop = loops.theirs(room, room).loop
        if loop is None:
            raise ModuleNotFoundError(name="equinox")
        return loops.gradient(loop)

    ours = loops.gradient(loops.until(fg.while_loop, max_steps=room))
    return Problem(
        args,
        ours,
        loops.gradient(loops.masked(room)),
        torch_loop(args, trips),
        {"equinox": equinox, "known": lambda: loops.gradient(loops.scan(trips))},
        tolerance=1e-3,
    )


@case("loops/fixed", "tanh(W @ x), bounds known when tracing", {"tiny": 1, "large": 256})
def fixed_loop(width: int, trips: int = 100) -> Problem:
    """A `fori_loop` of known length."""
    args = numpy(loops.operands(width, trips))

    def loop(x: Any, w: Any, n: Any) -> Any:
        del n
        return fg.fori_loop(0, trips, lambda _, x: jnp.tanh(w @ x), x)

    hand = loops.gradient(loops.scan(trips))
    return Problem(args, loops.gradient(loop), hand, torch_loop(args, trips), tolerance=1e-3)


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
