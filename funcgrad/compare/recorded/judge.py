"""`judge`: whether a printed value and a recorded one agree, and if not where and by how much.

How far two numbers may lie apart is said in `compare/tolerances.py`: by the last place that the
recording shows, and by what the dtype resolves.

Integers and bools agree exactly. NaN agrees with NaN, an infinity with the same infinity, and zeros
whatever their sign. A dtype of another kind (float, int, bool, complex) is a difference; another
width of the same kind (`int64`, `int32`) is only noted, since JAX is 32-bit unless told otherwise;
with `strict` it is a difference. Of random numbers only kind, shape and dtype are compared.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..tolerances import (
    RESOLUTION,
    Tolerance,
    allowed_in_one_print,
    allowed_in_print,
    distance,
    resolution,
)
from .explain import explain
from .values import SIZE, UNIT, Number, Value, dict_keys, suffix_of

_TORCH_DEFAULTS = {"float": "float32", "int": "int64", "complex": "complex64", "bool": "bool"}
_NUMBERS = ("float", "int", "bool", "complex", "size")
_EXACT_KINDS = ("int", "bool", "size")
_DOUBLE_DIGITS = 12
# What reading decimals and subtracting them may add: 0.5 - 0.49995 is not quite 0.00005.
_READING = 4 * 2.0**-52
_MOST_MARKS = 1000
_FEW_UNITS = 100
_NONE_GIVEN = Tolerance()
_RANDOM = "marked random: kind, shape and dtype agree, numbers are not compared"


class Verdict(NamedTuple):
    """What `judge` found.

    Attributes:
        agrees: whether the two agree.
        reason: why not, or why there was little to compare; empty where all is plain.
        difference: the largest difference; where some differ, the one that is furthest over what
            is allowed. `inf` where only one side is finite; `None` if no numbers were compared.
        allowed: what is allowed at that number.
        unit: the worth of its last printed place, 0 where it was printed in full.
        at: the index of that number.
        recorded: that number in the recording.
        actual: that number in the port.
        compared: how many numbers were compared.
        differing: how many of them differ.
        notes: what is worth knowing and is no difference.
        hint: what the difference looks like: a flipped sign, swapped axes, a factor.
        marks: where the numbers differ: their positions in `numbers`, recorded and ours; the
            first thousand.
        what: what differs: `key` (of a dict), `unit`, `kind` (a number and `None`), `dtype`,
            `shape`, `value`; else empty.
    """

    agrees: bool
    reason: str = ""
    difference: float | None = None
    allowed: float | None = None
    unit: float | None = None
    at: tuple[int, ...] | None = None
    recorded: Number | None = None
    actual: Number | None = None
    compared: int = 0
    differing: int = 0
    notes: tuple[str, ...] = ()
    hint: str = ""
    marks: tuple[tuple[int, int], ...] = ()
    what: str = ""


def judge(
    recorded: Value,
    actual: Value,
    *,
    strict: bool = False,
    random: bool = False,
    tolerance: Tolerance = _NONE_GIVEN,
) -> Verdict:
    """Compare one value of the port with the one that was recorded.

    Args:
        recorded: what PyTorch printed; its last printed place sets the tolerance.
        actual: what the port printed.
        strict: another width of the same kind of dtype, as `int32` for `int64`, is a difference.
        random: the numbers are random; only kind, shape and dtype are compared.
        tolerance: one of the user's own: floats that would else differ may be
            `atol + rtol * |recorded|` apart. A note says where that was needed.

    Returns:
        The verdict; `suffixes` such as `requires_grad` and `grad_fn` are not compared.

    >>> from funcgrad.compare import parse
    >>> torch, = parse("tensor([0.5000, 1.2346])").values
    >>> jax, = parse("Array([0.5, 1.2347], dtype=float32)").values
    >>> verdict = judge(torch, jax)
    >>> verdict.agrees, verdict.at, verdict.allowed, verdict.reason
    (False, (1,), 5e-05, '1 of 2 numbers differs, at [1]: recorded 1.2346, ours 1.2347')
    >>> verdict.hint
    'by 1 unit in the last printed place'
    """
    verdict = _judge(recorded, actual, random)
    asked = ""
    if tolerance.given and verdict.what == "value":
        wider = _judge(recorded, actual, random, tolerance)
        if wider.agrees:
            verdict, asked = wider, f"agrees by the tolerance asked for, {tolerance.told()}"
    if strict and verdict.agrees and verdict.notes:
        reason, *notes = verdict.notes
        return verdict._replace(agrees=False, reason=reason, notes=tuple(notes), what="dtype")
    if verdict.agrees:
        return verdict._replace(notes=(*verdict.notes, asked)) if asked else verdict
    hint = explain(recorded, actual, lambda one, other: _judge(one, other, random).agrees)
    return verdict._replace(hint=hint or _in_units(verdict) or _rounded(recorded, verdict))


def _judge(
    recorded: Value, actual: Value, random: bool, tolerance: Tolerance = _NONE_GIVEN
) -> Verdict:
    keys = dict_keys(recorded), dict_keys(actual)
    if all(keys) and keys[0] != keys[1]:
        theirs, ours = (f"[{']['.join(one)}]" for one in keys)
        said = f"recorded under the key {theirs}, ours is under {ours}"
        return Verdict(False, said, what="key")
    for name, what in ((UNIT, "unit"), (SIZE, "shape")):
        theirs, ours = suffix_of(recorded, name), suffix_of(actual, name)
        if theirs and ours and theirs != ours:
            return Verdict(False, f"recorded {name} {theirs}, ours is {ours}", what=what)
    kinds = {recorded.kind, actual.kind}
    if "size" in kinds:
        kinds = (kinds - {"size"}) | {"int"}
    if len(kinds) > 1:
        what = "dtype" if kinds <= set(_NUMBERS) else "kind"
        return Verdict(False, f"recorded {_kind(recorded)}, ours is {_kind(actual)}", what=what)
    if recorded.kind not in _NUMBERS:
        return _judge_other(recorded, actual, random)
    if not same_shape(recorded.shape, actual.shape):
        shapes = f"{_shape(recorded.shape)}, ours is {_shape(actual.shape)}"
        return Verdict(False, f"recorded shape {shapes}", what="shape")
    for side, value in (("the recording", recorded), ("ours", actual)):
        if not value.elided and math.prod(n or 0 for n in value.shape) != len(value.numbers):
            said = f"{side} shows {len(value.numbers)} numbers for {value.shape}"
            return Verdict(False, said, what="shape")
    notes = _width_notes(recorded, actual)
    if random and recorded.kind != "size":
        return Verdict(True, _RANDOM, notes=notes)
    return _judge_numbers(recorded, actual, notes, tolerance)


def _kind(value: Value) -> str:
    return value.kind if value.kind not in _NUMBERS else f"{value.dtype or value.kind}"


def _shape(shape: tuple[int | None, ...]) -> str:
    """A shape as Python prints it, an unknown length as `?`.

    >>> _shape((3,)), _shape((None, 2)), _shape(())
    ('(3,)', '(?, 2)', '()')
    """
    return str(shape).replace("None", "?")


def same_shape(one: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Whether two shapes agree where both are known."""
    return len(one) == len(other) and all(
        a == b or a is None or b is None for a, b in zip(one, other, strict=True)
    )


