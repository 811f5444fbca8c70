"""The rule for equations that run a body on each device of a mesh: `shard_map`."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from .. import _compat as compat
from .walk import Leaf, Run, Values, find, rule


def _outside(eqn: compat.JaxprEqn, leaf: Leaf) -> Leaf:
    axes = compat.shard_map(eqn).axes
    return Leaf((*axes.values(), *leaf.shape), leaf.dtype, leaf.varying.difference(axes))


@rule("shard_map", outside=_outside)
def _shard_map(
    eqn: compat.JaxprEqn, operands: Sequence[Any], taps: Values, run: Run
) -> tuple[list[Any], Values]:
    """Each device gets its row of each tap, and gives its row of each value."""
    call = compat.shard_map(eqn)
    names = tuple(call.axes)
    sites = {name: site for name, site in find(call.body).items() if name in taps}
    # Where a value is the same along a mesh axis, so must its tap be: the sum of its (zero) rows,
    # whose transpose gives every row the whole gradient, as every device holds it.
    varying = {
        name: [leaf.varying if call.checked else frozenset(names) for leaf in site.leaves]
        for name, site in sites.items()
    }
    specs = {
        name: [PartitionSpec(*(a if a in v else None for a in names)) for v in leaves]
        for name, leaves in varying.items()
    }
    rows = {
        name: [
            None if tap is None else compat.placed(_shared(tap, names, v), call.mesh, spec)
            for tap, v, spec in zip(taps[name], varying[name], specs[name], strict=True)
        ]
        for name in sites
    }

    def body(taps: Values, *operands: Any) -> tuple[list[Any], Values]:
        inner = {
            name: [
                None if tap is None else tap.reshape(leaf.shape)
                for tap, leaf in zip(taps[name], site.leaves, strict=True)
            ]
            for name, site in sites.items()
        }
        results, values = run(call.body, operands, inner)
        ones = (1,) * len(names)
        return results, {
            name: [value.reshape(*ones, *value.shape) for value in values[name]] for name in sites
        }

    return jax.shard_map(
        body,
        mesh=call.mesh,
        in_specs=(specs, *call.in_specs),
        out_specs=(list(call.out_specs), PartitionSpec(*names)),
        axis_names=set(names),
        check_vma=call.checked,
    )(rows, *operands)


def _shared(tap: Any, names: tuple[str, ...], varying: frozenset[str]) -> Any:
    same = tuple(i for i, name in enumerate(names) if name not in varying)
    return tap.sum(same, keepdims=True) if same else tap
