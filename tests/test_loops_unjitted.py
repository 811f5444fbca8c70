"""Calls outside `jit`: compiled once, nothing kept, and never what a closure held before."""

import gc
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad as fg

X = jnp.arange(8.0)
W = jnp.arange(4.0)
BATCH = jnp.ones((8, 4))


def more(y):
    return jnp.sum(y) > 1


def halved(y):
    return jnp.tanh(y) / 2


def loop(x):
    return fg.while_loop(more, halved, x, max_steps=8)


def loss(w, b):
    return jnp.mean((b @ w) ** 2)


def tagged(x):
    return jnp.sum(fg.retain_grad(jnp.tanh(x), "y") ** 2)


micro = fg.microbatch(fg.value_and_grad(loss), 4)
rest = fg.microbatch(fg.value_and_grad(loss), 3)
tagged_grad = fg.grad(tagged, retain="y")
written = fg.autograph(lambda x: jnp.sum(x) if jnp.sum(x) > 0 else -jnp.sum(x))

CALLS = {
    "while_loop": lambda: loop(X),
    "while_loop of new functions": lambda: fg.while_loop(
        lambda y: jnp.sum(y) > 1, lambda y: jnp.tanh(y) / 2, X, max_steps=8
    ),
    "its gradient": lambda: fg.grad(lambda x: jnp.sum(loop(x)))(X),
    "its tangent": lambda: jax.jvp(loop, (X,), (X,)),
    "its batch": lambda: jax.vmap(loop)(BATCH),
    "fori_loop": lambda: fg.fori_loop(0, 5, lambda i, y: halved(y), X),
    "with checkpoints": lambda: fg.grad(
        lambda x: jnp.sum(fg.while_loop(more, halved, x, max_steps=8, checkpoints=2))
    )(X),
    "microbatch": lambda: micro(W, BATCH),
    "microbatch with a remainder": lambda: rest(W, BATCH),
    "grad": lambda: fg.grad(loss)(W, BATCH),
    "value_and_grad": lambda: fg.value_and_grad(loss)(W, BATCH),
    "vjp": lambda: fg.vjp(loss, W, BATCH)[1](),
    "retain": lambda: tagged_grad(X),
    "register_hook": lambda: fg.grad(lambda x: jnp.sum(fg.register_hook(x, jnp.negative) ** 2))(X),
    "set_data": lambda: fg.set_data(X, X + 1),
    "no_grad": lambda: fg.no_grad(halved)(X),
    "accumulate_grad": lambda: fg.accumulate_grad(fg.zero_grad(X), X),
    "autograph": lambda: written(X),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_second_call_compiles_nothing(name):
    call = CALLS[name]
    jax.block_until_ready(call())
    call()
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr("logging.Logger.warning", lambda self, text, *args: seen.append(text % args))
        call()
    assert not [line for line in seen if "XLA compilation" in line]


@pytest.mark.slow
def test_memory_does_not_grow_over_hundreds_of_calls():
    """In a process of its own, whose memory is not that of other tests."""
    grown = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for line in filter(None, grown):
        name, megabytes = line.rsplit(":", 1)
        # The first is lax.while_loop, which keeps some kilobytes of each hundred calls, and what is
        # allocated otherwise comes to a few megabytes; a program kept at each call would be
        # hundreds of them.
        assert float(megabytes) < 25, name


def test_what_a_body_closes_over_may_change_between_calls():
    scale = 2.0
    body = lambda y: y * scale
    call = lambda: fg.while_loop(lambda y: y < 10, body, 1.0, max_steps=9)
    assert call() == 16.0
    scale = 3.0
    assert call() == 27.0
    scale = jnp.array(5.0)
    assert call() == 25.0
    part = fg.microbatch(lambda w, b: jnp.mean(w * b) * scale, 2)
    assert part(1.0, jnp.ones(4)) == 5.0
    scale = jnp.array(7.0)
    assert part(1.0, jnp.ones(4)) == 7.0


@pytest.mark.slow
def test_programs_that_differ_in_a_number_or_a_type_are_not_the_same():
    for zero in (0.0, -0.0):
        out = fg.fori_loop(0, 1, lambda i, y, zero=zero: jnp.where(y < 5, zero, y), 1.0)
        assert jnp.signbit(out) == jnp.signbit(zero)
    for start in (1, 1.0, True):
        out = fg.fori_loop(0, 2, lambda i, y: y, start)
        assert out.dtype == jnp.asarray(start).dtype
    for sign in (1, -1):
        f = jax.custom_jvp(lambda y: y)
        f.defjvp(lambda p, t, sign=sign: (p[0], sign * t[0]))
        assert jax.grad(lambda x, f=f: fg.fori_loop(0, 1, lambda i, y: f(y), x))(1.0) == sign
    for n in (1, 2):
        inner = lambda i, y, n=n: lax.fori_loop(0, n, lambda i, y: 2 * y, y)
        assert fg.fori_loop(0, 1, inner, 1.0) == 2**n


def _megabytes():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def _measure():
    own = {"lax.while_loop": lambda: lax.while_loop(more, halved, X)}
    for name, call in {**own, **CALLS}.items():
        for _ in range(100):  # until what JAX keeps for later calls is there
            call()
        before = _megabytes()
        for _ in range(200):
            call()
        print(f"{name}:{_megabytes() - before:.2f}", flush=True)


if __name__ == "__main__":
    _measure()
