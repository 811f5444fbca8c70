"""Two pieces of Python of which a traced condition takes one, as one `lax.cond`."""

import functools
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
from jax import lax

from .. import _jax
from ..errors import TreeError
from . import _copies as copies
from ._snapshot import Change, Changes, Snapshot
from ._stage import (
    Held,
    Piece,
    Undefined,
    Value,
    cast,
    common,
    filler,
    numeric,
    same,
    show,
    stage,
    taken_apart,
    type_of,
)

RETURNED = "the returned value"


def select(
    test: Any,
    branches: Sequence[Callable[[], Sequence[Any]]],
    names: Sequence[str],
    place: str,
    snapshot: Snapshot,
    *,
    kept: Sequence[Any] = (),
    left: Callable[[int, Piece], bool] = lambda k, piece: False,
    captured: Collection[str] = (),
) -> list[Any]:
    """The values of `names` after the first branch where `test`, else after the second.

    What the branches change of objects that they can reach is chosen likewise, and is in the
    objects afterwards.

    Args:
        test: a traced scalar bool.
        branches: each returns the values.
        names: what errors call the values.
        place: where the condition stands.
        snapshot: the objects that the branches can reach.
        kept: leaves from before the branches: where both leave one as it is, it is handed on.
        left: whether a branch, by its number, ends in `break`, `continue` or `return`. A variable
            that has no value after one of the two is then NaN there, and not an error to read:
            whether it is read depends on which way was taken.
        captured: variables that only functions made there read: what disagrees has no value.

    Raises:
        TreeError: the branches disagree in structure, shape or dtype.
    """
    changed: list[Changes] = [{}, {}]

    def run(k: int, also: Changes) -> Piece:
        """A branch; of the objects in `also` it tells what they hold even if it lets them be."""

        def watched() -> Sequence[Any]:
            values = branches[k]()
            changed[k] = snapshot.changes() | also
            return [*values, *(x.now for x in changed[k].values())]

        return stage(watched, place, kept=kept, snapshot=snapshot, around=copies.checked)

    pieces = [run(k, {}) for k in (0, 1)]
    for k in (0, 1):
        also = {key: x for key, x in changed[1 - k].items() if key not in changed[k]}
        if changed[k] and any(_holds(x.before, snapshot) for x in also.values()):
            pieces[k] = run(k, also)  # what it holds may be changed, though it holds the same
    leaving = any(left(k, piece) for k, piece in enumerate(pieces))
    outputs: list[tuple[Any, tuple[Any, Any]]] = []
    after: list[Callable[[list[Any]], Any]] = []
    wrong = []
    pairs = list(zip(*(piece.values[: len(names)] for piece in pieces), strict=True))
    for name, values in zip(names, pairs, strict=True):
        fitted = _fitted(name, values, leaving, place, outputs)
        if fitted is None and name in captured:
            fitted = functools.partial(_first, Undefined(name, place))
        wrong += [] if fitted else [_disagreement(name, values)]
        after += [fitted] if fitted else []
    every = changed[0] | changed[1]
    for key, change in every.items():
        values = _both(key, change, changed, pieces, len(names), snapshot)
        if id(change.part.owner) in snapshot.loose:
            values[1] = filled(values[0], change.name)
        gone = [bool(x.undefined) for x in values]
        fitted = None if any(gone) != all(gone) else _fitted("", values, False, place, outputs)
        wrong += [] if fitted else [_disagreement(change.name, values)]
        after += [fitted] if fitted else []
    if wrong:
        advice = f"\n({OUTSIDE})" if every else ""
        raise TreeError(
            f"`autograph` got branches of the traced condition at {place} that disagree in"
            " structure, shape or dtype; make them agree:\n  " + "\n  ".join(wrong) + advice
        )

    def branch(k: int) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            leaf = pieces[k]()
            values = [cast(leaf(pair[k]), aval) for aval, pair in outputs]
            return [_jax.varied(x, axes) for x in values]

        return run

    types = [type_of(x) for _, pair in outputs for x in pair]
    axes = frozenset[str]().union(*map(_jax.varying, [jax.typeof(test), *types]))
    results = lax.cond(test, branch(0), branch(1))
    made = [value(results) for value in after]
    for change, value in zip(every.values(), made[len(names) :], strict=True):
        change.write(value)
    called = [*names, *(change.name for change in every.values())]
    for name, value, fitted in zip(called, made, after, strict=True):
        copies.note(name, place, value, getattr(fitted, "opened", ()), snapshot.own)
    return made[: len(names)]


OUTSIDE = (
    "lists, dicts, sets and attributes from outside are changed there: let each path leave them"
    " the same items and attributes, of the same shape and dtype, or assign a new value in place"
    " of the change"
)


def _both(
    key: Any, change: Change, changed: Any, pieces: Any, count: int, snapshot: Snapshot
) -> list[Value]:
    """An object's contents after both branches; one that leaves them alone has those before."""
    before = taken_apart(change.before, snapshot.held)
    return [
        piece.values[count + list(changes).index(key)] if key in changes else before
        for changes, piece in zip(changed, pieces, strict=True)
    ]


def _holds(value: Any, snapshot: Snapshot) -> bool:
    """Whether a value has objects in it that can change."""
    return any(isinstance(x, Held) for x in taken_apart(value, snapshot.held).leaves)


def _disagreement(name: str, values: Sequence[Value]) -> str:
    return f"{name}: {show(values[0])} where it holds, {show(values[1])} where not"


def _fitted(name: str, values: Any, leaving: bool, place: str, outputs: Any) -> Any:
    """How to make a variable's value from the results, which are added to; `None` if it cannot."""
    missing = [value.undefined for value in values]
    if all(missing):
        told = missing[0] if missing[0].place else missing[1]
        return lambda results: told
    if any(missing):
        k = 0 if missing[0] else 1
        if not leaving and missing[k].name != RETURNED:
            return lambda results: Undefined(name, place)
        values = list(values)
        values[k] = filled(values[1 - k], name)
    held, values = values, _aligned(*values)
    if values[0].tree != values[1].tree:
        return None
    leaves: list[Callable[[list[Any]], Any]] = []
    chosen: list[tuple[Any, tuple[Any, Any]]] = []
    for a, b in zip(values[0].leaves, values[1].leaves, strict=True):
        if same(a, b):
            leaves.append(functools.partial(_first, a))
            continue
        if not (numeric(a) and numeric(b)):
            return None
        aval = common(type_of(a), type_of(b))
        if aval is None:
            return None
        leaves.append(operator.itemgetter(len(outputs) + len(chosen)))
        chosen.append((aval, (a, b)))
    outputs += chosen

    def made(results: list[Any]) -> Any:
        return values[0].of([leaf(results) for leaf in leaves])

    made.opened = copies.opened(held, values)  # type: ignore[attr-defined]
    return made


def _aligned(a: Value, b: Value) -> tuple[Value, Value]:
    """Two values of one structure if they can be: objects held by both stay what they are."""
    keep = [x for x in a.leaves if isinstance(x, Held) and x in b.leaves]
    return a.opened(keep), b.opened(keep)


def _first(value: Any, _: Any) -> Any:
    return value


def filled(value: Value, name: str, inputs: Sequence[Any] = ()) -> Value:
    """What stands for a variable that has no value, of the type of one that it may have."""
    zero = name == RETURNED
    value = value.opened()
    leaves = [filler(type_of(x, inputs), zero) if numeric(x) else x for x in value.leaves]
    return Value(value.tree, leaves)
