"""Pytrees as gradients see them: which leaves take one, what each is called, the rest put aside."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._describe import describe, tensor_advice
from .errors import TreeError, UsageError


def takes_gradient(leaf: Any) -> bool:
    """Whether a leaf is of a floating or complex dtype; integers and bools take no gradient.

    >>> takes_gradient(1.0), takes_gradient(1), takes_gradient(True)
    (True, False, False)
    """
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def sum_dtype(dtype: Any) -> Any:
    """The dtype to add up numbers of `dtype` in: float32 for half precision, any other as it is.

    >>> sum_dtype(jnp.dtype("bfloat16")), sum_dtype(jnp.dtype("int8"))
    (dtype('float32'), dtype('int8'))
    """
    half = dtype.itemsize < 4 and jnp.issubdtype(dtype, jnp.floating)
    return jnp.dtype(jnp.float32) if half else dtype


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array or a number, and not merely something with a dtype.

    >>> is_array(1.0), is_array("float32"), is_array(jnp.float32)
    (True, False, False)
    """
    kinds = (jax.Array, np.ndarray, np.generic, int, float, complex)
    return isinstance(leaf, kinds) or hasattr(leaf, "__jax_array__")


def path_of(tree: Any, index: int) -> str:
    """The path of the leaf at `index` in flattening order, as JAX prints it."""
    return jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(tree)[index][0])


class Split(NamedTuple):
    """A pytree taken apart into some chosen leaves and the others.

    Fields:
        tree: the structure of the whole.
        chosen: for each leaf in flattening order, whether it is chosen.
        rest: the others, in order.
    """

    tree: Any
    chosen: tuple[bool, ...]
    rest: tuple[Any, ...]

    def join(self, leaves: Sequence[Any]) -> Any:
        """The whole pytree, with `leaves` in the chosen places and the others as they were."""
        taken, kept = iter(leaves), iter(self.rest)
        return self.tree.unflatten([next(taken if c else kept) for c in self.chosen])

    def gradients(self, leaves: Sequence[Any]) -> Any:
        """A pytree of gradients: `leaves` in the chosen places, `None` in the others."""
        return scatter(self.tree, self.chosen, leaves)


def part(tree: Any, leaves: Sequence[Any], chosen: Sequence[bool]) -> tuple[list[Any], Split]:
    """The chosen leaves of a pytree of structure `tree`, and a recipe to put it together again."""
    ours: list[Any] = []
    rest: list[Any] = []
    for leaf, c in zip(leaves, chosen, strict=True):
        (ours if c else rest).append(leaf)
    return ours, Split(tree, tuple(chosen), tuple(rest))


def scatter(tree: Any, chosen: Sequence[bool], leaves: Sequence[Any]) -> Any:
    """The pytree of structure `tree` with `leaves` where `chosen`, and `None` elsewhere."""
    taken = iter(leaves)
    return tree.unflatten([next(taken) if c else None for c in chosen])


def split(
    whole: Any,
    function: str,
    requires_grad: Any = None,
) -> tuple[list[Any], Split]:
    """Takes `whole` apart into the leaves that take a gradient and a recipe to put it together.

    Args:
        whole: the differentiated argument, or the tuple of them.
        function: the public function to name in errors.
        requires_grad: `None` (every floating or complex leaf), a pytree prefix of bools, or a
            predicate on `(key path, leaf)`.

    Raises:
        UsageError: a leaf is not an array or number, or a mask leaf is not a bool.
        TreeError: the mask is not a prefix of `whole`.
    """
    leaves, tree = jax.tree.flatten(whole)
    for index, leaf in enumerate(leaves):
        if not is_array(leaf):
            raise UsageError(
                f"`{function}` got {describe(leaf)} at {path_of(whole, index) or 'an argument'} of"
                " what it differentiates, and wants arrays or numbers; pass it in an argument that"
                f" `argnums` does not name, or close over it{tensor_advice(leaf)}"
            )
    mask = _mask(whole, function, requires_grad)
    chosen = [m and takes_gradient(leaf) for m, leaf in zip(mask, leaves, strict=True)]
    return part(tree, leaves, chosen)


def _mask(whole: Any, function: str, requires_grad: Any) -> list[bool]:
    if requires_grad is None:
        return [True] * len(jax.tree.leaves(whole))
    if callable(requires_grad):
        mask = _ask(whole, requires_grad)
    else:
        try:
            mask = jax.tree.leaves(jax.tree.broadcast(requires_grad, whole))
        except ValueError as error:
            raise TreeError(
                f"`{function}` got a `requires_grad` that is not a prefix of the differentiated"
                f" argument: got {jax.tree.structure(requires_grad)}, wanted a prefix of"
                f" {jax.tree.structure(whole)}; give it bools in the places of the leaves, or"
                " decide by name: requires_grad="
                "lambda path, leaf: 'bias' in jax.tree_util.keystr(path)"
            ) from error
    for index, value in enumerate(mask):
        if not isinstance(value, bool | np.bool_):
            raise UsageError(
                f"`{function}` got {value!r} from `requires_grad` for"
                f" {path_of(whole, index) or 'the argument'}, and wants True or False: which leaves"
                " take a gradient is fixed when the function is traced"
            )
    return [bool(value) for value in mask]


def _ask(whole: Any, predicate: Callable[[Any, Any], Any]) -> list[Any]:
    return [predicate(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(whole)]


def conjugate(tree: Any) -> Any:
    """Conjugates the complex leaves of `tree`; emits nothing for the others.

    PyTorch's gradient of a complex input is the conjugate of the one `jax.grad` returns.
    """
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf, tree)


def adopt_dtype(value: Any, like: Any) -> Any:
    """`value` as an array; a weakly typed number takes the type of `like`, as JAX promotes.

    What is no number, or of a kind that `like` cannot hold, comes back as it is, to be refused.

    >>> adopt_dtype(2, jnp.ones(3, jnp.bfloat16)).dtype
    dtype(bfloat16)
    """
    if not is_array(value):
        return value
    value = jnp.asarray(value)
    strong = value.weak_type and not getattr(like, "weak_type", False)
    if strong and _rank(value.dtype) <= _rank(like.dtype):
        return jax.lax.convert_element_type(value, like.dtype)
    return value


def _rank(dtype: Any) -> int:
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind)), len(kinds))
