"""The evaluation of a program with something done at its tags."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _jax
from .._tags import TAG
from .find import Leaf, Site, find, names

Made = dict[str, Any]
"""What was made at each tag, by name."""


class Act(NamedTuple):
    """What is done at a tag.

    Fields:
        run: `(tag, operands, given, index) -> (results, made)`; the operands and results are the
            leaves of the value, `index` the numbers of the rows of the loops around it.
        absent: `site -> made`, in a branch that does not have the tag. `None` for an act that takes
            and makes nothing, so that it needs no row of its own in a loop.
        indexed: whether it wants `index`; otherwise that is empty.
        lasting: whether it holds nothing of this call, so that what is compiled may be kept.
    """

    run: Callable[[_jax.Equation, list[Any], Any, Any], tuple[list[Any], Any]]
    absent: Callable[[Site], Any] | None = None
    indexed: bool = False
    lasting: bool = False


Acts = Mapping[str, Act]


class _Given(NamedTuple):
    """What a body is given besides its inputs: for each act, and, if one asks, which row it is."""

    at: dict[str, Any]
    rows: tuple[Any, ...] = ()


def run(
    program: _jax.Jaxpr,
    args: Sequence[Any],
    acts: Acts,
    given: dict[str, Any] | None = None,
    *,
    share: bool = False,
) -> tuple[list[Any], Made]:
    """Evaluates a program with an act at each tag that `acts` names.

    Args:
        program: the program; its constants may be tracers.
        args: its inputs.
        acts: what is done, by the name of the tag.
        given: for each name a pytree of arrays for the act, with the axes of loops and meshes
            around the tag in front.
        share: whether to have JAX find the derivative of an operation that repeats but once; of use
            where what is evaluated is differentiated and staged at the same time.

    Returns:
        The program's results, and what the acts made, with these axes in front.
    """
    return _Evaluation(share, {}).run(program, args, acts, _Given(given or {}))


class _Evaluation(NamedTuple):
    """One evaluation.

    Fields:
        share: see `run`.
        jitted: what is compiled for this evaluation alone, by program.
    """

    share: bool
    jitted: dict[Any, Any]

    def run(
        self, program: _jax.Jaxpr, args: Sequence[Any], acts: Acts, given: _Given
    ) -> tuple[list[Any], Made]:
        if not acts:
            return list(_jax.as_function(program)(*args)), {}
        env = {**_jax.constants(program), **dict(zip(_jax.inputs(program), args, strict=True))}
        equations = _jax.equations(program)
        asked = [{n.inner: n.full for n in row if n.full in acts} for row in names(program)]
        every: Made = {}

        def read(atom: Any) -> Any:
            return _jax.value_of(atom) if _jax.is_literal(atom) else env[atom]

        for piece in _jax.cut(program, [*map(bool, asked)], self.share):
            operands = [read(v) for v in piece.reads]
            if piece.run is not None:
                results = piece.run(*operands)
            elif piece.equation is not None:
                inner = asked[piece.equation]
                its_acts = {name: acts[full] for name, full in inner.items()}
                its = {name: given.at[full] for name, full in inner.items() if full in given.at}
                results, made = self._at(
                    equations[piece.equation], operands, its_acts, given._replace(at=its)
                )
                every.update({inner[name]: x for name, x in (made or {}).items()})
            env.update(zip(piece.makes, results, strict=True))
        outputs = _jax.outputs(program)
        return [jnp.asarray(read(v)) if _jax.is_literal(v) else env[v] for v in outputs], every

    def _at(
        self, equation: _jax.Equation, operands: list[Any], acts: Acts, given: _Given
    ) -> tuple[list[Any], Made]:
        """One equation that holds tags with acts, or is one; all by the names of its inside."""
        with ExitStack() as stack:
            # The body's equations keep their own scopes; the one around them is entered again.
            for scope in equation.scopes:
                stack.enter_context(jax.named_scope(scope))
            if equation.kind == TAG:
                ((name, act),) = acts.items()
                results, made = act.run(equation, operands, given.at.get(name), given.rows)
                return results, {} if act.absent is None else {name: made}
            inside = _Inside(self, tuple(acts.items()), _sites_of(equation))
            return _jax.reenter(
                equation,
                operands,
                inside,
                _entering(equation, acts, given),
                varying=_varying(equation, given) if equation.kind == "shard_map" else None,
            )


class _Inside:
    """Runs in place of the bodies of an equation; those with the same acts are the same."""

    def __init__(
        self, evaluation: _Evaluation, acts: tuple[tuple[str, Act], ...], sites: dict[str, Site]
    ):
        self._evaluation, self._acts, self._sites = evaluation, acts, sites
        # What holds values of this call is compiled for it alone.
        self.jitted = None if all(act.lasting for _, act in acts) else evaluation.jitted

    def __hash__(self) -> int:
        return hash((self._acts, self._evaluation.share))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Inside)
            and self._acts == other._acts
            and self._evaluation.share == other._evaluation.share
        )

    def __call__(
        self, body: _jax.Body, inputs: Sequence[Any], given: _Given | None
    ) -> tuple[list[Any], Made]:
        here = find(body.program)
        acts = {name: act for name, act in self._acts if name in here}
        if body.role == _jax.TEST:
            acts = {name: act for name, act in acts.items() if act.absent is None}
        results, made = self._evaluation.run(body.program, inputs, acts, given or _Given({}))
        if body.role != _jax.BRANCH:
            return results, made
        # A value that only another branch has.
        absent = {name: act.absent for name, act in self._acts if name not in made}
        zeros = {name: make(self._sites[name]) for name, make in absent.items() if make}
        return results, {**made, **zeros}


def _sites_of(equation: _jax.Equation) -> dict[str, Site]:
    """The tags in the bodies of an equation, as the bodies see them."""
    return {name: site for body in equation.bodies for name, site in find(body.program).items()}


def _entering(equation: _jax.Equation, acts: Acts, given: _Given) -> _Given:
    """What the bodies of an equation are given, where the rows of a loop are numbered."""
    if not any(act.indexed for act in acts.values()):
        return given._replace(rows=())
    index = given.rows
    if equation.trips is not None:
        rows = equation.trips.length
        index = *(jnp.broadcast_to(i, (rows, *jnp.shape(i))) for i in index), jnp.arange(rows)
    if equation.kind == "shard_map":
        ones = (1,) * len(equation.bodies[0].axes)
        index = tuple(i.reshape(ones + jnp.shape(i)) for i in index)
    return given._replace(rows=index)


def _varying(equation: _jax.Equation, given: _Given) -> _Given:
    """The mesh axes along which what is given in a `shard_map` differs, as the values do."""
    (body,) = equation.bodies
    sites, every = find(body.program), frozenset(body.axes)

    def of(leaf: Leaf, x: Any) -> Any:
        return jax.tree.map(lambda _: leaf.varying if body.typed else every, x)

    at = {
        name: [of(leaf, x) for leaf, x in zip(sites[name].leaves, parts, strict=True)]
        for name, parts in given.at.items()
    }
    return _Given(at, tuple(frozenset() for _ in given.rows))
