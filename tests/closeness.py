"""How the tests compare pytrees: structure, dtypes and shapes exactly, numbers within rounding."""

import jax
import jax.numpy as jnp
import numpy as np

# A few units in the last place, times the handful of operations the tests chain.
TOLERANCE = {"float32": 1e-5, "complex64": 1e-5, "bfloat16": 3e-2}


def assert_close(got, want):
    """Fails unless structure, dtypes and shapes agree, and values within rounding."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for path, theirs in jax.tree_util.tree_leaves_with_path(want):
        ours = dict(jax.tree_util.tree_leaves_with_path(got))[path]
        _assert_leaf(jax.tree_util.keystr(path), jnp.asarray(ours), jnp.asarray(theirs))


def _assert_leaf(path, ours, theirs):
    assert ours.dtype == theirs.dtype, f"{path}: {ours.dtype} is not {theirs.dtype}"
    assert ours.shape == theirs.shape, f"{path}: {ours.shape} is not {theirs.shape}"
    wide = np.complex128 if jnp.iscomplexobj(ours) else np.float64
    ours, want = np.asarray(ours).astype(wide), np.asarray(theirs).astype(wide)
    limit = TOLERANCE.get(str(theirs.dtype), 0.0)
    scale = np.max(np.abs(want), initial=0.0)
    np.testing.assert_allclose(ours, want, rtol=limit, atol=limit * scale, err_msg=path)


def assert_same(got, want):
    """Fails unless `got` and `want` agree in structure, dtypes, shapes and every bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes(), f"{ours} is not {theirs}"
