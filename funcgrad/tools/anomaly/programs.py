"""A function as programs: each traced and compiled once, for the shapes that it is called with."""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from ... import _jax
from ..._calls import Call, Parts, Returned, every_argument, take_apart
from ..._leaves import is_traced
from ..._mistakes import explained
from ..._objects import pure
from . import flags

KEPT = 16
"""Of how many calls that differ in what is no array the program is kept, those made last."""

_INEXACT = (float, complex)


class _Traced(NamedTuple):
    """What is kept of a call.

    Fields:
        once: the function as one of arrays, to be traced.
        steps: loops and steps of loops, compiled, by their equation.
        compiled: its program as a function with a flag, compiled.
    """

    once: Any
    steps: dict[Any, Any]
    compiled: Callable[[_jax.Jaxpr], Callable[..., Any]]


class Programs:
    """The programs of a function, and what of them is compiled.

    Python's numbers mean what they mean in a plain call. A jitted function makes variables of them
    itself, so they are variables here. Otherwise Python computes with them while the function is
    traced; the numbers that are then in the program are its inputs when it is compiled, so that
    another float compiles nothing anew.
    """

    def __init__(
        self, fun: Callable[[], Any], jitted: bool, check_inf: bool, only_if_reaches_output: bool
    ):
        self._fun, self._jitted = fun, jitted
        self._options = check_inf, only_if_reaches_output
        self._looked_at: set[Any] = set()
        self._known: dict[Any, _Traced] = {}
        self._flagged_once = jax.jit(self._flagged, static_argnums=0)

    def traced(self, call: Call) -> tuple[_jax.Jaxpr, Parts]:
        """The function as a program of arrays, and how the result is put together from its own."""
        once = self._of(call.parts).once
        closed, result = jax.make_jaxpr(once, return_shape=True)(call.arrays)
        return closed, result.parts

    def inside(self, call: Call) -> tuple[_jax.Jaxpr, Parts]:
        """The same, but for the call of it that the program consists of."""
        traced = self._of(call.parts).once.trace(call.arrays)
        return traced.jaxpr, traced.out_info.parts

    def steps(self, call: Call) -> dict[Any, Any]:
        """Loops and steps of loops of a call, compiled, by their equation."""
        return self._of(call.parts).steps

    def flagged(self, call: Call) -> tuple[Call, Returned | None, Any]:
        """The call with numbers as it has them, its result, and whether it is worth a look.

        There is no result where the function writes to references: nothing has run then.
        """
        if not any(map(_is_number, call.parts.rest)):
            return call, *self._run(call)
        kinds = ((int, float, complex), _INEXACT) if self._jitted else ()
        for tried in (_as_arrays(call, k) for k in kinds):
            if tried.parts == call.parts or _key(tried.parts) in self._looked_at:
                continue
            try:
                return tried, *self._run(tried)
            except Exception:  # of any kind: what a function does with numbers, it does in Python
                self._looked_at.add(_key(tried.parts))
        return call, *self._run_alike(call)

    def numbers_as_arrays(self, call: Call) -> Call | None:
        """The call with arrays for the numbers that Python computes with; `None` without such."""
        tried = None if self._jitted else _as_arrays(call, _INEXACT)
        return tried and (None if tried.parts == call.parts else tried)

    def holds_nan(self, call: Call) -> bool:
        """Whether NaN is a number in the program of a call, which may be run once more."""
        closed, _ = self.inside(call)
        return not _writes(closed, call.arrays) and _holds_nan(closed)

    def _run(self, call: Call) -> tuple[Returned | None, Any]:
        """Runs a call that is compiled for what is no array in it."""
        try:
            hash(call.parts)
        except TypeError:
            return self._run_alike(call)
        return self._flagged_once(call.parts, call.arrays)

    def _run_alike(self, call: Call) -> tuple[Returned | None, Any]:
        """Runs a call that is compiled once for all that come to a program alike."""
        closed, parts = self.inside(call)
        if _writes(closed, call.arrays):
            return None, True
        run = self._of(call.parts).compiled(closed)
        results, up = run(*closed.consts, *call.arrays)
        return Returned(list(results), parts), up

    def _of(self, parts: Parts) -> _Traced:
        """What is kept of a call; nothing but for now where it cannot be a key."""
        alike = _jax.once(functools.partial(_alike, self._options))
        fresh = _Traced(jax.jit(functools.partial(self._returned, parts)), {}, alike)
        key = parts.tree, parts.chosen, *map(_exactly, parts.rest)
        try:
            self._known[key] = self._known.pop(key, fresh)
        except TypeError:
            return fresh
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        return self._known[key]

    def _returned(self, parts: Parts, arrays: list[Any]) -> Returned:
        alone = pure(self._fun(), "detect_anomaly", writes=True)
        call = every_argument(alone, *parts.join(arrays), function="detect_anomaly")
        try:
            with explained:
                return call.returned(call.arrays)
        except jax.errors.ConcretizationTypeError as error:
            error.add_note(
                "`detect_anomaly` traces the function, so Python's `if` and `while` cannot look at"
                " its values; use jax.lax.cond and funcgrad.while_loop"
            )
            raise

    def _flagged(self, parts: Parts, arrays: list[Any]) -> tuple[Returned | None, Any]:
        closed, result = jax.make_jaxpr(self._of(parts).once, return_shape=True)(arrays)
        if _writes(closed, arrays):
            return None, True
        results, up = _flagging(closed, arrays, self._options)
        return Returned(list(results), result.parts), up


