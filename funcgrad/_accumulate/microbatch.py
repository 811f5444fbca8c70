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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _jax
from .._calls import Call, from_front, path_of, read_argnums, replaced, take_apart
from .._describe import argument, describe, differences, shown
from .._grad.backward import Retained, shared
from .._leaves import is_array, is_traced, takes_gradient
from .._lists import select
from .._mistakes import explained
from .._objects import Left, carried, is_kept, leaves_of, same_kind, state_of
from .._types import Function, P, R
from ..errors import TreeError, UsageError
from .accumulator import sum_dtype

WORDS = ("mean", "sum", "stack")


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
    _check_words(reduce)
    axes = _mesh_axes(mesh, batch_axis)
    asked = _asked(fun, reduce)

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
        batch = tuple(jax.tree.map(_array, args[i]) for i in split)
        parts = _parts(args, split, wanted, _devices(mesh, axes))
        keys = [_split_keys(args[i], i, parts.number * parts.devices) for i in keyed]

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
        task = _Task(call.run, asked, others, _places(call), weight, reduce, parts, axes)
        if mesh is None:
            _check_unsharded(batch)
        return _computed(task, mesh, call.arrays, batch, keys)

    return micro_fun


class _Asked(NamedTuple):
    """The function, to be asked for what a micro-batch adds to the mean.

    Fields:
        run: a function of the micro-batch's share of the whole, and of the arguments.
        place: where in its result gradients are multiplied by the share, -1 for nowhere, `None` for
            everywhere.
        shares: whether there is a share; otherwise gradients are what the function gives.
    """

    run: Callable[..., Any]
    place: int | None
    shares: bool

    def scaled(self, result: Any) -> list[bool]:
        """For each leaf of a result whether it is multiplied by the share."""
        if not self.shares or self.place is None:
            return [self.shares] * len(jax.tree.leaves(result))
        items = result if self.place >= 0 else (result,)
        return [
            on
            for place, item in enumerate(items)
            for x in jax.tree.leaves(item, is_leaf=_is_retained)
            for on in (_of_retained(x) if _is_retained(x) else [place == self.place])
        ]


def _is_retained(x: Any) -> bool:
    return isinstance(x, Retained)


def _of_retained(x: Retained) -> list[bool]:
    return [False] * len(jax.tree.leaves(x.value)) + [True] * len(jax.tree.leaves(x.grad))


def _asked(fun: Callable[..., Any], reduce: Any) -> _Asked:
    """A function of funcgrad's own takes the share into its backward pass, as `loss / n` does.

    So hooks see it too. Of any other function the retained gradients are multiplied, which is the
    same where hooks are linear.
    """
    own = shared(fun)
    if own is not None:
        return _Asked(own.run, own.place, _of_gradients(reduce, own.place))

    def run(share: Any, *args: Any, **kwargs: Any) -> Any:
        result = fun(*args, **kwargs)
        if share is None:
            return result
        return jax.tree.map(
            lambda x: _scaled(x, share) if _is_retained(x) else x, result, is_leaf=_is_retained
        )

    return _Asked(run, -1, "mean" in jax.tree.leaves(reduce))


def _of_gradients(reduce: Any, place: int | None) -> bool:
    """Whether the gradients, which are at a place in the result, are reduced by the mean."""
    if place is not None and not isinstance(reduce, str):
        reduce = reduce[place] if isinstance(reduce, tuple) and place < len(reduce) else None
    words = jax.tree.leaves(reduce)
    return bool(words) and all(word == "mean" for word in words)


def _scaled(x: Retained, share: Any) -> Retained:
    return x._replace(grad=jax.tree.map(lambda g: g * jnp.asarray(share).astype(g.dtype), x.grad))


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


class _Parts(NamedTuple):
    """How the rows of one device are split.

    Fields:
        rows: the rows of one device.
        size: the rows of a full micro-batch.
        full: how many micro-batches are full.
        devices: how many devices have rows of their own.
    """

    rows: int
    size: int
    full: int
    devices: int

    @property
    def rest(self) -> int:
        """The rows of the last micro-batch where it is smaller than the others, or 0."""
        return self.rows - self.full * self.size

    @property
    def number(self) -> int:
        """The micro-batches of one device."""
        return self.full + bool(self.rest)


