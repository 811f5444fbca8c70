"""Models that are pytrees: Equinox, dataclasses, Flax NNX, lists and dicts of callables, functions.

A model is rebuilt from its leaves up, with the class of each callable node made one that names its
calls. Nothing is called to make it, neither `__init__` nor a converter.
"""

import contextlib
import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from .._describe import describe
from ..errors import UsageError
from . import nnx, paths

_LEAVES = (jax.Array, np.ndarray, np.generic, str, bytes, int, float, complex, type, type(None))
_SCOPE: type = type(jax.named_scope("scope"))


def is_model(x: Any) -> bool:
    """Whether something can be named here: a pytree that is no leaf, or a function."""
    if isinstance(x, _LEAVES):
        return False
    if nnx.is_model(x) or _one_level(x) is not None:
        return True
    return callable(x) and hasattr(x, "__name__")


def named(model: Any) -> Any:
    """The model with every submodule's output tagged by its path."""
    if isinstance(model, types.MethodType) and is_model(model.__self__):
        return _method(model)
    if nnx.is_model(model) or _one_level(model) is not None:
        _check_parts(model)
        return _part(model, "", _is_plain(model), {})
    name = model.__name__
    if not name.isidentifier():
        raise UsageError(
            f"`named` got {describe(model)}, a function without a name of its own, and wants one to"
            ' tag its output by: def it, or name it in a dict, named({"name": fun})'
        )
    return paths.function(model, name, alone=True)


def _check_parts(model: Any) -> None:
    if nnx.is_model(model) or any(map(callable, jax.tree.leaves(model, is_leaf=callable))):
        return
    raise UsageError(
        f"`named` got a {type(model).__name__} with no module and no function in it, and wants a"
        " model: a module, or modules and functions in dicts, lists and tuples"
    )


def _method(method: types.MethodType) -> Any:
    model, name = named(method.__self__), method.__func__.__name__
    if getattr(method.__self__, name, None) == method:
        return getattr(model, name)
    return types.MethodType(method.__func__, model)


def kind_of(base: Any, path: str) -> type:
    """The class of a module at a path, by its own class."""
    if nnx.is_kind(base):
        return nnx.kind_of(base, path)
    if _is_equinox(base):
        return paths.subclass(base, path, kind_of, bare=_without_scope)
    if issubclass(base, tuple):
        return paths.subclass(base, path, kind_of)  # JAX knows a named tuple by its fields
    # A subclass of Flax's struct would be made a dataclass again, and be registered by that.
    flag = {"_flax_dataclass": True} if hasattr(base, "_flax_dataclass") else None
    return paths.subclass(base, path, kind_of, register=_registering(base), namespace=flag)


def _part(x: Any, path: str, plain: bool, seen: dict[int, Any]) -> Any:
    """Something at a path of a model with its calls named; itself, where nothing in it has one.

    Args:
        x: a module, a pytree, or anything else, which is left as it is.
        path: where it is.
        plain: whether only dicts, lists and tuples are around it, so that a function is a part.
        seen: the views of NNX modules made so far.
    """
    if isinstance(x, _LEAVES) or nnx.is_whole(x):
        return x
    if nnx.is_model(x):
        if id(x) in seen:
            return seen[id(x)]
        return nnx.view(x, path, lambda y, at: _part(y, at, False, seen), seen)
    if isinstance(x, dict | list | tuple) and not callable(x):
        return _container(x, path, plain and _is_plain(x), seen)
    if dataclasses.is_dataclass(x) and _is_node(x):
        return _fields(x, path, seen)
    if level := _one_level(x):
        return _node(x, level, path, seen)
    if plain and callable(x):
        return paths.function(_runs_by_itself(x, path), path)
    return x


def _is_plain(x: Any) -> bool:
    return isinstance(x, dict | list | tuple) and not callable(x)


def _runs_by_itself(x: Any, path: str) -> Any:
    """A callable leaf, if it is a function and no object that its library has more to do with."""
    if not hasattr(x, "__name__") and not isinstance(x, functools.partial):
        raise UsageError(
            f"`named` got at {path!r} a {type(x).__qualname__} of {type(x).__module__}, which is no"
            " pytree and no function, and wants the parts of a dict or list to be one: name the"
            " object by itself, register its class with JAX, or put a function in its place that"
            " calls it"
        )
    return x


def _container(x: Any, path: str, plain: bool, seen: dict[int, Any]) -> Any:
    if isinstance(x, dict):
        new = {key: _part(v, paths.join(path, key), plain, seen) for key, v in x.items()}
        if all(new[key] is x[key] for key in x):
            return x
        out = x.copy()
        out.update(new)
        return out
    keys = getattr(x, "_fields", None) or range(len(x))
    parts = [_part(v, paths.join(path, key), plain, seen) for key, v in zip(keys, x, strict=True)]
    if all(one is other for one, other in zip(parts, x, strict=True)):
        return x
    return type(x)._make(parts) if hasattr(x, "_make") else type(x)(parts)


