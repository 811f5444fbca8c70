"""What a picture shows: nodes in the order of the program, nested groups, and edges."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Fact(NamedTuple):
    """What is known of a value once the program has run, in words; empty where nothing is."""

    value: str = ""
    grad: str = ""


class Origin(NamedTuple):
    """The user's expression that an operation comes from.

    Fields:
        call: equal for operations of the same expression.
        trail: how the library got from there to the operation; the same again in another run.
        line: its file and line.
        text: the expression.
        where: file, line, function and text, for people.
    """

    call: Any
    trail: tuple[Any, ...]
    line: str
    text: str
    where: tuple[str, ...]


class Node(NamedTuple):
    """A value that the user knows by name, or operations.

    Fields:
        kind: `"input"`, `"output"`, `"constant"`, `"named"` (a `retain_grad` tag), `"port"` (what a
            body receives in each of its runs), `"operation"`, `"choice"` (what picks a branch), or
            `"folded"` (several operations shown as one).
        title: what is written largest.
        lines: what is written below: types.
        group: the index of the innermost group it is in.
        tip: what the pointer shows: the operation in full, and the user's line.
        names: the keys of its facts; of a folded node those of the named values in it.
        operations: how many operations it stands for.
        elementwise: whether it acts on each element by itself.
        origin: where an operation comes from, if that is known.
    """

    kind: str
    title: str
    lines: tuple[str, ...] = ()
    group: int = 0
    tip: str = ""
    names: tuple[str, ...] = ()
    operations: int = 0
    elementwise: bool = False
    origin: Origin | None = None


class Group(NamedTuple):
    """What is drawn as a box around nodes: a name scope, or the body of an equation.

    Fields:
        kind: `"program"`, `"scope"`, `"body"`, or `"part"` of a body: a branch, a condition.
        title: what is written on it.
        parent: the index of the group around it; the program is its own.
        tip: what the pointer shows.
    """

    kind: str
    title: str
    parent: int
    tip: str = ""


Edge = tuple[int, int]
"""Indices of the node that makes a value and of one that uses it."""


class Model(NamedTuple):
    """A program as a directed acyclic graph.

    Fields:
        nodes: in an order in which each comes after those that it uses.
        groups: the first is the whole program.
        edges: from lower to higher indices.
        returns: from the end of a loop's body to its start, drawn but not part of the graph.
        facts: what is known of values, by key.
        notes: what was left out or folded for the sake of size.
    """

    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]
    edges: frozenset[Edge]
    returns: frozenset[Edge] = frozenset()
    facts: Mapping[str, Fact] = {}
    notes: tuple[str, ...] = ()

    def around(self, group: int) -> list[int]:
        """The groups that a group is in, itself first, without the whole program."""
        found = []
        while group:
            found.append(group)
            group = self.groups[group].parent
        return found

    def contracted(self, parts: Iterable[tuple[Sequence[int], Node]]) -> "Model":
        """The model with each set of nodes replaced by one, in the place of its last.

        Sets are disjoint. The graph stays acyclic where nothing outside a set depends on one node
        of it and is used by another.
        """
        place = {index: index for index in range(len(self.nodes))}
        made = dict(enumerate(self.nodes))
        for members, node in parts:
            last = max(members)
            for index in members:
                place[index] = last
                made.pop(index, None)
            made[last] = node
        fresh = {old: new for new, old in enumerate(sorted(made))}

        def moved(edges: frozenset[Edge]) -> frozenset[Edge]:
            ends = ((fresh[place[a]], fresh[place[b]]) for a, b in edges)
            return frozenset((a, b) for a, b in ends if a != b)

        nodes = tuple(made[old] for old in sorted(made))
        return self._replace(nodes=nodes, edges=moved(self.edges), returns=moved(self.returns))
