"""`microbatch`: the whole batch in parts, on one device and on eight."""

import functools
import re
from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from models import (
    MODELS,
    mlp,
    normal,
    quickly_compiled,
    tokens_that_count,
    transformer,
    transformer_by_hand,
    whole,
    whole_transformer,
)
from tiers import slow_but

import funcgrad as fg
from funcgrad.bench.program import collectives


def the_mesh(shape=(8,), names=("data",), kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def on(devices):
    """The keywords that share the batch among so many devices."""
    if devices == 1:
        return {}
    return {"mesh": the_mesh((devices,)), "batch_axis": "data"}


def linear(w, batch):
    return jnp.mean((batch["x"] @ w["w"] + w["b"] - batch["y"]) ** 2)


W = {"w": normal(0, 5, 3), "b": jnp.zeros(3)}
linear_whole = jax.jit(fg.value_and_grad(linear))


def rows(n):
    return {"x": normal(1, n, 5), "y": normal(2, n, 3)}


def attention(p, x, key):
    scores = jnp.einsum("bid,de,bje->bij", x, p["qk"], x) / 2
    mixed = jax.nn.softmax(scores) @ (x @ p["v"])
    kept = jax.random.bernoulli(key, 0.8, mixed.shape)
    return jnp.mean(jnp.where(kept, mixed / 0.8, 0) ** 2)


ATTENTION = {"qk": normal(0, 4, 4), "v": normal(1, 4, 4)}


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "microbatches"), [(1, 4), (8, 3)])
@pytest.mark.parametrize("model", slow_but("mlp".__eq__, MODELS))
def test_micro_batched_is_whole_batch(model, devices, microbatches):
    loss, p, batch = MODELS[model]()
    fun = fg.value_and_grad(loss)
    got = jax.jit(fg.microbatch(fun, microbatches, **on(devices)))(p, batch)
    assert_close(got, whole(model))


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 12])
def test_any_number_of_parts_of_any_batch(n):
    fun, x = jax.value_and_grad(lambda w, x: jnp.mean((w * x) ** 2)), normal(0, n)
    want = fun(jnp.float32(2), x)
    together = jax.jit(lambda w, x: [fg.microbatch(fun, m)(w, x) for m in range(1, n + 1)])
    for got in together(jnp.float32(2), x):
        assert_close(got, want)


CHUNKS = {  # what torch.arange(n).chunk(parts) gives: how many rows each, the first row of each
    (9, 4): ([3, 3, 3], [0, 3, 6]),
    (10, 4): ([3, 3, 3, 1], [0, 3, 6, 9]),
    (7, 4): ([2, 2, 2, 1], [0, 2, 4, 6]),
    (12, 5): ([3, 3, 3, 3], [0, 3, 6, 9]),
    (3, 1): ([3], [0]),
}


def test_rows_are_split_as_chunk_does():
    fun = lambda x: (x.shape[0], x[0])
    split = lambda n, parts: fg.microbatch(fun, parts, batch_argnums=0, reduce="stack")(
        jnp.arange(n)
    )
    got = jax.jit(lambda: [split(*case) for case in CHUNKS])()
    assert [(s.tolist(), f.tolist()) for s, f in got] == list(CHUNKS.values())


def test_the_table_of_chunks_is_what_pytorch_gives(torch):
    for (n, parts), want in CHUNKS.items():
        chunks = torch.arange(n).chunk(parts)
        assert ([len(c) for c in chunks], [int(c[0]) for c in chunks]) == want


def test_against_the_loop_in_pytorch(torch):
    x, y, w = (
        np.asarray(normal(seed, *shape)) for seed, shape in enumerate([(12, 4), (12,), (4,)])
    )
    p = torch.tensor(w, requires_grad=True)
    for a, b in zip(torch.tensor(x).chunk(4), torch.tensor(y).chunk(4), strict=True):
        (((a @ p - b) ** 2).mean() / 4).backward()
    loss = lambda p, x, y: jnp.mean((x @ p - y) ** 2)
    got = fg.microbatch(fg.grad(loss), 4, batch_argnums=(1, 2))(w, x, y)
    assert_close(got, p.grad.numpy())


