"""What the backward pass of a function keeps, as a table: `saved_tensors`.

What is kept is the pytree that `jax.vjp` returns. The forward pass that returns it is traced, and
each of its results is followed back to the argument, the constant or the line it comes from.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import _jax
from ..._describe import argument_at, describe, size_of
from ..._jax.dataflow import Dataflow, Vertex
from ..._mistakes import explained
from ...errors import TagError
from .call import asked
from .kept import checkpoints, forward, kept, size


@dataclass(frozen=True)
class SavedTensor:
    """An array that the backward pass keeps.

    Attributes:
        name: its `retain_grad` or `checkpoint_name` name, with scopes; that of an argument, as
            `argument 0['w']`; empty for others.
        shape, dtype: of the array; in a loop it has a row for each step.
        bytes: what it takes, over all devices.
        share: this as a part of the whole.
        kind: `"argument"`, `"constant"` or `"intermediate"`. Arguments and constants are alive
            anyway, but where the caller lets go of them.
        recomputable: whether it follows from arguments and other arrays that are kept, by
            arithmetic on each element. To compute it again costs less than to keep it.
        operation: what made it, `tanh` for example. With `, carried` it is what a step of a loop
            takes over from the step before, with `, packed` what `saved_tensors_hooks` made of it.
            Empty for arguments and constants from outside.
        file, line, function: the user's line that made it; `None` where JAX has not kept it.
        expression: the source text of the expression there.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    bytes: int
    share: float
    kind: str
    recomputable: bool
    operation: str = ""
    file: str | None = None
    line: int | None = None
    function: str | None = None
    expression: str = ""

    @property
    def source(self) -> str:
        """Where it was made, as `file.py:12 in f`; empty where that is not known."""
        return f"{Path(self.file).name}:{self.line} in {self.function}" if self.file else ""


@dataclass(frozen=True)
class Recomputed:
    """A `jax.checkpoint`, and what the backward pass holds at once when it computes it again.

    Attributes:
        bytes: of its intermediate values; in a loop those of one step.
        file, line, function: the user's line; `None` where JAX has not kept it.
    """

    bytes: int
    file: str | None = None
    line: int | None = None
    function: str | None = None

    def __str__(self) -> str:
        where = f", {Path(self.file).name}:{self.line} in {self.function}" if self.file else ""
        return (
            "recomputed in the backward pass, and held there at once:"
            f" {size_of(self.bytes)} (jax.checkpoint{where})"
        )


COLUMNS = ("bytes", "share", "array", "what", "again", "where", "expression")
WIDEST = 60  # characters of a cell


