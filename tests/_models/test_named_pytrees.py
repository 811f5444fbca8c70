"""Equinox modules, dataclasses and other pytrees, and functions, named by their paths."""

import copy
import dataclasses
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from named_models import MODES, PARAMS, X, by_hand, check, loss, stacked, torch_names
from tiers import slow_but

import funcgrad as fg


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    weight: jax.Array

    def __call__(self, x):
        return x @ self.weight


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    up: Linear
    down: Linear

    def __call__(self, x):
        return x + self.down(jnp.tanh(self.up(x)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Net:
    layers: list | Block
    head: Linear

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def layers_of(mode, block, linear):
    blocks = [block(linear(p["up"]), linear(p["down"])) for p in PARAMS["layers"]]
    return stacked(blocks) if mode == "scan" else blocks


def dataclasses_of(mode):
    return Net(layers_of(mode, Block, Linear), Linear(PARAMS["head"]))


def equinox_of(mode):
    eqx = pytest.importorskip("equinox")

    class Linear(eqx.Module):
        weight: jax.Array

        __call__ = globals()["Linear"].__call__

    class Block(eqx.Module):
        up: Linear
        down: Linear

        __call__ = globals()["Block"].__call__

    class Net(eqx.Module):
        layers: list | Block
        head: Linear

        __call__ = globals()["Net"].__call__

    return Net(layers_of(mode, Block, Linear), Linear(PARAMS["head"]))


def functions_of(mode):
    block = lambda p: lambda x: x + jnp.tanh(x @ p["up"]) @ p["down"]
    return {
        "layers": [block(p) for p in PARAMS["layers"]],
        "head": lambda x: x @ PARAMS["head"],
    }


KINDS = {"equinox": equinox_of, "dataclass": dataclasses_of, "functions": functions_of}
CELLS = [(k, m) for k in KINDS for m in MODES if (k, m) != ("functions", "scan")]


@pytest.mark.parametrize(
    ("kind", "mode"),
    slow_but(lambda k, m: k == "dataclass" and m in ("plain", "scan", "jit"), CELLS),
)
def test_values_and_gradients_at_modules_are_those_by_hand(kind, mode):
    inside = ("/up", "/down") if kind == "functions" else ()
    check(fg.named(KINDS[kind](mode)), mode, inside)


@pytest.mark.parametrize("kind", ["equinox", "dataclass"])
def test_names_are_those_of_torch(kind, torch):
    names = torch_names(torch)
    assert names == {*by_hand()[1]}
    model = fg.named(KINDS[kind]("plain"))
    assert {*fg.grad(lambda m: loss(m, X, "plain"), retain=...)(model)[1]} == names
    assert {*fg.grad(lambda m: jnp.sum(m(X)), retain=...)(model)[1]} == names


def names_of(fun, *args):
    return [*fg.grad(lambda *args: jnp.sum(fun(*args)), retain=...)(*args)[1]]


def structures(*trees):
    return [jax.tree.structure(tree) for tree in trees]


@pytest.mark.parametrize("kind", ["equinox", "dataclass"])
def test_the_model_stays_what_it_was(kind):
    model = KINDS[kind]("plain")
    before = jax.tree.flatten(model)
    named = fg.named(model)
    assert jax.tree.flatten(model) == before
    assert names_of(model, X) == []
    assert isinstance(named, type(model))
    assert isinstance(named.layers[0], type(model.layers[0]))
    assert repr(named) == repr(model)
    for name in ("__name__", "__module__", "__qualname__", "__doc__"):
        assert getattr(type(named.head), name) == getattr(type(model.head), name)
    assert [*map(id, jax.tree.leaves(named))] == [*map(id, jax.tree.leaves(model))]
    again, other, shallow, deep = structures(
        fg.named(named), fg.named(model), copy.copy(named), copy.deepcopy(named)
    )
    assert jax.tree.structure(named) == again == other == shallow == deep


def test_a_named_model_pickles():
    named = fg.named(dataclasses_of("plain"))
    loaded = pickle.loads(pickle.dumps(named))
    assert jax.tree.structure(loaded) == jax.tree.structure(named)
    assert type(loaded.layers[1].up) is type(named.layers[1].up)


def test_a_part_of_a_named_model_is_named_anew():
    part = fg.named(dataclasses_of("plain")).layers[1]
    assert names_of(fg.named(part), X) == ["up", "down"]
    assert names_of(part, X) == ["layers/1/up", "layers/1/down", "layers/1"]


def test_names_and_scopes_of_the_users_own_stand_around_and_within():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Tanh:
        inner: Linear

        def __call__(self, x):
            return fg.retain_grad(jnp.tanh(self.inner(x)), "h")

    named = fg.named([Tanh(Linear(PARAMS["head"]))])

    def student(x):
        with jax.named_scope("student"):
            return named[0](x)

    assert names_of(student, X) == ["student/0/inner", "student/0/h", "student/0"]


def test_a_module_that_another_one_calls_has_its_own_path():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Calls:
        own: Linear

        def __call__(self, x, other):
            # The program of a loop is apart from the scopes around it.
            return lax.map(lambda x: self.own(other(x)), x)

    square = Linear(PARAMS["layers"][0]["up"] @ PARAMS["layers"][0]["down"])
    named = fg.named({"a": [Calls(square)], "b": square})
    assert names_of(lambda x: named["a"][0](x, named["b"]), X) == ["b", "a/0/own", "a/0"]


def test_only_arrays_of_an_output_are_tagged():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Many:
        weight: jax.Array

        def __call__(self, x):
            return {"y": x * self.weight, "note": "text", "n": 3, "f": jnp.tanh, "none": None}

    named = fg.named([Many(jnp.float32(2))])

    def fun(x):
        out = named[0](x)
        assert (out["note"], out["n"], out["f"], out["none"]) == ("text", 3, jnp.tanh, None)
        return out["y"]

    _, retained = fg.grad(fun, retain="0")(jnp.float32(3))
    assert retained["0"].value == {"y": 6.0, "note": None, "n": None, "f": None, "none": None}
    assert retained["0"].grad["y"] == 1.0


class Pair(NamedTuple):
    first: Linear
    second: Linear

    def __call__(self, x):
        return self.second(self.first(x))


@jax.tree_util.register_pytree_node_class
class Scale:
    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.by

    def tree_flatten(self):
        return (self.by,), "aux"

    @classmethod
    def tree_unflatten(cls, aux, children):
        assert aux == "aux"
        return cls(*children)


def of_struct():
    struct = pytest.importorskip("flax.struct")

    @struct.dataclass
    class Scaled:
        by: jax.Array
        rule: str = struct.field(pytree_node=False, default="rule")

        def __call__(self, x):
            return x * self.by

    return Scaled


def of_node():
    struct = pytest.importorskip("flax.struct")

    class Scaled(struct.PyTreeNode):
        by: jax.Array

        def __call__(self, x):
            return x * self.by

    return Scaled


def of_chex():
    chex = pytest.importorskip("chex")

    @chex.dataclass
    class Scaled:
        by: jax.Array

        def __call__(self, x):
            return x * self.by

    return Scaled


@pytest.mark.parametrize("make", [lambda: Scale, of_struct, of_node, of_chex])
def test_every_registered_class_is_flattened_as_it_says(make):
    model = {"a": make()(by=jnp.float32(2))}
    named = fg.named(model)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(named)]
    assert paths == [path for path, _ in jax.tree_util.tree_leaves_with_path(model)]
    assert jax.tree.structure(named) != jax.tree.structure(model)
    grads, retained = fg.grad(lambda m: m["a"](3.0), retain="a")(jax.tree.map(jnp.negative, named))
    assert (retained["a"].value, grads["a"].by, type(grads["a"])) == (-6, 3, type(named["a"]))


def test_state_of_flax_is_saved_and_restored():
    serialization = pytest.importorskip("flax.serialization")
    named = fg.named([of_struct()(by=jnp.float32(2))])
    state = serialization.to_state_dict(named)
    assert state == {"0": {"by": 2.0}}
    restored = serialization.from_state_dict(named, {"0": {"by": jnp.float32(5)}})
    assert restored[0].by == 5
    assert type(restored[0]) is type(named[0])


def test_a_named_tuple_that_is_called_is_one():
    square = Linear(jnp.eye(3))
    named = fg.named([Pair(square, square)])
    assert named[0]._fields == Pair._fields
    assert names_of(lambda x: named[0](x), X) == ["0/first", "0/second", "0"]


# Functions.


def test_a_function_is_named_by_its_name():
    def double(x):
        return 2 * fg.retain_grad(x, "half")

    assert names_of(fg.named(double), X) == ["double/half", "double"]
    assert names_of(fg.named(fg.named(double)), X) == ["double/half", "double"]
    assert fg.named(double).__wrapped__ is double


def test_a_method_of_a_model_is_one_of_the_named_model():
    model = dataclasses_of("plain")
    assert names_of(fg.named(model.head.__call__), X) == []
    assert len(names_of(fg.named(model.__call__), X)) == 7


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "got int, and wants a model"),
        (X, r"got float32\[4,3\], and"),
        ("text", "got str, and"),
        (Linear, "got the class Linear, not an object"),
        (lambda x: x, "a function without a name of its own"),
        ([1, {}], "got a list with no module and no function in it"),
        ([type("Called", (), {"__call__": print})()], "got at '0' a Called of .*no pytree"),
    ],
    ids=lambda value: value[4:10] if isinstance(value, str) else "",
)
def test_what_is_no_model_is_refused(model, message):
    with pytest.raises(fg.UsageError, match=f"`named` .*{message}"):
        fg.named(model)


