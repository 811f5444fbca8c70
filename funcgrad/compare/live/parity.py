"""Compares a JAX function with the PyTorch function it ports, live: values, gradients, first fault.

Both run on the same inputs with the same gradient of the output. What is compared are the outputs,
the gradients of all inputs and parameters, and value and gradient of every intermediate that has
the same name on both sides.

Sharp edges. JAX reads the memory of a module's parameters, so the torch function must not change
them through `.data`. A gradient is taken by `torch.autograd.grad`, which leaves every `.grad` alone
and does not run hooks that wait for the accumulation into it. Random numbers from a generator of
the function's own, or drawn on a GPU, are not noticed.
"""

import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from funcgrad._describe import describe
from funcgrad._extras import need
from funcgrad._trees import takes_gradient
from funcgrad.errors import UsageError

from ...errors import ParityError
from ..tolerances import Tolerance, magnitude
from .capture import Forward, backward, forward, sources
from .inputs import (
    STYLES,
    Inputs,
    by_path,
    is_tensor,
    jittered,
    random_like,
    said_call,
    take_apart,
    to_jax,
    to_numpy,
    to_torch,
)
from .pairs import diverge, judge_pairs, pair_intermediates, pair_leaves, pair_outputs, scales_of
from .port import Port, Ran
from .report import Case, ParityReport
from .seeds import as_tensors, check_structure, make_seeds
from .state import Renames, State, take_state

_JITTERS = (1, 2)
_GIVES_PARAMETERS = (
    "params=module gives the module's parameters to the JAX function, as its first argument"
)


def with_torch(
    torch_fn: Callable[..., Any],
    jax_fn: Callable[..., Any],
    *inputs: Any,
    params: Any = None,
    names: Any = None,
    modules: bool | str | Sequence[str] = False,
    intermediates: Mapping[str, Any] | None = None,
    gradient: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    strict: bool = False,
    jit: bool = True,
    n: int = 0,
    seed: int = 0,
) -> ParityReport:
    """Runs a torch function and the JAX function that ports it on the same inputs, and compares.

    Compared are the outputs, the gradients of every floating and complex input and parameter, and
    value and gradient of every intermediate named on both sides: in PyTorch with
    `funcgrad.compare.capture` or as a submodule's output, in JAX with `funcgrad.retain_grad`.

    Args:
        torch_fn: a function of the inputs, or a module. It gets tensors of its own that require a
            gradient. Called with the parameters first where `params` is a dict.
        jax_fn: a function of the inputs, with `params` of the parameters and the inputs.
        inputs: trees of arrays (NumPy, JAX, torch) of any dtype, and of Python numbers. Floats
            and complexes are differentiated; all else that is no array goes to both as it is.
        params: the `torch.nn.Module` whose parameters and buffers `jax_fn` gets as JAX arrays, or a
            dict of arrays by name.
        names: where JAX has which parameter: a function from the dict of JAX arrays by torch name
            to what `jax_fn` takes; or rules `{torch name: JAX name}`, `{torch name: function}`,
            `{torch name: (JAX name, function)}`, with `/` in a JAX name for a dict in a dict, and
            patterns for functions: `{"*.weight": lambda w: w.T}`. JAX is differentiated through
            it, so that gradients are compared under PyTorch's names, in PyTorch's layout.
        modules: whether the submodules' outputs are captured by qualified name; or which, by
            patterns. `blocks.0.norm` is `blocks/0/norm` in JAX.
        intermediates: rules like those of `names` for intermediates; a function here rearranges
            (transposes, reshapes, slices) PyTorch's NumPy array to JAX's layout, of values and
            gradients alike.
        gradient: the gradient of the output, a tree like it; 1 for one real scalar and random
            numbers otherwise where it is not given.
        rtol: relative to PyTorch's number, what to allow instead of what the dtypes say.
        atol: what to allow besides; with either given, nothing else is allowed for.
        strict: whether names that one side lacks, and dtypes of unequal width, are differences
            and not only notes.
        jit: whether `jax_fn` is compiled. If not, it may look at its values where it has no tags.
        n: how many further inputs to compare on, of the shapes and dtypes of the given: kinks,
            zeros, ties, large and tiny magnitudes, by turns.
        seed: the seed of the first of them, and of the random gradient; each has the next seed.

    Returns:
        The report: rows in forward order, the first divergence forward and backward.
        `print(report)` shows it, `report.ok` is the verdict.

    Raises:
        UsageError: an argument of a wrong form; double precision while JAX is in single; a torch
            function that draws random numbers or changes its parameters in place.
        TreeError: outputs of different structure, or a `gradient` that does not fit them.
        MissingExtraError: torch is not installed.

    Floats may differ by a few roundings relative to the largest number of the array: 16 units in
    the last place in single and double precision, 8 in half. Where more differs, JAX's function is
    run again in another precision and on inputs and parameters moved by one unit in the last place,
    and eight times what that changes is allowed too: so a gradient that is all rounding is not
    taken for a fault.

    >>> import pytest; torch = pytest.importorskip("torch")
    >>> import jax.numpy as jnp
    >>> from funcgrad.compare import with_torch
    >>> report = with_torch(lambda x: torch.tanh(x).sum(), lambda x: jnp.sum(jnp.tanh(x)), 0.5)
    >>> report.ok, report.row("x").grad.torch == report.row("x").grad.jax
    (True, True)
    """
    _check_call("with_torch", torch_fn, jax_fn, n, seed, rtol, atol)
    state = take_state(params, names, torch_fn)
    module = _module(params, torch_fn, modules)
    apart = state is None and module is not None and any(True for _ in module.parameters())
    hint = f"; {_GIVES_PARAMETERS}" if apart else ""
    first = take_apart(inputs, _input_names(jax_fn, len(inputs), skip=state is not None))
    task = _Task(
        torch_fn,
        Port(jax_fn, first, state, names, jit, hint),
        state,
        first,
        module,
        (modules,) if isinstance(modules, str) else modules,
        Renames(intermediates, "intermediates"),
        gradient,
        Tolerance(rtol, atol, strict),
        hint,
    )
    report, scales = _compared(task, first.arrays(), seed, {})
    if apart:
        note = f"the module's parameters are not compared; {_GIVES_PARAMETERS}"
        report = report._replace(notes=(*report.notes, note))
    return report._replace(cases=tuple(_case(task, seed + i, scales) for i in range(n)))


