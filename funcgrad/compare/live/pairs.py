"""Puts what PyTorch and JAX computed side by side, judges it, and finds where the two part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from funcgrad.errors import UsageError

from ..tolerances import Tolerance, magnitude, wide
from .capture import Forward
from .inputs import to_numpy
from .judge import Difference, judge_arrays
from .port import Ran
from .report import Divergence, ParityRow
from .state import Renames

NOISE = 8.0
"""How many times what rounding was measured to change is allowed."""
_KINDS = ("input", "parameter", "buffer", "intermediate", "output")
_Both = tuple[np.ndarray, np.ndarray] | None


class Pair(NamedTuple):
    """PyTorch's and JAX's arrays of one name.

    Attributes:
        name, jax_name, kind, shape, dtype: as in `ParityRow`.
        places: where each occurrence stands in forward order.
        where: where JAX's arrays are in a `Ran`.
        value, grad: PyTorch's array and JAX's; `None` where there is nothing to compare.
        stacked: whether the leading axes count the occurrences.
    """

    name: str
    jax_name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    places: tuple[float, ...]
    where: tuple[str, Any]
    value: _Both
    grad: _Both
    stacked: bool = False


class Judged(NamedTuple):
    """A pair, and how value and gradient compare, with masks of the numbers that differ."""

    pair: Pair
    value: tuple[Difference, np.ndarray] | None
    grad: tuple[Difference, np.ndarray] | None

    @property
    def row(self) -> ParityRow:
        """The row of the report."""
        value, grad = (None if one is None else one[0] for one in (self.value, self.grad))
        pair = self.pair
        return ParityRow(pair.name, pair.jax_name, pair.kind, value, grad, pair.shape, pair.dtype)


def both(theirs: Any, ours: Any) -> _Both:
    """Two gradients, zeros for the one that is missing; `None` where neither is there."""
    if theirs is None and ours is None:
        return None
    return (
        np.zeros_like(ours) if theirs is None else theirs,
        np.zeros_like(theirs) if ours is None else ours,
    )


def pair_leaves(
    names: Sequence[tuple[str, str]],
    run: Forward,
    grads: Sequence[Any],
    ran: Ran,
    flow: Sequence[set[int]],
) -> Iterator[Pair]:
    """The pairs of parameters and inputs, each placed before what first uses it.

    Args:
        names: name and kind of each.
        run: PyTorch's forward pass.
        grads: PyTorch's gradients of the leaves.
        ran: what JAX computed.
        flow: what each event and output was computed from.
    """
    for i, ((name, kind), leaf) in enumerate(zip(names, run.leaves, strict=True)):
        first = next((k for k, before in enumerate(flow) if -1 - i in before), None)
        place = -1.0 if first is None else first - 0.5
        grad = both(grads[i], ran.leaves[i]) if leaf.requires_grad else None
        shape, dtype = tuple(leaf.shape), str(leaf.dtype).removeprefix("torch.")
        yield Pair(name, name, kind, shape, dtype, (place,), ("leaf", i), None, grad)


def pair_outputs(run: Forward, ran: Ran) -> Iterator[Pair]:
    """The pairs of outputs, after everything else."""
    for i, (path, leaf) in enumerate(run.out.items()):
        array, name = to_numpy(leaf), f"output{path}"
        place = (float(len(run.recorder.events) + i),)
        shape, dtype, where = array.shape, array.dtype.name, ("output", path)
        value = (array, ran.out[path])
        yield Pair(name, name, "output", shape, dtype, place, where, value, None)


def pair_intermediates(
    renames: Renames, run: Forward, grads: Sequence[Any], ran: Ran
) -> tuple[list[Pair], list[str], list[str]]:
    """The pairs of intermediates, and the names that only PyTorch or only JAX has.

    Args:
        renames: the user's rules.
        run: PyTorch's forward pass.
        grads: PyTorch's gradients of the captured tensors.
        ran: what JAX computed.
    """
    occurrences: dict[str, list[int]] = {}
    for place, event in enumerate(run.recorder.events):
        occurrences.setdefault(event.name, []).append(place)
    renames.check(list(occurrences), "captured tensor")
    pairs, alone = [], []
    for name, places in occurrences.items():
        new, change = renames(name)
        jax_name = new if new in ran.values else new.replace(".", "/")
        if jax_name in ran.values:
            arrays = [_rearranged(run, grads, place, change) for place in places]
            pairs.append(_captured(name, jax_name, places, arrays, ran))
        else:
            alone.append(name)
    used = {pair.jax_name for pair in pairs}
    return pairs, alone, [name for name in ran.values if name not in used]


def _rearranged(
    run: Forward, grads: Sequence[Any], place: int, change: Callable[[Any], Any] | None
) -> tuple[np.ndarray, Any]:
    """Value and gradient of one occurrence, in JAX's layout."""
    value, grad = to_numpy(run.recorder.events[place].value), grads[place]
    if change is None:
        return value, grad
    return np.asarray(change(value)), None if grad is None else np.asarray(change(grad))


