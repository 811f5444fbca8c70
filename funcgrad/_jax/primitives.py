"""Primitives of our own: how one is made, and how its transformations are registered."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import ad, batching, mlir, partial_eval

from .._lists import select
from .alike import once_compiled
from .checks import Computing, own
from .trace import is_tracer, types

Zero = ad.Zero
add_tangents: Callable[[Any, Any], Any] = ad.add_tangents
instantiate_zeros: Callable[[Any], Any] = ad.instantiate_zeros

OURS: set[str] = set()
"""The names of the primitives that were made here."""


def identity_primitive(
    name: str,
    *,
    kept: Callable[..., int],
    jvp: Callable[..., Any],
    transpose: Callable[..., Any],
    batch: Callable[..., Any],
) -> core.Primitive:
    """A primitive with several results that returns its first operands unchanged.

    Args:
        name: what jaxprs and error messages call it.
        kept: how many operands come back, from the number of operands and the parameters.
        jvp: `(primals, tangents, **params) -> (primals out, tangents out)`.
        transpose: `(cotangents, *operands, **params) -> cotangents of the operands`.
        batch: `(axis_data, operands, dims, **params) -> (results, result dims)`; JAX calls it even
            where no operand is batched.

    It compiles to nothing: its lowering returns the operands.
    """

    def identity(*operands: Any, **params: Any) -> list[Any]:
        return list(operands[: kept(len(operands), **params)])

    primitive = core.Primitive(name)
    _define(primitive, identity, identity)
    mlir.register_lowering(
        primitive, lambda ctx, *operands, **params: identity(*operands, **params)
    )
    def_jvp(primitive, jvp)
    def_transpose(primitive, transpose)
    def_batch(primitive, batch)
    return primitive


def computing_primitive(
    name: str,
    impl: Callable[..., Any],
    types: Callable[..., Any],
    at_once: Callable[..., Any] | None = None,
    elsewhere: Callable[..., None] | None = None,
) -> core.Primitive:
    """A primitive with several results that does and compiles to what the function `impl` does.

    Called outside `jit` it is compiled once for parameters that say the same.

    Args:
        name: what jaxprs and error messages call it.
        impl: `(*operands, **params) -> results`, made of JAX functions.
        types: `(*operand types, **params) -> result types`.
        at_once: what is done instead outside `jit`, if not the same.
        elsewhere: refuses it, from what it is compiled for and the parameters, where JAX can call
            no Python: for `jax.export`, and for a GPU that is not there.
    """

    def compiled(*operands: Any, **params: Any) -> Any:
        return once_compiled(name, impl, params)(*operands)

    def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
        params = own(params)
        if elsewhere and getattr(ctx.module_context.lowering_parameters, "for_export", False):
            elsewhere("`jax.export` got a program", **params)
        try:
            return rule(ctx, *operands, **params)
        except Exception:
            if not elsewhere or _has_backend(ctx):
                raise
            platforms = ", ".join(ctx.module_context.platforms)
            elsewhere(f"JAX compiles for {platforms}, without the device, a program", **params)
            raise

    rule = mlir.lower_fun(impl, multiple_results=True)
    primitive = Computing(name, impl)
    _define(primitive, at_once or compiled, types)
    mlir.register_lowering(primitive, lower)
    return primitive


def _has_backend(ctx: Any) -> bool:
    """Whether what is compiled can run on devices that are there, and call Python."""
    try:
        return ctx.module_context.get_backend(optional=True) is not None
    except RuntimeError:
        return False


def _define(primitive: core.Primitive, impl: Callable[..., Any], types: Callable[..., Any]) -> None:
    primitive.multiple_results = True
    primitive.def_impl(_with_own(impl))
    primitive.def_abstract_eval(_with_own(types))
    OURS.add(primitive.name)


def _with_own(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule that is given the parameters of its primitive alone."""

    @functools.wraps(rule)
    def given(*args: Any, **params: Any) -> Any:
        return rule(*args, **own(params))

    return given


def _shown(primitive: core.Primitive, operands: Sequence[Any], params: dict[str, Any]) -> Any:
    """The parameters as an equation has them."""
    return primitive.shown(operands, params) if isinstance(primitive, Computing) else params


def def_jvp(primitive: core.Primitive, rule: Callable[..., Any]) -> None:
    """Registers `(primals, tangents, **params) -> (primals out, tangents out)`."""
    ad.primitive_jvps[primitive] = _with_own(rule)


