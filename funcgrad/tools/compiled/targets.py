"""The targets that a program can be compiled for, by name."""

import re
from dataclasses import dataclass

from ..._extras import need
from ...errors import UsageError

GIB = 2**30
TPUS = {"v2": 8, "v3": 16, "v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # GiB of a device
FORM = (
    '"cpu", "tpu:v5e:4x4" (with ":2slices" after it for several slices) or "cuda:h100:8" (a100,'
    " h100 or h200, and how many)"
)
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: {shared_core}
  shared_memory_per_block_optin: {shared_block}
  threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {units}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {cache} clock_rate_ghz: {clock}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "NVIDIA {name}"
"""
_HOPPER = {
    **{"cores": 132, "units": 128, "shared_core": 233472, "shared_block": 232448},
    **{"cache": 52428800, "clock": 1.98, "major": 9},
}
GPUS = {  # as the makers' data sheets and CUDA's device queries give them
    "a100": {
        **{"cores": 108, "units": 64, "shared_core": 167936, "shared_block": 166912},
        **{"cache": 41943040, "clock": 1.41, "major": 8, "name": "A100-SXM4-80GB"},
        **{"bandwidth": 2039000000000, "memory": 80 * GIB},
    },
    "h100": {**_HOPPER, "name": "H100", "bandwidth": 3350000000000, "memory": 80 * GIB},
    "h200": {**_HOPPER, "name": "H200", "bandwidth": 4800000000000, "memory": 141 * 10**9},
}


@dataclass(frozen=True)
class Target:
    """What a program is compiled for.

    Attributes:
        platform: `"cpu"`, `"tpu"` or `"cuda"`.
        kind: of the device, `"v5e"` or `"h100"`.
        grid: of a slice of TPUs, `"4x4"`.
        count: devices, over all slices; 0 for as many as the mesh has.
        slices: of TPUs.
        memory: bytes of a device; `None` where it is not known.
    """

    platform: str
    kind: str = ""
    grid: str = ""
    count: int = 0
    slices: int = 1
    memory: int | None = None

    @property
    def description(self) -> str:
        """Of a GPU, as XLA reads it."""
        return _GPU.format(**GPUS[self.kind])


def target_of(name: object) -> Target:
    """The target of a name.

    Raises:
        UsageError: it is of no known form, or names an unknown device.
        MissingExtraError: the compiler for it is not installed.
    """
    if name == "cpu":
        return Target("cpu")
    if isinstance(name, str):
        if found := re.fullmatch(r"tpu:(\w+):(\d+(?:x\d+)*)(?::(\d+)slices?)?", name):
            kind, grid, slices = found[1], found[2], int(found[3] or 1)
            count = slices
            for side in grid.split("x"):
                count *= int(side)
            if kind in TPUS and count:
                need(["libtpu", "flatbuffers"], f"`compiled` for {name!r}", "tpu")
                return Target("tpu", kind, grid, count, slices, TPUS[kind] * GIB)
        if found := re.fullmatch(r"cuda:(\w+)(?::(\d+))?", name):
            kind, count = found[1], int(found[2] or 1)
            if kind in GPUS and count:
                modules = ["jax_plugins", "jax_plugins.xla_cuda12", "flatbuffers"]
                need(modules, f"`compiled` for {name!r}", "cuda")
                return Target("cuda", kind, "", count, 1, int(str(GPUS[kind]["memory"])))
    raise UsageError(
        f"`compiled` got target={name!r}, and wants None for the backend that is there, {FORM};"
        f" TPUs are {', '.join(TPUS)}"
    )
