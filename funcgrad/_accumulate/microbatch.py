"""`microbatch`: a function of a large batch, computed in one loop over parts of the batch.

Sharp edges. `"mean"` gives what the function gives on the whole batch where the function itself is
a mean over the rows (a mean loss and its gradient), `"sum"` where it is a sum; what mixes rows in
another way (batch normalization, a maximum) sees one micro-batch at a time, as in PyTorch. Without
`mesh` the parts are consecutive rows, so a batch that is sharded over devices would be gathered,
and every device compute all of it: give `mesh` and `batch_axis`, and each splits the rows it has.
With weights that are one array for many layers, which `fun` scans over, the gradient of a part is
one array too, and stands beside the sum while it is added. Differentiating
*through* a micro-batched loss keeps the residuals of all micro-batches; micro-batch the gradient,
`microbatch(grad(loss), n)`, not `grad(microbatch(loss, n))`.
"""

import functools
import itertools
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .. import _jax
from .._calls import Call, from_front, read_argnums, replaced, take_apart
from .._describe import argument, describe, shown
from .._leaves import is_traced
from .._lists import select
from .._mistakes import explained
from .._objects import Left, carried, leaves_of
from .._types import Function, P, R
from ..errors import UsageError
from .devices import axes_of, devices_along, reduced_over_devices
from .loop import Layout, reduced_over_parts
from .parts import as_jax, check_unsharded, split_keys, split_rows
from .reduction import check_words
from .task import Task, asked_of


def microbatch(
    fun: Function[P, R],
    microbatches: int,
    *,
    batch_argnums: int | Sequence[int] = 1,
    reduce: Any = "mean",
    weight: Callable[..., Any] | None = None,
    mesh: Any = None,
    batch_axis: str | Sequence[str] | None = None,
    key_argnums: int | Sequence[int] = (),
) -> Callable[P, R]:
    """A function that computes `fun` in parts of the batch, one after the other in one loop.

    Stands for `for micro in batch.chunk(n): (loss(micro) / n).backward()`, and with `mesh` for the
    same loop under `DDP.no_sync()` with the gradients reduced once, at its end. `fun` is normally
    `value_and_grad(loss)`, its parameters first, the batch second. Call the result inside
    `jax.jit`, as `lax.scan`: outside it every call traces `fun` anew, though it is compiled once.

    The rows are split as `Tensor.chunk` does: into parts of `ceil(rows / microbatches)` consecutive
    rows, the last one smaller where that leaves a remainder (and fewer parts than asked for where
    that covers all rows: 9 rows in 4 are 3, 3, 3).

    Args:
        fun: a function returning a pytree of arrays; `None` in it passes through.
        microbatches: how many parts; with `mesh` on each device.
        batch_argnums: the positional arguments to split. Every leaf has the same leading axis.
            Other arguments, and those passed by keyword, go to every micro-batch whole.
        reduce: what becomes of the results r_i of the micro-batches: a pytree prefix of what `fun`
            returns, made of
            `"mean"`: sum(w_i r_i) / sum(w_i), where w_i is `weight`, or else the number of rows;
            `"sum"`: sum(r_i), without weights, right for a loss that is a sum;
            `"stack"`: an axis in front, one entry a micro-batch, in the order of the rows. For the
            auxiliary values of `value_and_grad(loss, has_aux=True)` say
            `reduce=(("mean", "stack"), "mean")`, for retained ones `("mean", "mean", "stack")`;
            values per row then come as [parts, rows of a part, ...], to `reshape(-1, ...)`.
        weight: a function of the micro-batch arguments (those of `batch_argnums`, in that order)
            that gives its weight, a real scalar: the number of tokens that are not masked, say. A
            micro-batch of weight 0 counts for nothing, even where its result is NaN (the mean of
            no tokens); if the weights add up to 0, means are 0.
        mesh: the mesh whose devices share the batch; together with `batch_axis`.
        batch_axis: the name of the mesh axis, or axes, over which rows are sharded. Each device
            loops over its own rows, and the sums are added across devices once, after the loop.
            Other axes of the mesh stay automatic, so weights may be sharded over them; weights
            sharded over `batch_axis` itself are gathered first.
        key_argnums: positional arguments that are PRNG keys, typed or raw, or pytrees of them.
            Micro-batch i gets `jax.random.split(key, parts)[i]`, parts counted in the order of the
            rows over all devices: the same on one device and on many, as long as parts are.

    Returns:
        A function with the arguments of `fun` and a result of its structure and dtypes. Sums run in
        float32 (float64 and complex in their own precision, integers in their own dtype) in one
        buffer, and are cast back to the dtype of the result at the end (never a weak type).

    Raises:
        UsageError: an argument of a wrong form, a mesh without that axis, `"mean"` of integers or
            bools, a `weight` that is no real scalar, a write into a list or dict among the
            arguments that are not split.
        TreeError: leading axes that differ, fewer rows than `microbatches`, rows that the devices
            do not share evenly, a `reduce` that is no prefix, results that change shape with the
            size of the micro-batch.

    Hooks and retained gradients in `fun` see the gradient of a micro-batch's share of the mean, as
    in `(loss / n).backward()`: where `fun` is `grad` or `value_and_grad` of a loss, jitted or
    partial. In any other function retained gradients are multiplied by the share afterwards, and
    hooks see the gradient of the micro-batch's own mean. What `fun` reduces by `"sum"` is not
    divided.

    The state of a Flax NNX module moves from one micro-batch to the next; with `mesh` its floats
    (statistics) are averaged over the devices at the end.

    Not affected: the order of rows, the arguments (donate them to `jit` yourself), gradients inside
    `fun`, and numbers beyond the rounding of sums in another order. `fun` is traced once, twice
    where there is a remainder, and temporary memory is one result and one micro-batch's work
    whatever their number. With `mesh`, `fun` sees its device's rows and need not know of the axis.

    >>> import jax, jax.numpy as jnp, funcgrad as fg
    >>> loss = lambda w, x: jnp.mean((x @ w) ** 2)
    >>> step = jax.jit(fg.microbatch(fg.value_and_grad(loss), 3))
    >>> step(jnp.ones(2), jnp.arange(12.0).reshape(6, 2))
    (Array(167.66667, dtype=float32), Array([156.66667, 178.66667], dtype=float32))
    """
    if not callable(fun):
        raise UsageError(f"`microbatch` got {describe(fun)}, and wants a function to call in parts")
    if weight is not None and not callable(weight):
        raise UsageError(
            f"`microbatch` got weight={weight!r}, and wants a function of the micro-batch"
        )
    wanted = _positive(microbatches)
    _, batches = read_argnums(
        batch_argnums, "microbatch", keyword="batch_argnums", advice=": the arguments to split"
    )
    _, drawing = read_argnums(key_argnums, "microbatch", keyword="key_argnums", least=0)
    check_words(reduce)
    axes = axes_of(mesh, batch_axis)
    asked = asked_of(fun, reduce)

    @functools.wraps(fun)
    def micro_fun(*args: Any, **kwargs: Any) -> Any:
        with explained, carried(asked.run, args, kwargs, "microbatch", writes=True) as carry:
            return carry.restore(of_nodes(carry.fun, carry.args, carry.kwargs))

    def of_nodes(run: Callable[..., Left], args: Any, kwargs: Any) -> Left:
        chosen = from_front(
            batches + drawing,
            len(args),
            "microbatch",
            shown=f"batch_argnums {batches} and key_argnums {drawing}",
            advice="; arguments passed by keyword are not split",
        )
        split, keyed = chosen[: len(batches)], chosen[len(batches) :]
        batch = tuple(jax.tree.map(as_jax, args[i]) for i in split)
        parts = split_rows(args, split, wanted, devices_along(mesh, axes))
        keys = [split_keys(args[i], i, parts.number * parts.devices) for i in keyed]

        def of_others(others: Any, batch: Any, keys: Any, share: Any) -> Left:
            args, kwargs = others
            try:
                left = run(share, *replaced(args, chosen, [*batch, *keys]), **kwargs)
            except (TypeError, ValueError) as error:
                _say_part(error, split, len(jax.tree.leaves(batch)[0]), parts.rows)
                raise
            refuse_writes(left, chosen)
            return left

        def refuse_writes(left: Left, own: tuple[int, ...]) -> None:
            """A part of the batch and a key are the function's own, all else is the caller's."""
            for which, place, *inner in (written.path for written in left.written):
                if which.idx or place.idx - 1 not in own:
                    name = argument(place.key if which.idx else place.idx - 1, inner)
                    raise UsageError(
                        f"`microbatch` got {shown(fun)}, which writes into {name}, of which each"
                        " micro-batch has a copy, so that it would be lost: return what is new"
                    )

        others = replaced(args, chosen, [None] * len(chosen)), kwargs
        call = Call(of_others, others, *take_apart(others, is_traced), "microbatch")
        task = Task(call.run, asked, others, _places(call), weight, reduce, parts, axes)
        if mesh is None:
            check_unsharded(batch)
        return _computed(task, mesh, call.arrays, batch, keys)

    return micro_fun


