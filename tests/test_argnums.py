"""`argnums` is read alike by every function that has it."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiers import slow_but

import funcgrad as fg

X = jnp.ones(4)
CALLS = {
    "grad": lambda **given: fg.grad(jnp.dot, **given)(X, X),
    "value_and_grad": lambda **given: fg.value_and_grad(jnp.dot, **given)(X, X),
    "gradcheck": lambda **given: fg.gradcheck(jnp.dot, (X, X), **given),
    "gradgradcheck": lambda **given: fg.gradgradcheck(jnp.dot, (X, X), **given),
    "saved_tensors": lambda **given: fg.saved_tensors(jnp.dot, X, X, **given),
    "disconnected": lambda **given: fg.disconnected(jnp.dot, X, X, **given),
    "saved_tensors_hooks": lambda **given: fg.saved_tensors_hooks(jnp.dot, abs, abs, **given)(X, X),
    "microbatch": lambda argnums: fg.microbatch(jnp.dot, 2, batch_argnums=argnums)(X[:2], X),
}
SMALL = {"microbatch": (1, -1, np.int64(1), [1], (np.int8(-1),))}


@pytest.mark.parametrize("name", slow_but(lambda name: "gradcheck" not in name, CALLS))
def test_integers_and_sequences_of_them_are_read(name):
    for argnums in SMALL.get(name, (1, -1, np.int64(0), [1, 0], (np.int8(-1),), range(2))):
        CALLS[name](argnums=argnums)


@pytest.mark.parametrize("name", CALLS)
def test_everything_else_is_refused(name):
    for argnums in (True, "1", 1.0, (0, 1.0), X, {1}, {1: 0}, iter([1])):
        with pytest.raises(fg.UsageError, match=rf"`{name}` got .*argnums=.*wants an integer or a"):
            CALLS[name](argnums=argnums)
    for argnums in (2, -3, (0, 0), (1, -1)):
        with pytest.raises(fg.UsageError, match=rf"`{name}` got .*argnums.* 2 positional argum"):
            CALLS[name](argnums=argnums)