def assert_matches_torch(
    torch_fn: Callable[..., Any], jax_fn: Callable[..., Any], *inputs: Any, **options: Any
) -> ParityReport:
    """Raises unless the JAX function matches the torch function; for tests.

    Args:
        torch_fn: as for [`with_torch`][funcgrad.compare.with_torch].
        jax_fn: as for `with_torch`.
        inputs: as for `with_torch`.
        options: the keywords of `with_torch`.

    Returns:
        The report.

    Raises:
        ParityError: they differ; an `AssertionError` whose message is the report, which it also
            holds as `.report`.

    >>> import pytest; torch = pytest.importorskip("torch")
    >>> import jax.numpy as jnp
    >>> from funcgrad.compare import assert_matches_torch
    >>> assert_matches_torch(torch.sin, jnp.sin, jnp.arange(3.0), n=7).ok
    True
    """
    report = with_torch(torch_fn, jax_fn, *inputs, **options)
    if not report.ok:
        raise ParityError(report)
    return report


def _check_call(
    function: str, torch_fn: Any, jax_fn: Any, n: Any, seed: Any, rtol: Any, atol: Any
) -> None:
    need(["torch"], f"`{function}`", "torch")
    for fun, name in ((torch_fn, "torch_fn"), (jax_fn, "jax_fn")):
        if not callable(fun):
            raise UsageError(
                f"`{function}` got {describe(fun)} as `{name}`, and wants a function; the call is"
                f" {function}(torch_fn, jax_fn, *inputs)"
            )
    for number, name in ((n, "n"), (seed, "seed")):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise UsageError(f"`{function}` got {name}={number!r}, and wants an int, 0 or more")
    for number, name in ((rtol, "rtol"), (atol, "atol")):
        if number is not None and not (isinstance(number, numbers.Real) and float(number) >= 0):
            raise UsageError(f"`{function}` got {name}={number!r}, and wants a number, 0 or more")


def _module(params: Any, torch_fn: Any, modules: Any) -> Any:
    import torch

    for one in (params, torch_fn):
        if isinstance(one, torch.nn.Module):
            return one
    if modules:
        raise UsageError(
            f"`with_torch` got modules={modules!r} without a module, and wants one as `torch_fn` or"
            " as `params`"
        )
    return None


def _input_names(jax_fn: Any, count: int, *, skip: bool) -> list[str]:
    """The inputs' names: those of the function's parameters, `input[i]` where it has none."""
    try:
        found = list(inspect.signature(jax_fn).parameters.values())
    except (TypeError, ValueError):
        found = []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p.name for p in found if p.kind in positional][skip:]
    return [named[i] if i < len(named) else f"input[{i}]" for i in range(count)]


class _Task(NamedTuple):
    """One call of `with_torch`, apart from the numbers of the inputs."""

    torch_fn: Callable[..., Any]
    port: Port
    state: State | None
    inputs: Inputs
    module: Any
    modules: Any
    intermediates: Renames
    gradient: Any
    tolerance: Tolerance
    hint: str


