"""A call as named arrays: the one place where a function of pytrees becomes a function of arrays.

A call is taken apart into arrays and the rest, and made again with other arrays, mostly tracers: to
trace the function, to differentiate it, to run it in parts. What it returns is taken apart the same
way. `_leaves` says which leaf is an array for what.
"""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from . import _objects
from ._describe import describe, tensor_advice
from ._leaves import (
    as_output,
    is_array,
    is_sparse,
    is_traced,
    refuse_iterators,
    settings,
    takes_gradient,
)
from ._lists import inverted, merge, select
from ._objects import parts_of
from .errors import TreeError, UsageError


def read_argnums(
    argnums: Any, function: str, *, keyword: str = "argnums", least: int = 1, advice: str = ""
) -> tuple[bool, tuple[int, ...]]:
    """Whether `argnums` is a sequence, and the positions it gives.

    Args:
        argnums: what was passed.
        function: the public function to name in errors.
        keyword: its keyword for it.
        least: how many positions there must be.
        advice: what the error says at its end.

    Raises:
        UsageError: it is neither an integer nor a sequence of so many.

    >>> read_argnums(0, "grad"), read_argnums([0, -1], "grad")
    ((False, (0,)), (True, (0, -1)))
    """
    several = isinstance(argnums, Sequence)
    given = tuple(argnums) if several else (argnums,)
    try:
        found = tuple(map(operator.index, given))
    except TypeError:
        found = ()
    if any(type(i).__name__ == "DiffState" for i in given):  # Flax's
        advice = "; the filter of a `DiffState` goes into requires_grad=, the integer here"
    if len(found) < max(least, len(given)) or any(isinstance(i, bool) for i in given):
        raise UsageError(
            f"`{function}` got {keyword}={argnums!r}, and wants an integer or a"
            f"{' non-empty' * (least > 0)} sequence of integers{advice}"
        )
    return several, found


def from_front(
    found: tuple[int, ...], count: int, function: str, *, shown: str = "", advice: str = ""
) -> tuple[int, ...]:
    """Positions counted from the front.

    Args:
        found: positions from either end.
        count: the number of positional arguments.
        function: the public function to name in errors.
        shown: what the error says was got; by default the positions.
        advice: what it says at its end.

    Raises:
        UsageError: one is out of range, or two are the same argument.

    >>> from_front((0, -1), 3, "grad")
    (0, 2)
    """
    front = tuple(i + count if i < 0 else i for i in found)
    if any(not 0 <= i < count for i in front) or len(set(front)) < len(front):
        raise UsageError(
            f"`{function}` got {shown or f'argnums {found}'} for a call with {count} positional"
            f" argument{'' if count == 1 else 's'}, and wants positions that it has, each"
            f" once{advice}"
        )
    return front


def replaced(args: Sequence[Any], positions: Sequence[int], values: Sequence[Any]) -> list[Any]:
    """The arguments with `values` in these positions.

    >>> replaced("abc", (2, 0), [1, 2])
    [2, 'b', 1]
    """
    new = list(args)
    for position, value in zip(positions, values, strict=True):
        new[position] = value
    return new


def parameter_names(fun: Callable[..., Any]) -> tuple[list[str], str]:
    """What a function calls its positional arguments, and those that it takes as `*args`.

    >>> parameter_names(lambda x, *rest: x), parameter_names(dict)
    ((['x'], 'rest'), ([], 'args'))
    """
    try:
        found = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        found = []
    one = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    rest = (p.name for p in found if p.kind is inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in found if p.kind in one], next(rest, "args")


class Parts(NamedTuple):
    """How a pytree is put together from some of its leaves; hashable where its other leaves are.

    Fields:
        tree: the structure of the whole.
        chosen: for each leaf in flattening order, whether it is taken out.
        rest: the others, in order.
    """

    tree: Any
    chosen: tuple[bool, ...]
    rest: tuple[Any, ...]

    def join(self, leaves: Sequence[Any]) -> Any:
        """The whole pytree, with `leaves` in the chosen places and the others as they were."""
        return self.tree.unflatten(merge(self.chosen, leaves, self.rest))

    def paths(self, whole: Any) -> list[Any]:
        """Where in `whole`, which has this structure, the chosen leaves are."""
        pairs = jax.tree_util.tree_leaves_with_path(whole)
        return [path for path, _ in select(pairs, self.chosen)]


