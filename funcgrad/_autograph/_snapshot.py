"""What a branch or loop may change besides its variables: the objects that it can reach.

A branch that Python runs while tracing changes lists, dicts, sets, arrays of NumPy and attributes
on the spot, whether it is taken or not. A `Snapshot` goes from the functions of a statement to all
that their names reach: through containers, attributes, closures and globals, and through what the
user's own functions and classes refer to in turn; not into libraries and modules. It keeps what
each mutable object holds. After a body has run, `changes` says where an object holds something
else, and the end of `watching` puts the old contents back. So each path starts from the same
objects, and the caller may then `write` what holds after all of them.

An array of NumPy cannot hold what is traced. It is read-only while a body runs.
"""

import argparse
import collections
import contextlib
import dis
import functools
import gc
import io
import operator
import pickle
import random
import sys
import types
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from .._tags import caller
from ..errors import FuncgradError, UsageError
from ._refuse import line_of, of_one_path
from ._stage import INSIDE, Frozen, Undefined

_ATOMS = frozenset({int, float, complex, bool, str, bytes, range, slice, type(None), Undefined})


class Part(NamedTuple):
    """A mutable object of the snapshot.

    Fields:
        owner: the object.
        read: its contents by key; the key is None where they are one whole.
        write: sets the contents of a key, or deletes it where they are `Undefined`. None: what the
            object has done cannot be undone.
        before: its contents when the snapshot was taken.
    """

    owner: Any
    read: Callable[[], dict[Any, Any]]
    write: Callable[[Any, Any], None] | None
    before: dict[Any, Any]


class Change(NamedTuple):
    """The contents of an object, or one attribute of it, that a body left different.

    Fields:
        name: what errors call it: `log`, `self.count`, `cells[0]`.
        part: the object.
        key: which of its contents.
    """

    name: str
    part: Part
    key: Any

    @property
    def before(self) -> Any:
        """What it held when the snapshot was taken."""
        return self.part.before.get(self.key, Undefined(self.name))

    @property
    def now(self) -> Any:
        """What it holds."""
        return self.part.read().get(self.key, Undefined(self.name))

    def write(self, value: Any) -> None:
        """Gives it these contents."""
        assert self.part.write is not None
        self.part.write(self.key, value)


Changes = dict[tuple[int, Any], Change]


