"""What becomes of a leaf of a pytree: traced or handed on as it is, with a gradient or without.

| leaf | is computed with | is traced | takes a gradient |
|---|---|---|---|
| array of JAX or NumPy, floating or complex | yes | yes | yes |
| array of integers, bools or PRNG keys | yes | yes | no |
| Python's float and complex | yes | as a variable | yes |
| the same in a module of Equinox | yes | no | where it is asked for |
| Python's int and bool | yes | no | no |
| `jax.ShapeDtypeStruct` | no | as a variable | by its dtype |
| anything else: a function, a string, an object | no | no | no |

The columns are `is_array`, `is_traced` (with `is_variable`) and `takes_gradient`.
"""

import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._describe import describe
from .errors import UsageError

KINDS = (jax.Array, np.ndarray, np.generic, int, float, complex)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array or a number, and not merely something with a dtype.

    >>> is_array(1.0), is_array("float32"), is_array(jnp.float32)
    (True, False, False)
    """
    return isinstance(leaf, KINDS) or hasattr(leaf, "__jax_array__")


def refuse_iterators(tree: Any, function: str) -> None:
    """Refuses a generator or another iterator in a pytree, which is no node and no leaf of one.

    Raises:
        UsageError: there is one.
    """

    def look(x: Any) -> bool:
        if isinstance(x, Iterator):
            raise UsageError(
                f"`{function}` got {describe(x)}, which can be read once only, and wants a pytree:"
                " make a list or a tuple of it, list(...)"
            )
        return False

    jax.tree.leaves(tree, is_leaf=look)


def is_sparse(x: Any) -> bool:
    """Whether something is a sparse array, of which the indices are no numbers to add or multiply.

    >>> is_sparse(jnp.ones(2))
    False
    """
    module = sys.modules.get("jax.experimental.sparse")
    return module is not None and isinstance(x, module.JAXSparse)


def as_output(leaf: Any) -> Any:
    """An array or number as a traced function may return it: what makes itself an array, made one.

    >>> as_output(1.0)
    1.0
    """
    return leaf if isinstance(leaf, KINDS) else jnp.asarray(leaf)


def is_traced(leaf: Any) -> bool:
    """Whether a leaf of the arguments is an input of the traced program: an array is one.

    Anything else is handed on as it is. So are Python's own numbers, since Python may decide by
    them: a flag, a size, an exponent.

    >>> is_traced(np.float32(1)), is_traced(1.0), is_traced(np.array(["text"]))
    (True, False, False)
    """
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind not in "OSTUMm"
    return isinstance(leaf, jax.Array)


def is_variable(leaf: Any) -> bool:
    """Whether a leaf is an input where a function is looked at as one of all its arguments.

    Besides arrays these are Python's floats and complex numbers, with respect to which a derivative
    is asked for, and types of arrays, since nothing need run.

    >>> is_variable(1.0), is_variable(True), is_variable(3)
    (True, False, False)
    """
    return is_traced(leaf) or isinstance(leaf, float | complex | jax.ShapeDtypeStruct)


def settings(tree: Any) -> list[bool]:
    """For each leaf of a pytree whether it is a Python number that a module of Equinox holds.

    Such a number is a setting, as a rate of dropout is: `eqx.filter_grad` does not differentiate
    it, `eqx.filter_jit` compiles for it, and Python may decide by it.

    >>> settings({"w": 1.0})
    [False]
    """
    module = getattr(sys.modules.get("equinox"), "Module", ())
    found = []
    for x in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, module)):
        held = isinstance(x, module)
        found += [held and _is_plain(leaf) for leaf in jax.tree.leaves(x)]
    return found


def _is_plain(x: Any) -> bool:
    """Whether something is a number of Python's own, not one of NumPy's."""
    return isinstance(x, int | float | complex) and not isinstance(x, np.generic)


def takes_gradient(leaf: Any) -> bool:
    """Whether an array, a number or a type is floating or complex.

    >>> takes_gradient(1.0), takes_gradient(1), takes_gradient(True)
    (True, False, False)
    """
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.inexact)


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
    strong = getattr(value, "weak_type", False) and not getattr(like, "weak_type", False)
    if strong and _rank(value.dtype) <= _rank(like.dtype):
        return jax.lax.convert_element_type(value, like.dtype)
    return value


def adopt_dtypes(values: Any, like: Any) -> Any:
    """`adopt_dtype` leaf by leaf; pytrees of another structure come back as they are.

    >>> adopt_dtypes([2.5], [jnp.ones(3, jnp.bfloat16)])[0].dtype, adopt_dtypes(2.5, [3.0])
    (dtype(bfloat16), 2.5)
    """
    ours: Any = jax.tree.structure(values)
    return jax.tree.map(adopt_dtype, values, like) if ours == jax.tree.structure(like) else values


def _rank(dtype: Any) -> int:
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind)), len(kinds))
