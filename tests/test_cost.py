"""Tags cost nothing: the compiled program equals the one that is written by hand."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad as fg

X = jnp.linspace(0.1, 1.0, 64)
W = jnp.linspace(-1.0, 1.0, 64 * 64).reshape(64, 64)


def untagged(value, name):
    return value


def chain(x, tag):
    for n in range(6):
        x = tag(jnp.sin(x) * x, f"y{n}")
    return jnp.sum(x)


def mlp(x, tag):
    for n in range(3):
        x = tag(jnp.tanh(W @ x), f"y{n}")
    return jnp.sum(x**2)


def rnn(x, tag):
    step = lambda h, a: (jnp.tanh(tag(W @ h + a, "y")), h[0])
    h, ys = lax.scan(step, x, jnp.linspace(0.0, 1.0, 16))
    return jnp.sum(h * h) + jnp.sum(ys)


def checkpointed(x, tag):
    block = jax.checkpoint(lambda x: tag(jnp.tanh(W @ jnp.tanh(W @ x)), "y"))
    return jnp.sum(jnp.sin(block(x)))


def branched(x, tag):
    yes = lambda x: tag(jnp.tanh(W @ x), "y")
    return jnp.sum(lax.cond(x[0] > 0, yes, lambda x: x, x) ** 2)


def jitted(x, tag):
    return jnp.sum(jax.jit(lambda x: tag(jnp.tanh(W @ x), "y") ** 2)(x))


def vmapped(x, tag):
    return jnp.sum(jax.vmap(lambda row: tag(jnp.tanh(row @ x), "y"))(W) ** 2)


def transformer(x, tag):
    """Two checkpointed blocks of attention and a feed-forward net, on 4 tokens of 16 features."""

    def block(x, n):
        q, k, v = (x @ W[:16, 16 * i : 16 * i + 16] for i in range(3))
        weights = tag(jax.nn.softmax(q @ k.T / 4.0), f"weights{n}")
        x = x + weights @ v
        hidden = tag(jnp.tanh(x @ W[:16]), f"hidden{n}")
        return x + hidden @ W[:, :16]

    x = x.reshape(4, 16)
    for n in range(2):
        x = jax.checkpoint(block, static_argnums=1)(x, n)
    return jnp.sum(x**2)


PROGRAMS = [chain, mlp, rnn, checkpointed, branched, jitted, vmapped, transformer]


def compiled(fun, *args):
    return jax.jit(fun).lower(*args).compile()


def hlo(program):
    """The optimised program without the places in the source and the names that come from them."""
    text = re.sub(r",? ?(metadata|frontend_attributes)=\{[^}]*\}", "", program.as_text())
    text = re.sub(r"(?ms)^(FileNames|FunctionNames|FileLocations|StackFrames)\n.*?\n\n", "", text)
    names: dict[str, str] = {}
    number = lambda match: names.setdefault(match[0], f"%{len(names)}")
    text = re.sub(r"%[\w.\-]+", number, text)
    return re.sub(r"HloModule \S+", "HloModule", text)


@pytest.mark.parametrize("program", PROGRAMS)
def test_unasked_tags_leave_no_trace_in_the_compiled_gradient(program):
    tagged = compiled(jax.grad(lambda x: program(x, fg.retain_grad)), X)
    plain = compiled(jax.grad(lambda x: program(x, untagged)), X)
    assert hlo(tagged) == hlo(plain)


@pytest.mark.parametrize("program", PROGRAMS)
def test_transforms_of_ours_compile_to_those_of_jax(program):
    fun = lambda x: program(x, untagged)
    assert hlo(compiled(fg.grad(fun), X)) == hlo(compiled(jax.grad(fun), X))
    ours = compiled(fg.value_and_grad(fun), X)
    assert hlo(ours) == hlo(compiled(jax.value_and_grad(fun), X))


def test_a_program_that_differs_is_told_apart():
    plain = compiled(jax.grad(lambda x: mlp(x, untagged)), X)
    hooked = lambda x: mlp(x, lambda y, _: fg.register_hook(y, lambda g: 2 * g))
    assert hlo(compiled(jax.grad(hooked), X)) != hlo(plain)


def test_a_forward_pass_with_hooks_compiles_to_one_without():
    hooked = lambda x: mlp(x, lambda y, _: fg.register_hook(y, lambda g: -g))
    plain = lambda x: mlp(x, untagged)
    assert hlo(compiled(hooked, X)) == hlo(compiled(plain, X))


def cost(program):
    analysis, memory = program.cost_analysis(), program.memory_analysis()
    return {
        "flops": analysis["flops"],
        "bytes accessed": analysis["bytes accessed"],
        "temporary bytes": memory.temp_size_in_bytes,
    }


def chain_by_hand(x, zeros):
    kept = {}
    for name, zero in zeros.items():
        kept[name] = jnp.sin(x) * x
        x = kept[name] + zero
    return jnp.sum(x), kept


def mlp_by_hand(x, zeros):
    kept = {}
    for name, zero in zeros.items():
        kept[name] = jnp.tanh(W @ x)
        x = kept[name] + zero
    return jnp.sum(x**2), kept


def rnn_by_hand(x, zeros):
    def step(h, slices):
        a, zero = slices
        y = W @ h + a
        return jnp.tanh(y + zero), (h[0], y)

    h, (ys, kept) = lax.scan(step, x, (jnp.linspace(0.0, 1.0, 16), zeros["y"]))
    return jnp.sum(h * h) + jnp.sum(ys), {"y": kept}


def checkpointed_by_hand(x, zeros):
    @jax.checkpoint
    def block(x, zero):
        y = jnp.tanh(W @ jnp.tanh(W @ x))
        return y + zero, y

    y, kept = block(x, zeros["y"])
    return jnp.sum(jnp.sin(y)), {"y": kept}


def branched_by_hand(x, zeros):
    def yes(x, zero):
        y = jnp.tanh(W @ x)
        return y + zero, y

    no = lambda x, zero: (x, jnp.zeros(64))
    y, kept = lax.cond(x[0] > 0, yes, no, x, zeros["y"])
    return jnp.sum(y**2), {"y": kept}


def transformer_by_hand(x, zeros):
    kept = {}

    @jax.checkpoint
    def run(x, zeros):
        made = {}

        def tag(value, name):
            made[name] = value
            return value + zeros[name]

        q, k, v = (x @ W[:16, 16 * i : 16 * i + 16] for i in range(3))
        x = x + tag(jax.nn.softmax(q @ k.T / 4.0), "weights") @ v
        return x + tag(jnp.tanh(x @ W[:16]), "hidden") @ W[:, :16], made

    x = x.reshape(4, 16)
    for n in range(2):
        x, made = run(x, {name: zeros[f"{name}{n}"] for name in ("weights", "hidden")})
        kept |= {f"{name}{n}": value for name, value in made.items()}
    return jnp.sum(x**2), kept


BY_HAND = [
    (chain, chain_by_hand, {f"y{n}": (64,) for n in range(6)}),
    (mlp, mlp_by_hand, {f"y{n}": (64,) for n in range(3)}),
    (rnn, rnn_by_hand, {"y": (16, 64)}),
    (checkpointed, checkpointed_by_hand, {"y": (64,)}),
    (branched, branched_by_hand, {"y": (64,)}),
    (
        transformer,
        transformer_by_hand,
        {
            f"{name}{n}": shape
            for n in range(2)
            for name, shape in (("weights", (4, 4)), ("hidden", (4, 64)))
        },
    ),
]


@pytest.mark.parametrize(("program", "by_hand", "shapes"), BY_HAND)
def test_retaining_costs_no_more_than_zeros_added_by_hand(program, by_hand, shapes):
    ours = fg.value_and_grad(lambda x: program(x, fg.retain_grad), retain=...)

    def theirs(x):
        zeros = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        (value, kept), grads = jax.value_and_grad(by_hand, (0, 1), has_aux=True)(x, zeros)
        return value, grads[0], {n: fg.Retained(kept[n], grads[1][n]) for n in shapes}

    spent, allowed = cost(compiled(ours, X)), cost(compiled(theirs, X))
    assert allowed["flops"] > 0
    assert {key: spent[key] for key in spent if spent[key] > allowed[key]} == {}, allowed


def test_what_is_not_asked_for_is_not_kept():
    rows = lambda retain: compiled(
        fg.value_and_grad(lambda x: chain(x, fg.retain_grad), retain=retain), X
    ).memory_analysis()
    one = 2 * X.nbytes
    assert rows("y1").output_size_in_bytes - rows(()).output_size_in_bytes <= one + 32
    assert rows(...).output_size_in_bytes - rows(()).output_size_in_bytes >= 6 * one
