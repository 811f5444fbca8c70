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

import collections
import contextlib
import functools
import gc
import io
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import _jax
from .._reached import names_of
from .._tags import caller
from ..errors import FuncgradError, UsageError
from ._contents import (
    alike,
    assign_attribute,
    assign_cell,
    attributes_of,
    cell_contents,
    is_cached,
    item_assigner,
    named,
    stored_by,
)
from ._kinds import reach, shared_generators
from ._refuse import line_of, of_one_path, text_of
from ._stage import INSIDE, Undefined

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
        self.buffers: list[np.ndarray[Any, Any]] = []
        self.caches: list[Any] = []
        self._known: list[tuple[Part, Any]] | None = None
        self._globals: dict[int, tuple[dict[str, Any], set[str]]] = {}
        self._waiting: collections.deque[Any] = collections.deque()
        for function in functions:
            self.add(function, "root", "", None)
        while self._waiting:
            reach(self._waiting.popleft(), self)
        for module, names in self._globals.values():
            self.part(module, functools.partial(named, module, names), item_assigner(module))

    @property
    def fixed(self) -> bool:
        """Whether there is something among it that cannot be put back, like an iterator."""
        return any(part.write is None for part in self._parts)

    @property
    def references(self) -> list[str]:
        """The names of references to arrays among it."""
        found = (x for x in self._seen.values() if _jax.is_tracer(x) or isinstance(x, jax.Ref))
        return [f"`{self.name(x)}`" for x in found if _jax.is_reference(x)]

    def reaches(self, value: Any) -> bool:
        """Whether an object is among what the functions can reach."""
        return id(value) in self._seen

    def changes(self, positions: bool = True) -> Changes:
        """What the objects hold that they did not hold before.

        Args:
            positions: whether an iterator that went on is a change.

        Raises:
            UsageError: one of them has changed that cannot be put back.
        """
        found: Changes = {}
        self._known = []
        for number, part in enumerate(self._parts):
            for key in _differing(part):
                self._known.append((part, key))
                name = self.name(part.owner, key)
                if part.write is None:
                    if not positions or id(part.owner) in self.loose:
                        continue
                    went_on = isinstance(part.owner, collections.abc.Iterator)
                    advice = (
                        f"takes a further item of `{name}`, which Python does while tracing and"
                        " not at each step; go over an array, or take the values before"
                        if went_on and not isinstance(part.owner, np.flatiter | io.IOBase)
                        else f"changes `{name}`, which can be neither carried from step to step nor"
                        " chosen; keep what it holds in a variable, a list or a dict"
                    )
                    raise UsageError(
                        f"`autograph` got a traced branch or loop at {_here()} that {advice}"
                    )
                if not is_cached(part.owner, key):
                    found[number, key] = Change(name, part, key)
        return found

    def restore(self) -> None:
        """Puts everything back that can be."""
        for part in self._parts:
            self._put_back((part, key) for key in _differing(part))
        self._forget()

    def _put_back(self, contents: Iterable[tuple[Part, Any]]) -> None:
        for part, key in contents:
            if part.write is not None:
                part.write(key, part.before.get(key, Undefined("")))

    def _forget(self) -> None:
        for cache, misses in self.caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()  # it may hold what was computed in a program that is gone

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around a body: NumPy's arrays cannot be written, and all is put back after it.

        Raises:
            UsageError: the body writes to an array of NumPy.
        """
        writable = [x for x in self.buffers if x.flags.writeable]
        for array in writable:
            array.flags.writeable = False
        self._known = None
        try:
            with of_one_path(_here()):
                yield
        except BaseException as error:
            self.restore()
            written = isinstance(error, ValueError) and "read-only" in str(error)
            if not written or isinstance(error, FuncgradError):
                raise
            raise self._written(error) from None
        finally:
            for array in reversed(writable):
                array.flags.writeable = True
        if self._known is None:
            return self.restore()
        self._put_back(self._known)  # `changes` was the last to look
        self._forget()

    def _written(self, error: BaseException) -> UsageError:
        bases = {id(x.base) for x in self.buffers}
        found = {self.name(x) for x in self.buffers if id(x) not in bases} or {"it"}
        names = ", ".join(f"`{name}`" for name in sorted(found))
        which, line, place = f"one of {names}" if len(found) > 1 else names, line_of(error), _here()
        return UsageError(
            f"`autograph` got {text_of(line)}, a write into an array of NumPy ({which}) from"
            f" outside the traced branch or loop{'' if line == place else f' at {place}'}. Such an"
            " array cannot hold what is traced; make it one of jax.numpy before, and assign a new"
            " value: x = x.at[i].set(v), x = x + 1"
        )

    # How it gets about.

    def add(self, value: Any, how: str, key: Any, parent: Any) -> None:
        """Notes a value that is to be looked into, and where it was found."""
        if type(value) in _ATOMS or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        self._sources[id(value)] = (parent, how, key)
        if isinstance(value, jax.Array):
            self.arrays.add(id(value))
            return
        self._waiting.append(value)

    def part(self, owner: Any, read: Any, write: Any, before: Any = None) -> None:
        self._parts.append(Part(owner, read, write, read() if before is None else before))

    def whole(self, owner: Any, copied: Callable[[Any], Any], assign: Any) -> None:
        """An object whose contents are one."""
        self.part(owner, lambda: {None: copied(owner)}, assign and (lambda _, x: assign(owner, x)))

    def hold(self, owner: Any) -> None:
        """Notes a mutable object: wherever it is found in, it stays this very object."""
        self.held[id(owner)] = owner

    def name(self, owner: Any, key: Any = None) -> str:
        """What errors call an object, or the contents of a key of it."""
        parent, how, found = self._sources.get(id(owner), (None, "root", ""))
        shown = str(found) if parent is None else self.name(parent) + _SUFFIXES[how](found)
        if key is None:
            return shown
        cell = isinstance(owner, types.CellType | dict)
        return str(key) if cell or not shown else f"{shown}.{key}"

    def instance(self, value: Any) -> None:
        self.hold(value)
        self.attributes(value)
        self.add(type(value), "root", type(value).__name__, None)

    def attributes(self, value: Any) -> None:
        read = functools.partial(attributes_of, value)
        before = read()
        for key, inner in before.items():
            self.add(inner, "attribute", key, value)
        self.part(value, read, functools.partial(assign_attribute, value), before)

    def function(self, fun: types.FunctionType) -> None:
        for name, cell in zip(fun.__code__.co_freevars, fun.__closure__ or (), strict=True):
            self.cell(name, cell)
        names = names_of(fun.__code__)
        found = {name: fun.__globals__[name] for name in names if name in fun.__globals__}
        for name, value in found.items():
            if isinstance(value, types.ModuleType):
                self.module(value, names)
            else:
                self.add(value, "root", name, None)
        _, known = self._globals.setdefault(id(fun.__globals__), (fun.__globals__, set()))
        known |= (found.keys() | stored_by(fun.__code__)) - self._apart
        for value in (*(fun.__defaults__ or ()), *(fun.__kwdefaults__ or {}).values()):
            self.add(value, "root", f"a default value of {fun.__name__}", None)
        self.attributes(fun)

    def module(self, module: types.ModuleType, names: Collection[str]) -> None:
        """The user's own module, as far as its attributes are named; random numbers of others."""
        for generator in shared_generators(module):
            self.add(generator, "root", "random numbers", None)
        if self.own(module):
            contents = vars(module)
            found = {name for name in names if name in contents}
            for name in found:
                self.add(contents[name], "root", f"{module.__name__}.{name}", None)
            _, known = self._globals.setdefault(id(contents), (contents, set()))
            known |= found

    def cell(self, name: str, cell: types.CellType) -> None:
        if name in self._past or id(cell) in self._seen:
            return
        self._seen[id(cell)] = cell
        alone = _references(cell) <= _ALONE
        value = cell_contents(cell, name).get(name)
        if alone and name in self._unread and _has_parts(value):
            self._sources[id(cell)] = (None, "root", name)
            if isinstance(value, dict | list | collections.deque):
                for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                    self.add(inner, "item", key, cell)
            for inner in gc.get_referents(value):
                self.add(inner, "element", None, cell)
            return
        if alone and name in self._loose:
            self.loose.add(id(value))
        self.add(value, "root", name, None)
        if name not in self._apart:
            self._sources[id(cell)] = (None, "root", name)
            read = functools.partial(cell_contents, cell, name)
            self.part(cell, read, functools.partial(assign_cell, cell))


def _differing(part: Part) -> list[Any]:
    """The keys whose contents are others than before."""
    now, before = part.read(), part.before
    if now.keys() == before.keys() and all(now[key] is before[key] for key in now):
        return []
    keys = [*before, *(key for key in now if key not in before)]
    missing = object()
    return [k for k in keys if not alike(before.get(k, missing), now.get(k, missing))]


def _references(cell: types.CellType) -> int:
    value = cell_contents(cell, "value").get("value")
    return sys.getrefcount(value)


# Where nothing but a cell refers to an object.
_ALONE = _references(types.CellType(object()))


def _has_parts(value: Any) -> bool:
    """Whether all that an object refers to are its items."""
    return type(value) in (list, dict, set, collections.deque)


_SUFFIXES: dict[str, Callable[[Any], str]] = {
    "item": lambda key: f"[{key!r}]",
    "attribute": lambda key: f".{key}",
    "element": lambda key: "'s element",
    "part": lambda key: "",
}


def _here() -> str:
    return INSIDE.get() or caller()
