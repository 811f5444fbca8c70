"""Models of other kinds as they are: leaves that are no arrays, nodes that check what they get."""

import dataclasses
import functools
import itertools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from tiers import one_in

import funcgrad as fg

X = jnp.arange(1.0, 7.0).reshape(3, 2) / 7


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Leaves that are no arrays.

LEAVES = {
    "function": jnp.tanh,
    "jitted": jax.jit(jnp.tanh),
    "string": "tanh",
    "class": dict,
    "object": object(),
    "none": None,
    "number": 3,
    "key": jax.random.key(0),
    "NumPy's text": np.array(["a"]),
}


def tanh_loss(p, x):
    return jnp.sum(jnp.tanh(x @ p["w"]) ** 2)


WEIGHTS = jnp.array([0.5, -1.0])
WANT = jax.grad(lambda w, x: tanh_loss({"w": w}, x))(WEIGHTS, X)
ANSWERS = {
    "grad": lambda p: fg.grad(tanh_loss)(p, X),
    "value_and_grad": lambda p: fg.value_and_grad(tanh_loss)(p, X)[1],
    "vjp": lambda p: fg.vjp(tanh_loss, p, X)[1]()[0],
    "retain": lambda p: fg.grad(tanh_loss, retain=...)(p, X)[0],
    "unused": lambda p: fg.grad(tanh_loss, allow_unused=False)(p, X),
    "microbatch": lambda p: fg.microbatch(fg.grad(tanh_loss), 3, reduce="sum")(p, X),
    "detect_anomaly": lambda p: fg.detect_anomaly(fg.grad(tanh_loss))(p, X),
    "compiled": lambda p: fg.detect_anomaly(fg.grad(tanh_loss), mode="compiled")(p, X),
    "mask": lambda p: fg.grad(tanh_loss, requires_grad=jax.tree.map(lambda _: True, p))(p, X),
    "prefix": lambda p: fg.grad(tanh_loss, requires_grad={"w": True, "rest": False})(p, X),
    "path": lambda p: fg.grad(tanh_loss, requires_grad=lambda path, leaf: True)(p, X),
    "leaf": lambda p: fg.grad(tanh_loss, requires_grad=lambda leaf: True)(p, X),
}


@pytest.mark.parametrize(("answer", "leaf"), one_in(4, [*itertools.product(ANSWERS, LEAVES)]))
def test_a_leaf_that_is_no_array_gets_none(answer, leaf):
    got = ANSWERS[answer]({"w": WEIGHTS, "rest": [LEAVES[leaf]]})
    np.testing.assert_allclose(got["w"], WANT, rtol=1e-6)
    assert got["rest"] == [None]


@pytest.mark.slow
@pytest.mark.parametrize("leaf", LEAVES)
def test_accumulators_and_checks_pass_over_it_too(leaf):
    p = {"w": WEIGHTS, "rest": [LEAVES[leaf]]}
    grads = fg.grad(tanh_loss)(p, X)
    acc = fg.accumulate_grad(fg.zero_grad(p), grads)
    assert_same(fg.accumulate_grad(acc, grads), {"w": 2 * WANT, "rest": [None]})
    assert_same(fg.accumulate_grad(fg.zero_grad(p, set_to_none=True), grads), grads)
    assert fg.gradcheck(tanh_loss, (p, X), fast=True)
    names = {row.name for row in fg.saved_tensors(tanh_loss, p, X)}
    assert "argument 1" in names
    assert not fg.disconnected(tanh_loss, p, X)


@pytest.mark.parametrize("node", [(), [], {}, None, {"a": ()}])
def test_nodes_without_leaves_add_up_to_themselves(node):
    tree = {"w": WEIGHTS, "empty": node}
    assert_same(fg.accumulate_grad(tree, tree), {"w": 2 * WEIGHTS, "empty": node})


# Nodes that check what they get.


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "n"], meta_fields=[])
@dataclasses.dataclass
class Checked:
    w: jax.Array
    n: jax.Array

    def __post_init__(self):
        if self.n.dtype != jnp.int32:
            raise TypeError("n must be an int")


@jax.tree_util.register_pytree_node_class
class Converting:
    def __init__(self, w, name):
        self.w, self.size = jnp.asarray(w), len(name)
        self.name = name

    def tree_flatten(self):
        return (self.w, self.name), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


CHECKING = {
    "dataclass": lambda: Checked(WEIGHTS, jnp.array(3)),
    "unflatten": lambda: Converting(WEIGHTS, "layer"),
    "inside": lambda: {"layers": [Checked(WEIGHTS, jnp.array(3))]},
}
PLACES = {
    "dataclass": r"\.n",
    "unflatten": r"\[<flat index 1>\]",
    "inside": r"\['layers'\]\[0\]\.n",
}


