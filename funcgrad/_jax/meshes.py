"""Values on a mesh: the axes along which they vary inside `shard_map`, and their shardings."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def varying(aval: Any) -> frozenset[str]:
    """The manual mesh axes along which a value of this type varies inside `shard_map`."""
    axes = getattr(aval, "mat", None)
    return frozenset(axes.varying if axes is not None else getattr(aval, "vma", ()))


def is_manual() -> bool:
    """Whether what is traced now runs on each device by itself, as inside `shard_map`."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def varied(x: Any, axes: frozenset[str]) -> Any:
    """`x` typed as a value that may differ between devices along `axes`."""
    new = axes - varying(jax.typeof(x))
    return jax.lax.pcast(x, tuple(sorted(new)), to="varying") if new else x


def one(aval: Any) -> Any:
    """1 as a value of the type `aval`: its dtype, weak type and mesh axes."""
    weak = aval.weak_type and jnp.asarray(1.0).dtype == aval.dtype
    x = jnp.broadcast_to(1.0, aval.shape) if weak else jnp.ones(aval.shape, aval.dtype)
    return placed_like(varied(x, varying(aval)), aval)


def placed(x: Any, mesh: Any, spec: Any) -> Any:
    """`x` with the sharding that a `shard_map` wants of it, where shardings are part of types."""
    return jax.sharding.reshard(x, jax.NamedSharding(mesh, spec)) if _explicit(mesh) else x


def placed_like(x: Any, aval: Any) -> Any:
    """`x` with the sharding that the type `aval` has; as it is where types have none.

    Axes that `x` has in front of those of `aval` are not sharded.
    """
    own, want = jax.typeof(x).sharding, aval.sharding
    spec = jax.P(*[None] * (jax.numpy.ndim(x) - aval.ndim), *want.spec)
    if not _explicit(want.mesh) or (own.mesh == want.mesh and own.spec == spec):
        return x
    return jax.sharding.reshard(x, want.update(spec=spec))


def mesh_of(xs: Sequence[Any]) -> Any:
    """The mesh that the types of some arrays name; `None` where no type names one.

    Outside `jit` it is the one of devices, which JAX wants there, and not its abstraction.
    """
    for x in xs:
        if hasattr(x, "dtype") and _explicit(mesh := jax.typeof(x).sharding.mesh):
            value = x.to_concrete_value() if isinstance(x, jax.core.Tracer) else x
            return mesh if value is None else value.sharding.mesh
    return None


def spread(axis: Any, x: Any, mesh: Any) -> Any:
    """`x` for each example of the axis that a batching rule was called for, sharded as that is."""
    x = jnp.broadcast_to(x, (axis.size, *jnp.shape(x)))
    along = axis.explicit_mesh_axis
    if along is None or mesh is None:
        return x
    sharding = jax.typeof(x).sharding
    return placed(x, mesh, jax.P(along, *sharding.spec[1:]))


def _explicit(mesh: Any) -> bool:
    return any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)


def without_axis(aval: Any, axis: int) -> Any:
    """The type of what an array of the type `aval` has at one index of an axis."""
    spec = aval.sharding.spec
    return _resized(aval, _but(aval.shape, axis), _but((*spec, *[None] * aval.ndim), axis))


def with_axis(aval: Any, size: int | None) -> Any:
    """The type of `size` values of the type `aval` in one array, along a new first axis."""
    return _resized(aval, (size, *aval.shape), (None, *aval.sharding.spec))


def _but(parts: Any, axis: int) -> tuple[Any, ...]:
    return (*parts[:axis], *parts[axis + 1 :])


def _resized(aval: Any, shape: tuple[Any, ...], spec: tuple[Any, ...]) -> Any:
    """A type of another shape; a sharding that is part of it goes along."""
    if aval.sharding.mesh.empty:
        return aval.update(shape=shape)
    sharding = aval.sharding.update(spec=jax.P(*spec[: len(shape)]))
    return aval.update(shape=shape, sharding=sharding)
