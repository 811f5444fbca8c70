"""Reads a compiled program: which collectives it holds, what each moves, which are in loops.

The text of an optimized HLO module is what `jax.jit(f).lower(...).compile().as_text()` gives. It is
read by a few patterns, not by a parser of HLO: enough to count, on the CPU, where collectives are
synchronous and their result is what arrives.
"""

import math
import re
from typing import NamedTuple

_KIND = r"(?P<kind>all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\("
_INSTRUCTION = re.compile(r"= (?P<result>[^=]*?) " + _KIND + r"(?P<rest>.*)")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n", re.M)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective instruction of a compiled program.

    Fields:
        kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all`, `collective-permute`.
        bytes: the size of its result on one device.
        group: how many devices take part together; 0 where the text does not say (all of them).
        looped: whether it stands in the body of a loop, at any depth.
    """

    kind: str
    bytes: int
    group: int
    looped: bool


def collectives(text: str) -> list[Collective]:
    """The collectives of an optimized HLO module, each instruction once.

    Args:
        text: the module, from `compiled.as_text()`.

    >>> collectives('''
    ... ENTRY %main (x: f32[8,2]) -> f32[8,2] {
    ...   ROOT %r = f32[8,2]{1,0} all-reduce(%x), replica_groups=[1,4]<=[4], to_apply=%add
    ... }
    ... ''')
    [Collective(kind='all-reduce', bytes=64, group=4, looped=False)]
    """
    parts = _computations(text)
    inside = _looped(parts, text)
    return [
        Collective(found["kind"], _bytes(found["result"]), _group(found["rest"]), name in inside)
        for name, part in parts.items()
        for found in _INSTRUCTION.finditer(part)
    ]


def _computations(text: str) -> dict[str, str]:
    """The text of each computation of a module, by name."""
    _, *halves = _HEAD.split(text)
    return dict(zip(halves[::2], halves[1::2], strict=True))


def _looped(parts: dict[str, str], text: str) -> set[str]:
    """The computations that run in a loop: bodies and conditions, and all that they call."""
    found: set[str] = set()
    todo = re.findall(r"(?:body|condition)=%?([\w.\-]+)", text)
    while todo:
        name = todo.pop()
        if name in parts and name not in found:
            found.add(name)
            todo += re.findall(r"%([\w.\-]+)", parts[name])
    return found


def _bytes(result: str) -> int:
    """The size of an HLO type, which may be a tuple: `(f32[2,3], bf16[4])` is 32."""
    return sum(
        -(-_bits(dtype) * math.prod(int(n) for n in shape.split(",") if n) // 8)
        for dtype, shape in _ARRAY.findall(result)
    )


def _bits(dtype: str) -> int:
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8


def _group(rest: str) -> int:
    """The devices of one replica group, in any of the three ways in which HLO writes groups."""
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(counted[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", named[2]))
    return 0


def normalized(text: str) -> str:
    r"""An optimized HLO module without what differs between equal programs.

    Left out are the names of the module and of arguments, the places in the source, and the names
    of instructions, which become numbers in the order in which they appear.

    >>> normalized("HloModule jit_f\n%a.7 = f32[] add(%x, %x), metadata={op_name='f/add'}")
    'HloModule\n%0 = f32[] add(%1, %1)'
    """
    text = re.sub(r",? ?(metadata|frontend_attributes)=\{[^}]*\}", "", text)
    text = re.sub(r"(?ms)^(FileNames|FunctionNames|FileLocations|StackFrames)\n.*?\n\n", "", text)
    names: dict[str, str] = {}
    text = re.sub(r"%[\w.\-]+", lambda m: names.setdefault(m[0], f"%{len(names)}"), text)
    text = re.sub(r"[\w.\-]+: (?=\(|[a-z]\w*\[)", "", text)
    return re.sub(r"HloModule [^\s,]+", "HloModule", text)
