"""The report of a live comparison: rows in forward order, divergences, text and JSON."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..strict_json import strict_json
from .judge import Difference

_HEAD = ("", "name", "kind", "shape", "dtype", "value", "allowed", "gradient", "allowed")
_LISTED = 20  # names in one line of the text; the report's fields hold all


class ParityRow(NamedTuple):
    """An input, parameter, intermediate or output that has a name on both sides.

    Attributes:
        name: its name in PyTorch.
        jax_name: its name in JAX.
        kind: `input`, `parameter`, `intermediate` or `output`.
        value: how the values compare; `None` for inputs and parameters, which are the same.
        grad: how the gradients compare; `None` where neither side has one.
        shape, dtype: PyTorch's.
    """

    name: str
    jax_name: str
    kind: str
    value: Difference | None
    grad: Difference | None
    shape: tuple[int, ...]
    dtype: str

    @property
    def ok(self) -> bool:
        """Whether values and gradients agree."""
        return all(one is None or one.ok for one in (self.value, self.grad))


class Divergence(NamedTuple):
    """Where the two sides part.

    Attributes:
        name: the first name in forward order whose value differs, or the last whose gradient
            differs; `h[3]` is the fourth occurrence of `h`.
        near: the names around it, which agree. Forward, those that it is computed from directly;
            backward, those that are computed from it directly, whose gradients it is made of.
        difference: how the two sides compare there.
    """

    name: str
    near: tuple[str, ...]
    difference: Difference


class RandomCase(NamedTuple):
    """The comparison on a further random input.

    Attributes:
        seed: the seed of the input; `with_torch(..., n=1, seed=seed)` repeats the comparison.
        style: the kind of numbers in it: `kinks`, `zeros`, `ties`, ...
        report: the report on it.
    """

    seed: int
    style: str
    report: "ParityReport"


class ParityReport(NamedTuple):
    """What `with_torch` found.

    Attributes:
        rows: a row for each name, in PyTorch's forward order: inputs and parameters where they are
            first used, then what is computed from them, outputs last.
        forward: the first divergence of values, if there is one.
        backward: the divergence of gradients nearest the output, if there is one.
        only_torch, only_jax: names of intermediates that the other side lacks.
        notes: remarks that are no differences.
        strict: whether names that one side lacks and unequal dtypes count as differences.
        cases: the comparisons on further random inputs.
        conventions: where values agree and gradients do not, a sentence for each function of
            `funcgrad.conventions` that has PyTorch's gradient: with them all gradients agree.
    """

    rows: tuple[ParityRow, ...]
    forward: Divergence | None = None
    backward: Divergence | None = None
    only_torch: tuple[str, ...] = ()
    only_jax: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    strict: bool = False
    cases: tuple[RandomCase, ...] = ()
    conventions: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything agrees, on the further inputs too."""
        alone = self.strict and (self.only_torch or self.only_jax)
        return (
            not alone and all(row.ok for row in self.rows) and all(c.report.ok for c in self.cases)
        )

    def row(self, name: str, kind: str | None = None) -> ParityRow:
        """The row of a name; of the given kind, where several kinds share the name.

        Raises:
            KeyError: there is no such row.
        """
        for row in self.rows:
            if row.name == name and kind in (None, row.kind):
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        return "\n".join(_text(self))

    def to_json(self) -> str:
        """The whole report as strict JSON; infinities, NaN and complex numbers become strings."""
        return strict_json(_data(self))


def _text(report: ParityReport) -> Iterator[str]:
    rows = sum(row.ok for row in report.rows)
    good, cases = sum(case.report.ok for case in report.cases), len(report.cases)
    more = f", and {good} of {cases} further inputs" if cases else ""
    yield f"{'agree' if report.ok else 'DIFFER'}: {rows} of {len(report.rows)} names agree{more}"
    yield from _divergences(report)
    yield ""
    yield from _table(report)
    remarks = [
        *_details(report),
        *_advice(report),
        *_alone(report),
        *(f"note: {note}" for note in report.notes),
    ]
    yield from ["", *remarks] if remarks else []
    yield from _cases(report.cases)


