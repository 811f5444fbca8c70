"""What `gradcheck` found, in words."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ... import _jax
from ..._detach import detach
from ...errors import GradcheckError
from .analysis import MODES
from .problem import Problem
from .slopes import Bases, Samples, one_sided
from .verdict import NUMERICAL, GradientMismatch, Mismatch

SHOWN = 5  # rows and columns of a block
ALSO = 5  # further pairs of arrays
_OURS = f"{Path(__file__).parents[2]}/"


def error(
    function: str,
    problem: Problem,
    basis: Bases,
    found: Sequence[Mismatch],
    agreeing: Sequence[str],
    samples: Samples | None,
) -> GradcheckError:
    """The error for what was found; the first counts, the others are named.

    Args:
        function: the public function to name.
        problem: what was checked.
        basis: the directions.
        found: the mismatches, of which there is at least one.
        agreeing: the checks that found nothing.
        samples: the function along the direction of the first mismatch, where that is known.
    """
    first = found[0]
    m = first.public
    lines = [
        f"`{function}` found derivatives in {m.precision} that disagree: {m.check},"
        f" at {m.wrong} of {m.entries} entries"
    ]
    if first.unknown:
        lines[0] = (
            f"`{function}` got a function whose derivatives finite differences cannot tell:"
            f" {m.check}, at {m.wrong} of {m.entries} entries"
        )
    got, wanted = first.comparison.names
    width = max(map(len, ("tolerance", got, wanted)))
    sure = f" (estimated error {m.error:.2g})" if wanted == NUMERICAL else ""
    rows = {
        "input": _entry(m.input, m.input_index),
        "output": _entry(m.output, m.output_index),
        got: f"{m.got:.12g}",
        wanted: f"{m.wanted:.12g}{sure}",
        "difference": f"{abs(m.got - m.wanted):.3g}",
        "tolerance": f"{m.tolerance:.3g}",
    }
    lines += [f"  {name + ':':<{width + 1}} {text}" for name, text in rows.items()]
    lines += [f"  note: {note}" for note in _notes(problem, found, agreeing, samples)]
    lines += _block(first) if not basis.fast else []
    lines += _also(found[1:])
    return GradcheckError("\n".join(lines), tuple(mismatch.public for mismatch in found))


def other_result(
    function: str,
    problem: Problem,
    mode: str,
    value: np.ndarray,
    other: np.ndarray,
    wrong: np.ndarray,
) -> GradcheckError:
    """The error for a result that is another where the function is differentiated."""
    at = int(np.argmax(np.where(wrong, np.nan_to_num(np.abs(value - other), nan=np.inf), -1.0)))
    ends = np.cumsum([leaf.size for leaf in problem.outputs])
    which = int(np.searchsorted(ends, at, side="right"))
    leaf = problem.outputs[which]
    index = np.unravel_index(at - int(ends[which]) + leaf.size, leaf.shape)
    return GradcheckError(
        f"`{function}` got a function whose result in {problem.precision} is another where it is"
        f" differentiated, at {np.sum(wrong)} of {len(wrong)} entries:"
        f" {_entry(str(leaf), tuple(map(int, index)))} is {value[at]:.12g}, and {other[at]:.12g} in"
        f" {mode}; the forward rule of a `custom_vjp`, and the rule of a `custom_jvp`, must return"
        " what the function itself returns"
    )


def not_linear(function: str, problem: Problem, found: GradientMismatch) -> GradcheckError:
    """The error for a derivative that is not linear in the direction."""
    what = "tangent" if found.check.startswith(MODES["fwd"]) else "gradient"
    lines = [
        f"`{function}` found a derivative in {found.precision} that is not linear in the"
        f" {what} that comes in: {found.check}, at {found.wrong} of {found.entries} entries",
        f"  input:      {_entry(found.input, found.input_index or ())}",
        f"  output:     {_entry(found.output, found.output_index or ())}",
        f"  got:        {found.got:.12g}",
        f"  wanted:     {found.wanted:.12g}",
        f"  difference: {abs(found.got - found.wanted):.3g}",
        f"  tolerance:  {found.tolerance:.3g}",
        f"  note: a rule must give twice as much for twice the {what}, its negative for the"
        " negative, and zeros for zeros; look for a square, an absolute value, a clip, a threshold"
        " or a constant in it",
    ]
    if problem.program is not None:
        lines += [f"  note: {note}" for note in _intents(problem.program, what == "gradient", ())]
    return GradcheckError("\n".join(lines), (found,))


def _entry(name: str, index: tuple[int, ...] | None) -> str:
    if index is None:
        return f"{name}, along one random direction"
    return f"{name} at {list(index)}" if index else name


def _also(rest: Sequence[Mismatch]) -> list[str]:
    lines = [
        f"  also: {m.check}, {m.output} by {m.input}: {m.got:.6g} and {m.wanted:.6g}"
        for m in (mismatch.public for mismatch in rest[:ALSO])
    ]
    return [*lines, f"  and {len(rest) - ALSO} more"] if len(rest) > ALSO else lines


def _notes(
    problem: Problem, found: Sequence[Mismatch], agreeing: Sequence[str], samples: Samples | None
) -> Iterator[str]:
    mismatch = found[0]
    if samples is not None and NUMERICAL in mismatch.comparison.names:
        yield from _around(samples, mismatch.row)
    if agreeing:
        yield f"no difference found: {'; '.join(agreeing)}"
    factor = _factor(mismatch)
    if factor is not None:
        yield f"it is {factor:.6g} times what is wanted at every entry that differs"
    if problem.program is not None and NUMERICAL in mismatch.comparison.names:
        reverse = any(MODES["rev"] in f.public.check for f in found)
        yield from _intents(problem.program, reverse, agreeing)


def _around(samples: Samples, output: int) -> Iterator[str]:
    """What the function does near the point: no value, an edge of its domain, a kink, a jump."""
    if not np.isfinite(samples.here[output]):
        yield f"the output is {samples.here[output]} at this point; choose another"
        return
    missing = [
        side
        for side, values in (("left", samples.minus), ("right", samples.plus))
        if not np.any(np.isfinite(values[-2:, output]))
    ]
    if missing:
        yield (
            f"the function is not finite just to the {' and '.join(missing)} of this point, which"
            " is at the edge of where it is defined; choose a point inside"
        )
        return
    sides = one_sided(samples, output)
    if sides:
        left, right, jump = sides
        yield (
            f"near this point the function has a {'jump' if jump else 'kink'}: the slope from the"
            f" left is {left:.6g}, from the right {right:.6g}; no derivative is right or wrong"
            " there, so choose a point away from it"
        )


def _factor(mismatch: Mismatch) -> float | None:
    """The one number by which all wrong entries are off, if there is one."""
    got, wanted = (m[mismatch.block][mismatch.bad] for m in mismatch.comparison[1:3])
    with np.errstate(all="ignore"):
        ratio = got / wanted
        spread = np.abs(got - wanted) + mismatch.comparison.allowed[mismatch.block][mismatch.bad]
    middle = float(np.median(ratio)) if len(ratio) else np.nan
    if not np.isfinite(middle) or f"{middle:.6g}" == "1" or mismatch.unknown:
        return None
    same = np.abs(got - middle * wanted) < 0.05 * spread
    return middle if np.all(same) else None


def _intents(program: _jax.Jaxpr, reverse: bool, agreeing: Sequence[str]) -> Iterator[str]:
    """What in the function makes its gradient another than its derivative, on purpose.

    Hooks act in reverse mode, so they are named where that is among what differs.
    """
    places: dict[str, list[str]] = {}
    for path in _jax.everywhere(program):
        kind = _intent(path[-1])
        if kind:
            where = _jax.place(path)
            line = f"{where.own.file}:{where.own.line}" if where else "an unknown place"
            places.setdefault(kind, []).append(line)
    for kind, lines in places.items():
        at = ", ".join(dict.fromkeys(lines))
        if kind == "hook" and not reverse:
            continue
        if kind == "hook" and f"{MODES['fwd']} against {NUMERICAL}" in agreeing:
            yield (
                f"a hook changes this gradient by intent (`register_hook` at {at}); forward mode,"
                ' which ignores hooks, agrees with finite differences: check with modes=("fwd",),'
                " or without the hook"
            )
        elif kind == "hook":
            yield f"hooks may change this gradient by intent: `register_hook` at {at}"
        elif kind == "packing":
            yield f"packing may change this gradient by intent: `saved_tensors_hooks` at {at}"
        else:
            yield (
                f"`{kind}` makes the gradient another than the derivative, by intent, at {at};"
                " finite differences see through it"
            )


def _intent(equation: _jax.Equation) -> str | None:
    if equation.name in _INTENTS:
        return _INTENTS[equation.name]
    if equation.name != "stop_gradient":
        return None
    # Those that JAX's own functions use, softmax for instance, keep the derivative what it is.
    frames = equation.frames
    names = ("stop_gradient", detach.__name__, "no_grad_fun")
    last = max((i for i, frame in enumerate(frames) if frame.function in names), default=None)
    where = _jax.place([equation])
    if where is None or last is None:
        return None
    caller = next((f for f in frames[last + 1 :] if not f.file.startswith(_OURS)), None)
    return "stop_gradient" if caller and caller.key == where.own.key else None


_INTENTS = {
    "register_hook": "hook",
    "inject_gradient": "set_data",
    "saved_tensors_hooks": "packing",
}


def _block(mismatch: Mismatch) -> list[str]:
    """Both matrices around the entry furthest off."""
    rows, columns = (
        _around_of(at - whole.start, whole.stop - whole.start)
        for at, whole in zip((mismatch.row, mismatch.column), mismatch.block, strict=True)
    )
    lines = []
    for name, matrix in zip(mismatch.comparison.names, mismatch.comparison[1:3], strict=True):
        part = matrix[mismatch.block][rows, columns]
        shown = np.array2string(part, precision=6, suppress_small=False, max_line_width=100)
        lines.append(f"  {name}, outputs {_range(rows)} by inputs {_range(columns)}:")
        lines += ["    " + line for line in shown.splitlines()]
    return lines


def _around_of(at: int, size: int) -> slice:
    start = max(0, min(at - SHOWN // 2, size - SHOWN))
    return slice(start, min(size, start + SHOWN))


def _range(part: slice) -> str:
    return f"{part.start} to {part.stop - 1}" if part.stop - part.start > 1 else str(part.start)
