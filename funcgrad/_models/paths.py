"""Calls by their path in a model: a name scope around each, and a tag on what it returns.

`subclass` makes the class of a submodule: its own class with another `__call__`, and nothing else.
The path belongs to the class and not to the object, so that whatever rebuilds an object of its
class (`jax.tree.map`, `nnx.merge`, `pickle`) keeps its name.
"""

import contextvars
import functools
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from .._tags import leaving, tag_output
from ..errors import UsageError

_OPEN: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("open", default=())
"""The paths of the modules of a model whose calls are being run, the innermost last."""


class Made(NamedTuple):
    """What a class that names its calls was made of.

    Fields:
        base: the module's own class.
        path: its path in the model; empty for the model itself.
        kind_of: makes the class of the two.
    """

    base: type
    path: str
    kind_of: Callable[[type, str], type]


_MADE: weakref.WeakKeyDictionary[type, Made] = weakref.WeakKeyDictionary()
_CLASSES: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()
_FUNCTIONS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_LOCK = threading.RLock()


def join(path: str, key: Any) -> str:
    """The path of what is under `key` in what is at `path`.

    >>> join("", "layers"), join("layers", 0)
    ('layers', 'layers/0')
    """
    return f"{path}/{key}" if path else str(key)


def origin(kind: type) -> type:
    """A module's own class: of a class made here what it was made of, else the class itself."""
    made = _MADE.get(kind)
    return kind if made is None else made.base


def subclass(
    base: type,
    path: str,
    kind_of: Callable[[type, str], type],
    *,
    register: Callable[[type], None] | None = None,
    bare: Callable[[Any], Any] | None = None,
    namespace: dict[str, Any] | None = None,
    **options: Any,
) -> type:
    """The class of a module at a path: `base`, with calls named. One class for each pair.

    Args:
        base: the module's own class, with a `__call__`.
        path: where the module is; empty for the model itself.
        kind_of: the function of a module that makes the class of a base and a path with this one.
        register: is told of a new class, once.
        bare: takes the class's `__call__`, and gives the one to run.
        namespace: further attributes of the class.
        options: of the class statement, as `class Module(base, **options)`.
    """
    with _LOCK:
        classes = _CLASSES.setdefault(base, weakref.WeakValueDictionary())
        kind = classes.get(path)
        if kind is None:
            given = inspect.getattr_static(base, "__call__")
            call = _call(bare(given) if bare else given, path)
            kind = _class(base, {**(namespace or {}), "__call__": call}, options)
            _MADE[kind] = Made(base, path, kind_of)
            if register is not None:
                register(kind)
            classes[path] = kind
        return kind


def _class(base: type, namespace: dict[str, Any], options: dict[str, Any]) -> type:
    same = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    own = {**same, "__slots__": (), "__reduce_ex__": _reduce, **namespace}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the base was warned of when it was made
            return type(base)(base.__name__, (base,), own, **options)
    except Exception as error:
        raise UsageError(
            f"`named` got a {base.__qualname__}, of which no subclass can be made"
            f" ({type(error).__name__}: {error}), and wants modules whose class can have one: let"
            " its `__init_subclass__` or metaclass accept a class without arguments"
        ) from error


def _call(given: Any, path: str) -> Callable[..., Any]:
    @functools.wraps(given, updated=())
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return run(given.__get__(self, type(self)), path, args, kwargs)

    return __call__


def _reduce(self: Any, protocol: int) -> Any:
    """As the module's own class pickles, with the class as what it was made of."""
    kind: Any
    kind, made = next((k, _MADE[k]) for k in type(self).__mro__ if k in _MADE)
    fun, args, *rest = super(kind, self).__reduce_ex__(protocol)
    args = tuple(made.base if arg is kind else arg for arg in args)
    return (_rebuilt, (*made, fun, args), *rest)


def _rebuilt(
    base: type,
    path: str,
    kind_of: Callable[[type, str], type],
    fun: Callable[..., Any],
    args: tuple[Any, ...],
) -> Any:
    return as_kind(fun(*args), kind_of(base, path))


def as_kind(x: Any, kind: type) -> Any:
    """An object with its class replaced by one that differs from it in `__call__` alone."""
    object.__setattr__(x, "__class__", kind)
    return x


def run(call: Callable[..., Any], path: str, args: Any, kwargs: Any) -> Any:
    """What a module's call returns, tagged by its path; names made in it stand under the path.

    Name scopes nest, so a scope's name is the path from the module whose call is being run. A
    module that lies elsewhere in the model leaves the scopes that are open first.
    """
    around = _OPEN.get()
    if not path:
        return _within((), call, args, kwargs)
    left = []
    while around and not path.startswith(f"{around[-1]}/"):
        *outer, last = around
        around = tuple(outer)
        left.append(_from(around, last))
    name = "/".join([*map(leaving, left), _from(around, path)])
    with jax.named_scope(name):
        result = _within((*around, path), call, args, kwargs)
    return tag_output(result, name)


def _from(around: tuple[str, ...], path: str) -> str:
    return path[len(around[-1]) + 1 :] if around else path


def _within(open_: tuple[str, ...], call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    token = _OPEN.set(open_)
    try:
        return call(*args, **kwargs)
    finally:
        _OPEN.reset(token)


def function(fun: Callable[..., Any], path: str, *, alone: bool = False) -> Callable[..., Any]:
    """A function with its output tagged.

    Args:
        fun: the function.
        path: its name.
        alone: whether it is the whole model, and not part of one.
    """
    fun = _FUNCTIONS.get(fun, fun)

    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        if alone:
            return _within((), run, (fun, path, args, kwargs), {})
        return run(fun, path, args, kwargs)

    _FUNCTIONS[call] = fun
    return call
