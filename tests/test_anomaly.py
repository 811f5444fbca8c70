"""`detect_anomaly`: what it says, what it passes over, what it leaves alone."""

import contextlib
import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_same
from jax import lax
from jax.sharding import PartitionSpec
from tiers import slow_but

import funcgrad as fg
from funcgrad import _jax
from funcgrad._jax import traits
from funcgrad.tools.anomaly import flags

MODES = ["interpreted", "compiled"]
BOTH = pytest.mark.parametrize("mode", slow_but("interpreted".__eq__, MODES))


def found(fun, *args, **options):
    with pytest.raises(fg.AnomalyError) as caught:
        fg.detect_anomaly(fun, **{"mode": "interpreted"} | options)(*args)
    return caught.value


@contextlib.contextmanager
def checkpoints(announced):
    """JAX with its announced checkpoint, where that is asked for."""
    before = jax.config.jax_remat3
    jax.config.update("jax_remat3", announced)
    yield
    jax.config.update("jax_remat3", before)


def masked(x):
    return jnp.sum(jnp.where(x > 0, jnp.log(x), 0.0))


def norms(total, x):
    return total + jnp.sqrt(jnp.sum(x**2)), None


# What the error says.


@pytest.mark.slow
def test_the_text_says_all_there_is():
    def layer(w, x):
        with jax.named_scope("layer"):
            h = fg.retain_grad(w * x, "h")
            return jnp.linalg.norm(h)

    loss = jax.vmap(layer, in_axes=(None, 0))
    step = jax.jit(jax.grad(lambda w, x: jnp.sum(loss(w, x))))
    error = found(step, jnp.ones(3), jnp.ones((4, 3)).at[2].set(0.0))
    text = str(error)
    assert "found NaN in the backward pass: `mul` made it at [2, 0]: 0.0 * inf" in text
    assert re.search(r'File ".*test_anomaly.py", line \d+, in layer  of the forward line', text)
    assert "    return jnp.linalg.norm(h)\n           ^^^^^^^^^^^^^^^^^^\n" in text
    assert "example 2 of the enclosing `vmap`" in text
    assert "scope layer" in text
    assert "nearest retained before it: 'layer/h'" in text
    assert re.search(r"operand \d: float32\[4,1\]|operand \d: float32\[4,3\]", text)
    assert "the infinity was made by `div` at [2]: 0.5 / 0.0 (in the forward pass, " in text
    assert "hint: a norm has no derivative where all is 0; funcgrad.conventions.norm" in text
    assert error.anomaly._replace(file="", line=0, column=0, hint="") == fg.Anomaly(
        kind="nan",
        phase="backward",
        operation="mul",
        computed="0.0 * inf",
        at=(2, 0),
        function="layer",
        source="jnp.linalg.norm(h)",
        scope="layer",
        examples=(2,),
        retained=("layer/h",),
    )


