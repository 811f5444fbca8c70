"""What is done at a tag: its value is read, tapped, watched, or passed through hooks."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .. import _jax
from .._describe import describe
from .._leaves import is_array, refuse_iterators, takes_gradient
from .._lists import select
from .._mistakes import explained
from .._tags import Batch, inject, register_hook, replacement, tag_p
from ..errors import TreeError, UsageError
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
                leaves = replacement(_asked(hook, value, index, tag), value, "with_hooks", "value")
                value = tree.unflatten(leaves)
            return leaves

        if forward:
            operands = _each_example(ahead, batch, tag)(operands)
        value = tree.unflatten(tagged(tag, operands))
        for hook in reversed(backward):
            value = register_hook(value, _of_gradient(hook, index, tag))
        return jax.tree.leaves(value), None

    return Act(run, indexed=any(map(takes_index, [*forward, *backward])))


def _of_gradient(hook: Callable[..., Any], index: Any, tag: _jax.Equation) -> Callable[[Any], Any]:
    """The hook on the gradients of all examples of the `vmap`s around a tag."""
    chosen = [*map(takes_gradient, tag.operand_types)]
    batch = [Batch(axis, tuple(select(batched, chosen))) for axis, batched in tag.own["batch"]]

    def on_gradient(g: Any) -> Any:
        leaves, tree = jax.tree.flatten(g)
        whole: Any = tree

        def one(leaves: list[Any]) -> list[Any]:
            g = whole.unflatten(leaves)
            return replacement(_asked(hook, g, index, tag), g, "with_hooks", "gradient")

        return whole.unflatten(_each_example(one, batch, tag)(leaves))

    return on_gradient


def _asked(hook: Callable[..., Any], value: Any, index: Any, tag: _jax.Equation) -> Any:
    with explained:
        if not takes_index(hook):
            return hook(value)
        try:
            return hook(value, index=index)
        except IndexError as error:
            if "tuple index out of range" not in str(error):
                raise
            loops = "one loop is" if len(index) == 1 else f"{len(index) or 'no'} loops are"
            raise UsageError(
                f"`with_hooks` got a hook that ends with {str(error)!r} at {tag.own['name']!r},"
                f" tagged at {tag.own['where']}: {loops} around that, and `index` has a number for"
                " each loop, the outermost first; give the hook to names inside of the loop alone,"
                " or ask for len(index) in it"
            ) from error


def takes_index(hook: Callable[..., Any]) -> bool:
    """Whether a hook has a keyword `index` beside the value, that nobody has given it yet."""
    if isinstance(hook, functools.partial) and "index" in hook.keywords:
        return False
    try:
        parameters = [*inspect.signature(hook).parameters.values()]
    except (TypeError, ValueError):
        return False
    if parameters and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY:
        del parameters[0]  # the value, whatever it is called
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(p.name == "index" and p.kind in by_name for p in parameters)


def _each_example(
    fun: Callable[[list[Any]], list[Any]], batch: Sequence[Batch], tag: _jax.Equation
) -> Callable[[list[Any]], list[Any]]:
    """A function of the leaves of one value, of those of all examples of the `vmap`s around it."""
    for axis, batched in batch:
        dims = [0 if has else None for has in batched]
        if any(batched):
            fun = _jax.vmap_like(axis, fun, (dims,), dims)

    def run(leaves: list[Any]) -> list[Any]:
        try:
            return fun(leaves)
        except ValueError as error:
            if not str(error).startswith("vmap has mapped output"):
                raise
            raise TreeError(
                f"`with_hooks` got a hook for {tag.own['name']!r}, tagged at {tag.own['where']},"
                " that returns a different array for each example of a vmap where all examples"
                " share one; reduce it in the hook (jax.lax.pmean over the axis_name of the vmap),"
                " or put the hooks inside the vmap: jax.vmap(funcgrad.with_hooks(fun, ...))"
            ) from error

    return run


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
        self._types = functools.cache(_types)  # values of one type have them alike
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
        if statistic is None or not _is_number(x.dtype):  # of PRNG keys there is none
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
            if _is_number(type_.dtype)
            else None
            for place, (leaf, type_) in enumerate(zip(site.leaves, site.inside, strict=True))
        ]

    def _zeros_of(
        self, statistic: Statistic, site: Site, varying: frozenset[str], type_: Any, count: int
    ) -> Any:
        front = (*site.around, *type_.shape[:count])
        return jax.tree.map(
            lambda x: _jax.varied(jnp.zeros((*front, *x.shape), x.dtype), varying),
            self._types(statistic, jax.ShapeDtypeStruct(type_.shape[count:], type_.dtype)),
        )


def _axes(batch: Sequence[Batch], place: int) -> list[Any]:
    """The axes of the `vmap`s around a tag that one of its leaves has, the innermost first."""
    return [axis for axis, batched in batch if batched[place]]


def _sampled(statistic: Statistic, when: Any, x: Any) -> Any:
    if when is None:
        return _arrays(statistic, x)
    trees: list[Any] = []

    def leaves(x: Any) -> list[Any]:
        found, tree = jax.tree.flatten(_arrays(statistic, x))
        trees.append(tree)
        return found

    program = _jax.trace(leaves, [x])
    types = _jax.output_types(program)
    computed = _jax.as_function(program)
    found = jax.lax.cond(when, lambda x: [*computed(x)], lambda x: [*map(_missing, types)], x)
    return trees[-1].unflatten(found)


def _arrays(statistic: Statistic, x: Any) -> Any:
    with explained:
        found = statistic(x)
    refuse_iterators(found, "watch")
    return jax.tree.map(_number, found)


def _is_number(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)


def _number(x: Any) -> Any:
    if not is_array(x) or not _is_number(jnp.asarray(x).dtype):
        raise UsageError(
            f"`watch` got a statistic that returns {describe(x)}, and wants a function of an array"
            " to numbers, or to a pytree of numbers and small arrays"
        )
    return jnp.asarray(x)


def _types(statistic: Statistic, x: Any) -> Any:
    return jax.eval_shape(lambda x: _arrays(statistic, x), x)


def _missing(like: Any) -> Any:
    """What stands for a statistic that is not computed."""
    missing = jnp.nan if takes_gradient(like) else False if like.dtype == bool else -1
    x = jnp.full(like.shape, missing, like.dtype)
    return _jax.placed_like(_jax.varied(x, _jax.varying(like)), like)


def _as_float(x: Any) -> Any:
    return x if takes_gradient(x) else x.astype(jnp.float32)
