"""PyTorch's side of a live comparison: runs the function forward and backward."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..._describe import describe
from ...errors import UsageError
from .capture import Recorder, recording
from .inputs import by_path, is_shared, is_tensor, to_numpy


class TorchRun(NamedTuple):
    """PyTorch's forward pass.

    Attributes:
        out: the output's leaves by path, tensors or numbers.
        recorder: the captured tensors.
        leaves: the tensors to differentiate with respect to.
        changed: the names of the module's buffers that the call changed.
    """

    out: dict[str, Any]
    recorder: Recorder
    leaves: list[Any]
    changed: list[str]


def run_torch(
    torch_fn: Callable[..., Any],
    args: Sequence[Any],
    leaves: list[Any],
    module: Any = None,
    modules: Any = False,
    buffers: bool = False,
) -> TorchRun:
    """Run PyTorch's function and capture the tensors that have names.

    The module's buffers are copies meanwhile, so that it is afterwards what it was before.

    Args:
        torch_fn: the function.
        args: its arguments.
        leaves: the tensors to differentiate with respect to.
        module: the module whose parameters are compared, or `None`.
        modules: which of its submodules are captured: all, none, or those that fit patterns.
        buffers: whether the output is the pair of what the function returns and the module's
            buffers afterwards, by name.

    Raises:
        UsageError: it drew random numbers, returned something else than tensors, or changed a
            parameter in place.
    """
    import torch

    parameters = [] if module is None else [*module.parameters()]
    random_state, versions = torch.get_rng_state(), [p._version for p in parameters]
    with (
        _own_buffers(module),
        torch.enable_grad(),
        recording(module, modules) as recorder,
    ):
        returned = torch_fn(*args)
        after = {} if module is None else dict(module.named_buffers())
    # The version of a tensor does not tell: what batch normalization writes leaves it as it was.
    before = {} if module is None else dict(module.named_buffers())
    changed = [
        name
        for name, buffer in after.items()
        if name not in before or not torch.equal(before[name], buffer)
    ]
    if buffers:
        returned = returned, {name: buffer.detach() for name, buffer in after.items()}
    if not torch.equal(random_state, torch.get_rng_state()):
        raise UsageError(
            "`with_torch` got a torch function that draws random numbers, which JAX cannot draw"
            " again; switch dropout off with module.eval(), or make what is random an input (a"
            " mask, noise) of both functions"
        )
    if versions != [p._version for p in parameters]:
        raise UsageError(
            "`with_torch` got a torch function that changes a parameter in place, whose memory JAX"
            " reads too; let it change a clone()"
        )
    out = by_path(returned)
    for path, leaf in out.items():
        if not is_shared(leaf) and not isinstance(leaf, int):
            raise UsageError(
                f"`with_torch` got a torch function that returns {describe(leaf)} at"
                f" {path or 'its output'}, and wants tensors in tuples, lists and dicts"
            )
    return TorchRun(out, recorder, leaves, changed)


@contextmanager
def _own_buffers(module: Any) -> Iterator[None]:
    """Puts copies in the place of a module's buffers, and gives it its own back at the end."""
    if module is None:
        yield
        return
    own = [(part, name, b) for part in module.modules() for name, b in part._buffers.items()]
    copies = {id(b): None if b is None else b.detach().clone() for _, _, b in own}
    try:
        for part, name, buffer in own:
            part._buffers[name] = copies[id(buffer)]
        yield
    finally:
        for part, name, buffer in own:
            part._buffers[name] = buffer


_NO_DERIVATIVE = re.compile(
    "is not differentiable with respect to argument|derivative for '.*' is not implemented"
)


def without_derivative(
    run: Callable[[Collection[int]], TorchRun], places: Sequence[int]
) -> TorchRun:
    """A run in which those inputs require no gradient that PyTorch has no derivative by.

    PyTorch says so where the function is called, of the first that requires one; so each is tried
    alone.

    Args:
        run: runs the function, given the places of the inputs that require no gradient.
        places: the places of those that may.
    """
    try:
        return run(())
    except RuntimeError as error:
        if not _NO_DERIVATIVE.search(str(error)):
            raise
    return run([place for place in places if not _differentiable(run, places, place)])


def _differentiable(
    run: Callable[[Collection[int]], TorchRun], places: Sequence[int], place: int
) -> bool:
    try:
        run([other for other in places if other != place]).recorder.close()
    except RuntimeError as error:
        if _NO_DERIVATIVE.search(str(error)):
            return False
        raise
    return True


def gradients(run: TorchRun, cotangents: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The gradients of the leaves and of the captured tensors, `None` where nothing flows.

    Args:
        run: the forward pass.
        cotangents: the gradient of each output that has one, a tensor.
    """
    import torch

    outputs = {
        path: leaf
        for path, leaf in run.out.items()
        if is_tensor(leaf) and leaf.requires_grad and path in cotangents
    }
    leaves = {i: leaf for i, leaf in enumerate(run.leaves) if leaf.requires_grad}
    edges = {i: one.edge for i, one in enumerate(run.recorder.captured) if one.edge is not None}
    inputs = [*leaves.values(), *edges.values()]
    found: Sequence[Any] = [None] * len(inputs)
    if outputs and inputs:
        given = [cotangents[path] for path in outputs]
        found = torch.autograd.grad([*outputs.values()], inputs, given, allow_unused=True)
    run.recorder.close()
    of_leaves = dict(zip(leaves, found, strict=False))
    of_captured = dict(zip(edges, found[len(leaves) :], strict=True)) | run.recorder.grads
    return (
        [_numpy(of_leaves.get(i)) for i in range(len(run.leaves))],
        [_numpy(of_captured.get(i)) for i in range(len(run.recorder.captured))],
    )


def _numpy(gradient: Any) -> Any:
    return None if gradient is None else to_numpy(gradient.to_dense())


def sources(run: TorchRun, chosen: Collection[int]) -> list[set[int]]:
    """The sources of each captured tensor, and then of each output: what it was computed from.

    PyTorch's graph is walked back from each as far as the chosen captured tensors and the leaves.
    So the stretch of the graph between two of them is walked once for each that it leads to.

    Args:
        run: the forward pass.
        chosen: the captured tensors that count, by place.

    Returns:
        For each the places of its sources: of captured tensors as they are, of leaves as
        `-1 - place`.
    """
    from torch.autograd.graph import get_gradient_edge

    edges = [one.edge for one in run.recorder.captured]
    ends: dict[tuple[Any, int], int] = {}
    for place, edge in enumerate(edges):
        if edge is not None and place in chosen:
            ends.setdefault((edge.node, edge.output_nr), place)
    for place, leaf in enumerate(run.leaves):
        if leaf.requires_grad:
            edge = get_gradient_edge(leaf)
            ends[edge.node, edge.output_nr] = -1 - place
    for leaf in run.out.values():
        differentiable = is_tensor(leaf) and leaf.requires_grad
        edges.append(get_gradient_edge(leaf) if differentiable else None)
    return [_sources_of(place, edge, ends) for place, edge in enumerate(edges)]


def _sources_of(place: int, edge: Any, ends: Mapping[tuple[Any, int], int]) -> set[int]:
    if edge is None:
        return set()
    start = ends.get((edge.node, edge.output_nr), place)
    if start != place:
        return {start}
    found: set[int] = set()
    seen, stack = {edge.node}, list(edge.node.next_functions)
    while stack:
        at = stack.pop()
        if at in ends:
            found.add(ends[at])
        elif at[0] is not None and at[0] not in seen:
            seen.add(at[0])
            stack.extend(at[0].next_functions)
    return found
