"""Evaluates a program one equation after the other, and stops where the first bad value is made.

Equations that call a body (`jit`, `checkpoint`, custom rules, the branch of a `cond` that is taken)
are looked into; what has no rule counts as one operation. A loop is first run as a whole, compiled,
with a flag; only if the flag is up is it taken step by step, and only a step whose own flag is up
equation by equation: a loop without anomalies costs one compilation and one run.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from ... import _jax
from ... import _source as source
from ... import _taps as interpret
from ..._tags import tag_p
from . import flags
from .values import PLANNED, State, Value, merged, states


class Level(NamedTuple):
    """An equation, and which run of its body it is.

    Fields:
        jaxpr: the program it stands in.
        eqn: the equation.
        step: which iteration, where it is a loop.
        device: the mesh coordinates of the device, where it is a `shard_map`.
        body: the program that runs inside it, where there is one.
    """

    jaxpr: compat.Jaxpr
    eqn: compat.JaxprEqn
    step: int | None = None
    device: tuple[tuple[str, int], ...] = ()
    body: Any = None


class Event(NamedTuple):
    """The making of a bad value.

    Fields:
        kind: `"nan"` or `"inf"`.
        path: the equations around it, the outermost first, and the one that made it.
        operands: what went into that one.
        results: what came out.
        planned: whether NaN came in as a constant.
    """

    kind: str
    path: tuple[Level, ...]
    operands: list[Value]
    results: list[Any]
    planned: bool


class Found(Exception):
    """Raised where the search ends."""

    def __init__(self, event: Event):
        super().__init__(event.kind)
        self.event = event


class Walk:
    """One evaluation of a program.

    Attributes:
        check_inf: whether infinite values are bad too.
        stop: the number of the event to end with; `None` goes on to the end of the program.
        count: how many events there have been.
    """

    def __init__(self, check_inf: bool, stop: int | None, count: int = 0):
        self.check_inf, self.stop, self.count = check_inf, stop, count
        self._tags = 0
        self._flagged: dict[Any, Callable[..., Any]] = {}

    def run(
        self, closed: _jax.Jaxpr, operands: Sequence[Value], path: tuple[Level, ...] = ()
    ) -> list[Value]:
        """The results of a program; raises `Found` at the event to stop at."""
        jaxpr = compat.open_up(closed)
        env: dict[Any, Value] = {
            v: self._constant(x) for v, x in zip(jaxpr.constvars, closed.consts, strict=True)
        }
        env.update(zip(jaxpr.invars, operands, strict=True))

        def read(atom: Any) -> Value:
            return self._constant(atom.val) if isinstance(atom, _jax.Literal) else env[atom]

        for eqn, spent in zip(jaxpr.eqns, _spent(jaxpr), strict=True):
            level = Level(jaxpr, eqn)
            results = self.equation(level, [read(v) for v in eqn.invars], path)
            env.update(zip(eqn.outvars, results, strict=True))
            for variable in spent:
                env.pop(variable, None)
        return [read(v) for v in jaxpr.outvars]

    def _constant(self, x: Any) -> Value:
        return Value(x, cause=PLANNED if self._is_bad(states([x])[0]) else None)

    def _is_bad(self, state: State) -> bool:
        return state.nan or (self.check_inf and state.inf)

    def equation(self, level: Level, operands: list[Value], path: tuple[Level, ...]) -> list[Value]:
        """The results of an equation, by the rule for its kind.

        A function of JAX is looked into only if what it returns is bad: NaN that it makes and masks
        itself, as `xlogy` does at 0, is no concern of the user's.
        """
        rule = _RULES.get(compat.kind(level.eqn), Walk.leaf)
        if source.of_library(level.eqn) and all(o.cause is None for o in operands):
            arrays = evaluate(level, operands)
            found = states(arrays)
            if not any(map(self._is_bad, found)):
                values = [Value(array, merged(operands)) for array in arrays]
                if not any(state.inf for state in found):
                    return values
                # Another walk, which stops nowhere, to know where infinities were made.
                inside = rule(Walk(self.check_inf, None), level, operands, path)
                pairs = zip(values, inside, strict=True)
                return [v._replace(infinite=i.infinite) for v, i in pairs]
        return rule(self, level, operands, path)

    def leaf(self, level: Level, operands: list[Value], path: tuple[Level, ...]) -> list[Value]:
        """One operation: its results, with what is wrong with them and why."""
        arrays = evaluate(level, operands)
        names = self._names(level, operands, path)
        found = states(arrays)
        if not any(state.nan or state.inf for state in found):
            return [Value(array, names) for array in arrays]
        made = next((o.infinite for o in operands if o.infinite is not None), None)
        if made is None and not any(s.inf for s in states([o.array for o in operands])):
            made = Event("inf", (*path, level), operands, arrays, False)
        if not any(map(self._is_bad, found)):
            return [
                Value(array, names, infinite=made if state.inf else None)
                for array, state in zip(arrays, found, strict=True)
            ]
        cause = self._cause(level, operands, arrays, found, path)
        return [
            Value(array, names, cause if self._is_bad(state) else None, made if state.inf else None)
            for array, state in zip(arrays, found, strict=True)
        ]

    def _names(
        self, level: Level, operands: list[Value], path: tuple[Level, ...]
    ) -> tuple[tuple[int, str], ...]:
        if level.eqn.primitive is not tag_p:
            return merged(operands)
        self._tags += 1
        scopes = [name for around in (*path, level) for name in compat.scopes(around.eqn)]
        return ((self._tags, "/".join([*scopes, level.eqn.params["name"]])),)

    def _cause(
        self,
        level: Level,
        operands: list[Value],
        arrays: list[Any],
        found: list[State],
        path: tuple[Level, ...],
    ) -> int:
        """The event behind bad results: one of the operands', or a new one."""
        before = [o for o in operands if o.cause is not None]
        worse = any(s.nan for s in found) and not any(
            s.nan for s in states([o.array for o in before])
        )
        if before and not worse:
            causes = sorted({o.cause for o in before if o.cause is not None})
            if causes[-1] != PLANNED:
                return _to_blame(level, operands, arrays, [c for c in causes if c != PLANNED])
            if not any(s.nan for s in found) or compat.kind(level.eqn) in flags.MOVES:
                return PLANNED
        kind = "nan" if any(s.nan for s in found) else "inf"
        planned = bool(before) and not worse
        return self.counted(Event(kind, (*path, level), operands, arrays, planned))

    def counted(self, event: Event) -> int:
        """The number of a new event; raises `Found` where it is the one to stop at."""
        self.count += 1
        if self.count == self.stop:
            raise Found(event)
        return self.count

    def call(self, body: _jax.Jaxpr, operands: list[Value], path: tuple[Level, ...]) -> list[Value]:
        """A step of a loop: compiled, and equation by equation only where its flag is up."""
        if all(o.cause is None for o in operands):
            run = self._compiled(compat.open_up(body), functools.partial(flags.run, body))
            arrays, bad = run(*(o.array for o in operands))
            if not bad:
                return self._untouched(arrays, operands, body)
        return self.run(body, operands, path)

    def whole(self, level: Level, operands: list[Value]) -> list[Value] | None:
        """A loop at one go, compiled; `None` where a value in it may be bad."""
        if any(o.cause is not None for o in operands):
            return None
        closed, arguments = _alone(level, operands)
        run = self._compiled(level.eqn, functools.partial(flags.run, closed))
        arrays, bad = run(*arguments)
        return (
            None if bad else self._untouched(arrays, operands, *compat.subjaxprs(level.eqn.params))
        )

    def _compiled(self, key: Any, run: Callable[..., Any]) -> Callable[..., Any]:
        if key not in self._flagged:
            fun = functools.partial(run, check_inf=self.check_inf)
            self._flagged[key] = jax.jit(
                lambda *args: fun(args), compiler_options={"xla_allow_excess_precision": False}
            )
        return self._flagged[key]

    def _untouched(self, arrays: list[Any], operands: list[Value], *bodies: Any) -> list[Value]:
        """Results among which nothing is bad; tags inside are nearer than those before."""
        tags = {name for body in bodies for name in interpret.find(body)}
        self._tags += 1
        names = tuple((self._tags, name) for name in sorted(tags)) or merged(operands)
        return [Value(array, names) for array in arrays]


