"""Every cell of the original notebook that computes gradients, with its own numbers.

A function here is what the cell does, and returns what the cell shows. Cells that only look at what
the one before has computed belong to it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg

from .._case import Build, Problem, Torch, case
from ._shared import with_zeros

X: np.ndarray = np.arange(4, dtype=np.float32)
SIZES = {"tiny": 4}


def cell(name: str, about: str) -> Callable[[Build], Build]:
    """Registers a cell; all have one size, the original's, at which calling it is all the cost."""
    return case(f"original/{name}", about, SIZES, dispatch=("tiny",))


@cell("in18-20", "h = (2y)², y = 2 x·x: values and gradients of y and z on the way")
def chain(_: int) -> Problem:
    """In [18] to [20], with `retain_grad`."""

    def nested(x: Any) -> Any:
        y = fg.retain_grad(2 * jnp.dot(x, x), "y")
        z = fg.retain_grad(2 * y, "z")
        return z**2

    def added(x: Any, zeros: Any) -> Any:
        y = 2 * jnp.dot(x, x)
        z = 2 * (y + zeros["y"])
        return (z + zeros["z"]) ** 2, {"y": y, "z": z}

    def torch() -> Torch:
        import torch

        def eager(x: Any, *_: Any) -> Any:
            x.grad = None
            y = 2 * torch.dot(x, x)
            y.retain_grad()
            z = 2 * y
            z.retain_grad()
            h = z**2
            h.backward()
            return h, x.grad, {"y": (y, y.grad), "z": (z, z.grad)}

        def loss(x: Any, for_y: Any, for_z: Any) -> Any:
            y = 2 * torch.dot(x, x)
            z = 2 * (y + for_y)
            return (z + for_z) ** 2, (y, z)

        def view(h: Any, values: Any, gradients: Any) -> Any:
            return h, gradients[0], *zip(values, gradients[1:], strict=True)

        zero: np.ndarray = np.zeros((), np.float32)
        return Torch((X, zero, zero), (0, 1, 2), loss, eager, view)

    hand = with_zeros(added, lambda _: {"y": jnp.zeros(()), "z": jnp.zeros(())})
    return Problem((X,), fg.value_and_grad(nested, retain=("y", "z")), hand, torch)


@cell("in21", "a gradient added to a zeroed one")
def accumulated(_: int) -> Problem:
    """In [21], with `zero_grad` and `accumulate_grad`."""

    def torch() -> Torch:
        import torch

        def eager(x: Any) -> Any:
            if x.grad is None:
                x.grad = torch.zeros_like(x)
            x.grad.zero_()
            x.sum().backward()
            return x.grad

        def view(value: Any, others: Any, gradients: Any) -> Any:
            return gradients

        return Torch((X,), loss=lambda x: (x.sum(), ()), eager=eager, view=view)

    def ours(x: Any) -> Any:
        return fg.accumulate_grad(fg.zero_grad(x), fg.grad(jnp.sum)(x))

    return Problem((X,), ours, lambda x: jnp.zeros_like(x) + jax.grad(jnp.sum)(x), torch)


@cell("in22", "the gradient of x³ with a vector for the output, and x²")
def cube(_: int) -> Problem:
    """In [22], with `gradient=`."""

    def fun(x: Any) -> Any:
        square = x * x
        return square * x, square

    def hand(x: Any) -> Any:
        _, pullback, square = jax.vjp(fun, x, has_aux=True)
        return pullback(jnp.ones(4))[0], square

    def torch() -> Torch:
        import torch

        def eager(x: Any) -> Any:
            x.grad = None
            y = x * x * x
            y.backward(torch.ones(len(x), device=x.device))
            return x.grad, x * x

        def loss(x: Any) -> Any:
            square = x * x
            return (square * x).sum(), square

        return Torch((X,), (0,), loss, eager, lambda y, square, gradients: (*gradients, square))

    ours = lambda x: fg.grad(fun, has_aux=True, gradient=jnp.ones(4))(x)  # noqa: E731
    return Problem((X,), ours, hand, torch)


@cell("in23", "u = x² detached, the gradient of u x, compared with u")
def detached(_: int) -> Problem:
    """In [23], with `detach`."""

    def compared(gradient: Any, stop: Any) -> Any:
        def fun(x: Any) -> Any:
            u = stop(x * x)
            return jnp.sum(u * x), u

        def cell(x: Any) -> Any:
            x_grad, u = gradient(fun, has_aux=True)(x)
            return x_grad, x_grad == u

        return cell

    def torch() -> Torch:
        def loss(x: Any) -> Any:
            u = (x * x).detach()
            return (u * x).sum(), u

        def eager(x: Any) -> Any:
            x.grad = None
            u = (x * x).detach()
            (u * x).sum().backward()
            return x.grad, x.grad == u

        def view(value: Any, u: Any, gradients: Any) -> Any:
            return gradients[0], gradients[0] == u

        return Torch((X,), (0,), loss, eager, view)

    return Problem((X,), compared(fg.grad, fg.detach), compared(jax.grad, lax.stop_gradient), torch)


