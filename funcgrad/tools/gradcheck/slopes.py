"""Derivatives by finite differences, and how far each can be trusted.

The function is sampled at twelve steps in each direction, from a quarter of the entry's size down
to the square root of the machine epsilon. The central differences, polynomials in
the square of the step, are extrapolated to step zero by Neville's scheme, as C. J. F. Ridders does
("Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4, 1982): of all
extrapolations the one counts whose neighbours agree with it best, and their disagreement, with the
rounding of the function, is the estimate of its error. So no step has to be chosen: one that leaves
the function's domain, crosses a kink, or drowns in rounding disagrees with its neighbours. Where
the slopes of shorter steps have settled elsewhere, as they do for a wave much shorter than the
longest steps, these count.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .problem import Leaf, Problem

LEVELS = 12
ORDERS = 5
SMALLEST = 2.0**-30
SETTLED = 0.01  # how much better three slopes agree with each other than with an extrapolation
ALIKE = 1e-5  # two slopes that differ by less are one
LINEAR = 0.1  # by what share two changes of a slope over their steps may differ
FAR = 20  # times its estimated error, for it to be that of something else
# Nearly all the time goes into compiling programs that run once: 0.6 to 0.8 of it this way.
QUICKLY = {"xla_backend_optimization_level": 0}


class Bases(NamedTuple):
    """The directions in which derivatives are looked at: all entries, or one for each array.

    Fields:
        inputs: a row for each direction, a column for each entry of the inputs.
        outputs: likewise for the outputs.
        columns, rows: for each input and output, which directions are its own.
        fast: whether there is one random direction for each array.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    columns: list[slice]
    rows: list[slice]
    fast: bool


def bases(problem: Problem, fast: bool) -> Bases:
    """All unit directions, or a random one for each array: always the same ones."""
    draw = np.random.default_rng(0)
    into, columns = _directions(problem.inputs, fast, draw)
    outof, rows = _directions(problem.outputs, fast, draw)
    return Bases(into, outof, columns, rows, fast)


def _directions(leaves: list[Leaf], fast: bool, draw: Any) -> tuple[np.ndarray, list[slice]]:
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    places = [slice(*pair) for pair in itertools.pairwise(ends)]
    if not fast:
        return np.eye(ends[-1]), places
    filled = [place for place in places if place.stop > place.start]
    rows = np.zeros((len(filled), ends[-1]))
    for row, place in zip(rows, filled, strict=True):
        row[place] = eighths(draw, place.stop - place.start)
    starts = np.cumsum([0, *(place in filled for place in places)])
    return rows, [slice(*pair) for pair in itertools.pairwise(starts)]


def eighths(draw: np.random.Generator, shape: Any) -> np.ndarray:
    """Random eighths from 1/2 to 1 of either sign, which every dtype holds exactly."""
    return draw.integers(4, 9, shape) / 8 * draw.choice([-1, 1], shape)


def leaves_of(rows: np.ndarray, like: list[Any]) -> list[Any]:
    """Rows over all entries as arrays like `like`, with an axis in front for the rows."""
    ends = np.cumsum([x.size for x in like])[:-1]
    pieces = np.split(rows, ends, axis=1)
    return [_array(p.reshape(len(rows), *x.shape), x) for p, x in zip(pieces, like, strict=True)]


