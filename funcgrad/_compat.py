"""The only door to `jax.extend` and `jax.interpreters`.

JAX renames the parameters of its primitives nearly every release. Whatever funcgrad reads from an
equation, or registers for a primitive of its own, goes through here, so that a new JAX is supported
by editing this file. JAX's private modules are not used, here or elsewhere.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import api_util
from jax.extend import core, linear_util
from jax.interpreters import ad, batching, mlir, partial_eval

Jaxpr: TypeAlias = core.Jaxpr
ClosedJaxpr: TypeAlias = core.ClosedJaxpr
JaxprEqn: TypeAlias = core.JaxprEqn
Primitive: TypeAlias = core.Primitive
Literal = core.Literal
Zero = ad.Zero
add_tangents = ad.add_tangents
instantiate_zeros = ad.instantiate_zeros
jaxpr_as_fun = core.jaxpr_as_fun
set_current_trace = core.set_current_trace


def identity_primitive(
    name: str,
    *,
    kept: Callable[..., int],
    jvp: Callable[..., Any],
    transpose: Callable[..., Any],
    batch: Callable[..., Any],
) -> Primitive:
    """A primitive with several results that returns its first operands unchanged.

    Args:
        name: what jaxprs and error messages call it.
        kept: how many operands come back, from the number of operands and the parameters.
        jvp: `(primals, tangents, **params) -> (primals out, tangents out)`.
        transpose: `(cotangents, *operands, **params) -> cotangents of the operands`.
        batch: `(axis_data, operands, dims, **params) -> (results, result dims)`; it is called even
            where no operand is batched.

    It compiles to nothing: its lowering hands the operands on.
    """
    primitive = core.Primitive(name)
    primitive.multiple_results = True

    def identity(*operands: Any, **params: Any) -> list[Any]:
        return list(operands[: kept(len(operands), **params)])

    primitive.def_impl(identity)
    primitive.def_abstract_eval(identity)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.fancy_primitive_batchers[primitive] = batch
    mlir.register_lowering(
        primitive, lambda ctx, *operands, **params: identity(*operands, **params)
    )
    return primitive


def computing_primitive(
    name: str, impl: Callable[..., Any], types: Callable[..., Any]
) -> Primitive:
    """A primitive with several results that does and compiles to what the function `impl` does.

    Args:
        name: what jaxprs and error messages call it.
        impl: `(*operands, **params) -> results`, made of JAX functions.
        types: `(*operand types, **params) -> result types`.
    """
    primitive = core.Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(impl)
    primitive.def_abstract_eval(types)
    mlir.register_lowering(primitive, mlir.lower_fun(impl, multiple_results=True))
    return primitive


def def_jvp(primitive: Primitive, rule: Callable[..., Any]) -> None:
    """Registers `(primals, tangents, **params) -> (primals out, tangents out)`."""
    ad.primitive_jvps[primitive] = rule


def def_batch(primitive: Primitive, rule: Callable[..., Any]) -> None:
    """Registers `(axis_data, operands, dims, **params) -> (results, result dims)`.

    It is called even where no operand is batched.
    """
    batching.fancy_primitive_batchers[primitive] = rule


def def_transpose(primitive: Primitive, rule: Callable[..., Any]) -> None:
    """Registers `(cotangents, *operands, **params) -> cotangents of the operands`."""
    ad.primitive_transposes[primitive] = rule


def def_partial_eval(
    primitive: Primitive, split: Callable[..., Any], known: Callable[..., Any]
) -> None:
    """Registers what becomes of a primitive of which only some operands are known.

    Args:
        primitive: the primitive.
        split: `(trace, *tracers, **params) -> results`, known ones as they are.
        known: `(unknown operands, **params) -> (primitive, params, operands, results)`, which
            computes the first `results` results from the first `operands` operands, or `None` where
            nothing can be known; asked inside `jax.checkpoint`, which computes the rest later.
    """
    partial_eval.custom_partial_eval_rules[primitive] = split

    def rule(saveable: Any, unknown: Any, instantiated: Any, eqn: JaxprEqn) -> Any:
        del saveable
        residuals = [
            v
            for v, at_hand in zip(eqn.invars, instantiated, strict=True)
            if not at_hand and not isinstance(v, Literal)
        ]
        part = known(unknown, **eqn.params)
        count = part[3] if part else 0
        unknown_out = [index >= count for index in range(len(eqn.outvars))]
        early = part and eqn.replace(
            primitive=part[0],
            params=part[1],
            invars=eqn.invars[: part[2]],
            outvars=eqn.outvars[:count],
        )
        # The whole equation once more among the later ones: what was known is there too.
        return early, eqn, unknown_out, [True] * len(eqn.outvars), residuals

    partial_eval.partial_eval_jaxpr_custom_rules[primitive] = rule


def def_dce(primitive: Primitive, rule: Callable[..., Any]) -> None:
    """Registers `(wanted results, eqn) -> (wanted operands, eqn of the wanted ones or None)`."""
    # JAX 0.12 hands over which operands are live in between, for references.
    partial_eval.dce_rules[primitive] = lambda wanted, *rest: rule(wanted, rest[-1])


def is_linear(operand: Any) -> bool:
    """Whether an operand of a transpose rule is one to find the cotangent of."""
    return ad.is_undefined_primal(operand)


def vmap_like(
    axis: Any, fun: Callable[..., Any], in_axes: Any, out_axes: Any = 0
) -> Callable[..., Any]:
    """`jax.vmap` of `fun` over the very axis a batching rule was called for."""
    name = axis_name(axis)
    return jax.vmap(
        fun, in_axes, out_axes, axis_name=name, axis_size=axis.size, spmd_axis_name=axis.spmd_name
    )


def axis_name(axis: Any) -> Any:
    """The name of the axis a batching rule was called for, if it has one."""
    return axis.name if isinstance(axis.name, str | tuple) else None


def no_tangent(x: Any) -> Any:
    """The tangent of a result of a JVP rule that has none."""
    return Zero(jax.typeof(x).to_tangent_aval())


def is_literal(atom: Any) -> bool:
    """Whether an operand is a number that the program holds, and not a variable."""
    return isinstance(atom, Literal)


def trace(fun: Callable[..., list[Any]], operands: Sequence[Any]) -> ClosedJaxpr:
    """What `jax.make_jaxpr(fun)(*operands)` gives, for a function that returns a list of arrays.

    It does not go through `jax.jit`, which takes most of the time for a small program: for four
    arrays and no operation 193 microseconds against 43, on JAX 0.10.2. Operands may be types.
    """
    types = [x if isinstance(x, jax.core.ShapedArray) else jax.typeof(x) for x in operands]
    info = api_util.debug_info("funcgrad", fun, types, {})
    wrapped = linear_util.wrap_init(fun, debug_info=info)
    jaxpr, _, consts = partial_eval.trace_to_jaxpr_dynamic(wrapped, types)
    return core.ClosedJaxpr(jaxpr, consts)


def close(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """A jaxpr with its constants; JAX 0.12 has one class for both, 0.10 has two."""
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def open_up(jaxpr: Jaxpr | ClosedJaxpr) -> Jaxpr:
    """The jaxpr itself, which hashes by identity and may be referred to weakly."""
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def sequenced(closed: ClosedJaxpr) -> str | None:
    """The name of an effect whose order matters, if a program has one: it stops every reordering.

    Ordered prints and callbacks, and references to arrays outside the program.
    """
    kinds = ("Ordered", "ReadEffect", "WriteEffect", "AccumEffect")
    names = sorted(type(effect).__name__ for effect in closed.effects)
    return next((name for name in names if name.startswith(kinds)), None)


def without_consts(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same program with its constants as leading inputs."""
    jaxpr = open_up(closed)
    invars = [*jaxpr.constvars, *jaxpr.invars]
    return core.ClosedJaxpr(jaxpr.replace(constvars=[], invars=invars), ())


