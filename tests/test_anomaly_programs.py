"""What `detect_anomaly` costs: traces and compilations, and how it takes Python's numbers."""

import contextlib
import gc
import weakref

import jax
import jax.numpy as jnp
import pytest
from closeness import assert_same
from jax import lax

import funcgrad as fg

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name.endswith("backend_compile_duration"))
)


@contextlib.contextmanager
def compilations(count):
    """Fails unless so many programs are compiled inside."""
    before = sum(COMPILED)
    yield
    assert sum(COMPILED) - before == count


def rows(w, xs):
    return jnp.sum(lax.scan(lambda h, x: (jnp.tanh(w * h + x), None), jnp.zeros(3), xs)[0])


STEP = lambda w, xs: jax.value_and_grad(rows)(w, xs)
ARGS = jnp.ones(3), jnp.ones((5, 3))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compiled", "interpreted"])
def test_nothing_is_compiled_after_the_first_call(mode):
    run = fg.detect_anomaly(jax.jit(STEP), mode=mode)
    first = run(*ARGS)
    with compilations(0):
        second = run(*ARGS)
    jax.tree.map(assert_same, first, second)


@pytest.mark.slow
def test_one_program_is_compiled_by_default_and_shared_where_the_function_is_jitted():
    step = jax.jit(lambda w, xs: STEP(w, xs))
    args = jax.block_until_ready([x + 1 for x in ARGS])
    fg.detect_anomaly(lambda x: x)(args[0])  # what all calls compile
    with compilations(1):
        for _ in range(3):
            fg.detect_anomaly(step)(*args)


@pytest.mark.slow
def test_programs_live_as_long_as_the_function():
    step = jax.jit(lambda x: x * 2)
    fg.detect_anomaly(step)(1.0)
    alive = weakref.ref(step)
    del step
    gc.collect()
    assert alive() is None


def traced(fun, number, jitted):
    """How often a function is traced in five calls, each with another number; right each time."""
    traces = []

    def counted(x, n):
        traces.append(n)
        return fun(x, n)

    run = fg.detect_anomaly(jax.jit(counted) if jitted else counted)
    for i in range(5):
        want = fun(jnp.ones(3), number(i))
        assert jnp.allclose(run(jnp.ones(3), number(i)), want)
    return len(traces)


NUMBERS = [lambda i: 0.1 / (1 + i), lambda i: -1e-3 * i, lambda i: i, lambda i: -i]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_jitted_function_has_numbers_as_variables(number):
    assert traced(lambda x, n: x * n, number, True) == 1


def scaled(x, n):
    return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(x) * n / (1 + n)))(x)


@pytest.mark.parametrize("number", NUMBERS[:2])
def test_another_function_is_not_compiled_anew_for_a_float(number):
    run = fg.detect_anomaly(scaled)
    run(jnp.ones(3), number(1))
    with compilations(0):
        for i in range(2, 5):
            value = run(jnp.ones(3), number(i))[0]
    assert jnp.allclose(value, scaled(jnp.ones(3), number(4))[0])


class Level(float):
    pass


