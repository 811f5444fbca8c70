"""Equations as the rest of funcgrad reads them, and the anatomy of those that hold programs.

`Equation` is the view of one equation. Its `bodies` say which operand is which input of which inner
program: whole, carried or by rows. `reenter` makes the public JAX call that an equation came from
once more, around other bodies. What a primitive needs for both stands in one entry, which
`anatomy` registers: those of JAX here, those of our own primitives beside the primitive.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from . import frames
from .frames import Frame
from .primitives import OURS
from .trace import (
    Jaxpr,
    as_function,
    constants,
    function_name,
    inputs,
    is_literal,
    opened,
    outputs,
    part,
    programs_in,
    types,
    value_of,
    variables,
)

_KINDS = {
    "pjit": "jit",
    "core_call": "call",
    "closed_call": "call",
    "eval_jaxpr": "call",
    "remat": "checkpoint",
    "remat2": "checkpoint",
    # The announced forms of JAX 0.12, primitives made of objects.
    "RematTraced": "checkpoint",
    "CustomJVPTraced": "custom_jvp_call",
    "CustomVJPTraced": "custom_vjp_call",
    "CheckpointName": "name",
    "CheckpointNameFwd": "name",
}


class Equation:
    """An equation of a program.

    Attributes:
        program: the program that it stands in.
        name: the primitive, as JAX prints it.
        kind: the primitive, under a name that does not change with the release of JAX.
        reads: what it is given: variables and literals.
        makes: the variables of its results.
        params: the parameters. Those of JAX's primitives change with the release: they are read in
            this folder alone; for those of our own see `own`.

    Two views of one equation are equal.
    """

    __slots__ = ("_eqn", "kind", "makes", "name", "params", "program", "reads")

    def __init__(self, program: Jaxpr, eqn: Any):
        made_of = eqn.params.get("_prim")  # JAX 0.12's primitives made of objects
        self.program, self._eqn = program, eqn
        self.reads: list[Any] = eqn.invars
        self.makes: list[Any] = eqn.outvars
        self.name: str = eqn.primitive.name if made_of is None else type(made_of).__name__
        self.params: dict[str, Any] = eqn.params if made_of is None else made_of.params
        self.kind: str = _KINDS.get(self.name, self.name)

    def __hash__(self) -> int:
        return id(self._eqn)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equation) and self._eqn is other._eqn

    @property
    def own(self) -> dict[str, Any]:
        """The parameters of one of our own primitives."""
        if self.name not in OURS:
            raise KeyError(f"{self.name} is no primitive of funcgrad")
        return self.params

    @property
    def operand_types(self) -> list[Any]:
        """The type of each operand."""
        return types(self.reads)

    @property
    def result_types(self) -> list[Any]:
        """The type of each result."""
        return types(self.makes)

    @property
    def label(self) -> str:
        """The name that a `retain_grad` or a `jax.ad_checkpoint.checkpoint_name` gives."""
        return str(self.params["name"])

    @property
    def function(self) -> str:
        """The name of the Python function that its first program was traced from; may be empty."""
        return str(self.params.get("name") or function_name(self.programs[0])[0])

    @property
    def shown(self) -> dict[str, str]:
        """Its parameters as text, but for programs, functions and those that are `None`."""
        return {
            name: str(value)
            for name, value in self.params.items()
            if value is not None and not callable(value) and not programs_in(value)
        }

    @property
    def constants_of_rule(self) -> int:
        """How many operands a custom function of JAX 0.12's announced form closes over."""
        return len(jax.tree.leaves(self._eqn.params["_prim"].in_avals[0]))

    @property
    def programs(self) -> list[Jaxpr]:
        """Every program in it, whether its anatomy is known or not."""
        known = _ANATOMY.get(self.kind)
        return programs_in(self.params) if known is None else known.programs(self)

    @property
    def bodies(self) -> "tuple[Body, ...]":
        """Its programs, with what their inputs and outputs are; none where that is not known."""
        return _ANATOMY[self.kind].bodies(self) if self.kind in _ANATOMY else ()

    @property
    def called(self) -> "Body | None":
        """The body of a call; `None` where there is none, or it is a branch, a loop or a mesh."""
        bodies = self.bodies
        return bodies[0] if bodies and bodies[0].role in (CALL, CUSTOM) else None

    @property
    def trips(self) -> "Trips | None":
        """How often its steps run, where it is a loop."""
        known = _ANATOMY.get(self.kind)
        return known.trips(self) if known and known.trips else None

    @property
    def rows(self) -> bool:
        """Whether it is a loop whose steps read and write rows: a `while` of JAX has none."""
        return self.trips is not None and self.kind != "while"

    @property
    def runs(self) -> bool:
        """Whether it is a loop that takes a step in any case."""
        return self.trips is not None and self.trips.limit is None and bool(self.trips.length)

    @property
    def decides(self) -> int:
        """Of an equation with branches, the operand that picks one: it goes into none of them."""
        inside = {link.place for body in self.bodies for link in body.inputs}
        return next(index for index in range(len(self.reads)) if index not in inside)

    @property
    def frames(self) -> list[Frame]:
        """The Python calls that led to it, the innermost first; none where JAX kept none."""
        return frames.frames_of(self._eqn)

    @property
    def scopes(self) -> tuple[str, ...]:
        """The `jax.named_scope` names around it, without what transforms add to the stack."""
        return frames.scopes_of(self._eqn)

    @property
    def transforms(self) -> list[str]:
        """The names of the transformations around it, `transpose` and `vmap` for example."""
        return frames.transforms_of(self.program, self._eqn)

    @property
    def recomputes(self) -> bool:
        """Whether a checkpoint runs it in a backward pass, to compute again or to go back."""
        return frames.recomputes(self.program, self._eqn)

    @property
    def beside_recomputed(self) -> bool:
        """Whether a checkpoint recomputes something in the same program."""
        return frames.recomputed_in(self.program)

    @property
    def isolated(self) -> bool:
        """Whether the compiler must not merge what is in it with what it repeats."""
        return self.kind == "checkpoint" and self.recomputes

    @property
    def vmaps(self) -> list[list[Frame]]:
        """The Python calls around each `vmap` that was called there, the outermost first."""
        return frames.vmaps_of(self._eqn)

    def made_in(self, fun: Callable[..., Any]) -> bool:
        """Whether a call of a Python function led to it."""
        return any(frame.key[0] is fun.__code__ for frame in self.frames)

    def alone(self) -> tuple[Jaxpr, list[Any]]:
        """It as a program by itself, and the variables that are the inputs."""
        read = variables(self.reads)
        return part(opened(self.program), [self._eqn], read, self.makes), read

    def take(self, operands: Sequence[Any]) -> list[Any]:
        """What the program by itself is given, of anything there is one of for each operand."""
        given = zip(self.reads, operands, strict=True)
        known = {v: x for v, x in given if not is_literal(v)}
        return list(known.values())

    def evaluate(self, operands: Sequence[Any]) -> list[Any]:
        """The results, as JAX computes them."""
        return list(as_function(self.alone()[0])(*self.take(operands)))