@pytest.mark.parametrize("kind", CHECKING)
def test_a_node_that_refuses_none_is_refused_by_the_place_of_the_leaf(kind):
    model = CHECKING[kind]()
    total = lambda m: sum(jnp.sum(x) for x in jax.tree.leaves(m) if not isinstance(x, str))
    for call in (lambda: fg.grad(total)(model), lambda: fg.zero_grad(model)):
        with pytest.raises(fg.UsageError, match=f"got {PLACES[kind]} among .* made with None"):
            call()


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "mean"], meta_fields=[])
@dataclasses.dataclass
class Moving:
    w: jax.Array
    mean: jax.Array

    def __call__(self, x):
        self.mean = 0.9 * self.mean + 0.1 * jnp.mean(x)
        return self.w * x


@jax.tree_util.register_pytree_node_class
class Counting:
    def __init__(self, w, calls):
        self.w, self.calls = w, calls

    def tree_flatten(self):
        return (self.w,), self.calls

    @classmethod
    def tree_unflatten(cls, calls, children):
        return cls(*children, calls)

    def __call__(self, x):
        self.calls += 1
        return self.w * x


CHANGING = {
    "array": lambda: Moving(WEIGHTS, jnp.zeros(())),
    "count": lambda: Counting(WEIGHTS, 0),
    "inside": lambda: {"layers": [Moving(WEIGHTS, jnp.zeros(()))]},
}
LOSING = {
    "grad": lambda fun, m: fg.grad(fun)(m, X),
    "vjp": lambda fun, m: fg.vjp(fun, m, X),
    "detect_anomaly": lambda fun, m: fg.detect_anomaly(fun)(m, X),
    "microbatch": lambda fun, m: fg.microbatch(fg.grad(fun), 3)(m, X),
    "gradcheck": lambda fun, m: fg.gradcheck(fun, (m, X)),
    "saved_tensors": lambda fun, m: fg.saved_tensors(fun, m, X),
}


@pytest.mark.parametrize("kind", CHANGING)
@pytest.mark.parametrize("function", LOSING)
def test_a_change_of_an_object_that_would_be_lost_is_refused(function, kind):
    def fun(m, x):
        layer = m["layers"][0] if isinstance(m, dict) else m
        return jnp.sum(layer(x))

    with pytest.raises(fg.UsageError, match="changes an object among its arguments in place"):
        LOSING[function](fun, CHANGING[kind]())


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Logged:
    w: jax.Array
    log: list[jax.Array]


@pytest.mark.parametrize("function", LOSING)
def test_a_new_list_for_an_attribute_is_a_change_of_the_object(function):
    def fun(m, x):
        m.log = [m.w * 2]
        return jnp.sum(m.w * x)

    with pytest.raises(fg.UsageError, match=r"changes an object among its arguments.*\.log"):
        LOSING[function](fun, Logged(WEIGHTS, [WEIGHTS]))


def test_a_dict_may_be_changed_as_under_jax():
    def fun(p):
        p["h"] = p.pop("w") ** 2
        return jnp.sum(p["h"])

    assert_same(fg.grad(fun)({"w": WEIGHTS}), jax.grad(fun)({"w": WEIGHTS}))


