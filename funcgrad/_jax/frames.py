"""Where an equation comes from: the user's lines, and the scopes and transformations around it."""

import functools
import itertools
import linecache
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib

from .trace import Jaxpr, once, opened, programs_in

_PACKAGES = [Path(module.__file__ or "").parent for module in (jax, jaxlib)]
_INTERNAL = tuple(f"{path}/" for path in (*_PACKAGES, Path(__file__).parents[1]))
_OF_JAX = tuple(f"{path}/" for path in _PACKAGES)
_PARTS = "numpy", "lax", "nn", "scipy"
_PUBLIC = tuple(f"{path}_src/{part}/" for path in _OF_JAX for part in _PARTS)
_BATCHES = str(Path(__file__).parents[1] / "_loops" / "batch.py")
_WHERE = "_where"
_PATHS = sysconfig.get_paths()
_STDLIB = (_PATHS["stdlib"] + "/", "<frozen ")
_INSTALLED = tuple({_PATHS["purelib"] + "/", _PATHS["platlib"] + "/"})
_RECOMPUTED = "rematted_computation"


class Frame(NamedTuple):
    """A place in Python code.

    Fields:
        file, function: of the code.
        line, end_line, column, end_column: where the expression stands; columns count bytes.
        key: equal for the same instruction of the same code.
    """

    file: str
    function: str
    line: int
    end_line: int | None
    column: int | None
    end_column: int | None
    key: tuple[Any, int]


def frames_of(eqn: Any) -> list[Frame]:
    """The Python calls that led to an equation, the innermost first; none where JAX kept none."""
    traceback = eqn.source_info.traceback
    return (
        [_frame(*pair) for pair in zip(*traceback.raw_frames(), strict=True)] if traceback else []
    )