def equations(program: Jaxpr) -> list[Equation]:
    """The equations of a program, in order."""
    return [Equation(program, eqn) for eqn in opened(program).eqns]


def everywhere(program: Jaxpr, around: tuple[Equation, ...] = ()) -> Iterator[tuple[Equation, ...]]:
    """Every equation of a program and of those in it, after the equations that hold it."""
    for equation in equations(program):
        path = (*around, equation)
        yield path
        for inner in equation.programs:
            yield from everywhere(inner, path)


def interpret(
    program: Jaxpr,
    given: Sequence[Any],
    apply: Callable[[Equation, list[Any]], Sequence[Any]],
    constant: Callable[[Any], Any],
) -> list[Any]:
    """Evaluates a program with values of any kind.

    Args:
        program: the program.
        given: a value for each input.
        apply: `(equation, operands) -> results`.
        constant: from an array or a number that the program holds to a value.

    Returns:
        A value for each output. A value that nothing reads any more is let go.
    """
    env = {v: constant(x) for v, x in constants(program).items()}
    env.update(zip(inputs(program), given, strict=True))

    def read(atom: Any) -> Any:
        return constant(value_of(atom)) if is_literal(atom) else env[atom]

    every = equations(program)
    for equation, spent in zip(every, _spent(every, outputs(program)), strict=True):
        results = apply(equation, [read(v) for v in equation.reads])
        env.update(zip(equation.makes, results, strict=True))
        for variable in spent:
            del env[variable]
    return [read(v) for v in outputs(program)]


def _spent(every: Sequence[Equation], kept: Sequence[Any]) -> list[list[Any]]:
    """For each equation the variables that nothing after it reads."""
    last: dict[Any, int] = {}
    for index, equation in enumerate(every):
        last.update((v, index) for v in variables([*equation.reads, *equation.makes]))
    spent: list[list[Any]] = [[] for _ in every]
    for variable in last.keys() - set(variables(kept)):
        spent[last[variable]].append(variable)
    return spent


WHOLE, CARRY, ROW = "whole", "carry", "row"
"""How an operand reaches an input, or an output a result: as it is, from step to step, or one row
for each step."""

CALL, CUSTOM, DEVICE, BRANCH, STEP, TEST = "call", "custom", "device", "branch", "step", "test"
"""How a body runs: once; once, but derivatives go by a rule instead; on each device of a mesh; one
body of several; in each step of a loop; before each step, to tell whether there is one."""


class Link(NamedTuple):
    """Which operand an input is, or which result an output is.

    Fields:
        place: among the operands or results of the equation.
        flow: `WHOLE`, `CARRY` or `ROW`.
    """

    place: int
    flow: str = WHOLE


