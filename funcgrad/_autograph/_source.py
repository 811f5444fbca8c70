"""Finds the syntax tree of a function: the node of its file, in place, by its code object.

`inspect.getsource` gives text by line; two lambdas on one line, or a function behind
`functools.wraps`, need more than that. A code object knows the columns of what it was compiled
from, so the whole file is parsed and the node found whose place agrees.
"""

import ast
import functools
import linecache
import types
from typing import NamedTuple, TypeAlias

from .._describe import shown
from ..errors import UsageError

Function: TypeAlias = ast.FunctionDef | ast.Lambda


class Found(NamedTuple):
    """A function's node and what its meaning depends on.

    Fields:
        node: the definition, its lines those of the file; shared, copy it before changing it.
        owner: the name of the class whose body it stands in, the empty string if none.
    """

    node: Function
    owner: str


def find(fun: types.FunctionType) -> Found:
    """The definition that `fun` was compiled from.

    Raises:
        UsageError: there is no source, it has changed since, or it is no plain function.
    """
    code = fun.__code__
    lines = linecache.getlines(code.co_filename, fun.__globals__)
    if not lines:
        raise UsageError(
            f"`autograph` got {shown(fun)}, whose source cannot be found; define it in a file or a"
            " notebook cell, and not with exec, eval or at the Python prompt"
        )
    try:
        definitions = _definitions("".join(lines))
    except SyntaxError:
        definitions = ()
    found = [x for x in definitions if _first_line(x.node) == code.co_firstlineno]
    found = [x for x in found if getattr(x.node, "name", "<lambda>") == code.co_name]
    if len(found) > 1:
        found = _innermost([x for x in found if _encloses(x.node, code)])
    if len(found) != 1 or _parameters(found[0].node) != code.co_varnames[: _count(code)]:
        raise UsageError(
            f"`autograph` got {shown(fun)}, and finds no definition of it there; if the source was"
            " edited since it was imported, import it again"
        )
    return found[0]


@functools.lru_cache(maxsize=32)
def _definitions(text: str) -> tuple[Found, ...]:
    found = []

    def visit(node: ast.AST, owner: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                found.append(Found(child, owner))  # type: ignore[arg-type]
            visit(child, child.name if isinstance(child, ast.ClassDef) else owner)

    visit(ast.parse(text), "")
    return tuple(found)


def _first_line(node: Function) -> int:
    return min([node.lineno, *(x.lineno for x in getattr(node, "decorator_list", []))])


def _encloses(node: Function, code: types.CodeType) -> bool:
    """Whether all the code was compiled from inside a node; what has no columns counts for all."""
    places = [x for x in code.co_positions() if None not in x and x[2:] != (0, 0)]
    start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return all(start <= (a, c) and (b, d) <= end for a, b, c, d in places)


def _innermost(found: list[Found]) -> list[Found]:
    """Those that hold none of the others."""
    nodes = [x.node for x in found]
    return [x for x in found if not any(y in nodes for y in ast.walk(x.node) if y is not x.node)]


def _parameters(node: Function) -> tuple[str, ...]:
    a = node.args
    stars = [x for x in (a.vararg, a.kwarg) if x]
    return tuple(x.arg for x in [*a.posonlyargs, *a.args, *a.kwonlyargs, *stars])


def _count(code: types.CodeType) -> int:
    stars = bool(code.co_flags & 4) + bool(code.co_flags & 8)
    return code.co_argcount + code.co_kwonlyargcount + stars
