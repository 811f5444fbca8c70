"""Keras models under `named`: names, values and gradients, and the library's own numbers."""

import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import funcgrad as fg
from funcgrad._models.keras import named

pytestmark = pytest.mark.slow  # Keras alone is seconds to import

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install keras")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend: KERAS_BACKEND=jax", allow_module_level=True)

layers = keras.layers
X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)


def names(fun, *args):
    """Every name that a function holds, in its order."""
    with pytest.raises(fg.errors.TagError, match="no value of that name is tagged") as error:
        fg.vjp(fun, *args, retain="not there")
    listed = str(error.value).split("there is ")[1].split("; tag it")[0]
    return listed.replace("'", "").split(", ")


def weights(model):
    return (
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
    )


class Block(keras.Model):
    """Calls its layers in the way that an idiom has it."""

    def __init__(self, idiom, **kwargs):
        super().__init__(**kwargs)
        self.idiom = idiom
        self.inner = [layers.Dense(3, name="dense")]

    def call(self, x):
        (dense,) = self.inner
        match self.idiom:
            case "remat":
                return jax.checkpoint(dense)(x)
            case "scan":
                return jax.lax.scan(lambda x, _: (dense(x), None), x, length=3)[0]
            case "vmap":
                return jax.vmap(lambda row: dense(row[None])[0])(x)
            case "cond":
                return jax.lax.cond(x[0, 0] > 0, dense, jnp.sin, x)
        return dense(x)


class Net(keras.Model):
    def __init__(self, idiom):
        super().__init__(name="net")
        self.block = Block(idiom, name="block")

    def call(self, x):
        return jnp.tanh(self.block(x))


def loss(out):
    return jnp.sum(out**2 + jnp.sin(out))


def dense(w, x, zero):
    y = x @ w[0] + w[1] + zero
    return y, y


def by_hand(idiom, w, x, zeros):
    if idiom == "scan":
        return jax.lax.scan(lambda x, zero: dense(w, x, zero), x, zeros)
    if idiom == "vmap":
        return dense(w, x, zeros[:, 0])
    return dense(w, x, zeros)


ROWS = {"scan": (3, 4, 3), "vmap": (4, 1, 3), "shard_map": (2, 2, 3)}


@pytest.mark.parametrize("idiom", ["jit", "scan", "vmap", "remat", "cond", "shard_map"])
def test_value_and_gradient_of_a_layer_are_those_by_hand(idiom):
    x = X.at[0, 0].set(1.0)
    model = Net(idiom)
    model(x)
    tagged = named(model)
    trained, rest = weights(model)

    def run(w, x):
        apply = lambda w, x: tagged.stateless_call(w, rest, x)[0]
        if idiom == "shard_map":
            mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
            apply = jax.shard_map(apply, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))
        return loss(apply(w, x))

    def reference(w, zeros):
        whole = zeros.reshape(4, 3) if idiom == "shard_map" else zeros
        out, values = by_hand(idiom, w, x, whole)
        return loss(jnp.tanh(out)), values

    zeros = jnp.zeros(ROWS.get(idiom, (4, 3)))
    (want, values), (of_w, of_zeros) = jax.jit(
        jax.value_and_grad(reference, argnums=(0, 1), has_aux=True)
    )(trained, zeros)
    got, grads, retained = jax.jit(fg.value_and_grad(run, retain=("block/dense", "block")))(
        trained, x
    )
    close = lambda got, want: np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-6)
    close(got, want)
    jax.tree.map(close, grads, of_w)
    close(retained["block/dense"].value, values.reshape(zeros.shape))
    close(retained["block/dense"].grad, of_zeros)


# Names.


def sequential():
    inner = keras.Sequential([layers.Dense(3, name="d")], name="inner")
    return keras.Sequential([layers.Dense(3, name="a"), inner, layers.Dense(3, name="b")])


def functional():
    given = keras.Input((3,))
    inner = keras.Sequential([layers.Dense(3, name="d")], name="inner")
    a = layers.Dense(3, name="a")(given)
    return keras.Model(given, layers.Add(name="sum")([a, inner(a)]))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = {"first": [layers.Dense(3, name="a")], "second": functional()}
        self.parts["second"].name = "whole"

    def call(self, x):
        x = fg.retain_grad(self.parts["first"][0](x), "h")
        return self.parts["second"](x)


