"""The gradient of a batch in sixteen parts, alone and in a training step."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg

from .._case import Function, Own, Problem, Torch, case
from ._shared import normal

PARTS = 16
RATE, DECAYS, EPSILON = 1e-3, (0.9, 0.999), 1e-8


def loss(weights: Any, batch: Any) -> Any:
    """The mean square error of a perceptron, in jax.numpy."""
    x, y = batch
    for weight in weights[:-1]:
        x = jnp.tanh(x @ weight)
    return jnp.mean((x @ weights[-1] - y) ** 2)


def data(rows: int, width: int) -> tuple[list[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The parameters, and a batch with so many rows in each part."""
    weights = [normal(n, width, width) for n in range(3)]
    return weights, (normal(3, PARTS * rows, width), normal(4, PARTS * rows, width))


def in_a_row(x: Any) -> Any:
    """Rows in parts of consecutive ones, with an axis of parts in front."""
    return x.reshape(PARTS, -1, *x.shape[1:])


def dealt_out(x: Any) -> Any:
    """Rows in parts of every so many, which leaves those that devices share in place."""
    return x.reshape(-1, PARTS, *x.shape[1:]).swapaxes(0, 1)


def by_hand(weights: Any, batch: Any, split: Function = in_a_row) -> tuple[Any, Any]:
    """What one writes without a library: a sum in the carry of a scan, divided at the end."""

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(weights, part)), None

    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, weights)
    total, _ = lax.scan(add, zeros, jax.tree.map(split, batch))
    return jax.tree.map(lambda r: r / PARTS, total)


def by_shares(weights: Any, batch: Any) -> tuple[Any, Any]:
    """The same with the gradient of a part of the loss, as `(loss / n).backward()` has it."""

    def add(total: Any, part: Any) -> tuple[Any, None]:
        value, pullback = jax.vjp(lambda weights: loss(weights, part), weights)
        (gradients,) = pullback(jnp.ones_like(value) / PARTS)
        return jax.tree.map(jnp.add, total, (value, gradients)), None

    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, weights)
    (value, gradients), _ = lax.scan(add, zeros, jax.tree.map(in_a_row, batch))
    return value / PARTS, gradients


def accumulated(weights: Any, batch: Any, split: Function = in_a_row) -> tuple[Any, Any]:
    """The loop in PyTorch's shape: `zero_grad`, then `accumulate_grad` for every part."""

    def add(acc: Any, part: Any) -> tuple[Any, None]:
        return fg.accumulate_grad(acc, fg.value_and_grad(loss)(weights, part)), None

    acc, _ = lax.scan(add, fg.zero_grad((jnp.zeros(()), weights)), jax.tree.map(split, batch))
    return jax.tree.map(lambda r: r / PARTS, acc)


def by_optax(rows: int) -> Function:
    """Optax's microbatching."""
    from optax import microbatching as optax

    return optax.microbatch(jax.value_and_grad(loss), 1, rows, optax.AccumulationType.MEAN)


def in_torch(args: Any, finishing: Callable[[], Function]) -> Torch:
    """PyTorch's loop over chunks, then what `finishing()` makes of the weights and the loss."""
    import torch

    def torch_loss(weights: Any, x: Any, y: Any) -> Any:
        for weight in weights[:-1]:
            x = torch.tanh(x @ weight)
        return ((x @ weights[-1] - y) ** 2).mean() / PARTS

    def step_of(loss: Function) -> Function:
        finish = finishing()

        def step(weights: Any, *rest: Any) -> Any:
            for weight in weights:
                weight.grad = None
            total = torch.zeros((), device=weights[0].device)
            for x, y in zip(*(b.chunk(PARTS) for b in rest[-1]), strict=True):
                part = loss(weights, x, y)
                part.backward()
                total += part.detach()
            return finish(weights, total)

        return step

    return Torch(
        args, (0,), eager=step_of(torch_loss),
        backward=lambda compile: step_of(compile(torch_loss)), why="adds to .grad",
    )  # fmt: skip


