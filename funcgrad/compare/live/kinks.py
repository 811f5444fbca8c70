"""Finds which functions of `funcgrad.conventions` would give the port PyTorch's gradient.

By trial. The port's program is evaluated with PyTorch's choice of gradient at the kinks of its
operations. If the gradients agree then, and only then, the choices that it takes are named.

Sharp edges. One choice is made for all operations of a kind, so that a port in which one
`maximum(x, 0)` stands for `relu` and another for `clamp` gets no name. Functions with rules of
their own (`jax.custom_jvp`, `jax.custom_vjp`) stay as they are.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ... import _jax, conventions
from ...conventions._rules import where_zero, with_rule

Choices = Mapping[str, str]
"""For each kind of operation the function that has PyTorch's gradient."""


class Value(NamedTuple):
    """A value in the program, and whether it is a constant that no input reaches."""

    array: Any
    fixed: bool


def _push_root(t: Any, out: Any, x: Any) -> Any:
    return jnp.where(x == 0, 0, t / (2 * where_zero(x == 0, out)))


_root = with_rule(jnp.sqrt, _push_root)
_root_of = with_rule(
    jnp.power,
    lambda t, out, x, y: jnp.where(x == 0, 0, t * y * out / where_zero(x == 0, x)),
)
_above = with_rule(jnp.maximum, lambda t, out, x, low: jnp.where(x > low, t, jnp.zeros_like(t)))
_below = with_rule(jnp.minimum, lambda t, out, x, high: jnp.where(x < high, t, jnp.zeros_like(t)))
_OTHER_SIDE = {"ge": jnp.greater, "gt": jnp.greater_equal, "lt": jnp.less_equal, "le": jnp.less}
_BY_COMPARISON = ("leaky_relu", "hard_tanh", "fmax", "fmin")
_BY_KIND: dict[str, Callable[..., Any]] = {
    "sqrt": _root,
    "abs": conventions.abs,
    "atan2": conventions.arctan2,
}
_FLAT, _OTHER = "flat", "other side"  # choices that have no name of their own
_OF_ZERO = ("std", "norm", "vector_norm", "matrix_norm")


class _Kink(NamedTuple):
    """A kink that an operation may have.

    Attributes:
        kind: operations of one kind are tried together.
        names: the functions that may have PyTorch's gradient, in the order to try them; "" is what
            the operation has already.
    """

    kind: str
    names: tuple[str, ...]


def _kink(path: Sequence[_jax.Equation]) -> _Kink | None:
    """The kink of the last equation of a path; `None` where PyTorch and JAX agree."""
    equation = path[-1]
    function = _function(path)
    if equation.kind in ("max", "min"):
        return _Kink("clip" if function == "clip" else "maximum", ("clip", _FLAT))
    if equation.kind in _OTHER_SIDE:
        of_floats = jnp.issubdtype(equation.operand_types[0].dtype, jnp.inexact)
        other = _Kink("comparison", ("", _OTHER)) if of_floats and function is None else None
        return _one(function) if function in _BY_COMPARISON else other
    if equation.kind in ("reduce_max", "reduce_min"):
        return None if function in _OF_ZERO else _one(equation.kind.removeprefix("reduce_"))
    if equation.kind == "sqrt":
        return _one(function if function in _OF_ZERO else "norm")
    default = {"abs": "abs", "pow": "power", "atan2": "arctan2"}.get(equation.kind)
    if default or equation.kind in ("cummax", "cummin"):
        return _one(function or default or equation.kind)
    return _one(_called(equation))


def _one(name: str | None) -> _Kink | None:
    return None if name is None else _Kink(name, (name,))


def _called(equation: _jax.Equation) -> str | None:
    """The function that it calls: a `sort` in descending order, a `median` of all there is."""
    body = equation.called
    if not body or not _jax.of_library(equation):
        return None
    kinds = [inner.kind for inner in _jax.equations(body.program)]
    if equation.function in ("median", "nanmedian") and not equation.result_types[0].shape:
        return equation.function
    return "sort" if kinds == ["sort", "rev"] else None


def _function(path: Sequence[_jax.Equation]) -> str | None:
    """The outermost function of JAX around an equation that `conventions` has too."""
    for equation in path:
        inside = itertools.takewhile(lambda frame: _jax.internal(frame.file), equation.frames)
        for frame in reversed(list(inside)):
            name = frame.function.lstrip("_")
            if name in vars(conventions) and not name.startswith("_"):
                return name
    return None


def kinks(program: _jax.Jaxpr) -> dict[str, tuple[str, ...]]:
    """The kinds of operations in a program that may have a kink, and what may be chosen for each.

    >>> import jax.numpy as jnp
    >>> kinks(_jax.trace(lambda x: [jnp.abs(x), jnp.maximum(x, 0)], [1.0]))
    {'abs': ('abs',), 'maximum': ('clip', 'flat')}
    """
    found = filter(None, map(_kink, _jax.everywhere(program)))
    return {kink.kind: kink.names for kink in found}


