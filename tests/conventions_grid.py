"""The kinks at which PyTorch, JAX and `funcgrad.conventions` are compared, and the table of them.

`python tests/conventions_grid.py` runs all three and writes the tables of `docs/conventions.md`.
Numbers are gradients of the sum of the result, by reverse mode, in float64.
"""

import contextlib
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg
from funcgrad import conventions

PAGE = Path(__file__).parents[1] / "docs" / "conventions.md"
inf, nan = float("inf"), float("nan")


class Kink(NamedTuple):
    """One call at one point.

    Fields:
        ours: the call in JAX and here, of x, y and z.
        theirs: the call in PyTorch.
        at: the values of x, y and z, nested lists of numbers.
        order: 1 for the gradient, 2 for the gradient of the sum of the gradient.
        why: what is to be said of a difference that is no convention.
        write: the call in JAX that has PyTorch's gradient, in place of an idiom.
    """

    ours: str
    theirs: str
    at: tuple
    order: int = 1
    why: str = ""
    write: str = ""


def kinks(ours, theirs, *points, order=1, why="", write=""):
    """One row for each point; a point is x alone or a tuple (x, y) or (x, y, z)."""
    places = [point if isinstance(point, tuple) else (point,) for point in points]
    return [Kink(ours, theirs, place, order, why, write) for place in places]


def idiom(theirs, ours, write, *points):
    """What ports write for a call in PyTorch, and what to write instead."""
    return kinks(ours, theirs, *points, write=write)


ZERO, ONES, TIE, LOW = [0.0, 0.0], [1.0, 1.0], [2.0, 1.0, 2.0], [1.0, 2.0, 1.0]
NANS = [1.0, nan, nan]
IDENTITY, NOUGHT = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]
FLAT = [[1.0, 1.0], [1.0, 1.0]]

