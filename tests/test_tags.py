"""`retain_grad` and `register_hook`: where a tag may stand, what it gives, what a hook sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, assert_same
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

import funcgrad as fg
from funcgrad import Retained, register_hook, retain_grad

X = jnp.array([1.0, 2.0, 3.0])


def retained(fun, x=X, retain=...):
    return fg.grad(fun, retain=retain)(x)[1]


def negate(g):
    return -g


# A tag or a hook never changes a value.

STRANGE = [
    pytest.param(np.float32(-0.0), id="negative zero"),
    pytest.param(np.array(0x7FC12345, np.uint32).view(np.float32), id="nan payload"),
    pytest.param(np.float32(np.inf), id="inf"),
    pytest.param(np.float32(1e-42), id="denormal"),
    pytest.param(np.array([-0.0, 1.0], jnp.bfloat16), id="bfloat16"),
    pytest.param(np.complex64(complex(-0.0, np.nan)), id="complex64"),
    pytest.param(np.int32(-7), id="int32"),
    pytest.param(np.array([True, False]), id="bool"),
    pytest.param(np.zeros((0, 3), np.float32), id="no elements"),
]
IDENTITIES = [
    pytest.param(lambda x: retain_grad(x, "x"), id="tag"),
    pytest.param(lambda x: register_hook(x, negate), id="hook"),
]


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize("identity", IDENTITIES)
def test_identity_keeps_every_bit(identity, value):
    x = jnp.asarray(value)
    assert_same(identity(x), value)
    assert_same(jax.jit(identity)(x), value)
    assert_same(jax.vmap(identity)(x[None])[0], value)


@pytest.mark.parametrize("value", STRANGE)
def test_retained_value_keeps_every_bit(value):
    def fun(scale, x):
        return scale, retain_grad(x, "y")

    for grad in (fg.grad, lambda *a, **k: jax.jit(fg.grad(*a, **k))):
        _, aux, kept = grad(fun, has_aux=True, retain="y")(1.0, jnp.asarray(value))
        assert_same(aux, value)
        assert_same(kept["y"].value, value)


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("weak", [True, False])
def test_identity_keeps_weak_type(identity, weak):
    x = jnp.asarray(2.0) if weak else jnp.float32(2.0)
    assert x.weak_type == weak
    assert identity(x).weak_type == weak
    assert jax.jit(identity)(x).weak_type == weak
    assert jax.vjp(identity, x)[0].weak_type == weak


def test_asking_for_a_tag_keeps_weak_type():
    def fun(x):
        return retain_grad(x * 2, "y")

    assert fg.value_and_grad(fun, retain="y")(3.0)[0].weak_type
    assert fg.value_and_grad(fun, retain="y")(jnp.float32(3.0))[0].weak_type is False


def test_weak_carry_of_scan_may_be_tagged():
    def fun(x):
        return lax.scan(lambda c, _: (retain_grad(c * x, "y"), None), 1.0, None, length=3)[0]

    grads, kept = fg.grad(fun, retain="y")(2.0)
    assert grads == 12.0
    assert_same(kept["y"], Retained(jnp.array([2.0, 4.0, 8.0]), jnp.array([4.0, 2.0, 1.0])))


@pytest.mark.slow
def test_prng_key_may_be_tagged_and_has_no_gradient():
    def fun(x):
        y = retain_grad({"x": x, "key": jax.random.key(3)}, "y")
        return jnp.sum(y["x"] * jax.random.normal(y["key"], (3,)))

    kept = retained(fun)["y"]
    assert kept.grad["key"] is None
    assert_same(kept.grad["x"], jax.random.normal(jax.random.key(3), (3,)))
    assert kept.value["key"] == jax.random.key(3)


# Forward mode passes through.


@pytest.mark.parametrize("identity", IDENTITIES)
def test_forward_mode_is_that_of_the_identity(identity):
    def tagged(x):
        return jnp.sum(identity(x * x) ** 2)

    def plain(x):
        return jnp.sum((x * x) ** 2)

    assert_close(jax.jvp(tagged, (X,), (X,)), jax.jvp(plain, (X,), (X,)))
    assert_close(jax.linearize(tagged, X)[1](X), jax.linearize(plain, X)[1](X))


@pytest.mark.slow
@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(lambda x: retain_grad(x, "x"), id="tag"),
        pytest.param(lambda x: register_hook(x, lambda g: g), id="hook"),
    ],
)
@pytest.mark.parametrize("jacobian", [jax.jacfwd, lambda f: jax.jacfwd(jax.jacfwd(f)), jax.hessian])
def test_forward_jacobians_are_those_of_the_identity(identity, jacobian):
    tagged = lambda x: jnp.sum(identity(x * x) ** 2)
    assert_close(jacobian(tagged)(X), jacobian(lambda x: jnp.sum((x * x) ** 2))(X))


@pytest.mark.slow
def test_tags_pass_through_every_jacobian():
    def tagged(x):
        return jnp.sum(retain_grad(x * x, "y") ** 2)

    def plain(x):
        return jnp.sum((x * x) ** 2)

    assert_close(jax.hessian(tagged)(X), jax.hessian(plain)(X))
    assert_close(jax.jacrev(jax.jacrev(tagged))(X), jax.hessian(plain)(X))
    assert_close(jax.jacrev(jax.jacfwd(tagged))(X), jax.hessian(plain)(X))


def test_linear_transpose_passes_through_a_tag_and_runs_a_hook():
    assert_same(jax.linear_transpose(lambda x: retain_grad(3 * x, "y"), X)(X)[0], 3 * X)
    assert_same(jax.linear_transpose(lambda x: register_hook(3 * x, negate), X)(X)[0], -3 * X)


@pytest.mark.slow
def test_forward_derivative_through_scan_cond_and_checkpoint():
    def fun(x):
        y = lax.scan(lambda c, a: (register_hook(retain_grad(c * a, "y"), negate), c), x[0], x)[0]
        z = lax.cond(x[0] > 0, lambda x: retain_grad(x * 2, "z"), lambda x: x, x)
        return y + jnp.sum(jax.checkpoint(lambda x: retain_grad(x * x, "w"))(z))

    def plain(x):
        y = lax.scan(lambda c, a: (c * a, c), x[0], x)[0]
        return y + jnp.sum((2 * x) ** 2)

    assert_close(jax.jvp(fun, (X,), (X,)), jax.jvp(plain, (X,), (X,)))


# Where a tag may stand.


def test_top_level_tag_gives_value_and_gradient():
    kept = retained(lambda x: 3 * retain_grad(2 * jnp.sum(x), "y"))
    assert_same(kept, {"y": Retained(jnp.float32(12.0), jnp.float32(3.0))})


def test_tag_on_the_input_itself_and_on_the_output_itself():
    def fun(x):
        return retain_grad(jnp.sum(retain_grad(x, "x") ** 2), "out")

    assert_same(
        retained(fun),
        {"x": Retained(X, 2 * X), "out": Retained(jnp.float32(14.0), jnp.float32(1.0))},
    )


def test_two_names_on_one_value():
    kept = retained(lambda x: jnp.sum(retain_grad(retain_grad(x, "a"), "b") ** 2))
    assert_same(kept, {"a": Retained(X, 2 * X), "b": Retained(X, 2 * X)})


def test_tag_on_a_constant_has_a_gradient():
    kept = retained(lambda x: jnp.sum(x * retain_grad(jnp.array([4.0, 5.0, 6.0]), "c")))
    assert_same(kept["c"], Retained(jnp.array([4.0, 5.0, 6.0]), X))


def test_tag_on_a_python_number():
    assert_same(
        retained(lambda x: jnp.sum(x * retain_grad(2.0, "c")))["c"],
        Retained(jnp.float32(2.0), jnp.float32(6.0)),
    )


def test_tagged_value_that_is_thrown_away_has_gradient_zero():
    def fun(x):
        retain_grad(x * 2, "y")
        return jnp.sum(x)

    assert_same(retained(fun)["y"], Retained(2 * X, jnp.zeros(3)))


@pytest.mark.parametrize(
    "around",
    [
        pytest.param(lambda one: one, id="plain"),
        pytest.param(jax.jit, id="jit"),
        pytest.param(jax.vmap, id="vmap"),
        pytest.param(lambda one: lambda x: lax.scan(lambda c, x: (c, one(x)), 0, x)[1], id="scan"),
    ],
)
def test_asking_by_name_for_a_tag_whose_result_is_thrown_away_is_refused(around):
    def one(x, use=False):
        y = x * 2
        t = retain_grad(y, "y")
        return t if use else y

    with pytest.raises(fg.TagError, match=r"nothing uses what .*y = retain_grad\(y, 'y'\)"):
        fg.grad(lambda x: jnp.sum(around(one)(x)), retain="y")(X)
    used = fg.grad(lambda x: jnp.sum(around(lambda x: one(x, True))(x)), retain="y")(X)[1]
    assert_same(used["y"].grad, jnp.ones(3))


def test_tag_that_only_auxiliary_data_holds_is_no_mistake():
    def fun(x):
        return jnp.sum(x), retain_grad(x * 2, "y")

    assert_same(fg.grad(fun, has_aux=True, retain="y")(X)[2]["y"].grad, jnp.zeros(3))


def test_integer_tag_whose_result_is_thrown_away_is_no_mistake():
    def fun(x):
        retain_grad(jnp.argmax(x), "largest")
        return jnp.sum(x)

    assert fg.grad(fun, retain="largest")(X)[1]["largest"].value == jnp.argmax(X)


def test_tag_in_a_checkpointed_function_under_an_inner_gradient_is_used():
    def fun(x):
        inner = jax.checkpoint(lambda x: jnp.sum(retain_grad(jnp.sin(x), "y") ** 2))
        return jnp.sum(jax.grad(inner)(x) ** 2)

    want = fg.grad(fun, retain=...)(X)[1]["y"]
    assert_same(fg.grad(fun, retain="y")(X)[1]["y"], want)


def test_tagged_value_used_twice_adds_up_and_the_original_does_not_count():
    def fun(x):
        y = x * 2
        t = retain_grad(y, "y")
        return jnp.sum(t * 3 + t * 4 + y * 100)

    assert_same(retained(fun)["y"].grad, jnp.full(3, 7.0))


def test_tag_on_a_pytree_with_an_integer_and_an_empty_leaf():
    def fun(x):
        y = retain_grad({"a": x, "n": jnp.array([1, 2]), "e": (), "z": None}, "y")
        return jnp.sum(y["a"] * y["n"][1].astype(jnp.float32))

    kept = retained(fun)["y"]
    assert_same(kept.value, {"a": X, "n": np.array([1, 2], np.int32), "e": (), "z": None})
    assert_same(kept.grad, {"a": jnp.full(3, 2.0), "n": None, "e": (), "z": None})


def test_tag_of_an_empty_pytree():
    def fun(x):
        retain_grad({}, "nothing")
        return jnp.sum(x)

    assert retained(fun) == {"nothing": Retained({}, {})}


def test_scan_gives_a_row_for_each_iteration():
    def fun(x):
        return lax.scan(lambda c, a: (retain_grad(c * a, "y"), None), jnp.float32(1), x)[0]

    assert_same(
        retained(fun)["y"], Retained(jnp.array([1.0, 2.0, 6.0]), jnp.array([6.0, 3.0, 1.0]))
    )


def test_reversed_scan_keeps_rows_in_the_order_of_xs():
    def fun(x):
        step = lambda c, a: (retain_grad(c * a, "y"), None)
        return lax.scan(step, jnp.float32(1), x, reverse=True)[0]

    assert_same(
        retained(fun)["y"], Retained(jnp.array([6.0, 6.0, 3.0]), jnp.array([1.0, 1.0, 2.0]))
    )


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [2, 3, True])
def test_unrolled_scan_gives_the_same_rows(unroll):
    def fun(x):
        step = lambda c, a: (retain_grad(c * a, "y"), None)
        return lax.scan(step, jnp.float32(1), x, unroll=unroll)[0]

    assert_same(retained(fun)["y"].grad, jnp.array([6.0, 3.0, 1.0]))


def test_scan_without_iterations_gives_no_rows():
    def fun(x):
        step = lambda c, a: (retain_grad(c * a, "y"), None)
        return lax.scan(step, jnp.sum(x), jnp.zeros((0,)))[0]

    grads, kept = fg.grad(fun, retain="y")(X)
    assert_same((grads, kept["y"]), (jnp.ones(3), Retained(jnp.zeros(0), jnp.zeros(0))))


@pytest.mark.slow
def test_tags_on_xs_constant_carry_and_output_of_a_scan():
    w = jnp.array([1.0, 10.0])

    def fun(xs):
        def step(c, x):
            x = retain_grad(x, "xs")
            v = retain_grad(w, "const")
            c = retain_grad(c + jnp.sum(v * x), "carry")
            return c, retain_grad(2 * c, "ys")

        return jnp.sum(lax.scan(step, jnp.float32(0), xs)[1])

    kept = retained(fun, jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    assert_same(kept["ys"], Retained(jnp.array([42.0, 128.0]), jnp.ones(2)))
    assert_same(kept["carry"], Retained(jnp.array([21.0, 64.0]), jnp.array([4.0, 2.0])))
    assert_same(kept["xs"].grad, jnp.array([[4.0, 40.0], [2.0, 20.0]]))
    assert_same(kept["const"].value, jnp.stack([w, w]))
    assert_same(kept["const"].grad, jnp.array([[4.0, 8.0], [6.0, 8.0]]))


@pytest.mark.slow
def test_scan_with_several_carries_and_an_integer_among_them():
    def fun(x):
        def step(carry, a):
            n, c, d = carry
            return (n + 1, retain_grad(c * a, "c"), d + c), None

        return lax.scan(step, (0, jnp.float32(1), jnp.float32(0)), x)[0][2]

    # d = 1 + x0 + x0 x1: the last product is not used.
    assert_same(
        retained(fun)["c"], Retained(jnp.array([1.0, 2.0, 6.0]), jnp.array([3.0, 1.0, 0.0]))
    )


@pytest.mark.slow
def test_nested_scans_give_nested_axes():
    def fun(x):
        def outer(c, a):
            inner = lambda c, b: (retain_grad(c + a * b, "y"), None)
            return lax.scan(inner, c, jnp.array([1.0, 10.0]))[0], None

        return lax.scan(outer, jnp.float32(0), x)[0] ** 2

    kept = retained(fun)["y"]
    assert_same(kept.value, jnp.array([[1.0, 11.0], [13.0, 33.0], [36.0, 66.0]]))
    assert_same(kept.grad, jnp.full((3, 2), 132.0))


@pytest.mark.slow
def test_fori_loop_and_map_with_bounds_known_when_tracing():
    def fun(x):
        y = lax.fori_loop(0, 2, lambda i, c: retain_grad(c * 2, "loop"), x[0])
        return y + jnp.sum(lax.map(lambda a: retain_grad(a * a, "map") * 3, x))

    kept = retained(fun)
    assert_same(kept["loop"], Retained(jnp.array([2.0, 4.0]), jnp.array([2.0, 1.0])))
    assert_same(kept["map"], Retained(X * X, jnp.full(3, 3.0)))


@pytest.mark.parametrize(("first", "value", "grad"), [(1.0, 0.0, 0.0), (3.0, 9.0, 2.0)])
def test_branch_that_is_not_taken_gives_zeros(first, value, grad):
    def fun(x):
        return lax.cond(x > 2, lambda x: 2 * retain_grad(x * x, "y"), lambda x: x, x)

    assert_same(retained(fun, first)["y"], Retained(jnp.float32(value), jnp.float32(grad)))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_switch_tells_each_branch(index):
    branches = [lambda x, n=n: (n + 1) * retain_grad(x * 10**n, f"y{n}") for n in range(3)]

    def fun(x):
        return lax.switch(index, branches, x)

    for n, kept in enumerate(retained(fun, jnp.float32(1)).values()):
        taken = float(n == index)
        assert_same(kept, Retained(jnp.float32(taken * 10**n), jnp.float32(taken * (n + 1))))


@pytest.mark.parametrize(("first", "value", "grad"), [(1.0, 10.0, 1.0), (3.0, 9.0, 2.0)])
def test_one_name_in_both_branches_is_that_of_the_branch_taken(first, value, grad):
    def fun(x):
        yes = lambda x: 2 * retain_grad(x * x, "y")
        no = lambda x: retain_grad(x * 10, "y")
        return lax.cond(x > 2, yes, no, x)

    assert_same(retained(fun, first)["y"], Retained(jnp.float32(value), jnp.float32(grad)))


def test_branch_inside_scan_has_a_row_for_each_iteration():
    def fun(x):
        def step(c, a):
            return lax.cond(a > 1.5, lambda c: retain_grad(c * a, "y"), lambda c: c, c), None

        return lax.scan(step, jnp.float32(1), x)[0]

    assert_same(
        retained(fun)["y"], Retained(jnp.array([0.0, 2.0, 6.0]), jnp.array([0.0, 3.0, 1.0]))
    )


@pytest.mark.slow
def test_vmap_inside_gives_a_leading_axis_wherever_the_batch_axis_was():
    def fun(x):
        batch = jnp.stack([x, 2 * x], axis=1)
        f = lambda v: retain_grad(v * v, "y")
        return jnp.sum(jax.vmap(f, in_axes=1, out_axes=1)(batch) * jnp.array([1.0, 10.0]))

    kept = retained(fun)["y"]
    assert_same(kept.value, jnp.stack([X * X, 4 * X * X]))
    assert_same(kept.grad, jnp.array([[1.0] * 3, [10.0] * 3]))


@pytest.mark.slow
def test_nested_vmaps_give_nested_axes():
    def fun(x):
        table = jnp.outer(x, jnp.array([1.0, 2.0]))
        f = lambda v: retain_grad(v * v, "y")
        return jnp.sum(jax.vmap(jax.vmap(f), in_axes=1)(table))

    kept = retained(fun)["y"]
    assert kept.value.shape == kept.grad.shape == (2, 3)
    assert_same(kept.value, jnp.stack([X * X, 4 * X * X]))


def test_vmap_outside_gives_rows_for_each_example():
    f = fg.grad(lambda x: jnp.sum(retain_grad(x * x, "y") ** 2), retain="y")
    kept = jax.vmap(f)(jnp.stack([X, 2 * X]))[1]["y"]
    assert_same(kept, Retained(jnp.stack([X**2, 4 * X**2]), jnp.stack([2 * X**2, 8 * X**2])))


def test_vmap_outside_of_a_tag_on_a_value_all_examples_share():
    def fun(x, w):
        return x * retain_grad(w * 2, "w2")

    kept = jax.vmap(fg.grad(fun, retain="w2"), in_axes=(0, None))(X, 5.0)[1]["w2"]
    assert_same(kept, Retained(jnp.full(3, 10.0), X))


@pytest.mark.slow
def test_vmap_inside_of_a_tag_on_a_value_all_examples_share_gives_the_sum_over_them():
    def fun(x):
        return jnp.sum(jax.vmap(lambda a, w: a * retain_grad(w, "w"), in_axes=(0, None))(x, x[1]))

    assert_same(retained(fun)["w"], Retained(X[1], jnp.sum(X)))


def test_branch_not_taken_by_an_example_gives_a_zero_gradient_in_its_row():
    def fun(x):
        choose = lambda a: lax.cond(a > 2, lambda a: retain_grad(a * 2, "y"), lambda a: a, a)
        return jnp.sum(jax.vmap(choose)(x))

    assert_same(
        retained(fun)["y"], Retained(jnp.array([2.0, 4.0, 6.0]), jnp.array([0.0, 0.0, 1.0]))
    )


def test_one_name_in_both_branches_of_a_cond_under_vmap_is_refused():
    def fun(x):
        yes, no = lambda a: retain_grad(a * 2, "y"), lambda a: retain_grad(a * 5, "y")
        return jnp.sum(jax.vmap(lambda a: lax.cond(a > 2, yes, no, a))(x))

    with pytest.raises(fg.TagError, match=r"(?s)'y' twice.*a cond under vmap"):
        retained(fun)


def test_map_in_batches_with_a_remainder_is_refused():
    def fun(x):
        return jnp.sum(lax.map(lambda a: retain_grad(a * a, "y"), x, batch_size=2))

    with pytest.raises(fg.TagError, match=r"(?s)'y' twice.*in batches with a remainder"):
        retained(fun)


@pytest.mark.slow
def test_spmd_axis_name_is_allowed_around_tags_and_hooks():
    def fun(x):
        f = lambda a: register_hook(retain_grad(a * a, "y"), negate)
        return jnp.sum(jax.vmap(f, spmd_axis_name="batch")(x))

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert_same(retained(fun, jnp.arange(8.0))["y"].grad, -jnp.ones(8))


def test_collective_over_a_named_axis_inside_vmap():
    def fun(x):
        f = lambda a: lax.psum(retain_grad(a * a, "y"), "i") * a
        return jnp.sum(jax.vmap(f, axis_name="i")(x))

    assert_same(retained(fun)["y"], Retained(X * X, jnp.full(3, 6.0)))


@pytest.mark.parametrize(
    "policy",
    [
        None,
        jax.checkpoint_policies.everything_saveable,
        jax.checkpoint_policies.nothing_saveable,
        jax.checkpoint_policies.save_only_these_names("kept"),
    ],
)
def test_checkpoint_counts_once_whatever_the_policy(policy):
    def block(x):
        y = checkpoint_name(retain_grad(jnp.sin(x), "y"), "kept")
        return y * y

    kept = retained(lambda x: jnp.sum(jax.checkpoint(block, policy=policy)(x)))["y"]
    assert_close(kept, Retained(jnp.sin(X), 2 * jnp.sin(X)))


def test_checkpoint_in_scan_in_jit():
    @jax.jit
    def fun(x):
        step = jax.checkpoint(lambda c, a: (retain_grad(c * a, "y"), None))
        return lax.scan(step, jnp.float32(1), x)[0]

    assert_same(retained(fun)["y"].grad, jnp.array([6.0, 3.0, 1.0]))


def test_jit_with_static_arguments_and_keywords():
    @jax.jit
    def scaled(x, *, by):
        return retain_grad(x * by, "y")

    static = jax.jit(lambda n, x: retain_grad(x * n, "z"), static_argnums=0)
    kept = retained(lambda x: jnp.sum(scaled(x, by=2.0) * static(3, x)))
    assert_same(kept, {"y": Retained(2 * X, 3 * X), "z": Retained(3 * X, 2 * X)})


def test_shardings_of_an_inner_jit_are_kept_under_jit():
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,)), P("i")
    )
    inner = jax.jit(lambda x: retain_grad(x * x, "y"), out_shardings=sharding)
    fun = fg.grad(lambda x: ((y := inner(x)).sum(), y), has_aux=True, retain="y")
    _, aux, kept = jax.jit(fun)(jnp.arange(8.0))
    assert aux.sharding == sharding
    assert_same(kept["y"].grad, jnp.ones(8))


def test_shardings_of_an_inner_jit_are_kept():
    sharding = jax.sharding.NamedSharding(
        jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,)),
        jax.sharding.PartitionSpec("i"),
    )
    inner = jax.jit(lambda x: retain_grad(x * x, "y"), out_shardings=sharding)
    _, aux, kept = fg.grad(lambda x: ((y := inner(x)).sum(), y), has_aux=True, retain="y")(
        jnp.arange(8.0)
    )
    assert aux.sharding == sharding
    assert_same(kept["y"].grad, jnp.ones(8))


def test_inner_jit_that_donates_its_argument():
    inner = jax.jit(lambda y: y * retain_grad(2 * y, "z"), donate_argnums=0)
    step = jax.jit(fg.grad(lambda x: jnp.sum(inner(retain_grad(x * 2, "y"))), retain=...))
    grads, kept = step(X)
    assert_same(grads, 16 * X)
    assert_same(kept, {"y": Retained(2 * X, 8 * X), "z": Retained(4 * X, 2 * X)})


def test_custom_rules_around_which_tags_stand():
    @jax.custom_jvp
    def tripled(x):
        return x

    tripled.defjvp(lambda primals, tangents: (primals[0], 3 * tangents[0]))

    @jax.custom_vjp
    def halved(x):
        return x

    halved.defvjp(lambda x: (x, None), lambda _, g: (g / 2,))
    kept = retained(
        lambda x: jnp.sum(
            retain_grad(halved(retain_grad(tripled(retain_grad(x, "a")), "b")), "c") ** 2
        )
    )
    assert_same({n: k.grad for n, k in kept.items()}, {"a": 3 * X, "b": X, "c": 2 * X})


# Names.


@pytest.mark.parametrize(
    ("ask", "names"),
    [
        ("a", {"a"}),
        (("a", "b"), {"a", "b"}),
        (["c1"], {"c1"}),
        ("c*", {"c1", "c2"}),
        ("c[12]", {"c1", "c2"}),
        (("?", "c2"), {"a", "b", "c2"}),
        (..., {"a", "b", "c1", "c2"}),
        ((), set()),
    ],
)
def test_retain_takes_a_name_several_patterns_or_all(ask, names):
    def fun(x):
        for name in ("a", "b", "c1", "c2"):
            x = retain_grad(x * 2, name)
        return jnp.sum(x)

    assert set(retained(fun, retain=ask)) == names


def test_without_retain_there_is_no_dict():
    fun = lambda x: jnp.sum(retain_grad(x, "y"))
    assert_same(fg.grad(fun)(X), jnp.ones(3))
    assert_same(fg.value_and_grad(fun, retain=None)(X), (jnp.float32(6.0), jnp.ones(3)))


def test_a_name_that_looks_like_a_pattern_is_taken_as_it_is():
    fun = lambda x: jnp.sum(retain_grad(retain_grad(x, "y[0]"), "y0"))
    assert set(retained(fun, retain="y[0]")) == {"y[0]"}


def tagged_in_scope(x):
    with jax.named_scope("in"):
        return retain_grad(jnp.sum(x * 2), "y")


@pytest.mark.parametrize(
    "around",
    [
        pytest.param(lambda f: f, id="plain"),
        pytest.param(jax.jit, id="jit"),
        pytest.param(lambda f: jax.jit(jax.jit(f)), id="jit of jit"),
        pytest.param(jax.checkpoint, id="checkpoint"),
        pytest.param(lambda f: lambda x: jax.vmap(f)(x).sum(), id="vmap"),
        pytest.param(lambda f: lambda x: lax.map(f, x).sum(), id="scan"),
        pytest.param(lambda f: lambda x: lax.cond(x[0] > 0, f, f, x), id="cond"),
        pytest.param(lambda f: lambda x: jax.jit(lambda x: lax.map(f, x))(x).sum(), id="jit scan"),
        pytest.param(lambda f: lambda x: jax.grad(lambda x: f(x) ** 2)(x).sum(), id="grad"),
        pytest.param(lambda f: lambda x: jax.jvp(f, (x,), (x,))[0], id="jvp"),
        pytest.param(lambda f: lambda x: jax.grad(jax.jit(f))(x).sum(), id="grad of jit"),
        pytest.param(
            lambda f: lambda x: fg.grad(lambda x: retain_grad(f(x), "z"), retain="z")(x)[0].sum(),
            id="grad with retain",
        ),
        pytest.param(
            lambda f: (
                lambda x: fg.grad(
                    lambda x: lax.map(lambda a: retain_grad(f(a), "z"), x).sum(), retain="z"
                )(x)[0].sum()
            ),
            id="scan in grad with retain",
        ),
    ],
)
def test_scopes_make_the_name_and_transforms_do_not(around):
    def fun(x):
        with jax.named_scope("out"):
            return around(tagged_in_scope)(x)

    assert set(retained(fun)) == {"out/in/y"}
    assert set(jax.jit(fg.grad(fun, retain=...))(X)[1]) == {"out/in/y"}


def test_recomputation_of_a_checkpoint_adds_nothing_to_the_name():
    def fun(x):
        return jnp.sum(jax.grad(jax.checkpoint(lambda x: jnp.sin(tagged_in_scope(x))))(x))

    assert set(retained(fun)) == {"in/y"}


def test_scopes_separate_two_calls_of_one_jitted_function():
    layer = jax.jit(lambda x: retain_grad(x * 2, "y"))

    def fun(x):
        for n in range(3):
            with jax.named_scope(f"layer{n}"):
                x = layer(x)
        return jnp.sum(x)

    kept = retained(fun)
    assert list(kept) == ["layer0/y", "layer1/y", "layer2/y"]
    assert_same([k.grad[0] for k in kept.values()], [jnp.float32(n) for n in (4, 2, 1)])


# Nesting of transforms.


@pytest.mark.slow
def test_retained_gradient_is_differentiable():
    def second(x):
        kept = fg.grad(lambda x: jnp.sum(retain_grad(x * x, "y") ** 3), retain="y")(x)[1]
        return jnp.sum(kept["y"].grad)

    # dL/dy = 3 y^2 = 3 x^4
    assert_close(jax.grad(second)(X), 12 * X**3)
    assert_close(jax.jacfwd(second)(X), 12 * X**3)


def test_retained_value_and_the_value_itself_are_differentiable():
    def values(x):
        fun = fg.value_and_grad(lambda x: jnp.sum(retain_grad(x * x, "y") ** 3), retain="y")
        value, _, kept = fun(x)
        return value, jnp.sum(kept["y"].value)

    assert_close(jax.grad(lambda x: values(x)[0])(X), 6 * X**5)
    assert_close(jax.grad(lambda x: values(x)[1])(X), 2 * X)


def test_two_levels_ask_for_different_names():
    def inner(x):
        return jnp.sum(retain_grad(x * x, "y") ** 2)

    def outer(x):
        grads, kept = fg.grad(inner, retain="y")(x)
        return jnp.sum(retain_grad(grads, "g") * kept["y"].grad)

    grads, kept = fg.grad(outer, retain="g")(X)
    # g = 4 x^3, dL/dy = 2 x^2
    assert set(kept) == {"g"}
    assert_close(kept["g"], Retained(4 * X**3, 2 * X**2))
    assert_close(grads, 40 * X**4)


def test_tag_consumed_by_the_inner_transform_is_unseen_by_the_outer():
    def outer(x):
        return jnp.sum(fg.grad(lambda x: jnp.sum(retain_grad(x, "y") ** 2), retain="y")(x)[0])

    assert retained(outer) == {}
    with pytest.raises(fg.TagError, match=r"'y' in `retain`, and no value of that name"):
        retained(outer, retain="y")


@pytest.mark.parametrize("inner", [jax.grad, fg.grad])
def test_tag_the_inner_transform_does_not_ask_for_is_seen_by_the_outer(inner):
    def outer(x):
        return jnp.sum(inner(lambda x: jnp.sum(retain_grad(x * x, "y") ** 2))(x))

    # sum 4 y x in terms of y: the factor x comes from d(x*x), not through y.
    assert_close(retained(outer)["y"], Retained(X**2, 4 * X))


def test_inner_transform_leaves_the_names_it_does_not_ask_for():
    def inner(x):
        return jnp.sum(retain_grad(retain_grad(x * x, "a") * 3, "b") ** 2)

    def outer(x):
        return jnp.sum(fg.grad(inner, retain="a")(x)[1]["a"].grad)

    assert set(retained(outer)) == {"b"}
    assert_close(retained(outer)["b"], Retained(3 * X**2, jnp.full(3, 6.0)))


@pytest.mark.parametrize(
    "around",
    [
        jax.checkpoint,
        lambda f: jax.jit(jax.checkpoint(f)),
    ],
)
def test_tag_in_a_checkpoint_inside_an_inner_grad_has_its_gradient(around):
    def outer(x):
        block = around(lambda x: jnp.sin(retain_grad(x * 2, "y")))
        return jnp.sum(jax.grad(lambda x: jnp.sum(block(x)))(x) ** 2)

    # sum (2 cos y)^2
    assert_close(retained(outer, retain="y")["y"].grad, -8 * jnp.cos(2 * X) * jnp.sin(2 * X))


@pytest.mark.parametrize(
    "around",
    [
        lambda f: jax.jit(jax.checkpoint(f)),
        lambda f: lambda x: lax.scan(jax.checkpoint(lambda c, _: (f(c), None)), x, None, 2)[0],
    ],
    ids=["jit", "scan"],
)
def test_recomputation_inside_an_inner_grad_is_no_second_use_of_the_name(around):
    def outer(x):
        block = around(lambda x: jnp.sin(retain_grad(x * 2, "y")))
        return jnp.sum(retain_grad(jax.grad(lambda x: jnp.sum(block(x)))(x), "g") ** 2)

    g = retained(outer, retain="g")["g"]
    assert_close(g.grad, 2 * g.value)


def test_recomputation_is_one_with_its_own_tag_and_not_with_another_of_that_name():
    layer = jax.checkpoint(lambda x: jnp.sin(retain_grad(x * 1.1, "y")))
    _, pull = jax.vjp(layer, 0.7)
    with pytest.raises(fg.TagError, match="'y' twice"):
        fg.grad(lambda w: retain_grad(w * 3.0, "y") * pull(w)[0], retain="y")(2.0)


@pytest.mark.slow
def test_axes_of_scans_stand_before_those_of_vmaps_inside_the_function():
    def one(x):
        step = lambda c, a: (retain_grad(c * a, "y"), None)
        return lax.scan(step, x, jnp.array([2.0, 3.0]))[0]

    def fun(x):
        return jnp.sum(jax.vmap(one)(x))

    assert_same(retained(fun)["y"].value, jnp.stack([2 * X, 6 * X]))
    kept = jax.vmap(fg.grad(one, retain="y"))(X)[1]["y"]
    assert_same(kept.value, jnp.stack([2 * X, 6 * X], axis=1))


def test_names_asked_for_with_a_generator_are_kept_for_every_call():
    fun = fg.grad(lambda x: retain_grad(x * 2, "y"), retain=(name for name in ["y"]))
    assert list(fun(1.0)[1]) == list(fun(1.0)[1]) == ["y"]


def test_numpy_on_a_traced_value_gets_the_note_about_tracing():
    with pytest.raises(jax.errors.TracerArrayConversionError) as error:
        fg.grad(lambda x: jnp.sum(retain_grad(x, "y") * np.sin(x)), retain="y")(X)
    assert "NumPy and PyTorch cannot compute with traced values" in "".join(error.value.__notes__)


# On a mesh.


@pytest.mark.slow
def test_retained_gradients_have_the_explicit_sharding_of_their_values():
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, P("i")))
        kept = retained(lambda x: jnp.sum(retain_grad(jnp.sin(x), "y") ** 2), x)["y"]
    assert jax.typeof(kept.grad) == jax.typeof(kept.value) == jax.typeof(x)


def on_eight(fun, *specs):
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(fun, mesh=mesh, in_specs=specs, out_specs=P("i"))


@pytest.mark.slow
def test_shard_map_gives_a_leading_axis_for_each_manual_mesh_axis():
    mesh = jax.make_mesh((4, 2), ("i", "j"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = P("i", "j")
    square = lambda x: retain_grad(x * x, "y")
    f = jax.shard_map(square, mesh=mesh, in_specs=(spec,), out_specs=spec)
    x = jnp.arange(8.0).reshape(4, 2)
    want = Retained((x * x)[:, :, None, None], jnp.ones((4, 2, 1, 1)))
    assert_same(retained(lambda x: jnp.sum(f(x)), x)["y"], want)


@pytest.mark.slow
def test_scan_and_branch_in_shard_map_and_shard_map_in_scan():
    step = lambda c, _: (
        lax.cond(c[0] > 3, lambda c: retain_grad(c + 1, "y"), lambda c: c, c),
        None,
    )
    f = on_eight(lambda x: lax.scan(step, x, None, length=2)[0], P("i"))
    kept = retained(lambda x: jnp.sum(f(x)), jnp.arange(8.0))["y"]
    assert_same(kept.value[3:5], jnp.array([[[0.0], [0.0]], [[5.0], [6.0]]]))
    assert_same(kept.grad[3:5], jnp.array([[[0.0], [0.0]], [[1.0], [1.0]]]))
    g = on_eight(lambda x: retain_grad(x * 2, "y"), P("i"))
    loop = lambda x: jnp.sum(lax.scan(lambda c, _: (g(c), None), x, None, length=3)[0])
    assert_same(retained(loop, jnp.arange(8.0))["y"].grad[:, 0], jnp.array([[4.0], [2.0], [1.0]]))


@pytest.mark.slow
def test_hook_in_shard_map_may_return_a_value_all_devices_share():
    shared = jnp.ones(1)
    f = on_eight(lambda x: register_hook(x, lambda g: shared * 7), P("i"))
    assert_same(fg.grad(lambda x: jnp.sum(f(x)))(jnp.ones(8)), jnp.full(8, 7.0))


def test_hook_in_shard_map_on_a_shared_value_must_not_differ_between_devices():
    f = on_eight(lambda w, x: register_hook(w, lambda g: g * x[0]) * x, P(), P("i"))
    with pytest.raises(fg.TreeError, match=r"between devices along the mesh axes \['i'\]"):
        fg.grad(lambda w: jnp.sum(f(w, jnp.arange(8.0))))(2.0)


def test_vmapped_grad_with_retain_inside_a_loss():
    def per_example(x):
        return fg.grad(lambda x: retain_grad(x * x, "y") ** 2, retain="y")(x)[1]["y"].grad

    assert_close(jax.grad(lambda x: jnp.sum(jax.vmap(per_example)(x)))(X), 4 * X)


# Hooks.


@pytest.mark.parametrize(
    ("hook", "factor"),
    [
        (negate, -1.0),
        (lambda g: g * 10, 10.0),
        (lambda g: jnp.clip(g, -3.0, 3.0), None),
        (lambda g: None, 1.0),
        (lambda g: jnp.zeros_like(g), 0.0),
    ],
)
def test_hook_replaces_the_gradient(hook, factor):
    got = fg.grad(lambda x: jnp.sum(register_hook(x, hook) ** 2))(X)
    assert_same(got, jnp.array([2.0, 3.0, 3.0]) if factor is None else factor * 2 * X)


def test_hook_may_return_a_python_number_for_a_scalar():
    assert_same(fg.grad(lambda x: register_hook(x, lambda g: 7.0))(jnp.float32(1)), jnp.float32(7))


def test_hook_sees_the_gradient_that_reaches_it_not_later_factors():
    seen = []
    hook = lambda g: jax.debug.callback(lambda g: seen.append(g.tolist()), g)
    fg.grad(lambda x: jnp.sum(5 * register_hook(2 * x, hook)))(X)
    jax.effects_barrier()
    assert seen == [[5.0, 5.0, 5.0]]


def test_hook_on_a_value_without_influence_does_not_run():
    def fun(x):
        register_hook(x, lambda g: g + 1)
        return jnp.sum(x)

    assert_same(fg.grad(fun)(X), jnp.ones(3))
    assert_same(fg.grad(lambda x: jax.jit(fun)(x))(X), jnp.ones(3))


def test_hooks_run_in_the_order_of_data_flow():
    def fun(x):
        y = register_hook(register_hook(x, lambda g: g * 10), lambda g: g + 1)
        return jnp.sum(3 * y)

    # Backward meets the outer one first: (3 + 1) * 10.
    assert_same(fg.grad(fun)(X), jnp.full(3, 40.0))


def test_hook_around_a_tag_is_retained_as_returned():
    kept = retained(lambda x: jnp.sum(3 * register_hook(retain_grad(x, "x"), negate)))
    assert_same(kept["x"].grad, jnp.full(3, -3.0))


def test_tag_around_a_hook_is_retained_as_received():
    kept = retained(lambda x: jnp.sum(3 * retain_grad(register_hook(x, negate), "x")))
    assert_same(kept["x"].grad, jnp.full(3, 3.0))


def test_hook_on_a_pytree_has_none_at_an_integer_leaf():
    def hook(g):
        assert g["n"] is None
        return {"a": 2 * g["b"], "b": g["a"], "n": None}

    def fun(a, b):
        y = register_hook({"a": a, "b": b, "n": 3}, hook)
        return jnp.sum(y["a"] * 5 + y["b"] * 7) * y["n"]

    assert_same(fg.grad(fun, (0, 1))(X, X), (jnp.full(3, 42.0), jnp.full(3, 15.0)))


def test_hook_on_integers_alone_is_never_called():
    def hook(g):
        raise AssertionError

    assert register_hook(3, hook) == 3


@pytest.mark.slow
@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint])
def test_hook_closes_over_what_the_function_computes(around):
    def fun(x):
        mask = (x > 1.5).astype(jnp.float32)
        noise = jax.random.normal(jax.random.key(0), (3,))
        return jnp.sum(register_hook(x, lambda g: g * mask + noise) * x)

    want = X * jnp.array([0.0, 1.0, 1.0]) + jax.random.normal(jax.random.key(0), (3,)) + X
    assert_close(fg.grad(around(fun))(X), want)


def test_hook_closes_over_a_slice_of_scan():
    def fun(x):
        step = lambda c, a: (register_hook(c, lambda g: g * a) + 0.0, None)
        return lax.scan(step, x, jnp.array([2.0, 3.0, 5.0]))[0]

    assert_same(fg.grad(fun)(jnp.float32(1)), jnp.float32(30.0))


@pytest.mark.slow
def test_hook_closes_over_a_key_of_scan_and_over_the_carry():
    keys = jax.random.split(jax.random.key(1), 3)

    def fun(x):
        def step(c, key):
            return register_hook(c, lambda g: g * jax.random.uniform(key) * c) * 2, None

        return lax.scan(step, x, keys)[0]

    u = [jax.random.uniform(key) for key in keys]
    assert_close(fg.grad(fun)(jnp.float32(1)), 2 * u[0] * 1 * 2 * u[1] * 2 * 2 * u[2] * 4)


def test_hook_closes_over_a_vmapped_mask():
    masks = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])

    def fun(x):
        f = lambda m: jnp.sum(register_hook(x, lambda g: g * m) * 2)
        return jnp.sum(jax.vmap(f)(masks))

    assert_same(fg.grad(fun)(X), jnp.full(3, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(0, 0), (0, None)], ids=["own", "shared"])
def test_hook_under_vmap_sees_the_gradient_of_one_example(axes):
    def norm_one(g):
        return g / jnp.sqrt(jnp.sum(g * g))

    def f(a, w):
        return jnp.sum(a * register_hook(w, norm_one))

    rows = jnp.array([[3.0, 4.0], [0.0, 2.0]])
    w = jnp.ones(2)

    def fun(w):
        return jnp.sum(jax.vmap(f, in_axes=axes)(rows, w if axes[1] is None else jnp.stack([w, w])))

    assert_close(fg.grad(fun)(w), jnp.array([0.6, 0.8 + 1.0]))


@pytest.mark.slow
def test_hook_under_nested_vmaps_sees_the_gradient_of_one_example():
    def fun(x):
        f = lambda a: register_hook(x[0], lambda g: g * g) * a
        return jnp.sum(jax.vmap(jax.vmap(f))(jnp.array([[1.0, 2.0], [3.0, 4.0]])))

    assert_same(fg.grad(fun)(X)[0], jnp.float32(1 + 4 + 9 + 16))


def test_hook_in_scan_runs_once_for_each_iteration():
    seen = []
    hook = lambda g: jax.debug.callback(lambda g: seen.append(float(g)), g)

    def fun(x):
        return lax.scan(lambda c, a: (register_hook(c, hook) * a, None), jnp.float32(1), x)[0]

    jax.block_until_ready(fg.grad(fun)(X))
    jax.effects_barrier()
    assert sorted(seen) == [1.0 * 3, 1.0 * 2 * 3, 6.0]


@pytest.mark.parametrize("retain", [None, "y"])
def test_hook_under_checkpoint_runs_once(retain):
    seen = []
    hook = lambda g: jax.debug.callback(lambda g: seen.append(g.tolist()), g)

    def fun(x):
        block = jax.checkpoint(lambda x: jnp.sin(register_hook(retain_grad(x, "y"), hook)))
        return jnp.sum(block(x))

    jax.block_until_ready(fg.grad(fun, retain=retain)(X))
    jax.effects_barrier()
    assert len(seen) == 1
    assert_close(jnp.array(seen[0]), jnp.cos(X))


def test_hook_of_the_branch_that_is_not_taken_does_not_run():
    def fun(x):
        yes = lambda x: register_hook(x, lambda g: g + 10)
        return lax.cond(x > 0, yes, lambda x: register_hook(x, lambda g: g + 100), x)

    assert_same(fg.grad(fun)(1.0), jnp.float32(11.0))
    assert_same(fg.grad(fun)(-1.0), jnp.float32(101.0))


def test_hooks_are_consistent_at_second_order():
    def fun(x):
        return register_hook(x, lambda g: g * g) ** 3

    # The first gradient is (3 x^2)^2 = 9 x^4, but each path back to x passes the hook again.
    first = lambda x: fg.grad(fun)(x)
    assert_close(first(jnp.float32(2)), jnp.float32(144.0))
    # d(9 x^4) reaches u = hooked x as 36 x^3 = 288, and leaves the hook as its square.
    assert_close(jax.grad(first)(jnp.float32(2)), jnp.float32(288.0**2))


def test_hook_sees_the_conjugate_that_pytorch_has():
    def fun(z):
        return jnp.real(register_hook(z, lambda g: g * 1j) * (2 + 3j))

    # PyTorch's gradient of Re(a z) is conj(a).
    assert_close(fg.grad(fun)(jnp.complex64(1.0)), jnp.complex64((2 - 3j) * 1j))


def test_print_in_the_function_happens_once_with_retain():
    seen = []

    def fun(x):
        jax.debug.callback(lambda x: seen.append(x.tolist()), x)
        return jnp.sum(retain_grad(x, "y"))

    fg.value_and_grad(fun, retain="y")(X)
    jax.effects_barrier()
    assert seen == [[1.0, 2.0, 3.0]]


# Refusals.


@pytest.mark.parametrize("name", ["", None, 3, b"y"])
def test_name_that_is_not_a_string_is_refused(name):
    with pytest.raises(fg.UsageError, match=r"`retain_grad` got the name .*non-empty string"):
        retain_grad(X, name)


@pytest.mark.parametrize(
    "identity", [lambda y: retain_grad(y, "y"), lambda y: register_hook(y, negate)]
)
@pytest.mark.parametrize("leaf", ["text", object(), [X, "text"]], ids=["str", "object", "list"])
def test_tag_or_hook_on_what_is_no_array_is_refused(identity, leaf):
    with pytest.raises(fg.UsageError, match=r"got (str|object), and wants arrays"):
        identity(leaf)


def test_hook_that_is_not_callable_is_refused():
    with pytest.raises(fg.UsageError, match=r"`register_hook` got float as the hook"):
        register_hook(X, 1.0)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda g: g[:2], r"got float32\[2\], wanted float32\[3\]"),
        (lambda g: jnp.sum(g), r"got float32\[\], wanted float32\[3\]"),
        (lambda g: g.astype(jnp.bfloat16), r"got bfloat16\[3\], wanted float32\[3\]"),
        (lambda g: g.astype(jnp.int32), r"got int32\[3\], wanted float32\[3\]"),
        (lambda g: lax.complex(g, g), r"got complex64\[3\], wanted float32\[3\]"),
        (lambda g: (g,), r"\[0\]: got float32\[3\], wanted nothing"),
        (lambda g: {"a": g}, r"\['a'\]: got float32\[3\], wanted nothing"),
    ],
)
def test_hook_that_returns_another_shape_dtype_or_structure_is_refused(hook, message):
    with pytest.raises(fg.TreeError, match=r"`register_hook` got a hook that returns") as error:
        register_hook(X, hook)
    assert error.match(message)


def test_hook_that_drops_a_leaf_is_refused():
    with pytest.raises(fg.TreeError, match=r"\['b'\]: got nothing, wanted float32\[\]"):
        register_hook({"a": 1.0, "b": 2.0}, lambda g: {"a": g["a"]})


def test_hook_that_returns_text_is_refused():
    with pytest.raises(fg.FuncgradError, match="register_hook"):
        register_hook(X, lambda g: "text")


def twice(x):
    x = retain_grad(x, "y")
    return jnp.sum(retain_grad(x * 2, "y"))


def test_name_used_twice_is_refused_and_both_places_are_shown():
    with pytest.raises(fg.TagError, match=r"'y' twice") as error:
        retained(twice)
    first = twice.__code__.co_firstlineno + 1
    assert error.match(rf"first at .*test_tags\.py:{first}\n")
    assert error.match(rf"then at .*test_tags\.py:{first + 1}\n")
    assert error.match("named_scope")


def test_name_used_twice_is_no_error_while_nobody_asks():
    assert_same(fg.grad(twice)(X), jnp.full(3, 2.0))


def test_name_used_twice_is_no_obstacle_to_another_name():
    _, kept = fg.grad(lambda x: twice(retain_grad(x, "other")), retain="other")(X)
    assert_same(kept["other"], Retained(X, jnp.full(3, 2.0)))


def test_name_used_twice_through_a_jitted_function_is_refused():
    layer = jax.jit(lambda x: retain_grad(x * 2, "y"))
    with pytest.raises(fg.TagError, match=r"`retain_grad` got the name 'y' twice"):
        retained(lambda x: jnp.sum(layer(layer(x))), retain="y")


def test_one_name_in_two_branches_of_two_shapes_is_refused():
    def fun(x):
        yes = lambda x: jnp.sum(retain_grad(x, "y"))
        return lax.cond(x[0] > 0, yes, lambda x: retain_grad(x[0], "y"), x)

    with pytest.raises(fg.TagError, match=r"in two branches .*: got float32\[\S*\] and float32"):
        retained(fun)


def test_name_that_is_not_there_is_refused_and_those_that_are_listed():
    fun = lambda x: jnp.sum(retain_grad(retain_grad(x, "a"), "b"))
    with pytest.raises(fg.TagError, match=r"`grad` got 'c' in `retain`.*there is 'a', 'b'"):
        retained(fun, retain="c")


def test_pattern_without_a_match_is_refused():
    with pytest.raises(fg.TagError, match=r"'layer\*/y' in `retain`.*there is none at all"):
        retained(lambda x: jnp.sum(x), retain=("layer*/y",))


@pytest.mark.parametrize("ask", [("a", 3), [None], b"a"])
def test_retain_of_a_wrong_type_is_refused(ask):
    with pytest.raises(fg.UsageError, match=r"in `retain`, and wants names or patterns"):
        retained(lambda x: jnp.sum(retain_grad(x, "a")), retain=ask)


@pytest.mark.parametrize("ask", [3, True, 1.5])
def test_retain_that_is_no_sequence_is_refused(ask):
    with pytest.raises(fg.UsageError, match=r"`grad` got .* in `retain`"):
        retained(lambda x: jnp.sum(retain_grad(x, "a")), retain=ask)


def in_while(x):
    return jnp.sum(x) * lax.while_loop(lambda c: c < 9.0, lambda c: retain_grad(c * 2, "y"), 1.0)


def in_while_condition(x):
    return jnp.sum(x) * lax.while_loop(lambda c: retain_grad(c, "y") < 9.0, lambda c: c * 2, 1.0)


def in_dynamic_fori(x):
    n = jnp.sum(x > 0).astype(jnp.int32)
    count = lax.fori_loop(0, n, lambda i, c: retain_grad(c + 1, "y"), jnp.float32(0))
    return jnp.sum(x) * fg.detach(count)


def in_custom_jvp(x):
    square = jax.custom_jvp(lambda x: retain_grad(x * x, "y"))
    square.defjvp(lambda p, t: (p[0] ** 2, 2 * p[0] * t[0]))
    return jnp.sum(square(x))


def in_custom_vjp(x):
    square = jax.custom_vjp(lambda x: retain_grad(x * x, "y"))
    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    return jnp.sum(square(x))


def in_linear_solve(x):
    matvec = lambda v: retain_grad(2 * v, "y")
    return jnp.sum(lax.custom_linear_solve(matvec, x, solve=lambda _, b: b / 2, symmetric=True))


def in_reduction(x):
    return lax.reduce(x, jnp.float32(0), lambda a, b: retain_grad(a + b + a * b, "y"), (0,))


BLOCKED = [
    (in_while, "while"),
    (in_while_condition, "while"),
    (in_dynamic_fori, "while"),
    (in_custom_jvp, "custom_jvp_call"),
    (in_custom_vjp, "custom_vjp_call"),
    (in_linear_solve, "custom_linear_solve"),
    (in_reduction, "reduce"),
]


@pytest.mark.parametrize(("fun", "primitive"), BLOCKED)
@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint])
@pytest.mark.parametrize("ask", ["y", ...])
def test_tag_where_no_gradient_can_be_told_raises_with_primitive_tag_and_line(
    fun, primitive, around, ask
):
    with pytest.raises(fg.TagError, match=rf"'y' in `retain`.*inside `{primitive}`") as error:
        retained(around(fun), retain=ask)
    assert error.match(r"test_tags\.py:\d+")


@pytest.mark.parametrize("fun", [in_while, in_custom_jvp, in_custom_vjp])
def test_tag_where_no_gradient_can_be_told_is_ignored_while_nobody_asks(fun):
    def both(x):
        return fun(x) + jnp.sum(retain_grad(x, "z"))

    assert set(retained(both, retain="z")) == {"z"}
    assert jnp.all(jnp.isfinite(fg.grad(fun)(X)))


@pytest.mark.slow
def test_value_of_a_branch_not_taken_has_the_sharding_of_one_that_is():
    def fun(x, which):
        named = lambda x: retain_grad(jnp.tanh(x), "y")
        return jnp.sum(jax.lax.cond(which, named, lambda x: x, x))

    mesh = jax.make_mesh((8,), ("i",))  # shardings are part of types
    x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, P("i")))
    with jax.set_mesh(mesh):
        taken, absent = (
            jax.jit(fg.grad(fun, retain="y"))(x, which)[1]["y"] for which in (True, False)
        )
    assert jax.device_get(taken.grad).tolist() == [1.0] * 8
    assert jax.device_get(absent.value).tolist() == [0.0] * 8
    assert jax.device_get(absent.grad).tolist() == [0.0] * 8