@case(
    "accumulation/microbatch",
    "a perceptron of 3 layers, the batch in 16 parts",
    {"tiny": (1, 8), "medium": (8, 128), "large": (32, 512)},
)
def microbatches(size: tuple[int, int]) -> Problem:
    """`microbatch`; by hand a sum in the carry of a scan, in PyTorch a loop over chunks."""
    args = data(*size)
    return Problem(
        args,
        fg.microbatch(fg.value_and_grad(loss), PARTS),
        by_shares,
        lambda: in_torch(args, lambda: lambda ws, total: (total, [w.grad for w in ws])),
        {"optax": lambda: by_optax(size[0])},
    )


# A closer look: a training step, which is a gradient, then Adam. `step(weights, state, batch)`
# returns new weights, a new state, and the loss.


def adam() -> Any:
    """Optax's Adam."""
    import optax

    return optax.adam(RATE, *DECAYS, EPSILON)


def by_gradient(gradient: Function, optimizer: Any) -> Function:
    """The step that applies an optimizer to what `gradient` returns: the loss and the gradients."""

    def step(weights: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        value, gradients = gradient(weights, batch)
        updates, state = optimizer.update(gradients, state, weights)
        return jax.tree.map(jnp.add, weights, updates), state, value

    return step


def by_parts(split: Function, optimizer: Any) -> Function:
    """The step that calls an optimizer for every part."""
    part = by_gradient(jax.value_and_grad(loss), optimizer)

    def step(weights: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        def one(carry: Any, rows: Any) -> tuple[Any, Any]:
            weights, state, value = part(*carry, rows)
            return (weights, state), value

        (weights, state), values = lax.scan(one, (weights, state), jax.tree.map(split, batch))
        return weights, state, jnp.mean(values)

    return step


def steps(
    size: tuple[int, int], split: Function = in_a_row, devices: int = 1, **mesh: Any
) -> dict[str, Callable[[], Own]]:
    """Makers of all ways to take the step, with their arguments, by name.

    Args:
        size: rows of a part, and the width.
        split: how the parts of the batch are taken by those who split it themselves.
        devices: over how many of them optax counts the rows of a part.
        mesh: what `microbatch` is told of the mesh.
    """
    weights, batch = data(*size)
    whole = jax.value_and_grad(loss)

    def own(gradient: Callable[[], Function]) -> Callable[[], Own]:
        def make() -> Own:
            return Own(by_gradient(gradient(), adam()), (weights, adam().init(weights), batch))

        return make

    def multisteps() -> Own:
        import optax

        many = optax.MultiSteps(adam(), PARTS)
        return Own(by_parts(split, many), (weights, many.init(weights), batch))

    return {
        "funcgrad": own(lambda: fg.microbatch(whole, PARTS, **mesh)),
        "jax": own(lambda: functools.partial(by_hand, split=split)),
        "accumulate_grad": own(lambda: functools.partial(accumulated, split=split)),
        "the whole batch at once": own(lambda: whole),
        "optax.MultiSteps": multisteps,
        "optax.microbatching": own(lambda: by_optax(size[0] * devices)),
    }


def torch_adam() -> Function:
    """Takes the step of PyTorch's Adam."""
    import torch

    made: list[Any] = []

    def finish(weights: Any, total: Any) -> Any:
        made[:] = made or [torch.optim.Adam(weights, RATE, DECAYS, EPSILON)]
        made[0].step()
        return weights, None, total

    return finish


@case(
    "accumulation/step",
    "a perceptron of 3 layers and Adam, the batch in 16 parts",
    {"tiny": (1, 8), "large": (32, 512)},
    closer=True,
)
def training_step(size: tuple[int, int]) -> Problem:
    """A step from donated parameters and moments, by rows of a part and width."""
    makes = steps(size)
    ours, args = makes.pop("funcgrad")()
    hand, (weights, _, batch) = makes.pop("jax")()
    return Problem(
        args,
        ours,
        hand,
        lambda: in_torch((weights, (), batch), torch_adam),
        makes,
        # A first step moves each weight by RATE; in which direction is what must agree.
        tolerance=1e-4,
        carry=2,
        view=lambda results: (results[0], results[2]),
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
