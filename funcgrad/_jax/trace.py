"""Programs as values: made from a function, closed, cut, pruned, and made a function again.

A program is what JAX calls a closed jaxpr. The rest of funcgrad holds programs and passes them on;
what is in one is read in this folder alone.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np
from jax import api_util
from jax.extend import core, linear_util
from jax.interpreters import partial_eval

Jaxpr: TypeAlias = core.ClosedJaxpr
as_function = core.jaxpr_as_fun
Literal = core.Literal
T = TypeVar("T")


def trace(fun: Callable[..., list[Any]], operands: Sequence[Any]) -> Jaxpr:
    """What `jax.make_jaxpr(fun)(*operands)` gives, for a function that returns a list of arrays.

    It does not go through `jax.jit`, which takes most of the time for a small program: for four
    arrays and no operation 193 microseconds against 43, on JAX 0.10.2. Operands may be types.
    """
    types = [typed(x) for x in operands]
    info = api_util.debug_info("funcgrad", fun, types, {})
    wrapped = linear_util.wrap_init(fun, debug_info=info)
    jaxpr, _, consts = partial_eval.trace_to_jaxpr_dynamic(wrapped, types)
    return core.ClosedJaxpr(jaxpr, consts)


def close(jaxpr: Any) -> Jaxpr:
    """A jaxpr with its constants; JAX 0.12 has one class for both, 0.10 has two."""
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def opened(program: Any) -> Any:
    """The jaxpr itself, which hashes by identity and may be referred to weakly."""
    return program.jaxpr if isinstance(program, core.ClosedJaxpr) else program


def once(fun: Callable[[Jaxpr], T]) -> Callable[[Jaxpr], T]:
    """Caches what `fun` finds in a program, as long as the program lives."""
    found: weakref.WeakKeyDictionary[Any, T] = weakref.WeakKeyDictionary()

    @functools.wraps(fun)
    def cached(program: Jaxpr) -> T:
        key = opened(program)
        if key not in found:
            found[key] = fun(program)
        return found[key]

    return cached


def inputs(program: Jaxpr) -> list[Any]:
    """The variables that are the inputs of a program."""
    return opened(program).invars


def outputs(program: Jaxpr) -> list[Any]:
    """The atoms that are the outputs of a program: variables and literals."""
    return opened(program).outvars


def constants(program: Jaxpr) -> dict[Any, Any]:
    """The arrays that a program holds, each by its variable."""
    return dict(zip(opened(program).constvars, program.consts, strict=True))


def is_tracer(x: Any) -> bool:
    """Whether a value stands for one that is not there yet: inside `jit`, `grad` or `vmap`."""
    return isinstance(x, jax.core.Tracer)


def is_concrete(x: Any) -> bool:
    """Whether a value can be looked at now, traced or not."""
    return not is_tracer(x) or x.to_concrete_value() is not None


def is_reference(x: Any) -> bool:
    """Whether a value is a reference to an array, as `jax.new_ref` makes it."""
    return not is_array_type(jax.typeof(x))


def is_array_type(type_: Any) -> bool:
    """Whether a type is that of an array, and not of a reference or a token."""
    return isinstance(type_, jax.core.ShapedArray)


def typed(x: Any) -> Any:
    """The type of an array; a type as it is."""
    return x if isinstance(x, jax.core.ShapedArray) else jax.typeof(x)


def is_literal(atom: Any) -> bool:
    """Whether an atom is a number that the program holds, and not a variable."""
    return isinstance(atom, Literal)


def value_of(literal: Any) -> Any:
    """The number of a literal."""
    return literal.val


def type_of(atom: Any) -> Any:
    """The type of an atom, as JAX has it: shape, dtype, weak type, sharding."""
    return atom.aval


def types(atoms: Sequence[Any]) -> list[Any]:
    """The type of each atom."""
    return [atom.aval for atom in atoms]


def input_types(program: Jaxpr) -> list[Any]:
    """The type of each input."""
    return types(inputs(program))


def argument_types(exported: Any) -> list[Any]:
    """The types of the arguments of a `jax.export.Exported`."""
    return list(exported.in_avals)


def output_types(program: Jaxpr) -> list[Any]:
    """The type of each output."""
    return types(outputs(program))


def variables(atoms: Sequence[Any]) -> list[Any]:
    """The variables among atoms, each once."""
    return list(dict.fromkeys(v for v in atoms if not isinstance(v, Literal)))


@once
def used(program: Jaxpr) -> set[Any]:
    """The variables that some equation of a program reads, or that are its outputs."""
    jaxpr = opened(program)
    return set(variables([*(v for eqn in jaxpr.eqns for v in eqn.invars), *jaxpr.outvars]))


def ordered_effect(program: Jaxpr) -> str | None:
    """The name of an effect whose order matters, if a program has one: it stops every reordering.

    Ordered prints and callbacks, and references to arrays outside the program.
    """
    kinds = ("Ordered", "ReadEffect", "WriteEffect", "AccumEffect")
    names = sorted(type(effect).__name__ for effect in program.effects)
    return next((name for name in names if name.startswith(kinds)), None)


def without_consts(program: Jaxpr) -> Jaxpr:
    """The same program with its constants as leading inputs."""
    jaxpr = opened(program)
    invars = [*jaxpr.constvars, *jaxpr.invars]
    return core.ClosedJaxpr(jaxpr.replace(constvars=[], invars=invars), ())


def with_consts(program: Jaxpr, consts: Sequence[Any]) -> Jaxpr:
    """The same program with its leading inputs as constants again."""
    jaxpr, count = opened(program), len(consts)
    constvars, invars = jaxpr.invars[:count], jaxpr.invars[count:]
    return core.ClosedJaxpr(jaxpr.replace(constvars=constvars, invars=invars), consts)


def without_numbers(program: Jaxpr) -> tuple[Jaxpr, list[Any]]:
    """The same program with the numbers that it holds as leading inputs, and these numbers.

    Those that are finite, and no integers: these are indices and counts. What stands in a program
    inside stays there.
    """
    jaxpr = opened(program)
    numbers: list[Any] = []
    instead: list[Any] = []

    def read(atom: Any) -> Any:
        number = _number(atom)
        if number is None:
            return atom
        numbers.append(number)
        instead.append(core.Var(atom.aval))
        return instead[-1]

    eqns = [eqn.replace(invars=[*map(read, eqn.invars)]) for eqn in jaxpr.eqns]
    outvars = [*map(read, jaxpr.outvars)]
    invars = [*instead, *jaxpr.invars]
    moved = jaxpr.replace(constvars=jaxpr.constvars, invars=invars, outvars=outvars, eqns=eqns)
    return core.ClosedJaxpr(moved, program.consts), numbers


def _number(atom: Any) -> Any:
    """The number of a literal as an argument of its very type; `None` where there is none."""
    if not isinstance(atom, Literal):
        return None
    type_: Any = atom.aval
    if not jax.numpy.issubdtype(type_.dtype, np.inexact):
        return None
    value = np.asarray(atom.val, type_.dtype)
    number = value.item() if type_.weak_type else value
    alike = jax.typeof(number) == type_ and np.isfinite(value)
    return number if alike else None


def part(jaxpr: Any, eqns: Sequence[Any], invars: Sequence[Any], outvars: Sequence[Any]) -> Jaxpr:
    """Some consecutive equations of a jaxpr as a program from `invars` to `outvars`.

    JAX itself evaluates them, so source lines, name scopes and contexts are kept.
    """
    cut = jaxpr.replace(constvars=[], invars=list(invars), outvars=list(outvars), eqns=list(eqns))
    return core.ClosedJaxpr(cut, ())


def inside_jit(program: Jaxpr) -> Jaxpr:
    """The program that a program which does nothing but call it under `jit` calls."""
    jaxpr = opened(program)
    while len(jaxpr.eqns) == 1 and jaxpr.eqns[0].primitive.name in ("pjit", "jit"):
        (eqn,) = jaxpr.eqns
        if list(eqn.invars) != list(jaxpr.invars) or list(eqn.outvars) != list(jaxpr.outvars):
            break
        program = close(eqn.params["jaxpr"])
        jaxpr = opened(program)
    return program


def used_inputs(program: Jaxpr, wanted: Sequence[bool] | None = None) -> list[bool]:
    """Which inputs the wanted outputs depend on, looking into calls, loops and branches."""
    jaxpr = opened(program)
    chosen = [True] * len(jaxpr.outvars) if wanted is None else list(wanted)
    return list(partial_eval.dce_jaxpr(jaxpr, chosen)[1])


def dependencies(program: Jaxpr) -> list[list[bool]]:
    """For each output, which inputs it depends on."""
    count = len(opened(program).outvars)
    return [used_inputs(program, [i == j for j in range(count)]) for i in range(count)]


def prune(program: Jaxpr, wanted: Sequence[bool], kept: Sequence[bool] | None = None) -> Jaxpr:
    """The program of the wanted outputs alone, from the same inputs or those kept."""
    jaxpr = opened(program)
    given = [True] * len(jaxpr.invars) if kept is None else list(kept)
    return close(partial_eval.dce_jaxpr(jaxpr, list(wanted), given)[0])


def function_name(program: Jaxpr) -> tuple[str, str]:
    """The Python function that a program was traced from, and its file; they may be empty."""
    info = getattr(opened(program), "debug_info", None)
    name, _, where = (getattr(info, "func_src_info", None) or "").partition(" at ")
    return name, where.rpartition(":")[0]


def argument_names(program: Jaxpr, count: int) -> list[str]:
    """What the function calls the last `count` inputs; empty where that is not known."""
    info = getattr(opened(program), "debug_info", None)
    names = list(getattr(info, "arg_names", None) or ())[-count:]
    return [name or "" for name in names] if len(names) == count else [""] * count


def shared_calls(jaxpr: Any) -> dict[Any, Any]:
    """Maps each cacheable equation of a jaxpr to an equivalent shared call.

    JAX finds the derivative of a jitted function once, and that of an operation each time anew;
    `jax.numpy` is made of inlined jitted functions for that reason, a jaxpr is not. One function
    stands for all equations that do the same, in this jaxpr and others. What is staged stays the
    same: each equation under its own source line and scopes.
    """
    calls = {}
    for eqn in jaxpr.eqns:
        operation = _operation(eqn)
        if operation is None:
            continue
        if operation not in _SHARED:
            if len(_SHARED) >= _ROOM:
                _SHARED.clear()
            _SHARED[operation] = _inlined(jaxpr, eqn)
        calls[eqn] = _SHARED[operation](eqn)
    return calls


_SHARED: dict[Any, Callable[[Any], Any]] = {}
_ROOM = 4096  # operations; each takes some kilobytes


def _operation(eqn: Any) -> Any:
    """What an equation does, equal for equations that do the same; `None` if it is not to share."""
    read = variables(eqn.invars)
    if not read or eqn.effects or len(eqn.outvars) != 1 or programs_in(eqn.params):
        return None
    operands = [
        (v.aval, np.asarray(v.val).tobytes()) if isinstance(v, Literal) else read.index(v)
        for v in eqn.invars
    ]
    operation = eqn.primitive, *eqn.params.items(), *operands, *types(read), eqn.ctx
    try:
        hash(operation)
    except TypeError:
        return None
    return operation


def _inlined(jaxpr: Any, eqn: Any) -> Callable[[Any], Any]:
    """A function that makes a call of one inlined jitted function of an equation like `eqn`."""
    source = eqn.source_info
    bare = eqn.replace(source_info=source.replace(name_stack=source.name_stack[:0]))
    read = variables(eqn.invars)
    body = part(jaxpr, [bare], read, eqn.outvars)
    like = _jit_of(len(read))
    params = {**like.params, "jaxpr": body, "name": eqn.primitive.name}
    return lambda eqn: eqn.replace(
        primitive=like.primitive, params=params, invars=variables(eqn.invars)
    )


@functools.cache
def _jit_of(count: int) -> Any:
    """An equation that calls some inlined jitted function of `count` operands and one result."""
    (eqn,) = jax.make_jaxpr(jax.jit(lambda *xs: -xs[0]))(*[0.0] * count).eqns
    early = jax.Inline.JAX_EARLY if hasattr(jax, "Inline") else True  # by JAX, not by XLA
    return eqn.replace(params={**eqn.params, "inline": early})


def programs_in(params: Any) -> list[Jaxpr]:
    """Every program in the parameters of an equation, however deep in tuples, lists and dicts."""
    if isinstance(params, core.Jaxpr | core.ClosedJaxpr):
        return [close(params)]
    if isinstance(params, dict):
        return [found for value in params.values() for found in programs_in(value)]
    if isinstance(params, tuple | list):
        return [found for value in params for found in programs_in(value)]
    if hasattr(params, "params"):  # a primitive made of an object, as lax.custom_root is
        return programs_in(params.params)
    if isinstance(params, jax.stages.Traced):  # as such primitives hold their functions
        return [close(params.jaxpr)]
    return []


class Piece(NamedTuple):
    """A step of a program that was cut: an equation by itself, or a stretch of others.

    Fields:
        reads, makes: the variables that it takes and those that it gives.
        equation: the index of the equation; `None` for a stretch.
        run: the stretch as a function; `None` for an equation.
    """

    reads: list[Any]
    makes: list[Any]
    equation: int | None
    run: Callable[..., list[Any]] | None


def cut(program: Jaxpr, at: Sequence[bool], share: bool) -> list[Piece]:
    """Cuts a program at chosen equations; linear in the number of equations and operands.

    Args:
        program: the program.
        at: for each equation, whether it is a piece of its own.
        share: whether equations in the stretches become shared calls.
    """
    jaxpr = opened(program)
    instead = shared_calls(jaxpr) if share else {}
    bools = _bools_behind(jaxpr)
    reads = [_reads(eqn, bools) for eqn in jaxpr.eqns]
    last: dict[Any, int] = {}
    for index, (eqn, read) in enumerate(zip(jaxpr.eqns, reads, strict=True)):
        last.update((v, index) for v in variables([*eqn.invars, *read]))
    last.update((v, len(jaxpr.eqns)) for v in variables(jaxpr.outvars))
    pieces: list[Piece] = []
    stretch: list[Any] = []
    for index, (eqn, alone) in enumerate(zip(jaxpr.eqns, at, strict=True)):
        if not alone:
            stretch.append(instead.get(eqn, eqn))
            continue
        pieces += _stretch(jaxpr, stretch, last, index)
        stretch = []
        pieces.append(Piece(reads[index], eqn.outvars, index, None))
    return pieces + _stretch(jaxpr, stretch, last, len(jaxpr.eqns))


def _stretch(jaxpr: Any, eqns: list[Any], last: dict[Any, int], end: int) -> list[Piece]:
    """The piece for equations that end before equation `end`, where there are any."""
    if not eqns:
        return []
    made = dict.fromkeys(v for eqn in eqns for v in eqn.outvars)
    needed = dict.fromkeys(v for eqn in eqns for v in variables(eqn.invars) if v not in made)
    results = [v for v in made if last.get(v, -1) >= end]
    run = as_function(part(jaxpr, eqns, list(needed), results))
    return [Piece(list(needed), results, None, run)]


def _reads(eqn: Any, bools: dict[Any, Any]) -> list[Any]:
    """What an equation reads; a `cond`, the bool behind its index, so as not to clamp the index."""
    first, *rest = eqn.invars or [None]
    if eqn.primitive.name == "cond" and not isinstance(first, Literal):
        return [bools.get(first, first), *rest]
    return eqn.invars


def _bools_behind(jaxpr: Any) -> dict[Any, Any]:
    """The integer variables that are a bool converted, each with the bool it was."""
    return {
        eqn.outvars[0]: eqn.invars[0]
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "convert_element_type" and eqn.invars[0].aval.dtype == bool
    }
