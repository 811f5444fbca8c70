"""Linen models under `named`: names, values and gradients, and the library's own numbers."""

import copy
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiers import slow_but

import funcgrad as fg
from funcgrad._models.linen import named

nn = pytest.importorskip("flax.linen", reason="Flax is not installed: pip install flax")

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
KEY = jax.random.key(0)


def names(fun, *args):
    """Every name that a function holds, in its order."""
    with pytest.raises(fg.errors.TagError, match="no value of that name is tagged") as error:
        fg.vjp(fun, *args, retain="not there")
    listed = str(error.value).split("there is ")[1].split("; tag it")[0]
    return listed.replace("'", "").split(", ")


def variables_of(model, x=X):
    """The model's variables with numbers in them, without the time that `init` compiles."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, KEY, x)
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape) / 2, s.dtype), shapes)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(3)(x))


class Step(Layer):
    @nn.compact
    def __call__(self, x, _=None):
        return jnp.tanh(nn.Dense(3)(x)), None


class DecoratedJit(nn.Module):
    @nn.jit
    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(3)(x))


class DecoratedScan(nn.Module):
    @partial(nn.scan, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    @nn.compact
    def __call__(self, x, _):
        return jnp.tanh(nn.Dense(3)(x)), None


STACKED = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
LIFTED = {
    "plain": lambda: Layer(name="a"),
    "jit": lambda: nn.jit(Layer)(name="a"),
    "remat": lambda: nn.remat(Layer)(name="a"),
    "vmap": lambda: nn.vmap(Layer, in_axes=None, out_axes=2, axis_size=2, **STACKED)(name="a"),
    "scan": lambda: nn.scan(nn.remat(Step), length=3, **STACKED)(name="a"),
    "jit, decorated": lambda: DecoratedJit(name="a"),
    "scan, decorated": lambda: DecoratedScan(name="a"),
}


class Net(nn.Module):
    idiom: str

    @nn.compact
    def __call__(self, x):
        if "scan" in self.idiom:
            return LIFTED[self.idiom]()(x, None)[0]
        return LIFTED[self.idiom]()(x)


class Cond(nn.Module):
    def setup(self):
        self.a = Layer()
        self.b = Layer()

    def __call__(self, x):
        if self.is_initializing():
            return self.a(x) + self.b(x)
        return nn.cond(x[0, 0] > 0, lambda m, x: m.a(x), lambda m, x: m.b(x), self, x)


def layer(p, x, zeros):
    """A layer by hand, with a zero added to each value that has a name."""
    before = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"] + zeros["a/Dense_0"]
    after = jnp.tanh(before) + zeros["a"]
    return after, {"a/Dense_0": before, "a": after}


def loss(out):
    return jnp.sum(out**2 + jnp.sin(out))


def by_hand(idiom, p, x, zeros):
    if "scan" in idiom:
        return jax.lax.scan(lambda x, row: layer(row[0], x, row[1]), x, (p, zeros))
    if idiom == "vmap":
        out, values = jax.vmap(layer, (0, None, 0))(p, x, zeros)
        return jnp.moveaxis(out, 0, 2), values
    return layer(p, x, zeros)


ROWS = {"scan": (3,), "scan, decorated": (3,), "vmap": (2,)}


def check(run, reference, variables, zeros):
    """A named model's value and gradients against what is written by hand."""
    value, grads, retained = fg.value_and_grad(run, retain=("a/Dense_0", "a"))(variables, X)
    (want, values), (of_params, of_zeros) = jax.value_and_grad(
        reference, argnums=(0, 1), has_aux=True
    )(variables["params"], zeros)
    close = lambda got, want: np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)
    close(value, want)
    jax.tree.map(close, grads["params"], of_params)
    for name in zeros:
        # The output of a step of a scan is a pair, of the carry and of None.
        (value,), (grad,) = (
            jax.tree.leaves(retained[name].value),
            jax.tree.leaves(retained[name].grad),
        )
        close(value, values[name])
        close(grad, of_zeros[name])


@pytest.mark.parametrize("idiom", slow_but(lambda idiom: idiom in ("jit", "scan"), LIFTED))
def test_value_and_gradient_of_a_layer_are_those_by_hand(idiom):
    model = Net(idiom)
    variables = variables_of(model)
    zeros = dict.fromkeys(("a/Dense_0", "a"), jnp.zeros((*ROWS.get(idiom, ()), 4, 3)))

    def reference(p, zeros):
        out, values = by_hand(idiom, p["a"], X, zeros)
        return loss(out), values

    tagged = named(model)
    check(jax.jit(lambda v, x: loss(tagged.apply(v, x))), reference, variables, zeros)


