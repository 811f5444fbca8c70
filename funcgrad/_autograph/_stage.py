"""Runs pieces of Python as programs apart, and fits what they return together.

A piece is a function of no or some arrays that returns the values of variables, each a pytree. Of
its leaves, arrays and numbers may depend on what is traced; all others (strings, functions,
objects) are Python's and must stay the same on every path. A mutable object from before the piece
is a leaf too, `Held`: it stays that object, and what it holds is apart.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .. import _jax
from .._describe import describe
from .._leaves import is_array
from ..errors import UnboundError, UsageError

# Where the innermost branch or loop stands that is being traced, None outside.
INSIDE: ContextVar[str | None] = ContextVar("funcgrad_inside", default=None)


class Undefined:
    """Stands for a variable that has no value; to read it is an error, to have it is none."""

    def __init__(self, name: str, place: str = ""):
        self.name, self.place = name, place

    def read(self) -> Any:
        """Raises what Python raises, or says on which paths there is no value."""
        place = INSIDE.get()
        if not self.place and place:
            raise UnboundError(
                f"`autograph` got a function that reads `{self.name}` before it has a value, in the"
                f" traced branch or loop at {place}, of which every path is traced; give it a value"
                " before"
            )
        if not self.place:
            raise UnboundLocalError(
                f"cannot access local variable '{self.name}' where it is not associated with a"
                " value"
            )
        raise UnboundError(
            f"`autograph` got a function that reads `{self.name}`, which has a value in one branch"
            f" only of the traced condition at {self.place}; give it a value in the other branch"
            " too, or before"
        )


class Out(NamedTuple):
    """A leaf that a program computes: which of its results, and its type."""

    number: int
    type: Any


class In(NamedTuple):
    """A leaf that is one of a program's inputs, unchanged."""

    number: int


class Value(NamedTuple):
    """What a variable holds after a piece has run: its structure, and each leaf or a note on it."""

    tree: Any
    leaves: list[Any]

    @property
    def undefined(self) -> Undefined | None:
        """The variable's `Undefined`, where it has no value."""
        return self.leaves[0] if self.leaves and isinstance(self.leaves[0], Undefined) else None

    def of(self, leaves: Sequence[Any]) -> Any:
        """What has this structure and these leaves."""
        return self.tree.unflatten([x.object if isinstance(x, Held) else x for x in leaves])

    def noted(self, note: Callable[[Any], Any]) -> "Value":
        """The same with a note on each leaf, also on those of what held objects contain."""
        leaves = [x.noted(note) if isinstance(x, Held) else note(x) for x in self.leaves]
        return Value(self.tree, leaves)

    def opened(self, keep: Sequence[Any] = ()) -> "Value":
        """Held objects as the pytrees that they are, but for those in `keep`."""
        parts = [
            x.contents.tree.unflatten(x.contents.leaves)
            if isinstance(x, Held) and x.contents and x not in keep
            else x
            for x in self.leaves
        ]
        leaves, tree = jax.tree.flatten(self.tree.unflatten(parts), is_leaf=_is_note)
        return Value(tree, leaves)


@dataclass(frozen=True, eq=False)
class Held:
    """A leaf that is a mutable object from before a piece.

    Fields:
        object: the object.
        contents: what it is as a pytree; `None` where it is none.
    """

    object: Any
    contents: Value | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.object is other.object

    def __hash__(self) -> int:
        return id(self.object)

    def noted(self, note: Callable[[Any], Any]) -> "Held":
        """The same with a note on each leaf of the contents."""
        return Held(self.object, self.contents and self.contents.noted(note))


@dataclass(frozen=True)
class Frozen:
    """A leaf for contents that have no parts to choose between, like those of a set."""

    kind: str
    value: Any

    def __repr__(self) -> str:
        return f"another {self.kind}" if isinstance(self.value, bytes) else repr(self.value)


def _is_note(x: Any) -> bool:
    return isinstance(x, Undefined | Out | In | Held)


