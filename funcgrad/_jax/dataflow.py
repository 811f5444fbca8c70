"""A program as a graph of values: calls taken apart, loops and branches looked into.

A vertex stands for a variable of the program or of a body in it. The body of a loop is there once,
for every step; what links it to the outside are vertices of their own: a row of an array, the
carry, the stack of the rows that the steps leave behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .equations import BRANCH, CALL, CARRY, DEVICE, ROW, STEP, WHOLE, Body, Equation, interpret
from .trace import Jaxpr, input_types
from .traits import Trait, has

Path = tuple[Equation, ...]


@dataclass(eq=False)
class Vertex:
    """A value in the graph.

    Attributes:
        role: `input`, `constant`, `made` (by an equation), `branch` (the result of one); in a loop
            `row` and `carry`, and behind it `last` (carry) and `stack`.
        type: its type; `None` of a constant.
        sources: what it is made of. A carry: what it starts from, then what the step makes of it.
            What is behind it: what the step makes, and of a loop that may take no step what it
            starts from. A stack: what it has a row of for each step. A branch: the index, then each
            way's.
        path: the equations around it, the last one that which made it.
        index: which input or result it is.
    """

    role: str
    type: Any
    sources: list["Vertex"] = field(default_factory=list)
    path: Path = ()
    index: int = 0

    @property
    def operation(self) -> str:
        """The operation that made it; for what none made, its role."""
        return self.path[-1].kind if self.role in ("made", "branch") else self.role

    @property
    def same(self) -> "Vertex":
        """The value that this one is, behind operations that compile to nothing."""
        value = self
        while value.role == "made" and has(value.operation, Trait.SAME):
            value = value.sources[value.index]
        return value


class Dataflow:
    """The graph of a program.

    Attributes:
        inputs, outputs: of the program.
        values: all of them; but for a carry, each stands behind what it is made of.
    """

    def __init__(self, program: Jaxpr):
        self.values: list[Vertex] = []
        types = enumerate(input_types(program))
        self.inputs = [self._add("input", type_, index=i) for i, type_ in types]
        self.outputs = self._walk(program, self.inputs, ())

    def constants(self) -> set[Vertex]:
        """The values that depend on no input."""
        found: set[Vertex] = set()
        for value in self.values:
            inside = value.role not in ("input", "row", "carry")
            if inside and all(source in found for source in value.sources):
                found.add(value)
        return found

    def names(self) -> dict[Vertex, str]:
        """The names of tagged values, those of `retain_grad` and of `jax.ad_checkpoint`."""
        return {
            value.same: "/".join([*(s for e in value.path for s in e.scopes), value.path[-1].label])
            for value in self.values
            if value.operation in ("retain_grad", "name")
        }

    def _add(self, role: str, type_: Any, *sources: Vertex, **rest: Any) -> Vertex:
        value = Vertex(role, type_, list(sources), **rest)
        self.values.append(value)
        return value

    def _walk(self, program: Jaxpr, inputs: Sequence[Vertex], path: Path) -> list[Vertex]:
        return interpret(
            program,
            inputs,
            lambda equation, operands: self._equation(operands, (*path, equation)),
            lambda _: self._add("constant", None),
        )

    def _equation(self, operands: list[Vertex], path: Path) -> Sequence[Vertex]:
        equation = path[-1]
        bodies = equation.bodies
        role = bodies[0].role if bodies else None
        if role in (CALL, DEVICE):
            return self._call(bodies[0], operands, path)
        if role == BRANCH:
            return self._branches(bodies, operands, path)
        # A `while` keeps nothing and has no derivative in reverse: it stays one operation.
        found = self._loop(bodies[0], operands, path) if role == STEP and equation.rows else {}
        return [
            found.get(i) or self._add("made", type_, *operands, path=path, index=i)
            for i, type_ in enumerate(equation.result_types)
        ]

    def _call(self, body: Body, operands: list[Vertex], path: Path) -> list[Vertex]:
        return body.put(self._walk(body.program, body.take(operands), path))

    def _branches(self, bodies: Sequence[Body], operands: list[Vertex], path: Path) -> list[Vertex]:
        ways = [self._call(body, operands, path) for body in bodies]
        which = operands[path[-1].decides]
        return [
            self._add("branch", type_, which, *ends, path=path)
            for type_, *ends in zip(path[-1].result_types, *ways, strict=True)
        ]

    def _loop(self, step: Body, operands: list[Vertex], path: Path) -> dict[int, Vertex]:
        """The results that come of a step, by their place."""
        types = path[-1].result_types
        given = [
            operands[place] if flow == WHOLE else self._add(flow, type_, operands[place], path=path)
            for (place, flow), type_ in zip(step.inputs, input_types(step.program), strict=True)
        ]
        made = self._walk(step.program, given, path)
        found: dict[int, Vertex] = {}
        for (place, flow), value in zip(step.outputs, made, strict=True):
            if flow == ROW:
                found[place] = self._add("stack", types[place], value, path=path)
        carried = [link.place for link in step.outputs if link.flow == CARRY]
        for place, (carry, value) in zip(carried, step.carried(given, made), strict=True):
            ends = [value] if path[-1].runs else [value, *carry.sources]
            carry.sources.append(value)
            found[place] = self._add("last", types[place], *ends, path=path)
        return found
