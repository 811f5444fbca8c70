"""Two pieces of Python of which a traced condition takes one, as one `lax.cond`."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from .. import _jax
from ..errors import TreeError
from ._stage import (
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
    type_of,
)

RETURNED = "the returned value"


def select(
    test: Any,
    branches: Sequence[Callable[[], Sequence[Any]]],
    names: Sequence[str],
    place: str,
    *,
    kept: Sequence[Any] = (),
    left: Callable[[int, Piece], bool] = lambda k, piece: False,
) -> list[Any]:
    """The values of `names` after the first branch where `test`, else after the second.

    Args:
        test: a traced scalar bool.
        branches: each returns the values.
        names: what errors call the values.
        place: where the condition stands.
        kept: leaves from before the branches: where both leave one as it is, it is handed on.
        left: whether a branch, by its number, ends in `break`, `continue` or `return`. A variable
            that has no value after one of the two is then NaN there, and not an error to read:
            whether it is read depends on which way was taken.

    Raises:
        TreeError: the branches disagree in structure, shape or dtype.
    """
    pieces = [stage(branch, place, kept=kept) for branch in branches]
    leaving = any(left(k, piece) for k, piece in enumerate(pieces))
    outputs: list[tuple[Any, tuple[Any, Any]]] = []
    after: list[Callable[[list[Any]], Any]] = []
    wrong = []
    for name, *values in zip(names, *(piece.values for piece in pieces), strict=True):
        fitted = _fitted(name, values, leaving, place, outputs)
        if fitted is None:
            wrong.append(f"{name}: {show(values[0])} where it holds, {show(values[1])} where not")
        else:
            after.append(fitted)
    if wrong:
        raise TreeError(
            f"`autograph` got branches of the traced condition at {place} that disagree in"
            " structure, shape or dtype; make them agree:\n  " + "\n  ".join(wrong)
        )

    def branch(k: int) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            leaf = pieces[k]()
            values = [cast(leaf(pair[k]), aval) for aval, pair in outputs]
            return [_jax.varied(x, axes) for x in values]

        return run

    every = [type_of(x) for _, pair in outputs for x in pair]
    axes = frozenset[str]().union(*map(_jax.varying, [jax.typeof(test), *every]))
    results = lax.cond(test, branch(0), branch(1))
    return [value(results) for value in after]


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
    if values[0].tree != values[1].tree:
        return None
    leaves: list[Callable[[list[Any]], Any]] = []
    for a, b in zip(values[0].leaves, values[1].leaves, strict=True):
        if same(a, b):
            leaves.append(functools.partial(_first, a))
            continue
        if not (numeric(a) and numeric(b)):
            return None
        aval = common(type_of(a), type_of(b))
        if aval is None:
            return None
        leaves.append(operator.itemgetter(len(outputs)))
        outputs.append((aval, (a, b)))
    return lambda results: values[0].tree.unflatten([leaf(results) for leaf in leaves])


def _first(value: Any, _: Any) -> Any:
    return value


def filled(value: Value, name: str, inputs: Sequence[Any] = ()) -> Value:
    """What stands for a variable that has no value, of the type of one that it may have."""
    zero = name == RETURNED
    leaves = [filler(type_of(x, inputs), zero) if numeric(x) else x for x in value.leaves]
    return Value(value.tree, leaves)