class Piece(NamedTuple):
    """A piece that has been run.

    Fields:
        program: from what it closes over and its inputs to the arrays it computes.
        closed_over: what it closes over.
        values: what it returns.
    """

    program: _jax.Jaxpr
    closed_over: list[Any]
    values: list[Value]

    def __call__(self, *inputs: Any) -> Callable[[Any], Any]:
        """Runs the program; the function returned tells what a leaf of the values is then."""
        computed = _jax.as_function(self.program)(*self.closed_over, *inputs)

        def leaf(note: Any) -> Any:
            if isinstance(note, Out):
                return computed[note.number]
            return inputs[note.number] if isinstance(note, In) else note

        return leaf


def known(x: Any) -> bool:
    """Whether Python can look at a value now: it is not traced, or only differentiated."""
    return _jax.is_concrete(x)


def staging() -> bool:
    """Whether operations are recorded and not executed: under `jax.jit` and its like."""
    return not known(lax.add(0, 0))


def truth(x: Any, place: str) -> Any:
    """The truth of a traced value as a scalar bool."""
    if jnp.size(x) != 1:
        raise UsageError(
            f"`autograph` got a condition of {describe(x)} at {place}, and wants one truth value;"
            " reduce it with jnp.all, jnp.any or jnp.linalg.norm"
        )
    x = jnp.reshape(x, ())
    return x if x.dtype == bool else x != 0


@contextmanager
def inside(place: str) -> Iterator[None]:
    """Marks what runs in it as part of a branch or loop that is traced."""
    token = INSIDE.set(place)
    try:
        yield
    finally:
        INSIDE.reset(token)


def taken_apart(value: Any, held: Mapping[int, Any] = MappingProxyType({})) -> Value:
    """A value as structure and leaves; objects of which the ids are in `held` are leaves."""
    leaves, tree = jax.tree.flatten(
        value, is_leaf=lambda x: isinstance(x, Undefined) or id(x) in held
    )
    return Value(tree, [_as_held(x) if id(x) in held else x for x in leaves])


def _as_held(value: Any) -> Held:
    contents = taken_apart(value)
    alone = len(contents.leaves) == 1 and contents.leaves[0] is value
    return Held(value, None if alone and not is_array(value) else contents)


def stage(
    fun: Callable[..., Sequence[Any]],
    place: str,
    *inputs: Any,
    kept: Sequence[Any] = (),
    snapshot: Any = None,
    around: Callable[[], Any] = nullcontext,
) -> Piece:
    """Runs `fun` on tracers like `inputs`.

    Args:
        fun: returns the values.
        place: where it stands.
        inputs: arrays or their types.
        kept: leaves that are one of these are left as they are.
        snapshot: the objects that `fun` can reach: they are put back after it.
        around: a context for the run of `fun`, before they are put back.
    """
    values: list[Value] = []
    same, held = {id(x) for x in kept}, {}
    if snapshot is not None:
        same, held = same | snapshot.arrays, snapshot.held

    def flat(*xs: Any) -> list[Any]:
        arrays: list[Any] = []
        position = {id(x): In(k) for k, x in enumerate(xs)}

        def note(leaf: Any) -> Any:
            if id(leaf) in position:
                return position[id(leaf)]
            if id(leaf) in same or not (is_array(leaf) and hasattr(leaf, "dtype")):
                return leaf
            arrays.append(leaf)
            return Out(len(arrays) - 1, jax.typeof(leaf))

        with snapshot.watching() if snapshot else nullcontext(), around():
            values.extend(taken_apart(value, held).noted(note) for value in fun(*xs))
        return arrays

    with inside(place):
        try:
            closed = _jax.trace(flat, inputs)
        except RecursionError:
            raise UsageError(
                "`autograph` got a function that calls itself in a branch of the traced condition"
                f" at {place}, so that tracing it never ends; write it as a loop"
            ) from None
    program, consts = _jax.without_consts(closed), list(closed.consts)
    if any(_jax.varying(jax.typeof(x)) for x in (*consts, *inputs)):
        # In shard_map: what all devices share is typed as differing before a branch or loop, not
        # in it. Going backwards it is summed over devices there, where all of them come by.
        program, made = _jax.hoist_casts(program, len(consts))
        consts = [*_jax.as_function(made)(*consts), *consts]
    return Piece(program, consts, values)