def take_apart(tree: Any, is_chosen: Callable[[Any], bool]) -> tuple[list[Any], Parts]:
    """The chosen leaves of a pytree, and how it is put together from them."""
    leaves, structure = jax.tree.flatten(tree)
    return _part(structure, leaves, [is_chosen(leaf) for leaf in leaves])


def _part(tree: Any, leaves: list[Any], chosen: list[bool]) -> tuple[list[Any], Parts]:
    rest = select(leaves, inverted(chosen))
    return select(leaves, chosen), Parts(tree, tuple(chosen), tuple(rest))


def scatter(tree: Any, chosen: Sequence[bool], leaves: Sequence[Any]) -> Any:
    """The pytree of structure `tree` with `leaves` where `chosen`, and `None` elsewhere."""
    return tree.unflatten(merge(chosen, leaves, [None] * (len(chosen) - len(leaves))))


def path_of(tree: Any, index: int) -> str:
    """The path of the leaf at `index` in flattening order, as JAX prints it."""
    return jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(tree)[index][0])


@functools.partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["parts"])
@dataclass(frozen=True)
class Returned:
    """What a function returned: a pytree of the arrays in it, the rest being its structure.

    Fields:
        arrays: the arrays and numbers.
        parts: how the whole is put together from them.
    """

    arrays: list[Any]
    parts: Parts

    @property
    def whole(self) -> Any:
        """What the function returned."""
        return self.parts.join(self.arrays)


def returned(result: Any, is_output: Callable[[Any], bool] = is_array) -> Returned:
    """A function's result taken apart."""
    arrays, parts = take_apart(result, is_output)
    return Returned([*map(as_output, arrays)], parts)


def check_arrays(result: Any, function: str, advice: str = "") -> list[Any]:
    """The leaves of what a function returned, refused where one is no array or number."""
    refuse_iterators(result, function)
    leaves = jax.tree.leaves(result)
    for leaf in leaves:
        if not is_array(leaf):
            raise UsageError(
                f"`{function}` got a function that returns {describe(leaf)}, and wants arrays"
                f"{advice}{tensor_advice(leaf)}"
            )
    return leaves


class Call(NamedTuple):
    """A call taken apart into arrays and the rest.

    Fields:
        fun: the function, of `whole`.
        whole: the arguments that are taken apart.
        arrays: the leaves of it that are inputs.
        parts: how it is put together from them.
        function: the public function to name in errors.
    """

    fun: Callable[..., Any]
    whole: Any
    arrays: list[Any]
    parts: Parts
    function: str

    def run(self, arrays: Sequence[Any], *more: Any) -> Any:
        """What the function returns with other arrays in these places.

        Raises:
            UsageError: it changes an object in `whole`, of which it has a copy.
        """
        whole = self.parts.join(arrays)
        before = parts_of(whole) if _holds_others(whole) else None
        result = self.fun(whole, *more)
        if before is not None:
            _check_unchanged(before, whole, self.function)
        return result

    def returned(self, arrays: Sequence[Any]) -> Returned:
        """The same, taken apart."""
        result = self.run(arrays)
        refuse_iterators(result, self.function)
        return returned(result)

    def names(self, title: Callable[[Any], str]) -> list[str]:
        """What each array is called, by its path in `whole`."""
        return [*map(title, self.parts.paths(self.whole))]

    def belong(self, positions: Sequence[int]) -> list[bool]:
        """For each array whether it is of one of these positional arguments."""
        paths = self.parts.paths(self.whole)
        return [path[0].idx == 0 and path[1].idx in positions for path in paths]


