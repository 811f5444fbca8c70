"""Which arrays a backward pass keeps, of a call and of a checkpoint that is computed again."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ... import _jax
from ..._jax.dataflow import Dataflow, Vertex
from ..._leaves import takes_gradient
from ..._lists import inverted, merge, select
from ...errors import UsageError

Arrays = Callable[[Sequence[Any]], Sequence[Any]]


def forward(fun: Arrays, arrays: Sequence[Any], moving: Sequence[bool]) -> _jax.Jaxpr:
    """The forward pass as a program that returns what the backward pass keeps.

    Args:
        fun: a function of a list of arrays to another.
        arrays: its arguments, or their types.
        moving: which of them it is differentiated with respect to.
    """

    def passed(*arrays: Any) -> tuple[list[Any], Callable[..., Any]]:
        still = select(arrays, inverted(moving))

        def run(*leaves: Any) -> list[Any]:
            return [x for x in fun(merge(moving, leaves, still)) if takes_gradient(x)]

        out, pullback = jax.vjp(run, *select(arrays, moving))
        if not out:
            raise UsageError(
                "`saved_tensors` got a function that returns nothing that takes a gradient, and"
                " wants floating or complex arrays among what it returns"
            )
        return out, pullback

    def back(*arrays: Any) -> Any:
        out, pullback = passed(*arrays)
        return pullback(out)

    closed = jax.make_jaxpr(lambda *arrays: jax.tree.leaves(passed(*arrays)[1]))(*arrays)
    if any(path[-1].trips and not path[-1].rows for path in _jax.everywhere(closed)):
        jax.eval_shape(back, *arrays)  # JAX refuses reverse mode here, if it has none
    return closed


def kept(closed: _jax.Jaxpr, graph: Dataflow) -> dict[Vertex, Any]:
    """The type of each array that a forward pass returns, once each."""
    sizes: dict[Vertex, Any] = {}
    for value, type_ in zip(graph.outputs, _jax.output_types(closed), strict=True):
        if size(type_):
            sizes.setdefault(value.same, type_)
    return sizes


def size(type_: Any) -> int:
    """The bytes of an array."""
    return int(type_.size) * int(type_.dtype.itemsize)


def checkpoints(fun: Arrays, arrays: Sequence[Any]) -> list[tuple[int, tuple[_jax.Equation, ...]]]:
    """For each checkpoint the bytes that the backward pass holds at once there, and its place.

    It computes the checkpoint's values again, and keeps them as if there were none around: in a
    loop those of one step. Checkpoints inside of `shard_map` are left out, those inside of another
    are counted in it as they are by themselves.
    """
    program = jax.make_jaxpr(lambda *arrays: list(fun(arrays)))(*arrays)
    found = []
    for path in _jax.everywhere(program):
        if path[-1].kind != "checkpoint" or any(e.kind == "shard_map" for e in path):
            continue
        held = _held(path[-1])
        found += [] if held is None else [(held, path)]
    return found


def _held(checkpoint: _jax.Equation) -> int | None:
    """The bytes of the intermediate values that one keeps; `None` where it has no backward pass."""
    (body,), types = checkpoint.bodies, checkpoint.operand_types
    moving = [takes_gradient(type_) for type_ in types]
    if not any(moving) or not any(map(takes_gradient, checkpoint.result_types)):
        return None
    again = _jax.as_function(body.program)
    try:
        closed = forward(lambda arrays: again(*arrays), types, moving)
    except (TypeError, ValueError, NotImplementedError):  # by an operand that it is not taken for
        return None
    graph = Dataflow(closed)
    constant = graph.constants()
    sizes = kept(closed, graph).items()
    return sum(size(t) for v, t in sizes if v.role != "input" and v not in constant)