def _divergences(report: ParityReport) -> Iterator[str]:
    if report.forward is not None:
        near = _names(report.forward.near) or "nothing that has a name"
        yield f"first divergence forward: {report.forward.name}, computed from {near}"
    if report.backward is not None:
        near = _names(report.backward.near)
        where = f"its gradient comes through {near}" if near else "nothing named uses it in PyTorch"
        yield f"first divergence backward: {report.backward.name}; {where}"
        if report.forward is not None:
            yield "  (gradients are taken at values that differ already: look forward first)"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _table(report: ParityReport) -> Iterator[str]:
    """Columns of plain text; `>` marks the first divergence forward, `<` backward."""
    lines = [_HEAD, *(_cells(report, row) for row in report.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _cells(report: ParityReport, row: ParityRow) -> tuple[str, ...]:
    marks = ((">", report.forward, row.value), ("<", report.backward, row.grad))
    mark = "".join(m for m, where, one in marks if where is not None and where.difference is one)
    name = row.name if row.name == row.jax_name else f"{row.name} = {row.jax_name}"
    shape = ",".join(map(str, row.shape))
    dtypes = {row.dtype, *(one.jax_dtype for one in (row.value, row.grad) if one is not None)}
    dtype = row.dtype if len(dtypes) == 1 else f"{row.dtype}/{max(dtypes - {row.dtype})}"
    return (mark, name, row.kind, f"[{shape}]", dtype, *_pair(row.value), *_pair(row.grad))


def _pair(one: Difference | None) -> tuple[str, str]:
    """The largest difference, with `!` where it is too large, and what is allowed."""
    if one is None:
        return "", ""
    shown = "shape" if one.max_abs is None and not one.ok else f"{one.max_abs or 0:.2g}"
    return shown + ("" if one.ok else " !"), "" if one.allowed is None else f"{one.allowed:.2g}"


def _details(report: ParityReport) -> Iterator[str]:
    for row in report.rows:
        for what, one in (("value", row.value), ("gradient", row.grad)):
            if one is not None and one.reason:
                yield f"{row.name}, {what}: {one.reason}"
            if one is not None:
                yield from (f"note: {row.name}, {what}: {note}" for note in one.notes)


def _advice(report: ParityReport) -> Iterator[str]:
    """What has PyTorch's gradient, where that is known."""
    yield from report.conventions
    if report.conventions:
        yield "(gradients at kinks, zeros and ties are a convention: see docs/conventions.md)"


def _alone(report: ParityReport) -> Iterator[str]:
    for side, names in (("torch", report.only_torch), ("jax", report.only_jax)):
        if names:
            yield f"only in {side}, not compared: {_names(names)}"


def _cases(cases: Sequence[RandomCase]) -> Iterator[str]:
    if not cases:
        return
    bad = [case for case in cases if not case.report.ok]
    yield ""
    yield f"further inputs: {len(cases) - len(bad)} of {len(cases)} agree"
    for case in bad:
        yield f"seed {case.seed} ({case.style}) differs:"
        yield from (f"  {line}" for line in _divergences(case.report))
        yield from (f"  {line}" for line in (*_details(case.report), *_advice(case.report)))


def _data(report: ParityReport) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "strict": report.strict,
        "forward": _divergence(report.forward),
        "backward": _divergence(report.backward),
        "rows": [_row(row) for row in report.rows],
        "only_torch": list(report.only_torch),
        "only_jax": list(report.only_jax),
        "notes": list(report.notes),
        "conventions": list(report.conventions),
        "cases": [
            {"seed": case.seed, "style": case.style, "report": _data(case.report)}
            for case in report.cases
        ],
    }


def _divergence(found: Divergence | None) -> dict[str, Any] | None:
    return None if found is None else {"name": found.name, "near": list(found.near)}


def _row(row: ParityRow) -> dict[str, Any]:
    value, grad = (None if one is None else one._asdict() for one in (row.value, row.grad))
    return {**row._asdict(), "value": value, "grad": grad, "ok": row.ok}