def _judge_other(recorded: Value, actual: Value, random: bool) -> Verdict:
    """Values without numbers: `None`, strings, dtypes, shapes."""
    if recorded.kind == "string":
        if random:
            return Verdict(True, _RANDOM)
        ours, theirs = actual.text[1:-1], recorded.text[1:-1]
        if ours == theirs:
            return Verdict(True)
        return Verdict(False, "the strings differ", what="value")
    if recorded.kind == "struct" and recorded.shape != actual.shape:
        shapes = f"{_shape(recorded.shape)}, ours is {_shape(actual.shape)}"
        return Verdict(False, f"recorded shape {shapes}", what="shape")
    ours, theirs = actual.dtype or "", recorded.dtype or ""
    if _letters(ours) != _letters(theirs):
        return Verdict(False, f"recorded {theirs}, ours is {ours}", what="dtype")
    return Verdict(True, notes=() if ours == theirs else (f"recorded {theirs}, ours is {ours}",))


def _letters(dtype: str) -> str:
    """The kind of a dtype without its width: `bfloat16` and `float32` are floats."""
    return dtype.rstrip("0123456789_emfnuz").removeprefix("b" if dtype.startswith("bf") else "")


def _width_notes(recorded: Value, actual: Value) -> tuple[str, ...]:
    theirs = _dtype(recorded)
    if actual.dtype is None or theirs is None or theirs == actual.dtype:
        return ()
    return (f"recorded {theirs}, ours is {actual.dtype}",)


