"""PyTorch's autograd, re-expressed as pure functions on JAX."""

import importlib as _importlib
import typing as _typing

from . import conventions as conventions
from ._accumulate import accumulate_grad as accumulate_grad
from ._accumulate import zero_grad as zero_grad
from ._backward import Retained as Retained
from ._backward import grad as grad
from ._backward import value_and_grad as value_and_grad
from ._backward import vjp as vjp
from ._errors import AnomalyError as AnomalyError
from ._errors import FileError as FileError
from ._errors import FuncgradError as FuncgradError
from ._errors import GradcheckError as GradcheckError
from ._errors import GradientError as GradientError
from ._errors import MissingExtraError as MissingExtraError
from ._errors import TagError as TagError
from ._errors import TreeError as TreeError
from ._errors import UsageError as UsageError
from ._loops import fori_loop as fori_loop
from ._loops import while_loop as while_loop
from ._microbatch import microbatch as microbatch
from ._stop import detach as detach
from ._stop import no_grad as no_grad
from ._stop import set_data as set_data
from ._stop import stop_gradient as stop_gradient
from ._tags import register_hook as register_hook
from ._tags import retain_grad as retain_grad

if _typing.TYPE_CHECKING:
    from ._anomaly import Anomaly as Anomaly
    from ._anomaly import detect_anomaly as detect_anomaly
    from ._autograph import autograph as autograph
    from ._gradcheck import GradientMismatch as GradientMismatch
    from ._gradcheck import gradcheck as gradcheck
    from ._gradcheck import gradgradcheck as gradgradcheck
    from ._graph import Picture as Picture
    from ._graph import graph as graph
    from ._saved import Disconnected as Disconnected
    from ._saved import SavedTensor as SavedTensor
    from ._saved import SavedTensors as SavedTensors
    from ._saved import disconnected as disconnected
    from ._saved import save_on_cpu as save_on_cpu
    from ._saved import saved_tensors as saved_tensors
    from ._saved import saved_tensors_hooks as saved_tensors_hooks

# What looks on from outside is imported when it is first used, so that `import funcgrad` is quick.
_LATER = {
    "Anomaly": "._anomaly",
    "detect_anomaly": "._anomaly",
    "autograph": "._autograph",
    "GradientMismatch": "._gradcheck",
    "gradcheck": "._gradcheck",
    "gradgradcheck": "._gradcheck",
    "Picture": "._graph",
    "graph": "._graph",
    "Disconnected": "._saved",
    "SavedTensor": "._saved",
    "SavedTensors": "._saved",
    "disconnected": "._saved",
    "save_on_cpu": "._saved",
    "saved_tensors": "._saved",
    "saved_tensors_hooks": "._saved",
}
# Modules that `import funcgrad` leaves out, and names that JAX has.
_PACKAGES = ("compare", "launch")
_IN_JAX = ("checkpoint", "custom_vjp", "hessian", "jacfwd", "jacrev", "jit", "jvp", "vmap")


def __getattr__(name: str) -> _typing.Any:
    if name in _PACKAGES:
        return _importlib.import_module(f".{name}", __name__)
    if name not in _LATER:
        fix = f": it is jax.{name}" if name in _IN_JAX else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{fix}")
    value = getattr(_importlib.import_module(_LATER[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_PACKAGES})