@pytest.mark.parametrize("mode", ["compiled", "interpreted"])
@pytest.mark.parametrize(
    ("fun", "numbers"),
    [
        (lambda x, n: x * n if isinstance(n, float) else x, [1, 0.5, True, 1.0]),
        (lambda x, n: x * (2 if isinstance(n, float) and n > 1 else 3), [0.5, 1.5]),
        (lambda x, n: x / n, [0.0, -0.0]),
        (lambda x, n: x * (n * 1e-30 * 1e30), [1e-10, 1e-12]),
        (lambda x, n: x * round(n) + round(n), [0.5, 1.5, 2.5]),
        (lambda x, n: [x] * len(f"{n}"), [0.5, 0.25]),
        (lambda x, n: (n, n // 0.3, n**0.5, abs(n)), [0.5, 2, -1.0]),
        (lambda x, n: jnp.full(2, n) + n, [1, 1.0, 1j]),
        (lambda x, n: lax.fori_loop(0, 3, lambda i, y: y * n, x), [0.5, 0.25]),
        (lambda x, n: jnp.arange(n) + n, [3, 3.0, 2.5]),
        (lambda x, n: x * n if type(n) is Level else x, [0.5, Level(0.5)]),
    ],
)
def test_another_function_has_the_numbers_that_a_plain_call_has(fun, numbers, mode):
    run = fg.detect_anomaly(fun, mode=mode)
    for number in [*numbers, *numbers]:
        got, want = run(jnp.array([1.0, 2.0]), number), fun(jnp.array([1.0, 2.0]), number)
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for ours, plain in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert jnp.array_equal(ours, plain)
            assert jax.typeof(ours) == jax.typeof(plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fun",
    [
        lambda x, n: x * n if n > 2 else x,
        lambda x, n: x * {0.0: 1.0, 2.0: 3.0}.get(n, 2.0),
        lambda x, n: x * float(f"{n:.1f}"),
        lambda x, n: sum((x for _ in range(round(n))), x),
        lambda x, n: x.reshape((1,) * int(n) + (3,)),
    ],
)
def test_what_is_looked_at_with_python_stays_as_it_is(fun):
    assert traced(fun, float, False) >= 5


@pytest.mark.slow
def test_an_integer_of_a_function_that_is_not_jitted_stays_as_it_is():
    assert traced(lambda x, n: x**n, int, False) == 5


def test_a_static_argument_of_a_jitted_function_stays_as_it_is():
    def fun(x, rate, *, layers):
        for _ in range(layers):
            x = jnp.sin(x) * rate
        return x

    step = jax.jit(fun, static_argnames="layers")
    run = fg.detect_anomaly(step)
    for rate in (0.5, 0.25):
        assert_same(run(jnp.ones(3), rate, layers=2), step(jnp.ones(3), rate, layers=2))


def test_a_number_is_exact_before_anything_is_said():
    fun = lambda x, rate: x / (1 - rate)
    assert jnp.isfinite(fg.detect_anomaly(fun, check_inf=True)(jnp.ones(2), 0.99999999)).all()
    with pytest.raises(fg.AnomalyError, match=r"1\.0 / 0\.0"):
        fg.detect_anomaly(jax.jit(fun), check_inf=True)(jnp.ones(2), 0.99999999)
    with pytest.raises(fg.AnomalyError, match=r"argument 0|log\(-0\.1\)"):
        fg.detect_anomaly(jnp.log)(-0.1)


# What XLA makes of the order.

HALF = jnp.float16


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        lambda x: (jnp.sum(x.astype(HALF) ** 2) * 2.0**15).astype(jnp.float32),
        lambda x: (jnp.sum(x.astype(HALF) ** 3) * 2.0**15).astype(jnp.float32),
        lambda x: (jnp.sum((3 * x.astype(HALF)) ** 2) * 2.0**15).astype(jnp.float32),
        lambda x: jnp.sum((x.astype(HALF) ** 2) * HALF(2.0**15)).astype(jnp.float32),
        lambda x: jnp.sum(x**2) * 3e38,
    ],
)
def test_an_overflow_that_the_compiler_brings_about_has_a_place(loss):
    x, fun = jnp.array([0.0, 10.0]), jax.jit(jax.grad(loss))
    if not jnp.isnan(fun(x)).any():
        pytest.skip("XLA keeps the order here")
    with pytest.raises(fg.AnomalyError, match="NaN in the results of the compiled program") as got:
        fg.detect_anomaly(fun)(x)
    found = got.value.anomaly
    assert (found.kind, "x" in found.source) == ("inf", True)
    assert "holds no more than" in found.hint


@pytest.mark.parametrize(
    ("fun", "numbers", "computed"),
    [
        (lambda x, y: x * y, (float("inf"), 0.0), "inf * 0.0"),
        (lambda x, y: jnp.sin(x * y), (float("inf"), 0.0), "inf * 0.0"),
        (lambda x, w: w * (x / x), (0.0, jnp.ones(2)), "0.0 / 0.0"),
        (lambda x, y: {"kept": jnp.ones(2), "made": x - y}, (float("inf"),) * 2, "inf - inf"),
    ],
)
@pytest.mark.parametrize("mode", ["compiled", "interpreted"])
def test_nan_that_python_would_make_of_numbers_is_found(fun, numbers, computed, mode):
    with pytest.raises(fg.AnomalyError) as caught:
        fg.detect_anomaly(fun, mode=mode)(*numbers)
    assert caught.value.anomaly.computed == computed