def def_batch(primitive: core.Primitive, rule: Callable[..., Any]) -> None:
    """Registers `(axis_data, operands, dims, **params) -> (results, result dims)`.

    JAX calls it even where no operand is batched.
    """
    batching.fancy_primitive_batchers[primitive] = _with_own(rule)


def def_transpose(primitive: core.Primitive, rule: Callable[..., Any]) -> None:
    """Registers `(cotangents, *operands, **params) -> cotangents of the operands`."""
    ad.primitive_transposes[primitive] = _with_own(rule)


class Later:
    """The trace that stages what is computed later, in a partial evaluation."""

    def __init__(self, trace: Any):
        self._trace = trace

    def bind(self, primitive: core.Primitive, operands: Sequence[Any], **params: Any) -> Any:
        """Stages one primitive."""
        params = _shown(primitive, operands, params)
        return self._trace.default_process_primitive(primitive, operands, params)

    def run(self, fun: Callable[..., Any], *args: Any) -> Any:
        """Stages what `fun` computes of operands."""
        with core.set_current_trace(self._trace):
            return fun(*args)


def def_partial_eval(
    primitive: core.Primitive,
    primals: Callable[..., int],
    split: Callable[..., Any],
    known: Callable[..., Any],
) -> None:
    """Registers how a primitive is cut in two: what primals give, and what tangents give later.

    Args:
        primitive: the primitive; its operands are primals, then tangents.
        primals: `(operand count, **params) -> how many are primals`.
        split: `(later, primals, operands, **params) -> results`, called where all primals are known
            and some tangent is not; results that are known come as they are.
        known: `(**params) -> (primitive, params, results)`, which computes the first `results`
            results from the primals; asked inside `jax.checkpoint`, which computes the rest later.
    """

    def staged(trace: Any, *tracers: Any, **params: Any) -> Any:
        mine = own(params)
        count = primals(len(tracers), **mine)
        values = [t.pval.get_known() for t in tracers[:count] if t.is_known()]
        if len(values) < count or all(t.is_known() for t in tracers):
            return trace.default_process_primitive(primitive, tracers, params)
        return split(Later(trace), values, tracers, **mine)

    def in_checkpoint(saveable: Any, unknown: Any, instantiated: Any, eqn: Any) -> Any:
        del saveable
        residuals = [
            v
            for v, at_hand in zip(eqn.invars, instantiated, strict=True)
            if not at_hand and not isinstance(v, core.Literal)
        ]
        mine = own(eqn.params)
        count, early, results = primals(len(eqn.invars), **mine), None, 0
        if not any(unknown[:count]):
            part, params, results = known(**mine)
            early = eqn.replace(
                primitive=part,
                params=_shown(part, types(eqn.invars[:count]), params),
                invars=eqn.invars[:count],
                outvars=eqn.outvars[:results],
            )
        unknown_out = [index >= results for index in range(len(eqn.outvars))]
        # The whole equation stands among the later ones once more: what was known is there too.
        return early, eqn, unknown_out, [True] * len(eqn.outvars), residuals

    partial_eval.custom_partial_eval_rules[primitive] = staged
    partial_eval.partial_eval_jaxpr_custom_rules[primitive] = in_checkpoint


def def_dce(primitive: core.Primitive, rule: Callable[..., Any]) -> None:
    """Registers what is left of a primitive of which only some results are wanted.

    The rule is `(wanted results, operand count, **params) -> (wanted operands, primitive, params,
    kept results)`, flags for each operand and result; the primitive is `None` where nothing is
    left, and the flags may say `True` for all where nothing can be left out.
    """

    def dce(wanted: Any, *rest: Any) -> Any:
        eqn = rest[-1]  # JAX 0.12 says before it which operands are live, for references
        operands, left, params, results = rule(list(wanted), len(eqn.invars), **own(eqn.params))
        if left is None:
            return operands, None
        read = select(eqn.invars, operands)
        return operands, eqn.replace(
            primitive=left,
            params=_shown(left, types(read), params),
            invars=read,
            outvars=select(eqn.outvars, results),
        )

    partial_eval.dce_rules[primitive] = dce


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


def tangent_of(x: Any, dot: Any) -> Any:
    """A tangent as an array, zeros where there is none; they lie where `x` does."""
    if type(dot) is not Zero:
        return dot
    return instantiate_zeros(dot) if is_tracer(x) else jax.numpy.zeros_like(x)


def no_tangent(x: Any) -> Any:
    """The tangent of a result of a JVP rule that has none."""
    return Zero(jax.typeof(x).to_tangent_aval())
