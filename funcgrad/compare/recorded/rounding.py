"""Tells a number that a format rounded from one that Python printed in full.

`0.5` may be a half, as `print(x.item())` shows it, or anything from 0.45 to 0.55, as `f"{x:.1f}"`
does. The code of a cell says which: its own formats, and those of the functions that it uses and
that the notebook defines. Where it has none, the number itself may: `0.50` is no number in full.
Everything else is taken as it stands, so that nothing near it passes for it.
"""

import re
from collections.abc import Iterable, Sequence

from .cells import Cell
from .formats import Formats, formats_of
from .values import Value

_DEFINED = re.compile(
    r"^[ \t]*+(?:async\s++)?(?:def|class)\s++(\w++)|^(\w++)\s*+=\s*+lambda", re.MULTILINE
)
_NAME = re.compile(r"[^\W\d]\w*+")
_NUMBER = re.compile(
    r"(?P<whole>[0-9]*+)\.?(?P<decimals>[0-9]*+)(?:[eE](?P<exponent>[-+]?[0-9]++))?"
)
_WHOLE = 8  # decimals of NumPy and JAX; fewer are the whole number


def with_formats(cells: Iterable[Cell]) -> list[Cell]:
    r"""The cells of a notebook, each with the formats of what it runs.

    >>> define = Cell(1, (), "def log(x):\n  print(f'{x:.2f}')")
    >>> _, use = with_formats([define, Cell(2, (), "log(y)")])
    >>> sorted(use.formats.fixed)
    [2]
    """
    defined: dict[str, Formats] = {}
    settings = Formats()  # what `set_printoptions` said holds from there on
    found = []
    for cell in cells:
        own = formats_of(cell.source)
        for name in set(_NAME.findall(cell.source)) & defined.keys():
            own |= defined[name]
        if "set_printoptions" in cell.source:
            settings |= Formats(rounded=own.rounded)
        own |= settings
        for name, other in _DEFINED.findall(cell.source):
            defined[name or other] = own
        found.append(cell._replace(formats=own))
    return found


def in_full(value: Value) -> Value:
    """A value whose numbers were printed in full."""
    return value._replace(units=(0.0,) * len(value.units))


def settled(values: Sequence[Value], formats: Formats) -> list[Value]:
    """Printed values with the units that the formats, or their own digits, say that they have."""
    shown = {_decimals(value.text) for value in values if _shows_rounding(value)}
    return [_settled(value, formats, shown) for value in values]


def _settled(value: Value, formats: Formats, shown: set[int]) -> Value:
    if value.kind not in ("float", "complex") or value.dtype is not None or not any(value.units):
        return value
    if value.form == "text":
        most = max(map(_decimals, value.text.split()))
        is_whole = most < _WHOLE and most not in formats.fixed | formats.rounded
        return (
            in_full(value)
            if is_whole and not re.search(r"\.[0-9]+0(?![0-9])", value.text)
            else value
        )
    if value.form != "scalar" or value.kind == "complex":
        return value
    unit = _unit(value.text, formats, shown)
    return value if unit is None else value._replace(units=(unit,))


def _unit(text: str, formats: Formats, shown: set[int]) -> float | None:
    """The worth of the last place of a printed number, 0 if it is in full; `None` as it is."""
    match = _NUMBER.match(text.lstrip("+-"))
    if match is None:
        return None
    decimals, exponent = len(match["decimals"]), match["exponent"]
    if decimals in (formats.fixed if exponent is None else formats.scientific):
        return None
    power = int(exponent[:5]) if exponent else 0
    digits = len((match["whole"] + match["decimals"]).lstrip("0")) or 1
    allowed = [n for n in formats.significant if n >= digits]
    if allowed:
        first = power + (len(match["whole"].lstrip("0")) or digits - decimals)
        return 10.0 ** (first - min(allowed))
    allowed = [n for n in formats.rounded if n >= decimals and exponent is None]
    if allowed:
        return 10.0 ** -min(allowed)
    return None if exponent is None and decimals in shown else 0.0


def _decimals(text: str) -> int:
    match = _NUMBER.match(text.lstrip("+-[("))
    return len(match["decimals"]) if match else 0


def _shows_rounding(value: Value) -> bool:
    """Whether a float ends in a zero that Python would not print, `0.50`."""
    if value.form != "scalar" or value.kind != "float" or value.dtype is not None:
        return False
    match = _NUMBER.match(value.text.lstrip("+-"))
    decimals = match["decimals"] if match else ""
    return len(decimals) > 1 and decimals.endswith("0")
