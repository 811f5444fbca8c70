"""What is known of an anomaly, as a record and as the text of the error."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ... import _jax
from ..._describe import describe, number
from ...errors import AnomalyError
from . import examples, hints, segments
from .events import Event
from .follow import Stretch
from .values import Value, bad_entries, first_index, states


class Anomaly(NamedTuple):
    """Where and how the first bad value came about; the attribute `anomaly` of `AnomalyError`.

    Fields:
        kind: `"nan"` or `"inf"`.
        phase: `"forward"`, `"backward"`, or `"input"` for what was bad before anything ran.
        operation: the JAX primitive; the path of the argument where the phase is `"input"`.
        computed: the operation on the numbers there, `"0.0 * inf"` for instance; empty where
            it does not act on single numbers.
        at: the index of the first bad entry in the result, row by row.
        file, line, column, function: the user's forward line; empty and 0 where JAX keeps none.
        source: the text of the expression there.
        scope: the `jax.named_scope` names around it, joined by `/`.
        steps: for each loop around it, the outermost first, its primitive and its iteration from 0.
        examples: for each `vmap` around it, the outermost first, the index of the example; `None`
            where the value is not batched by it, or that is not known.
        device: the names and indices of the mesh axes of the device inside `shard_map`.
        retained: the names of the `retain_grad` tags nearest before it, the nearest first.
        hint: a sentence on what usually helps; empty where there is none.
    """

    kind: str
    phase: str
    operation: str
    computed: str
    at: tuple[int, ...]
    file: str = ""
    line: int = 0
    column: int = 0
    function: str = ""
    source: str = ""
    scope: str = ""
    steps: tuple[tuple[str, int], ...] = ()
    examples: tuple[int | None, ...] = ()
    device: tuple[tuple[str, int], ...] = ()
    retained: tuple[str, ...] = ()
    hint: str = ""


WORDS = {"nan": "NaN", "inf": "an infinite value"}


def error(
    event: Event,
    around: Sequence[tuple[_jax.Jaxpr, list[Any]]],
    program: _jax.Jaxpr,
    compiled: bool = False,
) -> AnomalyError:
    """The error for an event in a program.

    Args:
        event: the event.
        around: the programs around it and their inputs, the innermost first.
        program: the whole program.
        compiled: whether it is an infinite value, told of because the program has NaN compiled.
    """
    index, fault = _index(event), event.fault
    own = fault.place.own if fault.place else None
    scopes = [name for level in fault.path for name in level.equation.scopes]
    dtype = jnp.result_type(_bad_result(event))
    anomaly = Anomaly(
        event.kind,
        "backward" if event.turns else "forward",
        event.equation.name,
        computed(event, index),
        index,
        file=own.file if own else "",
        line=own.line if own else 0,
        column=(own.column or 0) if own else 0,
        function=own.function if own else "",
        source=_jax.expression(own) if own else "",
        scope="/".join(scopes),
        steps=segments.steps(fault.path),
        examples=examples.examples(fault.path, _index(fault), _bad_place(fault)),
        device=next((level.device for level in fault.path if level.device), ()),
        retained=_retained(event.operands),
        hint=hints.hint(Stretch(event, around), program, index, numbers(event, index), dtype),
    )
    return AnomalyError(_text(anomaly, event, compiled), anomaly)


def input_error(path: str, array: Any, kind: str) -> AnomalyError:
    """The error for an argument that is bad before anything runs."""
    index = first_index(bad_entries(array, kind)) or ()
    value = number(np.asarray(array)[index])
    anomaly = Anomaly(kind, "input", path, value, index)
    return AnomalyError(
        f"`detect_anomaly` got {WORDS[kind]} in the input: {path}, {describe(jnp.asarray(array))},"
        f" is {value}{_at(index)} before anything runs; mend the input, or look where it was made",
        anomaly,
    )


def _bad_result(event: Event) -> Any:
    return event.results[_bad_place(event)]


def _bad_place(event: Event) -> int:
    """Which of the results of the operation is the first bad one."""
    found = states(event.results)
    return next(i for i, s in enumerate(found) if (s.nan if event.kind == "nan" else s.inf))


def _index(event: Event) -> tuple[int, ...]:
    """The index of the first bad entry in that result."""
    return first_index(bad_entries(_bad_result(event), event.kind)) or ()


def _retained(operands: Sequence[Value]) -> tuple[str, ...]:
    names = sorted({name for o in operands for name in o.names}, reverse=True)
    return tuple(dict.fromkeys(name for _, name in names))


_ORDER = (
    "NaN in the results of the compiled program, in which XLA multiplies and adds in another order"
    " than it is written in; as written there is none, but "
)


def _text(anomaly: Anomaly, event: Event, compiled: bool) -> str:
    passes = ["forward pass", "backward pass", "backward pass of a backward pass"]
    passed = passes[min(event.turns, 2)]
    if any(level.equation.recomputes for level in event.path):
        passed += ", in what jax.checkpoint recomputes"
    what = anomaly.computed and f": {anomaly.computed}"
    lines = [
        f"`detect_anomaly` found {_ORDER * compiled}{WORDS[anomaly.kind]} in the {passed}:"
        f" `{anomaly.operation}` made it{_at(anomaly.at)}{what}",
        *_place_lines(event),
        *(f"  {line}" for line in _facts(anomaly)),
        *(f"  operand {i}: {_operand(o.array)}" for i, o in enumerate(event.operands)),
    ]
    if event.infinite is not None and anomaly.kind == "nan":
        lines.append(_origin(event.infinite))
    if anomaly.hint:
        lines.append(f"  hint: {anomaly.hint}")
    return "\n".join(lines)


def _place_lines(event: Event) -> list[str]:
    lines = _lines(event.fault)
    if event.fault is not event and event.fault.place != event.place:
        lines += ["  where the gradient got infinite; it was multiplied by 0", *_lines(event)]
    return lines


def _lines(event: Event) -> list[str]:
    place = event.place
    if place is None:
        return ["  its source line is not known"]
    of = "  of the forward line" if event.turns else ""
    lines = [_file(place.own) + of, *("    " + line for line in _jax.excerpt(place.own))]
    if place.through:
        lines += [_file(place.through), *("    " + line for line in _jax.excerpt(place.through))]
    return lines


def _file(frame: _jax.Frame) -> str:
    return f'  File "{frame.file}", line {frame.line}, in {frame.function}'


def _facts(anomaly: Anomaly) -> list[str]:
    facts = [f"iteration {step} of the enclosing `{loop}`" for loop, step in anomaly.steps]
    facts += [
        f"example {example} of the {_ordinal(place, len(anomaly.examples))}enclosing `vmap`"
        for place, example in enumerate(anomaly.examples)
        if example is not None
    ]
    if anomaly.device:
        facts.append("device " + ", ".join(f"{name}={at}" for name, at in anomaly.device))
    if anomaly.scope:
        facts.append(f"scope {anomaly.scope}")
    if anomaly.retained:
        facts.append("nearest retained before it: " + ", ".join(map(repr, anomaly.retained)))
    return facts


def _ordinal(place: int, count: int) -> str:
    return "" if count == 1 else ("outermost " if place == 0 else f"{place + 1}. ")


def _at(index: tuple[int, ...]) -> str:
    return f" at [{', '.join(map(str, index))}]" if index else ""


def _origin(made: Event) -> str:
    index, place = _index(made), made.place
    what = computed(made, index)
    where = f", {place.own.file}:{place.own.line} in {place.own.function}" if place else ""
    passed = "backward" if made.turns else "forward"
    return (
        f"  the infinity was made by `{made.equation.name}`{_at(index)}{what and ': ' + what}"
        f" (in the {passed} pass{where})"
    )


_SIGNS = {"add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "rem": "%"}


def numbers(event: Event, index: tuple[int, ...]) -> list[Any] | None:
    """The operands at the index of the result; `None` where the operation is not elementwise."""
    shape = np.shape(_bad_result(event))
    if not _jax.has(event.equation.kind, _jax.Trait.ELEMENTWISE):
        return None
    arrays = [np.asarray(o.array) for o in event.operands]
    if not all(_spreads(x.shape, shape) for x in arrays):
        return None
    return [x[tuple(min(i, n - 1) for i, n in zip(index, x.shape, strict=False))] for x in arrays]


def _spreads(shape: tuple[int, ...], over: tuple[int, ...]) -> bool:
    """Whether an operand has the shape of the result, but for axes of 1, or is a scalar."""
    same = len(shape) == len(over)
    return not shape or (same and all(n in (1, m) for n, m in zip(shape, over, strict=True)))


def computed(event: Event, index: tuple[int, ...]) -> str:
    """The operation on the numbers at an index, as one writes it."""
    at = numbers(event, index)
    if at is None:
        return ""
    name, texts = event.equation.name, [number(x) for x in at]
    if name in _SIGNS and len(texts) == 2:
        return f" {_SIGNS[name]} ".join(texts)
    exponent = _jax.exponent(event.equation)
    if exponent is not None:
        return f"{texts[0]} ** {exponent}"
    return f"{name}({', '.join(texts)})"


def _operand(array: Any) -> str:
    if isinstance(array, int | float | complex):
        return f"{number(array)}, a constant"
    text = describe(array)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return text
    values = np.asarray(array)
    if not values.shape:
        return f"{text}, {number(values[()])}"
    odd = ~np.isfinite(values)
    if not odd.any():
        return f"{text}, all finite{_range(values)}"
    index = first_index(odd) or ()
    more = int(odd.sum()) - 1
    rest = f" and {more} more not finite" if more else ""
    return f"{text}, {number(values[index])}{_at(index)}{rest}"


def _range(values: Any) -> str:
    if np.iscomplexobj(values) or not values.size:
        return ""
    return f", from {number(values.min())} to {number(values.max())}"