def test_a_node_that_makes_its_leaves_anew_is_not_taken_for_changed():
    @jax.tree_util.register_pytree_node_class
    class Scaled:
        def __init__(self, w):
            self.w = w

        def tree_flatten(self):
            return (self.w * 1,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    got = fg.grad(lambda m: jnp.sum(m.w**2))(Scaled(WEIGHTS))
    np.testing.assert_array_equal(got.w, 2 * WEIGHTS)


# What is no pytree.

ITERATORS = {"generator": lambda: (x for x in [1.0]), "map": lambda: map(float, [1]), "zip": zip}
TAKING = {
    "grad": lambda it: fg.grad(lambda p: 1.0)(it),
    "vjp": lambda it: fg.vjp(lambda p: 1.0, it),
    "detect_anomaly": lambda it: fg.detect_anomaly(lambda p: 1.0)(it),
    "gradcheck": lambda it: fg.gradcheck(lambda p: 1.0, it),
    "saved_tensors": lambda it: fg.saved_tensors(lambda p: 1.0, it),
    "microbatch": lambda it: fg.microbatch(lambda p, x: p, 2)(1.0, it),
    "zero_grad": fg.zero_grad,
    "accumulate_grad": lambda it: fg.accumulate_grad(it, 1.0),
    "retain_grad": lambda it: fg.retain_grad(it, "y"),
    "register_hook": lambda it: fg.register_hook(it, lambda g: g),
    "detach": fg.detach,
    "set_data": lambda it: fg.set_data(it, 1.0),
}


@pytest.mark.parametrize("kind", ITERATORS)
@pytest.mark.parametrize("function", TAKING)
def test_an_iterator_is_refused_with_what_to_write(function, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(fg.UsageError, match=rf"`{function}` got {kind}, .*list\("):
            TAKING[function](ITERATORS[kind]())


@pytest.mark.parametrize("options", [{}, {"retain": ...}, {"has_aux": True}])
def test_so_is_one_that_a_function_returns(options):
    result = lambda x: (x, (y for y in [x])) if options.get("has_aux") else (y for y in [x])
    with pytest.raises(fg.UsageError, match="`grad` got generator"):
        fg.grad(result, **options)(1.0)


# Sparse arrays.

SPARSE = sparse.BCOO((jnp.array([2.0, 3.0]), jnp.array([[1], [3]])), shape=(4,))


@pytest.mark.slow
def test_gradients_of_sparse_arrays_have_their_indices_and_add_up():
    total = lambda s: jnp.sum(s.todense() ** 2)
    grads = fg.grad(total)(SPARSE)
    np.testing.assert_array_equal(grads.todense(), [0, 4, 0, 6])
    np.testing.assert_array_equal(fg.vjp(total, SPARSE)[1]()[0].todense(), [0, 4, 0, 6])
    acc = fg.accumulate_grad(fg.accumulate_grad(fg.zero_grad(SPARSE), grads), grads)
    np.testing.assert_array_equal(acc.todense(), [0, 8, 0, 12])
    twice = jax.jit(fg.accumulate_grad)({"s": grads}, {"s": grads})
    np.testing.assert_array_equal(twice["s"].todense(), [0, 8, 0, 12])


def test_sparse_gradients_add_up_as_in_pytorch(torch):
    embedding = torch.nn.Embedding(4, 1, sparse=True)
    for rows in ([1, 3], [3, 3]):
        embedding(torch.tensor(rows)).sum().backward()
    one = lambda rows: sparse.BCOO((jnp.ones((2, 1)), jnp.array(rows)[:, None]), shape=(4, 1))
    got = fg.accumulate_grad(one([1, 3]), one([3, 3]))
    np.testing.assert_array_equal(got.todense(), embedding.weight.grad.to_dense().numpy())


def test_sparse_gradients_of_another_shape_are_refused():
    other = sparse.BCOO((jnp.ones(1), jnp.array([[1]])), shape=(5,))
    with pytest.raises(fg.TreeError, match="do not fit the accumulator"):
        fg.accumulate_grad(SPARSE, other)


# Equinox.


@pytest.fixture(scope="module")
def eqx():
    return pytest.importorskip(
        "equinox", reason="Equinox is not installed: pip install 'funcgrad[bench]'"
    )


@pytest.fixture
def mlp(eqx):
    return eqx.nn.MLP(2, 1, 4, 2, key=jax.random.key(0))


def mean_square(model, x):
    return jnp.mean(jax.vmap(model)(x) ** 2)


@pytest.mark.slow
def test_gradients_of_equinox_are_those_of_its_own_transform(eqx, mlp):
    value, grads = fg.value_and_grad(mean_square)(mlp, X)
    want, want_grads = eqx.filter_value_and_grad(mean_square)(mlp, X)
    np.testing.assert_array_equal(value, want)
    assert_same(grads, want_grads)
    assert_same(fg.vjp(mean_square, mlp, X)[1]()[0], want_grads)
    jitted = eqx.filter_jit(eqx.filter_grad(mean_square))(mlp, X)
    assert_same(eqx.filter_jit(fg.grad(mean_square))(mlp, X), jitted)
    updated = eqx.apply_updates(mlp, jax.tree.map(lambda g: -0.1 * g, grads))
    assert mean_square(updated, X) < value


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "predicate", "path and leaf"])
def test_masks_of_a_models_own_kind_switch_parts_off(eqx, mlp, kind):
    mask = jax.tree.map(lambda _: False, mlp)
    mask = eqx.tree_at(lambda m: m.layers[0].weight, mask, True)
    wanted = {
        "mask": mask,
        "predicate": lambda leaf: eqx.is_inexact_array(leaf) and leaf.shape == (4, 2),
        "path and leaf": lambda path, leaf: ".layers[0].weight" in jax.tree_util.keystr(path),
    }[kind]
    got = fg.grad(mean_square, requires_grad=wanted)(mlp, X)
    want = eqx.filter_grad(mean_square)(mlp, X)
    np.testing.assert_array_equal(got.layers[0].weight, want.layers[0].weight)
    assert len(jax.tree.leaves(got)) == 1


