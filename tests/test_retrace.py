"""A second call with the same shapes traces nothing and compiles nothing; no tracer leaks."""

import itertools

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from tiers import one_in, slow_but

import funcgrad as fg

X = jnp.array([1.0, 2.0, 3.0])


def block(x):
    step = lambda c, a: (fg.register_hook(fg.retain_grad(c * a, "scan"), lambda g: g * c), None)
    c, _ = lax.scan(step, jnp.float32(1), x)
    y = jax.checkpoint(lambda x: fg.retain_grad(jnp.sin(x), "ckpt"))(x)
    y = lax.cond(c > 0, lambda y: fg.retain_grad(2 * y, "cond"), lambda y: y, y)
    y = jax.vmap(lambda a: fg.retain_grad(a * a, "vmap"))(y)
    return fg.set_data(y, y + 1) * fg.detach(c) * fg.no_grad(jnp.cos)(x)


TRANSFORMS = {
    "grad": lambda f: fg.grad(lambda x: jnp.sum(f(x))),
    "value_and_grad": lambda f: fg.value_and_grad(lambda x: jnp.sum(f(x))),
    "grad retain": lambda f: fg.grad(lambda x: jnp.sum(f(x)), retain=...),
    "grad unused": lambda f: fg.grad(lambda x: jnp.sum(f(x)), allow_unused=False),
    "grad gradient": lambda f: fg.grad(f, gradient=X),
    "grad mask": lambda f: fg.grad(lambda x: jnp.sum(f(x)), requires_grad=True),
    "vjp": lambda f: lambda x: fg.vjp(f, x)[1](x),
    "vjp retain": lambda f: lambda x: fg.vjp(f, x, retain=...)[1](x),
    "no_grad": lambda f: fg.no_grad(f),
    "detach": lambda f: lambda x: fg.detach(f(x)),
    "set_data": lambda f: lambda x: fg.set_data(x, f(x)),
    "accumulate": lambda f: lambda x: fg.accumulate_grad(fg.zero_grad(x), f(x)),
    "grad of grad": lambda f: fg.grad(
        lambda x: jnp.sum(fg.grad(lambda x: jnp.sum(f(x)), retain="vmap")(x)[1]["vmap"].grad),
        retain="ckpt",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_inside_jit_the_function_is_traced_once(name):
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(block, n=1)
    fun = jax.jit(TRANSFORMS[name](traced))
    first, other = fun(X), 2 * X
    with jax.no_tracing():
        second = fun(other)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert fun._cache_size() == 1


FEW = ("value_and_grad", "grad retain", "vjp", "set_data")
few = pytest.mark.parametrize("name", slow_but(FEW.__contains__, TRANSFORMS))


@pytest.mark.slow
@few
def test_around_a_jitted_function_it_is_traced_once_for_all_calls(name):
    chex.clear_trace_counter()
    fun = TRANSFORMS[name](jax.jit(chex.assert_max_traces(block, n=1)))
    fun(X)
    fun(2 * X)


@pytest.mark.slow
@few
def test_around_a_jitted_function_a_second_call_compiles_nothing(name, caplog):
    # A function of its own: jitted functions of one function share what they have compiled.
    fun, other = TRANSFORMS[name](jax.jit(lambda x: block(x))), 2 * X

    def compiled(x):
        caplog.clear()
        with jax.log_compiles():
            jax.block_until_ready(fun(x))
        messages = [record.getMessage() for record in caplog.records]
        return [message for message in messages if message.startswith("Compiling")]

    assert compiled(X) != []
    assert compiled(other) == []


def test_another_shape_is_traced_anew_and_the_first_stays_known():
    traces = []

    def fun(x):
        traces.append(x.shape)
        return jnp.sum(fg.retain_grad(x * x, "y"))

    jitted = jax.jit(fg.grad(fun, retain="y"))
    for x in (X, X[:2], X, X[:2]):
        jitted(x)
    assert traces == [(3,), (2,)]


@pytest.mark.usefixtures("checking_leaks")
@pytest.mark.parametrize(
    ("name", "jitted"), one_in(3, [*itertools.product(TRANSFORMS, [False, True])])
)
def test_no_tracer_leaks(name, jitted):
    fun = TRANSFORMS[name](block)
    assert jax.block_until_ready((jax.jit(fun) if jitted else fun)(X)) is not None


@pytest.mark.usefixtures("checking_leaks")
def test_no_tracer_leaks_from_a_jitted_body_that_closes_over_a_tracer():
    def fun(x):
        inner = jax.jit(lambda y: fg.retain_grad(x * y, "y"))
        return jnp.sum(inner(x))

    assert jax.jit(jax.vmap(fg.grad(fun, retain="y")))(jnp.stack([X, X]))[1]["y"].grad.sum() == 6
