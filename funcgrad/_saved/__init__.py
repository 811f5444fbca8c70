"""What the backward pass keeps, shown and packed; what the result does not depend on."""

from .hooks import save_on_cpu as save_on_cpu
from .hooks import saved_tensors_hooks as saved_tensors_hooks
from .table import SavedTensor as SavedTensor
from .table import SavedTensors as SavedTensors
from .table import saved_tensors as saved_tensors
from .unused import Disconnected as Disconnected
from .unused import disconnected as disconnected
