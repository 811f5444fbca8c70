"""The parameters that PyTorch and JAX share, and what each is called in JAX."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ..._describe import describe
from ...errors import UsageError
from .inputs import check_leaf, is_shared


class Parameters(NamedTuple):
    """Parameters and buffers.

    Attributes:
        tensors: the tensors of the module, or the arrays that were given, each once.
        places: for each name its index in `tensors`; a shared tensor has several names.
        rest: what is no array, by name.
        names: what a report calls each of `tensors`.
        kinds: for each of `tensors` `parameter` or `buffer`.
        passed: whether the torch function takes them as its first argument.
    """

    tensors: list[Any]
    places: dict[str, int]
    rest: dict[str, Any]
    names: list[str]
    kinds: list[str]
    passed: bool

    def filled(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """A dict by name that holds these arrays in place of the tensors."""
        return {**self.rest, **{name: arrays[place] for name, place in self.places.items()}}


def take_parameters(params: Any, names: Any, torch_fn: Any) -> Parameters | None:
    """The arrays in `params` and their names; `None` where there is no `params`.

    Args:
        params: a module, a dict of arrays by name, or `None`.
        names: the user's rules for JAX's names.
        torch_fn: the torch function.

    Raises:
        UsageError: `params` is something else, or holds what cannot be compared.
    """
    import torch

    if params is None:
        if names is not None:
            raise UsageError(
                "`with_torch` got `names` without `params`, and wants the module whose parameters"
                " are called so: params=module"
            )
        return None
    if isinstance(params, torch.nn.Module):
        found = params.state_dict(keep_vars=True)
        live = set(map(id, params.parameters()))
    elif isinstance(params, Mapping) and not isinstance(torch_fn, torch.nn.Module):
        found = dict(params)
        live = set(map(id, found.values()))
    else:
        raise UsageError(
            f"`with_torch` got {describe(params)} as `params`, and wants the torch.nn.Module itself"
            " (a state_dict has no gradients), or, for a torch function that takes them as its"
            " first argument, a dict of arrays by name"
        )
    aliases: dict[int, list[str]] = {}
    for name, leaf in found.items():
        if is_shared(leaf):
            check_leaf(leaf, name)
            aliases.setdefault(id(leaf), []).append(name)
    tensors = [found[same[0]] for same in aliases.values()]
    return Parameters(
        tensors,
        {name: place for place, same in enumerate(aliases.values()) for name in same},
        {name: leaf for name, leaf in found.items() if not is_shared(leaf)},
        [" = ".join(same) for same in aliases.values()],
        ["parameter" if id(leaf) in live else "buffer" for leaf in tensors],
        not isinstance(params, torch.nn.Module),
    )


class NameRules:
    """The user's rules from torch names to JAX names; a name without a rule stays as it is.

    A rule maps a name to another name, to a function of its array, or to a pair of both. It maps a
    pattern, which has `*` or `?`, to a function only.
    """

    def __init__(self, rules: Any, keyword: str) -> None:
        self._rules = {key: _rule(key, value, keyword) for key, value in (rules or {}).items()}
        self._keyword = keyword

    def __call__(self, name: str) -> tuple[str, Callable[[Any], Any] | None]:
        """The JAX name, and the function from the torch array to the JAX array, if there is one."""
        key = name if name in self._rules else next(filter(_fits_pattern(name), self._rules), name)
        new, change = self._rules.get(key, (None, None))
        return new or name, change

    def names(self, name: str) -> bool:
        """Whether there is a rule for this name, not only for a pattern that it fits."""
        return name in self._rules

    def check(self, names: Sequence[str], what: str) -> None:
        """Refuse rules for names that do not exist."""
        for key in self._rules:
            if key not in names and not any(_fits_pattern(name)(key) for name in names):
                raise UsageError(
                    f"`with_torch` got {key!r} in `{self._keyword}`, and no {what} is called that:"
                    f" there is {', '.join(map(repr, names)) or 'none at all'}"
                )


def _fits_pattern(name: str) -> Callable[[str], bool]:
    """A test whether a key is a pattern that `name` fits; brackets in a key are no pattern."""
    return lambda key: _is_pattern(key) and fnmatch.fnmatchcase(name, key.replace("[", "[[]"))


def _is_pattern(key: str) -> bool:
    return "*" in key or "?" in key


def _rule(key: Any, value: Any, keyword: str) -> tuple[str | None, Callable[[Any], Any] | None]:
    if isinstance(value, str):
        value = (value, None)
    elif callable(value):
        value = (None, value)
    pair = isinstance(value, tuple) and len(value) == 2
    if not (pair and isinstance(value[0], str | None) and (value[1] is None or callable(value[1]))):
        raise UsageError(
            f"`with_torch` got {value!r} for {key!r} in `{keyword}`, and wants JAX's name, a"
            " function of the array, or a pair of both: {'fc.weight': ('w', lambda w: w.T)}"
        )
    if value[0] is not None and _is_pattern(key):
        raise UsageError(
            f"`with_torch` got the one name {value[0]!r} for all that fits {key!r} in `{keyword}`,"
            " and wants only a function of the array for a pattern"
        )
    return value


def renamed(state: Mapping[str, Any], names: Any) -> Any:
    """JAX's parameters, made from PyTorch's by a function, or by rules for single names.

    Args:
        state: arrays by torch name.
        names: a function of `state`, or rules; `/` in a new name opens a dict within the dict.

    >>> renamed({"fc.weight": 1, "fc.bias": 2}, {"fc.weight": "fc/w", "fc.bias": ("b", str)})
    {'fc': {'w': 1}, 'b': '2'}
    """
    if callable(names):
        try:
            return names(dict(state))
        except jax.errors.TracerArrayConversionError as error:
            error.add_note(
                "`with_torch` traces `names`: use jax.numpy there, or an array's methods"
            )
            raise
    params: dict[str, Any] = {}
    rename = NameRules(names, "names")
    rename.check(list(state), "parameter or buffer")
    for name, value in state.items():
        new, change = rename(name)
        *outer, last = new.split("/") if new != name else [name]
        inner: Any = params
        for key in outer:
            inner = inner.setdefault(key, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last in inner:
            raise UsageError(
                f"`with_torch` got {new!r} for {name!r} in `names`, where something else stands"
                " already; give every parameter a place of its own"
            )
        inner[last] = value if change is None else change(value)
    return params
