"""Tells the iterations of loops, those that funcgrad takes apart as iterations of the whole.

Going backwards, a loop with more steps than it may keep residuals of is a loop over the first ones,
and one over segments of the rest, in the body of which the segment is a loop of its own.
"""

from collections.abc import Sequence

from ... import _jax
from ... import _source as source
from .walk import Level


def steps(path: Sequence[Level]) -> tuple[tuple[str, int], ...]:
    """For each loop around the last equation of a path its primitive and the iteration.

    A loop in segments of segments, one of more than `checkpoints + checkpoints**2` steps, has an
    entry for each, counted within the segment.
    """
    found: list[tuple[str, int]] = []
    loops = [level for level in path if level.step is not None]
    while loops:
        level, *loops = loops
        step = level.step or 0
        if loops and _is_segment(loops[0]) and not any(map(_is_segment, loops[1:2])):
            first, segment = _kept_first(level), loops.pop(0)
            step = first + step * segment.eqn.params["loop"].length + (segment.step or 0)
        found.append((compat.kind(level.eqn), step))
    return tuple(found)


def _is_segment(level: Level) -> bool:
    """Whether a loop is a segment of the one around it: its body alone is the user's."""
    own = source.place([level.eqn])
    return compat.kind(level.eqn) == "bounded_loop" and own is None


def _kept_first(level: Level) -> int:
    """How many steps come before the segments: those of the other loop from the same line."""
    here = source.place([level.eqn])
    others = [
        eqn.params["loop"].length or 0
        for eqn in level.jaxpr.eqns
        if eqn is not level.eqn and compat.kind(eqn) == "bounded_loop"
        if here and (there := source.place([eqn])) and there.own.key == here.own.key
    ]
    return max(others, default=0)
