"""Reads `name(...)`: what PyTorch, JAX, NumPy and Python print as a call."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ..tolerances import kind_of_dtype
from .build import array, container, dtype_name, item, numbers_of, tensor_numbers
from .literals import Unfit
from .values import SIZE, Container, Item, Value

_TENSORS = {"tensor": "tensor", "array": "array", "Array": "array", "DeviceArray": "array"}
_KNOWN = ("OrderedDict", "defaultdict", "deque", "frozenset", "set", "nested_tensor")

_BEHIND = {"dtype", "device", "requires_grad", "grad_fn", "size", "layout", "names", "tensor_meta"}
_DECIMALS = ({4}, {0})


@dataclass(frozen=True)
class Keyword:
    """`name=value` in a call.

    Attributes:
        name: the name.
        token: the token of the value.
    """

    name: str
    token: Any
    type: ClassVar[str] = "KEYWORD"


def called(name: str, arguments: list[Any]) -> Item:
    """What `name(...)` stands for, by its arguments, which are tokens and keywords.

    Raises:
        Unfit: no library prints this.
    """
    positional = [one for one in arguments if not isinstance(one, Keyword)]
    keywords = {one.name: one.token for one in arguments if isinstance(one, Keyword)}
    if any(isinstance(one, Keyword) for one in arguments[: len(positional)]):
        raise Unfit
    if name in _TENSORS:
        return _tensor(name, positional, keywords)
    if name == "ShapeDtypeStruct":
        return Value("struct", (), _shape_of(keywords.get("shape")), _dtype_of(keywords))
    if len(arguments) == len(positional) == 1:
        special = _of_one(name, positional[0])
        if special is not None:
            return special
    if _is_subclass(name, positional, keywords):
        return _tensor("tensor", positional, keywords)
    items: list[tuple[Any, Item | None]] = [
        (one.name, item(one.token)) if isinstance(one, Keyword) else (place, item(one))
        for place, one in enumerate(arguments)
    ]
    return container(name, items, printed=_is_printed(name, positional, items))


def _is_printed(name: str, positional: list[Any], items: list[tuple[Any, Item | None]]) -> bool:
    """Whether a library prints this: a known name, or a named tuple with an array in it.

    Any other `name(...)` may be code or prose; its numbers are values all the same.
    """
    if name in _KNOWN or name.startswith("torch.return_types."):
        return True
    holds_array = any(
        isinstance(one, Value) and one.form in ("tensor", "array") for _, one in items
    )
    return holds_array and not positional


def _is_subclass(name: str, positional: list[Any], keywords: dict[str, Any]) -> bool:
    """Whether a subclass of `torch.Tensor` printed this, `TensorImage([0.1235, 0.9877])`.

    Only PyTorch writes these words behind the numbers, or has all floats with four decimals (or
    with none, `1.`). A single number does not tell, so there the name has to.
    """
    if len(positional) != 1 or not keywords.keys() <= _BEHIND or name in (*_KNOWN, "matrix"):
        return False
    token = positional[0]
    if token.type in ("NUMBER", "BOOL"):
        return bool(keywords) or "Tensor" in name
    try:
        numbers = numbers_of(token)
    except Unfit:
        return False
    as_torch = numbers.kind == "float" and {one.decimals for one in numbers.precisions} in _DECIMALS
    with_commas = numbers.commas or len(numbers.numbers) == 1
    return with_commas and bool(numbers.numbers) and (bool(keywords) or as_torch)


def _of_one(name: str, token: Any) -> Item | None:
    """A call that takes exactly one argument; `None` if `name` is no such call."""
    if name == "torch.Size":
        return array(numbers_of(token), "list", 0, 0)._replace(kind="size")
    if name == "dtype" and token.type == "STRING":
        return Value("dtype", dtype=dtype_name(token))
    library, _, dtype = name.rpartition(".")
    if library in ("np", "numpy", "jnp") and token.type in ("NUMBER", "BOOL", "INNER", "STRING"):
        value = item(token)
        if not isinstance(value, Value):
            raise Unfit
        return value._replace(dtype=dtype.rstrip("_"), kind=kind_of_dtype(dtype) or value.kind)
    inside = token.content if token.type == "INNER" else None
    if name in ("OrderedDict", "deque") and isinstance(inside, Container):
        return container(name, _entries(inside))
    return None


def _entries(inside: Container) -> Iterator[tuple[str, Item]]:
    """The items of an OrderedDict, which is printed as a dict or as a list of pairs."""
    for key, one in inside.items:
        if isinstance(one, Container) and one.name == "tuple" and len(one.items) == 2:
            (_, name), (_, value) = one.items
            yield (name.text if isinstance(name, Value) else key), value
        else:
            yield key, one


def _tensor(name: str, positional: list[Any], keywords: dict[str, Any]) -> Item:
    """`tensor(...)` or `Array(...)`: one array, or the arrays that a sparse one consists of."""
    inner = {key: token for key, token in keywords.items() if token.type == "INNER"}
    held = [(key, item(token)) for key, token in inner.items()]
    parts = [(key, one) for key, one in held if isinstance(one, Value) and one.form != "list"]
    if len(positional) != 1:
        if positional or not parts:
            raise Unfit
        size = str(_shape_of(keywords["size"])) if "size" in keywords else ""
        parts = [(key, one._replace(suffixes=((SIZE, size),))) for key, one in parts]
        return container(name, parts)
    here = positional[0]
    try:
        numbers = tensor_numbers(here)
    except Unfit:
        inside = item(here)
        if not isinstance(inside, Container):
            raise
        return container(name, [(0, inside)])
    dtype = _dtype_of(keywords)
    value = array(numbers, _TENSORS[name], here.start_pos, here.end_pos)._replace(
        dtype=dtype,
        kind=(kind_of_dtype(dtype) if dtype else None) or numbers.kind,
        shape=_shape_of(keywords.get("shape", keywords.get("size"))) or numbers.shape,
        suffixes=tuple((key, str(token)) for key, token in keywords.items() if key not in inner),
    )
    return container(name, [(0, value), *parts]) if parts else value


def _dtype_of(keywords: dict[str, Any]) -> str | None:
    return dtype_name(str(keywords["dtype"])) if "dtype" in keywords else None


def _shape_of(token: Any) -> tuple[int | None, ...]:
    """The shape behind `size=` or `shape=`, `()` where there is none."""
    shape = None if token is None else item(token)
    if isinstance(shape, Value):
        return tuple(int(n) for n in shape.numbers if isinstance(n, int))
    if not isinstance(shape, Container):
        return ()
    return tuple(
        int(n)
        for _, one in shape.items
        if isinstance(one, Value)
        for n in one.numbers[:1]
        if isinstance(n, int)
    )
