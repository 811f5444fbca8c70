"""Traced values in objects that JAX does not look into, since they are no pytrees."""

import functools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

from . import _jax
from ._leaves import is_array

MOST = 10_000  # objects that are looked into, of one


def traced_inside(thing: Any) -> str | None:
    """Where in an object, or in what a function closes over, there is a traced value.

    >>> import types
    >>> traced_inside(types.SimpleNamespace(a=1.0, b=[abs])) is None
    True
    """
    ahead, seen = deque([("", thing)]), {id(thing)}
    while ahead and len(seen) < MOST:
        where, one = ahead.popleft()
        if _jax.is_tracer(one):
            return where
        for name, part in _parts(one):
            if id(part) not in seen:
                seen.add(id(part))
                ahead.append((f"{where}{name}", part))
    return None


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, with what leads there; nothing of a class or a module."""
    if isinstance(thing, type | types.ModuleType | str | bytes):
        return
    if isinstance(thing, types.FunctionType):
        names, cells = thing.__code__.co_freevars, thing.__closure__ or ()
        yield from (
            (f".{n}", c.cell_contents) for n, c in zip(names, cells, strict=True) if _full(c)
        )
    elif isinstance(thing, types.MethodType | functools.partial):
        held = (
            {"self": thing.__self__}
            if isinstance(thing, types.MethodType)
            else {"func": thing.func, "args": thing.args, "keywords": thing.keywords}
        )
        yield from ((f".{name}", part) for name, part in held.items())
    elif isinstance(thing, dict):
        yield from ((f"[{key!r}]", part) for key, part in thing.items())
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        yield from ((f"[{i}]", part) for i, part in enumerate(thing))
    elif not is_array(thing):
        yield from ((f".{name}", part) for name, part in getattr(thing, "__dict__", {}).items())
        slots = (name for kind in type(thing).__mro__ for name in vars(kind).get("__slots__", ()))
        yield from ((f".{name}", getattr(thing, name)) for name in slots if hasattr(thing, name))


def _full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 an empty one raises
    except ValueError:
        return False
    return True
