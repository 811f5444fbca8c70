"""The loop primitive: its static part, its operands, what it does, and how one is made."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from .. import _jax
from .._lists import split_at

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
        checkpoints: of how many steps reverse mode may keep residuals at a time, and the most
            carries it may keep to recompute other steps from; `None` keeps those of all steps.
        residuals: how many of the ys, the last ones, are for loops over the same steps alone, which
            differentiate what they read. Of a batch, an example that is done has values of a first
            step there, at which there is a derivative, and zeros in other ys: of its own, or, if it
            takes no step, of that of another example.
    """

    body: _jax.Jaxpr
    cond: _jax.Jaxpr | None
    length: int | None
    conds: int
    consts: int
    carry: int
    reverse: bool = False
    linear: bool = False
    checkpoints: int | None = None
    residuals: int = 0

    @property
    def static(self) -> dict[str, Any]:
        """What a loop made from this one keeps of it, by the keywords of `bounded_loop`."""
        names = ("length", "reverse", "linear", "checkpoints", "residuals")
        return {name: getattr(self, name) for name in names}

    def operands(self, flat: Sequence[Any]) -> Operands:
        """Operands, or anything there is one of for each, by their roles."""
        limit, *rest = flat
        conds, consts, carry, xs = split_at(rest, self.conds, self.consts, self.carry)
        return Operands(limit, conds, consts, carry, xs)

    def types(self) -> tuple[list[Any], list[Any]]:
        """The types of the next carry and of a row of the ys."""
        avals = _jax.output_types(self.body)
        return avals[: self.carry], avals[self.carry :]

    def run(
        self,
        limit: Any,
        conds: Sequence[Any],
        consts: Sequence[Any],
        carry: Sequence[Any],
        xs: Sequence[Any] = (),
    ) -> tuple[Any, list[Any], list[Any]]:
        """The steps taken, the final carry and the ys."""
        steps, *out = loop_p.bind(limit, *conds, *consts, *carry, *xs, loop=self)
        return steps, out[: self.carry], out[self.carry :]


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
        static: the fields `length`, `reverse`, `linear`, `checkpoints` and `residuals` of `Loop`.

    Returns:
        The steps taken, the final carry and the ys.
    """
    made, extra = make(step, consts, carry, xs, cond, conds, **static)
    return made.run(limit, conds, [*extra, *consts], carry, xs)


def make(
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
        given, state, row = split_at(inputs, len(consts), len(carry))
        new, ys = step(given, state, row)
        return [*map(_as_varying_as, new, state), *ys]

    body = _jax.trace(flat, [*consts, *carry, *map(_row, xs)])
    test = None
    if cond is not None:
        given = cond  # a name of its own: mypy forgets that it is not None in a lambda
        test = _jax.trace(lambda *xs: [given(*split_at(xs, len(conds)))], [*conds, *carry])
    count = len(body.consts) + len(consts)
    made = Loop(
        _jax.without_consts(body),
        test,
        conds=len(conds),
        consts=count,
        carry=len(carry),
        **static,
    )
    return made, list(body.consts)


def _row(xs: Any) -> Any:
    """The type of a row of an array or of one of that type."""
    return _jax.without_axis(_jax.typed(xs), 0)


def _as_varying_as(x: Any, like: Any) -> Any:
    return _jax.varied(x, _jax.varying(jax.typeof(like)))


def zeros(aval: Any) -> Any:
    made = _jax.varied(lax.full(aval.shape, 0, aval.dtype), _jax.varying(aval))
    return _jax.placed_like(made, aval)


def _run(*flat: Any, loop: Loop) -> list[Any]:
    """The loop as a `lax.while_loop`: what the primitive does, and what it compiles to."""
    limit, conds, consts, init, xs = loop.operands(flat)
    body = _jax.as_function(loop.body)
    rows = loop.types()[1]
    buffers = [_buffer(_jax.with_axis(row, loop.length)) for row in rows]

    def running(state: Any) -> Any:
        step, carry, _ = state
        if loop.cond is None:
            return step < limit
        (more,) = _jax.as_function(loop.cond)(*conds, *carry)
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


def _buffer(aval: Any) -> Any:
    """Zeros to write rows into; in the memory that the rows are in, where that is the host's."""
    space = aval.memory_space
    made = zeros(aval)
    return jax.device_put(made, space) if space == jax.memory.Space.Host else made


def _read(x: Any, at: Any) -> Any:
    return lax.dynamic_index_in_dim(x, at, keepdims=False, allow_negative_indices=False)


def _write(y: Any, row: Any, at: Any) -> Any:
    return lax.dynamic_update_index_in_dim(y, row, at, 0, allow_negative_indices=False)


def result_types(limit: Any, *_: Any, loop: Loop) -> list[Any]:
    carry, rows = loop.types()
    return [limit, *carry, *(_jax.with_axis(row, loop.length) for row in rows)]


loop_p = _jax.computing_primitive("bounded_loop", _run, result_types)