def test_it_is_an_error_of_funcgrad_and_of_floating_point():
    error = found(jnp.log, jnp.array(-1.0))
    assert isinstance(error, fg.FuncgradError)
    assert isinstance(error, FloatingPointError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


ROOT = lambda x: jnp.sqrt(x) * 0
CHECKPOINTED = lambda x: jax.checkpoint(ROOT)(x)
ONCE = {
    "scan": lambda x: lax.scan(lambda x, _: (ROOT(x), None), x, None, length=2)[0],
    "fori_loop": lambda x: fg.fori_loop(0, 2, lambda i, x: ROOT(x), x),
    "while_loop": lambda x: fg.while_loop(
        lambda s: s[0] < 2, lambda s: (s[0] + 1, ROOT(s[1])), (0, x), max_steps=3
    )[1],
    "loop in loop": lambda x: fg.fori_loop(
        0, 2, lambda i, x: fg.fori_loop(0, 2, lambda i, x: ROOT(x), x), x
    ),
    "loop in scan": lambda x: lax.scan(
        lambda x, _: (fg.fori_loop(0, 2, lambda i, x: ROOT(x), x), None), x, None, length=2
    )[0],
    "checkpoint": CHECKPOINTED,
    "checkpoint in scan": lambda x: lax.scan(
        lambda x, _: (CHECKPOINTED(x), None), x, None, length=2
    )[0],
    "checkpoint in loop": lambda x: fg.fori_loop(0, 2, lambda i, x: CHECKPOINTED(x), x),
    "checkpoint in jit": jax.jit(CHECKPOINTED),
}


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("name", slow_but("scan".__eq__, ONCE))
def test_a_gradient_that_is_taken_once_is_one_backward_pass(name, announced):
    if announced and "checkpoint" not in name:
        pytest.skip("has no checkpoint")
    with checkpoints(announced):
        text = str(found(jax.grad(ONCE[name]), 0.0))
    assert "found NaN in the backward pass" in text
    assert "of a backward pass" not in text


def test_the_gradient_of_a_gradient_is_told_apart():
    twice = jax.grad(jax.grad(lambda x: fg.register_hook(x, ROOT) ** 2))
    assert "in the backward pass of a backward pass" in str(found(twice, 0.0))


@pytest.mark.slow
def test_what_checkpoint_recomputes_is_told_apart():
    block = jax.checkpoint(lambda x: jnp.sum(jnp.sqrt(jnp.sin(x)) * jnp.array([1.0, 0.0])))
    assert "recomputes" in str(found(jax.grad(block), jnp.array([1.0, 0.0])))


@pytest.mark.slow
def test_a_body_that_jax_reuses_leads_to_the_line_that_uses_it():
    double = jax.jit(lambda x: x * 2)

    def f(x):
        y = jnp.where(x > 0, x, 0.0)
        z = jnp.where(x > 5, x, jnp.nan)
        return double(y) + double(z)

    assert found(f, jnp.ones(2)).anomaly.source == "jnp.where(x > 5, x, jnp.nan)"


@pytest.mark.slow
def test_a_line_of_an_installed_package_is_shown_beside_the_users():
    optax = pytest.importorskip("optax", reason="optax is not installed: pip install optax")
    error = found(lambda x: optax.losses.cosine_similarity(x, x, epsilon=jnp.nan), jnp.ones(3))
    assert error.anomaly.source.startswith("optax.losses.cosine_similarity(")
    assert str(error).count("File ") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fun", "x", "hint"),
    [
        (
            lambda x: jax.grad(lambda x: masked(x - x))(x),
            jnp.ones(2),
            "the other side of a `where`",
        ),
        (
            lambda x: jax.grad(lambda x: jnp.sum(0 * jnp.sqrt(x)))(x),
            jnp.zeros(2),
            "sqrt has an inf",
        ),
        (jnp.sqrt, -1.0, "the argument of sqrt is negative"),
        (jnp.log, -1.0, "the argument of log is negative"),
        (lambda x: x / x, 0.0, "0 / 0"),
        (lambda x: jnp.log(x) * x, 0.0, "xlogy"),
        (lambda x: x**0.5, -1.0, "a negative number to a power"),
        (jnp.arccos, 2.0, "outside the domain"),
        (lambda x: jnp.exp(x) - jnp.exp(x), 100.0, "exp overflowed"),
        (lambda x: jax.nn.softmax(-x * jnp.ones(3)), jnp.inf, "-inf"),
        (lambda x: jnp.sin(x * x), jnp.float32(1e30), "an infinite argument"),
        (lambda x: x * lax.rsqrt(x), 0.0, "add a small number (eps)"),
        (lambda x: jnp.sum(jnp.array([1.0, -1.0]) / x), 0.0, "infinities of both signs"),
        (lambda x: jax.nn.softmax(x**40 * jnp.ones(3)), 10.0, "the values got too large before"),
        (lambda x: jax.nn.softmax(x * jnp.inf), jnp.ones(3, jnp.float16), "float16 holds no more"),
        (lambda x: x * x - x * x, jnp.float16(300), "float16 holds no more than 6.55e+04"),
        (lambda x: jnp.exp(x) - jnp.exp(x), jnp.bfloat16(100), "bfloat16 holds no more than"),
        (lambda x: x.at[5].get(mode="fill"), jnp.ones(3), "out of bounds"),
        (lambda x: x * jnp.nan, 1.0, "the NaN is a constant"),
        (jax.jacfwd(lambda x: jnp.linalg.norm(x)), jnp.zeros(3), "funcgrad.conventions.norm"),
        (jax.grad(lambda x: jnp.linalg.eigh(x)[1].sum()), jnp.eye(3), "two eigenvalues are equal"),
        (jax.grad(lambda x: jnp.linalg.svd(x)[0].sum()), jnp.eye(3), "two singular values are eq"),
        (jax.grad(lambda x: jnp.sqrt(jnp.sum(x**2))), jnp.zeros(3), "sqrt has an inf"),
        (jax.grad(lambda x: jnp.sum((x**2) ** 0.5)), jnp.zeros(3), "a power below 1"),
        (jax.grad(lambda x: 1 / jnp.sum(x**2)), jnp.zeros(3), "a division by 0 has an infinite"),
        (
            jax.grad(lambda x: lax.scan(norms, 0.0, x)[0]),
            jnp.zeros((2, 3)),
            "sqrt has an infinite derivative at 0",
        ),
        (lambda x: x.astype(jnp.float8_e4m3fn), 1e3, "float8_e4m3fn holds no more than 448"),
        (jnp.linalg.cholesky, -jnp.eye(3), "not positive definite"),
        (lambda x: jnp.linalg.solve(x, jnp.ones(3)), jnp.zeros((3, 3)), "singular"),
        (
            lambda x: fg.while_loop(lambda b: b < 9, lambda b: b + 1, x, max_steps=2),
            1.0,
            "a loop of funcgrad got to max_steps",
        ),
    ],
)
def test_the_classics_get_a_hint(fun, x, hint):
    assert hint in found(fun, jnp.asarray(x)).anomaly.hint


