"""What the signatures of public functions are made of, for type checkers."""

from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Function = Callable[P, R] | Callable[P, NoReturn]
"""`Callable[P, R]`, for a parameter.

The type is said twice because mypy infers no lambda in `jax.jit(grad(lambda x: x * x))` where the
parameter is `Callable[P, R]`: it takes for `P` the `...` of the function that `jax.jit` wants.
"""

Grads = Any
"""A pytree like what is differentiated, of arrays, and `None` at leaves that take no gradient.

Python's types cannot say that: the gradient of a float is an array, that of an array of integers is
`None`, and `jax.Array` stands for an array of either kind.
"""