@pytest.mark.slow
@pytest.mark.parametrize("taken", [True, False])
def test_a_layer_in_a_branch_has_zeros_where_it_is_not_taken(taken):
    model = Cond()
    x = X.at[0, 0].set(1.0 if taken else -1.0)
    variables = variables_of(model, x)

    def run(v):
        return loss(named(model).apply(v, x))

    _, retained = fg.grad(run, retain="a")(variables)
    p = variables["params"]["a"]["Dense_0"]
    want = jnp.tanh(x @ p["kernel"] + p["bias"]) * float(taken)
    np.testing.assert_allclose(retained["a"].value, want, rtol=1e-6)
    np.testing.assert_allclose(
        retained["a"].grad, (2 * want + jnp.cos(want)) * float(taken), rtol=2e-6, atol=1e-6
    )


@pytest.mark.slow
def test_a_layer_in_shard_map_has_a_row_for_each_device():
    model, mesh = (
        Net("plain"),
        jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)),
    )
    variables = variables_of(model)

    def run(v, x):
        apply = jax.shard_map(
            named(model).apply, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d")
        )
        return loss(apply(v, x))

    def reference(p, zeros):
        out, values = by_hand("plain", p["a"], X, {n: z.reshape(4, 3) for n, z in zeros.items()})
        return loss(out), {name: x.reshape(2, 2, 3) for name, x in values.items()}

    zeros = dict.fromkeys(("a/Dense_0", "a"), jnp.zeros((2, 2, 3)))
    check(jax.jit(run), reference, variables, zeros)


def test_a_batched_model_has_a_row_for_each_example():
    variables = variables_of(Net("remat"))
    run = lambda v, x: loss(jax.vmap(named(Net("remat")).apply, (None, 0))(v, x))
    _, retained = fg.grad(run, retain="a")(variables, X)
    _, whole = fg.grad(lambda v, x: loss(named(Net("plain")).apply(v, x)), retain="a")(variables, X)
    np.testing.assert_allclose(retained["a"].grad, whole["a"].grad, rtol=2e-6)


# Names.


class Encoder(nn.Module):
    shared: nn.Module

    @nn.compact
    def __call__(self, x):
        x = fg.retain_grad(nn.Dense(3)(x), "h")
        return self.shared(x)


class Whole(nn.Module):
    given: nn.Module

    def setup(self):
        self.shared = nn.Dense(3)
        self.encoder = Encoder(self.shared)
        self.rest = nn.Sequential([nn.Dense(3), nn.tanh, Layer()])

    def __call__(self, x):
        with jax.named_scope("mine"):
            x = self.given(x)
        return self.rest(self.encode(x))

    def encode(self, x):
        return self.encoder(x)


ENCODER = ["encoder/Dense_0", "encoder/h", "shared", "encoder"]
WHOLE = [
    *["mine/given/Dense_0", "mine/given", *ENCODER],
    *["rest/layers_0", "rest/layers_2/Dense_0", "rest/layers_2", "rest"],
]
WAYS = {
    "apply": (lambda m, v: m.apply(v, X), WHOLE),
    "bind": (lambda m, v: m.bind(v)(X), WHOLE),
    "nn.apply": (lambda m, v: nn.apply(lambda m: m(X), m)(v), WHOLE),
    "method by name": (lambda m, v: m.apply(v, X, method="encode"), ENCODER),
    "method": (lambda m, v: m.apply(v, X, method=Whole.encode), ENCODER),
    "function": (lambda m, v: m.apply(v, method=lambda m: m.encode(X)), ENCODER),
    "bound method": (lambda m, v: m.bind(v).encode(X), ENCODER),
    "init": (lambda m, v: m.init_with_output(KEY, X)[0] + v["params"]["shared"]["bias"], WHOLE),
}


@pytest.mark.parametrize("way", WAYS)
def test_names_are_the_paths_of_modules(way):
    model = Whole(Layer())
    call, want = WAYS[way]
    variables = variables_of(model)
    assert names(lambda v: call(named(model), v), variables) == want


class Two(nn.Module):
    kind: type

    @nn.compact
    def __call__(self, x):
        for name in ("a", "b"):
            x = self.kind(name=name)(x)
        return x


@pytest.mark.parametrize("kind", [DecoratedJit, nn.jit(Layer)])
def test_one_compiled_layer_has_its_own_names_at_each_place_and_none_in_the_original(kind):
    model = Two(kind)
    variables = variables_of(model)
    want = ["a/Dense_0", "a", "b/Dense_0", "b"]
    for _ in range(2):
        assert names(lambda v: named(model).apply(v, X), variables) == want
        assert names(lambda v: model.apply(v, X), variables) == ["none at all"]
    np.testing.assert_array_equal(named(model).apply(variables, X), model.apply(variables, X))


