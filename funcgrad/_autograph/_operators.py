"""What converted functions call: Python's statements and operators, also on traced values.

Where Python can look at the values that decide, each does what Python does. Where it cannot, an
`if` becomes `lax.cond`, a `for` over rows `lax.scan`, every other loop one of funcgrad's own.
"""

import functools
import itertools
import operator
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._loops.public import fori_loop, while_loop
from .._tags import caller
from ..errors import UsageError
from . import _copies as copies
from ._branch import RETURNED, select
from ._convert import convert
from ._loop import Step
from ._refuse import INSTALLED, UNTRACED
from ._snapshot import Snapshot
from ._stage import INSIDE, Piece, Undefined, known, stage, staging, truth

_LIBRARIES = ("jax", "jaxlib", "funcgrad")
# Libraries whose functions call the functions they are given on values that may be traced.
_CALLING = ("jax", "funcgrad", "functools", "optax", "equinox", "flax")


class State(NamedTuple):
    """A statement's variables: how to read and to write them."""

    get: Callable[[], Sequence[Any]]
    set: Callable[[Sequence[Any]], None]


@dataclass(frozen=True)
class Range:
    """`range` with bounds of which one is traced, or with a known length and a traced index."""

    start: Any
    step: Any
    length: Any

    def __iter__(self) -> Iterator[Any]:
        raise UsageError(
            f"`autograph` got a `range` with traced bounds at {caller()}, which it takes only as"
            " what a `for` statement goes over"
        )

    def __reversed__(self) -> "Range":
        return Range(self.start + (self.length - 1) * self.step, -self.step, self.length)

    def at(self, k: Any) -> Any:
        """The index of the k-th step."""
        return self.start + k * self.step


@dataclass(frozen=True)
class Rows:
    """Arrays along their leading axis, with `zip` and `enumerate` as they may be around them.

    Fields:
        arrays: of the same length.
        item: from the number of a row and its arrays to what the loop's target is given.
    """

    arrays: tuple[Any, ...]
    item: Callable[[Any, Sequence[Any]], Any] = lambda k, row: row[0]

    def __iter__(self) -> Iterator[Any]:
        return (self.at(k) for k in range(self.length))

    @property
    def length(self) -> int:
        """How many rows there are."""
        return self.arrays[0].shape[0]

    def at(self, k: Any) -> Any:
        """The k-th item."""
        return self.item(k, [x[k] for x in self.arrays])


class Told(NamedTuple):
    """What is known of a statement from its source.

    Fields:
        flags: variables that stand for `break`, `continue`, `return` and what is returned.
        captured: variables that are not used after it, but by functions that are made in it.
        augmented: variables of an `x += ...`.
        unread: variables of which nothing reads what the statement does to the object they hold.
        loose: variables of which nothing reads what they hold once a `break` or `return` is taken.
    """

    flags: Sequence[str] = ()
    captured: Sequence[str] = ()
    augmented: Sequence[str] = ()
    unread: Sequence[str] = ()
    loose: Sequence[str] = ()


NOTHING = Told()


class Scope:
    """What converted code puts around the body of a function."""

    def __init__(self, *_: Any):
        pass

    def __enter__(self) -> "Scope":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ret(self, value: Any, _: Any) -> Any:
        """What the function returns."""
        return None if isinstance(value, Undefined) else value


