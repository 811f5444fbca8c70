"""One call of `with_torch`: runs both functions, pairs their arrays, judges and reports."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

from ..._leaves import takes_gradient
from ..tolerances import Tolerance, magnitude
from .cotangents import as_tensors, check_structure, make_cotangents
from .divergence import diverge
from .inputs import (
    STYLES,
    Inputs,
    by_path,
    explained_call,
    is_tensor,
    jittered,
    random_like,
    to_jax,
    to_numpy,
    to_torch,
)
from .jax_run import JaxFunction, JaxRun
from .pairs import (
    ArrayPair,
    judge_pairs,
    pair_intermediates,
    pair_leaves,
    pair_outputs,
    scales_of,
)
from .parameters import NameRules, Parameters
from .report import ParityReport, RandomCase
from .torch_run import TorchRun, gradients, run_torch, sources, without_derivative

_JITTERS = (1, 2)


class Comparison(NamedTuple):
    """A call of `with_torch`, apart from the numbers of the inputs."""

    torch_fn: Callable[..., Any]
    jax_fn: JaxFunction
    parameters: Parameters | None
    inputs: Inputs
    module: Any
    modules: Any
    buffers: bool
    intermediates: NameRules
    gradient: Any
    tolerance: Tolerance
    hint: str

    def run(
        self, arrays: list[Any], seed: int, scales: Mapping[Any, float]
    ) -> tuple[ParityReport, dict[Any, float]]:
        """Run both sides on these inputs and compare them; return the gradients' magnitudes too.

        Args:
            arrays: the inputs that both sides get as arrays.
            seed: the seed of the random gradient, where one is needed.
            scales: as in `judge_pairs`.
        """
        jax_fn = self.jax_fn
        ours = _parameters(self.parameters) + [to_jax(leaf) for leaf in arrays]
        run = self._run_torch(arrays)
        out, pullback = jax_fn.forward(ours)
        check_structure(run.out, out)
        theirs = {path: to_numpy(leaf) for path, leaf in run.out.items()}
        cotangents, notes = make_cotangents(theirs, by_path(out), self.gradient, seed)
        leaf_grads, captured_grads = gradients(run, as_tensors(cotangents, run.out))
        ran = jax_fn.backward(out, pullback, cotangents)

        @cache
        def rounded() -> list[tuple[JaxRun, float]]:
            moved = [[jittered(leaf, i) for leaf in ours] for i in _JITTERS]
            runs = [(jax_fn.backward(*jax_fn.forward(one), cotangents), 1.0) for one in moved]
            return runs + jax_fn.in_other_precision(ours, cotangents)

        named, only_torch, only_jax = pair_intermediates(
            self.intermediates, run, captured_grads, ran
        )
        flow = sources(run, {int(place) for pair in named for place in pair.places})

        def paired(named: list[ArrayPair], ran: JaxRun) -> list[ArrayPair]:
            pairs = [*pair_leaves(self._leaf_names(), run, leaf_grads, ran, flow), *named]
            return [*sorted(pairs, key=lambda pair: pair.places[0]), *pair_outputs(run, ran)]

        def agrees(forward: tuple[Any, Any]) -> bool:
            other = jax_fn.backward(*forward, cotangents)
            named, *_ = pair_intermediates(self.intermediates, run, captured_grads, other)
            pairs = paired(named, other)
            judged = judge_pairs(pairs, self.tolerance, ran, rounded, scales)
            return all(one.row.ok for one in judged)

        pairs = paired(named, ran)
        judged = judge_pairs(pairs, self.tolerance, ran, rounded, scales)
        forward, backward = diverge(judged, flow)
        at_a_kink = forward is None and backward is not None
        report = ParityReport(
            tuple(one.row for one in judged),
            forward,
            backward,
            tuple(only_torch),
            tuple(only_jax),
            (
                *notes,
                *self._without_gradient(run, cotangents),
                *self._changed(run),
                *jax_fn.notes,
            ),
            self.tolerance.strict,
            conventions=jax_fn.advice(ours, agrees) if at_a_kink else (),
        )
        return report, scales_of(pairs)

    def run_random(self, seed: int, scales: Mapping[Any, float]) -> RandomCase:
        """The comparison on the random input of one seed."""
        examples = self.inputs.arrays
        arrays = [random_like(leaf, seed, i) for i, leaf in enumerate(examples)]
        # Where large inputs saturate an activation, its derivative is all rounding, and so is what
        # flows back through it. That rounding is relative to the gradients without saturation.
        growth = max((_growth(*pair) for pair in zip(arrays, examples, strict=True)), default=1.0)
        scales = {where: scale * growth for where, scale in scales.items()}
        style = STYLES[seed % len(STYLES)]
        try:
            return RandomCase(seed, style, self.run(arrays, seed, scales)[0])
        except Exception as error:
            error.add_note(f"`with_torch` ran the further input of seed {seed} ({style})")
            raise

    def _leaf_names(self) -> list[tuple[str, str]]:
        """Name and kind of every parameter and input."""
        own = self.parameters
        before = list(zip(own.names, own.kinds, strict=True)) if own else []
        return before + [(name, "input") for name in self.inputs.names]

    def _run_torch(self, arrays: list[Any]) -> TorchRun:
        parameters = self.parameters
        stored = parameters.tensors if parameters else []
        device = next((leaf.device for leaf in stored if is_tensor(leaf)), None)

        def explained(*args: Any) -> Any:
            with explained_call("torch", args, self.hint):
                return self.torch_fn(*args)

        def run(still: Collection[int]) -> TorchRun:
            copies = [to_torch(leaf, device) for leaf in arrays]
            for place in still:
                copies[place].requires_grad_(False)
            args, held = self.inputs.parts.join(copies), stored
            if parameters is not None and parameters.passed:
                held = [to_torch(leaf, device) for leaf in stored]
                args = (parameters.filled(held), *args)
            leaves = [*held, *copies]
            return run_torch(explained, args, leaves, self.module, self.modules, self.buffers)

        return without_derivative(run, range(len(arrays)))

    def _changed(self, run: TorchRun) -> list[str]:
        """A note on buffers that the call changed, where they are not compared."""
        if self.buffers or not run.changed:
            return []
        shown = ", ".join(run.changed)
        return [f"the call changes buffers that are not compared: {shown}; say buffers=True"]

    def _without_gradient(self, run: TorchRun, cotangents: Mapping[str, Any] | None) -> list[str]:
        """Notes on floats that take no gradient in PyTorch."""
        why = "requires no gradient in PyTorch"
        frozen = [
            f"{name} {why}; its gradient is not compared"
            for (name, kind), leaf in zip(self._leaf_names(), run.leaves, strict=True)
            if kind != "buffer" and leaf.is_floating_point() and not leaf.requires_grad
        ]
        if not any(leaf.requires_grad for leaf in run.leaves):
            return frozen
        return frozen + [
            f"output{path} {why}: nothing flows back from it there"
            for path in cotangents or ()
            if not (self.buffers and path.startswith("[1]"))
            if not (is_tensor(run.out[path]) and run.out[path].requires_grad)
        ]


def _parameters(parameters: Parameters | None) -> list[Any]:
    """Parameters and buffers as JAX arrays; buffers copied, since modules change them in place."""
    if parameters is None:
        return []
    kept = zip(parameters.tensors, parameters.kinds, strict=True)
    return [to_jax(t.clone() if kind == "buffer" else t) for t, kind in kept]


def _growth(array: Any, example: Any) -> float:
    """How many times larger an input is than the example, at least once."""
    if not takes_gradient(to_numpy(example)):
        return 1.0
    return max(1.0, magnitude(to_numpy(array)) / (magnitude(to_numpy(example)) or 1.0))