_CONTAINERS = (tuple, type(None), *_objects.CONTAINERS)
_IN_CONTAINERS = (jax.tree_util.DictKey, jax.tree_util.SequenceKey)


def _holds_others(whole: Any) -> bool:
    """Whether there are pytrees in a pytree that are no plain containers."""
    outer = jax.tree.leaves(whole, is_leaf=lambda x: type(x) not in _CONTAINERS)
    return not jax.tree_util.all_leaves(outer)


def _check_unchanged(before: list[_objects.Part], whole: Any, function: str) -> None:
    """Refuses a change of an object; one of a dict or a list is the copy's own, as under JAX."""
    # An object may make its parts anew each time that it is looked at.
    old, new, again = ({x.path: x for x in y} for y in (before, parts_of(whole), parts_of(whole)))
    objects, decided = [], set[Any]()
    for path in sorted({*old, *new}, key=len):
        was, now = old.get(path), new.get(path)
        if path[:-1] in decided:
            decided.add(path)
        elif was and now and was.value is now.value:
            if now.structure is _objects.SPENT:
                decided.add(path)
            elif type(now.value) not in _CONTAINERS and was.structure != now.structure:
                objects.append(f"what is no array in {describe(now.value)}")
        elif not now or now.value is again[path].value:
            decided.add(path)
            if not isinstance(path[-1], _IN_CONTAINERS):
                objects.append(jax.tree_util.keystr(path))
    if not objects:
        return
    raise UsageError(
        f"`{function}` got a function that changes an object among its arguments in place, at"
        f" {', '.join(sorted(objects))}; it has a copy of the object, so the change would be lost:"
        " return what is new beside the output (has_aux=True), or make the object a module of Flax"
        " NNX, whose state moves"
    )


def every_argument(
    fun: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    is_input: Callable[[Any], bool] = is_traced,
    *,
    function: str,
) -> Call:
    """The call with the inputs among the leaves of all its arguments taken out.

    Its `whole` is the pair `(args, kwargs)`.
    """
    whole = tuple(args), kwargs or {}
    refuse_iterators(whole, function)
    leaves, tree = jax.tree.flatten(whole)
    pairs = zip(leaves, settings(whole), strict=True)
    arrays, parts = _part(tree, leaves, [is_input(leaf) and not setting for leaf, setting in pairs])
    return Call(functools.partial(_spread, fun), whole, arrays, parts, function)


def _spread(fun: Callable[..., Any], whole: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """Calls `fun` with the pair `(args, kwargs)`."""
    args, kwargs = whole
    return fun(*args, **kwargs)


def differentiated(
    fun: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    positions: Sequence[int],
    function: str,
    *,
    several: bool = True,
    requires_grad: Any = None,
) -> Call:
    """The call with the leaves of some arguments that take a gradient taken out.

    The other arguments are handed on, neither copied nor looked at.

    Args:
        fun: the function.
        args: its positional arguments.
        kwargs: those by keyword.
        positions: the arguments to differentiate with respect to.
        function: the public function to name in errors.
        several: whether `whole` is a tuple of arguments; otherwise it is the only one.
        requires_grad: `None` (every floating or complex leaf, of a module its parameters), a pytree
            prefix of bools, a predicate on `(key path, leaf)` or on the leaf, or a filter of Flax.

    Raises:
        UsageError: a leaf is a tensor, a type or a reference, a mask leaf is not a bool, or the
            pytree cannot be made with `None` where there is no gradient.
        TreeError: the mask is not a prefix of `whole`.
    """
    whole = tuple(args[i] for i in positions) if several else args[positions[0]]

    def of_whole(whole: Any) -> Any:
        return fun(*replaced(args, positions, whole if several else (whole,)), **kwargs)

    refuse_iterators(whole, function)
    _check_differentiable(whole, function)
    return Call(of_whole, whole, *parameters(whole, function, requires_grad), function)


def parameters(whole: Any, function: str, requires_grad: Any = None) -> tuple[list[Any], Parts]:
    """The leaves that take a gradient, and how the whole is put together from them.

    Raises:
        UsageError: a mask leaf is not a bool, or the pytree cannot be made with `None` elsewhere.
        TreeError: the mask is not a prefix of `whole`.
    """
    leaves, tree = jax.tree.flatten(whole)
    mask = _mask(whole, function, requires_grad)
    chosen = [m and _can_move(leaf) for m, leaf in zip(mask, leaves, strict=True)]
    given, parts = _part(tree, leaves, chosen)
    arrays = [x if isinstance(x, jax.ShapeDtypeStruct) else as_output(x) for x in given]
    _check_gradients(whole, arrays, parts, function)
    return arrays, parts


def _can_move(leaf: Any) -> bool:
    return (is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)) and takes_gradient(leaf)


