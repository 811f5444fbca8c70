"""How cost grows: with numbers, width, depth, tags and trips. One line of a plot for each."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg

from .._case import Function, Problem, Torch, case
from ._shared import with_zeros
from .loops import tanh_loop
from .models import Size, by_hand, in_torch, mlp
from .models import ours as with_idioms

WHY = "is left out of sweeps"


@case(
    "sweeps/n",
    "the gradient of sin(x)³, with a vector for the output",
    [1, 100, 10_000, 1_000_000],
    sweep="numbers",
    dispatch=("1",),
)
def numbers(n: int) -> Problem:
    """`gradient=`, element by element."""

    def fun(x: Any) -> Any:
        return jnp.sin(x) ** 3

    def hand(x: Any) -> Any:
        y, pullback = jax.vjp(fun, x)
        return y, pullback(jnp.ones_like(y))[0]

    def torch() -> Torch:
        import torch

        def eager(x: Any) -> Any:
            x.grad = None
            y = torch.sin(x) ** 3
            y.backward(torch.ones_like(y))
            return y, x.grad

        return Torch((x,), eager=eager, why=WHY)

    x = np.linspace(0.1, 1, n, dtype=np.float32)
    ours = lambda x: fg.value_and_grad(fun, gradient=jnp.ones(n))(x)  # noqa: E731
    return Problem((x,), ours, hand, torch)


def _retained(size: Size, depth: int = 3) -> Problem:
    model = mlp(size, depth)

    def torch() -> Torch:
        made = in_torch(model, {"retain"}, images=False, rows=False)
        return made._replace(loss=None, why=WHY)

    args = model.params, model.batch
    return Problem(args, with_idioms(model, {"retain"}), by_hand(model, {"retain"}), torch)


@case(
    "sweeps/width",
    "a perceptron of 3 layers, 64 rows, one intermediate retained",
    [8, 32, 128, 512],
    sweep="width",
)
def width(n: int) -> Problem:
    """By the width of its layers."""
    return _retained(Size(64, n))


@case(
    "sweeps/depth",
    "a perceptron of width 64, 16 rows, one intermediate retained",
    [2, 8, 32],
    sweep="layers",
)
def depth(n: int) -> Problem:
    """By the number of its layers."""
    return _retained(Size(16, 64), n)


def by_zeros(chain: Function, names: Sequence[str]) -> Function:
    """The value, the gradient and what is retained of `chain(x, tap)`, by zeros that are added."""

    def loss(x: Any, zeros: Any) -> Any:
        made = {}

        def tap(value: Any, name: str) -> Any:
            made[name] = value
            return value + zeros[name]

        return chain(x, tap), made

    return with_zeros(loss, lambda x: {name: jnp.zeros_like(x) for name in names})


def retained(fun: Function) -> Function:
    """The same with funcgrad, of a function that tags."""
    return fg.value_and_grad(fun, retain=...)


@case("sweeps/tags", "sin(x) x, 64 times, some of them retained", [1, 4, 16, 64], sweep="tags")
def tags(n: int, steps: int = 64) -> Problem:
    """By the number of values retained in a chain of `steps` steps."""
    every = steps // n
    names = [f"y{step:02}" for step in range(0, steps, every)]

    def chain(x: Any, tap: Any, sin: Any = jnp.sin) -> Any:
        for step in range(steps):
            x = sin(x) * x
            if step % every == 0:
                x = tap(x, f"y{step:02}")
        return x.sum()

    def torch() -> Torch:
        import torch

        def eager(x: Any) -> Any:
            x.grad = None
            made = {}

            def tap(value: Any, name: str) -> Any:
                value.retain_grad()
                made[name] = value
                return value

            value = chain(x, tap, torch.sin)
            value.backward()
            return value, x.grad, {name: (y, y.grad) for name, y in made.items()}

        return Torch((x,), eager=eager, why=WHY)

    x = np.linspace(0.5, 1.5, 64, dtype=np.float32)
    ours = retained(lambda x: chain(x, fg.retain_grad))
    return Problem((x,), ours, by_zeros(chain, names), torch, tolerance=1e-3)


@case(
    "sweeps/trips",
    "tanh(W @ x) of width 64, room for four times the trips",
    [16, 64, 256, 1024],
    sweep="trips",
)
def trips(n: int) -> Problem:
    """By the number of trips of a loop."""
    problem = tanh_loop(64, n, 4 * n)
    make = problem.torch
    assert make
    peers = {"known": problem.peers["known"]}
    return problem._replace(torch=lambda: make()._replace(backward=None, why=WHY), peers=peers)


# Closer looks at tracing: beside zeros added by hand, the gradient alone, which retains nothing.


def _traced(x: np.ndarray, ours: Function, hand: Function, plain: Function) -> Problem:
    peers = {"nothing retained": lambda: jax.value_and_grad(plain)}
    view = lambda results: results[:2]  # noqa: E731
    return Problem((x,), retained(ours), hand, peers=peers, traced=True, view=view)


@case(
    "tracing/line",
    "so many equations in a row, so many values of them retained",
    [(50, 1), (50, 12), (250, 62), (1_250, 1), (1_250, 50), (1_250, 312), (10_000, 50)],
    closer=True,
)
def line(size: tuple[int, int]) -> Problem:
    """By the number of equations and of tags."""
    equations, tags = size
    steps = equations // 2
    every = max(1, steps // tags)

    def chain(x: Any, tap: Any) -> Any:
        for step in range(steps):
            x = jnp.sin(x) * 1.01
            if step % every == 0:
                x = tap(x, f"t{step}")
        return x.sum()

    fun = lambda x: chain(x, fg.retain_grad)  # noqa: E731
    hand = by_zeros(chain, [f"t{step}" for step in range(0, steps, every)])
    return _traced(np.ones(8, np.float32), fun, hand, fun)


@case("tracing/nest", "a value retained under so many nested jits", [1, 4, 16, 64], closer=True)
def nest(depth: int, equations: int = 20) -> Problem:
    """By the depth; each of the jitted functions has so many equations."""

    def nested(innermost: Function) -> Function:
        fun = innermost
        for _ in range(depth):
            fun = functools.partial(outer, jax.jit(fun))
        return fun

    def outer(inner: Function, x: Any, *zeros: Any) -> Any:
        for _ in range(equations // 2):
            x = jnp.sin(x) * 1.01
        return inner(x, *zeros)

    def tagged(x: Any) -> Any:
        return nested(lambda x: fg.retain_grad(2 * x, "t"))(x).sum()

    def zeroed(x: Any, zeros: Any) -> Any:
        y, made = nested(lambda x, zero: (2 * x + zero, 2 * x))(x, zeros["t"])
        return y.sum(), {"t": made}

    hand = with_zeros(zeroed, lambda x: {"t": jnp.zeros_like(x)})
    return _traced(np.ones(8, np.float32), tagged, hand, tagged)
