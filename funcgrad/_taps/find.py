"""The tags that a program holds: their names, types and places."""

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
        where: `file:line` of the call of `retain_grad`.
        blocked: the enclosing primitive that hides inner gradients, if there is one.
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


@_jax.once
def find(program: _jax.Jaxpr) -> dict[str, Site]:
    """Every tag in a program by its full name, in the order of the program.

    Each program is walked once as long as it lives: bodies are shared between calls and traces.
    """
    found: dict[str, Site] = {}
    for equation in _jax.equations(program):
        for name, site in _sites(equation):
            first = found.setdefault(name, site)
            if first is site:
                continue
            if site.repeats and site.uid == first.uid:
                found[name] = first._replace(dropped=first.dropped and site.dropped)
            else:
                found[name] = first._replace(clash=site)
    return found


def scoped(equation: _jax.Equation, name: str) -> str:
    """What a name inside an equation, or of it, is called outside."""
    return settled("/".join([*equation.scopes, name]))


def _sites(equation: _jax.Equation) -> Iterable[tuple[str, Site]]:
    if equation.kind == TAG:
        own = equation.own
        leaves = tuple(Leaf(t.shape, t.dtype, _jax.varying(t), t) for t in equation.operand_types)
        yield (
            scoped(equation, own["name"]),
            Site(
                leaves,
                own["tree"],
                own["where"],
                repeats=equation.recomputes,
                uid=own["uid"],
                dropped=_jax.used(equation.program).isdisjoint(equation.makes),
            ),
        )
        return
    bodies = [found for program in equation.programs if (found := find(program))]
    if not bodies:
        return
    for name, site in _union(bodies).items():
        site = site._replace(repeats=site.repeats or equation.recomputes)
        if hides(equation):
            site = site._replace(blocked=site.blocked or equation.kind)
        else:
            site = site._replace(leaves=tuple(_outside(equation, leaf) for leaf in site.leaves))
        yield scoped(equation, name), site


def hides(equation: _jax.Equation) -> bool:
    """Whether gradients of values inside an equation cannot be told from outside.

    A `while` of JAX has no room for a row of each step.
    """
    return not _jax.reenters(equation) or (equation.trips is not None and not equation.rows)


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
