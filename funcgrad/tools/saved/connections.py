"""Which inputs and named values the result does not depend on, and why: `disconnected`.

A value is connected if its gradient depends on that of the result, in the program of the backward
pass. For one that is not, the program is followed forward from it, as far as each operation has a
derivative; where it ends is the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ... import _jax, _taps
from ..._describe import argument_at
from ..._jax.dataflow import Dataflow, Vertex
from ..._leaves import takes_gradient
from ..._lists import inverted, merge, select, split_at
from ..._mistakes import explained
from .call import asked


@dataclass(frozen=True)
class Disconnected:
    """What `disconnected` returns; false where everything is connected. It prints as a list.

    Attributes:
        inputs: the reason for each input by its path, `argument 0['w']`.
        retained: the reason for each named value by its name.
        unknown: named values of which nothing can be said, and why.
    """

    inputs: dict[str, str]
    retained: dict[str, str]
    unknown: dict[str, str]

    def __bool__(self) -> bool:
        return bool(self.inputs or self.retained)

    def __str__(self) -> str:
        lines = [f"{path}: {why}" for path, why in self.inputs.items()]
        lines += [f"retained {name!r}: {why}" for name, why in self.retained.items()]
        lines += [f"retained {name!r}: not known, {why}" for name, why in self.unknown.items()]
        return "\n".join(lines) or "the result depends on every input and every retained value"


def disconnected(
    fun: Callable[..., Any], *args: Any, argnums: int | Sequence[int] | None = None
) -> Disconnected:
    """Which inputs and retained values the result of `fun` does not depend on, and why.

    PyTorch says it with `None` in the result of `torch.autograd.grad(..., allow_unused=True)`, and
    not why. Depends is meant in the sense of derivatives: a gradient of zeros that the program
    computes (`relu` of a negative number) is a connection, one that no path leads to is none.

    Args:
        fun: a function of pytrees to a pytree of arrays; those that are floating or complex are
            the result.
        args: its arguments, or `jax.ShapeDtypeStruct`s in place of arrays.
        argnums: the positional arguments to look at; all by default.

    Returns:
        A [`Disconnected`][funcgrad.Disconnected], with a reason for each path and each name of
        `retain_grad`: never used; only under `detach`; only through an operation that has no
        derivative (a round, an argmax, a comparison), with its line; only through a hook or a
        `custom_vjp` that lets no gradient through. Integer and bool inputs are left out.

    Raises:
        UsageError: no argument takes a gradient, or `argnums` names one that is not there.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> def loss(params, x):
    ...     h = params["w"] * x + fg.detach(params["target"])
    ...     return jnp.sum(h)
    >>> params = {"w": 1.0, "target": 2.0, "bias": 0.0}
    >>> found = fg.disconnected(loss, params, jnp.ones(3))
    >>> found.inputs["argument 0['bias']"]
    'never used'
    >>> found.inputs["argument 0['target']"].partition(" (")[0]
    'only under `detach`'
    """
    with explained, asked(fun, args, argnums, "disconnected") as (call, moving):
        closed = jax.make_jaxpr(lambda *arrays: call.returned(arrays).arrays)(*call.arrays)
    sites = _taps.find(closed)
    unknown = {name: why for name, site in sites.items() if (why := _untold(site))}
    taps = {name: site.taps() for name, site in sites.items() if name not in unknown}
    leaves, tree = jax.tree.flatten(taps)

    def tapped(*inputs: Any) -> list[Any]:
        arrays, sinks = inputs[: len(moving)], inputs[len(moving) :]
        acts = dict.fromkeys(taps, _taps.TAP)
        return _taps.run(closed, arrays, acts, jax.tree.unflatten(tree, sinks))[0]

    program = jax.make_jaxpr(tapped)(*call.arrays, *leaves)
    reasons = _reasons(program, [*moving, *[True] * len(leaves)])
    inputs, rest = split_at(reasons, len(moving))
    named = {name: jax.tree.leaves(why) for name, why in jax.tree.unflatten(tree, rest).items()}
    return Disconnected(
        {path: why for path, why in zip(call.names(argument_at), inputs, strict=True) if why},
        # A named value is disconnected where each of its leaves is.
        {name: _joined(named[name]) for name in taps if named[name] and all(named[name])},
        unknown,
    )


def _joined(reasons: Sequence[str]) -> str:
    """The reasons of the leaves of a named value."""
    why = "; ".join(dict.fromkeys(reasons))
    return f"{why}: the result does not use what `retain_grad` returned" if why == NEVER else why


def _untold(site: _taps.Site) -> str:
    """Why nothing can be said of a tag, if so."""
    if site.clash:
        return "the name is used twice"
    if site.blocked:
        return f"inside `{site.blocked}`, where gradients of inner values cannot be told"
    return ""


def _reasons(program: _jax.Jaxpr, moving: Sequence[bool]) -> list[str]:
    """For each input why the results do not depend on it; empty where they do, or none is asked."""
    linked = [any(row) for row in _links(program, moving)]
    connected = merge(moving, linked, [True] * (len(moving) - sum(moving)))
    if all(connected):
        return [""] * len(connected)
    search = _Search(Dataflow(program))
    return [
        "" if linked else search.reason(value)
        for value, linked in zip(search.graph.inputs, connected, strict=True)
    ]


def _links(program: _jax.Jaxpr, moving: Sequence[bool]) -> list[list[bool]]:
    """For each moving input, and each result, whether a gradient comes back from there.

    Results that take no gradient have none.
    """
    run, types = _jax.as_function(program), _jax.input_types(program)
    results, count = _jax.output_types(program), len(types)
    able = [*map(takes_gradient, results)]

    def backward(*inputs: Any) -> Any:
        primals, cotangents = split_at(inputs, count)
        fixed = select(primals, inverted(moving))
        flat = lambda *xs: select(run(*merge(moving, xs, fixed)), able)  # noqa: E731
        return jax.vjp(flat, *select(primals, moving))[1](cotangents)

    graph = Dataflow(jax.make_jaxpr(backward)(*types, *select(results, able)))
    after = _consumers(graph)
    columns = [_reached([ct], after) for ct in graph.inputs[count:]]
    nothing: set[Vertex] = set()
    return [
        [x in column for column in merge(able, columns, [nothing] * (len(able) - sum(able)))]
        for x in graph.outputs
    ]


def _consumers(graph: Dataflow) -> dict[Vertex, list[Vertex]]:
    """What is made of each value."""
    after: dict[Vertex, list[Vertex]] = {value: [] for value in graph.values}
    for value in graph.values:
        for made_of in dict.fromkeys(value.sources):
            after[made_of].append(value)
    return after


def _reached(start: Sequence[Vertex], edges: dict[Vertex, list[Vertex]]) -> set[Vertex]:
    found, ahead = set(start), list(start)
    while ahead:
        new = [value for value in edges[ahead.pop()] if value not in found]
        found.update(new)
        ahead += new
    return found


class _Search:
    """Looks for what cuts an input off."""

    def __init__(self, graph: Dataflow):
        self.graph = graph
        self._after = _consumers(graph)
        self._before = _reached(graph.outputs, {v: v.sources for v in graph.values})
        self._known: dict[_jax.Equation, dict[Any, list[bool]]] = {}

    def reason(self, start: Vertex) -> str:
        """Why no gradient comes back to an input."""
        found, ahead, ends = {start}, [start], list[str]()
        while ahead:
            value = ahead.pop(0)
            for made in self._after[value]:
                if made in found or made not in self._before:
                    continue
                if end := self._end(value, made):
                    ends.append(end)
                else:
                    found.add(made)
                    ahead.append(made)
        if ends:
            first, more = list(dict.fromkeys(ends))[:SHOWN], len(set(ends)) - SHOWN
            return f"only {'; and '.join(first)}" + (f"; and {more} more" if more > 0 else "")
        return "its derivative is zero" if start in self._before else NEVER

    def _end(self, value: Vertex, made: Vertex) -> str:
        """How what is made of a value is without derivative; empty where it has one."""
        where = _place(made)
        if made.role == "branch" and value is made.sources[0]:
            return f"as what `{made.operation}` decides by{where}"
        if made.operation == "stop_gradient":
            return f"under `detach`{where}"
        if not takes_gradient(made.type):
            return f"through `{made.operation}`, which makes {made.type.dtype}{where}"
        if made.role != "made" or self._passes(value, made):
            return ""
        if made.operation in RULES:
            return f"through {RULES[made.operation]}, which lets no gradient through{where}"
        return f"through `{made.operation}`, which has no derivative{where}"

    def _passes(self, value: Vertex, made: Vertex) -> bool:
        """Whether an operation has a derivative with respect to a value."""
        equation = made.path[-1]
        pairs = zip(equation.reads, made.sources, strict=True)
        if equation not in self._known:
            alone, inputs = equation.alone()
            moving = [*map(takes_gradient, _jax.input_types(alone))]
            links = _links(alone, moving)
            still = [[False] * len(equation.makes)] * (len(moving) - sum(moving))
            self._known[equation] = dict(zip(inputs, merge(moving, links, still), strict=True))
        return any(self._known[equation][v][made.index] for v, source in pairs if source is value)


SHOWN = 3
NEVER = "never used"
RULES = {"custom_vjp_call": "a `custom_vjp`", "register_hook": "a `register_hook`"}


def _place(value: Vertex) -> str:
    """Where a value is made, in words."""
    place = _jax.place(value.path)
    if place is None:
        return ""
    text = _jax.expression(place.own)
    where = f"{Path(place.own.file).name}:{place.own.line} in {place.own.function}"
    return f" ({where}: {text})" if text else f" ({where})"
