"""Compares derivatives, block by block, and picks the entry that is furthest off."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .analysis import sides
from .problem import Problem
from .slopes import Bases

NUMERICAL = "finite differences"
TRUST = 4  # times the estimated errors
ROUNDINGS = 256  # last places of the largest number that rounding may change


class GradientMismatch(NamedTuple):
    """Derivatives of one output by one input that disagree; see `GradcheckError.mismatches`.

    Fields:
        check: what was compared: `"reverse mode against finite differences"`, for instance.
        input, output: the names of the arrays, with their paths.
        input_index, output_index: the entry furthest off; `None` in fast mode, which has only one
            number for each pair of arrays.
        got, wanted: the two derivatives there.
        tolerance: by how much they may differ there.
        error: the estimated error of `wanted` where that is by finite differences; else 0.
        wrong, entries: how many entries differ by more than that, and how many there are.
        precision: the dtype in which the derivatives were taken.
    """

    check: str
    input: str
    output: str
    input_index: tuple[int, ...] | None
    output_index: tuple[int, ...] | None
    got: float
    wanted: float
    tolerance: float
    error: float
    wrong: int
    entries: int
    precision: str


class Comparison(NamedTuple):
    """Two matrices of derivatives that should agree.

    Fields:
        names: the words for both.
        got, wanted: the matrices.
        allowed: by how much each entry may differ.
        error: the estimated errors of `wanted` where it is by finite differences.
        scale: for each row, a derivative too small to matter beside the output; with `error`.
    """

    names: tuple[str, str]
    got: np.ndarray
    wanted: np.ndarray
    allowed: np.ndarray
    error: np.ndarray | None = None
    scale: np.ndarray | None = None


class Mismatch(NamedTuple):
    """A mismatch and what is needed to show it.

    Fields:
        public: what `GradcheckError.mismatches` has of it.
        comparison: where it was found.
        row, column: the entry furthest off, in the whole matrices.
        block: the rows and columns of the two arrays.
        bad: which entries of the block differ.
        unknown: whether finite differences give no number there that could be trusted.
    """

    public: GradientMismatch
    comparison: Comparison
    row: int
    column: int
    block: tuple[slice, slice]
    bad: np.ndarray
    unknown: bool


def tolerances(
    basis: Bases,
    eps: float,
    value: np.ndarray,
    wanted: np.ndarray,
    atol: Any,
    rtol: Any,
    noise: Any,
) -> np.ndarray:
    """By how much each entry may differ from `wanted`: `atol + rtol * abs(wanted)`.

    By default `rtol` is the square root of the machine epsilon, and `atol` what rounding may change
    beside the largest derivative of the same output by the same array.
    """
    relative = np.sqrt(eps) if rtol is None else rtol
    size = np.abs(wanted)
    if atol is not None:
        return atol + relative * _finite(size)
    largest = np.zeros_like(size)
    for column in basis.columns:
        largest[:, column] = np.max(_finite(size[:, column]), axis=1, keepdims=True, initial=0.0)
    return relative * _finite(size) + rounding(eps, largest, sizes(basis, value), noise)


def rounding(eps: float, largest: np.ndarray, size: Any, noise: Any) -> np.ndarray:
    """By how much rounding may change numbers, the largest of which is given.

    The square root of the machine epsilon is the share that rounding errors seldom exceed, and a
    few roundings of the output come with it. Where the noise that was measured is less, it counts
    instead: so a number is judged that is tiny, or tiny beside another.
    """
    seldom = np.sqrt(eps) * largest + 8 * eps * size
    return np.minimum(seldom, noise + ROUNDINGS * eps * largest)


def sizes(basis: Bases, value: np.ndarray) -> np.ndarray:
    """For each row, the size of the output, or 1 where that is more."""
    size = _finite(np.abs(value))
    return np.maximum(1.0, np.abs(basis.outputs) @ size if basis.fast else size)[:, None]


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0.0)


def mismatches(problem: Problem, basis: Bases, comparison: Comparison) -> list[Mismatch]:
    """Every pair of arrays for which a comparison fails, with the entry furthest off."""
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.abs(comparison.got - comparison.wanted)
        excess = np.where(comparison.got == comparison.wanted, 0.0, off / comparison.allowed)
        excess = np.where(np.isnan(excess), np.inf, excess)
        vague = _vague(basis, comparison)
    bad = (excess > 1) | vague
    found = []
    for o, rows in enumerate(basis.rows):
        for i, columns in enumerate(basis.columns):
            block = rows, columns
            if not np.any(bad[block]):
                continue
            # What is known to be wrong comes before what is not known.
            rank = np.where(bad[block], np.where(vague[block], 0.5, excess[block]), -1.0)
            at = np.unravel_index(np.argmax(rank), rank.shape)
            row, column = rows.start + int(at[0]), columns.start + int(at[1])
            public = GradientMismatch(
                " against ".join(comparison.names),
                str(problem.inputs[i]),
                str(problem.outputs[o]),
                _index(int(at[1]), problem.inputs[i].shape, basis),
                _index(int(at[0]), problem.outputs[o].shape, basis),
                float(comparison.got[row, column]),
                float(comparison.wanted[row, column]),
                float(comparison.allowed[row, column]),
                0.0 if comparison.error is None else float(comparison.error[row, column]),
                int(np.sum(bad[block])),
                bad[block].size,
                problem.precision,
            )
            unknown = bool(vague[row, column])
            found.append(Mismatch(public, comparison, row, column, block, bad[block], unknown))
    return found


def nonlinear(
    problem: Problem, basis: Bases, mode: str, comparison: Comparison, said: Sequence[str]
) -> GradientMismatch | None:
    """The entry at which the derivative of a combination is furthest from that of its parts.

    A row of the comparison is a combination, of which `said` says what it was.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.abs(comparison.got - comparison.wanted)
        excess = np.where(off == 0, 0.0, off / comparison.allowed)
        excess = np.where(np.isnan(excess), np.inf, excess)
    bad = excess > 1
    if not np.any(bad):
        return None
    row, column = map(int, np.unravel_index(np.argmax(excess), excess.shape))
    forward = sides(mode, basis)[0] is basis.inputs
    leaves, places = (problem.outputs, basis.rows) if forward else (problem.inputs, basis.columns)
    which = next(i for i, place in enumerate(places) if place.start <= column < place.stop)
    name = str(leaves[which])
    index = _index(column - places[which].start, leaves[which].shape, basis)
    whole = f"all together, with {said[row]} as the {'tangent' if forward else 'gradient'}"
    return GradientMismatch(
        " against ".join(comparison.names),
        whole if forward else name,
        name if forward else whole,
        None if forward else index,
        index if forward else None,
        float(comparison.got[row, column]),
        float(comparison.wanted[row, column]),
        float(comparison.allowed[row, column]),
        0.0,
        int(np.sum(bad)),
        bad.size,
        problem.precision,
    )


def _index(flat: int, shape: tuple[int, ...], basis: Bases) -> tuple[int, ...] | None:
    return None if basis.fast else tuple(map(int, np.unravel_index(flat, shape)))


def _vague(basis: Bases, comparison: Comparison) -> np.ndarray:
    """Where finite differences are less sure than the derivatives of the output are large."""
    vague = np.zeros(comparison.got.shape, bool)
    if comparison.error is None or comparison.scale is None:
        return vague
    for column in basis.columns:
        size = np.maximum(*(np.abs(_finite(m[:, column])) for m in comparison[1:3]))
        limit = np.maximum(np.max(size, axis=1, keepdims=True, initial=0.0), comparison.scale)
        vague[:, column] = ~(TRUST * comparison.error[:, column] <= limit)
    return vague