class _Task(NamedTuple):
    """One call of a micro-batched function.

    Fields:
        run: `(held, batch, keys, share) -> Left`: the user's function.
        asked: how it takes the share.
        whole: what is held, whole.
        places: for each array of the objects in it its place in `held`, where it has one.
        weight, reduce: as the user gave them.
        parts: how the rows are split.
        axes: the mesh axes to add over at the end; none without a mesh.
    """

    run: Callable[..., Left]
    asked: _Asked
    whole: Any
    places: list[int | None]
    weight: Callable[..., Any] | None
    reduce: Any
    parts: _Parts
    axes: tuple[str, ...]


class _Results(NamedTuple):
    """What one micro-batch gives.

    Fields:
        leaves: the leaves of the user's result, in flattening order.
        state: the arrays of objects that it changed.
    """

    leaves: list[Any]
    state: list[Any]


class _Weights(NamedTuple):
    """What each micro-batch counts for.

    Fields:
        weight: for each its weight, `None` where the rows are the weight.
        share: for each its share of the whole, `None` where nothing is multiplied by it.
        total: the sum of the weights over all devices, `None` without.
    """

    weight: Any
    share: Any
    total: Any


class _Program(NamedTuple):
    """The user's function and its weight on one full micro-batch, traced.

    Fields:
        call: `(micro, keys, state, share) -> _Results`.
        like: the types of the results.
        tree: the structure of the user's result.
        words: how each of its leaves is reduced; `"share"` is a mean of what is multiplied already.
        objects: the structure of the objects afterwards, of the arrays that are changed.
        changed: the places of these in `held`.
    """

    call: Callable[..., _Results]
    like: _Results
    tree: Any
    words: tuple[str, ...]
    objects: Any
    changed: list[int]


class _Layout(NamedTuple):
    """The static half of a result: its structure, that of the objects, and what is stacked."""

    tree: Any
    objects: Any
    words: tuple[str, ...]


def _computed(task: _Task, mesh: Any, *given: Any) -> Any:
    """The result; outside `jit` it is compiled once for functions that do the same."""
    tree: Any
    operands, tree = jax.tree.flatten(given)
    seen: list[Any] = []

    def flat(*operands: Any) -> list[Any]:
        reduced = _reduced if mesh is None else functools.partial(_on_mesh, mesh=mesh)
        layout, *found = reduced(task, *tree.unflatten(operands))
        leaves, structure = jax.tree.flatten(found)
        seen.append((layout, structure))
        return leaves

    leaves = _jax.compiled_once(flat, operands)
    layout, structure = seen[-1]
    return _join(layout, *structure.unflatten(leaves))


def _on_mesh(task: _Task, held: Any, batch: Any, keys: Any, *, mesh: Any) -> Any:
    """Each device reduces its own rows; sums come out replicated, stacks sharded by rows."""
    seen: list[_Layout] = []

    def local(held: Any, batch: Any, keys: Any) -> Any:
        layout, sums, stacks, state = _reduced(task, held, batch, keys)
        seen.append(layout)
        return sums, stacks, state

    rows, whole = jax.P(task.axes), jax.P()
    # Typed as varying (check_vma=True), `jax.grad` of replicated weights adds across devices where
    # it stands, inside the loop, and a `scan` of the user's that starts from zeros is refused.
    shared = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, rows, rows),
        out_specs=(whole, rows, whole),
        axis_names=set(task.axes),
        check_vma=False,
    )
    if _explicit(mesh, task.axes):
        batch, keys = jax.tree.map(lambda x: _shared_out(x, mesh, task.axes), (batch, keys))
        held = [_gathered(x, mesh, task.axes) for x in held]
    results = jax.jit(shared)(held, batch, keys)
    return seen[-1], *results


def _explicit(mesh: Any, axes: tuple[str, ...]) -> bool:
    """Whether shardings over `axes` are part of types, so that they must be asked for."""
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return all(kinds[axis] == jax.sharding.AxisType.Explicit for axis in axes)


def _shared_out(x: Any, mesh: Any, axes: tuple[str, ...]) -> Any:
    """`x` with its rows over `axes`; it stays where it is if they are there."""
    return _jax.placed(x, mesh, jax.P(axes, *jax.typeof(x).sharding.spec[1:]))


def _gathered(x: Any, mesh: Any, axes: tuple[str, ...]) -> Any:
    """`x` whole along `axes`, and along other axes as it is."""
    named = [part if isinstance(part, tuple) else (part,) for part in jax.typeof(x).sharding.spec]
    if not any(axis in part for part in named for axis in axes):
        return x
    rest = (tuple(axis for axis in part if axis and axis not in axes) for part in named)
    return _jax.placed(x, mesh, jax.P(*(part or None for part in rest)))


