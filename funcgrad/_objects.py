"""Objects that a function changes in place, as Flax NNX has them: a call's state as arrays.

A function of such objects is made one of pytrees: `carried` puts a `Node` of arrays in the place of
each, makes the objects anew inside, and hands out what the function left in them, for the caller's
own objects to be set to at the end. So they move as they do under `nnx.grad` and `nnx.jit`. Flax is
looked at only where somebody has imported it.

Of lists and dicts, which are pytrees, a function that is traced gets copies. Where a caller stands
for the plain call it asks for `writes`: what the function wrote into the copies is handed out too,
and written into the caller's own.
"""

import contextlib
import functools
import operator
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from ._describe import argument_at, shown
from ._leaves import is_array, refuse_iterators
from .errors import UsageError

_TAG = "funcgrad"  # of the update context
_NO_SPLIT = (
    "split the object yourself: graphdef, state = nnx.split(model), then nnx.merge(graphdef, state)"
    " inside the function, which returns nnx.state(model); in a loop or a checkpoint inside the"
    " function take Flax's, nnx.fori_loop or nnx.remat, with the object among what it gets"
)


@jax.tree_util.register_pytree_with_keys_class
class Node:
    """An object taken apart: its arrays, a pytree, and how it is made of them.

    Attributes:
        state: the arrays, an `nnx.State`, or an `nnx.Variable` where that is the object.
        graphdef: the rest, which hashes.
        shares: whether variables of it are in a node before, and not in its own state.
    """

    def __init__(self, state: Any, graphdef: Any, shares: bool = False):
        self.state, self.graphdef, self.shares = state, graphdef, shares

    def tree_flatten_with_keys(self) -> Any:
        return ((_HERE, self.state),), (self.graphdef, self.shares)

    @classmethod
    def tree_unflatten(cls, rest: Any, children: Any) -> "Node":
        return cls(children[0], *rest)


class _Here:
    """The key of the step from a node to its arrays, which a path does not show."""

    def __str__(self) -> str:
        return ""

    __repr__ = __str__


_HERE = _Here()


@jax.tree_util.register_static
@dataclass(frozen=True)
class Kept:
    """An array that the call did not change: the one with this number among those it got."""

    index: int


@jax.tree_util.register_static
@dataclass(frozen=True)
class Same:
    """What was at this path of the pair `(args, kwargs)` before the call."""

    path: tuple[Any, ...]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["path", "keys"]
)
@dataclass(frozen=True)
class Written:
    """A list or dict among the arguments that a call has written to.

    Attributes:
        path: where it is, in the pair `(args, kwargs)`.
        keys: those of a dict.
        values: what it holds now, with a `Same` for what was among the arguments before.
    """

    path: tuple[Any, ...]
    keys: tuple[Any, ...] | None
    values: list[Any]


class Left(NamedTuple):
    """What a call leaves behind.

    Fields:
        objects: the nodes of its arguments afterwards, with a `Kept` for each array that is what it
            was, or `None` where there are none.
        result: what the function returned, with a node for each object in it.
        written: the lists and dicts that it wrote to, where somebody asked for them.
    """

    objects: Any
    result: Any
    written: tuple[Written, ...] = ()


