"""PyTorch's autograd, re-expressed as pure functions on JAX."""

from . import conventions as conventions
from ._accumulate import accumulate_grad as accumulate_grad
from ._accumulate import zero_grad as zero_grad
from ._anomaly import Anomaly as Anomaly
from ._anomaly import detect_anomaly as detect_anomaly
from ._autograph import autograph as autograph
from ._backward import Retained as Retained
from ._backward import grad as grad
from ._backward import value_and_grad as value_and_grad
from ._backward import vjp as vjp
from ._errors import AnomalyError as AnomalyError
from ._errors import FuncgradError as FuncgradError
from ._errors import GradientError as GradientError
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
