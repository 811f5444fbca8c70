"""Walks a jaxpr: what tags it holds (`find`), and its evaluation with taps at them (`run`)."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _compat as compat
from .._tags import inject, tag_p

Values = dict[str, list[Any]]
"""The leaves of each tagged value by name; in taps, `None` for a leaf that takes no gradient."""

Run = Callable[[compat.ClosedJaxpr, Sequence[Any], Values], tuple[list[Any], Values]]


class Leaf(NamedTuple):
    """The type of one leaf of a tagged value.

    Fields:
        shape: with an axis in front for each loop and mesh axis around it.
        dtype: its dtype.
        varying: the manual mesh axes along which devices hold different values.
    """

    shape: tuple[int, ...]
    dtype: Any
    varying: frozenset[str] = frozenset()

    def zeros(self) -> Any:
        """Zeros of this type."""
        return compat.varied(jnp.zeros(self.shape, self.dtype), self.varying)


class Site(NamedTuple):
    """A tag as the function that holds it is seen from outside.

    Fields:
        leaves: the type of each leaf.
        tree: the structure of the tagged pytree.
        where: `file:line` of the call of `retain_grad`.
        blocked: the primitive around it that gradients of inner values cannot be told from, if any.
        repeats: whether it is the recomputation, in a backward pass, of a tag in the forward pass.
        uid: which call of `retain_grad` it is; copies that JAX makes of it share the number.
        dropped: whether nothing uses what `retain_grad` returned, so that no gradient reaches it.
        clash: another tag of the same name, if there is one.
    """

    leaves: tuple[Leaf, ...]
    tree: Any
    where: str
    blocked: str | None = None
    repeats: bool = False
    uid: int = 0
    dropped: bool = False
    clash: "Site | None" = None

    @property
    def chosen(self) -> tuple[bool, ...]:
        """For each leaf, whether it takes a gradient."""
        return tuple(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in self.leaves)

    def taps(self, zeros: Callable[[Leaf], Any] = Leaf.zeros) -> list[Any]:
        """A tap for each leaf: its zeros, and `None` where the leaf takes no gradient."""
        pairs = zip(self.leaves, self.chosen, strict=True)
        return [zeros(leaf) if chosen else None for leaf, chosen in pairs]


class Rule(NamedTuple):
    """How an equation that holds tags is evaluated.

    Fields:
        evaluate: `(eqn, operands, taps, run) -> (results, values)`, the taps and values under the
            names that the equation's body knows them by.
        outside: `(eqn, leaf) -> leaf`, the type that a value inside it has from outside.
    """

    evaluate: Callable[..., tuple[list[Any], Values]]
    outside: Callable[[compat.JaxprEqn, Leaf], Leaf]


_RULES: dict[str, Rule] = {}
_FOUND: "weakref.WeakKeyDictionary[Any, dict[str, Site]]" = weakref.WeakKeyDictionary()


def rule(
    kind: str, outside: Callable[[compat.JaxprEqn, Leaf], Leaf] = lambda eqn, leaf: leaf
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes the decorated function the rule for one kind of equation."""

    def add(evaluate: Callable[..., Any]) -> Callable[..., Any]:
        _RULES[kind] = Rule(evaluate, outside)
        return evaluate

    return add


def find(jaxpr: compat.Jaxpr | compat.ClosedJaxpr) -> dict[str, Site]:
    """Every tag in `jaxpr` by its full name, in the order of the program.

    Each jaxpr is walked once as long as it lives: bodies are shared between calls and traces.
    """
    jaxpr = compat.open_up(jaxpr)
    if jaxpr not in _FOUND:
        found: dict[str, Site] = {}
        read = compat.reads(jaxpr) if any(eqn.primitive is tag_p for eqn in jaxpr.eqns) else set()
        for eqn in jaxpr.eqns:
            for name, site in _sites(eqn, read):
                first = found.setdefault(name, site)
                if first is site:
                    continue
                if site.repeats and site.uid == first.uid:
                    found[name] = first._replace(dropped=first.dropped and site.dropped)
                else:
                    found[name] = first._replace(clash=site)
        _FOUND[jaxpr] = found
    return _FOUND[jaxpr]


def _sites(eqn: compat.JaxprEqn, read: set[Any]) -> Iterable[tuple[str, Site]]:
    if eqn.primitive is tag_p:
        params = eqn.params
        leaves = tuple(Leaf(v.aval.shape, v.aval.dtype, compat.varying(v.aval)) for v in eqn.invars)
        repeats = compat.is_recomputation(eqn)
        site = Site(
            leaves,
            params["tree"],
            params["where"],
            repeats=repeats,
            uid=params["uid"],
            dropped=read.isdisjoint(eqn.outvars),
        )
        yield _scoped(eqn, params["name"]), site
        return
    bodies = [found for body in compat.subjaxprs(eqn.params) if (found := find(body))]
    if not bodies:
        return
    kind = compat.kind(eqn)
    for name, site in _union(bodies).items():
        site = site._replace(repeats=site.repeats or compat.is_recomputation(eqn))
        if kind in _RULES:
            leaves = tuple(_RULES[kind].outside(eqn, leaf) for leaf in site.leaves)
            site = site._replace(leaves=leaves)
        else:
            site = site._replace(blocked=site.blocked or kind)
        yield _scoped(eqn, name), site


def _union(bodies: list[dict[str, Site]]) -> dict[str, Site]:
    """The tags of several bodies of which one runs; a name may stand in more than one of them."""
    union = dict(bodies[0])
    for name, site in ((n, s) for body in bodies[1:] for n, s in body.items()):
        first = union.setdefault(name, site)
        if (first.leaves, first.tree) != (site.leaves, site.tree):
            union[name] = first._replace(clash=site)
    return union