@pytest.mark.slow
def test_the_side_of_where_gets_its_own_hint():
    assert "the other side of a `where`" in found(jax.grad(lambda x: jnp.sum(
        jnp.where(x > 0, jnp.sqrt(x), 0.0))), jnp.zeros(2)).anomaly.hint  # fmt: skip


@pytest.mark.slow
def test_an_infinity_that_is_handed_on_is_not_said_to_be_made():
    loop = jax.grad(lambda x: lax.scan(norms, 0.0, x)[0])
    masked_out = lambda x: jax.nn.softmax(jnp.where(x > 1, x, -jnp.inf))
    for fun, x in ((loop, jnp.zeros((2, 3))), (masked_out, jnp.zeros(3))):
        text = str(found(fun, x))
        assert "inf at [" in text
        assert "was made by" not in text


def test_infinite_values_are_found_where_asked():
    error = found(jax.jit(lambda x: jnp.sum(1 / x)), jnp.array([1.0, 0.0]), check_inf=True)
    assert (error.anomaly.kind, error.anomaly.computed) == ("inf", "1.0 / 0.0")
    assert "division by zero" in error.anomaly.hint
    assert_same(fg.detect_anomaly(lambda x: 1 / x)(jnp.zeros(2)), jnp.full(2, jnp.inf))


# Inputs.


@BOTH
@pytest.mark.parametrize("fun", [lambda p, x: p["w"] * x, jax.jit(lambda p, x: x)])
def test_a_bad_input_is_reported_by_its_path(fun, mode):
    error = found(fun, {"w": jnp.array([1.0, jnp.nan])}, jnp.ones(2), mode=mode)
    assert "got NaN in the input: argument 0['w'], float32[2], is nan at [1]" in str(error)
    assert (error.anomaly.phase, error.anomaly.operation) == ("input", "argument 0['w']")


@pytest.mark.slow
def test_a_bad_keyword_and_a_bad_number_are_reported():
    with pytest.raises(fg.AnomalyError, match="argument scale, float32"):
        fg.detect_anomaly(lambda x, *, scale: x * scale)(jnp.ones(2), scale=jnp.float32(jnp.nan))
    with pytest.raises(fg.AnomalyError, match="argument 1"):
        fg.detect_anomaly(lambda x, y: x * y)(jnp.ones(2), float("nan"))
    with pytest.raises(fg.AnomalyError, match="got an infinite value in the input"):
        fg.detect_anomaly(jnp.sin, check_inf=True)(jnp.array(jnp.inf))


