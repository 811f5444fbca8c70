"""Hooks on what the backward pass keeps: `saved_tensors_hooks`, and `save_on_cpu`.

A call becomes an equation of its own that holds the function as a program. Differentiating it
linearises the program, packs what the linear part keeps, and hands the packed values to a
checkpointed linear part that unpacks them: what a checkpoint is given is all that it keeps.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import _jax
from ._calls import Call, Returned, every_argument, from_front, read_argnums, returned, take_apart
from ._describe import describe, differences
from ._jax.dataflow import Dataflow
from ._leaves import adopt_dtype, takes_gradient
from ._lists import inverted, merge, partly, select, split_at
from ._mistakes import explained
from ._objects import carried
from ._types import Function, P, R
from .errors import GradientError, TreeError, UsageError


def saved_tensors_hooks(
    fun: Function[P, R],
    pack: Callable[[Any], Any],
    unpack: Callable[[Any], Any],
    *,
    argnums: int | Sequence[int] = (),
) -> Callable[P, R]:
    """A function like `fun` whose backward pass sees `unpack(pack(x))` of each `x` that it keeps.

    Stands for `with torch.autograd.graph.saved_tensors_hooks(pack, unpack):` around the forward
    pass of `fun`. Between the passes the packed values are held and not the originals: to offload
    them to the host's memory ([`save_on_cpu`][funcgrad.save_on_cpu]), to hold them in bfloat16 or
    eight bits, to count them. Under `jit` it is the compiled program that holds the packed ones.

    Args:
        fun: a function of pytrees to a pytree of arrays. It is traced, so Python's `if` and `while`
            cannot look at its values, but for Python's own numbers among the arguments.
        pack: called with each floating or complex array that the backward pass keeps; it returns a
            pytree of what to hold instead (what is no array in it is handed on as it is).
        unpack: called with what `pack` returned; it returns an array of the shape and dtype that
            `pack` was given.
        argnums: the positional arguments which are packed too where they are kept as they are. By
            default none is, since arguments (weights, say) are alive anyway. In the body of a
            `scan` the carry is not: pack it with `argnums=0`.

    Returns:
        A function with the arguments and the results of `fun`.

    Raises:
        UsageError: an argument of a wrong form, or ordered effects in `fun`.
        TreeError: `unpack` returns another shape or dtype than was packed; raised when the function
            is differentiated.
        GradientError: a second derivative through a `pack` that makes integers; see below.

    What `fun` writes into a list or dict among its arguments is there after the call, as it is
    without the hooks.

    Both are called once for each array while the function is traced. In a `scan` inside `fun` an
    array has a row for each step; around the body of a `scan` they are called for one step. Under
    `vmap` they see one example. What is not packed: values, integers and bools, PRNG keys,
    constants, what `fun` closes over, and what a `jax.checkpoint` inside computes again.

    Differs from PyTorch: what is held is what `pack` returns. It sees traced arrays, so it cannot
    put them into a dict or a file. Neither function may close over what is differentiated with
    `fun`: a GradientError says so, or under `jax.jit` JAX's error about leaked tracers. Arguments
    are packed only where `argnums` says so. Which arrays an operation keeps is JAX's choice
    ([`saved_tensors`][funcgrad.saved_tensors] shows it): `sin(x)` keeps `cos(x)` where PyTorch
    keeps `x`. Forward mode sees packed values too, since there is no telling yet which mode it will
    be. A second derivative differentiates `pack` and `unpack` (PyTorch passes through them), and is
    refused where `pack` makes integers of what it goes through; put the hooks around the gradient
    instead, `saved_tensors_hooks(fg.grad(fun), ...)`, which packs what the second derivative keeps.

    JAX cannot transpose a `cond` in `fun` that takes different ways for the examples of a `vmap`
    around the call, inside the gradient: put the hooks around the `vmap`, as in
    `grad(saved_tensors_hooks(jax.vmap(fun), ...))`, or the gradient inside it.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> halves = lambda x: x.astype(jnp.bfloat16)
    >>> f = fg.saved_tensors_hooks(jnp.exp, halves, lambda p: p.astype(jnp.float32))
    >>> fg.value_and_grad(f)(jnp.float32(1))
    (Array(2.7182817, dtype=float32), Array(2.71875, dtype=float32))
    """
    for given, what in ((fun, "fun"), (pack, "pack"), (unpack, "unpack")):
        if not callable(given):
            raise UsageError(
                f"`saved_tensors_hooks` got {describe(given)} as `{what}`, and wants functions:"
                " saved_tensors_hooks(fun, pack, unpack)(x)"
            )
    _, chosen = read_argnums(
        argnums, "saved_tensors_hooks", least=0, advice=": the arguments that are packed too"
    )

    @functools.wraps(fun)
    @explained
    def hooked(*args: Any, **kwargs: Any) -> Any:
        return _call(fun, pack, unpack, chosen, args, kwargs)

    return hooked


def save_on_cpu(fun: Function[P, R], *, argnums: int | Sequence[int] = ()) -> Callable[P, R]:
    """A function like `fun` that holds in the host's memory what its backward pass keeps.

    Stands for `with torch.autograd.graph.save_on_cpu(pin_memory=True):`. What is kept is moved to
    pinned memory of the host in the forward pass and back to the device in the backward pass, which
    under `jit` the compiler overlaps with the computation. Numbers are exactly what they were.

    Args:
        fun: a function of pytrees to a pytree of arrays.
        argnums: the positional arguments that are moved too, as in `saved_tensors_hooks`; in the
            body of a `scan` over layers the carry, `argnums=0`.

    Returns:
        A function with the arguments and the results of `fun`.

    Put it in the body of a `scan` over layers: `save_on_cpu(jax.checkpoint(layer), argnums=0)`
    moves one array a layer. Around a whole scan it saves nothing, and on layers that are not
    scanned it costs device memory; docs/debugging.md has the numbers. On the CPU the device's
    memory is the host's: the compiled program moves nothing, and nothing is saved.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> f = fg.save_on_cpu(lambda x: jnp.sum(jnp.sqrt(x) ** 3))
    >>> fg.grad(f)(jnp.array([1.0, 4.0]))
    Array([1.5, 3. ], dtype=float32)
    """
    return saved_tensors_hooks(fun, _to_host, _to_device, argnums=argnums)


# With `src` the transpose, which a second derivative takes, moves the other way.
def _to_host(x: Any) -> Any:
    return jax.device_put(x, jax.memory.Space.Host, src=jax.memory.Space.Device)


def _to_device(x: Any) -> Any:
    return jax.device_put(x, jax.memory.Space.Device, src=jax.memory.Space.Host)


class Map(NamedTuple):
    """A `vmap` around a call.

    Fields:
        axis: the axis, as a batching rule is told of it.
        in_axes: where each operand has it.
        out_axes: where each result has it: first, or nowhere.
    """

    axis: Any
    in_axes: tuple[int | None, ...]
    out_axes: tuple[int | None, ...]


class Hooked(NamedTuple):
    """The static part of a call.

    Fields:
        pack, unpack: the hooks.
        packed: for each operand, whether it is packed where it is kept as it is.
        maps: the `vmap`s around it, the innermost first.
        whole: a function that gives the program under the `vmap`s.
    """

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    packed: tuple[bool, ...]
    maps: tuple[Map, ...] = ()
    whole: Callable[[], _jax.Jaxpr] | None = None

    def program(self, body: _jax.Jaxpr) -> _jax.Jaxpr:
        """What the call computes, that for one example being `body`."""
        return self.whole() if self.whole else body


def _call(
    fun: Any, pack: Any, unpack: Any, argnums: tuple[int, ...], args: Any, kwargs: Any
) -> Any:
    """Traces `fun` and binds the primitive."""
    chosen = from_front(argnums, len(args), "saved_tensors_hooks")
    with carried(fun, args, kwargs, "saved_tensors_hooks", writes=True) as carry:
        call = every_argument(carry.fun, carry.args, carry.kwargs, function="saved_tensors_hooks")
        return carry.restore(_bound(call, chosen, pack, unpack))


def _bound(call: Call, chosen: tuple[int, ...], pack: Any, unpack: Any) -> Any:
    """What the primitive gives for a call."""
    arrays = [*map(jnp.asarray, call.arrays)]

    def flat(*arrays: Any) -> Returned:
        return call.returned(arrays)

    closed, result = jax.make_jaxpr(flat, return_shape=True)(*arrays)
    if effect := _jax.ordered_effect(closed):
        raise UsageError(
            f"`saved_tensors_hooks` got a function with the effect {effect}, whose order it cannot"
            " keep: print and call back without ordered=True"
        )
    static = Hooked(pack, unpack, (*[False] * len(closed.consts), *call.belong(chosen)))
    body = _jax.without_consts(closed)
    return result.parts.join(hooks_p.bind(*closed.consts, *arrays, body=body, hooked=static))


class Moving(NamedTuple):
    """What has tangents in a differentiation.

    Fields:
        operands: for each operand, whether it has one.
        results: for each result, whether it depends on one that has.
    """

    operands: tuple[bool, ...]
    results: tuple[bool, ...]


def _mapped(
    fun: Callable[..., Any], maps: Sequence[Map], moving: Moving | None = None
) -> Callable[..., Any]:
    """`fun` under the `vmap`s around the call; of operands alone, or of tangents too."""
    for axis, in_axes, out_axes in maps:
        given, results = list(in_axes), list(out_axes)
        if moving:
            given += select(in_axes, moving.operands)
            results += select(out_axes, moving.results)
        fun = _jax.vmap_like(axis, fun, given, results)
    return fun


def _run(*operands: Any, body: _jax.Jaxpr, hooked: Hooked) -> list[Any]:
    return list(_jax.as_function(hooked.program(body))(*operands))


def _types(*_: Any, body: _jax.Jaxpr, hooked: Hooked) -> list[Any]:
    return _jax.output_types(hooked.program(body))


def _jvp(primals: Any, tangents: Any, *, body: _jax.Jaxpr, hooked: Hooked) -> Any:
    given = tuple(type(dot) is not _jax.Zero for dot in tangents)
    able = map(takes_gradient, _jax.output_types(body))
    reached = tuple(
        can and any(d and m for d, m in zip(row, given, strict=True))
        for can, row in zip(able, _jax.dependencies(body), strict=True)
    )
    if not any(reached):
        out = hooks_p.bind(*primals, body=body, hooked=hooked)
        return out, [_jax.no_tangent(x) for x in out]
    dots = [_jax.instantiate_zeros(dot) for dot in select(tangents, given)]
    moving = Moving(given, reached)
    both = functools.partial(_with_tangents, body, hooked, moving)
    try:
        results = _mapped(both, hooked.maps, moving)(*primals, *dots)
    except jax.errors.UnexpectedTracerError as error:
        raise GradientError(
            "`saved_tensors_hooks` got a `pack` or an `unpack` that closes over a value which is"
            " differentiated, and no gradient goes through the hooks: detach it outside them,"
            " value = funcgrad.detach(value). Or `pack` stored what it was given: return it. Or it"
            " is an example of a `vmap` inside the gradient: take the gradient inside the `vmap`"
        ) from error
    out = results[: len(reached)]
    still = [_jax.no_tangent(x) for x in select(out, inverted(reached))]
    return out, merge(reached, results[len(reached) :], still)


def _with_tangents(body: _jax.Jaxpr, hooked: Hooked, moving: Moving, *operands: Any) -> list[Any]:
    """The results for one example, and the tangents of those that have some."""
    primals, dots = split_at(operands, len(moving.operands))
    out, kept = _linearized(body, hooked, moving, primals)
    packed = [
        _packed(hooked.pack, x) if c else x for x, c in zip(kept.leaves, kept.chosen, strict=True)
    ]
    leaves, parts = take_apart(packed, _is_held)

    def linear(leaves: list[Any], dots: Sequence[Any]) -> list[Any]:
        values = [
            _unpacked(hooked.unpack, x, aval) if c else x
            for x, c, aval in zip(parts.join(leaves), kept.chosen, kept.types, strict=True)
        ]
        return list(kept.linear(values)(*dots))

    closed = jax.make_jaxpr(linear)(leaves, dots)
    held = [_checked(x) if _jax.is_tracer(x) else x for x in closed.consts]
    later = _jax.as_function(_jax.without_consts(closed))
    # What is packed is kept, and unpacked when the tangents are there.
    return [*out, *_jax.recomputed(later, [*held, *leaves], dots)]


def _checked(x: Any) -> Any:
    """`x`, which `unpack` closes over, as a result: making it here refuses what is differentiated.

    Not so where a program is staged, under `jax.jit`: JAX refuses that at its end.
    """
    if _jax.is_reference(x):  # which is no result
        return x
    return pack_p.bind(x, body=_jax.trace(lambda x: [x], [x]))[0]


class Kept(NamedTuple):
    """What a linear function keeps.

    Fields:
        leaves: the arrays, each once.
        types: their types.
        chosen: for each, whether it is packed.
        linear: from the leaves to the linear function.
    """

    leaves: list[Any]
    types: list[Any]
    chosen: list[bool]
    linear: Callable[[Sequence[Any]], Callable[..., Any]]


def _linearized(
    body: _jax.Jaxpr, hooked: Hooked, moving: Moving, primals: Sequence[Any]
) -> tuple[list[Any], Kept]:
    """The results, and what the linear part keeps."""
    trees: list[Any] = []

    def forward(*primals: Any) -> list[Any]:
        run, given = partly(_jax.as_function(body), primals, *moving)
        new, linear, rest = jax.linearize(run, *given, has_aux=True)
        leaves, tree = jax.tree.flatten(linear)
        trees.append(tree)
        return [*merge(moving.results, new, rest), *leaves]

    closed = jax.make_jaxpr(forward)(*primals)
    count = len(moving.results)
    results = _jax.as_function(closed)(*primals)
    out, leaves = results[:count], results[count:]
    flow = Dataflow(closed)
    values, fixed = [value.same for value in flow.outputs[count:]], flow.constants()
    keys = [(value, jax.typeof(leaf)) for value, leaf in zip(values, leaves, strict=True)]
    seen: dict[Any, int] = {}
    firsts = [seen.setdefault(key, i) for i, key in enumerate(keys)]
    once = sorted(set(firsts))
    chosen = [
        takes_gradient(leaves[i])
        and values[i] not in fixed
        and (values[i].role != "input" or hooked.packed[values[i].index])
        for i in once
    ]

    def linear(values: Sequence[Any]) -> Callable[..., Any]:
        found = dict(zip(once, values, strict=True))
        return trees[-1].unflatten([found[first] for first in firsts])

    types = [keys[i][1] for i in once]
    return out, Kept([leaves[i] for i in once], types, chosen, linear)


def _packed(pack: Callable[[Any], Any], x: Any) -> Any:
    """What `pack` makes of a value."""

    def flat(x: Any) -> Returned:
        return returned(pack(x), _is_held)

    with explained:
        closed, held = jax.make_jaxpr(flat, return_shape=True)(x)
    body = _jax.without_consts(closed)
    return held.parts.join(pack_p.bind(*closed.consts, x, body=body))


def _is_held(leaf: Any) -> bool:
    """Whether a leaf of what `pack` returns is held between the passes."""
    return isinstance(leaf, jax.Array)


def _unpacked(unpack: Callable[[Any], Any], packed: Any, aval: Any) -> Any:
    with explained:
        value = adopt_dtype(unpack(packed), aval)
    if wrong := differences(value, aval):
        raise TreeError(
            "`saved_tensors_hooks` got an `unpack` that does not return what was packed; make it"
            " return an array of that shape and dtype:\n  " + "\n  ".join(wrong)
        )
    return value


def _batch(axis: Any, operands: Any, dims: Any, *, body: _jax.Jaxpr, hooked: Hooked) -> Any:
    named = _jax.axis_name(axis) is not None  # the body may ask which example it is
    out_axes = tuple(
        0 if named or any(d and at is not None for d, at in zip(row, dims, strict=True)) else None
        for row in _jax.dependencies(body)
    )
    if any(at is not None for at in out_axes):
        maps = (*hooked.maps, Map(axis, tuple(dims), out_axes))
        # Traced here, where the names of mesh axes are known; as a function, for it is no second
        # program in the equation.
        whole = jax.make_jaxpr(_mapped(_jax.as_function(body), maps))(*operands)
        hooked = hooked._replace(maps=maps, whole=lambda: whole)
    out = hooks_p.bind(*operands, body=body, hooked=hooked)
    return out, list(out_axes)


def _bodies(equation: _jax.Equation) -> tuple[_jax.Body, ...]:
    own = equation.own
    return _jax.straight(equation, own["hooked"].program(own["body"]), _jax.CALL)


def _around(equation: _jax.Equation) -> tuple[int, ...]:
    """An axis for each `vmap` around the call, the outermost first."""
    return tuple(each.axis.size for each in reversed(equation.own["hooked"].maps))


def _reenter(
    equation: _jax.Equation, operands: Sequence[Any], run: _jax.Run, given: Any
) -> tuple[list[Any], Any]:
    """A call made anew, with what is given besides as an argument of its own."""
    hooked: Hooked = equation.own["hooked"]
    (body,) = _jax.straight(equation, equation.own["body"], _jax.CALL)

    def fun(given: Any, *operands: Any) -> tuple[list[Any], Any]:
        outputs, made = run(body, operands, given)
        return list(outputs), made

    argnums = [1 + index for index, packed in enumerate(hooked.packed) if packed]
    again = saved_tensors_hooks(fun, hooked.pack, hooked.unpack, argnums=argnums)
    for axis, in_axes, out_axes in hooked.maps:
        again = _jax.vmap_like(axis, again, (0, *in_axes), (list(out_axes), 0))
    results, made = again(given, *operands)
    return results, made


def _run_pack(*operands: Any, body: _jax.Jaxpr) -> list[Any]:
    return list(_jax.as_function(body)(*operands))


def _pack_types(*_: Any, body: _jax.Jaxpr) -> list[Any]:
    return _jax.output_types(body)


def _pack_jvp(primals: Any, tangents: Any, *, body: _jax.Jaxpr) -> Any:
    """A second derivative: refused where integers would lose it."""
    types = _pack_types(body=body)
    moving = any(type(dot) is not _jax.Zero for dot in tangents)
    if moving and not all(map(takes_gradient, types)):
        raise GradientError(
            "`saved_tensors_hooks` got a second derivative through `pack`, which makes"
            f" {', '.join(map(describe, types))} of {describe(primals[-1])}, and integers carry no"
            " derivative; put the hooks around the gradient, saved_tensors_hooks(jax.grad(fun),"
            " pack, unpack), or pack into a floating dtype"
        )
    dots = [_jax.instantiate_zeros(dot) for dot in tangents]
    return jax.jvp(_jax.as_function(body), list(primals), dots)


def _pack_batch(axis: Any, operands: Any, dims: Any, *, body: _jax.Jaxpr) -> Any:
    if all(at is None for at in dims):
        return pack_p.bind(*operands, body=body), [None] * len(_pack_types(body=body))
    each = _jax.vmap_like(axis, _jax.as_function(body), list(dims))
    out = pack_p.bind(*operands, body=jax.make_jaxpr(each)(*operands))
    return out, [0] * len(out)


pack_p = _jax.computing_primitive("pack", _run_pack, _pack_types)
_jax.def_jvp(pack_p, _pack_jvp)
_jax.def_batch(pack_p, _pack_batch)

hooks_p = _jax.computing_primitive("saved_tensors_hooks", _run, _types)
_jax.def_jvp(hooks_p, _jvp)
_jax.def_batch(hooks_p, _batch)

_jax.anatomy("pack", lambda e: _jax.straight(e, e.own["body"], _jax.CUSTOM))
_jax.anatomy("saved_tensors_hooks", _bodies, _reenter, _around, programs=lambda e: [e.own["body"]])
