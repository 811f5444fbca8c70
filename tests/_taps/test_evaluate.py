"""Asking for a tag inside a primitive that holds a program: told where it can be, else refused."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives

import funcgrad as fg
from funcgrad import _jax, _taps


def tag(x):
    return fg.retain_grad(jnp.sin(x), "t")


def custom_jvp(x):
    fun = jax.custom_jvp(tag)
    fun.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), tangents[0]))
    return fun(x)


def custom_vjp(x):
    fun = jax.custom_vjp(tag)
    fun.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (g,))
    return fun(x)


def linear_solve(x):
    return lax.custom_linear_solve(
        lambda y: fg.retain_grad(2 * y, "t"), x, lambda _, b: b / 2, symmetric=True
    )


def root(x):
    return lax.custom_root(
        lambda y: y * y - x, x, lambda *_: tag(jnp.sqrt(x)), lambda g, y: y / g(jnp.ones_like(y))
    )


def reducer(a, b):
    return fg.retain_grad(a * b, "t")


WITH_RULE = {
    "jit": jax.jit(tag),
    "scan": lambda x: lax.scan(lambda c, _: (tag(c), None), x, None, length=1)[0],
    "cond": lambda x: lax.cond(x.sum() > 0, tag, jnp.cos, x),
    "remat2": jax.checkpoint(tag),
}
BLOCKED = {
    "while": lambda x: lax.while_loop(lambda c: c.sum() > 1, tag, x),
    "custom_jvp_call": custom_jvp,
    "custom_vjp_call": custom_vjp,
    "custom_linear_solve": linear_solve,
    "reduce": lambda x: lax.reduce(x, np.float32(1), reducer, (0,)),
    "reduce_window": lambda x: lax.reduce_window(x, np.float32(1), reducer, (1,), (1,), "VALID"),
    "scatter": lambda x: x.at[0].apply(tag),
}
# Without a jaxpr, or with one that only JAX itself makes, so that no tag can stand in it.
CLOSED_TO_USERS = {"custom_lin", "reduce_precision"}
CALLS = {"call", "closed_call", "eval_jaxpr"}


def test_every_primitive_that_may_carry_a_jaxpr_is_in_one_of_the_tables():
    words = ("call", "scan", "cond", "while", "jit", "remat", "custom", "eval", "checkpoint")
    names = {p.name for key, p in vars(primitives).items() if key.endswith("_p")}
    carriers = {name for name in names if any(word in name for word in words)}
    assert carriers <= {*WITH_RULE, *BLOCKED, *CLOSED_TO_USERS, *CALLS}


@pytest.mark.usefixtures("current_forms")
@pytest.mark.parametrize("name", [*WITH_RULE, *BLOCKED])
def test_the_example_of_each_table_holds_the_primitive_it_is_named_after(name):
    fun = {**WITH_RULE, **BLOCKED}[name]
    jaxpr = jax.make_jaxpr(fun)(jnp.full(3, 0.5))
    assert name in {eqn.primitive.name for eqn in jaxpr.eqns}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_RULE)
def test_a_tag_inside_a_primitive_with_a_rule_is_retained(name):
    x = jnp.full(3, 0.5)
    _, retained = fg.grad(lambda x: jnp.sum(WITH_RULE[name](x) ** 2), retain="t")(x)
    np.testing.assert_allclose(retained["t"].grad.reshape(3), 2 * jnp.sin(x), rtol=1e-6)


@pytest.mark.parametrize("name", BLOCKED)
def test_asking_for_a_tag_inside_any_other_primitive_raises(name):
    match = rf"(?s)'t' in `retain`, tagged at .*test_evaluate.py:\d+, inside `{name}`"
    with pytest.raises(fg.TagError, match=match):
        fg.grad(lambda x: jnp.sum(BLOCKED[name](x)), retain=...)(jnp.full(3, 0.5))


@pytest.mark.parametrize("name", BLOCKED)
def test_a_blocked_tag_that_nobody_asks_for_is_no_obstacle(name):
    assert jnp.all(jnp.isfinite(jax.jit(BLOCKED[name])(jnp.full(3, 0.5))))


def test_a_tag_inside_custom_root_raises_under_either_form_jax_gives_it():
    with pytest.raises(fg.TagError, match=r"'t' in `retain`, tagged at .*inside `"):
        fg.grad(lambda x: jnp.sum(root(x)), retain=...)(jnp.ones(3))


def test_an_untagged_body_is_not_entered():
    calls = []

    @jax.jit
    def untagged(x):
        calls.append("trace")
        return jnp.cos(x)

    fg.grad(lambda x: tag(untagged(x)), retain="t")(1.0)
    assert calls == ["trace"]


def test_a_body_shared_by_many_calls_is_walked_once():
    inner = jax.jit(tag)
    program = jax.make_jaxpr(lambda x: inner(x) + inner(x))(1.0)
    found = [_taps.find(e.bodies[0].program) for e in _jax.equations(program) if e.bodies]
    assert found[0] is found[1]
    assert list(found[0]) == ["t"]


@pytest.mark.slow
def test_nothing_outlives_the_jitted_function_it_was_made_for():
    def use():
        held = jnp.ones(1000)
        fun = jax.jit(lambda x: tag(x * held))
        fg.grad(lambda x: jnp.sum(fun(x)), retain="t")(2.0)
        return weakref.ref(held)

    gone = use()
    jax.clear_caches()
    gc.collect()
    assert gone() is None


def test_donation_is_kept_when_a_jitted_function_is_entered_again():
    fun = jax.jit(lambda x: tag(x) * 2, donate_argnums=0)
    x = jnp.ones(3)
    fg.grad(lambda x: jnp.sum(fun(x)), retain="t")(x)
    assert x.is_deleted()


def test_shardings_of_a_jitted_function_are_kept():
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("d"))
    fun = jax.jit(tag, in_shardings=rows, out_shardings=rows)
    retained = jax.jit(fg.grad(lambda x: jnp.sum(fun(x)), retain="t")).lower(jnp.ones(8)).as_text()
    plain = jax.jit(jax.grad(lambda x: jnp.sum(fun(x)))).lower(jnp.ones(8)).as_text()
    assert retained.count("sdy.sharding") >= plain.count("sdy.sharding") > 0
