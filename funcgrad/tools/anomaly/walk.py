"""Evaluates a program one equation after the other, and stops where the first bad value is made.

What the evaluation does with an equation depends on the role of its bodies. A call is looked into,
and so is the branch of a `cond` that is taken. What holds no program that is known counts as one
operation. A loop is first run as a whole, compiled, with a flag; only if the flag is up is it taken
step by step, and only a step whose own flag is up equation by equation: a loop without anomalies
costs one compilation and one run. A `shard_map` is run as a whole too, and `devices` looks inside.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from ... import _jax
from ..._tags import TAG
from ..._taps import find
from . import devices, flags, loops
from .events import Event, Found, Level, Out, Path
from .rooms import Room, of_library, out_of, room
from .values import CONSTANT, State, Value, merged, states


class Walk:
    """One evaluation of a program.

    Attributes:
        check_inf: whether infinite values are bad too.
        stop: the number of the event to end with; `None` goes on to the end of the program.
        first: whether to end with the first event that is the user's concern, in no room or out of
            its own.
        count: how many events there have been.
        steps: loops and steps of loops, compiled, by their equation; filled on the way.
    """

    def __init__(
        self,
        check_inf: bool,
        stop: int | None = None,
        count: int = 0,
        *,
        first: bool = False,
        steps: dict[Any, Any],
    ):
        self.check_inf, self.stop, self.count, self.first = check_inf, stop, count, first
        self.steps, self._tags = steps, 0
        self._rooms: dict[int | None, Room] = {}

    def run(self, program: _jax.Jaxpr, operands: Sequence[Value], path: Path = ()) -> list[Value]:
        """The results of a program; raises `Found` at the event to stop at."""
        try:
            return _jax.interpret(
                program,
                operands,
                lambda equation, given: self.equation(Level(equation), given, path),
                lambda x: Value(x, cause=CONSTANT if self._is_bad(states([x])[0]) else None),
            )
        except Found as found:
            found.around.append((program, [operand.array for operand in operands]))
            raise

    def _is_bad(self, state: State) -> bool:
        return state.nan or (self.check_inf and state.inf)

    def equation(self, level: Level, operands: list[Value], path: Path) -> list[Value]:
        """The results of an equation.

        A function of JAX is looked into only if what it returns is bad: NaN that it makes and masks
        itself, as `xlogy` does at 0, is no concern of the user's.
        """
        heeds = self._heeds(level, operands, path)
        values = self._equation(level, operands, path)
        if heeds:
            out = [v.cause for v in values if v.cause in self._rooms]
            if out and _jax.of_choice(level.equation):
                raise Out(out[0])
        return values

    def _equation(self, level: Level, operands: list[Value], path: Path) -> list[Value]:
        if not _repeatable(operands) or not of_library((*path, level)):
            return self._by_role(level, operands, path)
        arrays = evaluate(level.equation, operands)
        found = states(arrays)
        if any(map(self._is_bad, found)):
            return self._by_role(level, operands, path)
        values = [Value(array, merged(operands)) for array in arrays]
        if not any(state.inf for state in found):
            return values
        # Another walk, which stops nowhere, to know where infinities were made.
        inside = Walk(self.check_inf, None, steps=self.steps)._by_role(level, operands, path)
        return [
            v._replace(infinite=i.infinite, entered=i.entered)
            for v, i in zip(values, inside, strict=True)
        ]

    def _heeds(self, level: Level, operands: list[Value], path: Path) -> bool:
        """Whether an equation reads bad values that are in rooms; raises where one gets out."""
        heeds = False
        for value, variable in zip(operands, level.equation.reads, strict=True):
            if value.cause in self._rooms:
                left = out_of(self._rooms[value.cause], (*path, level), variable)
                if left is None:
                    raise Out(value.cause)
                self._rooms[value.cause], heeds = left, True
        return heeds

    def _by_role(self, level: Level, operands: list[Value], path: Path) -> list[Value]:
        if _jax.has(level.equation.kind, _jax.Trait.TYPED):
            return operands  # on one device they are what they were
        rules = {
            _jax.CALL: self._call,
            _jax.CUSTOM: self._call,
            _jax.BRANCH: self._branch,
            _jax.STEP: self._loop,
            _jax.DEVICE: self._mesh,
        }
        bodies = level.equation.bodies
        rule = rules[bodies[0].role] if bodies else self.leaf
        return rule(level, operands, path)

    def _call(self, level: Level, operands: list[Value], path: Path, which: int = 0) -> list[Value]:
        body = level.equation.bodies[which]
        level = level._replace(body=body)
        return body.put(self.run(body.program, body.take(operands), (*path, level)))

    def _branch(self, level: Level, operands: list[Value], path: Path) -> list[Value]:
        decides, count = operands[level.equation.decides], len(level.equation.bodies)
        which = min(int(decides.array), count - 1)
        return self._call(level, operands, path, max(0, which))

    def _loop(self, level: Level, operands: list[Value], path: Path) -> list[Value]:
        whole = self._whole(level.equation, operands, path)
        if whole is not None:
            return whole
        if loops.most_steps(level.equation, operands) == 0:
            return self.leaf(level, operands, path)

        def call(body: _jax.Body, step: int, inputs: list[Value]) -> list[Value]:
            return self._step(level._replace(step=step, body=body), body, inputs, path)

        return loops.run(level.equation, operands, call)

    def _step(self, level: Level, body: _jax.Body, inputs: list[Value], path: Path) -> list[Value]:
        """A step of a loop: compiled, and equation by equation only where its flag is up."""
        key = level.equation, body.role
        around = (*path, level)
        results = self._compiled(key, body.program, inputs, [body.program], around)
        return self.run(body.program, inputs, around) if results is None else results

    def _mesh(self, level: Level, operands: list[Value], path: Path) -> list[Value]:
        whole = self._whole(level.equation, operands, path)
        if whole is not None:
            return whole
        event = None
        if _clean(operands):
            event = devices.first(level, operands, path, self.check_inf)
        if event is None:
            return self.leaf(level, operands, path)
        cause, names = self._counted(self._deeper(event)), merged(operands)
        arrays = evaluate(level.equation, operands)
        return [
            Value(array, names, cause if self._is_bad(state) else None)
            for array, state in zip(arrays, states(arrays), strict=True)
        ]

    def _deeper(self, event: Event) -> Event:
        """The event inside an equation of one device, or, where it cannot be looked into, there."""
        *around, level = event.path
        if level.equation.programs:
            try:
                walk = Walk(self.check_inf, 1, steps=self.steps)
                walk.equation(level, event.operands, tuple(around))
            except Found as found:
                return found.event
            except Exception:
                # A body that talks to other devices has no meaning on one. What is known stands.
                return event
        return event

    def leaf(self, level: Level, operands: list[Value], path: Path) -> list[Value]:
        """One operation: its results, with what is wrong with them and why."""
        arrays = evaluate(level.equation, operands)
        names = self._names(level, operands, path)
        found = states(arrays)
        if not any(state.nan or state.inf for state in found):
            return [Value(array, names) for array in arrays]
        made = next((o.infinite for o in operands if o.infinite is not None), None)
        if made is None and not any(s.inf for s in states([o.array for o in operands])):
            made = Event("inf", (*path, level), operands, arrays)
        entered = next((o.entered for o in operands if o.entered is not None), None)
        if entered is None and Event("inf", (*path, level), operands, arrays).turns:
            entered = Event("inf", (*path, level), operands, arrays)
        bad = any(map(self._is_bad, found))
        cause = self._cause(level, operands, arrays, found, path) if bad else None
        return [
            Value(
                array,
                names,
                cause if self._is_bad(state) else None,
                made if state.inf else None,
                entered if state.inf else None,
            )
            for array, state in zip(arrays, found, strict=True)
        ]

    def _names(
        self, level: Level, operands: list[Value], path: Path
    ) -> tuple[tuple[int, str], ...]:
        if level.equation.kind != TAG:
            return merged(operands)
        self._tags += 1
        scopes = [name for around in (*path, level) for name in around.equation.scopes]
        return ((self._tags, "/".join([*scopes, level.equation.label])),)

    def _cause(
        self,
        level: Level,
        operands: list[Value],
        arrays: list[Any],
        found: list[State],
        path: Path,
    ) -> int:
        """The event behind bad results: one of the operands', or a new one."""
        before = [o for o in operands if o.cause is not None]
        nan = any(s.nan for s in found)
        worse = nan and not any(s.nan for s in states([o.array for o in before]))
        if before and not worse:
            causes = sorted({o.cause for o in before if o.cause is not None})
            if causes[-1] != CONSTANT:
                events = [c for c in causes if c != CONSTANT]
                return _to_blame(level.equation, operands, arrays, events)
            if not nan or _jax.has(level.equation.kind, _jax.Trait.MOVES):
                return CONSTANT
        constant = bool(before) and not worse
        kind = "nan" if nan else "inf"
        return self._counted(Event(kind, (*path, level), operands, arrays, constant))

    def _counted(self, event: Event) -> int:
        """The number of a new event; raises `Found` where it is the one to stop at."""
        self.count += 1
        here = room(event.path) if self.first else None
        if self.count == self.stop or (self.first and here is None):
            raise Found(event)
        if here is not None:
            self._rooms[self.count] = here
        return self.count

    def _whole(
        self, equation: _jax.Equation, operands: list[Value], path: Path
    ) -> list[Value] | None:
        """An equation at one go, compiled; `None` where a value in it may be bad."""
        if not _repeatable(operands):
            return None
        program, _ = equation.alone()
        given = equation.take(operands)
        return self._compiled(equation, program, given, equation.programs, path)

    def _compiled(
        self,
        key: Any,
        program: _jax.Jaxpr,
        inputs: list[Value],
        bodies: Sequence[_jax.Jaxpr],
        path: Path,
    ) -> list[Value] | None:
        """The results of a program, compiled; `None` where a value in it may be bad.

        Tags in the bodies are nearer than those before.
        """
        if not _repeatable(inputs):
            return None
        if key not in self.steps:
            run = functools.partial(flags.run, program, check_inf=self.check_inf, path=path)
            self.steps[key] = jax.jit(
                lambda *args: run(args), compiler_options={"xla_allow_excess_precision": False}
            )
        arrays, bad = self.steps[key](*(x.array for x in inputs))
        if bad:
            return None
        self._tags += 1
        tags = sorted({name for body in bodies for name in find(body)})
        names = tuple((self._tags, name) for name in tags) or merged(inputs)
        return [Value(array, names) for array in arrays]


def _clean(values: Sequence[Value]) -> bool:
    return all(value.cause is None for value in values)


def _repeatable(values: Sequence[Value]) -> bool:
    """Whether something may be evaluated to see if it is clean, and once more if it is not.

    What writes to a reference would write twice.
    """
    return _clean(values) and not any(_jax.is_reference(value.array) for value in values)


def evaluate(equation: _jax.Equation, operands: Sequence[Value]) -> list[Any]:
    """The results of one equation, as JAX computes them."""
    return equation.evaluate([o.array for o in operands])


def _to_blame(
    equation: _jax.Equation, operands: list[Value], arrays: list[Any], causes: list[int]
) -> int:
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
        if states(evaluate(equation, mended)) != before:
            return cause
    return causes[0]
