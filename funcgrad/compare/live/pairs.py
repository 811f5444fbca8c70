"""Pairs the arrays of PyTorch and JAX that have one name, and judges each pair."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import UsageError
from ..tolerances import Tolerance, magnitude, wide
from .inputs import to_numpy
from .jax_run import JaxRun
from .judge import Difference, judge_arrays
from .parameters import NameRules
from .report import ParityRow
from .torch_run import TorchRun

NOISE = 8.0
"""How many times the measured effect of rounding is allowed."""
_Arrays = tuple[np.ndarray, np.ndarray] | None


class ArrayPair(NamedTuple):
    """PyTorch's and JAX's arrays of one name.

    Attributes:
        name, jax_name, kind, shape, dtype: as in `ParityRow`.
        places: the place of each occurrence in forward order.
        where: what `JaxRun.of` takes to give JAX's arrays.
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
    value: _Arrays
    grad: _Arrays
    stacked: bool = False


class JudgedPair(NamedTuple):
    """A pair, how its value and gradient compare, and masks of the numbers that differ."""

    pair: ArrayPair
    value: tuple[Difference, np.ndarray] | None
    grad: tuple[Difference, np.ndarray] | None

    @property
    def row(self) -> ParityRow:
        """The row of the report."""
        value, grad = (None if one is None else one[0] for one in (self.value, self.grad))
        pair = self.pair
        return ParityRow(pair.name, pair.jax_name, pair.kind, value, grad, pair.shape, pair.dtype)


def _both(theirs: Any, ours: Any) -> _Arrays:
    """Two gradients, the missing one as zeros; `None` where both are missing."""
    if theirs is None and ours is None:
        return None
    return (
        np.zeros_like(ours) if theirs is None else theirs,
        np.zeros_like(theirs) if ours is None else ours,
    )


def pair_leaves(
    names: Sequence[tuple[str, str]],
    run: TorchRun,
    grads: Sequence[Any],
    ran: JaxRun,
    sources: Sequence[set[int]],
) -> Iterator[ArrayPair]:
    """The pairs of parameters and inputs, each placed before its first use.

    Args:
        names: name and kind of each.
        run: PyTorch's forward pass.
        grads: PyTorch's gradients of the leaves.
        ran: JAX's run.
        sources: for each captured tensor and output what it was computed from.
    """
    for i, ((name, kind), leaf) in enumerate(zip(names, run.leaves, strict=True)):
        first = next((k for k, before in enumerate(sources) if -1 - i in before), None)
        place = -1.0 if first is None else first - 0.5
        grad = _both(grads[i], ran.leaves[i]) if leaf.requires_grad else None
        shape, dtype = tuple(leaf.shape), str(leaf.dtype).removeprefix("torch.")
        yield ArrayPair(name, name, kind, shape, dtype, (place,), ("leaf", i), None, grad)


def pair_outputs(run: TorchRun, ran: JaxRun) -> Iterator[ArrayPair]:
    """The pairs of outputs, placed after everything else."""
    for i, (path, leaf) in enumerate(run.out.items()):
        array, name = to_numpy(leaf), f"output{path}"
        place = (float(len(run.recorder.captured) + i),)
        shape, dtype, where = array.shape, array.dtype.name, ("output", path)
        value = (array, ran.out[path])
        yield ArrayPair(name, name, "output", shape, dtype, place, where, value, None)