# Keys.


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "devices"), [(False, 1), (True, 8)])
def test_dropout_keys_are_split_per_micro_batch(raw, devices):
    key = jax.random.PRNGKey(7) if raw else jax.random.key(7)
    x, fun = normal(2, 32, 5, 4), fg.value_and_grad(attention)
    step = fg.microbatch(fun, 16 // devices, key_argnums=2, **on(devices))

    def by_hand(p, x, key):
        parts = x.reshape(16, 2, 5, 4), jax.random.split(key, 16)
        return jax.tree.map(lambda r: jnp.mean(r, 0), lax.map(lambda part: fun(p, *part), parts))

    assert_close(jax.jit(step)(ATTENTION, x, key), jax.jit(by_hand)(ATTENTION, x, key))


@pytest.mark.slow
def test_a_tree_of_keys_and_a_remainder():
    keys = {"a": jax.random.key(0), "b": jax.random.PRNGKey(1)}
    draw = lambda keys, x: jax.tree.map(jax.random.uniform, keys)
    got = jax.jit(fg.microbatch(draw, 3, reduce="stack", key_argnums=0))(keys, jnp.ones(8))
    assert_close(got, {n: jax.vmap(jax.random.uniform)(jax.random.split(keys[n], 3)) for n in keys})


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "microbatches"), [(1, 6), (8, 5)])
def test_a_transformer_with_masked_tokens(devices, microbatches):
    loss, p, batch = transformer()
    fun = fg.value_and_grad(loss)
    step = fg.microbatch(fun, microbatches, weight=tokens_that_count, **on(devices))
    assert_close(quickly_compiled(step)(p, batch), whole_transformer())


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_a_transformer_with_masked_tokens_and_dropout_keys(devices):
    loss, p, batch = transformer()
    keywords = {"weight": tokens_that_count, "key_argnums": 2, **on(devices)}
    step = fg.microbatch(fg.value_and_grad(loss), 8 // devices, **keywords)
    got = quickly_compiled(step)(p, batch, jax.random.key(3))
    assert_close(got, transformer_by_hand())
    assert not np.allclose(got[0], whole_transformer()[0], rtol=1e-3)


# Weights.


def token_loss(p, tokens, mask):
    """The mean over tokens that are not masked: NaN where there are none."""
    return jnp.sum(jnp.where(mask, (tokens @ p) ** 2, 0.0)) / jnp.sum(mask, dtype=jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("devices", slow_but((8).__eq__, [1, 8]))
@pytest.mark.parametrize("n", [40])
def test_masked_tokens_are_weighted_by_their_number(n, devices):
    p, tokens = normal(0, 3), normal(1, n, 7, 3)
    mask = jax.random.bernoulli(jax.random.key(2), 0.3, (n, 7)).at[:10].set(False)
    fun = fg.value_and_grad(token_loss)
    step = fg.microbatch(
        fun, 4, batch_argnums=(1, 2), weight=lambda tokens, mask: jnp.sum(mask), **on(devices)
    )
    want = jax.jit(fun)(p, tokens, mask)
    assert_close(jax.jit(step)(p, tokens, mask), want)
    unweighted = jax.jit(fg.microbatch(fun, 8, batch_argnums=(1, 2)))(p, tokens, mask)
    assert not jnp.allclose(unweighted[1], want[1], rtol=1e-3)  # NaN in fact: no tokens in a part


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_no_weight_at_all_gives_zeros_and_no_nan(devices):
    p, tokens, mask = jnp.ones(3), normal(1, 16, 3), jnp.zeros(16, bool)
    fun = fg.value_and_grad(token_loss)
    step = fg.microbatch(fun, 2, batch_argnums=(1, 2), weight=lambda t, m: m.sum(), **on(devices))
    assert_close(jax.jit(step)(p, tokens, mask), (jnp.float32(0), jnp.zeros(3)))


@pytest.mark.slow
def test_weights_apply_to_means_alone():
    fun = lambda _, x: (jnp.sum(x), jnp.sum(x), jnp.sum(x))
    step = fg.microbatch(fun, 2, reduce=("mean", "sum", "stack"), weight=lambda x: x[0])
    got = step(None, jnp.array([1.0, 2.0, 3.0, 4.0]))
    assert_close(got, (jnp.float32((3 + 3 * 7) / 4), jnp.float32(10), jnp.array([3.0, 7.0])))


@pytest.mark.slow
def test_a_weight_is_differentiable_also_where_the_total_is_zero():
    loss = lambda p, x: jnp.sum(p * x)
    step = fg.microbatch(loss, 2, weight=lambda x: jnp.sum(x))
    got = jax.grad(step, argnums=1)(jnp.float32(2), jnp.array([1.0, 2.0]))
    assert_close(got, jax.grad(lambda x: 2 * jnp.sum(x**2) / jnp.sum(x))(jnp.array([1.0, 2.0])))
    assert_close(jax.grad(step)(jnp.float32(2), jnp.zeros(2)), jnp.float32(0))


# What is returned.


@pytest.mark.parametrize("devices", [1, 4])
def test_aux_stacks_in_the_order_of_the_rows(devices):
    fun = fg.value_and_grad(lambda w, x: (jnp.mean(x * w), {"n": x.shape[0], "x": x}), has_aux=True)
    step = fg.microbatch(fun, 8 // devices, reduce=(("mean", "stack"), "mean"), **on(devices))
    (value, aux), grads = jax.jit(step)(jnp.float32(2), jnp.arange(16.0))
    assert_close((value, grads), (jnp.float32(15), jnp.float32(7.5)))
    assert_close(aux, {"n": jnp.full(8, 2), "x": jnp.arange(16.0).reshape(8, 2)})


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_retained_gradients_and_none_pass_through(devices):
    def loss(p, x):
        return jnp.mean(fg.retain_grad(p["w"] * x, "y") ** 2)

    p, fun = {"w": jnp.float32(3), "step": jnp.array(1)}, fg.value_and_grad(loss, retain=...)
    step = fg.microbatch(fun, 8 // devices, reduce=("mean", "mean", "stack"), **on(devices))
    value, grads, retained = jax.jit(step)(p, jnp.arange(16.0))
    want, want_grads, want_retained = fun(p, jnp.arange(16.0))
    assert_close((value, grads), (want, want_grads))
    assert isinstance(retained["y"], fg.Retained)
    assert_close(retained["y"].value.reshape(-1), want_retained["y"].value)
    assert_close(retained["y"].grad.reshape(-1), want_retained["y"].grad)


@pytest.mark.parametrize("devices", [1, 8])
def test_sums_keep_their_dtype(devices):
    fun = lambda _, x: {"n": jnp.sum(x, dtype=jnp.int32), "h": jnp.sum(x).astype(jnp.bfloat16)}
    step = jax.jit(fg.microbatch(fun, 2, reduce="sum", **on(devices)))
    assert_close(step(None, jnp.ones(48)), {"n": jnp.int32(48), "h": jnp.bfloat16(48)})


@pytest.mark.slow
def test_numbers_among_the_results_and_keys_that_stack():
    fun = lambda w, x, key: (jnp.mean(x), 2.0, x.shape[0], key)
    step = fg.microbatch(fun, 2, reduce=("mean", "mean", "stack", "stack"), key_argnums=2)
    mean, two, sizes, keys = jax.jit(step)(None, jnp.arange(5.0), jax.random.key(0))
    assert_close((mean, two), (jnp.float32(2), jnp.float32(2)))
    assert sizes.tolist() == [3, 2]
    want = jax.random.split(jax.random.key(0), 2)
    assert_close(jax.random.key_data(keys), jax.random.key_data(want))


@pytest.mark.slow
def test_complex_and_double_in_their_own_precision():
    with jax.enable_x64(True):
        x = jnp.arange(6.0)
        fun = lambda _, x: (
            jnp.mean(x),
            lax.complex(0 * jnp.mean(x), jnp.mean(x)),
            jnp.mean(x).astype(jnp.complex64),
        )
        got = fg.microbatch(fun, 4, weight=lambda x: x.shape[0])(None, x / 3)
        assert [str(r.dtype) for r in got] == ["float64", "complex128", "complex64"]
        np.testing.assert_allclose(np.array(got[0]), 5 / 6, rtol=1e-15)
        np.testing.assert_allclose(np.array(got[1]), 5j / 6, rtol=1e-15)


@pytest.mark.slow
def test_a_thousand_micro_batches_in_bf16():
    x = jax.random.uniform(jax.random.key(0), (1000, 64)).astype(jnp.bfloat16)
    fun = jax.grad(lambda w, x: jnp.sum(w * x))
    got = jax.jit(fg.microbatch(fun, 1000))(jnp.ones(64, jnp.bfloat16), x)
    naive, _ = lax.scan(lambda acc, row: (acc + row, None), jnp.zeros(64, jnp.bfloat16), x)
    exact = np.mean(np.asarray(x).astype(np.float64), 0)
    off = lambda v: np.max(np.abs(np.asarray(v).astype(np.float64) / exact - 1))
    wide = jax.jit(fg.microbatch(lambda w, x: fun(w, x).astype(jnp.float32), 1000))
    assert off(wide(jnp.ones(64, jnp.bfloat16), x)) < 1e-3
    assert off(got) <= 2.0**-8  # half a unit in the last place of bf16: cast once, at the end
    assert off(naive / jnp.bfloat16(1000)) > 0.1


# Composition.


@pytest.mark.slow
def test_under_vmap():
    fun, batch = fg.value_and_grad(linear), rows(12)
    step = fg.microbatch(fun, 5)
    ws = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), W)
    both = jax.jit(lambda ws, b: [jax.vmap(f, (0, None))(ws, b) for f in (step, fun)])(ws, batch)
    assert_close(*both)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_vmap_over_batches(devices):
    fun, xs = jax.grad(lambda w, x: jnp.mean((x * w) ** 3)), normal(0, 3, 32)
    step = jax.vmap(fg.microbatch(fun, 2, **on(devices)), (None, 0))
    assert_close(jax.jit(step)(jnp.float32(2), xs), jax.vmap(fun, (None, 0))(jnp.float32(2), xs))


@pytest.mark.slow
@pytest.mark.parametrize("devices", slow_but((1).__eq__, [1, 8]))
@pytest.mark.parametrize("microbatches", [5, 3])
def test_derivatives_of_a_micro_batched_gradient(microbatches, devices):
    fun = jax.grad(lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2))
    step = fg.microbatch(fun, microbatches, **on(devices))
    norm = lambda f: jax.jit(jax.grad(lambda w, x: jnp.sum(f(w, x) ** 2), (0, 1)))
    w, x = normal(0, 5), normal(1, 40, 5)
    assert_close(norm(step)(w, x), norm(fun)(w, x))


@pytest.mark.slow
def test_forward_mode_and_a_gradient_of_a_micro_batched_loss():
    step, batch = fg.microbatch(linear, 5), rows(12)
    assert_close(fg.grad(step)(W, batch), fg.grad(linear)(W, batch))
    assert_close(
        jax.jvp(lambda w: step(w, batch), (W,), (W,)),
        jax.jvp(lambda w: linear(w, batch), (W,), (W,)),
    )


@pytest.mark.slow
def test_in_a_users_own_shard_map():
    step = fg.microbatch(jax.value_and_grad(linear), 2)
    mean = lambda w, b: lax.pmean(step(lax.pcast(w, "data", to="varying"), b), "data")
    shared = jax.shard_map(mean, mesh=the_mesh(), in_specs=(P(), P("data")), out_specs=P())
    assert_close(jax.jit(shared)(W, rows(32)), linear_whole(W, rows(32)))


@pytest.mark.parametrize("devices", [1, 8])
def test_other_arguments_keywords_and_closures(devices):
    c = jnp.float32(5)
    fun = lambda x, a, b, *, scale, power: (
        jax.grad(lambda c: jnp.mean(c * x * a) * scale)(c) ** power
    )
    step = fg.microbatch(fun, 2, batch_argnums=-3, **on(devices))
    got = step(np.arange(16.0, dtype=np.float32), jnp.float32(2), "text", scale=3.0, power=1)
    assert_close(got, jnp.float32(45))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_traced_once_and_not_again(devices):
    chex.clear_trace_counter()
    fun = jax.value_and_grad(chex.assert_max_traces(linear, n=1))
    step = jax.jit(fg.microbatch(fun, 2, **on(devices)))
    with jax.checking_leaks():
        step(W, rows(32))
    other = jax.tree.map(lambda x: 2 * x, rows(32))
    step(W, rows(32))
    with jax.no_tracing():
        step(W, other)
    assert step._cache_size() == 1


@pytest.mark.slow
def test_a_remainder_is_one_more_trace():
    chex.clear_trace_counter()
    fun = jax.value_and_grad(chex.assert_max_traces(linear, n=2))
    jax.jit(fg.microbatch(fun, 5))(W, rows(12))


def test_signature_and_name():
    assert fg.microbatch(linear, 2).__name__ == "linear"


# What is compiled.


def temporary(microbatches, remainder=0):
    fun = jax.value_and_grad(lambda w, x: jnp.mean(jnp.tanh(jnp.tanh(x @ w) @ w) ** 2))
    w, x = (
        jax.ShapeDtypeStruct(s, jnp.float32)
        for s in [(64, 64), (32 * microbatches - remainder, 64)]
    )
    step = jax.jit(fg.microbatch(fun, microbatches))
    return step.lower(w, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("remainder", [0, 1])
def test_temporary_memory_does_not_grow_with_the_number_of_micro_batches(remainder):
    few, some, many = (temporary(n, remainder) for n in (40, 80, 1280))
    assert few == some == many


def instructions(text):
    """How often each instruction stands in a program, whatever the names and their numbers."""
    text = re.sub(r", metadata=\{[^}]*\}|, ?\w*stack_frame_id=\d+|\.clone\b", "", text)
    lines = (re.sub(r"(%[\w\-]+?)[._\d]*\b", r"\1", line) for line in text.splitlines())
    return Counter(line.strip() for line in lines if " = " in line)


@pytest.mark.slow
def test_the_program_is_the_scan_that_one_writes_by_hand():
    fun = jax.value_and_grad(lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2))

    def by_hand(w, x):
        add = lambda acc, part: (jax.tree.map(jnp.add, acc, fun(w, part)), None)
        zeros = (jnp.zeros(()), jnp.zeros((64, 64)))
        total, _ = lax.scan(add, zeros, x.reshape(16, 32, 64))
        return jax.tree.map(lambda r: r / 16, total)

    def compiled(step):
        args = (jax.ShapeDtypeStruct(s, jnp.float32) for s in [(64, 64), (512, 64)])
        program = jax.jit(step).lower(*args).compile()
        costs = {k: program.cost_analysis()[k] for k in ("flops", "bytes accessed")}
        return instructions(program.as_text()), costs, program.memory_analysis().temp_size_in_bytes

    ours = compiled(fg.microbatch(fun, 16))
    assert len(ours[0]) > 20
    assert ours == compiled(by_hand)
    assert ours[0] != compiled(lambda w, x: jax.tree.map(lambda r: 2 * r, by_hand(w, x)))[0]


def bytes_moved(text, looped=None):
    """The bytes that each collective of a program gives, or of those that are looped or not."""
    return [c.bytes for c in collectives(text) if looped in (None, c.looped)]


def reduction(parts, weight=None):
    """Bytes of the collectives of a data-parallel step: those in loops, and all."""
    loss, p, batch = mlp()
    mesh = the_mesh()
    batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
    fun = fg.value_and_grad(loss)
    step = fg.microbatch(fun, parts, weight=weight, mesh=mesh, batch_axis="data")
    text = jax.jit(step).lower(p, batch).compile().as_text()
    assert " while(" in text
    return bytes_moved(text, looped=True), bytes_moved(text)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [5, 3])
