"""Rewrites a function so that its control flow calls operators; the rest stays what it was.

The analyses and converters are those of diastatic-malt, TensorFlow's AutoGraph on its own. They
turn `break`, `continue` and `return` into flags, and each `if`, `while` and `for` into a call like
`ag__.if_stmt(test, body, orelse, get_state, set_state, names, ...)`, where `ag__` is an object of
[`Operators`][funcgrad._autograph._operators.Operators]. What is done here besides: a pass before
them for syntax that they do not take, and compilation in place: the new code keeps the file and
the lines of the old, so that tracebacks, debuggers and JAX's own notes point at the user's source.
"""

import ast
import collections
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

from .._describe import shown
from ..errors import UsageError
from ._source import find

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
    node = _placed(copy.deepcopy(found.node))
    classes = {
        (x.lineno, x.name): copy.deepcopy(x) for x in ast.walk(node) if isinstance(x, ast.ClassDef)
    }
    node = _placed(_Prepared(fun, found.owner).visit(node))
    info = transformer.EntityInfo(name, "", fun.__code__.co_filename, (), {})
    options = converter.ProgramContext(converter.STANDARD_OPTIONS)
    node = _converted(node, transformer.Context(info, namer, options))
    for part in ast.walk(node):
        if isinstance(part, ast.ClassDef):
            _as_written(part, classes)
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


def _placed(node: Any) -> Any:
    """Notes on each node where it stands in the source."""
    for part in ast.walk(node):
        if isinstance(part, ast.stmt | ast.expr):
            end, column = part.end_lineno, part.end_col_offset
            if part.lineno != end:  # a call would get the place of its last line
                end, column = part.lineno, part.col_offset
            anno.setanno(part, anno.Basic.ORIGIN, (part.lineno, end, part.col_offset, column))
    return node