def _case(task: _Task, seed: int, scales: Mapping[Any, float]) -> Case:
    """The comparison on the random input of one seed."""
    examples = task.inputs.arrays()
    arrays = [random_like(leaf, seed, i) for i, leaf in enumerate(examples)]
    # Where large inputs saturate an activation its derivative is all rounding, and what flows back
    # through it; that rounding is relative to the gradients there were without saturation.
    growth = max((_growth(*pair) for pair in zip(arrays, examples, strict=True)), default=1.0)
    scales = {where: scale * growth for where, scale in scales.items()}
    style = STYLES[seed % len(STYLES)]
    try:
        return Case(seed, style, _compared(task, arrays, seed, scales)[0])
    except Exception as error:
        error.add_note(f"`with_torch` ran the further input of seed {seed} ({style})")
        raise


def _growth(array: Any, example: Any) -> float:
    """How many times larger an input is than the example, at least once."""
    if not takes_gradient(to_numpy(example)):
        return 1.0
    return max(1.0, magnitude(to_numpy(array)) / (magnitude(to_numpy(example)) or 1.0))


def _compared(
    task: _Task, arrays: list[Any], seed: int, scales: Mapping[Any, float]
) -> tuple[ParityReport, dict[Any, float]]:
    """Run both sides on these inputs, and compare; beside it the magnitudes of gradients."""
    port = task.port
    ours = _parameters(task.state) + [to_jax(leaf) for leaf in arrays]
    run = _run_torch(task, arrays)
    out, pullback = port.forward(ours)
    check_structure(run.out, out)
    theirs = {path: to_numpy(leaf) for path, leaf in run.out.items()}
    seeds, notes = make_seeds(theirs, by_path(out), task.gradient, seed)
    leaf_grads, event_grads = backward(run, as_tensors(seeds, run.out))
    ran = port.backward(out, pullback, seeds)

    def rounded() -> list[tuple[Ran, float]]:
        moved = [[jittered(leaf, i) for leaf in ours] for i in _JITTERS]
        runs = [(port.backward(*port.forward(leaves), seeds), 1.0) for leaves in moved]
        return runs + port.in_other_precision(ours, seeds)

    named, only_torch, only_jax = pair_intermediates(task.intermediates, run, event_grads, ran)
    flow = sources(run, {int(place) for pair in named for place in pair.places})
    pairs = [*pair_leaves(_names(task), run, leaf_grads, ran, flow), *named]
    pairs.sort(key=lambda pair: pair.places[0])
    pairs += pair_outputs(run, ran)
    judged = judge_pairs(pairs, task.tolerance, ran, rounded, scales)
    first, last = diverge(judged, flow)
    report = ParityReport(
        tuple(one.row for one in judged),
        first,
        last,
        tuple(only_torch),
        tuple(only_jax),
        (*notes, *_without_gradient(task, run, seeds), *port.notes),
        task.tolerance.strict,
    )
    return report, scales_of(pairs)


def _parameters(state: State | None) -> list[Any]:
    """Parameters and buffers as JAX arrays; buffers copied, since modules change them in place."""
    if state is None:
        return []
    kept = zip(state.tensors, state.kinds, strict=True)
    return [to_jax(t.clone() if what == "buffer" else t) for t, what in kept]


def _names(task: _Task) -> list[tuple[str, str]]:
    """Name and kind of every leaf."""
    state = task.state
    before = list(zip(state.names, state.kinds, strict=True)) if state else []
    return before + [(name, "input") for name in task.inputs.names]


def _run_torch(task: _Task, arrays: list[Any]) -> Forward:
    state = task.state
    stored = state.tensors if state else []
    device = next((leaf.device for leaf in stored if is_tensor(leaf)), None)
    own = [to_torch(leaf, device) for leaf in arrays]
    args = task.inputs.join(own)
    if state is not None and state.called:
        stored = [to_torch(leaf, device) for leaf in stored]
        args = (state.filled(stored), *args)

    def called(*args: Any) -> Any:
        with said_call("torch", args, task.hint):
            return task.torch_fn(*args)

    return forward(called, args, [*stored, *own], task.module, task.modules)


def _without_gradient(task: _Task, run: Forward, seeds: Mapping[str, Any] | None) -> list[str]:
    """Notes on floats that take no gradient in PyTorch."""
    why = "requires no gradient in PyTorch"
    frozen = [
        f"{name} {why}; its gradient is not compared"
        for (name, what), leaf in zip(_names(task), run.leaves, strict=True)
        if what == "parameter" and leaf.is_floating_point() and not leaf.requires_grad
    ]
    if not any(leaf.requires_grad for leaf in run.leaves):
        return frozen
    return frozen + [
        f"output{path} {why}: nothing flows back from it there"
        for path in seeds or ()
        if not (is_tensor(run.out[path]) and run.out[path].requires_grad)
    ]
