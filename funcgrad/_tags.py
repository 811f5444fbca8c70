"""Named intermediates and hooks: `retain_grad` and `register_hook`.

Both are identities made of primitives of our own. While nobody asks for them they compile to
nothing, keep dtype and weak type, and pass through every JAX transformation; a hook acts where a
cotangent flows back through it. Neither does anything for a value whose result is thrown away:
write `y = retain_grad(y, "y")`, not `retain_grad(y, "y")`.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from . import _jax
from ._calls import scatter
from ._describe import describe, differences, tensor_advice
from ._leaves import adopt_dtypes, conjugate, is_array, refuse_iterators, takes_gradient
from ._lists import inverted, merge, select
from ._mistakes import explained
from .errors import TreeError, UsageError

T = TypeVar("T")
_UIDS = itertools.count(1)
TAG = "retain_grad"  # the primitive


def retain_grad(y: T, name: str) -> T:
    """Names an intermediate value so that its gradient can be asked for with `retain=`.

    Stands for `y.retain_grad()` and the later `y.grad`. The name becomes `scope/name` inside
    `jax.named_scope("scope")`. Nothing is computed or kept until `grad`, `value_and_grad` or `vjp`
    asks for the name. Each name is for one value: a function that holds a tag and is called twice,
    be it once under `no_grad` or in an inner gradient, needs a scope around one of the calls.

    Args:
        y: an array or a pytree of arrays, of any shape and dtype.
        name: what to ask for; not empty, and used once within the function that is differentiated.

    Returns:
        `y`, unchanged in value, dtype, weak type and sharding. Use this and not the original:
        what flows through the returned value is what is retained.

    Raises:
        UsageError: `name` is not a non-empty string, or `y` holds something that is no array.

    A tag may stand anywhere a JAX function may. The value and its gradient get a row for each
    iteration of a `scan` and each of the `max_steps` of a `funcgrad.while_loop` (zeros past the
    last), for each example of a `vmap`, and for each device along each manual mesh axis of a
    `shard_map`; in a branch that is not taken they are zeros. Some things follow from what JAX
    makes of the function before the tag is seen:

    - The axes of loops and meshes stand before those of the `vmap`s in the function, whatever the
      nesting: a tag in a scan under a `vmap` has the axes (iteration, example). The axes of a
      `vmap` around `grad` itself come first.
    - A value that all examples of a `vmap` share has no axis for them, and its gradient is the sum
      over the examples, unless a hook stands before it, which spreads it over them;
      `jax.vmap(grad(f, retain=...))` gives one per example.
    - Under `vmap`, a `cond` on something that differs between examples runs both branches: in rows
      that do not take the branch the gradient is zero, the value what was computed. So it is in
      rows past an example's last step in a `funcgrad.while_loop` under a `vmap`.
    - A value that all devices of a `shard_map` share has the whole gradient in each row; with
      `check_vma=False` JAX does not know that it is shared, and the rows add up to it.
    - Inside a gradient that the function itself takes, JAX takes out of a `scan` what is the same
      in each step, and the tag with it: such a value has no axis for the steps.
    - Inside a function that a `custom_jvp` or `custom_vjp` rule replaces, and in a
      `lax.while_loop`, asking raises. In the rule itself a tag is not seen.

    What is not affected: values, gradients, forward mode, the compiled program.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> def f(x):
    ...     y = fg.retain_grad(2 * jnp.dot(x, x), "y")
    ...     return y**2
    >>> grads, retained = fg.grad(f, retain="y")(jnp.arange(3.0))
    >>> retained["y"]
    Retained(value=Array(10., dtype=float32), grad=Array(20., dtype=float32))
    """
    if not isinstance(name, str) or not name:
        raise UsageError(
            f"`retain_grad` got the name {name!r}, and wants a non-empty string:"
            ' y = retain_grad(y, "y")'
        )
    leaves, tree = _arrays(y, "retain_grad")
    return tree.unflatten(_tagged(leaves, name, tree, numbered=False))


_LEAVE = "^"


def leaving(scope: str) -> str:
    """The part of a name that leaves a scope around it, which `settled` takes out of the name."""
    return "/".join(_LEAVE + part for part in reversed(scope.split("/")))


def settled(name: str) -> str:
    """A name with its scopes, without those that it leaves.

    >>> settled("decoder/step/" + leaving("decoder") + "/embed")
    'embed'
    """
    if _LEAVE not in name:
        return name
    parts: list[str] = []
    for part in name.split("/"):
        scope = part.removeprefix(_LEAVE)
        if scope == part or scope not in parts:
            parts.append(part)
            continue
        while parts.pop() != scope:
            pass
    return "/".join(parts)


def tag_output(y: T, name: str) -> T:
    """Tags the arrays in what a part of a model returns; further uses of the name are numbered.

    The empty name stands for the `jax.named_scope` around the tag.
    """
    leaves, tree = jax.tree.flatten(y)
    whole: Any = tree
    chosen = [isinstance(leaf, jax.Array) for leaf in leaves]
    arrays = select(leaves, chosen)
    if not arrays:
        return y
    seen = jax.tree.structure(scatter(whole, chosen, arrays))
    out = _tagged(arrays, name, seen, numbered=True)
    return whole.unflatten(merge(chosen, out, select(leaves, inverted(chosen))))


def _tagged(leaves: list[Any], name: str, tree: Any, *, numbered: bool) -> list[Any]:
    return tag_p.bind(
        *leaves,
        name=name,
        tree=tree,
        where=caller(),
        uid=next(_UIDS),
        numbered=numbered,
        batch=(),
        differentiated=False,
    )


def register_hook(x: T, hook: Callable[[T], T | None]) -> T:
    """Passes the gradient that flows back through `x` to `hook`, and on what it returns.

    Stands for `x.register_hook(hook)`. The hook is traced once, when the function is, with a value
    shaped like `x`; it may close over anything the function computes (a mask, a PRNG key).

    Args:
        x: an array or a pytree of arrays.
        hook: called with the gradient, a pytree like `x` (`None` at integer and bool leaves); it
            returns the new gradient, of the same structure, shapes and dtypes, or `None` to leave
            it as it is. For complex `x` the gradient is PyTorch's, the conjugate of JAX's.

    Returns:
        `x`, unchanged. Use this and not the original.

    Raises:
        UsageError: `hook` is not callable, or `x` holds something that is no array.
        TreeError: the hook returns another structure, shape or dtype; raised here, not later.

    Under `jax.vmap` the hook sees one example's gradient, also that of a value all examples share
    (which is then one copy each, in the forward pass too: a shared weight becomes a batch of
    weights, and what was unbatched because of it is not any more); in a `scan` it runs once per
    iteration; in `shard_map` it sees the whole gradient of a value that all devices share. A hook
    that prints should use `jax.debug.print`.

    What is not affected: values, and forward mode, which ignores hooks as PyTorch's does. Inside a
    function whose derivative a `custom_jvp` or `custom_vjp` rule replaces a hook has no effect:
    that function is never differentiated.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> fg.grad(lambda x: jnp.sum(fg.register_hook(x, lambda g: -g) ** 2))(jnp.arange(3.0))
    Array([-0., -2., -4.], dtype=float32)
    """
    if not callable(hook):
        raise UsageError(
            f"`register_hook` got {describe(hook)} as the hook, and wants a function of the"
            " gradient: x = register_hook(x, lambda g: -g)"
        )
    leaves, tree = _arrays(x, "register_hook")
    chosen = [takes_gradient(leaf) for leaf in leaves]
    hooked = [leaf for leaf, c in zip(leaves, chosen, strict=True) if c]
    if not hooked:
        return x
    with explained:
        closed = _jax.trace(_checked(hook, tree, chosen), hooked)
    out = iter(
        hook_p.bind(
            *hooked,
            *closed.consts,
            hook=_jax.without_consts(closed),
            leaves=len(hooked),
            spread=True,
        )
    )
    return tree.unflatten(
        [next(out) if c else leaf for leaf, c in zip(leaves, chosen, strict=True)]
    )


def _checked(hook: Any, tree: Any, chosen: Sequence[bool]) -> Callable[..., list[Any]]:
    """The hook on flat cotangents in JAX's convention, held to what it promised to return."""

    def run(*cotangents: Any) -> list[Any]:
        got = conjugate(scatter(tree, chosen, cotangents))
        with explained:
            new = hook(got)
        return conjugate(replacement(new, got, "register_hook", "gradient"))

    return run


