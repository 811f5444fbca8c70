"""What the backward pass keeps: stated, compiled, packed; and what a result does not depend on."""

import contextlib
import functools
import io
import re
from pathlib import Path

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import models
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from models import normal
from tiers import slow_but

import funcgrad as fg

W, X = normal(0, 16, 16) / 4, normal(1, 8, 16)


def layer(w, x):
    return jnp.tanh(x @ w)


def mlp(w, x):
    return jnp.sum(layer(w, jax.nn.relu(layer(w, x))) ** 2)


def attention(w, x):
    q, k, v = x @ w, x @ (2 * w), x @ (w - 1)
    return jnp.sum((jax.nn.softmax(q @ k.T / 4) @ v) ** 2)


def blocks(block, w, x):
    for _ in range(3):
        x = block(w, x)
    return jnp.sum(x**2)


def rnn(w, xs, step=layer):
    """A scan over the rows of `xs`."""
    h, _ = lax.scan(lambda h, x: (step(w, h + x), None), jnp.zeros_like(xs[0]), xs)
    return jnp.sum(h**2)


def deep(body, ws, x):
    """A scan over layers."""
    return jnp.sum(lax.scan(lambda x, w: (body(x, w), None), x, ws)[0] ** 2)


def bounded(w, x):
    h = fg.while_loop(lambda h: jnp.sum(h) < 1e9, lambda h: layer(w, h) + x, x, max_steps=20)
    return jnp.sum(h**2)


def branched(w, x):
    return jnp.sum(lax.cond(x[0, 0] > 0, lambda: layer(w, x), lambda: 2 * x))


checkpointed = functools.partial(rnn, step=jax.checkpoint(layer))
PROGRAMS = {
    "mlp": mlp,
    "attention": attention,
    "rnn": rnn,
    "while_loop": bounded,
    "cond": branched,
    "jit": jax.jit(mlp),
    "vmap": lambda w, x: jnp.sum(jax.vmap(layer, (None, 0))(w, x)),
    "checkpointed mlp": functools.partial(blocks, jax.checkpoint(layer)),
    "checkpointed attention": lambda w, x: jax.checkpoint(attention)(w, layer(w, x)),
    "checkpointed rnn": checkpointed,
    "a policy": functools.partial(
        blocks, jax.checkpoint(layer, policy=jax.checkpoint_policies.dots_saveable)
    ),
}


def returned(forward, *args):
    """The bytes of what a compiled function returns."""
    count = len(jax.tree.leaves(jax.eval_shape(forward, *args)))
    memory = models.quickly_compiled(forward).lower(*args).compile().memory_analysis()
    table = 8 * count if count > 1 else 0  # where the results are
    return memory.output_size_in_bytes - table


def kept_by_compiled(fun, *args):
    """The bytes that the compiled forward pass returns for the backward pass."""
    return returned(lambda *args: jax.vjp(fun, *args)[1], *args)


def temporary(fun, *args):
    return jax.jit(fun).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_stated_bytes_are_those_the_compiled_program_returns(program):
    stated = fg.saved_tensors(PROGRAMS[program], W, X).total
    assert stated == pytest.approx(kept_by_compiled(PROGRAMS[program], W, X), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "cnn", "rnn", "bf16", "transformer"])
def test_stated_bytes_of_models_are_those_compiled(model):
    loss, p, batch = {**models.MODELS, "transformer": models.transformer}[model]()
    floats = {name: leaf for name, leaf in p.items() if name != "step"}

    def forward(floats, batch):
        return jax.vjp(lambda floats: loss({**p, **floats}, batch), floats)[1]

    stated = fg.saved_tensors(loss, p, batch, argnums=0).total
    assert stated == pytest.approx(returned(forward, floats, batch), rel=0.05)


ROWS = normal(3, 200, 16, 16)
LAYERS = normal(2, 64, 32, 32) / 6, normal(1, 64, 32)
body = lambda x, w: layer(w, x)


