"""Every transform x every idiom x dtypes, against a Python loop written in JAX alone.

A cell runs a step `(params, carry, x) -> carry` under a transform, and compares the value, the
gradients and what was retained with the same step, written without funcgrad, in a plain loop.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from closeness import assert_close
from jax import lax
from jax.sharding import PartitionSpec as P
from tiers import one_in

import funcgrad as fg


class Idiom(NamedTuple):
    """A step with funcgrad, the same step in JAX alone with a zero `tap`, and what to ask for."""

    ours: Any
    plain: Any
    retain: Any = None
    requires_grad: Any = None


def double_and_square(g):
    """A hook that is not linear, so that it matters whose gradient it sees."""
    return 0.5 * g * g + 2 * g


@jax.custom_vjp
def hooked(x):
    return x


# Its forward rule calls itself, so that the hook acts at second order too, as PyTorch's does.
hooked.defvjp(
    lambda x: (hooked(x), None),
    lambda _, g: (jnp.conj(double_and_square(jnp.conj(g))).astype(g.dtype),),
)


def retain_ours(p, c, x):
    u = fg.retain_grad(c * p["w"] + x, "u")
    return u * u * 0.5 + p["b"] * c


def retain_plain(p, c, x, tap):
    u = c * p["w"] + x + tap
    return u * u * 0.5 + p["b"] * c, u


def hook_ours(p, c, x):
    u = fg.register_hook(c * p["w"] + x, double_and_square)
    return u * u * 0.5 + p["b"] * c


def hook_plain(p, c, x, tap):
    u = hooked(c * p["w"] + x)
    return u * u * 0.5 + p["b"] * c, u


def detach_ours(p, c, x):
    u = fg.detach(c * p["w"]) * x
    return u * c + p["b"]


def no_grad_ours(p, c, x):
    u = fg.no_grad(lambda c: c * p["w"])(c) * x
    return u * c + p["b"]


def detach_plain(p, c, x, tap):
    u = lax.stop_gradient(c * p["w"]) * x
    return u * c + p["b"], u


def set_data_ours(p, c, x):
    u = fg.set_data(c * p["w"], x * p["b"])
    return u * c + p["b"]


def set_data_plain(p, c, x, tap):
    old = c * p["w"]
    u = lax.stop_gradient(x * p["b"]) + (old - lax.stop_gradient(old))
    return u * c + p["b"], u


IDIOMS = {
    "retain": Idiom(retain_ours, retain_plain, retain="u"),
    "hook": Idiom(hook_ours, hook_plain),
    "detach": Idiom(detach_ours, detach_plain),
    "no_grad": Idiom(no_grad_ours, detach_plain),
    "set_data": Idiom(set_data_ours, set_data_plain),
    "mask": Idiom(
        lambda p, c, x: retain_plain(p, c, x, 0.0)[0],
        retain_plain,
        requires_grad=({"w": True, "b": False}, True),
    ),
}


def loss(y):
    """A real number from any array, smooth and without symmetry."""
    return jnp.sum(jnp.real(y * y) * (1 + jnp.arange(y.size, dtype=y.real.dtype)).reshape(y.shape))


def mesh():
    return jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))


def scanned(step, p, c, xs):
    return lax.scan(lambda c, x: (step(p, c, x), None), c, xs)[0]


def sharded(step, p, c, xs):
    rows = jnp.concatenate([xs.reshape(4, 3), 2 * xs.reshape(4, 3)])

    def one(p, c, row):
        return step(p, c, row[0])[None]

    return jax.shard_map(one, mesh=mesh(), in_specs=(P(), P(), P("i")), out_specs=P("i"))(
        p, c, rows
    )


OURS = {
    "plain": lambda step, p, c, xs: step(p, c, xs[0, 0]),
    "jit": lambda step, p, c, xs: jax.jit(step)(p, c, xs[0, 0]),
    "vmap": lambda step, p, c, xs: jax.vmap(step, (None, None, 0))(p, c, xs[0]),
    "scan": lambda step, p, c, xs: scanned(step, p, c, xs[0]),
    "nested scan": lambda step, p, c, xs: lax.scan(
        lambda c, row: (scanned(step, p, c, row), None), c, xs
    )[0],
    "cond": lambda step, p, c, xs: lax.cond(
        jnp.real(c[0]) < 9.0, step, lambda p, c, x: c, p, c, xs[0, 0]
    ),
    "checkpoint": lambda step, p, c, xs: jax.checkpoint(step)(p, c, xs[0, 0]),
    "grad of grad": lambda step, p, c, xs: jax.grad(lambda c: loss(step(p, c, xs[0, 0])))(c),
    "shard_map": sharded,
}


def loop(step, p, c, xs, taps):
    tagged = []
    for x, tap in zip(xs, taps, strict=True):
        c, u = step(p, c, x, tap)
        tagged.append(u)
    return c, jnp.stack(tagged)


def each(step, p, c, xs, taps):
    pairs = [step(p, c, x, tap) for x, tap in zip(xs, taps, strict=True)]
    return jnp.stack([y for y, _ in pairs]), jnp.stack([u for _, u in pairs])


def once(step, p, c, xs, tap):
    return step(p, c, xs[0, 0], tap)


def nested(step, p, c, xs, taps):
    rows = []
    for row, inner in zip(xs, taps, strict=True):
        c, tagged = loop(step, p, c, row, inner)
        rows.append(tagged)
    return c, jnp.stack(rows)


def grad_of_grad(step, p, c, xs, tap):
    def of_carry(c):
        y, u = step(p, c, xs[0, 0], tap)
        return loss(y), u

    return jax.grad(of_carry, has_aux=True)(c)


def eight(step, p, c, xs, taps):
    rows = jnp.concatenate([xs.reshape(4, 3), 2 * xs.reshape(4, 3)])
    return each(step, p, c, rows, taps)


# The same in a plain loop, and the axes in front of a tap.
PLAIN = {
    "plain": (once, ()),
    "jit": (once, ()),
    "vmap": (lambda step, p, c, xs, taps: each(step, p, c, xs[0], taps), (2,)),
    "scan": (lambda step, p, c, xs, taps: loop(step, p, c, xs[0], taps), (2,)),
    "nested scan": (nested, (2, 2)),
    "cond": (once, ()),
    "checkpoint": (once, ()),
    "grad of grad": (grad_of_grad, ()),
    "shard_map": (eight, (8,)),
}


def inputs(dtype):
    numbers = jnp.array([0.7, -0.4, 1.1, 0.3, 0.9, -0.6, 0.5, 0.2, -0.8])
    if dtype == jnp.complex64:
        numbers = lax.complex(numbers, numbers[::-1] * 0.7)
    w, b, c = numbers.astype(dtype).reshape(3, 3)
    xs = jnp.linspace(-1.0, 1.0, 12).astype(dtype).reshape(2, 2, 3)
    return {"w": w, "b": b}, c, xs


@functools.cache
def reference(idiom, transform, dtype):
    idiom = IDIOMS[idiom]
    run, axes = PLAIN[transform]
    p, c, xs = inputs(dtype)
    taps = jnp.zeros((*axes, 3), dtype)

    @jax.jit
    def wanted(p, c, taps):
        def fun(p, c, taps):
            y, tagged = run(idiom.plain, p, c, xs, taps)
            return loss(y), tagged

        return jax.value_and_grad(fun, (0, 1, 2), has_aux=True)(p, c, taps)

    (value, tagged), grads = wanted(p, c, taps)
    *grads, tap = jax.tree.map(jnp.conj, grads)
    if idiom.requires_grad:
        grads[0]["b"] = None
    result = (value, tuple(grads))
    return result if not idiom.retain else (*result, {"u": fg.Retained(tagged, tap)})


def check(idiom, transform, dtype, around):
    p, c, xs = inputs(dtype)
    step, _, retain, requires_grad = IDIOMS[idiom]
    ours = fg.value_and_grad(
        lambda p, c: loss(OURS[transform](step, p, c, xs)),
        (0, 1),
        retain=retain,
        requires_grad=requires_grad,
    )
    assert_close(around(ours)(p, c), reference(idiom, transform, dtype))


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "complex64": jnp.complex64}
ALL = [*itertools.product(IDIOMS, OURS)]
ELSEWHERE = [cell for cell in ALL if cell[1] != "shard_map"]
SINGLE = [(*cell, "float32") for cell in ALL]
# Each idiom and each transform in both, and at night all of them.
OTHER = [(*cell, dtype) for cell in ELSEWHERE for dtype in ("bfloat16", "complex64")]


@pytest.mark.parametrize(("idiom", "transform", "dtype"), [*SINGLE, *one_in(3, OTHER)])
def test_cell_equals_the_plain_loop(idiom, transform, dtype):
    check(idiom, transform, DTYPES[dtype], jax.jit)


def test_the_quick_tier_has_every_cell(quick_tests):
    name = f"{test_cell_equals_the_plain_loop.__name__}["
    calls = [test.callspec.params for test in quick_tests if test.name.startswith(name)]
    tested = {(call["idiom"], call["transform"]) for call in calls}
    assert tested == {*ALL}


@pytest.mark.parametrize(("idiom", "transform"), one_in(2, ALL))
def test_cell_not_compiled_equals_the_plain_loop(idiom, transform):
    check(idiom, transform, jnp.float32, lambda fun: fun)


@pytest.mark.parametrize(("idiom", "transform"), one_in(3, ELSEWHERE))
def test_vmap_outside_equals_one_example_at_a_time(idiom, transform):
    p, c, xs = inputs(jnp.float32)
    batch = jnp.stack([c, 0.5 * c, -c])
    idiom = IDIOMS[idiom]
    ours = jax.jit(
        fg.value_and_grad(
            lambda c: loss(OURS[transform](idiom.ours, p, c, xs)), retain=idiom.retain
        )
    )
    one_by_one = [ours(example) for example in batch]
    want = jax.tree.map(lambda *rows: jnp.stack(rows), *one_by_one)
    assert_close(jax.vmap(ours)(batch), want)
