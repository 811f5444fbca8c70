"""A primitive for linear functions that keep what they are given, and compute the rest again.

`recomputed` runs a function of residuals and of linear operands. In reverse mode its residuals are
kept as they are, and everything that the function makes of them is computed in the backward pass.
`jax.checkpoint` would serve where it can be transposed, which its announced form cannot.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._lists import merge, select, split_at
from ..errors import UsageError
from . import primitives
from .equations import CALL, anatomy
from .higher_order import straight
from .primitives import Zero, axis_name, instantiate_zeros, is_linear, no_tangent, vmap_like
from .trace import (
    Jaxpr,
    as_function,
    dependencies,
    input_types,
    is_reference,
    output_types,
    prune,
    trace,
    used_inputs,
    without_consts,
)


def recomputed(
    fun: Callable[..., list[Any]],
    residuals: Sequence[Any],
    linear: Sequence[Any],
    *,
    prevent_cse: bool = True,
) -> list[Any]:
    """`fun(*residuals, *linear)`, of which reverse mode keeps the residuals alone.

    Args:
        fun: a function of arrays that is linear in the last operands, to a list of arrays.
        residuals: what it is not linear in.
        linear: what it is linear in.
        prevent_cse: whether to keep the compiler from merging what the backward pass computes with
            what the forward pass computed; not needed in the body of a loop.
    """
    if any(map(is_reference, residuals)):
        # JAX resolves references in its own primitives alone.
        if getattr(jax.config, "jax_remat3", False):
            raise UsageError(
                "`saved_tensors_hooks` got an `unpack` that reads a reference, and with jax_remat3"
                " on JAX cannot take the gradient; read it outside and close over the value"
            )
        again = jax.checkpoint(fun, prevent_cse=prevent_cse)
        return list(again(*residuals, *linear))
    made = trace(fun, [*residuals, *linear])
    return recomputed_p.bind(
        *made.consts,
        *residuals,
        *linear,
        body=without_consts(made),
        kept=len(made.consts) + len(residuals),
        prevent_cse=prevent_cse,
    )


def _run(*operands: Any, body: Jaxpr, **_: Any) -> list[Any]:
    return list(as_function(body)(*operands))


def _types(*_: Any, body: Jaxpr, **__: Any) -> list[Any]:
    return output_types(body)


def _jvp(primals: Any, tangents: Any, *, body: Jaxpr, kept: int, prevent_cse: bool) -> Any:
    """Tangents of linear operands go the same way; those of residuals are linear themselves."""
    out = recomputed_p.bind(*primals, body=body, kept=kept, prevent_cse=prevent_cse)
    moving = [type(dot) is not Zero for dot in tangents]
    dots = [instantiate_zeros(dot) for dot in select(tangents, moving)]
    if not any(moving[:kept]):
        given = [*primals[:kept], *map(instantiate_zeros, tangents[kept:])]
        return out, recomputed_p.bind(*given, body=body, kept=kept, prevent_cse=prevent_cse)
    still = [no_tangent(x) for x in primals]

    def push(*operands: Any) -> list[Any]:
        values, dots = split_at(operands, len(primals))
        zeros = [instantiate_zeros(dot) for dot, m in zip(still, moving, strict=True) if not m]
        return jax.jvp(as_function(body), values, merge(moving, dots, zeros))[1]

    return out, recomputed(push, primals, dots, prevent_cse=prevent_cse)


def _transpose(
    cotangents: Any, *operands: Any, body: Jaxpr, kept: int, prevent_cse: bool
) -> list[Any]:
    """The transpose is recomputed in its turn, from the same residuals."""
    residuals, types = list(operands[:kept]), input_types(body)[kept:]

    def pull(*flat: Any) -> list[Any]:
        values, cts = split_at(flat, kept)
        if prevent_cse:  # one by one: JAX 0.12 cannot transpose a barrier that is partly linear
            values = [jax.lax.optimization_barrier(x) for x in values]
        linear = lambda *xs: as_function(body)(*values, *xs)  # noqa: E731
        return list(jax.linear_transpose(linear, *types)(cts))

    cts = [*map(instantiate_zeros, cotangents)]
    back = recomputed(pull, residuals, cts, prevent_cse=prevent_cse)
    found = [ct if is_linear(x) else None for ct, x in zip(back, operands[kept:], strict=True)]
    return [*[None] * kept, *found]


def _batch(
    axis: Any, operands: Any, dims: Any, *, body: Jaxpr, kept: int, prevent_cse: bool
) -> Any:
    on = [at is not None for at in dims]
    out_axes = [
        0 if axis_name(axis) is not None or any(map(operator.and_, row, on)) else None
        for row in dependencies(body)
    ]
    if not any(at == 0 for at in out_axes):
        out = recomputed_p.bind(*operands, body=body, kept=kept, prevent_cse=prevent_cse)
        return out, out_axes

    def each(*operands: Any) -> list[Any]:
        return vmap_like(axis, as_function(body), list(dims), out_axes)(*operands)

    residuals, linear = split_at(operands, kept)
    return recomputed(each, residuals, linear, prevent_cse=prevent_cse), out_axes


def _dce(wanted: list[bool], count: int, *, body: Jaxpr, kept: int, prevent_cse: bool) -> Any:
    if not any(wanted):
        return [False] * count, None, {}, wanted
    read = used_inputs(body, wanted)
    left = {"body": prune(body, wanted, read), "kept": sum(read[:kept]), "prevent_cse": prevent_cse}
    return read, recomputed_p, left, wanted


recomputed_p = primitives.computing_primitive("recomputed", _run, _types)
primitives.def_jvp(recomputed_p, _jvp)
primitives.def_transpose(recomputed_p, _transpose)
primitives.def_batch(recomputed_p, _batch)
primitives.def_dce(recomputed_p, _dce)
anatomy("recomputed", lambda equation: straight(equation, equation.own["body"], CALL))
