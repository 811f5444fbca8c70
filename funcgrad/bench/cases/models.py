"""Four networks, each with an intermediate retained, a hook that clips, and frozen parameters.

A network is written twice, in JAX and in PyTorch, as one writes it there. Both call `kept(value)`
at the intermediate whose gradient is wanted and `clipped(value)` where the hook is; what these two
do is what the contenders differ in: funcgrad has `retain_grad` and `register_hook`, the others a
zero that is added and a function with a rule of its own, and eager PyTorch its own methods.
`models/mlp` has all three idioms; `models/mlp-retain`, `-hook` and `-mask` have one each.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg

from .._case import Function, Problem, Torch, case, same
from ._shared import normal, with_zeros

LIMIT = 1e-3  # of each entry of the gradient that the hook clips
Params = dict[str, np.ndarray]


class Model(NamedTuple):
    """A network with its data.

    Fields:
        params: the parameters; the one called `frozen` takes no gradient where there is a mask.
        batch: what it is trained on.
        shape: the shape of the intermediate that is retained.
        loss: `loss(params, batch, kept, clipped)` in JAX.
        torch: makes `loss(params, batch, kept, clipped)` in PyTorch.
    """

    params: Params
    batch: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    loss: Function
    torch: Callable[[], Function]


class Size(NamedTuple):
    """How large a network is; what a field means, each network says."""

    rows: int
    width: int
    length: int = 0


def mlp(size: Size, depth: int = 3) -> Model:
    """A perceptron: rows of features through `depth` layers of tanh, mean square error."""
    rows, width, _ = size
    names = [*(f"w{n:02}" for n in range(depth - 1)), "frozen"]
    params = {name: normal(n, width, width) for n, name in enumerate(names)}

    def loss(p: Any, batch: Any, kept: Function, clipped: Function) -> Any:
        x, y = batch
        x = kept(jnp.tanh(x @ p[names[0]]))
        for name in names[1:-1]:
            x = clipped(jnp.tanh(x @ p[name]))
        return jnp.mean((x @ p[names[-1]] - y) ** 2)

    def torch() -> Function:
        import torch

        def loss(p: Any, batch: Any, kept: Function, clipped: Function) -> Any:
            x, y = batch
            x = kept(torch.tanh(x @ p[names[0]]))
            for name in names[1:-1]:
                x = clipped(torch.tanh(x @ p[name]))
            return ((x @ p[names[-1]] - y) ** 2).mean()

        return loss

    batch = normal(8, rows, width), normal(9, rows, width)
    return Model(params, batch, (rows, width), loss, torch)


def cnn(size: Size) -> Model:
    """Two convolutions of images, channels last in JAX and first in PyTorch; cross entropy."""
    rows, width, length = size
    params = {
        "first": normal(0, 3, 3, 3, width) / 3,
        "second": normal(1, 3, 3, width, width) / 3,
        "frozen": normal(2, width, 10),
    }
    labels: np.ndarray = np.arange(rows, dtype=np.int32) % 10

    def convolved(x: Any, kernel: Any) -> Any:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)

    def loss(p: Any, batch: Any, kept: Function, clipped: Function) -> Any:
        x, labels = batch
        x = kept(jax.nn.relu(convolved(x, p["first"])))
        x = clipped(jnp.mean(jax.nn.relu(convolved(x, p["second"])), (1, 2)))
        logits = jax.nn.log_softmax(x @ p["frozen"])
        return -jnp.mean(jnp.take_along_axis(logits, labels[:, None], 1))

    def torch() -> Function:
        from torch.nn import functional as F

        def loss(p: Any, batch: Any, kept: Function, clipped: Function) -> Any:
            x, labels = batch
            x = kept(F.relu(F.conv2d(x, p["first"], padding=1)))
            x = clipped(F.relu(F.conv2d(x, p["second"], padding=1)).mean((2, 3)))
            return F.cross_entropy(x @ p["frozen"], labels)

        return loss

    batch = normal(3, rows, length, length, 3), labels
    return Model(params, batch, (rows, length, length, width), loss, torch)


def rnn(size: Size) -> Model:
    """A recurrent network with tanh, scanned; PyTorch has Python's loop, as people write it."""
    rows, width, length = size
    params = {"frozen": normal(0, width, width), "hidden": normal(1, width, width)}

    def loss(p: Any, batch: Any, kept: Function, clipped: Function) -> Any:
        def cell(h: Any, x: Any) -> Any:
            h = clipped(kept(jnp.tanh(x @ p["frozen"] + h @ p["hidden"])))
            return h, jnp.mean(h**2)

        _, squares = lax.scan(cell, jnp.zeros((rows, width)), batch[0])
        return jnp.mean(squares)

    def torch() -> Function:
        import torch

        def loss(p: Any, batch: Any, kept: Function, clipped: Function) -> Any:
            h = torch.zeros((rows, width), device=batch[0].device)
            total = torch.zeros((), device=batch[0].device)
            for x in batch[0]:
                h = clipped(kept(torch.tanh(x @ p["frozen"] + h @ p["hidden"])))
                total = total + (h**2).mean()
            return total / length

        return loss

    return Model(params, (normal(2, length, rows, width),), (length, rows, width), loss, torch)