def _scoped(eqn: compat.JaxprEqn, name: str) -> str:
    return "/".join([*compat.scopes(eqn), name])


def run(
    closed: compat.ClosedJaxpr, args: Sequence[Any], taps: Values, *, share: bool = False
) -> tuple[list[Any], Values]:
    """Evaluates a jaxpr with a tap at each tag that `taps` names.

    Args:
        closed: the program; its constants may be tracers.
        args: its inputs.
        taps: for each asked name a zero for each leaf of the site, `None` for leaves without
            gradient. Differentiating with respect to a tap gives the gradient at the tag.
        share: whether to have JAX find the derivative of an operation that repeats but once; of use
            where what is evaluated is differentiated and staged at the same time.

    Returns:
        The program's results, and the leaves of each asked value.
    """
    jaxpr = compat.open_up(closed)
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, compat.Literal) else env[atom]

    values: Values = {}
    for step in _plan(jaxpr, frozenset(taps), compat.shared(jaxpr) if share else {}):
        operands = [read(v) for v in step.invars]
        if step.names:
            inner = {name: taps[full] for name, full in step.names.items()}
            results, found = _tagged(step.eqn, operands, inner, share)
            values.update({step.names[name]: leaves for name, leaves in found.items()})
        else:
            results = step.program(*operands)
        env.update(zip(step.outvars, results, strict=True))
    results = [
        jnp.asarray(v.val) if isinstance(v, compat.Literal) else env[v] for v in jaxpr.outvars
    ]
    return results, values


_inject_inlined = jax.jit(inject, inline=True)


def _tagged(
    eqn: compat.JaxprEqn, operands: list[Any], taps: Values, share: bool
) -> tuple[list[Any], Values]:
    """One equation that holds asked tags, or is one; `taps` by the names of its inside."""
    if eqn.primitive is tag_p:
        ((name, sinks),) = taps.items()
        add = _inject_inlined if share else inject
        leaves = [
            x if sink is None else add(x, compat.placed_like(sink, jax.typeof(x)))
            for x, sink in zip(operands, sinks, strict=True)
        ]
        return leaves, {name: [jnp.asarray(x) for x in operands]}
    with ExitStack() as stack:
        # The body's equations keep their own scopes; the one around them is entered again.
        for scope in compat.scopes(eqn):
            stack.enter_context(jax.named_scope(scope))
        return _RULES[compat.kind(eqn)].evaluate(eqn, operands, taps, run)


class Step(NamedTuple):
    """A tagged equation (`names`: its inner names to the full ones), or a stretch of untagged."""

    invars: list[Any]
    outvars: list[Any]
    names: dict[str, str]
    eqn: Any = None
    program: Any = None


def _plan(
    jaxpr: compat.Jaxpr,
    asked: frozenset[str],
    instead: Mapping[compat.JaxprEqn, compat.JaxprEqn],
) -> list[Step]:
    """Cuts a jaxpr at its tagged equations; linear in the number of equations and operands.

    In the stretches between them `instead` tells what to evaluate in place of an equation.
    """
    bools = compat.bools_behind(jaxpr)
    last_use: dict[Any, int] = {}
    for index, eqn in enumerate(jaxpr.eqns):
        last_use.update((v, index) for v in _variables([*eqn.invars, *_reads(eqn, bools)]))
    last_use.update((v, len(jaxpr.eqns)) for v in _variables(jaxpr.outvars))

    steps: list[Step] = []
    stretch: list[Any] = []
    for index, eqn in enumerate(jaxpr.eqns):
        names = _asked_inside(eqn, asked)
        if not names:
            stretch.append(instead.get(eqn, eqn))
            continue
        steps += _stretch(jaxpr, stretch, last_use, index)
        stretch = []
        steps.append(Step(_reads(eqn, bools), eqn.outvars, names, eqn=eqn))
    return steps + _stretch(jaxpr, stretch, last_use, len(jaxpr.eqns))


def _reads(eqn: compat.JaxprEqn, bools: dict[Any, Any]) -> list[Any]:
    """What an equation reads; a `cond`, the bool behind its index, so as not to clamp the index."""
    first, *rest = eqn.invars or [None]
    if compat.kind(eqn) == "cond" and not isinstance(first, compat.Literal):
        return [bools.get(first, first), *rest]
    return eqn.invars


def _stretch(jaxpr: Any, eqns: list[Any], last_use: dict[Any, int], end: int) -> list[Step]:
    """The step for untagged equations that end before equation `end`, where there are any."""
    if not eqns:
        return []
    made = dict.fromkeys(v for eqn in eqns for v in eqn.outvars)
    needed = dict.fromkeys(v for eqn in eqns for v in _variables(eqn.invars) if v not in made)
    results = [v for v in made if last_use.get(v, -1) >= end]
    program = compat.program(jaxpr, eqns, needed, results)
    return [Step(list(needed), results, {}, program=program)]


def _variables(atoms: Iterable[Any]) -> Iterable[Any]:
    return (atom for atom in atoms if not isinstance(atom, compat.Literal))


def _asked_inside(eqn: compat.JaxprEqn, asked: frozenset[str]) -> dict[str, str]:
    """The asked tags of an equation: the name inside it to the full name."""
    if eqn.primitive is tag_p:
        inner: Iterable[str] = (eqn.params["name"],)
    else:
        inner = (name for body in compat.subjaxprs(eqn.params) for name in find(body))
    return {name: full for name in inner if (full := _scoped(eqn, name)) in asked}
