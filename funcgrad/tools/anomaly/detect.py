"""`detect_anomaly`: which operation of a program made the first NaN, and where it stands."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ... import _jax
from ..._calls import Call, Returned, every_argument
from ..._describe import argument_at, describe
from ..._mistakes import explained
from ..._objects import carried, pure
from ..._types import Function, P, R
from ...errors import AnomalyError, UsageError
from . import report
from .events import Found, Out
from .programs import Programs, programs
from .values import Value, states
from .walk import Walk

Run = Callable[[Call], Returned]
MODES = ("compiled", "interpreted")


def detect_anomaly(
    fun: Function[P, R] | None = None,
    *,
    check_inf: bool = False,
    only_if_reaches_output: bool = False,
    mode: Literal["compiled", "interpreted"] = "compiled",
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
            arrays (and of anything else, likewise). It is traced once for each shape, as under
            `jax.jit`: it may not look at values of arrays with Python's `if`, and what it closes
            over is as it was then. Python's numbers are in both modes what they are in a plain
            call: variables where `fun` is jitted, otherwise Python's own, so that `if rate > 0`
            and `range(n)` work. `fun` is then traced anew for another number, and compiled anew
            only where another program comes of it.
        check_inf: whether infinite values count as well, where finite ones went in.
        only_if_reaches_output: whether a bad value counts only if the results are bad because of
            it; one that is masked out on the way, by `where` for instance, is then passed over.
        mode: `"compiled"` runs the compiled program with a flag for bad values, and evaluates it
            equation by equation, from the same arguments, only if the flag is up. `"interpreted"`
            evaluates equation by equation in any case, as the program is written, loops compiled
            while nothing is wrong in them.

    Returns:
        A function with the arguments and the results of `fun`.

    Raises:
        AnomalyError: at the first bad value in the order of execution; its `anomaly` holds what the
            text says. A bad argument is reported as such, by its path.
        UsageError: a `fun` or `mode` of a wrong form, or a call inside `jit`, `vmap`, `grad` or
            another transformation, where there are no values to look at.

    NaN that the program itself writes down (`jnp.nan` in a `where` whose other side is taken) is
    none until it is selected or computed with; nor is what a function of JAX or of an installed
    package masks itself, or `vmap` computes for an example that does not take the branch or the
    step. What is not affected: any configuration of JAX, and results, up to the rounding that
    compilation changes. Objects of Flax NNX (a module, an optimizer) move as under `nnx.jit`, lists
    and dicts among the arguments hold what `fun` writes into them, and all stay what they were
    where this raises; so do references. A function that writes to references is
    evaluated equation by equation in both modes. Nothing is donated, as the arguments are needed
    for another look. What has other effects (`jax.debug.print`, a callback) has them again, several
    times, where it looks closer: the program runs once more, a loop or jitted function that a bad
    value is in once more by itself, and the step of the loop again. Where the flag stays down,
    effects come once.

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
    alone = pure(fun, "detect_anomaly", writes=True)
    known = programs(fun, check_inf, only_if_reaches_output)
    ways = {"compiled": _compiled, "interpreted": _interpreted}
    run = functools.partial(ways[mode], known, check_inf, only_if_reaches_output)

    @functools.wraps(fun)
    @explained
    def checked(*args: Any, **kwargs: Any) -> Any:
        with carried(fun, args, kwargs, "detect_anomaly") as carry:
            call = every_argument(alone, carry.args, carry.kwargs, function="detect_anomaly")
            _check_concrete([*call.arrays, jnp.zeros(())])
            return carry.restore(_whoever_computes(known, run, call).whole)

    return checked


def _check_concrete(arrays: Sequence[Any]) -> None:
    if any(map(_jax.is_tracer, arrays)):
        raise UsageError(
            "`detect_anomaly` got traced values, inside jit, vmap, grad or another transformation,"
            " and wants values to look at; put it outermost:"
            " detect_anomaly(jax.jit(fun))(x), not jax.jit(detect_anomaly(fun))(x)"
        )


def _whoever_computes(known: Programs, run: Run, call: Call) -> Returned:
    """The result of a call, in which Python may compute with numbers among the arguments.

    What Python computes is not seen. So where it has made NaN, or an error, the numbers are made
    arrays and it is looked at once more; what is found then is the cause.
    """
    tried = known.numbers_as_arrays(call)
    if tried is None:
        return run(call)
    try:
        result = run(call)
        if known.holds_nan(call) and _bad(result, False):
            _look_at(run, tried)
        return result
    except AnomalyError:
        if known.holds_nan(call):
            _look_at(run, tried)
        raise
    except ArithmeticError:  # of Python: 0.0 / 0.0
        _look_at(run, tried)
        raise


def _look_at(run: Run, call: Call) -> None:
    """Raises what is found in a call; whatever else Python makes of arrays is no concern."""
    try:
        run(call)
    except AnomalyError:
        raise
    except Exception:
        return


def _compiled(known: Programs, check_inf: bool, only: bool, call: Call) -> Returned:
    """Runs the program compiled with a flag, and evaluates it anew where the flag is up."""
    call, result, up = known.flagged(call)
    if result is not None and not up:
        return result
    evaluated = _interpreted(known, check_inf, only, call)
    if result is None:
        return evaluated
    if _bad(result, check_inf) and not _bad(evaluated, check_inf):
        raise _of_rounding(known, check_inf, call)
    return result


def _interpreted(known: Programs, check_inf: bool, only: bool, call: Call) -> Returned:
    """Evaluates equation by equation, and raises at the first anomaly that counts."""
    inputs, bad = _inputs(call, check_inf)
    if bad and not only:
        raise report.input_error(*bad[0])
    closed, parts = known.traced(call)
    _check_concrete(closed.consts)
    walk = functools.partial(Walk, check_inf, steps=known.steps(call))
    with _references([*closed.consts, *call.arrays]) as put_back:
        try:
            values = _walked(closed, inputs, walk(count=len(bad), first=not only))
            causes = sorted({value.cause for value in values if value.cause})
        except Out as out:
            causes = [out.cause]
        if causes and causes[0] <= len(bad):
            raise report.input_error(*bad[causes[0] - 1])
        if causes:  # once more, to the event that counts: only now is it known which one does
            put_back()
            _walked(closed, inputs, walk(stop=causes[0], count=len(bad)))
    return Returned([jnp.asarray(value.array) for value in values], parts)


@contextlib.contextmanager
def _references(arrays: Sequence[Any]) -> Iterator[Callable[[], None]]:
    """Gives what puts references back to what they held before; an error puts them back too."""
    held = [(x, x[...]) for x in arrays if _jax.is_reference(x)]

    def put_back() -> None:
        for reference, before in held:
            reference[...] = before

    try:
        yield put_back
    except AnomalyError:
        put_back()
        raise


def _walked(
    closed: _jax.Jaxpr, inputs: Sequence[Value], walk: Walk, compiled: bool = False
) -> list[Value]:
    try:
        return walk.run(closed, inputs)
    except Found as found:
        error = report.error(found.event, found.around, closed, compiled)
    raise error


def _of_rounding(known: Programs, check_inf: bool, call: Call) -> AnomalyError:
    """The error for results that are bad where the compiler has put the program in another order.

    As written it has no bad results. Where it overflows is the place to look at.
    """
    closed, _ = known.traced(call)
    inputs, _ = _inputs(call, True)
    try:
        _walked(closed, inputs, Walk(True, 1, steps={}), compiled=True)
    except AnomalyError as error:
        return error
    kind = "NaN or an infinite value" if check_inf else "NaN"
    return AnomalyError(
        f"`detect_anomaly` found {kind} in the results of the compiled program, and none when it"
        " evaluates it equation by equation, nor an infinite value: it comes from how XLA fuses"
        " and rounds; compare the two with mode='interpreted', or compute in a wider dtype"
    )


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
            leaf = jnp.asarray(leaf) if isinstance(leaf, int | float | complex) else leaf
            values.append(Value(leaf, cause=len(bad) if wrong else None))
    return values, bad


def _bad(result: Returned, check_inf: bool) -> bool:
    return any(s.nan or (check_inf and s.inf) for s in states(result.arrays))
