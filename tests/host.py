"""One process of several: what `test_launch.py` starts. `python host.py DOES FOLDER`.

DOES is `steps`, which writes gradients to FOLDER, or how the last process ends after a first step:
`dies`, `stops`, `raises`, or `absent`, where it does not come at all.
"""

import os
import signal
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from models import MODELS, normal, tokens_that_count, transformer

import funcgrad as fg
from funcgrad.launch import connect

warnings.simplefilter("error")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def shared(mesh, batch):
    """The batch of all processes, of which this one has only its own rows."""

    def put(x):
        rows = np.asarray(x).reshape(jax.process_count(), -1, *x.shape[1:])[jax.process_index()]
        sharding = jax.NamedSharding(mesh, jax.P("data"))
        return jax.make_array_from_process_local_data(sharding, rows)

    return jax.tree.map(put, batch)


def results(mesh):
    """Every model's value and gradients, from rows that no process has all of."""
    on = {"mesh": mesh, "batch_axis": "data"}
    for name in ("mlp", "cnn", "bf16"):
        loss, p, batch = MODELS[name]()
        step = fg.microbatch(fg.value_and_grad(loss), 3, **on)
        yield name, jax.jit(step)(p, shared(mesh, batch))
    loss, p, batch = transformer()
    keywords = {"weight": tokens_that_count, "key_argnums": 2, **on}
    step = fg.microbatch(fg.value_and_grad(loss), 8 // mesh.size, **keywords)
    yield "transformer", jax.jit(step)(p, shared(mesh, batch), jax.random.key(3))


def write(folder, mesh):
    flat = {
        f"{name}{jax.tree_util.keystr(path)}": np.asarray(leaf).astype(np.float64)
        for name, result in results(mesh)
        for path, leaf in jax.tree_util.tree_leaves_with_path(result)
    }
    np.savez(folder / f"{jax.process_index()}.npz", **flat)


def end(does, mesh):
    """Takes steps; after the first the process whose number is in WHO comes to its end."""
    step = jax.jit(
        fg.microbatch(jax.grad(lambda w, x: jnp.mean(w * x)), 2, mesh=mesh, batch_axis="data")
    )
    for _ in range(3):
        jax.block_until_ready(step(jnp.float32(1), shared(mesh, normal(0, 8))))
        if os.environ["WHO"] == str(jax.process_index()):
            if does == "raises":
                raise OSError("no more rows")
            os.kill(os.getpid(), signal.SIGKILL if does == "dies" else signal.SIGSTOP)


def main(does, folder):
    limit = int(os.environ.get("LIMIT", "60"))
    if does == "absent":
        connect(timeout=limit)
    connect(timeout=limit, initialization_timeout=60)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,))
    write(Path(folder), mesh) if does == "steps" else end(does, mesh)


if __name__ == "__main__":
    main(*sys.argv[1:])
