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

MOST = 10_000  # objects that are looked into
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


class Reached(NamedTuple):
    """What is reached from some objects.

    Fields:
        slots: the places that can be written to.
        owners: what was looked into, by identity.
    """

    slots: list[Slot]
    owners: dict[int, Any]


def reached(*roots: Any) -> Reached:
    """The places that can be written to and are reached from some objects."""
    slots: list[Slot] = []
    owners: dict[int, Any] = {}
    ahead, seen = deque(roots), set(map(id, roots))
    while ahead and len(seen) < MOST:
        one = ahead.popleft()
        whole = [one]
        if isinstance(one, types.FunctionType):
            whole += [one.__globals__, *(one.__closure__ or ())]
        owners.update((id(x), x) for x in whole)
        for part in _parts(one):
            if isinstance(part, Slot):
                slots.append(part)
                part = part.value
            if not isinstance(part, _ATOMS) and id(part) not in seen:
                seen.add(id(part))
                ahead.append(part)
    return Reached(slots, owners)


def written(before: Reached, after: Reached) -> list[Slot]:
    """The places that hold something else than before, and those in what stands there now.

    What was beyond the `MOST` objects before, has not been written to as far as this can tell.
    """
    held = {(id(slot.owner), _name(slot.key)): slot.value for slot in before.slots}
    missing = object()
    changed = [
        slot
        for slot in after.slots
        if id(slot.owner) in before.owners
        and held.get((id(slot.owner), _name(slot.key)), missing) is not slot.value
    ]
    new = reached(*(slot.value for slot in changed if not isinstance(slot.value, _ATOMS)))
    return [*changed, *(slot for slot in new.slots if id(slot.owner) not in before.owners)]


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
