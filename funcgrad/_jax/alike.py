"""One compiled function for all programs that do the same.

JAX compiles a program once for each object that stands for it, and a loop called outside `jit` is a
new object at each call. Here programs are compared by what they do, so that such a call is compiled
once, and what a function closes over may change from one call to the next.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .checks import own
from .meshes import mesh_of
from .trace import (
    Jaxpr,
    Literal,
    as_function,
    close,
    is_reference,
    is_tracer,
    opened,
    trace,
    types,
    without_consts,
)

ROOM = 256
"""How many compiled functions are kept, those used last."""


def once_compiled(name: str, fun: Callable[..., Any], params: dict[str, Any]) -> Callable[..., Any]:
    """`fun(*operands, **params)` as a function of arrays, compiled once for parameters alike."""
    return _compiled(_Known((name, _key(params)), (name, fun, params)))


def compiled_once(fun: Callable[..., list[Any]], operands: Sequence[Any]) -> list[Any]:
    """`fun(*operands)`, a list of arrays; outside `jit` compiled once for functions alike."""
    if any(is_tracer(x) or is_reference(x) for x in operands) or not _at_once():
        return fun(*operands)
    mesh = mesh_of(operands)
    inside = jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh else None
    with inside or contextlib.nullcontext():
        program = trace(fun, operands)
    if any(map(is_tracer, program.consts)):
        return list(as_function(program)(*operands))
    run = once_compiled("program", _run, {"program": without_consts(program)})
    return list(run(*program.consts, *operands))


def _run(*operands: Any, program: Jaxpr) -> list[Any]:
    return list(as_function(program)(*operands))


def _at_once() -> bool:
    """Whether what is computed now is computed at once, and not traced."""
    return not is_tracer(jax.numpy.add(0, 0))


class _Known:
    """Something to compile, known by what it does."""

    def __init__(self, key: Any, held: Any):
        self._key, self.held, self._hash = key, held, hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self._key == other._key


@functools.lru_cache(maxsize=ROOM)
def _compiled(known: _Known) -> Callable[..., Any]:
    name, fun, params = known.held

    def run(*operands: Any) -> Any:
        return fun(*operands, **params)

    run.__name__ = run.__qualname__ = name
    return jax.jit(run)


class _Self:
    """A value that equals nothing but itself."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Self) and self.value is other.value


_NO_MATTER = {"uid", "where"}  # of a tag, which is looked for in programs that are traced


def _key(value: Any) -> Any:
    """What a parameter is, equal for parameters that say the same."""
    if hasattr(opened(value), "eqns"):
        return _of_program(value)
    if isinstance(value, dict):
        names = sorted(own(value).keys() - _NO_MATTER, key=str)
        return dict, *((name, _key(value[name])) for name in names)
    if isinstance(value, tuple | list):
        return type(value), *map(_key, value)
    if isinstance(value, bool | int | float | complex | np.generic):
        return type(value), repr(value)  # equal numbers may differ in type, and 0.0 from -0.0
    try:
        hash(value)
    except TypeError:
        return _Self(value)
    return value


def _of_program(program: Jaxpr) -> Any:
    jaxpr = opened(program)
    names: dict[Any, int] = {}

    def named(atoms: Any) -> tuple[Any, ...]:
        return tuple(names.setdefault(v, len(names)) for v in atoms)

    def read(atom: Any) -> Any:
        if isinstance(atom, Literal):
            value = np.asarray(atom.val)
            return atom.aval, value.dtype, value.tobytes()
        return names[atom]

    given = [*jaxpr.constvars, *jaxpr.invars]
    head = named(given), *types(given), *map(_Self, close(program).consts)
    body = [
        (
            eqn.primitive,
            _key(eqn.params),
            *map(read, eqn.invars),
            named(eqn.outvars),
            *types(eqn.outvars),
            eqn.ctx,
        )
        for eqn in jaxpr.eqns
    ]
    return *head, *body, *map(read, jaxpr.outvars)