def _as_arrays(call: Call, kinds: tuple[type, ...]) -> Call:
    """The call with numbers of these kinds as arrays."""
    arrays, parts = take_apart(call.whole, lambda x: is_traced(x) or type(x) in kinds)
    return call._replace(arrays=arrays, parts=parts)


@_jax.once
def _holds_nan(closed: _jax.Jaxpr) -> bool:
    read = [v for path in _jax.everywhere(closed) for v in path[-1].reads]
    numbers = [_jax.value_of(v) for v in [*read, *_jax.outputs(closed)] if _jax.is_literal(v)]
    return any(x != x for x in numbers)


def _writes(closed: _jax.Jaxpr, arrays: list[Any]) -> bool:
    """Whether a program may write to references: a look would write once more."""
    return any(map(_jax.is_reference, [*closed.consts, *arrays]))


def _flagging(
    closed: _jax.Jaxpr, arrays: Sequence[Any], options: tuple[bool, bool]
) -> tuple[Sequence[Any], Any]:
    """The results of a program, and whether it is worth a look."""
    check_inf, only_if_reaches_output = options
    if not only_if_reaches_output:
        return flags.run(closed, arrays, check_inf=check_inf)
    results = _jax.as_function(closed)(*arrays)
    return results, flags.outputs(results, check_inf=check_inf)


def _alike(options: tuple[bool, bool], closed: _jax.Jaxpr) -> Callable[..., Any]:
    """The same, compiled once for programs alike but for the numbers in them.

    Flags depend on whose line an equation is, so that such programs have the same lines too.
    """
    program, numbers = _jax.without_numbers(closed)
    count = len(closed.consts)
    params = {
        "program": _jax.without_consts(program),
        "count": count,
        "options": options,
        "lines": [_line(path) for path in _jax.everywhere(program)],
    }
    run = _jax.once_compiled("detect_anomaly", _of_operands, params)
    return lambda *arrays: run(*arrays[:count], *numbers, *arrays[count:])


def _of_operands(
    *operands: Any, program: _jax.Jaxpr, count: int, options: tuple[bool, bool], lines: Any
) -> tuple[Sequence[Any], Any]:
    del lines  # they tell apart what is compiled
    inside = jax.jit(_jax.as_function(_jax.with_consts(program, operands[:count])))
    return _flagging(jax.make_jaxpr(inside)(*operands[count:]), operands[count:], options)


def _line(path: tuple[_jax.Equation, ...]) -> Any:
    """The calls that say whether NaN that the last equation of a path makes is the user's."""
    place = _jax.place(path)
    return place and (place.own.key, place.through and place.through.key)


_SHARED: "weakref.WeakKeyDictionary[Any, dict[Any, Programs]]" = weakref.WeakKeyDictionary()


def programs(fun: Callable[..., Any], *options: bool) -> Programs:
    """The programs of a function with these options; those of a jitted one are shared.

    What a jitted function closes over is as it was when it was traced, so that whoever asks for
    them may have the same.
    """
    if not isinstance(fun, jax.stages.Wrapped):
        return Programs(lambda: fun, False, *options)
    known, weak = _SHARED.setdefault(fun, {}), weakref.ref(fun)
    if options not in known:
        known[options] = Programs(weak, True, *options)
    return known[options]


def _key(parts: Parts) -> Any:
    """What tells calls apart, but for the values of what is no variable."""
    return parts.tree, parts.chosen


def _exactly(leaf: Any) -> Any:
    """What a leaf is, equal for what Python computes the same with: 1, 1.0 and True are not."""
    return type(leaf), repr(leaf) if isinstance(leaf, int | float | complex) else leaf


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, int | float | complex) and not isinstance(leaf, bool)
