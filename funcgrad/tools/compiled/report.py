"""What `compiled` says: memory, costs, collectives, moves to the host and loops."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from ..._describe import size_of
from .program import Loop, Place, Program, axes_of, exchanged

WIDEST = 100


@dataclass(frozen=True)
class Memory:
    """Bytes of one device, and of the host's memory that it uses."""

    arguments: int
    results: int
    aliased: int
    temporaries: int
    code: int
    peak: int
    host: int

    @property
    def total(self) -> int:
        """What the program needs at once: the peak, or the sum where the compiler tells less."""
        held = self.arguments + self.results - self.aliased + self.temporaries
        return max(self.peak, held) + self.code


@dataclass(frozen=True)
class Moved:
    """A collective, or a move between the memories of device and host.

    Attributes:
        kind: `"all-reduce"`, `"all-gather"`, `"reduce-scatter"`, `"all-to-all"`,
            `"collective-permute"`, ...; `"to host"` or `"from host"`.
        bytes: of one device, each time: the larger of what it gives and what it gets.
        dtypes: of what is moved.
        axes: of the mesh along which devices exchange; empty for the host.
        loops: the trip counts of the loops around it, the outermost first; `None` for one that the
            compiler does not know.
        overlapped: whether other work is done between its start and its end.
        file, line: the user's; `None` where the compiler has not kept them.
        scope: the name scopes, as `jax.named_scope` gives them.
    """

    kind: str
    bytes: int
    dtypes: tuple[str, ...]
    axes: tuple[str, ...]
    loops: tuple[int | None, ...]
    overlapped: bool
    file: str | None
    line: int | None
    scope: str

    @property
    def times(self) -> int | None:
        """How often it is run; `None` where the compiler does not know."""
        known = [trips for trips in self.loops if trips is not None]
        return prod(known) if len(known) == len(self.loops) else None


class Collectives(tuple[Moved, ...]):
    """The collectives of a program, a tuple."""

    @property
    def inside_loops(self) -> list[Moved]:
        """Those that are run once for each step of a loop."""
        return [one for one in self if one.loops]


@dataclass(frozen=True)
class Repeated:
    """A loop of the program; `trips` is `None` where the compiler does not know how many steps."""

    trips: int | None
    depth: int
    file: str | None
    line: int | None
    scope: str


@dataclass(frozen=True)
class Compiled:
    """What [`compiled`][funcgrad.compiled] returns. It prints as a table.

    Attributes:
        target: as it was asked for; for `None` the backend that was there.
        mesh: the sizes of the mesh's axes by name; empty without one.
        fits: whether it fits into the memory of a device; `None` where its size is not known.
        capacity: the bytes of that memory, or `None`.
        memory: bytes of one device: `arguments`, `results`, `aliased` (results in the place of
            arguments), `temporaries`, `code`, `peak` and `total`; `host` is what is in the host's
            memory. `None` where the compiler refused since it does not fit.
        flops: of one device; `None` where the compiler tells none, as that for CUDA. XLA counts
            the body of a loop once.
        bytes: that one device reads and writes, counted likewise.
        collectives: a tuple with `kind`, `axes`, `bytes`, `dtypes`, `loops` (trip counts of the
            loops around, `None` for an unknown one), `times`, `overlapped`, `file`, `line` and
            `scope` for each; `collectives.inside_loops` lists those in loops.
        offloads: likewise, the moves to and from the host's memory.
        loops: with `trips`, `depth`, `file`, `line` and `scope` for each.
        refused: what the compiler said where the program does not fit; else empty.
    """

    target: str
    mesh: Mapping[str, int]
    fits: bool | None
    capacity: int | None
    memory: Memory | None
    flops: float | None
    bytes: float | None
    collectives: Collectives = field(default_factory=Collectives)
    offloads: tuple[Moved, ...] = ()
    loops: tuple[Repeated, ...] = ()
    refused: str = ""

    def to_json(self) -> str:
        """The report as a JSON object, with the attributes' names."""
        made = asdict(self)
        made["mesh"] = dict(self.mesh)
        return json.dumps(made, indent=2)

    def __str__(self) -> str:
        lines = [self._head()]
        if self.refused:
            lines += ["the compiler said: " + " ".join(self.refused.split())]
        if self.memory:
            sizes = {key: size for key, size in asdict(self.memory).items() if size}
            told = [f"{key} {size_of(size)}" for key, size in sizes.items()]
            costs = [("flops", self.flops), ("bytes accessed", self.bytes)]
            lines += ["memory of a device: " + ", ".join(told)]
            lines += ["costs of a device: " + ", ".join(f"{k} {_count(v)}" for k, v in costs)]
        lines += _table(self.collectives, "collectives", "none")
        lines += _table(self.offloads, "moves to and from the host", "")
        unknown = sum(loop.trips is None for loop in self.loops)
        if self.loops:
            lines += [f"loops: {len(self.loops)}, {unknown} with a trip count not told"]
            lines += [
                f"  {'  ' * loop.depth}{_trips(loop.trips)} steps  {_where(loop)}"
                for loop in self.loops
            ]
        return "\n".join(part for line in lines for part in _cut(line))

    def _head(self) -> str:
        mesh = ", ".join(f"{name} {size}" for name, size in self.mesh.items())
        fits = {True: "fits", False: "does not fit", None: "memory of the device not known"}
        room = f" in {size_of(self.capacity)}" if self.capacity else ""
        need = f": {size_of(self.memory.total)}" if self.memory else ""
        where = f"{self.target} ({mesh})" if mesh else self.target
        return f"compiled for {where}: {fits[self.fits]}{need}{room}"


