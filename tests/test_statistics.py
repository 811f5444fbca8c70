"""Statistics of one array, against NumPy in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg
from funcgrad import statistics

ARRAYS = {
    "floats": jnp.array([[3.0, -4.0], [0.0, 1.0]]),
    "half": jnp.array([6e4, -6e4], jnp.float16),
    "bfloat16, greatest": jnp.array([3e38, 1], jnp.bfloat16),
    "greatest": jnp.array([3e38, -3e38]),
    "small": jnp.array([1e-30, 0.0]),
    "complex": jnp.array([3 + 4j, 0]),
    "least int8": jnp.array([-128, 1], jnp.int8),
    "least int32": jnp.array([-(2**31), 1], jnp.int32),
    "int4": jnp.array([-8, 1], jnp.int4),
    "uint8": jnp.array([255, 0], jnp.uint8),
    "bool": jnp.array([True, False]),
    "float8": jnp.array([1, 2], jnp.float8_e4m3fn),
    "scalar": jnp.float32(-2),
    "numpy": np.array([3.0, 4.0], np.float32),
    "a list": [3.0, -4.0],
    "nan": jnp.array([jnp.nan, 1.0]),
    "infinite": jnp.array([jnp.inf, 1.0]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_summary(name):
    x = ARRAYS[name]
    wide = np.asarray(x).astype(complex if name == "complex" else float)
    got = statistics.summary(x)
    wanted = {
        "rms": np.sqrt(np.mean(np.abs(wide) ** 2)),
        "max_abs": np.max(np.abs(wide)),
        "zero_fraction": np.mean(wide == 0),
        "nonfinite_count": np.sum(~np.isfinite(wide)),
    }
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(got[key], value, rtol=1e-6, err_msg=key)
        assert got[key].dtype == (jnp.int32 if key == "nonfinite_count" else jnp.float32)


@pytest.mark.slow
def test_an_empty_array_has_no_mean():
    got = statistics.summary(jnp.zeros((0, 3)))
    np.testing.assert_array_equal(
        [got["rms"], got["max_abs"], got["zero_fraction"], got["nonfinite_count"]],
        [np.nan, 0, np.nan, 0],
    )


@pytest.mark.slow
def test_double_precision_stays_double():
    with jax.enable_x64(True):
        x = jnp.array([1e-200, 3e300])
        assert statistics.rms(x).dtype == jnp.float64
        np.testing.assert_allclose(statistics.rms(x), 3e300 / np.sqrt(2), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("edges", [[0, 1, 2.5], (-np.inf, 0, np.inf), np.linspace(-3, 3, 7)])
@pytest.mark.parametrize("name", ["floats", "half", "least int8", "bool", "a list"])
def test_histogram(edges, name):
    x = ARRAYS[name]
    wanted, _ = np.histogram(np.asarray(x).astype(float), np.asarray(edges, float))
    np.testing.assert_array_equal(jax.jit(statistics.histogram(edges))(jnp.asarray(x)), wanted)


def test_nan_is_in_no_bin():
    counts = statistics.histogram([-np.inf, 0, np.inf])(jnp.array([jnp.nan, -jnp.inf, jnp.inf]))
    np.testing.assert_array_equal(counts, [1, 1])


@pytest.mark.parametrize(
    "edges", [[0], [1, 0], [0, 0], [0, np.nan], [[0, 1]], 3, None, "ab", [np.inf, np.inf]], ids=str
)
def test_edges_increase(edges):
    with pytest.raises(fg.UsageError, match=r"`histogram` got the edges .* increasing numbers"):
        statistics.histogram(edges)


def test_histogram_refuses_what_has_no_order():
    with pytest.raises(fg.UsageError, match=r"`histogram` got complex64\[2\], .*jnp.abs"):
        statistics.histogram([0, 1])(ARRAYS["complex"])


def test_traced_edges_are_refused():
    with pytest.raises(fg.UsageError, match=r"`histogram` got the edges .* when the function is"):
        jax.jit(lambda edges: statistics.histogram(edges)(edges))(jnp.arange(3.0))


def test_update_ratio():
    params = {"w": jnp.array([3.0, 4.0]), "frozen": jnp.ones(2), "zero": jnp.zeros(2)}
    updates = {"w": jnp.array([0.3, 0.4]), "frozen": None, "zero": jnp.ones(2)}
    ratio = statistics.update_ratio(params, updates)
    np.testing.assert_allclose(ratio["w"], 0.1, rtol=1e-6)
    assert ratio["frozen"] is None
    assert jnp.isinf(ratio["zero"])
    with pytest.raises(fg.TreeError, match=r"(?s)`update_ratio` got updates of another .*'b'"):
        statistics.update_ratio({"a": jnp.ones(2)}, {"b": jnp.ones(2)})