@BOTH
def test_what_is_no_array_is_passed_as_it_is(mode):
    def f(x, power, *, name, options):
        assert name == "f"
        return x**power * options[0]

    run = fg.detect_anomaly(f, mode=mode)
    assert_same(run(jnp.arange(3.0), 2, name="f", options=[3]), 3 * jnp.arange(3.0) ** 2)
    assert_same(run(np.ones(2, np.float32), 3, name="f", options=[2]), jnp.full(2, 2.0))


@BOTH
def test_what_is_no_array_is_returned_as_it_is(mode):
    f = jax.jit(lambda x: x * 2)
    run = fg.detect_anomaly(lambda x: {"x": f(x), "of": [f, "f", None, {1}]}, mode=mode)
    for _ in range(2):
        out = run(jnp.ones(2))
        assert out["of"] == [f, "f", None, {1}]
        assert_same(out["x"], jnp.full(2, 2.0))


# What is passed over.


@BOTH
def test_what_is_masked_out_is_passed_over_where_asked(mode):
    x = jnp.array([1.0, -1.0])
    assert found(masked, x, mode=mode).anomaly.computed == "log(-1.0)"
    assert_same(fg.detect_anomaly(masked, mode=mode, only_if_reaches_output=True)(x), masked(x))


@BOTH
def test_of_several_the_one_that_reaches_the_output_is_reported(mode):
    def f(x):
        away = jnp.where(x > 5, jnp.log(-x), 0.0)
        stays = jnp.sqrt(-x)
        both = jnp.where(x > 0, stays, jnp.log(-x) * jnp.nan)
        return away + both

    error = found(f, jnp.ones(3), mode=mode, only_if_reaches_output=True)
    assert error.anomaly.operation == "sqrt"


@pytest.mark.slow
@BOTH
def test_a_loop_that_masks_is_passed_over_where_asked(mode):
    def f(xs):
        def step(carry, x):
            return carry + jnp.where(x > 0, jnp.log(x), 0.0), jnp.where(x > 0, x, 0.0)

        return lax.scan(step, 0.0, xs)

    xs = jnp.ones(20).at[3].set(-1.0)
    run = fg.detect_anomaly(f, mode=mode, only_if_reaches_output=True)
    assert_same(run(xs), f(xs))
    later = lambda xs: f(xs)[0] + jnp.sqrt(xs[3])
    error = found(later, xs, mode=mode, only_if_reaches_output=True)
    assert (error.anomaly.operation, error.anomaly.steps) == ("sqrt", ())


@BOTH
def test_a_bad_input_that_does_not_matter_is_passed_over_where_asked(mode):
    f = lambda x, mask: jnp.sum(jnp.where(mask, x, 0.0))
    x = jnp.array([1.0, jnp.nan])
    run = fg.detect_anomaly(f, mode=mode, only_if_reaches_output=True)
    assert_same(run(x, jnp.array([True, False])), jnp.array(1.0))
    with pytest.raises(fg.AnomalyError, match="in the input: argument 0"):
        run(x, jnp.array([True, True]))


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(
    "fun",
    [
        lambda x: jnp.var(x),
        lambda x: jnp.where(x > 0, x, jnp.nan),
        lambda x: jnp.median(x),
        lambda x: jax.scipy.special.xlogy(x - 1, x - 1),
        lambda x: jnp.where(x > 0, x, jnp.full(3, jnp.nan)),
        lambda x: jax.nn.softmax(jnp.where(x > 1, x, -jnp.inf)),
        lambda x: fg.while_loop(lambda b: b[0] < 9, lambda b: 2 * b, x, max_steps=20),
    ],
)
def test_nan_that_the_program_holds_and_does_not_use_is_none(fun, mode):
    x = jnp.arange(1.0, 4.0)
    assert_same(fg.detect_anomaly(fun, mode=mode)(x), fun(x))


