"""The hints of `detect_anomaly`: each where the values say so, and each remedy a remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiers import slow_but

import funcgrad as fg
from funcgrad import conventions

HALF, BF16 = jnp.float16, jnp.bfloat16
ZEROS, TWO = jnp.zeros(3), jnp.array([2.0, 0.0])
MIXED = jnp.array([1.0, -0.5])


def said(fun, *args, **options):
    with pytest.raises(fg.AnomalyError) as caught:
        fg.detect_anomaly(fun, **{"mode": "interpreted"} | options)(*args)
    return caught.value


def total(fun):
    return lambda x: jnp.sum(fun(x).astype(jnp.float32))


def safe_sqrt(x):
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


REMEDIES = [
    ("where(x > 0, sqrt(where(x > 0, x, 1.0)), 0.0)", jnp.sqrt, safe_sqrt, MIXED),
    ("where(x > 0, sqrt(where(x > 0, x, 1.0)), 0.0)", lambda x: jnp.sqrt(x) * x, safe_sqrt, TWO),
    ("sqrt(x + 1e-12)", lambda x: x * jnp.sqrt(x), lambda x: x * jnp.sqrt(x + 1e-12), TWO),
    ("rsqrt(maximum(x, 1e-6))", lax.rsqrt, lambda x: lax.rsqrt(jnp.maximum(x, 1e-6)), MIXED),
    ("log(maximum(x, 1e-6))", jnp.log, lambda x: jnp.log(jnp.maximum(x, 1e-6)), MIXED),
    (
        "log1p(maximum(x, -1 + 1e-6))",
        jnp.log1p,
        lambda x: jnp.log1p(jnp.maximum(x, -1 + 1e-6)),
        2 * MIXED - 1,
    ),
    (
        "clip(x, -1 + 1e-6, 1 - 1e-6)",
        jnp.arccos,
        lambda x: jnp.arccos(jnp.clip(x, -1 + 1e-6, 1 - 1e-6)),
        3 * MIXED,
    ),
    (
        "arcsin has an infinite derivative at -1 and 1",
        lambda x: (1 - x) * jnp.arcsin(x),
        lambda x: (1 - x) * jnp.arcsin(jnp.clip(x, -1 + 1e-6, 1 - 1e-6)),
        MIXED,
    ),
    (
        "arccos has an infinite derivative at -1 and 1",
        lambda x: (1 - x) * jnp.arccos(x),
        lambda x: (1 - x) * jnp.arccos(jnp.clip(x, -1 + 1e-6, 1 - 1e-6)),
        MIXED,
    ),
    ("maximum(x, 1 + 1e-6)", jnp.arccosh, lambda x: jnp.arccosh(jnp.maximum(x, 1 + 1e-6)), MIXED),
    (
        "arccosh has an infinite derivative at 1",
        lambda x: (1 - x) * jnp.arccosh(x),
        lambda x: (1 - x) * jnp.arccosh(jnp.maximum(x, 1 + 1e-6)),
        jnp.array([1.0, 2.0]),
    ),
    (
        "where(x == 0, 0.0, cbrt(where(x == 0, 1.0, x)))",
        lambda x: x * jnp.cbrt(x),
        lambda x: x * jnp.where(x == 0, 0.0, jnp.cbrt(jnp.where(x == 0, 1.0, x))),
        TWO,
    ),
    (
        "where(x > 0, where(x > 0, x, 1.0) ** p, 0.0)",
        lambda x: x * x**0.3,
        lambda x: x * jnp.where(x > 0, jnp.where(x > 0, x, 1.0) ** 0.3, 0.0),
        TWO,
    ),
    (
        "sign(x) * abs(x) ** p",
        lambda x: x**0.3,
        lambda x: jnp.sign(x) * jnp.abs(x) ** 0.3,
        MIXED,
    ),
    (
        "divide by where(y == 0, 1.0, y), and choose",
        lambda x: x / (x * x),
        lambda x: jnp.where(x * x == 0, 0.0, x / jnp.where(x * x == 0, 1.0, x * x)),
        TWO,
    ),
    (
        "a division by 0 has an infinite derivative; divide by where(y == 0, 1.0, y)",
        lambda x: 1 / jnp.sum(x**2),
        lambda x: 1 / jnp.where(jnp.sum(x**2) == 0, 1.0, jnp.sum(x**2)),
        ZEROS,
    ),
    (
        "add a small number (eps) to the divisor",
        lambda x: x * lax.rsqrt(x),
        lambda x: x * lax.rsqrt(x + 1e-6),
        TWO,
    ),
    (
        "exp overflowed; for a softmax or logsumexp take those of jax.nn",
        lambda x: jnp.log(jnp.sum(jnp.exp(x))),
        jax.nn.logsumexp,
        100 * TWO,
    ),
    (
        "exp(minimum(x, 44))",
        lambda x: jnp.exp(x) * 0,
        lambda x: jnp.exp(jnp.minimum(x, 44)) * 0,
        100 * TWO,
    ),
    (
        "cosh overflowed",
        lambda x: jnp.cosh(x) - jnp.cosh(x),
        lambda x: jnp.cosh(jnp.minimum(x, 44)),
        100 * TWO,
    ),
    (
        "expm1 overflowed",
        lambda x: jnp.expm1(x) * 0,
        lambda x: jnp.expm1(jnp.minimum(x, 44)) * 0,
        100 * TWO,
    ),
    (
        "bfloat16 holds no more than 3.39e+38; compute this in float32",
        lambda x: jnp.square(x) * jnp.square(x) * 0,
        lambda x: (lambda x: jnp.square(x) * jnp.square(x) * 0)(x.astype(jnp.float32) / 1e5),
        jnp.array([1e12], BF16),
    ),
    (
        "float16 holds no more than 6.55e+04; compute this in float32",
        lambda x: x * x - x * x,
        lambda x: (lambda x: x * x - x * x)(x.astype(jnp.float32)),
        jnp.array([300.0], HALF),
    ),
    (
        "mask with a large negative number, -1e9",
        lambda x: jax.nn.softmax(jnp.where(x > 5, x, -jnp.inf)),
        lambda x: jax.nn.softmax(jnp.where(x > 5, x, -1e9)),
        MIXED,
    ),
    (
        "p * log(maximum(p, 1e-30))",
        lambda p: jnp.log(p) * p,
        lambda p: p * jnp.log(jnp.maximum(p, 1e-30)),
        TWO,
    ),
    (
        "add a small multiple of the identity",
        jnp.linalg.cholesky,
        lambda x: jnp.linalg.cholesky(x + 2 * jnp.eye(2)),
        jnp.array([[1.0, 2.0], [2.0, 1.0]]),
    ),
    (
        "singular; add a small multiple of the identity",
        lambda x: jnp.linalg.solve(x, jnp.ones(3)),
        lambda x: jnp.linalg.solve(x + 1e-3 * jnp.eye(3), jnp.ones(3)),
        jnp.zeros((3, 3)),
    ),
    (
        "use the eigenvalues alone (eigvalsh)",
        lambda x: jnp.linalg.eigh(x)[1],
        jnp.linalg.eigvalsh,
        jnp.eye(3),
    ),
    (
        "add small numbers to the diagonal, all different",
        lambda x: jnp.linalg.eigh(x)[1],
        lambda x: jnp.linalg.eigh(x + jnp.diag(1e-2 * jnp.arange(3.0)))[1],
        jnp.eye(3),
    ),
    (
        "the singular values alone (compute_uv=False)",
        lambda x: jnp.linalg.svd(x)[0],
        lambda x: jnp.linalg.svd(x, compute_uv=False),
        jnp.eye(3),
    ),
    (
        "index with mode='clip'",
        lambda x: x.at[5].get(mode="fill"),
        lambda x: x.at[5].get(mode="clip"),
        TWO,
    ),
    (
        "the other side of a `where` was taken here",
        lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0),
        lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 0.5)), 0.0),
        TWO,
    ),
    (
        "the other side of a `where` is taken here",
        lambda x: jnp.where(x > 0, jnp.log(x), 0.0),
        lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 0.5)), 0.0),
        MIXED,
    ),
    (
        "where(ok, f(where(ok, x, 0.5)), other)",
        lambda x: jnp.where(jnp.abs(x) < 1, jnp.arccos(x) * 3, 0.0),
        lambda x: jnp.where(jnp.abs(x) < 1, jnp.arccos(jnp.where(jnp.abs(x) < 1, x, 0.5)) * 3, 0.0),
        MIXED,
    ),
    (
        "where(ok, f(where(ok, x, 0.5)), other)",
        lambda x: jnp.where(x < 50, jnp.exp(x), 0.0),
        lambda x: jnp.where(x < 50, jnp.exp(jnp.where(x < 50, x, 0.5)), 0.0),
        100 * TWO,
    ),
    ("funcgrad.conventions.norm", jnp.linalg.norm, conventions.norm, ZEROS),
    (
        "funcgrad.conventions.vector_norm",
        jnp.linalg.vector_norm,
        conventions.vector_norm,
        ZEROS,
    ),
    (
        "funcgrad.conventions.norm",
        lambda x: jnp.linalg.norm(x, 0.5),
        lambda x: conventions.norm(x, 0.5),
        ZEROS,
    ),
    ("funcgrad.conventions.std", jnp.std, conventions.std, jnp.ones(3)),
    (
        "funcgrad.conventions.arctan2",
        lambda x: jnp.arctan2(x[0], x[1]),
        lambda x: conventions.arctan2(x[0], x[1]),
        ZEROS,
    ),
    (
        "funcgrad.conventions.angle",
        lambda x: jnp.angle(lax.complex(x[0], x[1])),
        lambda x: conventions.angle(lax.complex(x[0], x[1])),
        ZEROS,
    ),
    (
        "funcgrad.conventions.power",
        lambda x: jnp.power(x, 0.0 * x),
        lambda x: conventions.power(x, 0.0 * x),
        ZEROS,
    ),
    (
        "funcgrad.conventions.power",
        lambda x: x ** (0.0 * x),
        lambda x: conventions.power(x, 0.0 * x),
        ZEROS,
    ),
    (
        "and float_power, have",
        lambda x: jnp.float_power(x, 0.0 * x),
        lambda x: conventions.float_power(x, 0.0 * x),
        ZEROS,
    ),
]


@pytest.mark.parametrize(
    ("remedy", "faulty", "mended", "x"),
    slow_but(lambda remedy, *_: remedy.startswith(("where(x > 0", "the other", "sign")), REMEDIES),
)
def test_each_remedy_has_a_finite_value_and_gradient(remedy, faulty, mended, x):
    error = said(jax.value_and_grad(total(faulty)), x)
    assert remedy in error.anomaly.hint
    value, grad = jax.value_and_grad(total(mended))(x)
    assert np.isfinite(value)
    assert np.isfinite(grad.astype(jnp.float32)).all()


ROWS = jnp.array([[1.0, 2.0], [0.0, 0.0]])
AFTER = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "softmax": jax.nn.softmax,
    "log_softmax": lambda h: jax.nn.log_softmax(h)[:, 0],
    "logsumexp": lambda h: jax.nn.logsumexp(h, -1),
    "clip": lambda h: jnp.clip(h, -5, 5),
    "abs": jnp.abs,
    "tril": jnp.tril,
    "max": lambda h: jnp.max(h, -1),
    "a `where` that keeps it": lambda h: jnp.where(jnp.ones(h.shape, bool), h / 0.9, 0.0),
    "a `where` that drops others": lambda h: jnp.where(jnp.arange(2)[:, None] == 1, h, 0.0),
}


@pytest.mark.parametrize("name", slow_but(lambda name: name == "softmax", AFTER))
def test_a_hint_on_where_needs_a_where_that_dropped_it(name):
    def loss(x):
        length = jnp.sqrt(jnp.sum(x**2, -1, keepdims=True))
        return jnp.sum(AFTER[name](x / (length + 1e-6)) ** 2)

    anomaly = said(jax.grad(loss), ROWS).anomaly
    assert "sqrt has an infinite derivative at 0" in anomaly.hint
    assert anomaly.source == "jnp.sqrt(jnp.sum(x**2, -1, keepdims=True))"


DROPPED = {
    "at once": lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0),
    "lines later": lambda x: jnp.where(x > 0, jnp.tanh(3 * jnp.sqrt(x) + 1), 0.0),
    "after a matrix product": lambda x: jnp.where((x > 0)[:, None], jnp.sqrt(x)[:, None] * 2, 0.0),
    "by select": lambda x: lax.select(x > 0, jnp.sqrt(x), jnp.zeros_like(x)),
    "in a jit": lambda x: jnp.where(x > 0, jax.jit(lambda x: jnp.sqrt(x) * 2)(x), 0.0),
    "in a vmap": jax.vmap(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)),
    "in a scan": lambda x: lax.scan(
        lambda c, x: (c + jnp.where(x > 0, jnp.sqrt(x), 0.0), None), 0.0, x
    )[0],
    "in a loop": lambda x: fg.fori_loop(
        0, 2, lambda i, c: c + jnp.where(x[i] > 0, jnp.sqrt(x[i]), 0.0), 0.0
    ),
}


@pytest.mark.parametrize("name", slow_but(lambda name: name == "lines later", DROPPED))
def test_a_where_that_dropped_it_is_followed(name):
    for x, phrase in ((TWO, "was taken here"), (MIXED, "is taken here")):
        if phrase == "is taken here" and name in ("in a jit",):
            continue
        hint = said(jax.grad(total(DROPPED[name])), x).anomaly.hint
        assert f"the other side of a `where` {phrase}" in hint


def test_of_two_entries_the_one_that_is_told_decides():
    fun = lambda x: jnp.where(x[0] > -2, jnp.where(x > -0.7, jnp.sqrt(x), 0.0), jnp.sqrt(x))
    for x, where in ((jnp.array([-1.0, -0.5]), True), (jnp.array([-0.5, -1.0]), False)):
        assert ("`where`" in said(jax.jit(fun), x).anomaly.hint) is where


def exactly(x):
    t = jnp.trace(x @ jnp.eye(3))
    return jnp.arccos((t - 1) / 2)


def squares(x):
    s = jnp.sum((x @ jnp.eye(3)) ** 2)
    return jnp.sqrt(s)


def mean(x):
    centred = x - jnp.mean(x)
    return jnp.arcsin(jnp.sum(centred * jnp.array([0.0, 1.0, 2.0])) + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fun", "x", "source"),
    [
        (exactly, jnp.eye(3), "jnp.arccos((t - 1) / 2)"),
        (squares, ZEROS, "jnp.sqrt(s)"),
        (mean, jnp.ones(3), "jnp.arcsin(jnp.sum(centred * jnp.array([0.0, 1.0, 2.0])) + 1)"),
    ],
)
def test_the_place_is_where_the_gradient_got_infinite(fun, x, source):
    error = said(jax.grad(fun), x)
    assert error.anomaly.source == source
    assert "where the gradient got infinite; it was multiplied by 0" in str(error)