def flat(leaves: list[Any], lead: int) -> np.ndarray:
    """The inverse in float64: arrays with one leading axis of length `lead`, side by side."""
    pieces = [np.asarray(x).astype(np.float64).reshape(lead, x.size // lead) for x in leaves]
    return np.concatenate(pieces, axis=1)


def _array(values: np.ndarray, like: Any) -> Any:
    if like.weak_type and like.ndim == 0 and values.ndim == 1:
        # Stacked from numbers, which promote as the number in the arguments does.
        return jnp.stack([jnp.asarray(float(v)) for v in values])
    return array_like(values, like, None)


def array_like(values: np.ndarray, like: Any, *leading: None) -> Any:
    """An array of the dtype of `like`, of its sharding too where that is part of the type."""
    array = jnp.asarray(values.astype(like.dtype))
    spec = jax.typeof(like).sharding.spec if isinstance(like, jax.Array) else ()
    if not any(spec):
        return array
    return jax.device_put(array, jax.NamedSharding(like.sharding.mesh, jax.P(*leading, *spec)))


class Samples(NamedTuple):
    """A function sampled along one direction.

    Fields:
        steps: the lengths of the steps, the longest first.
        plus, minus: the outputs after a step forward and back, a row for each step.
        here: the outputs without a step.
        noise: for each step and output, how far rounding may have moved the central difference.
    """

    steps: np.ndarray
    plus: np.ndarray
    minus: np.ndarray
    here: np.ndarray
    noise: np.ndarray


def sampler(problem: Problem, basis: Bases, longest: float | None) -> Callable[[int], Samples]:
    """The function that samples a problem in the direction of a given number."""

    def run(points: list[Any]) -> list[Any]:
        if problem.program is None:
            return one_by_one(problem.call, points)
        return lax.map(problem.call, points)

    if problem.program is not None:
        run = jax.jit(run, compiler_options=QUICKLY)
    origin = flat(problem.point, 1)[0]

    def sample(number: int) -> Samples:
        direction = basis.inputs[number]
        moved = origin[direction != 0]
        steps = _steps(moved, problem.eps, longest)[:, None] * direction
        wanted = np.concatenate([origin + steps, origin - steps, origin[None]])
        points = leaves_of(wanted, problem.point)
        got = flat(points, len(wanted))
        with jax.debug_nans(False), jax.debug_infs(False):  # a step may leave the domain
            values = flat(run(points), len(wanted))
        # As long as the steps came out in the dtype of the point.
        lengths = (got[:LEVELS] - got[LEVELS:-1]) @ direction / (2 * direction @ direction)
        here = values[-1]
        # What is infinite on all steps, as of a mask, is a constant.
        still = np.isinf(here) & np.all(values == here, axis=0)
        values = np.where(still, 0.0, values)
        size = np.abs(values[:LEVELS]) + np.abs(values[LEVELS:-1])
        with np.errstate(all="ignore"):
            if basis.fast:
                values, size = values @ basis.outputs.T, size @ np.abs(basis.outputs).T
                here = values[-1]
            plus, minus = values[:LEVELS], values[LEVELS:-1]
            noise = problem.eps * (size / 2 + np.abs(_slope(plus, minus, lengths)) * _size(moved))
            return Samples(lengths, plus, minus, here, noise / np.abs(lengths)[:, None])

    return sample


def one_by_one(call: Callable[[list[Any]], list[Any]], points: list[Any]) -> list[Any]:
    """What `jax.lax.map` does, for a function that Python's `if` on values keeps from tracing."""
    results = [call([x[i] for x in points]) for i in range(len(points[0]))]
    return [np.stack(parts) for parts in zip(*results, strict=True)]


def _size(moved: np.ndarray) -> float:
    return float(np.max(np.abs(moved), initial=0.0))


def _steps(moved: np.ndarray, eps: float, longest: float | None) -> np.ndarray:
    if longest is not None:
        return longest * 2.0 ** -np.arange(LEVELS)
    sizes = np.abs(moved[moved != 0])
    least = float(np.clip(np.min(sizes, initial=1.0), SMALLEST, 1.0))
    shortest = max(np.sqrt(eps) * least, 4 * eps * _size(moved))  # of a few last places at least
    return np.geomspace(0.25 * max(1.0, _size(moved)), shortest, LEVELS)


def _slope(plus: np.ndarray, minus: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return (plus - minus) / (2 * steps[:, None])


def extrapolated(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """The derivative of each output in the direction sampled, and the estimate of its error.

    Central differences are polynomials in the square of the step for a function that is smooth.
    Where the second derivative jumps, as that of `x * abs(x)` does at 0, they are such in the step
    itself, and so are the slopes to either side, which go to one number. These count where they
    agree on it far better.
    """
    with np.errstate(all="ignore"):
        here, steps, noise = samples.here, samples.steps, samples.noise
        slopes = _slope(samples.plus, samples.minus, steps)
        central, error = _limit(slopes, steps, noise, 2)
        right = _limit((samples.plus - here) / steps[:, None], steps, 2 * noise, 1)
        left = _limit((here - samples.minus) / steps[:, None], steps, 2 * noise, 1)
        apart = np.maximum(np.abs(right[0] - left[0]), np.maximum(right[1], left[1]))
        sided = (FAR * apart < error) & _linear(slopes, steps, noise)
        both = (right[0] + left[0]) / 2
    return np.where(sided, both, central), np.where(sided, apart, error)


def _linear(slopes: np.ndarray, steps: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether slopes are linear in the step, the shortest at which rounding does not matter."""
    rises = np.diff(slopes, axis=0)
    clear = np.abs(rises) > FAR * noise[1:]
    rises = rises / np.diff(steps)[:, None]
    alike = np.abs(rises[1:] - rises[:-1]) < LINEAR * np.abs(rises[1:])
    last = len(clear) - 2 - np.argmax(clear[:0:-1], axis=0)
    return np.any(clear[1:], axis=0) & np.take_along_axis(alike, last[None], 0)[0]


def _limit(
    slopes: np.ndarray, steps: np.ndarray, noise: np.ndarray, power: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where slopes, polynomials in this power of the step, go, and the estimate of its error.

    `row` and `above` are rows of Ridders' extrapolation table. The error is infinite where the
    function is finite on too few steps to tell.
    """
    best, error = slopes[-1], np.full(slopes.shape[1], np.inf)
    above: list[np.ndarray] = []
    for level, slope in enumerate(slopes):
        # Long steps over many waves agree on a slope, too: that of none.
        settled = np.ptp(slopes[max(0, level - 2) : level + 1], axis=0)
        off = np.abs(slope - best)
        elsewhere = (level > 1) & (settled < SETTLED * off)
        elsewhere &= off > FAR * (error + noise[level])
        error = np.where(elsewhere, np.inf, error)
        row = [slope]
        for order in range(1, min(level, ORDERS) + 1):
            ratio = steps[level - order] / steps[level]
            old, coarse = above[order - 1], row[-1]
            new = coarse + (coarse - old) / (ratio**power - 1)
            bound = np.maximum(np.abs(new - coarse), np.abs(new - old)) + noise[level]
            better = bound < error
            best, error = np.where(better, new, best), np.where(better, bound, error)
            row.append(new)
        above = row
    return best, error


def one_sided(samples: Samples, output: int) -> tuple[float, float, bool] | None:
    """The slopes from the left and from the right, where they differ however short the step.

    Last, whether that is for a jump: however short the step, the function changes as much.
    `None` where they approach each other, as those of a smooth function do.
    """
    with np.errstate(all="ignore"):
        steps, here = samples.steps, samples.here[output]
        right = (samples.plus[:, output] - here) / steps
        left = (here - samples.minus[:, output]) / steps
        noise: Any = 4 * samples.noise[:, output]
        gap = np.abs(right - left)
        noise = np.maximum(noise, ALIKE * np.abs(right + left) / 2)  # of a solver, and not rounding
        clear = np.flatnonzero((gap > noise) | np.isinf(gap))
    if len(clear) < 2:
        return None
    last, before = clear[-1], clear[-2]
    smooth = np.isfinite(gap[last]) and not gap[last] > 0.7 * gap[before]
    jump = not gap[last] * steps[last] < 0.9 * gap[before] * steps[before]
    return None if smooth else (float(left[last]), float(right[last]), jump)