# What is left alone.


@pytest.mark.slow
@BOTH
def test_a_clean_run_gives_what_the_function_gives(mode):
    def loss(params, xs):
        def cell(h, x):
            h = jnp.tanh(params["w"] @ h + x)
            return h, h.sum()

        h, ys = lax.scan(cell, jnp.zeros(3), xs)
        steps = fg.while_loop(lambda b: b < 20, lambda b: 2 * b, jnp.sum(h) + 1, max_steps=20)
        return jnp.mean(ys) + lax.cond(steps > 2, jnp.sin, jnp.cos, steps), {"h": h}

    params, xs = {"w": jnp.eye(3), "n": jnp.arange(2)}, jnp.ones((5, 3))
    run = lambda w, xs: jax.value_and_grad(loss, has_aux=True)({"w": w}, xs)
    for fun in (run, jax.jit(run), lambda w, xs: jax.vmap(run, (None, 0))(w, xs[None])):
        got, want = fg.detect_anomaly(fun, mode=mode)(params["w"], xs), fun(params["w"], xs)
        assert jax.tree.structure(got) == jax.tree.structure(want)
        jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, 1e-5, 1e-6), got, want)
        assert jax.tree.map(lambda g: g.dtype, got) == jax.tree.map(lambda w: w.dtype, want)


@pytest.mark.slow
@BOTH
def test_integers_keys_and_empty_arrays_pass(mode):
    def f(key, n, empty):
        return jax.random.normal(key, (2,)) + n.astype(jnp.float32) + jnp.sum(empty)

    args = jax.random.key(0), jnp.array(3), jnp.zeros((0,))
    assert_same(fg.detect_anomaly(f, mode=mode)(*args), f(*args))
    assert fg.detect_anomaly(lambda: None, mode=mode)() is None


def test_no_configuration_is_touched():
    before = dict(jax.config.values)
    found(jnp.log, jnp.array(-1.0))
    fg.detect_anomaly(jnp.log, mode="compiled")(jnp.array(1.0))
    assert dict(jax.config.values) == before


def test_compiled_it_is_traced_once():
    count = 0

    def f(x, power):
        nonlocal count
        count += 1
        return x**power

    run = fg.detect_anomaly(f, mode="compiled")
    run(jnp.ones(3), 2)
    run(jnp.zeros(3), 2)
    assert count == 1
    run(jnp.zeros(3), 3)
    assert count == 2


def test_a_long_clean_loop_is_run_compiled(monkeypatch):
    from funcgrad.tools.anomaly import walk

    seen = []
    monkeypatch.setattr(walk, "evaluate", lambda *args: seen.append(args))
    scanned = lambda x: lax.scan(lambda c, _: (jnp.sin(c) * 2, None), x, None, length=100_000)[0]
    assert_same(fg.detect_anomaly(scanned)(jnp.array(1.0)), scanned(jnp.array(1.0)))
    assert not seen


# Refusals.


@pytest.mark.parametrize(
    "call",
    [
        lambda run: jax.jit(run)(1.0),
        lambda run: jax.vmap(run)(jnp.ones(2)),
        lambda run: jax.grad(run)(1.0),
        lambda run: jax.jit(lambda: run(1.0))(),
    ],
)
@BOTH
def test_inside_a_transformation_it_is_refused(call, mode):
    with pytest.raises(fg.UsageError, match="`detect_anomaly` got traced values"):
        call(fg.detect_anomaly(jnp.sin, mode=mode))


def test_wrong_arguments_are_refused():
    with pytest.raises(fg.UsageError, match="`detect_anomaly` got int, and wants a function"):
        fg.detect_anomaly(3)
    with pytest.raises(fg.UsageError, match="got mode='fast', and wants one of"):
        fg.detect_anomaly(jnp.sin, mode="fast")


def test_pythons_if_is_refused_with_a_note():
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        fg.detect_anomaly(lambda x: x if x > 0 else -x)(jnp.array(1.0))
    assert any("`detect_anomaly` traces the function" in note for note in caught.value.__notes__)