def program(
    jaxpr: Jaxpr, eqns: Sequence[JaxprEqn], invars: Any, outvars: Any
) -> Callable[..., Any]:
    """Some consecutive equations of `jaxpr` as a function from `invars` to `outvars`.

    JAX itself evaluates them, so source lines, name scopes and contexts are kept.
    """
    part = jaxpr.replace(constvars=[], invars=list(invars), outvars=list(outvars), eqns=list(eqns))
    return core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))


def shared(jaxpr: Jaxpr) -> dict[JaxprEqn, JaxprEqn]:
    """For each equation that can be, a call of an inlined jitted function that does the same.

    JAX finds the derivative of a jitted function once, and that of an operation each time anew;
    `jax.numpy` is made of inlined jitted functions for that, and a jaxpr no more. One function
    stands for all equations that do the same, in this jaxpr and others. What is staged is as it
    was: each equation under its own source line and scopes.
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


_SHARED: dict[Any, Callable[[JaxprEqn], JaxprEqn]] = {}
_ROOM = 4096  # operations; each takes some kilobytes


def _operation(eqn: JaxprEqn) -> Any:
    """What an equation does, equal for equations that do the same; `None` if it is not to share."""
    variables = _variables(eqn)
    if not variables or eqn.effects or len(eqn.outvars) != 1 or subjaxprs(eqn.params):
        return None
    operands = [
        (v.aval, np.asarray(v.val).tobytes()) if isinstance(v, Literal) else variables.index(v)
        for v in eqn.invars
    ]
    types = [v.aval for v in variables]
    operation = eqn.primitive, *eqn.params.items(), *operands, *types, eqn.ctx
    try:
        hash(operation)
    except TypeError:
        return None
    return operation


def _inlined(jaxpr: Jaxpr, eqn: JaxprEqn) -> Callable[[JaxprEqn], JaxprEqn]:
    """Makes of equations that do the same as `eqn` calls of one inlined jitted function."""
    source = eqn.source_info
    bare = eqn.replace(source_info=source.replace(name_stack=source.name_stack[:0]))
    body, operands = alone(jaxpr, bare)
    like = _jit_of(len(operands))
    params = {**like.params, "jaxpr": body, "name": eqn.primitive.name}
    return lambda eqn: eqn.replace(primitive=like.primitive, params=params, invars=_variables(eqn))


@functools.cache
def _jit_of(count: int) -> JaxprEqn:
    """An equation that calls some inlined jitted function of `count` operands and one result."""
    (eqn,) = jax.make_jaxpr(jax.jit(lambda *xs: -xs[0]))(*[0.0] * count).eqns
    early = jax.Inline.JAX_EARLY if hasattr(jax, "Inline") else True  # by JAX, not by XLA
    return eqn.replace(params={**eqn.params, "inline": early})


def used_inputs(closed: ClosedJaxpr, wanted: Sequence[bool] | None = None) -> list[bool]:
    """Which inputs the wanted outputs depend on, looking into calls, loops and branches."""
    jaxpr = open_up(closed)
    chosen = [True] * len(jaxpr.outvars) if wanted is None else list(wanted)
    return list(partial_eval.dce_jaxpr(jaxpr, chosen)[1])


def dependencies(closed: ClosedJaxpr) -> list[list[bool]]:
    """For each output, which inputs it depends on."""
    count = len(open_up(closed).outvars)
    return [used_inputs(closed, [i == j for j in range(count)]) for i in range(count)]


def prune(
    closed: ClosedJaxpr, wanted: Sequence[bool], kept: Sequence[bool] | None = None
) -> ClosedJaxpr:
    """The program of the wanted outputs alone, from the same inputs or those kept."""
    jaxpr = open_up(closed)
    inputs = [True] * len(jaxpr.invars) if kept is None else list(kept)
    return close(partial_eval.dce_jaxpr(jaxpr, list(wanted), inputs)[0])


class Outputs(NamedTuple):
    """How the outputs of a program come about.

    Fields:
        invariant: for each output, whether it depends on the first inputs alone.
        program: those outputs from the first inputs, or `None` where there are none.
        inputs: for each output, the index of the input that it is, if it is one.
        firsts: for each output, the index of the first output that is the same value.
    """

    invariant: list[bool]
    program: ClosedJaxpr | None
    inputs: list[int | None]
    firsts: list[int]


def outputs(closed: ClosedJaxpr, count: int, start: int) -> Outputs:
    """How the outputs from `start` on come about; invariant is what the first `count` inputs give.

    Equations with effects are not invariant: they happen as often as they did.
    """
    jaxpr = open_up(closed)
    invars, outvars = list(jaxpr.invars), list(jaxpr.outvars[start:])
    known, eqns = set(invars[:count]), []
    for eqn in jaxpr.eqns:
        if not eqn.effects and all(isinstance(v, Literal) or v in known for v in eqn.invars):
            known.update(eqn.outvars)
            eqns.append(eqn)
    invariant = [isinstance(v, Literal) or v in known for v in outvars]
    inputs = [
        None if isinstance(v, Literal) or v not in invars else invars.index(v) for v in outvars
    ]
    firsts = [i if isinstance(v, Literal) else outvars.index(v) for i, v in enumerate(outvars)]
    hoisted = None
    if any(invariant):
        wanted = [v for v, c in zip(outvars, invariant, strict=True) if c]
        part = jaxpr.replace(invars=invars[:count], outvars=wanted, eqns=eqns)
        hoisted = prune(close(part), [True] * len(wanted))
    return Outputs(invariant, hoisted, inputs, firsts)


# Operations on each element that cost less than to write their result down and read it again.
ARITHMETIC = {"add", "sub", "mul", "neg", "abs", "sign", "square", "integer_pow", "max", "min"}
LOGIC = {"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "select_n"}
MOVES = {"broadcast_in_dim", "convert_element_type", "copy", "imag", "real", "reshape", "squeeze"}
CHEAP = ARITHMETIC | LOGIC | MOVES


class Derived(NamedTuple):
    """Outputs of a program that follow cheaply from others.

    Fields:
        which: for each output, whether it does.
        program: these outputs from others, or `None` where there are none.
        inputs: the indices of the outputs that it takes.
    """

    which: list[bool]
    program: ClosedJaxpr | None
    inputs: list[int]


def derived(
    closed: ClosedJaxpr, start: int, at_hand: Sequence[bool], stored: Sequence[bool]
) -> Derived:
    """Which outputs, of those to be stored, follow from the others and from those at hand.

    Outputs are counted from `start` on; no two of those to be stored are the same value.
    """
    jaxpr = open_up(closed)
    outvars = list(jaxpr.outvars[start:])
    inputs = {
        v: i for i, v in enumerate(outvars) if at_hand[i] and not isinstance(v, Literal)
    }  # fmt: skip
    wanted = {v: i for i, v in enumerate(outvars) if stored[i]}
    inputs.update({v: wanted[v] for v in jaxpr.invars if v in wanted})
    follows: set[Any] = set()
    which, eqns = [False] * len(outvars), []
    for eqn in jaxpr.eqns:
        cheap = eqn.primitive.name in CHEAP and all(
            isinstance(v, Literal) or v in inputs or v in follows for v in eqn.invars
        )
        if cheap:
            eqns.append(eqn)
            follows.update(eqn.outvars)
        for v in eqn.outvars:
            if v in wanted and cheap:
                which[wanted[v]] = True
            elif v in wanted:
                inputs[v] = wanted[v]
    if not any(which):
        return Derived(which, None, [])
    chosen = [v for v, c in zip(outvars, which, strict=True) if c]
    part = jaxpr.replace(invars=list(inputs), outvars=chosen, eqns=eqns)
    return Derived(which, prune(close(part), [True] * len(chosen)), list(inputs.values()))


def hoist_casts(closed: ClosedJaxpr, count: int) -> tuple[ClosedJaxpr, ClosedJaxpr]:
    """Takes out what types values as differing between devices, and depends on constants alone.

    Args:
        closed: a program without constants of its own.
        count: how many of its inputs, the first ones, are constants.

    Returns:
        The program with such values as leading inputs, and one that makes them from the constants.
    """
    jaxpr = open_up(closed)
    known, eqns, cast = set(jaxpr.invars[:count]), [], []
    for eqn in jaxpr.eqns:
        if not eqn.effects and all(isinstance(v, Literal) or v in known for v in eqn.invars):
            known.update(eqn.outvars)
            eqns.append(eqn)
            if eqn.primitive.name in ("pvary", "pcast"):
                cast.extend(eqn.outvars)
    rest = [eqn for eqn in jaxpr.eqns if not set(eqn.outvars) & set(cast)]
    made = jaxpr.replace(invars=jaxpr.invars[:count], outvars=cast, eqns=eqns)
    return close(jaxpr.replace(invars=[*cast, *jaxpr.invars], eqns=rest)), close(made)


def subjaxprs(params: Any) -> list[Jaxpr]:
    """Every jaxpr in the parameters of an equation, however deep in tuples, lists and dicts."""
    if isinstance(params, core.Jaxpr | core.ClosedJaxpr):
        return [open_up(params)]
    if isinstance(params, dict):
        return [found for value in params.values() for found in subjaxprs(value)]
    if isinstance(params, tuple | list):
        return [found for value in params for found in subjaxprs(value)]
    if hasattr(params, "params"):  # a primitive made of an object, as lax.custom_root is
        return subjaxprs(params.params)
    return []


def scopes(eqn: JaxprEqn) -> tuple[str, ...]:
    """The `jax.named_scope` names around an equation, without what transforms add to the stack."""
    return tuple(name for name in _scope_names(eqn) if name != _RECOMPUTED)


def _scope_names(eqn: JaxprEqn) -> list[str]:
    stack = eqn.source_info.name_stack.stack
    return [entry.name for entry in stack if type(entry).__name__ == "Scope"]


_RECOMPUTED = "rematted_computation"


def is_recomputation(eqn: JaxprEqn) -> bool:
    """Whether an equation repeats, in a backward pass, what a forward pass has computed."""
    return bool(eqn.params.get("differentiated")) or _RECOMPUTED in _scope_names(eqn)


_KINDS = {
    "pjit": "jit",
    "jit": "jit",
    "scan": "scan",
    "cond": "cond",
    "call": "call",
    "core_call": "call",
    "closed_call": "call",
    "eval_jaxpr": "call",
    "checkpoint": "checkpoint",
    "remat": "checkpoint",
    "remat2": "checkpoint",
    "shard_map": "shard_map",
}


def function(jaxpr: Jaxpr) -> tuple[str, str]:
    """The name of the Python function that a jaxpr was traced from, and its file; may be empty."""
    info = getattr(jaxpr, "debug_info", None)
    name, _, where = (getattr(info, "func_src_info", None) or "").partition(" at ")
    return name, where.rpartition(":")[0]


def argument_names(jaxpr: Jaxpr, count: int) -> list[str]:
    """What the function calls the last `count` inputs of a jaxpr; empty where that is not known."""
    names = list(getattr(getattr(jaxpr, "debug_info", None), "arg_names", None) or ())[-count:]
    return [name or "" for name in names] if len(names) == count else [""] * count


def reads(jaxpr: Jaxpr) -> set[Any]:
    """The variables that some equation of a jaxpr uses, or that are its outputs."""
    used = [v for eqn in jaxpr.eqns for v in eqn.invars]
    return {v for v in [*used, *jaxpr.outvars] if not isinstance(v, Literal)}


def kind(eqn: JaxprEqn) -> str:
    """What an equation is, under a name that does not change with the release of JAX."""
    primitive = eqn.params.get("_prim")  # JAX 0.12's primitives made of objects
    name: str = type(primitive).__name__ if primitive is not None else eqn.primitive.name
    return _KINDS.get(name, name)


class Call(NamedTuple):
    """What a `jit`, `checkpoint` or `call` equation calls, and the keywords to call it anew."""

    body: ClosedJaxpr
    options: dict[str, Any]


class Scan(NamedTuple):
    """A `lax.scan` equation; its operands are the constants, the initial carry and the xs."""

    body: ClosedJaxpr
    length: int
    consts: int
    carry: int
    options: dict[str, Any]


def scan(eqn: JaxprEqn) -> Scan:
    """Reads a `scan` equation: counts of operands (0.10) or trees of them (0.12)."""
    params = eqn.params
    if "num_consts" in params:
        consts, carry = params["num_consts"], params["num_carry"]
    else:
        consts, carry = (len(part.vals) for part in params["ft_in"].unpack()[:2])
    options = {
        key: params[key]
        for key in ("length", "reverse", "unroll", "_split_transpose")
        if key in params
    }
    return Scan(close(params["jaxpr"]), params["length"], consts, carry, options)


def branches(eqn: JaxprEqn) -> list[ClosedJaxpr]:
    """The branches of a `cond` equation, in the order its index counts them."""
    return [close(branch) for branch in eqn.params["branches"]]


def bools_behind(jaxpr: Jaxpr) -> dict[Any, Any]:
    """The integer variables that are a bool converted, each with the bool it was."""
    return {
        eqn.outvars[0]: eqn.invars[0]
        for eqn in jaxpr.eqns
        if eqn.primitive.name == "convert_element_type" and eqn.invars[0].aval.dtype == bool
    }


def jit(eqn: JaxprEqn) -> Call:
    """Reads a `jit` equation; the keywords are `jax.jit`'s, with every operand an argument."""
    params = eqn.params
    donated = params["donated_invars"]
    options = {
        "in_shardings": tuple(map(_specified, params["in_shardings"])),
        "out_shardings": tuple(map(_specified, params["out_shardings"])),
        "donate_argnums": tuple(index for index, given in enumerate(donated) if given),
        "keep_unused": params["keep_unused"],
        "inline": params["inline"],
        "compiler_options": params["compiler_options_kvs"],
        "name": params["name"],
    }
    return Call(close(params["jaxpr"]), options)


