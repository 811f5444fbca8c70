"""What becomes of each kind of leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_same

from funcgrad import _leaves as leaves

X = jnp.array([1.0, 2.0])
ARRAY, TRACED, VARIABLE, GRADIENT = "array", "traced", "variable", "gradient"
KINDS = {
    "float32 array": (X, {ARRAY, TRACED, VARIABLE, GRADIENT}),
    "bfloat16 array": (jnp.zeros(2, jnp.bfloat16), {ARRAY, TRACED, VARIABLE, GRADIENT}),
    "int8 array": (jnp.zeros(2, jnp.int8), {ARRAY, TRACED, VARIABLE}),
    "key": (jax.random.key(0), {ARRAY, TRACED, VARIABLE}),
    "NumPy bools": (np.zeros(2, bool), {ARRAY, TRACED, VARIABLE}),
    "NumPy float": (np.float64(1), {ARRAY, TRACED, VARIABLE, GRADIENT}),
    "NumPy int": (np.int8(1), {ARRAY, TRACED, VARIABLE}),
    "float": (1.0, {ARRAY, VARIABLE, GRADIENT}),
    "complex": (1j, {ARRAY, VARIABLE, GRADIENT}),
    "int": (1, {ARRAY}),
    "bool": (True, {ARRAY}),
    "type": (jax.ShapeDtypeStruct((2,), jnp.float16), {VARIABLE, GRADIENT}),
    "string": ("relu", set()),
    "function": (jnp.tanh, set()),
    "dtype": (jnp.dtype(jnp.int8), set()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table(kind):
    leaf, wanted = KINDS[kind]
    assert leaves.is_array(leaf) == (ARRAY in wanted)
    assert leaves.is_traced(leaf) == (TRACED in wanted)
    assert leaves.is_variable(leaf) == (VARIABLE in wanted)
    if wanted:
        assert leaves.takes_gradient(leaf) == (GRADIENT in wanted)


def test_an_array_of_strings_is_not_traced():
    for text in (np.array(["a"]), np.str_("a"), np.array([None]), np.datetime64("2020")):
        assert not leaves.is_traced(text)


def test_the_type_of_a_traced_value_takes_a_gradient_as_the_value_does():
    assert leaves.takes_gradient(jax.typeof(X))
    assert not leaves.takes_gradient(jax.typeof(jax.random.key(0)))


def test_conjugate_touches_complex_leaves_alone():
    got = leaves.conjugate({"z": jnp.complex64(1 + 2j), "x": X, "n": 3})
    assert_same(got["z"], jnp.complex64(1 - 2j))
    assert got["x"] is X
    assert got["n"] == 3


@pytest.mark.parametrize(
    ("value", "dtype"), [(2, jnp.bfloat16), (2.0, jnp.bfloat16), (jnp.float32(2), jnp.float32)]
)
def test_only_weak_numbers_adopt_a_dtype(value, dtype):
    assert leaves.adopt_dtype(value, jnp.ones((), jnp.bfloat16)).dtype == dtype


def test_a_weak_complex_number_is_not_made_real():
    with jax.numpy_dtype_promotion("standard"):
        assert leaves.adopt_dtype(1j, jnp.ones(())).dtype == jnp.complex64


def test_a_weak_complex_number_is_not_made_real_under_strict_promotion():
    assert leaves.adopt_dtype(1j, jnp.ones(())).dtype == jnp.complex64
