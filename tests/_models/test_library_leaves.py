"""What models of other libraries hold: settings, states that are used up, mappings, variables."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg

X = jnp.arange(1.0, 7.0).reshape(3, 2) / 7
WEIGHTS = jnp.array([0.5, -1.0])


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def eqx():
    return pytest.importorskip(
        "equinox", reason="Equinox is not installed: pip install 'funcgrad[models]'"
    )


@pytest.mark.slow
def test_python_numbers_that_equinox_holds_are_settings(eqx):
    class Layer(eqx.Module):
        w: jax.Array
        rate: float
        drop: eqx.nn.Dropout

        def __call__(self, x):
            return self.drop(x @ self.w * (self.rate if self.rate > 1 else 0), inference=True)

    layer = Layer(WEIGHTS, 2.0, eqx.nn.Dropout(0.5))
    total = lambda layer, x: jnp.sum(layer(x) ** 2)
    want = eqx.filter_grad(total)(layer, X)
    assert_same(fg.grad(total)(layer, X), want)
    assert_same(fg.vjp(total, layer, X)[1]()[0], want)
    assert jax.tree.structure(fg.zero_grad(layer)) == jax.tree.structure(want)
    assert fg.saved_tensors(total, layer, X, argnums=0).total > 0
    scaled = lambda layer: jnp.sum(layer.w * layer.rate)
    asked = fg.grad(scaled, requires_grad=eqx.is_inexact_array_like)(layer)
    np.testing.assert_array_equal(asked.rate, jnp.sum(WEIGHTS))
    with pytest.raises(fg.GradientError, match="Equinox holds is a setting"):
        fg.grad(lambda drop: drop.p * 2)(layer.drop)


@pytest.mark.slow
def test_a_mask_is_a_mapping_of_another_kind_than_the_parameters():
    core = pytest.importorskip("flax.core", reason="Flax is not installed: pip install flax")
    params = {"b": {"k": WEIGHTS, "z": X}, "a": WEIGHTS}
    mask = {"b": {"k": True, "z": False}, "a": False}
    total = lambda tree: sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))
    want = {"b": {"k": 2 * WEIGHTS, "z": None}, "a": None}
    frozen = core.freeze(params)
    assert_same(fg.grad(total, requires_grad=core.freeze(mask))(params), want)
    assert_same(fg.grad(total, requires_grad=mask)(frozen), core.freeze(want))
    assert_same(fg.grad(total, requires_grad=[core.freeze(mask)])([params]), [want])
    assert_same(fg.grad(total, requires_grad=[mask])([frozen]), [core.freeze(want)])
    with pytest.raises(fg.TreeError, match="not a prefix"):
        fg.grad(total, requires_grad={"b": True})(frozen)


@pytest.mark.slow
def test_a_state_of_equinox_is_used_up_where_it_is_used(eqx):
    index = eqx.nn.StateIndex(jnp.zeros(2))

    class Counts(eqx.Module):
        index: eqx.nn.StateIndex
        w: jax.Array

        def __call__(self, x, state):
            left = state.set(self.index, state.get(self.index) + jnp.sum(x))
            return jnp.mean((x @ self.w) ** 2), left

    model, state = eqx.nn.make_with_state(lambda: Counts(index, WEIGHTS))()
    gradient = eqx.filter_grad(lambda model, x, state: model(x, state), has_aux=True)
    copy = lambda: jax.tree.map(lambda leaf: leaf, state)
    want = gradient(model, X, copy())
    for transform in (lambda fun: fg.microbatch(fun, 1), fg.detect_anomaly, fg.no_grad):
        got = transform(gradient)(model, X, copy())
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    loss = lambda model, x, state: model(x, state)[0]
    assert fg.saved_tensors(loss, model, X, copy()).total > 0
    assert fg.gradcheck(loss, (model, X, copy()), fast=True)


def test_beside_what_is_used_up_a_change_is_refused_all_the_same():
    @jax.tree_util.register_pytree_node_class
    class Once:
        def __init__(self, w):
            self.w, self.spent = w, False

        def tree_flatten(self):
            if self.spent:
                raise ValueError("used")
            return (self.w,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    @functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "mean"], meta_fields=[])
    @dataclasses.dataclass
    class Moving:
        w: jax.Array
        mean: jax.Array

        def __call__(self, x):
            self.mean = self.mean + jnp.mean(x)
            return self.w * x

    def fun(pair, x):
        pair[0].spent = True
        return jnp.sum(pair[1](x) * pair[0].w)

    with pytest.raises(fg.UsageError, match="changes an object among its arguments in place"):
        fg.detect_anomaly(fun)((Once(WEIGHTS), Moving(WEIGHTS, jnp.zeros(()))), X)


def test_what_makes_itself_an_array_is_its_value():
    class Variable:  # as Keras has it
        def __init__(self, value):
            self.value, self.shape, self.dtype = value, value.shape, value.dtype.name

        def __jax_array__(self):
            return self.value

    v = Variable(WEIGHTS)
    total = lambda vs, x: jnp.sum((x @ jnp.asarray(vs[0])) ** 2)
    want = jax.grad(total)([WEIGHTS], X)
    assert_same(fg.grad(total)([v], X), want)
    assert_same(fg.grad(total, retain=...)([v], X)[0], want)
    assert_same(fg.detach([v]), [WEIGHTS])
    assert_same(fg.accumulate_grad(fg.zero_grad([v]), want), want)


@pytest.mark.slow
def test_a_model_of_keras_to_differentiate_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip(
        "keras", reason="Keras is not installed: pip install 'funcgrad[models]'"
    )
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    total = lambda pair, x: jnp.sum(pair[0](x)) * pair[1]
    with pytest.raises(fg.UsageError, match=r"got Sequential at \[0\].*stateless_call"):
        fg.grad(total)((net, 1.0), X)
    assert fg.grad(lambda s, net, x: s * jnp.sum(net(x)))(1.0, net, X) == total((net, 1.0), X)


def test_a_bound_module_of_linen_to_differentiate_is_refused():
    linen = pytest.importorskip("flax.linen", reason="Flax is not installed: pip install flax")
    net = linen.Dense(1)
    bound = net.bind({"params": {"kernel": WEIGHTS[:, None], "bias": jnp.zeros(1)}})
    with pytest.raises(fg.UsageError, match=r"got Dense at \[0\].*call module.apply"):
        fg.grad(lambda pair, x: jnp.sum(pair[0](x)) * pair[1])((bound, 1.0), X)
    unbound = fg.grad(lambda pair: pair[1] * 2.0)((net, 1.0))
    assert unbound[0] is None