def _specified(sharding: Any) -> Any:
    return None if type(sharding).__name__ == "UnspecifiedValue" else sharding


def inside_jit(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program that a program which does nothing but call it under `jit` calls."""
    jaxpr = open_up(closed)
    while len(jaxpr.eqns) == 1 and kind(jaxpr.eqns[0]) == "jit":
        (eqn,) = jaxpr.eqns
        if list(eqn.invars) != list(jaxpr.invars) or list(eqn.outvars) != list(jaxpr.outvars):
            break
        closed = jit(eqn).body
        jaxpr = open_up(closed)
    return closed


def call(eqn: JaxprEqn) -> Call:
    """Reads a `call` or `closed_call` equation, which has no public function of its own."""
    return Call(close(eqn.params["call_jaxpr"]), {})


def checkpoint(eqn: JaxprEqn) -> Call:
    """Reads a `checkpoint` equation."""
    options = {key: eqn.params[key] for key in ("prevent_cse", "policy")}
    return Call(close(eqn.params["jaxpr"]), options)


def custom(eqn: JaxprEqn) -> Call:
    """Reads a `custom_jvp_call` or `custom_vjp_call`: the function without its rule."""
    return Call(close(eqn.params["call_jaxpr"]), {})


class While(NamedTuple):
    """A `lax.while_loop` equation; its operands are the two kinds of constants and the carry."""

    cond: ClosedJaxpr
    body: ClosedJaxpr
    conds: int
    consts: int


def while_loop(eqn: JaxprEqn) -> While:
    """Reads a `while` equation."""
    params = eqn.params
    programs = close(params["cond_jaxpr"]), close(params["body_jaxpr"])
    return While(*programs, params["cond_nconsts"], params["body_nconsts"])


def alone(jaxpr: Jaxpr, eqn: JaxprEqn) -> tuple[ClosedJaxpr, list[Any]]:
    """One equation of `jaxpr` as a program, and the variables that are its inputs."""
    inputs = _variables(eqn)
    part = jaxpr.replace(constvars=[], invars=inputs, outvars=list(eqn.outvars), eqns=[eqn])
    return core.ClosedJaxpr(part, ()), inputs


def _variables(eqn: JaxprEqn) -> list[Any]:
    """The variables an equation reads, each once."""
    return list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, Literal)))


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


def frames(eqn: JaxprEqn) -> list[Frame]:
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


def transforms(eqn: JaxprEqn) -> list[str]:
    """The names of the transformations around an equation, `transpose` and `vmap` for example."""
    stack = eqn.source_info.name_stack.stack
    return [entry.name for entry in stack if type(entry).__name__ == "Transform"]


class ShardMap(NamedTuple):
    """A `jax.shard_map` equation.

    Fields:
        body: the program of one device.
        mesh: the mesh.
        axes: the mesh axes that become manual in it, with their sizes, in the mesh's order.
        in_specs, out_specs: one for each operand and result.
        checked: whether values are typed by the axes along which they vary.
    """

    body: ClosedJaxpr
    mesh: Any
    axes: dict[str, int]
    in_specs: tuple[Any, ...]
    out_specs: tuple[Any, ...]
    checked: bool


def shard_map(eqn: JaxprEqn) -> ShardMap:
    """Reads a `shard_map` equation."""
    params = eqn.params
    manual = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]
    mesh = params["mesh"]
    axes = {name: size for name, size in mesh.shape.items() if name in manual}
    specs = tuple(params["in_specs"]), tuple(params["out_specs"])
    return ShardMap(close(params["jaxpr"]), mesh, axes, *specs, params["check_vma"])


def varying(aval: Any) -> frozenset[str]:
    """The manual mesh axes along which a value inside `shard_map` varies."""
    axes = getattr(aval, "mat", None)
    return frozenset(axes.varying if axes is not None else getattr(aval, "vma", ()))


def one(aval: Any) -> Any:
    """1 as a value of the type `aval`: its dtype, weak type and mesh axes."""
    weak = aval.weak_type and jnp.asarray(1.0).dtype == aval.dtype
    x = jnp.broadcast_to(1.0, aval.shape) if weak else jnp.ones(aval.shape, aval.dtype)
    return placed_like(varied(x, varying(aval)), aval)


def varied(x: Any, axes: frozenset[str]) -> Any:
    """`x` typed as a value that may differ between devices along `axes`."""
    new = axes - varying(jax.typeof(x))
    return jax.lax.pcast(x, tuple(sorted(new)), to="varying") if new else x


def placed(x: Any, mesh: Any, spec: Any) -> Any:
    """`x` with the sharding a `shard_map` wants of it, where shardings are part of types."""
    explicit = any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)
    return jax.sharding.reshard(x, jax.NamedSharding(mesh, spec)) if explicit else x


def placed_like(x: Any, aval: Any) -> Any:
    """`x` with the sharding that the type `aval` has; as it is where types have none."""
    own, want = jax.typeof(x).sharding, aval.sharding
    return x if own.spec == want.spec else jax.sharding.reshard(x, want)