class Carried(NamedTuple):
    """A call without objects.

    Fields:
        fun: a function of nodes in their place, to a `Left`.
        args, kwargs: its arguments.
        restore: sets the caller's objects to what is in a `Left`, and gives the function's result.
    """

    fun: Callable[..., Left]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    restore: Callable[[Left], Any]

    def result(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns, where nobody wants to know what it leaves behind."""
        return self.fun(*args, **kwargs).result


def is_node(x: Any) -> bool:
    """Whether something is the node of an object."""
    return isinstance(x, Node)


def is_kept(x: Any) -> bool:
    """Whether something stands for an array that a call did not change."""
    return isinstance(x, Kept)


def _nnx() -> Any:
    """The module `flax.nnx`, where somebody has imported it."""
    return sys.modules.get("flax.nnx")


def _is_object(nnx: Any) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, nnx.Variable) or nnx.graph.is_graph_node(x)


def is_object(x: Any) -> bool:
    """Whether something is an object that a function might change."""
    nnx = _nnx()
    return nnx is not None and _is_object(nnx)(x)


def advice(x: Any) -> str:
    """What to do about a model that is no pytree and holds its parameters; else nothing."""
    if isinstance(x, getattr(sys.modules.get("keras"), "Layer", ())):
        return (
            "; what it learns are its variables: pass [v.value for v in model.trainable_variables]"
            " and call model.stateless_call"
        )
    linen = getattr(sys.modules.get("flax.linen"), "Module", ())
    if isinstance(x, linen) and x.scope is not None:
        return "; what it learns is bound to it: pass its variables and call module.apply"
    return ""


def holds_objects(tree: Any) -> bool:
    """Whether there is an object that a function might change in a pytree."""
    nnx = _nnx()
    if nnx is None:
        return False
    is_object = _is_object(nnx)
    return any(map(is_object, jax.tree.leaves(tree, is_leaf=is_object)))


@contextlib.contextmanager
def carried(
    fun: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    function: str,
    *,
    writes: bool = False,
) -> Iterator[Carried]:
    """The call with its objects taken out, for as long as the context lasts.

    Args:
        fun: the function.
        args: its positional arguments.
        kwargs: those by keyword.
        function: the public function to name in errors.
        writes: whether lists and dicts among the arguments are to hold what it writes into them.
    """
    refuse_iterators((args, kwargs), function)
    run, nnx, own = pure(fun, function, writes), _nnx(), (tuple(args), kwargs)

    def restore(left: Left) -> Any:
        _write(left.written, own, fun, function)
        return left.result

    if not holds_objects(own):
        yield Carried(run, *own, restore)
        return
    with nnx.update_context(_TAG):
        taken, given = _nodes(nnx, own)
        before = state_of((taken, given))

        def restore_all(left: Left) -> Any:
            if not holds_nodes(left.result) and _unchanged(left.objects, (taken, given), before):
                return restore(left)
            _refuse_from_outside(nnx, own, function)
            objects = jax.tree.map(
                lambda x: before[x.index] if is_kept(x) else x,
                left.objects,
                is_leaf=is_kept,
            )
            return restore(_objects(nnx, left._replace(objects=objects), inner=False))

        yield Carried(run, taken, given, restore_all)


def pure(fun: Callable[..., Any], function: str, writes: bool = False) -> Callable[..., Left]:
    """A function with nodes in the place of objects, and what it leaves: `fun` of the objects.

    Given nodes it is to be called in the context of `carried`.
    """

    @functools.wraps(fun)
    def of_nodes(*args: Any, **kwargs: Any) -> Left:
        nnx = _nnx()
        inside = nnx is not None and holds_nodes((args, kwargs))
        before = state_of((args, kwargs)) if inside else []
        with _explained(nnx, function) if nnx else contextlib.nullcontext():
            if inside:
                args, kwargs = _objects(nnx, (args, kwargs), inner=True)
            written = _watched((args, kwargs)) if writes else tuple
            result = fun(*args, **kwargs)
        if not inside:
            return Left(None, result, written())
        is_object = _is_object(nnx)
        alone = jax.tree.map(
            lambda x: x if is_object(x) else None, (args, kwargs), is_leaf=is_object
        )
        left = _nodes(nnx, Left(alone, result, written()))
        same = {id(x): Kept(index) for index, x in enumerate(before)}
        return left._replace(objects=jax.tree.map(lambda x: same.get(id(x), x), left.objects))

    return of_nodes


def _unchanged(objects: Any, given: Any, before: list[Any]) -> bool:
    """Whether a call left the objects that it got as they were, the very arrays in them."""
    after = state_of(objects)
    return (
        len(after) == len(before)
        and all(is_kept(x) and before[x.index] is y for x, y in zip(after, before, strict=True))
        and same_kind(objects, given)
    )


def _refuse_from_outside(nnx: Any, own: Any, function: str) -> None:
    """Asks Flax whether objects may be set here: it would refuse with one half taken apart.

    Raises:
        UsageError: one is from outside of a transformation of JAX around the call.
    """
    is_object = _is_object(nnx)
    objects = filter(is_object, jax.tree.leaves(own, is_leaf=is_object))
    parts = (part for one in objects for _, part in nnx.iter_graph(one))
    try:
        for variable in parts:
            if isinstance(variable, nnx.Variable):
                variable.update_from_state(variable)
    except sys.modules["flax.errors"].TraceContextError as error:
        raise UsageError(
            f"`{function}` got an object from outside of the transformation of JAX around the call,"
            f" and cannot set it to what the function left in it"
            f" ({str(error).partition(' (http')[0]}): make it an argument there, and take Flax's"
            f" nnx.jit or nnx.vmap; or {_NO_SPLIT}"
        ) from error


CONTAINERS = (list, dict, OrderedDict, defaultdict)  # that change in place


class Part(NamedTuple):
    """A node or leaf of a pytree.

    Fields:
        path: where it is.
        value: itself.
        structure: that of it with its parts as leaves.
    """

    path: tuple[Any, ...]
    value: Any
    structure: Any


# The structure of a node that says itself that it must not be used again, as a `State` of Equinox
# does once a layer has used it.
SPENT: Any = object()


def parts_of(tree: Any) -> list[Part]:
    """All nodes and leaves of a pytree, the outer ones first; of an object, itself alone."""
    nnx = _nnx()
    is_object = _is_object(nnx) if nnx else lambda x: False
    found: list[Part] = []
    ahead: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    while ahead:
        path, one = ahead.pop()
        inner: list[Any] = []
        structure: Any = None
        if not is_array(one) and not is_object(one):
            is_inner = functools.partial(operator.is_not, one)
            try:
                inner, structure = jax.tree_util.tree_flatten_with_path(one, is_leaf=is_inner)
            except Exception:  # whatever a node raises that refuses to be looked at
                structure = SPENT
        found.append(Part(path, one, structure))
        ahead += [((*path, *more), part) for more, part in inner if more]
    return found


def _held(container: Any) -> dict[Any, Any]:
    return dict(container if isinstance(container, dict) else enumerate(container))


def _watched(tree: Any) -> Callable[[], tuple[Written, ...]]:
    """A function that tells which lists and dicts in a pytree have been written to since."""
    parts = parts_of(tree)
    before = [(path, x, _held(x)) for path, x, _ in parts if type(x) in CONTAINERS]

    def written() -> tuple[Written, ...]:
        known = {id(x): Same(path) for path, x, _ in reversed(parts)}
        found = []
        for path, x, old in before:
            new = _held(x)
            if [*old] == [*new] and all(old[key] is new[key] for key in new):
                continue
            values = jax.tree.map(
                lambda x: known.get(id(x), x), [*new.values()], is_leaf=lambda x: id(x) in known
            )
            found.append(Written(path, tuple(new) if isinstance(x, dict) else None, values))
        return tuple(found)

    return written


def _write(written: Sequence[Written], own: Any, fun: Any, function: str) -> None:
    """Writes into the caller's lists and dicts what a call wrote into its copies of them.

    Raises:
        UsageError: two of the copies are of one list or dict, or it is made anew at each look.
    """
    if not written:
        return
    parts, again = ({x.path: x.value for x in parts_of(own)} for _ in range(2))
    news = [
        jax.tree.map(
            lambda x: parts[x.path] if isinstance(x, Same) else x,
            one.values,
            is_leaf=lambda x: isinstance(x, Same),
        )
        for one in written
    ]
    for one in written:
        owner = parts[one.path]
        others = [path for path, x in parts.items() if x is owner and path != one.path]
        if others or again[one.path] is not owner:
            names = " and ".join(map(argument_at, (one.path, *others)))
            held = "which are one, and copies of it" if others else "of which it has a copy"
            raise UsageError(
                f"`{function}` got {shown(fun)}, which writes into {names}, {held} in the function,"
                " so that it would be lost: return what is new"
            )
    for one, values in zip(written, news, strict=True):
        owner = parts[one.path]
        if one.keys is None:
            owner[:] = values
        else:
            owner.clear()
            owner.update(zip(one.keys, values, strict=True))


def state_of(tree: Any) -> list[Any]:
    """The arrays of all nodes in a pytree, those that are kept as their `Kept`."""
    inside = filter(is_node, jax.tree.leaves(tree, is_leaf=is_node))
    return jax.tree.leaves([*inside], is_leaf=is_kept)


def nodes(tree: Any) -> Any:
    """A pytree with a node in the place of each object, to be looked at and not put back."""
    nnx = _nnx()
    return _nodes(nnx, tree, None) if nnx and holds_objects(tree) else tree


def _nodes(nnx: Any, tree: Any, tag: Any = _TAG) -> Any:
    seen: set[int] = set()

    def node(context: Any, path: Any, prefix: Any, x: Any) -> Node:
        graphdef, state = context.split(x)
        own = {id(part) for _, part in nnx.iter_graph(x) if isinstance(part, nnx.Variable)}
        shares = not own.isdisjoint(seen)
        seen.update(own)
        return Node(state, graphdef, shares)

    return nnx.to_tree(tree, split_fn=node, ctxtag=tag)


def _objects(nnx: Any, tree: Any, *, inner: bool) -> Any:
    def merged(context: Any, path: Any, prefix: Any, node: Node) -> Any:
        return context.merge(node.graphdef, node.state)

    return nnx.from_tree(
        tree, merge_fn=merged, is_node_leaf=is_node, is_leaf=is_node, ctxtag=_TAG, is_inner=inner
    )


@contextlib.contextmanager
def _explained(nnx: Any, function: str) -> Iterator[None]:
    """Makes Flax's refusal of a change from inside one that says what to do."""
    try:
        yield
    except sys.modules["flax.errors"].TraceContextError as error:
        raise UsageError(
            f"`{function}` got a function that changes an object which it closes over"
            f" ({str(error).partition(' (http')[0]}), and wants objects that change among its"
            f" arguments: {function}(lambda model, x: ...)(model, x); or {_NO_SPLIT}"
        ) from error


def same_kind(one: Any, other: Any) -> bool:
    """Whether the nodes in two pytrees are of one structure, so that one's arrays fit the other."""
    ours, theirs = (
        [
            (node.graphdef.with_no_outer_index(), _shape(node.state))
            for node in jax.tree.leaves(tree, is_leaf=is_node)
            if is_node(node)
        ]
        for tree in (one, other)
    )
    return ours == theirs


def _shape(state: Any) -> Any:
    return jax.tree.structure(state, is_leaf=is_kept)


class Leaf(NamedTuple):
    """A leaf of a pytree with nodes in it, as the user knows it.

    Fields:
        path: its path, without the steps that the user does not see.
        value: itself; in an object, the `nnx.Variable` that holds it.
        inner: in an object, the path in it as Flax has it; else `None`.
        alone: whether the object is a `nnx.Variable` by itself.
    """

    path: tuple[Any, ...]
    value: Any
    inner: tuple[Any, ...] | None
    alone: bool


def leaves_of(tree: Any) -> list[Leaf]:
    """An entry for each leaf of a pytree, in flattening order."""
    found: list[Leaf] = []
    for path, x in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_node):
        found += _leaves_in(path, x) if is_node(x) else [Leaf(path, x, None, False)]
    return found


