"""How far apart PyTorch's and JAX's numbers may be: the rules of both rooms of `compare`.

Two builds of one library differ by a few roundings. `RESOLUTION` says how much that is for each
dtype, relative to the number; where two dtypes meet, the coarser one counts.

* A printed number may differ by the larger of half a unit in its last printed place (nothing where
  it was printed in full: `28.` is exactly 28) and what the dtype resolves: `allowed_in_print`.
* Live, |torch - jax| <= rtol * |torch| + atol holds: `Tolerance`. By default rtol is `UNITS` times
  what the dtype resolves. atol is rtol times the largest magnitude of PyTorch's array, since a sum
  rounds by the size of its terms and not of its result, plus the smallest normal number, since XLA
  flushes what is smaller to 0.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

RESOLUTION: Mapping[str, float] = MappingProxyType(
    {
        "float64": 4 * 2.0**-52,
        "float32": 4 * 2.0**-23,
        "float16": 2 * 2.0**-10,
        "bfloat16": 2 * 2.0**-7,
        "float8_e4m3fn": 2 * 2.0**-3,
        "float8_e5m2": 2 * 2.0**-2,
        "complex128": 4 * 2.0**-52,
        "complex64": 4 * 2.0**-23,
        "complex32": 2 * 2.0**-10,
    }
)
UNITS = 4
"""How many times `RESOLUTION` two implementations may lie apart in a live comparison."""

_KINDS = {"bool": "bool", "complex": "complex", "float": "float", "bfloat": "float",
          "int": "int", "uint": "int", "quint": "float", "qint": "float"}  # fmt: skip


def resolution(*dtypes: str) -> float:
    """What the coarsest of these dtypes resolves, relative to a number."""
    return max(RESOLUTION.get(dtype, RESOLUTION["float32"]) for dtype in dtypes)


def kind_of_dtype(dtype: str) -> str | None:
    """The kind of number that a dtype holds; `None` where it holds none.

    >>> kind_of_dtype("bfloat16"), kind_of_dtype("uint8"), kind_of_dtype("<U1")
    ('float', 'int', None)
    """
    return next((kind for start, kind in _KINDS.items() if dtype.startswith(start)), None)


def distance(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """How far apart numbers are: 0 for two NaN, `inf` where only one is finite.

    >>> distance(np.array([1.0, np.inf, np.nan, np.nan]), np.array([1.5, np.inf, np.nan, 0.0]))
    array([0.5, 0. , 0. , inf])
    """
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(theirs - ours)
    same = (theirs == ours) | (np.isnan(theirs) & np.isnan(ours))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def allowed_in_print(numbers: np.ndarray, units: np.ndarray, resolution: float) -> np.ndarray:
    """What printed numbers may differ by.

    Args:
        numbers: a row for each number: itself, or its real and imaginary part, which round by the
            larger of the two.
        units: for each the worth of its last printed place, 0 where it was printed in full.
        resolution: what the dtype resolves.
    """
    largest = np.max(np.abs(numbers), axis=1, keepdims=True)
    rounding = resolution * np.where(np.isfinite(largest), largest, 0.0)
    return np.where(np.isfinite(numbers), np.maximum(units / 2, rounding), 0.0)


def allowed_in_one_print(number: float, unit: float, resolution: float) -> float:
    """`allowed_in_print` of one real number: NumPy takes a hundred times as long for it."""
    return max(unit / 2, resolution * abs(number)) if math.isfinite(number) else 0.0


class Tolerance(NamedTuple):
    """A tolerance that the user gave, in a live comparison or for a cell of a recording.

    Attributes:
        rtol, atol: what the user gave; `None` for what follows from the dtypes.
        strict: whether dtypes of unequal width are a difference.
    """

    rtol: float | None = None
    atol: float | None = None
    strict: bool = False

    @property
    def given(self) -> bool:
        """Whether the user gave any."""
        return self.rtol is not None or self.atol is not None

    def in_print(self, number: Any) -> Any:
        """What the user allows for a printed number, or for an array of them."""
        return (self.atol or 0.0) + (self.rtol or 0.0) * abs(number)

    def told(self) -> str:
        """What the user gave, `rtol 0.001`."""
        given = {"rtol": self.rtol, "atol": self.atol}
        return ", ".join(f"{name} {one:g}" for name, one in given.items() if one is not None)

    def resolve(
        self, theirs: np.ndarray, ours: np.ndarray, scale: float = 0.0
    ) -> tuple[float, float]:
        """The two numbers for a pair of float or complex arrays of at least this magnitude."""
        rtol = self.rtol
        if rtol is None:
            rtol = UNITS * resolution(theirs.dtype.name, ours.dtype.name)
        if self.atol is not None:
            return rtol, self.atol
        return rtol, rtol * max(scale, magnitude(theirs)) + _smallest(theirs)


def wide(array: np.ndarray) -> np.ndarray:
    """A float or complex array in double precision."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def magnitude(array: np.ndarray) -> float:
    """The largest finite magnitude in an array, 0 where there is none."""
    sizes = np.abs(wide(array))
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


def _smallest(array: np.ndarray) -> float:
    """The smallest normal number of a dtype (of half-precision dtypes that of float32)."""
    narrow = array.dtype if array.dtype.kind in "fc" and array.dtype.itemsize > 2 else np.float32
    return float(np.finfo(narrow).tiny)
