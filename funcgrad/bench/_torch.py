"""PyTorch's contenders for a problem: eager, and compiled in the ways that there are."""

import importlib.util
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from ._case import NO_FORM, Function, Torch, same

NAMES = ("torch", "compile", "compile-func", "cuda-graph")


class Contender(NamedTuple):
    """Something to time.

    Fields:
        call: does the work once, and returns when it is done what it computed.
        view: from that to what every contender is to return; not timed.
    """

    call: Callable[[], Any]
    view: Function


def contenders(
    make: Callable[[], Torch] | None, wanted: Collection[str], gpu: bool = False
) -> dict[str, Contender | str]:
    """PyTorch's contenders by name, or in few words why one is not there.

    Args:
        make: makes what they are made of; `None`: the case has none.
        wanted: the names of those to make.
        gpu: whether they run on a GPU.
    """
    names = [name for name in NAMES if name in wanted and (gpu or name != "cuda-graph")]
    if make is None:
        return dict.fromkeys(names, NO_FORM)
    if importlib.util.find_spec("torch") is None:
        return dict.fromkeys(names, "not installed")
    spec = make()
    return {name: _made(name, spec, gpu) for name in names}


def _made(name: str, spec: Torch, gpu: bool) -> Contender | str:
    try:
        return _WAYS[name](spec, gpu)
    except Exception as error:  # whatever a compiler may raise
        return reason(error)


def _eager(spec: Torch, gpu: bool) -> Contender | str:
    if spec.eager is None:
        return _backward(spec, gpu, same)
    args = tensors(spec, gpu, leaves=True)
    return Contender(_waited(spec.eager, args, gpu), spec.eager_view)


def _backward(spec: Torch, gpu: bool, compile: Function) -> Contender | str:
    args = tensors(spec, gpu, leaves=True)
    if spec.backward is not None:
        return Contender(_waited(spec.backward(compile), args, gpu), spec.eager_view)
    if (loss := spec.loss) is None:
        return spec.why
    held = tuple(args[place] for place in spec.leaves)
    leaves, structure = jax.tree.flatten(held)
    compiled = compile(loss)

    def step(*args: Any) -> Any:
        for leaf in leaves:
            leaf.grad = None
        value, others = compiled(*args)
        value.backward()
        return value, others, [leaf.grad for leaf in leaves]

    def view(results: Any) -> Any:
        value, others, grads = results
        return spec.view(value, others, jax.tree.unflatten(structure, grads))

    return Contender(_waited(step, args, gpu), view)


def _functional(spec: Torch, gpu: bool, compile: Function) -> Contender | str:
    import torch

    args = tensors(spec, gpu, leaves=False)
    if spec.func is not None:
        return Contender(_waited(compile(spec.func), args, gpu), spec.eager_view)
    if spec.loss is None:
        return spec.why
    step = compile(torch.func.grad_and_value(spec.loss, spec.leaves, has_aux=True))

    def view(results: Any) -> Any:
        grads, (value, others) = results
        return spec.view(value, others, grads)

    return Contender(_waited(step, args, gpu), view)


def _compiled(way: Function, **options: Any) -> Function:
    def make(spec: Torch, gpu: bool) -> Contender | str:
        import torch

        return way(spec, gpu, lambda fun: torch.compile(fun, **options))

    return make


_WAYS: dict[str, Function] = {
    "torch": _eager,
    "compile": _compiled(_backward),
    "compile-func": _compiled(_functional),
    "cuda-graph": _compiled(_backward, mode="reduce-overhead"),
}


def tensors(spec: Torch, gpu: bool, leaves: bool) -> tuple[Any, ...]:
    """The arguments as tensors; with `leaves`, those that take gradients are set to."""
    import torch

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(array, device="cuda" if gpu else "cpu")

    args = jax.tree.map(tensor, spec.args)
    if leaves:
        for place in spec.leaves:
            for leaf in jax.tree.leaves(args[place]):
                leaf.requires_grad_()
    return args


def _waited(step: Function, args: tuple[Any, ...], gpu: bool) -> Callable[[], Any]:
    if not gpu:
        return lambda: step(*args)
    import torch

    def call() -> Any:
        results = step(*args)
        torch.cuda.synchronize()
        return results

    return call


def reason(error: Exception) -> str:
    r"""Why a contender failed, on one line.

    >>> reason(RuntimeError("torch.compile with aot_autograd does not\n support double backward"))
    'fails: torch.compile with aot_autograd does not support double backward'
    """
    if "CxxCompiler" in f"{type(error).__name__} {error}":
        return "no C++ compiler"
    words = " ".join(str(error).split()) or type(error).__name__
    return f"fails: {words[:100]}"


def plain(value: Any) -> Any:
    """A copy of a tensor, or of anything else, as a NumPy array."""
    return np.array(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
