"""Leaves that take gradients, and pytrees taken apart and put together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_same

from funcgrad import _trees as trees
from funcgrad.errors import TreeError, UsageError

X = jnp.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("leaf", "takes"),
    [
        (1.0, True),
        (1j, True),
        (1, False),
        (True, False),
        (np.float64(1), True),
        (jnp.zeros(2, jnp.bfloat16), True),
        (jnp.zeros(2, jnp.int8), False),
        (np.zeros(2, bool), False),
        (jax.random.key(0), False),
        (jax.ShapeDtypeStruct((2,), jnp.float16), True),
    ],
)
def test_only_floating_and_complex_leaves_take_a_gradient(leaf, takes):
    assert trees.takes_gradient(leaf) == takes


def test_split_and_join_are_inverse():
    whole = {"a": X, "b": (3, None, 2 * X), "c": True}
    leaves, recipe = trees.split(whole, "grad")
    assert_same(leaves, [X, 2 * X])
    assert recipe.rest == (3, True)
    assert_same(recipe.join(leaves), whole)
    assert_same(recipe.gradients(leaves), {"a": X, "b": (None, None, 2 * X), "c": None})


def test_split_of_nothing():
    leaves, recipe = trees.split({}, "grad")
    assert (leaves, recipe.join([])) == ([], {})


def test_path_of_a_leaf():
    tree = {"a": [1, 2], "b": {"c": 3}}
    assert [trees.path_of(tree, n) for n in range(3)] == ["['a'][0]", "['a'][1]", "['b']['c']"]
    assert trees.path_of(1.0, 0) == ""


def test_scatter_puts_none_elsewhere():
    tree = jax.tree.structure((0, {"a": 0, "b": 0}))
    assert trees.scatter(tree, [False, True, False], ["x"]) == (None, {"a": "x", "b": None})


def test_conjugate_touches_complex_leaves_alone():
    got = trees.conjugate({"z": jnp.complex64(1 + 2j), "x": X, "n": 3})
    assert_same(got["z"], jnp.complex64(1 - 2j))
    assert got["x"] is X
    assert got["n"] == 3


@pytest.mark.parametrize(
    ("value", "dtype"), [(2, jnp.bfloat16), (2.0, jnp.bfloat16), (jnp.float32(2), jnp.float32)]
)
def test_only_weak_numbers_adopt_a_dtype(value, dtype):
    assert trees.adopt_dtype(value, jnp.ones((), jnp.bfloat16)).dtype == dtype


def test_a_weak_complex_number_is_not_made_real():
    with jax.numpy_dtype_promotion("standard"):
        assert trees.adopt_dtype(1j, jnp.ones(())).dtype == jnp.complex64


def test_a_weak_complex_number_is_not_made_real_under_strict_promotion():
    assert trees.adopt_dtype(1j, jnp.ones(())).dtype == jnp.complex64


def test_mask_errors_name_the_path():
    with pytest.raises(UsageError, match=r"got 1 from `requires_grad` for \['b'\]"):
        trees.split({"a": X, "b": X}, "grad", {"a": True, "b": 1})
    with pytest.raises(TreeError, match=r"`vjp` got a `requires_grad` that is not a prefix"):
        trees.split({"a": X}, "vjp", [True])