class Snapshot:
    """The mutable objects that functions can reach, and what they hold now.

    Args:
        functions: the bodies of a statement.
        own: whether a function or class is the user's.
        apart: the statement's variables, which are joined by name: what they hold is looked at,
            and that they come to hold something else is no change.
        unread: variables of which no one reads what the bodies do to them. Where nothing else
            refers to what they hold, it may change.
        loose: variables of which no one reads what they hold unless the first body has run; so
            what it is otherwise does not matter, again where nothing else refers to it.
        past: variables that are not looked into.
    """

    def __init__(
        self,
        functions: Iterable[Any],
        own: Callable[[Any], bool],
        apart: Collection[str] = (),
        unread: Collection[str] = (),
        loose: Collection[str] = (),
        past: Collection[str] = (),
    ):
        self._past = {*past, "ag__"}
        self.own, self._apart = own, set(apart)
        self._unread, self._loose = unread, loose
        self.loose: set[int] = set()
        self.held: dict[int, Any] = {}
        self.arrays: set[int] = set()
        self._seen: dict[int, Any] = {}
        self._sources: dict[int, tuple[Any, str, Any]] = {}
        self._parts: list[Part] = []
        self._buffers: list[np.ndarray[Any, Any]] = []
        self._caches: list[Any] = []
        self._globals: dict[int, tuple[dict[str, Any], set[str]]] = {}
        self._waiting: collections.deque[Any] = collections.deque()
        for generator in _shared_generators():
            self._add(generator, "root", "random numbers", None)
        for function in functions:
            self._add(function, "root", "", None)
        while self._waiting:
            _reach(self._waiting.popleft(), self)
        for module, names in self._globals.values():
            self._part(module, functools.partial(_named, module, names), _assign_item(module))

    @property
    def fixed(self) -> bool:
        """Whether there is something among it that cannot be put back, like an iterator."""
        return any(part.write is None for part in self._parts)

    def reaches(self, value: Any) -> bool:
        """Whether an object is among what the functions can reach."""
        return id(value) in self._seen

    def changes(self) -> Changes:
        """What the objects hold that they did not hold before.

        Raises:
            UsageError: one of them has changed that cannot be put back.
        """
        found: Changes = {}
        for number, part in enumerate(self._parts):
            for key in _differing(part):
                name = self._name(part.owner, key)
                if part.write is None:
                    if id(part.owner) in self.loose:
                        continue
                    raise UsageError(
                        f"`autograph` got a traced branch or loop at {_here()} that takes a"
                        f" further item of `{name}`, which Python does while tracing and not at"
                        " each step; go over an array, or take the values before"
                    )
                if not _caching(part.owner, key):
                    found[number, key] = Change(name, part, key)
        return found

    def restore(self) -> None:
        """Puts everything back that can be."""
        for part in self._parts:
            if part.write is not None:
                for key in _differing(part):
                    part.write(key, part.before.get(key, Undefined("")))
        for cache, misses in self._caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()  # it may hold what was computed in a program that is gone

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around a body that runs on the objects: NumPy's arrays cannot be written, all is put back.

        Raises:
            UsageError: the body writes to an array of NumPy.
        """
        writable = [x for x in self._buffers if x.flags.writeable]
        for array in writable:
            array.flags.writeable = False
        try:
            with of_one_path(_here()):
                yield
        except ValueError as error:
            if isinstance(error, FuncgradError) or "read-only" not in str(error):
                raise
            raise self._written(error) from None
        finally:
            for array in reversed(writable):
                array.flags.writeable = True
            self.restore()

    def _written(self, error: ValueError) -> UsageError:
        names = ", ".join(sorted({f"`{self._name(x, None)}`" for x in self._buffers})) or "it"
        which = f"one of {names}" if ", " in names else names
        return UsageError(
            f"`autograph` got a write into an array of NumPy ({which}) from outside the traced"
            f" branch or loop at {_here()}: {line_of(error)}. Such an array cannot hold what is"
            " traced; make it one of jax.numpy before, and assign a new value:"
            " x = x.at[i].set(v), x = x + 1"
        )

    # How it gets about.

    def _add(self, value: Any, how: str, key: Any, parent: Any) -> None:
        """Notes a value that is to be looked into, and where it was found."""
        if type(value) in _ATOMS or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, jax.Array):
            self.arrays.add(id(value))
            return
        self._sources[id(value)] = (parent, how, key)
        self._waiting.append(value)

    def _part(self, owner: Any, read: Any, write: Any, before: Any = None) -> None:
        self._parts.append(Part(owner, read, write, read() if before is None else before))

    def _whole(self, owner: Any, copied: Callable[[Any], Any], assign: Any) -> None:
        """An object whose contents are one."""
        self._part(owner, lambda: {None: copied(owner)}, assign and (lambda _, x: assign(owner, x)))

    def _hold(self, owner: Any) -> None:
        """Notes a mutable object: wherever it is found in, it stays this very object."""
        self.held[id(owner)] = owner

    def _name(self, owner: Any, key: Any) -> str:
        parent, how, found = self._sources.get(id(owner), (None, "root", ""))
        shown = str(found) if parent is None else self._name(parent, None) + _SUFFIXES[how](found)
        if key is None:
            return shown
        cell = isinstance(owner, types.CellType | dict)
        return str(key) if cell or not shown else f"{shown}.{key}"

    def _instance(self, value: Any) -> None:
        self._hold(value)
        self._attributes(value)
        self._add(type(value), "root", type(value).__name__, None)

    def _attributes(self, value: Any) -> None:
        read = functools.partial(_attributes, value)
        before = read()
        for key, inner in before.items():
            self._add(inner, "attribute", key, value)
        self._part(value, read, functools.partial(_assign_attribute, value), before)

    def _function(self, fun: types.FunctionType) -> None:
        for name, cell in zip(fun.__code__.co_freevars, fun.__closure__ or (), strict=True):
            self._cell(name, cell)
        names = names_of(fun.__code__)
        found = {name: fun.__globals__[name] for name in names if name in fun.__globals__}
        for name, value in found.items():
            if isinstance(value, types.ModuleType):
                self._module(value, names)
            else:
                self._add(value, "root", name, None)
        _, known = self._globals.setdefault(id(fun.__globals__), (fun.__globals__, set()))
        known |= (found.keys() | _stored(fun.__code__)) - self._apart
        for value in (*(fun.__defaults__ or ()), *(fun.__kwdefaults__ or {}).values()):
            self._add(value, "root", f"a default value of {fun.__name__}", None)
        self._attributes(fun)

    def _module(self, module: types.ModuleType, names: Collection[str]) -> None:
        """The user's own module, as far as its attributes are named."""
        if self.own(module):
            contents = vars(module)
            found = {name for name in names if name in contents}
            for name in found:
                self._add(contents[name], "root", f"{module.__name__}.{name}", None)
            _, known = self._globals.setdefault(id(contents), (contents, set()))
            known |= found

    def _cell(self, name: str, cell: types.CellType) -> None:
        if name in self._past or id(cell) in self._seen:
            return
        self._seen[id(cell)] = cell
        alone = _references(cell) <= _ALONE
        value = _cell_contents(cell, name).get(name)
        if alone and name in self._unread and _has_parts(value):
            for inner in gc.get_referents(value):
                self._add(inner, "element", None, cell)
            return
        if alone and name in self._loose:
            self.loose.add(id(value))
        self._add(value, "root", name, None)
        if name not in self._apart:
            self._sources[id(cell)] = (None, "root", name)
            read = functools.partial(_cell_contents, cell, name)
            self._part(cell, read, functools.partial(_assign_cell, cell))


