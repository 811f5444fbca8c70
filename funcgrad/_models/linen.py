"""Flax Linen modules, tagged by what Flax itself has for it: interceptors of method calls.

A name comes about as a path does: each submodule opens a `jax.named_scope` with its path relative
to the module that calls it, and the tag of its output is named by that scope. So a program that is
traced once and runs at several places has the right names at each. Linen's own scopes (the module's
name, or its class, and the method) say the same once more at every transformation and are left out.
"""

import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import jax

from .._tags import leaving, tag_output

M = TypeVar("M")


class _Place(NamedTuple):
    """Where a call stands.

    Fields:
        path: the path of the module one of whose methods runs.
        tagged: whether what a `__call__` at this path returns has its tag elsewhere, or none: a
            call of the module that is under way has it, or this is the whole.
    """

    path: tuple[str, ...]
    tagged: bool = True


_PLACE: ContextVar[_Place | None] = ContextVar("_PLACE", default=None)
_CLASSES: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()
# Flax 0.12.8 keeps the switch of its scopes in a global variable.
_SWITCH = threading.RLock()
_ENTRIES = ("apply", "init", "init_with_output", "lazy_init")


def is_model(x: Any) -> bool:
    """Whether `x` is a Linen module."""
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(x, linen.Module)


def named(module: M) -> M:
    """The module with the output of each submodule's `__call__` tagged by the submodule's path."""
    base = type(module)
    if hasattr(base, "_untagged"):
        return module
    if module.scope is None:  # type: ignore[attr-defined]
        new = module.clone(name=module.name)  # type: ignore[attr-defined]
        object.__setattr__(new, "__class__", _class(base))
        return new
    # Inside another module, or bound to variables: one more view of the same state.
    return _restore(base, module.__dict__)


def _restore(base: type, state: dict[str, Any]) -> Any:
    new: Any = object.__new__(_class(base))
    new.__dict__.update(state)
    object.__setattr__(new, "scope", state.get("scope"))
    return new


def _class(base: type) -> type:
    """The subclass of a class of modules whose methods run with tags; it reads as its base."""
    if (known := _CLASSES.get(base)) is not None:
        return known
    methods = {name: _tagging(fun) for name, fun in _methods(base)}
    names = {key: getattr(base, key) for key in ("__module__", "__qualname__", "__doc__")}
    new: Any = type(base.__name__, (base,), {**names, **methods, "_untagged": base})
    # Linen writes these anew for each class; a class may have its own.
    for name in ("__init__", "__eq__", "__hash__"):
        setattr(new, name, getattr(base, name))
    new.scope = _MarkedScope()
    new.__reduce_ex__ = lambda self, _: (_restore, (base, self.__dict__))
    _CLASSES[base] = new
    return new


def _methods(base: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The methods that a call from outside may come in by."""
    import flax.linen as nn

    for name in ("__call__", *_ENTRIES, *(n for n in dir(base) if not n.startswith("__"))):
        method = inspect.getattr_static(base, name, None)
        inherited = hasattr(nn.Module, name) and name not in ("__call__", *_ENTRIES)
        plain = hasattr(method, "nowrap") and not hasattr(method, "compact_name_scope")
        field = name in base.__dataclass_fields__
        if inspect.isfunction(method) and not (inherited or plain or field):
            yield name, method


def _tagging(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _under_way(self):
            return method(self, *args, **kwargs)

    run.nowrap = True  # type: ignore[attr-defined] # the method itself is wrapped by Linen
    return run


@contextmanager
def _under_way(module: Any) -> Iterator[None]:
    """Has Linen pass each call of a method to `_tagged_call`, if it does not yet."""
    if _PLACE.get() is not None:
        yield
        return
    import flax.linen as nn

    inside = module.scope is not None and module.scope.path
    with ExitStack() as stack:
        stack.enter_context(_SWITCH)
        stack.enter_context(nn.override_named_call(False))
        stack.enter_context(nn.intercept_methods(_tagged_call))
        if inside:
            stack.enter_context(jax.named_scope(inside[-1]))
        token = _PLACE.set(_Place(tuple(inside or ())))
        stack.callback(_PLACE.reset, token)
        yield


def _tagged_call(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    module, around = context.module, _PLACE.get()
    if around is None or module.scope is None:
        return call(*args, **kwargs)
    _mark(module.scope)
    path, own = module.scope.path, _below(module.scope.path, around.path)
    done = not own and (around.tagged or path != around.path)
    called = context.method_name == "__call__"
    # Of a lifted class the body has the tag: a row for each layer of a scan.
    tagged = called and not _is_lifted(type(module))
    token = _PLACE.set(_Place(path, done or tagged))
    try:
        with jax.named_scope(own) if own else ExitStack():
            out = call(*args, **kwargs)
            return tag_output(out, "") if tagged and not done else out
    finally:
        _PLACE.reset(token)


def _below(path: tuple[str, ...], around: tuple[str, ...]) -> str:
    """The path of a module from the module that calls it; empty for one that is around itself.

    A module that lies elsewhere (one of its parent's, handed on to another) leaves that first.
    """
    common = 0
    while common < min(len(path), len(around)) and path[common] == around[common]:
        common += 1
    left, rest = around[common:], path[common:]
    return "/".join([*([leaving("/".join(left))] if left else []), *rest]) if rest else ""


def _is_lifted(module_class: type) -> bool:
    """Whether a class is a transformation of Linen, whose `__call__` calls that of its base."""
    import flax.linen.transforms

    return module_class.__module__ == flax.linen.transforms.__name__ and "__call__" in vars(
        module_class
    )


class _MarkedScope:
    """The attribute `scope` of a tagged module: marks each scope that it is given."""

    def __get__(self, module: Any, owner: type) -> Any:
        return None if module is None else module.__dict__.get("scope")

    def __set__(self, module: Any, scope: Any) -> None:
        module.__dict__["scope"] = scope
        if scope is not None:
            _mark(scope)


def _mark(scope: Any) -> None:
    """Has `nn.jit` tell the calls at this scope from those elsewhere, and from untagged ones.

    Its cache knows a module by its fields and by the flags of its scope, not by its path.
    """
    if type(scope) is not _scope_class():
        scope.__class__ = _scope_class()


@functools.cache
def _scope_class() -> type:
    import flax.core

    class MarkedScope(flax.core.Scope):
        @property
        def flags(self) -> Any:
            mark = (self.path, _PLACE.get())
            return flax.core.freeze({**self.__dict__["flags"], "funcgrad": mark})

        @flags.setter
        def flags(self, flags: Any) -> None:
            self.__dict__["flags"] = flags

        def push(self, *args: Any, **kwargs: Any) -> Any:
            scope = super().push(*args, **kwargs)
            _mark(scope)
            return scope

    return MarkedScope