class Operators:
    """The operators, for loops of at most `max_steps` steps; converted code names it `ag__`.

    Args:
        max_steps: the most steps of a loop whose number of steps is known at run time only.
        checkpoints, on_max_steps: as for `funcgrad.while_loop`.
        package: the package whose functions are the user's own, wherever it is installed.
    """

    FunctionScope = Scope
    told = Told
    STD = None

    def __init__(self, max_steps: int | None, checkpoints: Any, on_max_steps: Any, package: str):
        self.Undefined: Any = Undefined
        self._max_steps, self._package = max_steps, package
        self._on_max_steps = {"on_max_steps": on_max_steps}
        self._more = {} if checkpoints is None else {"checkpoints": checkpoints}
        self._converted: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._builtins: dict[Any, Callable[..., Any]] = {
            all: self._all,
            any: self._any,
            bool: self.truthy,
            enumerate: self._enumerate,
            max: functools.partial(self._extreme, max, operator.gt),
            min: functools.partial(self._extreme, min, operator.lt),
            range: self._range,
            zip: self._zip,
        }

    # Variables.

    def ld(self, value: Any) -> Any:
        """A variable that is read."""
        return value.read() if isinstance(value, Undefined) else value

    def UndefinedReturnValue(self) -> Undefined:
        """What a function returns before it returns."""
        return Undefined(RETURNED)

    # Statements.

    def if_stmt(
        self,
        test: Any,
        body: Callable[[], None],
        orelse: Callable[[], None],
        get_state: Any,
        set_state: Any,
        names: Sequence[str],
        count: int,
        *,
        told: Told = NOTHING,
        guard: bool = False,
    ) -> None:
        """`if`: the first `count` of the variables are used after it."""
        if known(test):
            return body() if test else orelse()
        before, place = get_state(), caller()

        def run(branch: Callable[[], None]) -> Sequence[Any]:
            set_state(before)
            try:
                branch()
                return get_state()[:count]
            finally:
                set_state(before)

        def left(k: int, piece: Piece) -> bool:
            after = zip(names, piece.values, strict=False)
            return (guard and k == 1) or any(
                name in told.flags and value.leaves and value.leaves[0] is True
                for name, value in after
            )

        values = select(
            truth(test, place),
            [functools.partial(run, x) for x in (body, orelse)],
            self._shown(names, told.flags)[:count],
            place,
            Snapshot(
                (body, orelse), self.is_users, names, told.unread, told.loose if guard else ()
            ),
            kept=jax.tree.leaves(before),
            left=left,
            captured=told.captured,
        )
        set_state([*values, *before[count:]])

    def while_stmt(
        self,
        test: Callable[[], Any],
        body: Callable[[], None],
        get_state: Any,
        set_state: Any,
        names: Sequence[str],
        _: Any,
        *,
        told: Told = NOTHING,
        calls: bool = False,
    ) -> None:
        """`while`: plain Python as long as the test is known."""
        state, more = State(get_state, set_state), test()
        reached = functools.partial(Snapshot, (body, test), self.is_users, names, told.unread)
        if known(more) and more and not calls and _becomes_traced(body, test, state, reached):
            more = jnp.asarray(True)
        else:
            while known(more):
                if not more:
                    return
                body()
                more = test()
        self._bounded("`while` on traced values")
        make = self._step(lambda _: body(), test, state, names, told, reached())
        step: Step = make()
        step.check_order()
        limits: Any = {"max_steps": self._max_steps, **self._on_max_steps, **self._more}
        carry = while_loop(step.more, lambda c: step.next((), c), step.start(), **limits)
        step.finish(carry, functools.partial(step.more, carry))

    def for_stmt(
        self,
        items: Any,
        test: Callable[[], Any] | None,
        body: Callable[[Any], None],
        get_state: Any,
        set_state: Any,
        names: Sequence[str],
        _: Any,
        *,
        told: Told = NOTHING,
        calls: bool = False,
    ) -> None:
        """`for`, as long as `test` holds where there is one: there is where it may be left."""
        state = State(get_state, set_state)
        reached = functools.partial(Snapshot, (body, test), self.is_users, names, told.unread)

        def make(snapshot: Snapshot) -> Any:
            return self._step(body, test, state, names, told, snapshot)

        rows = _rows(items)
        if isinstance(items, Range):
            return self._over_range(items, make(reached()), test, self._max_steps)
        if rows is not None and rows.length:
            over: Any = self._over_rows
            if self._more:
                over = functools.partial(self._over_range, most=rows.length)
            if _done_as(lambda x: over(rows, make(x), test), reached(), state):
                return
        known_range = isinstance(items, range) and test and not calls and len(items)
        if known_range and _becomes_traced(lambda: body(items[0]), test, state, reached):
            counted = Range(items.start, items.step, len(items))
            over = functools.partial(self._over_range, most=len(items))
            if _done_as(lambda x: over(counted, make(x), test), reached(), state):
                return
        if test and isinstance(items, itertools.count):
            raise UsageError(
                f"`autograph` got a `for` over itertools.count at {caller()}; write it as `while`"
            )
        self._over_items(items, test, body, state, names, told)

    def _step(
        self,
        body: Callable[[Any], None],
        test: Any,
        state: State,
        names: Sequence[str],
        told: Told,
        snapshot: Snapshot,
    ) -> Callable[..., Step]:
        more: Any = {"captured": told.captured, "augmented": told.augmented}
        shown = self._shown(names, told.flags)
        return functools.partial(
            Step, body, test, state, shown, caller(), snapshot=snapshot, **more
        )

    def _over_items(
        self, items: Any, test: Any, body: Any, state: State, names: Sequence[str], told: Told
    ) -> None:
        """Python's own loop; steps after one that may have left it are under a condition."""
        rest, end = iter(items), object()
        while True:
            more = test() if test else True
            if known(more) and not more:
                return
            item = next(rest, end)
            if item is end:
                return
            run = functools.partial(body, item)
            if known(more):
                run()
            else:
                self.if_stmt(
                    more, run, lambda: None, *state, names, len(names), told=told, guard=True
                )

    def _over_range(self, items: Range | Rows, make: Any, test: Any, most: int | None) -> None:
        first = jnp.asarray(0)  # weakly typed, as are the indices it makes of Python's ints
        step: Step = make(item=items.at(first))
        step.check_order()
        limits: Any = {**self._more, **({} if most is None else {"max_steps": most})}
        # Of a known number of steps none is left over.
        limits |= {"on_max_steps": "ignore"} if known(items.length) else self._on_max_steps

        def advance(state: Any) -> Any:
            k, carry = state
            return k + 1, step.next(items.at(k), carry)

        def more(state: Any) -> Any:
            inside = state[0] < items.length
            return inside if test is None else inside & step.more(state[1])

        end = first, step.start()
        if test is None:
            end = fori_loop(0, items.length, lambda _, state: advance(state), end, **limits)
        else:
            if most is None:
                self._bounded("`for` over a traced range with `break` or `return`")
            end = while_loop(more, advance, end, **limits)
        step.finish(end[1], functools.partial(more, end))

    def _over_rows(self, rows: Rows, make: Any, test: Any) -> None:
        first = jnp.asarray(0)
        step: Step = make(item=rows.at(first))

        def advance(state: Any, row: Any) -> Any:
            k, carry = state
            return k + 1, step.next(rows.item(k, row), carry)

        def one(state: Any, row: Any) -> tuple[Any, None]:
            if test is None:
                return advance(state, row), None
            return lax.cond(step.more(state[1]), advance, lambda same, _: same, state, row), None

        (_, carry), _ = lax.scan(one, (first, step.start()), rows.arrays)
        step.finish(carry)

    def raising(self) -> None:
        """Stands before each `raise`: whether it is reached must be known."""
        place = INSIDE.get()
        if place:
            raise UsageError(
                f"`autograph` got a `raise` at {caller()} inside the traced branch or loop at"
                f" {place}, where it is not known whether it is reached; return NaN there, or use"
                " jax.experimental.checkify"
            )

    def caught(self) -> BaseException | None:
        """The exception that is being handled."""
        return sys.exception()

    def asserted(self, test: Any) -> Any:
        """What an `assert` tests: it must be known."""
        if known(test):
            return test
        raise UsageError(
            f"`autograph` got an `assert` on a traced value at {caller()}, which is not known while"
            " compiling; leave it out, or use jax.experimental.checkify"
        )

    def filtered(self, test: Any) -> Any:
        """The `if` of a comprehension: how many items there are must be known."""
        if known(test):
            return test
        raise UsageError(
            f"`autograph` got a comprehension at {caller()} whose `if` is a traced value, so that"
            " it is not known how many items it has; choose between values: `x if test else 0`, or"
            " jnp.where"
        )

    # Expressions.

    def truthy(self, value: Any = False) -> Any:
        """An operand of which only the truth matters."""
        return bool(value) if known(value) else truth(value, caller())

    def not_(self, value: Any) -> Any:
        """`not`."""
        return not value if known(value) else jnp.logical_not(truth(value, caller()))

    def and_(self, a: Callable[[], Any], b: Callable[[], Any]) -> Any:
        """`and`: of traced operands, both are evaluated where they are bools."""
        value = a()
        if known(value):
            return value and b()
        if value.dtype == bool and value.shape == ():
            return self._both(jnp.logical_and, value, b, False)
        return self._chosen(value, b, lambda: value, "`and`")

    def or_(self, a: Callable[[], Any], b: Callable[[], Any]) -> Any:
        """`or`, like `and`."""
        value = a()
        if known(value):
            return value or b()
        if value.dtype == bool and value.shape == ():
            return self._both(jnp.logical_or, value, b, True)
        return self._chosen(value, lambda: value, b, "`or`")

    def _both(self, combine: Any, value: Any, b: Callable[[], Any], early: bool) -> Any:
        snapshot = Snapshot((b,), self.is_users)
        other, changes = b(), snapshot.changes()
        if changes:  # it must not have been evaluated, where the first operand decides
            snapshot.restore()
        elif isinstance(other, bool) or getattr(other, "dtype", None) == jnp.bool_:
            return combine(value, self.truthy(other))
        second = b if changes else functools.partial(_same, other)
        yes, no = (lambda: early, second) if early else (second, lambda: early)
        return self._chosen(value, yes, no, "`or`" if early else "`and`")

    def _always(self, run: Callable[[], Any], reading: Any, decided: Any, what: str) -> Any:
        """What is run though Python might have stopped before: it must change nothing."""
        if known(decided):
            return run()
        snapshot = Snapshot((reading,), self.is_users)
        value = run()
        for change in snapshot.changes(positions=False).values():
            raise UsageError(
                f"`autograph` got {what} at {caller()}, which changes `{change.name}` in an operand"
                " that Python may not come to; evaluate it before"
            )
        return value

    def is_(self, a: Any, b: Any) -> bool:
        """`is`."""
        return copies.identical(a, b)

    def chain(self, left: Any, *links: tuple[Callable[..., Any], Callable[[], Any]]) -> Any:
        """A chained comparison."""
        result: Any = True
        for compare, load in links:
            right = self._always(load, load, result, "a chained comparison")
            result = self.and_(
                functools.partial(_same, result), functools.partial(compare, left, right)
            )
            if known(result) and not result:
                return result
            left = right
        return result

    def if_exp(self, test: Any, yes: Callable[[], Any], no: Callable[[], Any], _: str = "") -> Any:
        """A conditional expression."""
        if known(test):
            return yes() if test else no()
        return self._chosen(test, yes, no, "the conditional expression")

    def _chosen(self, test: Any, yes: Any, no: Any, what: str) -> Any:
        place = caller()
        branches = [lambda: [yes()], lambda: [no()]]
        snapshot = Snapshot((yes, no), self.is_users)
        return select(truth(test, place), branches, [what], place, snapshot)[0]

    def print_(self, *values: Any, sep: str | None = " ", **more: Any) -> None:
        """`print`; of traced values, in traced loops and branches, through `jax.debug.print`."""
        python = INSIDE.get() is None and all(known(x) for x in jax.tree.leaves(values))
        if python or more.get("file"):
            return print(*values, sep=sep, **more)
        between = (" " if sep is None else sep).replace("{", "{{").replace("}", "}}")
        jax.debug.print(between.join(["{}"] * len(values)), *values)

    # Built-in functions that go over things or choose between them.

    def _range(self, *bounds: Any) -> Any:
        if all(known(x) for x in bounds) or len(bounds) > 3:
            return range(*bounds)
        start, stop, step = {1: (0, *bounds, 1), 2: (*bounds, 1), 3: bounds}[len(bounds)]
        for bound in bounds:
            if jnp.shape(bound) != () or not jnp.issubdtype(jnp.result_type(bound), jnp.integer):
                raise UsageError(
                    f"`autograph` got a `range` of {jax.typeof(bound)} at {caller()}, and wants"
                    " integer scalars"
                )
        if known(step) and step == 0:
            raise ValueError("range() arg 3 must not be zero")
        count = (stop - start + step - jnp.sign(step)) // step
        # A traced step of zero has no end: more steps than any max_steps.
        count = jnp.where(step == 0, jnp.iinfo(count.dtype).max, jnp.maximum(count, 0))
        return Range(start, step, count)

    def _enumerate(self, items: Any, start: int = 0) -> Any:
        rows = _rows(items)
        if rows is None:
            return enumerate(items, start)
        return Rows(rows.arrays, lambda k, row: (start + k, rows.item(k, row)))

    def _zip(self, *items: Any, strict: bool = False) -> Any:
        rows = [x for x in map(_rows, items) if x is not None]
        counts = {x.length for x in rows}
        if not items or len(rows) < len(items) or (strict and len(counts) > 1):
            return zip(*items, strict=strict)
        arrays = tuple(x[: min(counts)] for one in rows for x in one.arrays)

        def item(k: Any, row: Sequence[Any]) -> tuple[Any, ...]:
            rest = iter(row)
            return tuple(one.item(k, [next(rest) for _ in one.arrays]) for one in rows)

        return Rows(arrays, item)

    def _extreme(self, builtin: Any, better: Any, *values: Any, **more: Any) -> Any:
        items = list(values[0]) if len(values) == 1 else list(values)
        if more or all(known(x) for x in items):
            return builtin(items, **more)
        best = items[0]
        for item in items[1:]:
            best = self.if_exp(
                better(item, best), functools.partial(_same, item), functools.partial(_same, best)
            )
        return best

    def _any(self, items: Any) -> Any:
        found: Any = False
        rest, end = iter(items), object()
        while True:
            item = self._always(lambda: next(rest, end), rest, found, "`any` or `all`")
            if item is end:
                break
            found = self.or_(functools.partial(_same, found), functools.partial(self.truthy, item))
            if known(found) and found:
                return True
        return bool(found) if known(found) else found

    def _all(self, items: Any) -> Any:
        return self.not_(self._any(self.not_(x) for x in items))

    # Calls.

    def autograph_artifact(self, fun: Any) -> Any:
        """Marks a function inside a converted one: it is converted with it."""
        fun.__funcgrad_converted__ = True
        return fun

    def with_function_scope(self, thunk: Callable[[Scope], Any], *_: Any) -> Any:
        """A lambda's body."""
        return thunk(Scope())

    def converted_call(self, fun: Any, args: Any, kwargs: Any, _: Any = None) -> Any:
        """A call: of the user's own function, of that function converted."""
        kwargs = kwargs or {}
        overload = None
        if isinstance(fun, type | types.BuiltinFunctionType):
            overload = self._builtins.get(fun)
        if overload is not None:
            return overload(*args, **kwargs)
        if isinstance(fun, _BUILT_IN) and len(args) < _OF_THE_FRAME.get(fun, 0):
            return _of_the_frame(fun, sys._getframe(1))
        if isinstance(fun, functools.partial):
            return self.converted_call(fun.func, fun.args + args, {**fun.keywords, **kwargs})
        own, first = _function(fun)
        if own is None or not self._is_own(own):
            module = getattr(fun, "__module__", None) or ""
            if module.lstrip("_").partition(".")[0] in _CALLING or fun in (map, filter):
                args = [self._given(x) for x in args]
                kwargs = {name: self._given(x) for name, x in kwargs.items()}
            return fun(*args, **kwargs)
        try:
            new = self.convert(own)
        except UsageError as error:
            return _called_as_it_is(error, fun, args, kwargs)
        return new(*first, *args, **kwargs)

    def convert(self, fun: Any, *, asked: bool = False) -> Any:
        """A function converted, once; anything else, and a library's function, as it is."""
        if isinstance(fun, functools.partial):
            return functools.partial(self.convert(fun.func, asked=asked), *fun.args, **fun.keywords)
        if isinstance(fun, types.MethodType):
            return types.MethodType(self.convert(fun.__func__, asked=asked), fun.__self__)
        if not isinstance(fun, types.FunctionType) or not (asked or self._is_own(fun)):
            return fun
        if fun not in self._converted:
            self._converted[fun] = self.autograph_artifact(convert(fun, self))
        return self._converted[fun]

    def _given(self, value: Any) -> Any:
        """What a library's function is given: a function is converted if it can be."""
        try:
            return self.convert(value)
        except UsageError:
            return value

    def _is_own(self, fun: types.FunctionType) -> bool:
        return not hasattr(fun, "__funcgrad_converted__") and self.is_users(fun)

    def is_users(self, thing: Any) -> bool:
        """Whether a function, a class or a module is the user's own."""
        if isinstance(thing, types.FunctionType):
            name, file = thing.__globals__.get("__name__", ""), thing.__code__.co_filename
        else:
            name = getattr(thing, "__module__", None) or thing.__name__
            file = _file(str(name))
        package = str(name).partition(".")[0]
        return package == self._package or not (file.startswith(INSTALLED) or package in _LIBRARIES)

    def _bounded(self, what: str) -> None:
        if self._max_steps is None:
            raise UsageError(
                f"`autograph` got a {what} at {caller()} and no max_steps; say how many steps it"
                " takes at most: funcgrad.autograph(fun, max_steps=...)"
            )

    def _shown(self, names: Sequence[str], flags: Sequence[str]) -> list[str]:
        """The variables as errors call them."""
        return [RETURNED if x in flags and x.startswith("retval_") else x for x in names]


