"""The one door to JAX's internals, on this JAX and on stand-ins for the shape of the other's."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from closeness import assert_same
from jax import lax

from funcgrad import _compat as compat

X = jnp.array([1.0, 2.0, 3.0])
BODY = jax.make_jaxpr(lambda w, c, x: (c * w + x, c))(1.0, 2.0, 3.0)


def equation(name, params):
    return SimpleNamespace(primitive=SimpleNamespace(name=name), params=params)


def traced(fun, *args):
    (eqn,) = jax.make_jaxpr(fun)(*args).eqns
    return eqn


def test_a_program_is_traced_as_make_jaxpr_traces_it():
    outer = jnp.arange(3.0)

    def fun(x, n, key):
        with jax.named_scope("inner"):
            y = jnp.where(x > n, x * outer, 2.0)
        return [y, n + 1, 3, jax.random.fold_in(key, n), jax.jit(jnp.sin)(y)]

    operands = [X, 2, jax.random.key(0)]
    want = jax.make_jaxpr(fun)(*operands)
    for given in (operands, [*map(jax.typeof, operands)]):
        with jax.named_scope("outer"):
            got = compat.trace(fun, given)
        assert str(got) == str(want)
        assert got.out_avals == want.out_avals
        assert [id(x) for x in got.consts] == [id(x) for x in want.consts]
        stacks = [[str(e.source_info.name_stack) for e in j.eqns] for j in (got, want)]
        assert stacks[0] == stacks[1]
        assert "inner" in stacks[0]


LOOP = {"jaxpr": BODY, "length": 3, "reverse": True, "unroll": 2, "_split_transpose": False}
COUNTS = {"num_consts": 1, "num_carry": 1, "linear": (False,) * 3}
TREES = {"ft_in": SimpleNamespace(unpack=lambda: [SimpleNamespace(vals=(0,)) for _ in range(3)])}


@pytest.mark.parametrize("shape", [COUNTS, TREES], ids=["counts", "trees"])
def test_scan_is_read_whatever_shape_its_parameters_have(shape):
    loop = compat.scan(equation("scan", {**LOOP, **shape}))
    assert (loop.length, loop.consts, loop.carry) == (3, 1, 1)
    assert loop.options == {
        "length": 3,
        "reverse": True,
        "unroll": 2,
        "_split_transpose": False,
    }
    assert compat.open_up(loop.body) is compat.open_up(BODY)


@pytest.mark.parametrize("body", [BODY, compat.open_up(BODY)], ids=["closed", "open"])
def test_bodies_are_closed_whichever_class_they_have(body):
    loop = compat.scan(equation("scan", {**LOOP, **COUNTS, "jaxpr": body}))
    call = compat.checkpoint(
        equation("checkpoint", {"jaxpr": body, "policy": None, "prevent_cse": True})
    )
    for closed in (loop.body, call.body, *compat.branches(equation("cond", {"branches": [body]}))):
        assert isinstance(closed, compat.ClosedJaxpr)
        assert compat.jaxpr_as_fun(closed)(2.0, 3.0, 4.0) == [10.0, 3.0]


def test_scan_of_this_jax_is_read():
    step = lambda c, x: (c * X[0] + x, c)
    eqn = traced(lambda c, xs: lax.scan(step, c, xs, reverse=True, unroll=3), 1.0, X)
    loop = compat.scan(eqn)
    assert (loop.length, loop.carry, loop.options["reverse"]) == (3, 1, True)
    assert loop.consts + loop.carry + 1 == len(eqn.invars)
    assert loop.options["unroll"] == 3


def test_scan_of_a_backward_pass_is_read():
    step = jax.checkpoint(lambda c, a: (jnp.sin(c * a), None))
    fun = jax.grad(lambda c: lax.scan(step, c, X)[0])
    *_, eqn = (e for e in jax.make_jaxpr(fun)(1.0).eqns if compat.kind(e) == "scan")
    loop = compat.scan(eqn)
    assert (loop.length, loop.options["reverse"]) == (3, True)
    xs = eqn.invars[loop.consts + loop.carry :]
    assert xs
    assert all(v.aval.shape[0] == 3 for v in xs)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pjit", "jit"),
        ("jit", "jit"),
        ("remat2", "checkpoint"),
        ("checkpoint", "checkpoint"),
        ("shard_map", "shard_map"),
        ("sin", "sin"),
    ],
)
def test_kind_does_not_change_with_the_release(name, kind):
    assert compat.kind(equation(name, {})) == kind


@pytest.mark.parametrize(
    ("fun", "kind"),
    [
        (jax.jit(jnp.tanh), "jit"),
        (jax.checkpoint(jnp.tanh), "checkpoint"),
        (lambda x: lax.map(jnp.tanh, x), "scan"),
    ],
)
def test_kind_on_this_jax(fun, kind):
    assert compat.kind(traced(fun, X)) == kind


def test_jit_of_this_jax_is_read_with_its_options():
    fun = jax.jit(lambda x, y: x * y, donate_argnums=1, keep_unused=True)
    call = compat.jit(traced(lambda x, y: fun(x, y), X, X))
    assert call.options["donate_argnums"] == (1,)
    assert call.options["in_shardings"] == (None, None)
    assert call.options["out_shardings"] == (None,)
    assert call.options["keep_unused"] is True
    assert_same(compat.jaxpr_as_fun(call.body)(X, X), [X * X])


def test_checkpoint_of_this_jax_is_read_with_its_policy():
    policy = jax.checkpoint_policies.dots_saveable
    eqn = traced(jax.checkpoint(jnp.tanh, policy=policy, prevent_cse=False), X)
    assert compat.checkpoint(eqn).options == {"prevent_cse": False, "policy": policy}
    assert not compat.is_recomputation(eqn)


def test_recomputation_is_told_from_the_first_computation():
    fun = jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.sin(jnp.sin(x)))))
    again = [compat.is_recomputation(eqn) for eqn in jax.make_jaxpr(fun)(X).eqns]
    assert sum(again) == 1


def test_consts_become_leading_inputs():
    closed = jax.make_jaxpr(lambda y: X * y)(2.0)
    opened = compat.without_consts(closed)
    assert opened.consts == [] or tuple(opened.consts) == ()
    assert_same(compat.jaxpr_as_fun(opened)(*closed.consts, 2.0), [2 * X])


def test_used_inputs_look_into_bodies():
    fun = lambda a, b, c: lax.scan(lambda s, x: (s * a, x), b, X)[0]
    assert compat.used_inputs(jax.make_jaxpr(fun)(1.0, 2.0, 3.0)) == [True, True, False]


def test_scopes_are_those_of_the_user_alone():
    def fun(x):
        with jax.named_scope("a"), jax.named_scope("b"):
            return jax.vmap(jnp.sin)(x)

    assert compat.scopes(traced(fun, X)) == ("a", "b")


def test_consecutive_equations_are_a_program():
    jaxpr = compat.open_up(jax.make_jaxpr(lambda x: jnp.cos(jnp.sin(x)))(X))
    first = jaxpr.eqns[:1]
    run = compat.program(jaxpr, first, first[0].invars, first[0].outvars)
    assert_same(run(X), [jnp.sin(X)])


def test_a_while_of_this_jax_is_read():
    fun = lambda a, x: lax.while_loop(lambda s: s < a * 9, lambda s: s * a * 2, x)
    loop = compat.while_loop(traced(fun, 1.0, 2.0))
    assert (loop.conds, loop.consts) == (1, 1)
    assert compat.jaxpr_as_fun(loop.cond)(1.0, 2.0) == [True]
    assert compat.jaxpr_as_fun(loop.body)(1.0, 2.0) == [4.0]


def test_custom_functions_of_this_jax_are_read():
    jvp = jax.custom_jvp(lambda x: x * 2)
    jvp.defjvp(lambda primals, tangents: (jvp(*primals), tangents[0]))
    vjp = jax.custom_vjp(lambda x: x * 2)
    vjp.defvjp(lambda x: (vjp(x), None), lambda _, ct: (ct,))
    for fun in (jvp, vjp):
        call = compat.custom(traced(fun, X))
        assert_same(compat.jaxpr_as_fun(call.body)(X), [2 * X])


def test_an_equation_is_a_program_of_the_variables_it_reads():
    jaxpr = compat.open_up(jax.make_jaxpr(lambda x, y: (x * x, y + 2.0))(X, X))
    square, added = (compat.alone(jaxpr, eqn) for eqn in jaxpr.eqns)
    assert (square[1], added[1]) == ([jaxpr.invars[0]], [jaxpr.invars[1]])
    assert_same(compat.jaxpr_as_fun(added[0])(X), [X + 2])


def test_the_calls_behind_an_equation_are_told():
    def inner(x):
        return jnp.sin(x)

    frames = compat.frames(traced(lambda x: inner(x), X))
    here = [frame for frame in frames if frame.file == __file__]
    assert [frame.function for frame in here[:2]] == ["inner", "<lambda>"]
    line = Path(__file__).read_text().splitlines()[here[0].line - 1]
    assert line[here[0].column : here[0].end_column] == "jnp.sin(x)"


def test_the_transformations_around_an_equation_are_told():
    eqns = jax.make_jaxpr(jax.vmap(jax.grad(lambda x: jnp.sin(jnp.sin(x)))))(X).eqns
    assert compat.transforms(eqns[0]) == ["vmap", "jvp"]
    assert compat.transforms(eqns[-1]) == ["vmap", "transpose", "jvp"]
