"""Reads the text of a compiled program: its collectives, loops, and moves to the host's memory."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np

KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
WORK = {"fusion", "dot", "convolution", "custom-call", "while", "call", "conditional", "sort"}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_START = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")


class Place(NamedTuple):
    """A user's line, and the name scope there."""

    file: str | None = None
    line: int | None = None
    scope: str = ""


@dataclass(frozen=True)
class Op:
    """An instruction: its name, the text of its type, its operation, operands, and what follows.

    `given` is the text between its parentheses.
    """

    name: str
    type: str
    code: str
    operands: tuple[str, ...]
    rest: str
    given: str = ""

    @property
    def number(self) -> int | None:
        """The value of an integer constant."""
        whole = self.code == "constant" and re.fullmatch(r"-?\d+", self.given)
        return int(self.given) if whole else None

    @property
    def index(self) -> int | None:
        """Which part of a tuple it takes."""
        found = re.search(r"\bindex=(\d+)", self.rest) if self.code == "get-tuple-element" else None
        return int(found[1]) if found else None

    def computation(self, role: str) -> str:
        """The name of the computation that it calls in a role."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """The computations that it runs, but for a loop's."""
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        several = branches[1].replace("%", "").split(", ") if branches else []
        return [*_CALLED.findall(self.rest), *several]


class Loop(NamedTuple):
    """A loop, those around it the outermost first, and its trip count if the compiler knows it."""

    name: str
    trips: int | None
    place: Place
    around: tuple["Loop", ...]


class Found(NamedTuple):
    """An instruction, the loops around it, and whether other work goes on meanwhile."""

    op: Op
    kind: str
    loops: tuple[Loop, ...]
    overlapped: bool


def _closing(text: str, start: int) -> int:
    """Where the bracket at `start` is closed."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "({[") - (text[place] in ")}]")
        if not depth:
            return place
    return len(text)


def _op(line: str) -> Op | None:
    start = _START.match(line)
    if not start:
        return None
    at = start.end()
    end = _closing(line, at) + 1 if line[at] == "(" else line.index(" ", at)
    opened = line.find("(", end)
    if opened < 0:
        return None
    closed = _closing(line, opened)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[opened:closed]))
    code, given = line[end:opened].strip(), line[opened + 1 : closed]
    return Op(start[1], line[at:end], code, operands, line[closed + 1 :], given)


def size(type_: str) -> int:
    """The bytes of all arrays in a type, without the padding of their layout."""
    return sum(_bytes(kind, sides) for kind, sides, _ in _ARRAY.findall(type_))


def _bytes(kind: str, sides: str) -> int:
    bits = {"pred": 8, "token": 0}.get(kind) if kind in ("pred", "token") else None
    if bits is None:
        bits = int(re.findall(r"\d+", kind)[0])
    count = prod(int(side) for side in sides.split(",") if side)
    return -(-count * bits // 8)


def parts(type_: str) -> list[str]:
    """The parts of a tuple's type; the type itself where it is none."""
    if not type_.startswith("("):
        return [type_]
    found, depth, start = [], 0, 1
    for place in range(1, len(type_)):
        depth += (type_[place] in "({[") - (type_[place] in ")}]")
        if (type_[place] == "," and depth == 0) or depth < 0:
            found.append(type_[start:place].strip())
            start = place + 1
    return found


