"""The loop over the micro-batches of one device."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .. import _jax
from .._calls import replaced
from .._describe import describe, differences
from .._leaves import is_array, takes_gradient
from .._objects import Left, is_kept, same_kind, state_of
from ..errors import TreeError, UsageError
from .accumulator import sum_dtype
from .parts import Parts, entry, fold, rows_of
from .reduction import Results, add, append, in_dtype, mean, stacked_of, words_of
from .shares import Weights, weights_of
from .task import Task


class _Program(NamedTuple):
    """The user's function and its weight on one full micro-batch, traced.

    Fields:
        call: `(micro, keys, state, share) -> Results`.
        like: the types of the results.
        tree: the structure of the user's result.
        words: how each of its leaves is reduced; `"share"` is a mean of what is multiplied already.
        objects: the structure of the objects afterwards, of the arrays that are changed.
        changed: the places of these in `held`.
    """

    call: Callable[..., Results]
    like: Results
    tree: Any
    words: tuple[str, ...]
    objects: Any
    changed: list[int]


class Layout(NamedTuple):
    """The static half of a result: its structure, that of the objects, and what is stacked."""

    tree: Any
    objects: Any
    words: tuple[str, ...]


def reduced_over_parts(
    task: Task, held: Any, batch: Any, keys: Any
) -> tuple[Layout, list[Any], list[Any], list[Any]]:
    """The layout of the result, its reduced leaves and its stacked ones, and the objects' state."""
    parts, weights = task.parts, weights_of(task, batch)
    program = _trace(task, held, batch, keys, weights)
    state = [held[i] for i in program.changed]
    acc, stacks = _loop(program, parts, batch, keys, weights, state)
    state = acc.state
    if parts.rest:
        moved = replaced(held, program.changed, state)
        last = _last(task, program, moved, batch, keys, weights)
        state = last.state
        weight = parts.rest / parts.size if weights.weight is None else weights.weight[-1]
        acc = add(program.words, acc, last, weight)
        stacks = append(program.words, stacks, last)
    sums = acc.leaves
    if task.axes:
        sums = lax.psum(sums, task.axes)
        state = [lax.pmean(x, task.axes) if takes_gradient(x) else x for x in state]
    rows = parts.devices * parts.rows / parts.size
    finished = _finish(program, sums, weights.total, rows)
    return Layout(program.tree, program.objects, program.words), finished, stacks, state


def _trace(task: Task, held: Any, batch: Any, keys: Any, weights: Weights) -> _Program:
    """Traces the function once, on the first micro-batch, whose values are not used."""
    trees: list[Any] = []
    places = [place for place in task.places if place is not None]

    def flat(*inputs: Any) -> list[Any]:
        micro, keys, state, share = jax.tree.unflatten(given, inputs)
        left = task.run(replaced(held, places, state), micro, keys, share)
        result = left.result
        changed, state = _changed(task, left, held)
        for path, leaf in jax.tree_util.tree_leaves_with_path(result):
            if not is_array(leaf):
                raise UsageError(
                    f"`microbatch` got a function that returns {describe(leaf)} at"
                    f" {jax.tree_util.keystr(path) or 'the result'}, and wants arrays or None"
                )
        found, structure = jax.tree.flatten(Results(jax.tree.leaves(result), state))
        objects = jax.tree.structure(left.objects)
        pairs = zip(words_of(task.reduce, result), task.asked.scaled(result), strict=True)
        words = tuple("share" if word == "mean" and on else word for word, on in pairs)
        trees.append((structure, jax.tree.structure(result), words, objects, changed))
        return found

    micro, share = rows_of(batch, 0, task.parts.size), _first(weights.share)
    first = micro, entry(keys, 0), [held[i] for i in places], share
    leaves, given = jax.tree.flatten(first)
    closed = _jax.trace(flat, leaves)
    (structure, *layout), program = trees[-1], _jax.as_function(closed)
    changed = layout[-1]

    def call(micro: Any, keys: Any, state: Any, share: Any) -> Results:
        moved = replaced(held, changed, state)
        inputs = micro, keys, [moved[i] for i in places], share
        return structure.unflatten(program(*jax.tree.leaves(inputs)))

    return _Program(call, structure.unflatten(_jax.output_types(closed)), *layout)


def _first(share: Any) -> Any:
    return None if share is None else share[0]


