"""`argnums` is read alike by every function that has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import slow_but

import funcgrad as fg

X, Y = jnp.ones(4), jnp.arange(4.0)


@jax.custom_jvp
def first_is_wrong(x, y):
    return x @ y


@first_is_wrong.defjvp
def _(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    return x @ y, 2 * dx @ y + x @ dy


@jax.custom_jvp
def second_of_first_is_wrong(x, y):
    return x @ x + y @ y


@second_of_first_is_wrong.defjvp
def _(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    return x @ x + y @ y, 2 * jax.lax.stop_gradient(x) @ dx + 2 * y @ dy


def found(check):
    """The inputs at which `gradcheck` finds a wrong derivative."""
    try:
        return check()
    except fg.GradcheckError as error:
        return sorted({mismatch.input for mismatch in error.mismatches})


packed = lambda fun, **given: jax.make_jaxpr(fg.saved_tensors_hooks(fun, abs, abs, **given))(X, Y)
checked = lambda check, fun, **given: found(lambda: check(fun, (X, Y), **given))
CALLS = {
    "grad": lambda **given: fg.grad(jnp.dot, **given)(X, Y),
    "value_and_grad": lambda **given: fg.value_and_grad(jnp.dot, **given)(X, Y),
    "gradcheck": lambda **given: checked(fg.gradcheck, first_is_wrong, **given),
    "gradgradcheck": lambda **given: checked(fg.gradgradcheck, second_of_first_is_wrong, **given),
    "saved_tensors": lambda **given: fg.saved_tensors(jnp.dot, X, Y, **given),
    "disconnected": lambda **given: fg.disconnected(lambda x, y: 1.0, X, Y, **given),
    "saved_tensors_hooks": lambda **given: packed(jnp.dot, **given),
    "microbatch": lambda argnums: fg.microbatch(jnp.outer, 2, batch_argnums=argnums)(X, Y),
}
SPELLINGS = [
    (-1, 1),
    (np.int64(0), 0),
    ([1, 0], (1, 0)),
    ((np.int8(-1),), (1,)),
    (range(2), (0, 1)),
]


@pytest.mark.parametrize(
    "name", slow_but(lambda name: name not in ("microbatch", "gradcheck", "gradgradcheck"), CALLS)
)
def test_integers_and_sequences_of_them_are_read(name):
    outcome = lambda argnums: str(CALLS[name](argnums=argnums))
    assert outcome(0) != outcome(1)
    for spelling, plain in SPELLINGS:
        assert outcome(spelling) == outcome(plain)


@pytest.mark.parametrize("name", CALLS)
def test_everything_else_is_refused(name):
    for argnums in (True, "1", 1.0, (0, 1.0), X, {1}, {1: 0}, iter([1])):
        with pytest.raises(fg.UsageError, match=rf"`{name}` got .*argnums=.*wants an integer or a"):
            CALLS[name](argnums=argnums)
    for argnums in (2, -3, (0, 0), (1, -1)):
        with pytest.raises(fg.UsageError, match=rf"`{name}` got .*argnums.* 2 positional argum"):
            CALLS[name](argnums=argnums)
