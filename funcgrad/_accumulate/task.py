"""One call of a micro-batched function, and how the function takes its share of a mean."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._grad.backward import Retained, shared
from .._objects import Left
from .parts import Parts


class _Asked(NamedTuple):
    """The function, to be asked for what a micro-batch adds to the mean.

    Fields:
        run: a function of the micro-batch's share of the whole, and of the arguments.
        place: where in its result gradients are multiplied by the share, -1 for nowhere, `None` for
            everywhere.
        shares: whether there is a share; otherwise gradients are what the function gives.
    """

    run: Callable[..., Any]
    place: int | None
    shares: bool

    def scaled(self, result: Any) -> list[bool]:
        """For each leaf of a result whether it is multiplied by the share."""
        if not self.shares or self.place is None:
            return [self.shares] * len(jax.tree.leaves(result))
        items = result if self.place >= 0 else (result,)
        return [
            on
            for place, item in enumerate(items)
            for x in jax.tree.leaves(item, is_leaf=_is_retained)
            for on in (_of_retained(x) if _is_retained(x) else [place == self.place])
        ]


def _is_retained(x: Any) -> bool:
    return isinstance(x, Retained)


def _of_retained(x: Retained) -> list[bool]:
    return [False] * len(jax.tree.leaves(x.value)) + [True] * len(jax.tree.leaves(x.grad))


def asked_of(fun: Callable[..., Any], reduce: Any) -> _Asked:
    """A function of funcgrad's own takes the share into its backward pass, as `loss / n` does.

    So hooks see it too. Of any other function the retained gradients are multiplied, which is the
    same where hooks are linear.
    """
    own = shared(fun)
    if own is not None:
        return _Asked(own.run, own.place, _of_gradients(reduce, own.place))

    def run(share: Any, *args: Any, **kwargs: Any) -> Any:
        result = fun(*args, **kwargs)
        if share is None:
            return result
        return jax.tree.map(
            lambda x: _scaled(x, share) if _is_retained(x) else x, result, is_leaf=_is_retained
        )

    return _Asked(run, -1, "mean" in jax.tree.leaves(reduce))


def _of_gradients(reduce: Any, place: int | None) -> bool:
    """Whether the gradients, which are at a place in the result, are reduced by the mean."""
    if place is not None and not isinstance(reduce, str):
        reduce = reduce[place] if isinstance(reduce, tuple) and place < len(reduce) else None
    words = jax.tree.leaves(reduce)
    return bool(words) and all(word == "mean" for word in words)


def _scaled(x: Retained, share: Any) -> Retained:
    return x._replace(grad=jax.tree.map(lambda g: g * jnp.asarray(share).astype(g.dtype), x.grad))


class Task(NamedTuple):
    """One call of a micro-batched function.

    Fields:
        run: `(held, batch, keys, share) -> Left`: the user's function.
        asked: how it takes the share.
        whole: what is held, whole.
        places: for each array of the objects in it its place in `held`, where it has one.
        weight, reduce: as the user gave them.
        parts: how the rows are split.
        axes: the mesh axes to add over at the end; none without a mesh.
    """

    run: Callable[..., Left]
    asked: _Asked
    whole: Any
    places: list[int | None]
    weight: Callable[..., Any] | None
    reduce: Any
    parts: Parts
    axes: tuple[str, ...]
