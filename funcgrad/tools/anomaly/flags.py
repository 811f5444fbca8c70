"""Adds one flag to a program: whether any value in it was NaN, or infinite where that is asked.

NaN is looked for only where it could get lost. What goes into a sum, a product or a matrix product
need not be looked at, since NaN in it is NaN in what comes out; what goes into a comparison, a
`where`, a conversion to integers or out of the program is. So a flag costs a few reductions, and a
program that is all arithmetic pays for one look at its results. Infinities do get lost (1 / inf is
0) and are looked for behind every operation.

What a function of JAX itself does inside is not looked at, its results are.

The flag may be up without need (a NaN constant that goes into a loop), and is never down where the
evaluation equation by equation would find something, rounding aside.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from ... import _jax
from ... import _source as source
from ..._loops import bounded_loop

_AXES = {"broadcast_in_dim", "expand_dims", "reshape", "rev", "squeeze", "transpose"}
_SAME = {"copy", "copy_p", "optimization_barrier", "stop_gradient", "pvary", "pcast"}
_CAST = {"convert_element_type", "reduce_precision", "device_put", "sharding_constraint"}
MOVES = frozenset(_AXES | _SAME | _CAST)
"""Primitives that put the values they are given in another place or precision."""

_ARITHMETIC = {"add", "add_any", "sub", "mul", "div", "neg", "abs", "square", "rem", "max", "min"}
_ROUNDING = {"floor", "ceil", "round"}
_POWERS = {"sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "logistic"}
_CIRCULAR = {"sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"}
_SPECIAL = {"asinh", "acosh", "atanh", "erf", "erfc", "erf_inv", "digamma"}
_SUMS = {"reduce_sum", "cumsum", "cumprod", "dot_general", "conv_general_dilated"}
_OURS = {"retain_grad", "register_hook", "inject_gradient"}
PASSES = MOVES | _ARITHMETIC | _ROUNDING | _POWERS | _CIRCULAR | _SPECIAL | _SUMS | _OURS
"""Primitives whose results hold NaN wherever NaN is in an operand of theirs."""

_ALSO = {"clamp", "complex", "convert_element_type", "integer_pow", "lgamma", "nextafter", "pow"}
ELEMENTWISE = _ARITHMETIC | _POWERS | _CIRCULAR | _SPECIAL | _ALSO | {"select_n"}
"""Primitives whose result at an index depends on the operands at that index alone."""

TYPED = ("pvary", "pcast")
"""Primitives that say along which mesh axes values vary, and compute nothing."""

BODIES: dict[str, Callable[[compat.JaxprEqn], compat.Call]] = {
    "jit": compat.jit,
    "call": compat.call,
    "checkpoint": compat.checkpoint,
    "custom_jvp_call": compat.custom,
    "custom_vjp_call": compat.custom,
    "saved_tensors_hooks": lambda eqn: compat.Call(
        eqn.params["hooked"].program(eqn.params["body"]), {}
    ),
    "pack": lambda eqn: compat.Call(eqn.params["body"], {}),
}
"""Equations that call one body once, and how each is read."""


def run(closed: _jax.Jaxpr, args: Sequence[Any], *, check_inf: bool) -> tuple[list[Any], Any]:
    """The results of a program, and whether a value in it is bad: a bool scalar."""
    flagging = Flagging(check_inf)
    results, flag = flagging.body(closed, args)
    jaxpr = compat.open_up(closed)
    passed = set() if check_inf else _passed(jaxpr, True)
    lost = [x for x, v in zip(args, jaxpr.invars, strict=True) if v not in passed]
    return results, flag | outputs(lost, check_inf=check_inf)


def outputs(arrays: Sequence[Any], *, check_inf: bool) -> Any:
    """Whether any of these arrays holds a bad value: a bool scalar."""
    return _any([_look(x, check_inf) for x in arrays if _floating(x)])


def _any(flags: Sequence[Any]) -> Any:
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), bool)


def _look(x: Any, inf: bool) -> Any:
    return jnp.any(~jnp.isfinite(x)) if inf else jnp.any(jnp.isnan(x))


def _floating(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


class Flagging:
    """Evaluates programs and collects flags.

    Attributes:
        check_inf: whether infinite values are bad too.
        axes: the mesh axes along which flags are typed as varying, inside `shard_map`.
    """

    def __init__(self, check_inf: bool, axes: frozenset[str] = frozenset()):
        self.check_inf, self.axes = check_inf, axes

    def flag(self, flags: Sequence[Any] = ()) -> Any:
        """Whether any of these flags is up, always of one type."""
        return _jax.varied(_any(flags), self.axes)

    def on(self, call: compat.ShardMap) -> "Flagging":
        """One that does the same inside a `shard_map`."""
        return Flagging(self.check_inf, self.axes | (call.axes.keys() if call.checked else set()))

    def program(
        self,
        closed: _jax.Jaxpr,
        args: Sequence[Any],
        planned: Sequence[bool] = (),
        own: bool = False,
    ) -> tuple[list[Any], list[Any]]:
        """The results of a program and the flags in it.

        Args:
            closed: the program.
            args: its inputs.
            planned: which of them are constants of the program around, all the first ones.
            own: whether whoever uses the results may lose a NaN in them unseen.
        """
        jaxpr = compat.open_up(closed)
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        constants = _planned(jaxpr, planned)
        watched = _watched(jaxpr, constants, own)
        flags: list[Any] = []
        infinite: dict[Any, Any] = {}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, _jax.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            known = [_jax.is_literal(v) or v in constants for v in eqn.invars]
            results, inner = self.equation(jaxpr, eqn, operands, known)
            env.update(zip(eqn.outvars, results, strict=True))
            flags += inner
            flags += [_look(env[v], False) for v in eqn.outvars if v in watched]
            if self.check_inf and not inner:
                flags += self._new_infinities(eqn, env, infinite)
        return [read(v) for v in jaxpr.outvars], flags

    def _new_infinities(
        self, eqn: compat.JaxprEqn, env: dict[Any, Any], infinite: dict[Any, Any]
    ) -> list[Any]:
        """Whether an equation makes infinities; one that is handed some may hand them on."""

        def has(v: Any) -> Any:
            if isinstance(v, _jax.Literal):
                return jnp.asarray(not math.isfinite(v.val))
            if v not in infinite:
                infinite[v] = jnp.any(jnp.isinf(env[v]))
            return infinite[v]

        handed = [has(v) for v in eqn.invars if _inexact(v)]
        made = [has(v) for v in eqn.outvars if _inexact(v)]
        return [_any(made) & ~_any(handed)] if made else []

    def equation(
        self, jaxpr: compat.Jaxpr, eqn: compat.JaxprEqn, operands: list[Any], planned: list[bool]
    ) -> tuple[list[Any], list[Any]]:
        """The results of an equation and the flags inside it."""
        kind = "" if source.of_library(eqn) else compat.kind(eqn)
        if kind in TYPED and not self.axes:  # a body of one device, looked into by itself
            return operands, []
        if kind in BODIES:
            return _called(self, eqn, operands, planned)
        if kind in _RULES:
            return _RULES[kind](self, eqn, operands)
        closed, inputs = compat.alone(jaxpr, eqn)
        known = {
            v: x
            for v, x in zip(eqn.invars, operands, strict=True)
            if not isinstance(v, _jax.Literal)
        }
        return list(_jax.as_function(closed)(*(known[v] for v in inputs))), []

    def each(
        self, closed: _jax.Jaxpr, args: Sequence[Any], count: int | None = None
    ) -> tuple[dict[Any, Any], list[Any]]:
        """The values of the first `count` equations, and for each whether what it makes is bad."""
        jaxpr = compat.open_up(closed)
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        planned, flags = _planned(jaxpr, ()), []
        for eqn in jaxpr.eqns[:count]:
            operands = [v.val if isinstance(v, _jax.Literal) else env[v] for v in eqn.invars]
            known = [_jax.is_literal(v) or v in planned for v in eqn.invars]
            results, inner = self.equation(jaxpr, eqn, operands, known)
            env.update(zip(eqn.outvars, results, strict=True))
            made = [v for v in eqn.outvars if _inexact(v) and v not in planned]
            flags.append(self.flag([*inner, *(_look(env[v], self.check_inf) for v in made)]))
        return env, flags

    def body(self, closed: _jax.Jaxpr, args: Sequence[Any]) -> tuple[list[Any], Any]:
        """The results of a body whose results may get lost, and its one flag."""
        results, flags = self.program(closed, args, own=True)
        return results, self.flag(flags)


def _inexact(v: Any) -> bool:
    return hasattr(v.aval, "dtype") and bool(jnp.issubdtype(v.aval.dtype, jnp.inexact))


def _watched(jaxpr: compat.Jaxpr, planned: set[Any], own: bool) -> set[Any]:
    """The variables that are made in a program and in which NaN has to be looked for.

    Not those that a NaN goes on from, nor what is made of constants alone: NaN is planned there.
    """
    passed = _passed(jaxpr, own) | planned
    made = (v for eqn in jaxpr.eqns for v in eqn.outvars)
    return {v for v in made if _inexact(v) and v.aval.size and v not in passed}


def _passed(jaxpr: compat.Jaxpr, own: bool) -> set[Any]:
    """The variables that a NaN goes on from, to what is looked at in their place."""
    passed: set[Any] = set()
    for eqn in jaxpr.eqns:
        passed.update(_passing(eqn))
    return passed if own else passed | {v for v in jaxpr.outvars if not _jax.is_literal(v)}


def _passing(eqn: compat.JaxprEqn) -> list[Any]:
    """The operands of an equation that a NaN goes on from."""
    kind = compat.kind(eqn)
    if kind in BODIES:
        body = compat.open_up(BODIES[kind](eqn).body)
        inner = _reaching(body) if source.of_library(eqn) else _passed(body, False)
        pairs = zip(eqn.invars, body.invars, strict=True)
        return [v for v, i in pairs if i in inner and not _jax.is_literal(v)]
    if kind in PASSES and all(_inexact(v) and v.aval.size for v in eqn.outvars):
        return [v for v in eqn.invars if not _jax.is_literal(v)]
    return []


def _reaching(jaxpr: compat.Jaxpr) -> set[Any]:
    """The variables that a NaN goes on from, through operations alone, to a result of a program."""
    reaching = {v for v in jaxpr.outvars if not _jax.is_literal(v) and _inexact(v) and v.aval.size}
    for eqn in reversed(jaxpr.eqns):
        if all(v in reaching for v in eqn.outvars) and eqn.outvars:
            reaching.update(_passing(eqn))
    return reaching


def _planned(jaxpr: compat.Jaxpr, inputs: Sequence[bool]) -> set[Any]:
    """The variables that are constants put in another place, given which inputs are."""
    planned = {v for v, known in zip(jaxpr.invars, inputs, strict=False) if known}
    for eqn in jaxpr.eqns:
        known = all(_jax.is_literal(v) or v in planned for v in eqn.invars)
        if known and eqn.invars and _moves(eqn):
            planned.update(eqn.outvars)
    return planned


def _moves(eqn: compat.JaxprEqn) -> bool:
    kind = compat.kind(eqn)
    if kind in BODIES:
        return all(map(_moves, compat.open_up(BODIES[kind](eqn).body).eqns))
    return kind in MOVES


Inside = Callable[[Flagging, compat.JaxprEqn, list[Any]], tuple[list[Any], list[Any]]]
_RULES: dict[str, Inside] = {}


def _rule(*kinds: str) -> Callable[[Inside], Inside]:
    def add(inside: Inside) -> Inside:
        _RULES.update(dict.fromkeys(kinds, inside))
        return inside

    return add


def _called(
    flagging: Flagging, eqn: compat.JaxprEqn, operands: list[Any], planned: list[bool]
) -> tuple[list[Any], list[Any]]:
    """An equation that calls one body once."""
    call, several = BODIES[compat.kind(eqn)](eqn), [None] * len(operands)
    placed = map(_placed, operands, call.options.get("in_shardings", several))
    # What is recomputed must not be merged with what was computed first, or it would be kept.
    if compat.kind(eqn) == "checkpoint" and compat.is_recomputation(eqn):
        placed = iter(lax.optimization_barrier(tuple(placed)))
    results, flags = flagging.program(call.body, list(placed), planned)
    wanted = call.options.get("out_shardings", [None] * len(results))
    return [*map(_placed, results, wanted)], flags


def _placed(x: Any, sharding: Any) -> Any:
    return x if sharding is None else lax.with_sharding_constraint(x, sharding)


@_rule("cond")
def _cond(
    flagging: Flagging, eqn: compat.JaxprEqn, operands: list[Any]
) -> tuple[list[Any], list[Any]]:
    which, *rest = operands
    taken = [lambda *xs, b=body: flagging.body(b, xs) for body in compat.branches(eqn)]
    results, flag = lax.switch(which, taken, *rest)
    return list(results), [flag]


@_rule("scan")
def _scan(
    flagging: Flagging, eqn: compat.JaxprEqn, operands: list[Any]
) -> tuple[list[Any], list[Any]]:
    loop = compat.scan(eqn)
    consts, init = operands[: loop.consts], operands[loop.consts :][: loop.carry]
    xs = operands[loop.consts + loop.carry :]

    def step(state: Any, row: Any) -> Any:
        carry, flag = state
        out, new = flagging.body(loop.body, [*consts, *carry, *row])
        return (_like(carry, out[: loop.carry]), flag | new), out[loop.carry :]

    start = _arrays(eqn.invars[loop.consts :], init), flagging.flag()
    (carry, flag), ys = lax.scan(step, start, list(xs), **loop.options)
    return [*carry, *ys], [flag]


def _arrays(atoms: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Operands as arrays of their exact types; numbers in a program have none of their own."""
    return [
        lax.full((), x, atom.aval.dtype) if isinstance(x, int | float | complex) else jnp.asarray(x)
        for x, atom in zip(values, atoms, strict=False)
    ]


