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
from .problem import Problem, equations, traced
from .slopes import QUICKLY, Bases, flat, leaves_of, one_by_one

MODES = {"fwd": "forward mode", "rev": "reverse mode"}
BATCHED = {"fwd": "forward mode under `vmap`", "rev": "reverse mode under `vmap`"}
# What JAX has no derivative of in one mode, by design.
_LACKS = {"fwd": ("custom_vjp_call", "custom_vjp_call_jaxpr"), "rev": ("while",)}
_ADDRESS = re.compile(r"0x[0-9a-f]+")


class Analysis(NamedTuple):
    """What JAX makes of a problem.

    Fields:
        value: the outputs, all in one row.
        jacobians: by the words for the way it was taken, a row for each direction of the outputs, a
            column for each of the inputs.
    """

    value: np.ndarray
    jacobians: dict[str, np.ndarray]


Run = Callable[[list[Any]], Analysis]


def analyst(problem: Problem, basis: Bases, ways: list[str]) -> Run:
    """The function that differentiates a problem at a point like its own; compiled where it can be.

    Args:
        problem: the problem.
        basis: the directions.
        ways: the ways to do it, of `MODES` and `BATCHED`.
    """
    into = leaves_of(basis.inputs, problem.point)
    each = one_by_one if problem.program is None else lax.map

    def run(point: list[Any], into: list[Any], outof: list[Any]) -> Any:
        def call(reals: list[Any]) -> list[Any]:  # a new one, to be traced anew
            return problem.call(reals)

        def push(dots: list[Any]) -> list[Any]:
            return jax.jvp(call, (point,), (dots,))[1]

        found: dict[str, Any] = {}
        if MODES["fwd"] in ways:
            found[MODES["fwd"]] = each(push, into)
        if BATCHED["fwd"] in ways:
            found[BATCHED["fwd"]] = jax.vmap(push)(into)
        if MODES["rev"] in ways or BATCHED["rev"] in ways:
            value, back = jax.vjp(call, point)

            def pull(dots: list[Any]) -> list[Any]:
                pairs = zip(dots, value, strict=True)
                return back([_jax.placed_like(dot, jax.typeof(x)) for dot, x in pairs])[0]

            if MODES["rev"] in ways:
                found[MODES["rev"]] = each(pull, outof)
            if BATCHED["rev"] in ways:
                found[BATCHED["rev"]] = jax.vmap(pull)(outof)
        else:
            value = call(point)
        return value, found

    compiled = run if problem.program is None else jax.jit(run, compiler_options=QUICKLY)
    like = problem.program.out_avals if problem.program else problem.call(problem.point)
    outof = leaves_of(basis.outputs, like)

    def analyse(point: list[Any]) -> Analysis:
        value, found = compiled(point, into, outof)
        matrices = {way: _matrix(way, leaves, basis) for way, leaves in found.items()}
        return Analysis(flat(value, 1)[0], matrices)

    return analyse


def _matrix(way: str, leaves: list[Any], basis: Bases) -> np.ndarray:
    forward = way in (MODES["fwd"], BATCHED["fwd"])
    rows = flat(leaves, len(basis.inputs if forward else basis.outputs))
    if forward:
        return basis.outputs @ rows.T if basis.fast else rows.T
    return rows @ basis.inputs.T if basis.fast else rows


def possible(problem: Problem, basis: Bases, ways: list[str], function: str) -> list[str]:
    """The ways JAX can go; a mode that it lacks for what the function is made of is left out.

    Raises:
        GradcheckError: no way is left, or one fails for another reason.
    """
    left, reasons = [], []
    kinds = _kinds(problem)
    for mode in MODES:
        for way in (MODES[mode], BATCHED[mode]):
            if way not in ways or (way == BATCHED[mode] and MODES[mode] not in left):
                continue
            error = _attempt(problem, basis, way)
            if error is None:
                left.append(way)
            elif way == MODES[mode] and kinds.intersection(_LACKS[mode]):
                reasons.append(error)
            else:
                advice = "; `batched=False` leaves it out" if way == BATCHED[mode] else ""
                raise GradcheckError(
                    f"`{function}` could not take the derivative in {way}{advice}:"
                    f" {type(error).__name__}: {error}"
                ) from error
    if not left:
        raise GradcheckError(
            f"`{function}` could not take the derivative in the modes asked for:"
            f" {type(reasons[0]).__name__}: {reasons[0]}"
        ) from reasons[0]
    return left


def _attempt(problem: Problem, basis: Bases, way: str) -> Exception | None:
    try:
        with explained:
            analyst(problem, basis, [way])(problem.point)
    except Exception as error:  # whatever a custom rule of the user's raises
        return error
    return None


def _kinds(problem: Problem) -> set[str]:
    if problem.program is None:
        return {*_LACKS["fwd"], *_LACKS["rev"]}
    return {compat.kind(eqn) for *_, eqn in equations(compat.open_up(problem.program))}


def traces_alike(problem: Problem) -> bool:
    """Whether the function gives the same program each time it is traced."""
    first, second = problem.program, traced(problem.call, problem.point)
    if first is None or second is None:
        return False
    texts = [_ADDRESS.sub("", str(program)) for program in (first, second)]
    return texts[0] == texts[1] and all(
        a is b or np.array_equal(a, b) for a, b in zip(first.consts, second.consts, strict=True)
    )