def _function(fun: Any) -> tuple[types.FunctionType | None, tuple[Any, ...]]:
    """The plain function that a call of `fun` runs, and what is passed to it first."""
    if isinstance(fun, types.FunctionType):
        return fun, ()
    if isinstance(fun, types.MethodType):
        inner, first = _function(fun.__func__)
        return inner, (fun.__self__, *first)
    call = type(fun).__call__ if callable(fun) else None
    return (call, (fun,)) if isinstance(call, types.FunctionType) else (None, ())


_BUILT_IN = types.BuiltinFunctionType
# Functions that look at the variables of who calls them, and how many arguments say other ones.
_OF_THE_FRAME: dict[Any, int] = {globals: 1, locals: 1, vars: 1, dir: 1, eval: 2, exec: 2}


def _of_the_frame(fun: Any, frame: Any) -> Any:
    if fun is globals:
        return frame.f_globals
    raise UsageError(
        f"`autograph` got `{fun.__name__}` of the variables of a function at {caller()}, which are"
        " spread over several functions there; name them, or give it a dict"
    )


def _same(value: Any) -> Any:
    return value


def _file(module: str) -> str:
    """The file of a module, the standard library's folder if it is built in."""
    found = sys.modules.get(module)
    built_in = module in sys.builtin_module_names or module in sys.stdlib_module_names
    return getattr(found, "__file__", None) or (INSTALLED[0] if built_in else "")


