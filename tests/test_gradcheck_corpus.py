"""`gradcheck` of 200 custom rules that are wrong, and of 300 that are right, in two precisions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiers import one_in

import funcgrad as fg

X = np.array([0.3, -0.7, 1.2])
W = np.array([[0.5, -1.0, 0.125], [0.25, 2.0, -0.5], [-0.75, 1.5, 1.0]])
as_dtype = lambda w, x: w.astype(x.dtype)
FUNCTIONS = {
    "sin": jnp.sin,
    "tanh": jnp.tanh,
    "exp": jnp.exp,
    "square": lambda x: x**2,
    "cube": lambda x: x * x * x,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "softmax": lambda x: jax.nn.softmax(x),
    "log_softmax": lambda x: jax.nn.log_softmax(x),
    "logsumexp": lambda x: jax.nn.logsumexp(x),
    "gelu": lambda x: jax.nn.gelu(x),
    "matmul": lambda x: as_dtype(W, x) @ x,
    "quadratic": lambda x: x @ as_dtype(W, x) @ x,
    "outer": lambda x: jnp.outer(x, x),
    "cumsum": lambda x: jnp.cumsum(jnp.sin(x)),
    "norm": lambda x: jnp.linalg.norm(x),
    "normalized": lambda x: x / jnp.linalg.norm(x),
    "layer norm": lambda x: (x - jnp.mean(x)) / jnp.sqrt(jnp.var(x) + 1e-5),
    "log of a square": lambda x: jnp.log(x**2 + 1),
    "solve": lambda x: jnp.linalg.solve(as_dtype(W, x) + jnp.diag(x), x),
}


def rule(fun, forward=lambda out: out, incoming=lambda g: g, outgoing=lambda g: g):
    """`fun` with a rule of its own, of which the value and both gradients may be changed."""
    made = jax.custom_vjp(fun)
    made.defvjp(
        lambda x: (forward(fun(x)), x),
        lambda x, g: (outgoing(jax.vjp(fun, x)[1](incoming(g))[0]),),
    )
    return made


def pushed(fun, forward=lambda out: out):
    """The same for a rule of forward mode."""
    made = jax.custom_jvp(fun)

    @made.defjvp
    def _(primals, tangents):
        out, dots = jax.jvp(fun, primals, tangents)
        return forward(out), dots

    return made


def beside(fun, large, backward):
    """A small rule in a row with a derivative that is `large` times as big."""
    small = rule(fun, outgoing=backward)
    return lambda x: (
        jnp.sum(jnp.sin(x) * jnp.array([large, 0, 0], x.dtype)) + jnp.sum(jnp.cos(small(x)))
    )


def without_first(g):
    return g.at[1:].set(0)


scaled = lambda fun, unit: lambda x: unit * fun(x)
WRONG = {
    "its value is another": lambda f: rule(f, forward=lambda out: 1.5 * out + 1e-3),
    "its value is off a little": lambda f: pushed(f, forward=lambda out: out * (1 + 1e-3) + 1e-4),
    "squares the gradient": lambda f: rule(f, incoming=lambda g: g**2),
    "takes the absolute value": lambda f: rule(f, incoming=jnp.abs),
    "clips the gradient": lambda f: rule(f, incoming=lambda g: jnp.clip(g, -100, 100)),
    "drops what is small": lambda f: rule(f, incoming=lambda g: jnp.where(abs(g) > 1e-3, g, 0)),
    "adds a constant": lambda f: rule(f, outgoing=lambda g: g + 1e-2),
    "normalizes the gradient": lambda f: rule(f, incoming=lambda g: g / (1 + 1e-3 * jnp.sum(g**2))),
    "is zero at a tiny scale": lambda f: rule(scaled(f, 1e-18), outgoing=lambda g: 0 * g),
    "is zero beside a large one": lambda f: beside(f, 1e8, without_first),
}
RIGHT = {
    "no rule": lambda f: f,
    "custom_vjp": rule,
    "custom_jvp": pushed,
    "both": lambda f: rule(pushed(f)),
    "tiny": lambda f: rule(scaled(f, 1e-20)),
    "tiny without a rule": lambda f: scaled(f, 1e-15),
    "huge": lambda f: pushed(scaled(f, 1e12)),
    "jit": lambda f: jax.jit(rule(f)),
    "checkpoint": lambda f: jax.checkpoint(rule(f)),
    "vmap": lambda f: lambda x: jax.vmap(rule(f))(jnp.stack([x, 2 * x])),
    "scan": lambda f: lambda x: lax.scan(lambda c, s: (c, rule(f)(c * s)), x, x[:2])[1],
    "cond": lambda f: lambda x: lax.cond(x[0] > 0, rule(f), lambda x: 0 * f(x), x),
    "hook": lambda f: lambda x: f(fg.register_hook(x, lambda g: g)),
    "beside a large one": lambda f: beside(f, 1e8, lambda g: g),
    "less itself": lambda f: lambda x: rule(f)(x) - f(x) + x,
}
pairs = lambda kinds: [*itertools.product(FUNCTIONS, kinds)]
spread = lambda kinds: one_in(31, pairs(kinds))


@pytest.fixture(params=["float32", "float64"])
def x(request):
    with jax.enable_x64(request.param == "float64"):
        yield jnp.asarray(X, request.param)


def test_there_are_as_many_as_are_spoken_of():
    assert (len(pairs(WRONG)), len(pairs(RIGHT))) == (200, 300)


@pytest.mark.parametrize(("name", "kind"), spread(WRONG))
def test_a_wrong_rule_is_refused(name, kind, x):
    with pytest.raises(fg.GradcheckError, match=r"disagree|another where|not linear"):
        fg.gradcheck(WRONG[kind](FUNCTIONS[name]), (x,), batched=False)


@pytest.mark.parametrize(("name", "kind"), spread(RIGHT))
def test_a_right_rule_passes(name, kind, x):
    assert fg.gradcheck(RIGHT[kind](FUNCTIONS[name]), (x,), batched=False)
