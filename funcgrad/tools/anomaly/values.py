"""Values on their way through an evaluation, and what is wrong with them."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ... import _jax
from ..._leaves import takes_gradient
from ..._lists import select

CONSTANT = 0
"""The cause of what a constant brought into the program: `jnp.nan` in it, an array closed over."""


class Value(NamedTuple):
    """An array, and where it comes from.

    Fields:
        array: the array, or a Python number where the program holds one.
        names: the retained names nearest in the data flow before it, each with its place in the
            order of execution.
        cause: if it is bad, the number of the event that made it so, or `CONSTANT`.
        infinite: if it holds infinities, the event that made the first of them, where known.
        entered: if it is a gradient and holds infinities, the event with which they got in.
    """

    array: Any
    names: tuple[tuple[int, str], ...] = ()
    cause: int | None = None
    infinite: Any = None
    entered: Any = None


def merged(values: Sequence[Value], most: int = 3) -> tuple[tuple[int, str], ...]:
    """The names before what is made of `values`: the latest ones."""
    names = {name for value in values for name in value.names}
    return tuple(sorted(names, reverse=True)[:most])


class State(NamedTuple):
    """Whether an array holds any NaN, and any infinity."""

    nan: bool
    inf: bool


@functools.partial(jax.jit, inline=False)
def _states(arrays: list[Any]) -> list[Any]:
    return [(jnp.any(jnp.isnan(x)), jnp.any(jnp.isinf(x))) for x in arrays]


def states(arrays: Sequence[Any]) -> list[State]:
    """The state of each array; integers, bools and keys have nothing wrong with them.

    Nor have references: what is written to one is looked at where it is made.
    """
    able = [takes_gradient(x) and not _jax.is_reference(x) for x in arrays]
    floats = select(arrays, able)
    found = iter(jax.device_get(_states(floats)) if floats else ())
    return [State(*map(bool, next(found))) if can else State(False, False) for can in able]


def bad_entries(array: Any, kind: str) -> Any:
    """A NumPy array of bools: which entries are NaN or infinite, after `kind`."""
    return _tests[kind](np.asarray(array))


_tests = {"nan": np.isnan, "inf": np.isinf}


def first_index(mask: Any) -> tuple[int, ...] | None:
    """The first index, row by row, at which `mask` holds; `None` where it holds nowhere."""
    return tuple(int(i) for i in np.argwhere(mask)[0]) if mask.any() else None
