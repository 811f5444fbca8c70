"""`with_torch`: runs a JAX function and the PyTorch function that it ports, and compares them.

Both run on the same inputs with the same gradient of the output. Compared are the outputs, the
gradients of all inputs and parameters, and value and gradient of every intermediate that has a name
on both sides.

Sharp edges. JAX reads the memory of a module's parameters, so the torch function must not change
them through `.data`. `torch.autograd.grad` takes the gradients; it leaves every `.grad` alone and
does not run hooks that wait for the accumulation into it. Random numbers go unnoticed that are
drawn on a GPU or from a generator of the function's own.
"""

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._calls import parameter_names
from ..._describe import describe
from ..._extras import need
from ...errors import ParityError, UsageError
from ..tolerances import Tolerance
from .comparison import Comparison
from .inputs import take_inputs
from .jax_run import JaxFunction
from .parameters import NameRules, take_parameters
from .report import ParityReport

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
    buffers: bool = False,
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
        jax_fn: a function of the inputs; with `params`, of the parameters and the inputs.
        inputs: trees of arrays (NumPy, JAX, torch) of any dtype, and of Python numbers. Floats
            and complexes are differentiated; whatever else is no array goes to both sides as it is.
        params: the `torch.nn.Module` whose parameters and buffers `jax_fn` gets as JAX arrays, or a
            dict of arrays by name.
        names: where JAX has each parameter. A function from the dict of JAX arrays by torch name
            to what `jax_fn` takes; or rules `{torch name: JAX name}`, `{torch name: function}`,
            `{torch name: (JAX name, function)}`, with `/` in a JAX name for a dict in a dict, and
            patterns for functions: `{"*.weight": lambda w: w.T}`. JAX is differentiated through
            it, so that gradients are compared under PyTorch's names, in PyTorch's layout.
        modules: whether the submodules' outputs are captured, by qualified name; or patterns for
            those that are. `blocks.0.norm` is `blocks/0/norm` in JAX.
        intermediates: rules like those of `names` for intermediates; a function here rearranges
            (transposes, reshapes, slices) PyTorch's NumPy array to JAX's layout, of values and
            gradients alike.
        buffers: whether the module's buffers after the call are compared too, running statistics
            for instance. `jax_fn` then returns a pair: its output, and a dict of them by torch's
            names. The module itself keeps those that it had.
        gradient: the gradient of the output, a tree like it. By default 1 for one real scalar, and
            random numbers otherwise.
        rtol: the allowed difference, relative to PyTorch's number. By default the dtypes decide.
        atol: the allowed difference besides. Where either is given, nothing else is allowed.
        strict: whether names that one side lacks, and dtypes of unequal width, are differences
            and not only notes.
        jit: whether `jax_fn` is compiled. If not, it may look at its values where it has no tags.
        n: on how many further inputs to compare, of the same shapes and dtypes: kinks, zeros,
            ties, large and tiny magnitudes, by turns.
        seed: the seed of the random gradient and of the first further input; each further input
            has the next seed.

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
    run again in another precision and on inputs and parameters moved by one unit in the last place.
    Eight times the change that this makes is allowed too, so that a gradient that is all rounding
    is not taken for a fault.

    >>> import pytest; torch = pytest.importorskip("torch")
    >>> import jax.numpy as jnp
    >>> from funcgrad.compare import with_torch
    >>> report = with_torch(lambda x: torch.tanh(x).sum(), lambda x: jnp.sum(jnp.tanh(x)), 0.5)
    >>> report.ok, report.row("x").grad.torch == report.row("x").grad.jax
    (True, True)
    """
    _check_call("with_torch", torch_fn, jax_fn, n, seed, rtol, atol)
    parameters = take_parameters(params, names, torch_fn)
    module = _module(params, torch_fn, modules, buffers)
    left_out = parameters is None and module is not None and any(True for _ in module.parameters())
    hint = f"; {_GIVES_PARAMETERS}" if left_out else ""
    given = take_inputs(inputs, _input_names(jax_fn, len(inputs), skip=parameters is not None))
    comparison = Comparison(
        torch_fn,
        JaxFunction(jax_fn, given, parameters, names, jit, hint, buffers),
        parameters,
        given,
        module,
        (modules,) if isinstance(modules, str) else modules,
        buffers,
        NameRules(intermediates, "intermediates"),
        gradient,
        Tolerance(rtol, atol, strict),
        hint,
    )
    report, scales = comparison.run(given.arrays, seed, {})
    if left_out:
        note = f"the module's parameters are not compared; {_GIVES_PARAMETERS}"
        report = report._replace(notes=(*report.notes, note))
    return report._replace(cases=tuple(comparison.run_random(seed + i, scales) for i in range(n)))


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
        ParityError: they differ. It is an `AssertionError`; its message is the report, which it
            also holds as `.report`.

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


def _module(params: Any, torch_fn: Any, modules: Any, buffers: Any) -> Any:
    import torch

    for one in (params, torch_fn):
        if isinstance(one, torch.nn.Module):
            return one
    owner = getattr(torch_fn, "__self__", None)
    if isinstance(owner, torch.nn.Module):
        return owner
    if modules or buffers:
        raise UsageError(
            f"`with_torch` got {f'{modules=}' if modules else f'{buffers=}'} without a module, and"
            " wants one as `torch_fn` or as `params`"
        )
    return None


def _input_names(jax_fn: Any, count: int, *, skip: bool) -> list[str]:
    """The inputs' names: those of the function's parameters, `input[i]` where it has none."""
    named = parameter_names(jax_fn)[0][skip:]
    return [named[i] if i < len(named) else f"input[{i}]" for i in range(count)]
