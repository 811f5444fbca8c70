"""`zero_grad` and `accumulate_grad`, and training with them."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from closeness import assert_close, assert_same
from jax import lax
from models import mlp

import funcgrad as fg

X = jnp.array([1.0, 2.0])
PARAMS = {"w": X, "n": jnp.array(3), "half": X.astype(jnp.bfloat16), "z": X.astype(jnp.complex64)}


def test_zeros_are_shaped_like_the_parameters_and_half_precision_is_widened():
    want = {"w": 0 * X, "n": None, "half": 0 * X, "z": jnp.zeros(2, jnp.complex64)}
    assert_same(fg.zero_grad(PARAMS), want)
    assert_same(jax.jit(fg.zero_grad)(PARAMS), want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
def test_every_half_precision_is_accumulated_in_float32(dtype):
    assert fg.zero_grad(jnp.ones(2, dtype)).dtype == jnp.float32
    assert fg.zero_grad(jnp.ones(2, dtype), dtype=dtype).dtype == dtype


def test_set_to_none_is_none_everywhere():
    assert fg.zero_grad(PARAMS, set_to_none=True) == dict.fromkeys(PARAMS)


def test_addition():
    acc = fg.accumulate_grad(fg.zero_grad({"w": X}), {"w": X})
    assert_same(fg.accumulate_grad(acc, {"w": 10 * X}), {"w": 11 * X})


def test_accumulator_is_not_changed():
    acc = fg.zero_grad(X)
    fg.accumulate_grad(acc, X)
    assert_same(acc, jnp.zeros(2))


@pytest.mark.parametrize("acc", [None, {"a": None, "b": None}, {"a": None, "b": {"c": None}}])
def test_none_means_no_gradient_yet(acc):
    grads = {"a": X, "b": {"c": 2 * X}}
    assert_same(fg.accumulate_grad(acc, grads), grads)


def test_none_means_no_gradient_this_time():
    got = fg.accumulate_grad({"a": X, "b": None, "c": X}, {"a": None, "b": None, "c": X})
    assert_same(got, {"a": X, "b": None, "c": 2 * X})


def test_none_plus_a_gradient_keeps_its_dtype():
    assert_same(fg.accumulate_grad(None, X.astype(jnp.bfloat16)), X.astype(jnp.bfloat16))


def test_small_half_precision_gradients_are_not_lost():
    grads = jnp.full(1, 1 / 512, jnp.bfloat16)
    acc = lax.fori_loop(
        0, 1024, lambda _, acc: fg.accumulate_grad(acc, grads), fg.zero_grad(1 + grads)
    )
    assert_same(acc, jnp.full(1, 2.0))


def test_gradients_with_none_accumulate_as_they_come_from_grad():
    fun = fg.grad(lambda p: jnp.sum(p["w"] * p["n"]))
    p = {"w": X, "n": 3}
    assert_same(fg.accumulate_grad(fun(p), fun(p)), {"w": jnp.full(2, 6.0), "n": None})


@pytest.mark.slow
def test_accumulation_in_scan_and_its_derivative():
    def total(x):
        step = lambda acc, a: (fg.accumulate_grad(acc, a * x), None)
        return lax.scan(step, fg.zero_grad(x), jnp.array([1.0, 2.0]))[0]

    assert_same(total(X), 3 * X)
    assert_same(jax.jacrev(total)(X), 3 * jnp.eye(2))


@pytest.mark.parametrize(
    ("acc", "grads", "message"),
    [
        (X, X[:1], r"got float32\[1\], wanted float32\[2\]"),
        (X, X[None], r"got float32\[1,2\], wanted float32\[2\]"),
        (X, jnp.float32(1), r"got float32\[\], wanted float32\[2\]"),
        ({"a": X}, {"b": X}, r"\['a'\]: got nothing, wanted float32\[2\]"),
        ({"a": X}, X, r"\['a'\]: got nothing, wanted float32\[2\]"),
        ([X], (X,), r"the containers: got"),
        ({"a": X, "b": X}, {"a": X}, r"\['b'\]: got nothing, wanted float32\[2\]"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(acc, grads, message):
    with pytest.raises(fg.TreeError, match="`accumulate_grad` got gradients that do not") as error:
        fg.accumulate_grad(acc, grads)
    assert error.match(message)


def test_none_stands_for_a_subtree_or_the_whole_on_either_side():
    g = jnp.ones(2)
    acc = {"w": {"a": g}, "b": None}
    assert_same(fg.accumulate_grad(acc, {"w": None, "b": g}), {"w": {"a": g}, "b": g})
    assert_same(fg.accumulate_grad(acc, None), acc)
    assert_same(fg.accumulate_grad(None, acc), acc)


def test_complex_gradients_do_not_fit_a_real_accumulator():
    with pytest.raises(fg.TreeError, match="got complex64"):
        fg.accumulate_grad(jnp.ones(2), jnp.ones(2, jnp.complex64))


# Training: the same parameters as with the whole batch, whichever way gradients accumulate.

LOSS, PARAMETERS, BATCH = mlp()
WEIGHTS = {name: PARAMETERS[name] for name in ("w", "v")}
OPTIMIZER = optax.adam(1e-2)
PARTS = jax.tree.map(lambda x: x.reshape(5, 8, *x.shape[1:]), BATCH)


def by_whole(p):
    return fg.grad(LOSS)(p, BATCH)


def by_microbatch(p):
    return fg.microbatch(fg.grad(LOSS), 5)(p, BATCH)


def by_scan(p):
    step = lambda acc, part: (fg.accumulate_grad(acc, fg.grad(LOSS)(p, part)), None)
    total, _ = lax.scan(step, fg.zero_grad(p), PARTS)
    return jax.tree.map(lambda g: g / 5, total)


def trained(gradient, steps=10):
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(p, state):
        updates, state = OPTIMIZER.update(gradient(p), state, p)
        return optax.apply_updates(p, updates), state

    with jax.numpy_dtype_promotion("standard"):  # which optax counts on
        p, state = jax.tree.map(jnp.copy, WEIGHTS), OPTIMIZER.init(WEIGHTS)
        for _ in range(steps):
            p, state = step(p, state)
    return p


@functools.partial(jax.jit, donate_argnums=0)
def add(acc, p, part):
    return fg.accumulate_grad(acc, fg.grad(LOSS)(p, part))


def trained_in_pytorchs_loop(steps=10):
    """A Python loop over the parts, with the accumulator donated to each of its calls."""

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(p, state, acc):
        updates, state = OPTIMIZER.update(jax.tree.map(lambda g: g / 5, acc), state, p)
        return optax.apply_updates(p, updates), state, fg.zero_grad(p)

    with jax.numpy_dtype_promotion("standard"):
        p, state = jax.tree.map(jnp.copy, WEIGHTS), OPTIMIZER.init(WEIGHTS)
        acc = fg.zero_grad(p)
        for _ in range(steps):
            for part in range(5):
                acc = add(acc, p, jax.tree.map(lambda x, i=part: x[i], PARTS))
            p, state, acc = update(p, state, acc)
    return p


@pytest.mark.slow
def test_training_gives_the_parameters_of_the_whole_batch():
    want = trained(by_whole)
    assert not jnp.allclose(want["w"], WEIGHTS["w"], rtol=1e-2)
    for got in (trained(by_microbatch), trained(by_scan), trained_in_pytorchs_loop()):
        assert_close(got, want)


@pytest.mark.slow
def test_a_donated_accumulator_is_added_to_in_place():
    part = jax.tree.map(lambda x: x[0], PARTS)
    acc = fg.zero_grad(WEIGHTS)
    places = jax.tree.map(lambda x: x.unsafe_buffer_pointer(), acc)
    got = add(acc, WEIGHTS, part)
    assert jax.tree.map(lambda x: x.unsafe_buffer_pointer(), got) == places
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(acc))
    used = add.lower(got, WEIGHTS, part).compile().memory_analysis()
    assert used.alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(WEIGHTS))


@pytest.mark.slow
def test_the_documented_code_runs():
    page = Path(__file__).parents[1] / "docs" / "accumulation.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    assert len(blocks) >= 4
    with jax.numpy_dtype_promotion("standard"):
        exec("\n".join(blocks), {})


def test_what_has_no_gradient_to_accumulate_is_refused(torch):
    for wrong, said in [
        (torch.nn.Linear(1, 1), "Linear"),
        (torch.ones(2), "asarray"),
        ("w", "str"),
    ]:
        with pytest.raises(fg.UsageError, match=rf"`zero_grad` got .*{said}"):
            fg.zero_grad({"w": wrong})
