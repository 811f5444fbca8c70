"""An error in a user's function is shown with the user's lines, and none of funcgrad's between."""

import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import funcgrad as fg

X = jnp.ones(3)
OURS = str(Path(fg.__file__).parent)


def bad(x):
    return jnp.sum(x @ jnp.ones(5))


def branch(x):
    if x[0] > 0:
        return bad(x)
    return jnp.sum(x)


tagged = lambda x: bad(fg.retain_grad(x, "x"))
hooked = lambda x: jnp.sum(fg.register_hook(x, bad))
turned = lambda x: fg.while_loop(lambda y: jnp.sum(y) < 1, bad, x, max_steps=3)
counted = lambda x: fg.fori_loop(0, 3, lambda i, y: bad(y), x)
CALLS = {
    "grad": lambda: fg.grad(bad)(X),
    "value_and_grad": lambda: fg.value_and_grad(bad)(X),
    "retain": lambda: fg.grad(tagged, retain="x")(X),
    "allow_unused": lambda: fg.grad(bad, allow_unused=False)(X),
    "jit": lambda: jax.jit(fg.grad(tagged, retain=...))(X),
    "vjp": lambda: fg.vjp(bad, X),
    "while_loop": lambda: turned(X),
    "fori_loop": lambda: counted(X),
    "microbatch": lambda: fg.microbatch(fg.grad(lambda w, x: bad(w)), 3)(X, X),
    "autograph": lambda: jax.jit(fg.autograph(branch))(X),
    "detect_anomaly": lambda: fg.detect_anomaly(jax.grad(bad))(X),
    "gradcheck": lambda: fg.gradcheck(bad, X),
    "gradgradcheck": lambda: fg.gradgradcheck(bad, X),
    "saved_tensors": lambda: fg.saved_tensors(bad, X),
    "disconnected": lambda: fg.disconnected(bad, X),
    "graph": lambda: fg.graph(bad, X),
    "no_grad": lambda: fg.no_grad(bad)(X),
    "save_on_cpu": lambda: fg.save_on_cpu(bad)(X),
    "register_hook": lambda: hooked(X),
}


def frames(call):
    """The files of the traceback of what a call raises."""
    with pytest.raises((TypeError, fg.GradcheckError)) as caught:
        call()
    error = caught.value
    error = error.__cause__ if isinstance(error, fg.GradcheckError) else error
    return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("name", CALLS)
def test_no_frame_of_funcgrad_stands_between_the_users(name):
    files = frames(CALLS[name])
    assert not [file for file in files if file.startswith(OURS)]
    assert sum(file == __file__ for file in files) >= 3  # this test, the call, the function


def test_the_frames_are_there_where_jax_is_told_to_show_its_own():
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        files = frames(CALLS["grad"])
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert [file for file in files if file.startswith(OURS)]


def test_an_error_of_funcgrads_own_ends_at_the_users_line():
    with pytest.raises(fg.TagError) as caught:
        fg.grad(jnp.sum, retain="no such name")(X)
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files[-1] == __file__
