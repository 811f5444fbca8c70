"""Keras models on the JAX backend, seen through views that tag what their layers return.

A view of a layer is an object of a subclass that shares the layer's `__dict__`, so that weights,
state and settings are one. While the call of a tagged model is under way, a layer that is reached
through a view is a view itself, and its output is tagged. Nothing is patched and nothing copied.
The scopes are those that Keras opens: the name of each layer. A layer that only a closure of the
model's own holds, and no attribute, list, tuple or dict, is called as it is, without a tag.
"""

import functools
import sys
import weakref
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import jax

from .._describe import describe
from .._tags import tag_output
from ..errors import UsageError

M = TypeVar("M")

_CALLED: ContextVar[bool] = ContextVar("_CALLED", default=False)
_CLASSES: weakref.WeakValueDictionary[tuple[type, bool], type] = weakref.WeakValueDictionary()
_VIEWS: weakref.WeakValueDictionary[tuple[int, bool], Any] = weakref.WeakValueDictionary()


def is_model(x: Any) -> bool:
    """Whether `x` is a Keras layer; a model is one."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(x, keras.layers.Layer)


def named(model: M) -> M:
    """A view of the model that tags the output of each layer by the names of the layers around."""
    import keras

    if keras.backend.backend() != "jax":
        raise UsageError(
            f"`named` got {describe(model)} on Keras' backend {keras.backend.backend()!r}, and"
            ' wants the backend "jax": set the environment variable KERAS_BACKEND=jax before Keras'
            " is imported"
        )
    if keras.config.is_nnx_enabled():
        raise UsageError(
            f"`named` got {describe(model)} while Keras keeps its layers as modules of Flax NNX;"
            " start Python without the environment variable KERAS_NNX_ENABLED"
        )
    if not model.built:  # type: ignore[attr-defined]
        raise UsageError(
            f"`named` got {describe(model)}, which has no weights yet; call it once, or its"
            " `build`, before"
        )
    return _view(model, root=True)


def _view(layer: Any, root: bool = False) -> Any:
    state = object.__getattribute__(layer, "__dict__")
    view = _VIEWS.get((id(state), root))
    if view is None:
        view = object.__new__(_class(getattr(type(layer), "_untagged", type(layer)), root))
        object.__setattr__(view, "__dict__", state)
        _VIEWS[id(state), root] = view
    return view


def _plain(view: Any) -> Any:
    """The model that a view is of."""
    plain = object.__new__(type(view)._untagged)
    object.__setattr__(plain, "__dict__", object.__getattribute__(view, "__dict__"))
    return plain


def _viewed(value: Any) -> Any:
    """A value with views in place of its layers."""
    if is_model(value):
        return _view(value)
    if isinstance(value, list | tuple | dict) and _holds_layers(value):
        if isinstance(value, dict):
            return {key: _viewed(x) for key, x in value.items()}
        parts = map(_viewed, value)
        if isinstance(value, list):
            return list(parts)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _holds_layers(value: Any) -> bool:
    if isinstance(value, list | tuple | dict):
        return any(map(_holds_layers, value.values() if isinstance(value, dict) else value))
    return is_model(value)


def _class(base: type, root: bool) -> type:
    """The subclass of a class of layers that its views are of; it reads as the class does."""
    if (known := _CLASSES.get((base, root))) is not None:
        return known
    names = {key: getattr(base, key) for key in ("__module__", "__qualname__", "__doc__")}
    new: Any = type(base.__name__, (base,), {**names, "_untagged": base})

    def getattribute(self: Any, name: str) -> Any:
        value = super(new, self).__getattribute__(name)
        return _viewed(value) if _CALLED.get() else value

    @functools.wraps(base.call)  # type: ignore[attr-defined]
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _CALLED.set(True)
        try:
            return super(new, self).call(*args, **kwargs)
        finally:
            _CALLED.reset(token)

    def tagged_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _tagged(super(new, self).__call__(*args, **kwargs), self.name)

    def run_through_graph(self: Any, inputs: Any, operation_fn: Any, **kwargs: Any) -> Any:
        # The layers of a functional model stand in its graph.
        return super(new, self)._run_through_graph(
            inputs,
            operation_fn=lambda op: operation_fn(_viewed(op) if _CALLED.get() else op),
            **kwargs,
        )

    def open_name_scope(self: Any) -> Any:
        # The whole has no name, unless it is a layer of something.
        from keras.src.backend.common.name_scope import current_path

        inside = current_path()
        scope = super(new, self)._open_name_scope()
        if not inside:
            scope._jax_name_scope = nullcontext()
        return scope

    def reduce(self: Any) -> Any:
        return named, (_plain(self),)

    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras finds a class that was registered with it by identity.
        return _plain(self).save(*args, **kwargs)

    new.__getattribute__ = getattribute
    if hasattr(base, "_run_through_graph"):
        new._run_through_graph = run_through_graph
    if root:
        new.call, new._open_name_scope, new.__reduce__ = call, open_name_scope, reduce
        if hasattr(base, "save"):
            new.save = save
    else:
        new.__call__ = tagged_call
    _CLASSES[base, root] = new
    return new


def _tagged(out: Any, name: str) -> Any:
    tagged = tag_output(out, name)
    # Keras keeps the mask of a value as an attribute of it.
    for old, new in zip(jax.tree.leaves(out), jax.tree.leaves(tagged), strict=True):
        if getattr(old, "_keras_mask", None) is not None:
            new._keras_mask = old._keras_mask
    return tagged
