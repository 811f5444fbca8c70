"""What mutable objects hold: read, compared and written, by their kind."""

import collections
import contextlib
import dis
import functools
import operator
import types
import warnings
from collections.abc import Callable, Collection
from typing import Any, cast

import jax
import numpy as np

from ._stage import Frozen, Undefined


def alike(a: Any, b: Any) -> bool:
    """Whether contents are the same objects."""
    if a is b:
        return True
    if type(a) is not type(b) or isinstance(a, jax.Array | np.ndarray):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(operator.is_, a, b))
    if isinstance(a, collections.OrderedDict):
        return list(map(id, a)) == list(map(id, b)) and all(
            map(operator.is_, a.values(), b.values())
        )
    return isinstance(a, Frozen) and a == b


def cell_contents(cell: types.CellType, name: str) -> dict[str, Any]:
    try:
        value = cell.cell_contents
    except ValueError:  # it is empty
        return {}
    return {name: value}


def assign_cell(cell: types.CellType, _: str, value: Any) -> None:
    if isinstance(value, Undefined) and not value.name:
        del cell.cell_contents
    else:
        cell.cell_contents = value


def named(module: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: module[name] for name in names if name in module}


def item_assigner(owner: dict[str, Any]) -> Callable[[str, Any], None]:
    def assign(key: str, value: Any) -> None:
        if isinstance(value, Undefined):
            owner.pop(key, None)
        else:
            owner[key] = value

    return assign


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes that an object keeps itself."""
    found = dict(getattr(value, "__dict__", ()))
    if isinstance(value, type):
        return {k: v for k, v in found.items() if not k.startswith(("__", "_abc_"))}
    for name in _slots(cast(Any, type(value))):
        try:
            found[name] = object.__getattribute__(value, name)
        except AttributeError:
            continue
    return found


@functools.lru_cache(maxsize=4096)
def _slots(kind: Any) -> tuple[str, ...]:
    return tuple(
        name
        for base in kind.__mro__
        for name, x in vars(base).items()
        if isinstance(x, types.MemberDescriptorType) and not name.startswith("__")
    )


def assign_attribute(owner: Any, key: str, value: Any) -> None:
    base: Any = type if isinstance(owner, type) else object
    if isinstance(value, Undefined):
        with contextlib.suppress(AttributeError):
            base.__delattr__(owner, key)
    elif isinstance(owner, type) or key in _slots(cast(Any, type(owner))):
        base.__setattr__(owner, key, value)
    else:
        owner.__dict__[key] = value


def is_cached(owner: Any, key: Any) -> bool:
    """Whether an attribute only keeps what would be computed again."""
    kind = type(owner)
    found = next((vars(x)[key] for x in kind.__mro__ if key in vars(x)), None) if key else None
    return isinstance(found, functools.cached_property)


# Containers.


def assign_list(owner: Any, items: Any) -> None:
    list.__setitem__(owner, slice(None), items)


def assign_deque(owner: Any, items: Any) -> None:
    collections.deque.clear(owner)
    collections.deque.extend(owner, items)


def assign_dict(owner: Any, items: Any) -> None:
    base: Any = collections.OrderedDict if isinstance(owner, collections.OrderedDict) else dict
    base.clear(owner)
    for key, value in items.items():
        base.__setitem__(owner, key, value)


def assign_set(owner: Any, items: Frozen) -> None:
    set.clear(owner)
    set.update(owner, items.value)


# Iterators.


def reduced(iterator: Any) -> tuple[Any, ...]:
    """How a built-in iterator would be copied: what it goes over, and how far it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return tuple(iterator.__reduce__())
    except Exception:
        return ()


def position_of(iterator: Any) -> Frozen:
    made = reduced(iterator)
    if len(made) > 2 and isinstance(made[2], int):
        return Frozen("position", made[2])
    marks = [x if isinstance(x, int) else _size(x) for part in made[1:] for x in _items(part)]
    left = None if made else operator.length_hint(iterator, -1)
    return Frozen("position", (marks, left))


def _items(part: Any) -> tuple[Any, ...]:
    return part if isinstance(part, tuple) else (part,)


def _size(value: Any) -> Any:
    return len(value) if isinstance(value, list | tuple | set | str) else None


# What the names of code refer to.


@functools.lru_cache(maxsize=4096)
def stored_by(code: types.CodeType) -> frozenset[str]:
    """The globals that code gives a value."""
    inner = (stored_by(x) for x in code.co_consts if isinstance(x, types.CodeType))
    own = {x.argval for x in dis.get_instructions(code) if x.opname == "STORE_GLOBAL"}
    return frozenset(own).union(*inner)
