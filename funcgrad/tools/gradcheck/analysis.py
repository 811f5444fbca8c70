"""Derivatives as JAX takes them: forward and in reverse, one direction at a time and in batches."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from ... import _jax
from ..._mistakes import explained
from ...errors import GradcheckError
from .problem import Problem, traced
from .slopes import QUICKLY, Bases, flat, leaves_of, one_by_one

MODES = {"fwd": "forward mode", "rev": "reverse mode"}
BATCHED = {"fwd": "forward mode under `vmap`", "rev": "reverse mode under `vmap`"}
# What JAX has no derivative of in one mode, by design.
_LACKS = {"fwd": ("custom_vjp_call",), "rev": ("while",)}
_ADDRESS = re.compile(r"0x[0-9a-f]+")


class Analysis(NamedTuple):
    """What JAX makes of a problem.

    Fields:
        value: the outputs, all in one row.
        jacobians: by the mode in which it was taken, a row for each direction of the outputs, a
            column for each of the inputs.
    """

    value: np.ndarray
    jacobians: dict[str, np.ndarray]


Run = Callable[[list[Any]], Analysis]


def analyst(problem: Problem, basis: Bases, modes: list[str]) -> Run:
    """The function that differentiates a problem at a point like its own; compiled where it can be.

    Args:
        problem: the problem.
        basis: the directions.
        modes: the modes to do it in, of `MODES` and `BATCHED`.
    """
    into = leaves_of(basis.inputs, problem.point)
    each = one_by_one if problem.program is None else lax.map

    def run(point: list[Any], into: list[Any], outof: list[Any]) -> Any:
        def call(reals: list[Any]) -> list[Any]:  # a new one, to be traced anew
            return problem.call(reals)

        def push(dots: list[Any]) -> list[Any]:
            return jax.jvp(call, (point,), (dots,))[1]

        found: dict[str, Any] = {}
        if MODES["fwd"] in modes:
            found[MODES["fwd"]] = each(push, into)
        if BATCHED["fwd"] in modes:
            found[BATCHED["fwd"]] = jax.vmap(push)(into)
        if MODES["rev"] in modes or BATCHED["rev"] in modes:
            value, back = jax.vjp(call, point)

            def pull(dots: list[Any]) -> list[Any]:
                pairs = zip(dots, value, strict=True)
                return back([_jax.placed_like(dot, jax.typeof(x)) for dot, x in pairs])[0]

            if MODES["rev"] in modes:
                found[MODES["rev"]] = each(pull, outof)
            if BATCHED["rev"] in modes:
                found[BATCHED["rev"]] = jax.vmap(pull)(outof)
        else:
            value = call(point)
        return value, found

    compiled = run if problem.program is None else jax.jit(run, compiler_options=QUICKLY)
    like = _jax.output_types(problem.program) if problem.program else problem.call(problem.point)
    outof = leaves_of(basis.outputs, like)

    def analyse(point: list[Any]) -> Analysis:
        value, found = compiled(point, into, outof)
        matrices = {mode: _matrix(mode, leaves, basis) for mode, leaves in found.items()}
        return Analysis(flat(value, 1)[0], matrices)

    return analyse


def _matrix(mode: str, leaves: list[Any], basis: Bases) -> np.ndarray:
    forward = mode in (MODES["fwd"], BATCHED["fwd"])
    rows = flat(leaves, len(basis.inputs if forward else basis.outputs))
    if forward:
        return basis.outputs @ rows.T if basis.fast else rows.T
    return rows @ basis.inputs.T if basis.fast else rows


def possible(problem: Problem, basis: Bases, modes: list[str], function: str) -> list[str]:
    """The modes that JAX has for what the function is made of, of those asked for.

    Raises:
        GradcheckError: no mode is left, or one fails for another reason.
    """
    left, reasons = [], []
    kinds = _kinds(problem)
    for key in MODES:
        for mode in (MODES[key], BATCHED[key]):
            if mode not in modes or (mode == BATCHED[key] and MODES[key] not in left):
                continue
            error = _attempt(problem, basis, mode)
            if error is None:
                left.append(mode)
            elif mode == MODES[key] and kinds.intersection(_LACKS[key]):
                reasons.append(error)
            else:
                advice = "; `batched=False` leaves it out" if mode == BATCHED[key] else ""
                raise GradcheckError(
                    f"`{function}` could not take the derivative in {mode}{advice}:"
                    f" {type(error).__name__}: {error}"
                ) from error
    if not left:
        raise GradcheckError(
            f"`{function}` could not take the derivative in the modes asked for:"
            f" {type(reasons[0]).__name__}: {reasons[0]}"
        ) from reasons[0]
    return left


def _attempt(problem: Problem, basis: Bases, mode: str) -> Exception | None:
    try:
        with explained:
            analyst(problem, basis, [mode])(problem.point)
    except Exception as error:  # whatever a custom rule of the user's raises
        return error
    return None


def _kinds(problem: Problem) -> set[str]:
    if problem.program is None:
        return {*_LACKS["fwd"], *_LACKS["rev"]}
    return {path[-1].kind for path in _jax.everywhere(problem.program)}


def traces_alike(problem: Problem) -> bool:
    """Whether the function gives the same program each time it is traced."""
    first, second = problem.program, traced(problem.call, problem.point)
    if first is None or second is None:
        return False
    texts = [_ADDRESS.sub("", str(program)) for program in (first, second)]
    return texts[0] == texts[1] and all(
        a is b or np.array_equal(a, b) for a, b in zip(first.consts, second.consts, strict=True)
    )
