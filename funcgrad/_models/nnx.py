"""Flax NNX: views of modules, which share the variables of the modules that they are made of."""

import sys
from collections.abc import Callable
from typing import Any

from . import paths

Part = Callable[[Any, str], Any]
_INTERNAL = "_pytree__"


def _nnx() -> Any:
    return sys.modules.get("flax.nnx")


def is_model(x: Any) -> bool:
    """Whether something is an object of NNX with modules in it, or a module."""
    nnx = _nnx()
    return nnx is not None and isinstance(x, nnx.Pytree) and not _draws(nnx, x)


def is_kind(base: type) -> bool:
    """Whether a class is one of NNX."""
    nnx = _nnx()
    return nnx is not None and issubclass(base, nnx.Pytree)


def is_whole(x: Any) -> bool:
    """Whether something of NNX is handed on as it is: a variable, or what draws random numbers."""
    nnx = _nnx()
    return nnx is not None and (isinstance(x, nnx.Variable) or _draws(nnx, x))


def _draws(nnx: Any, x: Any) -> bool:
    return isinstance(x, nnx.Rngs | nnx.RngStream)


def kind_of(base: Any, path: str) -> type:
    """The class of a module at a path."""
    # As the class itself was made, where that is not what its bases say.
    pytree = base._pytree__is_pytree
    inherits = issubclass(base, _nnx().Object) or pytree
    return paths.subclass(base, path, kind_of, **({} if inherits else {"pytree": pytree}))


def view(x: Any, path: str, part: Part, seen: dict[int, Any]) -> Any:
    """A module like `x` with the same variables, whose modules name their calls.

    Args:
        x: the module.
        path: where it is in the model.
        part: makes what an attribute of it holds into what the view holds.
        seen: the views made so far by the identity of what they are of: a shared module has one.
    """
    base = paths.origin(type(x))
    made: Any = object.__new__(kind_of(base, path) if callable(x) else base)
    seen[id(x)] = made
    vars(made).update(
        (name, value if name.startswith(_INTERNAL) else part(value, paths.join(path, name)))
        for name, value in vars(x).items()
    )
    return made
