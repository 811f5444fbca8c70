"""`capture`: records the tensors of a PyTorch function that have names.

The user names a tensor with `capture` where it is computed; forward hooks name what modules return.
The value is copied at once, so that a later change in place does not matter. The gradient is what
`tensor.retain_grad()` would keep, after the tensor's hooks. `.grad` is left alone.
"""

import contextlib
import fnmatch
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

from ..._describe import describe
from ...errors import UsageError
from .inputs import by_path, is_tensor

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


class Captured(NamedTuple):
    """One captured tensor.

    Attributes:
        name: its name, with the path inside a tree; the same name may come several times.
        value: a copy of its value, a tensor.
        edge: where its gradient flows in PyTorch's graph; `None` where it requires none.
    """

    name: str
    value: Any
    edge: Any


class Recorder:
    """Captures tensors during one run.

    Attributes:
        captured: the tensors in the order of their capture.
        grads: their gradients after the backward pass, by place in `captured`.
    """

    def __init__(self) -> None:
        self.captured: list[Captured] = []
        self.grads: dict[int, Any] = {}
        self._handles: list[Any] = []

    def record(self, tree: Any, name: str) -> int:
        """Capture the tensors of a tree, and return how many there were."""
        found = {path: leaf for path, leaf in by_path(tree, name).items() if is_tensor(leaf)}
        for path, tensor in found.items():
            self._add(path, tensor)
        return len(found)

    def _add(self, name: str, tensor: Any) -> None:
        from torch.autograd.graph import get_gradient_edge

        place = len(self.captured)
        edge = get_gradient_edge(tensor) if tensor.requires_grad else None
        self.captured.append(Captured(name, tensor.detach().clone(), edge))
        if edge is not None:
            # autograd.grad alone would give the gradient before the tensor's hooks.
            hook = self._keeper(place, edge.output_nr)
            self._handles.append(edge.node.register_prehook(hook))

    def _keeper(self, place: int, output: int) -> Callable[[Any], None]:
        def keep(gradients: Any) -> None:
            self.grads[place] = gradients[output]

        return keep

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


_ACTIVE: ContextVar[Recorder | None] = ContextVar("funcgrad_capture", default=None)


@contextlib.contextmanager
def recording(module: Any, modules: Any) -> Iterator[Recorder]:
    """Captures what runs inside the context, the outputs of the chosen submodules included.

    Args:
        module: the module whose submodules get hooks, or `None`.
        modules: which submodules: all, none, or those whose names fit patterns.
    """
    recorder = Recorder()
    token = _ACTIVE.set(recorder)
    handles = []
    try:
        for name, child in module.named_modules() if modules else ():
            if name and (modules is True or any(fnmatch.fnmatchcase(name, m) for m in modules)):
                handles.append(child.register_forward_hook(_capturing(recorder, name)))
        if modules and not handles:
            names = [name for name, _ in module.named_modules() if name]
            raise UsageError(
                f"`with_torch` got modules={modules!r}, and no submodule is called that: there is"
                f" {', '.join(map(repr, names)) or 'none at all'}; name tensors with"
                " funcgrad.compare.capture instead"
            )
        yield recorder
    finally:
        _ACTIVE.reset(token)
        for handle in handles:
            handle.remove()


def _capturing(recorder: Recorder, name: str) -> Callable[..., None]:
    def hook(module: Any, args: Any, output: Any) -> None:
        recorder.record(output, name)

    return hook
