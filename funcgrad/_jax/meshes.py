"""Values on a mesh: the axes along which they vary inside `shard_map`, and their shardings."""

from typing import Any

import jax
import jax.numpy as jnp


def varying(aval: Any) -> frozenset[str]:
    """The manual mesh axes along which a value of this type varies inside `shard_map`."""
    axes = getattr(aval, "mat", None)
    return frozenset(axes.varying if axes is not None else getattr(aval, "vma", ()))


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
    explicit = any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types)
    return jax.sharding.reshard(x, jax.NamedSharding(mesh, spec)) if explicit else x


def placed_like(x: Any, aval: Any) -> Any:
    """`x` with the sharding that the type `aval` has; as it is where types have none."""
    own, want = jax.typeof(x).sharding, aval.sharding
    return x if own.spec == want.spec else jax.sharding.reshard(x, want)
