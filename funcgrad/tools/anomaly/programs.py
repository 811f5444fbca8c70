"""A function as programs: each traced and compiled once, for the shapes that it is called with."""

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ... import _jax
from ..._calls import Call, Parts, Returned, every_argument, take_apart
from ..._leaves import is_traced
from ..._mistakes import explained
from ..._objects import pure
from . import flags
from .values import states

_NUMBERS = (int, float, complex)


class Programs:
    """The programs of a function, and what of them is compiled.

    Python's numbers are variables of them: all of them where the function is jitted and would make
    variables of them itself; otherwise floats, as long as the function does not look at them with
    Python, and integers are constants, as they mostly are sizes and exponents.

    Attributes:
        jitted: whether the function is jitted.
        steps: loops and steps of loops, compiled, by their equation.
    """

    def __init__(
        self, fun: Callable[[], Any], jitted: bool, check_inf: bool, only_if_reaches_output: bool
    ):
        self.jitted, self.steps = jitted, dict[Any, Any]()
        self._fun, self._check_inf, self._output = fun, check_inf, only_if_reaches_output
        self._looked_at: set[Any] = set()
        self._once = jax.jit(self._returned, static_argnums=0)
        self._flagged_once = jax.jit(self._flagged, static_argnums=0)

    def traced(self, call: Call) -> tuple[_jax.Jaxpr, Parts]:
        """The function as a program of arrays, and how the result is put together from its own."""
        once = _hashable(self._once, call.parts)
        if once is not self._once:
            self.steps.clear()  # the equations that were met before are not met again
        run = functools.partial(once, call.parts)
        closed, result = jax.make_jaxpr(run, return_shape=True)(call.arrays)
        return closed, result.parts

    def flagged(self, call: Call) -> tuple[Call, Returned | None, Any]:
        """The call with numbers as variables, its result, and whether it is worth a look.

        There is no result where the function writes to references: nothing has run then.

        A number that is a variable is rounded as arrays are. So what is worth a look is run once
        more with numbers as they are, but for a jitted function, which has them so too.
        """
        for tried in self._with_numbers(call):
            if tried.parts == call.parts or _key(tried.parts) in self._looked_at:
                continue
            try:
                result, up = self._run(tried)
            except Exception:  # of any kind: what a function does with numbers, it does in Python
                self._looked_at.add(_key(tried.parts))
                continue
            if self.jitted or not up:
                return tried, result, up
            return self._as_they_are(call) or (tried, result, up)
        return call, *self._run(call)

    def _as_they_are(self, call: Call) -> tuple[Call, Returned | None, Any] | None:
        """The same with numbers as they are; `None` where Python may have made NaN of them itself.

        It may refuse to as well: 0.0 / 0.0.
        """
        try:
            result, up = self._run(call)
        except ArithmeticError:
            return None
        made = result is not None and any(s.nan for s in states(result.arrays))
        return None if made else (call, result, up)

    def _with_numbers(self, call: Call) -> Iterator[Call]:
        """The call with numbers as variables: all that may be, then fewer."""
        if not any(type(leaf) in _NUMBERS for leaf in call.parts.rest):
            return
        for kinds in (_NUMBERS, _NUMBERS[1:])[not self.jitted :]:
            is_input = lambda leaf, kinds=kinds: is_traced(leaf) or type(leaf) in kinds  # noqa: E731
            arrays, parts = take_apart(call.whole, is_input)
            yield call._replace(arrays=arrays, parts=parts)

    def _run(self, call: Call) -> tuple[Returned | None, Any]:
        return _hashable(self._flagged_once, call.parts)(call.parts, call.arrays)

    def _returned(self, parts: Parts, arrays: list[Any]) -> Returned:
        alone = pure(self._fun(), "detect_anomaly")
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
        run = functools.partial(_hashable(self._once, parts), parts)
        closed, result = jax.make_jaxpr(run, return_shape=True)(arrays)
        if any(map(_jax.is_reference, [*closed.consts, *arrays])):
            return None, True  # what it writes would be written once more by a look
        if self._output:
            results = _jax.as_function(closed)(*arrays)
            up = flags.outputs(results, check_inf=self._check_inf)
        else:
            results, up = flags.run(closed, arrays, check_inf=self._check_inf)
        return Returned(list(results), result.parts), up


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


def _hashable(once: Callable[..., Any], parts: Parts) -> Callable[..., Any]:
    """The jitted function; a fresh one where an argument that is no array cannot be a key."""
    try:
        hash(parts)
    except TypeError:
        fun = once.__wrapped__  # type: ignore[attr-defined]
        return lambda parts, arrays: jax.jit(functools.partial(fun, parts))(arrays)
    return once