class Program:
    """A compiled program, read from its text.

    Args:
        text: as XLA writes it after optimisation.
        own: prefixes of files that are not the user's.
    """

    def __init__(self, text: str, own: Sequence[str]) -> None:
        self.own = tuple(own)
        self.entry = ""
        self.computations: dict[str, list[Op]] = {}
        self.tables: dict[str, dict[int, str]] = {}
        into: list[Op] | None = None
        table: dict[int, str] | None = None
        for line in text.splitlines():
            if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                table = self.tables.setdefault(line, {})
            elif table is not None and (row := re.match(r"(\d+) (.*)", line)):
                table[int(row[1])] = row[2]
            elif (head := _HEAD.match(line)) and not line.startswith("HloModule"):
                table, into = None, self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif into is not None and (op := _op(line)):
                into.append(op)

    def place(self, op: Op) -> Place:
        """The user's line that made an instruction, and its name scope."""
        name = re.search(r'op_name="([^"]*)"', op.rest)
        scope = _scope(name[1]) if name else ""
        if frame := re.search(r"stack_frame_id=(\d+)", op.rest):
            for file, line in self._frames(int(frame[1])):
                if not file.startswith(self.own):
                    return Place(file, line, scope)
        file_, line_ = (re.search(rf"{key}=\"?([^\" }}]+)", op.rest) for key in _SOURCE)
        if file_ and line_ and not file_[1].startswith(self.own):
            return Place(file_[1], int(line_[1]), scope)
        return Place(scope=scope)

    def _frames(self, frame: int) -> Iterator[tuple[str, int]]:
        """The files and lines of a stack, the innermost first."""
        while found := self.tables.get("StackFrames", {}).get(frame):
            place = self.tables["FileLocations"].get(_field(found, "file_location_id"), "")
            file = self.tables["FileNames"].get(_field(place, "file_name_id"), "")
            yield file.strip('"'), _field(place, "line")
            outer = _field(found, "parent_frame_id") - 1  # it is counted from one, 0 is none
            if outer >= frame:
                return
            frame = outer

    @cached_property
    def loops(self) -> list[Loop]:
        """The loops, each after those around it."""
        return list(dict.fromkeys(loops[-1] for _, loops, _ in self._walk() if loops))

    def collectives(self) -> list[Found]:
        """The instructions by which devices exchange what they hold."""
        return [
            Found(op, kind, loops, overlapped)
            for op, loops, overlapped in self._walk()
            if (kind := _kind(op)) is not None
        ]

    def offloads(self) -> list[Found]:
        """The instructions that move arrays between the device's memory and the host's."""
        found = []
        for op, loops, overlapped in self._walk():
            if op.code == "copy-start":
                there, back = ("S(5)" in part for part in parts(op.type)[:2])
            elif op.code in ("copy", "dynamic-update-slice", "dynamic-slice"):
                kinds = self._types
                there = "S(5)" in op.type and op.code != "dynamic-slice"
                back = "S(5)" in kinds.get(op.operands[0], "") if op.operands else False
            else:
                continue
            if there != back or (there and op.code == "dynamic-update-slice"):
                found.append(Found(op, "to host" if there else "from host", loops, overlapped))
        return found

    def moved(self, op: Op) -> int:
        """The bytes that an instruction moves to or from the host."""
        if op.code == "dynamic-update-slice":
            return size(self._types.get(op.operands[1], ""))
        return size(parts(op.type)[0])

    @cached_property
    def _types(self) -> Mapping[str, str]:
        return {op.name: op.type for ops in self.computations.values() for op in ops}

    def _walk(self) -> Iterator[tuple[Op, tuple[Loop, ...], bool]]:
        """Every instruction that is run, the loops around it, and whether it is overlapped."""
        yield from self._inside(self.entry, (), False, "")

    def _inside(
        self, name: str, loops: tuple[Loop, ...], overlapped: bool, caller: str
    ) -> Iterator[tuple[Op, tuple[Loop, ...], bool]]:
        ops = self.computations.get(name, [])
        for number, op in enumerate(ops):
            meanwhile = overlapped or (op.code.endswith("-start") and _busy(ops, number))
            if "all-reduce-scatter" in caller and op.code == "all-reduce":
                op = Op(op.name, op.type, "all-reduce-scatter", op.operands, op.rest)
            yield op, loops, meanwhile
            if op.code == "while":
                trips = self._trips(op, {one.name: one for one in ops})
                loop = Loop(op.name, trips, self.place(op), loops)
                for role in ("condition", "body"):
                    yield from self._inside(op.computation(role), (*loops, loop), False, "")
            else:
                for called in op.called:
                    yield from self._inside(called, loops, meanwhile, f"{op.name} {called}")

    def _trips(self, loop: Op, beside: Mapping[str, Op]) -> int | None:
        """The trip count as XLA writes it, or as constant bounds and a step of one say it.

        The compiler for TPUs does not write it.
        """
        if told := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(told[1])
        ops = (self.computations.get(loop.computation(role), []) for role in ("condition", "body"))
        test, step = (Named(one) for one in ops)
        if not test.last or not step.last or "direction=LT" not in test.last.rest:
            return None
        counter, limit = (test.source(name) for name in test.last.operands)
        place = counter.index if counter else None
        start = beside.get(loop.operands[0])
        if place is None or start is None or start.code != step.last.code or start.code != "tuple":
            return None
        first = Named(beside.values()).source(start.operands[place])
        following = step.source(step.last.operands[place])
        if following is None or following.code != "add":
            return None
        added = [step.source(name) for name in following.operands]
        counts = [one for one in added if one and one.index == place]
        ones = [one for one in added if one and one.number == 1]
        bounds = [one.number if one else None for one in (first, limit)]
        if len(counts) != 1 or len(ones) != 1 or bounds[0] is None or bounds[1] is None:
            return None
        return max(bounds[1] - bounds[0], 0)


class Named:
    """The instructions of a computation by name."""

    def __init__(self, ops: Iterable[Op]) -> None:
        self.ops = {op.name: op for op in ops}
        self.last = next(reversed(self.ops.values()), None)

    def source(self, name: str) -> Op | None:
        """An instruction, or what it copies."""
        op = self.ops.get(name)
        while op is not None and op.code == "copy":
            op = self.ops.get(op.operands[0])
        return op


