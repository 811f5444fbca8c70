"""Loops on meshes of explicit and automatic axes, with and without `jax.set_mesh`."""

import contextlib
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from tiers import one_in, pairs_of

import funcgrad as fg

QUICK = {"xla_backend_optimization_level": 0}
X = jnp.linspace(0.1, 1.9, 32).reshape(8, 4)
W = jnp.linspace(0.8, 1.2, 4)


def step(w):
    return lambda y: jnp.tanh(y * w) * 0.7


def going(y):
    return jnp.sum(y * y) > 0.5


def until(w, x, **most):
    return fg.while_loop(going, step(w), x, max_steps=30, **most)


def in_pieces(w, x):
    return until(w, x, checkpoints=2)


def known(w, x):
    return fg.fori_loop(0, 4, lambda i, y: step(w)(y), x)


def counted(w, x):
    def one(s):
        return s[0] + 1, step(w)(s[1])

    count, y = fg.while_loop(lambda s: going(s[1]), one, (0, x), max_steps=30)
    return y * count.astype(y.dtype)


def every_row(loop):
    return lambda w, x: jax.vmap(loop, (None, 0))(w, x)


def each_its_own(w, x):
    power = lambda n, row: fg.fori_loop(0, n, lambda i, y: step(w)(y), row, max_steps=5)
    return jax.vmap(power)(jnp.sum(x > 1, axis=1), x)


LOOPS = [until, in_pieces, known, counted]
PROGRAMS = {
    **{loop.__name__: loop for loop in LOOPS},
    **{f"vmap of {loop.__name__}": every_row(loop) for loop in LOOPS},
    "vmap of a number of steps each": each_its_own,
}
MODES = {
    "value": lambda f: f,
    "jvp": lambda f: lambda w, x: jax.jvp(f, (w, x), (jnp.cos(w), jnp.cos(x)))[1],
    "vjp": lambda f: lambda w, x: (lambda out, pull: pull(out))(*jax.vjp(f, w, x)),
    "grad": lambda f: jax.grad(lambda w, x: jnp.sum(jnp.sin(f(w, x))), (0, 1)),
    "reverse over reverse": lambda f: jax.grad(
        lambda w, x: jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(f(w, x))))(x) ** 2), (0, 1)
    ),
}


@functools.cache
def on_one_device(mode, program):
    return jax.jit(MODES[mode](PROGRAMS[program]), compiler_options=QUICK)(W, X)


def on_mesh(mode, program, kind, spec, within, compiled):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(kind,) * 2)
    w = jax.device_put(W, jax.NamedSharding(mesh, P(*spec[1:])))
    x = jax.device_put(X, jax.NamedSharding(mesh, spec))
    f = MODES[mode](PROGRAMS[program])
    with jax.set_mesh(mesh) if within else contextlib.nullcontext():
        got = (jax.jit(f, compiler_options=QUICK) if compiled else f)(w, x)
    want = on_one_device(mode, program)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.all(np.isfinite(b))
        np.testing.assert_allclose(jax.device_get(a), b, rtol=1e-4, atol=1e-5)


KINDS, WITHIN = [AxisType.Explicit, AxisType.Auto], [False, True]


@pytest.mark.parametrize(
    ("program", "mode", "kind", "within"),
    pairs_of([*PROGRAMS], ["value", "jvp", "grad"], KINDS, WITHIN),
)
def test_every_mode_on_every_kind_of_mesh(program, mode, kind, within):
    on_mesh(mode, program, kind, P("d"), within, True)


PLACED = [*itertools.product(PROGRAMS, [P(), P(None, "m"), P("d", "m")])]


@pytest.mark.parametrize(("program", "spec"), one_in(2, PLACED))
def test_gradients_of_every_placement(program, spec):
    on_mesh("grad", program, AxisType.Explicit, spec, False, True)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["until", "in_pieces", "vmap of until"])
def test_gradients_of_gradients_on_a_default_mesh(program):
    on_mesh("reverse over reverse", program, AxisType.Explicit, P("d"), False, True)


NOT_COMPILED = [*itertools.product(PROGRAMS, ["value", "jvp", "vjp"], WITHIN)]


@pytest.mark.parametrize(("program", "mode", "within"), one_in(5, NOT_COMPILED))
def test_every_mode_outside_jit_on_a_default_mesh(program, mode, within):
    on_mesh(mode, program, AxisType.Explicit, P("d"), within, False)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_on_a_mesh_no_more_rows_are_kept_than_off_it(kind, devices):
    def rows(place):
        loss = lambda w, x: jnp.sum(until(w, x) ** 2)
        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(*map(place, (W, X)))
        return lowered.as_text().split("stablehlo.while", 1)[1].split("\n")[0].count("<30x8x4xf32>")

    mesh = jax.make_mesh((devices,), ("d",), axis_types=(kind,), devices=jax.devices()[:devices])
    whole = jax.NamedSharding(mesh, P())
    assert rows(lambda x: jax.device_put(x, whole)) == rows(lambda x: x) == 2