@pytest.mark.slow
@pytest.mark.parametrize("fun", [rnn, checkpointed], ids=["all", "checkpointed"])
def test_stated_bytes_are_what_the_compiled_gradient_of_an_rnn_has_room_for(fun):
    added = fg.saved_tensors(fun, W, ROWS, argnums=0).added
    assert temporary(jax.grad(fun), W, ROWS) == pytest.approx(added, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("step", [body, jax.checkpoint(body)], ids=["all", "checkpointed"])
def test_stated_bytes_are_what_the_compiled_gradient_of_layers_has_room_for(step):
    fun = functools.partial(deep, step)
    added = fg.saved_tensors(fun, *LAYERS).added
    assert temporary(jax.grad(fun), *LAYERS) == pytest.approx(added, rel=0.05)


def told_by_jax(fun, *args):
    """The types that `jax.ad_checkpoint.print_saved_residuals` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        jax.ad_checkpoint.print_saved_residuals(fun, *args)
    return sorted(line.split()[0] for line in out.getvalue().splitlines())


def shown(row):
    short = str(row.dtype).replace("float", "f").replace("bool", "bool").replace("uint", "u")
    return f"{short.replace('int', 'i')}[{','.join(map(str, row.shape))}]"


@pytest.mark.parametrize("program", ["mlp", "checkpointed mlp", "a policy", "rnn"])
def test_rows_are_those_that_jax_prints(program):
    rows = fg.saved_tensors(PROGRAMS[program], W, X)
    assert sorted(map(shown, rows)) == told_by_jax(PROGRAMS[program], W, X)


def tagged(params, x):
    with jax.named_scope("first"):
        h = fg.retain_grad(jnp.exp(x @ params["w"]), "h")
    return jnp.sum(h * params["v"])


PARAMS = {"w": W, "v": normal(5, 16)}


def test_a_row_has_a_name_and_a_source_line():
    saved = fg.saved_tensors(tagged, PARAMS, X)
    row = saved["first/h"]
    assert (row.shape, row.dtype, row.bytes, row.kind) == (
        (8, 16),
        jnp.float32,
        512,
        "intermediate",
    )
    assert row.operation == "exp"
    assert row.function == "tagged"
    assert row.expression == 'jnp.exp(x @ params["w"])'
    assert Path(row.file).read_text().splitlines()[row.line - 1].strip().startswith("h = fg.retain")
    assert row.share == row.bytes / saved.total


def test_arguments_are_named_by_their_path_and_are_alive_anyway():
    saved = fg.saved_tensors(tagged, PARAMS, X)
    kinds = {row.name: row.kind for row in saved}
    assert kinds["argument 0['w']"] == kinds["argument 1"] == "argument"
    assert saved.added == sum(row.bytes for row in saved if row.kind == "intermediate")
    assert saved.added < saved.total


def test_only_what_is_differentiated_has_its_factors_kept():
    names = lambda argnums: {row.name for row in fg.saved_tensors(mlp, W, X, argnums=argnums)}
    assert "argument 1" in names(0)
    assert "argument 1" not in names(1)
    assert names((0, 1)) == names(None) == names((0, -1))


def test_one_array_kept_for_two_purposes_is_a_single_row():
    saved = fg.saved_tensors(lambda x: jnp.exp(x) ** 3 * jnp.sin(x) * x, 2.0)
    values = [(row.operation, row.line) for row in saved if row.operation in ("exp", "sin", "cos")]
    assert len(values) == len(set(values))
    assert [row.name for row in saved].count("argument 0") == 1


def test_a_tagged_value_is_there_once():
    square = lambda h: jnp.sum(h * h)
    ours = fg.saved_tensors(lambda x: square(fg.retain_grad(jnp.exp(x), "h")), X)
    assert ours.total == fg.saved_tensors(lambda x: square(jnp.exp(x)), X).total == X.nbytes
    assert [row.name for row in ours].count("h") == 1


def test_checkpoint_names_are_names_too():
    fun = lambda x: jnp.sum(jax.ad_checkpoint.checkpoint_name(jnp.exp(x), "e"))
    assert fg.saved_tensors(fun, X)["e"].operation == "exp"


def test_what_a_policy_keeps_has_its_name_and_line():
    named = lambda w, x: jax.ad_checkpoint.checkpoint_name(jnp.tanh(x @ w), "h") ** 2
    policies = jax.checkpoint_policies
    offload = policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["h"],
        offload_src="device",
        offload_dst="pinned_host",
    )
    for policy, note in ((policies.save_only_these_names("h"), ""), (offload, ", moved")):
        row = fg.saved_tensors(jax.checkpoint(named, policy=policy), W, X)["h"]
        assert (row.operation, row.expression) == (f"tanh{note}", "jnp.tanh(x @ w)")
    kept = fg.saved_tensors(jax.checkpoint(named, policy=policies.dots_saveable), W, X)
    assert [row.operation for row in kept if row.kind == "intermediate"] == ["dot_general"]
    rounded = lambda x: jax.lax.reduce_precision(jnp.sin(x), 5, 10) * x
    made = {row.operation for row in fg.saved_tensors(rounded, X)}
    assert made == {"cos", "reduce_precision", ""}


def test_in_a_loop_rows_have_the_line_of_the_step_that_makes_them():
    for fun in (rnn, bounded):
        saved = fg.saved_tensors(fun, W, X)
        made = [row for row in saved if row.expression == "jnp.tanh(x @ w)"]
        assert {row.function for row in made} == {"layer"}
        assert {row.shape[0] for row in made} <= {8, 20}


def test_what_a_step_takes_over_is_told_from_what_it_makes():
    fun = lambda x: lax.scan(lambda h, a: (jnp.exp(h * h) * a, None), x[0], x)[0].sum()
    rows = [row for row in fg.saved_tensors(fun, X) if row.kind == "intermediate"]
    assert [row.operation for row in rows] == ["mul, carried", "exp"]


def test_a_tag_in_a_scan_names_the_stack_of_its_values():
    def fun(x):
        step = lambda h, a: (fg.retain_grad(jnp.exp(h * a), "h"), None)
        return jnp.sum(lax.scan(step, x[0], x)[0])

    assert any(row.name == "h" and row.shape == (8, 16) for row in fg.saved_tensors(fun, X))


def test_a_checkpoint_keeps_what_goes_into_it():
    saved = fg.saved_tensors(lambda w, x: jnp.sum(jax.checkpoint(layer)(w, jnp.exp(x))), W, X)
    assert {row.name or row.operation for row in saved} == {"argument 0", "exp"}


def test_what_follows_by_arithmetic_is_marked():
    saved = fg.saved_tensors(lambda x: jnp.sum(jnp.where(x > 0, jnp.sin(x), 0.0)), X)
    assert {row.operation: row.recomputable for row in saved if row.kind == "intermediate"} == {
        "gt": True,
        "cos": False,
    }
    assert saved.recomputable == X.size


def test_a_stack_does_not_follow_from_itself():
    fun = lambda x: lax.scan(lambda h, a: (jnp.sin(h) * a, None), x[0], x)[0].sum()
    rows = fg.saved_tensors(fun, X)
    assert not any(row.recomputable for row in rows if row.operation in ("sin", "cos"))
    doubled = lambda x: lax.scan(lambda h, a: (h * (a + a), None), x[0], x)[0].sum()
    assert {row.operation: row.recomputable for row in fg.saved_tensors(doubled, X)}["add"]


def test_constants_are_told_from_what_depends_on_inputs():
    c = normal(9, 8, 16)
    saved = fg.saved_tensors(lambda x: jnp.sum(x * c), X)
    assert [(row.kind, row.name, row.bytes) for row in saved] == [("constant", "", c.nbytes)]
    assert saved.added == 0


def test_types_do_in_place_of_arrays():
    types = jax.eval_shape(lambda: (W, X))
    assert fg.saved_tensors(mlp, *types) == fg.saved_tensors(mlp, W, X)


def test_nothing_is_computed():
    def fun(x):
        jax.debug.callback(lambda: pytest.fail("it ran"))
        return jnp.sum(jnp.exp(x))

    fg.saved_tensors(fun, X)
    jax.effects_barrier()


def test_what_is_no_array_is_handed_on():
    fun = lambda x, name: {"tanh": jnp.tanh}[name](x).sum()
    assert fg.saved_tensors(fun, X, "tanh").total > 0


def test_a_linear_function_keeps_nothing():
    saved = fg.saved_tensors(lambda x: jnp.sum(x), X)
    assert (len(saved), saved.total) == (0, 0)
    assert "keeps 0 arrays, 0 B" in str(saved)


def test_bytes_of_a_sharded_value_are_those_of_all_devices():
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    fun = jax.shard_map(lambda x: jnp.exp(x), mesh=mesh, in_specs=P("i"), out_specs=P("i"))
    (row,) = fg.saved_tensors(lambda x: jnp.sum(fun(x)), X)
    assert (row.shape, row.bytes, row.operation) == (X.shape, X.nbytes, "exp")


def test_it_prints_as_a_table_the_largest_first():
    text = str(fg.saved_tensors(tagged, PARAMS, X))
    head, columns, first, *_ = text.splitlines()
    assert re.match(r"the backward pass keeps \d arrays, 2.\d+ KiB: ", head)
    assert columns.split() == ["bytes", "share", "array", "what", "again", "where", "expression"]
    assert first.split()[:4] == ["1,024", "48.5%", "float32[16,16]", "argument"]
    assert "'first/h' exp" in text
    assert max(map(len, text.splitlines())) < 200


def test_it_shows_in_a_notebook_with_what_html_means_escaped():
    page = fg.saved_tensors(lambda x: jnp.sum(jnp.where(x < 0, jnp.exp(x), 0.0)), X)._repr_html_()
    assert page.count("<tr>") == page.count("</tr>") > 2
    assert "x &lt; 0" in page
    assert "x < 0" not in page


def test_a_name_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(fg.TagError, match=r"got the name 'g', .*: there is .*, 'first/h'"):
        fg.saved_tensors(tagged, PARAMS, X)["g"]


WRONG = [
    (lambda: fg.saved_tensors(3.0, X), r"`saved_tensors` got float, and wants a function"),
    (lambda: fg.saved_tensors(jnp.sum, jnp.arange(3)), "none of which takes a gradient: int32"),
    (lambda: fg.saved_tensors(jnp.sum, X, argnums=1), r"got argnums \(1,\) for a call with 1 pos"),
    (lambda: fg.saved_tensors(jnp.sum, X, argnums=True), "got argnums=True"),
    (lambda: fg.saved_tensors(jnp.argmax, X), "returns nothing that takes a gradient"),
    (lambda: fg.saved_tensors_hooks(jnp.sum, 1, lambda p: p), "got int as `pack`"),
    (lambda: fg.saved_tensors_hooks(jnp.sum, abs, abs, argnums="a"), "got argnums='a'"),
    (lambda: fg.save_on_cpu(jnp.sum, argnums=2)(X), r"got argnums \(2,\) for a call with 1 pos"),
    (lambda: fg.disconnected(jnp.sum), "none of which takes a gradient: no arrays"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(fg.UsageError, match=message):
        call()


@pytest.mark.parametrize(
    "transform", [jax.grad, fg.grad, lambda f: lambda x: jax.jvp(f, (x,), (x,))]
)
def test_hooks_that_hold_or_store_what_is_differentiated_are_refused(transform):
    stored = []

    def store(x):
        stored.append(x)
        return len(stored) - 1

    def fetched(x):
        return fg.saved_tensors_hooks(jnp.sin, store, lambda index: stored[index])(x).sum()

    def packed(x):
        return fg.saved_tensors_hooks(jnp.sin, lambda a: a * x, lambda p: p)(2 * x).sum()

    def unpacked(x):
        return fg.saved_tensors_hooks(jnp.sin, lambda a: a, lambda p: p * x)(2 * x).sum()

    for fun in (fetched, packed, unpacked):
        with pytest.raises(fg.GradientError, match=r"closes over a value which is diff.*return it"):
            transform(fun)(X)


@pytest.mark.slow
def test_unpack_may_hold_values_that_others_trace():
    def slope(scale, x):
        hooked = fg.saved_tensors_hooks(jnp.sin, lambda a: a, lambda packed: packed * scale)
        return jax.grad(lambda x: hooked(x).sum())(x)

    scale = jnp.float32(3)
    np.testing.assert_allclose(jax.jit(slope)(scale, X), 3 * jnp.cos(X), rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(slope)(scale, X), jnp.cos(X), rtol=1e-6)
    np.testing.assert_allclose(jax.jacrev(slope)(scale, X), jnp.cos(X), rtol=1e-6)
    scales = jnp.arange(2.0)
    got = jax.vmap(slope, (0, None))(scales, X)
    np.testing.assert_allclose(got, scales[:, None, None] * jnp.cos(X), rtol=1e-6)

    def read(scale, x):
        held = jax.new_ref(scale)
        hooked = fg.saved_tensors_hooks(jnp.sin, lambda a: a, lambda packed: packed * held[...])
        return jax.grad(lambda x: hooked(x).sum())(x)

    if getattr(jax.config, "jax_remat3", False):
        with pytest.raises(fg.UsageError, match="`unpack` that reads a reference"):
            jax.jit(read)(scale, X)
    else:
        np.testing.assert_allclose(jax.jit(read)(scale, X), 3 * jnp.cos(X), rtol=1e-6)


def same(x):
    return x


def eighth(x):
    """Eight bits a number, and the size of the largest."""
    size = jnp.max(jnp.abs(x)) / 127 + 1e-30
    return jnp.round(x / size).astype(jnp.int8), size


def widened(packed):
    return packed[0].astype(jnp.float32) * packed[1]


halved = lambda x: x.astype(jnp.bfloat16)
doubled = lambda p: p.astype(jnp.float32)
eight = lambda fun, **kw: fg.saved_tensors_hooks(fun, eighth, widened, **kw)
XS = jnp.stack([X, 2 * X])


def on_devices(f):
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    each = lambda w, x: jnp.reshape(f(w, x), 1)
    sharded = jax.shard_map(each, mesh=mesh, in_specs=(P(), P("i")), out_specs=P("i"))
    return lambda w, x: jnp.sum(sharded(w, x))


def compiled(transform, fun):
    return models.quickly_compiled(TRANSFORMS[transform](fun))


TRANSFORMS = {
    "plain": lambda f: jax.grad(f, (0, 1)),
    "jit of grad": lambda f: jax.jit(jax.grad(f, (0, 1))),
    "grad of jit": lambda f: jax.grad(jax.jit(f), (0, 1)),
    "value_and_grad": lambda f: jax.value_and_grad(f),
    "ours": lambda f: fg.value_and_grad(f, (0, 1), materialize_grads=False),
    "vjp": lambda f: lambda w, x: fg.vjp(f, w, x)[1](),
    "vmap of grad": lambda f: lambda w, x: jax.vmap(jax.grad(f, (0, 1)), (None, 0))(w, XS),
    "grad of vmap": lambda f: jax.grad(
        lambda w, x: jnp.sum(jax.vmap(f, (None, 0))(w, jnp.stack([x, 2 * x]))), (0, 1)
    ),
    "two vmaps": lambda f: jax.grad(
        lambda w, x: jnp.sum(jax.vmap(jax.vmap(f, (None, 0)), (0, None))(jnp.stack([w, w / 2]), XS))
    ),
    "in a scan": lambda f: jax.grad(
        lambda w, x: lax.scan(lambda h, a: (h + f(w, a), None), 0.0, jnp.stack([x, 2 * x]))[0]
    ),
    "in a loop of ours": lambda f: jax.grad(
        lambda w, x: fg.fori_loop(0, 3, lambda i, h: h + f(w, x * h), 1.0), (0, 1)
    ),
    "in a checkpoint": lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    "in a cond": lambda f: jax.grad(lambda w, x: lax.cond(w[0, 0] < 9, f, lambda w, x: 0.0, w, x)),
    "forward": lambda f: jax.jacfwd(f),
    "on a mesh": lambda f: jax.grad(on_devices(f), (0, 1)),
    "hessian": lambda f: lambda w, x: jax.hessian(f, 1)(w[:4, :4], x[:2, :4]),
    "reverse twice": lambda f: lambda w, x: jax.jacrev(jax.jacrev(f, 1), 1)(w[:4, :4], x[:2, :4]),
    "closed over": lambda f: jax.grad(lambda x: f(W * jnp.sum(x), x)),
}


FEW = ("grad of jit", "ours", "vmap of grad", "in a scan")


@pytest.mark.slow
@pytest.mark.parametrize("transform", slow_but(FEW.__contains__, TRANSFORMS))
def test_gradients_are_what_they_were_where_packing_loses_nothing(transform):
    args = (X,) if transform == "closed over" else (W, X)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)
    wanted = compiled(transform, mlp)(*args)
    hooked = fg.saved_tensors_hooks(mlp, same, same, argnums=(0, 1))
    jax.tree.map(close, compiled(transform, hooked)(*args), wanted)
    jax.tree.map(close, compiled(transform, fg.save_on_cpu(mlp))(*args), wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("checking_leaks")
@pytest.mark.parametrize("transform", ["plain", "grad of jit", "vmap of grad"])
def test_without_jit_it_is_the_same_and_leaks_nothing(transform):
    fun = lambda w, x: jnp.sum(jnp.exp(x @ w))
    wanted = TRANSFORMS[transform](fun)(W, X)
    got = TRANSFORMS[transform](fg.save_on_cpu(fun, argnums=0))(W, X)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), got, wanted)


@pytest.mark.parametrize("transform", sorted(TRANSFORMS.keys() - {"hessian", "reverse twice"}))
def test_gradients_see_what_was_packed(transform):
    """Twice every intermediate value; the derivative of `exp(x) * y` is that of `2 exp(x) * y`."""
    fun = lambda w, x: jnp.sum(jnp.exp(x / 9) @ w * 0.5)
    twice = fg.saved_tensors_hooks(fun, lambda x: 2 * x, same)
    args = (X,) if transform == "closed over" else (W, X)
    take = lambda fun: jax.tree.leaves(compiled(transform, fun)(*args))[-1]
    assert not np.allclose(take(twice), take(fun), rtol=1e-2)


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: (x * x).sum(),
        lambda x: (x * x * x).sum(),
        lambda x: x.sum() * x.sum(),
        lambda x: (x @ x.T).sum(),
        lambda x: (x @ x.T @ x).sum(),
        lambda x: (x * 2.0).sum(),
        lambda x: (x**2).sum(),
        lambda x: ((x * x) @ (x * x).T).sum(),
    ],
)
@pytest.mark.parametrize("factor", [1.0, 2.0, -0.5])
def test_gradients_are_those_of_torch_with_the_same_hooks(torch, fun, factor):
    """Where both keep the same values, arguments packed as PyTorch packs them."""
    x = np.asarray(X[:4, :4])
    leaf = torch.tensor(x, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t * factor, lambda t: t):
        out = fun(leaf)
    out.backward()
    hooked = fg.saved_tensors_hooks(fun, lambda a: a * factor, same, argnums=0)
    np.testing.assert_allclose(jax.grad(hooked)(x), leaf.grad.numpy(), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(hooked))(x), leaf.grad.numpy(), rtol=1e-5)


def test_rounding_is_torch_s(torch):
    x = np.asarray(X)
    leaf = torch.tensor(x, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.bfloat16(), lambda t: t.float()):
        out = (leaf * leaf).exp().sum()
    out.backward()
    ours = fg.saved_tensors_hooks(lambda x: jnp.sum(jnp.exp(x * x)), halved, doubled, argnums=0)
    for gradient in (jax.grad(ours), jax.jit(jax.grad(ours))):
        np.testing.assert_allclose(gradient(x), leaf.grad.numpy(), rtol=1e-6)
    assert not np.allclose(leaf.grad.numpy(), jax.grad(lambda x: jnp.sum(jnp.exp(x * x)))(x), 1e-4)


def counting():
    seen = []

    def pack(x):
        seen.append((x.shape, str(x.dtype)))
        return x

    return seen, pack


@pytest.mark.slow
def test_the_hooks_see_each_kept_value_once_and_no_argument_integer_or_constant():
    def fun(w, x, i):
        h = jnp.exp(x @ w)
        return jnp.sum(h * h + jnp.where(h > 1, 3.0 * h, 0.0) + jnp.take(x, i, axis=0))

    seen, pack = counting()
    jax.grad(fg.saved_tensors_hooks(fun, pack, same))(W, X, jnp.arange(8))
    assert seen == [((8, 16), "float32")]


def test_arguments_are_packed_where_argnums_says_so():
    for argnums, wanted in [
        ((), []),
        (0, [(16, 16)]),
        (1, [(8, 16)]),
        ((0, -1), [(16, 16), (8, 16)]),
    ]:
        seen, pack = counting()
        jax.grad(
            fg.saved_tensors_hooks(lambda w, x: jnp.sum(x @ w), pack, same, argnums=argnums), (0, 1)
        )(W, X)
        assert sorted(shape for shape, _ in seen) == sorted(wanted)


def test_a_tagged_value_is_packed_once_with_the_value_under_it():
    seen, pack = counting()
    fun = lambda x: jnp.sum(fg.retain_grad(jnp.exp(x), "h") ** 2)
    jax.grad(fg.saved_tensors_hooks(fun, pack, same))(X)
    plain, other = counting()
    jax.grad(fg.saved_tensors_hooks(lambda x: jnp.sum(jnp.exp(x) ** 2), other, same))(X)
    assert seen == plain != []


@pytest.mark.slow
def test_under_vmap_the_hooks_see_one_example():
    for transform in ("vmap of grad", "grad of vmap", "two vmaps"):
        seen, pack = counting()
        fun = lambda w, x: jnp.sum(jnp.exp(x @ w))
        TRANSFORMS[transform](fg.saved_tensors_hooks(fun, pack, same))(W, X)
        assert set(seen) == {((8, 16), "float32")}, transform


@pytest.mark.slow
def test_what_pack_returns_may_be_any_pytree_and_hold_what_is_no_array():
    pack = lambda x: {"half": halved(x), "dtype": x.dtype, "text": "as it is", "none": None}
    unpack = lambda p: p["half"].astype(p["dtype"])
    f = fg.saved_tensors_hooks(mlp, pack, unpack)
    g = fg.saved_tensors_hooks(mlp, halved, doubled)
    np.testing.assert_array_equal(jax.jit(jax.grad(f))(W, X), jax.jit(jax.grad(g))(W, X))


def test_keywords_pytrees_static_values_and_auxiliary_results_pass_through():
    def fun(p, *, scale, name):
        return jnp.sum(jnp.exp(p["a"]) * scale), {"name": name, "n": 3, "i": jnp.arange(2)}

    hooked = fg.saved_tensors_hooks(fun, same, same)
    (value, aux), grads = fg.value_and_grad(hooked, has_aux=True)({"a": X}, scale=2.0, name="x")
    assert aux["name"] == "x"
    assert aux["n"] == 3
    np.testing.assert_allclose(grads["a"], 2 * jnp.exp(X), rtol=1e-6)
    np.testing.assert_allclose(value, 2 * jnp.sum(jnp.exp(X)), rtol=1e-6)
    assert hooked.__name__ == "fun"


def test_an_input_that_is_not_used_stays_so():
    hooked = fg.saved_tensors_hooks(lambda w, x: jnp.sum(jnp.exp(w)), same, same)
    grads = fg.grad(hooked, (0, 1), materialize_grads=False)(W, X)
    assert grads[1] is None


@pytest.mark.slow
@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint])
def test_tags_inside_are_retained(around):
    fun = lambda p, x: tagged(p, x)
    want = fg.grad(fun, retain=...)(PARAMS, X)[1]["first/h"]
    got = fg.grad(around(fg.save_on_cpu(fun)), retain=...)(PARAMS, X)[1]["first/h"]
    np.testing.assert_allclose(got.value, want.value, rtol=1e-6)
    np.testing.assert_allclose(got.grad, want.grad, rtol=1e-6)


@pytest.mark.slow
def test_tags_inside_have_an_axis_for_each_vmap_around():
    def over(fun):
        rows = jax.vmap(jax.vmap(fun, (None, 0)), (None, 0))
        return lambda p, x: jnp.sum(rows(p, jnp.stack([XS, -XS, 3 * XS])))

    fun = lambda p, x: tagged(p, x)
    want = fg.grad(over(fun), retain=...)(PARAMS, X)[1]["first/h"]
    got = fg.grad(over(fg.save_on_cpu(fun)), retain=...)(PARAMS, X)[1]["first/h"]
    assert got.value.shape == got.grad.shape == (3, 2, 8, 16)
    np.testing.assert_allclose(got.value, want.value, rtol=1e-6)
    np.testing.assert_allclose(got.grad, want.grad, rtol=1e-6)


@pytest.mark.slow
def test_a_collective_over_the_axis_of_a_vmap_still_finds_it():
    fun = lambda x: jnp.sum(jnp.exp(x - lax.pmean(x, "i")))
    over = lambda f: lambda x: jnp.sum(jax.vmap(f, axis_name="i")(x))
    wanted = jax.grad(over(fun))(X)
    got = jax.grad(over(fg.saved_tensors_hooks(fun, same, same)))(X)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_pack_of_the_wrong_kind_is_told_when_it_is_undone():
    hooked = fg.saved_tensors_hooks(mlp, halved, same)
    with pytest.raises(fg.TreeError, match=r"got bfloat16\[8,16\], wanted float32\[8,16\]"):
        jax.grad(hooked)(W, X)


@pytest.mark.slow
def test_a_second_derivative_goes_through_pack_and_unpack():
    small = X[:2, :4]
    fun = lambda x: jnp.sum(jnp.exp(x) ** 2)
    exact = jax.hessian(fun)(small)
    rounded = jax.hessian(fg.saved_tensors_hooks(fun, halved, doubled))(small)
    np.testing.assert_allclose(rounded, exact, rtol=3e-2, atol=1e-6)
    assert not np.allclose(rounded, exact, rtol=1e-5)


@pytest.mark.slow
def test_a_second_derivative_through_integers_is_refused_and_hooks_around_the_gradient_are_not():
    penalty = lambda f: lambda w, x: jnp.sum(jax.grad(f)(w, x) ** 2)
    with pytest.raises(fg.GradientError, match=r"makes int8\[8,16\], float32\[\] of float32"):
        jax.grad(penalty(eight(mlp)))(W, X)
    exact = jax.grad(penalty(mlp))(W, X)
    got = jax.grad(eight(penalty(mlp)))(W, X)
    assert 0 < jnp.max(jnp.abs(got - exact)) < 0.1 * jnp.max(jnp.abs(exact))


@pytest.mark.slow
def test_where_no_second_derivative_reaches_integers_are_no_trouble():
    fun = lambda x, y: jax.grad(eight(lambda y: jnp.sum(jnp.exp(y))))(y).sum() * jnp.sum(x)
    assert jnp.isfinite(jax.grad(fun)(X, X)).all()


def test_ordered_effects_are_refused():
    def fun(x):
        jax.debug.print("{}", x, ordered=True)
        return x

    with pytest.raises(fg.UsageError, match="whose order it cannot keep"):
        eight(fun)(1.0)


@pytest.mark.slow
def test_a_second_call_traces_nothing():
    count = []

    def fun(w, x):
        count.append(1)
        return mlp(w, x)

    step = jax.jit(jax.grad(eight(fun)))
    step(W, X)
    traced = len(count)
    with jax.no_tracing():
        step(W, X)
    assert len(count) == traced


def by_kind_of_memory(fun, *args):
    """The bytes of a compiled program's results, by the kind of memory it puts them into."""
    lowered = jax.jit(fun).lower(*args)
    sizes: dict[str, int] = {}
    results = zip(
        jax.tree.leaves(lowered.compile().output_shardings),
        jax.tree.leaves(lowered.out_info),
        strict=True,
    )
    for sharding, info in results:
        kind = sharding.memory_kind
        sizes[kind] = sizes.get(kind, 0) + info.size * info.dtype.itemsize
    return sizes


@pytest.mark.slow
def test_eight_bits_take_a_quarter_of_the_compiled_memory():
    ws, x = LAYERS
    fun = lambda step: functools.partial(deep, step)
    plain, packed = fun(body), fun(eight(body, argnums=0))
    args = sum(a.nbytes for a in LAYERS)
    forward = lambda f: kept_by_compiled(f, ws, x) - ws.nbytes
    assert forward(packed) < 0.27 * forward(plain)
    assert temporary(jax.grad(packed), ws, x) < 0.35 * temporary(jax.grad(plain), ws, x)
    stated = fg.saved_tensors(packed, ws, x)
    assert stated.total == pytest.approx(kept_by_compiled(packed, ws, x), rel=0.05)
    assert {
        str(row.dtype) for row in stated if row.kind == "intermediate" and row.bytes > 8192
    } == {"int8"}, args


@pytest.mark.slow
def test_eight_bits_around_the_whole_function_are_what_its_pullback_holds():
    fun = functools.partial(blocks, layer)
    plain, packed = (fg.saved_tensors(f, W, X).added for f in (fun, eight(fun)))
    assert packed < 0.4 * plain
    assert fg.saved_tensors(eight(fun), W, X).total == pytest.approx(
        kept_by_compiled(eight(fun), W, X), rel=0.05
    )


def test_packed_rows_bear_the_name_and_line_of_what_was_packed():
    saved = fg.saved_tensors(eight(lambda p, x: tagged(p, x)), PARAMS, X)
    row = next(row for row in saved if row.dtype == jnp.int8)
    assert (row.name, row.operation, row.function) == ("first/h", "exp, packed", "tagged")


@pytest.mark.slow
def test_saving_on_the_host_moves_what_is_kept_out_of_the_device():
    ws, x = LAYERS
    forward = lambda step: lambda ws, x: jax.vjp(functools.partial(deep, step), ws, x)
    plain = by_kind_of_memory(forward(body), ws, x)
    moved = by_kind_of_memory(forward(fg.save_on_cpu(body, argnums=0)), ws, x)
    assert plain.keys() == {"device"}
    stacks = fg.saved_tensors(functools.partial(deep, body), ws, x).added
    assert moved["pinned_host"] == pytest.approx(stacks, rel=0.02)
    assert moved["device"] <= plain["device"] - 0.98 * stacks


def test_the_lowered_program_moves_there_and_back():
    step = lambda w, x: jax.grad(fg.save_on_cpu(mlp))(w, x)
    text = str(jax.make_jaxpr(step)(W, X))
    assert text.count("MemorySpace.Host") == text.count("MemorySpace.Device") > 0
    assert "MemorySpace" not in str(jax.make_jaxpr(fg.save_on_cpu(mlp))(W, X))


def zeroed(x):
    """The identity, with a rule that lets no gradient through."""
    rule = jax.custom_vjp(lambda x: x)
    rule.defvjp(lambda x: (x, None), lambda _, g: (jnp.zeros_like(g),))
    return rule(x)


STOPS = {
    "detach": (lambda x: fg.detach(x), "only under `detach`"),
    "no_grad": (lambda x: fg.no_grad(jnp.exp)(x), "only under `detach`"),
    "set_data": (lambda x: fg.set_data(jnp.ones(3), x), "only under `detach`"),
    "argmax": (lambda x: jnp.argmax(x), "only through `argmax`, which makes int32"),
    "comparison": (lambda x: jnp.where(x > 0, 1.0, 2.0), "only through `gt`, which makes bool"),
    "integers": (lambda x: x.astype(int), "only through `convert_element_type`, which makes int32"),
    "round": (lambda x: jnp.round(x), "only through `round`, which has no derivative"),
    "sign": (lambda x: jnp.sign(x), "only through `sign`, which has no derivative"),
    "hook": (
        lambda x: fg.register_hook(x, jnp.zeros_like),
        "only through a `register_hook`, which lets no gradient through",
    ),
    "rule": (zeroed, "only through a `custom_vjp`, which lets no gradient through"),
    "nothing": (lambda x: 0.0, "never used"),
    "zeros_like": (lambda x: jnp.zeros_like(x), "never used"),
}
WHERE = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "scan": lambda f: lambda x: lax.scan(lambda h, a: (h + f(a), None), jnp.ones(3), x[None])[0],
    "cond": lambda f: (
        lambda x: lax.cond(jnp.ones(3)[0] > 0, lambda: f(x) * 1.0, lambda: f(x) * 2.0)
    ),
    "vmap": lambda f: lambda x: jax.vmap(f)(x[None]),
    "checkpoint": jax.checkpoint,
    "loop of ours": lambda f: lambda x: fg.fori_loop(0, 3, lambda i, h: h + f(x), jnp.ones(3)),
    "hooked": eight,
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("stop", STOPS)
def test_what_cuts_an_input_off_is_named(stop, where):
    cut, reason = STOPS[stop]
    fun = lambda x, y: jnp.sum(
        WHERE[where](lambda x: jnp.ones(3) * jnp.asarray(cut(2 * x)).astype(jnp.float32))(x) + y
    )
    found = fg.disconnected(fun, jnp.ones(3), jnp.ones(3))
    assert found.inputs["argument 0"].partition(" (")[0] == reason
    assert found.inputs.keys() == {"argument 0"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_connected_is_not_named(program):
    found = fg.disconnected(PROGRAMS[program], W, X)
    assert not found
    assert str(found) == "the result depends on every input and every retained value"


def network(params, x):
    h = fg.retain_grad(jnp.tanh(x @ params["w"]), "h")
    target = fg.retain_grad(jnp.tanh(x @ params["target"]), "target")
    fg.retain_grad(h * 2, "lost")
    mask = fg.retain_grad(h > params["threshold"], "mask")
    chosen = jnp.where(mask, h, params["other"])
    return jnp.sum((chosen - fg.detach(target)) ** 2) + params["steps"]


def test_inputs_and_names_are_told_by_path_with_the_line():
    params = {
        **{"w": W, "target": W, "threshold": 0.5, "other": 1.0},
        **{"unused": [X, X], "steps": 3},
    }
    found = fg.disconnected(network, params, X, argnums=0)
    detached = "only under `detach` (test_saved.py:{} in network: fg.detach(target))"
    line = next(
        n
        for n, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if "chosen - fg.detach" in text
    )
    assert found.inputs == {
        "argument 0['target']": detached.format(line),
        "argument 0['threshold']": "only through `gt`, which makes bool"
        f' (test_saved.py:{line - 2} in network: h > params["threshold"])',
        "argument 0['unused'][0]": "never used",
        "argument 0['unused'][1]": "never used",
    }
    assert found.retained == {
        "target": detached.format(line),
        "lost": "never used: the result does not use what `retain_grad` returned",
    }
    assert bool(found)
    assert "retained 'lost': never used" in str(found)


def test_several_reasons_are_all_told():
    def fun(x, y):
        index = jnp.argmax(x).astype(jnp.float32)
        return jnp.sum(y) + jnp.sum(fg.detach(x)) + jnp.round(x)[0] + index * y[0]

    reason = fg.disconnected(fun, X[0], X[0]).inputs["argument 0"]
    assert sorted(re.findall("`([a-z]+)`", reason)) == ["argmax", "detach", "round"]


def test_inputs_without_argnums_and_integers_are_left_out():
    fun = lambda x, y, n: jnp.sum(x)
    assert fg.disconnected(fun, X, X, 3).inputs == {"argument 1": "never used"}
    assert not fg.disconnected(fun, X, X, 3, argnums=0)


def test_names_that_nothing_can_be_said_of_are_apart():
    inner = jax.custom_jvp(lambda x: fg.retain_grad(x, "y") * 2)
    inner.defjvp(lambda p, t: (2 * p[0], 2 * t[0]))
    found = fg.disconnected(lambda x: inner(x), 1.0)
    assert not found
    assert "inside `custom_jvp_call`" in found.unknown["y"]
    assert "retained 'y': not known" in str(found)


def test_what_jax_computes_as_zero_is_a_connection():
    assert not fg.disconnected(lambda x: jnp.sum(jax.nn.relu(x)), -jnp.ones(3))


def test_disconnected_inputs_are_those_torch_gives_no_gradient(torch):
    x = torch.ones(3, requires_grad=True)
    y = torch.ones(3, requires_grad=True)
    out = (x.detach() * y).sum() + x.argmax()
    gradients = torch.autograd.grad(out, [x, y], allow_unused=True)
    fun = lambda x, y: jnp.sum(fg.detach(x) * y) + jnp.argmax(x).astype(jnp.float32)
    found = fg.disconnected(fun, jnp.ones(3), jnp.ones(3))
    assert [g is None for g in gradients] == [f"argument {i}" in found.inputs for i in (0, 1)]


# What Python functions may be given, and where they may stand.


@pytest.mark.slow
@pytest.mark.parametrize("hooks", [eight, fg.save_on_cpu])
def test_numbers_of_python_are_handed_on_as_they_are(hooks):
    def f(x, times, train=True):
        return jnp.sum(jnp.tile(jnp.sin(x), times) ** times) if train else jnp.sum(x)

    wanted = jax.grad(f)(X, 3, True)
    np.testing.assert_allclose(jax.grad(hooks(f))(X, 3, True), wanted, rtol=0.2, atol=0.1)
    assert jnp.all(jax.grad(hooks(f))(X, 3, train=False) == 1)
    assert fg.saved_tensors(f, X, 3, False).total == 0
    assert not fg.disconnected(f, X, 3, True)


def test_a_hook_that_closes_over_a_differentiated_value_is_told_to_detach_it():
    def loss(x, size, of=fg.detach):
        still = of(size)
        f = fg.saved_tensors_hooks(jnp.sin, lambda x: x * still, lambda p: p / still)
        return size * jnp.sum(f(x))

    assert jnp.shape(jax.grad(loss, (0, 1))(X, 1.0)[0]) == X.shape
    with pytest.raises(fg.GradientError, match="detach it outside them"):
        jax.grad(functools.partial(loss, of=same), (0, 1))(X, 1.0)


def test_what_a_hook_cannot_do_has_the_fix_as_a_note():
    for pack, unpack, fix in (
        (lambda x: x.detach(), same, "write `funcgrad.detach(x)`"),
        (np.asarray, same, "NumPy and PyTorch cannot compute with traced values"),
        (same, np.asarray, "NumPy and PyTorch cannot compute with traced values"),
    ):
        with pytest.raises((AttributeError, TypeError)) as caught:
            jax.grad(fg.saved_tensors_hooks(lambda x: jnp.sum(jnp.sin(x)), pack, unpack))(X)
        assert any(fix in note for note in caught.value.__notes__)


def test_a_pack_that_stores_what_it_is_given_is_told_to_return_it():
    held = []
    stored = fg.saved_tensors_hooks(jnp.sin, held.append, lambda _: held[-1])
    with pytest.raises(fg.GradientError, match="Or `pack` stored what it was given: return it"):
        jax.jvp(stored, (X,), (X,))


@pytest.mark.slow
def test_under_a_vmap_on_a_mesh_it_is_drawn_and_looked_into():
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    each = jax.vmap(fg.save_on_cpu(lambda w, x: jnp.sum(jnp.log(x @ w))), (None, 0))
    f = jax.shard_map(each, mesh=mesh, in_specs=(P(), P("i")), out_specs=P("i"))
    args = jnp.ones((3, 2)), jnp.ones((16, 3))
    assert "log" in [node.title for node in fg.graph(f, *args).model.nodes]
    assert jnp.all(fg.detect_anomaly(f)(*args) == jax.jit(f)(*args))
    with pytest.raises(fg.AnomalyError):
        fg.detect_anomaly(f)(args[0], -args[1])


@pytest.mark.slow
def test_hooks_stand_around_a_vmap_of_a_cond_that_differs_by_example():
    each = jax.vmap(lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: x**3, x))
    total = lambda f: jax.grad(lambda x: jnp.sum(f(x)))(X)
    np.testing.assert_allclose(total(fg.save_on_cpu(each)), total(each), rtol=1e-6)


# What a checkpoint holds when it is computed again.


def stacked(layer):
    return lambda ws, x: jnp.sum(lax.scan(layer, x, ws)[0] ** 2)


def tanh_layer(h, w):
    return jnp.tanh(h @ w), None


DEEP = (jnp.ones((64, 16, 16)) / 16, jnp.ones((256, 16)))


def test_without_a_checkpoint_nothing_is_computed_again():
    assert fg.saved_tensors(stacked(tanh_layer), *DEEP).recomputed == ()


def test_a_checkpoint_around_a_whole_loop_holds_what_the_loop_keeps():
    plain = fg.saved_tensors(stacked(tanh_layer), *DEEP)
    around = fg.saved_tensors(jax.checkpoint(stacked(tanh_layer)), *DEEP)
    assert around.added == 0
    assert [again.bytes for again in around.recomputed] == [plain.added]
    told = f"in the backward pass, and held there at once: {plain.added / 2**20:.4g} MiB"
    assert told in str(around)


def test_a_checkpoint_around_the_body_holds_one_step():
    (again,) = fg.saved_tensors(stacked(jax.checkpoint(tanh_layer)), *DEEP).recomputed
    step = fg.saved_tensors(lambda h, w: tanh_layer(h, w)[0], DEEP[1], DEEP[0][0])
    assert again.bytes == step.added


def test_a_checkpoint_of_a_part_is_told_with_its_line():
    part = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)))
    saved = fg.saved_tensors(lambda x: jnp.sum(part(x) ** 2), jnp.ones(8))
    (again,) = saved.recomputed
    assert again.bytes == fg.saved_tensors(lambda x: jnp.sin(jnp.sin(x)), jnp.ones(8)).added
    assert f"(jax.checkpoint, test_saved.py:{again.line} in " in str(saved)
    assert "held there at once" in saved._repr_html_()


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: lax.stop_gradient(lax.while_loop(lambda y: y[0] < 9, lambda y: y * 2, x)) * x,
        lambda x: x * jnp.argmax(x).astype(x.dtype),
    ],
)
def test_a_checkpoint_with_a_part_that_has_no_backward_pass_is_no_error(fun):
    assert len(fg.saved_tensors(lambda x: jnp.sum(jax.checkpoint(fun)(x)), jnp.ones(3))) > 0


def test_the_temporary_memory_of_the_compiled_gradient_is_what_is_held_at_once():
    fun = jax.checkpoint(stacked(tanh_layer))
    compiled = jax.jit(jax.grad(fun)).lower(*DEEP).compile()
    stated = fg.saved_tensors(fun, *DEEP).recomputed[0].bytes
    assert abs(compiled.memory_analysis().temp_size_in_bytes / stated - 1) < 0.1
