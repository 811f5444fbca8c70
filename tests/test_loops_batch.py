"""Batches in which some examples take no step: against a Python loop over the examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg

QUICK = {"xla_backend_optimization_level": 0}  # a third of the time to compile


# Steps without a derivative where an example starts that takes none.


def pulled(r, y):
    """Onto the ball of radius r; no derivative at 0."""
    return y * (0.6 * r / jnp.linalg.norm(y) + 0.3)


def rooted(r, y):
    return r * jnp.sqrt(jnp.abs(y)) + 0.1


def divided(r, y):
    return r / jnp.sum(y) * jnp.ones(2) + 0.2 * y


def logged(r, y):
    return jnp.log(jnp.abs(y)) * r


ROWS = np.array([[3.0, 4.0], [0.0, 0.0], [2.0, -1.0], [0.0, 0.0], [0.1, 0.0]])
STEPS = np.array([3, 0, 2, 0, 1])


def looped(step, checkpoints):
    def fun(r, y, n):
        going = lambda s: s[0] < n
        most = {"max_steps": 8, "checkpoints": checkpoints}
        return fg.while_loop(going, lambda s: (s[0] + 1, step(r, s[1])), (0, y), **most)[1]

    return fun


def plain(step, r, y, n):
    for _ in range(n):
        y = step(r, y)
    return y


def measured(out):
    return jnp.sum(jnp.sin(out) * jnp.arange(1.0, 3.0))


def batched(step, checkpoints):
    loop = jax.vmap(looped(step, checkpoints), (None, 0, 0))
    return lambda r, ys: sum(map(measured, loop(r, ys, jnp.asarray(STEPS))))


def one_by_one(step):
    def fun(r, ys):
        return sum(measured(plain(step, r, y, n)) for y, n in zip(ys, STEPS, strict=True))

    return fun


def folded(f):
    return lambda r, ys: sum(jnp.sum(jnp.sin(g)) for g in f(r, ys))


def jvp(f):
    return lambda r, ys: jax.jvp(f, (r, ys), (0.7, jnp.cos(ys)))[1]


MODES = {
    "grad": lambda f: jax.grad(f, (0, 1)),
    "jvp": jvp,
    "reverse over reverse": lambda f: jax.grad(folded(jax.grad(f, (0, 1))), (0, 1)),
    "forward over reverse": lambda f: jvp(folded(jax.grad(f, (0, 1)))),
    "reverse over forward": lambda f: jax.grad(jvp(f), (0, 1)),
    "forward over forward": lambda f: jvp(jvp(f)),
}


def rows_of(step):
    """Rows at which the steps taken have a derivative."""
    return jnp.asarray(np.where(ROWS == 0, 0, np.abs(ROWS)) + (STEPS > 0)[:, None] * 0.05)


def in_mode(mode, f):
    return jax.jit(MODES[mode](f), compiler_options=QUICK)(1.3, rows_of(pulled))


wanted = functools.cache(lambda mode: in_mode(mode, one_by_one(pulled)))


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [8, 2])
@pytest.mark.parametrize("mode", MODES)
def test_examples_that_take_no_step_leave_gradients_alone(mode, checkpoints):
    with jax.enable_x64(True):
        got, want = in_mode(mode, batched(pulled, checkpoints)), wanted(mode)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert np.all(np.isfinite(b))
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("step", [rooted, divided, logged])
def test_other_steps_without_a_derivative_at_the_start(step):
    ys = rows_of(step)
    got, want = (
        jax.jit(jax.grad(f, (0, 1)))(1.3, ys) for f in (batched(step, None), one_by_one(step))
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.all(np.isfinite(b))
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.slow
def test_closed_over_values_of_each_example_may_have_no_derivative_either():
    rs = jnp.asarray((STEPS > 0).astype(np.float32))
    ys = rows_of(pulled)

    def batch(rs):
        step = lambda r, y: pulled(jnp.sqrt(r), y)
        return sum(map(measured, jax.vmap(looped(step, 2))(rs, ys, jnp.asarray(STEPS))))

    def single(rs):
        step = lambda r, y: pulled(jnp.sqrt(r), y)
        return sum(measured(plain(step, r, y, n)) for r, y, n in zip(rs, ys, STEPS, strict=True))

    np.testing.assert_allclose(jax.jit(jax.grad(batch))(rs), jax.grad(single)(rs), rtol=1e-5)


@pytest.mark.slow
def test_gradients_of_batches_of_gradients_stay_finite():
    ys = rows_of(pulled)

    def squared(run):
        return lambda r, y, n: jax.grad(lambda r: measured(run(r, y, n)))(r) ** 2

    def batch(r):
        every = jax.vmap(squared(looped(pulled, 2)), (None, 0, 0))
        return jnp.sum(every(r, ys, jnp.asarray(STEPS)))

    def single(r):
        one = squared(lambda r, y, n: plain(pulled, r, y, n))
        return sum(one(r, y, n) for y, n in zip(ys, STEPS, strict=True))

    got = jax.jit(jax.grad(batch), compiler_options=QUICK)(1.3)
    np.testing.assert_allclose(got, jax.grad(single)(1.3), rtol=1e-4)


@pytest.mark.slow
def test_batch_in_which_nobody_goes():
    f = batched(pulled, None)
    none = lambda r, ys: jnp.sum(
        jax.vmap(looped(pulled, None), (None, 0, 0))(r, ys, jnp.zeros(5, int))
    )
    slope, rows = jax.jit(jax.grad(none, (0, 1)))(1.3, jnp.asarray(ROWS))
    assert slope == 0
    assert rows.tolist() == np.ones((5, 2)).tolist()
    assert jnp.isfinite(jax.jit(f)(1.3, rows_of(pulled)))


@pytest.mark.slow
def test_batches_in_batches():
    ys = jnp.stack([rows_of(pulled), rows_of(pulled)[::-1]])
    steps = jnp.stack([jnp.asarray(STEPS), jnp.asarray(STEPS)[::-1]])
    loop = looped(pulled, 2)
    twice = jax.vmap(jax.vmap(loop, (None, 0, 0)), (None, 0, 0))
    flat = jax.vmap(loop, (None, 0, 0))
    got = jax.jit(jax.grad(lambda r: jnp.sum(twice(r, ys, steps))))(1.3)
    want = jax.jit(jax.grad(lambda r: jnp.sum(flat(r, ys.reshape(10, 2), steps.reshape(10)))))(1.3)
    assert jnp.isfinite(want)
    np.testing.assert_allclose(got, want, rtol=1e-5)


# Conditions that JAX cannot differentiate.


def asked(y):
    shape = jax.ShapeDtypeStruct((), bool)
    return jax.pure_callback(lambda y: np.asarray(y > 0.5), shape, y, vmap_method="expand_dims")


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [None, 2])
@pytest.mark.parametrize(
    "cond",
    [
        lambda y: jax.lax.pmax(y, "b") > 0.5,
        lambda y: jax.lax.pmin(y, "b") > 0.3,
        asked,
        lambda y: jax.lax.while_loop(lambda z: z > 1, lambda z: z - 1, y) > 0.5,
    ],
)
def test_conditions_are_not_differentiated(cond, checkpoints):
    body, xs = jnp.tanh, jnp.arange(0.6, 1.0, 0.1)
    mine = lambda x: fg.while_loop(cond, body, x, max_steps=30, checkpoints=checkpoints)
    theirs = lambda x: jax.lax.while_loop(cond, body, x)
    every = lambda loop: jax.vmap(loop, axis_name="b")
    forward = lambda loop: jax.jit(lambda xs: jax.jvp(every(loop), (xs,), (xs,))[1])(xs)
    got, want = forward(mine), forward(theirs)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    slope = jax.grad(lambda xs: jnp.sum(every(mine)(xs)))
    np.testing.assert_allclose(jax.jit(slope)(xs) * xs, want, rtol=1e-5)
    if checkpoints is None:
        jax.jit(jax.grad(lambda xs: jnp.sum(slope(xs)))).lower(xs)  # it can be taken


def test_condition_may_close_over_what_is_differentiated():
    def f(w):
        more = lambda y: jax.lax.while_loop(lambda z: z > w, lambda z: z - 1, y) + y > 3 * w
        return fg.while_loop(more, lambda y: y / 2, 8 * w, max_steps=9)

    assert jax.grad(f)(1.0) == f(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 0.0, True, np.int16(3), np.float32(0.5)])
def test_a_batch_keeps_dtypes_and_weak_types(start):
    """As without a batch, so that the results promote alike."""
    types = []

    def fun(x):
        going = lambda state: state[0] < x
        out = fg.while_loop(going, lambda s: (s[0] + 1.0, s[1]), (0.0 * x, start), max_steps=9)
        types.append(jax.typeof(out[1]))
        return out[0]

    jax.jit(jax.vmap(fun))(jnp.arange(3.0))
    jax.jit(fun)(3.0)
    assert types[0] == types[1]


def test_a_count_in_a_batch_is_as_weak_as_pythons():
    def fun(x):
        return fg.while_loop(lambda n: n < x, lambda n: n + 1, 0, max_steps=9) * x

    assert jax.jit(jax.vmap(fun))(jnp.arange(3.0)).tolist() == [0.0, 1.0, 4.0]
