"""What is checked of a function and its derivatives, one check after another: `check`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import GradcheckError
from . import report
from .analysis import (
    BATCHED,
    MODES,
    Analysis,
    Run,
    analyst,
    combinations,
    possible,
    sides,
    traces_alike,
)
from .problem import DOUBLE, Problem, widened
from .slopes import Bases, Samples, array_like, bases, extrapolated, sampler
from .verdict import (
    NUMERICAL,
    TRUST,
    Comparison,
    Mismatch,
    mismatches,
    nonlinear,
    rounding,
    sizes,
    tolerances,
)

NUDGES = 3


class Task(NamedTuple):
    """What was asked for; `modes` are `MODES` and `BATCHED` to take derivatives in."""

    function: str
    eps: float | None
    atol: float | None
    rtol: float | None
    modes: list[str]
    fast: bool
    nondet_tol: float


class _Measured(NamedTuple):
    """Derivatives by finite differences.

    Fields:
        slopes: a row for each direction of the outputs, a column for each of the inputs.
        errors: the estimated error of each.
        sample: the function in the direction of a given number.
    """

    slopes: np.ndarray
    errors: np.ndarray
    sample: Callable[[int], Samples]


class _Scatter(NamedTuple):
    """How far a last place of the arguments moves a result and, in each row, the derivatives."""

    value: np.ndarray
    jacobians: dict[str, np.ndarray]


class _Round(NamedTuple):
    """A problem in one precision, its derivatives, and by how much rounding scatters them."""

    problem: Problem
    analysis: Analysis
    scatter: _Scatter

    @property
    def noise(self) -> np.ndarray:
        """By how much rounding may change each output."""
        return TRUST * self.scatter.value

    def noises(self, mode: str) -> np.ndarray:
        """By how much rounding may change the derivatives in a mode, for each row."""
        return TRUST * self.scatter.jacobians[mode]

    @property
    def coarse(self) -> bool:
        """Whether results may be as far off as the noise, beside all else."""
        return self.problem.eps > DOUBLE


def check(problem: Problem, task: Task) -> bool:
    """`True` where nothing is wrong; raises at the first check that finds something."""
    basis = bases(problem, task.fast)
    modes, analyse, first = _analysed(problem, basis, task)
    again = analyse if traces_alike(problem) else analyst(problem, basis, modes)
    found = _repeated(problem, basis, first, again(problem.point), task)
    if found:
        raise report.error(task.function, problem, basis, found, [], None)
    own = _Round(problem, first, _scatter(problem, analyse, first))
    wide = _wide(own, basis, task, modes) if own.coarse else None
    rounds, measured = wide or ([own], _measure(problem, basis, task))
    for part in rounds:
        _same_results(part, basis, task)
        found, agreeing = _disagreeing(part, basis, measured, task)
        if found:
            samples = None if found[0].column < 0 else measured.sample(found[0].column)
            raise report.error(task.function, problem, basis, found, agreeing, samples)
        _linear(part, basis, task)
    return True


def _analysed(problem: Problem, basis: Bases, task: Task) -> tuple[list[str], Run, Analysis]:
    try:
        analyse = analyst(problem, basis, task.modes)
        return task.modes, analyse, analyse(problem.point)
    except GradcheckError:
        raise
    except Exception:  # told apart mode by mode, where it costs something
        problem.call(problem.point)  # an error of the function's own is raised as it is
        modes = possible(problem, basis, task.modes, task.function)
    analyse = analyst(problem, basis, modes)
    return modes, analyse, analyse(problem.point)


def _repeated(
    problem: Problem, basis: Bases, first: Analysis, again: Analysis, task: Task
) -> list[Mismatch]:
    """The derivatives that differ when they are computed a second time; the result must not."""
    with np.errstate(invalid="ignore"):
        off = np.where(first.value == again.value, 0.0, np.abs(first.value - again.value))
    off = np.where(np.isnan(first.value) & np.isnan(again.value), 0.0, off)
    if not np.all(off <= task.nondet_tol):
        at = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        raise GradcheckError(
            f"`{task.function}` got a function whose result differs from run to run, by more than"
            f" nondet_tol={task.nondet_tol}: entry {at} of all results was"
            f" {first.value[at]:.12g}, then {again.value[at]:.12g}; draw random numbers from a"
            " `jax.random.key` that is an argument or a constant"
        )
    found = []
    for mode, matrix in first.jacobians.items():
        other = again.jacobians[mode]
        same = np.where(np.isnan(matrix) & np.isnan(other), matrix, other)
        allowed = np.full(matrix.shape, task.nondet_tol)
        names = f"{mode}, run once", "the same, run again"
        both = Comparison(names, np.nan_to_num(matrix), np.nan_to_num(same), allowed)
        found += mismatches(problem, basis, both)
    return found


def _scatter(problem: Problem, analyse: Run, first: Analysis) -> _Scatter:
    """Runs a problem where the last places of its arguments differ.

    No derivative can be better than what comes of it, whatever the rule.
    """
    draw, moved = np.random.default_rng(1), []
    for _ in range(NUDGES):
        point = [_nudged(x, draw, problem.eps <= DOUBLE) for x in problem.point]
        moved.append(analyse(point))
    return _Scatter(
        _spread([m.value for m in moved], first.value),
        {
            mode: np.max(_spread([m.jacobians[mode] for m in moved], matrix), axis=1, keepdims=True)
            for mode, matrix in first.jacobians.items()
        },
    )


def _nudged(x: Any, draw: Any, zeros: bool) -> Any:
    """An array with its last places changed; those of `zeros`, too, as if they were of its size."""
    wide = np.asarray(x).astype(np.float64)
    size = np.abs(wide)
    if zeros:
        size = np.where(size == 0, np.max(size, initial=0.0) or 1.0, size)
    moved = wide + float(jnp.finfo(x.dtype).eps) * size * draw.choice([-1, 1], x.shape)
    return x if x.weak_type else array_like(moved, x)


def _spread(moved: list[np.ndarray], first: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        far = np.max([np.abs(m - first) for m in moved], axis=0)
    return np.where(np.isfinite(far), far, 0.0)


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def _wide(
    own: _Round, basis: Bases, task: Task, modes: list[str]
) -> tuple[list[_Round], _Measured] | None:
    """The rule in float64, then in its own dtype; `None` where the function is another there."""
    plain = [mode for mode in modes if mode in MODES.values()]
    with _float64():
        try:
            wide = widened(own.problem)
            if wide is None or wide.eps >= own.problem.eps:
                return None
            analyse = analyst(wide, basis, plain)
            analysis = analyse(wide.point)
            part = _Round(wide, analysis, _scatter(wide, analyse, analysis))
        except Exception:  # rules, too, may be written for one dtype
            return None
        if not _same_values(own, analysis.value):
            return None
        measured = _measure(wide, basis, task)

    def sample(column: int) -> Samples:
        with _float64():
            return measured.sample(column)

    return [part, own], measured._replace(sample=sample)


def _same_values(own: _Round, wide: np.ndarray) -> bool:
    """Whether the function has the same values in float64 as in its own dtype, but for rounding.

    One that draws random numbers has others.
    """
    value = own.analysis.value
    size: Any = np.max(np.abs(np.where(np.isfinite(wide), wide, 0.0)), initial=0.0)
    allowed = np.sqrt(own.problem.eps) * size + own.noise
    with np.errstate(invalid="ignore"):
        return bool(np.all((value == wide) | (np.abs(value - wide) <= allowed)))


def _measure(problem: Problem, basis: Bases, task: Task) -> _Measured:
    sample = sampler(problem, basis, task.eps)
    pairs = [extrapolated(sample(number)) for number in range(len(basis.inputs))]
    slopes, errors = (np.stack(part, axis=1) for part in zip(*pairs, strict=True))
    return _Measured(slopes, errors, sample)


def _disagreeing(
    part: _Round, basis: Bases, measured: _Measured, task: Task
) -> tuple[list[Mismatch], list[str]]:
    """What differs in one precision, and the checks that found nothing."""
    found: list[Mismatch] = []
    agreeing = []
    for comparison in _comparisons(part, basis, measured, task):
        new = mismatches(part.problem, basis, comparison)
        found += new
        if not new:
            agreeing.append(" against ".join(comparison.names))
    return found, agreeing


def _comparisons(
    part: _Round, basis: Bases, measured: _Measured, task: Task
) -> Iterator[Comparison]:
    value, jacobians, eps = part.analysis.value, part.analysis.jacobians, part.problem.eps
    plain = [mode for mode in MODES.values() if mode in jacobians]

    # Rounding at the shortest step alone may be half as much, where nothing depends on the input.
    scale = 2 * TRUST * np.sqrt(eps) * sizes(basis, value)

    def allowed(mode: str, wanted: np.ndarray, errors: Any = 0.0) -> np.ndarray:
        noise = part.noises(mode)
        room = tolerances(
            basis, eps, value, wanted, task.atol, task.rtol, noise + TRUST**2 * errors
        )
        return room + TRUST * errors + (noise if part.coarse else 0.0)

    for mode in plain:
        room = allowed(mode, measured.slopes, measured.errors)
        yield Comparison(
            (mode, NUMERICAL), jacobians[mode], measured.slopes, room, measured.errors, scale
        )
    if len(plain) == 2:
        forward, reverse = (jacobians[mode] for mode in plain)
        room = allowed(plain[0], reverse) + allowed(plain[1], reverse)
        yield Comparison((plain[0], plain[1]), forward, reverse, room)
    for key, mode in BATCHED.items():
        if mode in jacobians:
            one = jacobians[MODES[key]]
            yield Comparison((mode, MODES[key]), jacobians[mode], one, allowed(mode, one))


def _same_results(part: _Round, basis: Bases, task: Task) -> None:
    """Refuses a rule whose result is another than that of the function it stands for."""
    problem, value = part.problem, part.analysis.value
    size = np.abs(np.where(np.isfinite(value), value, 0.0))
    parts = np.split(size, np.cumsum([leaf.size for leaf in problem.outputs])[:-1])
    largest = np.concatenate([np.full(len(x), np.max(x, initial=0.0)) for x in parts])
    relative = np.sqrt(problem.eps) if task.rtol is None else task.rtol
    room = rounding(problem.eps, largest, np.maximum(1.0, size), part.noise) + relative * size
    room += task.nondet_tol + (part.noise if part.coarse else 0.0)
    for mode, other in part.analysis.values.items():
        with np.errstate(invalid="ignore"):
            close = (value == other) | (np.abs(value - other) <= room)
        same = close | (np.isnan(value) & np.isnan(other))
        if not np.all(same):
            raise report.other_result(task.function, problem, mode, value, other, ~same)


def _linear(part: _Round, basis: Bases, task: Task) -> None:
    """Refuses a derivative of a combination of directions that is none of their derivatives."""
    problem, eps = part.problem, part.problem.eps
    limit = min(float(jnp.finfo(leaf.dtype).max) for leaf in problem.inputs) / 16
    for mode in MODES.values():
        if mode not in part.analysis.combined:
            continue
        forward = sides(mode, basis)[0] is basis.inputs
        jacobian, noise = part.analysis.jacobians[mode], part.noises(mode)
        noise = np.broadcast_to(noise, jacobian.shape)
        jacobian, noise = (x.T if forward else x for x in (jacobian, noise))
        said = combinations(problem, len(jacobian))
        factors = np.stack([*said.values()])
        with np.errstate(all="ignore"):
            wanted, size = factors @ jacobian, np.abs(factors) @ np.abs(jacobian)
        noise = np.abs(factors) @ noise
        room = rounding(eps, size, 0.0, noise) + (noise if part.coarse else 0.0)
        free = (task.atol or 0.0) + task.nondet_tol
        room += (task.rtol or 0.0) * size + free * np.sum(np.abs(factors), 1)[:, None]
        got = np.where(size < limit, part.analysis.combined[mode], wanted)
        names = f"{mode} of all", "the sum of its parts"
        comparison = Comparison(names, got, wanted, room)
        found = nonlinear(problem, basis, mode, comparison, [*said])
        if found:
            raise report.not_linear(task.function, problem, found)
