"""Makes a model smaller: collapses what is too deep, then what does not fit under a limit."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from typing import Any

from ... import _jax
from .model import Edge, Model, Node
from .text import call, short


def _contracted(
    model: Model, parts: Iterable[Sequence[int]], one: Callable[[Sequence[Node]], Node]
) -> Model:
    """The model with each of these sets of nodes as the one that `one` makes of them."""
    return model.contracted((part, one([model.nodes[i] for i in part])) for part in parts)


def calls(model: Model) -> Model:
    """Operations that one call of a library function consists of become one, called as it is.

    They follow each other and come from one expression of the user's. An operation that the library
    reached in a way it has been reached before is the next call of it, in a Python loop.
    """
    runs: list[list[int]] = [[]]
    before: object = None
    trails: set[object] = set()
    for index, node in enumerate(model.nodes):
        here = (node.origin.call, node.group) if node.origin else None
        trail = (node.origin.trail, node.title) if node.origin else None
        if here is None or here != before or trail in trails:
            runs.append([])
            trails.clear()
        if here is not None:
            runs[-1].append(index)
            trails.add(trail)
        before = here
    return _contracted(model, filter(None, runs), _as_call)


def _as_call(nodes: Sequence[Node]) -> Node:
    origin = nodes[-1].origin
    name = call(origin.text) if origin else ""
    if all(_moves(node.title) for node in nodes):
        name = ""
    if len(nodes) > 1:
        return _merged(nodes, name)._replace(kind="operation", origin=origin)
    details = re.sub(r"^\w+", "", nodes[0].title)  # the numbers, if any
    return nodes[0]._replace(title=name + details) if name else nodes[0]


def _moves(operation: str) -> bool:
    return _jax.has(operation, _jax.Trait.MOVES)


def _merged(nodes: Sequence[Node], title: str = "") -> Node:
    """One node for operations that follow each other, named after the first few of them."""
    last, names = nodes[-1], dict.fromkeys(name for node in nodes for name in node.names)
    done = [n.title for n in nodes if not _moves(n.title.partition(" ")[0])] or [last.title]
    tips = [n.tip.partition("\n")[0] for n in nodes if n.tip]
    seen = nodes[0].origin.where if nodes[0].origin else ()
    return last._replace(
        kind="folded",
        title=title or _several(done),
        tip="\n".join(
            [*(short(t, 100) for t in tips[:8]), *(["…"] if len(tips) > 8 else []), *seen]
        ),
        names=tuple(names),
        operations=sum(node.operations for node in nodes),
        elementwise=all(node.elementwise for node in nodes),
    )


def _several(titles: Sequence[str], most: int = 3) -> str:
    """The titles of operations in their order, repeated ones counted."""
    counted = [(title, len(list(same))) for title, same in groupby(titles)]
    words = [title if n == 1 else f"{title} (×{n})" for title, n in counted]
    return " · ".join([*words[:most], *(["…"] if len(words) > most else [])])


def collapse(model: Model, groups: Iterable[int]) -> Model:
    """The model with each of these groups as one node."""
    chosen = set(groups)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(model.nodes):
        inside = [group for group in model.around(node.group) if group in chosen]
        if inside:
            members[inside[-1]].append(index)
    return model.contracted(
        (indices, _closed(model, group, indices)) for group, indices in members.items()
    )


def _closed(model: Model, group: int, members: Sequence[int]) -> Node:
    inside, box = set(members), model.groups[group]
    leaving = sorted({a for a, b in model.edges if a in inside and b not in inside})
    nodes = [model.nodes[index] for index in members]
    types = dict.fromkeys(line for index in leaving for line in model.nodes[index].lines[-1:])
    made = _merged(nodes, box.title)
    return made._replace(
        lines=tuple(types)[:2], group=box.parent, tip=box.tip, elementwise=False, origin=None
    )


def deeper(model: Model, depth: int) -> list[int]:
    """The bodies with more than `depth` bodies around them, themselves counted."""
    return [
        index
        for index, group in enumerate(model.groups)
        if group.kind == "body"
        and sum(model.groups[g].kind == "body" for g in model.around(index)) > depth
    ]


def fit(model: Model, limit: int) -> Model:
    """The model with at most `limit` nodes where that can be, and notes on what was folded.

    One way after another is tried, each only while there are too many nodes: inputs used in one
    place, runs of elementwise operations, groups from the innermost outwards, inputs of one
    argument, operations of one line, stretches of the program. Named values are the last to go.
    """
    steps: list[tuple[str, str, Callable[[Model], Model]]] = [
        ("inputs", "inputs used in one place are shown as one", _siblings),
        ("runs", "runs of elementwise operations are folded", _runs),
        *(
            ("depth", f"scopes and bodies are opened {level - 1} deep", _level(level))
            for level in _levels(model)
        ),
        ("inputs", "the arrays of an argument are shown as one", _inputs),
        ("lines", "operations of one line are folded", _lines),
        ("some", "stretches of operations are folded", lambda m: _stretches(m, limit, _FOLDABLE)),
        ("all", "stretches with named values are folded", lambda m: _stretches(m, limit, _INNER)),
    ]
    notes: dict[str, str] = {}
    for key, note, step in steps:
        if len(model.nodes) <= limit:
            break
        smaller = step(model)
        if len(smaller.nodes) < len(model.nodes):
            model, notes[key] = smaller, note
    return model._replace(notes=(*model.notes, *notes.values()))


_FOLDABLE = ("operation", "folded", "constant", "choice")
_INNER = (*_FOLDABLE, "named", "port")


def _stretched(model: Model, key: Callable[[Node], object]) -> Iterator[list[int]]:
    """Indices of consecutive nodes of one key, which is not `None`, once all groups are closed."""
    keys = [key(node) for node in model.nodes]
    for found, members in groupby(range(len(keys)), keys.__getitem__):
        indices = list(members)
        if found is not None and len(indices) > 1:
            yield indices


def _siblings(model: Model) -> Model:
    """Inputs of one argument with the same users as one node each."""
    users = _users(model.edges)
    found: defaultdict[object, list[int]] = defaultdict(list)
    for index, node in enumerate(model.nodes):
        if node.kind == "input":
            found[_argument(node), frozenset(users[index])].append(index)
    return _contracted(model, _shared(found), _whole)


def _shared(found: dict[Any, list[int]]) -> list[list[int]]:
    return [members for members in found.values() if len(members) > 1]


def _users(edges: Iterable[Edge]) -> defaultdict[int, set[int]]:
    """What uses each node."""
    users: defaultdict[int, set[int]] = defaultdict(set)
    for a, b in edges:
        users[a].add(b)
    return users


def _inputs(model: Model) -> Model:
    """The arrays of one argument, and those of the output, as one node each."""
    ends = ("input", "output")
    found = _stretched(model, lambda n: (n.kind, _argument(n)) if n.kind in ends else None)
    return _contracted(model, found, _whole)


def _argument(node: Node) -> str:
    return re.split(r"[\[.]", node.title)[0]


def _whole(nodes: Sequence[Node]) -> Node:
    """Several arrays of an argument or of the output, called by what is the same in their names."""
    parts = [re.findall(r"[^\[.]+|\[[^]]*\]|\.[^\[.]+", node.title) for node in nodes]
    same = [
        level[0] for level in takewhile(lambda level: len({*level}) == 1, zip(*parts, strict=False))
    ]
    count = sum(max(node.operations, 1) for node in nodes)
    title = "".join(same) or _argument(nodes[0])
    return nodes[0]._replace(title=title, lines=(f"{count} arrays",), names=(), operations=count)


def _runs(model: Model) -> Model:
    """Elementwise operations with one user that is elementwise too, together with that user."""
    users = _users(model.edges | model.returns)
    end = list(range(len(model.nodes)))
    for index in reversed(end):
        node, after = model.nodes[index], users[index]
        user = model.nodes[min(after)] if len(after) == 1 else node
        if user is not node and node.elementwise and user.elementwise and node.group == user.group:
            end[index] = end[min(after)]
    runs: defaultdict[int, list[int]] = defaultdict(list)
    for index, last in enumerate(end):
        runs[last].append(index)
    return _contracted(model, _shared(runs), _merged)


def _levels(model: Model) -> list[int]:
    """How deep groups are nested in each other, from the innermost outwards."""
    return sorted({len(model.around(index)) for index in range(1, len(model.groups))}, reverse=True)


def _level(level: int) -> Callable[[Model], Model]:
    def step(model: Model) -> Model:
        groups = range(1, len(model.groups))
        return _siblings(collapse(model, [g for g in groups if len(model.around(g)) >= level]))

    return step


def _lines(model: Model) -> Model:
    """Operations that follow each other and come from one line of the user's."""

    def line(node: Node) -> object:
        return node.origin.line if node.origin and node.kind in _FOLDABLE else None

    def whole(nodes: Sequence[Node]) -> Node:
        return _merged(nodes, short(nodes[0].origin.where[-1]) if nodes[0].origin else "")

    return _contracted(model, _stretched(model, line), whole)


def _stretches(model: Model, limit: int, kinds: Sequence[str]) -> Model:
    """Stretches of nodes of these kinds, as long as it takes to get under the limit."""
    found = list(_stretched(model, lambda node: node.kind in kinds or None))
    size = 2
    while True:
        parts = [m[i : i + size] for m in found for i in range(0, len(m), size)]
        saved = sum(len(part) - 1 for part in parts)
        if len(model.nodes) - saved <= limit or size >= len(model.nodes):
            break
        size += max(1, size // 4)
    return _contracted(model, (part for part in parts if len(part) > 1), _merged)