@functools.lru_cache(maxsize=4096)  # operations share most of the calls that led to them
def _frame(code: Any, instruction: int) -> Frame:
    positions = itertools.islice(code.co_positions(), instruction // 2, None)
    line, end_line, column, end_column = next(positions, (None, None, None, None))
    place = line or code.co_firstlineno, end_line, column, end_column
    return Frame(code.co_filename, code.co_name, *place, (code, instruction))


def scopes_of(eqn: Any) -> tuple[str, ...]:
    """The `jax.named_scope` names around an equation, without what transforms add to the stack."""
    return tuple(name for name in _stack(eqn, "Scope") if name != _RECOMPUTED)


def transforms_of(program: Jaxpr, eqn: Any) -> list[str]:
    """The names of the transformations around an equation, `transpose` and `vmap` for example."""
    return [name for kind, name in _going_back(program, eqn) or _names(eqn) if kind == "Transform"]


def recomputes(program: Jaxpr, eqn: Any) -> bool:
    """Whether a checkpoint runs an equation in a backward pass, to compute again or to go back."""
    again = eqn.params.get("differentiated") or eqn.primitive.name == "recomputed"
    return bool(again) or _RECOMPUTED in _stack(eqn, "Scope") or bool(_going_back(program, eqn))


def _going_back(program: Jaxpr, eqn: Any) -> list[tuple[str, str]] | None:
    """The names around an equation of a backward pass of JAX 0.12's announced checkpoint.

    It stands beside the recomputation, under the names around that, the two of a backward pass of
    its own, and those around the forward pass once more: the repetition is left out here. `None`
    for other equations.
    """
    names = _names(eqn)
    for around in _recomputed_under(program):
        count = len(around)
        forward = list(around)
        if _TRANSPOSE in around:  # not in the body of a loop, around which it is
            forward.remove(_TRANSPOSE)
        before, after = names[: count + 2], names[count + 2 :]
        if before == [*around, *_BACKWARD] and after[: len(forward)] == forward:
            return [*around, *after[len(forward) :]]
    return None


_TRANSPOSE = ("Transform", "transpose")
_BACKWARD = [_TRANSPOSE, ("Transform", "jvp")]


@once
def _recomputed_under(program: Jaxpr) -> list[list[tuple[str, str]]]:
    """The names around each recomputation of the announced checkpoint in a program."""
    made_of = [(eqn, type(eqn.params.get("_prim")).__name__) for eqn in opened(program).eqns]
    stacks = [_names(eqn) for eqn, name in made_of if name == "RematTraced"]
    return [stack[:-1] for stack in stacks if stack[-1:] == [("Scope", _RECOMPUTED)]]


@once
def recomputed_in(program: Jaxpr) -> bool:
    """Whether a checkpoint recomputes something in a program itself, not in one that it holds."""
    return any(_RECOMPUTED in _stack(eqn, "Scope") for eqn in opened(program).eqns)


def vmaps_of(eqn: Any) -> list[list[Frame]]:
    """The calls around each `vmap` that was called where an equation was made, outermost first."""
    calls = frames_of(eqn)
    return [calls[i + 1 :] for i, call in enumerate(calls) if call.function == "vmap_f"][::-1]


def of_jacobian(calls: Sequence[Frame]) -> bool:
    """Whether a `vmap` with these calls around it is that of `jax.jacfwd` or `jax.jacrev`."""
    return "jacfun" in [call.function for call in calls[:2]]


def of_where(path: Sequence[Any]) -> bool:
    """Whether the last equation on a path selects in a `where` or `select` of the user's own."""
    return path[-1].name == "select_n" and functions(path)[:1] in (["where"], ["select"])


def functions(path: Sequence[Any]) -> list[str]:
    """The public functions of JAX that the user's line of the last equation on a path leads to.

    The outermost first; those that JAX puts between, to trace and to dispatch, are left out.
    """
    every = [frame for equation in reversed(path) for frame in equation.frames]
    user = next((i for i, frame in enumerate(every) if not internal(frame.file)), len(every))
    return [frame.function for frame in reversed(every[:user]) if frame.file.startswith(_PUBLIC)]


def of_choice(equation: Any) -> bool:
    """Whether an equation chooses, under `vmap`, what examples keep of what all have computed.

    Between the branches of a `cond` or `switch`, or between a step of a loop of funcgrad and what
    was before it. What is in a branch or a step has the calls inside it alone; what chooses has
    that of the `cond`, or comes from our own file.
    """
    if equation.name != "select_n" and not (equation.kind == "jit" and equation.function == _WHERE):
        return False
    every = equation.frames
    ours = next((frame for frame in every if not frame.file.startswith(_OF_JAX)), None)
    if ours is not None and ours.file == _BATCHES:
        return True
    calls = (frame.function for frame in every if frame.file.startswith(_OF_JAX))
    return equation.name == "select_n" and any(name in ("cond", "switch") for name in calls)


def _stack(eqn: Any, kind: str) -> list[str]:
    return [name for is_of, name in _names(eqn) if is_of == kind]


def _names(eqn: Any) -> list[tuple[str, str]]:
    """The name stack of an equation: of each entry its kind, `Scope` or `Transform`, and name."""
    stack = eqn.source_info.name_stack.stack
    return [(type(entry).__name__, entry.name) for entry in stack]


class Place(NamedTuple):
    """Where a user's code calls what became an equation.

    Fields:
        own: the innermost call in the user's own files; in an installed package where there is
            nothing else.
        through: the call in an installed package that `own` leads to, if there is one.
    """

    own: Frame
    through: Frame | None

    def same(self, other: "Place | None") -> bool:
        """Whether another place is the same expression."""
        return other is not None and self.own.key == other.own.key


def place(path: Sequence[Any]) -> Place | None:
    """The place that the last equation of a path comes from; `None` where JAX has not kept it.

    Each equation but the last holds the next. What stands in a body has the calls inside it alone,
    so that a body which JAX traced once and uses again leads to the line that uses it now.
    """
    every = (frame for equation in reversed(path) for frame in equation.frames)
    frames = [frame for frame in every if not internal(frame.file)]
    if not frames:
        return None
    own = next((f for f in frames if not f.file.startswith(_INSTALLED)), frames[0])
    return Place(own, frames[0] if frames[0].key != own.key else None)


def of_library(equation: Any) -> bool:
    """Whether an equation holds programs, and JAX or funcgrad wrote all that is in them."""
    programs = equation.programs
    return bool(programs) and all(map(_written_by_library, programs))


@once
def _written_by_library(program: Jaxpr) -> bool:
    return all(map(_by_library, opened(program).eqns))


def _by_library(eqn: Any) -> bool:
    frames = frames_of(eqn)
    inside = all(map(_written_by_library, programs_in(eqn.params)))
    return inside and bool(frames) and all(internal(frame.file) for frame in frames)


@functools.lru_cache(maxsize=1024)
def internal(file: str) -> bool:
    """Whether a file is part of JAX, funcgrad or the standard library."""
    if file.startswith(_INSTALLED):
        return file.startswith(_INTERNAL)
    return file.startswith((*_INTERNAL, *_STDLIB))


def expression(frame: Frame) -> str:
    """The source text of the expression at a place, on one line; empty where it is not known."""
    first, last = frame.line, frame.end_line or frame.line
    lines = [_bytes(frame.file, number) for number in range(first, last + 1)]
    if frame.column is None or frame.end_column is None or not lines[0]:
        return ""
    lines[-1] = lines[-1][: frame.end_column]
    lines[0] = lines[0][frame.column :]
    return " ".join(b" ".join(lines).decode("utf-8", "replace").split())


def excerpt(frame: Frame) -> list[str]:
    """The line at a place, and carets under the expression; empty where the file is not there."""
    line = _bytes(frame.file, frame.line)
    if not line.strip():
        return []
    text = line.decode("utf-8", "replace")
    shown = [text.strip()]
    if frame.column is not None:
        indent = len(text) - len(text.lstrip())
        start = len(line[: frame.column].decode("utf-8", "replace"))
        same = frame.end_line == frame.line and frame.end_column is not None
        stop = len(line[: frame.end_column].decode("utf-8", "replace")) if same else len(text)
        shown.append(" " * (start - indent) + "^" * max(1, stop - start))
    return shown


def _bytes(file: str, number: int) -> bytes:
    return linecache.getline(file, number).rstrip("\n").encode()