def replacement(new: Any, got: Any, function: str, what: str) -> list[Any]:
    """The leaves of what a hook returned for `got`; those of `got` where it returned `None`.

    Raises:
        TreeError: it is of another structure, shape or dtype, or differs between devices where
            `got` does not.
    """
    if new is None:
        return jax.tree.leaves(got)
    new = adopt_dtypes(new, got)
    wrong = differences(new, got)
    if wrong:
        raise TreeError(
            f"`{function}` got a hook that returns another structure, shape or dtype than the"
            f" {what} it is given; return a {what} like it, or None to leave it:\n  "
            + "\n  ".join(wrong)
        )
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(got), strict=True)
    return [_along(ours, theirs, function, what) for ours, theirs in pairs]


def _along(new: Any, old: Any, function: str, what: str) -> Any:
    """A new value that is sharded as the old one, and varies along the same mesh axes."""
    have, want = _jax.varying(jax.typeof(new)), _jax.varying(jax.typeof(old))
    if have - want:
        raise TreeError(
            f"`{function}` got a hook that returns a {what} differing between devices along"
            f" the mesh axes {sorted(have - want)}, for a value that is the same on all of them;"
            " reduce it in the hook (jax.lax.psum, pmean), or hook a value that differs"
        )
    return _jax.placed_like(_jax.varied(new, want), jax.typeof(old))


