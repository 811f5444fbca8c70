"""The primitives that hold programs, each as a function that runs another function in one.

`fun(inner)` runs `inner` inside the primitive; `plain(inner)` does the same without it, in Python,
where `inner` takes the number of its run too.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import linear_util
from jax.extend.core import primitives
from jax.sharding import PartitionSpec

import funcgrad as fg
from funcgrad import _jax

SIZE = 4
quick = "shard_map".__ne__  # which is compiled for eight devices


class Carrier(NamedTuple):
    """A primitive that holds a program.

    Fields:
        kind: what funcgrad calls it.
        fun: from a function of an array to one that runs it inside the primitive.
        plain: from a function of the number of the run and an array to the same without primitive.
        runs: how often the function runs, where each run leaves a row; `None` for once, without.
        rule: whether derivatives go by a rule instead.
        box: what a picture calls it; `None` where it is one operation there.
    """

    kind: str
    fun: Callable
    plain: Callable
    runs: int | None = None
    rule: bool = False
    box: str | None = None


def once(inner):
    return lambda x: inner(0, x)


def twice(inner):
    return lambda x: inner(1, inner(0, x))


def each(inner):
    return lambda x: jnp.stack([inner(i, row) for i, row in enumerate(x)])


def on_device(inner):
    return lambda x: jnp.concatenate([inner(i, x[i : i + 1]) for i in range(SIZE)])


def called(primitive):
    """Calls a function by a primitive that no public function of JAX binds."""

    def fun(inner):
        def call(x):
            closed = jax.make_jaxpr(lambda x: [inner(x)])(x)
            body, operands = _jax.without_consts(closed), [*closed.consts, x]
            if hasattr(primitives, "create_call_primitive"):  # JAX 0.12 has no other kind
                return primitive.bind(*operands, call_jaxpr=body)[0]
            run = lambda *operands: _jax.as_function(body)(*operands)
            info = jax.api_util.debug_info("call", run, tuple(operands), {})
            fun = linear_util.wrap_init(run, debug_info=info)
            return primitive.bind(*operands, subfuns=[fun])[0]

        return call

    return fun


def scan(inner):
    return lambda x: lax.scan(lambda c, _: (inner(c), None), x, None, length=2)[0]


def cond(inner):
    return lambda x: lax.cond(jnp.all(jnp.isfinite(x)), inner, jnp.cos, x)


def switch(inner):
    return lambda x: lax.switch(1, [jnp.cos, inner, jnp.exp], x)


def jax_while(inner):
    return lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, inner(s[1])), (0, x))[
        1
    ]


def while_loop(inner):
    def fun(x):
        step = lambda s: (s[0] + 1, inner(s[1]))
        return fg.while_loop(lambda s: s[0] < 2, step, (jnp.int32(0), x), max_steps=2)[1]

    return fun


def fori_loop(inner):
    return lambda x: fg.fori_loop(0, 2, lambda i, x: inner(x), x)


def shard_map(inner):
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((SIZE,), ("d",), auto, devices=jax.devices()[:SIZE])
    spec = PartitionSpec("d")
    return jax.shard_map(inner, mesh=mesh, in_specs=spec, out_specs=spec)


def custom_jvp(inner):
    fun = jax.custom_jvp(inner)
    fun.defjvp(lambda primals, tangents: jax.jvp(inner, primals, tangents))
    return lambda x: fun(x)


def custom_vjp(inner):
    fun = jax.custom_vjp(inner)
    fun.defvjp(lambda x: jax.vjp(inner, x), lambda back, ct: back(ct))
    return lambda x: fun(x)


def hooks(inner):
    return fg.saved_tensors_hooks(inner, lambda a: a, lambda packed: packed)


CARRIERS = {
    "jit": Carrier("jit", jax.jit, once, box="jit"),
    "call": Carrier("call", called(primitives.call_p), once, box="call"),
    "closed_call": Carrier("call", called(primitives.closed_call_p), once, box="call"),
    "checkpoint": Carrier("checkpoint", jax.checkpoint, once, box="checkpoint"),
    "cond": Carrier("cond", cond, once, box="cond"),
    "switch": Carrier("cond", switch, once, box="cond"),
    "scan": Carrier("scan", scan, twice, 2, box="scan"),
    "map": Carrier("scan", lambda inner: lambda x: lax.map(inner, x), each, SIZE, box="scan"),
    "while": Carrier("while", jax_while, twice, 2, box="while"),
    "while_loop": Carrier("bounded_loop", while_loop, twice, 2, box="while_loop"),
    "fori_loop": Carrier("bounded_loop", fori_loop, twice, 2, box="while_loop"),
    "shard_map": Carrier("shard_map", shard_map, on_device, SIZE, box="shard_map"),
    "custom_jvp": Carrier("custom_jvp_call", custom_jvp, once, rule=True, box="custom_jvp"),
    "custom_vjp": Carrier("custom_vjp_call", custom_vjp, once, rule=True, box="custom_vjp"),
    "saved_tensors_hooks": Carrier("saved_tensors_hooks", hooks, once, box="saved_tensors_hooks"),
}

ANNOUNCED = ("jax_remat3", "jax_custom_jvp3", "jax_custom_vjp3")
"""What JAX 0.12 documents as on its way to becoming the default."""


@contextlib.contextmanager
def announced(on):
    """The primitives that JAX makes now, or those that it announces."""
    if not on:
        yield
        return
    if not all(hasattr(jax.config, name) for name in ANNOUNCED):
        pytest.skip("this JAX has no announced forms")
    before = {name: getattr(jax.config, name) for name in ANNOUNCED}
    jax.clear_caches()
    try:
        for name in ANNOUNCED:
            jax.config.update(name, True)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        jax.clear_caches()


def equation_of(kind, fun, *args):
    """The first equation of a kind in a program, however deep, and its operands there."""
    found = []

    def apply(equation, operands):
        if equation.kind == kind and not found:
            found.append((equation, operands))
        inner = equation.called
        if inner is not None and not found:
            _jax.interpret(inner.program, inner.take(operands), apply, np.asarray)
        return equation.evaluate(operands)

    _jax.interpret(jax.make_jaxpr(fun)(*args), list(args), apply, np.asarray)
    return found[0]