def _like(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """Values with the weak type of those they replace."""
    return [
        lax.convert_element_type(x, o.dtype) if getattr(x, "weak_type", False) else x
        for o, x in zip(old, new, strict=True)
    ]


@_rule("while")
def _while(
    flagging: Flagging, eqn: compat.JaxprEqn, operands: list[Any]
) -> tuple[list[Any], list[Any]]:
    loop = compat.while_loop(eqn)
    conds, rest = operands[: loop.conds], operands[loop.conds :]
    consts, init = rest[: loop.consts], rest[loop.consts :]

    def test(carry: Any) -> Any:
        (more,), flag = flagging.body(loop.cond, [*conds, *carry])
        return more, flag

    def advance(state: Any) -> Any:
        carry, going, flag = state
        new, in_body = flagging.body(loop.body, [*consts, *carry])
        new = [where(going, x, old) for x, old in zip(_like(carry, new), carry, strict=True)]
        more, in_cond = test(new)
        return new, more, flag | in_body | in_cond

    init = _arrays(eqn.invars[loop.conds + loop.consts :], init)
    more, flag = test(init)
    start = init, more, flag
    carry, _, flag = lax.while_loop(lambda state: jnp.any(state[1]), advance, start)
    return list(carry), [flag]


def where(going: Any, new: Any, old: Any) -> Any:
    """The next carry; in a `while` that `vmap` made, that of the examples that go on."""
    if not jnp.ndim(going):
        return new
    return lax.select_n(lax.broadcast_in_dim(going, new.shape, range(going.ndim)), old, new)


@_rule("bounded_loop")
def _bounded(
    flagging: Flagging, eqn: compat.JaxprEqn, operands: list[Any]
) -> tuple[list[Any], list[Any]]:
    loop = eqn.params["loop"]
    ops = loop.operands(operands)
    programs = loop.body, loop.cond
    inits = _arrays(loop.operands(eqn.invars).carry, ops.carry)

    def step(given: list[Any], state: list[Any], row: list[Any]) -> Any:
        flag, *carry = state
        conds, consts = given[: loop.conds], given[loop.conds :]
        in_cond = test(conds, carry)[1]
        out, in_body = flagging.body(programs[0], [*consts, *carry, *row])
        flag = flag | in_cond | in_body
        return [flag, *_like(carry, out[: loop.carry])], out[loop.carry :]

    def test(conds: list[Any], carry: list[Any]) -> Any:
        if programs[1] is None:
            return True, flagging.flag()
        (more,), flag = flagging.body(programs[1], [*conds, *carry])
        return more, flag

    steps, state, ys = bounded_loop(
        ops.limit,
        step,
        [*ops.conds, *ops.consts],
        [flagging.flag(), *inits],
        ops.xs,
        None if loop.cond is None else lambda conds, state: test(conds, state[1:])[0],
        ops.conds,
        length=loop.length,
        reverse=loop.reverse,
    )
    flag, *carry = state
    return [steps, *carry, *ys], [flag, test(ops.conds, carry)[1]]


@_rule("bounded_loop_jvp")
def _bounded_jvp(
    flagging: Flagging, eqn: compat.JaxprEqn, operands: list[Any]
) -> tuple[list[Any], list[Any]]:
    types = [v.aval for v in eqn.invars]
    body = jax.make_jaxpr(lambda *xs: eqn.primitive.impl(*xs, **eqn.params))(*types)
    return flagging.program(body, operands)


@_rule("shard_map")
def _shard_map(
    flagging: Flagging, eqn: compat.JaxprEqn, operands: list[Any]
) -> tuple[list[Any], list[Any]]:
    call = compat.shard_map(eqn)
    inside = flagging.on(call)

    def body(*operands: Any) -> tuple[list[Any], list[Any]]:
        results, flag = inside.body(call.body, operands)
        return results, per_device(call, [flag])

    results, flags = over_devices(call, body, list(call.out_specs))(*operands)
    return list(results), [jnp.any(flags[0])]


def per_device(call: compat.ShardMap, values: Sequence[Any]) -> list[Any]:
    """Values in a `shard_map` with an axis in front for each mesh axis, to come out by device."""
    axes = frozenset(call.axes)
    rows = [_jax.varied(x, axes) if call.checked else x for x in values]
    return [x.reshape((1,) * len(axes) + x.shape) for x in rows]


def over_devices(call: compat.ShardMap, body: Callable[..., Any], specs: Any) -> Callable[..., Any]:
    """`jax.shard_map` of another body: `-> (results after specs, results of per_device)`."""
    return jax.shard_map(
        body,
        mesh=call.mesh,
        in_specs=call.in_specs,
        out_specs=(specs, PartitionSpec(*call.axes)),
        axis_names=set(call.axes),
        check_vma=call.checked,
    )
