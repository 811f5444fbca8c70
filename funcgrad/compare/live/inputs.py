"""One set of inputs for PyTorch and JAX: trees, dtypes, memory, and further random inputs.

JAX reads the memory of torch tensors and NumPy arrays where it can. PyTorch gets inputs of its own,
so that nothing it does in place reaches JAX or the caller's arrays.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._calls import Parts, take_apart
from ..._describe import describe
from ..._leaves import is_traced, takes_gradient
from ...errors import UsageError
from .judge import kind

STYLES = ("normal", "kinks", "zeros", "ties", "large", "tiny", "mixed")
_KINKS = np.array([0, -0.0, 0.5, 1, 2, 3, 6, -0.5, -1, -2, -3, -6])
_WIDE = ("float64", "complex128")
_SHOWN = 500  # characters of the arguments of a call


def plain(tree: Any) -> Any:
    """A tree with every mapping a dict and every sequence a tuple, `None` left out of mappings.

    So PyTorch's named tuples and model outputs compare with JAX's dicts and tuples.

    >>> plain([1, {"a": (2, None)}])
    (1, {'a': (2, None)})
    """
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, list | tuple):
        return tuple(map(plain, tree))
    return tree


def by_path(tree: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a tree by `name` and path; `None` is none of them.

    >>> by_path([1, {"a": 2}], "y")
    {'y[0]': 1, "y[1]['a']": 2}
    """
    leaves = jax.tree_util.tree_leaves_with_path(plain(tree))
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class _Bare(str):
    """Words without quotes in a tree that is shown."""

    __repr__ = str.__str__


@contextmanager
def explained_call(function: str, args: Any, hint: str) -> Iterator[None]:
    """Around the call of a user's function: an error says what the function was called with."""
    try:
        yield
    except Exception as error:
        types = [jax.tree.map(lambda leaf: _Bare(describe(leaf)), arg) for arg in args]
        shown = ", ".join(map(str, types))
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        error.add_note(f"`with_torch` called the {function} function with ({shown}){hint}")
        raise


def is_tensor(leaf: Any) -> bool:
    """Whether a leaf is a torch tensor; asks without importing torch."""
    return any(t.__module__ == "torch" and t.__name__ == "Tensor" for t in type(leaf).__mro__)


def is_shared(leaf: Any) -> bool:
    """Whether a leaf is passed to both as an array: arrays, tensors, Python floats and complexes.

    Everything else (integers, strings, functions, PRNG keys) goes to both sides as it is.

    >>> is_shared(np.ones(2)), is_shared(0.5), is_shared(3), is_shared(np.array(["text"]))
    (True, True, False, False)
    """
    if is_traced(leaf):
        return not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return isinstance(leaf, float | complex) or is_tensor(leaf)


def check_leaf(leaf: Any, name: str) -> None:
    """Refuse what JAX would hold in a lower precision, and tensors without plain memory.

    Raises:
        UsageError: double precision while JAX is in single precision, 64-bit integers that 32 bits
            do not hold, a sparse, quantized or meta tensor.
    """
    odd = _odd(leaf) if is_tensor(leaf) else None
    if odd:
        raise UsageError(
            f"`with_torch` got a {odd} tensor as {name}, and wants a dense one that holds data:"
            " pass x.to_dense() or x.dequantize()"
        )
    if isinstance(leaf, float | complex) or _x64():
        return
    dtype = str(leaf.dtype).removeprefix("torch.")
    if dtype in _WIDE:
        raise UsageError(
            f"`with_torch` got {dtype} as {name}, which JAX would hold in half the precision;"
            ' enable double precision with jax.config.update("jax_enable_x64", True) or `with'
            " jax.enable_x64(True):`, or pass single precision to both"
        )
    if dtype in ("int64", "uint64") and not _fits(to_numpy(leaf)):
        raise UsageError(
            f"`with_torch` got {dtype} as {name} with numbers that JAX's 32 bits do not hold;"
            ' enable 64 bits with jax.config.update("jax_enable_x64", True)'
        )


def _odd(tensor: Any) -> str | None:
    """What a tensor is that has no plain memory."""
    if tensor.is_meta:
        return "meta"
    layout = str(tensor.layout).removeprefix("torch.")
    return "quantized" if tensor.is_quantized else layout if layout != "strided" else None


def _x64() -> bool:
    return jnp.result_type(float) == np.float64


def _fits(array: np.ndarray) -> bool:
    limits = np.iinfo(np.uint32 if array.dtype.kind == "u" else np.int32)
    return not array.size or bool(limits.min <= array.min() and array.max() <= limits.max)


def to_numpy(leaf: Any) -> np.ndarray:
    """A leaf as a NumPy array, in shared memory where NumPy can."""
    if not is_tensor(leaf):
        return np.asarray(leaf)
    import torch

    tensor = leaf.detach().resolve_conj().resolve_neg().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16 and its like are no dtypes of NumPy's own, but of ml_dtypes
        bits = tensor.contiguous().view(getattr(torch, f"uint{8 * tensor.itemsize}"))
        return bits.numpy().view(_name(tensor))


def _name(tensor: Any) -> np.dtype:
    return jnp.dtype(str(tensor.dtype).removeprefix("torch."))


