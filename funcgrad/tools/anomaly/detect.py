"""`detect_anomaly`: which operation of a program made the first NaN, and where it stands."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ... import _jax
from ..._describe import describe
from ..._mistakes import explained
from ..._trees import Split, is_array, part
from ...errors import AnomalyError, UsageError
from . import flags, report
from .events import Found
from .values import Value, states
from .walk import Walk

MODES = ("interpreted", "compiled")


def detect_anomaly(
    fun: Callable[..., Any] | None = None,
    *,
    check_inf: bool = False,
    only_if_reaches_output: bool = False,
    mode: str = "interpreted",
) -> Callable[..., Any]:
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
    changes. What has side effects (`jax.debug.print`) may run more than once where a loop is looked
    into.

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
    if mode == "compiled":
        run = _compiled(search, fun, check_inf, only_if_reaches_output)
    else:
        run = search

    @functools.wraps(fun)
    def checked(*args: Any, **kwargs: Any) -> Any:
        return _restored(run(_call(fun, args, kwargs)))

    return checked


@jax.tree_util.register_static
@dataclass(frozen=True)
class _AsIs:
    """What is no array in a result, a function for instance: part of its structure."""

    leaf: Any


def _restored(tree: Any) -> Any:
    """A result with what is no array in it in its place."""
    as_is = lambda x: isinstance(x, _AsIs)  # noqa: E731
    return jax.tree.map(lambda x: x.leaf if as_is(x) else x, tree, is_leaf=as_is)


class _Call(NamedTuple):
    """A call of the user's function.

    Fields:
        fun: the function.
        given: the pair `(args, kwargs)`.
        arrays: the arrays in it.
        recipe: how the pair is put together from arrays.
    """

    fun: Callable[..., Any]
    given: Any
    arrays: list[Any]
    recipe: Split

    def trace(self, arrays: Sequence[Any]) -> tuple[_jax.Jaxpr, Any]:
        """The function as a program of the arrays, and the structure of what it returns."""
        return _trace(self.fun, self.recipe, arrays)


def _trace(fun: Callable[..., Any], recipe: Split, arrays: Sequence[Any]) -> tuple[_jax.Jaxpr, Any]:
    def flat(*arrays: Any) -> Any:
        args, kwargs = recipe.join(arrays)
        with explained:
            result = fun(*args, **kwargs)
        return jax.tree.map(lambda leaf: leaf if is_array(leaf) else _AsIs(leaf), result)

    try:
        closed, shape = jax.make_jaxpr(flat, return_shape=True)(*arrays)
    except jax.errors.ConcretizationTypeError as error:
        error.add_note(
            "`detect_anomaly` traces the function, so Python's `if` and `while` cannot look at its"
            " values; use jax.lax.cond and funcgrad.while_loop"
        )
        raise
    return closed, jax.tree.structure(shape)


def _call(fun: Callable[..., Any], args: Any, kwargs: Any) -> _Call:
    leaves, tree = jax.tree.flatten((args, kwargs))
    chosen = [isinstance(leaf, jax.Array | np.ndarray | np.generic) for leaf in leaves]
    arrays, recipe = part(tree, leaves, chosen)
    _check_concrete([*arrays, jnp.zeros(())])
    return _Call(fun, (args, kwargs), arrays, recipe)


def _check_concrete(arrays: Sequence[Any]) -> None:
    if any(isinstance(x, jax.core.Tracer) for x in arrays):
        raise UsageError(
            "`detect_anomaly` got traced values, inside jit, vmap, grad or another transformation,"
            " and wants values to look at; put it outermost:"
            " detect_anomaly(jax.jit(fun))(x), not jax.jit(detect_anomaly(fun))(x)"
        )


def _interpreted(check_inf: bool, only_if_reaches_output: bool, call: _Call) -> Any:
    """Evaluates equation by equation, and raises at the first anomaly that counts."""
    inputs, bad = _inputs(call, check_inf)
    if bad and not only_if_reaches_output:
        raise report.input_error(*bad[0])
    closed, structure = call.trace(call.arrays)
    _check_concrete(closed.consts)
    stop = None if only_if_reaches_output else 1
    values = _walked(closed, inputs, Walk(check_inf, stop, len(bad)))
    causes = sorted({value.cause for value in values if value.cause})
    if causes and causes[0] <= len(bad):
        raise report.input_error(*bad[causes[0] - 1])
    if causes:  # once more, to the event that counts: only now is it known which one does
        _walked(closed, inputs, Walk(check_inf, causes[0], len(bad)))
    return structure.unflatten([jnp.asarray(value.array) for value in values])


def _walked(closed: _jax.Jaxpr, inputs: Sequence[Value], walk: Walk) -> list[Value]:
    try:
        return walk.run(closed, inputs)
    except Found as found:
        error = report.error(found.event, closed)
    raise error


def _inputs(call: _Call, check_inf: bool) -> tuple[list[Value], list[tuple[str, Any, str]]]:
    """The arrays with what is wrong with them, and each bad argument: path, array, and kind."""
    bad: list[tuple[str, Any, str]] = []
    values: list[Value] = []
    leaves = jax.tree_util.tree_leaves_with_path(call.given)
    numbers = [leaf if is_array(leaf) else 0 for _, leaf in leaves]
    found = zip(leaves, states(numbers), call.recipe.chosen, strict=True)
    for (path, leaf), state, chosen in found:
        wrong = state.nan or (check_inf and state.inf)
        if wrong:
            bad.append((_name(path), leaf, "nan" if state.nan else "inf"))
        if chosen:
            values.append(Value(leaf, cause=len(bad) if wrong else None))
    return values, bad


def _name(path: Any) -> str:
    """What the caller calls a leaf of `(args, kwargs)`."""
    which, place, *rest = path
    inner = jax.tree_util.keystr(tuple(rest))
    return f"argument {place.key if which.idx else place.idx}{inner}"


def _compiled(
    search: Callable[[_Call], Any],
    fun: Callable[..., Any],
    check_inf: bool,
    only_if_reaches_output: bool,
) -> Callable[[_Call], Any]:
    """Runs the program compiled with a flag, and `search` where the flag is up."""

    def flagged(recipe: Split, arrays: list[Any]) -> Any:
        closed, structure = _trace(fun, recipe, arrays)
        if only_if_reaches_output:
            results = _jax.as_function(closed)(*arrays)
            up = flags.outputs(results, check_inf=check_inf)
        else:
            results, up = flags.run(closed, arrays, check_inf=check_inf)
        return structure.unflatten(results), up

    once = jax.jit(flagged, static_argnums=0)

    def run(call: _Call) -> Any:
        results, up = _hashable(once, call.recipe)(call.recipe, call.arrays)
        if not up:
            return results
        evaluated = search(call)
        if _bad(results, check_inf) and not _bad(evaluated, check_inf):
            raise AnomalyError(
                "`detect_anomaly` found NaN or an infinite value in the results of the compiled"
                " program, and none when it evaluates it equation by equation: it comes from how"
                " XLA fuses and rounds; compare the two with mode='interpreted'"
            )
        return results

    return run


def _hashable(once: Callable[..., Any], recipe: Split) -> Callable[..., Any]:
    """The jitted function; a fresh one where an argument that is no array cannot be a key."""
    try:
        hash(recipe)
    except TypeError:
        fun = once.__wrapped__  # type: ignore[attr-defined]
        return lambda recipe, arrays: jax.jit(functools.partial(fun, recipe))(arrays)
    return once


def _bad(tree: Any, check_inf: bool) -> bool:
    return any(s.nan or (check_inf and s.inf) for s in states(jax.tree.leaves(tree)))