def _places(call: Call) -> list[int | None]:
    """For each array of the objects in a call its place among the arrays, if it is one of them."""
    places = itertools.count()
    numbered = [next(places) if chosen else None for chosen in call.parts.chosen]
    inside = [leaf.inner is not None for leaf in leaves_of(call.whole)]
    return select(numbered, inside)


def _say_part(error: Exception, places: tuple[int, ...], size: int, rows: int) -> None:
    """Adds to an error about shapes which arguments are a part of the batch."""
    if not re.search("shape|size|dimension", str(error), re.IGNORECASE):
        return
    error.add_note(
        f"funcgrad: `microbatch` gave the function {size} of the {rows} rows of batch_argnums="
        f"{places}, and every other argument whole: name each that has a row for each example, and"
        " take the number of rows from an array's shape"
    )


def _positive(microbatches: Any) -> int:
    try:
        count = operator.index(microbatches)
    except TypeError:
        count = 0
    if count < 1 or isinstance(microbatches, bool):
        raise UsageError(
            f"`microbatch` got microbatches={microbatches!r}, and wants a positive integer, known"
            " when the function is traced"
        )
    return count


def _computed(task: Task, mesh: Any, *given: Any) -> Any:
    """The result; outside `jit` it is compiled once for functions that do the same."""
    tree: Any
    operands, tree = jax.tree.flatten(given)
    seen: list[Any] = []

    def flat(*operands: Any) -> list[Any]:
        reduced = (
            reduced_over_parts
            if mesh is None
            else functools.partial(reduced_over_devices, mesh=mesh)
        )
        layout, *found = reduced(task, *tree.unflatten(operands))
        leaves, structure = jax.tree.flatten(found)
        seen.append((layout, structure))
        return leaves

    leaves = _jax.compiled_once(flat, operands)
    layout, structure = seen[-1]
    return _join(layout, *structure.unflatten(leaves))


def _join(layout: Layout, sums: list[Any], stacks: list[Any], state: list[Any]) -> Left:
    reduced, stacked = iter(sums), iter(stacks)
    result = layout.tree.unflatten(
        [next(stacked if word == "stack" else reduced) for word in layout.words]
    )
    return Left(layout.objects.unflatten(state), result)
