"""A function of pytrees as one of arrays, some of which are differentiated."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._argnums import places, positions
from ..._describe import describe
from ..._lists import merge, select
from ..._trees import Split, is_array
from ...errors import UsageError


class Flat(NamedTuple):
    """A function of arrays, and the arrays.

    Fields:
        run: from arrays to the arrays among what the function returns.
        arrays: the arrays among the arguments, or their types.
        paths: what each is called, `argument 0['w']`.
        moving: for each, whether it is differentiated.
    """

    run: Callable[[Sequence[Any]], list[Any]]
    arrays: list[Any]
    paths: list[str]
    moving: list[bool]

    def taken(self, arrays: Sequence[Any]) -> list[Any]:
        """Of so many arrays, those that are differentiated."""
        return select(arrays, self.moving)

    def merged(self, leaves: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
        """`arrays` with `leaves` for those that are differentiated."""
        rest = [x for x, moving in zip(arrays, self.moving, strict=True) if not moving]
        return merge(self.moving, leaves, rest)


def flatten(fun: Any, args: Any, argnums: Any, function: str) -> Flat:
    """`fun` and its arguments, flat.

    Raises:
        UsageError: `fun` is no function, `argnums` of a wrong form, or nothing to differentiate.
    """
    if not callable(fun):
        raise UsageError(
            f"`{function}` got {describe(fun)}, and wants a function and its arguments:"
            f" {function}(loss, params, batch)"
        )
    chosen = tuple(range(len(args)))
    if argnums is not None:
        chosen = places(positions(argnums, function)[1], len(args), function)
    found = jax.tree_util.tree_leaves_with_path(args)
    array = [is_input(leaf) for _, leaf in found]
    rest = tuple(leaf for (_, leaf), a in zip(found, array, strict=True) if not a)
    recipe = Split(jax.tree.structure(args), tuple(array), rest)
    arrays = select(found, array)
    moving = [path[0].idx in chosen and inexact(leaf) for path, leaf in arrays]
    if not any(moving):
        raise UsageError(
            f"`{function}` got arguments none of which takes a gradient:"
            f" {', '.join(describe(leaf) for _, leaf in arrays) or 'no arrays'}; it wants floating"
            " or complex arrays among those that `argnums` names"
        )

    def run(arrays: Sequence[Any]) -> list[Any]:
        return [x for x in jax.tree.leaves(fun(*recipe.join(arrays))) if is_array(x)]

    paths = [f"argument {path[0].idx}{jax.tree_util.keystr(path[1:])}" for path, _ in arrays]
    return Flat(run, [leaf for _, leaf in arrays], paths, moving)


def is_input(leaf: Any) -> bool:
    """Whether a leaf is traced: an array, a type or a float; ints and bools are passed as they are.

    >>> is_input(1.0), is_input(True), is_input(3)
    (True, False, False)
    """
    array = is_array(leaf) and not isinstance(leaf, int)
    return array or isinstance(leaf, jax.ShapeDtypeStruct)


def inexact(x: Any) -> bool:
    """Whether an array or a type is floating or complex; keys of random numbers are neither."""
    dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
    return bool(jnp.issubdtype(dtype, jnp.inexact))
