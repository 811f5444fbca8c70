"""How values, types, numbers and the differences between two pytrees read in a message."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any


def differences(got: Any, want: Any) -> list[str]:
    """Where `got` and `want` disagree in structure, shape or dtype: one line a leaf.

    Args:
        got: a pytree of arrays, or of anything with `shape` and `dtype`.
        want: a pytree of the same kind.

    Returns:
        One line for each path at which they differ, empty where they agree. Values are not read.

    >>> import jax.numpy as jnp
    >>> differences({"w": jnp.ones(3)}, {"w": jnp.ones(2), "b": jnp.ones(1)})
    ["['b']: got nothing, wanted float32[1]", "['w']: got float32[3], wanted float32[2]"]
    """
    ours, theirs = _by_path(got), _by_path(want)
    lines = [
        f"{path or 'the whole value'}: got {ours.get(path, 'nothing')},"
        f" wanted {theirs.get(path, 'nothing')}"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ]
    return lines or _container_differences(got, want)


def _container_differences(got: Any, want: Any) -> list[str]:
    """Same leaves under the same paths, but in containers of different types."""
    import jax

    ours: Any = jax.tree.structure(got)
    theirs = jax.tree.structure(want)
    return [] if ours == theirs else [f"the containers: got {ours}, wanted {theirs}"]


def _by_path(tree: Any) -> dict[str, str]:
    import jax

    return {
        jax.tree_util.keystr(path): describe(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def tensor_advice(leaf: Any) -> str:
    """What to do about a leaf that is a torch tensor, to end a message with; else nothing."""
    if type(leaf).__module__.partition(".")[0] != "torch":
        return ""
    return "; make an array of the tensor: jnp.asarray(tensor.detach().numpy())"


def describe(leaf: Any) -> str:
    """A leaf as `dtype[shape]`, or its type where it is no array.

    >>> import jax.numpy as jnp
    >>> describe(jnp.ones((2, 3))), describe("text")
    ('float32[2,3]', 'str')
    """
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return type(leaf).__name__


def number(x: Any) -> str:
    """A number as Python writes it, to six digits.

    >>> number(0.0), number(2.5e-30), number(True), number(float("inf"))
    ('0.0', '2.5e-30', 'True', 'inf')
    """
    import jax.numpy as jnp
    import numpy as np

    if np.iscomplexobj(x):
        return str(complex(x))
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return str(x)
    text = f"{float(x):.6g}"
    return text + ".0" if text.lstrip("-").isdigit() else text


def argument(place: int | str, inner: Sequence[Any] = ()) -> str:
    """What a leaf of an argument is called.

    Args:
        place: the argument's position or keyword.
        inner: the leaf's path in it.

    >>> import jax
    >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"w": 1.0})
    >>> argument(0, path), argument("params", path)
    ("argument 0['w']", "argument params['w']")
    """
    import jax

    return f"argument {place}{jax.tree_util.keystr(tuple(inner))}"


def argument_at(path: Any) -> str:
    """What a leaf of the pair `(args, kwargs)` is called, by its path in the pair."""
    which, place, *inner = path
    return argument(place.key if which.idx else place.idx, inner)


def shown(fun: Callable[..., Any]) -> str:
    """A function by its name and place.

    >>> shown(len)
    '<built-in function len>'
    """
    code = getattr(inspect.unwrap(fun), "__code__", None)
    if code is None:
        return repr(fun)
    return f"`{code.co_qualname}` of {code.co_filename}:{code.co_firstlineno}"


def size_of(count: int) -> str:
    """A number of bytes in the unit that suits it.

    >>> size_of(100), size_of(3 << 20)
    ('100 B', '3 MiB')
    """
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.4g} {unit}"
