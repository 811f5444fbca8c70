"""What a value leads to, and what of it can change, by its kind.

`reach` gives a [`Snapshot`][funcgrad._autograph._snapshot.Snapshot] the objects that a value refers
to, and the value itself where it can change.
"""

import argparse
import array
import collections
import contextvars
import functools
import gc
import io
import pickle
import queue
import random
import threading
import types
import weakref
from typing import Any

import numpy as np

from ._contents import (
    assign_deque,
    assign_dict,
    assign_list,
    assign_set,
    position_of,
    reduced,
)
from ._stage import Frozen


@functools.singledispatch
def reach(value: Any, to: Any) -> None:
    """An object of the user's own class; a library's is not looked into."""
    if to.own(type(value)):
        to.instance(value)
    elif callable(value) and hasattr(value, "__wrapped__"):
        to.add(value.__wrapped__, "root", getattr(value, "__name__", ""), None)


@reach.register(type({}.keys()))
@reach.register(type({}.values()))
@reach.register(type({}.items()))
def _(value: Any, to: Any) -> None:
    for inner in gc.get_referents(value):  # `mapping` would be a read-only view
        to.add(inner, "part", None, value)


@reach.register
def _(value: types.FunctionType, to: Any) -> None:
    if to.own(value):
        to.function(value)
    elif hasattr(value, "__wrapped__"):
        to.add(value.__wrapped__, "root", value.__name__, None)


@reach.register
def _(value: type, to: Any) -> None:
    if to.own(value):
        to.attributes(value)
        for base in value.__mro__[1:]:
            to.add(base, "root", base.__name__, None)


@reach.register
def _(value: types.MethodType, to: Any) -> None:
    to.add(value.__func__, "root", value.__func__.__name__, None)
    to.add(value.__self__, "root", "self", None)


@reach.register
def _(value: types.BuiltinMethodType, to: Any) -> None:
    if not isinstance(value.__self__, types.ModuleType | type | None):
        to.add(value.__self__, "part", None, value)


@reach.register(functools.partial)
def _(value: Any, to: Any) -> None:
    for part in (value.func, *value.args, *value.keywords.values()):
        to.add(part, "root", "an argument of a functools.partial", None)


@reach.register(staticmethod)
@reach.register(classmethod)
def _(value: Any, to: Any) -> None:
    to.add(value.__func__, "root", "", None)


@reach.register
def _(value: property, to: Any) -> None:
    for part in (value.fget, value.fset, value.fdel):
        to.add(part, "root", "", None)


@reach.register(type(functools.lru_cache(len)))
def _(value: Any, to: Any) -> None:
    to.caches.append((value, value.cache_info().misses))
    to.add(value.__wrapped__, "root", value.__name__, None)


@reach.register
def _(value: types.ModuleType, to: Any) -> None:
    to.module(value, ())


@reach.register(collections.UserDict)
@reach.register(collections.UserList)
@reach.register(collections.ChainMap)
@reach.register(queue.Queue)
@reach.register(threading.local)
@reach.register(weakref.WeakValueDictionary)
@reach.register(weakref.WeakKeyDictionary)
@reach.register(weakref.WeakSet)
def _(value: Any, to: Any) -> None:
    """Written in Python, with all that they hold in attributes."""
    to.instance(value)


@reach.register(io.IOBase)
def _(value: Any, to: Any) -> None:
    """Not looked into."""


@reach.register(io.StringIO)
@reach.register(io.BytesIO)
def _(value: Any, to: Any) -> None:
    if not value.closed:
        to.whole(value, lambda x: Frozen("text", (x.getvalue(), x.tell())), None)


@reach.register
def _(value: contextvars.ContextVar, to: Any) -> None:  # type: ignore[type-arg]
    if not value.name.startswith("funcgrad_"):  # those of ours change while a body runs
        to.add(value.get(None), "part", None, value)
        to.whole(value, lambda x: Frozen("value", id(x.get(None))), None)


@reach.register
def _(value: queue.SimpleQueue, to: Any) -> None:  # type: ignore[type-arg]
    to.whole(value, lambda x: Frozen("length", x.qsize()), None)


@reach.register
def _(value: memoryview, to: Any) -> None:
    """A way into memory that is writable even while its owner is not."""
    to.add(value.obj, "part", None, value)
    to.whole(value, lambda x: Frozen("bytes", x.tobytes()), None)


