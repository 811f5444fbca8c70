"""A call taken apart into arrays and the rest; what each function does with a leaf that is none."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_same
from tiers import one_in, slow_but

import funcgrad as fg
from funcgrad import _calls as calls
from funcgrad._describe import argument_at
from funcgrad._leaves import is_variable

X = jnp.array([1.0, 2.0])
SAME = lambda x: x


def weigh(params, x, *, scale, name):
    assert name == "loss"
    return {"out": params["w"] * x * scale, "name": name}


CALL = calls.every_argument(
    weigh, ({"w": X, "n": 3}, X), {"scale": 2 * X, "name": "loss"}, function="grad"
)


def test_the_arrays_of_a_call_are_named():
    assert_same(CALL.arrays, [X, X, 2 * X])
    names = CALL.names(argument_at)
    assert names == ["argument 0['w']", "argument 1", "argument scale"]


def test_a_call_is_made_again_with_other_arrays():
    got = CALL.run([X, 3 * X, X])
    assert_same(got, {"out": 3 * X**3, "name": "loss"})


def test_what_is_no_array_in_a_result_is_part_of_its_structure():
    result = jax.jit(lambda *arrays: CALL.returned(arrays))(*CALL.arrays)
    assert_same(jax.tree.leaves(result), [2 * X**3])
    assert result.whole["name"] == "loss"


def test_arrays_belong_to_positional_arguments():
    assert CALL.belong([0]) == [True, False, False]
    assert CALL.belong([1, 0]) == [True, True, False]


def test_parts_and_join_are_inverse():
    whole = {"a": X, "b": (3, None, 2 * X), "c": True, "f": jnp.tanh}
    arrays, parts = calls.take_apart(whole, is_variable)
    assert_same(arrays, [X, 2 * X])
    assert parts.rest == (3, True, jnp.tanh)
    assert parts.join(arrays).keys() == whole.keys()
    assert parts.join(arrays)["f"] is jnp.tanh
    assert_same(calls.scatter(parts.tree, parts.chosen, arrays)["b"], (None, None, 2 * X))


def test_the_parts_of_equal_calls_are_one_key():
    one, other = (calls.take_apart({"x": x, "n": 3}, is_variable)[1] for x in (X, 2 * X))
    assert hash(one) == hash(other)
    assert one == other


def test_nothing_is_taken_apart_into_nothing():
    arrays, parts = calls.take_apart({}, is_variable)
    assert (arrays, parts.join([])) == ([], {})


def test_path_of_a_leaf():
    tree = {"a": [1, 2], "b": {"c": 3}}
    assert [calls.path_of(tree, n) for n in range(3)] == ["['a'][0]", "['a'][1]", "['b']['c']"]
    assert calls.path_of(1.0, 0) == ""


def test_scatter_puts_none_elsewhere():
    tree = jax.tree.structure((0, {"a": 0, "b": 0}))
    assert calls.scatter(tree, [False, True, False], ["x"]) == (None, {"a": "x", "b": None})


# What is differentiated.


def differentiated(*args, positions=(0,), **keywords):
    return calls.differentiated(lambda *args: args, args, {}, positions, "grad", **keywords)


def test_the_leaves_that_take_a_gradient_are_taken_out():
    call = differentiated(X, {"a": X, "n": 3, "b": (None, 2 * X)}, positions=(1, 0))
    assert_same(call.arrays, [X, 2 * X, X])
    assert call.parts.rest == (3,)


def test_other_arguments_are_handed_on_as_they_are():
    other = [object(), {1: "keys that", "do": "not sort"}]
    _, got = differentiated(X, other).run([2 * X])
    assert got is other


def test_one_argument_is_no_tuple_of_one():
    call = differentiated(X, {"a": X, "b": X}, positions=(1,), several=False)
    assert call.whole.keys() == {"a", "b"}
    assert_same(call.run([X, 2 * X]), (X, {"a": X, "b": 2 * X}))


def test_mask_errors_name_the_path():
    tree = {"a": X, "b": X}
    with pytest.raises(fg.UsageError, match=r"got 1 from `requires_grad` for \['b'\]"):
        differentiated(tree, several=False, requires_grad={"a": True, "b": 1})
    with pytest.raises(fg.TreeError, match=r"`grad` got a `requires_grad` that is not a prefix"):
        differentiated({"a": X}, several=False, requires_grad=[True])


def test_a_leaf_that_is_no_array_is_none_of_the_inputs():
    call = differentiated({"a": X, "b": "relu"})
    assert_same(call.arrays, [X])
    assert call.parts.rest == ("relu",)


# Every function that takes a call apart, and every kind of leaf. `fun` is one of `(x, leaf)`.

RUNS = {
    "grad": lambda fun, leaf: fg.grad(fun)(X, leaf),
    "grad retain": lambda fun, leaf: fg.grad(fun, retain=...)(X, leaf),
    "vjp": lambda fun, leaf: fg.vjp(lambda x: fun(x, leaf), X),
    "gradcheck": lambda fun, leaf: fg.gradcheck(fun, (X, leaf), argnums=0, fast=True),
    "gradgradcheck": lambda fun, leaf: fg.gradgradcheck(fun, (X, leaf), argnums=0, fast=True),
    "saved_tensors": lambda fun, leaf: fg.saved_tensors(fun, X, leaf),
    "disconnected": lambda fun, leaf: fg.disconnected(fun, X, leaf),
    "hooks": lambda fun, leaf: fg.saved_tensors_hooks(fun, SAME, SAME)(X, leaf),
    "graph": lambda fun, leaf: fg.graph(fun, X, leaf),
    "capture": lambda fun, leaf: fg.capture(fun, ...)(X, leaf),
    "detect_anomaly": lambda fun, leaf: fg.detect_anomaly(fun)(X, leaf),
    "detect_anomaly compiled": lambda fun, leaf: fg.detect_anomaly(fun, mode="compiled")(X, leaf),
    "microbatch": lambda fun, leaf: fg.microbatch(fun, 2, batch_argnums=0)(X, leaf),
}
OTHERS = {
    "int": 3,
    "bool": True,
    "None": None,
    "string": "relu",
    "function": jnp.tanh,
    "unhashable": {1, 2},
    "dtype": jnp.float32,
    "NumPy strings": np.array(["a"]),
}
VARIABLES = {"saved_tensors", "disconnected", "graph"}
TRACED = {*VARIABLES, "hooks", "capture", "detect_anomaly", "detect_anomaly compiled"}


def received(run, leaf):
    """What the function is called with in the place of a leaf, each time."""
    seen = []

    def fun(x, leaf):
        seen.append(leaf)
        return jnp.sum(jnp.sin(x))

    RUNS[run](fun, leaf)
    return seen


cheap = lambda run, kind: "gradcheck" not in run
SOON, LATER = (itertools.product(RUNS, kinds) for kinds in ([*OTHERS][:2], [*OTHERS][2:]))


@pytest.mark.parametrize(("run", "kind"), [*slow_but(cheap, [*SOON]), *one_in(5, [*LATER])])
def test_what_is_no_array_arrives_as_the_object_that_it_is(run, kind):
    assert all(got is OTHERS[kind] for got in received(run, OTHERS[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("run", sorted(TRACED))
def test_arrays_and_numbers_of_numpy_are_traced(run):
    for leaf in (X, np.ones(2, np.float32), np.float64(1), np.int8(1), jax.random.key(0)):
        first, *_ = received(run, leaf)
        assert isinstance(first, jax.core.Tracer)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_a_float_of_python_is_a_variable_where_the_whole_call_is_looked_at(run):
    first, *_ = received(run, 0.5)
    assert isinstance(first, jax.core.Tracer) == (run in VARIABLES)


RETURNS = {
    "grad": lambda fun: fg.grad(lambda x: (jnp.sum(x), fun(x)), has_aux=True)(X)[1],
    "grad retain": lambda fun: fg.grad(
        lambda x: (jnp.sum(fg.retain_grad(x, "x")), fun(x)), has_aux=True, retain="x"
    )(X)[1],
    "hooks": lambda fun: fg.saved_tensors_hooks(fun, SAME, SAME)(X),
    "detect_anomaly": lambda fun: fg.detect_anomaly(fun)(X),
    "detect_anomaly compiled": lambda fun: fg.detect_anomaly(fun, mode="compiled")(X),
}


@pytest.mark.parametrize("name", RETURNS)
@pytest.mark.parametrize("kind", ["string", "function", "unhashable", "dtype", "None"])
def test_what_is_no_array_in_a_result_comes_back_as_it_is(name, kind):
    got = RETURNS[name](lambda x: [2 * x, {"kind": OTHERS[kind]}])
    assert_same(got[0], 2 * X)
    assert got[1]["kind"] is OTHERS[kind]


class Boxed:
    """Something of another library that makes itself an array."""

    def __jax_array__(self):
        return 2 * X


@pytest.mark.parametrize("name", sorted(RETURNS.keys() - {"grad"}))
def test_what_makes_itself_an_array_is_one_in_a_result(name):
    assert_same(RETURNS[name](lambda x: [Boxed(), x]), [2 * X, X])


REFUSE = {
    "grad": lambda fun: fg.grad(fun)(X),
    "grad retain": lambda fun: fg.grad(fun, retain=...)(X),
    "gradcheck": lambda fun: fg.gradcheck(fun, X),
    "gradgradcheck": lambda fun: fg.gradgradcheck(fun, X),
    "graph": lambda fun: fg.graph(fun, X),
}


@pytest.mark.parametrize("name", REFUSE)
def test_an_output_to_differentiate_that_is_no_array_is_refused(name):
    function = name.partition(" ")[0]
    with pytest.raises(fg.UsageError, match=rf"`{function}` got a function that returns str, and"):
        REFUSE[name](lambda x: "text")