class Body(NamedTuple):
    """A program in an equation.

    Fields:
        program: the program.
        role: `CALL`, `CUSTOM`, `DEVICE`, `BRANCH`, `STEP` or `TEST`.
        inputs: a link for each input. What is carried starts as that operand.
        outputs: a link for each output; none of a `TEST`. Carried outputs replace carried inputs in
            their order.
        axes: the mesh axes that become manual in it, with their sizes, in the mesh's order.
        typed: whether values in it are typed by the mesh axes along which they vary.
    """

    program: Jaxpr
    role: str
    inputs: tuple[Link, ...]
    outputs: tuple[Link, ...]
    axes: Mapping[str, int] = {}
    typed: bool = False

    def take(self, operands: Sequence[Any], flow: str | None = None) -> list[Any]:
        """What goes in, of anything there is one of for each operand; of one flow if asked."""
        return [operands[i] for i, how in self.inputs if flow in (None, how)]

    def put(self, made: Sequence[Any]) -> list[Any]:
        """What the results are, of a thing for each output; every result has an output."""
        at = {link.place: x for link, x in zip(self.outputs, made, strict=True)}
        return [at[place] for place in range(len(at))]

    def carried(self, given: Sequence[Any], made: Sequence[Any]) -> list[tuple[Any, Any]]:
        """What goes in and what comes out for each carry, of a thing for each input and output."""
        into = [x for x, link in zip(given, self.inputs, strict=True) if link.flow == CARRY]
        out = [x for x, link in zip(made, self.outputs, strict=False) if link.flow == CARRY]
        return list(zip(into, out, strict=False))


class Trips(NamedTuple):
    """How often the steps of a loop run.

    Fields:
        length: the number of rows, and the most steps there can be; `None` where none is known.
        limit: the operand that says how many steps there are at most; `None` where it is `length`,
            or where the test alone tells.
        reverse: whether step `i` of `n` uses row `n - 1 - i`.

    A result of a loop that no output is linked to is the number of steps that were taken.
    """

    length: int | None
    limit: int | None = None
    reverse: bool = False


Run = Callable[[Body, Sequence[Any], Any], tuple[Sequence[Any], Any]]
"""`(body, inputs, given) -> (outputs, made)`: what runs in place of the program of a body."""


class Total(NamedTuple):
    """How what bodies make besides is added up over the steps of a loop.

    Fields:
        start: the value before the first step.
        add: `(sum, made) -> sum`.
    """

    start: Any
    add: Callable[[Any, Any], Any]


class Anatomy(NamedTuple):
    """What is known of a kind of equation that holds programs.

    Fields:
        bodies: `equation -> bodies`.
        reenter: see `reenter`; `None` where inner values cannot be told from outside.
        around: `equation -> sizes`: the axes that a value inside has in front, seen from outside.
        trips: `equation -> Trips`, of a loop.
        programs: `equation -> programs`: what tags are looked for in; by default the programs of
            the bodies.
    """

    bodies: Callable[[Equation], tuple[Body, ...]]
    reenter: Callable[..., tuple[list[Any], Any]] | None
    around: Callable[[Equation], tuple[int, ...]]
    trips: Callable[[Equation], Trips] | None
    programs: Callable[[Equation], list[Jaxpr]]


_ANATOMY: dict[str, Anatomy] = {}


def anatomy(
    kind: str,
    bodies: Callable[[Equation], tuple[Body, ...]],
    reenter: Callable[..., tuple[list[Any], Any]] | None = None,
    around: Callable[[Equation], tuple[int, ...]] = lambda equation: (),
    trips: Callable[[Equation], Trips] | None = None,
    programs: Callable[[Equation], list[Jaxpr]] | None = None,
) -> None:
    """Registers what is known of a kind of equation, for every transform and tool."""
    every = programs or (lambda equation: [body.program for body in equation.bodies])
    _ANATOMY[kind] = Anatomy(bodies, reenter, around, trips, every)


def reenters(equation: Equation) -> bool:
    """Whether `reenter` can make the call anew."""
    known = _ANATOMY.get(equation.kind)
    return known is not None and known.reenter is not None


def around(equation: Equation) -> tuple[int, ...]:
    """The sizes of the axes that a value in a body has in front of its own, seen from outside."""
    return _ANATOMY[equation.kind].around(equation)


def reenter(
    equation: Equation,
    operands: Sequence[Any],
    run: Run,
    given: Any = None,
    *,
    varying: Any = None,
    total: Total | None = None,
) -> tuple[list[Any], Any]:
    """Makes the public JAX call that an equation came from once more, around other bodies.

    Args:
        equation: the equation.
        operands: what to call it with.
        run: what runs in place of each body. Calls of the same function share compiled programs.
        given: a pytree of arrays for the bodies besides. Each step of a loop gets a row of each;
            each device of a mesh its own, which a leading axis for each mesh axis tells apart.
        varying: a pytree like `given` of the mesh axes along which each leaf differs between
            devices; all manual ones where it is `None`.
        total: how to add up what steps make besides. Without it loops give a row for each step,
            zeros past the last one taken, and a `while` gives nothing.

    Returns:
        The results, and what the bodies made besides: from a mesh with a leading axis for each
        manual axis.
    """
    known = _ANATOMY[equation.kind].reenter
    assert known is not None, equation.kind
    if equation.kind == "shard_map":
        return known(equation, operands, run, given, varying)
    if equation.trips is not None:
        return known(equation, operands, run, given, total)
    return known(equation, operands, run, given)