# Loops that keep residuals of some steps only.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "most", "checkpoints", "batched"),
    [(3, 50, 8, False), (45, 50, 8, True), (1500, 2000, None, False)],
)
def test_a_step_of_a_loop_in_segments_is_counted_over_the_whole(bad, most, checkpoints, batched):
    def f(x):
        def body(state):
            i, y = state
            root = jnp.sqrt(jnp.abs(i - bad) + y * 0)
            return i + 1, y * jnp.where(i == bad, 1.0, root * 0 + 1)

        options = {"max_steps": most} | ({"checkpoints": checkpoints} if checkpoints else {})
        return fg.while_loop(lambda s: s[0] < most - 2, body, (0 * x, x), **options)[1]

    fun = jax.grad(lambda x: jnp.sum(jax.vmap(f)(x)) if batched else f(x[0]))
    anomaly = found(jax.jit(fun), jnp.full(2, 2.0)).anomaly
    assert [step for _, step in anomaly.steps] == [bad]
    assert (anomaly.phase, anomaly.source[:8]) == ("backward", "jnp.sqrt")


# Examples of a vmap.

ROWS = jnp.ones((8, 4)).at[5, 2].set(-1.0)
SQUARE = jnp.ones((8, 8)).at[5, 2].set(-1.0)


def both(fun, **options):
    return lambda x, w: jax.vmap(fun, (0, None), **options)(x, w)


@pytest.mark.parametrize(
    ("fun", "args", "examples"),
    [
        (both(lambda x, w: jnp.log(x) @ w), (ROWS, jnp.ones((4, 3))), (5,)),
        (both(lambda x, w: x @ jnp.log(w)), (jnp.ones((8, 4)), -jnp.ones((4, 3))), (None,)),
        (both(lambda x, w: x * jnp.log(w)), (jnp.ones((8, 8)), -jnp.ones(8)), (None,)),
        (both(lambda x, w: jnp.log(x * w)), (SQUARE, jnp.ones(8)), (5,)),
        (
            both(lambda x, w: jnp.log(w @ x) @ w),
            (jnp.ones((8, 8)).at[5].set(-1.0), jnp.ones((8, 8))),
            (5,),
        ),
        (jax.vmap(jax.jit(jax.nn.softmax)), (jnp.zeros((8, 4)).at[5].set(-jnp.inf),), (5,)),
        (
            jax.grad(lambda w: jnp.sum(jax.vmap(lambda x: jnp.sum(x) * jnp.linalg.norm(w))(ROWS))),
            (jnp.zeros(4),),
            (None,),
        ),
        (lambda x: lax.scan(lambda c, a: (c, jax.vmap(jnp.log)(a)), 0.0, x), (ROWS.T,), (5,)),
        (jax.vmap(lambda x: lax.cond(x[0] > 0, jnp.log, jnp.sin, x)), (ROWS,), (5,)),
        (
            lambda x, y: jax.vmap(lambda a: jax.vmap(lambda b: jnp.log(a) * b)(y))(x),
            (jnp.ones((3, 4)).at[1].set(-1.0), jnp.ones(4)),
            (1, None),
        ),
        (jax.vmap(jnp.log, in_axes=1), (ROWS.T,), (None,)),
        (jax.vmap(jnp.log, out_axes=1), (ROWS,), (None,)),
        (jax.jacfwd(jnp.log), (-jnp.ones(3),), (None,)),
    ],
)
def test_the_example_is_told_and_not_guessed(fun, args, examples):
    assert found(fun, *args).anomaly.examples == examples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fun", "examples"),
    [
        (jax.vmap(lambda x: fg.fori_loop(0, 4, lambda i, c: c + jnp.log(x[i]), 0.0)), (5,)),
        (
            lambda x: jax.vmap(
                jax.vmap(lambda r: fg.fori_loop(0, 4, lambda i, c: c + jnp.log(r[i]), 0.0))
            )(jnp.stack([jnp.abs(x), x])),
            (1, 5),
        ),
        (
            lambda x: jax.vmap(
                lambda m: fg.fori_loop(
                    0, 4, lambda i, c: c + jnp.sum(jax.vmap(lambda r: jnp.log(r[i]))(m)), 0.0
                )
            )(jnp.stack([jnp.abs(x), x])),
            (1, 5),
        ),
    ],
)
def test_the_vmap_around_a_loop_is_told_once(fun, examples):
    assert found(fun, ROWS).anomaly.examples == examples


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("checked", [True, False])
def test_a_loop_inside_a_shard_map_is_looked_into(checked, mode):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()

    def each(w, xs):
        return lax.scan(lambda n, x: (n, jax.jit(lambda x: jnp.log(w * x))(x)), 0, xs)[1]

    f = jax.shard_map(each, mesh=mesh, in_specs=(whole, rows), out_specs=rows, check_vma=checked)
    anomaly = found(jax.jit(f), jnp.ones(4), ROWS, mode=mode).anomaly
    assert (anomaly.computed, anomaly.device) == ("log(-1.0)", (("data", 2),))
    assert anomaly.steps == (("scan", 1),)


