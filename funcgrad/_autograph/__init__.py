"""`autograph`: Python's own `while`, `for` and `if` on traced values."""

import functools
import types
from collections.abc import Callable
from typing import Any, Literal, overload

from .._describe import shown
from .._extras import need
from .._mistakes import explained
from .._types import Function, P, R
from ..errors import UsageError


@overload
def autograph(
    fun: Function[P, R],
    *,
    max_steps: int | None = None,
    checkpoints: int | None = None,
    on_max_steps: Literal["nan", "raise", "ignore"] | None = None,
) -> Callable[P, R]: ...
@overload
def autograph(
    fun: None = None,
    *,
    max_steps: int | None = None,
    checkpoints: int | None = None,
    on_max_steps: Literal["nan", "raise", "ignore"] | None = None,
) -> Callable[[Function[P, R]], Callable[P, R]]: ...
def autograph(
    fun: Any = None,
    *,
    max_steps: int | None = None,
    checkpoints: int | None = None,
    on_max_steps: Literal["nan", "raise", "ignore"] | None = None,
) -> Any:
    """Makes the control flow of a Python function work on traced values, and differentiable there.

    Stands for what PyTorch does with Python's `while`, `for` and `if` on tensors: it records the
    steps and branches that were taken. `jax.jit` has to compile them all, so here they become
    `funcgrad.while_loop`, `funcgrad.fori_loop`, `lax.scan` and `lax.cond`. Needs diastatic-malt:
    `pip install 'funcgrad[autograph]'`. Also a decorator: `@autograph`, `@autograph(max_steps=9)`.

    Args:
        fun: a function, method, lambda, `functools.partial` of one, or an object with `__call__`,
            whose source can be found: in a file or a notebook cell.
        max_steps: the most steps of a `while`, or of a `for` over a `range` with traced bounds. A
            `for` over a traced `range` needs it only in reverse mode or with a `break`.
        checkpoints: as for [`while_loop`][funcgrad.while_loop].
        on_max_steps: what to do if there would be more steps, as for
            [`while_loop`][funcgrad.while_loop]: by default the loop's floating variables are NaN
            and so are their gradients, and to use an integer or bool that it changes is an error,
            under `jax.vmap` for an example too that does not take the branch the loop is in.

    Returns:
        A function of the same parameters. Where Python can look at a value it decides as Python
        does: on numbers and strings, on arrays outside `jax.jit`, and under `jax.grad` alone.

    Raises:
        MissingExtraError: diastatic-malt is not installed.
        UsageError: `fun` is what `funcgrad.grad` returned: take the gradient of what is converted;
            its source cannot be found or has what is not taken: `async`, `yield`, `match`,
            `except*`, and `:=` in `and`, `or`, a conditional expression or a comprehension. While
            tracing: no `max_steps`, a condition of several truth values, an `assert` on a traced
            value, a `raise` that may or may not be reached, a comprehension's `if` on one; in a
            traced branch or loop an iterator that is advanced, a write into an array of NumPy, an
            item that is not there; and what needs the value of something traced.
        TreeError: while tracing, branches whose variables or objects disagree in structure, shape
            or dtype, or a loop that changes those. Both name the file, line and variables.
        UnboundLocalError: a variable is read that has a value in one branch only.

    What is converted: `while`, `for` over `range` and along the leading axis of arrays (also in
    `enumerate` and `zip`), `else` of loops, `if`, conditional expressions, `and`, `or`, `not`,
    chained comparisons, `break`, `continue`, `return` anywhere, `min`, `max`, `any`, `all`, `print`
    (which prints as the program runs, at each step), and calls of functions of your own, also of
    those that JAX's and funcgrad's functions are given. Those of libraries are called as they are.

    A `for` over a list, or over a `range` of known bounds that no traced `break` leaves, is
    unrolled as under `jax.jit`, and so is one over an array whose steps need more than arrays: that
    append to a list, or index one by the count. Of traced bools `and` and `or` evaluate both
    operands. Loop variables that start as Python numbers take the dtype that the loop gives them,
    where JAX promotes it. A variable that gets its first value inside a traced loop, and is read
    after no step, is NaN (the least integer, `False`). Lists, dicts, attributes and other objects
    from outside that a traced branch or loop changes in place, also in functions that it calls, are
    carried as variables are, and stay the same objects; what cannot be carried is an error. Under
    `jax.vmap` both branches are computed; JAX keeps the one not taken, be it NaN, out of values and
    gradients.

    Tags and hooks may stand in loops and branches: in a loop a row for each of `max_steps`, of the
    array's or of the range's length, with zeros past the end; zeros in a branch not taken.

    Errors and JAX's messages point at the lines of your source.

    >>> import jax, funcgrad as fg
    >>> def doubled(a):
    ...     while abs(a) < 1000:
    ...         a = 2 * a
    ...     return a if a > 0 else 100 * a
    >>> doubled = fg.autograph(doubled, max_steps=20)
    >>> jax.jit(fg.value_and_grad(doubled))(3.0)
    (Array(1536., dtype=float32, weak_type=True), Array(512., dtype=float32, weak_type=True))
    """
    again: Any = functools.partial(
        autograph, max_steps=max_steps, checkpoints=checkpoints, on_max_steps=on_max_steps
    )
    if fun is None:
        return again
    if isinstance(fun, staticmethod | classmethod):
        return type(fun)(again(fun.__func__))
    if max_steps is not None and (not hasattr(max_steps, "__index__") or max_steps < 1):
        raise UsageError(f"`autograph` got max_steps={max_steps!r}, and wants a positive int")
    need(["malt"], "`autograph`", "autograph")
    from .._loops.unfinished import check_choice
    from ._copies import checked
    from ._operators import Operators
    from ._refuse import outermost

    check_choice(on_max_steps, "autograph")

    package = (getattr(fun, "__module__", None) or "").partition(".")[0]
    converted = _converted(fun, Operators(max_steps, checkpoints, on_max_steps, package))

    @functools.wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with explained, outermost(), checked():
            return converted(*args, **kwargs)

    return wrapper


def _converted(fun: Any, operators: Any) -> Any:
    from .._grad.backward import shared

    if shared(fun) is not None:
        raise UsageError(
            f"`autograph` got `{fun.__name__}`, a gradient, which calls its function where no"
            " source is converted, and wants the function: convert it first, and take the gradient"
            " of that: funcgrad.grad(funcgrad.autograph(fun, max_steps=...))"
        )
    if isinstance(fun, functools.partial | types.FunctionType | types.MethodType):
        return operators.convert(fun, asked=True)
    call = type(fun).__call__ if callable(fun) else None
    if isinstance(call, types.FunctionType):
        return types.MethodType(operators.convert(call, asked=True), fun)
    raise UsageError(
        f"`autograph` got {shown(fun)}, and wants a function written in Python; of"
        " a compiled one, convert the function before: jax.jit(funcgrad.autograph(fun))"
    )
