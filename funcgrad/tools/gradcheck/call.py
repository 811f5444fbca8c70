"""`gradcheck` and `gradgradcheck`: what they are called with."""

import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._calls import check_arrays, from_front, read_argnums, replaced
from ..._describe import describe
from ..._grad.backward import vjp
from ..._leaves import is_array, refuse_iterators, takes_gradient
from ..._mistakes import explained
from ..._objects import carried
from ...errors import UsageError
from .analysis import BATCHED, MODES
from .checks import Task, check
from .problem import pose
from .slopes import array_like, eighths


def gradcheck(
    fun: Callable[..., Any],
    args: Any,
    *,
    argnums: int | Sequence[int] | None = None,
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    modes: Sequence[str] = ("fwd", "rev"),
    batched: bool = True,
    fast: bool = False,
    nondet_tol: float = 0.0,
) -> bool:
    """Checks the derivatives that JAX takes of `fun` against finite differences.

    Stands for `torch.autograd.gradcheck(fun, args)`. Every entry of every output is differentiated
    by every entry of every input, which suits small arrays; `fast` is for larger ones.

    Args:
        fun: a function of arrays or pytrees of them, returning the same; custom rules are checked
            as they are used. Integers and bools are left alone, among arguments and results.
        args: the tuple of its arguments, or its only argument if that is no tuple or list.
        argnums: which arguments to differentiate by; `None` for all that hold floats.
        eps: the longest step of the finite differences, of which eleven more are each half; `None`
            to choose by the size of each entry and the dtype.
        atol: derivatives may differ by `atol + rtol * abs(numerical)`, and by the estimated
            error of the numerical one; `None` to choose by dtype: the same share as `rtol`, of
            the largest derivative in the row, or less where rounding moves the row by less.
        rtol: `None` to choose by dtype: the square root of its machine epsilon (1.5e-8 in float64).
        modes: `"fwd"`, `"rev"` or both. Where there are both, one that JAX lacks for a part of
            `fun` is left out: forward of a `custom_vjp`, reverse of a `lax.while_loop`.
        batched: whether derivatives under `jax.vmap` must be those without.
        fast: whether to compare along one random direction of each input and output only, always
            the same; an error of a single entry then counts less.
        nondet_tol: by how much results and derivatives may differ when they are computed again,
            after the function was traced again.

    Returns:
        `True`. There is no `raise_exception`: what is wrong is in the error.

    Raises:
        GradcheckError: derivatives disagree, are not linear, differ from run to run, cannot be
            taken, or finite differences cannot tell them; the error's `mismatches` say where. Or
            the function returns something else where it is differentiated, or results of another
            shape or dtype near the point.
        UsageError: nothing to differentiate, or a call of a wrong form.

    A function in less than float64 is evaluated in float64 too, at the same point, if it follows
    the dtype of its arguments; finite differences are then as good as they are there, the rule
    itself is checked to 1.5e-8, and the derivatives in its own dtype are held to that dtype's
    precision and to what a last place of the arguments changes. If it does not, finite
    differences are taken in its own dtype, with errors estimated for what they are there.

    What is not affected: no flag of JAX is set, and 64 bits are enabled within the call only. A
    module of Flax NNX is checked by its parameters, each time from the state that it is in, which
    stays as it was: statistics do not move, and dropout draws the same mask every time.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> fg.gradcheck(lambda x, w: jnp.tanh(x @ w), (jnp.ones((2, 3)), jnp.ones(3)))
    True
    """
    task = _task("gradcheck", fun, eps, atol, rtol, modes, batched, fast, nondet_tol)
    args = _tuple(args, "gradcheck")
    chosen = _argnums(argnums, args, "gradcheck")
    with explained, carried(fun, args, {}, "gradcheck") as carry:
        return check(pose(carry.result, carry.args, chosen, "gradcheck"), task)


