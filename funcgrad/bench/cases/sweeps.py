"""How cost grows: with numbers, width, depth, tags and trips. One line of a plot for each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg

from .._case import Problem, Torch, case
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


@case("sweeps/tags", "sin(x) x, 64 times, some of them retained", [1, 4, 16, 64], sweep="tags")
def tags(n: int, steps: int = 64) -> Problem:
    """By the number of values retained in a chain of `steps` steps."""
    every = steps // n
    names = [f"y{step:02}" for step in range(0, steps, every)]

    def chain(x: Any, sin: Any, tap: Any) -> Any:
        for step in range(steps):
            x = sin(x) * x
            if step % every == 0:
                x = tap(x, f"y{step:02}")
        return x.sum()

    def hand(x: Any) -> Any:
        def fun(x: Any, zeros: Any) -> Any:
            made = {}

            def tap(value: Any, name: str) -> Any:
                made[name] = value
                return value + zeros[name]

            return chain(x, jnp.sin, tap), made

        zeros = {name: jnp.zeros_like(x) for name in names}
        (value, made), (dx, kept) = jax.value_and_grad(fun, (0, 1), has_aux=True)(x, zeros)
        return value, dx, {name: (made[name], kept[name]) for name in names}

    def torch() -> Torch:
        import torch

        def eager(x: Any) -> Any:
            x.grad = None
            made = {}

            def tap(value: Any, name: str) -> Any:
                value.retain_grad()
                made[name] = value
                return value

            value = chain(x, torch.sin, tap)
            value.backward()
            return value, x.grad, {name: (y, y.grad) for name, y in made.items()}

        return Torch((x,), eager=eager, why=WHY)

    x = np.linspace(0.5, 1.5, 64, dtype=np.float32)
    ours = fg.value_and_grad(lambda x: chain(x, jnp.sin, fg.retain_grad), retain=...)
    return Problem((x,), ours, hand, torch, tolerance=1e-3)


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
