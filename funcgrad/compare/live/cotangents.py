"""The gradient of the output that both sides get; both outputs must have the same structure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._describe import describe
from ...errors import TreeError
from .inputs import by_path, is_tensor, to_numpy
from .judge import kind


def check_structure(theirs: Mapping[str, Any], out: Any) -> None:
    """Refuse outputs whose leaves stand at different paths.

    Args:
        theirs: PyTorch's leaves by path.
        out: JAX's output.

    Raises:
        TreeError: the paths differ, or there are none; the message lists what one side lacks.
    """
    ours = by_path(out)
    if not theirs and not ours:
        raise TreeError("`with_torch` got functions that return nothing, and wants outputs")
    if theirs.keys() != ours.keys():
        lines = [
            f"{path or 'the whole output'}: torch has"
            f" {_described(theirs.get(path))}, jax has {_described(ours.get(path))}"
            for path in sorted(theirs.keys() ^ ours.keys())
        ]
        raise TreeError(
            "`with_torch` got functions that return different structures; let both return the same"
            " (tuples and lists are alike, and any two mappings):\n  " + "\n  ".join(lines)
        )


def _described(leaf: Any) -> str:
    return "nothing" if leaf is None else describe(leaf).replace("torch.", "")


def make_cotangents(
    theirs: Mapping[str, np.ndarray], ours: Mapping[str, Any], gradient: Any, seed: int
) -> tuple[dict[str, np.ndarray] | None, list[str]]:
    """The gradient of each floating output.

    Args:
        theirs: PyTorch's outputs by path.
        ours: JAX's.
        gradient: what the user gave, or `None`.
        seed: the seed of the random gradient, where one is needed.

    Returns:
        The gradients by path, and notes; `None` where the outputs do not fit each other.

    Raises:
        TreeError: `gradient` does not fit the outputs.
    """
    pairs = {path: (theirs[path], np.asarray(ours[path])) for path in theirs}
    if any(a.shape != b.shape or kind(a) != kind(b) for a, b in pairs.values()):
        return None, ["gradients are not compared, since the outputs are of different types"]
    outs = {path: a for path, (a, _) in pairs.items() if kind(a) in ("float", "complex")}
    if not outs:
        return {}, ["gradients are not compared, since no output is floating or complex"]
    if gradient is not None:
        return _given(gradient, outs), []
    if len(outs) == 1 and all(a.size == 1 and kind(a) == "float" for a in outs.values()):
        return {path: np.ones(a.shape) for path, a in outs.items()}, []
    rng = np.random.default_rng(seed)
    return {path: _random(rng, a.shape, kind(a)) for path, a in outs.items()}, []


def _random(rng: np.random.Generator, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Eighths from -2 to 2, not 0: exact in every dtype, so that both sides get the same."""
    if what == "complex":
        return _random(rng, shape, "float") + 1j * _random(rng, shape, "float")
    return rng.choice([-1, 1], shape) * rng.integers(1, 16, shape) / 8


def _given(gradient: Any, outs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    given = {path: to_numpy(leaf) for path, leaf in by_path(gradient).items()}
    wrong = [
        f"{path or 'the whole output'}: got {_described(given.get(path))},"
        f" wanted {_described(outs.get(path))}"
        for path in sorted(given.keys() | outs.keys())
        if path not in given
        or path not in outs
        or given[path].shape != outs[path].shape
        or (kind(given[path]) == "complex" and kind(outs[path]) != "complex")
    ]
    if wrong:
        raise TreeError(
            "`with_torch` got a `gradient` that does not fit the output:\n  " + "\n  ".join(wrong)
        )
    return given


def as_tensors(
    cotangents: Mapping[str, np.ndarray] | None, out: Mapping[str, Any]
) -> dict[str, Any]:
    """The gradients of PyTorch's outputs as tensors of their dtypes."""
    import torch

    return {
        path: torch.as_tensor(array, dtype=out[path].dtype, device=out[path].device)
        for path, array in (cotangents or {}).items()
        if is_tensor(out[path])
    }