class Lifting(nn.Module):
    """Hands a layer to functions that Linen lifts, and calls it in a method of the layer."""

    def setup(self):
        self.cell = nn.RNN(nn.GRUCell(3))
        self.branch = Layer()
        self.by_method = Again()

    def __call__(self, x):
        x = self.cell(x[None])[0]
        same = lambda layer, x: layer(x)
        if not self.is_initializing():
            x = nn.cond(x[0, 0] > 0, same, same, self.branch, x)
        return self.by_method.again(self.branch(x) if self.is_initializing() else x)


class Again(Layer):
    def again(self, x):
        return self(x)


def test_a_layer_that_is_handed_to_a_function_has_its_name():
    model = Lifting()
    assert names(lambda v: named(model).apply(v, X), variables_of(model)) == [
        *[f"cell/cell/{gate}" for gate in ("ir", "hr", "iz", "hz", "in", "hn")],
        *["cell/cell", "cell", "branch/Dense_0", "branch", "by_method/Dense_0", "by_method"],
    ]


class Outside(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(self.inner(x))


def test_a_part_that_is_named_has_its_names_under_those_that_linen_gives():
    model = Outside(named(Two(Layer)))
    variables = variables_of(model)
    assert jax.tree.structure(variables) == jax.tree.structure(variables_of(Outside(Two(Layer))))
    inner = [f"inner/{name}" for name in ("a/Dense_0", "a", "b/Dense_0", "b")]
    # `Outside` is the scope that Linen opens for a module without a name.
    assert names(lambda v: model.apply(v, X), variables) == [f"Outside/{n}" for n in inner]
    whole = names(lambda v: named(model).apply(v, X), variables)
    assert whole == [*inner, "inner", "Dense_0"]


# The same model.


class Trained(nn.Module):
    @nn.compact
    def __call__(self, x, training=True):
        x = nn.BatchNorm(use_running_average=not training)(nn.Dense(5)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not training)(x))


@pytest.mark.slow
def test_init_gives_the_numbers_of_the_original():
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.jit(model.init)(KEY, X) for model in (nn.Dense(2), named(nn.Dense(2)))),
    )


@pytest.mark.slow
def test_a_training_step_is_that_of_the_original_to_the_bit():
    @jax.jit(static_argnums=0)
    def step(apply, variables, key):
        def mean(params):
            out, new = apply(
                {**variables, "params": params}, X, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return jnp.mean(out**2), new

        (value, new), grads = jax.value_and_grad(mean, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)
        return value, {"params": params, **new}

    models = Trained(), named(Trained())
    variables = variables_of(models[0])
    for model in models:
        assert jax.tree.structure(variables) == jax.tree.structure(variables_of(model))
    steps = [step(model.apply, variables, jax.random.key(1)) for model in models]
    jax.tree.map(np.testing.assert_array_equal, *steps)


class Own(nn.Module):
    """Has its own notion of what is equal."""

    size: int

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return isinstance(other, Own)


def test_a_named_module_is_a_module_of_the_same_kind():
    model = Whole(Layer())
    tagged = named(model)
    assert isinstance(tagged, Whole)
    assert type(tagged).__qualname__ == Whole.__qualname__
    assert repr(tagged) == repr(model)
    assert tagged.given is model.given
    assert named(tagged) is tagged
    assert tagged == named(model) == tagged.clone() == tagged.copy() == copy.deepcopy(tagged)
    assert hash(tagged) == hash(named(model))
    assert hash(named(Own(1))) == 7
    assert named(Own(1)) == Own(2)
    again = pickle.loads(pickle.dumps(tagged))
    assert again == tagged
    assert names(lambda v: again.apply(v, X), variables_of(model)) == WHOLE


def test_gradients_stop_at_a_while_loop_by_name_only():
    class Loop(nn.Module):
        @nn.compact
        def __call__(self, x):
            a = Layer(name="a")
            if self.is_initializing():
                return a(x)
            more = lambda m, c: (c[0] + 1, c[1] * 0.5)
            return a(nn.while_loop(lambda m, c: c[0] < 2, more, self, (0, x))[1])

    variables = variables_of(Loop())
    # Linen's loop cannot be differentiated in its inputs; in what comes after it can.
    _, retained = fg.grad(lambda v: loss(named(Loop()).apply(v, X)), retain="a")(variables)
    p = variables["params"]["a"]["Dense_0"]
    want = jnp.tanh(X * 0.25 @ p["kernel"] + p["bias"])
    np.testing.assert_allclose(retained["a"].grad, 2 * want + jnp.cos(want), rtol=2e-6)


def test_the_place_of_a_tag_is_the_line_that_calls_the_module():
    with pytest.raises(fg.errors.TagError, match=rf"tagged at .*{__file__.split('/')[-1]}"):
        fg.grad(lambda x: jnp.sum(jax.jit(_dropped)(x)), retain="a")(X)


def _dropped(x):
    class Drops(nn.Module):
        @nn.compact
        def __call__(self, x):
            Layer(name="a")(x)
            return x

    return named(Drops()).init_with_output(KEY, x)[0]