def _called_as_it_is(error: UsageError, fun: Any, args: Any, kwargs: Any) -> Any:
    """A call of the user's own function that cannot be converted, which may not need to be."""
    try:
        return fun(*args, **kwargs)
    except UNTRACED as failed:
        failed.add_note(f"It was called as it is: {error}")
        raise


def _rows(items: Any) -> Rows | None:
    """The rows of an array that is traced, or would be once its rows are taken."""
    if isinstance(items, Rows):
        return items
    if not isinstance(items, jax.Array) or jnp.ndim(items) == 0:
        return None
    return Rows((items,)) if not known(items) or staging() else None


def _becomes_traced(body: Callable[[], None], test: Any, state: State, reached: Any) -> bool:
    """Whether a loop's test, known before the first step, is traced after it.

    It is tried out, and what that records is thrown away: not where something can be reached that
    cannot be put back.
    """
    if not staging():
        return False
    snapshot: Snapshot = reached()
    if snapshot.fixed:
        return False
    before, seen = state.get(), []

    def trial() -> list[Any]:
        try:
            body()
            seen.append(known(test()))
            return []
        finally:
            state.set(before)

    try:
        stage(trial, caller(), snapshot=snapshot, around=copies.checked)
    except Exception:  # it is raised again where the body is run in earnest
        return False
    return seen == [False]


def _done_as(loop: Callable[[Snapshot], None], snapshot: Snapshot, state: State) -> bool:
    """Whether a loop that may be unrolled can be run as a traced one, and so has been.

    It cannot where its step needs more than arrays: an index that is an int, a list that grows.
    """
    if snapshot.fixed:
        return False
    before = state.get()
    try:
        loop(snapshot)
    except Exception:  # it is raised again where the steps are unrolled
        state.set(before)
        return False
    return True
