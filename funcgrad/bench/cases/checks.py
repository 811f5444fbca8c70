"""What the checks cost: `detect_anomaly` around a training step, `gradcheck` of a function.

These are functions to be called as they are; the control is what they check, jitted and unchecked.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg

from .._case import Function, Problem, Torch, case
from ._shared import normal

Step = tuple[Function, tuple[Any, ...]]


def _training(loss: Function, params: Any, batch: Any) -> Step:
    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, batch)
        return value, jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)

    return step, (params, batch)


def _normal(*shape: int) -> Any:
    return jax.random.normal(jax.random.key(0), shape) / shape[-1] ** 0.5


def perceptron(width: int = 512, layers: int = 4, rows: int = 256) -> Step:
    """A perceptron with relu and cross entropy."""

    def loss(params: Any, batch: Any) -> Any:
        x, labels = batch
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x @ params[-1]), labels, 1))

    params = [_normal(width, width) for _ in range(layers)]
    return _training(loss, params, (_normal(rows, width), jnp.zeros((rows, 1), jnp.int32)))


def attention(width: int = 256, length: int = 256, rows: int = 8) -> Step:
    """A block of masked attention with a layer norm and a residual."""

    def loss(params: Any, x: Any) -> Any:
        y = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
        q, k, v = (y @ params[name] for name in "qkv")
        scores = jnp.einsum("bld,bmd->blm", q, k) / width**0.5
        mask = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        out = x + jnp.einsum("blm,bmd->bld", weights, v) @ params["o"]
        return jnp.mean(jax.nn.gelu(out @ params["up"]) ** 2)

    params = {name: _normal(width, width) for name in "qkvo"} | {"up": _normal(width, 4 * width)}
    return _training(loss, params, _normal(rows, length, width))


def recurrent(width: int = 256, length: int = 128, rows: int = 32) -> Step:
    """A recurrent network with tanh, scanned."""

    def loss(params: Any, xs: Any) -> Any:
        def cell(h: Any, x: Any) -> Any:
            h = jnp.tanh(x @ params["in"] + h @ params["hidden"])
            return h, h

        h, ys = jax.lax.scan(cell, jnp.zeros((rows, width)), xs)
        return jnp.mean(ys**2) + jnp.mean(h)

    params = {"in": _normal(width, width), "hidden": _normal(width, width)}
    return _training(loss, params, _normal(length, rows, width))


def transformer(width: int = 256, length: int = 128, rows: int = 4, layers: int = 4) -> Step:
    """A causal transformer of layers with norms and residuals, unrolled, with cross entropy."""

    def norm(x: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)

    def layer(params: Any, x: Any) -> Any:
        y = norm(x)
        q, k, v = (y @ params[name] for name in "qkv")
        scores = jnp.einsum("bld,bmd->blm", q, k) / width**0.5
        mask = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
        x = x + jnp.einsum("blm,bmd->bld", weights, v) @ params["o"]
        return x + jax.nn.gelu(norm(x) @ params["up"]) @ params["down"]

    def loss(params: Any, batch: Any) -> Any:
        x, labels = batch
        for one in params:
            x = layer(one, x)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(norm(x)), labels, -1))

    shapes = dict.fromkeys("qkvo", (width, width))
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width)}
    params = [{name: _normal(*shape) for name, shape in shapes.items()} for _ in range(layers)]
    batch = _normal(rows, length, width), jnp.zeros((rows, length, 1), jnp.int32)
    return _training(loss, params, batch)


def convolution(channels: int = 32, pixels: int = 32, rows: int = 32) -> Step:
    """Four convolutions with a group norm and relu, pooled."""

    def loss(params: Any, x: Any) -> Any:
        for w in params:
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")
            x = (x - x.mean((1, 2, 3), keepdims=True)) * jax.lax.rsqrt(
                x.var((1, 2, 3), keepdims=True) + 1e-5
            )
            x = jax.nn.relu(x)
        return jnp.mean(x.mean((2, 3)) ** 2)

    first, rest = _normal(channels, 3, 3, 3), [_normal(channels, channels, 3, 3)] * 3
    return _training(loss, [first, *rest], _normal(rows, 3, pixels, pixels))


def solver(width: int = 256, steps: int = 64, rows: int = 256) -> Step:
    """A fixed point, by a loop of funcgrad that runs until it is found."""

    def loss(w: Any, x: Any) -> Any:
        def body(state: Any) -> Any:
            z, _ = state
            new = jnp.tanh(z @ w / 4 + x)
            return new, jnp.max(jnp.abs(new - z))

        start = jnp.zeros_like(x), jnp.full((), jnp.inf)
        going = lambda state: state[1] > 1e-5  # noqa: E731
        z, _ = fg.while_loop(going, body, start, max_steps=steps, on_max_steps="ignore")
        return jnp.mean(z**2)

    return _training(loss, _normal(width, width), _normal(rows, width))


STEPS: dict[str, tuple[str, Callable[..., Step], dict[str, tuple[int, int, int]]]] = {
    "mlp": ("a perceptron's step", perceptron, {"tiny": (8, 3, 4), "large": (512, 4, 256)}),
    "rnn": (
        "a scanned recurrent network's step",
        recurrent,
        {"tiny": (8, 4, 2), "large": (256, 64, 32)},
    ),
    "attention": (
        "an attention block's step",
        attention,
        {"tiny": (8, 4, 2), "large": (128, 128, 4)},
    ),
}
COSTS: dict[str, tuple[str, Callable[..., Step], tuple[int, ...]]] = {
    "mlp": ("a perceptron's step", perceptron, (8, 3, 4)),
    "rnn": ("a scanned recurrent network's step", recurrent, (8, 4, 2)),
    "transformer": ("the step of a transformer of 4 layers", transformer, (8, 4, 2, 4)),
    "convolution": ("a convolutional network's step", convolution, (4, 4, 2)),
    "loop": ("the step of a loop until a fixed point", solver, (8, 16, 2)),
}
WAYS: dict[str, dict[str, Any]] = {
    "compiled, only_if_reaches_output": {"mode": "compiled", "only_if_reaches_output": True},
    "compiled, check_inf": {"mode": "compiled", "check_inf": True},
    "interpreted": {},
}


def checked(name: str, size: tuple[int, ...]) -> Problem:
    """A step under `detect_anomaly`, beside `jax.debug_nans`."""
    step, args = STEPS[name][1](*size)
    args = jax.tree.map(np.asarray, args)
    jitted = jax.jit(step)

    def debug_nans(*args: Any) -> Any:
        with jax.debug_nans(True):
            return jitted(*args)

    return Problem(
        args,
        fg.detect_anomaly(step, mode="compiled"),
        debug_nans,
        in_torch(args) if name == "mlp" else None,
        control=jitted,
        host=True,
        tolerance=1e-3,
    )


def in_all_ways(name: str, size: tuple[int, ...]) -> Problem:
    """The same with each of its keywords, and interpreted."""
    step, _ = STEPS[name][1](*size)
    peers = {
        way: lambda keywords=keywords: fg.detect_anomaly(step, **keywords)
        for way, keywords in WAYS.items()
    }
    return checked(name, size)._replace(torch=None, peers=peers)


def first_and_later(make: Callable[..., Step], size: tuple[int, ...]) -> Problem:
    """A step under `detect_anomaly` in both modes: the first call, and later ones."""
    step, args = make(*size)
    jitted = jax.jit(step)
    return Problem(
        jax.tree.map(np.asarray, args),
        fg.detect_anomaly(jitted),
        jitted,
        peers={"interpreted": lambda: fg.detect_anomaly(jitted, mode="interpreted")},
        control=jitted,
        host=True,
        tolerance=1e-3,
    )


def in_torch(args: Any) -> Any:
    """The perceptron's step in PyTorch, under its own `detect_anomaly`."""

    def make() -> Torch:
        import torch
        from torch.nn import functional as F

        def eager(weights: Any, batch: Any) -> Any:
            for weight in weights:
                weight.grad = None
            x, labels = batch
            with torch.autograd.detect_anomaly(check_nan=True):
                for weight in weights[:-1]:
                    x = F.relu(x @ weight)
                value = F.cross_entropy(x @ weights[-1], labels[:, 0])
                value.backward()
            with torch.no_grad():
                return value, [weight - 0.01 * weight.grad for weight in weights]

        weights, (x, labels) = args
        why = "is not used with detect_anomaly"
        return Torch((weights, (x, labels.astype(np.int64))), (0,), eager=eager, why=why)

    return make