def _references(cell: types.CellType) -> int:
    value = _cell_contents(cell, "value").get("value")
    return sys.getrefcount(value)


def _has_parts(value: Any) -> bool:
    """Whether all that an object refers to are its items."""
    return type(value) in (list, dict, set, collections.deque)


_SUFFIXES: dict[str, Callable[[Any], str]] = {
    "item": lambda key: f"[{key!r}]",
    "attribute": lambda key: f".{key}",
    "element": lambda key: "'s element",
    "root": lambda key: "",
}


# What a value leads to, by its kind.


@functools.singledispatch
def _reach(value: Any, to: Snapshot) -> None:
    """An object of the user's own class; a library's is not looked into."""
    if to.own(type(value)):
        to._instance(value)
    elif callable(value) and hasattr(value, "__wrapped__"):
        to._add(value.__wrapped__, "root", getattr(value, "__name__", ""), None)


@_reach.register(type({}.keys()))
@_reach.register(type({}.values()))
@_reach.register(type({}.items()))
def _(value: Any, to: Snapshot) -> None:
    for inner in gc.get_referents(value):  # `mapping` would be a read-only view
        to._add(inner, "root", "a dict", None)


@_reach.register
def _(value: types.FunctionType, to: Snapshot) -> None:
    if to.own(value):
        to._function(value)
    elif hasattr(value, "__wrapped__"):
        to._add(value.__wrapped__, "root", value.__name__, None)


@_reach.register
def _(value: type, to: Snapshot) -> None:
    if to.own(value):
        to._attributes(value)
        for base in value.__mro__[1:]:
            to._add(base, "root", base.__name__, None)


@_reach.register
def _(value: types.MethodType, to: Snapshot) -> None:
    to._add(value.__func__, "root", value.__func__.__name__, None)
    to._add(value.__self__, "root", "self", None)


@_reach.register
def _(value: types.BuiltinMethodType, to: Snapshot) -> None:
    if not isinstance(value.__self__, types.ModuleType | type | None):
        to._add(value.__self__, "root", f"the object of {value.__name__}", None)


@_reach.register(functools.partial)
def _(value: Any, to: Snapshot) -> None:
    for part in (value.func, *value.args, *value.keywords.values()):
        to._add(part, "root", "an argument of a functools.partial", None)


@_reach.register(staticmethod)
@_reach.register(classmethod)
def _(value: Any, to: Snapshot) -> None:
    to._add(value.__func__, "root", "", None)


