"""The devices that share a batch: each loops over its rows, and sums are added at the end."""

import functools
import operator
from typing import Any

import jax

from .. import _jax
from .._describe import describe
from ..errors import UsageError
from .loop import Layout, reduced_over_parts
from .task import Task


def axes_of(mesh: Any, batch_axis: Any) -> tuple[str, ...]:
    """The names of the axes the batch is sharded over."""
    if mesh is None and batch_axis is None:
        return ()
    if mesh is None or batch_axis is None:
        got, other = ("batch_axis", "mesh") if mesh is None else ("mesh", "batch_axis")
        raise UsageError(
            f"`microbatch` got `{got}` without `{other}`, and wants both, to share the batch among"
            " devices, or neither"
        )
    if not isinstance(mesh, jax.sharding.Mesh | jax.sharding.AbstractMesh):
        raise UsageError(f"`microbatch` got {describe(mesh)} as `mesh`, and wants a jax Mesh")
    axes = (batch_axis,) if isinstance(batch_axis, str) else tuple(batch_axis)
    missing = [axis for axis in axes if axis not in mesh.axis_names]
    if missing or not axes or len(set(axes)) < len(axes):
        raise UsageError(
            f"`microbatch` got batch_axis={batch_axis!r} and a mesh with the axes"
            f" {', '.join(map(repr, mesh.axis_names)) or 'none'}, and wants the name of one of"
            " them, or several different names"
        )
    return axes


def devices_along(mesh: Any, axes: tuple[str, ...]) -> int:
    return functools.reduce(operator.mul, (mesh.shape[axis] for axis in axes), 1)


def reduced_over_devices(task: Task, held: Any, batch: Any, keys: Any, *, mesh: Any) -> Any:
    """Each device reduces its own rows; sums come out replicated, stacks sharded by rows."""
    seen: list[Layout] = []

    def local(held: Any, batch: Any, keys: Any) -> Any:
        layout, sums, stacks, state = reduced_over_parts(task, held, batch, keys)
        seen.append(layout)
        return sums, stacks, state

    rows, whole = jax.P(task.axes), jax.P()
    # Typed as varying (check_vma=True), `jax.grad` of replicated weights adds across devices where
    # it stands, inside the loop, and a `scan` of the user's that starts from zeros is refused.
    shared = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, rows, rows),
        out_specs=(whole, rows, whole),
        axis_names=set(task.axes),
        check_vma=False,
    )
    if _explicit(mesh, task.axes):
        batch, keys = jax.tree.map(lambda x: _shared_out(x, mesh, task.axes), (batch, keys))
        held = [_gathered(x, mesh, task.axes) for x in held]
    results = jax.jit(shared)(held, batch, keys)
    return seen[-1], *results


def _explicit(mesh: Any, axes: tuple[str, ...]) -> bool:
    """Whether shardings over `axes` are part of types, so that they must be asked for."""
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return all(kinds[axis] == jax.sharding.AxisType.Explicit for axis in axes)


def _shared_out(x: Any, mesh: Any, axes: tuple[str, ...]) -> Any:
    """`x` with its rows over `axes`; it stays where it is if they are there."""
    return _jax.placed(x, mesh, jax.P(axes, *jax.typeof(x).sharding.spec[1:]))


def _gathered(x: Any, mesh: Any, axes: tuple[str, ...]) -> Any:
    """`x` whole along `axes`, and along other axes as it is."""
    named = [part if isinstance(part, tuple) else (part,) for part in jax.typeof(x).sharding.spec]
    if not any(axis in part for part in named for axis in axes):
        return x
    rest = (tuple(axis for axis in part if axis and axis not in axes) for part in named)
    return _jax.placed(x, mesh, jax.P(*(part or None for part in rest)))