def inject(value: T, sink: T) -> T:
    """`value` exactly, with the gradient of `value + sink`; both are arrays of one type.

    The one mechanism behind retained gradients (`sink` is a zero whose gradient is asked for) and
    `set_data` (`value` is the new data without a gradient, `sink` the old).
    """
    axes = _jax.varying(jax.typeof(value)) | _jax.varying(jax.typeof(sink))
    return inject_p.bind(*(_jax.varied(x, axes) for x in (value, sink)))[0]


def _arrays(tree: Any, function: str) -> tuple[list[Any], Any]:
    refuse_iterators(tree, function)
    leaves, structure = jax.tree.flatten(tree)
    for leaf in leaves:
        if not is_array(leaf):
            raise UsageError(
                f"`{function}` got {describe(leaf)}, and wants arrays or pytrees of arrays"
                f"{tensor_advice(leaf)}"
            )
    return [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in leaves], structure


_LIBRARIES = {__name__.partition(".")[0], "flax", "keras", "jax"}


def caller() -> str:
    """The `file:line` nearest on the call stack outside funcgrad and the libraries of models."""
    frame: Any = sys._getframe()
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "an unknown place"


def _to_front(operands: Any, dims: Any) -> list[Any]:
    """Operands with their batch axis, where they have one, in front."""
    return [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True)]


class Batch(NamedTuple):
    """A `vmap` around a tag: its axis as JAX has it, and which leaves have that axis in front."""

    axis: Any
    batched: tuple[bool, ...]


def _tag_jvp(primals: Any, tangents: Any, **params: Any) -> Any:
    # The tangents pass untagged: the name belongs to the primal value alone.
    return tag_p.bind(*primals, **{**params, "differentiated": True}), list(tangents)