@_reach.register
def _(value: property, to: Snapshot) -> None:
    for part in (value.fget, value.fset, value.fdel):
        to._add(part, "root", "", None)


@_reach.register(type(functools.lru_cache(len)))
def _(value: Any, to: Snapshot) -> None:
    to._caches.append((value, value.cache_info().misses))
    to._add(value.__wrapped__, "root", value.__name__, None)


@_reach.register(types.ModuleType)
@_reach.register(io.IOBase)
def _(value: Any, to: Snapshot) -> None:
    """Not looked into."""


@_reach.register
def _(value: tuple, to: Snapshot) -> None:  # type: ignore[type-arg]
    for key, inner in enumerate(value):
        to._add(inner, "item", key, value)


def _assign_list(owner: Any, items: Any) -> None:
    list.__setitem__(owner, slice(None), items)


def _assign_deque(owner: Any, items: Any) -> None:
    collections.deque.clear(owner)
    collections.deque.extend(owner, items)


def _assign_dict(owner: Any, items: Any) -> None:
    base: Any = collections.OrderedDict if isinstance(owner, collections.OrderedDict) else dict
    base.clear(owner)
    for key, value in items.items():
        base.__setitem__(owner, key, value)


def _assign_set(owner: Any, items: Frozen) -> None:
    set.clear(owner)
    set.update(owner, items.value)


@_reach.register(list)
@_reach.register(collections.deque)
def _(value: Any, to: Snapshot) -> None:
    for key, inner in enumerate(value):
        to._add(inner, "item", key, value)
    _container(value, to, list, _assign_list if isinstance(value, list) else _assign_deque)


@_reach.register
def _(value: dict, to: Snapshot) -> None:  # type: ignore[type-arg]
    for key, inner in value.items():
        to._add(inner, "item", key, value)
    _container(value, to, collections.OrderedDict, _assign_dict)


@_reach.register
def _(value: set, to: Snapshot) -> None:  # type: ignore[type-arg]
    for inner in value:
        to._add(inner, "element", None, value)
    _container(value, to, lambda x: Frozen("set", frozenset(x)), _assign_set)


@_reach.register
def _(value: bytearray, to: Snapshot) -> None:
    def assign(owner: Any, contents: Frozen) -> None:
        owner[:] = contents.value

    _container(value, to, lambda x: Frozen("bytes", bytes(x)), assign)


def _container(value: Any, to: Snapshot, copied: Any, assign: Any) -> None:
    to._hold(value)
    to._whole(value, copied, assign)
    if hasattr(value, "__dict__"):
        to._attributes(value)


@_reach.register
def _(value: np.ndarray, to: Snapshot) -> None:  # type: ignore[type-arg]
    to._buffers.append(value)
    to._hold(value)
    if value.dtype.hasobject:
        for inner in value.flat:
            to._add(inner, "element", None, value)
    if isinstance(value.base, np.ndarray):
        to._add(value.base, "attribute", "base", value)


@_reach.register(argparse.Namespace)
@_reach.register(types.SimpleNamespace)
def _(value: Any, to: Snapshot) -> None:
    to._hold(value)
    to._attributes(value)


@_reach.register
def _(value: random.Random, to: Snapshot) -> None:
    _random(value, to, value.getstate, value.setstate)


@_reach.register
def _(value: np.random.RandomState, to: Snapshot) -> None:
    _random(value, to, value.get_state, value.set_state)


@_reach.register
def _(value: np.random.Generator, to: Snapshot) -> None:
    bits = value.bit_generator
    _random(value, to, lambda: bits.state, functools.partial(setattr, bits, "state"))


def _random(value: Any, to: Snapshot, get: Any, put: Any) -> None:
    def copied(_: Any) -> Frozen:
        return Frozen("state of the random numbers", pickle.dumps(get()))

    to._hold(value)
    to._whole(value, copied, lambda _, x: put(pickle.loads(x.value)))


def _shared_generators() -> list[Any]:
    """The random numbers that are drawn from without naming them."""
    return [random.random.__self__, np.random.rand.__self__]  # type: ignore[attr-defined]


