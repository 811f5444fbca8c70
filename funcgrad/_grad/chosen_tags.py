"""What `retain=` asks for: names and patterns, held against the tags a program has."""

import fnmatch
from collections.abc import Iterable, Mapping
from types import EllipsisType
from typing import Any, NamedTuple

from .._describe import describe
from .._taps import Site, Watching
from ..errors import TagError, UsageError

Pattern = str | Iterable[str] | EllipsisType
Names = Pattern | Mapping[Any, Any]
Retain = Names | None


def names_of(retain: Any) -> Any:
    """`retain` as it can be read any number of times: an iterable becomes a tuple or a dict."""
    if isinstance(retain, Mapping):
        return dict(retain)
    several = isinstance(retain, Iterable) and not isinstance(retain, str)
    return tuple(retain) if several else retain


class Request(NamedTuple):
    """A tag that was asked for, and the statistics that are wanted of it, if not all of it."""

    site: Site
    watch: Watching | None


def requests(retain: Retain, sites: dict[str, Site], function: str) -> dict[str, Request]:
    """What `retain` asks for, in the order of the program; of two entries the later counts.

    Raises:
        UsageError: an entry is neither `watch(...)` nor `...`, or as `select` raises.
        TagError: as `select` raises it.
    """
    if retain is None:
        return {}
    use = Use(function, "retain")
    entries = retain if isinstance(retain, dict) else {retain: ...}
    found: dict[str, Request] = {}
    for names, what in entries.items():
        if what is not ... and not isinstance(what, Watching):
            raise UsageError(
                f"`{function}` got {describe(what)} for {names!r} in `retain`, and wants"
                " funcgrad.watch(...), or ... for the whole value and gradient"
            )
        watch = None if what is ... else what
        chosen = select(names, sites, use)
        found.update({name: Request(site, watch) for name, site in chosen.items()})
    return {name: found[name] for name in sites if name in found}


class Use(NamedTuple):
    """What names are asked for, to end and to begin messages with.

    Fields:
        function: the public function.
        keyword: the argument that holds the names.
        gradient: whether gradients are asked for, so that something must use the value.
        rows: whether there must be a row for each step of a loop around.
    """

    function: str
    keyword: str
    gradient: bool = True
    rows: bool = True


def select(names: Pattern, sites: dict[str, Site], use: Use) -> dict[str, Site]:
    """The tags that names and patterns ask for, in the order of the program.

    Raises:
        UsageError: `names` holds what is no string.
        TagError: a name is not there or used twice, is of a value that nothing uses, or stands
            where no value or gradient can be told.
    """
    wanted = set(sites) if names is ... else _matches(names, sites, use)
    chosen = {name: site for name, site in sites.items() if name in wanted}
    for name, site in chosen.items():
        if site.clash is not None:
            raise TagError(_twice(name, site, site.clash))
        if around := site.blocked if use.rows else site.sealed:
            what = (
                "the gradient of an inner value cannot be told"
                if use.gradient
                else ("an inner value cannot be reached")
            )
            raise TagError(
                f"`{use.function}` got {name!r} in `{use.keyword}`, tagged at {site.where}, inside"
                f" `{around}`, where {what};"
                f" {_ADVICE.get(around, 'tag what goes into it or comes out of it')}"
            )
    return chosen


_CUSTOM = (
    "its custom rule replaces what is inside; tag what goes into the function or comes out of it"
)
_ADVICE = {
    "while": "use funcgrad.while_loop, jax.lax.scan, or jax.lax.fori_loop with bounds known when"
    " tracing, or tag what goes into the loop or comes out of it",
    "fori_loop": "pass max_steps=, so that there is room for each step, and tag the value in the"
    " body of the loop",
    "custom_jvp_call": _CUSTOM,
    "custom_vjp_call": _CUSTOM,
}


def _matches(names: Any, sites: dict[str, Site], use: Use) -> set[str]:
    wanted: set[str] = set()
    for pattern in names if isinstance(names, tuple) else (names,):
        if not isinstance(pattern, str):
            raise UsageError(
                f"`{use.function}` got {pattern!r} in `{use.keyword}`, and wants names or patterns:"
                " a string, a tuple of strings, or ... for all"
            )
        found = {name for name in sites if fnmatch.fnmatchcase(name, pattern)}
        if pattern in sites:
            found = {pattern}
            if use.gradient:
                _check_used(pattern, sites[pattern], use)
        if not found:
            raise TagError(
                f"`{use.function}` got {pattern!r} in `{use.keyword}`, and no value of that name is"
                f" tagged: there is {_listed(sites)}; tag it inside the function with"
                f" y = retain_grad(y, {pattern!r}), or name the parts of a model with"
                " funcgrad.named(model)"
            )
        wanted |= found
    return wanted


def _listed(sites: dict[str, Site]) -> str:
    shown = [*map(repr, sites)]
    if len(shown) > _SHOWN:
        shown[_SHOWN:] = [f"and {len(shown) - _SHOWN} more"]
    return ", ".join(shown) or "none at all"


_SHOWN = 50  # names in a message


def _check_used(name: str, site: Site, use: Use) -> None:
    if site.dropped and any(site.chosen):
        raise TagError(
            f"`{use.function}` got {name!r} in `{use.keyword}`, tagged at {site.where}, and nothing"
            " uses what `retain_grad` returned there, so that no gradient reaches it; go on with"
            f" its result: y = retain_grad(y, {name!r})"
        )


def _twice(name: str, first: Site, second: Site) -> str:
    types = (
        f" (in two branches one name may stand for values of one type: got {_types(first)} and"
        f" {_types(second)})"
        if _types(first) != _types(second)
        else ""
    )
    return (
        f"`retain_grad` got the name {name!r} twice, and wants each name once:\n"
        f"  first at {first.where}\n  then at  {second.where}{types}\n"
        'give them different names, or put each use inside a `with jax.named_scope("one"):` of its'
        f" own, which makes it 'one/{name}'; a tag meets itself where JAX repeats a body (a"
        " function called twice, be it in `no_grad` or in an inner gradient; a cond under vmap;"
        " lax.map in batches with a remainder; a loop under jax.disable_jit)"
    )


def _types(site: Site) -> str:
    return ", ".join(map(describe, site.leaves))