@cell("in24", "the gradient of x², compared with 2x")
def square(_: int) -> Problem:
    """In [24]."""

    def compared(gradient: Any) -> Any:
        def cell(x: Any) -> Any:
            x_grad = gradient(lambda x: jnp.sum(x * x))(x)
            return x_grad, x_grad == 2 * x

        return cell

    def torch() -> Torch:
        def eager(x: Any) -> Any:
            x.grad = None
            (x * x).sum().backward()
            return x.grad, x.grad == 2 * x

        def loss(x: Any) -> Any:
            return (x * x).sum(), 2 * x

        def view(value: Any, double: Any, gradients: Any) -> Any:
            return gradients[0], gradients[0] == double

        return Torch((X,), (0,), loss, eager, view)

    return Problem((X,), compared(fg.grad), compared(jax.grad), torch)


def past_thousand(a: Any) -> Any:
    """The function of In [25] as it stands there, for a scalar."""
    b = a * 2
    while jnp.abs(b) < 1000:
        b = b * 2
    return b if b > 0 else 100 * b


@cell("in25", "a loop and a branch that depend on the data")
def control_flow(_: int) -> Problem:
    """In [25], with `autograph`; by hand a scan of as many steps as there is room for."""
    steps = 20

    def ours(a: Any) -> Any:
        return fg.value_and_grad(fg.autograph(past_thousand, max_steps=steps))(a)

    def branch(b: Any) -> Any:
        return jnp.where(b > 0, b, 100 * b)

    def masked(a: Any) -> Any:
        step = lambda b, _: (jnp.where(jnp.abs(b) < 1000, b * 2, b), None)  # noqa: E731
        return branch(lax.scan(step, a * 2, length=steps)[0])

    def forward(a: Any) -> Any:
        fun = lambda a: branch(  # noqa: E731
            lax.while_loop(lambda b: jnp.abs(b) < 1000, lambda b: b * 2, a * 2)
        )
        return jax.jvp(fun, (a,), (jnp.ones_like(a),))

    def equinox() -> Any:
        import equinox.internal as eqxi

        def fun(a: Any) -> Any:
            loop = eqxi.while_loop(
                lambda b: jnp.abs(b) < 1000, lambda b: b * 2, a * 2,
                max_steps=steps, kind="checkpointed",
            )  # fmt: skip
            return branch(loop)

        return jax.value_and_grad(fun)

    def torch() -> Torch:
        def loss(a: Any) -> Any:
            b = a * 2
            while b.norm() < 1000:
                b = b * 2
            return (b if b.sum() > 0 else 100 * b), ()

        return Torch((a,), (0,), loss)

    a = np.float32(1.4223)
    peers = {"equinox": equinox, "forward": lambda: forward}
    return Problem((a,), ours, jax.value_and_grad(masked), torch, peers)


@cell("in26-27", "x² + x³, the cube without a gradient, compared with 2x")
def without_gradient(_: int) -> Problem:
    """In [26] and [27], with `no_grad`."""

    def compared(gradient: Any, cube: Any) -> Any:
        def cell(x: Any) -> Any:
            value, x_grad = gradient(lambda x: x**2 + cube(x))(x)
            return value, x_grad, x_grad == 2 * x

        return cell

    def torch() -> Torch:
        import torch

        def eager(x: Any) -> Any:
            x.grad = None
            y1 = x**2
            with torch.no_grad():
                y2 = x**3
            y3 = y1 + y2
            y3.backward()
            return y3, x.grad, x.grad == 2 * x

        def loss(x: Any) -> Any:
            return x**2 + (x**3).detach(), 2 * x

        def view(value: Any, double: Any, gradients: Any) -> Any:
            return value, gradients[0], gradients[0] == double

        return Torch((np.float32(1),), (0,), loss, eager, view)

    ours = compared(fg.value_and_grad, fg.no_grad(lambda x: x**3))
    hand = compared(jax.value_and_grad, lambda x: lax.stop_gradient(x**3))
    return Problem((np.float32(1),), ours, hand, torch)


@cell("in28", "new data in x after y = 2x")
def new_data(_: int) -> Problem:
    """In [28], with `set_data`; PyTorch then gets new ones, so that all calls are alike."""

    def ours(x: Any) -> Any:
        def fun(x: Any) -> Any:
            y = 2 * x
            return jnp.sum(y), fg.set_data(x, 100 * x)

        return fg.grad(fun, has_aux=True)(x)

    def hand(x: Any) -> Any:
        return jax.grad(lambda x: (jnp.sum(2 * x), 100 * x), has_aux=True)(x)

    def torch() -> Torch:
        import torch

        def eager(x: Any) -> Any:
            x.grad = None
            y = 2 * x
            x.data *= 100
            y.backward()
            after = x.data
            x.data = torch.ones(1, device=x.device)
            return x.grad, after

        def loss(x: Any) -> Any:
            return (2 * x).sum(), 100 * x.detach()

        return Torch((X[1:2],), (0,), loss, eager, lambda y, after, gradients: (*gradients, after))

    return Problem((X[1:2],), ours, hand, torch)