def _join(layout: _Layout, sums: list[Any], stacks: list[Any], state: list[Any]) -> Left:
    reduced, stacked = iter(sums), iter(stacks)
    result = layout.tree.unflatten(
        [next(stacked if word == "stack" else reduced) for word in layout.words]
    )
    return Left(layout.objects.unflatten(state), result)


def _reduced(
    task: _Task, held: Any, batch: Any, keys: Any
) -> tuple[_Layout, list[Any], list[Any], list[Any]]:
    """The layout of the result, its reduced leaves and its stacked ones, and the objects' state."""
    parts, weights = task.parts, _weights(task, batch)
    program = _trace(task, held, batch, keys, weights)
    state = [held[i] for i in program.changed]
    acc, stacks = _loop(program, parts, batch, keys, weights, state)
    state = acc.state
    if parts.rest:
        moved = replaced(held, program.changed, state)
        last = _last(task, program, moved, batch, keys, weights)
        state = last.state
        weight = parts.rest / parts.size if weights.weight is None else weights.weight[-1]
        acc = _add(program.words, acc, last, weight)
        stacks = _append(program.words, stacks, last)
    sums = acc.leaves
    if task.axes:
        sums = lax.psum(sums, task.axes)
        state = [lax.pmean(x, task.axes) if takes_gradient(x) else x for x in state]
    rows = parts.devices * parts.rows / parts.size
    finished = _finish(program, sums, weights.total, rows)
    return _Layout(program.tree, program.objects, program.words), finished, stacks, state


def _weights(task: _Task, batch: Any) -> _Weights:
    """The weights of a device's micro-batches, and their shares of the whole."""
    parts, weight = task.parts, task.weight
    if weight is None:
        sizes = [parts.size] * parts.full + [parts.rest] * bool(parts.rest)
        shares = [size / (parts.devices * parts.rows) for size in sizes]
        return _Weights(None, shares if task.asked.shares else None, None)
    starts = jnp.arange(parts.full) * parts.size
    found = lax.map(lambda start: _weight(weight, _slice(batch, start, parts.size)), starts)
    if parts.rest:
        last = _weight(weight, _slice(batch, parts.full * parts.size, parts.rest))
        found = jnp.concatenate([found, last[None]])
    total = jnp.sum(found)
    total = lax.psum(total, task.axes) if task.axes else total
    return _Weights(found, _mean(found, total, 1) if task.asked.shares else None, total)


def _trace(task: _Task, held: Any, batch: Any, keys: Any, weights: _Weights) -> _Program:
    """Traces the function once, on the first micro-batch, whose values are not used."""
    trees: list[Any] = []
    places = [place for place in task.places if place is not None]

    def flat(*inputs: Any) -> list[Any]:
        micro, keys, state, share = jax.tree.unflatten(given, inputs)
        left = task.run(replaced(held, places, state), micro, keys, share)
        result = left.result
        changed, state = _changed(task, left, held)
        for path, leaf in jax.tree_util.tree_leaves_with_path(result):
            if not is_array(leaf):
                raise UsageError(
                    f"`microbatch` got a function that returns {describe(leaf)} at"
                    f" {jax.tree_util.keystr(path) or 'the result'}, and wants arrays or None"
                )
        found, structure = jax.tree.flatten(_Results(jax.tree.leaves(result), state))
        objects = jax.tree.structure(left.objects)
        pairs = zip(_words(task.reduce, result), task.asked.scaled(result), strict=True)
        words = tuple("share" if word == "mean" and on else word for word, on in pairs)
        trees.append((structure, jax.tree.structure(result), words, objects, changed))
        return found

    micro, share = _slice(batch, 0, task.parts.size), _first(weights.share)
    first = micro, _entry(keys, 0), [held[i] for i in places], share
    leaves, given = jax.tree.flatten(first)
    closed = _jax.trace(flat, leaves)
    (structure, *layout), program = trees[-1], _jax.as_function(closed)
    changed = layout[-1]

    def call(micro: Any, keys: Any, state: Any, share: Any) -> _Results:
        moved = replaced(held, changed, state)
        inputs = micro, keys, [moved[i] for i in places], share
        return structure.unflatten(program(*jax.tree.leaves(inputs)))

    return _Program(call, structure.unflatten(_jax.output_types(closed)), *layout)


