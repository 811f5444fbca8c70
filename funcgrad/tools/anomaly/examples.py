"""Tells which example of each `vmap` an entry of a value belongs to.

`vmap` leaves no note of which axis is that of its examples: its equations are ordinary ones, of
which the name stack alone says that a `vmap` is around them. So the axis is inferred, by the law
that a `vmap` keeps examples apart. What comes into its equations from outside is taken to be mapped
along its first axis, and that axis is followed through them. An assumption under which examples are
mixed (summed, contracted, sorted) or come out along another axis is dropped; of the sizes that the
first axes have, the one that explains the most values wins. Where nothing is left, as with an
`in_axes` or `out_axes` other than 0, the example is unknown; a value that all share has none.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ... import _jax
from . import flags
from .walk import Level

Axes = dict[Any, int]
"""The axis of the examples of one `vmap`, for each variable that has one."""


class Mixed(Exception):
    """Raised where examples would be mixed; holds the variables of which one cannot be mapped."""


class Region(NamedTuple):
    """The equations of a program that one `vmap` made.

    Fields:
        jaxpr: the program.
        eqns: they.
        inside: what they make.
        turned: whether the whole program is part of a backward pass.
    """

    jaxpr: compat.Jaxpr
    eqns: list[compat.JaxprEqn]
    inside: set[Any]
    turned: bool


def examples(path: Sequence[Level], index: tuple[int, ...], result: int) -> tuple[int | None, ...]:
    """For each `vmap` around the last equation of a path, the outermost first, the example.

    Args:
        path: the equations, each but the last holding the next.
        index: the index of an entry in a result of the last one.
        result: which result.
    """
    known: list[Axes] = []
    for place, level in enumerate(path):
        count = compat.transforms(level.eqn).count("vmap")
        # In the body of a loop of funcgrad the `vmap`s around the loop are named once more.
        looped = any(compat.kind(around.eqn).startswith("bounded_loop") for around in path[:place])
        again = count - len(_calls(level.eqn)) if looped else 0
        known = [_followed(level.jaxpr, axes) for axes in known]
        for depth in range(again, count):
            turned = any("transpose" in compat.transforms(p.eqn) for p in path[:place])
            region = _region(level, depth, turned)
            known.append({} if _of_jacobian(level.eqn, depth) else _inferred(region, known))
        if place + 1 < len(path):
            known = [_entered(level, axes) for axes in known]
    last = path[-1].eqn.outvars[result]
    return tuple(index[axes[last]] if last in axes else None for axes in known)


def _followed(jaxpr: compat.Jaxpr, start: Axes) -> Axes:
    """The axes of all variables of a program, from those of its inputs."""
    axes = dict(start)
    for eqn in jaxpr.eqns:
        axes.update(_through(eqn, axes, mixing=True))
    return axes


def _region(level: Level, depth: int, turned: bool) -> Region:
    """The equations of the `vmap` at a depth around an equation."""
    key = _call(level.eqn, depth)
    eqns = [eqn for eqn in level.jaxpr.eqns if _call(eqn, depth) == key]
    return Region(level.jaxpr, eqns, {v for eqn in eqns for v in eqn.outvars}, turned)


def _call(eqn: compat.JaxprEqn, depth: int) -> Any:
    """What tells one call of `vmap` from another; `None` where there is none at that depth."""
    if depth >= compat.transforms(eqn).count("vmap"):
        return None
    return depth, tuple(frame.key for frame in _callers(eqn, depth))


def _callers(eqn: compat.JaxprEqn, depth: int) -> list[_jax.Frame]:
    """The calls around the `vmap` at a depth; none where they cannot be told."""
    calls = _calls(eqn)
    place = depth - compat.transforms(eqn).count("vmap") + len(calls)
    return calls[place] if 0 <= place < len(calls) else []


def _calls(eqn: compat.JaxprEqn) -> list[list[_jax.Frame]]:
    """The calls around each `vmap` that was called where an equation was made, outermost first."""
    frames = compat.frames(eqn)
    return [frames[i + 1 :] for i, f in enumerate(frames) if f.function == "vmap_f"][::-1]


def _of_jacobian(eqn: compat.JaxprEqn, depth: int) -> bool:
    """Whether a `vmap` is that of `jax.jacfwd` or `jax.jacrev`, whose examples are directions."""
    return "jacfun" in [frame.function for frame in _callers(eqn, depth)[:2]]


def _inferred(region: Region, outer: Sequence[Axes]) -> Axes:
    """The axes of the examples in a region, given those of the `vmap`s around."""
    entering = dict.fromkeys(
        v
        for eqn in region.eqns
        for v in eqn.invars
        if not _jax.is_literal(v) and v not in region.inside
    )
    at = {v: axis for v in entering if (axis := _first(v, outer)) is not None}
    ends = {v: axis for v in _leaving(region) if (axis := _first(v, outer)) is not None}
    sizes = dict.fromkeys(v.aval.shape[axis] for v, axis in at.items())
    tries = [
        _explained(region, {v: axis for v, axis in at.items() if v.aval.shape[axis] == size}, ends)
        for size in sizes
    ]
    return max(tries, key=len, default={})


def _first(v: Any, outer: Sequence[Axes]) -> int | None:
    """The first axis of a variable that is not the one of an outer `vmap`."""
    taken = {axes[v] for axes in outer if v in axes}
    rank = len(getattr(v.aval, "shape", ()))
    return next((axis for axis in range(rank) if axis not in taken), None)


def _explained(region: Region, mapped: Axes, ends: Axes, tries: int = 16) -> Axes:
    """The axes that follow from the inputs taken to be mapped, less those that cannot be.

    Where two of them contradict each other, each is left out in turn; of what then leaves along its
    first axis, what explains more is returned.

    Args:
        region: the equations.
        mapped: the axes to begin with.
        ends: for what leaves the region, the axis along which its examples must be.
        tries: how many assumptions to follow up.
    """
    waiting, seen = [mapped], 0
    best: Axes = {}
    while waiting and seen < tries:
        assumed, seen = waiting.pop(0), seen + 1
        axes, origin = dict(assumed), {v: frozenset([v]) for v in assumed}
        try:
            for eqn in region.eqns:
                # Going back, the gradients of what examples share are added up.
                mixing = region.turned or "transpose" in _around(eqn)
                made = _through(eqn, axes, mixing)
                read = [origin[v] for v in eqn.invars if not _jax.is_literal(v) and v in origin]
                axes.update(made)
                origin.update(dict.fromkeys(made, frozenset().union(*read)))
        except Mixed as mixed:
            for wrong in dict.fromkeys(origin[v] for v in mixed.args):
                waiting.append({v: axis for v, axis in assumed.items() if v not in wrong})
        else:
            if all(axes.get(v, axis) == axis for v, axis in ends.items()):
                best = max(best, axes, key=len)
    return best


def _around(eqn: compat.JaxprEqn) -> list[str]:
    """The transformations around the innermost `vmap` of an equation."""
    names = compat.transforms(eqn)
    return names[: len(names) - names[::-1].index("vmap")] if "vmap" in names else []


def _leaving(region: Region) -> list[Any]:
    """What a region makes and others use."""
    own = {id(eqn) for eqn in region.eqns}
    others = [v for eqn in region.jaxpr.eqns if id(eqn) not in own for v in eqn.invars]
    used = {v for v in (*others, *region.jaxpr.outvars) if not _jax.is_literal(v)}
    return [v for v in used if v in region.inside]


def _through(eqn: compat.JaxprEqn, axes: Axes, mixing: bool) -> Axes:
    """Where the examples are in what an equation makes.

    Raises:
        Mixed: it mixes them, and `mixing` is not allowed.
    """
    given = [None if _jax.is_literal(v) else axes.get(v) for v in eqn.invars]
    if all(axis is None for axis in given):
        return {}
    bodies = _bodies(eqn)
    if bodies:
        return _around_body(eqn, bodies[0], given, mixing)
    made: Axes = {}
    behind: dict[Any, Any] = {}
    known = [(v, a) for v, a in zip(eqn.invars, given, strict=True) if a is not None]
    for v, axis in known:
        for out in eqn.outvars:
            at = _moved(eqn, v, axis, out)
            if at is None and not mixing:
                raise Mixed(v)
            if at is not None and made.setdefault(out, at) != at and not mixing:
                raise Mixed(behind[out], v)
            behind.setdefault(out, v)
    return made


def _moved(eqn: compat.JaxprEqn, v: Any, axis: int, out: Any) -> int | None:
    """Where an axis of an operand is in a result; `None` where it is summed up or lost."""
    name, params, size = eqn.primitive.name, eqn.params, v.aval.shape[axis]
    shape: Sequence[int] = getattr(out.aval, "shape", ())
    if name == "broadcast_in_dim":
        return params["broadcast_dimensions"][axis]
    if name == "transpose":
        return params["permutation"].index(axis)
    if name == "dot_general":
        return _of_product(eqn, v, axis)
    gone = _gone(name, params)
    if gone is not None:
        return None if axis in gone else axis - sum(d < axis for d in gone)
    if _along(params) == axis and name != "split":
        return None
    if name == "reshape":
        before = math.prod(v.aval.shape[:axis])
        starts = [math.prod(shape[:d]) for d in range(len(shape))]
        fits = [d for d, s in enumerate(starts) if s == before and shape[d] == size]
        return fits[0] if fits else None
    if axis < len(shape) and shape[axis] == size:
        return axis
    return 0 if len(shape) and shape[0] == size else None


def _gone(name: str, params: dict[str, Any]) -> Sequence[int] | None:
    """The axes that a reduction or `squeeze` takes away; `None` for other operations."""
    if name == "squeeze":
        return params["dimensions"]
    reduces = name.startswith("reduce_") and name != "reduce_precision"
    return params["axes"] if reduces or name in ("argmax", "argmin") else None


def _along(params: dict[str, Any]) -> int | None:
    """The axis along which an operation scans, sorts or joins, if it does."""
    along = params.get("axis", params.get("dimension"))
    return along if isinstance(along, int) else None


def _of_product(eqn: compat.JaxprEqn, v: Any, axis: int) -> int | None:
    """Where an axis of a factor is in a matrix product: batch, then left, then right axes."""
    contracted, batch = eqn.params["dimension_numbers"]
    side = 0 if eqn.invars[0] is v else 1
    if axis in batch[side]:
        return list(batch[side]).index(axis)
    if axis in contracted[side]:
        return None
    used = {*batch[side], *contracted[side]}
    free = sum(d not in used for d in range(axis))
    left = eqn.invars[0].aval.ndim - len(batch[0]) - len(contracted[0])
    return len(batch[0]) + free + (left if side else 0)


def _bodies(eqn: compat.JaxprEqn) -> list[_jax.Jaxpr]:
    """The programs in an equation of a known kind; the one that makes its results first."""
    kind = compat.kind(eqn)
    if kind in flags.BODIES:
        return [flags.BODIES[kind](eqn).body]
    if kind == "cond":
        return compat.branches(eqn)
    if kind == "scan":
        return [compat.scan(eqn).body]
    if kind == "while":
        return [compat.while_loop(eqn).body, compat.while_loop(eqn).cond]
    if kind == "bounded_loop":
        return [eqn.params["loop"].body, eqn.params["loop"].cond]
    return []


def _around_body(
    eqn: compat.JaxprEqn, body: _jax.Jaxpr, given: list[int | None], mixing: bool
) -> Axes:
    jaxpr = compat.open_up(body)
    axes = {
        v: a for v, a in zip(jaxpr.invars, _inside(eqn, body, given), strict=True) if a is not None
    }
    for inner in jaxpr.eqns:
        try:
            axes.update(_through(inner, axes, mixing))
        except Mixed as mixed:
            raise Mixed(_suspect(eqn, given)) from mixed
    carried, skipped = _carried(eqn)
    outs = eqn.outvars[skipped:]
    made: Axes = {}
    for place, (inner, out) in enumerate(zip(jaxpr.outvars, outs, strict=True)):
        if not _jax.is_literal(inner) and inner in axes:
            row = carried is not None and place >= carried
            made[out] = axes[inner] + row
    return made


def _suspect(eqn: compat.JaxprEqn, given: Sequence[int | None]) -> Any:
    """An operand to suspect where the body of an equation mixes examples."""
    return next(v for v, axis in zip(eqn.invars, given, strict=True) if axis is not None)


def _carried(eqn: compat.JaxprEqn) -> tuple[int | None, int]:
    """How many results are carries, the others having a row for each step; results before them."""
    kind = compat.kind(eqn)
    if kind == "scan":
        return compat.scan(eqn).carry, 0
    if kind == "bounded_loop":
        return eqn.params["loop"].carry, 1
    return None, 0


def _inside(
    eqn: compat.JaxprEqn, body: _jax.Jaxpr, given: Sequence[int | None]
) -> list[int | None]:
    """The axes of the inputs of a body, from those of the operands of the equation around it."""
    kind, given = compat.kind(eqn), list(given)
    if kind == "cond":
        return given[1:]
    if kind == "scan":
        loop = compat.scan(eqn)
        start = loop.consts + loop.carry
        return given[:start] + [_row(axis) for axis in given[start:]]
    if kind == "while":
        loops = compat.while_loop(eqn)
        start = loops.conds + loops.consts
        if compat.open_up(body) is compat.open_up(loops.cond):
            return given[: loops.conds] + given[start:]
        return given[loops.conds :]
    if kind == "bounded_loop":
        ops = eqn.params["loop"].operands(given)
        if body is eqn.params["loop"].cond:
            return [*ops.conds, *ops.carry]
        return [*ops.consts, *ops.carry, *map(_row, ops.xs)]
    return given


def _row(axis: int | None) -> int | None:
    return axis - 1 if axis else None


def _entered(level: Level, axes: Axes) -> Axes:
    """The axes of the inputs of the body that a level runs."""
    invars = compat.open_up(level.body).invars
    given = [None if _jax.is_literal(v) else axes.get(v) for v in level.eqn.invars]
    inner = _inside(level.eqn, level.body, given)
    if len(inner) != len(invars):
        return {}
    return {v: axis for v, axis in zip(invars, inner, strict=True) if axis is not None}
