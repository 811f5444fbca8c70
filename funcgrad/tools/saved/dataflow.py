"""Adds a program as a graph of values: calls taken apart, loops and branches looked into.

A value stands for a variable of the program or of a body in it. The body of a loop is there once,
for every step; what links it to the outside are values of their own: a row of an array, the carry,
the stack of the rows that the steps leave behind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ... import _compat as compat
from ..._lists import split_at

Path = tuple[compat.JaxprEqn, ...]

BODIES: dict[str, Callable[[compat.JaxprEqn], compat.ClosedJaxpr]] = {
    "jit": lambda eqn: compat.jit(eqn).body,
    "call": lambda eqn: compat.call(eqn).body,
    "checkpoint": lambda eqn: compat.checkpoint(eqn).body,
    "shard_map": lambda eqn: compat.shard_map(eqn).body,
    "saved_tensors_hooks": lambda eqn: eqn.params["hooked"].program(eqn.params["body"]),
}
"""Equations that are taken apart: what comes of their one body is what comes of them."""

# What compiles to nothing, so that its result is its first operand.
SAME = {"retain_grad", "register_hook", "inject_gradient", "name", "stop_gradient"} | {
    "optimization_barrier",
    "pvary",
    "pcast",
}


@dataclass(eq=False)
class Value:
    """A value in the graph.

    Attributes:
        role: `input`, `constant`, `made` (by an equation), `branch` (the result of one); in a loop
            `row` and `carry`, and behind it `last` (carry) and `stack`.
        aval: its type.
        sources: what it is made of. A carry: what it starts from, then what the step makes of it.
            A stack: what it has a row of for each step. A branch: the index, then each way's.
        path: the equations around it, the last one that which made it.
        index: which input or result it is.
        jaxpr: where the last equation of the path stands.
    """

    role: str
    aval: Any
    sources: list["Value"] = field(default_factory=list)
    path: Path = ()
    index: int = 0
    jaxpr: Any = None

    @property
    def operation(self) -> str:
        """The operation that made it; for what none made, its role."""
        return compat.kind(self.path[-1]) if self.role in ("made", "branch") else self.role

    @property
    def same(self) -> "Value":
        """The value that this one is, behind operations that compile to nothing."""
        value = self
        while value.role == "made" and value.operation in SAME:
            value = value.sources[value.index]
        return value


class Graph:
    """A program as values.

    Attributes:
        inputs, outputs: of the program.
        values: all of them; but for a carry, each stands behind what it is made of.
    """

    def __init__(self, closed: compat.ClosedJaxpr):
        self.values: list[Value] = []
        avals = [v.aval for v in compat.open_up(closed).invars]
        self.inputs = [self._add("input", aval, index=i) for i, aval in enumerate(avals)]
        self.outputs = self._walk(closed, self.inputs, ())

    def _add(self, role: str, aval: Any, *sources: Value, **rest: Any) -> Value:
        value = Value(role, aval, list(sources), **rest)
        self.values.append(value)
        return value

    def _walk(self, closed: compat.ClosedJaxpr, inputs: Sequence[Value], path: Path) -> list[Value]:
        jaxpr = compat.open_up(closed)
        env = {v: self._add("constant", v.aval) for v in jaxpr.constvars}
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            literal = isinstance(atom, compat.Literal)
            return self._add("constant", atom.aval) if literal else env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            results = self._equation(jaxpr, eqn, operands, (*path, eqn))
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _equation(
        self, jaxpr: Any, eqn: compat.JaxprEqn, operands: list[Value], path: Path
    ) -> list[Value]:
        kind = compat.kind(eqn)
        if kind in BODIES:
            return self._walk(BODIES[kind](eqn), operands, path)
        if kind == "scan":
            scan = compat.scan(eqn)
            consts, init, xs = split_at(operands, scan.consts, scan.carry)
            return self._loop(scan.body, consts, init, xs, path)
        if kind == "bounded_loop":
            loop = eqn.params["loop"]
            ops = loop.operands(operands)
            steps = self._made(jaxpr, path, operands, 0)
            return [steps, *self._loop(loop.body, ops.consts, ops.carry, ops.xs, path)]
        if kind == "cond":
            return self._cond(eqn, operands, path)
        return [self._made(jaxpr, path, operands, i) for i in range(len(eqn.outvars))]

    def _made(self, jaxpr: Any, path: Path, operands: list[Value], index: int) -> Value:
        aval = path[-1].outvars[index].aval
        return self._add("made", aval, *operands, path=path, index=index, jaxpr=jaxpr)

    def _loop(
        self,
        body: compat.ClosedJaxpr,
        consts: list[Value],
        init: list[Value],
        xs: list[Value],
        path: Path,
    ) -> list[Value]:
        types = split_at([v.aval for v in compat.open_up(body).invars], len(consts), len(init))
        carry = [self._add("carry", a, x, path=path) for a, x in zip(types[1], init, strict=True)]
        rows = [self._add("row", a, x, path=path) for a, x in zip(types[2], xs, strict=True)]
        new, ys = split_at(self._walk(body, [*consts, *carry, *rows], path), len(init))
        for value, after in zip(carry, new, strict=True):
            value.sources.append(after)
        stacked = path[-1].outvars[len(path[-1].outvars) - len(ys) :]
        return [
            *(self._add("last", x.aval, x, path=path) for x in carry),
            *(self._add("stack", v.aval, y, path=path) for v, y in zip(stacked, ys, strict=True)),
        ]

    def _cond(self, eqn: compat.JaxprEqn, operands: list[Value], path: Path) -> list[Value]:
        which, *rest = operands
        ways = [self._walk(branch, rest, path) for branch in compat.branches(eqn)]
        return [
            self._add("branch", v.aval, which, *ends, path=path)
            for v, *ends in zip(eqn.outvars, *ways, strict=True)
        ]


def constants(graph: Graph) -> set[Value]:
    """The values that depend on no input."""
    found: set[Value] = set()
    for value in graph.values:
        inside = value.role not in ("input", "row", "carry")
        if inside and all(source in found for source in value.sources):
            found.add(value)
    return found


def names(graph: Graph) -> dict[Value, str]:
    """The names of tagged values, those of `retain_grad` and of `jax.ad_checkpoint`."""
    return {
        value.same: _full_name(value.path)
        for value in graph.values
        if value.operation in ("retain_grad", "name")
    }


def _full_name(path: Path) -> str:
    """The name that the last equation gives, with the `jax.named_scope`s around it."""
    scopes = [scope for eqn in path for scope in compat.scopes(eqn)]
    return "/".join([*scopes, path[-1].params["name"]])
