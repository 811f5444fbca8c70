"""What `jax.experimental.checkify` finds inside our own computing primitives.

`checkify` looks into the primitives of JAX, and into any other with a parameter `call_jaxpr`: it
rewrites that program into one that computes the first error too, and binds the primitive with it.
Here the rewritten program runs beside the primitive, for the error alone. So results are what they
are without `checkify`, in every mode of autodiff, at twice the work.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from .trace import Jaxpr, as_function, input_types, opened, programs_in, trace, typed

_PROGRAM, _COUNT = "call_jaxpr", "operands"


class Computing(core.Primitive):
    """A primitive that shows `checkify` what it computes.

    Args:
        name: its name.
        impl: what it computes, `(*operands, **params) -> results`, made of JAX functions.
    """

    def __init__(self, name: str, impl: Callable[..., Any]):
        super().__init__(name)
        self._impl = impl

    def bind(self, *operands: Any, subfuns: Sequence[Any] = (), **params: Any) -> Any:
        """As any primitive; `subfuns` is what `checkify` gives, which puts errors in front."""
        if not subfuns:
            bind: Any = super().bind
            return bind(*operands, **self.shown(operands, params))
        first = len(operands) - params[_COUNT]
        silent = {name: _silent(value) for name, value in own(params).items()}
        results = self.bind(*operands[first:], **silent)
        (checked,) = subfuns
        both = checked.call_wrapped(*map(jax.lax.stop_gradient, operands))
        return [*both[: len(both) - len(results)], *results]

    def shown(self, operands: Sequence[Any], params: dict[str, Any]) -> dict[str, Any]:
        """The parameters with the program for `checkify` to look into, of operands or types."""
        params = own(params)
        program = Shown(self._impl, [*map(typed, operands)], params)
        return {**params, _PROGRAM: program, _COUNT: len(operands)}


def own(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters without those for `checkify`."""
    return {name: value for name, value in params.items() if name not in (_PROGRAM, _COUNT)}


class Shown:
    """A program that is traced when somebody looks into it."""

    def __init__(self, impl: Callable[..., Any], types: list[Any], params: dict[str, Any]):
        self._traced = functools.cache(
            lambda: opened(trace(lambda *xs: list(impl(*xs, **params)), types))
        )

    def __getattr__(self, name: str) -> Any:
        if name == "params":  # which a program has none of, and who asks does not look into it
            raise AttributeError(name)
        return getattr(self._traced(), name)

    def __repr__(self) -> str:
        return "..."


def _silent(value: Any) -> Any:
    """A parameter whose programs make no checks of the user's."""
    if hasattr(opened(value), "eqns"):
        return _unchecked(value) if _checks(value) else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_silent, value))
    return value


def _unchecked(program: Jaxpr) -> Jaxpr:
    from jax.experimental import checkify

    def run(*xs: Any) -> list[Any]:
        checked = checkify.checkify(as_function(program), errors=checkify.user_checks)
        return list(checked(*xs)[1])

    return trace(run, input_types(program))


def _checks(program: Jaxpr) -> bool:
    """Whether a program, or one in it, has a `checkify.check`."""
    return any(
        eqn.primitive.name == "check" or any(map(_checks, programs_in(own(eqn.params))))
        for eqn in opened(program).eqns
    )
