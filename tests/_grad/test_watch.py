"""Statistics of named values and of their gradients, in the place of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from jax import lax
from jax.sharding import PartitionSpec as P

import funcgrad as fg

X = jnp.array([0.2, -0.4, 0.0])
positive = lambda x: jnp.sum(x > 0)


def fun(x):
    return jnp.sum(fg.retain_grad(jnp.sin(x), "h") ** 2)


def watched(asked, fun=fun, x=X):
    return fg.grad(fun, retain={"h": asked})(x)[1]["h"]


@pytest.mark.slow
def test_alone_it_gives_the_summary_of_both():
    value, grad = fg.grad(fun, retain="h")(X)[1]["h"]
    assert_close(watched(fg.watch()), fg.Retained(*map(fg.statistics.summary, (value, grad))))


@pytest.mark.parametrize(
    ("statistic", "wanted"),
    [
        (jnp.max, lambda x: jnp.max(x)),
        (lambda x: 3, lambda x: jnp.int32(3)),
        (lambda x: 1.5, lambda x: jnp.float32(1.5)),
        (lambda x: jnp.any(x > 0), lambda x: jnp.any(x > 0)),
        (lambda x: [positive(x), {"max": jnp.max(x)}],) * 2,
        (lambda x: jnp.uint8(3), lambda x: jnp.uint8(3)),
        (lambda x: x.astype(jnp.bfloat16)[0], lambda x: x.astype(jnp.bfloat16)[0]),
        ({"a": jnp.max, "b": positive}, lambda x: {"a": jnp.max(x), "b": positive(x)}),
        (lambda x: None, lambda x: None),
    ],
)  # fmt: skip
def test_a_statistic_returns_any_pytree_of_numbers(statistic, wanted):
    got = watched(fg.watch(value=statistic, grad=statistic))
    values = (jnp.sin(X), 2 * jnp.sin(X))
    assert_close(got, fg.Retained(*map(wanted, values)))
    kinds = jax.tree.map(lambda x: x.dtype, fg.Retained(*map(wanted, values)))
    assert jax.tree.map(lambda x: x.dtype, got) == kinds


@pytest.mark.slow
def test_a_leaf_of_a_pytree_has_its_own_statistics():
    def named(x):
        y = {"x": x, "n": jnp.arange(3), "half": x.astype(jnp.bfloat16), "key": jax.random.key(0)}
        return jnp.sum(fg.retain_grad(y, "h")["x"] ** 2)

    got = watched(fg.watch(value=fg.statistics.max_abs, grad=fg.statistics.nonfinite_count), named)
    value = {"x": X[1] * -1, "n": 2.0, "half": jnp.bfloat16(0.4).astype("float32"), "key": None}
    assert_close(got.value, jax.tree.map(jnp.float32, value))
    assert got.grad == {"x": 0, "n": None, "half": 0, "key": None}


def test_entries_mix_and_the_later_counts():
    both = lambda x: fun(x) + fg.retain_grad(jnp.sum(x), "s")
    asked = {...: fg.watch(value=jnp.max), "s": ...}
    retained = fg.grad(both, retain=asked)(X)[1]
    assert_close(retained["h"], fg.Retained(jnp.max(jnp.sin(X)), None))
    assert_close(retained["s"], fg.Retained(jnp.sum(X), jnp.float32(1)))


@pytest.mark.parametrize("compiled", [False, True])
def test_where_it_is_switched_off_nothing_is_told(compiled):
    statistics = lambda x: (jnp.max(x), positive(x), jnp.any(x > 0), jnp.uint8(3))
    asked = lambda on: fg.watch(value=statistics, grad=statistics, when=on)
    get = lambda on: watched(asked(on))
    get = jax.jit(get) if compiled else get
    missing = (jnp.nan, -1, False, 255)
    off = get(False)
    np.testing.assert_array_equal(off.value, np.array(missing))
    np.testing.assert_array_equal(off.grad, np.array(missing))
    assert_close(get(True), watched(asked(None)))


@pytest.mark.slow
def test_each_example_decides_for_itself():
    per_example = lambda x, on: watched(fg.watch(grad=jnp.max, when=on), x=x).grad
    got = jax.vmap(per_example)(jnp.stack([X, 2 * X]), jnp.array([True, False]))
    assert_close(got[0], 2 * jnp.sin(X[0]))
    assert jnp.isnan(got[1])


@pytest.mark.slow
def test_one_number_for_each_example_and_step():
    def total(x):
        row = lambda x: lax.scan(lambda c, _: (fg.retain_grad(2 * c, "h"), None), x, None, length=2)
        return jnp.sum(jax.vmap(row, spmd_axis_name=None)(x)[0])

    got = watched(fg.watch(value=jnp.max, grad=positive), total, jnp.stack([X, 3 * X]))
    steps = jnp.array([[1.0, 3.0], [2.0, 6.0]])
    assert_close(got, fg.Retained(steps * 2 * X[0], jnp.full((2, 2), 3)))


@pytest.mark.slow
@pytest.mark.parametrize("typed", [True, False])
def test_one_number_for_each_device(typed):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    body = lambda x: fg.retain_grad(jnp.sin(x), "h") * 3
    spec = P("d")
    mapped = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=typed)
    x = jnp.arange(16.0)
    both = {"own": jnp.max, "mean": lambda x: lax.pmean(jnp.sum(x), "d")}
    asked = lambda on: fg.watch(value=both, grad=jnp.max, when=on)
    get = lambda on: watched(asked(on), lambda x: jnp.sum(mapped(x)), x)
    rows = jnp.sin(x).reshape(8, 2)
    value = {"own": rows.max(1), "mean": jnp.full(8, rows.sum() / 8)}
    assert_close(jax.jit(get)(True), fg.Retained(value, jnp.full(8, 3.0)))


@pytest.mark.parametrize("on", [None, True])
def test_statistics_of_sharded_values(on):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.sharding.set_mesh(mesh):
        x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, P("d")))
        asked = fg.watch(
            value=lambda x: (jnp.max(x), 2 * x), grad=lambda x: (jnp.max(x), x), when=on
        )
        value, grad = jax.jit(lambda x: watched(asked, fun, x))(x)
    sin = jnp.sin(jnp.arange(8.0))
    assert_close(jax.tree.map(np.asarray, value), (jnp.max(sin), 2 * sin))
    assert_close(jax.tree.map(np.asarray, grad), (2 * jnp.max(sin), 2 * sin))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["grad", "value"])
def test_statistics_are_differentiated(part):
    rms = fg.statistics.rms
    ours = lambda x: getattr(watched(fg.watch(value=rms, grad=rms), fun, x), part)
    plain = lambda x: (2 if part == "grad" else 1) * rms(jnp.sin(x))
    assert_close(jax.grad(ours)(X), jax.grad(plain)(X))


@pytest.mark.slow
def test_the_gradient_is_as_without():
    asked = {"h": fg.watch()}
    hessian = jax.jacfwd(lambda x: fg.grad(fun, retain=asked)(x)[0])
    assert_close(hessian(X), jax.hessian(fun)(X))


def test_a_pullback_is_used_again_and_compiled():
    asked = {"h": fg.watch(value=jnp.max, grad=positive)}
    out, pullback = fg.vjp(lambda x: fg.retain_grad(jnp.sin(x), "h"), X, retain=asked)
    for pull in (pullback, jax.jit(pullback), jax.jit(lambda v: pullback(v))):
        for g in (jnp.ones(3), -X):
            grads, retained = pull(g)
            assert_close(grads, (g * jnp.cos(X),))
            assert_close(retained["h"], fg.Retained(jnp.max(out), positive(g)))


@pytest.mark.slow
def test_a_complex_gradient_is_watched_in_pytorch_s_convention():
    z = jnp.array([1 + 2j, 3 - 1j])
    loss = lambda z: jnp.sum(jnp.real(fg.retain_grad(z, "h") ** 2))
    assert_close(watched(fg.watch(grad=lambda g: g[0]), loss, z).grad, jnp.conj(2 * z[0]))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: fg.watch(3), "`watch` got int as `value`"),
        (lambda: fg.watch(grad={}), "`watch` got dict as `grad`"),
        (lambda: fg.watch(when=jnp.array([True])), r"`watch` got bool\[1\] as `when`"),
        (lambda: fg.watch(when="now"), "`watch` got str as `when`"),
        (lambda: fg.watch(value=lambda x: "a"), "`watch` got a statistic that returns str"),
        (lambda: fg.watch(grad=lambda x: jax.random.key(0)), "a statistic that returns key"),
        (lambda: fg.watch(grad=lambda x: (i for i in x)), "`watch` got generator"),
        (lambda: 3, "`grad` got int for 'h' in `retain`, and wants funcgrad.watch"),
    ],
)  # fmt: skip
def test_refusals(make, match):
    with pytest.raises(fg.UsageError, match=match):
        watched(make())