def _captured(
    name: str,
    jax_name: str,
    places: Sequence[int],
    arrays: Sequence[tuple[np.ndarray, Any]],
    ran: Ran,
) -> Pair:
    ours, ours_grad = ran.values[jax_name], ran.grads.get(jax_name)
    theirs, stacked = stack([value for value, _ in arrays], ours.shape)
    grad = None
    if any(grad is not None for _, grad in arrays):
        filled = [np.zeros_like(value) if g is None else g for value, g in arrays]
        grad, _ = stack(filled, ours.shape)
    return Pair(
        name,
        jax_name,
        "intermediate",
        theirs.shape,
        theirs.dtype.name,
        tuple(map(float, places)),
        ("intermediate", jax_name),
        (theirs, ours),
        both(grad, ours_grad),
        stacked,
    )


def stack(arrays: Sequence[np.ndarray], like: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Occurrences of one name as JAX has them: a row for each, zeros past the last.

    Args:
        arrays: one or more.
        like: the shape of JAX's array: of nested loops it has several leading axes, of a
            `funcgrad.while_loop` more rows than there were steps.

    Returns:
        The array, and whether it has rows. Where JAX's shape fits neither, rows as they are.

    >>> stack([np.ones(2), np.ones(2)], (3, 2))[0].tolist()
    [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    """
    shape = arrays[0].shape
    if len(arrays) == 1 and shape == like:
        return arrays[0], False
    if any(array.shape != shape for array in arrays):
        raise UsageError(
            "`capture` got one name for tensors of the shapes"
            f" {', '.join(sorted({str(array.shape) for array in arrays}))}, and wants one shape for"
            " a name that comes several times, a row for each; give them names of their own"
        )
    rows = np.stack(arrays)
    lead = like[: len(like) - len(shape)]
    if not lead or lead + shape != like:
        return (rows, True) if len(arrays) > 1 else (arrays[0], False)
    if len(lead) == 1 and lead[0] > len(arrays):
        rows = np.concatenate([rows, np.zeros((lead[0] - len(arrays), *shape), rows.dtype)])
    return (rows.reshape(like) if rows.size == np.prod(like) else rows), True


def judge_pairs(
    pairs: Sequence[Pair],
    tolerance: Tolerance,
    ran: Ran,
    rounded: Callable[[], list[tuple[Ran, float]]],
    scales: Mapping[Any, float],
) -> list[Judged]:
    """Judge every pair; where some differ, with what rounding was measured to change allowed too.

    Args:
        pairs: what to judge.
        tolerance: what the user gave; where it gave any, that alone counts.
        ran: what JAX computed.
        rounded: computes the same with other roundings, and says by which factor those are larger
            or smaller than `ran`'s; called where it is needed.
        scales: the least magnitude that gradients count as having, by `Pair.where`.
    """

    def judge(pair: Pair, value: float = 0.0, grad: float = 0.0) -> Judged:
        scale = scales.get(pair.where, 0.0)
        return Judged(
            pair,
            None if pair.value is None else judge_arrays(*pair.value, tolerance, value),
            None if pair.grad is None else judge_arrays(*pair.grad, tolerance, grad, scale),
        )

    judged = [judge(pair) for pair in pairs]
    if tolerance.given or all(one.row.ok for one in judged):
        return judged
    others = rounded()
    return [
        one if one.row.ok else judge(one.pair, *_noise(one.pair, ran, others)) for one in judged
    ]


def scales_of(pairs: Sequence[Pair]) -> dict[Any, float]:
    """The magnitude of PyTorch's gradients, by `Pair.where`."""
    return {pair.where: magnitude(pair.grad[0]) for pair in pairs if pair.grad is not None}


def _noise(pair: Pair, ran: Ran, others: Sequence[tuple[Ran, float]]) -> tuple[float, float]:
    """What is allowed to value and gradient for what rounding changes."""
    value, grad = ran.of(pair.where)
    changes = [(0.0, 0.0)]
    for other, factor in others:
        value2, grad2 = other.of(pair.where)
        changes.append((_change(value, value2) / factor, _change(grad, grad2) / factor))
    most = [max(column) for column in zip(*changes, strict=True)]
    return NOISE * most[0], NOISE * most[1]


def _change(one: Any, other: Any) -> float:
    if one is None or other is None or one.shape != other.shape:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(wide(one) - wide(other))
    return float(np.max(apart, initial=0.0, where=np.isfinite(apart)))


class Point(NamedTuple):
    """One occurrence of a pair: what divergences are found among.

    Attributes:
        name: `h[3]` for the fourth occurrence of `h`.
        at: what it is in the flow: an event or output, or a leaf as `-1 - index`.
        value: how the values compare, where this occurrence differs.
        grad: how the gradients compare, where this occurrence differs.
    """

    name: str
    at: int
    value: Difference | None
    grad: Difference | None


def points(judged: Sequence[Judged]) -> list[Point]:
    """Every occurrence of every pair, in forward order."""
    listed = [
        (place, order, row)
        for order, one in enumerate(judged)
        for row, place in enumerate(one.pair.places)
    ]
    return [_point(judged[order], row, place) for place, order, row in sorted(listed)]


def _point(one: Judged, row: int, place: float) -> Point:
    pair = one.pair
    name = f"{pair.name}[{row}]" if len(pair.places) > 1 else pair.name
    at = -1 - pair.where[1] if pair.where[0] == "leaf" else int(place)
    return Point(name, at, _wrong(one.value, pair, row), _wrong(one.grad, pair, row))


def _wrong(found: tuple[Difference, np.ndarray] | None, pair: Pair, row: int) -> Difference | None:
    """How value or gradient compare, where this occurrence differs."""
    if found is None or found[0].ok:
        return None
    difference, mask = found
    count = len(pair.places)
    if count == 1 or not pair.stacked or mask.size == 0:
        return difference
    rows = mask.reshape(max(count, mask.shape[0]), -1)  # nested loops have several axes
    mine = rows[row:] if row == count - 1 else rows[row : row + 1]
    return difference if mine.any() else None


def diverge(
    judged: Sequence[Judged], flow: Sequence[set[int]]
) -> tuple[Divergence | None, Divergence | None]:
    """The first divergence of values, and that of gradients nearest the output.

    Args:
        judged: the pairs in forward order.
        flow: what each event and output was computed from.
    """
    found = points(judged)
    first = next((point for point in found if point.value), None)
    last = next((point for point in reversed(found) if point.grad), None)
    forward = backward = None
    if first is not None and first.value is not None:
        near = tuple(point.name for point in found if point.at in flow[first.at])
        forward = Divergence(first.name, near, first.value)
    if last is not None and last.grad is not None:
        near = tuple(p.name for p in found if p.at >= 0 and last.at in flow[p.at])
        backward = Divergence(last.name, near, last.grad)
    return forward, backward
