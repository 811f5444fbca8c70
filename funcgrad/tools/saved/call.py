"""The call that `saved_tensors` and `disconnected` look at."""

from typing import Any

from ..._calls import Call, every_argument, from_front, read_argnums
from ..._describe import describe
from ..._leaves import is_variable, takes_gradient
from ...errors import UsageError


def asked(fun: Any, args: Any, argnums: Any, function: str) -> tuple[Call, list[bool]]:
    """The call, and for each of its arrays whether it is differentiated.

    Raises:
        UsageError: `fun` is no function, `argnums` of a wrong form, or nothing to differentiate.
    """
    if not callable(fun):
        raise UsageError(
            f"`{function}` got {describe(fun)}, and wants a function and its arguments:"
            f" {function}(loss, params, batch)"
        )
    chosen = tuple(range(len(args)))
    if argnums is not None:
        chosen = from_front(read_argnums(argnums, function)[1], len(args), function)
    call = every_argument(fun, args, is_input=is_variable)
    pairs = zip(call.belong(chosen), call.arrays, strict=True)
    moving = [wanted and takes_gradient(leaf) for wanted, leaf in pairs]
    if not any(moving):
        raise UsageError(
            f"`{function}` got arguments none of which takes a gradient:"
            f" {', '.join(map(describe, call.arrays)) or 'no arrays'}; it wants floating"
            " or complex arrays among those that `argnums` names"
        )
    return call, moving
