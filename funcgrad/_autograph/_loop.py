"""The body of a Python loop as a step from arrays to arrays, and the loops over it."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from .. import _jax
from ..errors import TreeError, UsageError
from . import _copies as copies
from ._branch import OUTSIDE, filled
from ._contents import alike
from ._snapshot import Changes, Snapshot
from ._stage import (
    Held,
    In,
    Piece,
    Undefined,
    Value,
    cast,
    common,
    numeric,
    same,
    show,
    stage,
    taken_apart,
    truth,
    type_of,
)


class Step:
    """A loop's body, traced: what it carries from step to step, and how it starts and ends.

    Args:
        body: runs the body's statements for an item.
        test: whether there is a further step; `None` where only the items decide.
        state: reads and writes the loop's variables.
        names: the variables.
        place: where the loop stands.
        item: the first item, a pytree of arrays.
        snapshot: the objects that body and test can reach. Those that a step changes are carried,
            each as one more variable.
        captured: variables that only functions made in a step read: outside they have no value.
        augmented: variables with an `x += ...` in the body, which may change the object itself.

    Raises:
        TreeError: a variable changes its structure, shape or dtype from step to step.
    """

    def __init__(
        self,
        body: Callable[[Any], None],
        test: Callable[[], Any] | None,
        state: Any,
        names: Sequence[str],
        place: str,
        item: Any = (),
        *,
        snapshot: Snapshot,
        captured: Collection[str] = (),
        augmented: Collection[str] = (),
    ):
        self.names, self.place = list(names), place
        self._state, self._snapshot, self._captured = state, snapshot, captured
        self._objects: Changes = {}  # what a step changes, after the variables
        self._found: Changes = {}
        self._left: dict[int, list[Any]] = {}
        self._before = [taken_apart(x, snapshot.held) for x in self._get()]
        self._whole = {i for i, name in enumerate(names) if name in augmented}
        self._copied: dict[int, list[Any]] = {}  # the objects that variables hold and leave
        for i in range(len(self._before)):
            if i not in self._whole:
                self._open(i)
        self._items, self._item = jax.tree.flatten(jax.tree.map(jnp.asarray, item))
        self._starts = [
            [jnp.asarray(x) if numeric(x) else x for x in value.leaves] for value in self._before
        ]
        self._axes: frozenset[str] = frozenset()
        self._late: set[int] = set()  # the variables that have no value before the loop
        self._piece = self._settled(body)
        self._carried = self._carry()
        self._test = None if test is None else self._traced_test(test)

    def check_order(self) -> None:
        """Refuses what has to happen in the order of the steps, which a `while` cannot keep.

        Raises:
            UsageError: it reads or writes a reference from outside, or prints or calls in order.
        """
        pieces = filter(None, (self._piece, self._test))
        effect = next(filter(None, (_jax.ordered_effect(x.program) for x in pieces)), None)
        if effect is not None:
            names = ", ".join(self._snapshot.references)
            raise UsageError(
                f"`autograph` got a traced loop at {self.place} with the effect {effect}"
                f"{names and f', of the reference {names} from outside'}, whose order it cannot"
                " keep: keep what a reference holds in a variable, value = reference[...] before"
                " and reference[...] = value after, and print and call back without ordered=True"
            )

    def start(self) -> list[Any]:
        """The first carry."""
        return [_jax.varied(self._starts[i][j], self._axes) for i, j in self._carried]

    def more(self, carry: Sequence[Any]) -> Any:
        """Whether the loop's test holds."""
        assert self._test is not None
        leaf = self._test(*self._inputs(carry))
        return leaf(self._test.values[0].leaves[0])

    def next(self, item: Any, carry: Sequence[Any]) -> list[Any]:
        """One step."""
        items = [_jax.varied(jnp.asarray(x), self._axes) for x in jax.tree.leaves(item)]
        leaf, values = self._piece(*items, *self._inputs(carry)), self._piece.values
        types = [jax.typeof(self._starts[i][j]) for i, j in self._carried]
        new = [leaf(values[i].leaves[j]) for i, j in self._carried]
        return [_jax.varied(cast(*pair), self._axes) for pair in zip(new, types, strict=True)]

    def finish(self, carry: Sequence[Any], more: Callable[[], Any] | None = None) -> None:
        """Gives the variables their values after a loop, that had to stop where `more()`."""
        if more is not None and self._late:
            carry = self._unfinished(carry, more())
        spots = dict(zip(self._carried, carry, strict=True))
        after = []
        for i, (before, value) in enumerate(zip(self._before, self._piece.values, strict=True)):
            old = value.leaves if value.undefined else before.leaves
            leaves = [spots.get((i, j), leaf) for j, leaf in enumerate(old)]
            after.append(value.of(leaves))
        self._set(after)
        self._note(after, self._left)

    def _get(self) -> list[Any]:
        """What the variables hold, and the objects that a step changes."""
        values = zip(self.names, self._state.get(), strict=False)
        known = [Undefined(k, self.place) if k in self._captured else x for k, x in values]
        return [*known, *(x.now for x in self._objects.values())]

    def _set(self, values: Sequence[Any]) -> None:
        count = len(values) - len(self._objects)
        self._state.set(values[:count])
        for change, value in zip(self._objects.values(), values[count:], strict=True):
            change.write(value)

    def _unfinished(self, carry: Sequence[Any], more: Any) -> list[Any]:
        """Where the loop is not done, NaN also in the gradients through what it never gave a value.

        Such a variable holds NaN from the start, or the 0 of what is not returned yet, on which no
        input has an influence: their gradients would be 0. All that the loop would have made it
        from is NaN by now, and is added to it.
        """
        new = [i in self._late for i, _ in self._carried]
        floats = [jnp.issubdtype(x.dtype, jnp.inexact) for x in carry]

        def spoiled(x: Any) -> Any:
            for y, late, floating in zip(carry, new, floats, strict=True):
                if late or not floating:
                    continue
                if y.weak_type and y.shape == ():  # as it is: sums are never weakly typed
                    x = x + jnp.real(y)
                elif not x.weak_type:
                    x = x + jnp.sum(jnp.real(y)).astype(x.real.dtype)
            return x

        return [
            jnp.where(more, spoiled(x), x) if late and floating else x
            for x, late, floating in zip(carry, new, floats, strict=True)
        ]

    def _settled(self, body: Callable[[Any], None]) -> Piece:
        """The body, run until the types it is given are those it returns."""
        count = len(self._items)

        def run(*xs: Any) -> Sequence[Any]:
            with self._holding(xs[count:]):
                body(jax.tree.unflatten(self._item, xs[:count]))
                self._found = {
                    k: x for k, x in self._snapshot.changes().items() if k not in self._objects
                }
                return self._get()

        while True:
            inputs = [_jax.varied(x, self._axes) for x in (*self._items, *self._inputs(()))]
            objects: Any = {"snapshot": self._snapshot, "around": copies.checked}
            piece = stage(run, self.place, *inputs, **objects)
            changed = self._widened(piece) | self._spread(piece, inputs)
            if not (self._joined() or changed):
                return piece

    def _joined(self) -> bool:
        """Whether the step changed objects that were not carried yet; now they are."""
        for key, change in self._found.items():
            self._objects[key] = change
            self._whole.add(len(self.names))
            self.names.append(change.name)
            self._before.append(taken_apart(change.before, self._snapshot.held))
            leaves = self._before[-1].leaves
            self._starts.append([jnp.asarray(x) if numeric(x) else x for x in leaves])
        return bool(self._found)

    @contextmanager
    def _holding(self, arrays: Sequence[Any]) -> Iterator[None]:
        """Gives the variables these values, and those from before the loop at the end.

        What objects hold is put back by the snapshot.
        """
        before, values = self._state.get(), self._values(arrays)
        self._set(values)
        self._note(values, {})
        try:
            yield
        finally:
            self._state.set(before)

    def _spread(self, piece: Piece, inputs: Sequence[Any]) -> bool:
        """Whether something differs between the devices of a mesh along which inputs do not yet."""
        all_axes = [_jax.varying(jax.typeof(x)) for x in (*inputs, *piece.closed_over)]
        axes = self._axes.union(*all_axes)
        if axes == self._axes:
            return False
        self._axes = axes
        return True

    def _values(self, arrays: Sequence[Any]) -> list[Any]:
        """The variables with these arrays in the places of their leaves that are numeric."""
        rest = iter(arrays)
        return [
            value.of([next(rest) if numeric(x) else x for x in value.leaves])
            for value in self._before
        ]

    def _inputs(self, carry: Sequence[Any]) -> list[Any]:
        """The numeric leaves, those that are carried from the carry."""
        spots = dict(zip(self._carried, carry, strict=True)) if carry else {}
        leaves = [((i, j), x) for i, row in enumerate(self._starts) for j, x in enumerate(row)]
        return [_jax.varied(spots.get(k, x), self._axes) for k, x in leaves if numeric(x)]

    def _types(self) -> list[Any]:
        return [jax.typeof(x) for x in (*self._items, *self._inputs(()))]

    def _widened(self, piece: Piece) -> bool:
        """Promotes first values that are only weaker typed than what the body makes of them."""
        types, changed, wrong = self._types(), False, []
        for i in range(len(self._before)):
            changed |= self._opened(i, piece)
            before, after = self._before[i], piece.values[i]
            if i >= len(self.names) - len(self._objects) and (after.undefined or before.undefined):
                wrong.append(self._change(i, after, types))
                continue
            if after.undefined:
                continue
            if before.undefined:  # it is carried too: a step need not give it a value again
                self._before[i] = filled(after, self.names[i], types)
                self._starts[i], changed = list(self._before[i].leaves), True
                self._late.add(i)
                continue
            fits = before.tree == after.tree
            for j, new in enumerate(after.leaves if fits else ()):
                old = self._starts[i][j]
                if not numeric(old) or not numeric(new):
                    fits = fits and same(old, new)
                    continue
                aval = common(jax.typeof(old), type_of(new, types))
                if aval is None:
                    fits = False
                elif (aval.dtype, aval.weak_type) != (old.dtype, old.weak_type):
                    self._starts[i][j], changed = cast(old, aval), True
            if not fits:
                wrong.append(self._change(i, after, types))
        if wrong:
            advice = f"\n({OUTSIDE})" if self._objects else ""
            raise TreeError(
                f"`autograph` got the traced loop at {self.place}, in which variables change in"
                " structure, shape, dtype, or in what cannot be traced; keep them the same, or"
                " give them before the loop what the step returns:\n  "
                + "\n  ".join(wrong)
                + advice
            )
        return changed

    def _change(self, i: int, after: Value, types: Sequence[Any]) -> str:
        before = show(self._before[i])
        return f"{self.names[i]}: {before} before a step, {show(after, types)} after it"

    def _opened(self, i: int, piece: Piece) -> bool:
        """Whether a variable was thought to hold an object all the time, and is rebound.

        From here on it holds in each step what the object is as a pytree.
        """
        before, after = self._before[i], piece.values[i]
        if i in self._whole:
            held = [[x for x in y.leaves if isinstance(x, Held)] for y in (before, after)]
            if not any(held) or (before.tree == after.tree and held[0] == held[1]):
                return False
            self._whole.discard(i)
            self._open(i)
            leaves = self._before[i].leaves
            self._starts[i] = [jnp.asarray(x) if numeric(x) else x for x in leaves]
            self._open_after(i, piece)
            return True
        self._open_after(i, piece)
        return False

    def _open(self, i: int) -> None:
        held, self._before[i] = self._before[i], self._before[i].opened()
        self._copied[i] = copies.opened([held], [self._before[i]])

    def _open_after(self, i: int, piece: Piece) -> None:
        held, piece.values[i] = piece.values[i], piece.values[i].opened()
        self._left[i] = copies.opened([held], [piece.values[i]])

    def _note(self, values: Sequence[Any], more: dict[int, list[Any]]) -> None:
        """Notes which values stand for objects that the variables held before."""
        for i, objects in self._copied.items():
            every = [*objects, *more.get(i, ())]
            copies.note(self.names[i], self.place, values[i], every, self._snapshot.own)

    def _carry(self) -> list[tuple[int, int]]:
        """The leaves that a step may change."""
        count, spots = len(self._items), []
        position = iter(range(count, count + sum(map(len, self._starts))))
        for i, after in enumerate(self._piece.values):
            own = [In(next(position)) if numeric(x) else None for x in self._starts[i]]
            if after.undefined:
                continue
            for j, leaf in enumerate(after.leaves):
                if numeric(leaf) and leaf != own[j]:
                    spots.append((i, j))
        return spots

    def _traced_test(self, test: Callable[[], Any]) -> Piece:
        def run(*xs: Any) -> list[Any]:
            with self._holding(xs):
                before = self._snapshot.changes()
                values = [x.now for x in before.values()]
                more = truth(jnp.asarray(test()), self.place)
                for key, change in self._snapshot.changes().items():
                    if key not in before or not alike(change.now, values[list(before).index(key)]):
                        raise UsageError(
                            f"`autograph` got the test of the traced loop at {self.place}, which"
                            f" changes `{change.name}`; change it in the body"
                        )
                return [more]

        objects: Any = {"snapshot": self._snapshot, "around": copies.checked}
        return stage(run, self.place, *self._inputs(()), **objects)