def gradgradcheck(
    fun: Callable[..., Any],
    args: Any,
    gradient: Any = None,
    *,
    argnums: int | Sequence[int] | None = None,
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    modes: Sequence[str] = ("fwd", "rev"),
    batched: bool = True,
    fast: bool = False,
    nondet_tol: float = 0.0,
) -> bool:
    """Checks second derivatives: those of what the backward pass of `fun` computes.

    Stands for `torch.autograd.gradgradcheck(fun, args, grad_outputs)`. It is `gradcheck` of the
    function from the arguments and the output's gradient to the gradients of the arguments, so
    `modes` are forward over reverse and reverse over reverse.

    Args:
        fun: as for [`gradcheck`][funcgrad.gradcheck].
        args: the same.
        gradient: the output's gradient, a pytree like the output; `None` for random numbers, always
            the same. In errors it is the last argument.
        argnums: as for `gradcheck`.
        eps: the same.
        atol: the same.
        rtol: the same.
        modes: the same.
        batched: the same.
        fast: the same.
        nondet_tol: the same.

    Returns:
        `True`.

    Raises:
        GradcheckError: as `gradcheck` does.
        UsageError: the same.

    A hook is part of what the backward pass computes. Where reverse mode goes through it a second
    time it acts once more, which finite differences do not see; the error then names it.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> fg.gradgradcheck(lambda x: jnp.sum(x**3), jnp.arange(1.0, 4.0))
    True
    """
    name = "gradgradcheck"
    task = _task(name, fun, eps, atol, rtol, modes, batched, fast, nondet_tol)
    args = _tuple(args, name)
    chosen = _argnums(argnums, args, name)

    def backward(*given: Any) -> Any:
        *primals, cotangent = given

        def of_chosen(*values: Any) -> Any:
            return fun(*replaced(primals, chosen, values))

        return vjp(of_chosen, *(primals[i] for i in chosen))[1](cotangent)

    with explained:
        if gradient is None:
            with carried(fun, args, {}, name) as carry:
                gradient = _random_like(carry.result(*carry.args))
        with carried(backward, (*args, gradient), {}, name) as carry:
            return check(pose(carry.result, carry.args, (*chosen, len(args)), name), task)


def _task(
    function: str,
    fun: Any,
    eps: Any,
    atol: Any,
    rtol: Any,
    modes: Any,
    batched: bool,
    fast: bool,
    nondet_tol: Any,
) -> Task:
    """What was asked for, where it makes sense."""
    if not callable(fun):
        raise UsageError(
            f"`{function}` got {describe(fun)}, and wants a function and the tuple of its"
            f" arguments: {function}(fun, (x, w))"
        )
    if eps is not None and not (_is_real(eps) and 0 < eps < np.inf):
        raise UsageError(f"`{function}` got eps={eps!r}, and wants a length, more than 0, or None")
    for word, value in (("atol", atol), ("rtol", rtol), ("nondet_tol", nondet_tol)):
        # A number less than 0 would let every difference pass.
        if value is not None and not (_is_real(value) and value >= 0):
            raise UsageError(f"`{function}` got {word}={value!r}, and wants a number, 0 or more")
    found = _modes(modes, batched, function)
    return Task(function, eps, atol, rtol, found, fast, nondet_tol)


def _is_real(x: Any) -> bool:
    return isinstance(x, numbers.Real)


def _modes(modes: Any, batched: bool, function: str) -> list[str]:
    single = isinstance(modes, str) or not isinstance(modes, Iterable)
    named = [modes] if single else list(modes)
    if not named or not all(key in list(MODES) for key in named):
        raise UsageError(
            f'`{function}` got modes={modes!r}, and wants "fwd", "rev" or both: ("fwd", "rev")'
        )
    plain = [MODES[key] for key in MODES if key in named]
    return [*plain, *(BATCHED[key] for key in MODES if batched and key in named)]


def _tuple(args: Any, function: str) -> tuple[Any, ...]:
    refuse_iterators(args, function)
    return tuple(args) if isinstance(args, tuple | list) else (args,)


def _argnums(argnums: Any, args: tuple[Any, ...], function: str) -> tuple[int, ...]:
    if argnums is None:
        return tuple(i for i, arg in enumerate(args) if any(map(_taken, jax.tree.leaves(arg))))
    return from_front(read_argnums(argnums, function)[1], len(args), function)


def _taken(leaf: Any) -> bool:
    return is_array(leaf) and takes_gradient(leaf)


def _random_like(out: Any) -> Any:
    """Random numbers like the output; `None` at leaves that take no gradient."""
    check_arrays(out, "gradgradcheck")
    draw = np.random.default_rng(2)

    def like(leaf: Any) -> Any:
        if not takes_gradient(leaf):
            return None
        x = jnp.asarray(leaf)
        real = eighths(draw, x.shape)
        values = real + 1j * eighths(draw, x.shape) if jnp.iscomplexobj(x) else real
        return array_like(np.asarray(values), x)

    return jax.tree.map(like, out)