def pair_intermediates(
    rules: NameRules, run: TorchRun, grads: Sequence[Any], ran: JaxRun
) -> tuple[list[ArrayPair], list[str], list[str]]:
    """The pairs of intermediates, and the names that only PyTorch or only JAX has.

    Args:
        rules: the user's rules for names and layouts.
        run: PyTorch's forward pass.
        grads: PyTorch's gradients of the captured tensors.
        ran: JAX's run.
    """
    occurrences: dict[str, list[int]] = {}
    for place, one in enumerate(run.recorder.captured):
        occurrences.setdefault(one.name, []).append(place)
    for name, places in [*occurrences.items()]:
        each = [f"{name}[{count}]" for count in range(len(places))]
        if any(map(rules.names, each)):
            del occurrences[name]
            occurrences.update({one: [place] for one, place in zip(each, places, strict=True)})
    rules.check(list(occurrences), "captured tensor")
    pairs, alone = [], []
    for name, places in occurrences.items():
        new, change = rules(name)
        jax_name = new if new in ran.values else new.replace(".", "/")
        if jax_name in ran.values:
            arrays = [_rearranged(run, grads, place, change) for place in places]
            pairs.append(_captured(name, jax_name, places, arrays, ran))
        elif new != name:
            raise UsageError(
                f"`with_torch` got {new!r} for {name!r} in `intermediates`, and JAX has no value of"
                f" that name: there is {', '.join(map(repr, ran.values)) or 'none at all'}; of a"
                " name that is captured several times, name[0] is the first"
            )
        else:
            alone.append(name)
    used = {pair.jax_name for pair in pairs}
    return pairs, alone, [name for name in ran.values if name not in used]


def _rearranged(
    run: TorchRun, grads: Sequence[Any], place: int, change: Callable[[Any], Any] | None
) -> tuple[np.ndarray, Any]:
    """Value and gradient of one occurrence, in JAX's layout."""
    value, grad = to_numpy(run.recorder.captured[place].value), grads[place]
    if change is None:
        return value, grad
    return np.asarray(change(value)), None if grad is None else np.asarray(change(grad))


def _captured(
    name: str,
    jax_name: str,
    places: Sequence[int],
    arrays: Sequence[tuple[np.ndarray, Any]],
    ran: JaxRun,
) -> ArrayPair:
    ours, ours_grad = ran.values[jax_name], ran.grads.get(jax_name)
    theirs, stacked = stack([value for value, _ in arrays], ours.shape)
    grad = None
    if any(grad is not None for _, grad in arrays):
        filled = [np.zeros_like(value) if g is None else g for value, g in arrays]
        grad, _ = stack(filled, ours.shape)
    return ArrayPair(
        name,
        jax_name,
        "intermediate",
        theirs.shape,
        theirs.dtype.name,
        tuple(map(float, places)),
        ("intermediate", jax_name),
        (theirs, ours),
        _both(grad, ours_grad),
        stacked,
    )


def stack(arrays: Sequence[np.ndarray], like: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Stacks the occurrences of one name as JAX does: a row for each, zeros after the last.

    Args:
        arrays: the occurrences, one or more.
        like: the shape of JAX's array. It has several leading axes in nested loops, and more rows
            than there were steps in a `funcgrad.while_loop`.

    Returns:
        The array, and whether it has rows. Where the rows do not fit `like`, they are left as they
        are.

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
    pairs: Sequence[ArrayPair],
    tolerance: Tolerance,
    ran: JaxRun,
    rounded: Callable[[], list[tuple[JaxRun, float]]],
    scales: Mapping[Any, float],
) -> list[JudgedPair]:
    """Judge every pair. Those that differ are judged again, with the effect of rounding allowed.

    Args:
        pairs: the pairs.
        tolerance: the tolerances; those that the user gave count alone.
        ran: JAX's run.
        rounded: runs JAX's function with other roundings, and says how many times these are the
            roundings of `ran`; called only where a pair differs.
        scales: the least magnitude to assume for each gradient, by `ArrayPair.where`.
    """

    def judge(pair: ArrayPair, value: float = 0.0, grad: float = 0.0) -> JudgedPair:
        scale = scales.get(pair.where, 0.0)
        return JudgedPair(
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


def scales_of(pairs: Sequence[ArrayPair]) -> dict[Any, float]:
    """The magnitude of PyTorch's gradients, by `ArrayPair.where`."""
    return {pair.where: magnitude(pair.grad[0]) for pair in pairs if pair.grad is not None}


def _noise(
    pair: ArrayPair, ran: JaxRun, others: Sequence[tuple[JaxRun, float]]
) -> tuple[float, float]:
    """What value and gradient may differ by because of rounding."""
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
