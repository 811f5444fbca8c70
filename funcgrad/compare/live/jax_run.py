"""JAX's side of a live comparison: compiles the function with its pullback, and reads its tags."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..._describe import describe
from ..._detach import detach
from ..._grad.backward import vjp
from ..._leaves import takes_gradient
from ...errors import UsageError
from . import kinks
from .inputs import Inputs, by_path, explained_call, plain
from .parameters import Parameters, renamed

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_NARROW = {"float64": "float32", "complex128": "complex64", "int64": "int32", "uint64": "uint32"}


class JaxRun(NamedTuple):
    """What JAX computed, as NumPy arrays.

    Attributes:
        out: the output's leaves by path.
        values, grads: those at the tags, by name and path; integers have no gradient.
        leaves: the gradients of parameters and inputs, `None` for integers.
    """

    out: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]
    leaves: list[np.ndarray | None]

    def of(self, where: tuple[str, Any]) -> tuple[Any, Any]:
        """Value and gradient of an output, a tag or a leaf."""
        what, key = where
        if what == "output":
            return self.out[key], None
        if what == "intermediate":
            return self.values[key], self.grads.get(key)
        return None, self.leaves[key]


def _with_buffers(result: Any) -> tuple[Any, Any]:
    """A result and the buffers beside it, which carry no gradient, as in PyTorch."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise UsageError(
            f"`with_torch` got buffers=True and a JAX function that returns {describe(result)}, and"
            " wants one that returns a pair: the output, and the buffers after the call, a dict by"
            " torch's names"
        )
    return result[0], detach(result[1])


class JaxFunction:
    """The JAX function, compiled once and called for every set of inputs.

    Attributes:
        notes: what could not be compared or measured.
    """

    def __init__(
        self,
        jax_fn: Callable[..., Any],
        inputs: Inputs,
        parameters: Parameters | None,
        names: Any,
        jit: Any,
        hint: str,
        buffers: bool,
    ) -> None:
        def run(arrays: list[Any]) -> Any:
            count = len(parameters.tensors) if parameters else 0
            before = (renamed(parameters.filled(arrays[:count]), names),) if parameters else ()
            args = (*before, *inputs.parts.join(arrays[count:]))
            with explained_call("JAX", args, hint):
                out = jax_fn(*args)
            if buffers:
                out = _with_buffers(out)
            # A tuple: the gradient of a bare integer would be None, which asks `vjp` for its own.
            return (plain(out),)

        def of(retain: Any) -> Callable[[list[Any]], Any]:
            return lambda arrays: vjp(run, arrays, retain=retain)

        self.notes: list[str] = []
        self._jit = bool(jit)
        self._run = run
        self._choosing: dict[Any, Callable[[list[Any]], Any]] = {}
        self._plain = of(None)
        self._forward = jax.jit(of(...)) if jit else of(...)
        self._pull = jax.jit(lambda pullback, cotangents: pullback(cotangents))

    def forward(self, arrays: list[Any]) -> tuple[Any, Any]:
        """The output, in dicts and tuples, and the pullback."""
        try:
            (out,), pullback = self._forward(arrays)
            return out, pullback
        except _NEEDS_VALUES as error:
            if self._jit:
                error.add_note(
                    "`with_torch` compiles the JAX function; with jit=False, Python's `if` and"
                    " `while` may look at its values, but its tags cannot be read then"
                )
                raise
        self._forward = self._plain
        self._note("the JAX function looks at its values, so its tags could not be read")
        (out,), pullback = self._forward(arrays)
        return out, pullback

    def _note(self, note: str) -> None:
        self.notes += [] if note in self.notes else [note]

    def in_other_precision(
        self, arrays: list[Any], cotangents: Mapping[str, Any] | None
    ) -> list[tuple[JaxRun, float]]:
        """The run in double precision, or in single where the arrays are in double already.

        With it comes how many times its rounding errors are those of these arrays. The list is
        empty where the function runs in one precision only.
        """
        dtypes = [leaf.dtype.name for leaf in arrays if isinstance(leaf, jax.Array)]
        double = "float64" in dtypes or "complex128" in dtypes
        with jax.enable_x64(not double), jax.numpy_dtype_promotion("standard"):
            try:
                cast = [_cast(leaf, double) for leaf in arrays]
                ran = self.backward(*self.forward(cast), cotangents)
            except Exception:
                self._note(
                    "what rounding does was measured less well: it runs in one precision only"
                )
                return []
        return [(ran, 2.0**29 if double else 1.0)]

    def advice(
        self, arrays: list[Any], agrees: Callable[[tuple[Any, Any]], bool]
    ) -> tuple[str, ...]:
        """Which functions of `funcgrad.conventions` have PyTorch's gradient where this one has not.

        Args:
            arrays: the arrays at which the gradients differ and the values agree.
            agrees: whether the gradients agree, of an output and its pullback as `forward` gives.
        """
        try:
            program, _ = kinks.flat(self._run, arrays)
            found = kinks.kinks(program)
            chosen = kinks.search(
                found, lambda choices: agrees(self._forward_choosing(choices)(arrays))
            )
        except Exception:  # what cannot be traced or evaluated anew gets no advice
            return ()
        return kinks.advice(program, chosen)

    def _forward_choosing(self, choices: kinks.Choices) -> Callable[[list[Any]], Any]:
        """`forward` with PyTorch's choices at kinks."""

        def run(arrays: list[Any]) -> Any:
            program, put = kinks.flat(self._run, arrays)
            return put(kinks.choosing(program, choices)(*jax.tree.leaves(arrays)))

        def forward(arrays: list[Any]) -> Any:
            (out,), pullback = vjp(run, arrays, retain=...)
            return out, pullback

        return self._choosing.setdefault(frozenset(choices.items()), jax.jit(forward))

    def backward(self, out: Any, pullback: Any, cotangents: Mapping[str, Any] | None) -> JaxRun:
        """Values and gradients for these gradients of the outputs; without them values alone."""
        paths = by_path(out)
        tree = jax.tree.structure(out)
        if cotangents is None:
            given = {p: jnp.zeros_like(leaf) for p, leaf in paths.items() if takes_gradient(leaf)}
        else:
            given = {p: jnp.asarray(cotangents[p], paths[p].dtype) for p in cotangents}
        pulled = self._pull(
            pullback, (jax.tree.unflatten(tree, [given.get(path) for path in paths]),)
        )
        (grads,), retained = pulled if pullback.tags is not None else (pulled, {})
        values: dict[str, Any] = {}
        tag_grads: dict[str, Any] = {}
        for name, kept in retained.items():
            values |= by_path(kept.value, name)
            tag_grads |= by_path(kept.grad, name)
        if cotangents is None:
            tag_grads, grads = {}, [None] * len(grads)
        return JaxRun(
            {path: np.asarray(leaf) for path, leaf in paths.items()},
            {name: np.asarray(leaf) for name, leaf in values.items()},
            {name: np.asarray(leaf) for name, leaf in tag_grads.items()},
            [None if grad is None else np.asarray(grad) for grad in grads],
        )


def _cast(leaf: Any, double: bool) -> Any:
    """An array from single or half to double precision, or from 64 bits to 32."""
    if not isinstance(leaf, jax.Array) or leaf.dtype == bool:
        return leaf
    array = np.asarray(leaf)
    if double:
        return jnp.asarray(array.astype(_NARROW.get(array.dtype.name, array.dtype)))
    wide = "complex128" if array.dtype.kind == "c" else "float64"
    return jnp.asarray(array.astype(wide)) if takes_gradient(leaf) else leaf
