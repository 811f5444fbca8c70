"""A scanned, rematerialised decoder that is read, hooked and watched from outside.

The decoder names eight values in each layer and is written once. funcgrad reaches them by name; by
hand the layers are written for what is wanted of them: they return their outputs as rows of the
scan, and call a function with a rule of its own. `inside/watch` is held against the decoder as it
stands, of which nobody asks anything: only its value and gradients are compared.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import funcgrad as fg

from .._case import Function, Problem, case
from ._shared import normal
from .models import clip, clipped_by_hand

HEADS = 4


class Size(NamedTuple):
    """How large a decoder is.

    Fields:
        rows, length, width: of what it decodes.
        depth: the number of layers.
    """

    rows: int
    length: int
    width: int
    depth: int


def layer(size: Size, name: Function) -> Function:
    """`layer(x, params)`: attention, then a feed-forward net, both residual; `name(value, name)`.

    What `name` makes of the output of the layer is its output.
    """
    rows, length, width, _ = size

    def normalized(x: Any) -> Any:
        return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)

    def run(x: Any, p: Any) -> Any:
        h = name(normalized(x), "norm")
        split = jnp.split(name(h @ p["qkv"], "qkv"), 3, -1)
        q, k, v = (part.reshape(rows, length, HEADS, -1) for part in split)
        mixed = name(jax.nn.dot_product_attention(q, k, v, is_causal=True), "mixed")
        x = x + name(mixed.reshape(rows, length, width) @ p["out"], "attention")
        up = name(name(normalized(x), "norm2") @ p["up"], "up")
        return name(x + name(jax.nn.gelu(up) @ p["down"], "mlp"), "block")

    return run


def weights(size: Size) -> dict[str, Any]:
    """The weights of all layers, stacked."""
    width, depth = size.width, size.depth
    shapes = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    made = {name: normal(seed, depth, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    return {name: array / depth**0.5 for name, array in made.items()}


def decoder(size: Size, name: Function) -> Function:
    """`loss(params, x)` of the decoder with its values named."""
    block = jax.checkpoint(layer(size, name))

    def loss(params: Any, x: Any) -> Any:
        x, _ = lax.scan(lambda x, p: (block(x, p), None), x, params)
        return jnp.mean(x**2)

    return loss


def unnamed(value: Any, name: str) -> Any:
    """The value, as it is."""
    return value


def by_hand(size: Size) -> Function:
    """`loss(params, x)` with the outputs of all layers beside it, and their gradients clipped."""

    def clipped(value: Any, name: str) -> Any:
        return clipped_by_hand(value) if name == "block" else value

    block = jax.checkpoint(layer(size, clipped))

    def step(x: Any, p: Any) -> Any:
        out = block(x, p)
        return out, out

    def loss(params: Any, x: Any) -> Any:
        x, blocks = lax.scan(step, x, params)
        return jnp.mean(x**2), {"block": blocks}

    return jax.value_and_grad(loss, has_aux=True)


def read_and_hooked(loss: Function) -> Function:
    """The same with funcgrad, from outside."""
    hooked = fg.with_hooks(loss, backward={"block": clip})
    return fg.value_and_grad(fg.capture(hooked, "block"), has_aux=True)


SIZES = {
    "tiny": Size(1, 4, 8, 3),
    "medium": Size(2, 32, 64, 12),
    "large": Size(2, 128, 256, 48),
}


@case("inside/hooks", "48 layers, scanned: outputs read, gradients clipped", SIZES, extra=True)
def hooks(size: Size) -> Problem:
    """The output of each layer, the loss, and gradients that were clipped after each layer."""
    ours = read_and_hooked(decoder(size, fg.retain_grad))
    return Problem(arguments(size), ours, by_hand(size))


@case("inside/watch", "48 layers, scanned: each layer watched, or none", SIZES, extra=True)
def watched(size: Size) -> Problem:
    """Statistics of the output of each layer, and of its gradient."""
    ours = fg.value_and_grad(decoder(size, fg.retain_grad), retain={"block": fg.watch()})
    plain = jax.value_and_grad(decoder(size, unnamed))
    return Problem(arguments(size), ours, plain, view=lambda result: result[:2])


@case("inside/asked-nothing", "48 layers, scanned: named, or not", SIZES, extra=True)
def named(size: Size) -> Problem:
    """The decoder with names of which none is asked for."""
    ours = jax.value_and_grad(decoder(size, fg.retain_grad))
    return Problem(arguments(size), ours, jax.value_and_grad(decoder(size, unnamed)))


def arguments(size: Size) -> tuple[Any, ...]:
    """The weights, and what is decoded."""
    return weights(size), normal(9, size.rows, size.length, size.width)
