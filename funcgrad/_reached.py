"""What a function or an object leads to, outside of libraries, and what was written there.

Values that a function returns are in its caller's hands. Those that it writes elsewhere, into
lists, dicts, attributes, variables, are found by a look at all that it can reach, before and after
it runs. The same look finds traced values in objects that JAX does not know as pytrees.
"""

import functools
import sys
import sysconfig
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from . import _jax

_LIBRARIES = ("site-packages", "dist-packages", "<frozen", sysconfig.get_path("stdlib"))
_ROOMS = ("jax", "jaxlib", "numpy", "flax", "funcgrad")  # whose objects are not looked into
_ATOMS = frozenset({str, bytes, int, float, complex, bool, type(None), np.float32, np.float64})


class Slot(NamedTuple):
    """A place that holds a value.

    Fields:
        owner: what has the place.
        name: which one it is, as an error says it: `['h']`, `[0]`, `.h`.
        value: what it holds.
        write: sets it; `None` where it cannot be set.
    """

    owner: Any
    name: str
    value: Any
    write: Callable[[Any], None] | None = None


def traced_inside(thing: Any) -> str | None:
    """Where in an object, or in what a function closes over, there is a traced value.

    >>> traced_inside(types.SimpleNamespace(a=1.0, b=[abs])) is None
    True
    """
    if _jax.is_tracer(thing):
        return ""
    found = ((where, slot) for where, slot in _walk([thing], _held) if _jax.is_tracer(slot.value))
    return next((where + slot.name for where, slot in found), None)


def reached(*roots: Any) -> list[Slot]:
    """The places that can be written to and are reached from some objects, those of atoms apart."""
    return [slot for _, slot in _walk(roots, _led_to) if slot.write]


def written(before: list[Slot], after: list[Slot]) -> list[Slot]:
    """The places that hold what their owner did not hold before."""
    values: dict[int, set[int]] = {}
    for slot in before:
        values.setdefault(id(slot.owner), set()).add(id(slot.value))
    return [slot for slot in after if id(slot.value) not in values.get(id(slot.owner), ())]


def transformed() -> bool:
    """Whether there may be traced values: JAX is running a function of the user's.

    Another thread than the first may have been given some.
    """
    frame: Any = sys._getframe()
    while frame:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "jax":
            return True
        frame = frame.f_back
    return threading.current_thread() is not threading.main_thread()


def _walk(roots: Any, parts: Callable[[Any], Iterator[Slot]]) -> Iterator[tuple[str, Slot]]:
    """All slots that are reached, each with what leads to its owner."""
    ahead, seen = deque(("", root) for root in roots), {id(root): root for root in roots}
    while ahead:
        where, one = ahead.popleft()
        for slot in parts(one):
            yield where, slot
            if id(slot.value) not in seen:
                seen[id(slot.value)] = slot.value
                if not _is(cast(Any, type(slot.value)), jax.Array):
                    ahead.append((where + slot.name, slot.value))


def _full(slots: Iterator[Slot]) -> Iterator[Slot]:
    return (slot for slot in slots if type(slot.value) not in _ATOMS)


def _held(thing: Any) -> Iterator[Slot]:
    """What an object holds, nothing of its class, of a module, or of what a function names.

    No code of the user's runs, but where a class has its own `__class__`: containers are read as
    the built-in ones that they are, and a class of containers of the user's by its attributes.
    """
    if isinstance(thing, type | types.ModuleType):
        return
    if isinstance(thing, types.FunctionType):
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        yield from _full(slot for name, cell in cells for slot in _cell(name, cell))
        yield Slot(thing, ".__defaults__", thing.__defaults__)
        yield Slot(thing, ".__kwdefaults__", thing.__kwdefaults__)
        yield from _of_dict(thing)
    elif isinstance(thing, types.MethodType | types.BuiltinMethodType):
        yield Slot(thing, ".self", thing.__self__)
        yield Slot(thing, ".func", getattr(thing, "__func__", None))
    elif isinstance(thing, functools.partial):
        yield from (Slot(thing, f".{x}", getattr(thing, x)) for x in ("func", "args", "keywords"))
    elif isinstance(thing, tuple | set | frozenset):
        items: Any = next(k for k in (tuple, set, frozenset) if isinstance(thing, k)).__iter__
        yield from _full(Slot(thing, f"[{i}]", x) for i, x in enumerate(items(thing)))
    elif isinstance(thing, dict):
        keys = [key for key, x in [*dict.items(thing)] if type(x) not in _ATOMS]
        yield from (_item(dict, thing, key) for key in keys)
        yield from _attributes(thing)
    elif isinstance(thing, list | deque):
        kind: Any = list if isinstance(thing, list) else deque
        keys = [index for index, x in enumerate(kind.__iter__(thing)) if type(x) not in _ATOMS]
        yield from (_item(kind, thing, index) for index in keys)
        yield from _attributes(thing)
    elif isinstance(thing, np.ndarray):
        if thing.dtype.hasobject:
            yield from _full(_item(np.ndarray, thing, index) for index in np.ndindex(thing.shape))
    else:
        yield from _attributes(thing)