def same(a: Any, b: Any) -> bool:
    """Whether two leaves are one value for Python, whatever is traced."""
    if a is b:
        return True
    if isinstance(a, Out | In) or isinstance(b, Out | In) or type(a) is not type(b):
        return False
    if is_array(a):  # -0.0 is not 0.0, and NaN is NaN
        return not hasattr(a, "dtype") and repr(a) == repr(b)
    try:
        return bool(a == b)
    except Exception:
        return False


def numeric(leaf: Any) -> bool:
    """Whether a leaf is an array, a number or stands for one."""
    return isinstance(leaf, Out | In) or is_array(leaf)


def type_of(leaf: Any, inputs: Sequence[Any] = ()) -> Any:
    """The type of a leaf that is `numeric`."""
    if isinstance(leaf, Out):
        return leaf.type
    return inputs[leaf.number] if isinstance(leaf, In) else jax.typeof(jnp.asarray(leaf))


def common(a: Any, b: Any) -> Any:
    """The type of a value that is of one type or the other, `None` if there is none.

    A weakly typed value, like a Python number, takes the dtype of the other where JAX promotes it.
    """
    if a.shape != b.shape:
        return None
    if a.dtype == b.dtype:
        return b if a.weak_type else a
    if not (a.weak_type or b.weak_type):
        return None
    kinds = (_weak_kind(x.dtype) if x.weak_type else x.dtype for x in (a, b))
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*kinds)
    if a.weak_type and b.weak_type:
        return a if dtype == a.dtype else b
    strong = b if a.weak_type else a
    return strong if strong.dtype == dtype else None


def cast(x: Any, aval: Any) -> Any:
    """A value in a type that is `common` to its own and others."""
    x = jnp.asarray(x)
    if x.weak_type and not aval.weak_type:
        return lax.convert_element_type(x, aval.dtype)
    return x if x.dtype == aval.dtype else x + _weak_kind(aval.dtype)(0)


def filler(aval: Any, returned: bool = False) -> Any:
    """A value of a type for a variable that has none: NaN, or the least integer.

    What a function returns is 0 until it returns: that is never read before.
    """
    if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        raise UsageError(
            f"`autograph` got a variable of {describe(aval)} that is first given a value inside a"
            " traced loop or branch; give it one before"
        )
    value: Any = 0
    if jnp.issubdtype(aval.dtype, jnp.inexact) and not returned:
        value = jnp.nan
    elif jnp.issubdtype(aval.dtype, jnp.integer) and not returned:
        value = int(jnp.iinfo(aval.dtype).min)
    dtype = _weak_kind(aval.dtype) if aval.weak_type else aval.dtype
    scalar = jnp.asarray(dtype(value)) if aval.weak_type else jnp.asarray(value, dtype)
    return jnp.broadcast_to(scalar, aval.shape)


def show(value: Value, inputs: Sequence[Any] = ()) -> str:
    """A value by the types of its leaves."""
    if value.undefined:
        return "no value"
    shown = value.tree.unflatten([_Word(_show_leaf(x, inputs)) for x in value.leaves])
    return str(dict(shown) if isinstance(shown, OrderedDict) else shown)


def _show_leaf(leaf: Any, inputs: Sequence[Any]) -> str:
    if isinstance(leaf, Held) and leaf.contents:
        return show(leaf.contents, inputs)
    if numeric(leaf):
        return describe(type_of(leaf, inputs))
    if isinstance(leaf, Frozen):
        return repr(leaf)[:60]
    value = leaf.object if isinstance(leaf, Held) else leaf
    return f"{type(value).__name__} {repr(value)[:40]}"


class _Word(str):
    __repr__ = str.__str__


def _weak_kind(dtype: Any) -> Any:
    kinds = ((jnp.complexfloating, complex), (jnp.floating, float), (jnp.integer, int))
    return next((python for kind, python in kinds if jnp.issubdtype(dtype, kind)), dtype)
