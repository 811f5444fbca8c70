"""The iterations of loops, those that funcgrad takes apart as iterations of the whole.

Going backwards, a loop with more steps than it may keep residuals of is a loop over the first ones,
and one over segments of the rest, in the body of which the segment is a loop of its own.
"""

from ... import _jax
from .events import Level, Path

LOOP = "bounded_loop"
"""The primitive that is taken apart."""


def steps(path: Path) -> tuple[tuple[str, int], ...]:
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
            segment = loops.pop(0)
            step = _kept_first(level) + step * _length(segment.equation) + (segment.step or 0)
        found.append((level.equation.kind, step))
    return tuple(found)


def _is_segment(level: Level) -> bool:
    """Whether a loop is a segment of the one around it: its body alone is the user's."""
    return level.equation.kind == LOOP and _jax.place([level.equation]) is None


def _kept_first(level: Level) -> int:
    """How many steps come before the segments: those of the other loop from the same line."""
    here = _jax.place([level.equation])
    others = [
        _length(other)
        for other in _jax.equations(level.equation.program)
        if other != level.equation and other.kind == LOOP
        if here and here.same(_jax.place([other]))
    ]
    return max(others, default=0)


def _length(loop: _jax.Equation) -> int:
    return (loop.trips and loop.trips.length) or 0
