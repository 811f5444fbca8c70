"""Rewrites a function so that its control flow calls operators; the rest stays what it was.

The analyses and converters are those of diastatic-malt, TensorFlow's AutoGraph on its own. They
turn `break`, `continue` and `return` into flags, and each `if`, `while` and `for` into a call like
`ag__.if_stmt(test, body, orelse, get_state, set_state, names, ...)`, where `ag__` is an object of
[`Operators`][funcgrad._autograph._operators.Operators]. What is done here besides: a pass before
them for syntax that they do not take, and compilation in place: the new code keeps the file and
the lines of the old, so that tracebacks, debuggers and JAX's own notes point at the user's source.
"""

import ast
import copy
import types
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

from malt.converters import (
    break_statements,
    call_trees,
    conditional_expressions,
    continue_statements,
    control_flow,
    functions,
    logical_expressions,
    return_statements,
    variables,
)
from malt.core import converter
from malt.impl.api import PyToPy
from malt.pyct import anno, cfg, naming, qual_names, templates, transformer
from malt.pyct.static_analysis import activity, liveness, reaching_definitions, reaching_fndefs

from ..errors import UsageError
from ._source import find, shown

# By code and file: code objects of two files may be equal.
_CODES: "weakref.WeakKeyDictionary[types.CodeType, dict[str, types.CodeType]]"
_CODES = weakref.WeakKeyDictionary()


