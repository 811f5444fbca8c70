"""A model as DOT, the language of Graphviz, in colours that light and dark pages both bear.

Nodes are light with dark text whatever is behind them; lines and what is written on boxes are of a
middle grey; the background is left open.
"""

import html
from collections import defaultdict
from collections.abc import Iterator

from .model import Fact, Model, Node
from .text import short

_GREY, _FAINT, _DARK = "#7d8590", "#57606a", "#1f2328"
# The colours of node and border, and the style, by the kind of node.
_LOOKS = {
    "input": ("#ddeeff", "#3f7fbf", "filled"),
    "output": ("#dcf5e0", "#3f9a58", "filled"),
    "constant": ("#f1f3f5", _GREY, "filled,dashed"),
    "named": ("#fff0c2", "#c98a00", "filled"),
    "port": ("#eeeeff", "#8a80d0", "filled,rounded"),
    "operation": ("#f1f3f5", "#a0a8b2", "filled,rounded"),
    "choice": ("#f6e8fb", "#a569c4", "filled,rounded"),
    "folded": ("#e3e6ea", _FAINT, "filled,rounded"),
}
_BOXES = {
    "scope": ('"rounded,dashed,filled"', _GREY, '"#80808014"'),
    "body": ('"rounded,filled"', "#8a80d0", '"#8a80d01c"'),
    "part": ('"rounded,dotted,filled"', "#8a80d0", '"#8a80d010"'),
}
MOST_NAMES = 4
MANY = 20


def dot(model: Model) -> str:
    """The text of a directed graph with a cluster for each group."""
    lines = [
        "digraph funcgrad {",
        f'  graph [bgcolor="transparent", fontname="Helvetica", fontsize=10, fontcolor="{_GREY}",',
        "    nodesep=0.22, ranksep=0.24, labelloc=b, labeljust=l, pad=0.1,",
        f"    label={_quoted(_note(model))}]",
        '  node [shape=box, fontname="Helvetica", fontsize=11, height=0.3, margin="0.09,0.04",',
        f'    fontcolor="{_DARK}"]',
        f'  edge [color="{_GREY}", arrowsize=0.55, penwidth=0.9]',
        *_contents(model, _Tree(model), 0, "  "),
        *(f"  n{a} -> n{b} [{_edge(model, a)}]" for a, b in sorted(model.edges)),
        *(f"  n{a} -> n{b} [style=dashed, constraint=false]" for a, b in sorted(model.returns)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _edge(model: Model, source: int) -> str:
    """How an edge is drawn: what is computed goes straight down, weights come from the side."""
    node = model.nodes[source]
    if node.kind == "input" and node.operations > MANY:
        return f'weight=0, constraint=false, color="{_GREY}60"'  # it is used all over the place
    return f"weight={1 if node.kind in ('input', 'constant') else 4}"


def _note(model: Model) -> str:
    return "\n".join(model.notes)


class _Tree:
    """The nodes and the groups that stand in each group; groups without any node are left out."""

    def __init__(self, model: Model):
        self.nodes: defaultdict[int, list[int]] = defaultdict(list)
        self.groups: defaultdict[int, list[int]] = defaultdict(list)
        for index, node in enumerate(model.nodes):
            self.nodes[node.group].append(index)
        for group in sorted({g for node in model.nodes for g in model.around(node.group)}):
            self.groups[model.groups[group].parent].append(group)


def _contents(model: Model, tree: _Tree, group: int, indent: str) -> Iterator[str]:
    """What stands in a group: its own nodes, then the groups in it."""
    for index in tree.nodes[group]:
        yield f"{indent}n{index} {_node(model, model.nodes[index])}"
    for inner in tree.groups[group]:
        box = model.groups[inner]
        style, line, fill = _BOXES[box.kind]
        title, tip = _quoted(short(box.title, 60)), _quoted(box.tip or box.title)
        yield f"{indent}subgraph cluster_{inner} {{"
        yield f"{indent}  graph [label={title}, tooltip={tip}, labelloc=t, labeljust=l,"
        yield f'{indent}    style={style}, color="{line}", fillcolor={fill}, margin=9]'
        yield from _contents(model, tree, inner, indent + "  ")
        yield f"{indent}}}"


def _node(model: Model, node: Node) -> str:
    fill, line, style = _LOOKS[node.kind]
    rows = [f"<B>{_written(node.title)}</B>" if node.kind in _VALUES else _written(node.title)]
    rows += [_small(text, _FAINT) for text in _below(node)]
    rows += [_small(text, _DARK) for text in _facts(model, node)]
    tip = _quoted(node.tip or node.title)
    twice = ", peripheries=2" if node.kind == "folded" else ""
    return (
        f'[label=<{"<BR/>".join(rows)}>, style="{style}", fillcolor="{fill}", color="{line}",'
        f" tooltip={tip}{twice}]"
    )


_VALUES = ("input", "output", "named", "constant")


def _small(text: str, color: str) -> str:
    return f'<FONT POINT-SIZE="9" COLOR="{color}">{_written(text)}</FONT>'


def _below(node: Node) -> list[str]:
    many = (
        [f"{node.operations} operations"] if node.kind == "folded" and node.operations > 1 else []
    )
    return [*many, *node.lines]


def _facts(model: Model, node: Node) -> list[str]:
    """What is known of the value that a node stands for, or of the named ones folded into it."""
    if node.kind != "folded":
        found = [model.facts.get(name, Fact()) for name in node.names]
        return [line for fact in found for line in _lines(fact)]
    around = [model.groups[group] for group in reversed(model.around(node.group))]
    outside = "".join(f"{group.title}/" for group in around if group.kind == "scope")
    lines = []
    for name in node.names[:MOST_NAMES]:
        fact = model.facts.get(name, Fact())
        known = _lines(fact)
        inside = name.removeprefix(outside).removeprefix(f"{node.title}/")
        lines.append(f"{short(inside)} {known[0] if known else ''}".strip())
        lines += known[1:]
    more = len(node.names) - MOST_NAMES
    return [*lines, *([f"and {more} more named values"] if more > 0 else [])]


def _lines(fact: Fact) -> list[str]:
    words = (("value", fact.value), ("grad", fact.grad))
    return [f"{word} {short(text, 48)}" for word, text in words if text]


def _written(text: str) -> str:
    """Text in a label, which is a kind of HTML."""
    return html.escape(_clean(text), quote=False).replace("\\", r"\\")


def _quoted(text: str) -> str:
    """Text as a DOT string; each of its lines ends to the left."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    lines = [_clean(line) for line in escaped.split("\n")]
    return '"' + ("\\l".join([*lines, ""]) if len(lines) > 1 else lines[0]) + '"'


def _clean(text: str) -> str:
    """Text without what no picture can hold: control characters, halves of pairs."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