def _led_to(thing: Any) -> Iterator[Slot]:
    """The same, and what is named by a function of the user's, or is of a class of the user's."""
    if isinstance(thing, types.ModuleType):
        return
    if isinstance(thing, type):
        if not _of_library(sys.modules.get(thing.__module__)):
            for name, x in [*vars(thing).items()]:
                if type(x) not in _ATOMS and not name.startswith("__"):
                    yield Slot(thing, f".{name}", x, functools.partial(setattr, thing, name))
            yield from (Slot(thing, f".{base.__name__}", base) for base in thing.__bases__)
    elif isinstance(thing, types.FunctionType):
        if any(word in thing.__code__.co_filename for word in _LIBRARIES):
            return
        yield from _held(thing)
        names = names_of(thing.__code__)
        yield from _full(_item(dict, thing.__globals__, x) for x in names if x in thing.__globals__)
        for module in {id(x): x for x in map(thing.__globals__.get, names)}.values():
            if isinstance(module, types.ModuleType) and not _of_library(module):
                yield from _full(_item(dict, vars(module), x) for x in names if x in vars(module))
    elif isinstance(thing, staticmethod | classmethod):
        yield Slot(thing, "", thing.__func__)
    elif isinstance(thing, property):
        yield from (Slot(thing, "", x) for x in (thing.fget, thing.fset, thing.fdel))
    elif type(thing).__module__.partition(".")[0] not in _ROOMS:
        yield from _held(thing)
        yield Slot(thing, ".__class__", type(thing))


@functools.lru_cache(maxsize=4096)
def names_of(code: types.CodeType) -> frozenset[str]:
    """The names that code reads by name: of globals and of attributes."""
    inner = (names_of(x) for x in code.co_consts if isinstance(x, types.CodeType))
    return frozenset(code.co_names).union(*inner)


def _of_library(module: Any) -> bool:
    """Whether a module, if it is there, is not the user's own."""
    file = getattr(module, "__file__", None) or ""
    name = getattr(module, "__name__", "")
    return name != "__main__" and (not file or any(word in file for word in _LIBRARIES))


def _item(kind: Any, owner: Any, key: Any) -> Slot:
    """An item as the built-in class has it, whatever a subclass makes of it."""
    name = f"[{key!r}]" if type(key) in _ATOMS else "[...]"
    value = kind.__getitem__(owner, key)
    return Slot(owner, name, value, functools.partial(kind.__setitem__, owner, key))


def _cell(name: str, cell: types.CellType) -> Iterator[Slot]:
    try:
        value = cell.cell_contents
    except ValueError:  # it is empty
        return
    yield Slot(cell, f".{name}", value, functools.partial(setattr, cell, "cell_contents"))


def _attributes(thing: Any) -> Iterator[Slot]:
    yield from _of_dict(thing)
    for name, member in _members(cast(Any, type(thing))):
        try:
            value = member.__get__(thing)
        except AttributeError:  # it is empty
            continue
        yield Slot(thing, f".{name}", value, functools.partial(object.__setattr__, thing, name))


def _of_dict(thing: Any) -> Iterator[Slot]:
    try:
        own = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return
    if isinstance(own, dict):
        for key in [key for key, x in own.items() if type(x) not in _ATOMS]:
            yield Slot(thing, f".{key}", own[key], functools.partial(own.__setitem__, key))


@functools.lru_cache(maxsize=4096)
def _members(kind: Any) -> tuple[tuple[str, Any], ...]:
    """The attributes that objects of a class keep apart from their dict, and what reads them."""
    members = ((name, x) for base in kind.__mro__ for name, x in vars(base).items())
    return tuple((name, x) for name, x in members if isinstance(x, types.MemberDescriptorType))


@functools.lru_cache(maxsize=4096)
def _is(kind: Any, other: Any) -> bool:
    """`issubclass`, which asks Python code for an abstract class."""
    return issubclass(kind, other)