@_reach.register
def _(value: types.GeneratorType, to: Snapshot) -> None:  # type: ignore[type-arg]
    def position(it: Any) -> Frozen:
        frame = it.gi_frame
        at = frame and (frame.f_lasti, {k: id(v) for k, v in frame.f_locals.items()})
        return Frozen("position", at)

    for key, inner in (value.gi_frame.f_locals if value.gi_frame else {}).items():
        to._add(inner, "root", key, None)
    to._whole(value, position, None)


@_reach.register
def _(value: collections.abc.Iterator, to: Snapshot) -> None:  # type: ignore[type-arg]
    if to.own(type(value)):
        return to._instance(value)
    for inner in _reduced(value)[1:2]:
        to._add(inner, "root", "the object of an iterator", None)
    to._whole(value, _position, None)


def _reduced(iterator: Any) -> tuple[Any, ...]:
    """How a built-in iterator would be copied: what it goes over, and how far it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return iterator.__reduce__()  # type: ignore[no-any-return]
    except Exception:
        return ()


def _position(iterator: Any) -> Frozen:
    made = _reduced(iterator)
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
def names_of(code: types.CodeType) -> frozenset[str]:
    """The names that code reads by name: of globals and of attributes."""
    inner = (names_of(x) for x in code.co_consts if isinstance(x, types.CodeType))
    return frozenset(code.co_names).union(*inner)


@functools.lru_cache(maxsize=4096)
def _stored(code: types.CodeType) -> frozenset[str]:
    """The globals that code gives a value."""
    inner = (_stored(x) for x in code.co_consts if isinstance(x, types.CodeType))
    own = {x.argval for x in dis.get_instructions(code) if x.opname == "STORE_GLOBAL"}
    return frozenset(own).union(*inner)


# Contents.


def _differing(part: Part) -> list[Any]:
    """The keys whose contents are others than before."""
    now, before = part.read(), part.before
    if now is before:
        return []
    keys = [*before, *(key for key in now if key not in before)]
    missing = object()
    return [k for k in keys if not alike(before.get(k, missing), now.get(k, missing))]


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


def _cell_contents(cell: types.CellType, name: str) -> dict[str, Any]:
    try:
        value = cell.cell_contents
    except ValueError:  # it is empty
        return {}
    return {name: value}


_ALONE = _references(types.CellType(object()))  # where nothing but a cell refers to an object


def _assign_cell(cell: types.CellType, _: str, value: Any) -> None:
    if isinstance(value, Undefined) and not value.name:
        del cell.cell_contents
    else:
        cell.cell_contents = value


def _named(module: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: module[name] for name in names if name in module}


def _assign_item(owner: dict[str, Any]) -> Callable[[str, Any], None]:
    def assign(key: str, value: Any) -> None:
        if isinstance(value, Undefined):
            owner.pop(key, None)
        else:
            owner[key] = value

    return assign


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes that an object keeps itself."""
    found = dict(getattr(value, "__dict__", ()))
    if isinstance(value, type):
        return {k: v for k, v in found.items() if not k.startswith(("__", "_abc_"))}
    for name in _slots(type(value)):
        try:
            found[name] = object.__getattribute__(value, name)
        except AttributeError:
            continue
    return found


@functools.lru_cache(maxsize=4096)
def _slots(kind: type) -> tuple[str, ...]:
    return tuple(
        name
        for base in kind.__mro__
        for name, x in vars(base).items()
        if isinstance(x, types.MemberDescriptorType) and not name.startswith("__")
    )


def _assign_attribute(owner: Any, key: str, value: Any) -> None:
    base: Any = type if isinstance(owner, type) else object
    if isinstance(value, Undefined):
        with contextlib.suppress(AttributeError):
            base.__delattr__(owner, key)
    elif isinstance(owner, type) or key in _slots(type(owner)):
        base.__setattr__(owner, key, value)
    else:
        owner.__dict__[key] = value


def _caching(owner: Any, key: Any) -> bool:
    """Whether an attribute only keeps what would be computed again."""
    kind = type(owner)
    found = next((vars(x)[key] for x in kind.__mro__ if key in vars(x)), None) if key else None
    return isinstance(found, functools.cached_property)


def _here() -> str:
    return INSIDE.get() or caller()