def _check_differentiable(whole: Any, function: str) -> None:
    """Refuses what holds numbers and is no array, where `None` would be taken for no influence."""
    for node in jax.tree.leaves(whole, is_leaf=_objects.is_node):
        if _objects.is_node(node) and node.shares:
            raise UsageError(
                f"`{function}` got an object to differentiate which shares variables with an"
                " argument before it, and wants them in one place: pass the object once, or name"
                " the first of the two in `argnums`"
            )
    for index, leaf in enumerate(jax.tree.leaves(whole)):
        advice = _array_of(leaf)
        if advice:
            raise UsageError(
                f"`{function}` got {describe(leaf)} at {path_of(whole, index) or 'an argument'} of"
                " what it differentiates, and wants arrays or numbers; pass it in an argument that"
                f" `argnums` does not name, or close over it{advice}"
            )


def _array_of(leaf: Any) -> str:
    """What to do about something that stands for an array, to end a message with; else nothing."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return "; it is the type of an array: jax.eval_shape says what a gradient would be"
    if isinstance(leaf, jax.Ref):
        return "; or differentiate with respect to what the reference holds, ref[...]"
    return tensor_advice(leaf) or _objects.advice(leaf)


def _check_gradients(whole: Any, arrays: list[Any], parts: Parts, function: str) -> None:
    """Refuses a pytree that cannot be made with `None` in the place of what takes no gradient."""
    if not parts.rest:
        return
    try:
        gradients(parts.tree, parts.chosen, arrays, indices(whole, parts))
    except Exception as error:
        pairs = jax.tree_util.tree_leaves_with_path(whole)
        still = select(pairs, inverted(parts.chosen))
        shown = ", ".join(jax.tree_util.keystr(path) for path, _ in still)
        raise UsageError(
            f"`{function}` got {shown} among what it differentiates, which takes no gradient, so"
            f" that the gradient has None there, and {describe(whole)} or a node in it cannot be"
            f" made with None ({type(error).__name__}: {error}); differentiate with respect to the"
            " other leaves alone, which the function puts in: lambda w:"
            " fun(dataclasses.replace(params, w=w)), or let the class take None"
        ) from error


def indices(whole: Any, parts: Parts) -> dict[int, Any]:
    """The indices of the sparse arrays in a pytree, by their place among all leaves."""
    found: dict[int, Any] = {}
    place = 0
    for x in jax.tree.leaves(whole, is_leaf=is_sparse):
        inner = jax.tree.leaves(x)
        if is_sparse(x):
            found.update(enumerate(inner, place))
        place += len(inner)
    return {at: leaf for at, leaf in found.items() if not parts.chosen[at]}


def gradients(
    tree: Any, chosen: Sequence[bool], leaves: Sequence[Any], indices: dict[int, Any]
) -> Any:
    """The pytree of gradients that a user gets.

    With `None` at leaves without; a sparse array has its indices, and an object is its state.
    """
    still = [indices.get(at) for at, own in enumerate(chosen) if not own]
    whole = tree.unflatten(merge(chosen, leaves, still))
    if not _objects.holds_nodes(whole):
        return whole
    return _objects.gradients(whole, tree.unflatten(chosen))


def _mask(whole: Any, function: str, requires_grad: Any) -> list[bool]:
    """For each leaf whether the caller wants its gradient."""
    leaves = _objects.leaves_of(whole)
    if requires_grad is None:
        pairs = zip(leaves, settings(whole), strict=True)
        return [_objects.by_default(leaf) and not setting for leaf, setting in pairs]
    if keep := _objects.as_filter(requires_grad):
        mask: list[Any] = [*map(keep, leaves)]
    elif callable(requires_grad) and not _is_mask(requires_grad):
        alone = _takes_leaf_alone(requires_grad)
        mask = [
            requires_grad(leaf.value) if alone else requires_grad(leaf.path, leaf.value)
            for leaf in leaves
        ]
    else:
        mask = _broadcast(whole, function, requires_grad)
    for leaf, value in zip(leaves, mask, strict=True):
        if not isinstance(value, bool | np.bool_):
            raise UsageError(
                f"`{function}` got {value!r} from `requires_grad` for"
                f" {jax.tree_util.keystr(leaf.path) or 'the argument'}, and wants True or False:"
                " which leaves take a gradient is fixed when the function is traced"
            )
    return [bool(value) for value in mask]


def _is_mask(x: Any) -> bool:
    """Whether something callable is a pytree of bools, as a mask of a module's own kind is."""
    leaves = jax.tree.leaves(x)
    return bool(leaves) and all(isinstance(leaf, bool | np.bool_) for leaf in leaves)


