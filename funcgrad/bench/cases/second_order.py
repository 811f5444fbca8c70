"""Derivatives of derivatives: a Hessian times a vector, and a gradient penalty."""

from typing import Any

import jax
import jax.numpy as jnp

import funcgrad as fg

from .._case import Problem, Torch, case
from ._shared import normal

SIZES = {"tiny": (4, 8), "medium": (32, 128), "large": (128, 512)}
TWICE = "does not differentiate a compiled function twice"


def energy(weights: Any, x: Any) -> Any:
    """A perceptron with one output for each row; both libraries have `@` and `tanh`."""
    tanh = jnp.tanh if isinstance(x, jax.Array) else x.__class__.tanh
    for weight in weights[:-1]:
        x = tanh(x @ weight)
    return x @ weights[-1]


def net(width: int) -> list[Any]:
    """Its weights."""
    return [normal(0, width, width), normal(1, width, width), normal(2, width, 1)]


@case("second-order/hvp", "a Hessian times a vector, of a perceptron's weights", SIZES)
def hessian_vector(size: tuple[int, int]) -> Problem:
    """Forward over reverse; eager PyTorch has reverse over reverse, as people write it."""
    rows, width = size
    weights, x = net(width), normal(3, rows, width)
    vector = [normal(4 + n, *w.shape) for n, w in enumerate(weights)]

    def product(gradient: Any) -> Any:
        def fun(weights: Any, vector: Any, x: Any) -> Any:
            loss = lambda weights: (energy(weights, x) ** 2).mean()  # noqa: E731
            return jax.jvp(gradient(loss), (weights,), (vector,))[1]

        return fun

    def torch() -> Torch:
        import torch

        def eager(weights: Any, vector: Any, x: Any) -> Any:
            loss = (energy(weights, x) ** 2).mean()
            grads = torch.autograd.grad(loss, weights, create_graph=True)
            return torch.autograd.grad(grads, weights, vector)

        def func(weights: Any, vector: Any, x: Any) -> Any:
            gradient = torch.func.grad(lambda weights: (energy(weights, x) ** 2).mean())
            return torch.func.jvp(gradient, (weights,), (vector,))[1]

        return Torch((weights, vector, x), (0,), eager=eager, func=func, why=TWICE)

    args = (weights, vector, x)
    return Problem(args, product(fg.grad), product(jax.grad), torch, tolerance=1e-3)


@case("second-order/penalty", "the gradient of a gradient penalty", SIZES)
def penalty(size: tuple[int, int]) -> Problem:
    """A critic's loss with a penalty on the norm of its gradient at each row."""
    rows, width = size
    weights, x = net(width), normal(3, rows, width)

    def step(gradient: Any, value_and_gradient: Any) -> Any:
        def loss(weights: Any, x: Any) -> Any:
            slope = gradient(lambda x: energy(weights, x).sum())(x)
            length = jnp.sqrt((slope**2).sum(1))
            return energy(weights, x).mean() + 10 * ((length - 1) ** 2).mean()

        return value_and_gradient(loss)

    def torch() -> Torch:
        import torch

        def total(weights: Any, x: Any, slope: Any) -> Any:
            length = (slope**2).sum(1).sqrt()
            return energy(weights, x).mean() + 10 * ((length - 1) ** 2).mean()

        def eager(weights: Any, x: Any) -> Any:
            for weight in weights:
                weight.grad = None
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(weights, x).sum(), x, create_graph=True)
            value = total(weights, x, slope)
            value.backward()
            return value, [weight.grad for weight in weights]

        def func(weights: Any, x: Any) -> Any:
            def loss(weights: Any) -> Any:
                slope = torch.func.grad(lambda x: energy(weights, x).sum())(x)
                return total(weights, x, slope)

            grads, value = torch.func.grad_and_value(loss)(weights)
            return value, grads

        return Torch((weights, x), (0,), eager=eager, func=func, why=TWICE)

    ours, hand = step(fg.grad, fg.value_and_grad), step(jax.grad, jax.value_and_grad)
    return Problem((weights, x), ours, hand, torch, tolerance=1e-3)