for _name, (_about, _, _sizes) in STEPS.items():
    case(f"checks/anomaly-{_name}", f"detect_anomaly: {_about}", _sizes)(
        functools.partial(checked, _name)
    )
    case(
        f"checks/ways-{_name}",
        f"detect_anomaly in all its ways: {_about}",
        {"tiny": _sizes["tiny"], "full": ()},
        closer=True,
    )(functools.partial(in_all_ways, _name))


for _name, (_about, _make, _tiny) in COSTS.items():
    case(
        f"checks/cost-{_name}",
        f"detect_anomaly in both modes, first and later calls: {_about}",
        {"tiny": _tiny, "full": ()},
        closer=True,
    )(functools.partial(first_and_later, _make))


def function(w: Any, x: Any) -> Any:
    """What `gradcheck` checks; both libraries have its operations."""
    return ((w @ x) ** 2).sum() / 2 + (w * w * w).sum()


@case("checks/gradcheck", "gradcheck: both modes, every entry", {"tiny": 3, "large": 16})
def gradcheck(n: int) -> Problem:
    """Every entry of the Jacobian in float64; JAX's own looks along one direction."""
    w: np.ndarray = normal(0, n, n).astype(np.float64)
    x: np.ndarray = normal(1, n, 2).astype(np.float64)

    def ours(w: Any, x: Any) -> Any:
        with jax.enable_x64(True):
            return fg.gradcheck(function, (w, x))

    def hand(w: Any, x: Any) -> Any:
        from jax.test_util import check_grads

        with jax.enable_x64(True):
            check_grads(function, (w, x), 1)
        return True

    def control(w: Any, x: Any) -> Any:
        with jax.enable_x64(True):
            return bool(jnp.all(jnp.isfinite(jitted(w, x)[0])))

    def torch() -> Torch:
        import torch

        def eager(w: Any, x: Any) -> Any:
            return torch.autograd.gradcheck(function, (w, x), check_forward_ad=True)

        return Torch((w, x), (0, 1), eager=eager, why="is not used with gradcheck")

    jitted: Function = jax.jit(jax.value_and_grad(function))
    return Problem((w, x), ours, hand, torch, control=control, host=True)
