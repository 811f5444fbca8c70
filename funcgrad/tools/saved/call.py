"""The call that `saved_tensors` and `disconnected` look at."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ..._calls import Call, every_argument, from_front, read_argnums
from ..._describe import describe
from ..._leaves import is_variable, takes_gradient
from ..._lists import select
from ..._objects import by_default, carried, leaves_of
from ...errors import UsageError


@contextlib.contextmanager
def asked(fun: Any, args: Any, argnums: Any, function: str) -> Iterator[tuple[Call, list[bool]]]:
    """The call, and for each of its arrays whether it is differentiated; to be traced inside.

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
    with carried(fun, args, {}, function) as carry:
        call = every_argument(carry.result, carry.args, is_input=is_variable, function=function)
        able = map(by_default, select(leaves_of(call.whole), call.parts.chosen))
        leaves = zip(call.belong(chosen), able, call.arrays, strict=True)
        moving = [wanted and own and takes_gradient(leaf) for wanted, own, leaf in leaves]
        if not any(moving):
            raise UsageError(
                f"`{function}` got arguments none of which takes a gradient:"
                f" {', '.join(map(describe, call.arrays)) or 'no arrays'}; it wants floating"
                " or complex arrays among those that `argnums` names"
            )
        yield call, moving