def _as_written(node: ast.ClassDef, classes: dict[Any, ast.ClassDef]) -> None:
    """A class is left as it is: its methods are converted where they are called."""
    line = anno.getanno(node, anno.Basic.ORIGIN)[0]
    original = classes[line, node.name]
    node.body, node.decorator_list = original.body, original.decorator_list
    node.bases, node.keywords = original.bases, original.keywords


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

    `told`: see [`Told`][funcgrad._autograph._operators.Told].
    `guard`: an `if` that skips what comes after `break`, `continue` or `return`.
    `calls`: the body has statements that are calls, and so may have effects that show.
    """

    def __init__(self, ctx: Any):
        super().__init__(ctx)
        self._in_closures: frozenset[str] = frozenset()
        self._own: set[str] = set()
        self._live_after_loop: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return self._function(node, super().visit_FunctionDef)

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        return self._function(node, super().visit_Lambda)

    def _function(self, node: Any, visit: Any) -> Any:
        outer = self._in_closures, self._own, self._live_after_loop
        self._in_closures = _in_closures(node)
        self._own, self._live_after_loop = _locals(node) - self._in_closures, set()
        node = visit(node)
        self._in_closures, self._own, self._live_after_loop = outer
        return node

    def _get_block_composite_vars(self, modified: Any, live_in: Any) -> frozenset[Any]:
        """None: items and attributes are found by looking at the objects."""
        return frozenset()

    def _get_block_basic_vars(self, modified: Any, live_in: Any, live_out: Any) -> frozenset[Any]:
        """Besides those used outside the block those that functions read, which see them change."""
        used = super()._get_block_basic_vars(modified, live_in, live_out)
        simple = (x for x in modified if not x.is_composite())
        return used | frozenset(x for x in simple if str(x) in self._in_closures)

    def visit_If(self, node: ast.If) -> Any:
        test = node.test
        guard = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        guard = guard and getattr(test.operand, "id", "") in self.ctx.namer.generated_names  # type: ignore[attr-defined]
        flag = test.operand.id if guard else ""  # type: ignore[attr-defined]
        loose = {*_names_in(node.body)} if flag.startswith(("break_", "do_return")) else set()
        if flag.startswith("break_"):
            loose -= self._live_after_loop
        one = _names_in(node.body).keys() ^ _names_in(node.orelse).keys()
        return self._told(node, super().visit_If, one, loose, guard=guard)

    def visit_While(self, node: ast.While) -> Any:
        return self._loop(node, super().visit_While)

    def visit_For(self, node: ast.For) -> Any:
        return self._loop(node, super().visit_For)

    def _loop(self, node: Any, visit: Any) -> list[Any]:
        calls, live = _has_call_statements(node), _live_after(node)
        outer, self._live_after_loop = self._live_after_loop, live
        loose = _names_in(node.body).keys() - live
        nodes = self._told(node, visit, _only_added_to(node), loose, calls=calls)
        self._live_after_loop = outer
        return nodes

    def _told(self, node: Any, visit: Any, unread: Any, loose: Any, **more: bool) -> list[Any]:
        used = {
            str(x)
            for key in (anno.Static.LIVE_VARS_IN, anno.Static.LIVE_VARS_OUT)
            for x in anno.getanno(node, key)
        }
        live = _live_after(node)
        augmented = {
            x.target.id
            for x in ast.walk(node)
            if isinstance(x, ast.AugAssign) and isinstance(x.target, ast.Name)
        }
        nodes: list[Any] = visit(node)
        call = nodes[-1].value
        variables: Any = [x for x in call.args if isinstance(x, ast.Tuple)][-1]
        names = [x.value for x in variables.elts]
        told = {
            "flags": [x for x in names if x in self.ctx.namer.generated_names],
            "captured": [x for x in names if x in self._in_closures and x not in used],
            "augmented": [x for x in names if x in augmented],
            "unread": sorted(({*unread} - live) & self._own),
            "loose": sorted({*loose} & self._own),
        }
        told = {key: value for key, value in told.items() if value}
        if told:
            arguments = ", ".join(f"{key}={tuple(value)}" for key, value in told.items())
            told_call = templates.replace_as_expression(f"ag__.told({arguments})")
            call.keywords.append(ast.keyword("told", told_call))
        call.keywords += [
            ast.keyword(name, ast.Constant(True)) for name, value in more.items() if value
        ]
        return nodes


def _live_after(node: ast.AST) -> set[str]:
    """The variables that are used after a statement."""
    return {str(x) for x in anno.getanno(node, anno.Static.LIVE_VARS_OUT)}


def _names_in(body: list[Any]) -> dict[str, int]:
    """How often each name stands in statements."""
    parts = (part for statement in body for part in ast.walk(statement))
    return dict(collections.Counter(x.id for x in parts if isinstance(x, ast.Name)))


def _only_added_to(loop: ast.While | ast.For) -> set[str]:
    """The names that a loop only says `name.append(...)` of, or the like."""
    added: collections.Counter[str] = collections.Counter()
    for part in (part for statement in loop.body for part in ast.walk(statement)):
        call = part.value if isinstance(part, ast.Expr) else None
        if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Attribute):
            to = call.args[0]
            if isinstance(to.value, ast.Name) and to.attr in ("append", "add", "extend", "update"):
                added[to.value.id] += 1
    test = [loop.test] if isinstance(loop, ast.While) else [loop.iter]
    names = _names_in([*loop.body, *test])
    return {name for name, count in added.items() if names[name] == count}


def _in_closures(function: ast.FunctionDef | ast.Lambda) -> frozenset[str]:
    """The names that functions and generators inside a function read from outside themselves."""
    body = function.body if isinstance(function.body, list) else [function.body]
    parts = (part for statement in body for part in ast.walk(statement))
    closures = (x for x in parts if isinstance(x, _CLOSURES) and not _is_scope(x))
    return frozenset[str]().union(*map(_free, closures))


def _locals(function: ast.FunctionDef | ast.Lambda) -> set[str]:
    """The variables that no one but a function itself has."""
    parts = list(ast.walk(function))
    stored = {x.id for x in parts if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    declared = (x.names for x in parts if isinstance(x, ast.Global | ast.Nonlocal))
    return stored.difference(*declared)


_CLOSURES = (ast.FunctionDef, ast.Lambda, ast.GeneratorExp, ast.ClassDef)


def _is_scope(node: ast.AST) -> bool:
    """Whether a lambda is malt's own, around the body of a user's."""
    names = getattr(getattr(node, "args", None), "args", ())
    return any(x.arg.startswith("lscope") for x in names)


def _free(closure: ast.AST) -> set[str]:
    names = [x for x in ast.walk(closure) if isinstance(x, ast.Name)]
    arguments = {x.arg for x in ast.walk(closure) if isinstance(x, ast.arg)}
    stored = {x.id for x in names if isinstance(x.ctx, ast.Store)}
    if any(isinstance(x, ast.Nonlocal) for x in ast.walk(closure)):
        stored = set()
    return {x.id for x in names} - arguments - stored


def _has_call_statements(loop: ast.While | ast.For) -> bool:
    parts = [part for statement in loop.body for part in ast.walk(statement)]
    values = [x.value for x in parts if isinstance(x, ast.Expr)]
    calls = [ast.unparse(x).split("(", 2) for x in values if isinstance(x, ast.Call)]
    return not all(_is_traced(*words) for words in calls)


def _is_traced(operator: str, fun: str = "", *_: str) -> bool:
    """Whether a call's effect, if it has one, is JAX's: thrown away with what it is recorded in."""
    called = fun.split(",")[0].split(".")
    return operator in ("ag__.raising", "ag__.print_") or called[-2:-1] == ["debug"]


class _Conditionals(conditional_expressions.ConditionalExpressionTransformer):  # type: ignore[misc]
    """Conditional expressions to calls, those inside others too."""

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return super().visit_IfExp(self.generic_visit(node))


class _Logic(logical_expressions.LogicalExpressionTransformer):  # type: ignore[misc]
    """`and`, `or`, `not` to calls; a chained comparison to one that evaluates each operand once."""

    def visit_Compare(self, node: ast.Compare) -> Any:
        node = self.generic_visit(node)
        if len(node.ops) == 1:
            return _identity(node)
        links = []
        for op, right in zip(node.ops, node.comparators, strict=True):
            test: Any = templates.replace_as_expression("(lambda a, b: a < b, lambda: c)", c=right)
            test.elts[0].body.ops = [op]
            links.append(test)
        call: Any = templates.replace_as_expression("ag__.chain(first)", first=node.left)
        call.args += links
        return call


def _identity(node: ast.Compare) -> Any:
    """`a is b` as a call, where neither is `None` or the like."""
    operands = [node.left, *node.comparators]
    named = isinstance(node.ops[0], ast.Is | ast.IsNot)
    if not named or any(isinstance(x, ast.Constant) for x in operands):
        return node
    call = templates.replace_as_expression("ag__.is_(a, b)", a=node.left, b=node.comparators[0])
    return call if isinstance(node.ops[0], ast.Is) else ast.UnaryOp(ast.Not(), call)


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

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """For the analyses a class is the names that it reads; see `_as_written`."""
        names: list[ast.expr] = [ast.Name(x, ast.Load()) for x in sorted(_free(node))]
        bases: list[ast.expr] = [ast.Tuple(names, ast.Load())]
        return _at(node, ast.ClassDef(node.name, bases, [], [ast.Pass()], []))

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        node.ifs = [_at(x, _call("filtered", _truth(x))) for x in node.ifs]
        return self.generic_visit(node)

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