def convert(fun: types.FunctionType, operators: Any) -> types.FunctionType:
    """`fun` with its control flow done by `operators`, in the same globals and closure.

    Raises:
        UsageError: its source cannot be found, or holds what cannot be converted.
    """
    known, file = _CODES.setdefault(fun.__code__, {}), fun.__code__.co_filename
    if file not in known:
        try:
            known[file] = _factory(fun)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"`autograph` got {shown(fun)}, which diastatic-malt cannot convert:"
                f" {type(error).__name__}: {error}"
            ) from error
    make = known[file]
    cells = dict(zip(fun.__code__.co_freevars, fun.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in make.co_freevars)
    new = types.FunctionType(make, fun.__globals__, closure=closure)(operators)
    old = fun.__code__
    new.__code__ = new.__code__.replace(co_name=old.co_name, co_qualname=old.co_qualname)
    new.__defaults__, new.__kwdefaults__ = fun.__defaults__, fun.__kwdefaults__
    new.__name__, new.__qualname__ = fun.__name__, fun.__qualname__
    new.__module__, new.__doc__ = fun.__module__, fun.__doc__
    return new


def _factory(fun: types.FunctionType) -> types.CodeType:
    """The code of a function from operators to the new function, with the old free variables."""
    found = find(fun)
    namer = naming.Namer({*fun.__globals__, *fun.__code__.co_freevars, *fun.__code__.co_varnames})
    name = namer.new_symbol("converted", ())
    node = _Prepared(fun, found.owner).visit(copy.deepcopy(found.node))
    for part in ast.walk(node):
        if isinstance(part, ast.stmt | ast.expr):
            end, column = part.end_lineno, part.end_col_offset
            if part.lineno != end:  # a call would get the place of its last line
                end, column = part.lineno, part.col_offset
            anno.setanno(part, anno.Basic.ORIGIN, (part.lineno, end, part.col_offset, column))
    info = transformer.EntityInfo(name, "", fun.__code__.co_filename, (), {})
    options = converter.ProgramContext(converter.STANDARD_OPTIONS)
    node = _converted(node, transformer.Context(info, namer, options))
    if isinstance(node, ast.Lambda):
        node = ast.Assign([ast.Name(name, ast.Store())], node)
    else:
        node.name = name
    tree = ast.parse(f"def outer():\n def inner(ag__):\n  return {name}\n return inner")
    outer: Any = tree.body[0]
    outer.body[0].body.insert(0, node)
    free = [ast.Name(x, ast.Store()) for x in fun.__code__.co_freevars]
    outer.body[:0] = [ast.Assign([x], ast.Constant(None)) for x in free]
    _located(tree, (found.node.lineno,) * 2 + (0, 0))
    names: dict[str, Any] = {}
    exec(compile(tree, fun.__code__.co_filename, "exec", dont_inherit=True), names)
    return names["outer"]().__code__


def _located(node: ast.AST, place: Any) -> None:
    """Gives each node the place of the source it came from, or that of the node around it."""
    place = anno.getanno(node, anno.Basic.ORIGIN, default=place)
    if "lineno" in node._attributes:
        node.lineno, node.end_lineno, node.col_offset, node.end_col_offset = place  # type: ignore[attr-defined]
    for child in ast.iter_child_nodes(node):
        _located(child, place)


def _converted(node: Any, ctx: Any) -> Any:
    node = PyToPy().initial_analysis(node, ctx)
    for step in (functions, break_statements, continue_statements, return_statements, call_trees):
        node = step.transform(node, ctx)
    graphs = cfg.build(node)
    node = activity.resolve(qual_names.resolve(node), ctx, None)
    for analysis in (reaching_definitions, reaching_fndefs, liveness):
        node = analysis.resolve(node, ctx, graphs)
    node = _ControlFlow(ctx).visit(node)
    node = _Conditionals(ctx).visit(node)
    node = _Logic(ctx).visit(node)
    return variables.transform(node, ctx)


class _ControlFlow(control_flow.ControlFlowTransformer):  # type: ignore[misc]
    """Statements to calls of operators, told more than malt tells them.

    `flags`: which of the variables stand for `break`, `continue`, `return` and what is returned.
    `guard`: an `if` that skips what comes after one of those.
    `calls`: the body has statements that are calls, and so may have effects that show.
    `takes`: what in the body takes a further item from an object that outlives a step.
    `sets`: gives objects from outside of which an item is set that is not among the variables.
    """

    def visit_If(self, node: ast.If) -> Any:
        test = node.test
        guard = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        guard = guard and getattr(test.operand, "id", "") in self.ctx.namer.generated_names  # type: ignore[attr-defined]
        stores = _item_stores([*node.body, *node.orelse])
        return self._told(super().visit_If(node), stores, guard=guard)

    def visit_While(self, node: ast.While) -> Any:
        calls, takes = _has_call_statements(node), _takes(node)
        stores = _item_stores(node.body)
        return self._told(super().visit_While(node), stores, calls=calls, takes=takes)

    def visit_For(self, node: ast.For) -> Any:
        calls, takes = _has_call_statements(node), _takes(node)
        stores = _item_stores(node.body)
        return self._told(super().visit_For(node), stores, calls=calls, takes=takes)

    def _told(self, nodes: list[Any], stores: dict[str, str], **more: bool | str) -> list[Any]:
        call = nodes[-1].value
        names: Any = next(x for x in call.args if isinstance(x, ast.Tuple))
        flags = [x for x in names.elts if x.value in self.ctx.namer.generated_names]
        call.keywords = [ast.keyword("flags", ast.Tuple(flags, ast.Load()))]
        call.keywords += [ast.keyword(name, ast.Constant(value)) for name, value in more.items()]
        known = {x.value for x in names.elts}
        objects = sorted({name for item, name in stores.items() if item not in known})
        if objects:
            pairs = ", ".join(f"({name!r}, {name})" for name in objects)
            sets = templates.replace_as_expression(f"lambda: [{pairs}]")
            call.keywords.append(ast.keyword("sets", sets))
        return nodes


def _item_stores(body: list[Any]) -> dict[str, str]:
    """Items that a body sets, as `r[i]`, and the variables they are of, if not its own."""
    parts = [part for statement in body for part in ast.walk(statement)]
    stored = [x for x in parts if isinstance(getattr(x, "ctx", None), ast.Store)]
    own = {x.id for x in stored if isinstance(x, ast.Name)}
    items = [x for x in stored if isinstance(x, ast.Subscript) and isinstance(x.value, ast.Name)]
    return {ast.unparse(x): x.value.id for x in items if x.value.id not in own}  # type: ignore[attr-defined]


def _has_call_statements(loop: ast.While | ast.For) -> bool:
    parts = [part for statement in loop.body for part in ast.walk(statement)]
    values = [x.value for x in parts if isinstance(x, ast.Expr)]
    calls = [ast.unparse(x).split("(", 2) for x in values if isinstance(x, ast.Call)]
    return not all(_is_traced(*words) for words in calls)


def _is_traced(operator: str, fun: str = "", *_: str) -> bool:
    """Whether a call's effect, if it has one, is JAX's: thrown away with what it is recorded in."""
    called = fun.split(",")[0].split(".")
    return operator in ("ag__.raising", "ag__.print_") or called[-2:-1] == ["debug"]


def _takes(loop: ast.While | ast.For) -> str:
    """The first `next(it)` or `stack.pop()` in a body that gives `it` or `stack` no value."""
    parts = [part for statement in loop.body for part in ast.walk(statement)]
    names = [x for x in parts if isinstance(x, ast.Name)]
    own = {x.id for x in names if isinstance(x.ctx, ast.Store)}
    for part in parts:
        if isinstance(part, ast.Call) and ast.unparse(part.func) == "ag__.converted_call":
            fun, given = ast.unparse(part.args[0]), ast.unparse(part.args[1])
            name, _, method = fun.rpartition(".")
            taken = given[1:].partition(",")[0] if fun == "next" else name
            if (fun == "next" or method in _TAKING) and taken.isidentifier() and taken not in own:
                return f"next({taken})" if fun == "next" else f"{fun}()"
    return ""


_TAKING = ("pop", "popleft", "popitem", "__next__")


class _Conditionals(conditional_expressions.ConditionalExpressionTransformer):  # type: ignore[misc]
    """Conditional expressions to calls, those inside others too."""

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return super().visit_IfExp(self.generic_visit(node))


class _Logic(logical_expressions.LogicalExpressionTransformer):  # type: ignore[misc]
    """`and`, `or`, `not` to calls; a chained comparison to one that evaluates each operand once."""

    def visit_Compare(self, node: ast.Compare) -> Any:
        node = self.generic_visit(node)
        if len(node.ops) == 1:
            return node
        links = []
        for op, right in zip(node.ops, node.comparators, strict=True):
            test: Any = templates.replace_as_expression("(lambda a, b: a < b, lambda: c)", c=right)
            test.elts[0].body.ops = [op]
            links.append(test)
        call: Any = templates.replace_as_expression("ag__.chain(first)", first=node.left)
        call.args += links
        return call


_REFUSED = {
    ast.AsyncFor: "`async for`",
    ast.AsyncFunctionDef: "an `async` function",
    ast.AsyncWith: "`async with`",
    ast.Await: "`await`",
    ast.Match: "`match` (write it as `if` and `elif`)",
    ast.TryStar: "`except*`",
    ast.Yield: "`yield`",
    ast.YieldFrom: "`yield from`",
}
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LAZY = (ast.BoolOp, ast.IfExp, ast.Lambda, *_COMPREHENSIONS)
_SCOPES = (ast.FunctionDef, ast.Lambda, ast.ClassDef)


class _Prepared(ast.NodeTransformer):
    """Syntax that malt's converters do not take, in terms of what they do."""

    def __init__(self, fun: types.FunctionType, owner: str):
        self.fun, self.owner, self.count, self.depth = fun, owner.lstrip("_"), 0, 0

    def refuse(self, node: ast.AST, what: str) -> NoReturn:
        place = f"{self.fun.__code__.co_filename}:{node.lineno}"  # type: ignore[attr-defined]
        raise UsageError(
            f"`autograph` got {shown(self.fun)}, and at {place} {what}, which it does not take"
        )

    def visit(self, node: ast.AST) -> Any:
        if type(node) in _REFUSED:
            self.refuse(node, _REFUSED[type(node)])
        lazy = isinstance(node, _LAZY) or (isinstance(node, ast.Compare) and len(node.ops) > 1)
        if lazy and any(isinstance(x, ast.NamedExpr) for x in ast.walk(node)):
            self.refuse(node, "`:=` in an operand that may not be evaluated")
        return super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """No annotations; `return None` where a function that returns values can reach its end."""
        self.depth += 1
        if self.depth == 1:
            node.decorator_list = []
        _blank(node.args, self.depth == 1)
        node.returns = None
        node = self.generic_visit(node)  # type: ignore[assignment]
        returns = [x for x in _own(node.body) if isinstance(x, ast.Return) and x.value]
        if returns and _reaches_end(node.body):
            node.body.append(_at(node, ast.Return(ast.Constant(None))))
        self.depth -= 1
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self.depth += 1
        _blank(node.args, self.depth == 1)
        node = self.generic_visit(node)  # type: ignore[assignment]
        self.depth -= 1
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return _at(node, ast.Pass())
        return self.generic_visit(_at(node, ast.Assign([node.target], node.value)))

    def visit_If(self, node: ast.If) -> ast.AST:
        node.test = _truth(node.test)
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        node.test = _truth(node.test)
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not):
            node.operand = _truth(node.operand)
        return self.generic_visit(node)

    def visit_While(self, node: ast.While) -> Any:
        """A test that assigns is evaluated as a statement of the body."""
        if any(isinstance(x, ast.NamedExpr) for x in ast.walk(node.test)):
            if node.orelse:
                self.refuse(node, "`:=` in the test of a `while` with an `else`")
            done = ast.If(ast.UnaryOp(ast.Not(), node.test), [ast.Break()], [])
            node.body.insert(0, _at(node.test, done))
            node.test = _at(node.test, ast.Constant(True))
        node.test = _truth(node.test)
        return self._with_else(self.generic_visit(node))

    def visit_For(self, node: ast.For) -> Any:
        return self._with_else(self.generic_visit(node))

    def _with_else(self, node: Any) -> Any:
        """`else` of a loop as an `if` after it, on whether the loop was left by `break`."""
        if not node.orelse:
            return node
        self.count += 1
        name = f"else_of_loop_{self.count}"
        setting, clearing = (
            ast.Assign([ast.Name(name, ast.Store())], ast.Constant(x)) for x in (True, False)
        )
        after = ast.If(ast.Name(name, ast.Load()), node.orelse, [])
        for block, leaving in list(_breaks(node.body)):
            block.insert(block.index(leaving), _at(leaving, copy.deepcopy(clearing)))
        node.orelse = []
        return [_at(node, setting), node, _at(after.body[0], after)]

    def visit_Raise(self, node: ast.Raise) -> Any:
        return [_at(node, ast.Expr(_call("raising"))), self.generic_visit(node)]

    def visit_Assert(self, node: ast.Assert) -> Any:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.test = _at(node.test, _call("asserted", node.test))
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> Any:
        if node.name:
            name = ast.Name(node.name, ast.Store())
            node.body.insert(0, _at(node, ast.Assign([name], _call("caught"))))
            node.name = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        name = getattr(node.func, "id", "")
        if name == "super" and not node.args:
            first = self.fun.__code__.co_varnames[0]
            node.args = [_at(node, ast.Name(x, ast.Load())) for x in ("__class__", first)]
        elif name == "print" and name not in self.fun.__globals__:
            node.func = _at(node, _call("print_").func)
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        node.attr = self._mangled(node.attr)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> Any:
        node.id = self._mangled(node.id)
        return node

    def _mangled(self, name: str) -> str:
        private = self.owner and name.startswith("__") and not name.endswith("__")
        return f"_{self.owner}{name}" if private else name


