"""A function to differentiate as a program of leaves and taps: as it stands, or traced."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from .. import _jax, _taps
from .._calls import Parts, check_arrays, returned
from .._leaves import takes_gradient
from .chosen_tags import Request, Retain, requests

Flat = Callable[[list[Any]], tuple[Any, Any]]
"""A function of the leaves that take gradients to `(out, aux)`."""


class Program(NamedTuple):
    """What `jax.vjp` is applied to.

    Fields:
        run: `(leaves, taps) -> (differentiated output leaves, ((out, aux), retained values))`.
        asked: the tags that get a tap, by name.
        taps: zeros for each of them.
        used: for each leaf, whether the output depends on it; true where nobody asked.
        rules: says where functions with a custom rule are called in it.
    """

    run: Callable[[list[Any], dict[str, Any]], Any]
    asked: dict[str, Request]
    taps: _taps.Values
    used: list[bool]
    rules: Callable[[], str] = str


def plain(flat: Flat, leaves: list[Any], function: str) -> Program:
    """The function as it stands: nothing is traced, nothing tapped."""

    def run(leaves: list[Any], taps: dict[str, Any]) -> Any:
        out, aux = flat(leaves)
        return _outputs(out, function), ((out, aux), {})

    return Program(run, {}, {}, [True] * len(leaves))


def traced(
    flat: Flat, leaves: list[Any], function: str, retain: Retain, tell_used: bool
) -> Program:
    """The function traced, once, with a tap at each tag that `retain` asks for."""
    closed, count, parts = _trace(flat, leaves, function)
    asked = requests(retain, _taps.find(closed), function)
    zeros = functools.cache(_taps.Leaf.zeros)
    taps = {
        name: site.taps(zeros) if watch is None else watch.sinks(site)
        for name, (site, watch) in asked.items()
    }
    # What is shared is compiled once for each jaxpr: where nothing is staged, at each call anew.
    staged = any(map(_jax.is_tracer, jax.tree.leaves(taps)))
    tap = _taps.SHARED_TAP if staged else _taps.TAP
    acts = {name: tap if watch is None else watch.act for name, (_, watch) in asked.items()}

    def run(leaves: list[Any], taps: _taps.Values) -> Any:
        results, values = _taps.run(closed, leaves, acts, taps, share=staged)
        return results[:count], (parts.join(results[count:]), values)

    used = _used(closed, leaves, count) if tell_used else [True] * len(leaves)
    return Program(run, asked, taps, used, functools.partial(_rules, closed))


def _trace(flat: Flat, leaves: list[Any], function: str) -> tuple[Any, int, Parts]:
    """The function as a jaxpr, whose results are the differentiated outputs, then all it returned.

    Beside it how many outputs there are, and how what was returned is put together.
    """
    seen: list[tuple[int, Parts]] = []

    def arrays(*leaves: Any) -> list[Any]:
        result = flat(list(leaves))
        out, whole = _outputs(result[0], function), returned(result)
        seen.append((len(out), whole.parts))
        return [*out, *whole.arrays]

    return _jax.trace(arrays, leaves), *seen[-1]


def _used(closed: Any, leaves: list[Any], count: int) -> list[bool]:
    """Which leaves the first `count` results depend on, in the sense of derivatives."""
    program = _jax.as_function(closed)

    def derivative(*both: Any) -> list[Any]:
        dots = both[len(leaves) :]
        return list(jax.jvp(lambda *xs: program(*xs)[:count], both[: len(leaves)], dots)[1])

    used = _jax.used_inputs(_jax.trace(derivative, [*leaves, *leaves]))[len(leaves) :]
    if not any(path[-1].kind.startswith("custom_vjp") for path in _jax.everywhere(closed)):
        return used
    # What a backward rule says, the derivative does not show: `None`, for instance.
    back = _comes_back(lambda *xs: program(*xs)[:count], leaves, _jax.output_types(closed)[:count])
    return [u and b for u, b in zip(used, back, strict=True)]


def _comes_back(fun: Callable[..., Any], leaves: list[Any], outputs: list[Any]) -> list[bool]:
    """For each leaf whether its gradient depends on that of an output."""

    def backward(*both: Any) -> list[Any]:
        pull = jax.vjp(fun, *both[: len(leaves)])[1]
        return list(pull(list(both[len(leaves) :])))

    rows = _jax.dependencies(_jax.trace(backward, [*leaves, *outputs]))
    return [any(row[len(leaves) :]) for row in rows]


def _rules(program: Any) -> str:
    """Where the custom rules of a program are, to end a message with."""
    places = (
        _jax.place(path)
        for path in _jax.everywhere(program)
        if path[-1].kind.startswith(("custom_jvp", "custom_vjp"))
    )
    found = dict.fromkeys(f"{p.own.file}:{p.own.line}" for p in places if p)
    return ", ".join(found)


def _outputs(out: Any, function: str) -> list[Any]:
    """The output's leaves that take a gradient."""
    leaves = check_arrays(out, function, "; return anything else beside them with has_aux=True")
    return [leaf for leaf in leaves if takes_gradient(leaf)]