def choosing(program: _jax.Jaxpr, choices: Choices) -> Callable[..., list[Any]]:
    """The function of a program, with the gradients of these functions at its kinks."""

    def run(program: _jax.Jaxpr, given: Sequence[Value], around: tuple[_jax.Equation, ...]) -> Any:
        def apply(equation: _jax.Equation, operands: list[Value]) -> list[Value]:
            path = (*around, equation)
            kink = _kink(path)
            name = choices.get(kink.kind) if kink else None
            arrays = [x.array for x in operands]
            fixed = all(x.fixed for x in operands)
            if name and not fixed:
                chosen = _chosen(name, equation, operands)
                if chosen is not None:
                    return [Value(chosen, False)]
            body = equation.called
            if body and body.role == _jax.CALL:
                return body.put(run(body.program, body.take(operands), path))
            if body is None and _jax.reenters(equation):
                inside = lambda body, arrays, _: (inner(body.program, arrays, path), None)  # noqa: E731
                results, _ = _jax.reenter(equation, arrays, inside)
            else:
                results = equation.evaluate(arrays)
            return [Value(x, fixed) for x in results]

        return _jax.interpret(program, given, apply, lambda x: Value(x, True))

    def inner(program: _jax.Jaxpr, arrays: Sequence[Any], path: Any = ()) -> list[Any]:
        return [x.array for x in run(program, [Value(x, False) for x in arrays], path)]

    return lambda *arrays: inner(program, arrays)


def _chosen(name: str, equation: _jax.Equation, operands: Sequence[Value]) -> Any:
    """The result of an equation with the gradient of that function; `None` where it has no kink."""
    x, *rest = (operand.array for operand in operands)
    if equation.kind in ("max", "min"):
        ends = sorted(operands, key=lambda operand: operand.fixed)
        if ends[0].fixed == ends[1].fixed:
            return None
        x, bound = (end.array for end in ends)
        low = equation.kind == "max"
        if name == "clip":
            return conventions.clip(x, bound) if low else conventions.clip(x, None, bound)
        return (_above if low else _below)(x, bound)
    if equation.kind in _OTHER_SIDE:
        return _OTHER_SIDE[equation.kind](x, *rest)
    if equation.kind in ("reduce_max", "reduce_min"):
        return _first(conventions.max if name == "max" else conventions.min, equation, x)
    if equation.kind in ("cummax", "cummin"):
        axis, reverse = _jax.scans(equation)
        return getattr(conventions, equation.kind)(x, axis, reverse)
    if equation.called and name in ("median", "nanmedian"):
        return getattr(conventions, name)(x)
    if equation.called:
        axis, _ = _jax.scans(_jax.equations(equation.called.program)[0])
        return conventions.sort(x, axis, descending=True)
    if equation.kind == "pow":
        return (_root_of if name in _OF_ZERO else conventions.power)(x, *rest)
    return _BY_KIND[equation.kind](x, *rest)


def _first(extreme: Callable[..., Any], equation: _jax.Equation, x: Any) -> Any:
    """The greatest or least; of several axes, as of a pooling window, the first by all of them."""
    axes = tuple(_jax.axes_lost(equation) or ())
    if len(axes) == 1:
        return extreme(x, axes[0])
    moved = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return extreme(moved.reshape(*moved.shape[: x.ndim - len(axes)], -1), -1)


def search(found: Mapping[str, tuple[str, ...]], agrees: Callable[[Choices], bool]) -> Choices:
    """The fewest choices with which the gradients agree; none where they do not.

    Args:
        found: what may be chosen, as from `kinks`.
        agrees: whether the gradients agree with these choices.
    """
    every = (dict(zip(found, names, strict=True)) for names in itertools.product(*found.values()))
    taken = ({kind: name for kind, name in choices.items() if name} for choices in every)
    chosen = next((choices for choices in taken if choices and agrees(choices)), {})
    for kind in list(chosen):
        fewer = {other: name for other, name in chosen.items() if other != kind}
        if fewer and agrees(fewer):
            chosen = fewer
    return chosen


def advice(program: _jax.Jaxpr, choices: Choices) -> tuple[str, ...]:
    """A sentence for each function chosen and each expression that it is to stand for."""
    told = {}
    for path in _jax.everywhere(program):
        kink = _kink(path)
        if kink is not None and kink.kind in choices:
            place, name = _jax.place(path), choices[kink.kind]
            told[place and place.own.key, name] = _sentence(path[-1], name, kink, place)
    return tuple(told.values())


def _sentence(equation: _jax.Equation, name: str, kink: _Kink, place: _jax.Place | None) -> str:
    where = f"{place.own.file}:{place.own.line}" if place else ""
    text = place and _jax.expression(place.own)
    where = f"`{text}` ({where})" if text else where
    if name == _OTHER:
        return f"with equals on the other side {where or 'a comparison'} has PyTorch's gradient"
    bare = kink.kind == "maximum" and equation.kind == "max"
    called = {_FLAT: "jax.nn.relu" if bare else "funcgrad.conventions.hard_tanh"}.get(
        name, f"funcgrad.conventions.{name}"
    )
    return f"{called} has PyTorch's gradient" + (f", in place of {where}" if where else "")


def flat(fun: Callable[[Any], Any], given: Any) -> tuple[_jax.Jaxpr, Callable[[list[Any]], Any]]:
    """The program of a function of one pytree, and how its results are put together again."""
    leaves, tree = jax.tree.flatten(given)
    trees = []

    def run(*leaves: Any) -> list[Any]:
        out, made = jax.tree.flatten(fun(jax.tree.unflatten(tree, leaves)))
        trees.append(made)
        return [jnp.asarray(x) for x in out]

    return _jax.trace(run, leaves), lambda out: jax.tree.unflatten(trees[0], out)