def to_jax(leaf: Any) -> Any:
    """A leaf as JAX takes it: Python numbers and JAX arrays as they are.

    Of anything else the memory is shared where JAX can, on the CPU and without gaps. Unlike what
    `jnp.from_dlpack` gives, the array is bound to no device, so that it may meet sharded ones.
    """
    if isinstance(leaf, float | complex | jax.Array):
        return leaf
    return jax.device_put(to_numpy(_native(leaf)))


def to_torch(leaf: Any, device: Any = None) -> Any:
    """A leaf as a tensor of its own, requiring a gradient where its dtype has one.

    A Python number becomes a tensor without axes, of JAX's precision: in either library it then
    takes the dtype of what it meets.
    """
    import torch

    if is_tensor(leaf):
        tensor = leaf.detach().clone()
    elif isinstance(leaf, float | complex):
        tensor = torch.tensor(leaf, dtype=getattr(torch, jnp.result_type(leaf).name), device=device)
    else:
        tensor = _from_numpy(np.array(_native(leaf), order="C")).to(device)
    return tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())


def _native(leaf: Any) -> Any:
    """A NumPy array in the machine's byte order."""
    swapped = isinstance(leaf, np.ndarray) and not leaf.dtype.isnative
    return leaf.astype(leaf.dtype.newbyteorder("=")) if swapped else leaf


def _from_numpy(array: np.ndarray) -> Any:
    import torch

    try:
        return torch.from_numpy(array)
    except TypeError:
        bits = torch.from_numpy(array.view(f"uint{8 * array.itemsize}"))
        return bits.view(getattr(torch, array.dtype.name))


class Inputs(NamedTuple):
    """A tuple of inputs taken apart: the leaves that both libraries get as arrays, and the rest.

    Attributes:
        arrays: the leaves that both get as arrays.
        names: what each is called.
        parts: how the tuple is put together from them.
    """

    arrays: list[Any]
    names: list[str]
    parts: Parts


def take_inputs(inputs: tuple[Any, ...], names: Sequence[str]) -> Inputs:
    """Take inputs of these names apart, and refuse leaves that cannot be compared."""
    arrays, parts = take_apart(inputs, is_shared)
    paths = parts.paths(inputs)
    called = [names[path[0].idx] + jax.tree_util.keystr(path[1:]) for path in paths]
    for leaf, name in zip(arrays, called, strict=True):
        check_leaf(leaf, name)
    return Inputs(arrays, called, parts)


def random_like(leaf: Any, seed: int, place: int) -> Any:
    """A further input like `leaf`: same shape and dtype, other numbers, decided by `seed` alone.

    The seed's remainder by seven chooses the style: normal numbers; numbers at which functions have
    kinks (0, 0.5, 1, 2, 3, 6 and their negatives); zeros; ties; magnitudes around 1000; around
    1e-6; from 1e-8 to 1e4 mixed. Where `leaf` has nothing negative, nor has the new one, and what
    lies within [0, 1] stays there. Integers and bools are the example's, shuffled; Python numbers
    stay what they are.
    """
    if isinstance(leaf, float | complex):
        return leaf
    example = to_numpy(leaf)
    rng = np.random.default_rng((seed, place))
    if kind(example) in ("int", "bool"):
        return rng.permutation(example.ravel()).reshape(example.shape)
    style = STYLES[seed % len(STYLES)]
    numbers = _numbers(rng, style, example.shape)
    if kind(example) == "complex":
        return (numbers + 1j * _numbers(rng, style, example.shape)).astype(example.dtype)
    if not np.any(example < 0):
        numbers = np.abs(numbers)
        numbers = np.minimum(numbers, 1) if not np.any(example > 1) else numbers
    return numbers.astype(example.dtype)


def _numbers(rng: Any, style: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = rng.standard_normal(shape)
    if style == "kinks":
        return rng.choice(_KINKS, shape)
    if style == "ties":
        return rng.choice(rng.standard_normal(2), shape)
    if style == "mixed":
        return normal * 10 ** rng.uniform(-8, 4, shape)
    return normal * {"normal": 1, "zeros": 0, "large": 1e3, "tiny": 1e-6}[style]


def jittered(leaf: Any, seed: int) -> Any:
    """A leaf moved by about one unit in the last place, for measuring what rounding does.

    Equal numbers stay equal, opposite ones opposite, and numbers of few digits (0, 0.5, 6: where
    kinks are) stay as they are.
    """
    if not takes_gradient(leaf):
        return leaf
    array = np.asarray(leaf, jnp.result_type(leaf))
    if array.dtype.kind == "c":
        real, imag = (_moved(part, seed) for part in (array.real, array.imag))
        new = (real + 1j * imag).astype(array.dtype)
    else:
        new = _moved(array, seed)
    if isinstance(leaf, float | complex):
        return new.item()
    # Committed to a device as `leaf` is, or what is compiled for `leaf` would be compiled again.
    return jax.device_put(new, leaf.sharding if leaf.committed else None)


def _moved(array: np.ndarray, seed: int) -> np.ndarray:
    limits = jnp.finfo(array.dtype)
    digits, _ = np.frexp(array.astype(np.float64))
    few = digits * 2.0 ** min(12, (limits.nmant + 1) // 2)
    up = np.sin(1e9 * seed * np.abs(digits)) >= 0
    moved = array.astype(np.float64) * (1 + np.where(up, 1.0, -1.0) * float(limits.eps))
    with np.errstate(invalid="ignore", over="ignore"):
        keep = (few == np.round(few)) | ~np.isfinite(moved)
        return np.where(keep, array, moved).astype(array.dtype)