def _table(rows: Sequence[Moved], title: str, none: str) -> list[str]:
    if not rows:
        return [f"{title}: {none}"] if none else []
    cells = [
        ("  bytes", "what", "axes", "times", "overlapped", "where"),
        *(
            (
                f"  {row.bytes:,}",
                f"{row.kind} {','.join(row.dtypes)}",
                ",".join(row.axes),
                "x".join(map(_trips, row.loops)) or "1",
                "yes" if row.overlapped else "no",
                _where(row),
            )
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    inside = sum(bool(row.loops) for row in rows)
    return [f"{title}: {len(rows)}, {inside} inside loops", *lines]


def _cut(line: str) -> list[str]:
    """A line in lines that fit; those of tables are cut."""
    if line.startswith("  "):
        return [line if len(line) <= WIDEST else f"{line[: WIDEST - 1]}…"]
    lines = [""]
    for word in line.split(" "):
        if len(lines[-1]) + len(word) + 1 > WIDEST and lines[-1]:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return [one if len(one) <= WIDEST else f"{one[: WIDEST - 1]}…" for one in lines]


def _trips(trips: int | None) -> str:
    return "?" if trips is None else str(trips)


def _where(row: Moved | Repeated) -> str:
    place = f"{Path(row.file).name}:{row.line}" if row.file else ""
    return f"{place} {row.scope}".strip()


def _count(number: float | None) -> str:
    return "not told" if number is None else f"{number:.4g}"


def report(
    made: Mapping[str, Any], *, target: str, mesh: Mapping[str, int], capacity: int | None, own: Any
) -> Compiled:
    """The report on what a compiler made.

    Args:
        made: `text`, `memory` and `costs`, or `refused`, of the compiler.
        target: its name.
        mesh: the sizes of the axes.
        capacity: the bytes of a device.
        own: prefixes of files that are not the user's.
    """
    if made.get("refused"):
        return Compiled(
            target, mesh, False, capacity, None, None, None, refused=str(made["refused"])
        )
    memory = Memory(**made["memory"])
    program = Program(made["text"], own)
    flops, accessed = (made["costs"].get(key) for key in ("flops", "bytes accessed"))
    # The compiler for TPUs has refused what does not fit.
    fits = None if capacity is None else memory.total <= capacity
    return Compiled(
        *(target, mesh, True if target.startswith("tpu:") else fits, capacity, memory),
        *(flops, accessed),
        Collectives(
            _moved(one, program, axes_of(one.op, mesh or {"": 1}), exchanged(one, _devices(mesh)))
            for one in program.collectives()
        ),
        tuple(_moved(one, program, (), program.moved(one.op)) for one in program.offloads()),
        tuple(_repeated(loop) for loop in program.loops),
    )


def _devices(mesh: Mapping[str, int]) -> int:
    return prod(mesh.values())


def _moved(found: Any, program: Program, axes: tuple[str, ...], count: int) -> Moved:
    place: Place = program.place(found.op)
    if place.file is None and found.loops:
        place = found.loops[-1].place._replace(scope=place.scope)
    trips = tuple(loop.trips for loop in found.loops)
    return Moved(
        *(found.kind, count, dtypes(found.op.type), axes, trips, found.overlapped),
        *place,
    )


def dtypes(type_: str) -> tuple[str, ...]:
    """The element types in the text of a type, each once, as XLA writes them."""
    import re

    found = re.findall(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]", type_)
    return tuple(dict.fromkeys(kind for kind, sides in found if kind != "u32" or sides))


def _repeated(loop: Loop) -> Repeated:
    return Repeated(loop.trips, len(loop.around), *loop.place)