# The flag of a compiled program.

BINARY = ["add", "sub", "mul", "div", "max", "min", "rem", "atan2"]
SUMS = ["cumprod", "cumsum", "conv_general_dilated", "dot_general", "reduce_sum"]
UNARY = [
    name
    for name in sorted(traits._TRAITS)
    if _jax.has(name, _jax.Trait.NAN) and not _jax.has(name, _jax.Trait.MOVES)
    if hasattr(lax, name) and name not in (*BINARY, *SUMS)
]


@pytest.mark.parametrize("name", UNARY)
def test_operations_said_to_pass_nan_on_do(name):
    x = jnp.array([0.5, jnp.nan, 0.25])
    got = jax.jit(getattr(lax, name))(x)
    assert jnp.isnan(got)[1]


@pytest.mark.parametrize("name", BINARY)
def test_operations_of_two_said_to_pass_nan_on_do(name):
    nan, one = jnp.array([jnp.nan, 1.0] * 8), jnp.full(16, 0.5)
    for args in ((nan, one), (one, nan), (nan, 0 * one), (0 * one, nan)):
        assert jnp.isnan(jax.jit(getattr(lax, name))(*args))[0], args


@pytest.mark.slow
def test_sums_and_products_said_to_pass_nan_on_do():
    x = jnp.ones((4, 4)).at[1, 2].set(jnp.nan)
    assert jnp.isnan(jax.jit(jnp.sum)(x))
    assert jnp.isnan(jax.jit(lambda x: x @ jnp.zeros((4, 4)))(x))[1].all()
    assert jnp.isnan(jax.jit(lambda x: jnp.cumsum(x, 1))(x))[1, 2]
    assert jnp.isnan(jax.jit(lambda x: jnp.cumprod(x, 1))(x))[1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "lost",
    [
        lambda y: jnp.where(y > 0, y, 0.0),
        lambda y: jnp.argmax(y),
        lambda y: y.astype(jnp.int32),
        lambda y: y[:1],
        lambda y: y**0,
        lambda y: jnp.nanmean(y),
        lambda y: jnp.clip(y, 0, 1) > 2,
        lambda y: lax.cond(y[1] > 0, lambda y: y * 0, lambda y: jnp.zeros(3), y),
        lambda y: lax.scan(lambda c, x: (jnp.where(x > 0, x, c), x > 0), 0.0, y),
        lambda y: jax.jit(lambda y, n: n + 1)(y, 0),
        lambda y: fg.while_loop(
            lambda b: b[0] < 9, lambda b: jnp.where(b > 0, b + 1, 1), y, max_steps=20
        ),
    ],
)
def test_the_flag_is_up_where_nan_gets_lost(lost):
    fun = lambda x: lost(jnp.log(x) * 2)
    closed = jax.make_jaxpr(fun)(jnp.ones(3))
    run = jax.jit(functools.partial(flags.run, closed, check_inf=False))
    assert run([jnp.array([1.0, -1.0, 2.0])])[1]
    assert not run([jnp.array([2.0, 1.0, 2.0])])[1]