def _blank(args: ast.arguments, outermost: bool) -> None:
    """Parameters without annotations and, as they are set afterwards, without default values."""
    stars = [x for x in (args.vararg, args.kwarg) if x]
    for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, *stars]:
        arg.annotation = None
    if outermost:
        args.defaults = [_at(x, ast.Constant(None)) for x in args.defaults]
        args.kw_defaults = [x and _at(x, ast.Constant(None)) for x in args.kw_defaults]


def _at(place: ast.AST, node: Any) -> Any:
    """A new node, and those in it that have no place, in the place of another."""
    return ast.fix_missing_locations(ast.copy_location(node, place))


def _call(operator: str, *args: Any) -> ast.Call:
    """A call of an operator."""
    ag = ast.Name("ag__", ast.Load())
    return ast.Call(ast.Attribute(ag, operator, ast.Load()), list(args), [])


def _truth(test: ast.expr) -> ast.expr:
    """A test of whose operands only the truth matters: `n and x > 0` gives a bool, not `n`."""
    if isinstance(test, ast.BoolOp):
        test.values = [_truth(x) for x in test.values]
        return test
    plain = isinstance(test, ast.Constant | ast.Compare)
    return test if plain else _at(test, _call("truthy", test))


def _own(body: list[Any]) -> list[ast.AST]:
    """The nodes of a body, without those of functions and classes in it."""
    nodes, rest = [], list(body)
    while rest:
        node = rest.pop()
        nodes.append(node)
        if not isinstance(node, _SCOPES):
            rest += ast.iter_child_nodes(node)
    return nodes


def _reaches_end(body: list[Any]) -> bool:
    """Whether what follows a block may be reached through it."""
    return not any(_leaves(statement) for statement in body)


def _leaves(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return not (_reaches_end(node.body) or _reaches_end(node.orelse))
    if isinstance(node, ast.With):
        return not _reaches_end(node.body)
    if isinstance(node, ast.While):
        endless = isinstance(node.test, ast.Constant) and bool(node.test.value)
        return endless and not any(_breaks(node.body))
    if isinstance(node, ast.Try):
        handled = any(_reaches_end(x.body) for x in node.handlers)
        return not _reaches_end(node.finalbody) or not (
            _reaches_end([*node.body, *node.orelse]) or handled
        )
    return isinstance(node, ast.Return | ast.Raise)


def _breaks(body: list[Any]) -> Iterator[tuple[list[Any], ast.Break]]:
    """Each `break` out of the loop that has this body, and the block it stands in."""
    for node in body:
        if isinstance(node, ast.Break):
            yield body, node
        inner = isinstance(node, ast.For | ast.While)
        for field in ("orelse",) if inner else ("body", "orelse", "finalbody", "handlers"):
            if hasattr(node, field) and not isinstance(node, _SCOPES):
                yield from _breaks(getattr(node, field))