def _dtype(value: Value) -> str | None:
    """The dtype; PyTorch leaves out its defaults."""
    return value.dtype or (_TORCH_DEFAULTS.get(value.kind) if value.form == "tensor" else None)


def _judge_numbers(
    recorded: Value, actual: Value, notes: tuple[str, ...], tolerance: Tolerance
) -> Verdict:
    theirs, ours = _common(recorded, actual)
    if not theirs:
        hidden = recorded.numbers or actual.numbers or recorded.elided
        return Verdict(True, "no number is shown on both sides" if hidden else "", notes=notes)
    wrong: Sequence[int]
    if len(theirs) == 1 and recorded.kind != "complex":
        gap, limit, over = _gap(recorded, actual, theirs[0], ours[0], tolerance)
        worst, wrong = 0, range(over > 0)
    else:
        apart, allowed, excess = _gaps(recorded, actual, theirs, ours, tolerance)
        wrong = np.flatnonzero(np.any(excess > 0, axis=1)).tolist()
        # The number furthest over what is allowed; where none is over, the largest difference.
        at = np.lexsort((-allowed.ravel(), -apart.ravel(), -np.fmax(excess, 0).ravel()))[0]
        gap, limit, worst = apart.flat[at], allowed.flat[at], int(at) // apart.shape[1]
    verdict = Verdict(
        not len(wrong),
        "",
        float(gap),
        float(limit),
        abs(recorded.units[theirs[worst]]),
        _index(recorded, theirs[worst]),
        recorded.numbers[theirs[worst]],
        actual.numbers[ours[worst]],
        len(theirs),
        len(wrong),
        notes,
        marks=tuple((theirs[i], ours[i]) for i in wrong[:_MOST_MARKS]),
    )
    return verdict._replace(reason=_reason(verdict), what="value") if len(wrong) else verdict


def _gap(
    recorded: Value, actual: Value, theirs: int, ours: int, tolerance: Tolerance
) -> tuple[float, float, float]:
    """What `_gaps` gives, for one real number and without NumPy."""
    one, other = recorded.numbers[theirs], actual.numbers[ours]
    a, b = _as_float(one), _as_float(other)
    apart = abs(a - b)
    if recorded.kind in _EXACT_KINDS:
        unequal = one != other and (one == one or other == other)
        apart = max(1.0, 0.0 if math.isnan(apart) else apart) if unequal else 0.0
        return apart, 0.0, apart
    if a == b or (math.isnan(a) and math.isnan(b)):
        apart = 0.0
    elif math.isnan(apart):
        apart = math.inf
    dtypes = _float_dtype(recorded), _float_dtype(actual)
    allowed = allowed_in_one_print(a, abs(recorded.units[theirs]), resolution(*dtypes))
    if tolerance.given and math.isfinite(a):
        allowed = max(allowed, tolerance.in_print(a))
    both = math.isfinite(a) and math.isfinite(b)
    return apart, allowed, apart - allowed - (_READING * max(abs(a), abs(b)) if both else 0.0)