def test_a_module_of_torch_is_refused(torch):
    with pytest.raises(fg.UsageError, match=r"got a module of PyTorch \(Linear\)"):
        fg.named(torch.nn.Linear(2, 2))


# Equinox.


@pytest.fixture
def eqx():
    return pytest.importorskip("equinox")


@pytest.mark.slow
def test_the_scopes_of_equinox_are_no_part_of_names(eqx):
    keys = jax.random.split(jax.random.key(0), 2)
    linears = [eqx.nn.Linear(3, 3, key=key) for key in keys]
    model = eqx.nn.Sequential([linears[0], eqx.nn.Lambda(jnp.tanh), linears[1]])
    want = ["layers/0", "layers/1", "layers/2"]
    assert names_of(fg.named(model), X[0]) == want
    assert names_of(jax.vmap(fg.named(model)), X) == want
    assert names_of(eqx.filter_jit(fg.named(model)), X[0]) == want
    assert names_of(fg.named(eqx.filter_vmap(model)), X) == want
    with pytest.raises(fg.UsageError, match=r"filter_jit.*filter_jit\(named\(model\)\)"):
        fg.named(eqx.filter_jit(model))
    mlp = eqx.nn.MLP(3, 3, 3, 2, key=keys[0])
    assert names_of(fg.named([mlp])[0], X[0]) == [*(f"0/layers/{n}" for n in range(3)), "0"]


