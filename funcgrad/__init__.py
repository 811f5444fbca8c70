"""PyTorch's autograd, re-expressed as pure functions on JAX."""

import importlib as _importlib
import typing as _typing

from . import conventions as conventions
from ._accumulate.accumulator import accumulate_grad as accumulate_grad
from ._accumulate.accumulator import zero_grad as zero_grad
from ._detach import detach as detach
from ._detach import no_grad as no_grad
from ._detach import set_data as set_data
from ._detach import stop_gradient as stop_gradient
from ._grad.backward import Retained as Retained
from ._grad.backward import grad as grad
from ._grad.backward import value_and_grad as value_and_grad
from ._grad.backward import vjp as vjp
from ._loops.public import fori_loop as fori_loop
from ._loops.public import while_loop as while_loop
from ._tags import register_hook as register_hook
from ._tags import retain_grad as retain_grad
from .errors import AnomalyError as AnomalyError
from .errors import FileError as FileError
from .errors import FuncgradError as FuncgradError
from .errors import GradcheckError as GradcheckError
from .errors import GradientError as GradientError
from .errors import MissingExtraError as MissingExtraError
from .errors import TagError as TagError
from .errors import TreeError as TreeError
from .errors import UsageError as UsageError

__version__ = "0.1.0"

if _typing.TYPE_CHECKING:
    from . import compare as compare
    from . import launch as launch
    from . import statistics as statistics
    from ._accumulate.microbatch import microbatch as microbatch
    from ._autograph import autograph as autograph
    from ._grad.inside import capture as capture
    from ._grad.inside import with_hooks as with_hooks
    from ._grad.watch import watch as watch
    from ._models import named as named
    from ._saving import save_on_cpu as save_on_cpu
    from ._saving import saved_tensors_hooks as saved_tensors_hooks
    from .tools.anomaly import Anomaly as Anomaly
    from .tools.anomaly import detect_anomaly as detect_anomaly
    from .tools.compiled import Compiled as Compiled
    from .tools.compiled import compiled as compiled
    from .tools.gradcheck import GradientMismatch as GradientMismatch
    from .tools.gradcheck import gradcheck as gradcheck
    from .tools.gradcheck import gradgradcheck as gradgradcheck
    from .tools.graph import Picture as Picture
    from .tools.graph import graph as graph
    from .tools.saved import Disconnected as Disconnected
    from .tools.saved import SavedTensor as SavedTensor
    from .tools.saved import SavedTensors as SavedTensors
    from .tools.saved import disconnected as disconnected
    from .tools.saved import saved_tensors as saved_tensors

# These are imported when they are first used, so that `import funcgrad` is quick.
_LATER = {
    "microbatch": "._accumulate.microbatch",
    "autograph": "._autograph",
    "capture": "._grad.inside",
    "with_hooks": "._grad.inside",
    "watch": "._grad.watch",
    "named": "._models",
    "save_on_cpu": "._saving",
    "saved_tensors_hooks": "._saving",
    "Anomaly": ".tools.anomaly",
    "detect_anomaly": ".tools.anomaly",
    "Compiled": ".tools.compiled",
    "compiled": ".tools.compiled",
    "GradientMismatch": ".tools.gradcheck",
    "gradcheck": ".tools.gradcheck",
    "gradgradcheck": ".tools.gradcheck",
    "Picture": ".tools.graph",
    "graph": ".tools.graph",
    "Disconnected": ".tools.saved",
    "SavedTensor": ".tools.saved",
    "SavedTensors": ".tools.saved",
    "disconnected": ".tools.saved",
    "saved_tensors": ".tools.saved",
}
# Modules that `import funcgrad` leaves out, and names that JAX has.
_PACKAGES = ("compare", "launch", "statistics")
_IN_JAX = ("checkpoint", "custom_vjp", "hessian", "jacfwd", "jacrev", "jit", "jvp", "vmap")


# Type checkers know the names by their imports, and a misspelt one by its having none.
if not _typing.TYPE_CHECKING:

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
