"""How code prints floats: the formats that stand in it."""

import re
from typing import NamedTuple

_FORMAT = re.compile(
    r"(?::[-+ #0<>=^_,]*+|%[-+#0]*+)[0-9]*+,?(?:\.(?P<digits>[0-9]{1,2}))?(?P<type>[eEfFgG%]?)"
    r"(?=(?P<end>[}]?))"
)
_ROUND = re.compile(
    r",\s*+(?:n?(?:digits|decimals)\s*+=\s*+)?([0-9]{1,2})\s*+\)|\.round\(\s*+([0-9]{1,2})\s*+\)"
)
_PRECISION = re.compile(
    r"(?:precision|decimals)\s*+=\s*+([0-9]{1,2})|set_printoptions\(\s*+([0-9]{1,2})"
)
_DEFAULT = 6  # digits of `%f`, `%e` and `%g`


class Formats(NamedTuple):
    """How code prints floats.

    Attributes:
        fixed: numbers of decimals, `.3f`.
        scientific: numbers of decimals before an exponent, `.3e`.
        significant: numbers of digits, `.3g`.
        rounded: numbers of decimals at most, `round(x, 3)`, `precision=3`.
    """

    fixed: frozenset[int] = frozenset()
    scientific: frozenset[int] = frozenset()
    significant: frozenset[int] = frozenset()
    rounded: frozenset[int] = frozenset()

    def __or__(self, other: "Formats") -> "Formats":
        return Formats(*(one | two for one, two in zip(self, other, strict=True)))


def formats_of(source: str) -> Formats:
    """The formats that stand in code.

    >>> formats = formats_of("print(f'{x:.3f} {y:8.2e}', round(z, 1), '%.4g' % w)")
    >>> [sorted(one) for one in formats]
    [[3], [2], [4], [1]]
    """
    found: dict[str, set[int]] = {"f": set(), "e": set(), "g": set()}
    for match in _FORMAT.finditer(source):
        kind, digits, end = match["type"].lower(), match["digits"], match["end"]
        if not kind and (digits is None or not end):
            continue
        if kind == "%" and digits is None:
            continue
        if digits is None and match[0][0] == ":" and (not end or " " in match[0]):
            continue  # a slice, an annotation or a dict, `x[:e]`, `{"a": f}`
        kind = {"%": "f", "": "g"}.get(kind, kind)
        found[kind].add(int(digits) if digits else _DEFAULT)
    rounded = {int(one or two) for one, two in _PRECISION.findall(source)}
    if "round" in source:
        rounded |= {int(one or two) for one, two in _ROUND.findall(source)}
    return Formats(*map(frozenset, (*found.values(), rounded)))
