"""The picture that `graph` makes of a computation, for notebooks and files."""

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
from ..._calls import Call, Returned, check_arrays, every_argument, parameter_names, returned
from ..._describe import describe
from ..._extras import need
from ..._files import write_whole
from ..._leaves import is_variable
from ..._mistakes import explained
from ..._objects import Carried, carried
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
    with explained, carried(fun, args, {}, "graph") as carry:
        return _pictured(fun, carry, depth, limit, gradient, has_aux)


def _pictured(
    fun: Callable[..., Any],
    carry: Carried,
    depth: int | None,
    limit: int | None,
    gradient: Any,
    has_aux: bool,
) -> Picture:
    """The picture of a call without objects; `fun` gives its arguments their names."""
    call = every_argument(carry.result, carry.args, is_input=is_variable, function="graph")
    flat = _flat(call, has_aux)
    closed, shown = jax.make_jaxpr(lambda *leaves: flat(*leaves)[1], return_shape=True)(
        *call.arrays
    )
    used = _jax.prune(_jax.without_consts(closed), [True] * len(shown.arrays))
    told = known(flat, call.arrays, _taps.find(used), gradient)
    model = build(_jax.inside_jit(used), closed.consts, _inputs(call, fun), _outputs(shown))
    model = model._replace(facts=told.facts, notes=told.notes)
    if depth is not None:
        model = fold.collapse(fold.calls(model), fold.deeper(model, depth))
    model = model if limit is None else fold.fit(model, limit)
    # What folding needs of the code is no part of the picture, and cannot be pickled.
    return Picture(model._replace(nodes=tuple(n._replace(origin=None) for n in model.nodes)))


def _flat(call: Call, has_aux: bool) -> Callable[..., tuple[Any, Returned]]:
    """The call as a function of its arrays: to the output to differentiate, and all outputs."""

    def flat(*leaves: Any) -> tuple[Any, Returned]:
        result = call.run(leaves)
        if not has_aux:
            result = (result,)
        elif not isinstance(result, tuple) or len(result) != 2:
            raise UsageError(
                f"`graph` got a function that returns {describe(result)}, and wants (out, aux)"
                " where has_aux=True"
            )
        check_arrays(result[0], "graph", "; return anything else beside them with has_aux=True")
        return result[0], returned(result)

    return flat


def _inputs(call: Call, fun: Callable[..., Any]) -> list[str]:
    """What each input is called, after the parameters of the function."""
    args, _ = call.whole
    names, rest = parameter_names(fun)
    names += [f"{rest}[{i}]" for i in range(len(args) - len(names))]
    return call.names(lambda path: names[path[1].idx] + jax.tree_util.keystr(path[2:]))


def _outputs(shown: Returned) -> list[str]:
    """What each output is called."""
    kinds = ("out", "aux")
    paths = shown.parts.paths(shown.whole)
    return [kinds[path[0].idx] + jax.tree_util.keystr(path[1:]) for path in paths]


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
