"""A function as one from real arrays to real arrays, which is what can be checked entry by entry.

A complex array counts as two real ones, its real and its imaginary part, among inputs and outputs
alike. So both derivatives that PyTorch checks of a complex function, those of the real and of the
imaginary part of its output, are checked, whether the function is holomorphic or not.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ... import _jax
from ..._calls import check_arrays, differentiated
from ..._describe import argument, describe
from ..._leaves import takes_gradient
from ...errors import GradcheckError, UsageError

DOUBLE = float(np.finfo(np.float64).eps)
UNTRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)


class Leaf(NamedTuple):
    """One real array among the inputs or outputs.

    Fields:
        name: the argument or result it belongs to, with the path inside it.
        part: `"real"` or `"imaginary"` where it is half of a complex array, else empty.
        dtype: that of the array it belongs to.
        shape: its shape.
    """

    name: str
    part: str
    dtype: Any
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"the {self.part} part of {self.name}" if self.part else self.name


class Problem(NamedTuple):
    """A function to check, and where.

    Fields:
        call: from a list of real arrays, the inputs, to a list of real arrays, the outputs.
        point: the inputs.
        inputs, outputs: what is known of each.
        program: the function traced; `None` where it cannot be, because of Python's `if` on values.
        eps: the machine epsilon of the least precise dtype that anything in it is computed in.
    """

    call: Callable[[list[Any]], list[Any]]
    point: list[Any]
    inputs: list[Leaf]
    outputs: list[Leaf]
    program: _jax.Jaxpr | None
    eps: float

    @property
    def precision(self) -> str:
        """The dtypes of the inputs, in words."""
        return " and ".join(dict.fromkeys(str(x.dtype) for x in self.point))


def pose(
    fun: Callable[..., Any], args: Sequence[Any], argnums: Sequence[int], function: str
) -> Problem:
    """The function of the floating and complex leaves of some arguments; the others are fixed."""
    given = differentiated(fun, args, {}, argnums, function)
    if any(map(_jax.is_tracer, jax.tree.leaves(args))):
        raise UsageError(
            f"`{function}` got traced arguments, and wants numbers: call it outside `jax.jit`,"
            " `jax.vmap`, `jax.grad` and the like"
        )
    leaves = [jnp.asarray(leaf) for leaf in given.arrays]
    names = given.names(lambda path: argument(argnums[path[0].idx], path[1:]))
    if not sum(leaf.size for leaf in leaves):
        raise UsageError(
            f"`{function}` got arguments without an entry that is floating or complex, and wants"
            f" one to differentiate with respect to: {', '.join(map(describe, args)) or 'none'}"
        )
    seen: dict[tuple[Any, ...], list[Leaf]] = {}

    def call(reals: list[Any]) -> list[Any]:
        rest = iter(reals)
        parts = [
            lax.complex(next(rest), next(rest)) if jnp.iscomplexobj(leaf) else next(rest)
            for leaf in leaves
        ]
        named = _outputs(given.run(parts), function)
        found = [part for name, x in named for part in _parts(name, x)]
        first = seen.setdefault(tuple(x.dtype for x in reals), found)
        if found != first:
            raise GradcheckError(
                f"`{function}` got a function whose results are others for other values of its"
                f" arguments: {_listed(first)} at first, then {_listed(found)}; a derivative wants"
                " the same names, shapes and dtypes at the point and around it, so check what is"
                " computed on each path as a function of its own"
            )
        return [part for _, x in named for part in _reals(x)]

    point = [part for leaf in leaves for part in _reals(leaf)]
    inputs = [p for name, x in zip(names, leaves, strict=True) for p in _parts(name, x)]
    program = traced(call, point)
    results = _jax.output_types(program) if program else call(point)
    if not sum(math.prod(x.shape) for x in results):
        raise UsageError(
            f"`{function}` got a function whose results have no floating or complex entry, and"
            " wants one that can be differentiated"
        )
    outputs = next(iter(seen.values()))
    return Problem(call, point, inputs, outputs, program, _eps(program, [*point, *results]))


def widened(problem: Problem) -> Problem | None:
    """The same function of the same numbers in float64, where it computes in that throughout.

    `None` where it does not: it may refuse float64, or have results of a dtype of its own. To be
    called, and what it returns used, where 64 bits are enabled.
    """
    point = [jnp.asarray(x, jnp.float64) for x in problem.point]
    try:
        program = traced(problem.call, point)
        results = _jax.output_types(program) if program else problem.call(point)
    except Exception:  # whatever a function does that was not written for float64
        return None
    shapes = [(jnp.float64, leaf.shape) for leaf in problem.outputs]
    if [(x.dtype, x.shape) for x in results] != shapes:
        return None
    return problem._replace(point=point, program=program, eps=_eps(program, [*point, *results]))


def traced(call: Callable[[list[Any]], Any], point: list[Any]) -> _jax.Jaxpr | None:
    """The function traced anew, or `None` where Python looks at its values."""
    try:
        return jax.make_jaxpr(lambda reals: call(reals))(point)
    except UNTRACEABLE:
        return None


def _outputs(out: Any, function: str) -> list[tuple[str, Any]]:
    """The floating and complex leaves of what a function returned, by name."""
    check_arrays(out, function)
    return [
        (f"result{jax.tree_util.keystr(path)}", jnp.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(out)
        if takes_gradient(leaf)
    ]


def _parts(name: str, x: Any) -> list[Leaf]:
    words = ("real", "imaginary") if jnp.iscomplexobj(x) else ("",)
    return [Leaf(name, word, x.dtype, x.shape) for word in words]


def _listed(leaves: list[Leaf]) -> str:
    return ", ".join(f"{leaf}: {leaf.dtype}{list(leaf.shape)}" for leaf in leaves) or "none"


def _reals(x: Any) -> list[Any]:
    return [jnp.real(x), jnp.imag(x)] if jnp.iscomplexobj(x) else [x]


def _eps(program: _jax.Jaxpr | None, values: list[Any]) -> float:
    dtypes = {x.dtype for x in values}
    if program is not None:
        results = (t for path in _jax.everywhere(program) for t in path[-1].result_types)
        dtypes |= {getattr(type_, "dtype", bool) for type_ in results}
    return max(float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.inexact))
