"""The gradient of a batch in sixteen parts.

`python -m funcgrad.bench.accumulation` takes the whole training step and counts what devices
exchange; here the gradient alone is computed, at several sizes.
"""

import functools
from typing import Any

import jax
import numpy as np

import funcgrad as fg

from .. import accumulation
from .._case import Function, Problem, Torch, case
from .models import normal

PARTS = accumulation.MICROBATCHES


@case(
    "accumulation/microbatch",
    "a perceptron of 3 layers, the batch in 16 parts",
    {"tiny": (1, 8), "medium": (8, 128), "large": (32, 512)},
)
def microbatches(size: tuple[int, int]) -> Problem:
    """`microbatch`; by hand a sum in the carry of a scan, in PyTorch a loop over chunks."""
    rows, width = size
    weights = [normal(n, width, width) for n in range(3)]
    batch = normal(3, PARTS * rows, width), normal(4, PARTS * rows, width)

    def optax() -> Function:
        from optax import microbatching

        mean = microbatching.AccumulationType.MEAN
        return microbatching.microbatch(jax.value_and_grad(accumulation.loss), 1, rows, mean)

    def torch() -> Torch:
        import torch

        def loss(weights: Any, x: Any, y: Any) -> Any:
            for weight in weights[:-1]:
                x = torch.tanh(x @ weight)
            return ((x @ weights[-1] - y) ** 2).mean() / PARTS

        def step_of(loss: Function) -> Function:
            def step(weights: Any, batch: Any) -> Any:
                for weight in weights:
                    weight.grad = None
                total = torch.zeros((), device=batch[0].device)
                for x, y in zip(*(b.chunk(PARTS) for b in batch), strict=True):
                    part = loss(weights, x, y)
                    part.backward()
                    total += part.detach()
                return total, [weight.grad for weight in weights]

            return step

        return Torch(
            (weights, batch), (0,), eager=step_of(loss),
            backward=lambda compile: step_of(compile(loss)), why="adds to .grad",
        )  # fmt: skip

    return Problem(
        (weights, batch),
        fg.microbatch(fg.value_and_grad(accumulation.loss), PARTS),
        functools.partial(accumulation.scan_by_hand, accumulation.in_a_row),
        torch,
        {"optax": optax},
    )


@case(
    "accumulation/add",
    "a gradient added to an accumulator",
    {"tiny": 4, "large": 1_000_000},
    dispatch=("tiny",),
)
def add(n: int) -> Problem:
    """`accumulate_grad`, outside any loop."""
    acc: np.ndarray = np.ones(n, np.float32)
    x: np.ndarray = np.linspace(0, 1, n, dtype=np.float32)

    def torch() -> Torch:
        def eager(acc: Any, x: Any) -> Any:
            x.grad = acc.clone()
            (x * x).sum().backward()
            return x.grad

        def loss(acc: Any, x: Any) -> Any:
            return (x * x).sum(), acc

        def view(value: Any, acc: Any, gradients: Any) -> Any:
            return acc + gradients[0]

        return Torch((acc, x), (1,), loss, eager, view)

    square = lambda x: (x * x).sum()  # noqa: E731
    ours = lambda acc, x: fg.accumulate_grad(acc, fg.grad(square)(x))  # noqa: E731
    return Problem((acc, x), ours, lambda acc, x: acc + jax.grad(square)(x), torch)