def _leaves_in(path: tuple[Any, ...], node: Node) -> Iterator[Leaf]:
    nnx = _nnx()
    is_variable = functools.partial(lambda kind, x: isinstance(x, kind), nnx.Variable)
    pairs = jax.tree_util.tree_leaves_with_path(node.state, is_leaf=is_variable)
    for inner, value in pairs:
        keys = tuple(getattr(key, "key", getattr(key, "idx", None)) for key in inner)
        for _ in jax.tree.leaves(value):
            yield Leaf((*path, *inner), value, keys, not inner)


def by_default(leaf: Leaf) -> bool:
    """Whether a leaf is differentiated where nobody says which: of a module, its parameters."""
    if leaf.inner is None or leaf.alone:
        return True
    return isinstance(leaf.value, _nnx().Param)


def as_filter(wanted: Any) -> Callable[[Leaf], bool] | None:
    """A filter of Flax, such as `nnx.Param`, as a predicate; `None` where it is none."""
    nnx = _nnx()
    if nnx is None or not _is_filter(nnx, wanted):
        return None
    keep = nnx.filterlib.to_predicate(wanted)
    return lambda leaf: leaf.inner is None or bool(keep(leaf.inner, leaf.value))


def _is_filter(nnx: Any, x: Any) -> bool:
    if isinstance(x, tuple | list):
        return bool(x) and all(_is_filter(nnx, each) for each in x)
    if isinstance(x, type):
        return issubclass(x, nnx.Variable)
    return x is ... or type(x).__module__ == nnx.filterlib.__name__


