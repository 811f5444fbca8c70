"""Loops that would go on after `max_steps`: no integer of one passes for a finished one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import funcgrad as fg

# JAX raises the one at once, and the other where it comes late.
ERRORS = (fg.GradientError, ValueError, jax.errors.JaxRuntimeError)
MESSAGE = r"would go on after max_steps=4 steps"


def doublings(x, **more):
    """How often 1 is doubled until it is `x`, and what it is then: at most 16 in 4 steps."""
    step = lambda s: (s[0] + 1, s[1] * 2)
    return fg.while_loop(lambda s: s[1] < x, step, (0, 1.0), max_steps=4, **more)


def refused(f, *args):
    def run():
        jax.block_until_ready(f(*args))
        jax.effects_barrier()

    with pytest.raises(ERRORS, match=MESSAGE):
        run()


def counted(n):
    return fg.fori_loop(0, n, lambda i, c: c + i, 0, max_steps=4)


def marked(n):
    seen = fg.fori_loop(0, n, lambda i, m: m.at[i].set(True), jnp.zeros(9, bool), max_steps=4)
    return jnp.sum(seen)


def drawn(n):
    step = lambda i, key: jax.random.split(key)[0]
    key = fg.fori_loop(0, n, step, jax.random.key(0), max_steps=4)
    return jax.random.uniform(key)


def looked_up(n):
    index = fg.fori_loop(0, n, lambda i, c: c + 1, 0, max_steps=4)
    return jnp.arange(9.0)[index]


def written(n):
    def fun(n):
        count = 0
        while count < n:
            count = count + 1
        return count

    return fg.autograph(fun, max_steps=4)(n)


def left_early(n):
    def fun(n):
        x = jnp.float32(0)
        while x < 100:
            x = x + 1
            if x >= n:
                return x
        return -x

    return fg.autograph(fun, max_steps=4)(n)


@pytest.mark.slow
@pytest.mark.parametrize("f", [counted, marked, drawn, looked_up, written, left_early])
def test_what_is_no_float_is_an_error_to_use(f):
    compiled = jax.jit(f)
    want = {counted: 6, marked: 4, looked_up: 4, written: 4, left_early: 4}
    assert f is drawn or compiled(4) == want[f]
    refused(compiled, 5)


def test_error_names_the_line_and_what_to_do():
    with pytest.raises(fg.GradientError, match=r"test_loops_unfinished.py:\d+.*on_max_steps='nan'"):
        doublings(50.0)


@pytest.mark.slow
def test_gradient_by_an_index_is_an_error_too():
    table = jnp.arange(9.0)
    f = jax.jit(jax.grad(lambda table, x: table[doublings(x)[0]] ** 2))
    assert f(table, 16.0).tolist() == [0, 0, 0, 0, 8, 0, 0, 0, 0]
    refused(f, table, 17.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "around",
    [
        jax.vmap,
        lambda f: lambda xs: jax.lax.scan(lambda c, x: (c, f(x)), 0, xs)[1],
        lambda f: lambda xs: jax.lax.map(jax.checkpoint(f), xs),
        lambda f: lambda xs: jnp.stack([jax.lax.cond(x > 2, f, lambda x: 0, x) for x in xs]),
        lambda f: lambda xs: jnp.stack([jax.jit(f)(x) for x in xs]),
    ],
)
def test_one_loop_of_many_is_enough(around):
    f = jax.jit(around(lambda x: doublings(x)[0]))
    assert f(jnp.array([3.0, 16.0])).tolist() == [2, 4]
    refused(f, jnp.array([3.0, 17.0]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("axes", [{"d"}, {"d", "m"}])
def test_one_device_of_many_is_enough(kind, axes):
    if kind == AxisType.Explicit and axes == {"d"}:
        pytest.skip("JAX calls nothing where some explicit axes are not manual")
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(kind,) * 2)
    rows = P("d")
    local = lambda x: doublings(x[0])[0][None]
    f = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows, axis_names=axes)
    place = lambda xs: jax.device_put(jnp.array(xs), jax.NamedSharding(mesh, rows))
    assert jax.jit(f)(place([3.0, 16.0])).tolist() == [2, 4]
    refused(jax.jit(f), place([3.0, 17.0]))


@pytest.mark.slow
def test_where_no_error_can_be_raised_it_is_refused_before():
    mesh = jax.make_mesh((2, 2), ("d", "m"))
    rows = P("d")
    local = lambda x: doublings(x[0])[0][None]
    f = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows, axis_names={"d"})
    xs = jax.device_put(jnp.array([3.0, 16.0]), jax.NamedSharding(mesh, rows))
    with pytest.raises(fg.UsageError, match=r"explicit axes.* choose on_max_steps='nan'"):
        jax.jit(f)(xs)
    with pytest.raises(fg.UsageError, match=r"`jax.export` got .*on_max_steps='nan'"):
        jax.export.export(jax.jit(doublings))(jax.ShapeDtypeStruct((), jnp.float32))
    traced = jax.jit(doublings).trace(3.0)
    for platforms in ("cuda",), ("cpu", "tpu"):
        what = f"compiles for {', '.join(platforms)}, .*on_max_steps='nan'"
        with pytest.raises(fg.UsageError, match=what):
            traced.lower(lowering_platforms=platforms)


@pytest.mark.slow
def test_what_is_not_used_is_no_error_and_costs_nothing():
    f = jax.jit(lambda x: doublings(x)[1])
    assert jnp.isnan(f(17.0))
    assert jnp.isnan(jax.jit(jax.grad(lambda x: x * doublings(x)[1]))(17.0))
    assert "callback" not in f.lower(1.0).as_text()
    assert "callback" in jax.jit(doublings).lower(1.0).as_text()


def test_what_no_step_changes_is_no_error():
    def f(x):
        step = lambda s: (s[0], 2 * s[1])
        table = jnp.arange(3)
        return fg.while_loop(lambda s: s[1] < x, step, (table, 1.0), max_steps=4)

    table, y = jax.jit(f)(17.0)
    assert table.tolist() == [0, 1, 2]
    assert jnp.isnan(y)


def test_known_bounds_need_no_check():
    count = lambda x: fg.fori_loop(0, 9, lambda i, c: c + x, 0)
    assert "callback" not in jax.jit(count).lower(1).as_text()


@pytest.mark.slow
def test_all_three_functions_take_the_same_choice():
    def fun(x):
        count, y = 0, 1.0
        while y < x:
            count, y = count + 1, y * 2
        return count, y

    step = lambda i, s: (s[0] + 1, s[1] * 2)
    loops = [
        doublings,
        lambda x, **how: fg.autograph(fun, max_steps=4, **how)(x),
        lambda x, **how: fg.fori_loop(0, x.astype(int), step, (0, 1.0), max_steps=4, **how),
    ]
    for loop in loops:
        f = {how: jax.jit(lambda x, how=how: loop(x, on_max_steps=how)) for how in
             ("nan", "raise", "ignore", None)}  # fmt: skip
        np.testing.assert_array_equal(f["nan"](17.0), (4, np.nan))
        assert f["ignore"](17.0) == (4, 16.0)
        refused(f["raise"], 17.0)
        refused(f[None], 17.0)
        refused(jax.jit(lambda x: loop(x, on_max_steps="raise")[1]), 17.0)
        with pytest.raises(fg.UsageError, match="on_max_steps='stop', and wants 'nan', 'raise'"):
            loop(jnp.float32(17), on_max_steps="stop")


@pytest.mark.slow
def test_raising_loop_is_an_error_to_take_the_gradient_of_alone():
    f = lambda s: fg.while_loop(
        lambda y: y < 100, lambda y: 2 * y * s, s, max_steps=4, on_max_steps="raise"
    )
    for mode in (jax.grad, jax.hessian, jax.jacfwd, lambda f: jax.vmap(jax.grad(f))):
        good, bad = (jnp.array([4.0]), jnp.array([1.0]))
        if mode not in (jax.grad, jax.hessian, jax.jacfwd):
            run = jax.jit(mode(f))
        else:
            run = jax.jit(lambda x, mode=mode: mode(f)(x[0]))
        jax.block_until_ready(run(good))
        refused(run, bad)
    # 4, 32, 256: f is 4 s^3 times s from the start.
    assert jax.jit(jax.grad(f))(4.0) == 3 * 4 * 4.0**2