def transformer(size: Size, heads: int = 4) -> Model:
    """One block: causal attention with `heads` heads, then a feed-forward net, both residual."""
    rows, width, length = size
    params = {"qkv": normal(0, width, 3 * width), "frozen": normal(1, width, width)}
    params |= {"up": normal(2, width, 4 * width), "down": normal(3, 4 * width, width)}

    def loss(p: Any, batch: Any, kept: Function, clipped: Function) -> Any:
        def normalized(x: Any) -> Any:
            x = x - jnp.mean(x, -1, keepdims=True)
            return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)

        x = batch[0].reshape(-1, width)  # on a CPU XLA multiplies matrices faster than batches
        split = jnp.split(normalized(x) @ p["qkv"], 3, -1)
        q, k, v = (part.reshape(rows, length, heads, -1) for part in split)
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + kept(mixed.reshape(rows, length, width)).reshape(-1, width) @ p["frozen"]
        x = x + clipped(jax.nn.gelu(normalized(x) @ p["up"])) @ p["down"]
        return jnp.mean(x**2)

    def torch() -> Function:
        from torch.nn import functional as F

        def loss(p: Any, batch: Any, kept: Function, clipped: Function) -> Any:
            (x,) = batch
            split = (F.layer_norm(x, (width,)) @ p["qkv"]).split(width, -1)
            q, k, v = (part.view(rows, length, heads, -1).transpose(1, 2) for part in split)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + kept(mixed.transpose(1, 2).reshape(x.shape)) @ p["frozen"]
            up = F.layer_norm(x, (width,)) @ p["up"]
            x = x + clipped(F.gelu(up, approximate="tanh")) @ p["down"]
            return (x**2).mean()

        return loss

    batch = (normal(4, rows, length, width),)
    return Model(params, batch, (rows, length, width), loss, torch)


def clip(gradient: Any) -> Any:
    """The hook, in JAX."""
    return jnp.clip(gradient, -LIMIT, LIMIT)


@jax.custom_vjp
def clipped_by_hand(value: Any) -> Any:
    """The hook as one writes it in JAX: an identity with a rule of its own."""
    return value


clipped_by_hand.defvjp(lambda value: (value, None), lambda _, gradient: (clip(gradient),))


def ours(model: Model, idioms: set[str]) -> Function:
    """The loss, its gradients and what is retained, with funcgrad."""
    kept = functools.partial(fg.retain_grad, name="kept") if "retain" in idioms else same
    clipped = functools.partial(fg.register_hook, hook=clip) if "hook" in idioms else same
    options: dict[str, Any] = {"retain": "kept"} if "retain" in idioms else {}
    if "mask" in idioms:
        options["requires_grad"] = {name: not frozen(name) for name in model.params}
    return fg.value_and_grad(lambda p, batch: model.loss(p, batch, kept, clipped), **options)


