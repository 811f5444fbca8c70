"""The tags that a program holds: their names, types and places."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp

from .. import _jax
from .._tags import TAG, settled

Values = dict[str, list[Any]]
"""The leaves of each tagged value by name; in taps, `None` for a leaf that takes no gradient."""


class Leaf(NamedTuple):
    """The type of one leaf of a tagged value.

    Fields:
        shape: with an axis in front for each loop and mesh axis around it.
        dtype: its dtype.
        varying: the manual mesh axes along which devices hold different values.
        inside: the type of the value where it is tagged, on the same mesh; else `None`.
    """

    shape: tuple[int, ...]
    dtype: Any
    varying: frozenset[str] = frozenset()
    inside: Any = None

    def zeros(self) -> Any:
        """Zeros of this type, not sharded."""
        return _jax.varied(jnp.zeros(self.shape, self.dtype), self.varying)

    def placed_zeros(self) -> Any:
        """Zeros of this type, sharded as the value is."""
        return self.zeros() if self.inside is None else _jax.placed_like(self.zeros(), self.inside)


class Site(NamedTuple):
    """A tag as the function that holds it is seen from outside.

    Fields:
        leaves: the type of each leaf.
        tree: the structure of the tagged pytree.
        where: `file:line` of the call that made it.
        inside: the type of each leaf where it is tagged.
        around: the sizes of the axes of loops and meshes around it.
        batch: the `vmap`s around it, the innermost first; see `retain_grad`'s primitive.
        blocked: the enclosing primitive that hides inner values and gradients, if there is one.
        sealed: the enclosing primitive that cannot be called anew, if there is one.
        repeats: whether it is the recomputation, in a backward pass, of a tag in the forward pass.
        differentiated: whether a gradient inside the function has gone through it.
        uid: which call made it; copies that JAX makes of it share the number.
        numbered: whether further uses of the name are told apart by a number.
        dropped: whether nothing uses what the call returned, so that no gradient reaches it.
        clash: another tag of the same name, if there is one.
    """

    leaves: tuple[Leaf, ...]
    tree: Any
    where: str
    inside: tuple[Any, ...] = ()
    around: tuple[int, ...] = ()
    batch: tuple[Any, ...] = ()
    blocked: str | None = None
    sealed: str | None = None
    repeats: bool = False
    differentiated: bool = False
    uid: int = 0
    numbered: bool = False
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


class Named(NamedTuple):
    """A tag of an equation: its name inside the equation, and in the program that holds it."""

    inner: str
    full: str
    site: Site


@_jax.once
def find(program: _jax.Jaxpr) -> dict[str, Site]:
    """Every tag in a program by its full name, in the order of the program.

    Each program is walked once as long as it lives: bodies are shared between calls and traces.
    """
    found: dict[str, Site] = {}
    for _, name, site in (named for row in names(program) for named in row):
        first = found.setdefault(name, site)
        if first is site:
            continue
        if not (site.repeats and site.uid == first.uid):
            found[name] = first._replace(clash=site)
            continue
        found[name] = first._replace(dropped=first.dropped and site.dropped)
        uses = [n for n, s in found.items() if s.uid == site.uid] if site.numbered else [name]
        if len(uses) > 1:  # one body called twice: which call is repeated cannot be told
            found.update({n: found[n]._replace(clash=site) for n in uses})
    return found


@_jax.once
def names(program: _jax.Jaxpr) -> list[list[Named]]:
    """For each equation of a program the tags in it."""
    rows = []
    uses: dict[str, list[int]] = {}
    for equation in _jax.equations(program):
        row = []
        for inner, site in _sites(equation):
            full = settled("/".join([*equation.scopes, inner] if inner else equation.scopes))
            row.append(Named(inner, _numbered(full, site, uses) if site.numbered else full, site))
        rows.append(row)
    return rows


def _numbered(full: str, site: Site, uses: dict[str, list[int]]) -> str:
    """The name of the next use, `att` or `att#2`; of a recomputation, that of what it repeats."""
    base = _NUMBER.sub("", full)
    uids = uses.setdefault(base, [])
    if site.repeats and site.uid in uids:
        number = 1 + uids.index(site.uid)
    else:
        uids.append(site.uid)
        number = len(uids)
    return base if number == 1 else f"{base}#{number}"


_NUMBER = re.compile(r"#\d+$")


def _sites(equation: _jax.Equation) -> Iterable[tuple[str, Site]]:
    if equation.kind == TAG:
        own, inside = equation.own, tuple(equation.operand_types)
        yield (
            own["name"],
            Site(
                tuple(Leaf(t.shape, t.dtype, _jax.varying(t), t) for t in inside),
                own["tree"],
                own["where"],
                inside,
                batch=own["batch"],
                repeats=equation.recomputes,
                differentiated=own["differentiated"],
                uid=own["uid"],
                numbered=own["numbered"],
                dropped=_jax.used(equation.program).isdisjoint(equation.makes),
            ),
        )
        return
    bodies = [found for program in equation.programs if (found := find(program))]
    if not bodies:
        return
    tested = _tested(equation)
    for name, site in _union(bodies).items():
        site = site._replace(repeats=site.repeats or equation.recomputes)
        if not _jax.reenters(equation):
            site = site._replace(sealed=site.sealed or _public(equation))
        if hides(equation) or name in tested:
            site = site._replace(blocked=site.blocked or _public(equation))
        else:
            leaves = tuple(_outside(equation, leaf) for leaf in site.leaves)
            around = (*_jax.around(equation), *site.around)
            site = site._replace(leaves=leaves, around=around)
        yield name, site


def hides(equation: _jax.Equation) -> bool:
    """Whether gradients of values inside an equation cannot be told from outside.

    A loop whose number of steps is not bounded has no room for a row of each step.
    """
    loop = equation.trips
    return not _jax.reenters(equation) or (loop is not None and loop.length is None)


def _public(equation: _jax.Equation) -> str:
    """The name by which users know the primitive of an equation.

    A `while_loop` never hides a tag: it has a bound, and a tag in its condition is there twice.
    """
    return "fori_loop" if equation.kind == "bounded_loop" else equation.kind


def _tested(equation: _jax.Equation) -> set[str]:
    """The tags in the condition of a loop alone, from which no gradient flows."""
    tests = [body.program for body in equation.bodies if body.role == _jax.TEST]
    if not any(map(find, tests)):
        return set()
    steps = [body.program for body in equation.bodies if body.role == _jax.STEP]
    return {name for program in tests for name in find(program)}.difference(*map(find, steps))


def _outside(equation: _jax.Equation, leaf: Leaf) -> Leaf:
    """The type that a value inside an equation has from outside."""
    manual = {axis for body in equation.bodies for axis in body.axes}
    shape = (*_jax.around(equation), *leaf.shape)
    inside = None if manual else leaf.inside
    return Leaf(shape, leaf.dtype, leaf.varying.difference(manual), inside)


def _union(bodies: list[dict[str, Site]]) -> dict[str, Site]:
    """The tags of several bodies of which one runs; a name may stand in more than one of them."""
    union = dict(bodies[0])
    for name, site in ((n, s) for body in bodies[1:] for n, s in body.items()):
        first = union.setdefault(name, site)
        if _types(first) != _types(site):
            union[name] = first._replace(clash=site)
    return union


def _types(site: Site) -> Any:
    return [leaf[:3] for leaf in site.leaves], site.tree
