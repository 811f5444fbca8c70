"""`named`: a model of another library as it is, its submodules' outputs tagged by their paths."""

from typing import Any, TypeVar

from .._describe import describe, tensor_advice
from ..errors import UsageError
from . import pytrees

T = TypeVar("T")
_KINDS = (pytrees,)


def named(model: T) -> T:
    """The same model, with the output of every submodule tagged by its path.

    >>> import jax, jax.numpy as jnp, funcgrad as fg
    >>> layers = {"double": lambda x: 2 * x, "square": lambda x: x**2}
    >>> layers = fg.named(layers)
    >>> def loss(x):
    ...     return layers["square"](layers["double"](x))
    >>> _, retained = fg.grad(loss, retain="double")(3.0)
    """
    for kind in _KINDS:
        if kind.is_model(model):
            return kind.named(model)
    raise UsageError(f"`named` got {describe(model)}")