def by_hand(model: Model, idioms: set[str], scanned: bool = False) -> Function:
    """The same in JAX alone: a zero is added where a gradient is wanted.

    Where the network is `scanned`, the zeros and the values go through the scan.
    """
    clipped = clipped_by_hand if "hook" in idioms else same

    def plain(free: Any, still: Any, batch: Any) -> Any:
        return model.loss(free | still, batch, same, clipped)

    def loss(free: Any, zeros: Any, still: Any, batch: Any) -> Any:
        made = {}

        def kept(value: Any) -> Any:
            made["kept"] = value
            return value + zeros["kept"]

        return model.loss(free | still, batch, kept, clipped), made

    def scan(free: Any, zeros: Any, still: Any, batch: Any) -> Any:
        p = free | still

        def cell(h: Any, slices: Any) -> Any:
            x, zero = slices
            value = jnp.tanh(x @ p["frozen"] + h @ p["hidden"])
            h = clipped(value + zero)
            return h, (jnp.mean(h**2), value)

        start = jnp.zeros(model.shape[1:])
        _, (squares, made) = lax.scan(cell, start, (batch[0], zeros["kept"]))
        return jnp.mean(squares), {"kept": made}

    zeros = lambda _: {"kept": jnp.zeros(model.shape)}  # noqa: E731
    retaining = with_zeros(scan if scanned else loss, zeros)
    gradient = retaining if "retain" in idioms else jax.value_and_grad(plain)
    return lambda params, batch: gradient(*parted(params, idioms), batch)


def frozen(name: str) -> bool:
    """Whether a parameter takes no gradient where there is a mask."""
    return name == "frozen"


