"""Tells how a step scales by compiling it: `python -m funcgrad.bench.scaling`.

The gradient of a two-layer perceptron by `microbatch` is compiled, not run, for 8, 64 and 256
simulated devices, for 4 to 64 micro-batches on each, once with replicated weights and once with
weights sharded over a second mesh axis of two. A row says what the compiled program says: the
collectives over the axis of the batch and their bytes for each device, those over the axis of the
weights that stand in the loop, and the temporary memory of one device.
"""

import argparse
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding

import funcgrad as fg

from ._timer import table
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


def scale(devices: int, model: int, microbatches: int) -> Scale:
    """Compiles the step for so many devices, which must be there, and reads its program.

    Args:
        devices: how many; simulate them with the setting `jax_num_cpu_devices`.
        model: over how many of them weights are sharded; 1 replicates them.
        microbatches: how many parts of `ROWS` rows each device loops over.
    """
    mesh = jax.make_mesh(
        (devices // model, model),
        ("data", "model"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices("cpu")[:devices],
    )

    def array(rows: int, columns: int, *spec: str | None) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, jax.P(*spec))
        return jax.ShapeDtypeStruct((rows, columns), jnp.float32, sharding=sharding)

    weights = array(WIDTH, HIDDEN, None, "model"), array(HIDDEN, WIDTH, "model", None)
    batch = array(devices // model * microbatches * ROWS, WIDTH, "data")
    step = fg.microbatch(fg.value_and_grad(loss), microbatches, mesh=mesh, batch_axis="data")
    program = jax.jit(step).lower(weights, batch).compile()
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


def main(argv: list[str] | None = None) -> None:
    """Prints the table, as Markdown."""
    argparse.ArgumentParser(description=__doc__.partition(":")[0]).parse_args(argv)
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    heads = ["devices", "weights over", "micro-batches", "reductions", "bytes reduced"]
    heads += ["in the loop", "argument bytes", "temporary bytes"]
    rows = [heads, *(list(map(str, one)) for one in scales())]
    print(table(rows))


if __name__ == "__main__":
    main()
