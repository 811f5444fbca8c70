"""Values that gradients do not reach, or reach by another way: `detach`, `no_grad`, `set_data`."""

import functools
import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from copy import copy as shallow
from typing import Any, NoReturn, TypeVar, overload

import jax
import jax.numpy as jnp

from . import _jax
from ._describe import describe, differences
from ._leaves import adopt_dtypes, as_output, is_array, refuse_iterators, takes_gradient
from ._mistakes import explained
from ._objects import Left, carried
from ._tags import inject
from ._types import Function, P, R
from .errors import TreeError, UsageError

T = TypeVar("T")


def detach(y: T) -> T:
    """The value of `y` as a constant: no gradient flows back through the result.

    Stands for `y.detach()`; `stop_gradient` is the same function. It is `jax.lax.stop_gradient` on
    every floating or complex leaf, and so stops tangents of forward mode too.

    Args:
        y: a pytree; leaves that are no floating or complex arrays come back as they are.

    Raises:
        UsageError: an iterator, or an object that JAX does not know as a pytree and that holds a
            traced value: its gradient would go on unseen.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> fg.grad(lambda x: fg.detach(x * x) * x)(3.0)
    Array(9., dtype=float32, weak_type=True)
    """
    return _stopped(y, "detach")


stop_gradient = detach


def _stopped(y: T, function: str) -> T:
    refuse_iterators(y, function)
    for path, leaf in jax.tree_util.tree_leaves_with_path(y):
        if inspect.iscoroutine(leaf):
            leaf.close()
            raise UsageError(
                f"`{function}` got a coroutine, which computes later, where its gradient cannot be"
                " stopped; wrap a function that gives the result"
            )
        if is_array(leaf):
            continue

        from ._reached import traced_inside

        inside = traced_inside(leaf)
        if inside is not None:
            where = f" at {place}" if (place := jax.tree_util.keystr(path)) else ""
            raise UsageError(
                f"`{function}` got {describe(leaf)}{where}, which JAX does not know as a pytree,"
                f" with the traced value {inside} in it, whose gradient cannot be stopped there;"
                " give arrays, or register its class (jax.tree_util.register_dataclass)"
            )
    return jax.tree.map(_stop, y)


def _stop(leaf: Any) -> Any:
    able = is_array(leaf) and takes_gradient(leaf)
    return jax.lax.stop_gradient(as_output(leaf)) if able else leaf


class _NoGrad:
    """What `no_grad()` returns: a decorator, and a `with` block that explains itself."""

    def __call__(self, fun: Function[P, R]) -> Callable[P, R]:
        return no_grad(fun)

    def __enter__(self) -> NoReturn:
        raise UsageError(
            "`no_grad` got used as a `with` block, and wants a function: JAX differentiates"
            " functions, so code is taken out of the gradient by wrapping it, not by surrounding"
            " it. Write\n"
            "    y2 = funcgrad.no_grad(lambda x: x**3)(x)\n"
            "or decorate the function with @funcgrad.no_grad, or take one value out with"
            " funcgrad.detach(y)"
        )

    def __exit__(self, *_: object) -> None: ...


