"""One model in every library: two residual blocks and a head. In torch, and in JAX by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from models import normal

import funcgrad as fg

WIDTH, BATCH, DEVICES = 3, 4, 2
X = normal(0, BATCH, WIDTH)
PARAMS = {
    "layers": [
        {"up": normal(1, WIDTH, 5), "down": normal(2, 5, WIDTH)},
        {"up": normal(3, WIDTH, 5), "down": normal(4, 5, WIDTH)},
    ],
    "head": normal(5, WIDTH, 2),
}


def stacked(layers):
    return jax.tree.map(lambda *rows: jnp.stack(rows), *layers)


def torch_names(torch):
    """What torch calls the modules of the model."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up = torch.nn.Linear(WIDTH, 5, bias=False)
            self.down = torch.nn.Linear(5, WIDTH, bias=False)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([Block(), Block()])
            self.head = torch.nn.Linear(WIDTH, 2, bias=False)

    # A list is a module there, but is not called.
    listed = {name.replace(".", "/") for name, _ in Net().named_modules()}
    return listed - {"", "layers"}


@functools.cache
def by_hand():
    """The gradient for the input, and the value and gradient at each name, in JAX alone."""

    def run(x, zeros):
        values = {}

        def at(name, value):
            values[name] = value
            return value + zeros.get(name, 0.0)

        for n, p in enumerate(PARAMS["layers"]):
            h = jnp.tanh(at(f"layers/{n}/up", x @ p["up"]))
            x = at(f"layers/{n}", x + at(f"layers/{n}/down", h @ p["down"]))
        return jnp.sum(at("head", x @ PARAMS["head"]) ** 2), values

    zeros = jax.tree.map(jnp.zeros_like, run(X, {})[1])
    (grad, grads), values = jax.jit(jax.grad(run, (0, 1), has_aux=True))(X, zeros)
    return grad, {name: (values[name], grads[name]) for name in values}


def rows(mode, wanted):
    """What is wanted at each name where layers run in a loop, or on several devices."""
    if mode == "scan":
        looped = {
            f"layers{end}": jax.tree.map(
                lambda *each: jnp.stack(each), wanted[f"layers/0{end}"], wanted[f"layers/1{end}"]
            )
            for end in ("/up", "/down", "")
        }
        return {**looped, "head": wanted["head"]}
    if mode == "shard_map":
        split = lambda x: x.reshape(DEVICES, -1, *x.shape[1:])
        return {
            name: jax.tree.map(split, pair) if name != "head" else pair
            for name, pair in wanted.items()
        }
    return wanted


def sharded(layer):
    mesh = jax.sharding.Mesh(jax.devices()[:DEVICES], ("d",))
    spec = PartitionSpec("d")
    return jax.shard_map(lambda x: layer(x), mesh=mesh, in_specs=spec, out_specs=spec)


# How a layer is called: the batch is rows of a matrix, so that each is the same computation.
MODES = {
    "plain": lambda layer: layer,
    "jit": lambda layer: jax.jit(lambda x: layer(x)),
    "vmap": jax.vmap,
    "remat": lambda layer: jax.checkpoint(lambda x: layer(x)),
    "cond": lambda layer: lambda x: lax.cond(x[0, 0] < 9, lambda x: layer(x), lambda x: x, x),
    "shard_map": sharded,
    "scan": None,
}


def loss(model, x, mode):
    """The model as a user runs it: its layers in a list, or stacked and scanned over."""
    layers, head = (model[k] if isinstance(model, dict) else getattr(model, k) for k in PARAMS)
    if mode == "scan":
        x = lax.scan(lambda x, layer: (layer(x), None), x, layers)[0]
    else:
        for layer in layers:
            x = MODES[mode](layer)(x)
    return jnp.sum(head(x) ** 2)


def check(model, mode, left_out=()):
    """Holds values, gradients and names of a named model against those by hand."""
    grad, wanted = by_hand()
    wanted = {name: pair for name, pair in wanted.items() if not name.endswith(left_out or "-")}
    wanted = rows(mode, wanted)
    run = jax.jit(fg.grad(lambda x: loss(model, x, mode), retain=...))
    got, retained = run(X)
    assert {*retained} == {*wanted}
    np.testing.assert_allclose(got, grad, rtol=1e-5, atol=1e-6)
    for name, pair in wanted.items():
        for ours, theirs in zip(retained[name], pair, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)
