"""How the results of micro-batches become one: a mean, a sum or a stack."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .._calls import path_of
from .._leaves import takes_gradient
from ..errors import TreeError, UsageError

WORDS = ("mean", "sum", "stack")


def check_words(reduce: Any) -> None:
    for path, word in jax.tree_util.tree_leaves_with_path(reduce):
        if not isinstance(word, str) or word not in WORDS:
            where = jax.tree_util.keystr(path)
            raise UsageError(
                f"`microbatch` got {word!r} in `reduce`{where and f' at {where}'}, and wants"
                ' "mean", "sum" or "stack"'
            )


def words_of(reduce: Any, result: Any) -> tuple[str, ...]:
    """How each leaf of `result` is reduced, refused where its dtype does not allow it."""
    try:
        words = tuple(jax.tree.leaves(jax.tree.broadcast(reduce, result)))
    except ValueError as error:
        raise TreeError(
            "`microbatch` got a `reduce` that is not a prefix of what the function returns: got"
            f" {jax.tree.structure(reduce)}, wanted a prefix of {jax.tree.structure(result)}"
        ) from error
    for index, (leaf, word) in enumerate(zip(jax.tree.leaves(result), words, strict=True)):
        dtype = jnp.result_type(leaf)
        fits = takes_gradient(leaf) if word == "mean" else jnp.issubdtype(dtype, jnp.number)
        if word != "stack" and not fits:
            raise UsageError(
                f"`microbatch` got {dtype} at {path_of(result, index) or 'the result'} to reduce by"
                f" {word!r}, and wants {'floats' if word == 'mean' else 'numbers'}; give `reduce`"
                f' another word there (of "mean", "sum", "stack"), or let the function return'
                " floats"
            )
    return words


class Results(NamedTuple):
    """What one micro-batch gives.

    Fields:
        leaves: the leaves of the user's result, in flattening order.
        state: the arrays of objects that it changed.
    """

    leaves: list[Any]
    state: list[Any]


def add(words: tuple[str, ...], acc: Results, results: Results, weight: Any) -> Results:
    """The sums with one micro-batch added.

    Args:
        words: how each leaf is reduced.
        acc: the sums before.
        results: what is added.
        weight: its weight, `None` where it is a full micro-batch among such.
    """
    added = [(r, w) for r, w in zip(results.leaves, words, strict=True) if w != "stack"]
    leaves = []
    for total, (result, word) in zip(acc.leaves, added, strict=True):
        result = in_dtype(result, total.dtype)
        if word in ("mean", "share") and isinstance(weight, jax.Array):
            given = result * weight.astype(total.dtype) if word == "mean" else result
            result = jnp.where(weight == 0, jnp.zeros_like(result), given)
        elif word == "mean" and weight is not None:
            result = result * weight
        leaves.append(lax.add(total, result))
    return Results(leaves, results.state)


def stacked_of(words: tuple[str, ...], results: Results) -> list[Any]:
    return [r for r, word in zip(results.leaves, words, strict=True) if word == "stack"]


def append(words: tuple[str, ...], stacks: list[Any], last: Results) -> list[Any]:
    ends = [jnp.asarray(r)[None] for r in stacked_of(words, last)]
    return [jnp.concatenate(pair) for pair in zip(stacks, ends, strict=True)]


def in_dtype(x: Any, dtype: Any) -> Any:
    """A value in a dtype; to convert one that has it would take time to trace."""
    return x if x.dtype == dtype else x.astype(dtype)


def mean(total: Any, weight: Any, full: float) -> Any:
    if weight is None:
        return total / full
    weight = weight.astype(total.dtype)
    # The inner choice keeps 0/0 out of derivatives, where the outer one alone would let NaN in.
    safe = jnp.where(weight == 0, jnp.ones_like(weight), weight)
    return jnp.where(weight == 0, jnp.zeros_like(total), total / safe)
