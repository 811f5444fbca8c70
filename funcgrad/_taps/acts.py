"""What is done at a tag: its value is read, tapped, watched, or passed through hooks."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .. import _jax
from .._leaves import takes_gradient
from .._mistakes import explained
from .._tags import Batch, inject, register_hook, replacement, tag_p
from .evaluate import Act
from .find import Site

Statistic = Callable[[Any], Any]

_inject_inlined = jax.jit(inject, inline=True)


def _zeros(site: Site) -> list[Any]:
    return [leaf.placed_zeros() for leaf in site.leaves]


def _read(tag: _jax.Equation, operands: list[Any], given: Any, index: Any) -> Any:
    return tagged(tag, operands), [*map(jnp.asarray, operands)]


def _tap(tag: _jax.Equation, operands: list[Any], sinks: list[Any], index: Any) -> Any:
    return _tapped(inject, operands, sinks)


def _tap_shared(tag: _jax.Equation, operands: list[Any], sinks: list[Any], index: Any) -> Any:
    return _tapped(_inject_inlined, operands, sinks)


def _tapped(add: Callable[..., Any], operands: list[Any], sinks: list[Any]) -> Any:
    leaves = [
        x if sink is None else add(x, _jax.placed_like(sink, jax.typeof(x)))
        for x, sink in zip(operands, sinks, strict=True)
    ]
    return leaves, [*map(jnp.asarray, operands)]


READ = Act(_read, _zeros, lasting=True)
"""Makes the value."""

TAP = Act(_tap, _zeros, lasting=True)
"""Makes the value; the gradient at it is that of the zeros that it is given, one for each leaf."""

SHARED_TAP = Act(_tap_shared, _zeros, lasting=True)
"""The same, where JAX is to find the derivative of the tap but once."""


def tagged(tag: _jax.Equation, operands: Sequence[Any]) -> list[Any]:
    """Other values under the same tag."""
    return list(tag_p.bind(*operands, **tag.own))


def hooked(forward: Sequence[Callable[..., Any]], backward: Sequence[Callable[..., Any]]) -> Act:
    """Passes the value through hooks, in order, then tags it; and the gradient that comes back.

    A gradient meets its hooks in order, and then the tag: what is retained there has passed them.
    """

    def run(tag: _jax.Equation, operands: list[Any], given: Any, index: Any) -> Any:
        tree, batch = tag.own["tree"], tag.own["batch"]

        def ahead(leaves: list[Any]) -> list[Any]:
            value = tree.unflatten(leaves)
            for hook in forward:
                leaves = replacement(_asked(hook, value, index), value, "with_hooks", "value")
                value = tree.unflatten(leaves)
            return leaves

        def back(leaves: list[Any]) -> list[Any]:
            value = tree.unflatten(leaves)
            for hook in reversed(backward):
                value = register_hook(value, _of_gradient(hook, index))
            return jax.tree.leaves(value)

        if forward:
            operands = _each_example(ahead, batch)(operands)
        results = tagged(tag, operands)
        return _each_example(back, batch)(results) if backward else results, None

    return Act(run, indexed=any(map(_takes_index, [*forward, *backward])))


def _of_gradient(hook: Callable[..., Any], index: Any) -> Callable[[Any], Any]:
    def on_gradient(g: Any) -> Any:
        leaves = replacement(_asked(hook, g, index), g, "with_hooks", "gradient")
        return jax.tree.unflatten(jax.tree.structure(g), leaves)

    return on_gradient


def _asked(hook: Callable[..., Any], value: Any, index: Any) -> Any:
    with explained:
        return hook(value, index=index) if _takes_index(hook) else hook(value)


def _takes_index(hook: Callable[..., Any]) -> bool:
    """Whether a hook has a keyword `index`."""
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):
        return False
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(p.name == "index" and p.kind in by_name for p in parameters)


def _each_example(fun: Callable[[list[Any]], list[Any]], batch: Sequence[Batch]) -> Any:
    """A function of the leaves of one value, of those of all examples of the `vmap`s around it."""
    for axis, batched in batch:
        dims = [0 if has else None for has in batched]
        fun = _jax.vmap_like(axis, fun, (dims,), dims)
    return fun


class Watching:
    """Statistics of a value and of its gradient, taken where they are.

    Args:
        value: from an array to a pytree of small arrays; `None` for nothing.
        grad: the same, of the gradient.
        when: a bool, traced or not: whether they are computed. Where they are not they are NaN, and
            -1 where they are integers. `None` for always.
    """

    def __init__(self, value: Statistic | None, grad: Statistic | None, when: Any):
        self._value, self._grad, self._when = value, grad, when
        self.act = Act(self._run, lambda site: self._zeros(value, site))

    def sinks(self, site: Site) -> list[Any]:
        """What the act is given: zeros whose gradients are the statistics of the gradient."""
        zeros = self._zeros(self._grad, site)
        chosen = zip(zeros, site.chosen, strict=True)
        return [jax.tree.map(_as_float, x) if c else None for x, c in chosen]

    def dtypes(self, site: Site) -> tuple[Any, ...]:
        """The dtypes that these gradients stand for: counts come as floating numbers."""
        zeros = zip(self._zeros(self._grad, site), site.chosen, strict=True)
        return tuple(x.dtype for x in jax.tree.leaves([x if c else None for x, c in zeros]))

    def _run(self, tag: _jax.Equation, operands: list[Any], sinks: list[Any], index: Any) -> Any:
        batch = tag.own["batch"]
        made = [self._statistics(self._value, x, _axes(batch, i)) for i, x in enumerate(operands)]
        results = []
        for place, (x, sink) in enumerate(zip(operands, sinks, strict=True)):
            if sink is None or not jax.tree.leaves(sink):
                results.append(x)
                continue
            axes = _axes(batch, place)

            def hook(both: Any, axes: Any = axes) -> Any:
                found = self._statistics(self._grad, both[0], axes)
                return both[0], jax.tree.map(_as_float, found)

            results.append(register_hook((x, sink), hook)[0])
        return results, made

    def _statistics(self, statistic: Statistic | None, x: Any, axes: Sequence[Any]) -> Any:
        if statistic is None:
            return None
        sampled: Statistic = functools.partial(_sampled, statistic, self._when)
        for axis in axes:
            sampled = _jax.vmap_like(axis, sampled, 0)
        return sampled(jnp.asarray(x))

    def _zeros(self, statistic: Statistic | None, site: Site) -> list[Any]:
        if statistic is None:
            return [None] * len(site.leaves)
        return [
            self._zeros_of(statistic, site, leaf.varying, type_, len(_axes(site.batch, place)))
            for place, (leaf, type_) in enumerate(zip(site.leaves, site.inside, strict=True))
        ]

    def _zeros_of(
        self, statistic: Statistic, site: Site, varying: frozenset[str], type_: Any, count: int
    ) -> Any:
        front = (*site.around, *type_.shape[:count])
        return jax.tree.map(
            lambda x: _jax.varied(jnp.zeros((*front, *x.shape), x.dtype), varying),
            _types(statistic, jax.ShapeDtypeStruct(type_.shape[count:], type_.dtype)),
        )


def _axes(batch: Sequence[Batch], place: int) -> list[Any]:
    """The axes of the `vmap`s around a tag that one of its leaves has, the innermost first."""
    return [axis for axis, batched in batch if batched[place]]


def _sampled(statistic: Statistic, when: Any, x: Any) -> Any:
    if when is None:
        return _arrays(statistic, x)
    return jax.lax.cond(when, lambda x: _arrays(statistic, x), lambda x: _nothing(statistic, x), x)


def _arrays(statistic: Statistic, x: Any) -> Any:
    with explained:
        return jax.tree.map(jnp.asarray, statistic(x))


def _types(statistic: Statistic, x: Any) -> Any:
    return jax.eval_shape(lambda x: _arrays(statistic, x), x)


def _nothing(statistic: Statistic, x: Any) -> Any:
    """What stands for statistics that are not computed."""

    def fill(like: Any) -> Any:
        missing = jnp.nan if takes_gradient(like) else -1 if like.dtype != bool else False
        return jnp.full(like.shape, missing, like.dtype)

    return jax.tree.map(fill, _types(statistic, x))


def _as_float(x: Any) -> Any:
    return x if takes_gradient(x) else x.astype(jnp.float32)