@reach.register
def _(value: np.flatiter, to: Any) -> None:
    to.add(value.base, "part", None, value)
    to.whole(value, lambda x: Frozen("bytes", x.base.tobytes()), None)


@reach.register
def _(value: tuple, to: Any) -> None:  # type: ignore[type-arg]
    for key, inner in enumerate(value):
        to.add(inner, "item", key, value)


@reach.register(list)
@reach.register(collections.deque)
def _(value: Any, to: Any) -> None:
    for key, inner in enumerate(value):
        to.add(inner, "item", key, value)
    _container(value, to, list, assign_list if isinstance(value, list) else assign_deque)


@reach.register
def _(value: dict, to: Any) -> None:  # type: ignore[type-arg]
    for key, inner in value.items():
        to.add(inner, "item", key, value)
    _container(value, to, collections.OrderedDict, assign_dict)


@reach.register
def _(value: set, to: Any) -> None:  # type: ignore[type-arg]
    for inner in value:
        to.add(inner, "element", None, value)
    _container(value, to, lambda x: Frozen("set", frozenset(x)), assign_set)


@reach.register
def _(value: bytearray, to: Any) -> None:
    def assign(owner: Any, contents: Frozen) -> None:
        owner[:] = contents.value

    _container(value, to, lambda x: Frozen("bytes", bytes(x)), assign)


@reach.register
def _(value: array.array, to: Any) -> None:  # type: ignore[type-arg]
    def assign(owner: Any, contents: Frozen) -> None:
        owner[:] = array.array(owner.typecode, contents.value)

    _container(value, to, lambda x: Frozen("numbers", x.tobytes()), assign)


def _container(value: Any, to: Any, copied: Any, assign: Any) -> None:
    to.hold(value)
    to.whole(value, copied, assign)
    if hasattr(value, "__dict__"):
        to.attributes(value)


@reach.register
def _(value: np.ndarray, to: Any) -> None:
    to.buffers.append(value)
    to.hold(value)
    if value.dtype.hasobject:
        for inner in value.flat:
            to.add(inner, "element", None, value)
    if isinstance(value.base, np.ndarray):
        to.add(value.base, "attribute", "base", value)


@reach.register(argparse.Namespace)
@reach.register(types.SimpleNamespace)
def _(value: Any, to: Any) -> None:
    to.hold(value)
    to.attributes(value)


@reach.register
def _(value: random.Random, to: Any) -> None:
    _random(value, to, value.getstate, value.setstate)


@reach.register
def _(value: np.random.RandomState, to: Any) -> None:
    _random(value, to, value.get_state, value.set_state)


@reach.register
def _(value: np.random.Generator, to: Any) -> None:
    bits = value.bit_generator
    _random(value, to, lambda: bits.state, functools.partial(setattr, bits, "state"))


def _random(value: Any, to: Any, get: Any, put: Any) -> None:
    def copied(_: Any) -> Frozen:
        return Frozen("state of the random numbers", pickle.dumps(get()))

    to.hold(value)
    to.whole(value, copied, lambda _, x: put(pickle.loads(x.value)))


def shared_generators(module: types.ModuleType) -> list[Any]:
    """The random numbers that are drawn by functions of a module."""
    draws: dict[Any, Any] = {random: random.random, np: np.random.rand, np.random: np.random.rand}
    return [draws[module].__self__] if module in draws else []


@reach.register
def _(value: types.GeneratorType, to: Any) -> None:  # type: ignore[type-arg]
    def position(it: Any) -> Frozen:
        frame = it.gi_frame
        at = frame and (frame.f_lasti, {k: id(v) for k, v in frame.f_locals.items()})
        return Frozen("position", at)

    for key, inner in (value.gi_frame.f_locals if value.gi_frame else {}).items():
        to.add(inner, "root", key, None)
    to.whole(value, position, None)


@reach.register
def _(value: collections.abc.Iterator, to: Any) -> None:  # type: ignore[type-arg]
    if to.own(type(value)):
        return to.instance(value)
    for part in reduced(value)[1:2]:
        for inner in part:
            to.add(inner, "part", None, value)
    to.whole(value, position_of, None)
