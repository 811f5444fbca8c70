"""What a function writes into objects from outside: lists, dicts, attributes, variables.

Values that a function returns are in its caller's hands. Those that it writes elsewhere are found
by a look at what it can reach, before and after it runs.
"""

import functools
import types
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from typing import Any, NamedTuple

import jax
import numpy as np

MOST = 2_000  # objects that are looked into
_LIBRARIES = ("site-packages", "dist-packages", "<frozen")
_ATOMS = (
    *(str, bytes, int, float, complex, bool, type(None), type, types.ModuleType),
    *(jax.Array, np.ndarray, np.generic),
)
_ROOMS = ("jax", "jaxlib", "numpy", "flax", "funcgrad")  # whose objects are not looked into


class Slot(NamedTuple):
    """A place that holds a value.

    Fields:
        owner: what has the place.
        key: which one it is.
        value: what it holds.
        write: sets it.
    """

    owner: Any
    key: Any
    value: Any
    write: Callable[[Any], None]


def slots(*roots: Any) -> list[Slot]:
    """The places that can be written to and are reached from some objects."""
    found, ahead, seen = [], deque(roots), set(map(id, roots))
    while ahead and len(seen) < MOST:
        for part in _parts(ahead.popleft()):
            if isinstance(part, Slot):
                found.append(part)
                part = part.value
            if not isinstance(part, _ATOMS) and id(part) not in seen:
                seen.add(id(part))
                ahead.append(part)
    return found


def written(before: list[Slot], after: list[Slot]) -> list[Slot]:
    """The places that hold something else than before, or that there were not."""
    held = {(id(slot.owner), _name(slot.key)): slot.value for slot in before}
    missing = object()
    return [
        slot
        for slot in after
        if held.get((id(slot.owner), _name(slot.key)), missing) is not slot.value
    ]


def _name(key: Any) -> Any:
    return key if isinstance(key, str | int) else id(key)


def _parts(thing: Any) -> Iterator[Any]:
    """The slots of an object, and what it holds that cannot be written to."""
    if isinstance(thing, types.FunctionType):
        if any(word in thing.__code__.co_filename for word in _LIBRARIES):
            return
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        for name, cell in cells:
            yield from _cell(name, cell)
        used = set(thing.__code__.co_names) & set(thing.__globals__)
        yield from (_item(thing.__globals__, name) for name in sorted(used))
        yield from _attributes(thing)
        yield getattr(thing, "__wrapped__", None)
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, tuple | set | frozenset):
        yield from thing
    elif isinstance(thing, MutableMapping):
        yield from (_item(thing, key) for key in list(thing))
    elif isinstance(thing, MutableSequence) and not isinstance(thing, bytearray):
        yield from (_item(thing, index) for index in range(len(thing)))
    elif type(thing).__module__.partition(".")[0] not in _ROOMS:
        yield from _attributes(thing)


def _item(owner: Any, key: Any) -> Slot:
    return Slot(owner, key, owner[key], functools.partial(owner.__setitem__, key))


def _cell(name: str, cell: types.CellType) -> Iterator[Slot]:
    try:
        value = cell.cell_contents
    except ValueError:  # it is empty
        return
    yield Slot(cell, name, value, functools.partial(setattr, cell, "cell_contents"))


def _attributes(thing: Any) -> Iterator[Slot]:
    held = getattr(thing, "__dict__", None)
    if isinstance(held, dict):
        yield from (
            Slot(thing, k, held[k], functools.partial(held.__setitem__, k)) for k in [*held]
        )
    for kind in type(thing).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType) and hasattr(thing, name):
                write = functools.partial(object.__setattr__, thing, name)
                yield Slot(thing, name, getattr(thing, name), write)
