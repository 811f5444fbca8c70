"""The public loops, whose trip count may depend on data: `while_loop` and `fori_loop`.

They are called like `jax.lax`'s, compile to one `while`, and can be differentiated in forward and
reverse mode, at any order and under every transformation. The price of reverse mode is room for
what the derivative of the body needs of each step (its residuals), filled with zeros first. Room
for 1024 steps is made and not for more: where `max_steps` is larger, the steps past the 1024th are
run twice, or as `checkpoints` says. Measured on a CPU, for the gradient of 1000 steps of
`tanh(W @ x)` at widths 1, 64 and 256, against a `lax.scan` of 1000: 0.99 to 1.02 times its time
with max_steps=1024, 1.01 to 1.09 times with 16384, and 1.1, 1.7 and 2.0 times with room for all of
16384 steps (`funcgrad bench loops/gradient-by-room` measures it on yours). Called outside
`jax.jit`, each call is traced anew, and compiled once for functions that do the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _jax
from .._describe import describe, differences
from .._leaves import is_array
from .._mistakes import explained
from .._tags import caller
from ..errors import TreeError, UsageError
from . import Loop
from .trip_count import bounds, steps_between
from .unfinished import Choice, check_choice, finished

T = TypeVar("T")

# What `checkpoints` is where it is not said and the number of steps is not known while tracing.
KEPT = 1024


def while_loop(
    cond_fun: Callable[[T], Any],
    body_fun: Callable[[T], T],
    init_val: T,
    *,
    max_steps: int,
    checkpoints: int | None = None,
    on_max_steps: Choice | None = None,
) -> T:
    """Repeats `body_fun` while `cond_fun` holds, differentiable in every mode.

    Stands for Python's `while` on tensor values under PyTorch's autograd. Called like
    [`jax.lax.while_loop`](https://docs.jax.dev/en/latest/_autosummary/jax.lax.while_loop.html),
    which has no reverse mode.

    Args:
        cond_fun: from the carry to a scalar bool.
        body_fun: from the carry to the next one, of the same structure, shapes and dtypes.
        init_val: the first carry: an array or pytree of arrays, numbers, PRNG keys. Leaves that are
            only weaker typed than what the body returns are promoted, as JAX does.
        max_steps: the most steps to take, a positive int.
        checkpoints: reverse mode trades time for memory with an int k from 2 up: the residuals of
            k steps at a time and k carries are kept, and other steps are run again. `None` is 1024.
            With `checkpoints=max_steps` all residuals are kept and no step is run again.
        on_max_steps: what to do about a loop that would go on after `max_steps` steps. `None`: its
            floating and complex results are NaN, and so is the gradient of all that has entered
            into them; to use another result that the steps change, an integer, a bool or a key,
            is an error, at run time where the loop is compiled, at once where it is not. `"nan"`:
            other results are what they are. `"raise"`: it is an error to use any result, or its
            gradient. `"ignore"`: the values reached so far, for a cap that is meant, and for a loop
            in a branch under `jax.vmap`: it takes steps for the examples that do not take the
            branch too, and is an error for these where it would be one for the others.

    Returns:
        The carry for which `cond_fun` is false.

    Raises:
        UsageError: `max_steps`, `checkpoints`, `on_max_steps` or what `cond_fun` returns is not of
            this form.
        TreeError: `body_fun` changes the structure, a shape or a dtype of the carry.
        GradientError: more than `max_steps` steps, as `on_max_steps` has it. Under `jax.jit` it
            arrives as JAX's run-time error, with this text in it.

    Forward mode (`jax.jvp`) keeps one step's values, whatever `max_steps`. Reverse mode keeps per
    step what the linearised body needs, its residuals; what does not change from step to step, like
    a matrix that the body closes over, is kept once. With r bytes of residuals, c bytes of carry,
    `checkpoints=k`, and j the least number for which `k + k**2 + ... + k**j >= max_steps`, it needs
    about `j * k * r + (j - 1) * k * c` bytes, and 2 (j - 1) times those of the gradient of what the
    body closes over, which it sums up; and it runs the body at most j times for a step taken.
    A million steps are three levels of 100 or, as it is by default, two of 1024.

    Under `jax.vmap` the loop goes on while any example does; examples that are done keep their
    values. In `shard_map` each device takes its own steps: the body must not communicate then.

    >>> import jax, jax.numpy as jnp, funcgrad as fg
    >>> def doubled(a):
    ...     return fg.while_loop(lambda b: b < 1000, lambda b: 2 * b, a, max_steps=20)
    >>> jax.jit(jax.value_and_grad(doubled))(3.0)
    (Array(1536., dtype=float32, weak_type=True), Array(512., dtype=float32, weak_type=True))
    """
    _check_count(max_steps, "max_steps", "while_loop")
    check_choice(on_max_steps, "while_loop")
    limit = np.asarray(max_steps, np.int32)
    kept = _kept(checkpoints, "while_loop", KEPT)
    with explained:
        out = _loop("while_loop", cond_fun, body_fun, init_val, limit, max_steps, kept)
        return out.finished("while_loop", out.more, max_steps, on_max_steps)


def fori_loop(
    lower: Any,
    upper: Any,
    body_fun: Callable[[Any, T], T],
    init_val: T,
    *,
    max_steps: int | None = None,
    checkpoints: int | None = None,
    on_max_steps: Choice | None = None,
) -> T:
    """Runs `body_fun(i, val)` for `i` from `lower` up to, not including, `upper`.

    Stands for Python's `for i in range(lower, upper)` under PyTorch's autograd. Called like
    [`jax.lax.fori_loop`](https://docs.jax.dev/en/latest/_autosummary/jax.lax.fori_loop.html), which
    has no reverse mode where the bounds are known at run time only.

    Args:
        lower: the first index, an integer scalar, traced or not.
        upper: one past the last index, of the same dtype.
        body_fun: from the index and the carry to the next carry, of the same structure, shapes and
            dtypes.
        init_val: the first carry, as for [`while_loop`][funcgrad.while_loop].
        max_steps: the most steps there can be, a positive int. Not needed where both bounds are
            known while tracing; where they are not, it is what reverse mode needs.
        checkpoints: as for [`while_loop`][funcgrad.while_loop]; `None` keeps all residuals where
            both bounds are known while tracing.
        on_max_steps: what to do if there are more steps to take, as for
            [`while_loop`][funcgrad.while_loop].

    Returns:
        The last carry; `init_val` where `upper <= lower`.

    Raises:
        UsageError: bounds that are no integer scalars, a `max_steps` that is no positive int or
            less than the known number of steps, a `checkpoints` that is no int from 2 up, an
            `on_max_steps` that is none.
        TreeError: `body_fun` changes the structure, a shape or a dtype of the carry.
        GradientError: reverse mode with bounds known at run time only and no `max_steps`; more than
            `max_steps` steps, as `on_max_steps` has it.

    Memory is as for [`while_loop`][funcgrad.while_loop].

    >>> import jax, funcgrad as fg
    >>> def power(x, n):
    ...     return fg.fori_loop(0, n, lambda i, y: x * y, 1.0, max_steps=10)
    >>> jax.jit(jax.grad(power))(2.0, 5)
    Array(80., dtype=float32)
    """
    if max_steps is not None:
        _check_count(max_steps, "max_steps", "fori_loop")
    check_choice(on_max_steps, "fori_loop")
    lower, upper, known = bounds(lower, upper)
    most = max_steps if known is None else None
    if known is not None:
        if max_steps is not None and known > max_steps:
            raise UsageError(
                f"`fori_loop` got the bounds {lower} and {upper}, which are {known} steps, and"
                f" max_steps={max_steps}; leave max_steps out where the bounds are known"
            )
        max_steps = max(1, known)  # an array with no rows cannot be read from
    limit = steps = steps_between(lower, upper, known)
    if most is not None:
        limit = jnp.minimum(limit, most)

    def body(state: Any) -> Any:
        index, value = state
        return lax.add(index, lax.full_like(index, 1)), body_fun(index, value)

    kept = _kept(checkpoints, "fori_loop", None if known is not None else KEPT)
    with explained:
        out = _loop("fori_loop", None, body, (lower, init_val), limit, max_steps, kept)
        if most is None:
            return out.tree.unflatten(out.leaves)[1]
        return out.finished("fori_loop", steps > most, most, on_max_steps)[1]


class Ran(NamedTuple):
    """A loop that ran.

    Fields:
        more: whether it would go on; `None` without a condition.
        leaves: the leaves of its final carry.
        tree: what they are the leaves of.
        changed: of each leaf, whether a step changes it.
    """

    more: Any
    leaves: list[Any]
    tree: Any
    changed: list[bool]

    def finished(self, name: str, more: Any, max_steps: int, choice: Choice | None) -> Any:
        """The final carry, as `choice` wants it where the loop would go on."""
        message = (
            f"`{name}` got a loop, at {caller()}, that would go on after max_steps={max_steps}"
            " steps; allow more steps, or choose on_max_steps='nan', which leaves integers and"
            " bools as they are by then, or 'ignore', which leaves everything"
        )
        leaves = finished(self.leaves, self.changed, more, choice, message)
        return self.tree.unflatten(leaves)


def _loop(
    name: str,
    cond_fun: Any,
    body_fun: Any,
    init_val: Any,
    limit: Any,
    length: int | None,
    kept: int | None,
) -> Ran:
    """A loop of either kind, of at most `limit` steps, `length` if that is not known yet."""
    leaves, tree = jax.tree.flatten(init_val)
    leaves = [_array(leaf, name) for leaf in leaves]
    body, consts, leaves = _body(name, body_fun, leaves, tree)
    cond, conds = _condition(name, cond_fun, leaves, tree)
    axes = _axes(limit, *consts, *conds, *leaves)
    if axes:
        limit, *leaves = (_jax.varied(x, axes) for x in (limit, *leaves))
        body, consts = _over_devices(name, body_fun, tree, leaves, axes)
        cond, conds = _condition(name, cond_fun, leaves, tree)
    made = Loop(body, cond, length, len(conds), len(consts), len(leaves), checkpoints=kept)
    _, out, _ = made.run(limit, conds, consts, leaves)
    more = None
    if cond:
        (more,) = _jax.as_function(cond)(*map(lax.stop_gradient, [*conds, *out]))
    given = _jax.inputs(body)[len(consts) :]
    changed = [x is not y for x, y in zip(given, _jax.outputs(body), strict=True)]
    return Ran(more, out, tree, changed)


def _traced(
    name: str, fun: Callable[..., Any], leaves: Sequence[Any]
) -> tuple[_jax.Jaxpr, list[Any]]:
    """A program and what it closes over, its leading inputs."""
    closed = _jax.trace(fun, leaves)
    effect = _jax.ordered_effect(closed)
    if effect:
        raise UsageError(
            f"`{name}` got a function with the effect {effect}, whose order it cannot keep: print"
            " and call back without ordered=True, and put what a reference holds into the carry"
        )
    return _jax.without_consts(closed), list(closed.consts)


def _condition(
    name: str, cond_fun: Any, leaves: list[Any], tree: Any
) -> tuple[_jax.Jaxpr | None, list[Any]]:
    """The condition as a program and what it closes over; nothing where there is none."""
    if cond_fun is None:
        return None, []
    return _traced(name, lambda *xs: _tested(name, cond_fun(tree.unflatten(xs))), leaves)


def _body(name: str, body_fun: Any, leaves: list[Any], tree: Any) -> Any:
    """The body as a program, what it closes over, and the first carry in the types it wants."""
    trees: list[Any] = []

    def flat(*xs: Any) -> list[Any]:
        out, structure = jax.tree.flatten(body_fun(tree.unflatten(xs)))
        if wrong := [leaf for leaf in out if not is_array(leaf)]:
            raise UsageError(
                f"`{name}` got a body that returns {describe(wrong[0])}, and wants arrays or"
                " numbers: a carry like the one it is given"
            )
        trees.append(structure)
        return [*map(_as_strong_as, out, xs)] if structure == tree else out

    while True:  # a promoted leaf may promote another, each at most twice
        body, consts = _traced(name, flat, leaves)
        types = _jax.output_types(body)
        new = leaves
        if trees[-1] == tree:
            new = [_promoted(x, aval) for x, aval in zip(leaves, types, strict=True)]
        if all(x is y for x, y in zip(leaves, new, strict=True)):
            break
        leaves = new
    wrong = differences(trees[-1].unflatten(types), tree.unflatten(leaves))
    if wrong:
        lines = "\n  ".join(wrong).replace(": got ", ": after the step ")
        raise TreeError(
            f"`{name}` got a body that returns another structure, shape or dtype than the carry it"
            " is given; make it return a carry like the one before, or give init_val what it"
            " returns:\n  " + lines.replace(", wanted ", ", before ")
        )
    return body, consts, leaves


def _promoted(x: Any, out: Any) -> Any:
    """An initial value in the type of what the body returns, where only its type is weaker."""
    if not _weak(x) or (out.weak_type and x.dtype == out.dtype):
        return x
    if jnp.issubdtype(out.dtype, jax.dtypes.extended) or jnp.result_type(x, out) != out.dtype:
        return x
    return lax.convert_element_type(x, out.dtype)


def _as_strong_as(x: Any, like: Any) -> Any:
    strong = _weak(x) and not _weak(like)
    return lax.convert_element_type(x, jax.typeof(x).dtype) if strong else x


def _weak(x: Any) -> bool:
    return bool(getattr(jax.typeof(x), "weak_type", False))


def _tested(name: str, out: Any) -> Any:
    if not jax.tree_util.all_leaves([out]) or not hasattr(out, "dtype"):
        good = isinstance(out, bool)
    else:
        good = out.dtype == bool and out.shape == ()
    if not good:
        raise UsageError(
            f"`{name}` got a cond_fun that returns {describe(out)}, and wants a scalar bool;"
            " reduce it with jnp.all, jnp.any or jnp.sum"
        )
    return [jnp.asarray(out)]


def _array(leaf: Any, name: str) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    if not is_array(leaf):
        raise UsageError(f"`{name}` got {describe(leaf)} in init_val, and wants arrays or numbers")
    return jnp.asarray(leaf)


def _axes(*values: Any) -> frozenset[str]:
    return frozenset[str]().union(*(_jax.varying(jax.typeof(x)) for x in values))


def _over_devices(
    name: str, body_fun: Any, tree: Any, leaves: list[Any], axes: frozenset[str]
) -> tuple[_jax.Jaxpr, list[Any]]:
    """The body in `shard_map`, its constants typed before the loop as differing between devices.

    Going backwards they are then summed over devices after the loop, and not in each step, where
    devices that take fewer steps would be waited for for ever.
    """

    def flat(*xs: Any) -> list[Any]:
        out = jax.tree.leaves(body_fun(tree.unflatten(xs)))
        return [_jax.varied(_as_strong_as(x, like), axes) for x, like in zip(out, xs, strict=True)]

    body, consts = _traced(name, flat, leaves)
    moved, made = _jax.hoist_casts(body, len(consts))
    return moved, [*_jax.as_function(made)(*consts), *consts]


def _check_count(count: Any, keyword: str, name: str, least: int = 1) -> None:
    if isinstance(count, bool) or not hasattr(count, "__index__") or isinstance(count, jax.Array):
        got = describe(count)
    elif not least <= count < 2**31:
        got = str(count)
    else:
        return
    wanted = "a positive int" if least == 1 else f"an int of at least {least} and"
    raise UsageError(
        f"`{name}` got {keyword}={got}, and wants {wanted} below 2**31, known while tracing"
    )


def _kept(checkpoints: Any, name: str, default: int | None) -> int | None:
    if checkpoints is None:
        return default
    _check_count(checkpoints, "checkpoints", name, 2)
    return int(checkpoints)
