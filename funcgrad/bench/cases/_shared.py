"""What several groups of cases are made of."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._case import Function


def normal(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers, divided by the root of the last axis but one where there is one."""
    fan = shape[-2] if len(shape) > 1 else 1
    return np.random.default_rng(seed).standard_normal(shape, np.float32) / np.float32(fan**0.5)


def with_zeros(loss: Function, zeros: Callable[[Any], Any]) -> Function:
    """The value, the gradient, and what is retained by zeros that are added to it.

    Args:
        loss: `loss(x, zeros, *others)` is the value, and by name what the zeros were added to.
        zeros: makes them, by the same names, of `x`.
    """

    def step(x: Any, *others: Any) -> Any:
        gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
        (value, made), (dx, kept) = gradient(x, zeros(x), *others)
        return value, dx, {name: (made[name], kept[name]) for name in made}

    return step