@dataclass(frozen=True)
class SavedTensors:
    """What `saved_tensors` returns: the arrays, the largest first, and sums. It prints as a table.

    Attributes:
        rows: an entry for each array; one that is kept for two purposes is there once.
        recomputed: an entry for each `jax.checkpoint` outside of `shard_map`. Around a whole loop
            or network one saves no memory: the backward pass computes all of it again, and holds
            that at once.
    """

    rows: tuple[SavedTensor, ...]
    recomputed: tuple[Recomputed, ...] = ()

    @property
    def total(self) -> int:
        """Bytes of all rows."""
        return sum(row.bytes for row in self.rows)

    @property
    def added(self) -> int:
        """Bytes of the intermediate ones: what the backward pass costs on top of the arguments."""
        return sum(row.bytes for row in self.rows if row.kind == "intermediate")

    @property
    def recomputable(self) -> int:
        """Bytes of those that cost less to compute again than to keep."""
        return sum(row.bytes for row in self.rows if row.recomputable)

    def __iter__(self) -> Iterator[SavedTensor]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> SavedTensor:
        """The row of a name.

        Raises:
            TagError: there is none; it lists those that are.
        """
        for row in self.rows:
            if row.name == name:
                return row
        known = ", ".join(repr(row.name) for row in self.rows if row.name) or "none at all"
        raise TagError(
            f"`saved_tensors` got the name {name!r}, and nothing of that name is kept: there is"
            f" {known}; name a value with y = retain_grad(y, {name!r})"
        )

    def _summary(self) -> str:
        return (
            f"the backward pass keeps {len(self.rows)} arrays, {size_of(self.total)}:"
            f" {size_of(self.added)} of intermediate values, the rest arguments and constants;"
            f" {size_of(self.recomputable)} cheap to compute again"
        )

    def __str__(self) -> str:
        cells = [COLUMNS, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if number < 2 else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        again = map(str, self.recomputed)
        return "\n".join([self._summary(), *again, *(lines if self.rows else [])])

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(row(_cells(r), "td") for r in self.rows)
        told = "".join(f"<p>{html.escape(str(x))}</p>" for x in (self._summary(), *self.recomputed))
        return f"{told}<table>{row(COLUMNS, 'th')}{body}</table>"


def _cells(row: SavedTensor) -> tuple[str, ...]:
    name = row.name if row.kind == "argument" or not row.name else repr(row.name)
    kind = {"argument": "", "constant": "constant", "intermediate": row.operation}[row.kind]
    cells = (
        *(f"{row.bytes:,}", f"{row.share:.1%}", describe(row)),
        *(f"{name} {kind}".strip(), "cheap" if row.recomputable else ""),
        *(row.source, row.expression),
    )
    return tuple(c if len(c) <= WIDEST else f"{c[: WIDEST - 1]}…" for c in cells)


def saved_tensors(
    fun: Callable[..., Any], *args: Any, argnums: int | Sequence[int] | None = None
) -> SavedTensors:
    """What the backward pass of `fun` keeps: each array, its bytes, and the line that made it.

    PyTorch has no such list; the nearest is to count in `torch.autograd.graph.saved_tensors_hooks`.
    Nothing is computed: `fun` is traced. It may be jitted, and may hold scans, `jax.checkpoint`,
    funcgrad's loops and [`saved_tensors_hooks`][funcgrad.saved_tensors_hooks], whose packed values
    are then the rows.

    Args:
        fun: a function of pytrees to a pytree of arrays.
        args: its arguments, or `jax.ShapeDtypeStruct`s in place of arrays.
        argnums: the positional arguments to differentiate with respect to; all by default.

    Returns:
        A [`SavedTensors`][funcgrad.SavedTensors]: rows with `name`, `shape`, `dtype`, `bytes`,
        `share`, `kind`, `recomputable` and the source, their `total`, and `added`, the part that is
        not alive anyway. Print it.

    Raises:
        UsageError: no argument takes a gradient, or `argnums` names one that is not there.
        ValueError: there is no backward pass, because of a `lax.while_loop`; it is JAX's error.

    It says what is there between the forward and the backward pass: what `fg.vjp` holds, and what a
    jitted function returns with a pullback. Where both passes are in one `jit`, XLA may keep less
    (it fuses, and computes cheap values again), and has temporary values of each pass besides.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> def loss(w, x):
    ...     h = fg.retain_grad(jnp.exp(x @ w), "h")
    ...     return jnp.sum(h)
    >>> saved = fg.saved_tensors(loss, jnp.ones((4, 8)), jnp.ones((32, 4)), argnums=0)
    >>> saved.total, [(row.name, row.bytes, row.kind) for row in saved]
    (1536, [('h', 1024, 'intermediate'), ('argument 1', 512, 'argument')])
    """
    with explained, asked(fun, args, argnums, "saved_tensors") as (call, moving):
        run = lambda arrays: call.returned(arrays).arrays  # noqa: E731
        closed, paths = forward(run, call.arrays, moving), call.names(argument_at)
        again = tuple(
            Recomputed(held, *_line(path)) for held, path in checkpoints(run, call.arrays)
        )
    graph = Dataflow(closed)
    sizes = kept(closed, graph)
    cheap, constant = _recomputable(graph, list(sizes)), graph.constants()
    tagged, total = graph.names(), sum(map(size, sizes.values()))
    rows = []
    for value, type_ in sizes.items():
        kind = "argument" if value.role == "input" else "intermediate"
        kind = "constant" if value in constant else kind
        origin, notes = _origin(value, constant, tagged)
        rows.append(
            SavedTensor(
                name=paths[origin.index] if origin.role == "input" else tagged.get(origin, ""),
                shape=type_.shape,
                dtype=type_.dtype,
                bytes=size(type_),
                share=size(type_) / total,
                kind=kind,
                recomputable=kind == "intermediate" and value in cheap,
                **_where(origin, notes),
            )
        )
    return SavedTensors(tuple(sorted(rows, key=lambda row: -row.bytes)), again)


def _recomputable(graph: Dataflow, kept: Sequence[Vertex]) -> set[Vertex]:
    """The values that follow by cheap arithmetic from inputs and from others that are kept."""
    at_hand = {value.sources[0].same if value.role == "stack" else value for value in kept}
    follows: set[Vertex] = set()

    def known(value: Vertex) -> bool:
        return value in at_hand or value.same in at_hand or value in follows

    for value in graph.values:
        if value.role == "made":
            cheap = value.same is not value or _jax.has(value.operation, _jax.Trait.CHEAP)
        else:
            cheap = value.role in ("constant", "row", "stack")
        if value.role == "input":
            at_hand.add(value)
        elif cheap and all(map(known, value.sources)):
            follows.add(value)
    # A stack whose rows are at hand only because it is kept itself does not follow.
    return {
        value
        for value in kept
        if value in follows and (value.role != "stack" or value.sources[0].same in follows)
    }


def _origin(value: Vertex, constant: set[Vertex], tagged: dict[Vertex, str]) -> tuple[Vertex, str]:
    """The value whose name and line a kept one bears, and what to add to its operation.

    Of a stack it is what a loop keeps of each step, of what was packed the value before, of
    branches what one of them keeps, if possible one with a name.
    """
    seen: set[Vertex] = set()
    notes = dict[str, None]()
    while value not in seen:
        seen.add(value)
        value = value.same
        if value.role in ("stack", "row") or value.role == "last":
            value = value.sources[0]
        elif value.role == "carry":
            notes["carried"] = None
            value = value.sources[1]
        elif value.role == "branch":
            ways = [way for way in value.sources[1:] if way not in constant]
            value = next((way for way in ways if way.same in tagged), ways[0]) if ways else value
        elif value.operation == "pack":
            notes["packed"] = None
            value = value.sources[-1]
        elif value.operation == "device_put":
            notes["moved"] = None
            value = value.sources[value.index]
        elif value.operation == "reduce_precision" and _jax.keeps_precision(value.path[-1]):
            value = value.sources[0]
    return value, "".join(f", {note}" for note in notes)


def _line(path: tuple[_jax.Equation, ...]) -> tuple[Any, ...]:
    """The user's file, line and function of an equation, if they are known."""
    place = _jax.place(path)
    return (place.own.file, place.own.line, place.own.function) if place else ()


def _where(value: Vertex, notes: str) -> dict[str, Any]:
    """What made a value, and the user's line."""
    operation = value.operation if value.path else ""
    found: dict[str, Any] = {"operation": f"{operation}{notes}"}
    if place := _jax.place(value.path):
        frame = place.own
        found.update(file=frame.file, line=frame.line, function=frame.function)
        found["expression"] = _jax.expression(frame)
    return found
