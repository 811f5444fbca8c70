"""PyTorch's side of a live comparison: runs a function and records the tensors that have names.

`capture` names a tensor where it is called; forward hooks name what modules return. A recorded
tensor's value is copied at once, so that what is done to it in place later does not matter, and its
gradient is what `tensor.retain_grad()` would keep: after the hooks on it. `.grad` is left alone.
"""

import contextlib
import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from funcgrad._describe import describe
from funcgrad.errors import UsageError

from .inputs import by_path, is_shared, is_tensor, to_numpy

T = TypeVar("T")


def capture(tensor: T, name: str) -> T:
    """Names a tensor inside the PyTorch function that `with_torch` compares.

    The counterpart of `funcgrad.retain_grad(y, name)` on JAX's side: value and gradient of what has
    the same name on both sides are compared. Outside a comparison it does nothing at all, so it may
    stay in the model. Inside, it stands for `tensor.retain_grad()`, and a copy of the value.

    Args:
        tensor: a tensor, or a tree of tensors, of any shape and dtype; those that require no
            gradient are compared in value alone.
        name: what JAX calls it. `/` stands for the scopes of `jax.named_scope`, as `.` does. A name
            that is captured several times gets a row for each, as a tag in a `scan` does.

    Returns:
        `tensor` itself.

    Raises:
        UsageError: in a comparison, where `name` is not a non-empty string or there is no tensor.

    >>> from funcgrad.compare import capture
    >>> capture("anything", "h1")
    'anything'
    """
    recorder = _ACTIVE.get()
    if recorder is not None:
        if not isinstance(name, str) or not name:
            raise UsageError(f"`capture` got the name {name!r}, and wants a non-empty string")
        if not recorder.record(tensor, name):
            raise UsageError(
                f"`capture` got {describe(tensor)} as {name!r}, and wants a tensor, or a tree of"
                " tensors"
            )
    return tensor


class Event(NamedTuple):
    """One recorded tensor.

    Attributes:
        name: its name, with the path inside a tree; the same name may come several times.
        value: a copy of its value, a tensor.
        edge: where its gradient flows in PyTorch's graph; `None` where it requires none.
    """

    name: str
    value: Any
    edge: Any


