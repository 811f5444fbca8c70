"""Derivatives as JAX takes them: forward and in reverse, one direction at a time and in batches."""

import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from ... import _jax
from ..._mistakes import explained
from ...errors import GradcheckError
from .problem import DOUBLE, Problem, traced
from .slopes import QUICKLY, Bases, eighths, flat, leaves_of, one_by_one

MODES = {"fwd": "forward mode", "rev": "reverse mode"}
BATCHED = {"fwd": "forward mode under `vmap`", "rev": "reverse mode under `vmap`"}
# What JAX has no derivative of in one mode, by design.
_LACKS = {"fwd": ("custom_vjp_call",), "rev": ("while",)}
_ADDRESS = re.compile(r"0x[0-9a-f]+")


class Analysis(NamedTuple):
    """What JAX makes of a problem.

    Fields:
        value: the outputs, all in one row.
        values: by mode, the outputs as they come with the derivative.
        jacobians: by mode, a row for each direction of the outputs and a column for each of the
            inputs.
        combined: by mode, a row for what the derivative makes of each combination of directions.
    """

    value: np.ndarray
    values: dict[str, np.ndarray]
    jacobians: dict[str, np.ndarray]
    combined: dict[str, np.ndarray]


Run = Callable[[list[Any]], Analysis]


def analyst(problem: Problem, basis: Bases, modes: list[str]) -> Run:
    """The function that differentiates a problem at a point like its own; compiled where it can be.

    Args:
        problem: the problem.
        basis: the directions.
        modes: the modes to do it in, of `MODES` and `BATCHED`.
    """
    like = _jax.output_types(problem.program) if problem.program else problem.call(problem.point)
    into = leaves_of(_with_combinations(problem, basis.inputs), problem.point)
    outof = leaves_of(_with_combinations(problem, basis.outputs), like)
    each = one_by_one if problem.program is None else lax.map

    def run(point: list[Any], into: list[Any], outof: list[Any]) -> Any:
        def call(reals: list[Any]) -> list[Any]:  # a new one, to be traced anew
            return problem.call(reals)

        def push(dots: list[Any]) -> list[Any]:
            return [*itertools.chain(*jax.jvp(call, (point,), (dots,)))]

        def alone(dots: list[Any], basis: np.ndarray) -> list[Any]:
            return [x[: len(basis)] for x in dots]

        found: dict[str, Any] = {}
        values: dict[str, Any] = {}
        if MODES["fwd"] in modes:
            both = each(push, into)
            values[MODES["fwd"]] = [x[0] for x in both[: len(like)]]
            found[MODES["fwd"]] = both[len(like) :]
        if BATCHED["fwd"] in modes:
            found[BATCHED["fwd"]] = jax.vmap(push)(alone(into, basis.inputs))[len(like) :]
        if MODES["rev"] in modes or BATCHED["rev"] in modes:
            value, back = jax.vjp(call, point)
            values[MODES["rev"]] = value

            def pull(dots: list[Any]) -> list[Any]:
                pairs = zip(dots, value, strict=True)
                return back([_jax.placed_like(dot, jax.typeof(x)) for dot, x in pairs])[0]

            if MODES["rev"] in modes:
                found[MODES["rev"]] = each(pull, outof)
            if BATCHED["rev"] in modes:
                found[BATCHED["rev"]] = jax.vmap(pull)(alone(outof, basis.outputs))
        return call(point), values, found

    compiled = run if problem.program is None else jax.jit(run, compiler_options=QUICKLY)

    def analyse(point: list[Any]) -> Analysis:
        value, values, found = compiled(point, into, outof)
        jacobians, combined = {}, {}
        for mode, leaves in found.items():
            here, there = sides(mode, basis)
            rows = flat(leaves, len(leaves[0])) if leaves else np.zeros((len(here), 0))
            rows = rows @ there.T if basis.fast else rows
            matrix, combined[mode] = rows[: len(here)], rows[len(here) :]
            jacobians[mode] = matrix.T if here is basis.inputs else matrix
        plain = {mode: flat(leaves, 1)[0] for mode, leaves in values.items()}
        return Analysis(flat(value, 1)[0], plain, jacobians, combined)

    return analyse


def sides(mode: str, basis: Bases) -> tuple[np.ndarray, np.ndarray]:
    """The directions that a mode starts from, and those that it arrives in."""
    forward = mode in (MODES["fwd"], BATCHED["fwd"])
    return (basis.inputs, basis.outputs) if forward else (basis.outputs, basis.inputs)


def combinations(problem: Problem, count: int) -> dict[str, np.ndarray]:
    """Factors of `count` directions for some combinations of them, by what is said of each.

    A derivative is linear in the direction. Rules that are not square it, clip it, add to it or
    take its absolute value; so the factors have both signs, and are none, small, moderate and
    large. They are eighths times powers of two, which a rule may round without a loss.
    """
    draw = np.random.default_rng(3)
    far = 40 if problem.eps <= DOUBLE else 3  # no more, or float16 overflows
    some = eighths(draw, count)
    rows = {"zeros": np.zeros(count), "random numbers": some, "their negatives": -some}
    for power in (far // 3, far, -far // 3, -far):
        rows[f"random numbers times 2**{power}"] = 2.0**power * eighths(draw, count)
    return rows


def _with_combinations(problem: Problem, directions: np.ndarray) -> np.ndarray:
    factors = combinations(problem, len(directions)).values()
    return np.concatenate([directions, np.stack([*factors]) @ directions])


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