def _first(share: Any) -> Any:
    return None if share is None else share[0]


def _changed(task: _Task, left: Left, held: Any) -> tuple[list[int], list[Any]]:
    """The places in `held` of what a micro-batch changed, and their new values.

    Raises:
        TreeError: the next one could not go on from there.
    """
    if left.objects is None:
        return [], []
    state = state_of(left.objects)
    if not same_kind(left.objects, task.whole):
        raise TreeError(
            "`microbatch` got a function that changes what its object is made of (a new attribute,"
            " a variable less), and wants one that leaves objects of one kind for the next"
            " micro-batch: make what is new before the call"
        )
    pairs = [(place, x) for place, x in zip(task.places, state, strict=True) if not is_kept(x)]
    for place, x in pairs:
        got = "a Python number" if place is None else describe(held[place])
        if describe(x) != got:
            raise TreeError(
                f"`microbatch` got a function that makes {describe(x)} of {got} in its object, and"
                " wants one that keeps shape and dtype for the next micro-batch"
            )
    return [place for place, _ in pairs if place is not None], [
        lax.convert_element_type(x, x.dtype) if getattr(x, "weak_type", False) else x
        for _, x in pairs
    ]


def _loop(
    program: _Program,
    parts: _Parts,
    batch: Any,
    keys: Any,
    weights: _Weights,
    state: list[Any],
) -> tuple[_Results, list[Any]]:
    """The sums, with the last state, and the stacks over the full micro-batches."""

    def step(carry: tuple[_Results, Any], fed: Any) -> Any:
        (acc, start), (micro, keys, weight, share) = carry, fed
        if parts.rest:
            micro, start = _slice(batch, start, parts.size), start + parts.size
        results = program.call(micro, keys, acc.state, constant if share is None else share)
        return (_add(program.words, acc, results, weight), start), _stacked(program.words, results)

    # Rows that do not divide are sliced where they lie: folding them would copy all but the rest.
    start, folded = (jnp.int32(0), None) if parts.rest else (None, _fold(batch, parts.full))
    # Without weights all full parts have one share, which the compiler may know.
    constant = _first(weights.share) if weights.weight is None else None
    each = weights.weight, None if constant is not None else weights.share
    fed = folded, *jax.tree.map(lambda k: k[: parts.full], (keys, *each))
    carry = _zeros(program)._replace(state=state), start
    (acc, _), stacks = lax.scan(step, carry, fed, length=parts.full)
    return acc, stacks


def _last(
    task: _Task, program: _Program, held: Any, batch: Any, keys: Any, weights: _Weights
) -> _Results:
    """The results of the remainder, which must be shaped like those of a full micro-batch."""
    parts = task.parts
    micro = _slice(batch, parts.full * parts.size, parts.rest)
    share = None if weights.share is None else weights.share[-1]
    left = task.run(held, micro, _entry(keys, parts.full), share)
    result = jax.tree.map(_as_array, left.result)
    wrong = differences(result, program.tree.unflatten(program.like.leaves))
    if wrong:
        raise TreeError(
            f"`microbatch` got {parts.rows} rows, which it splits into parts of {parts.size} and a"
            f" remainder of {parts.rest}, and results of the remainder that do not fit those of the"
            f" other parts; give microbatches that divide {parts.rows}, or reduce over the rows"
            " inside the function:\n  " + "\n  ".join(wrong)
        )
    _, state = _changed(task, left, held)
    return _Results(jax.tree.leaves(result), state)


def _zeros(program: _Program) -> _Results:
    """The buffer to add to: nothing at leaves that are stacked."""
    summed = [
        _zero(leaf, sum_dtype(leaf.dtype))
        for leaf, word in zip(program.like.leaves, program.words, strict=True)
        if word != "stack"
    ]
    return _Results(summed, [])


def _zero(aval: Any, dtype: Any) -> Any:
    """Zeros typed as `aval` is, with its mesh axes and sharding: what a scan must start from."""
    zeros = _jax.varied(jnp.zeros(aval.shape, dtype), _jax.varying(aval))
    return _jax.placed_like(zeros, aval)