_SOURCE = ("source_file", "source_line")


def _busy(ops: Sequence[Op], start: int) -> bool:
    """Whether other work stands between the start of an instruction and its end."""
    if '"is_sync":true' in ops[start].rest:
        return False
    last = {ops[start].name}
    for number in range(start + 1, len(ops)):
        op = ops[number]
        if last & set(op.operands):
            if op.code.endswith("-done"):
                return any(other.code in WORK for other in ops[start + 1 : number])
            last.add(op.name)
    return False


def _kind(op: Op) -> str | None:
    if op.code == "all-reduce-scatter":
        return "reduce-scatter"
    code = op.code.removesuffix("-start")
    return code if code in KINDS else None


def exchanged(found: Found, devices: int) -> int:
    """The bytes of the larger of what a device gives and gets in a collective."""
    types = parts(found.op.type)
    if found.op.code in ("all-gather-start", "collective-permute-start"):
        types = types[1:2]
    total = sum(map(size, types))
    if found.op.code == "reduce-scatter":
        total *= len((groups(found.op, devices) or [[0]])[0])
    return total


def groups(op: Op, devices: int) -> list[list[int]] | None:
    """The devices that exchange with each other, by their places in the mesh.

    XLA writes them in four forms; `None` is for one that is not known.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?\})\}", op.rest):
        return [[*map(int, pair.split(","))] for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", op.rest):
        shape, sides = (_numbers(iota[n]) for n in (1, 2))
        order = _numbers(iota[3]) if iota[3] else [*range(len(sides))]
        made = np.arange(prod(sides)).reshape(sides).transpose(order).reshape(shape)
        return made.tolist()
    if named := _NAMED.search(op.rest):
        found = _of_axes(dict(_AXIS.findall(named[1])), named[5].split(","))
        if not named[2] or found is None:
            return found
        sides = _numbers(named[3])
        order = _numbers(named[4]) if named[4] else [*range(len(sides))]
        ids = np.arange(prod(sides)).reshape(sides).transpose(order).reshape(-1)
        return [ids[group].tolist() for group in found]
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", op.rest):
        rows = re.findall(r"\{([\d,]+)\}", listed[1])
        return [_numbers(row) for row in rows] or [[*range(devices)]]
    return None


_NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_AXIS = re.compile(r"'?([\w.\-]+)'?=(\d+)")


def _of_axes(sizes: Mapping[str, str], along: Sequence[str]) -> list[list[int]] | None:
    """Groups along axes, or along parts of them: `'x':(2)4` is the part of size 4 after 2."""
    shape: list[int] = []
    moved: list[int] = []
    asked: dict[str, tuple[int, int] | None] = {}
    for one in along:
        found = re.fullmatch(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", one.strip())
        if not found or found[1] not in sizes or found[1] in asked:
            return None
        asked[found[1]] = (int(found[2]), int(found[3])) if found[2] else None
    for name, side in sizes.items():
        before, part = (asked.get(name) or (1, int(side))) if name in asked else (int(side), 1)
        moved += [len(shape) + 1]
        shape += [before, part, int(side) // (before * part)]
    kept = [axis for axis in range(len(shape)) if axis not in moved]
    made = np.arange(prod(shape)).reshape(shape).transpose([*kept, *moved])
    return made.reshape(-1, prod(shape[axis] for axis in moved)).tolist()


def _numbers(text: str) -> list[int]:
    return [*map(int, filter(None, text.split(",")))]


def axes_of(op: Op, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of the mesh along which a collective's devices lie."""
    devices = prod(mesh.values())
    varied: set[int] = set()
    met = groups(op, devices)
    if met is None:
        return ("unknown",)
    for group in met:
        places = np.unravel_index([one for one in group if one < devices], [*mesh.values()])
        varied |= {axis for axis, at in enumerate(places) if len(set(at.tolist())) > 1}
    return tuple(name for axis, name in enumerate(mesh) if axis in varied)


def _field(text: str, key: str) -> int:
    found = re.search(rf"\b{key}=(\d+)", text)
    return int(found[1]) if found else 0


def _scope(name: str) -> str:
    """The name scopes in the name of an operation, without what JAX adds for calls and loops."""
    if "/" not in name and not name.startswith("jit("):
        return name  # of an argument
    left = {"while", "body", "cond", "closed_call", "call_exported", "checkpoint", "shard_map"}
    _, *inner = name.split("/") if name.startswith("jit(") else ["", *name.split("/")]
    kept = [part for part in inner[:-1] if part not in left and not re.match(r"p?jit\(", part)]
    return "/".join(kept)