def _gaps(
    recorded: Value,
    actual: Value,
    theirs: Sequence[int],
    ours: Sequence[int],
    tolerance: Tolerance,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference, what is allowed, and by how much it is over that: a row for each number."""
    left, right = _at(recorded.numbers, theirs), _at(actual.numbers, ours)
    rows, columns = _parts(left, recorded.kind), _parts(right, recorded.kind)
    apart = distance(rows, columns)
    if recorded.kind in _EXACT_KINDS:
        pairs = zip(left, right, strict=True)  # as Python's integers, of any length
        unequal = [[a != b and (a == a or b == b)] for a, b in pairs]
        apart = np.where(unequal, np.maximum(apart, 1.0), 0.0)
        return apart, np.zeros_like(apart), apart
    units = _parts(_at(recorded.units, theirs), recorded.kind)
    allowed = allowed_in_print(
        rows, units, resolution(_float_dtype(recorded), _float_dtype(actual))
    )
    if tolerance.given:
        wide = np.maximum(allowed, tolerance.in_print(rows))
        allowed = np.where(np.isfinite(rows), wide, allowed)
    sizes = np.maximum(np.abs(rows), np.abs(columns))
    reading = _READING * np.where(np.isfinite(sizes), sizes, 0.0)
    with np.errstate(invalid="ignore"):
        return apart, allowed, apart - allowed - reading


def _at(items: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
    """The items at some places, without a copy where these are all of them."""
    return items if places == range(len(items)) else [items[place] for place in places]


def _parts(numbers: Sequence[Number], kind: str) -> np.ndarray:
    """A row for each number: itself, or its real and imaginary part."""
    if kind == "complex":
        return np.array(numbers, dtype=complex).reshape(-1, 1).view(float)
    try:
        return np.array(numbers, dtype=float).reshape(-1, 1)
    except (OverflowError, TypeError):  # an integer longer than any float; a complex number
        return np.array([[_as_float(n)] for n in numbers])


def _as_float(number: Number) -> float:
    try:
        return float(number.real)
    except OverflowError:
        return math.inf


def _float_dtype(value: Value) -> str:
    """The dtype of a value, guessed from its digits where none is printed.

    Many digits (12 or more) that are not simply a float32 written out say float64.
    """
    if value.dtype is not None and value.dtype in RESOLUTION:
        return value.dtype
    if value.form in ("tensor", "array", "text"):
        return "float32"
    numbers = [_as_float(number) for number in value.numbers]
    return "float64" if any(map(_is_double, numbers)) else "float32"


def _is_double(number: float) -> bool:
    digits = repr(number).partition("e")[0].replace(".", "").lstrip("-0")
    if len(digits) < _DOUBLE_DIGITS or not math.isfinite(number):
        return False
    try:
        return bool(struct.unpack("f", struct.pack("f", number))[0] != number)
    except OverflowError:
        return True


def _common(recorded: Value, actual: Value) -> tuple[Sequence[int], Sequence[int]]:
    """Positions of the numbers that both show, in either; all unless one is elided."""
    if not recorded.elided and not actual.elided:
        shown = range(min(len(recorded.numbers), len(actual.numbers)))
        return shown, shown
    shape = tuple(
        a if a is not None else b for a, b in zip(recorded.shape, actual.shape, strict=True)
    )
    theirs = {place: i for i, place in enumerate(_places(recorded, shape))}
    ours = {place: i for i, place in enumerate(_places(actual, shape))}
    both = [place for place in theirs if place in ours]
    return [theirs[place] for place in both], [ours[place] for place in both]


def _places(value: Value, shape: tuple[int | None, ...]) -> Iterator[tuple[int, ...]]:
    """The index of each number, from the front wherever the length is known."""
    for position in range(len(value.numbers)):
        yield tuple(
            index if index >= 0 or length is None else index + length
            for index, length in zip(_index(value, position), shape, strict=True)
        )


def _index(value: Value, position: int) -> tuple[int, ...]:
    if value.places is not None:
        return value.places[position]
    index: list[int] = []
    for length in reversed(value.shape):
        position, at = divmod(position, length or 1)
        index.append(at)
    return tuple(reversed(index))


def _in_units(verdict: Verdict) -> str:
    """How many units in the last printed place a small difference is."""
    if not verdict.unit or verdict.difference is None:
        return ""
    units = verdict.difference / verdict.unit
    if units > _FEW_UNITS:
        return ""
    return f"by {units:.2g} unit{'s' if units > 1.005 else ''} in the last printed place"


def _rounded(recorded: Value, verdict: Verdict) -> str:
    """That the recording may show our number rounded, which nothing in its code says."""
    if recorded.form != "scalar" or not isinstance(verdict.actual, float):
        return ""
    _, point, decimals = recorded.text.partition(".")
    if not point or not decimals.isdecimal() or verdict.recorded == verdict.actual:
        return ""
    count = len(decimals)
    if round(verdict.actual, count) != verdict.recorded:
        return ""
    return (
        f"ours rounded to {count} decimal{'s' if count > 1 else ''} is the recorded one: print it"
        f" so, or mark the cell `# atol {0.5 * 10.0**-count:g}`"
    )


def _reason(verdict: Verdict) -> str:
    """`1 of 4 numbers differs, at [3]: recorded 2688, ours 2689`."""
    what = f"recorded {verdict.recorded}, ours {verdict.actual}"
    if not verdict.at:
        return what
    verb = "number differs" if verdict.compared == 1 else "numbers differ"
    if verdict.differing == 1 and verdict.compared > 1:
        verb = "numbers differs"
    index = ", ".join(map(str, verdict.at))
    return f"{verdict.differing} of {verdict.compared} {verb}, at [{index}]: {what}"