def parted(params: Mapping[str, Any], idioms: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that take gradients, and those that do not."""
    still = {name: p for name, p in params.items() if "mask" in idioms and frozen(name)}
    return {name: p for name, p in params.items() if name not in still}, still


def moved(array: np.ndarray, *axes: int) -> np.ndarray:
    """An image or a kernel in PyTorch's layout; what is neither stays as it is."""
    return np.ascontiguousarray(array.transpose(axes)) if array.ndim == 4 else array


def in_torch(model: Model, idioms: set[str], images: bool, rows: bool) -> Torch:
    """What PyTorch needs for a network; `rows` says that each step of a loop keeps its own."""
    import torch

    class Clip(torch.autograd.Function):  # type: ignore[misc]
        """The hook as `torch.compile` takes it: an identity with a rule of its own."""

        @staticmethod
        def forward(value: Any) -> Any:
            return value.view_as(value)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            """It keeps nothing."""

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient.clamp(-LIMIT, LIMIT)

    network = model.torch()
    retain, hook = "retain" in idioms, "hook" in idioms

    def loss(free: Any, zeros: Any, still: Any, batch: Any) -> Any:
        made: list[Any] = []

        def kept(value: Any) -> Any:
            made.append(value)
            return value + (zeros[len(made) - 1] if rows else zeros)

        clipped = Clip.apply if hook else same
        return network({**free, **still}, batch, kept if retain else same, clipped), made

    def hooked(value: Any) -> Any:
        value.register_hook(lambda gradient: gradient.clamp(-LIMIT, LIMIT))
        return value

    def eager(free: Any, zeros: Any, still: Any, batch: Any) -> Any:
        for p in free.values():
            p.grad = None
        made: list[Any] = []

        def kept(value: Any) -> Any:
            value.retain_grad()
            made.append(value)
            # Its own hook would change what it retains, so the next line gets another tensor.
            return value.view_as(value) if hook and rows else value

        params, clipped = {**free, **still}, hooked if hook else same
        value = network(params, batch, kept if retain else same, clipped)
        value.backward()
        grads = {name: p.grad for name, p in free.items()}
        return value, grads, made, [one.grad for one in made]

    def back(tree: Any) -> Any:
        return jax.tree.map(lambda t: t.permute(2, 3, 1, 0) if t.ndim == 4 else t, tree)

    def view(value: Any, made: Any, gradients: Any) -> Any:
        grads, *kept = gradients
        if images:
            grads = back(grads)
        if not retain:
            return value, grads
        if isinstance(kept[0], list):  # of the eager step
            kept = [stacked(kept[0])]
        pair = (stacked(made), *kept)
        if images:
            pair = tuple(t.permute(0, 2, 3, 1) for t in pair)
        return value, grads, {"kept": pair}

    def stacked(tensors: list[Any]) -> Any:
        return torch.stack(tensors) if rows else tensors[0]

    def eager_view(results: Any) -> Any:
        value, grads, made, kept = results
        return view(value, made, (grads, kept))

    free, still = parted(model.params, idioms)
    zeros: np.ndarray = np.zeros(model.shape if retain else (), np.float32)
    batch = [b.astype(np.int64) if b.dtype == np.int32 else b for b in model.batch]
    if images:  # kernels, and images, have their channels in front
        free, still = ({n: moved(p, 3, 2, 0, 1) for n, p in each.items()} for each in (free, still))
        zeros, *batch = (moved(array, 0, 3, 1, 2) for array in (zeros, *batch))
    args = free, zeros, still, tuple(batch)
    return Torch(args, (0, 1) if retain else (0,), loss, eager, view, eager_view)


def flax_mlp(model: Model) -> Function:
    """The perceptron with what Flax has for it: `perturb` and `sow` (linen)."""
    import flax.linen as nn

    class Network(nn.Module):
        """All layers; their weights are passed in, as the others have them."""

        @nn.compact
        def __call__(self, p: Any, batch: Any) -> Any:
            def kept(value: Any) -> Any:
                self.sow("intermediates", "kept", value)
                return self.perturb("kept", value)

            return model.loss(p, batch, kept, same)

    network = Network()

    def loss(p: Any, zeros: Any, batch: Any) -> Any:
        held = {"perturbations": zeros}
        value, made = network.apply(held, p, batch, mutable=["intermediates"])
        return value, {"kept": made["intermediates"]["kept"][0]}

    return with_zeros(loss, lambda _: {"kept": jnp.zeros(model.shape)})


IDIOMS = ("retain", "hook", "mask")
MODELS: dict[str, tuple[Function, str, list[Size]]] = {
    "mlp": (mlp, "a perceptron of 3 layers", [Size(4, 8), Size(64, 128), Size(256, 512)]),
    "cnn": (cnn, "two convolutions 3x3", [Size(2, 4, 6), Size(8, 16, 16), Size(32, 32, 28)]),
    "rnn": (
        rnn,
        "a scanned recurrent network",
        [Size(2, 8, 4), Size(16, 64, 8), Size(64, 256, 16)],
    ),
    "transformer": (
        transformer,
        "a transformer block",
        [Size(1, 8, 4), Size(4, 64, 32), Size(8, 256, 128)],
    ),
}


def problem(model: str, idioms: set[str], size: Size) -> Problem:
    """A network with some of the idioms."""
    net = MODELS[model][0](size)
    hand = by_hand(net, idioms, scanned=model == "rnn")
    torch = functools.partial(in_torch, net, idioms, model == "cnn", model == "rnn")
    peers = {"flax": lambda: flax_mlp(net)} if (model, idioms) == ("mlp", {"retain"}) else {}
    return Problem((net.params, net.batch), ours(net, idioms), hand, torch, peers)


for _model, (_, _about, _sizes) in MODELS.items():
    for _name, _idioms in {"": IDIOMS, **{f"-{one}": (one,) for one in IDIOMS}}.items():
        case(
            f"models/{_model}{_name}",
            f"{_about}: {', '.join(_idioms)}",
            dict(zip(("tiny", "medium", "large"), _sizes, strict=True)),
            extra=bool(_name),
        )(functools.partial(problem, _model, set(_idioms)))
