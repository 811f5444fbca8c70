"""Values of named intermediates beside the result, nothing differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from jax import lax

import funcgrad as fg

X = jnp.array([0.2, 0.4, 0.6])


def layered(x):
    with jax.named_scope("first"):
        h = fg.retain_grad(jnp.sin(x), "h")
    return fg.retain_grad(h * 2, "doubled")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("doubled", ["doubled"]),
        (("doubled", "first/*"), ["first/h", "doubled"]),
        (["first/h"], ["first/h"]),
        (..., ["first/h", "doubled"]),
        ((), []),
    ],
)
def test_names_come_in_the_order_of_the_program(names, wanted):
    out, values = fg.capture(layered, names)(X)
    assert list(values) == wanted
    assert_close(out, 2 * jnp.sin(X))
    every = {"first/h": jnp.sin(X), "doubled": 2 * jnp.sin(X)}
    assert_close(values, {name: every[name] for name in wanted})


def test_what_is_captured_is_differentiated_compiled_and_mapped():
    def total(x):
        out, values = fg.capture(layered, "first/h")(x)
        return jnp.sum(out) + jnp.sum(values["first/h"] ** 2)

    plain = lambda x: jnp.sum(2 * jnp.sin(x)) + jnp.sum(jnp.sin(x) ** 2)
    every = lambda f: jax.jit(jax.vmap(jax.hessian(f)))(jnp.stack([X, 2 * X]))
    assert_close(every(total), every(plain))


@pytest.mark.slow
def test_a_pytree_comes_back_with_its_integers_and_keys():
    key = jax.random.key(1)

    def fun(x):
        named = {"x": x, "i": jnp.arange(2), "key": key, "half": x.astype(jnp.bfloat16), "no": None}
        return fg.retain_grad(named, "h")["x"]

    values = fg.capture(fun, "h")(X)[1]["h"]
    assert values["key"] == key
    assert values["half"].dtype == jnp.bfloat16
    assert values["no"] is None
    np.testing.assert_array_equal(values["i"], [0, 1])
    branched = lambda x: lax.cond(x[0] > 1, fun, lambda x: x, x)
    absent = fg.capture(branched, "h")(X)[1]["h"]
    np.testing.assert_array_equal(jax.random.key_data(absent["key"]), [0, 0])


def test_what_is_no_array_passes():
    fun = lambda x, *, power: ((fg.retain_grad(x**power, "h"), "a note", None), jnp.sin)
    (out, note, nothing), function = fg.capture(fun, "h")(X, power=2)[0]
    assert (note, nothing, function) == ("a note", None, jnp.sin)
    assert_close(out, X**2)


def test_effects_keep_their_order(capsys):
    def fun(x):
        jax.debug.print("before", ordered=True)
        x = fg.retain_grad(x * 2, "h")
        jax.debug.print("after", ordered=True)
        return x

    jax.block_until_ready(fg.capture(fun, "h")(X))
    jax.effects_barrier()
    assert capsys.readouterr().out.split() == ["before", "after"]


@pytest.mark.usefixtures("checking_leaks")
def test_no_tracer_stays_behind():
    step = jax.checkpoint(jax.jit(lambda c: fg.retain_grad(jnp.sin(c), "h")))
    fun = lambda x: lax.scan(lambda c, _: (step(c), None), x, None, length=2)[0]
    assert jax.jit(fg.capture(fun, "h"))(X)[1]["h"].shape == (2, 3)


def test_a_value_inside_an_inner_gradient_is_told():
    inner = lambda x: jax.grad(lambda x: jnp.sum(layered(x) ** 2))(x)
    out, values = fg.capture(inner, "first/h")(X)
    assert_close(values["first/h"], jnp.sin(X))
    assert_close(out, jax.grad(lambda x: jnp.sum(4 * jnp.sin(x) ** 2))(X))


@pytest.mark.parametrize("bounds", ["dynamic", "capped"])
def test_a_loop_has_rows_where_its_steps_are_bounded(bounds):
    step = lambda i, c: fg.retain_grad(jnp.sin(c), "h")
    most = 4 if bounds == "capped" else None
    fun = lambda x, n: fg.fori_loop(0, n, step, x, max_steps=most)
    captured = jax.jit(fg.capture(fun, "h"))
    if bounds == "dynamic":
        match = r"`capture` got 'h' in `names`, .* inside `fori_loop`, .* pass max_steps="
        with pytest.raises(fg.TagError, match=match):
            captured(X, 2)
        return
    once = jnp.sin(X)
    wanted = jnp.stack([once, jnp.sin(once), jnp.zeros(3), jnp.zeros(3)])
    assert_close(captured(X, 2)[1]["h"], wanted)


def test_the_state_of_a_module_moves():
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self):
            self.calls, self.w = nnx.BatchStat(jnp.zeros(())), nnx.Param(jnp.float32(3))

        def __call__(self, x):
            self.calls[...] += 1.0
            return fg.retain_grad(self.w * x, "h")

    model = Model()
    assert_close(fg.capture(model, "h")(X), (3 * X, {"h": 3 * X}))
    assert_close(fg.capture(lambda m, x: m(x), "h")(model, X)[1], {"h": 3 * X})
    assert float(model.calls[...]) == 2


@pytest.mark.parametrize(
    ("fun", "names", "kind", "match"),
    [
        (layered, "h", fg.TagError, "`capture` got 'h' in `names`, .*'first/h', 'doubled'"),
        (layered, None, fg.UsageError, "`capture` got None in `names`"),
        (3, "h", fg.UsageError, "`capture` got int, and wants a function or a model"),
        (
            lambda x: layered(layered(x)),
            "doubled",
            fg.TagError,
            r"(?s)'doubled' twice, .*test_capture.py",
        ),
        (lambda x: (i for i in layered(x)), ..., fg.UsageError, "`capture` got generator"),
    ],
)
def test_refusals(fun, names, kind, match):
    with pytest.raises(kind, match=match):
        fg.capture(fun, names)(X)