def evaluate(level: Level, operands: Sequence[Value]) -> list[Any]:
    """The results of one equation, as JAX computes them."""
    closed, arguments = _alone(level, operands)
    return list(_jax.as_function(closed)(*arguments))


def _alone(level: Level, operands: Sequence[Value]) -> tuple[_jax.Jaxpr, list[Any]]:
    """One equation as a program, and what to call it with."""
    closed, inputs = compat.alone(level.jaxpr, level.eqn)
    pairs = zip(level.eqn.invars, operands, strict=True)
    known = {v: o.array for v, o in pairs if not _jax.is_literal(v)}
    return closed, [known[v] for v in inputs]


def _to_blame(level: Level, operands: list[Value], arrays: list[Any], causes: list[int]) -> int:
    """Which of several earlier events the results are bad because of.

    An operand whose bad entries can be made 1 without a result getting better has been masked.
    """
    if len(causes) == 1:
        return causes[0]
    before = states(arrays)
    for cause in causes:
        mended = [
            o._replace(array=jax.numpy.where(jax.numpy.isfinite(o.array), o.array, 1)) if (
                o.cause == cause) else o for o in operands
        ]  # fmt: skip
        if states(evaluate(level, mended)) != before:
            return cause
    return causes[0]


def _spent(jaxpr: compat.Jaxpr) -> list[list[Any]]:
    """For each equation the variables that nothing after it reads."""
    last: dict[Any, int] = {}
    for index, eqn in enumerate(jaxpr.eqns):
        last.update((v, index) for v in (*eqn.invars, *eqn.outvars) if not _jax.is_literal(v))
    kept = {v for v in jaxpr.outvars if not _jax.is_literal(v)}
    spent: list[list[Any]] = [[] for _ in jaxpr.eqns]
    for variable, index in last.items():
        if variable not in kept:
            spent[index].append(variable)
    return spent


Rule = Callable[[Walk, Level, list[Value], tuple[Level, ...]], list[Value]]
_RULES: dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Makes the decorated function the rule for these kinds of equations."""

    def add(evaluate: Rule) -> Rule:
        _RULES.update(dict.fromkeys(kinds, evaluate))
        return evaluate

    return add