@pytest.mark.slow
def test_filtered_transformations_take_a_named_model(eqx):
    model = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    named = fg.named(model)
    total = lambda m, x: jnp.sum(eqx.filter_vmap(m)(x) ** 2)
    want = eqx.filter_grad(total)(model, X)
    got = eqx.filter_jit(eqx.filter_grad(total))(named, X)
    assert isinstance(got, eqx.nn.MLP)
    assert type(got.layers[0]) is type(named.layers[0])
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    arrays, rest = eqx.partition(named, eqx.is_array)
    moved = eqx.apply_updates(eqx.combine(arrays, rest), got)
    set_ = eqx.tree_at(lambda m: m.layers[0].weight, moved, model.layers[0].weight)
    remat = eqx.filter_checkpoint(set_)
    assert names_of(remat, X[0]) == names_of(set_, X[0]) == ["layers/0", "layers/1"]


def test_nothing_is_run_to_make_it_and_static_fields_are_kept(eqx):
    class Careful(eqx.Module):
        inner: eqx.Module = eqx.field(static=True)
        size: int = eqx.field(converter=lambda n: n + 1)

        def __check_init__(self):
            made.append(self)

        def __call__(self, x):
            return self.inner(x) * self.size

    made = []
    named = fg.named([Careful(eqx.nn.Identity(), 1)])
    assert len(made) == 1
    assert named[0].size == 2
    assert names_of(lambda x: named[0](x), X) == ["0/inner", "0"]


@pytest.mark.slow
def test_shared_modules_and_state_of_equinox(eqx):
    class Stateful(eqx.Module):
        norm: eqx.nn.BatchNorm
        tied: eqx.nn.Shared

        def __call__(self, x, state):
            first, second = self.tied()
            x, state = self.norm(first(x), state)
            return second(x), state

    def make():
        one, two = (eqx.nn.Linear(3, 3, key=key) for key in jax.random.split(jax.random.key(0)))
        tied = eqx.nn.Shared((one, two), lambda pair: pair[1].weight, lambda pair: pair[0].weight)
        return Stateful(eqx.nn.BatchNorm(3, "batch", mode="batch"), tied)

    model, state = eqx.nn.make_with_state(make)()
    run = lambda m, x: jax.vmap(m, (0, None), (0, None), axis_name="batch")(x, state)
    want = run(model, X)
    got = run(fg.named(model), X)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    names = names_of(lambda m, x: run(m, x)[0], fg.named(model), X)
    assert names == ["tied/pytree/0", "norm", "tied/pytree/1"]


def test_a_mask_of_the_model_without_names_is_refused_as_such():
    named, mask = fg.named(Linear(jnp.ones((3, 3)))), Linear(True)
    loss = lambda model: jnp.sum(model(X))
    with pytest.raises(fg.TreeError, match=r"another class Linear: .* make the mask of the"):
        fg.grad(loss, requires_grad=mask)(named)
    of_named = jax.tree.map(lambda _: True, named)
    assert fg.grad(loss, requires_grad=of_named)(named).weight.shape == (3, 3)
