"""Where a bad value is no concern of the user's until it gets out.

A function of JAX that returns no NaN may make some inside. So may what stands between the user's
line and the values that it gets otherwise: a function of an installed package, which masks them
itself; a branch of a `cond` under `vmap`, which is computed for every example and chosen from
afterwards; a step of a loop under `vmap`, which is computed for the examples that are done too.
"""

from typing import Any, NamedTuple

from ... import _jax
from .events import Level, Path, place

PACKAGE, BRANCH, STEP = "package", "branch", "step"


class Room(NamedTuple):
    """Where a bad value was made.

    Fields:
        kind: `PACKAGE`, `BRANCH` or `STEP`.
        key: the call of the user's that led into the package, or the loop and its step.
    """

    kind: str
    key: Any = None


def of_library(path: Path) -> bool:
    """Whether the last equation on a path is a function of JAX; the whole program is none."""
    return len(path) > 1 and _jax.of_library(path[-1].equation)


def room(path: Path) -> Room | None:
    """The room that the last equation on a path stands in; `None` in the user's own code."""
    return _package(path) or _shared(path)


def out_of(known: Room, path: Path, variable: Any) -> Room | None:
    """The room that a bad value is in where the last equation on a path reads it as a variable."""
    if known.kind == STEP:
        return known if known in map(_step, path) else None
    if known.kind == BRANCH:  # whether it gets out is seen where the branch is chosen
        return known
    if known == _package(path):
        return known
    chosen = variable in _chosen(path[-1].equation.program)
    return _shared(path[:-1]) or (_branch if chosen else None)


def gets_lost(variable: Any, equation: _jax.Equation, around: Path, output: bool) -> bool:
    """Whether what an equation makes is of no concern: it and all who read it are in one room."""
    path = (*around, Level(equation))
    if output or _jax.of_choice(equation):
        return False
    if _shared(path):
        return True
    own = _package(path)
    readers = _readers(equation.program).get(variable, [])
    return own is not None and all(_all_in(own, reader, around) for reader in (equation, *readers))


def _all_in(own: Room, equation: _jax.Equation, around: Path) -> bool:
    path = (*around, Level(equation))
    bodies = [body.program for body in equation.bodies]
    inner = [e for program in bodies for e in _jax.equations(program)]
    return _package(path) == own and all(_all_in(own, e, path) for e in inner)


def _package(path: Path) -> Room | None:
    here = place(path)
    return Room(PACKAGE, here.own.key) if here and here.through else None


_branch = Room(BRANCH)


def _shared(path: Path) -> Room | None:
    """The innermost branch or step that `vmap` computes for other examples too."""
    for level in reversed(path):
        made = level.equation.makes
        if made and all(v in _chosen(level.equation.program) for v in made):
            return _branch
        if step := _step(level):
            return step
    return None


def _step(level: Level) -> Room | None:
    """A step of a loop in which some examples may be done."""
    tests = [body for body in level.equation.bodies if body.role == _jax.TEST]
    apart = any(_jax.type_of(v).shape for test in tests for v in _jax.outputs(test.program))
    return Room(STEP, (level.equation, level.step)) if apart else None


@_jax.once
def _chosen(program: _jax.Jaxpr) -> set[Any]:
    """The variables of which only what a `cond` under `vmap` chooses from them is used."""
    free = set(_jax.variables(_jax.outputs(program)))
    inside: set[Any] = set()
    readers = _readers(program)
    for equation in reversed(_jax.equations(program)):
        for v in equation.makes:
            after = readers.get(v, [])
            kept = (_jax.of_choice(e) or all(w in inside for w in e.makes) for e in after)
            if after and v not in free and all(kept):
                inside.add(v)
    return inside


@_jax.once
def _readers(program: _jax.Jaxpr) -> dict[Any, list[_jax.Equation]]:
    readers: dict[Any, list[_jax.Equation]] = {}
    for equation in _jax.equations(program):
        for v in _jax.variables(equation.reads):
            readers.setdefault(v, []).append(equation)
    return readers