class Tagging(layers.Layer):
    def call(self, x):
        return fg.retain_grad(2 * x, "h")


MODELS = {
    "sequential": (sequential, ["a", "inner/d", "inner", "b"]),
    "functional": (functional, ["a", "inner/d", "inner", "sum"]),
    "subclassed": (
        Subclassed,
        ["a", "h", "whole/a", "whole/inner/d", "whole/inner", "whole/sum", "whole"],
    ),
    "a tag in a layer": (lambda: keras.Sequential([Tagging(name="t")]), ["t/h", "t"]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_names_are_those_of_the_layers_and_the_model_is_left_as_it_is(kind):
    make, want = MODELS[kind]
    model = make()
    model(X)
    before = {id(layer): dict(vars(layer)) for layer in model._flatten_layers()}
    tagged = named(model)
    trained, rest = weights(tagged)
    assert names(tagged, X) == want
    assert names(jax.jit(lambda w, x: tagged.stateless_call(w, rest, x)[0]), trained, X) == want
    assert not set(want) & set(names(model, X)) - {"h"}
    np.testing.assert_array_equal(tagged(X), model(X))
    assert isinstance(tagged, type(model))
    assert type(tagged).__qualname__ == type(model).__qualname__
    assert all(one is other for one, other in zip(tagged.weights, model.weights, strict=True))
    for layer in model._flatten_layers():
        for key, value in vars(layer).items():
            assert key == "_called" or value is before[id(layer)][key], (
                key
            )  # Keras writes `_called`


def test_a_part_that_is_named_has_its_names_under_those_that_keras_gives():
    inner = sequential()
    inner.name = "part"
    inner(X)
    given = keras.Input((3,))
    model = keras.Model(given, named(inner)(given), name="outer")
    parts = [f"part/{name}" for name in ("a", "inner/d", "inner", "b")]
    assert names(model, X) == [f"outer/{name}" for name in parts]
    assert names(named(model), X) == [*parts, "part"]


def test_layers_in_a_layer_of_keras_are_named():
    given = keras.Input((4, 3))
    model = keras.Model(given, layers.LSTM(2, name="lstm")(given))
    x = jnp.ones((2, 4, 3))
    _, retained = fg.grad(lambda x: jnp.sum(named(model)(x)), retain=...)(x)
    assert list(retained) == ["lstm/lstm_cell", "lstm"]
    assert jax.tree.leaves(retained["lstm/lstm_cell"].value)[0].shape == (4, 2, 2)


def test_a_mask_goes_on_to_the_next_layer():
    model = keras.Sequential([layers.Embedding(5, 3, mask_zero=True), layers.LSTM(2)])
    x = jnp.array([[1, 2, 0, 0]])
    model(x)
    np.testing.assert_array_equal(named(model)(x), model(x))
    assert jnp.max(jnp.abs(model(x) - model(x[:, :2]))) < 1e-6  # the mask matters


def test_a_training_step_is_that_of_the_original_to_the_bit():
    model = keras.Sequential(
        [layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.5, seed=1), layers.Dense(1)]
    )
    model(X)

    def step(m):
        def mean(trained, rest):
            out, rest = m.stateless_call(trained, rest, X, training=True)
            return jnp.mean(out**2), rest

        return jax.jit(jax.value_and_grad(mean, has_aux=True))(*weights(m))

    jax.tree.map(np.testing.assert_array_equal, step(model), step(named(model)))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_a_named_model_is_saved_as_the_model_and_pickled_as_it_is(tmp_path):
    tagged = named(functional())
    again = pickle.loads(pickle.dumps(tagged))
    assert names(again, X) == MODELS["functional"][1]
    np.testing.assert_array_equal(again(X), tagged(X))
    tagged.save(tmp_path / "model.keras")
    plain = keras.saving.load_model(tmp_path / "model.keras")
    assert names(plain, X) == ["none at all"]
    np.testing.assert_array_equal(plain(X), tagged(X))


def test_a_model_without_weights_is_refused():
    with pytest.raises(fg.errors.UsageError, match=r"`named` got .* no weights yet; call it once"):
        named(keras.Sequential([layers.Dense(3)]))


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(fg.errors.UsageError, match=r'wants the backend "jax": set .*KERAS_BACKEND'):
        named(sequential())