DIFFERENT = [
    *kinks("abs(x)", "torch.abs(x)", [-0.0, 0.0], nan),
    *kinks("sign(x)", "torch.sgn(x)", [2j, 1 + 1j, 0j]),
    *kinks("angle(x)", "torch.angle(x)", [0.0, -1.0], [0j, 1j, -1 + 0j]),
    *kinks("clip(x, 0.0, 1.0)", "torch.clamp(x, 0.0, 1.0)", [0.0, 0.5, 1.0]),
    *kinks("clip(x, 1.0, 1.0)", "torch.clamp(x, 1.0, 1.0)", [0.0, 1.0, 2.0]),
    *kinks("clip(x, y)", "torch.clamp(x, y)", ([0.0, -1.0, 1.0], [0.0, 0.0, 0.0])),
    *kinks("clip(x, None, y)", "torch.clamp(x, max=y)", ([0.0, -1.0, 1.0], [0.0, 0.0, 0.0])),
    *kinks(
        "clip(x, y, z)",
        "torch.clamp(x, y, z)",
        ([0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
    ),
    *kinks("fmax(x, y)", "torch.fmax(x, y)", (1.0, 1.0)),
    *kinks("fmin(x, y)", "torch.fmin(x, y)", (1.0, 1.0)),
    *kinks("arctan2(x, y)", "torch.atan2(x, y)", (0.0, 0.0)),
    *kinks("hypot(x, y)", "torch.hypot(x, y)", (0.0, 0.0)),
    *kinks("copysign(x, y)", "torch.copysign(x, y)", ([0.0, 0.0, -0.0], [1.0, -1.0, 1.0])),
    *kinks("ldexp(x, 3)", "torch.ldexp(x, torch.tensor(3))", [0.0, 1.0]),
    *kinks("power(x, 0.0)", "x**0.0", [0.0, 1.0, nan]),
    *kinks("power(x, 1.0)", "x**1.0", [0.0, 1.0], order=2),
    *kinks("power(x, y)", "x**y", (0.0, 0.0), (0.0, -1.0)),
    *kinks("float_power(x, y)", "torch.float_power(x, y)", (0.0, 0.0), (0.0, -1.0)),
    *kinks("xlogy(x, y)", "torch.xlogy(x, y)", (0.0, 0.0), (0.0, -1.0)),
    *kinks("xlog1py(x, y)", "torch.special.xlog1py(x, y)", (0.0, -1.0), (0.0, -2.0)),
    *kinks("leaky_relu(x)", "F.leaky_relu(x)", 0.0),
    *kinks("hard_tanh(x)", "F.hardtanh(x)", [-1.0, 1.0]),
    *kinks("elu(x, 2.0)", "F.elu(x, 2.0)", 0.0, order=2),
    *kinks("celu(x, 2.0)", "F.celu(x, 2.0)", 0.0, order=2),
    *kinks("selu(x)", "F.selu(x)", 0.0, order=2),
    *kinks("soft_sign(x)", "F.softsign(x)", 0.0, order=2),
    *kinks("max(x, axis=0)", "torch.max(x, 0).values", TIE),
    *kinks("min(x, axis=0)", "torch.min(x, 0).values", LOW),
    *kinks("median(x)", "torch.median(x)", [1.0, 1.0, 1.0], [1.0, 2.0, 2.0], NANS),
    *kinks("nanmedian(x)", "torch.nanmedian(x)", [1.0, 1.0, 1.0], [nan, 2.0, 2.0, 1.0], [nan, nan]),
    *kinks("nanmean(x)", "torch.nanmean(x)", [nan, nan]),
    *kinks(
        "sort(x, descending=True)[0]",
        "torch.sort(x, descending=True, stable=True).values[0]",
        [2.0, 2.0, 1.0],
    ),
    *kinks("cummax(x)[2]", "torch.cummax(x, 0).values[2]", [1.0, 1.0, 1.0], [nan, 1.0, 2.0]),
    *kinks("cummin(x)[2]", "torch.cummin(x, 0).values[2]", [1.0, 1.0, 1.0], [nan, 1.0, 2.0]),
    *kinks("std(x)", "torch.std(x, correction=0)", ONES, [5.0]),
    *kinks("std(x, ddof=1)", "torch.std(x)", ONES),
    *kinks("norm(x)", "torch.linalg.norm(x)", ZERO, NOUGHT, [0j, 0j]),
    *kinks("norm(x, 1)", "torch.linalg.norm(x, 1)", [0.0, 1.0], IDENTITY, NOUGHT),
    *kinks("norm(x, inf)", "torch.linalg.norm(x, inf)", ZERO, IDENTITY, NOUGHT),
    *kinks("norm(x, -inf)", "torch.linalg.norm(x, -inf)", ZERO, [0.0, 1.0], IDENTITY),
    *kinks("norm(x, 3)", "torch.linalg.norm(x, 3)", ZERO),
    *kinks("norm(x, 1.5)", "torch.linalg.norm(x, 1.5)", ZERO),
    *kinks("norm(x, 0.5)", "torch.linalg.norm(x, 0.5)", ZERO, [0.0, 1.0]),
    *kinks("norm(x, -1)", "torch.linalg.norm(x, -1)", ZERO, [0.0, 1.0], IDENTITY),
    *kinks("norm(x, 2)", "torch.linalg.norm(x, 2)", ZERO, NOUGHT),
    *kinks("norm(x, axis=1)", "torch.linalg.norm(x, dim=1)", [[0.0, 0.0], [3.0, 4.0]]),
    *kinks("vector_norm(x, axis=0)", "torch.linalg.vector_norm(x, dim=0)", NOUGHT),
    *kinks("matrix_norm(x)", "torch.linalg.matrix_norm(x)", NOUGHT),
    *kinks(
        "norm(x[:, None] - y[None], axis=-1)", "torch.cdist(x, y)", ([[1.0, 2.0]], [[1.0, 2.0]])
    ),
    *kinks("mean(abs(x - y))", "F.l1_loss(x, y)", ([1.0, 2.0], [1.0, 3.0])),
    *kinks("(x / maximum(norm(x), 1e-12))[0]", "F.normalize(x, dim=0)[0]", ZERO),
]

AGREED = [
    *kinks("relu(x)", "F.relu(x)", [-0.0, 0.0]),
    *kinks("relu6(x)", "F.relu6(x)", [0.0, 6.0]),
    *kinks("hard_sigmoid(x)", "F.hardsigmoid(x)", [-3.0, 3.0]),
    *kinks("hard_silu(x)", "F.hardswish(x)", [-3.0, 0.0, 3.0]),
    *kinks("elu(x, 2.0)", "F.elu(x, 2.0)", 0.0),
    *kinks("celu(x, 2.0)", "F.celu(x, 2.0)", 0.0),
    *kinks("selu(x)", "F.selu(x)", 0.0),
    *kinks("soft_sign(x)", "F.softsign(x)", 0.0),
    *kinks("where(x > 0.5, x, 0)", "F.threshold(x, 0.5, 0.0)", [0.5, 1.0]),
    *kinks("where(abs(x) > 0.5, x, 0)", "F.hardshrink(x)", [-0.5, 0.5]),
    *kinks("softplus(x)", "F.softplus(x)", [-1000.0, 0.0, 1000.0]),
    *kinks("log_sigmoid(x)", "F.logsigmoid(x)", [-1000.0, 0.0, 1000.0]),
    *kinks("silu(x)", "F.silu(x)", [-1000.0, 0.0, 1000.0]),
    *kinks("gelu(x, False)", "F.gelu(x)", [-1000.0, 0.0, 1000.0]),
    *kinks("abs(x)", "torch.abs(x)", 0j),
    *kinks("sign(x)", "torch.sign(x)", 0.0),
    *kinks("clip(x, y, z)", "torch.clamp(x, y, z)", ([0.0, 1.5, 3.0], [2.0] * 3, [1.0] * 3)),
    *kinks("fmax(x, y)", "torch.fmax(x, y)", ([nan, 1.0, nan], [1.0, nan, nan])),
    *kinks("fmin(x, y)", "torch.fmin(x, y)", ([nan, 1.0, nan], [1.0, nan, nan])),
    *kinks("round(x)", "torch.round(x)", [0.5, 1.0]),
    *kinks("floor(x)", "torch.floor(x)", 1.0),
    *kinks("sqrt(x)", "torch.sqrt(x)", 0.0),
    *kinks("reciprocal(x)", "torch.reciprocal(x)", 0.0),
    *kinks("log(x)", "torch.log(x)", 0.0),
    *kinks("arcsin(x)", "torch.arcsin(x)", [-1.0, 1.0]),
    *kinks("arccos(x)", "torch.arccos(x)", [-1.0, 1.0]),
    *kinks("arccosh(x)", "torch.arccosh(x)", 1.0),
    *kinks("arctanh(x)", "torch.arctanh(x)", [-1.0, 1.0]),
    *kinks("sinc(x)", "torch.sinc(x)", 0.0),
    *kinks("nan_to_num(x)", "torch.nan_to_num(x)", [nan, inf, 0.0]),
    *kinks("power(x, 2)", "x**2", [0.0, -1.0]),
    *kinks("power(x, 0.5)", "x**0.5", 0.0),
    *kinks("power(0.0, x)", "0.0**x", [0.0, 1.0]),
    *kinks("power(x, y)", "x**y", (-1.0, 2.0), (0.0, 2.0), (0.0, 0.5)),
    *kinks("divide(x, y)", "x / y", (1.0, 0.0), (0.0, 0.0)),
    *kinks("remainder(x, y)", "torch.remainder(x, y)", ([3.0, -3.0], [3.0, 3.0])),
    *kinks("fmod(x, y)", "torch.fmod(x, y)", ([3.0, -3.0], [3.0, 3.0])),
    *kinks("maximum(x, y)", "torch.maximum(x, y)", (1.0, 1.0)),
    *kinks("minimum(x, y)", "torch.minimum(x, y)", (1.0, 1.0)),
    *kinks("logaddexp(x, y)", "torch.logaddexp(x, y)", (-inf, -inf), (-inf, 0.0)),
    *kinks("where(x > 0, log(x), 0.0)", "torch.where(x > 0, torch.log(x), 0.0)", 0.0),
    *kinks("where(x == 0, 1.0, sin(x) / x)", "torch.where(x == 0, 1.0, torch.sin(x) / x)", 0.0),
    *kinks("max(x)", "torch.max(x)", TIE),
    *kinks("min(x)", "torch.min(x)", LOW),
    *kinks("amax(x)", "torch.amax(x, 0)", TIE),
    *kinks("amin(x)", "torch.amin(x, 0)", LOW),
    *kinks("ptp(x)", "torch.aminmax(x).max - torch.aminmax(x).min", [1.0, 1.0, 2.0, 2.0]),
    *kinks("median(x, axis=0)", "torch.median(x, 0).values", [1.0, 1.0, 1.0], [2.0, 1.0, 2.0]),
    *kinks("nanmedian(x, axis=0)", "torch.nanmedian(x, 0).values", [2.0, nan, 1.0, 2.0]),
    *kinks("quantile(x, 0.5)", "torch.quantile(x, 0.5)", [1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0]),
    *kinks("sort(x)[0]", "torch.sort(x, stable=True).values[0]", [1.0, 1.0, 2.0]),
    *kinks("x[argmax(x)]", "x.gather(0, x.argmax(0, keepdim=True))", TIE),
    *kinks("prod(x)", "torch.prod(x)", [2.0, 0.0, 3.0], [2.0, 0.0, 0.0]),
    *kinks("cumprod(x)", "torch.cumprod(x, 0)", [2.0, 0.0, 3.0], [2.0, 0.0, 0.0]),
    *kinks("var(x)", "torch.var(x, correction=0)", ONES),
    *kinks("nanmean(x)", "torch.nanmean(x)", [nan, 1.0]),
    *kinks("nansum(x)", "torch.nansum(x)", [nan, nan]),
    *kinks("logsumexp(x)", "torch.logsumexp(x, 0)", [-inf, 0.0], [-inf, -inf]),
    *kinks("softmax(x)[0]", "torch.softmax(x, 0)[0]", [-inf, 0.0], [-inf, -inf]),
    *kinks("log_softmax(x)[0]", "torch.log_softmax(x, 0)[0]", [-inf, 0.0], [-inf, -inf]),
    *kinks("entr(x)", "torch.special.entr(x)", 0.0),
    *kinks("sqrt(mean(x**2))", "x.pow(2).mean().sqrt()", ZERO),
    *kinks("norm(x, 0)", "torch.linalg.norm(x, 0)", ZERO),
    *kinks("norm(x, inf)", "torch.linalg.norm(x, inf)", TIE),
    *kinks("norm(x, 2)", "torch.linalg.norm(x, 2)", IDENTITY),
    *kinks("norm(x, 'nuc')", "torch.linalg.norm(x, 'nuc')", IDENTITY, NOUGHT),
    *kinks("slogdet(x)[1]", "torch.slogdet(x)[1]", FLAT),
    *kinks("segment_max(x, zeros(x.size, int), 1)", "x.amax(0)", ONES),
    *kinks(
        "reduce_window(x, -inf, jax.lax.max, (2,), (2,), 'VALID')",
        "F.max_pool1d(x[None], 2, 2)[0]",
        [1.0, 1.0],
    ),
]

FAULTS = [
    *kinks(
        "det(x)",
        "torch.det(x)",
        FLAT,
        why="the determinant is smooth; JAX gives its gradient, the cofactors",
    ),
    *kinks(
        "logaddexp(x, y)",
        "torch.logaddexp(x, y)",
        (inf, 0.0),
        (inf, inf),
        why="at infinity, where the gradients add up to 1; JAX gives 1 twice",
    ),
    *kinks(
        "cumlogsumexp(x)",
        "torch.logcumsumexp(x, 0)",
        [-inf, 0.0],
        why="at -infinity; the limit is (1, 1)",
    ),
    *kinks(
        "cumlogsumexp(x)",
        "torch.logcumsumexp(x, 0)",
        [0.0, inf],
        why="at infinity; the limit is (1, 1), JAX counts the first once too often",
    ),
    *kinks(
        "top_k(x, 1)[0]",
        "torch.topk(x, 1).values",
        [2.0, 1.0, 2.0, 2.0],
        why="PyTorch leaves open which of equals it takes; `sort(x, descending=True)[:1]` and a"
        " stable `torch.sort` take the first",
    ),
    *kinks(
        "sort(x)[1]",
        "torch.kthvalue(x, 2).values",
        [1.0, 1.0, 2.0],
        why="PyTorch leaves open which of equals it takes; a stable `torch.sort` agrees",
    ),
    *kinks(
        "quantile(tile(x, 10), 0.5)",
        "torch.quantile(x.repeat(10), 0.5)",
        [1.0, 1.0, 1.0],
        why="of more than 16 numbers PyTorch leaves open which of equals it takes",
    ),
    *kinks(
        "max(abs(x[:, None] - y), -1)",
        "torch.cdist(x, y, p=inf)",
        ([[1.0, 2.0]], [[2.0, 3.0]]),
        why="a tie has a whole gradient for each in PyTorch, which is no gradient of a maximum;"
        " `torch.linalg.norm(x[:, None] - y, inf, -1)` shares",
    ),
    *kinks(
        "-y * maximum(log(x), -100) - (1 - y) * maximum(log1p(-x), -100)",
        "F.binary_cross_entropy(x, y)",
        (0.0, 1.0),
        (1.0, 1.0),
        why="PyTorch divides by at least 1e-12, whatever the value; of the logits"
        " `F.binary_cross_entropy_with_logits` and `optax.sigmoid_binary_cross_entropy` agree",
    ),
    *kinks(
        "power(x, y)",
        "x**y",
        (3.0, 0.0),
        order=2,
        why="PyTorch loses d2 x**y / dx dy = 1 / x at an exponent of 0; JAX has it, as"
        " `conventions.power`",
    ),
    *kinks(
        "logit(x)",
        "torch.logit(x)",
        [-0.1, 1.1],
        why="outside of its domain, where the value is NaN",
    ),
    *kinks("ndtri(x)", "torch.special.ndtri(x)", [0.0, 1.0], why="the limit is infinite"),
    *kinks("gammaln(x)", "torch.lgamma(x)", 0.0, why="at a pole, where the value is infinite"),
    *kinks(
        "maximum(x, y)",
        "torch.maximum(x, y)",
        (nan, 1.0),
        why="PyTorch gives the gradient to both, in forward mode to one",
    ),
    *kinks(
        "relu(x)", "F.relu(x)", nan, why="at NaN; `relu6`, `elu` and `hard_silu` differ there too"
    ),
    *kinks(
        "median(x, axis=0)",
        "torch.median(x, 0).values",
        [nan, 1.0, 2.0],
        why="at NaN; without `axis` the functions here follow PyTorch",
    ),
    *kinks(
        "cumprod(x)[0]",
        "torch.cumprod(x, 0)[0]",
        [nan, 1.0],
        why="at NaN and infinity; the first of the products is x[0] alone",
    ),
    *kinks(
        "softplus(x)",
        "F.softplus(x)",
        21.0,
        order=2,
        why="PyTorch takes the identity above 20, in value too",
    ),
    *kinks(
        "sinc(x)", "torch.sinc(x)", 0.0, order=2, why="the second derivative is -pi**2 / 3, JAX's"
    ),
    *kinks("i0(x)", "torch.special.i0(x)", 0.0, order=2, why="the second derivative is 1 / 2"),
    *kinks(
        "x.at[jnp.array([0, 0])].set(y)",
        "x.index_put((torch.tensor([0, 0]),), y)",
        ([0.0], [1.0, 2.0]),
        why="the last of two writes to one place wins; PyTorch gives both its gradient",
    ),
]


IDIOMS = [
    *idiom("F.relu(x)", "jnp.maximum(x, 0)", "jax.nn.relu(x)", [0.0, 1.0]),
    *idiom("x.clamp(min=0)", "jnp.maximum(x, 0)", "conventions.clip(x, 0)", [0.0, 1.0]),
    *idiom("F.relu6(x)", "jnp.clip(x, 0, 6)", "jax.nn.relu6(x)", [0.0, 6.0]),
    *idiom(
        "F.hardtanh(x, -2.0, 2.0)",
        "jnp.clip(x, -2, 2)",
        "conventions.hard_tanh(x, -2, 2)",
        [-2.0, 0.0, 2.0],
    ),
    *idiom(
        "F.hardsigmoid(x)",
        "jnp.clip(x / 6 + 0.5, 0, 1)",
        "jax.nn.hard_sigmoid(x)",
        [-3.0, 3.0],
    ),
    *idiom(
        "F.hardswish(x)",
        "x * jnp.clip(x + 3, 0, 6) / 6",
        "jax.nn.hard_silu(x)",
        [-3.0, 3.0],
    ),
    *idiom(
        "F.leaky_relu(x, 0.1)",
        "jnp.maximum(x, 0.1 * x)",
        "conventions.leaky_relu(x, 0.1)",
        [0.0, 1.0],
    ),
    *idiom(
        "F.prelu(x, y)",
        "jnp.where(x >= 0, x, y * x)",
        "conventions.leaky_relu(x, y)",
        ([0.0, -1.0], [0.25]),
    ),
    *idiom(
        "F.rrelu(x)",
        "jnp.where(x >= 0, x, 11 / 48 * x)",
        "conventions.leaky_relu(x, 11 / 48)",
        [0.0, -1.0],
    ),
    *idiom(
        "F.softshrink(x)",
        "jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0)",
        "jnp.where(jnp.abs(x) > 0.5, x - 0.5 * jnp.sign(x), 0)",
        [-0.5, 0.0, 0.5, 1.0],
    ),
    *idiom("x.abs()", "jnp.where(x > 0, x, -x)", "conventions.abs(x)", 0.0),
    *idiom("x.abs()", "jnp.sqrt(x**2)", "conventions.abs(x)", 0.0),
    *idiom("torch.minimum(x, y)", "jnp.where(x < y, x, y)", "jnp.minimum(x, y)", (1.0, 1.0)),
    *idiom("F.elu(x)", "jnp.where(x > 0, x, jnp.exp(x) - 1)", "jax.nn.elu(x)", [0.0, 1000.0]),
    *idiom("torch.sigmoid(x)", "1 / (1 + jnp.exp(-x))", "jax.nn.sigmoid(x)", [-1000.0, 0.0]),
    *idiom("F.silu(x)", "x / (1 + jnp.exp(-x))", "jax.nn.silu(x)", [-1000.0, 0.0]),
    *idiom(
        "F.log_softmax(x, 0)[0]",
        "jnp.log(jax.nn.softmax(x))[0]",
        "jax.nn.log_softmax(x)[0]",
        [0.0, 1000.0],
    ),
    *idiom(
        "F.hinge_embedding_loss(x, -torch.ones(2))",
        "jnp.mean(jnp.maximum(0, 1 - x))",
        "jnp.mean(conventions.clip(1 - x, 0))",
        [1.0, 2.0],
    ),
    *idiom(
        "F.margin_ranking_loss(x, y, torch.ones(2))",
        "jnp.mean(jnp.maximum(0, y - x))",
        "jnp.mean(conventions.clip(y - x, 0))",
        ([1.0, 2.0], [1.0, 1.0]),
    ),
    *idiom(
        "F.multi_margin_loss(x, torch.tensor(0))",
        "jnp.maximum(0, 1 - x[0] + x[1]) / 2",
        "jax.nn.relu(1 - x[0] + x[1]) / 2",
        [1.0, 0.0],
    ),
    *idiom(
        "F.smooth_l1_loss(x, y, beta=0.0)",
        "jnp.mean(jnp.abs(x - y))",
        "jnp.mean(conventions.abs(x - y))",
        ([1.0, 2.0], [1.0, 1.0]),
    ),
    *idiom(
        "F.gaussian_nll_loss(torch.ones(1), torch.ones(1), x)",
        "jnp.mean(jnp.log(jnp.maximum(x, 1e-6))) / 2",
        "jnp.mean(jnp.log(fg.set_data(x, jnp.maximum(x, 1e-6)))) / 2",
        [0.0],
    ),
    *idiom(
        "F.max_pool2d(x[None], 2)",
        "x.reshape(1, 2, 1, 2).max((1, 3))",
        "jax.lax.reduce_window(x, -inf, jax.lax.max, (2, 2), (2, 2), 'VALID')",
        FLAT,
    ),
    *idiom(
        "F.adaptive_max_pool1d(x[None], 1)", "jnp.max(x)", "conventions.max(x, axis=0)", [1.0, 1.0]
    ),
    *idiom(
        "x.view(2, 2).max(1).values",
        "x.reshape(2, 2).max(1)",
        "conventions.max(x.reshape(2, 2), axis=1)",
        [1.0, 1.0, 2.0, 2.0],
    ),
    *idiom("torch.median(x)", "jnp.sort(x)[x.size // 2]", "conventions.median(x)", [1.0, 1.0, 2.0]),
    *idiom("x.norm()", "jnp.sqrt(jnp.sum(x**2))", "conventions.norm(x)", ZERO),
    *idiom(
        "x / (x.norm() + 1e-6)",
        "x / (jnp.linalg.norm(x) + 1e-6)",
        "x / (conventions.norm(x) + 1e-6)",
        ZERO,
    ),
    *idiom(
        "torch.dist(x, y)",
        "jnp.linalg.norm(x - y)",
        "conventions.norm(x - y)",
        ([1.0, 2.0], [1.0, 2.0]),
    ),
    *idiom(
        "F.pairwise_distance(x, y)",
        "jnp.linalg.norm(x - y, axis=-1)",
        "jnp.linalg.norm(x - y + 1e-6, axis=-1)",
        ([1.0, 2.0], [1.0, 2.0]),
    ),
    *idiom(
        "F.triplet_margin_loss(x, y, z)",
        "jnp.maximum(jnp.linalg.norm(x - y) - jnp.linalg.norm(x - z) + 1, 0)",
        "conventions.clip(jnp.linalg.norm(x - y + 1e-6) - jnp.linalg.norm(x - z + 1e-6) + 1, 0)",
        ([0.0, 0.0], [0.0, 0.0], [3.0, 4.0]),
    ),
    *idiom(
        "torch.cdist(x, y)",
        "jnp.sqrt(jnp.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0))",
        "conventions.norm(x[:, None] - y, axis=-1)",
        ([[1.0, 2.0]], [[1.0, 2.0]]),
    ),
    *idiom(
        "torch.cdist(x, y, p=1.0)",
        "jnp.sum(jnp.abs(x[:, None] - y), -1)",
        "conventions.norm(x[:, None] - y, 1, axis=-1)",
        ([[1.0, 2.0]], [[1.0, 3.0]]),
    ),
    *idiom(
        "F.cosine_similarity(x, y, dim=0)",
        "jnp.sum(x * y) / jnp.maximum(jnp.linalg.norm(x) * jnp.linalg.norm(y), 1e-8)",
        "jnp.sum(x / jnp.maximum(conventions.norm(x), 1e-8)"
        " * (y / jnp.maximum(conventions.norm(y), 1e-8)))",
        (ZERO, [1.0, 2.0]),
    ),
    *idiom("F.lp_pool1d(x[None], 2.0, 2)", "jnp.sqrt(jnp.sum(x**2))", "conventions.norm(x)", ZERO),
    *idiom(
        "torch.renorm(x, 2, 0, 1.0)",
        "x * jnp.minimum(1, 1 / (jnp.linalg.norm(x, axis=1, keepdims=True) + 1e-7))",
        "x * jnp.minimum(1, 1 / (conventions.norm(x, axis=1, keepdims=True) + 1e-7))",
        [ZERO],
    ),
    *idiom("x.std(correction=0)", "jnp.sqrt(jnp.var(x))", "conventions.std(x)", ONES),
    *idiom(
        "((x - x.mean()) / (x.std() + 1e-5))[0]",
        "((x - x.mean()) / (x.std(ddof=1) + 1e-5))[0]",
        "((x - x.mean()) / (conventions.std(x, ddof=1) + 1e-5))[0]",
        ONES,
    ),
    *idiom(
        "torch.linalg.vander(x)",
        "jnp.vander(x, increasing=True)",
        "conventions.power(x[:, None], jnp.arange(2.0))",
        [0.0, 1.0],
    ),
]


class _Names(dict):
    """Names of JAX, and those of `conventions` before them where asked."""

    def __init__(self, ours):
        rest = (jnp, jax.nn, jnp.linalg, jax.lax, jax.scipy.special, jax.ops)
        self.places = (conventions, *rest) if ours else rest
        super().__init__(jnp=jnp, jax=jax, inf=inf, conventions=conventions, fg=fg)

    def __missing__(self, name):
        for place in self.places:
            if hasattr(place, name):
                return getattr(place, name)
        raise KeyError(name)


def jax_function(kink, *, ours):
    """The call as a function of x, y, z; the text is the grid's own."""
    code = compile(kink.ours, kink.ours, "eval")

    def function(*args):
        names = _Names(ours)
        names.update(zip("xyz", args, strict=False))
        return eval(code, {}, names)

    return function


def torch_function(kink):
    import torch

    names = {"torch": torch, "F": torch.nn.functional, "inf": inf}
    return lambda *args: eval(kink.theirs, names, dict(zip("xyz", args, strict=False)))


def is_complex(kink):
    return any(np.iscomplexobj(np.asarray(v)) for v in kink.at)


def arrays(kink, dtype=float):
    return [jnp.asarray(np.asarray(v), complex if is_complex(kink) else dtype) for v in kink.at]


def total(kink, *, ours, differentiate=jax.grad):
    """The sum of the result, or of its gradient, as a function of x, y, z."""
    function, argnums = jax_function(kink, ours=ours), tuple(range(len(kink.at)))
    result = lambda *args: jnp.sum(jnp.real(function(*args)))
    if kink.order == 1:
        return result
    first = differentiate(result, argnums)
    return lambda *args: sum(jnp.sum(g) for g in first(*args))


def gradient(kink, *, ours, differentiate=jax.grad):
    """The gradients of the sum of the result, in PyTorch's convention for complex numbers."""
    found = differentiate(
        total(kink, ours=ours, differentiate=differentiate), tuple(range(len(kink.at)))
    )
    return lambda *args: [jnp.conj(g) for g in found(*args)]


def compiled(functions, points):
    """Each function at its point, all in one compiled program, which is quick to compile."""
    every = jax.jit(lambda points: [f(*args) for f, args in zip(functions, points, strict=True)])
    return jax.tree.map(np.asarray, every(points))


KNOWN = {}


def jax_gradients(kinks, *, ours, dtype=float, differentiate=jax.grad):
    """The gradient at each kink; what was asked for before is not computed again."""
    keys = [(repr(kink), ours, dtype, differentiate, jax.config.jax_enable_x64) for kink in kinks]
    new = {key: kink for key, kink in zip(keys, kinks, strict=True) if key not in KNOWN}
    functions = [gradient(kink, ours=ours, differentiate=differentiate) for kink in new.values()]
    points = [arrays(kink, dtype) for kink in new.values()]
    KNOWN.update(zip(new, compiled(functions, points), strict=True))
    return [KNOWN[key] for key in keys]


def tensors(kink, dtype="float64"):
    import torch

    wide = torch.complex128 if is_complex(kink) else getattr(torch, dtype)
    return [torch.tensor(np.asarray(v), dtype=wide, requires_grad=True) for v in kink.at]


def torch_gradients(kink, dtype="float64"):
    """PyTorch's gradients of the sum of the result, by reverse mode."""
    import torch

    args = tensors(kink, dtype)
    total = torch_function(kink)(*args)
    total = (total.real if total.is_complex() else total).sum()
    if kink.order == 2:
        first = torch.autograd.grad(total, args, create_graph=True)
        total = sum(g.sum() for g in first)
    if not total.requires_grad:
        return [np.zeros(a.shape) for a in args]
    found = torch.autograd.grad(total, args, allow_unused=True)
    return [
        _array(a if g is None else g) * (g is not None) for g, a in zip(found, args, strict=True)
    ]


def _array(tensor):
    wide = tensor if tensor.is_complex() else tensor.double()
    return wide.detach().resolve_conj().numpy(force=True)


def torch_forward(kink):
    """The same by forward mode, one direction at a time; `None` where PyTorch has none."""
    import torch

    args = [a.detach() for a in tensors(kink)]
    if kink.order == 2 or is_complex(kink):
        return None
    gradients = []
    for index, arg in enumerate(args):
        numbers = []
        for place in range(arg.numel()):
            tangents = [torch.zeros_like(a) for a in args]
            tangents[index].view(-1)[place] = 1
            try:
                _, out = torch.func.jvp(torch_function(kink), tuple(args), tuple(tangents))
            except (NotImplementedError, RuntimeError):
                return None
            numbers.append(float(out.sum()))
        gradients.append(np.asarray(numbers).reshape(arg.shape))
    return gradients


def equal(ours, theirs, rtol=1e-9, atol=1e-12):
    return all(
        np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def shown(arrays):
    return ", ".join(_text(np.asarray(a)) for a in arrays)


def _text(a):
    if a.ndim:
        return "[" + ", ".join(_text(part) for part in a) + "]"
    if np.iscomplexobj(a):
        return f"{_number(a.real)}{float(a.imag) + 0.0:+.5g}i"
    return _number(a)


def _number(a):
    return f"{float(a) + 0.0:.5g}"


def reverse_shown(kinks):
    return [shown(torch_gradients(kink)) for kink in kinks]


def torch_shown(kinks):
    """PyTorch's gradient, and that of its forward mode where it is another one."""
    return [_with_forward(torch_gradients(kink), torch_forward(kink)) for kink in kinks]


def _with_forward(reverse, forward):
    if forward is None or equal(reverse, forward):
        return shown(reverse)
    return f"{shown(reverse)} (forward mode {shown(forward)})"


def jax_shown(kinks):
    return [shown(found) for found in jax_gradients(kinks, ours=False)]


def ours_shown(kinks):
    return [shown(found) for found in jax_gradients(kinks, ours=True)]


def remarks(kinks):
    return [kink.why for kink in kinks]


def instead(kinks):
    return [f"`{kink.write}`" for kink in kinks]


def rewritten(kinks):
    """The idioms as they are to be written."""
    return [kink._replace(ours=kink.write) for kink in kinks]


def call(kink):
    return f"({kink.ours})''" if kink.order == 2 else kink.ours


class Table(NamedTuple):
    """A table of the page.

    Fields:
        kinks: its rows.
        head: the heads of its columns, after the first three.
        columns: for each of those columns, what it shows of every kink.
        first: the head of the first column.
    """

    kinks: list
    head: tuple
    columns: tuple
    first: str = "function"


TABLES = {
    "different": Table(
        DIFFERENT,
        ("PyTorch gives", "JAX gives", "here"),
        (torch_shown, jax_shown, ours_shown),
    ),
    "idioms": Table(
        IDIOMS,
        ("PyTorch gives", "JAX gives", "write"),
        (torch_shown, jax_shown, instead),
        "what ports write",
    ),
    "agreed": Table(AGREED, ("both give",), (reverse_shown,)),
    "other": Table(
        FAULTS, ("PyTorch gives", "JAX gives", "remark"), (torch_shown, jax_shown, remarks)
    ),
}


def names(kink):
    return f"`{call(kink)}`", f"`{kink.theirs}`", shown(kink.at)


def line(cells):
    return "| " + " | ".join(cells) + " |"


def lines(table):
    head = (table.first, "in PyTorch", "at", *table.head)
    yield line(head)
    yield line(["---"] * len(head))
    first = [names(kink) for kink in table.kinks]
    for start, *rest in zip(first, *(shows(table.kinks) for shows in table.columns), strict=True):
        yield line([*start, *rest])


@contextlib.contextmanager
def setting():
    """Double precision, and PyTorch's warnings off."""
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def marked(name):
    """Matches what the page has between the marks of a table."""
    return re.compile(rf"(?<=<!-- {name} -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)


def written():
    """The cells of the page's tables, row by row, without their heads."""
    page = PAGE.read_text()
    rows = {name: marked(name).search(page).group().split("\n")[2:] for name in TABLES}
    return {name: [row[2:-2].split(" | ") for row in found] for name, found in rows.items()}


if __name__ == "__main__":
    page = PAGE.read_text()
    with setting():
        for name, table in TABLES.items():
            text = "\n".join(lines(table))
            page = marked(name).sub(lambda _, text=text: text, page)
    PAGE.write_text(page)