def _tag_batch(axis: Any, operands: Any, dims: Any, *, batch: Any, **params: Any) -> Any:
    # `batch` says of each `vmap` around the tag which leaves have its axis, the innermost first.
    if any(d is not None for d in dims):
        batch = (*batch, Batch(axis, tuple(d is not None for d in dims)))
    out = tag_p.bind(*_to_front(operands, dims), batch=batch, **params)
    return out, [None if d is None else 0 for d in dims]


tag_p = _jax.identity_primitive(
    TAG,
    kept=lambda n, **_: n,
    jvp=_tag_jvp,
    transpose=lambda cotangents, *_, **__: list(cotangents),
    batch=_tag_batch,
)


def _hook_jvp(primals: Any, tangents: Any, *, spread: bool, **params: Any) -> Any:
    # Linear in the hooked leaves, for every fixed value of what the hook closes over.
    leaves = params["leaves"]
    if all(type(t) is _jax.Zero for t in tangents[:leaves]):
        return hook_p.bind(*primals, spread=spread, **params), list(tangents[:leaves])
    dots = [_jax.instantiate_zeros(t) for t in tangents[:leaves]]
    # This differentiation's cotangents pass through the tangents. Were the primal spread too, the
    # value of a function would become batched where only its tangents are (`jax.jacfwd`).
    out = hook_p.bind(*primals, spread=False, **params)
    return out, hook_p.bind(*dots, *primals[leaves:], spread=spread, **params)


def _hook_transpose(cotangents: Any, *operands: Any, hook: Any, leaves: int, **params: Any) -> Any:
    consts = operands[leaves:]
    new = _jax.as_function(hook)(*consts, *map(_jax.instantiate_zeros, cotangents))
    return [*new, *[None] * len(consts)]


def _hook_batch(
    axis: Any, operands: Any, dims: Any, *, hook: Any, leaves: int, spread: bool
) -> Any:
    if not spread and all(d is None for d in dims):
        return hook_p.bind(*operands, hook=hook, leaves=leaves, spread=spread), [None] * leaves
    # A leaf shared by all examples is spread over them: the hook acts on each example's cotangent,
    # and only then are they added up, as in a Python loop over the examples.
    moved = _to_front(operands, dims)
    rows = [
        jnp.broadcast_to(x, (axis.size, *jnp.shape(x))) if d is None else x
        for x, d in zip(moved[:leaves], dims[:leaves], strict=True)
    ]
    consts = moved[leaves:]
    in_axes = [*(None if d is None else 0 for d in dims[leaves:]), *[0] * leaves]
    each = _jax.vmap_like(axis, _jax.as_function(hook), in_axes)
    batched = _jax.without_consts(_jax.trace(each, [*consts, *rows]))
    out = hook_p.bind(*rows, *consts, hook=batched, leaves=leaves, spread=spread)
    return out, [0] * leaves


hook_p = _jax.identity_primitive(
    "register_hook",
    kept=lambda n, *, leaves, **_: leaves,
    jvp=_hook_jvp,
    transpose=_hook_transpose,
    batch=_hook_batch,
)


def _inject_jvp(primals: Any, tangents: Any) -> Any:
    return inject_p.bind(*primals), [_jax.add_tangents(*tangents)]


def _inject_transpose(cotangents: Any, *_: Any) -> Any:
    return [cotangents[0], cotangents[0]]


def _inject_batch(axis: Any, operands: Any, dims: Any) -> Any:
    value, sink = _to_front(operands, dims)
    if dims[0] is None and dims[1] is not None:
        value = jnp.broadcast_to(value, sink.shape)
    if dims[1] is None and dims[0] is not None:
        sink = jnp.broadcast_to(sink, value.shape)
    return inject_p.bind(value, sink), [None if dims == (None, None) else 0]


inject_p = _jax.identity_primitive(
    "inject_gradient",
    kept=lambda n, **_: 1,
    jvp=_inject_jvp,
    transpose=_inject_transpose,
    batch=_inject_batch,
)