def _add(words: tuple[str, ...], acc: _Results, results: _Results, weight: Any) -> _Results:
    """The sums with one micro-batch added.

    Args:
        words: how each leaf is reduced.
        acc: the sums before.
        results: what is added.
        weight: its weight, `None` where it is a full micro-batch among such.
    """
    added = [(r, w) for r, w in zip(results.leaves, words, strict=True) if w != "stack"]
    leaves = []
    for total, (result, word) in zip(acc.leaves, added, strict=True):
        result = _in(result, total.dtype)
        if word in ("mean", "share") and isinstance(weight, jax.Array):
            given = result * weight.astype(total.dtype) if word == "mean" else result
            result = jnp.where(weight == 0, jnp.zeros_like(result), given)
        elif word == "mean" and weight is not None:
            result = result * weight
        leaves.append(lax.add(total, result))
    return _Results(leaves, results.state)


def _stacked(words: tuple[str, ...], results: _Results) -> list[Any]:
    return [r for r, word in zip(results.leaves, words, strict=True) if word == "stack"]


def _append(words: tuple[str, ...], stacks: list[Any], last: _Results) -> list[Any]:
    ends = [jnp.asarray(r)[None] for r in _stacked(words, last)]
    return [jnp.concatenate(pair) for pair in zip(stacks, ends, strict=True)]


def _finish(program: _Program, sums: list[Any], weight: Any, full: float) -> list[Any]:
    """The reduced leaves in their own dtypes; `full` is the rows in units of a full micro-batch."""
    kept = [
        (aval.dtype, word)
        for aval, word in zip(program.like.leaves, program.words, strict=True)
        if word != "stack"
    ]
    return [
        _in(_mean(total, weight, full) if word == "mean" else total, dtype)
        for total, (dtype, word) in zip(sums, kept, strict=True)
    ]


def _in(x: Any, dtype: Any) -> Any:
    """A value in a dtype; to convert one that has it would take time to trace."""
    return x if x.dtype == dtype else x.astype(dtype)


def _mean(total: Any, weight: Any, full: float) -> Any:
    if weight is None:
        return total / full
    weight = weight.astype(total.dtype)
    # The inner choice keeps 0/0 out of derivatives, where the outer one alone would let NaN in.
    safe = jnp.where(weight == 0, jnp.ones_like(weight), weight)
    return jnp.where(weight == 0, jnp.zeros_like(total), total / safe)


def _weight(weight: Callable[..., Any], micro: Any) -> Any:
    """The weight of a micro-batch in float32, or float64 where it has 64 bits."""
    value = weight(*micro)
    if not is_array(value) or jnp.shape(value) != ():
        raise UsageError(
            f"`microbatch` got a `weight` that returns {describe(value)}, and wants one that"
            " returns a scalar: one weight for the whole micro-batch, such as jnp.sum(mask)"
        )
    value = jnp.asarray(value)
    real = jnp.issubdtype(value.dtype, jnp.number) or value.dtype == jnp.bool_
    if not real or jnp.iscomplexobj(value):
        raise UsageError(
            f"`microbatch` got a `weight` that returns {describe(value)}, and wants a real scalar"
        )
    return value.astype(jnp.float64 if value.dtype.itemsize == 8 else jnp.float32)


def _words(reduce: Any, result: Any) -> tuple[str, ...]:
    """How each leaf of `result` is reduced, refused where its dtype does not allow it."""
    try:
        words = tuple(jax.tree.leaves(jax.tree.broadcast(reduce, result)))
    except ValueError as error:
        raise TreeError(
            "`microbatch` got a `reduce` that is not a prefix of what the function returns: got"
            f" {jax.tree.structure(reduce)}, wanted a prefix of {jax.tree.structure(result)}"
        ) from error
    for index, (leaf, word) in enumerate(zip(jax.tree.leaves(result), words, strict=True)):
        dtype = jnp.result_type(leaf)
        fits = takes_gradient(leaf) if word == "mean" else jnp.issubdtype(dtype, jnp.number)
        if word != "stack" and not fits:
            raise UsageError(
                f"`microbatch` got {dtype} at {path_of(result, index) or 'the result'} to reduce by"
                f" {word!r}, and wants {'floats' if word == 'mean' else 'numbers'}; give `reduce`"
                f' another word there (of "mean", "sum", "stack"), or let the function return'
                " floats"
            )
    return words


