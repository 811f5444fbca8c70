"""Rules for equations that call one body once: `jit`, `checkpoint` and JAX's internal `call`."""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .. import _compat as compat
from .walk import Run, Values, rule


@rule("jit")
def _jit(
    eqn: compat.JaxprEqn, operands: Sequence[Any], taps: Values, run: Run
) -> tuple[list[Any], Values]:
    call = compat.jit(eqn)
    options = tuple(sorted(call.options.items()))
    jitted = _JITTED.setdefault(call.body, {})
    if options not in jitted:
        jitted[options] = _jitted(weakref.ref(call.body), run, **call.options)
    return jitted[options](taps, *operands)


# One jitted function for each body and its options, so that a second call finds it compiled. It
# holds its body weakly: both live as long as the user's own jitted function. It is called by `_jit`
# alone, which holds the equation and so the body; hence the body is there whenever it is traced.
_JITTED: "weakref.WeakKeyDictionary[Any, dict[Any, Callable[..., Any]]]"
_JITTED = weakref.WeakKeyDictionary()


def _jitted(
    body: "weakref.ref[Any]",
    run: Run,
    *,
    name: str,
    in_shardings: tuple[Any, ...],
    out_shardings: tuple[Any, ...],
    donate_argnums: tuple[int, ...],
    compiler_options: tuple[tuple[str, Any], ...],
    **options: Any,
) -> Callable[..., tuple[list[Any], Values]]:
    def fun(taps: Values, *operands: Any) -> tuple[list[Any], Values]:
        return run(body(), operands, taps)

    fun.__name__ = fun.__qualname__ = name
    return jax.jit(
        fun,
        in_shardings=(None, *in_shardings),
        out_shardings=(list(out_shardings), None),
        donate_argnums=tuple(1 + index for index in donate_argnums),
        compiler_options=dict(compiler_options) or None,
        **options,
    )


@rule("call")
def _call(
    eqn: compat.JaxprEqn, operands: Sequence[Any], taps: Values, run: Run
) -> tuple[list[Any], Values]:
    return run(compat.call(eqn).body, operands, taps)


@rule("checkpoint")
def _checkpoint(
    eqn: compat.JaxprEqn, operands: Sequence[Any], taps: Values, run: Run
) -> tuple[list[Any], Values]:
    call = compat.checkpoint(eqn)
    return jax.checkpoint(functools.partial(run, call.body), **call.options)(operands, taps)