def test_one_result_is_reduced_once_after_the_loop(parts):
    inside, everywhere = reduction(parts)
    assert inside == []
    assert sum(everywhere) == 4 * (1 + 6 * 16 + 16 * 2)


@pytest.mark.slow
def test_the_sum_of_weights_is_all_that_weights_add():
    inside, everywhere = reduction(4, weight=lambda batch: jnp.sum(batch[0] > 0))
    assert inside == []
    assert sum(everywhere) == 4 * (1 + 6 * 16 + 16 * 2) + 4


def test_the_counting_sees_a_reduction_in_a_loop():
    step = lambda acc, x: (acc + lax.psum(x, "data"), None)
    loop = lambda x: lax.scan(step, jnp.zeros(3), x)[0]
    shared = jax.shard_map(
        loop, mesh=the_mesh(), in_specs=P(None, "data"), out_specs=P(), check_vma=False
    )
    text = jax.jit(shared).lower(jnp.ones((4, 24))).compile().as_text()
    assert bytes_moved(text, looped=True) == [12]
    assert bytes_moved(text, looped=False) == []


def perceptron(p, x):
    """Two layers, the first cut by columns and the second by rows: their sum crosses devices."""
    up, down = p
    whole = {"out_sharding": P(None, None)} if explicit_now(x) else {}
    return jnp.mean((jnp.einsum("bh,ho->bo", jnp.tanh(x @ up), down, **whole) - x) ** 2)


