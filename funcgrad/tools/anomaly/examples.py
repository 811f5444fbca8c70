"""Which example of each `vmap` an entry of a value belongs to.

`vmap` leaves no note of which axis is that of its examples: its equations are ordinary ones, of
which the name stack alone says that a `vmap` is around them. So the axis is inferred, by the law
that a `vmap` keeps examples apart. What comes into its equations from outside is taken to be mapped
along its first axis, and that axis is followed through them. An assumption under which examples are
mixed (summed, contracted, sorted) or come out along another axis is dropped; of the sizes that the
first axes have, the one that explains the most values wins. Where nothing is left, as with an
`in_axes` or `out_axes` other than 0, the example is unknown; a value that all share has none.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ... import _jax
from .events import Path
from .segments import LOOP

Axes = dict[Any, int]
"""The axis of the examples of one `vmap`, for each variable that has one."""


class Mixed(Exception):
    """Raised where examples would be mixed; holds the variables of which one cannot be mapped."""


class Region(NamedTuple):
    """The equations of a program that one `vmap` made.

    Fields:
        program: the program.
        equations: they.
        inside: what they make.
        backward: whether the whole program is part of a backward pass.
    """

    program: _jax.Jaxpr
    equations: list[_jax.Equation]
    inside: set[Any]
    backward: bool


def examples(path: Path, index: tuple[int, ...], result: int) -> tuple[int | None, ...]:
    """For each `vmap` around the last equation of a path, the outermost first, the example.

    Args:
        path: the equations, each but the last holding the next.
        index: the index of an entry in a result of the last one.
        result: which result.
    """
    known: list[Axes] = []
    for place, level in enumerate(path):
        equation = level.equation
        count = equation.transforms.count("vmap")
        # In the body of a loop of funcgrad the `vmap`s around the loop are named once more.
        looped = any(around.equation.kind.startswith(LOOP) for around in path[:place])
        again = count - len(equation.vmaps) if looped else 0
        known = [_followed(equation.program, axes) for axes in known]
        for depth in range(again, count):
            backward = any("transpose" in p.equation.transforms for p in path[:place])
            region = _region(equation, depth, backward)
            # The examples of `jax.jacfwd` and `jax.jacrev` are directions.
            directions = _jax.of_jacobian(_callers(equation, depth))
            known.append({} if directions else _inferred(region, known))
        if level.body is not None:
            known = [_entered(level.body, _given(equation, axes)) for axes in known]
    last = path[-1].equation.makes[result]
    return tuple(index[axes[last]] if last in axes else None for axes in known)


def _followed(program: _jax.Jaxpr, start: Axes) -> Axes:
    """The axes of all variables of a program, from those of its inputs."""
    axes = dict(start)
    for equation in _jax.equations(program):
        axes.update(_through(equation, axes, mixing=True))
    return axes


def _region(equation: _jax.Equation, depth: int, backward: bool) -> Region:
    """The equations of the `vmap` at a depth around an equation."""
    key, program = _call(equation, depth), equation.program
    same = [other for other in _jax.equations(program) if _call(other, depth) == key]
    return Region(program, same, {v for other in same for v in other.makes}, backward)


def _call(equation: _jax.Equation, depth: int) -> Any:
    """What tells one call of `vmap` from another; `None` where there is none at that depth."""
    if depth >= equation.transforms.count("vmap"):
        return None
    return depth, tuple(frame.key for frame in _callers(equation, depth))


def _callers(equation: _jax.Equation, depth: int) -> list[_jax.Frame]:
    """The calls around the `vmap` at a depth; none where they cannot be told."""
    calls = equation.vmaps
    place = depth - equation.transforms.count("vmap") + len(calls)
    return calls[place] if 0 <= place < len(calls) else []


def _inferred(region: Region, outer: Sequence[Axes]) -> Axes:
    """The axes of the examples in a region, given those of the `vmap`s around."""
    read = _jax.variables([v for equation in region.equations for v in equation.reads])
    at = _firsts((v for v in read if v not in region.inside), outer)
    ends = _firsts(_leaving(region), outer)
    sizes = {v: _jax.type_of(v).shape[axis] for v, axis in at.items()}
    tries = [
        _explained(region, {v: axis for v, axis in at.items() if sizes[v] == size}, ends)
        for size in dict.fromkeys(sizes.values())
    ]
    return max(tries, key=len, default={})


def _firsts(variables: Iterable[Any], outer: Sequence[Axes]) -> Axes:
    """For each variable the first axis that is not the one of an outer `vmap`, if there is one."""
    return {v: axis for v in variables if (axis := _first(v, outer)) is not None}


def _first(v: Any, outer: Sequence[Axes]) -> int | None:
    """The first axis of a variable that is not the one of an outer `vmap`."""
    taken = {axes[v] for axes in outer if v in axes}
    rank = len(getattr(_jax.type_of(v), "shape", ()))
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
            for equation in region.equations:
                # Going back, the gradients of what examples share are added up.
                mixing = region.backward or "transpose" in _around(equation)
                made = _through(equation, axes, mixing)
                read = [origin[v] for v in _jax.variables(equation.reads) if v in origin]
                axes.update(made)
                origin.update(dict.fromkeys(made, frozenset().union(*read)))
        except Mixed as mixed:
            for wrong in dict.fromkeys(origin[v] for v in mixed.args):
                waiting.append({v: axis for v, axis in assumed.items() if v not in wrong})
        else:
            if all(axes.get(v, axis) == axis for v, axis in ends.items()):
                best = max(best, axes, key=len)
    return best


def _around(equation: _jax.Equation) -> list[str]:
    """The transformations around the innermost `vmap` of an equation."""
    names = equation.transforms
    return names[: len(names) - names[::-1].index("vmap")] if "vmap" in names else []


def _leaving(region: Region) -> list[Any]:
    """What a region makes and others use."""
    own = set(region.equations)
    others = [e for e in _jax.equations(region.program) if e not in own]
    used = [*(v for e in others for v in e.reads), *_jax.outputs(region.program)]
    return [v for v in _jax.variables(used) if v in region.inside]


def _given(equation: _jax.Equation, axes: Axes) -> list[int | None]:
    """The axis of each operand."""
    return [None if _jax.is_literal(v) else axes.get(v) for v in equation.reads]


def _through(equation: _jax.Equation, axes: Axes, mixing: bool) -> Axes:
    """Where the examples are in what an equation makes.

    Raises:
        Mixed: it mixes them, and `mixing` is not allowed.
    """
    given = _given(equation, axes)
    if all(axis is None for axis in given):
        return {}
    if equation.bodies:
        return _through_body(equation, equation.bodies[0], given, mixing)
    made: Axes = {}
    behind: dict[Any, Any] = {}
    known = [(place, axis) for place, axis in enumerate(given) if axis is not None]
    for place, axis in known:
        v = equation.reads[place]
        for result, out in enumerate(equation.makes):
            at = _jax.moved(equation, place, axis, result)
            if at is None and not mixing:
                raise Mixed(v)
            if at is not None and made.setdefault(out, at) != at and not mixing:
                raise Mixed(behind[out], v)
            behind.setdefault(out, v)
    return made


def _through_body(
    equation: _jax.Equation, body: _jax.Body, given: Sequence[int | None], mixing: bool
) -> Axes:
    axes = _entered(body, given)
    for inner in _jax.equations(body.program):
        try:
            axes.update(_through(inner, axes, mixing))
        except Mixed as mixed:
            raise Mixed(_suspect(equation, given)) from mixed
    made: Axes = {}
    for v, (place, flow) in zip(_jax.outputs(body.program), body.outputs, strict=True):
        if not _jax.is_literal(v) and v in axes:
            made[equation.makes[place]] = axes[v] + (flow == _jax.ROW)
    return made


def _suspect(equation: _jax.Equation, given: Sequence[int | None]) -> Any:
    """An operand to suspect where the body of an equation mixes examples."""
    return next(v for v, axis in zip(equation.reads, given, strict=True) if axis is not None)


def _entered(body: _jax.Body, given: Sequence[int | None]) -> Axes:
    """The axes of the inputs of a body, from those of the operands of the equation around it."""
    axes: Axes = {}
    for v, (place, flow) in zip(_jax.inputs(body.program), body.inputs, strict=True):
        axis, row = given[place], flow == _jax.ROW
        if axis is not None and axis >= row:
            axes[v] = axis - row
    return axes