@pytest.mark.slow
def test_a_predicate_of_equinox_is_one_of_the_leaf(eqx, mlp):
    got = fg.grad(mean_square, requires_grad=eqx.is_inexact_array)(mlp, X)
    assert_same(got, eqx.filter_grad(mean_square)(mlp, X))


@pytest.mark.slow
def test_gradients_of_equinox_accumulate(eqx, mlp):
    grads = fg.grad(mean_square)(mlp, X)
    acc = fg.accumulate_grad(fg.accumulate_grad(fg.zero_grad(mlp), grads), grads)
    assert_same(acc, jax.tree.map(lambda g: g + g, grads))
    got = fg.microbatch(fg.grad(mean_square), 3)(mlp, X)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.slow
def test_tools_take_equinox_as_it_is(eqx, mlp):
    assert fg.gradcheck(mean_square, (mlp, X), fast=True)
    got = fg.detect_anomaly(fg.grad(mean_square))(mlp, X)
    for ours, theirs in zip(
        jax.tree.leaves(got), jax.tree.leaves(fg.grad(mean_square)(mlp, X)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
    assert fg.saved_tensors(mean_square, mlp, X, argnums=0).total > 0


def replaced_and_popped(state, x):
    state["n"] = state.pop("w") * x
    return jnp.sum(x**2)


def nested_and_moved(state, x):
    state["log"].append({"x": x, "old": state["w"], "none": None, "name": "text"})
    state["again"] = state["log"]
    return jnp.sum(x**2)


def counted_and_inserted_first(state, x):
    state["count"] = state["count"] + 1
    state["log"].insert(0, (x, state["w"]))
    return jnp.sum(x**2)


def in_a_namedtuple(state, x):
    state["pair"].second.append(x + state["pair"].first)
    return jnp.sum(x**2)


class Pair(NamedTuple):
    first: Any
    second: Any


def a_state():
    return {"w": WEIGHTS, "log": [1.0], "count": 0, "pair": Pair(1.0, [])}


STANDING = {
    "detect_anomaly": fg.detect_anomaly,
    "interpreted": lambda fun: fg.detect_anomaly(fun, mode="interpreted"),
    "save_on_cpu": fg.save_on_cpu,
    "no_grad": fg.no_grad,
}
WRITING = [replaced_and_popped, nested_and_moved, counted_and_inserted_first, in_a_namedtuple]


@pytest.mark.parametrize("fun", WRITING, ids=lambda fun: fun.__name__)
@pytest.mark.parametrize("function", STANDING)
def test_what_is_written_into_an_argument_is_there_after_the_call(function, fun):
    ours, theirs = a_state(), a_state()
    log, run = ours["log"], STANDING[function](fun)
    for _ in range(2 if "count" in fun.__name__ else 1):
        assert_same(run(ours, X), fun(theirs, X))
        assert_same(ours, theirs)
    assert {*ours} == {*theirs}
    assert ours["log"] is log


def test_what_save_on_cpu_writes_into_an_argument_keeps_its_gradient():
    def loss(wrapped, x):
        state = {}
        wrapped(lambda state, x: state.update(h=x**3))(state, x)
        return jnp.sum(state["h"])

    plain = jax.grad(functools.partial(loss, lambda fun: fun))(X)
    assert_same(jax.jit(jax.grad(functools.partial(loss, fg.save_on_cpu)))(X), plain)


def twice(one, other, x):
    one.append(x)
    return jnp.sum(x) * len(other)


@pytest.mark.parametrize("function", STANDING)
def test_a_write_into_one_list_that_is_two_arguments_is_refused(function):
    log = [1.0]
    with pytest.raises(fg.UsageError, match=r"`twice` of .*:\d+, .* argument 0 and argument 1"):
        STANDING[function](twice)(log, log, X)
    assert log == [1.0]


def test_microbatch_refuses_a_write_into_what_it_does_not_split():
    def fun(state, x):
        state["h"] = x.pop("extra")
        return jnp.mean(x["x"])

    with pytest.raises(fg.UsageError, match=r"fun` of .*:\d+, which writes into argument 0"):
        fg.microbatch(fun, 2)({}, {"x": jnp.ones(4), "extra": jnp.ones(4)})


def test_a_part_of_the_batch_is_the_function_s_own():
    fun = lambda x: jnp.mean(x.pop("x"))
    batch = {"x": jnp.arange(4.0)}
    assert float(fg.microbatch(fun, 2, batch_argnums=0)(batch)) == 1.5
    assert "x" in batch