def explicit_now(x):
    return AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


def sharded_step(kind, *specs):
    """Values, gradients and program of a step on a mesh of 4 x 2, and those of the whole batch."""
    mesh = the_mesh((4, 2), ("data", "model"), kind)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    p, x = (normal(0, 16, 64), normal(1, 64, 16)), normal(2, 64, 16)
    fun = fg.value_and_grad(perceptron)
    step = jax.jit(fg.microbatch(fun, 4, mesh=mesh, batch_axis="data"))
    held = tuple(put(w, *spec) for w, spec in zip(p, specs, strict=True)), put(x, "data")
    with jax.set_mesh(mesh):
        got, text = step(*held), step.lower(*held).compile().as_text()
    return jax.device_get(got), collectives(text), (got[1], held[0]), jax.jit(fun)(p, x)


# With explicit axes `shard_map` of JAX 0.10 gathers weights over the second axis before the loop.
EXPLICIT_MOVES = tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_weights_sharded_over_a_second_axis(kind):
    got, moves, (grads, p), want = sharded_step(kind, (None, "model"), ("model", None))
    assert_close(got, want)
    for grad, w in zip(grads, p, strict=True):
        assert grad.sharding.is_equivalent_to(w.sharding, 2)
    if kind == AxisType.Explicit and not EXPLICIT_MOVES:
        return
    # In the loop the activations of 4 rows cross the model axis, as they must without a loop too.
    assert [(c.kind, c.group, c.bytes) for c in moves if c.looped] == [
        ("all-reduce", 2, 4 * 4 * 16)
    ]
    # After it a loss, and of each gradient the part that the device holds, cross the data axis.
    once = 4 * (1 + 2 * 16 * 32)
    assert [(c.kind, c.group, c.bytes) for c in moves if not c.looped] == [("all-reduce", 4, once)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_weights_sharded_over_the_axis_of_the_batch_are_gathered_once(kind):
    got, moves, _, want = sharded_step(kind, ("data", None), (None, "data"))
    assert_close(got, want)
    assert not any(c.looped for c in moves)
    weights, whole = 4 * 16 * 64, 4 * (1 + 2 * 16 * 64)
    found = sorted((c.kind, c.group, c.bytes) for c in moves)
    assert found == [("all-gather", 4, weights)] * 2 + [("all-reduce", 4, whole)]


def test_several_batch_axes():
    mesh = the_mesh((2, 4), ("pod", "data"))
    step = fg.microbatch(fg.value_and_grad(linear), 2, mesh=mesh, batch_axis=("pod", "data"))
    assert_close(jax.jit(step)(W, rows(32)), linear_whole(W, rows(32)))


def test_without_jit_and_with_rows_where_they_are():
    mesh = the_mesh()
    batch = jax.device_put(rows(32), NamedSharding(mesh, P("data")))
    step = fg.microbatch(fg.value_and_grad(linear), 2, mesh=mesh, batch_axis="data")
    assert_close(step(W, batch), linear_whole(W, rows(32)))


@pytest.mark.slow
def test_rows_that_are_not_placed_yet_on_a_mesh_of_explicit_axes():
    mesh = the_mesh(kind=AxisType.Explicit)
    step = jax.jit(fg.microbatch(fg.value_and_grad(linear), 3, mesh=mesh, batch_axis="data"))
    assert_close(step(W, rows(32)), linear_whole(W, rows(32)))
    placed = jax.device_put(rows(32), NamedSharding(mesh, P("data")))
    assert_close(step(W, placed), linear_whole(W, rows(32)))
    with pytest.raises(fg.UsageError, match="rows are sharded over 'data', and wants `mesh` and"):
        fg.microbatch(linear, 3)(W, placed)


@pytest.mark.parametrize("devices", [8, 64, 256])
def test_a_step_lowers_for_devices_that_are_not_here(devices):
    mesh = jax.sharding.AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    step = jax.jit(fg.microbatch(fg.value_and_grad(linear), 4, mesh=mesh, batch_axis="data"))
    batch = jax.eval_shape(lambda: rows(8 * devices))
    text = step.trace(W, batch).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("all_reduce") == 3  # the loss and the two gradients, whatever the devices


# Refusals.

X = jnp.ones(6)
MEAN = lambda w, x: jnp.mean(x)
MESH = {"mesh": the_mesh(), "batch_axis": "data"}


@pytest.mark.parametrize(
    ("fun", "keywords", "message"),
    [
        (3, {}, "int, and wants a function"),
        (MEAN, {"microbatches": 0}, "microbatches=0, and wants a positive integer"),
        (MEAN, {"microbatches": 2.0}, r"microbatches=2\.0"),
        (MEAN, {"microbatches": True}, "microbatches=True"),
        (MEAN, {"reduce": "max"}, "'max' in `reduce`, and wants \"mean\""),
        (MEAN, {"reduce": {"a": 1}}, r"1 in `reduce` at \['a'\]"),
        (MEAN, {"weight": 3}, "weight=3, and wants a function"),
        (MEAN, {"batch_argnums": ()}, r"batch_argnums=\(\), and wants .* a non-empty sequence"),
        (MEAN, {"batch_argnums": "x"}, "batch_argnums='x', and wants an integer"),
        (MEAN, {"key_argnums": 1.0}, r"key_argnums=1\.0, and wants an integer"),
        (MEAN, {"mesh": the_mesh()}, "`mesh` without `batch_axis`"),
        (MEAN, {"batch_axis": "data"}, "`batch_axis` without `mesh`"),
        (MEAN, {**MESH, "mesh": 8}, "int as `mesh`"),
        (MEAN, {**MESH, "batch_axis": "rows"}, "batch_axis='rows' and a mesh with the axes 'data'"),
        (MEAN, {**MESH, "batch_axis": ("data", "data")}, "wants the name of one of them"),
    ],
)
def test_forms_that_are_refused_at_once(fun, keywords, message):
    with pytest.raises(fg.UsageError, match=f"`microbatch` got .*{message}"):
        fg.microbatch(fun, **{"microbatches": 2, **keywords})


@pytest.mark.parametrize(
    ("fun", "args", "keywords", "error", "message"),
    [
        (MEAN, (0, X[:1]), {}, fg.TreeError, "a batch of 1 rows, 1 on each of 1 devices, to split"),
        (MEAN, (0, X[:0]), {}, fg.TreeError, "a batch of 0 rows"),
        (MEAN, (0, jnp.ones(8)), MESH, fg.TreeError, "8 rows, 1 on each of 8 devices"),
        (MEAN, (0, X), MESH, fg.TreeError, "a batch of 6 rows for 8 devices along `batch_axis`"),
        (MEAN, (0, {"a": X, "b": X[1:]}), {}, fg.TreeError, r"argument 1\['b'\]: float32\[5\]"),
        (MEAN, (0, {"a": X, "b": 2.0}), {}, fg.TreeError, r"argument 1\['b'\]: float"),
        (MEAN, (0, None), {}, fg.TreeError, "no arrays at all"),
        (MEAN, (X,), {}, fg.UsageError, "for a call with 1 positional argument,"),
        (MEAN, (0, X), {"key_argnums": 1}, fg.UsageError, "wants positions that it has, each once"),
        (
            MEAN,
            (X, X),
            {"key_argnums": 0},
            fg.UsageError,
            r"float32\[6\] at argument 0 of `key_arg",
        ),
        (MEAN, (0, X), {"reduce": ("mean", "mean")}, fg.TreeError, "not a prefix of what the"),
        (lambda w, x: {"n": 3}, (0, X), {}, fg.UsageError, r"int32 at \['n'\] to reduce by"),
        (lambda w, x: x > 0, (0, X), {"reduce": "sum"}, fg.UsageError, "bool at the result"),
        (lambda w, x: {"s": "a"}, (0, X), {}, fg.UsageError, r"returns str at \['s'\]"),
        (lambda w, x: x, (0, X[:5]), {}, fg.TreeError, r"remainder of 2, .*got float32\[2\], want"),
        (MEAN, (0, X), {"weight": lambda x: x}, fg.UsageError, r"`weight` that returns float32\[3"),
        (MEAN, (0, X), {"weight": lambda x: None}, fg.UsageError, "`weight` that returns NoneType"),
        (MEAN, (0, X), {"weight": lambda x: 1j}, fg.UsageError, "complex64.*a real scalar"),
    ],
)
def test_calls_that_are_refused(fun, args, keywords, error, message):
    with pytest.raises(error, match=rf"(?s)`microbatch` got .*{message}"):
        fg.microbatch(fun, 2, **keywords)(*args)


# What the loop in PyTorch divides: `(loss / n).backward()`.


def clipped(w, x):
    h = fg.register_hook(fg.retain_grad(x @ w, "h"), lambda g: jnp.clip(g, -0.5, 0.5))
    return jnp.mean(h**2)


def clipped_in_torch(torch, x, weights):
    """The gradient of the weight, and what `h` retained, part by part."""
    w, rows = torch.ones(2, requires_grad=True), []
    for part, weight in zip(torch.tensor(np.asarray(x)).chunk(4), weights, strict=True):
        h = part @ w
        h.retain_grad()
        hooked = h * 1
        hooked.register_hook(lambda g: g.clamp(-0.5, 0.5))
        ((hooked**2).mean() * weight).backward()
        rows.append(h.grad)
    return w.grad.numpy(), torch.cat(rows).numpy()


HOW = {
    "value_and_grad": lambda **retain: fg.value_and_grad(clipped, **retain),
    "grad": lambda **retain: fg.grad(clipped, **retain),
    "jitted": lambda **retain: jax.jit(fg.grad(clipped, **retain)),
    "partial": lambda **retain: functools.partial(fg.grad(clipped, **retain)),
}


@pytest.mark.slow
@pytest.mark.parametrize("rows", [8, 11])
@pytest.mark.parametrize("how", HOW)
def test_hooks_and_retained_gradients_see_what_the_loop_in_pytorch_divides(torch, how, rows):
    x = 3 * normal(5, rows, 2)
    sizes = [len(part) for part in torch.arange(rows).chunk(4)]
    want, want_retained = clipped_in_torch(torch, x, [size / rows for size in sizes])
    grads = jax.jit(fg.microbatch(HOW[how](), 4))(jnp.ones(2), x)
    grads = grads[1] if how == "value_and_grad" else grads
    np.testing.assert_allclose(grads, want, rtol=1e-5)
    if rows == 8:
        words = ("mean", "stack") if how != "value_and_grad" else ("mean", "mean", "stack")
        fun = fg.microbatch(HOW[how](retain="h"), 4, reduce=words)
        *_, grads, retained = jax.jit(fun)(jnp.ones(2), x)
        np.testing.assert_allclose(grads, want, rtol=1e-5)
        np.testing.assert_allclose(retained["h"].grad.reshape(-1), want_retained, rtol=1e-5)


@pytest.mark.slow
def test_with_weights_the_share_is_that_of_the_weight(torch):
    x, counts = 3 * normal(5, 8, 2), jnp.array([4.0, 0, 1, 3, 2, 2, 0, 0])
    sums = [float(part.sum()) for part in torch.tensor(np.asarray(counts)).chunk(4)]
    want, want_retained = clipped_in_torch(torch, x, [total / 12 for total in sums])
    loss = lambda w, x, counts: clipped(w, x)
    fun = fg.microbatch(
        fg.grad(loss, retain="h"),
        4,
        batch_argnums=(1, 2),
        reduce=("mean", "stack"),
        weight=lambda x, counts: jnp.sum(counts),
    )
    grads, retained = jax.jit(fun)(jnp.ones(2), x, counts)
    np.testing.assert_allclose(grads, want, rtol=1e-5)
    np.testing.assert_allclose(retained["h"].grad.reshape(-1), want_retained, rtol=1e-5)


@pytest.mark.slow
def test_retained_gradients_are_divided_in_a_function_around_the_gradient_too():
    tagged = lambda w, x: jnp.mean(fg.retain_grad(x @ w, "h") ** 2)
    x = normal(5, 8, 2)
    _, want = fg.grad(tagged, retain="h")(jnp.ones(2), x)
    around = lambda x, w: fg.grad(tagged, retain="h")(w, x)
    stacked = fg.microbatch(around, 4, batch_argnums=0, reduce=("mean", "stack"))
    got = jax.jit(stacked)(x, jnp.ones(2))[1]
    assert_close(got["h"].grad.reshape(-1), want["h"].grad)
    whole = fg.microbatch(around, 4, batch_argnums=0, reduce=("sum", "stack"))
    undivided = jax.jit(whole)(x, jnp.ones(2))[1]
    assert_close(undivided["h"].grad.reshape(-1), 4 * want["h"].grad)


@pytest.mark.slow
def test_hooks_see_a_share_of_all_devices_rows():
    x = 3 * normal(5, 16, 2)
    step = lambda n, **options: jax.jit(fg.microbatch(fg.grad(clipped), n, **options))
    assert_close(step(2, **on(4))(jnp.ones(2), x), step(8)(jnp.ones(2), x))
