"""Tells what devices exchange in a step, by compiling it: `python -m funcgrad.bench.scaling`.

The gradient of a two-layer perceptron by `microbatch` is compiled, not run, for 8, 64 and 256
simulated devices, for 4 to 64 micro-batches on each, once with replicated weights and once with
weights sharded over a second mesh axis of two. A row says what the compiled program says: the
collectives over the axis of the batch and their bytes for each device, those over the axis of the
weights that stand in the loop, and the temporary memory of one device.

With `--contenders` it is the step of `funcgrad bench accumulation/step` by each way to take it, for
eight devices with replicated parameters: how many collectives a step has, and how many megabytes
each device gets from them.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding

import funcgrad as fg

from ._case import CONTENDERS, Own
from ._timer import table
from .cases import accumulation
from .program import collectives

WIDTH, HIDDEN, ROWS = 256, 1024, 8
DEVICES, MICROBATCHES = (8, 64, 256), (4, 16, 64)


class Scale(NamedTuple):
    """What the program of a step says of itself.

    Fields:
        devices: how many devices it is compiled for.
        model: how many of them share one copy of the weights.
        microbatches: how many micro-batches each of them loops over.
        reductions: the collectives along the axis of the batch.
        reduced: the bytes that they give each device.
        looped: the collectives in the loop, all of them along the axis of the weights.
        argument: the bytes of the weights and rows of one device.
        temporary: the bytes of temporary memory of one device.
    """

    devices: int
    model: int
    microbatches: int
    reductions: int
    reduced: int
    looped: int
    argument: int
    temporary: int


def mesh_of(devices: int, model: int) -> jax.sharding.Mesh:
    """So many devices, so many of them for each copy of the weights."""
    return jax.make_mesh(
        (devices // model, model),
        ("data", "model"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices("cpu")[:devices],
    )


def scale(devices: int, model: int, microbatches: int) -> Scale:
    """Compiles the step for so many devices, which must be there, and reads its program.

    Args:
        devices: how many; simulate them with the setting `jax_num_cpu_devices`.
        model: over how many of them weights are sharded; 1 replicates them.
        microbatches: how many parts of `ROWS` rows each device loops over.
    """
    mesh = mesh_of(devices, model)

    def array(rows: int, columns: int, *spec: str | None) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, jax.P(*spec))
        return jax.ShapeDtypeStruct((rows, columns), jnp.float32, sharding=sharding)

    weights = array(WIDTH, HIDDEN, None, "model"), array(HIDDEN, WIDTH, "model", None)
    batch = array(devices // model * microbatches * ROWS, WIDTH, "data")
    step = fg.microbatch(fg.value_and_grad(loss), microbatches, mesh=mesh, batch_axis="data")
    program: Any = jax.jit(step).lower(weights, batch).compile()
    memory, moves = program.memory_analysis(), collectives(program.as_text())
    once = [move for move in moves if not move.looped]
    if any(move.group != devices // model for move in once):
        raise AssertionError(f"a collective outside the loop is not along the batch: {once}")
    if any(move.group != model for move in moves if move.looped):
        raise AssertionError(f"a collective in the loop is not along the weights: {moves}")
    return Scale(
        devices,
        model,
        microbatches,
        len(once),
        sum(move.bytes for move in once),
        len(moves) - len(once),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
    )


def loss(weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """The mean square error of a perceptron that is to give back its input."""
    up, down = weights
    return jnp.mean((jnp.tanh(x @ up) @ down - x) ** 2)


def scales() -> list[Scale]:
    """All rows of the table."""
    return [
        scale(devices, model, microbatches)
        for model in (1, 2)
        for devices in DEVICES
        for microbatches in MICROBATCHES
    ]


def exchanged(step: Own) -> tuple[str, str]:
    """The collectives of a training step on eight devices, and their megabytes.

    Each device has as many rows as the step's batch.
    """
    mesh = mesh_of(8, 1)

    def like(x: Any, shape: tuple[int, ...], *spec: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, jax.P(*spec)))

    *state, batch = step.args
    held = jax.tree.map(lambda x: like(x, x.shape), state)
    rows = jax.tree.map(lambda x: like(x, (8 * x.shape[0], *x.shape[1:]), "data"), batch)
    program: Any = jax.jit(step.fun, donate_argnums=(0, 1)).lower(*held, rows).compile()
    moves = collectives(program.as_text())
    inside = [move.bytes for move in moves if move.looped]
    after = [move.bytes for move in moves if not move.looped]
    parts = accumulation.PARTS
    count = f"{parts} x {len(inside)} + {len(after)}" if inside else str(len(after))
    return count, f"{(parts * sum(inside) + sum(after)) / 1e6:.2f}"


def exchanges(size: tuple[int, int] = (32, 512)) -> Iterator[tuple[str, str, str]]:
    """What devices exchange in a training step, by each way to take it.

    Those who split the batch themselves deal rows out, for rows in a row would be gathered.
    """
    on_mesh: dict[str, Any] = {"devices": 8, "mesh": mesh_of(8, 1), "batch_axis": "data"}
    for name, make in accumulation.steps(size, accumulation.dealt_out, **on_mesh).items():
        yield CONTENDERS.get(name, name), *exchanged(make())


def main(argv: list[str] | None = None) -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--contenders", action="store_true", help="a training step in each way")
    given = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    if given.contenders:
        print(table([("", "collectives", "MB moved"), *exchanges()]))
        return
    heads = ["devices", "weights over", "micro-batches", "reductions", "bytes reduced"]
    heads += ["in the loop", "argument bytes", "temporary bytes"]
    rows = [heads, *(list(map(str, one)) for one in scales())]
    print(table(rows))


if __name__ == "__main__":
    main()
