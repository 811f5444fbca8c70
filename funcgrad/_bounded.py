"""Adds one primitive: a loop whose trip count is known at run time only, in every mode of autodiff.

It runs its body while a condition holds and at most `limit` times, reads a row of `xs` and writes
a row of `ys` each time, and compiles to one `while`. Every transformation of it is made of itself:

- its tangent is one loop over primals and tangents together, whose memory is that of one step;
- where the tangents alone are unknown, as in reverse mode, that one splits into a loop that also
  writes down what the linearised body needs, and a loop linear in the tangents;
- the transpose of a linear loop is a loop backwards, over the same number of steps;
- its batch is a loop over batches, in which examples that are done keep their values.

So the trip count comes out of the loop that computes, and nothing is computed twice.

Sharp edge: rows of `ys` that no step wrote are unspecified; only loops over the same steps may read
them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from . import _compat as compat
from ._errors import GradientError

Step = Callable[[list[Any], list[Any], list[Any]], Any]


class Operands(NamedTuple):
    """The operands of a loop by their roles.

    Fields:
        limit: the most steps to take, an integer scalar that is not negative.
        conds: what the condition reads besides the carry.
        consts: what the body reads in every step.
        carry: what the body reads and replaces.
        xs: arrays of which each step reads a row.
    """

    limit: Any
    conds: list[Any]
    consts: list[Any]
    carry: list[Any]
    xs: list[Any]


class Loop(NamedTuple):
    """The static part of a loop. Its results are the steps taken, the final carry, and the ys.

    Fields:
        body: from constants, carry and a row of the xs to the next carry and a row of the ys.
        cond: from its operands and the carry to a bool; `None` goes on until `limit`.
        length: the number of rows of xs and ys, and the most steps there can be; `None` where no
            bound is known: then there are no xs and ys, and forward mode is all there is.
        conds, consts, carry: how many operands of each kind there are.
        reverse: whether step `i` of `n` uses row `n - 1 - i` instead of row `i`.
        linear: whether the carry is linear in what it, some constants and some xs started from.
    """

    body: compat.ClosedJaxpr
    cond: compat.ClosedJaxpr | None
    length: int | None
    conds: int
    consts: int
    carry: int
    reverse: bool = False
    linear: bool = False

    def operands(self, flat: Sequence[Any]) -> Operands:
        """Operands, or anything there is one of for each, by their roles."""
        limit, *rest = flat
        conds, consts, carry, xs = _cut(rest, self.conds, self.consts, self.carry)
        return Operands(limit, conds, consts, carry, xs)

    def types(self) -> tuple[list[Any], list[Any]]:
        """The types of the next carry and of a row of the ys."""
        avals = [v.aval for v in compat.open_up(self.body).outvars]
        return avals[: self.carry], avals[self.carry :]


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


# Making and running a loop.


def bounded_loop(
    limit: Any,
    step: Step,
    consts: Sequence[Any],
    carry: Sequence[Any],
    xs: Sequence[Any],
    cond: Callable[..., Any] | None = None,
    conds: Sequence[Any] = (),
    **static: Any,
) -> tuple[Any, list[Any], list[Any]]:
    """Runs a loop given by Python functions that close over no tracer.

    Args:
        limit: the most steps.
        step: `(consts, carry, row of xs) -> (next carry, row of ys)`.
        consts: what it reads in every step.
        carry: the first carry.
        xs: arrays with a row for each step.
        cond: `(conds, carry) -> bool`, or `None`.
        conds: its operands.
        static: the fields `length`, `reverse` and `linear` of `Loop`.

    Returns:
        The steps taken, the final carry and the ys.
    """
    made, extra = _make(step, consts, carry, xs, cond, conds, **static)
    steps, *out = loop_p.bind(limit, *conds, *extra, *consts, *carry, *xs, loop=made)
    return steps, out[: made.carry], out[made.carry :]


def _make(
    step: Step,
    consts: Sequence[Any],
    carry: Sequence[Any],
    xs: Sequence[Any],
    cond: Callable[..., Any] | None = None,
    conds: Sequence[Any] = (),
    **static: Any,
) -> tuple[Loop, list[Any]]:
    """A loop for operands like these, and constants it needs in front of the given ones."""

    def flat(*inputs: Any) -> list[Any]:
        given, state, row = _cut(inputs, len(consts), len(carry))
        new, ys = step(given, state, row)
        return [*map(_as_varying_as, new, state), *ys]

    types = [[_type(x) for x in part] for part in (consts, carry, conds, xs)]
    body = jax.make_jaxpr(flat)(*types[0], *types[1], *map(_row, types[3]))
    test = None
    if cond is not None:
        given = cond  # a name of its own: mypy forgets that it is not None in a lambda
        test = jax.make_jaxpr(lambda *xs: given(*_cut(xs, len(conds))))(*types[2], *types[1])
    count = len(body.consts) + len(consts)
    made = Loop(
        compat.without_consts(body),
        test,
        conds=len(conds),
        consts=count,
        carry=len(carry),
        **static,
    )
    return made, list(body.consts)


def _type(x: Any) -> Any:
    return x if isinstance(x, jax.core.ShapedArray) else jax.typeof(x)


def _row(aval: Any) -> Any:
    return aval.update(shape=aval.shape[1:])


def _as_varying_as(x: Any, like: Any) -> Any:
    return compat.varied(x, compat.varying(jax.typeof(like)))


def _zeros(aval: Any) -> Any:
    return compat.varied(lax.full(aval.shape, 0, aval.dtype), compat.varying(aval))


def _run(*flat: Any, loop: Loop) -> list[Any]:
    """The loop as a `lax.while_loop`: what the primitive does, and what it compiles to."""
    limit, conds, consts, init, xs = loop.operands(flat)
    body = compat.jaxpr_as_fun(loop.body)
    rows = loop.types()[1]
    buffers = [_zeros(row.update(shape=(loop.length, *row.shape))) for row in rows]

    def running(state: Any) -> Any:
        step, carry, _ = state
        if loop.cond is None:
            return step < limit
        (more,) = compat.jaxpr_as_fun(loop.cond)(*conds, *carry)
        return (step < limit) & more

    def advance(state: Any) -> Any:
        step, carry, ys = state
        at = limit - 1 - step if loop.reverse else step
        results = body(*consts, *carry, *(_read(x, at) for x in xs))
        new = [_write(y, row, at) for y, row in zip(ys, results[loop.carry :], strict=True)]
        return step + 1, results[: loop.carry], new

    start = (limit * 0, init, buffers)
    steps, carry, ys = lax.while_loop(running, advance, start)
    return [steps, *carry, *ys]


def _read(x: Any, at: Any) -> Any:
    return lax.dynamic_index_in_dim(x, at, keepdims=False, allow_negative_indices=False)


def _write(y: Any, row: Any, at: Any) -> Any:
    return lax.dynamic_update_index_in_dim(y, row, at, 0, allow_negative_indices=False)


def _types(limit: Any, *_: Any, loop: Loop) -> list[Any]:
    carry, rows = loop.types()
    return [limit, *carry, *(row.update(shape=(loop.length, *row.shape)) for row in rows)]


# Forward mode: one loop over primals and tangents.


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, loop: Loop) -> Any:
    nonzero = _nonzero(loop, tangents)
    dots = loop.operands(tangents)
    given = _take([*dots.consts, *dots.carry, *dots.xs], nonzero.inputs)
    if not given:
        out = loop_p.bind(*primals, loop=loop)
        return out, [_no_tangent(x) for x in out]
    given = [compat.instantiate_zeros(dot) for dot in given]
    both = jvp_p.bind(*primals, *given, loop=loop, nonzero=nonzero)
    out, dots_out = _cut(both, 1 + len(nonzero.outputs))
    flags = (False, *nonzero.outputs)
    zeros = [_no_tangent(x) for x, c in zip(out, flags, strict=True) if not c]
    return out, _merge(flags, dots_out, zeros)


def _nonzero(loop: Loop, tangents: Sequence[Any]) -> Nonzero:
    """What has a tangent, over all steps: a carry that depends on anything that has one."""
    dots = loop.operands(tangents)
    consts, carry, xs = (
        [type(dot) is not compat.Zero for dot in part]
        for part in (dots.consts, dots.carry, dots.xs)
    )
    floats = [jnp.issubdtype(aval.dtype, jnp.inexact) for part in loop.types() for aval in part]
    carry, ys = _reached(loop, consts, carry, xs, floats)
    return Nonzero(tuple(consts), tuple(carry), tuple(xs), tuple(ys))


def _reached(
    loop: Loop, consts: list[bool], carry: list[bool], xs: list[bool], able: list[bool]
) -> tuple[list[bool], list[bool]]:
    """Which carries and ys a property of inputs reaches, of those able to have it.

    A fixed point over the steps: a carry that is reached in one step is given in the next.
    """
    depends = compat.dependencies(loop.body)
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


def _no_tangent(x: Any) -> Any:
    return compat.Zero(jax.typeof(x).to_tangent_aval())


class Joined(NamedTuple):
    """A loop over primals and tangents together.

    Fields:
        loop: it; each kind of operand and result is followed by the tangents of that kind.
        extra: constants that it needs in front of the others.
        base, nonzero: the loop that it is the tangent of, and what has tangents.
    """

    loop: Loop
    extra: list[Any]
    base: Loop
    nonzero: Nonzero

    def operands(self, flat: Sequence[Any], extra: Sequence[Any]) -> list[Any]:
        """The operands of `jvp_p` in the order of the joined loop, or anything one of each."""
        ops, dots = _parts(flat, self.base, self.nonzero)
        return [
            *(ops.limit, *ops.conds, *extra, *ops.consts, *dots[0]),
            *(*ops.carry, *dots[1], *ops.xs, *dots[2]),
        ]

    def results(self, out: Sequence[Any]) -> list[Any]:
        """The results of the joined loop in the order of `jvp_p`."""
        count, rows = self.base.carry, len(self.nonzero.ys)
        steps, carry, ys = out[0], out[1 : 1 + self.loop.carry], out[1 + self.loop.carry :]
        return [steps, *carry[:count], *ys[:rows], *carry[count:], *ys[rows:]]


def _parts(flat: Sequence[Any], loop: Loop, nonzero: Nonzero) -> tuple[Operands, list[list[Any]]]:
    """The operands of `jvp_p`: those of the loop, and the tangents of constants, carry and xs."""
    count = len(flat) - sum(nonzero.inputs)
    dots = _cut(flat[count:], sum(nonzero.consts), sum(nonzero.carry))
    return loop.operands(flat[:count]), dots


def _joined(types: Sequence[Any], loop: Loop, nonzero: Nonzero) -> Joined:
    """The joined loop, for operands of these types."""
    ops, dots = _parts(types, loop, nonzero)
    body, test, carried = compat.jaxpr_as_fun(loop.body), loop.cond, loop.carry

    def step(consts: list[Any], carry: list[Any], row: list[Any]) -> Any:
        a, b, c = _cut(consts, loop.consts), _cut(carry, carried), _cut(row, len(ops.xs))
        primals, tangents = ([*x, *y, *z] for x, y, z in zip(a, b, c, strict=True))
        run, given = _partly(body, primals, nonzero)
        new, new_dots, rest = jax.jvp(run, given, tangents, has_aux=True)
        out, moved = _merge(nonzero.outputs, new, rest), sum(nonzero.carry)
        return out[:carried] + new_dots[:moved], out[carried:] + new_dots[moved:]

    def cond(conds: list[Any], carry: list[Any]) -> Any:
        return compat.jaxpr_as_fun(test)(*conds, *carry[:carried])[0]

    made, extra = _make(
        step,
        [*ops.consts, *dots[0]],
        [*ops.carry, *dots[1]],
        [*ops.xs, *dots[2]],
        None if test is None else cond,
        ops.conds,
        length=loop.length,
        reverse=loop.reverse,
    )
    return Joined(made, extra, loop, nonzero)


def _partly(body: Any, inputs: list[Any], nonzero: Nonzero) -> tuple[Any, list[Any]]:
    """The body as a function of the inputs with tangents, and those inputs.

    It returns the outputs with tangents and, as auxiliary ones, the others.
    """
    fixed = _take(inputs, _but(nonzero.inputs))

    def run(*moving: Any) -> Any:
        out = body(*_merge(nonzero.inputs, moving, fixed))
        return _take(out, nonzero.outputs), _take(out, _but(nonzero.outputs))

    return run, _take(inputs, nonzero.inputs)


def _run_with_tangents(*flat: Any, loop: Loop, nonzero: Nonzero) -> list[Any]:
    joined = _joined([*map(jax.typeof, flat)], loop, nonzero)
    return joined.results(loop_p.bind(*joined.operands(flat, joined.extra), loop=joined.loop))


def _types_with_tangents(*flat: Any, loop: Loop, nonzero: Nonzero) -> list[Any]:
    out = _types(*flat, loop=loop)
    return [*out, *(aval.to_tangent_aval() for aval in _take(out[1:], nonzero.outputs))]


def _jvp_with_tangents(primals: Any, tangents: Any, *, loop: Loop, nonzero: Nonzero) -> Any:
    joined = _joined([*map(jax.typeof, primals)], loop, nonzero)
    still = [_no_tangent(x) for x in joined.extra]
    out, dots = _jvp(
        joined.operands(primals, joined.extra), joined.operands(tangents, still), loop=joined.loop
    )
    return joined.results(out), joined.results(dots)


# Reverse mode: a loop that keeps residuals, and one linear in the tangents.


def _split(trace: Any, *tracers: Any, loop: Loop, nonzero: Nonzero) -> list[Any]:
    """Partial evaluation: what the primals give is computed now, what tangents give later."""
    count = len(tracers) - sum(nonzero.inputs)
    known = [t.pval.get_known() for t in tracers[:count] if t.is_known()]
    if len(known) < count or all(t.is_known() for t in tracers):
        return trace.default_process_primitive(jvp_p, tracers, {"loop": loop, "nonzero": nonzero})
    if loop.length is None:
        raise GradientError(
            "`fori_loop` got bounds that are known at run time only and no `max_steps`, and reverse"
            " mode must know how many steps to make room for; pass max_steps=, the most steps there"
            " can be, or use forward mode (jax.jvp, jax.jacfwd)"
        )
    ops = loop.operands(known)
    (steps, *out), residuals = _keeping_residuals(ops, loop, nonzero)
    dots = _cut(tracers[count:], sum(nonzero.consts), sum(nonzero.carry))
    linear, operands = _linear_loop(steps, residuals, dots, loop, nonzero)
    _, *dots_out = trace.default_process_primitive(loop_p, operands, {"loop": linear})
    return [steps, *out, *dots_out]


class Residuals(NamedTuple):
    """What the linearised body needs in each step.

    Fields:
        places: for each of its leaves, `(False, index among consts)` or `(True, index among xs)`.
        tree: what they are the leaves of: the linear function that `jax.linearize` returns.
        consts: leaves that are the same in every step, computed once.
        xs: leaves with a row for each step.
    """

    places: list[tuple[bool, int]]
    tree: Any
    consts: list[Any]
    xs: list[Any]


def _keeping_residuals(ops: Operands, loop: Loop, nonzero: Nonzero) -> tuple[list[Any], Residuals]:
    """Runs the loop, and has it write down the residuals that change from step to step."""
    body, trees = compat.jaxpr_as_fun(loop.body), []

    def step(consts: list[Any], carry: list[Any], row: list[Any]) -> Any:
        run, given = _partly(body, [*consts, *carry, *row], nonzero)
        new, linear, rest = jax.linearize(run, *given, has_aux=True)
        leaves, tree = jax.tree.flatten(linear)
        trees.append(tree)
        out = _merge(nonzero.outputs, new, rest)
        return out[: loop.carry], [*out[loop.carry :], *leaves]

    made, extra = _make(
        step, ops.consts, ops.carry, ops.xs, length=loop.length, reverse=loop.reverse
    )
    consts, count = [*extra, *ops.consts], len(nonzero.outputs)
    how = compat.outputs(made.body, len(consts), count)
    fixed = compat.jaxpr_as_fun(how.program)(*consts) if how.program else []
    source = [i - made.consts - made.carry if i is not None else -1 for i in how.inputs]
    stacked = [
        not invariant and row < 0 and how.firsts[index] == index
        for index, (invariant, row) in enumerate(zip(how.invariant, source, strict=True))
    ]
    keep = compat.prune(made.body, [True] * count + stacked)
    made = made._replace(body=keep, cond=loop.cond, conds=loop.conds)
    out = loop_p.bind(ops.limit, *ops.conds, *consts, *ops.carry, *ops.xs, loop=made)
    main, kept = out[: 1 + count], out[1 + count :]
    places: list[tuple[bool, int]] = []
    for index, (invariant, row) in enumerate(zip(how.invariant, source, strict=True)):
        if invariant:
            places.append((False, sum(how.invariant[:index])))
        elif row >= 0:
            places.append((True, len(kept) + row))
        else:
            places.append((True, sum(stacked[: how.firsts[index]])))
    return main, Residuals(places, trees[-1], fixed, [*kept, *ops.xs])


def _linear_loop(
    steps: Any, residuals: Residuals, dots: list[list[Any]], loop: Loop, nonzero: Nonzero
) -> tuple[Loop, list[Any]]:
    """The loop over tangents alone, and its operands."""
    fixed, rows, moved = len(residuals.consts), len(residuals.xs), sum(nonzero.carry)

    def step(consts: list[Any], carry: list[Any], row: list[Any]) -> Any:
        leaves = [(row if changing else consts)[i] for changing, i in residuals.places]
        linear = residuals.tree.unflatten(leaves)
        out = linear(*consts[fixed:], *carry, *row[rows:])
        return out[:moved], out[moved:]

    consts, xs = [*residuals.consts, *dots[0]], [*residuals.xs, *dots[2]]
    static: dict[str, Any] = {
        "length": loop.length,
        "reverse": loop.reverse,
        "linear": True,
    }
    made, extra = _make(step, consts, dots[1], xs, **static)
    return made, [steps, *extra, *consts, *dots[1], *xs]


def _known_part(unknown: Sequence[bool], *, loop: Loop, nonzero: Nonzero) -> Any:
    count = len(unknown) - sum(nonzero.inputs)
    if any(unknown[:count]):
        return None
    return loop_p, {"loop": loop}, count, 1 + len(nonzero.outputs)


def _transpose(cotangents: Sequence[Any], *flat: Any, loop: Loop) -> list[Any]:
    """One loop backwards: the carry is the cotangents of the carry and of the linear constants."""
    if not loop.linear:
        raise GradientError(
            "`jax.linear_transpose` got a function with a `while_loop` or `fori_loop` of funcgrad,"
            " which is transposed only after it is linearised; use jax.vjp or jax.linearize"
        )
    ops, body = loop.operands(flat), compat.jaxpr_as_fun(loop.body)
    types = _cut([v.aval for v in compat.open_up(loop.body).invars], loop.consts, loop.carry)
    consts, xs = ([compat.is_linear(x) for x in part] for part in (ops.consts, ops.xs))
    _, carry_cts, ys_cts = _cut(cotangents, 1, loop.carry)
    ys = [type(ct) is not compat.Zero for ct in ys_cts]
    fixed = _take(ops.xs, _but(xs))
    linear = _take(types[0], consts), types[1], _take(types[2], xs)

    def step(given: list[Any], state: list[Any], row: list[Any]) -> Any:
        def forward(a: list[Any], b: list[Any], c: list[Any]) -> Any:
            row_in = _merge(xs, c, row[: len(fixed)])
            out = body(*_merge(consts, a, given), *b, *row_in)
            return out[: loop.carry], _take(out[loop.carry :], ys)

        cts, sums = state[: loop.carry], state[loop.carry :]
        new = jax.linear_transpose(forward, *linear)((cts, row[len(fixed) :]))
        return [*new[1], *map(lax.add, sums, new[0])], new[2]

    given = _take(ops.consts, _but(consts))
    start = [*map(compat.instantiate_zeros, carry_cts), *map(_zeros, linear[0])]
    rows = [*fixed, *_take(ys_cts, ys)]
    static: dict[str, Any] = {
        "length": loop.length,
        "reverse": not loop.reverse,
        "linear": True,
    }
    made, extra = _make(step, given, start, rows, **static)
    out = loop_p.bind(ops.limit, *extra, *given, *start, *rows, loop=made)
    _, carry, sums, back = _cut(out, 1, loop.carry, sum(consts))
    return [
        *[None] * (1 + loop.conds),
        *_merge(consts, sums, [None] * len(given)),
        *(ct if compat.is_linear(x) else None for ct, x in zip(carry, ops.carry, strict=True)),
        *_merge(xs, back, [None] * len(fixed)),
    ]


# Batches.


def _batch(axis: Any, flat: Sequence[Any], dims: Sequence[Any], *, loop: Loop) -> Any:
    """A loop over batches: with a trip count for each example only where it differs."""
    where = loop.operands(dims)
    on = [[d is not None for d in part] for part in where[1:]]
    named = compat.axis_name(axis) is not None  # the body may ask which example it is
    if not named and where.limit is None and not any(map(any, on)):
        out = loop_p.bind(*flat, loop=loop)
        return out, [None] * len(out)
    moved = loop.operands(
        [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(flat, dims, strict=True)]
    )
    ops = moved._replace(
        xs=[x if d is None else jnp.moveaxis(x, d, 1) for x, d in zip(
            loop.operands(flat).xs, where.xs, strict=True)]
    )  # fmt: skip
    able = [True] * len(compat.open_up(loop.body).outvars)
    carry, ys = (able[: loop.carry], able[loop.carry :]) if named else _reached(
        loop, on[1], on[2], on[3], able)  # fmt: skip
    tested = loop.cond is not None and (named or any(
        d and g for d, g in zip(compat.used_inputs(loop.cond), [*on[0], *carry], strict=True)
    ))  # fmt: skip
    if where.limit is None and not tested:
        return _batch_in_step(axis, ops, on, carry, ys, loop)
    return _batch_apart(axis, ops, on, where.limit is not None, loop)


def _batch_in_step(
    axis: Any, ops: Operands, on: list[list[bool]], carry: list[bool], ys: list[bool], loop: Loop
) -> Any:
    """All examples take the same steps."""
    body = compat.jaxpr_as_fun(loop.body)
    each = compat.vmap_like(
        axis, body, _axes(on[1], carry, on[3]), _axes(carry, ys)
    )  # fmt: skip

    def step(consts: list[Any], state: list[Any], row: list[Any]) -> Any:
        out = each(*consts, *state, *row)
        return out[: loop.carry], out[loop.carry :]

    def cond(conds: list[Any], state: list[Any]) -> Any:
        test = compat.vmap_like(axis, compat.jaxpr_as_fun(loop.cond), _axes(on[0], carry), None)
        return test(*conds, *state)[0]

    start = _spread(axis, ops.carry, on[2], carry)
    static: dict[str, Any] = {
        "length": loop.length,
        "reverse": loop.reverse,
        "linear": loop.linear,
    }
    test = None if loop.cond is None else cond
    made, extra = _make(step, ops.consts, start, ops.xs, test, ops.conds, **static)
    out = loop_p.bind(ops.limit, *ops.conds, *extra, *ops.consts, *start, *ops.xs, loop=made)
    return out, [None, *(0 if c else None for c in carry), *(1 if y else None for y in ys)]


def _axes(*flags: Sequence[bool]) -> Any:
    return [0 if c else None for part in flags for c in part]


def _spread(axis: Any, xs: Sequence[Any], on: Sequence[bool], wanted: Sequence[bool]) -> list[Any]:
    """Values with a batch axis where it is wanted and not there yet."""
    return [
        jnp.broadcast_to(x, (axis.size, *jnp.shape(x))) if w and not o else x
        for x, o, w in zip(xs, on, wanted, strict=True)
    ]


def _batch_apart(
    axis: Any, ops: Operands, on: list[list[bool]], limits_differ: bool, loop: Loop
) -> Any:
    """Each example takes its own steps; the loop goes on while any of them does.

    An example that is done keeps its values. Its body still runs, on the values it started from and
    not on its last ones, where it may have an infinite derivative (`lax.cond` under `vmap` has the
    same trouble); what comes of it is dropped, in the tangents and cotangents too.
    """
    limits = _spread(axis, [ops.limit], [limits_differ], [True])[0]
    init = _spread(axis, ops.carry, on[2], [True] * loop.carry)
    safe = [] if loop.linear else [lax.stop_gradient(x) for x in init]
    # Steps are counted per example, but for loops over rows alone: there the row tells the step.
    counted = loop.cond is not None or loop.length is None
    body, tests = compat.jaxpr_as_fun(loop.body), loop.conds

    def active(limit: Any, count: Any, conds: list[Any], carry: list[Any]) -> Any:
        if loop.cond is None:
            return count < limit
        return (count < limit) & compat.jaxpr_as_fun(loop.cond)(*conds, *carry)[0]

    def example(fixed: list[Any], consts: list[Any], safe: list[Any], state: Any, row: Any) -> Any:
        (count,), carry = _cut(state, 1) if counted else (row[:1], state)
        going = active(fixed[0], count, fixed[1:], carry)
        start = (
            [jnp.where(going, x, s) for x, s in zip(carry, safe, strict=True)] if safe else carry
        )
        out = body(*consts, *start, *(row if counted else row[1:]))
        new = [jnp.where(going, x, old) for x, old in zip(out, carry, strict=False)]
        ys = [jnp.where(going, y, _zeros(jax.typeof(y))) for y in out[loop.carry :]]
        return [count + going.astype(count.dtype), *new] if counted else new, ys

    fixed_axes = [0, *_axes(on[0])]
    row_axes = _axes(on[3]) if counted else [None, *_axes(on[3])]
    each = compat.vmap_like(axis, example, (fixed_axes, _axes(on[1]), 0, 0, row_axes))

    def step(consts: list[Any], state: list[Any], row: list[Any]) -> Any:
        return each(*_cut(consts, 1 + tests, loop.consts), state, row)

    def cond(conds: list[Any], state: list[Any]) -> Any:
        going = compat.vmap_like(axis, active, (0, 0, _axes(on[0]), 0))
        return jnp.any(going(conds[0], state[0], conds[1:], state[1:]))

    conds = [limits, *ops.conds]
    consts = [*conds, *ops.consts, *safe]
    start = [jnp.zeros_like(limits), *init] if counted else init
    xs = ops.xs if counted else [jnp.arange(loop.length, dtype=limits.dtype), *ops.xs]
    test, conds = (None, []) if loop.cond is None else (cond, conds)
    static: dict[str, Any] = {
        "length": loop.length,
        "reverse": loop.reverse,
        "linear": loop.linear,
    }
    made, extra = _make(step, consts, start, xs, test, conds, **static)
    out = loop_p.bind(jnp.max(limits), *conds, *extra, *consts, *start, *xs, loop=made)
    out = out[1:] if counted else [limits, *out[1:]]
    return out, [*[0] * (1 + loop.carry), *[1] * (len(out) - 1 - loop.carry)]


def _batch_with_tangents(
    axis: Any, flat: Sequence[Any], dims: Sequence[Any], *, loop: Loop, nonzero: Nonzero
) -> Any:
    types = [
        aval if d is None else aval.update(shape=aval.shape[:d] + aval.shape[d + 1 :])
        for aval, d in zip(map(jax.typeof, flat), dims, strict=True)
    ]
    joined = _joined(types, loop, nonzero)
    shared = [None] * len(joined.extra)
    out, out_dims = _batch(
        axis, joined.operands(flat, joined.extra), joined.operands(dims, shared), loop=joined.loop
    )
    return joined.results(out), joined.results(out_dims)


def _cut(values: Sequence[Any], *counts: int) -> list[list[Any]]:
    """Consecutive parts with so many values each, and one with the rest."""
    parts, start = [], 0
    for count in counts:
        parts.append(list(values[start : start + count]))
        start += count
    return [*parts, list(values[start:])]


def _take(values: Sequence[Any], chosen: Sequence[bool]) -> list[Any]:
    return [value for value, c in zip(values, chosen, strict=True) if c]


def _but(chosen: Sequence[bool]) -> list[bool]:
    return [not c for c in chosen]


def _merge(chosen: Sequence[bool], values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """`values` in the chosen places and `others` in the rest."""
    taken, rest = iter(values), iter(others)
    return [next(taken if c else rest) for c in chosen]


loop_p = compat.computing_primitive("bounded_loop", _run, types=_types, jvp=_jvp, batch=_batch)
compat.def_transpose(loop_p, _transpose)

jvp_p = compat.computing_primitive(
    "bounded_loop_jvp",
    _run_with_tangents,
    types=_types_with_tangents,
    jvp=_jvp_with_tangents,
    batch=_batch_with_tangents,
)
compat.def_partial_eval(jvp_p, _split, _known_part)
