"""Measures what `detect_anomaly` costs a clean run: `python -m funcgrad.bench.anomaly`.

For a training step of a perceptron, of an attention block and of a scanned recurrent network it
times `jax.jit(step)` and `detect_anomaly(step, mode="compiled")` in turn, for each of its keywords,
and the interpreted mode, and prints the least time of the first and the ratio of the others' to it.
The ratio is the figure to quote: times differ between machines, and on one between minutes. What is
timed is a whole call with its results waited for, compilation left out.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import funcgrad as fg

Step = tuple[Callable[..., Any], tuple[Any, ...]]
KEY = jax.random.key(0)


def _training(loss: Callable[..., Any], params: Any, batch: Any) -> Step:
    def step(params: Any, batch: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, batch)
        return value, jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)

    return step, (params, batch)


def _normal(*shape: int) -> Any:
    return jax.random.normal(KEY, shape) / shape[-1] ** 0.5


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


WAYS: dict[str, dict[str, Any]] = {
    "compiled": {"mode": "compiled"},
    "compiled, only_if_reaches_output": {"mode": "compiled", "only_if_reaches_output": True},
    "compiled, check_inf": {"mode": "compiled", "check_inf": True},
    "interpreted": {},
}


def seconds(fun: Callable[..., Any], args: tuple[Any, ...]) -> float:
    """How long one call takes, its results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(fun(*args))
    return time.perf_counter() - start


def compare(step: Step, rounds: int = 15) -> tuple[float, dict[str, float]]:
    """The least time of the jitted step, and the ratio of each way's least time to it."""
    fun, args = step
    ways = {"plain": jax.jit(fun)} | {k: fg.detect_anomaly(fun, **o) for k, o in WAYS.items()}
    for way in ways.values():
        seconds(way, args)
    best = dict.fromkeys(ways, float("inf"))
    for index in range(rounds):
        for name, way in ways.items():
            if name != "interpreted" or index < 3:
                best[name] = min(best[name], seconds(way, args))
    plain = best.pop("plain")
    return plain, {name: value / plain for name, value in best.items()}


def main() -> None:
    """Prints the table."""
    print(f"jax {jax.__version__}, {jax.default_backend()}")
    for make in (perceptron, attention, recurrent):
        plain, ratios = compare(make())
        print(f"{make.__name__}: jitted {plain * 1e3:.1f} ms")
        for name, ratio in ratios.items():
            print(f"  {name:<34} {ratio:8.2f} times")


if __name__ == "__main__":
    main()
