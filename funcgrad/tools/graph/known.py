"""Runs the program once, for the values and gradients that a picture shows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from ... import _jax, _taps
from ..._grad.backward import Pullback, vjp
from ..._leaves import takes_gradient
from ...errors import TagError
from .model import Fact
from .text import numbers, short


class Known(NamedTuple):
    """What a run of the program tells.

    Fields:
        facts: by the keys that nodes have: a tag's full name, `"input 0"`, `"output 0"`.
        notes: what could not be told, and why.
    """

    facts: dict[str, Fact]
    notes: tuple[str, ...] = ()


def known(
    flat: Callable[..., Any],
    leaves: Sequence[Any],
    sites: dict[str, _taps.Site],
    gradient: Any,
) -> Known:
    """The values of inputs, outputs and tags, and their gradients where there are any.

    Args:
        flat: the function of the leaves, returning `(out, all outputs, taken apart)`.
        leaves: the inputs.
        sites: the tags in it.
        gradient: the gradient of `out`, or `None`: then there are gradients where `out` is one
            real number.

    Where a leaf has no value, being a type or a tracer, nothing is known.
    """
    if not all(map(_has_value, leaves)):
        return Known({}, ("values are not shown, since not all arguments have one",))
    names, notes = _askable(sites)
    try:
        _, pullback, outputs = vjp(flat, *leaves, has_aux=True, retain=names)
    except TagError:
        refusals = {name: _refusal(flat, leaves, name) for name in names}
        names = [name for name, why in refusals.items() if not why]
        notes += tuple(f"{name!r} is not told: {why}" for name, why in refusals.items() if why)
        _, pullback, outputs = vjp(flat, *leaves, has_aux=True, retain=names)
    pullback = replace(pullback, function="graph")
    values: dict[str, Any] = {
        **{f"input {i}": [leaf] for i, leaf in enumerate(leaves)},
        **{f"output {i}": [leaf] for i, leaf in enumerate(outputs.arrays)},
        **pullback.values,
    }
    grads: dict[str, Any] = {}
    if gradient is not None or _is_one_number(pullback):
        try:
            back, retained = pullback(gradient)
        except ValueError as error:
            if gradient is not None or "Reverse-mode" not in str(error):
                raise
            notes += (f"no gradients: {short(str(error), 90)}",)
        else:
            grads = {f"input {i}": [g] for i, g in enumerate(back)}
            grads |= {name: jax.tree.leaves(r.grad) for name, r in retained.items()}
    return Known(
        {key: Fact(_words(v), _words(grads.get(key, []))) for key, v in values.items()}, notes
    )


def _has_value(leaf: Any) -> bool:
    return not isinstance(leaf, jax.ShapeDtypeStruct) and not _jax.is_tracer(leaf)


def _words(leaves: Sequence[Any]) -> str:
    return "; ".join(filter(None, (numbers(x) for x in leaves if x is not None)))


def _is_one_number(pullback: Pullback[Any]) -> bool:
    """Whether the output is a single real number, so that its gradient need not be given."""
    real = [out for out in pullback.out if takes_gradient(out) and out.dtype.kind != "c"]
    return len(pullback.out) == len(real) == 1 and real[0].size == 1


def _askable(sites: dict[str, _taps.Site]) -> tuple[list[str], tuple[str, ...]]:
    """The tags whose values can be told, and a note on each of the others."""
    refusals = {
        name: "it is used twice" if site.clash is not None else f"it is inside `{site.blocked}`"
        for name, site in sites.items()
        if site.clash is not None or site.blocked
    }
    notes = tuple(f"{name!r} is not told: {why}" for name, why in refusals.items())
    return [name for name in sites if name not in refusals], notes


def _refusal(flat: Callable[..., Any], leaves: Sequence[Any], name: str) -> str:
    """Why `retain=` refuses a name, in short; empty where it does not."""
    try:
        jax.eval_shape(lambda *xs: vjp(flat, *xs, has_aux=True, retain=name)[0], *leaves)
    except TagError as error:
        return short(str(error), 90)
    return ""
