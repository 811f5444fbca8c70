"""The tests' own comparison must fail where it should."""

import jax.numpy as jnp
import pytest
from closeness import assert_close, assert_same

WANT = {"a": jnp.array([1.0, -2.0, 3.0]), "b": jnp.arange(6.0).reshape(2, 3)}


@pytest.mark.parametrize("compare", [assert_close, assert_same])
def test_accepts_what_agrees(compare):
    compare(WANT, {"a": jnp.array([1.0, -2.0, 3.0]), "b": jnp.arange(6.0).reshape(2, 3)})


@pytest.mark.parametrize("compare", [assert_close, assert_same])
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({**WANT, "a": WANT["a"] * 1.0005}, id="0.05 percent"),
        pytest.param({**WANT, "a": WANT["a"].at[2].mul(1.0005)}, id="0.05 percent in one place"),
        pytest.param({**WANT, "b": WANT["b"].reshape(3, 2)}, id="reshaped"),
        pytest.param({**WANT, "b": WANT["b"].T.reshape(2, 3)}, id="swapped axes"),
        pytest.param({**WANT, "a": WANT["a"].astype(jnp.bfloat16)}, id="changed dtype"),
        pytest.param({**WANT, "a": WANT["a"].astype(jnp.complex64)}, id="complex"),
        pytest.param({**WANT, "a": None}, id="None for a leaf"),
        pytest.param({**WANT, "a": jnp.array([1.0, jnp.nan, 3.0])}, id="nan"),
        pytest.param({**WANT, "a": -WANT["a"]}, id="sign"),
        pytest.param([WANT["a"], WANT["b"]], id="another container"),
    ],
)
def test_refuses_what_differs(compare, wrong):
    with pytest.raises(AssertionError):
        compare(wrong, WANT)


def test_close_allows_rounding_and_same_does_not():
    rounded = {**WANT, "a": WANT["a"] * 1.000001}
    assert_close(rounded, WANT)
    with pytest.raises(AssertionError, match="is not"):
        assert_same(rounded, WANT)


def test_same_tells_negative_zero_from_zero():
    with pytest.raises(AssertionError, match="is not"):
        assert_same(jnp.array(-0.0), jnp.array(0.0))