def _fields(x: Any, path: str, seen: dict[int, Any]) -> Any:
    """A dataclass with its fields named, those that are static too."""
    base = paths.origin(type(x))
    wraps = _is_equinox(base) and _wraps(base)
    inner = path if wraps else None
    old = {f.name: getattr(x, f.name) for f in dataclasses.fields(x) if hasattr(x, f.name)}
    new = {
        name: _part(value, paths.join(path, name) if inner is None else inner, False, seen)
        for name, value in old.items()
    }
    kind = kind_of(base, path) if callable(x) and not wraps and not _shares(base) else base
    if kind is type(x) and all(new[name] is old[name] for name in old):
        if wraps:
            _check_wrapped(x, path)
        return x
    return _copied(x, kind, new)


def _node(x: Any, level: Any, path: str, seen: dict[int, Any]) -> Any:
    """An object of another class that is registered with JAX."""
    pairs, structure = level
    children = [_part(child, paths.join(path, _segment(key)), False, seen) for key, child in pairs]
    base = paths.origin(type(x))
    kind = kind_of(base, path) if callable(x) else base
    if kind is type(x) and all(c is child for c, (_, child) in zip(children, pairs, strict=True)):
        return x
    return paths.as_kind(structure.unflatten(children), kind)


def _segment(key: Any) -> Any:
    """What a path shows of a step, as JAX has it."""
    for name in ("key", "idx", "name"):
        if hasattr(key, name):
            return getattr(key, name)
    return key


def _one_level(x: Any) -> Any:
    """The children of a node with the key of each, and how it is made of them; `None` of a leaf."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda y: y is not x)
    if jax.tree_util.treedef_is_leaf(structure) and len(pairs) == 1 and pairs[0][1] is x:
        return None
    return [(path[0], child) for path, child in pairs], structure


def _is_node(x: Any) -> bool:
    return _is_equinox(type(x)) or _one_level(x) is not None


def _copied(x: Any, kind: type, new: dict[str, Any]) -> Any:
    """An object with the attributes of `x`, some of them replaced, of another class."""
    made: Any = object.__new__(kind)
    with contextlib.suppress(TypeError):
        vars(made).update(vars(x))
    for name in _slots(x):
        object.__setattr__(made, name, getattr(x, name))
    for name, value in new.items():
        object.__setattr__(made, name, value)
    return made


def _slots(x: Any) -> Iterator[str]:
    for kind in type(x).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and hasattr(x, name):
                yield name


def _registering(base: type) -> Callable[[type], None]:
    def register(kind: Any) -> None:
        """Tells JAX of a class: it is flattened as its base, and made of what that makes."""

        def with_keys(x: Any) -> Any:
            return _one_level(_copied(x, base, {}))

        def without(x: Any) -> Any:
            pairs, structure = with_keys(x)
            return [child for _, child in pairs], structure

        def made(structure: Any, children: Any) -> Any:
            x = structure.unflatten(children)
            return paths.as_kind(x, kind) if type(x) is base else x

        jax.tree_util.register_pytree_with_keys(kind, with_keys, made, without)
        if hasattr(base, "_flax_dataclass"):
            _register_state(kind, lambda x: _copied(x, base, {}))

    return register


def _register_state(kind: Any, plain: Callable[[Any], Any]) -> None:
    """Tells Flax how to save and restore a class of its own: as the one that it was made of."""
    states = sys.modules["flax.serialization"]
    states.register_serialization_state(
        kind,
        lambda x: states.to_state_dict(plain(x)),
        lambda x, state: paths.as_kind(states.from_state_dict(plain(x), state), kind),
    )


# Equinox.


def _equinox() -> Any:
    return sys.modules.get("equinox")


def _is_equinox(base: type) -> bool:
    equinox = _equinox()
    return equinox is not None and issubclass(base, equinox.Module)


def _wraps(base: type) -> bool:
    """Whether a class stands for another function: a method, `filter_jit(fun)` and the like."""
    return isinstance(inspect.getattr_static(base, "__wrapped__", None), property)


def _check_wrapped(x: Any, path: str) -> None:
    """Refuses what keeps a model in pieces, as `filter_jit` does."""
    inside = x.__wrapped__
    if _part(inside, path, False, {}) is not inside:
        raise UsageError(
            f"`named` got what `equinox.filter_jit` made of a {type(inside).__name__}, in which the"
            " model is no part any more, and wants the model before: filter_jit(named(model))"
        )


def _shares(base: type) -> bool:
    """Whether a class is called for its parts, not for what they compute."""
    return _is_equinox(base) and issubclass(base, _equinox().nn.Shared)


def _without_scope(call: Any) -> Any:
    """A `__call__` of Equinox's own modules without the name scope that it is put in.

    The scope is the name of the class, `eqx.nn.MLP`, which is no part of the path.
    """
    cells = getattr(call, "__closure__", None) or ()
    ours = getattr(call, "__module__", None) or ""
    if ours.partition(".")[0] == "equinox" and any(type(c.cell_contents) is _SCOPE for c in cells):
        return call.__wrapped__
    return call
