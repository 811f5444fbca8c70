"""Gradient accumulation as values: `zero_grad` makes the accumulator, `accumulate_grad` adds."""

from typing import Any

import jax
import jax.numpy as jnp

from .._calls import gradients, indices, parameters
from .._describe import describe, differences, tensor_advice
from .._leaves import is_array, is_sparse, refuse_iterators
from .._objects import nodes
from .._types import Grads
from ..errors import TreeError, UsageError


def zero_grad(params: Any, set_to_none: bool = False, dtype: Any = None) -> Grads:
    """A fresh gradient accumulator for `params`.

    Stands for `optimizer.zero_grad(set_to_none=...)`, and for `x.grad.zero_()` on one tensor. The
    default is `False`, zeros, because an accumulator that is carried through a compiled loop must
    have its arrays from the start; PyTorch's optimizers default to `True`.

    Args:
        params: a pytree of arrays.
        set_to_none: `None` in place of every leaf: no memory, and the first addition sets it.
        dtype: the dtype of the accumulator. By default that of the leaf, and float32 for leaves of
            half precision (float16, bfloat16), where adding many small numbers would stop early.

    Returns:
        Zeros shaped like `params`; `None` at leaves that take no gradient: integers, bools, and
        what is no array. For a module of Flax NNX an `nnx.State` of its parameters, as `grad` gives
        it.

    Raises:
        UsageError: no leaf is an array (an optimizer, a module of PyTorch), or one is a tensor of
            PyTorch.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> fg.zero_grad({"w": jnp.ones(2, jnp.bfloat16), "step": jnp.array(3)})
    {'step': None, 'w': Array([0., 0.], dtype=float32)}
    """
    refuse_iterators(params, "zero_grad")
    whole = nodes(params)
    leaves = jax.tree.leaves(whole)
    if leaves and not any(map(_is_parameter, leaves)):
        raise UsageError(
            f"`zero_grad` got {describe(leaves[0])}, and wants parameters: a pytree of arrays"
            f"{tensor_advice(leaves[0])}"
        )
    for leaf in filter(tensor_advice, leaves):
        raise UsageError(
            f"`zero_grad` got {describe(leaf)} among the parameters, and wants arrays"
            f"{tensor_advice(leaf)}"
        )
    arrays, parts = parameters(whole, "zero_grad")
    zeros = [None if set_to_none else _zeros(leaf, dtype) for leaf in arrays]
    return gradients(parts.tree, parts.chosen, zeros, indices(whole, parts))


def _is_parameter(leaf: Any) -> bool:
    return is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _zeros(leaf: Any, dtype: Any) -> Any:
    return jnp.zeros(jnp.shape(leaf), dtype or sum_dtype(jnp.result_type(leaf)))


def sum_dtype(dtype: Any) -> Any:
    """The dtype to add up numbers of `dtype` in: float32 for half precision, any other as it is.

    >>> sum_dtype(jnp.dtype("bfloat16")), sum_dtype(jnp.dtype("int8"))
    (dtype('float32'), dtype('int8'))
    """
    half = dtype.itemsize < 4 and jnp.issubdtype(dtype, jnp.floating)
    return jnp.dtype(jnp.float32) if half else dtype


def accumulate_grad(acc: Grads, grads: Grads) -> Grads:
    """The accumulator with `grads` added.

    Stands for what `backward()` does to `.grad`. Pure: `acc` is not changed, so donate it to `jit`
    to have the sum written in its place.

    Args:
        acc: what `zero_grad` or an earlier call returned. `None`, for a leaf, a subtree or the
            whole, means "no gradient yet".
        grads: a pytree of gradients like it; `None` means "no gradient this time".

    Returns:
        Leaf by leaf `acc + grads` in the dtype of `acc`; `None + g` is `g` itself, in its own dtype
        (start from `zero_grad` to accumulate half precision in float32), and `acc + None` is `acc`.

    Raises:
        TreeError: the two differ in structure or shape, shown path by path.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> acc = fg.zero_grad(jnp.arange(2.0))
    >>> fg.accumulate_grad(fg.accumulate_grad(acc, jnp.ones(2)), jnp.ones(2))
    Array([2., 2.], dtype=float32)
    """
    refuse_iterators((acc, grads), "accumulate_grad")
    try:
        return _add(acc, grads)
    except ValueError as error:
        raise TreeError(
            "`accumulate_grad` got gradients that do not fit the accumulator; both come from the"
            " same parameters:\n  " + "\n  ".join(differences(grads, acc) or [str(error)])
        ) from error


def _add_sparse(acc: Any, grads: Any) -> Any:
    """Adds what has indices: the sum has those of both, as PyTorch's has until it is coalesced."""
    if jnp.shape(acc) != jnp.shape(grads):
        raise ValueError("shapes differ")
    try:
        return acc + grads
    except (TypeError, NotImplementedError) as error:
        raise UsageError(
            f"`accumulate_grad` got {type(acc).__name__} and {type(grads).__name__}, which JAX does"
            " not add; make the gradients dense: grads.todense()"
        ) from error


_LEAF: Any = jax.tree.structure(0)


def _add(acc: Any, grads: Any) -> Any:
    """Adds node by node, since `None` may stand for a whole subtree on either side."""
    if acc is None:
        return grads
    if grads is None:
        return acc
    if is_sparse(acc) or is_sparse(grads):
        return _add_sparse(acc, grads)
    node: Any = jax.tree.structure(acc, is_leaf=lambda inner: inner is not acc)
    if node != _LEAF:  # a node without children has no children either, and is none
        pairs = zip(node.flatten_up_to(acc), node.flatten_up_to(grads), strict=True)
        return node.unflatten([_add(*pair) for pair in pairs])
    if jnp.shape(acc) != jnp.shape(grads):
        raise ValueError("shapes differ")
    if jnp.iscomplexobj(grads) and not jnp.iscomplexobj(acc):
        raise ValueError("complex gradients do not fit a real accumulator")
    return acc + jnp.asarray(grads).astype(jnp.result_type(acc))
