"""What the checks cost: `detect_anomaly` around a training step, `gradcheck` of a function.

These are functions to be called as they are; the control is what they check, jitted and unchecked.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg

from .. import anomaly
from .._case import Function, Problem, Torch, case
from .models import normal

STEPS: dict[str, Any] = {
    "mlp": ("a perceptron's step", anomaly.perceptron),
    "rnn": ("a scanned recurrent network's step", anomaly.recurrent),
    "attention": ("an attention block's step", anomaly.attention),
}
SIZES: dict[str, dict[str, dict[str, int]]] = {
    "mlp": {
        "tiny": {"width": 8, "layers": 3, "rows": 4},
        "large": {"width": 512, "layers": 4, "rows": 256},
    },
    "rnn": {
        "tiny": {"width": 8, "length": 4, "rows": 2},
        "large": {"width": 256, "length": 64, "rows": 32},
    },
    "attention": {
        "tiny": {"width": 8, "length": 4, "rows": 2},
        "large": {"width": 128, "length": 128, "rows": 4},
    },
}


def _anomaly(name: str) -> Any:
    def build(size: dict[str, int]) -> Problem:
        step, args = STEPS[name][1](**size)
        jitted = jax.jit(step)

        def debug_nans(*args: Any) -> Any:
            with jax.debug_nans(True):
                return jitted(*args)

        return Problem(
            jax.tree.map(np.asarray, args),
            fg.detect_anomaly(step, mode="compiled"),
            debug_nans,
            in_torch(jax.tree.map(np.asarray, args)) if name == "mlp" else None,
            control=jitted,
            host=True,
            tolerance=1e-3,
        )

    return build


def in_torch(args: Any) -> Any:
    """The perceptron's step in PyTorch, under its own `detect_anomaly`."""

    def make() -> Torch:
        import torch
        from torch.nn import functional as F

        def eager(weights: Any, batch: Any) -> Any:
            for weight in weights:
                weight.grad = None
            x, labels = batch
            with torch.autograd.detect_anomaly(check_nan=True):
                for weight in weights[:-1]:
                    x = F.relu(x @ weight)
                value = F.cross_entropy(x @ weights[-1], labels[:, 0])
                value.backward()
            with torch.no_grad():
                return value, [weight - 0.01 * weight.grad for weight in weights]

        weights, (x, labels) = args
        why = "is not used with detect_anomaly"
        return Torch((weights, (x, labels.astype(np.int64))), (0,), eager=eager, why=why)

    return make


for _name in STEPS:
    case(f"checks/anomaly-{_name}", f"detect_anomaly: {STEPS[_name][0]}", SIZES[_name])(
        _anomaly(_name)
    )


def function(w: Any, x: Any) -> Any:
    """What `gradcheck` checks; both libraries have its operations."""
    return ((w @ x) ** 2).sum() / 2 + (w * w * w).sum()


if hasattr(fg, "gradcheck"):

    @case("checks/gradcheck", "gradcheck: both modes, every entry", {"tiny": 3, "large": 16})
    def gradcheck(n: int) -> Problem:
        """Every entry of the Jacobian in float64; JAX's own looks along one direction."""
        w: np.ndarray = normal(0, n, n).astype(np.float64)
        x: np.ndarray = normal(1, n, 2).astype(np.float64)

        def ours(w: Any, x: Any) -> Any:
            with jax.enable_x64(True):
                return fg.gradcheck(function, (w, x))

        def hand(w: Any, x: Any) -> Any:
            from jax.test_util import check_grads

            with jax.enable_x64(True):
                check_grads(function, (w, x), 1)
            return True

        def control(w: Any, x: Any) -> Any:
            with jax.enable_x64(True):
                return bool(jnp.all(jnp.isfinite(jitted(w, x)[0])))

        def torch() -> Torch:
            import torch

            def eager(w: Any, x: Any) -> Any:
                return torch.autograd.gradcheck(function, (w, x), check_forward_ad=True)

            return Torch((w, x), (0, 1), eager=eager, why="is not used with gradcheck")

        jitted: Function = jax.jit(jax.value_and_grad(function))
        return Problem((w, x), ours, hand, torch, control=control, host=True)
