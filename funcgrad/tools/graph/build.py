"""Makes a model of a program: scopes and bodies become groups, what flows between them edges.

Bodies take their operands from outside directly, so that an edge shows where a value comes from;
only what changes from run to run of a loop's body has a node of its own at its start. A group is a
stretch of the program without gaps: a scope that is entered again later is another group. So each
group can be drawn as one node, and the graph stays acyclic.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ... import _jax, _taps
from ..._tags import TAG
from .model import Edge, Group, Model, Node, Origin
from .text import kinds, numbers, operation, tip, where

Sources = list[int | None]
"""The node that makes each of some values; `None` for what no node makes."""


def build(
    program: _jax.Jaxpr, consts: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str]
) -> Model:
    """The whole program as a model, nothing collapsed but the insides of library functions.

    Args:
        program: the program.
        consts: what it closes over; its first inputs.
        inputs: what its other inputs are called; the keys of their facts are `"input 0"` and so on.
        outputs: what its results are called; the keys are `"output 0"` and so on.
    """
    sketch = _Sketch([], [Group("program", "", 0)], set(), set())
    read, count = _jax.used(program), len(consts)
    given = [
        sketch.add(_constant(value, 0)) if variable in read else None
        for variable, value in zip(_jax.inputs(program), consts, strict=False)
    ]
    for i, (title, type_) in enumerate(zip(inputs, _jax.input_types(program)[count:], strict=True)):
        given.append(sketch.add(Node("input", title, kinds([type_]), names=(f"input {i}",))))
    found, types = _walk(sketch, program, given, _Where(0, ())), _jax.output_types(program)
    for i, (title, type_, source) in enumerate(zip(outputs, types, found, strict=True)):
        sketch.add(Node("output", title, kinds([type_]), names=(f"output {i}",)), [source])
    edges, returns = frozenset(sketch.edges), frozenset(sketch.returns)
    return Model(tuple(sketch.nodes), tuple(sketch.groups), edges, returns)


class _Sketch(NamedTuple):
    """A model in the making."""

    nodes: list[Node]
    groups: list[Group]
    edges: set[Edge]
    returns: set[Edge]

    def add(self, node: Node, sources: Iterable[int | None] = ()) -> int:
        self.nodes.append(node)
        index = len(self.nodes) - 1
        self.edges.update((source, index) for source in sources if source is not None)
        return index

    def open(self, kind: str, title: str, parent: int, tip: str = "") -> int:
        self.groups.append(Group(kind, title, parent, tip))
        return len(self.groups) - 1


class _Where(NamedTuple):
    """Where equations stand: the group around them, and the scopes that lead to their names."""

    group: int
    scopes: tuple[str, ...]


def _walk(sketch: _Sketch, program: _jax.Jaxpr, given: Sources, at: _Where) -> Sources:
    """Adds the equations of a program."""
    env: dict[Any, int | None] = {
        variable: sketch.add(_constant(value, at.group))
        for variable, value in _jax.constants(program).items()
    }
    env.update(zip(_jax.inputs(program), given, strict=True))

    def sources(atoms: Sequence[Any]) -> Sources:
        return [None if _jax.is_literal(atom) else env[atom] for atom in atoms]

    entered: list[tuple[str, int]] = []
    for equation in _jax.equations(program):
        _enter(sketch, entered, equation.scopes, at.group)
        group = entered[-1][1] if entered else at.group
        here = _Where(group, (*at.scopes, *equation.scopes))
        found = _equation(sketch, equation, sources(equation.reads), here)
        env.update(zip(equation.makes, found, strict=True))
    return sources(_jax.outputs(program))


def _constant(value: Any, group: int) -> Node:
    """An array that the function closes over."""
    return Node("constant", "constant", (*kinds([value]), *filter(None, [numbers(value)])), group)


def _enter(
    sketch: _Sketch, entered: list[tuple[str, int]], scopes: Sequence[str], outside: int
) -> None:
    """Leaves the scopes that an equation is not in any more, and enters those that it is in."""
    same = 0
    while same < min(len(entered), len(scopes)) and entered[same][0] == scopes[same]:
        same += 1
    del entered[same:]
    for scope in scopes[same:]:
        parent = entered[-1][1] if entered else outside
        entered.append((scope, sketch.open("scope", scope, parent)))


def _equation(sketch: _Sketch, equation: _jax.Equation, given: Sources, at: _Where) -> Sources:
    """Adds an equation; its results are all of one node, unless it is opened."""
    if equation.bodies and not _jax.of_library(equation):
        return _opened(sketch, equation, given, at)
    node = _named(equation, at) if equation.kind in (TAG, "name") else _operation(equation, at)
    return [sketch.add(node, given)] * len(equation.makes)


def _named(equation: _jax.Equation, at: _Where) -> Node:
    """A `retain_grad` tag, or a `jax.ad_checkpoint.checkpoint_name`, which has no facts."""
    found, key = _jax.place([equation]), equation.label
    text = tip(equation, found)
    if equation.kind == TAG:
        key = "/".join([*at.scopes, key])
        text = "\n".join([key, *where(found)])
    return Node("named", equation.label, kinds(equation.result_types), at.group, text, (key,))


def _operation(equation: _jax.Equation, at: _Where) -> Node:
    programs = [] if _jax.of_library(equation) else equation.programs
    hidden = dict.fromkeys(name for program in programs for name in _taps.find(program))
    found = _jax.place([equation])
    return Node(
        "folded" if hidden else "operation",
        operation(equation),
        kinds(equation.result_types),
        at.group,
        tip(equation, found),
        tuple("/".join([*at.scopes, name]) for name in hidden),
        1,
        _jax.has(equation.name, _jax.Trait.ELEMENTWISE | _jax.Trait.MOVES),
        None if hidden or equation.name in _APART else _origin(equation, found),
    )


_APART = {"register_hook", "inject_gradient"}


def _origin(equation: _jax.Equation, found: _jax.Place | None) -> Origin | None:
    if found is None:
        return None
    own = found.own
    trail = tuple(itertools.takewhile(own.key.__ne__, (f.key for f in equation.frames)))
    line, text = f"{own.file}:{own.line}", _jax.expression(own)
    return Origin(own.key, trail, line, text, tuple(where(found)))


def _opened(sketch: _Sketch, equation: _jax.Equation, given: Sources, at: _Where) -> Sources:
    """The bodies of an equation in a box; of branches, a node picks the results of one."""
    bodies, text = equation.bodies, tip(equation, _jax.place([equation]))
    group = sketch.open("body", _title(equation), at.group, text)
    ports = _ports(sketch, equation, given, group)
    found: list[Sources] = [[] for _ in equation.makes]
    for title, body in _parts(bodies):
        part = sketch.open("part", title, group) if title else group
        inputs = [ports.get(link, given[link.place]) for link in body.inputs]
        made = _walk(sketch, body.program, inputs, _Where(part, at.scopes))
        for link, source in zip(body.outputs, made, strict=False):
            found[link.place].append(source)
        turns = body.carried(inputs, made)
        sketch.returns.update((b, a) for a, b in turns if None not in (a, b) and b > a)
    if bodies[0].role != _jax.BRANCH:
        return [ways[-1] if ways else None for ways in found]
    node = Node("choice", "pick a branch", kinds(equation.result_types), group, text)
    return [sketch.add(node, [given[equation.decides], *itertools.chain(*found)])] * len(found)


def _title(equation: _jax.Equation) -> str:
    """What is written on a box: the kind of equation, the function in it, and how often it runs."""
    body, trips = equation.bodies[0], equation.trips
    words = [_TITLES.get(equation.kind, equation.kind.removesuffix("_call"))]
    name, file = _jax.function_name(body.program)
    if body.role != _jax.BRANCH and name.isidentifier() and not _jax.internal(file):
        words[0] += f" {name}"
    words += [f"{axis}={size}" for axis, size in body.axes.items()]
    if trips and trips.length:
        bounded = trips.limit is not None
        words.append(f"at most {trips.length} steps" if bounded else f"{trips.length} iterations")
    return ", ".join(words)


_TITLES = {"bounded_loop": "while_loop"}


def _parts(bodies: Sequence[_jax.Body]) -> list[tuple[str, _jax.Body]]:
    """The bodies in the order in which they run, each with the title of its own box, if any."""
    if bodies[0].role == _jax.BRANCH:
        title = "branch {0}" if len(bodies) != 2 else "if {1}"
        return [(title.format(index, bool(index)), body) for index, body in enumerate(bodies)]
    tested = sorted(bodies, key=lambda body: body.role != _jax.TEST)
    return [("while this holds" if body.role == _jax.TEST else "", body) for body in tested]


def _ports(
    sketch: _Sketch, equation: _jax.Equation, given: Sources, group: int
) -> dict[_jax.Link, int]:
    """A node for what a step carries and for the rows that it reads, where anything reads it."""
    read = {
        link
        for body in equation.bodies
        for link, variable in zip(body.inputs, _jax.inputs(body.program), strict=True)
        if variable in _jax.used(body.program)
    }
    step = equation.bodies[0]
    types = zip(step.inputs, _jax.input_types(step.program), strict=True)
    moving = [(link, type_) for link, type_ in types if link.flow != _jax.WHOLE]
    names = _jax.argument_names(step.program, len(moving))
    if _jax.internal(_jax.function_name(step.program)[1]):
        names = [""] * len(moving)
    ports = {}
    for (link, type_), name in zip(moving, names, strict=True):
        if link in read:
            what = "carried" if link.flow == _jax.CARRY else "a row each time"
            lines = (*([what] if name else []), *kinds([type_]))
            node = Node("port", name or what, lines, group)
            ports[link] = sketch.add(node, [given[link.place]])
    return ports
