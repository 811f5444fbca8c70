"""The rows of a batch and the keys of a call, split into micro-batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._describe import argument, describe
from ..errors import TreeError, UsageError


class Parts(NamedTuple):
    """How the rows of one device are split.

    Fields:
        rows: the rows of one device.
        size: the rows of a full micro-batch.
        full: how many micro-batches are full.
        devices: how many devices have rows of their own.
    """

    rows: int
    size: int
    full: int
    devices: int

    @property
    def rest(self) -> int:
        """The rows of the last micro-batch where it is smaller than the others, or 0."""
        return self.rows - self.full * self.size

    @property
    def number(self) -> int:
        """The micro-batches of one device."""
        return self.full + bool(self.rest)


def split_rows(args: Any, places: tuple[int, ...], wanted: int, devices: int) -> Parts:
    """How the leading axis is split, refused where it cannot be."""
    batch = {i: args[i] for i in places}
    shapes = {
        argument(path[0].key, path[1:]): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
    }
    flat = {path: leaf for path, leaf in shapes.items() if not len(getattr(leaf, "shape", ()))}
    lengths = {leaf.shape[0] for path, leaf in shapes.items() if path not in flat}
    if flat or len(lengths) != 1:
        shown = [f"{path}: {describe(leaf)}" for path, leaf in shapes.items()]
        raise TreeError(
            "`microbatch` got batch arguments whose leading axes are not one and the same, and"
            " wants arrays with a row for each example; pass anything else in an argument that"
            " `batch_argnums` does not name:\n  " + "\n  ".join(shown or ["no arrays at all"])
        )
    (total,) = lengths
    if total % devices:
        raise TreeError(
            f"`microbatch` got a batch of {total} rows for {devices} devices along `batch_axis`,"
            " and wants as many rows on each; pad the batch, and give the padding weight 0"
        )
    rows = total // devices
    if rows < wanted:
        raise TreeError(
            f"`microbatch` got a batch of {total} rows, {rows} on each of {devices} devices, to"
            f" split into {wanted} on each, and wants at least one row for each micro-batch; lower"
            " `microbatches`"
        )
    size = -(-rows // wanted)
    return Parts(rows, size, rows // size, devices)


def as_jax(leaf: Any) -> Any:
    """A batch leaf as a JAX array; what is no array comes back as it is, to be refused."""
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def check_unsharded(batch: Any) -> None:
    """Refuses rows whose type says that devices share them, where no mesh is given."""
    for leaf in jax.tree.leaves(batch):
        spec = jax.typeof(leaf).sharding.spec
        if spec and spec[0] is not None:
            raise UsageError(
                f"`microbatch` got a batch whose rows are sharded over {spec[0]!r}, and wants"
                f" `mesh` and batch_axis={spec[0]!r}, so that they stay where they are"
            )


def split_keys(keys: Any, place: int, count: int) -> Any:
    """Each key of a pytree split into one for each micro-batch."""

    def split(path: Any, key: Any) -> Any:
        typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        raw = not typed and getattr(key, "dtype", None) == jnp.uint32
        if not (typed and key.ndim == 0) and not (raw and key.ndim == 1):
            raise UsageError(
                f"`microbatch` got {describe(key)} at {argument(place, path)} of `key_argnums`,"
                " and wants one PRNG key: jax.random.key(seed)"
            )
        return jax.random.split(key, count)

    return jax.tree_util.tree_map_with_path(split, keys)


def fold(batch: Any, parts: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)


def rows_of(batch: Any, start: Any, size: int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), batch)


def entry(keys: Any, index: int) -> Any:
    return jax.tree.map(lambda k: k[index], keys)