def _check_words(reduce: Any) -> None:
    for path, word in jax.tree_util.tree_leaves_with_path(reduce):
        if not isinstance(word, str) or word not in WORDS:
            where = jax.tree_util.keystr(path)
            raise UsageError(
                f"`microbatch` got {word!r} in `reduce`{where and f' at {where}'}, and wants"
                ' "mean", "sum" or "stack"'
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


def _mesh_axes(mesh: Any, batch_axis: Any) -> tuple[str, ...]:
    """The names of the axes the batch is sharded over."""
    if mesh is None and batch_axis is None:
        return ()
    if mesh is None or batch_axis is None:
        got, other = ("batch_axis", "mesh") if mesh is None else ("mesh", "batch_axis")
        raise UsageError(
            f"`microbatch` got `{got}` without `{other}`, and wants both, to share the batch among"
            " devices, or neither"
        )
    if not isinstance(mesh, jax.sharding.Mesh | jax.sharding.AbstractMesh):
        raise UsageError(f"`microbatch` got {describe(mesh)} as `mesh`, and wants a jax Mesh")
    axes = (batch_axis,) if isinstance(batch_axis, str) else tuple(batch_axis)
    missing = [axis for axis in axes if axis not in mesh.axis_names]
    if missing or not axes or len(set(axes)) < len(axes):
        raise UsageError(
            f"`microbatch` got batch_axis={batch_axis!r} and a mesh with the axes"
            f" {', '.join(map(repr, mesh.axis_names)) or 'none'}, and wants the name of one of"
            " them, or several different names"
        )
    return axes


def _devices(mesh: Any, axes: tuple[str, ...]) -> int:
    return functools.reduce(operator.mul, (mesh.shape[axis] for axis in axes), 1)


def _as_array(leaf: Any) -> Any:
    """A result leaf, where a number may stand, as an array; keys are arrays already."""
    return leaf if isinstance(leaf, jax.Array) or not is_array(leaf) else jnp.asarray(leaf)


def _array(leaf: Any) -> Any:
    """A batch leaf as a JAX array; what is no array comes back as it is, to be refused."""
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def _parts(args: Any, places: tuple[int, ...], wanted: int, devices: int) -> _Parts:
    """How the leading axis is split, refused where it cannot be."""
    batch = {i: args[i] for i in places}
    shapes = {
        argument(path[0].key, path[1:]): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
    }
    flat = {path: leaf for path, leaf in shapes.items() if not len(getattr(leaf, "shape", ()))}
    lengths = {leaf.shape[0] for path, leaf in shapes.items() if path not in flat}
    if flat or len(lengths) != 1:
        shown = [f"{path}: {describe(leaf)}" for path, leaf in shapes.items()]
        raise TreeError(
            "`microbatch` got batch arguments whose leading axes are not one and the same, and"
            " wants arrays with a row for each example; pass anything else in an argument that"
            " `batch_argnums` does not name:\n  " + "\n  ".join(shown or ["no arrays at all"])
        )
    (total,) = lengths
    if total % devices:
        raise TreeError(
            f"`microbatch` got a batch of {total} rows for {devices} devices along `batch_axis`,"
            " and wants as many rows on each; pad the batch, and give the padding weight 0"
        )
    rows = total // devices
    if rows < wanted:
        raise TreeError(
            f"`microbatch` got a batch of {total} rows, {rows} on each of {devices} devices, to"
            f" split into {wanted} on each, and wants at least one row for each micro-batch; lower"
            " `microbatches`"
        )
    size = -(-rows // wanted)
    return _Parts(rows, size, rows // size, devices)


def _check_unsharded(batch: Any) -> None:
    """Refuses rows whose type says that devices share them, where no mesh is given."""
    for leaf in jax.tree.leaves(batch):
        spec = jax.typeof(leaf).sharding.spec
        if spec and spec[0] is not None:
            raise UsageError(
                f"`microbatch` got a batch whose rows are sharded over {spec[0]!r}, and wants"
                f" `mesh` and batch_axis={spec[0]!r}, so that they stay where they are"
            )


def _split_keys(keys: Any, place: int, count: int) -> Any:
    """Each key of a pytree split into one for each micro-batch."""

    def split(path: Any, key: Any) -> Any:
        typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        raw = not typed and getattr(key, "dtype", None) == jnp.uint32
        if not (typed and key.ndim == 0) and not (raw and key.ndim == 1):
            raise UsageError(
                f"`microbatch` got {describe(key)} at {argument(place, path)} of `key_argnums`,"
                " and wants one PRNG key: jax.random.key(seed)"
            )
        return jax.random.split(key, count)

    return jax.tree_util.tree_map_with_path(split, keys)


def _fold(batch: Any, parts: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)


def _slice(batch: Any, start: Any, size: int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), batch)


def _entry(keys: Any, index: int) -> Any:
    return jax.tree.map(lambda k: k[index], keys)