@overload
def no_grad(fun: Function[P, R]) -> Callable[P, R]: ...
@overload
def no_grad(fun: None = None) -> _NoGrad: ...
def no_grad(fun: Any = None) -> Any:
    """Makes `fun` a function whose result carries no gradient.

    Stands for `with torch.no_grad():` and for the decorator of that name. Nothing that `fun`
    computes carries a gradient, neither from its arguments nor from what it closes over, in reverse
    or in forward mode. Its values are what they were. What it writes into lists, dicts, attributes
    and variables carries none either: all that it reaches outside of libraries is looked at, before
    and after, where JAX is tracing or differentiating.

    Args:
        fun: any function on pytrees; it may hold a `lax.while_loop` over differentiated values.

    Raises:
        UsageError: the result is a generator or a coroutine, or has a traced value in an object
            that JAX does not know as a pytree: gradients would go through unseen.

    A module of Flax NNX among the arguments moves its state, as one of PyTorch does.

    Returns:
        The same function, detached. `no_grad()` without a function is a decorator, as in PyTorch;
        used in a `with` statement it raises `UsageError` and shows the function form.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> fg.grad(lambda x: x**2 + fg.no_grad(lambda: x**3)())(1.0)
    Array(2., dtype=float32, weak_type=True)
    """
    if fun is None:
        return _NoGrad()
    if not callable(fun):
        raise UsageError(
            f"`no_grad` got {describe(fun)}, and wants a function; to take one value out of the"
            " gradient write funcgrad.detach(y)"
        )

    @functools.wraps(fun)
    def no_grad_fun(*args: Any, **kwargs: Any) -> Any:
        # Arguments are stopped so that nothing is differentiated inside; the result, because what
        # fun closes over cannot be seen from here.
        with explained, carried(fun, args, kwargs, "no_grad", writes=True) as carry:
            from ._reached import reached, transformed, written

            roots = fun, carry.args, carry.kwargs
            before = reached(*roots) if transformed() else []
            given, named = _copied((carry.args, carry.kwargs))
            left = carry.fun(*given, **named)
            about = [*jax.tree.leaves((carry.args, carry.kwargs)), *(x.value for x in before)]
            if any(map(_jax.is_tracer, about)):
                for slot in written(before, reached(*roots)):
                    _stop_in(slot)
            result, new = _stopped((left.result, left.written), "no_grad")
            return carry.restore(Left(jax.tree.map(_stop, left.objects), result, new))

    return no_grad_fun


def _copied(tree: Any) -> Any:
    """A pytree in which gradients are stopped, and the keys of dicts in their order."""
    kind = type(tree)
    if kind in (list, dict, OrderedDict, defaultdict):
        copy = shallow(tree)
        for key, inner in tree.items() if kind is not list else enumerate(tree):
            copy[key] = _copied(inner)
        return copy
    if kind is tuple:
        return tuple(map(_copied, tree))
    return jax.tree.map(_stop, tree)


def _stop_in(slot: Any) -> None:
    """Stops the gradient of what a function wrote somewhere, instead of returning it."""
    inside = jax.tree.leaves(slot.value) if isinstance(slot.value, tuple) else [slot.value]
    if slot.write is None or not any(map(_jax.is_tracer, inside)):
        return
    try:
        slot.write(_stopped(slot.value, "no_grad"))
    except (AttributeError, TypeError) as error:
        raise UsageError(
            f"`no_grad` got a function that writes a traced value to {slot.name} of"
            f" {describe(slot.owner)}, where its gradient cannot be stopped; return it"
        ) from error


def set_data(x: T, v: T) -> T:
    """The value `v`, with the gradient of `x`.

    Stands for `x.data = v`, and `set_data(x, x * 100)` for `x.data *= 100`. PyTorch changes the
    tensor in place behind autograd's back, so that operations recorded *before* the change go
    wrong silently; here the old `x` is still there, and only what uses the result sees `v`.

    Args:
        x: an array or a pytree of arrays.
        v: a pytree of the same structure, shapes and dtypes; Python numbers take the dtype of `x`.

    Returns:
        Exactly `v`; its derivative with respect to `x` is the identity, with respect to `v` zero.

    Raises:
        TreeError: structure, shape or dtype differ, shown path by path.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> def f(x):
    ...     return fg.set_data(x, x * 100) ** 2
    >>> fg.value_and_grad(f)(1.0)
    (Array(10000., dtype=float32, weak_type=True), Array(200., dtype=float32, weak_type=True))
    """
    refuse_iterators((x, v), "set_data")
    old = jax.tree.map(jnp.asarray, x)
    new = adopt_dtypes(v, old)
    wrong = differences(new, old)
    if wrong:
        raise TreeError(
            "`set_data` got new data that does not fit the old; give it the same structure, shapes"
            " and dtypes:\n  " + "\n  ".join(wrong)
        )
    return jax.tree.map(
        lambda value, sink: inject(_stop(value), sink) if takes_gradient(sink) else value, new, old
    )