def _changed(task: Task, left: Left, held: Any) -> tuple[list[int], list[Any]]:
    """The places in `held` of what a micro-batch changed, and their new values.

    Raises:
        TreeError: the next one could not go on from there.
    """
    if left.objects is None:
        return [], []
    state = state_of(left.objects)
    if not same_kind(left.objects, task.whole):
        raise TreeError(
            "`microbatch` got a function that changes what its object is made of (a new attribute,"
            " a variable less), and wants one that leaves objects of one kind for the next"
            " micro-batch: make what is new before the call"
        )
    pairs = [(place, x) for place, x in zip(task.places, state, strict=True) if not is_kept(x)]
    for place, x in pairs:
        got = "a Python number" if place is None else describe(held[place])
        if describe(x) != got:
            raise TreeError(
                f"`microbatch` got a function that makes {describe(x)} of {got} in its object, and"
                " wants one that keeps shape and dtype for the next micro-batch"
            )
    return [place for place, _ in pairs if place is not None], [
        lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x
        for _, x in pairs
    ]


def _loop(
    program: _Program,
    parts: Parts,
    batch: Any,
    keys: Any,
    weights: Weights,
    state: list[Any],
) -> tuple[Results, list[Any]]:
    """The sums, with the last state, and the stacks over the full micro-batches."""

    def step(carry: tuple[Results, Any], fed: Any) -> Any:
        (acc, start), (micro, keys, weight, share) = carry, fed
        if parts.rest:
            micro, start = rows_of(batch, start, parts.size), start + parts.size
        results = program.call(micro, keys, acc.state, constant if share is None else share)
        return (add(program.words, acc, results, weight), start), stacked_of(program.words, results)

    # Rows that do not divide are sliced where they lie: folding them would copy all but the rest.
    start, folded = (jnp.int32(0), None) if parts.rest else (None, fold(batch, parts.full))
    # Without weights all full parts have one share, which the compiler may know.
    constant = _first(weights.share) if weights.weight is None else None
    each = weights.weight, None if constant is not None else weights.share
    fed = folded, *jax.tree.map(lambda k: k[: parts.full], (keys, *each))
    carry = _zeros(program)._replace(state=state), start
    (acc, _), stacks = lax.scan(step, carry, fed, length=parts.full)
    return acc, stacks


def _last(
    task: Task, program: _Program, held: Any, batch: Any, keys: Any, weights: Weights
) -> Results:
    """The results of the remainder, which must be shaped like those of a full micro-batch."""
    parts = task.parts
    micro = rows_of(batch, parts.full * parts.size, parts.rest)
    share = None if weights.share is None else weights.share[-1]
    left = task.run(held, micro, entry(keys, parts.full), share)
    result = jax.tree.map(_as_array, left.result)
    wrong = differences(result, program.tree.unflatten(program.like.leaves))
    if wrong:
        raise TreeError(
            f"`microbatch` got {parts.rows} rows, which it splits into parts of {parts.size} and a"
            f" remainder of {parts.rest}, and results of the remainder that do not fit those of the"
            f" other parts; give microbatches that divide {parts.rows}, or reduce over the rows"
            " inside the function:\n  " + "\n  ".join(wrong)
        )
    _, state = _changed(task, left, held)
    return Results(jax.tree.leaves(result), state)


def _as_array(leaf: Any) -> Any:
    """A result leaf, where a number may stand, as an array; keys are arrays already."""
    return leaf if isinstance(leaf, jax.Array) or not is_array(leaf) else jnp.asarray(leaf)


def _zeros(program: _Program) -> Results:
    """The buffer to add to: nothing at leaves that are stacked."""
    summed = [
        _zero(leaf, sum_dtype(leaf.dtype))
        for leaf, word in zip(program.like.leaves, program.words, strict=True)
        if word != "stack"
    ]
    return Results(summed, [])


def _zero(aval: Any, dtype: Any) -> Any:
    """Zeros typed as `aval` is, with its mesh axes and sharding: what a scan must start from."""
    zeros = _jax.varied(jnp.zeros(aval.shape, dtype), _jax.varying(aval))
    return _jax.placed_like(zeros, aval)


def _finish(program: _Program, sums: list[Any], weight: Any, full: float) -> list[Any]:
    """The reduced leaves in their own dtypes; `full` is the rows in units of a full micro-batch."""
    kept = [
        (aval.dtype, word)
        for aval, word in zip(program.like.leaves, program.words, strict=True)
        if word != "stack"
    ]
    return [
        in_dtype(mean(total, weight, full) if word == "mean" else total, dtype)
        for total, (dtype, word) in zip(sums, kept, strict=True)
    ]
