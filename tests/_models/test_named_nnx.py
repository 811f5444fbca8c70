"""Modules of Flax NNX named by their paths: the variables, and what changes them, are shared."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from named_models import MODES, PARAMS, X, check, torch_names
from tiers import slow_but

import funcgrad as fg

nnx = pytest.importorskip("flax.nnx", reason="Flax is not installed: pip install flax")


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(3, 5, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(5, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jnp.tanh(self.up(x)))


class Net(nnx.Module):
    def __init__(self, rngs, layers=None):
        self.layers = layers or nnx.List([Block(rngs) for _ in range(2)])
        self.head = nnx.Linear(3, 2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def net(mode="plain"):
    model = Net(nnx.Rngs(0))
    for layer, p in zip(model.layers, PARAMS["layers"], strict=True):
        layer.up.kernel[...], layer.down.kernel[...] = p["up"], p["down"]
    model.head.kernel[...] = PARAMS["head"]
    if mode == "scan":
        one, two = (nnx.split(layer) for layer in model.layers)
        rows = jax.tree.map(lambda *xs: jnp.stack(xs), one[1], two[1])
        model = Net(nnx.Rngs(0), nnx.merge(one[0], rows))
        model.head.kernel[...] = PARAMS["head"]
    return model


def names_of(fun, *args):
    return [*fg.grad(lambda *args: jnp.sum(fun(*args)), retain=...)(*args)[1]]


@pytest.mark.parametrize("mode", slow_but("scan".__eq__, MODES))
def test_values_and_gradients_at_modules_are_those_by_hand(mode):
    check(fg.named(net(mode)), mode)


def test_names_are_those_of_torch(torch):
    assert {*names_of(lambda m: m(X), fg.named(net()))} == torch_names(torch)


LIFTED = {
    "jit": lambda model: nnx.jit(lambda m, x: m(x))(model, X),
    "remat": lambda model: nnx.remat(lambda m, x: m(x))(model, X),
    "vmap": lambda model: nnx.vmap(lambda m, x: m(x), in_axes=(None, 0))(model, X),
    "cond": lambda model: nnx.cond(True, lambda m, x: m(x), lambda m, x: m(x) * 2, model, X),
    "merge": lambda model: nnx.merge(*nnx.split(model))(X),
    "clone": lambda model: nnx.clone(model)(X),
}


@pytest.mark.parametrize("way", slow_but(lambda way: way == "merge", LIFTED))
def test_transformations_of_nnx_keep_names(way):
    run, model = LIFTED[way], net()
    grads, retained = fg.grad(lambda m: jnp.sum(run(m) ** 2), retain=...)(fg.named(model))
    assert [*retained] == names_of(lambda m: m(X), fg.named(model))
    assert len(retained) == 7
    for ours, theirs in zip(
        jax.tree.leaves(grads),
        jax.tree.leaves(nnx.grad(lambda m: jnp.sum(m(X) ** 2))(model)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_a_scan_of_nnx_has_rows():
    def fun(model):
        run = lambda x, layer: layer(x)
        x = nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(X, model.layers)
        return jnp.sum(model.head(x) ** 2)

    _, retained = fg.grad(fun, retain="layers/up")(fg.named(net("scan")))
    assert retained["layers/up"].grad.shape == (2, 4, 5)


def test_the_model_stays_what_it_was():
    model = net()
    printed, graph = repr(model), nnx.graphdef(model)
    named = fg.named(model)
    assert (repr(model), nnx.graphdef(model)) == (printed, graph)
    assert repr(named) == printed
    assert isinstance(named, Net)
    assert isinstance(named.layers[0], Block)
    assert type(named.layers) is nnx.List
    assert type(named.head).__qualname__ == "Linear"
    assert names_of(lambda m: m(X), model) == []
    assert named.head.kernel is model.head.kernel
    loaded, deep = pickle.loads(pickle.dumps(named)), copy.deepcopy(named)
    for other in (fg.named(named), fg.named(model), loaded, deep, copy.copy(named)):
        assert nnx.graphdef(other) == nnx.graphdef(named)
    assert len([*nnx.iter_modules(named)]) == len([*nnx.iter_modules(model)])


class Stateful(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(x))


@pytest.mark.slow
def test_training_moves_the_model_and_the_named_one():
    model, alone = nnx.Sequential(Stateful(nnx.Rngs(0))), nnx.Sequential(Stateful(nnx.Rngs(0)))
    named = fg.named(model)
    total = lambda m, x: jnp.sum(m(x) ** 2)

    def train(model, grad):
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        for _ in range(2):
            optimizer.update(model, grad(model, X))

    train(named, lambda m, x: fg.grad(total, retain="layers/0/drop")(m, x)[0])
    train(alone, nnx.grad(total))
    got, want = (nnx.to_flat_state(nnx.state(m)) for m in (model, alone))
    for (path, ours), (_, theirs) in zip(got, want, strict=True):
        ours, theirs = (
            jax.random.key_data(x[...]) if "key" in path else x[...] for x in (ours, theirs)
        )
        np.testing.assert_array_equal(ours, theirs)
    assert model.layers[0].drop.rngs.count[...] == 2


@pytest.mark.slow
def test_a_shared_module_has_the_first_of_its_paths():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.encoder = nnx.Dict(inner=nnx.Linear(3, 3, rngs=rngs))
            self.decoder = Decoder(self.encoder["inner"], rngs)

        def __call__(self, x):
            return self.decoder(x)

    class Decoder(nnx.Module):
        def __init__(self, inner, rngs):
            self.own = {"a": nnx.data(nnx.Linear(3, 3, rngs=rngs))}["a"]
            self.inner = inner

        def __call__(self, x):
            with jax.named_scope("within"):
                x = self.inner(x)
            return self.own(x)

    named = fg.named(Tied(nnx.Rngs(0)))
    assert named.decoder.inner is named.encoder["inner"]
    assert names_of(lambda m: m(X), named) == ["encoder/inner", "decoder/own", "decoder"]


@pytest.mark.slow
def test_functions_and_what_draws_numbers_are_left_as_they_are():
    model = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.relu, nnx.Dropout(0.5))
    rngs = nnx.Rngs(1)
    named = fg.named(model)
    assert named.layers[1] is nnx.relu
    with_rngs = lambda m: m(X, rngs=nnx.Rngs(dropout=2))
    assert names_of(with_rngs, named) == ["layers/0", "layers/2"]
    np.testing.assert_array_equal(with_rngs(named), with_rngs(model))
    holder = nnx.Dict(rngs=rngs)
    assert fg.named(holder).rngs is rngs


def test_a_module_without_a_call_and_decorated_calls():
    class Bare(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 3, rngs=rngs)

        def encode(self, x):
            return self.linear(x)

    class Remat(Bare):
        @nnx.remat
        def __call__(self, x):
            return jnp.tanh(self.linear(x))

    class Outer(nnx.Module, pytree=False):
        def __init__(self, rngs):
            self.bare, self.remat = Bare(rngs), Remat(rngs)

        @nnx.jit
        def __call__(self, x):
            return self.remat(self.bare.encode(x))

    named = fg.named(Outer(nnx.Rngs(0)))
    assert names_of(lambda m: m(X), named) == ["bare/linear", "remat/linear", "remat"]
    closed_over = fg.named(net())
    assert len(names_of(lambda x: closed_over(x), X)) == 7
