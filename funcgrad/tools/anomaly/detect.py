"""`detect_anomaly`: which operation of a program made the first NaN, and where it stands."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ... import _jax
from ..._calls import Call, Parts, Returned, argument_at, every_argument
from ..._describe import describe
from ..._mistakes import explained
from ..._objects import carried, pure
from ..._types import Function, P, R
from ...errors import AnomalyError, UsageError
from . import flags, report
from .events import Found
from .values import Value, states
from .walk import Walk

MODES = ("interpreted", "compiled")


def detect_anomaly(
    fun: Function[P, R] | None = None,
    *,
    check_inf: bool = False,
    only_if_reaches_output: bool = False,
    mode: Literal["interpreted", "compiled"] = "interpreted",
) -> Callable[P, R]:
    """A function that computes what `fun` does, and raises where the first NaN is made.

    Stands for `with torch.autograd.detect_anomaly(check_nan=True):`, and says more: forward or
    backward, the operation and its operands at the first bad entry, the forward line of the user's
    file with a caret, the `jax.named_scope`, the iteration of each loop and the example of each
    `vmap` around it, the `retain_grad` names before it, and for the classics a hint. Use it
    outermost, `detect_anomaly(jax.jit(jax.value_and_grad(loss)))(params, batch)`: `fun` may be
    jitted and may call `grad`, `vmap`, `scan`, `cond`, `shard_map` and the loops of funcgrad.

    Args:
        fun: a function of arrays (and of anything else, which is taken as it is) to a pytree of
            arrays (and of anything else, likewise). It is traced, so it may not look at values with
            Python's `if`.
        check_inf: whether infinite values count as well, where finite ones went in.
        only_if_reaches_output: whether a bad value counts only if the results are bad because of
            it; one that is masked out on the way, by `where` for instance, is then passed over.
        mode: `"interpreted"` evaluates equation by equation, as the program is written, loops
            compiled while nothing is wrong in them. `"compiled"` runs the compiled program with a
            flag for bad values, is traced once per shape, and takes the interpreted way only if the
            flag is up.

    Returns:
        A function with the arguments and the results of `fun`.

    Raises:
        AnomalyError: at the first bad value in the order of execution; its `anomaly` holds what the
            text says. A bad argument is reported as such, by its path.
        UsageError: a `fun` or `mode` of a wrong form, or a call inside `jit`, `vmap`, `grad` or
            another transformation, where there are no values to look at.

    NaN that the program itself writes down (`jnp.nan` in a `where` whose other side is taken) is
    none until it is selected or computed with; nor is what a function of JAX masks itself. What is
    not affected: any configuration of JAX, and results, up to the rounding that compilation
    changes. Objects of Flax NNX (a module, an optimizer) move as under `nnx.jit`, and stay what
    they were where this raises. A function may write to references. What has side effects
    (`jax.debug.print`) may run more than once where a loop is looked into.

    >>> import jax, jax.numpy as jnp, funcgrad as fg
    >>> loss = lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0))
    >>> fg.detect_anomaly(jax.grad(loss))(jnp.array([4.0, 1.0]))
    Array([0.25, 0.5 ], dtype=float32)
    >>> try:
    ...     fg.detect_anomaly(jax.grad(loss))(jnp.array([4.0, 0.0]))
    ... except fg.AnomalyError as error:
    ...     print(error.anomaly.phase, error.anomaly.computed, error.anomaly.at)
    backward 0.0 * inf (1,)
    """
    if not callable(fun):
        got = "nothing" if fun is None else describe(fun)
        raise UsageError(
            f"`detect_anomaly` got {got}, and wants a function; it stands before no `with` block:"
            " detect_anomaly(jax.grad(loss))(params)"
        )
    if mode not in MODES:
        raise UsageError(f"`detect_anomaly` got mode={mode!r}, and wants one of {MODES}")
    search = functools.partial(_interpreted, check_inf, only_if_reaches_output)
    alone = pure(fun, "detect_anomaly")
    if mode == "compiled":
        run = _compiled(search, alone, check_inf, only_if_reaches_output)
    else:
        run = search

    @functools.wraps(fun)
    def checked(*args: Any, **kwargs: Any) -> Any:
        with carried(fun, args, kwargs, "detect_anomaly") as carry:
            call = every_argument(alone, carry.args, carry.kwargs, function="detect_anomaly")
            _check_concrete([*call.arrays, jnp.zeros(())])
            return carry.restore(run(call).whole)

    return checked


def _traced(call: Call) -> tuple[_jax.Jaxpr, Parts]:
    """The function as a program of its arrays, and how the result is put together from its own."""

    def flat(*arrays: Any) -> Returned:
        with explained:
            return call.returned(arrays)

    try:
        closed, result = jax.make_jaxpr(flat, return_shape=True)(*call.arrays)
    except jax.errors.ConcretizationTypeError as error:
        error.add_note(
            "`detect_anomaly` traces the function, so Python's `if` and `while` cannot look at its"
            " values; use jax.lax.cond and funcgrad.while_loop"
        )
        raise
    return closed, result.parts


def _check_concrete(arrays: Sequence[Any]) -> None:
    if any(map(_jax.is_tracer, arrays)):
        raise UsageError(
            "`detect_anomaly` got traced values, inside jit, vmap, grad or another transformation,"
            " and wants values to look at; put it outermost:"
            " detect_anomaly(jax.jit(fun))(x), not jax.jit(detect_anomaly(fun))(x)"
        )


def _interpreted(check_inf: bool, only_if_reaches_output: bool, call: Call) -> Returned:
    """Evaluates equation by equation, and raises at the first anomaly that counts."""
    inputs, bad = _inputs(call, check_inf)
    if bad and not only_if_reaches_output:
        raise report.input_error(*bad[0])
    closed, parts = _traced(call)
    _check_concrete(closed.consts)
    stop = None if only_if_reaches_output else 1
    held = [(x, x[...]) for x in closed.consts if _jax.is_reference(x)]
    values = _walked(closed, inputs, Walk(check_inf, stop, len(bad)))
    causes = sorted({value.cause for value in values if value.cause})
    if causes and causes[0] <= len(bad):
        raise report.input_error(*bad[causes[0] - 1])
    if causes:  # once more, to the event that counts: only now is it known which one does
        for reference, before in held:
            reference[...] = before
        _walked(closed, inputs, Walk(check_inf, causes[0], len(bad)))
    return Returned([jnp.asarray(value.array) for value in values], parts)


def _walked(closed: _jax.Jaxpr, inputs: Sequence[Value], walk: Walk) -> list[Value]:
    try:
        return walk.run(closed, inputs)
    except Found as found:
        error = report.error(found.event, closed)
    raise error


def _inputs(call: Call, check_inf: bool) -> tuple[list[Value], list[tuple[str, Any, str]]]:
    """The arrays with what is wrong with them, and each bad argument: path, array, and kind."""
    bad: list[tuple[str, Any, str]] = []
    values: list[Value] = []
    leaves = jax.tree_util.tree_leaves_with_path(call.whole)
    chosen = call.parts.chosen
    pairs = zip(leaves, chosen, strict=True)
    numbers = [x if c or isinstance(x, float | complex) else 0 for (_, x), c in pairs]
    found = zip(leaves, states(numbers), chosen, strict=True)
    for (path, leaf), state, traced in found:
        wrong = state.nan or (check_inf and state.inf)
        if wrong:
            bad.append((argument_at(path), leaf, "nan" if state.nan else "inf"))
        if traced:
            values.append(Value(leaf, cause=len(bad) if wrong else None))
    return values, bad


def _compiled(
    search: Callable[[Call], Returned],
    fun: Callable[..., Any],
    check_inf: bool,
    only_if_reaches_output: bool,
) -> Callable[[Call], Returned]:
    """Runs the program compiled with a flag, and `search` where the flag is up."""

    def flagged(parts: Parts, arrays: list[Any]) -> tuple[Returned, Any]:
        closed, made = _traced(every_argument(fun, *parts.join(arrays), function="detect_anomaly"))
        if only_if_reaches_output:
            results = _jax.as_function(closed)(*arrays)
            up = flags.outputs(results, check_inf=check_inf)
        else:
            results, up = flags.run(closed, arrays, check_inf=check_inf)
        return Returned(list(results), made), up

    once = jax.jit(flagged, static_argnums=0)

    def run(call: Call) -> Returned:
        result, up = _hashable(once, call.parts)(call.parts, call.arrays)
        if not up:
            return result
        evaluated = search(call)
        if _bad(result, check_inf) and not _bad(evaluated, check_inf):
            raise AnomalyError(
                "`detect_anomaly` found NaN or an infinite value in the results of the compiled"
                " program, and none when it evaluates it equation by equation: it comes from how"
                " XLA fuses and rounds; compare the two with mode='interpreted'"
            )
        return result

    return run


def _hashable(once: Callable[..., Any], parts: Parts) -> Callable[..., Any]:
    """The jitted function; a fresh one where an argument that is no array cannot be a key."""
    try:
        hash(parts)
    except TypeError:
        fun = once.__wrapped__  # type: ignore[attr-defined]
        return lambda parts, arrays: jax.jit(functools.partial(fun, parts))(arrays)
    return once


def _bad(result: Returned, check_inf: bool) -> bool:
    return any(s.nan or (check_inf and s.inf) for s in states(result.arrays))
