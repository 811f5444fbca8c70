"""The public function `compiled`."""

import os
import warnings
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding

from ..._describe import describe, shown
from ...errors import CompileError, UsageError
from .elsewhere import compiled_elsewhere
from .made import made
from .report import Compiled, report
from .targets import Target, target_of


def compiled(fun: Callable[..., Any], *args: Any, target: str | None = None) -> Compiled:
    """What the compiler makes of `fun` for a device that need not be there, before it is rented.

    PyTorch has nothing of the kind. Nothing is computed. For another device the real compiler runs
    in a process of its own; `pip install 'funcgrad[tpu]'` or `'funcgrad[cuda]'` brings it.

    Args:
        fun: a function of pytrees of arrays, jitted or not. What its `jax.jit` donates and shards
            stays so.
        args: its arguments, or `jax.ShapeDtypeStruct`s in their place. Their shardings say the
            mesh; it may be one of CPU devices, or a `jax.sharding.AbstractMesh` of any size. The
            target's devices are put in its place.
        target: `None` for the backend that is there, `"cpu"`, `"tpu:v5e:4x4"`,
            `"tpu:v5e:4x4:2slices"`, `"cuda:h100:8"`. Slices lie along the first axes of the mesh.

    Returns:
        A [`Compiled`][funcgrad.Compiled]: whether it fits, memory, flops, collectives with the line
        that made each, moves to the host, and loops. Print it, or assert on it in a test.

    Raises:
        UsageError: a target of no known form, more devices in the mesh than the target has, or
            arguments on different meshes.
        MissingExtraError: the compiler is not installed.
        CompileError: the compiler refuses the program for another reason than memory.

    >>> import jax, jax.numpy as jnp, funcgrad as fg
    >>> found = fg.compiled(lambda x: x @ x, jax.ShapeDtypeStruct((64, 64), jnp.float32))
    >>> found.memory.arguments, found.memory.results, found.collectives.inside_loops
    (16384, 16384, [])
    """
    if not callable(fun):
        raise UsageError(
            f"`compiled` got {describe(fun)}, and wants a function and its arguments:"
            ' compiled(step, params, batch, target="tpu:v5e:4x4")'
        )
    mesh = _mesh(args)
    axes = dict(mesh.shape) if mesh is not None else {}
    wanted = None if target is None else target_of(target)
    jitted: Any = fun if hasattr(fun, "trace") else jax.jit(fun)
    here = jax.default_backend()
    abstract = isinstance(mesh, AbstractMesh)
    if wanted is None or (wanted.platform == here == "cpu" and not abstract):
        if abstract:
            raise UsageError(
                "`compiled` got arguments on an AbstractMesh and target=None, which wants devices"
                ' that are there: name a target, for example target="cpu"'
            )
        found, name, capacity = made(jitted.lower(*args).compile()), target or here, _room()
    else:
        if wanted.count and prod(axes.values()) > wanted.count:
            raise UsageError(
                f"`compiled` got arguments on a mesh of {prod(axes.values())} devices,"
                f" {axes}, and target={target!r}, which has {wanted.count}"
            )
        found = _elsewhere(fun, jitted, args, wanted, axes)
        name, capacity = str(target), wanted.memory
    return report(found, target=name, mesh=axes, capacity=capacity, own=_own())


def _own() -> tuple[str, ...]:
    package = Path(__file__).parents[2]
    return (f"{Path(jax.__file__).parent}{os.sep}", f"{package}{os.sep}")


def _mesh(args: Any) -> Any:
    """The mesh that the arguments lie on, or `None`."""
    meshes: dict[Any, None] = {}
    for leaf in jax.tree.leaves(args):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding):
            meshes.setdefault(sharding.mesh)
    if len({tuple(mesh.shape.items()) for mesh in meshes}) > 1:
        told = " and ".join(str(dict(mesh.shape)) for mesh in meshes)
        raise UsageError(f"`compiled` got arguments on different meshes, and wants one: {told}")
    return next(iter(meshes), None)


def _room() -> int | None:
    """The bytes of memory of a device that is there, if it tells."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def _elsewhere(
    fun: Any, jitted: Any, args: Any, target: Target, axes: Mapping[str, int]
) -> dict[str, Any]:
    from jax import export

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        traced = jitted.trace(*args)
        try:
            exported = export.export(jitted, platforms=[target.platform])(*args)
        except Exception as error:
            raise CompileError(
                f"`compiled` got {shown(fun)}, which JAX cannot lower for {target.platform} without"
                f" the device: {error}"
            ) from error
    donated = [bool(info.donated) for info in jax.tree.leaves(traced.args_info, is_leaf=_is_info)]
    if exported.nr_devices > max(prod(axes.values()), 1):
        raise UsageError(
            f"`compiled` got {shown(fun)}, which uses {exported.nr_devices} devices, and arguments"
            " without a mesh of so many: give them a NamedSharding, PartitionSpec() for what"
            " every device holds"
        )
    wide = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    return compiled_elsewhere(exported, donated, target, axes, wide=wide)


def _is_info(leaf: Any) -> bool:
    return hasattr(leaf, "donated")