def _takes_leaf_alone(predicate: Callable[..., Any]) -> bool:
    """Whether a predicate is one of the leaf, not of its path and itself."""
    try:
        parameters = inspect.signature(predicate).parameters.values()
    except (TypeError, ValueError):
        return False
    given = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in given and p.default is p.empty]
    return len(needed) == 1 and all(p.kind is not p.VAR_POSITIONAL for p in parameters)


def _broadcast(whole: Any, function: str, prefix: Any) -> list[Any]:
    """A mask that is a prefix of the whole, leaf by leaf."""
    is_node = _objects.is_node
    mask = _thawed(_objects.as_mask(prefix) if _objects.holds_nodes(whole) else prefix)
    try:
        said = jax.tree.leaves(mask)
        shape: Any = jax.tree.structure(mask)
        under = shape.flatten_up_to(_thawed(whole))
    except ValueError as error:
        ours, theirs = type(prefix), type(whole)
        advice = (
            f", which is of another class {theirs.__name__}: `funcgrad.named` gives a model classes"
            " of its own, so make the mask of the model that goes in"
            if ours is not theirs and ours.__name__ == theirs.__name__
            else ""
        )
        raise TreeError(
            f"`{function}` got a `requires_grad` that is not a prefix of the differentiated"
            f" argument: got {jax.tree.structure(prefix)}, wanted a prefix of"
            f" {jax.tree.structure(whole)}{advice}; give it bools in the places of the leaves, or"
            " decide by name: requires_grad="
            "lambda path, leaf: 'bias' in jax.tree_util.keystr(path)"
        ) from error
    return [
        value
        for mask, part in zip(said, under, strict=True)
        for x in jax.tree.leaves(part, is_leaf=is_node)
        for value in (_objects.mask_of(x, mask) if is_node(x) else [mask])
    ]


def _thawed(tree: Any) -> Any:
    """A pytree with a dict for each other mapping of the same leaves, as Flax's `FrozenDict` is."""

    def is_other(x: Any) -> bool:
        return isinstance(x, Mapping) and not isinstance(x, dict)

    def thawed(x: Any) -> Any:
        if not is_other(x):
            return x
        inner = dict(x.items())
        pairs = [*map(jax.tree.leaves, (inner, x))]
        same = len(pairs[0]) == len(pairs[1]) and all(map(operator.is_, *pairs))
        return _thawed(inner) if same else x

    return jax.tree.map(thawed, tree, is_leaf=is_other)
