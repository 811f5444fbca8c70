"""What `retain=` asks for: names and patterns, held against the tags a program has."""

import fnmatch
from collections.abc import Iterable
from types import EllipsisType
from typing import Any

from .._describe import describe
from .._taps import Site
from ..errors import TagError, UsageError

Names = str | Iterable[str] | EllipsisType
Retain = Names | None


def names_of(retain: Any) -> Any:
    """`retain` as it can be read any number of times: an iterable becomes a tuple."""
    several = isinstance(retain, Iterable) and not isinstance(retain, str)
    return tuple(retain) if several else retain


def select(retain: Retain, sites: dict[str, Site], function: str) -> dict[str, Site]:
    """The tags that `retain` asks for, in the order of the program.

    Raises:
        UsageError: `retain` holds what is no string.
        TagError: a name is not there or used twice, is of a value that nothing uses, or stands
            where no gradient can be told.
    """
    if retain is None:
        return {}
    wanted = set(sites) if retain is ... else _matches(retain, sites, function)
    chosen = {name: site for name, site in sites.items() if name in wanted}
    for name, site in chosen.items():
        if site.clash is not None:
            raise TagError(_twice(name, site, site.clash))
        if site.blocked:
            raise TagError(
                f"`{function}` got {name!r} in `retain`, tagged at {site.where}, inside"
                f" `{site.blocked}`, where the gradient of an inner value cannot be told;"
                f" {_ADVICE.get(site.blocked, 'tag what goes into it or comes out of it')}"
            )
    return chosen


_CUSTOM = (
    "its custom rule replaces what is inside; tag what goes into the function or comes out of it"
)
_ADVICE = {
    "while": "use funcgrad.while_loop, jax.lax.scan, or jax.lax.fori_loop with bounds known when"
    " tracing, or tag what goes into the loop or comes out of it",
    "custom_jvp_call": _CUSTOM,
    "custom_vjp_call": _CUSTOM,
}


def _matches(retain: str | Iterable[str], sites: dict[str, Site], function: str) -> set[str]:
    wanted: set[str] = set()
    for pattern in retain if isinstance(retain, tuple) else (retain,):
        if not isinstance(pattern, str):
            raise UsageError(
                f"`{function}` got {pattern!r} in `retain`, and wants names or patterns: a string,"
                " a tuple of strings, or ... for all"
            )
        found = {name for name in sites if fnmatch.fnmatchcase(name, pattern)}
        if pattern in sites:
            found = {pattern}
            _check_used(pattern, sites[pattern], function)
        if not found:
            raise TagError(
                f"`{function}` got {pattern!r} in `retain`, and no value of that name is tagged:"
                f" there is {', '.join(map(repr, sites)) or 'none at all'}; tag it inside the"
                f" function with y = retain_grad(y, {pattern!r})"
            )
        wanted |= found
    return wanted


def _check_used(name: str, site: Site, function: str) -> None:
    if site.dropped and any(site.chosen):
        raise TagError(
            f"`{function}` got {name!r} in `retain`, tagged at {site.where}, and nothing uses what"
            f" `retain_grad` returned there, so that no gradient reaches it; go on with its result:"
            f" y = retain_grad(y, {name!r})"
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