class _Recorder:
    """What was recorded in one run, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.grads: dict[int, Any] = {}
        self._handles: list[Any] = []

    def record(self, tree: Any, name: str) -> int:
        """Record the tensors of a tree; how many there were."""
        found = {path: leaf for path, leaf in by_path(tree, name).items() if is_tensor(leaf)}
        for path, tensor in found.items():
            self._add(path, tensor)
        return len(found)

    def _add(self, name: str, tensor: Any) -> None:
        from torch.autograd.graph import get_gradient_edge

        place = len(self.events)
        edge = get_gradient_edge(tensor) if tensor.requires_grad else None
        self.events.append(Event(name, tensor.detach().clone(), edge))
        if edge is not None:
            # autograd.grad alone would give the gradient before the tensor's hooks.
            hook = self._keeper(place, edge.output_nr)
            self._handles.append(edge.node.register_prehook(hook))

    def _keeper(self, place: int, output: int) -> Callable[[Any], None]:
        def keep(gradients: Any) -> None:
            self.grads[place] = gradients[output]

        return keep

    def close(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()


_ACTIVE: ContextVar[_Recorder | None] = ContextVar("funcgrad_capture", default=None)


class Forward(NamedTuple):
    """PyTorch's forward pass.

    Attributes:
        out: the output's leaves by path, tensors or numbers.
        recorder: what was captured.
        leaves: the tensors to differentiate with respect to.
    """

    out: dict[str, Any]
    recorder: _Recorder
    leaves: list[Any]


def forward(
    torch_fn: Callable[..., Any],
    args: Sequence[Any],
    leaves: list[Any],
    module: Any = None,
    modules: Any = False,
) -> Forward:
    """Run PyTorch's function and record what is captured.

    Args:
        torch_fn: the function.
        args: its arguments.
        leaves: the tensors to differentiate with respect to.
        module: whose parameters are compared, and where to put hooks.
        modules: on which submodules: all, none, or those whose names fit patterns.

    Raises:
        UsageError: it drew random numbers, returned something else than tensors, or changed a
            parameter in place.
    """
    import torch

    recorder = _Recorder()
    token = _ACTIVE.set(recorder)
    parameters = [] if module is None else [*module.parameters()]
    drawn, versions = torch.get_rng_state(), [p._version for p in parameters]
    try:
        with torch.enable_grad(), _hooked(module, modules):
            returned = torch_fn(*args)
    finally:
        _ACTIVE.reset(token)
    if not torch.equal(drawn, torch.get_rng_state()):
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
    return Forward(out, recorder, leaves)


@contextlib.contextmanager
def _hooked(module: Any, modules: Any) -> Iterator[None]:
    """Forward hooks on the chosen submodules that record what they return by qualified name."""
    handles = []
    for name, child in module.named_modules() if modules else ():
        if name and (modules is True or any(fnmatch.fnmatchcase(name, m) for m in modules)):
            handles.append(child.register_forward_hook(_recording(name)))
    if modules and not handles:
        names = [name for name, _ in module.named_modules() if name]
        raise UsageError(
            f"`with_torch` got modules={modules!r}, and no submodule is called that: there is"
            f" {', '.join(map(repr, names)) or 'none at all'}; name tensors with"
            " funcgrad.compare.capture instead"
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _recording(name: str) -> Callable[..., None]:
    def hook(module: Any, args: Any, output: Any) -> None:
        recorder = _ACTIVE.get()
        if recorder is not None:
            recorder.record(output, name)

    return hook


def backward(run: Forward, seeds: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The gradients of the leaves and of the captured tensors, `None` where nothing flows.

    Args:
        run: the forward pass.
        seeds: the gradient of each output that has one, a tensor.
    """
    import torch

    tops = {path: t for path, t in run.out.items() if is_tensor(t) and t.requires_grad}
    tops = {path: t for path, t in tops.items() if path in seeds}
    wanted = [place for place, leaf in enumerate(run.leaves) if leaf.requires_grad]
    edges = [place for place, event in enumerate(run.recorder.events) if event.edge is not None]
    inputs = [run.leaves[i] for i in wanted] + [run.recorder.events[i].edge for i in edges]
    got: Sequence[Any] = [None] * len(inputs)
    if tops and inputs:
        seeding = [seeds[path] for path in tops]
        got = torch.autograd.grad([*tops.values()], inputs, seeding, allow_unused=True)
    run.recorder.close()
    leaves = dict(zip(wanted, got, strict=False))
    events = {**dict(zip(edges, got[len(wanted) :], strict=True)), **run.recorder.grads}
    return (
        [_numpy(leaves.get(i)) for i in range(len(run.leaves))],
        [_numpy(events.get(i)) for i in range(len(run.recorder.events))],
    )


def _numpy(gradient: Any) -> Any:
    return None if gradient is None else to_numpy(gradient.to_dense())


def sources(run: Forward, chosen: Collection[int]) -> list[set[int]]:
    """What each event and then each output was computed from directly.

    A walk through PyTorch's graph from each, which ends at chosen events and at leaves; so each
    stretch of the graph between two events is walked once for each event that it leads to.

    Args:
        run: the forward pass.
        chosen: the events that count, by index.

    Returns:
        For each the indices: of events as they are, of leaves as `-1 - index`.
    """
    from torch.autograd.graph import get_gradient_edge

    edges = [event.edge for event in run.recorder.events]
    known: dict[tuple[Any, int], int] = {}
    for place, edge in enumerate(edges):
        if edge is not None and place in chosen:
            known.setdefault((edge.node, edge.output_nr), place)
    for place, leaf in enumerate(run.leaves):
        if leaf.requires_grad:
            edge = get_gradient_edge(leaf)
            known[edge.node, edge.output_nr] = -1 - place
    for tensor in run.out.values():
        needs = is_tensor(tensor) and tensor.requires_grad
        edges.append(get_gradient_edge(tensor) if needs else None)
    return [_walk(place, edge, known) for place, edge in enumerate(edges)]


def _walk(place: int, edge: Any, known: Mapping[tuple[Any, int], int]) -> set[int]:
    if edge is None:
        return set()
    start = known.get((edge.node, edge.output_nr), place)
    if start != place:
        return {start}
    found: set[int] = set()
    seen, stack = {edge.node}, list(edge.node.next_functions)
    while stack:
        at = stack.pop()
        if at in known:
            found.add(known[at])
        elif at[0] is not None and at[0] not in seen:
            seen.add(at[0])
            stack.extend(at[0].next_functions)
    return found
