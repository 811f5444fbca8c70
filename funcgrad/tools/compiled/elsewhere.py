"""Compiles an exported function for devices that are not there: run as a process of its own.

A compiler may abort its process, and its plugin is loaded here and nowhere else.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ... import _jax
from ...errors import CompileError
from .made import made
from .targets import Target

QUIET = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is taken
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def compiled_elsewhere(
    exported: Any, donated: list[bool], target: Target, mesh: Mapping[str, int], *, wide: bool
) -> dict[str, Any]:
    """What the compiler for a target makes of an exported function.

    Raises:
        CompileError: it refuses it, or ends its process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if target.platform == "cpu":
        count = max(prod(mesh.values()), 1)
        flags = f"{flags} --xla_force_host_platform_device_count={count}"
    environment = {
        **os.environ,
        **QUIET,
        "XLA_FLAGS": flags,
        "JAX_ENABLE_X64": str(int(wide)),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "given"), Path(folder, "taken")
        given.write_bytes(pickle.dumps((exported.serialize(), donated, target, dict(mesh))))
        done = subprocess.run(
            [sys.executable, "-c", f"import {__name__} as m; m.main()", str(given), str(taken)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not taken.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise CompileError(
                f"`compiled` got no program for {_name(target)}: the compiler ended its process"
                f" with status {done.returncode}; it said last: {' '.join(lines[-3:]) or 'nothing'}"
            )
        found: dict[str, Any] = json.loads(taken.read_text())
    if "error" in found:
        raise CompileError(
            f"`compiled` got no program for {_name(target)}; the compiler said: {found['error']}"
        )
    return found


def _name(target: Target) -> str:
    return " ".join(filter(None, (target.platform, target.kind, target.grid)))


def main() -> None:
    """Compiles what the file of the first argument holds, and writes to that of the second."""
    given, taken = map(Path, sys.argv[1:])
    try:
        found = _compile(*pickle.loads(given.read_bytes()))
    except Exception as error:
        full = "RESOURCE_EXHAUSTED" in str(error)
        found = {"refused" if full else "error": f"{type(error).__name__}: {error}"}
    taken.write_text(json.dumps(found))


def _compile(
    serialized: bytes, donated: list[bool], target: Target, axes: Mapping[str, int]
) -> dict[str, Any]:
    import jax
    from jax import export
    from jax.sharding import NamedSharding, PartitionSpec

    exported = export.deserialize(bytearray(serialized))
    mesh = _mesh(target, axes)
    whole = NamedSharding(mesh, PartitionSpec())
    given = [one or whole for one in exported.in_shardings_jax(mesh)]
    results = [one or (whole if not axes else None) for one in exported.out_shardings_jax(mesh)]
    tree = jax.tree.unflatten(exported.in_tree, range(len(given)))
    places = jax.tree.leaves(tree)

    def run(*leaves: Any) -> Any:
        args, kwargs = jax.tree.unflatten(exported.in_tree, [leaves[n] for n in places])
        return jax.tree.leaves(exported.call(*args, **kwargs))

    structs = [
        jax.ShapeDtypeStruct(type_.shape, type_.dtype, sharding=sharding)
        for type_, sharding in zip(_jax.argument_types(exported), given, strict=True)
    ]
    again = tuple(number for number, gone in enumerate(donated) if gone)
    jitted = jax.jit(run, in_shardings=given, out_shardings=results, donate_argnums=again)
    return made(jitted.lower(*structs).compile())


def _mesh(target: Target, axes: Mapping[str, int]) -> Any:
    """The mesh of the arguments, of devices of the target."""
    import jax
    import numpy as np
    from jax.experimental import mesh_utils, topologies
    from jax.sharding import Mesh

    shape = tuple(axes.values()) or (1,)
    names = tuple(axes) or ("device",)
    if target.platform == "cpu":
        devices = jax.devices("cpu")
    elif target.platform == "tpu":
        more = {"num_slices": target.slices} if target.slices > 1 else {}
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{target.kind}:{target.grid}", **more
        ).devices
    else:
        devices = topologies.get_topology_desc(
            platform="cuda",
            topology_name=target.kind,
            target_config=target.description,
            topology=f"1x{target.count}x1",
        ).devices
    if target.platform == "tpu" and target.slices == 1 and prod(shape) == len(devices):
        grid = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
        return Mesh(grid, names)
    ordered = sorted(devices, key=lambda one: (getattr(one, "slice_index", 0) or 0, one.id))
    return Mesh(np.array(ordered[: prod(shape)]).reshape(shape), names)
