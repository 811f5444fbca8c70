"""The picture that `graph` makes of a computation, for notebooks and files."""

import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ... import _jax, _taps
from ..._describe import describe
from ..._extras import need
from ..._files import write_whole
from ..._mistakes import explained
from ..._trees import is_array
from ...errors import PictureError, UsageError
from . import fold
from .build import build
from .dot import dot
from .known import known
from .model import Model


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """A picture of a computation: the result of `graph`.

    A notebook shows it. `dot` is its text in the language of Graphviz, which needs no library.

    Attributes:
        model: the nodes, groups and edges in it, and what is known of values.
        notes: what was folded or left out.
    """

    model: Model

    @property
    def notes(self) -> tuple[str, ...]:
        """What was folded or left out, in words; they stand below the picture too."""
        return self.model.notes

    @property
    def dot(self) -> str:
        """The picture in the language of Graphviz."""
        return dot(self.model)

    @property
    def svg(self) -> str:
        """The picture as SVG, which may stand in an HTML page.

        Raises:
            MissingExtraError: pygraphviz is not installed.
            PictureError: Graphviz could not draw it.
        """
        text = _drawn(self.dot, "svg").decode()
        return re.sub(r"<!--.*?-->\n|<title>.*?</title>\n", "", text[text.index("<svg") :])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture to a file, whole or not at all.

        Args:
            path: ends in `.svg`, `.png` or `.dot`; what stands there is replaced.

        Raises:
            MissingExtraError: pygraphviz is not installed, and it is no `.dot` file.
            UsageError: the name ends in something else.
            PictureError: it cannot be drawn.
            FileError: it cannot be written; what stood there is untouched.
        """
        target = Path(path)
        if target.suffix not in (".svg", ".png", ".dot"):
            raise UsageError(
                f"`Picture.save` got {str(path)!r}, and wants a name that ends in .svg, .png or"
                " .dot"
            )
        if target.suffix == ".png":
            content = _drawn(self.dot, "png")
        else:
            content = (self.svg if target.suffix == ".svg" else self.dot).encode()
        write_whole(target, content)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        kinds = Counter(node.kind for node in self.model.nodes)
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"<Picture of {len(self.model.nodes)} nodes: {shown}>"


def graph(
    fun: Callable[..., Any],
    *args: Any,
    depth: int | None = 3,
    limit: int | None = 60,
    gradient: Any = None,
    has_aux: bool = False,
) -> Picture:
    """Draws what a function computes, with the values and gradients of named intermediates.

    Stands for what people draw of `y.grad_fn` in PyTorch. Shown are the operations that run
    forward, from the inputs to the outputs; a named value (`retain_grad`) with its value and the
    gradient that `grad(fun, retain=...)` gives. A box with a dashed line is a `jax.named_scope`,
    one with a full line the body of a `jit`, `scan`, `cond`, loop, `checkpoint` or function with a
    custom rule. In SVG files the pointer shows an operation's parameters and the user's line.

    Args:
        fun: a function of pytrees of arrays; what is no array in them is passed as it is.
        args: where to evaluate it. Python's ints and bools are passed as they are, and not drawn.
            With `jax.ShapeDtypeStruct` for an array, nothing runs, and no values are shown.
        depth: how many bodies are opened inside each other; those deeper are one node each, with
            the names in it. `None` opens all, and what calls of library functions consist of.
        limit: about how many nodes there may be, inputs and outputs included; `None` for any
            number. If there are more, the picture is abbreviated, and a note says how.
        gradient: the gradient of the output, a pytree like it. Not needed where that is one real
            number; without it there are no gradients otherwise.
        has_aux: whether `fun` returns `(out, aux)`, and `out` alone is differentiated.

    Returns:
        A [`Picture`][funcgrad.Picture], which a notebook shows, with `save("name.svg")` (also
        `.png` and `.dot`), `svg`, `dot`, `notes` and `model`.

    Raises:
        UsageError: an argument is of the wrong type.
        TreeError: `gradient` does not fit the output, as for `grad`.

    `fun` is traced, so Python's `if` on values is refused, as under `jit`; then it runs once,
    operation by operation. Results that nobody uses are not drawn. Showing, and saving as SVG or
    PNG, needs `pip install 'funcgrad[graph]'` and nothing else: the drawing program comes with it.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> def f(x):
    ...     y = fg.retain_grad(2 * jnp.dot(x, x), "y")
    ...     return y**2
    >>> picture = fg.graph(f, jnp.arange(3.0))
    >>> picture
    <Picture of 6 nodes: 1 input, 3 operation, 1 named, 1 output>
    >>> picture.model.facts["y"]
    Fact(value='10', grad='20')
    """
    if not callable(fun):
        raise UsageError(f"`graph` got {describe(fun)}, and wants a function and its arguments")
    for name, number, least in (("depth", depth, 0), ("limit", limit, 1)):
        if number is not None and (type(number) is not int or number < least):
            raise UsageError(
                f"`graph` got {name}={number!r}, and wants an int from {least} up, or None"
            )
    program = _Program(fun, args, has_aux)
    closed = program.trace()
    used = _jax.prune(_jax.without_consts(closed), [True] * len(program.outputs))
    told = known(program.flat, program.leaves, _taps.find(used), gradient)
    model = build(_jax.inside_jit(used), closed.consts, program.inputs, program.outputs)
    model = model._replace(facts=told.facts, notes=told.notes)
    if depth is not None:
        model = fold.collapse(fold.calls(model), fold.deeper(model, depth))
    model = model if limit is None else fold.fit(model, limit)
    # What folding needs of the code is no part of the picture, and cannot be pickled.
    return Picture(model._replace(nodes=tuple(n._replace(origin=None) for n in model.nodes)))


class _Program:
    """A function as one of its array leaves, and what inputs and outputs are called.

    Attributes:
        leaves: the arrays among the arguments.
        inputs, outputs: their names, those of outputs once it has been traced.
    """

    def __init__(self, fun: Callable[..., Any], args: tuple[Any, ...], has_aux: bool):
        self.fun, self.has_aux = fun, has_aux
        named, self.tree = jax.tree_util.tree_flatten_with_path(args)
        self.all = [leaf for _, leaf in named]
        self.chosen = [_is_input(leaf) for leaf in self.all]
        self.leaves = [leaf for leaf, c in zip(self.all, self.chosen, strict=True) if c]
        titles = [_title(path, _parameters(fun, len(args))) for path, _ in named]
        self.inputs = [title for title, c in zip(titles, self.chosen, strict=True) if c]
        self.outputs: list[str] = []

    def flat(self, *leaves: Any) -> tuple[Any, list[Any]]:
        """The output to differentiate, and every array that is returned."""
        given = iter(leaves)
        pairs = zip(self.all, self.chosen, strict=True)
        result = self.fun(*self.tree.unflatten([next(given) if c else leaf for leaf, c in pairs]))
        returned = [("out", result)]
        if self.has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise UsageError(
                    f"`graph` got a function that returns {describe(result)}, and wants (out, aux)"
                    " where has_aux=True"
                )
            returned = [("out", result[0]), ("aux", result[1])]
        for leaf in jax.tree.leaves(returned[0][1]):
            if not is_array(leaf):
                raise UsageError(
                    f"`graph` got a function that returns {describe(leaf)}, and wants arrays;"
                    " return anything else beside them with has_aux=True"
                )
        arrays = [
            (name + jax.tree_util.keystr(path), leaf)
            for name, part in returned
            for path, leaf in jax.tree_util.tree_leaves_with_path(part)
            if is_array(leaf)
        ]
        self.outputs = [title for title, _ in arrays]
        return returned[0][1], [leaf for _, leaf in arrays]

    def trace(self) -> Any:
        with explained:
            return jax.make_jaxpr(lambda *leaves: self.flat(*leaves)[1])(*self.leaves)


def _is_input(leaf: Any) -> bool:
    """Whether a leaf is drawn; Python's ints and bools are choices, such as a size or a mode."""
    return isinstance(leaf, jax.ShapeDtypeStruct) or (is_array(leaf) and not isinstance(leaf, int))


def _parameters(fun: Callable[..., Any], count: int) -> list[str]:
    """What the function calls its positional arguments."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    return [*names, *(f"{rest}[{i}]" for i in range(count - len(names)))][:count]


def _title(path: Any, parameters: list[str]) -> str:
    return parameters[path[0].idx] + jax.tree_util.keystr(path[1:])


# In a process of its own: neither a fault in a C library nor what it says of the fonts it finds
# reaches the user's notebook.
_DRAW = """
import sys
from pygraphviz import AGraph

graph, kind = AGraph(string=sys.stdin.buffer.read().decode()), sys.argv[1]
if kind == "png":
    graph.graph_attr.update(dpi="144", bgcolor="white")
sys.stdout.buffer.write(graph.draw(format=kind, prog="dot"))
"""


def _drawn(text: str, kind: str) -> bytes:
    need(["pygraphviz"], "drawing a picture (its text, `Picture.dot`, apart)", "graph")
    command = [sys.executable, "-P", "-c", _DRAW, kind]
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    if done.returncode or not done.stdout:
        raise PictureError(
            f"`graph` could not draw the picture: Graphviz ended with status {done.returncode}:"
            f" {done.stderr.decode(errors='replace').strip()[-500:]}"
        )
    return done.stdout
