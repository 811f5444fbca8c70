"""Runs inside the kernel: notes what a cell really shows, before it becomes text.

For each argument of `print`, and for each result, one line of JSON: the text that it becomes and
the values in it, in the order in which they are printed; `null` where the object says nothing.
"""

import builtins
import itertools
import json
import os

import numpy as np
import torch
from torch.autograd import forward_ad

_SHOWN = 1000  # torch and NumPy print the corners of anything larger
_EDGE = 3


class Unknown(Exception):
    """An object whose text holds no values that could be told beforehand."""


def plain(number):
    """A number as JSON can hold it."""
    if isinstance(number, complex):
        return [plain(number.real), plain(number.imag)]
    return number if np.isfinite(number) else str(number)


def dense(array, dtype):
    """A tensor or an array: all numbers, or those in its corners with their places."""
    kind = next(
        (k for k in ("complex", "float", "bool", "qint", "quint", "int") if k in dtype), None
    )
    if kind is None:
        raise Unknown
    kind = "float" if kind.startswith("q") else kind
    shape = list(array.shape)
    truth = {"kind": kind, "dtype": dtype, "shape": shape}
    if array.size <= _SHOWN:
        return truth | {"numbers": [plain(n) for n in array.ravel().tolist()]}
    shown = [[*range(_EDGE), *range(n - _EDGE, n)] if n > 2 * _EDGE else range(n) for n in shape]
    corners = [[list(at), plain(array[at].item())] for at in itertools.product(*shown)]
    return truth | {"corners": corners}


def of_tensor(tensor):
    """A tensor of any layout, as the arrays that are printed for it."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise Unknown
    primal, tangent = forward_ad.unpack_dual(tensor)
    if tangent is not None:
        return of_tensor(primal) + of_tensor(tangent)
    with torch.no_grad():
        tensor = tensor.detach()
        if tensor.is_nested:
            return [one for part in tensor.unbind() for one in of_tensor(part)]
        if tensor.layout == torch.sparse_coo:
            return of_tensor(tensor._indices()) + of_tensor(tensor._values())
        if tensor.layout == torch.sparse_csr:
            parts = tensor.crow_indices(), tensor.col_indices(), tensor.values()
            return [one for part in parts for one in of_tensor(part)]
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        wide = tensor.resolve_conj()
        if wide.is_floating_point():
            wide = wide.double()
        return [dense(wide.cpu().numpy(), dtype)]


def scalar(kind, number, dtype=None):
    return {"kind": kind, "dtype": dtype, "shape": [], "numbers": [plain(number)]}


def values(thing):
    """The values that the text of an object shows, in order."""
    if isinstance(thing, torch.Tensor):
        return of_tensor(thing)
    if isinstance(thing, np.ndarray):
        return [dense(thing, str(thing.dtype))]
    if isinstance(thing, torch.Size):
        return [scalar("int", n) for n in thing]
    if isinstance(thing, (torch.dtype, np.dtype)):
        return [{"kind": "dtype", "dtype": str(thing).removeprefix("torch.")}]
    if thing is None:
        return [{"kind": "none"}]
    if isinstance(thing, np.generic):
        return [scalar(values(thing.item())[0]["kind"], thing.item(), str(thing.dtype))]
    for kind, cls in (("bool", bool), ("int", int), ("float", float), ("complex", complex)):
        if isinstance(thing, cls):
            return [scalar(kind, thing)]
    if isinstance(thing, dict):
        return [one for item in thing.values() for one in values(item)]
    if isinstance(thing, (tuple, list)):
        return [
            one
            for item in thing
            for one in ([{"kind": "string"}] if isinstance(item, str) else values(item))
        ]
    raise Unknown


def note(kind, text, thing):
    try:
        found = None if isinstance(thing, str) else values(thing)
    except Unknown:
        found = None
    with open(os.environ["WITNESS"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, "text": text, "values": found}) + "\n")


def witness(shell):
    """Let `print` and the display of results note what they show."""
    print_as_ever = builtins.print
    format_as_ever = shell.displayhook.compute_format_data

    def noting_print(*things, file=None, **options):
        if file is None:
            for thing in things:
                note("stdout", str(thing), thing)
        print_as_ever(*things, file=file, **options)

    def noting_format(result):
        data, metadata = format_as_ever(result)
        note("result", data["text/plain"], result)
        return data, metadata

    builtins.print = noting_print
    shell.displayhook.compute_format_data = noting_format