def test_a_program_of_arithmetic_is_looked_at_in_its_results_alone():
    w = jnp.ones((3, 3))
    program = jax.make_jaxpr(lambda x: jnp.tanh(x @ w + 1) @ w)(jnp.ones(3))
    assert flags._watched(program, True, ())[0] == set(_jax.outputs(program))


@pytest.mark.slow
@BOTH
def test_a_function_with_hooks_on_what_it_keeps_is_looked_into(mode):
    root = fg.save_on_cpu(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0))
    many = jnp.array([1.0, -1.0])
    cases = (
        (root, many[1], "forward"),
        (jax.vmap(root), many, "forward"),
        (jax.grad(root), many[0] - 1, "backward"),
    )
    for fun, x, phase in cases:
        anomaly = found(fun, x, mode=mode).anomaly
        assert (anomaly.source, anomaly.phase) == ("jnp.sqrt(x)", phase)
    assert_same(fg.detect_anomaly(jax.vmap(root), mode=mode)(jnp.abs(many)), jnp.ones(2))


@BOTH
def test_what_a_hook_does_is_looked_into(mode):
    for hooks in ((lambda x: jnp.log(x - 9), lambda x: x), (lambda x: x, lambda x: jnp.log(x - 9))):
        f = fg.saved_tensors_hooks(jnp.sin, *hooks)
        assert found(jax.grad(f), 1.0, mode=mode).anomaly.source == "jnp.log(x - 9)"


# References, which a function writes to in place.


def writes(x):
    ref = jax.new_ref(jnp.tanh(x))
    ref[0] = jnp.sin(x[0])
    return jnp.sum(jax.freeze(ref) ** 2)


def adds_in_a_loop(x):
    total = jax.new_ref(jnp.zeros(()))

    def body(i, _):
        total[...] += jnp.sqrt(x[i])
        return None

    jax.lax.fori_loop(0, x.size, body, None)
    return jax.freeze(total)


def writes_in_a_branch(x):
    ref = jax.new_ref(x)

    def halve():
        ref[...] = ref[...] / 2

    jax.lax.cond(x[0] > 0, halve, lambda: None)
    return jnp.log(jax.freeze(ref))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["interpreted", "compiled"])
@pytest.mark.parametrize("fun", [writes, adds_in_a_loop, writes_in_a_branch])
@pytest.mark.parametrize("jit", [jax.jit, lambda fun: fun])
def test_a_function_with_references_gives_what_it_gives(mode, fun, jit):
    x = jnp.arange(1.0, 5.0)
    got = fg.detect_anomaly(jit(fun), mode=mode)(x)
    np.testing.assert_allclose(got, jax.jit(fun)(x), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["interpreted", "compiled"])
def test_nan_that_goes_through_a_reference_is_found(mode):
    with pytest.raises(fg.AnomalyError) as caught:
        fg.detect_anomaly(adds_in_a_loop, mode=mode)(jnp.array([1.0, -1.0]))
    assert caught.value.anomaly.computed == "sqrt(-1.0)"


@pytest.mark.parametrize("mode", ["interpreted", "compiled"])
def test_a_reference_among_the_arguments_is_written_to_once(mode):
    def step(ref, x):
        ref[...] += x
        return jnp.sum(ref[...])

    ref = jax.new_ref(jnp.zeros(2))
    checked = fg.detect_anomaly(step, mode=mode)
    assert [float(checked(ref, jnp.ones(2))) for _ in range(3)] == [2.0, 4.0, 6.0]


@pytest.mark.slow
@pytest.mark.parametrize("only", [False, True])
def test_a_reference_is_what_it_was_where_an_anomaly_is_raised(only):
    ref = jax.new_ref(jnp.zeros(()))

    def step(x):
        ref[...] += 1
        y = jnp.log(x)
        ref[...] += 10
        return y

    checked = fg.detect_anomaly(step, only_if_reaches_output=only)
    with pytest.raises(fg.AnomalyError, match=r"log\(-1.0\)"):
        checked(-jnp.ones(()))
    assert (checked(jnp.ones(())), ref[...]) == (0, 11)