@dataclass(frozen=True)
class Mask:
    """A mask of an object's own kind: for the path of each variable its bools."""

    bools: dict[tuple[Any, ...], list[Any]]

    def at(self, path: tuple[Any, ...], place: int) -> Any:
        """What it says of a leaf of the variable at `path`, or of what is above it."""
        above = (self.bools.get(path[:end]) for end in range(len(path), -1, -1))
        found = next((bools for bools in above if bools), None)
        return found[min(place, len(found) - 1)] if found else None


def mask_of(node: Node, mask: Any) -> list[Any]:
    """What a mask says of each leaf of an object; what it does not name is off, if no parameter."""
    leaves = [*_leaves_in((), node)]
    if not isinstance(mask, Mask):
        return [mask] * len(leaves)
    places: dict[Any, int] = {}
    found = []
    for leaf in leaves:
        path = leaf.inner or ()
        places[path] = places.get(path, -1) + 1
        said = mask.at(path, places[path])
        found.append(False if said is None and not by_default(leaf) else said)
    return found


def holds_nodes(tree: Any) -> bool:
    """Whether there is a node in a pytree."""
    return any(map(is_node, jax.tree.leaves(tree, is_leaf=is_node)))


def as_mask(tree: Any) -> Any:
    """A mask with each object in it, and each `nnx.State`, made a `Mask`."""
    nnx = _nnx()
    if nnx is None:
        return tree
    is_object = _is_object(nnx)

    def is_leaf(x: Any) -> bool:
        return is_object(x) or isinstance(x, nnx.State)

    def made(x: Any) -> Any:
        if not is_leaf(x):
            return x
        state = x if isinstance(x, nnx.State) else nnx.split(x)[1]
        found: dict[tuple[Any, ...], list[Any]] = {}
        for leaf in _leaves_in((), Node(state, None)):
            found[leaf.inner or ()] = jax.tree.leaves(leaf.value)
        return Mask(found)

    return jax.tree.map(made, tree, is_leaf=is_leaf)


def gradients(whole: Any, chosen: Any) -> Any:
    """A pytree of gradients as the user gets it: in place of each node its state.

    Args:
        whole: the gradients, with `None` at leaves without one.
        chosen: a pytree like it of bools: which leaves are differentiated. A state is made of the
            variables that hold one of these, as `nnx.grad` makes it.
    """
    return jax.tree.map(
        lambda x, kept: _state(x, kept) if is_node(x) else x,
        whole,
        chosen,
        is_leaf=lambda x: x is None or is_node(x),
    )


def _state(node: Node, kept: Node) -> Any:
    nnx = _nnx()
    if isinstance(node.state, nnx.Variable):
        return node.state if any(jax.tree.leaves(kept.state)) else None
    flat, which = (nnx.to_flat_state(each.state) for each in (node, kept))
    pairs = zip(flat, which, strict=True)
    return nnx.from_flat_state(
        [(path, value) for (path, value), (_, bools) in pairs if any(jax.tree.leaves(bools))]
    )
