"""What the backward pass keeps, shown and packed; what the result does not depend on."""

from .connections import Disconnected as Disconnected
from .connections import disconnected as disconnected
from .table import SavedTensor as SavedTensor
from .table import SavedTensors as SavedTensors
from .table import saved_tensors as saved_tensors
