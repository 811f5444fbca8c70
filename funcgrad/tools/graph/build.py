"""Makes a model of a jaxpr: scopes and bodies become groups, what flows between them edges.

Bodies take their operands from outside directly, so that an edge shows where a value comes from;
only what changes from run to run of a loop's body has a node of its own at its start. A group is a
stretch of the program without gaps: a scope that is entered again later is another group. So each
group can be drawn as one node, and the graph stays acyclic.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ... import _jax
from ... import _taps as interpret
from ..._lists import split_at
from ..._source import Place, expression, internal, of_library, place
from ..._tags import tag_p
from ..anomaly.flags import BODIES, ELEMENTWISE, MOVES
from .model import Edge, Group, Model, Node, Origin
from .text import kinds, numbers, operation, tip, where

Env = dict[Any, int | None]
"""The node that makes the value of each variable; `None` for what no node makes."""


def build(
    closed: _jax.Jaxpr, consts: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str]
) -> Model:
    """The whole program as a model, nothing collapsed but the insides of library functions.

    Args:
        closed: the program.
        consts: what it closes over; its first inputs.
        inputs: what its other inputs are called; the keys of their facts are `"input 0"` and so on.
        outputs: what its results are called; the keys are `"output 0"` and so on.
    """
    sketch = _Sketch([], [Group("program", "", 0)], set(), set())
    jaxpr = compat.open_up(closed)
    env: Env = {}
    for variable, value in zip(jaxpr.invars, consts, strict=False):
        if variable in compat.reads(jaxpr):
            env[variable] = sketch.add(_constant(variable, value, 0))
    variables = jaxpr.invars[len(consts) :]
    for index, (variable, title) in enumerate(zip(variables, inputs, strict=True)):
        node = Node("input", title, kinds([variable.aval]), names=(f"input {index}",))
        env[variable] = sketch.add(node)
    _walk(sketch, closed, env, _Where(0, ()))
    for index, (atom, title) in enumerate(zip(jaxpr.outvars, outputs, strict=True)):
        node = Node("output", title, kinds([atom.aval]), names=(f"output {index}",))
        sketch.add(node, [_source(env, atom)])
    return Model(
        tuple(sketch.nodes),
        tuple(sketch.groups),
        frozenset(sketch.edges),
        frozenset(sketch.returns),
    )


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


def _source(env: Env, atom: Any) -> int | None:
    return None if isinstance(atom, _jax.Literal) else env.get(atom)


def _walk(sketch: _Sketch, closed: _jax.Jaxpr, env: Env, at: _Where) -> None:
    """Adds the equations of a program; `env` has its inputs, and gets what they compute."""
    jaxpr = compat.open_up(closed)
    for variable, value in zip(jaxpr.constvars, closed.consts, strict=True):
        env[variable] = sketch.add(_constant(variable, value, at.group))
    entered: list[tuple[str, int]] = []
    for eqn in jaxpr.eqns:
        _enter(sketch, entered, compat.scopes(eqn), at.group)
        group = entered[-1][1] if entered else at.group
        here = _Where(group, (*at.scopes, *compat.scopes(eqn)))
        rule = None if of_library(eqn) else _RULES.get(compat.kind(eqn))
        rule = _named if eqn.primitive is tag_p else rule
        found = (rule or _operation)(sketch, eqn, [_source(env, v) for v in eqn.invars], here)
        env.update(zip(eqn.outvars, found, strict=True))


def _constant(variable: Any, value: Any, group: int) -> Node:
    """An array that the function closes over."""
    lines = (*kinds([variable.aval]), *filter(None, [numbers(value)]))
    return Node("constant", "constant", lines, group)


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


Sources = list[int | None]
_RULES: dict[str, Callable[[_Sketch, compat.JaxprEqn, Sources, _Where], Sources]] = {}


def _rule(*names: str) -> Callable[[Any], Any]:
    """Makes the decorated function what draws these kinds of equations."""

    def add(draw: Any) -> Any:
        _RULES.update(dict.fromkeys(names, draw))
        return draw

    return add


def _operation(sketch: _Sketch, eqn: compat.JaxprEqn, sources: Sources, at: _Where) -> Sources:
    bodies = [] if of_library(eqn) else compat.subjaxprs(eqn.params)
    hidden = {name: None for body in bodies for name in interpret.find(body)}
    found = place([eqn])
    node = Node(
        "folded" if hidden else "operation",
        operation(eqn),
        kinds(v.aval for v in eqn.outvars),
        at.group,
        tip(eqn, found),
        tuple("/".join([*at.scopes, name]) for name in hidden),
        1,
        eqn.primitive.name in ELEMENTWISE | MOVES,
        None if hidden or eqn.primitive.name in _APART else _origin(eqn, found),
    )
    return [sketch.add(node, sources)] * len(eqn.outvars)


_APART = {"register_hook", "inject_gradient"}


def _origin(eqn: compat.JaxprEqn, found: Place | None) -> Origin | None:
    if found is None:
        return None
    own = found.own
    trail = tuple(itertools.takewhile(own.key.__ne__, (f.key for f in compat.frames(eqn))))
    return Origin(own.key, trail, f"{own.file}:{own.line}", expression(own), tuple(where(found)))


def _named(sketch: _Sketch, eqn: compat.JaxprEqn, sources: Sources, at: _Where) -> Sources:
    """A `retain_grad` tag; of its leaves each keeps the one node as what makes it."""
    name = eqn.params["name"]
    full = "/".join([*at.scopes, name])
    lines, text = kinds(v.aval for v in eqn.outvars), "\n".join([full, *where(place([eqn]))])
    node = Node("named", name, lines, at.group, text, (full,))
    return [sketch.add(node, sources)] * len(eqn.outvars)


@_rule("name")
def _checkpoint_name(
    sketch: _Sketch, eqn: compat.JaxprEqn, sources: Sources, at: _Where
) -> Sources:
    """A `jax.ad_checkpoint.checkpoint_name`: a name without facts."""
    text = tip(eqn, place([eqn]))
    name = eqn.params["name"]
    node = Node("named", name, kinds([eqn.outvars[0].aval]), at.group, text, (name,))
    return [sketch.add(node, sources)]


@_rule(*BODIES, "shard_map")
def _called(sketch: _Sketch, eqn: compat.JaxprEqn, sources: Sources, at: _Where) -> Sources:
    """A body that runs once."""
    kind = compat.kind(eqn)
    body = compat.shard_map(eqn).body if kind == "shard_map" else BODIES[kind](eqn).body
    detail = ""
    if kind == "shard_map":
        detail = ", ".join(f"{a}={n}" for a, n in compat.shard_map(eqn).axes.items())
    group = _open(sketch, eqn, body, at, detail)
    env: Env = dict(zip(compat.open_up(body).invars, sources, strict=True))
    _walk(sketch, body, env, _Where(group, at.scopes))
    return [_source(env, v) for v in compat.open_up(body).outvars]


def _open(
    sketch: _Sketch, eqn: compat.JaxprEqn, body: _jax.Jaxpr, at: _Where, detail: str = ""
) -> int:
    """A group for the body of an equation, called after both."""
    kind = compat.kind(eqn).removesuffix("_call").replace("bounded_loop", "while_loop")
    name, file = compat.function(compat.open_up(body))
    title = f"{kind} {name}" if name.isidentifier() and not internal(file) else kind
    title = f"{title}, {detail}" if detail else title
    return sketch.open("body", title, at.group, tip(eqn, place([eqn])))


@_rule("cond")
def _cond(sketch: _Sketch, eqn: compat.JaxprEqn, sources: Sources, at: _Where) -> Sources:
    """Branches side by side, and a node that picks the results of one."""
    branches = compat.branches(eqn)
    group = sketch.open("body", "cond", at.group, tip(eqn, place([eqn])))
    found: list[int | None] = []
    for index, branch in enumerate(branches):
        title = f"branch {index}" if len(branches) != 2 else f"if {bool(index)}"
        part = sketch.open("part", title, group)
        env: Env = dict(zip(compat.open_up(branch).invars, sources[1:], strict=True))
        _walk(sketch, branch, env, _Where(part, at.scopes))
        found += [_source(env, v) for v in compat.open_up(branch).outvars]
    lines = kinds(v.aval for v in eqn.outvars)
    node = Node("choice", "pick a branch", lines, group, tip(eqn, place([eqn])))
    return [sketch.add(node, [sources[0], *found])] * len(eqn.outvars)


@_rule("scan")
def _scan(sketch: _Sketch, eqn: compat.JaxprEqn, sources: Sources, at: _Where) -> Sources:
    loop = compat.scan(eqn)
    group = _open(sketch, eqn, loop.body, at, f"{loop.length} iterations")
    consts, carry, xs = split_at(sources, loop.consts, loop.carry)
    return _loop(sketch, loop.body, consts, carry, xs, _Where(group, at.scopes))


@_rule("while")
def _while(sketch: _Sketch, eqn: compat.JaxprEqn, sources: Sources, at: _Where) -> Sources:
    loop = compat.while_loop(eqn)
    group = _open(sketch, eqn, loop.body, at)
    conds, consts, carry = split_at(sources, loop.conds, loop.consts)
    here = _Where(group, at.scopes)
    return _loop(sketch, loop.body, consts, carry, [], here, loop.cond, conds)


@_rule("bounded_loop")
def _bounded(sketch: _Sketch, eqn: compat.JaxprEqn, sources: Sources, at: _Where) -> Sources:
    loop = eqn.params["loop"]
    most = f"at most {loop.length} steps" if loop.length else ""
    group = _open(sketch, eqn, loop.body, at, most)
    ops = loop.operands(sources)
    here = _Where(group, at.scopes)
    out = _loop(sketch, loop.body, ops.consts, ops.carry, ops.xs, here, loop.cond, ops.conds)
    return [None, *out]


def _loop(
    sketch: _Sketch,
    body: _jax.Jaxpr,
    consts: Sources,
    carry: Sources,
    xs: Sources,
    at: _Where,
    cond: _jax.Jaxpr | None = None,
    conds: Sequence[int | None] = (),
) -> Sources:
    """A body that runs many times: what it carries, and the rows it reads, have nodes."""
    jaxpr = compat.open_up(body)
    given = jaxpr.invars[len(consts) :]
    reads = compat.reads(jaxpr)
    if cond is not None:
        reads |= {
            ours
            for ours, theirs in zip(given, compat.open_up(cond).invars[len(conds) :], strict=False)
            if theirs in compat.reads(compat.open_up(cond))
        }
    ports: Sources = []
    names = compat.argument_names(jaxpr, len(given))
    if internal(compat.function(jaxpr)[1]):
        names = [""] * len(given)
    for index, (variable, source) in enumerate(zip(given, [*carry, *xs], strict=True)):
        what = "carried" if index < len(carry) else "a row each time"
        title, type_ = names[index] or what, kinds([variable.aval])
        node = Node("port", title, type_ if title == what else (what, *type_), at.group)
        ports.append(sketch.add(node, [source]) if variable in reads else source)
    if cond is not None:
        test: Env = dict(zip(compat.open_up(cond).invars, [*conds, *ports], strict=False))
        _walk(
            sketch, cond, test, _Where(sketch.open("part", "while this holds", at.group), at.scopes)
        )
    env: Env = dict(zip(jaxpr.invars, [*consts, *ports], strict=True))
    _walk(sketch, body, env, at)
    found = [_source(env, v) for v in jaxpr.outvars]
    ends = zip(found[: len(carry)], ports, strict=False)
    sketch.returns.update((a, b) for a, b in ends if a is not None and b is not None and a > b)
    return found
