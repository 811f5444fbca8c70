"""The anatomy of JAX's own primitives that hold programs: an entry for each, on every JAX line."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from .equations import (
    BRANCH,
    CALL,
    CARRY,
    CUSTOM,
    DEVICE,
    ROW,
    STEP,
    TEST,
    WHOLE,
    Body,
    Equation,
    Link,
    Run,
    Total,
    Trips,
    anatomy,
)
from .meshes import placed, varied
from .trace import close, inputs

Reentered = tuple[list[Any], Any]


def links(*parts: tuple[int, str], start: int = 0) -> tuple[Link, ...]:
    """Links to consecutive places, `(count, flow)` of each flow."""
    flows = [flow for count, flow in parts for _ in range(count)]
    return tuple(Link(start + index, flow) for index, flow in enumerate(flows))


def straight(equation: Equation, program: Any, role: str, **rest: Any) -> tuple[Body, ...]:
    """The one body whose inputs are the operands and whose outputs are the results."""
    given, made = (len(equation.reads), WHOLE), (len(equation.makes), WHOLE)
    return (Body(close(program), role, links(given), links(made), **rest),)


# Calls.


def _jit_bodies(equation: Equation) -> tuple[Body, ...]:
    return straight(equation, equation.params["jaxpr"], CALL)


def placements(equation: Equation) -> tuple[list[Any], list[Any]]:
    """The shardings that a `jit` asks of its operands and results, `None` where of none."""
    if equation.kind != "jit":
        return [None] * len(equation.reads), [None] * len(equation.makes)
    params = equation.params
    return [*map(_asked, params["in_shardings"])], [*map(_asked, params["out_shardings"])]


def _asked(sharding: Any) -> Any:
    return None if type(sharding).__name__ == "UnspecifiedValue" else sharding


def _jit(equation: Equation, operands: Sequence[Any], run: Run, given: Any) -> Reentered:
    (body,), params = equation.bodies, equation.params
    into, outof = placements(equation)
    options = {
        "in_shardings": (None, *into),
        "out_shardings": (outof, None),
        "donate_argnums": tuple(1 + i for i, d in enumerate(params["donated_invars"]) if d),
        "keep_unused": params["keep_unused"],
        "inline": params["inline"],
    }
    # One jitted function for each body, what runs in its place, and the options, so that a second
    # call finds it compiled. It holds its body weakly: both live as long as the user's own jitted
    # function. It is called here alone, where the body is at hand whenever it is traced.
    # What runs there may hold values of the call; it then says where to keep the function.
    kept = getattr(run, "jitted", None)
    jitted = (_JITTED if kept is None else kept).setdefault(body.program, {})
    compiler, name = params["compiler_options_kvs"], params["name"]
    key = run, name, compiler, *map(_key, options.values())
    if key not in jitted:
        program: Any = weakref.ref(body.program)
        rest: Any = body[1:]

        def fun(given: Any, *operands: Any) -> Any:
            outputs, made = run(Body(program(), *rest), operands, given)
            return list(outputs), made

        fun.__name__ = fun.__qualname__ = name
        jitted[key] = jax.jit(fun, compiler_options=dict(compiler) or None, **options)
    return jitted[key](given, *operands)


def _key(option: Any) -> Any:
    return tuple(map(_key, option)) if isinstance(option, list | tuple) else option


_JITTED: Any = weakref.WeakKeyDictionary()


def _call_bodies(equation: Equation) -> tuple[Body, ...]:
    return straight(equation, equation.params["call_jaxpr"], CALL)


def _call(equation: Equation, operands: Sequence[Any], run: Run, given: Any) -> Reentered:
    (body,) = equation.bodies
    outputs, made = run(body, operands, given)
    return list(outputs), made


def _checkpoint(equation: Equation, operands: Sequence[Any], run: Run, given: Any) -> Reentered:
    (body,), params = equation.bodies, equation.params
    keep: Any = params["prevent_cse"]
    keep = keep if isinstance(keep, bool) else (True, list(keep))

    def fun(given: Any, operands: Sequence[Any]) -> Reentered:
        outputs, made = run(body, operands, given)
        return list(outputs), made

    again = jax.checkpoint(fun, prevent_cse=keep, policy=params["policy"])
    return again(given, list(operands))


def _custom_bodies(equation: Equation) -> tuple[Body, ...]:
    """The function without its rule."""
    if "call_jaxpr" in equation.params:
        return straight(equation, equation.params["call_jaxpr"], CUSTOM)
    # The announced forms: behind the constants stand operands that the rule alone is given.
    program = close(equation.params["traced"].jaxpr)
    consts, count = equation.constants_of_rule, len(inputs(program))
    skip = len(equation.reads) - count
    given = (*links((consts, WHOLE)), *links((count - consts, WHOLE), start=consts + skip))
    return (Body(program, CUSTOM, given, links((len(equation.makes), WHOLE))),)


# Branches.


def _cond_bodies(equation: Equation) -> tuple[Body, ...]:
    given = links((len(equation.reads) - 1, WHOLE), start=1)
    made = links((len(equation.makes), WHOLE))
    return tuple(Body(close(b), BRANCH, given, made) for b in equation.params["branches"])


def _cond(equation: Equation, operands: Sequence[Any], run: Run, given: Any) -> Reentered:
    which, *rest = operands

    def taken(body: Body) -> Callable[..., Reentered]:
        def branch(given: Any, *rest: Any) -> Reentered:
            outputs, made = run(body, rest, given)
            return list(outputs), made

        return branch

    ways = [taken(body) for body in equation.bodies]
    if jnp.issubdtype(jnp.result_type(which), jnp.bool_):
        return jax.lax.cond(which, ways[1], ways[0], given, *rest)
    return jax.lax.switch(which, ways, given, *rest)


# Loops.


def _scan_counts(equation: Equation) -> tuple[int, int]:
    """How many constants and carries a `scan` has: counts of operands (0.10) or trees (0.12)."""
    params = equation.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry = (len(part.vals) for part in params["ft_in"].unpack()[:2])
    return consts, carry


def _scan_bodies(equation: Equation) -> tuple[Body, ...]:
    consts, carry = _scan_counts(equation)
    rows, ys = len(equation.reads) - consts - carry, len(equation.makes) - carry
    given = links((consts, WHOLE), (carry, CARRY), (rows, ROW))
    made = links((carry, CARRY), (ys, ROW))
    return (Body(close(equation.params["jaxpr"]), STEP, given, made),)


def _scan_trips(equation: Equation) -> Trips:
    return Trips(equation.params["length"], reverse=equation.params["reverse"])


def _scan(
    equation: Equation, operands: Sequence[Any], run: Run, given: Any, total: Total | None
) -> Reentered:
    (body,), params = equation.bodies, equation.params
    consts, count = body.take(operands, WHOLE), len(body.take(operands, CARRY))
    names = ("length", "reverse", "unroll", "_split_transpose")
    options = {name: params[name] for name in names if name in params}

    def step(state: Any, row: Any) -> Any:
        carry, added = state
        xs, given = row
        outputs, made = run(body, [*consts, *carry, *xs], given)
        if total is not None:
            added, made = total.add(added, made), None
        return (list(outputs[:count]), added), (list(outputs[count:]), made)

    start = body.take(operands, CARRY), total and total.start
    rows = body.take(operands, ROW), given
    (carry, added), (ys, made) = jax.lax.scan(step, start, rows, **options)
    return [*carry, *ys], made if total is None else added


def _while_bodies(equation: Equation) -> tuple[Body, ...]:
    params = equation.params
    conds, consts = params["cond_nconsts"], params["body_nconsts"]
    carry = (len(equation.makes), CARRY)
    carried = links(carry, start=conds + consts)
    step = (*links((consts, WHOLE), start=conds), *carried)
    return (
        Body(close(params["body_jaxpr"]), STEP, step, links(carry)),
        Body(close(params["cond_jaxpr"]), TEST, (*links((conds, WHOLE)), *carried), ()),
    )


def _while(
    equation: Equation, operands: Sequence[Any], run: Run, given: Any, total: Total | None
) -> Reentered:
    body, test = equation.bodies
    consts, conds = body.take(operands, WHOLE), test.take(operands, WHOLE)

    def tested(carry: Sequence[Any], added: Any) -> tuple[Any, Any]:
        (more,), made = run(test, [*conds, *carry], given)
        return more, total and total.add(added, made)

    def advance(state: Any) -> Any:
        carry, more, added = state
        outputs, made = run(body, [*consts, *carry], given)
        carry = [going_on(more, x, old) for x, old in zip(outputs, carry, strict=True)]
        return carry, *tested(carry, total and total.add(added, made))

    init = body.take(operands, CARRY)
    start = init, *tested(init, total and total.start)
    carry, _, added = jax.lax.while_loop(lambda state: jnp.any(state[1]), advance, start)
    return list(carry), added


def going_on(more: Any, new: Any, old: Any) -> Any:
    """The next carry; in a `while` that `vmap` made, that of the examples that go on."""
    if not jnp.ndim(more):
        return new
    return jax.lax.select_n(jax.lax.broadcast_in_dim(more, new.shape, range(more.ndim)), old, new)


# Meshes.


def _shard_map_bodies(equation: Equation) -> tuple[Body, ...]:
    params = equation.params
    manual = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]
    axes = {name: size for name, size in params["mesh"].shape.items() if name in manual}
    return straight(equation, params["jaxpr"], DEVICE, axes=axes, typed=params["check_vma"])


def _shard_map(
    equation: Equation, operands: Sequence[Any], run: Run, given: Any, varying: Any
) -> Reentered:
    (body,), mesh = equation.bodies, equation.params["mesh"]
    names, leaves = tuple(body.axes), jax.tree.leaves(given)
    # A leaf that is the same along a mesh axis is the sum of its (zero) rows, whose transpose gives
    # every row the whole gradient, as every device holds it.
    differing = jax.tree.leaves(varying, is_leaf=lambda x: isinstance(x, frozenset))
    differing = differing if varying is not None else [frozenset(names)] * len(leaves)
    specs = [PartitionSpec(*(a if a in d else None for a in names)) for d in differing]
    rows = [
        placed(_summed(x, names, d), mesh, spec)
        for x, d, spec in zip(leaves, differing, specs, strict=True)
    ]
    tree = jax.tree.structure(given)

    def device(rows: list[Any], *operands: Any) -> Reentered:
        own = jax.tree.unflatten(tree, [x.reshape(x.shape[len(names) :]) for x in rows])
        outputs, made = run(body, operands, own)
        return list(outputs), jax.tree.map(lambda x: _with_device_axes(body, x), made)

    out_specs = list(equation.params["out_specs"])
    return on_devices(equation, device, (specs, *equation.params["in_specs"]), out_specs)(
        rows, *operands
    )


def on_devices(
    equation: Equation, device: Callable[..., Any], in_specs: Any = None, out_specs: Any = None
) -> Callable[..., Any]:
    """`jax.shard_map` of another body over the mesh of a `shard_map` equation.

    The body gives what goes out after `out_specs`, and values with an axis in front for each mesh
    axis.
    """
    (body,), params = equation.bodies, equation.params
    return jax.shard_map(
        device,
        mesh=params["mesh"],
        in_specs=in_specs or tuple(params["in_specs"]),
        out_specs=(out_specs, PartitionSpec(*body.axes)),
        axis_names=set(body.axes),
        check_vma=body.typed,
    )


def _with_device_axes(body: Body, x: Any) -> Any:
    """A value of one device with an axis in front for each mesh axis, to come out by device."""
    x = varied(x, frozenset(body.axes)) if body.typed else x
    return x.reshape((1,) * len(body.axes) + x.shape)


def made_on_devices(
    equation: Equation, operands: Sequence[Any], make: Callable[..., list[Any]]
) -> list[Any]:
    """What `make(*operands)` gives on each device of a `shard_map`: an axis for each mesh axis."""
    (body,) = equation.bodies

    def device(*operands: Any) -> Any:
        return [], [_with_device_axes(body, jnp.asarray(x)) for x in make(*operands)]

    return jax.jit(on_devices(equation, device, out_specs=[]))(*operands)[1]


def _summed(x: Any, names: tuple[str, ...], differing: frozenset[str]) -> Any:
    same = tuple(i for i, name in enumerate(names) if name not in differing)
    return x.sum(same, keepdims=True) if same else x


anatomy("jit", _jit_bodies, _jit)
anatomy("call", _call_bodies, _call)
anatomy("checkpoint", _jit_bodies, _checkpoint)
anatomy("custom_jvp_call", _custom_bodies)
anatomy("custom_vjp_call", _custom_bodies)
anatomy("cond", _cond_bodies, _cond)
anatomy("scan", _scan_bodies, _scan, lambda e: (e.params["length"],), _scan_trips)
anatomy("while", _while_bodies, _while, trips=lambda e: Trips(None))
anatomy("shard_map", _shard_map_bodies, _shard_map, lambda e: tuple(e.bodies[0].axes.values()))
