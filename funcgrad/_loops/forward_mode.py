"""Forward mode: one loop over primals and tangents, whose memory is that of one step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _jax
from .._lists import merge, partly, select, split_at
from .primitive import Loop, Operands, loop_p, make, result_types


class Nonzero(NamedTuple):
    """Which constants, carries, xs and ys have tangents."""

    consts: tuple[bool, ...]
    carry: tuple[bool, ...]
    xs: tuple[bool, ...]
    ys: tuple[bool, ...]

    @property
    def inputs(self) -> tuple[bool, ...]:
        """For each input of the body."""
        return self.consts + self.carry + self.xs

    @property
    def outputs(self) -> tuple[bool, ...]:
        """For each output of the body."""
        return self.carry + self.ys


def jvp(primals: Sequence[Any], tangents: Sequence[Any], *, loop: Loop) -> Any:
    nonzero = _nonzero(loop, tangents)
    dots = loop.operands(tangents)
    ops = loop.operands(primals)
    given = [
        _jax.tangent_of(x, dot)
        for x, dot, chosen in zip(
            [*ops.consts, *ops.carry, *ops.xs],
            [*dots.consts, *dots.carry, *dots.xs],
            nonzero.inputs,
            strict=True,
        )
        if chosen
    ]
    if not given:
        out = loop_p.bind(*primals, loop=loop)
        return out, [_jax.no_tangent(x) for x in out]
    both = jvp_p.bind(*primals, *given, loop=loop, nonzero=nonzero)
    out, dots_out = split_at(both, 1 + len(nonzero.outputs))
    flags = (False, *nonzero.outputs)
    zeros = [_jax.no_tangent(x) for x, c in zip(out, flags, strict=True) if not c]
    return out, merge(flags, dots_out, zeros)


def _nonzero(loop: Loop, tangents: Sequence[Any]) -> Nonzero:
    """What has a tangent, over all steps: a carry that depends on anything that has one."""
    dots = loop.operands(tangents)
    consts, carry, xs = (
        [type(dot) is not _jax.Zero for dot in part] for part in (dots.consts, dots.carry, dots.xs)
    )
    floats = [jnp.issubdtype(aval.dtype, jnp.inexact) for part in loop.types() for aval in part]
    carry, ys = reached(loop, consts, carry, xs, floats)
    return Nonzero(tuple(consts), tuple(carry), tuple(xs), tuple(ys))


def reached(
    loop: Loop, consts: list[bool], carry: list[bool], xs: list[bool], able: list[bool]
) -> tuple[list[bool], list[bool]]:
    """Which carries and ys a property of inputs reaches, of those able to have it.

    A fixed point over the steps: a carry that is reached in one step is given in the next.
    """
    depends = _jax.dependencies(loop.body)
    while True:
        given = [*consts, *carry, *xs]
        reached = [
            can and any(d and g for d, g in zip(row, given, strict=True))
            for can, row in zip(able, depends, strict=True)
        ]
        now = [a or b for a, b in zip(carry, reached, strict=False)]
        if now == carry:
            return carry, reached[loop.carry :]
        carry = now


class Joined(NamedTuple):
    """A loop over primals and tangents together.

    Fields:
        loop: it; each kind of operand is followed by the tangents of that kind, and so is the
            carry of its results; their ys come after their tangents, residuals last.
        extra: constants that it needs in front of the others.
        base, nonzero: the loop that it is the tangent of, and what has tangents.
    """

    loop: Loop
    extra: list[Any]
    base: Loop
    nonzero: Nonzero

    def operands(self, flat: Sequence[Any], extra: Sequence[Any]) -> list[Any]:
        """The operands of `jvp_p` in the order of the joined loop, or anything one of each."""
        ops, dots = parts(flat, self.base, self.nonzero)
        return [
            *(ops.limit, *ops.conds, *extra, *ops.consts, *dots[0]),
            *(*ops.carry, *dots[1], *ops.xs, *dots[2]),
        ]

    def results(self, out: Sequence[Any]) -> list[Any]:
        """The results of the joined loop in the order of `jvp_p`."""
        (steps,), carry, dots, ys_dots, ys = split_at(
            out, 1, self.base.carry, sum(self.nonzero.carry), sum(self.nonzero.ys)
        )
        return [steps, *carry, *ys, *dots, *ys_dots]


def parts(flat: Sequence[Any], loop: Loop, nonzero: Nonzero) -> tuple[Operands, list[list[Any]]]:
    """The operands of `jvp_p`: those of the loop, and the tangents of constants, carry and xs."""
    count = len(flat) - sum(nonzero.inputs)
    dots = split_at(flat[count:], sum(nonzero.consts), sum(nonzero.carry))
    return loop.operands(flat[:count]), dots


def joined(types: Sequence[Any], loop: Loop, nonzero: Nonzero) -> Joined:
    """The joined loop, for operands of these types."""
    ops, dots = parts(types, loop, nonzero)
    body, test, carried = _jax.as_function(loop.body), loop.cond, loop.carry

    def step(consts: list[Any], carry: list[Any], row: list[Any]) -> Any:
        a, b, c = (
            split_at(consts, loop.consts),
            split_at(carry, carried),
            split_at(row, len(ops.xs)),
        )
        primals, tangents = ([*x, *y, *z] for x, y, z in zip(a, b, c, strict=True))
        run, given = partly(body, primals, nonzero.inputs, nonzero.outputs)
        new, new_dots, rest = jax.jvp(run, given, tangents, has_aux=True)
        out, moved = merge(nonzero.outputs, new, rest), sum(nonzero.carry)
        return out[:carried] + new_dots[:moved], new_dots[moved:] + out[carried:]

    def cond(conds: list[Any], carry: list[Any]) -> Any:
        return _jax.as_function(test)(*conds, *carry[:carried])[0]

    made, extra = make(
        step,
        [*ops.consts, *dots[0]],
        [*ops.carry, *dots[1]],
        [*ops.xs, *dots[2]],
        None if test is None else cond,
        ops.conds,
        **{**loop.static, "linear": False},
    )
    return Joined(made, extra, loop, nonzero)


def run_with_tangents(*flat: Any, loop: Loop, nonzero: Nonzero) -> list[Any]:
    """The loop over primals and tangents, as JAX functions."""
    both = joined([*map(jax.typeof, flat)], loop, nonzero)
    return both.results(loop_p.bind(*both.operands(flat, both.extra), loop=both.loop))


def _types_with_tangents(*flat: Any, loop: Loop, nonzero: Nonzero) -> list[Any]:
    out = result_types(*flat, loop=loop)
    return [*out, *(aval.to_tangent_aval() for aval in select(out[1:], nonzero.outputs))]


def _jvp_with_tangents(primals: Any, tangents: Any, *, loop: Loop, nonzero: Nonzero) -> Any:
    both = joined([*map(jax.typeof, primals)], loop, nonzero)
    still = [_jax.no_tangent(x) for x in both.extra]
    out, dots = jvp(
        both.operands(primals, both.extra), both.operands(tangents, still), loop=both.loop
    )
    return both.results(out), both.results(dots)


jvp_p = _jax.computing_primitive("bounded_loop_jvp", run_with_tangents, _types_with_tangents)
_jax.def_jvp(loop_p, jvp)
_jax.def_jvp(jvp_p, _jvp_with_tangents)
