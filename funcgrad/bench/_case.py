"""The registry of benchmark cases: what each one computes, at which sizes, by whom.

A case builds a `Problem` for a size: the arrays, and one function for each library that computes
the same from them. What runs them, and how, is none of its business.
"""

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..errors import BenchError

Function = Callable[..., Any]
Build = TypeVar("Build", bound=Callable[..., "Problem"])

CONTENDERS = {
    "funcgrad": "funcgrad, jitted",
    "unjitted": "funcgrad, not jitted",
    "jax": "JAX by hand, jitted",
    "torch": "PyTorch, eager",
    "compile": "torch.compile, backward()",
    "compile-func": "torch.compile, torch.func.grad",
    "cuda-graph": "torch.compile, CUDA graphs",
    "equinox": "Equinox",
    "flax": "Flax",
    "optax": "Optax",
    "forward": "JAX by hand, forward mode",
    "known": "JAX by hand, trips known when tracing",
    "control": "control",
}
"""Everyone who has a column: what `--contenders` calls them, and what the table does."""

NO_FORM = "has no such form"


def same(value: Any) -> Any:
    """What is given."""
    return value


class Torch(NamedTuple):
    """What PyTorch's contenders are made of.

    Fields:
        args: the arguments, as NumPy arrays in any pytree; they become tensors on the device.
        leaves: which of them take gradients.
        loss: `loss(*args)` is the scalar and what else is wanted: what `torch.compile` is given,
            with its own `backward()` or inside `torch.func.grad`. `None`: neither is possible.
        eager: the step as one writes it in PyTorch; `None`: `loss`, then `backward()`.
        view: from what `loss` gives to what ours returns: `view(value, others, gradients)`, the
            last a tuple like the arguments at `leaves`. It is not timed.
        eager_view: from what `eager` gives to what ours returns; not timed either.
        backward: the step, given `torch.compile`, where something else than `loss` is compiled.
        func: the whole step as a pure function to compile, where it is not a gradient of `loss`.
        why: why there is no compiled form, where there is none.
    """

    args: tuple[Any, ...]
    leaves: tuple[int, ...] = (0,)
    loss: Function | None = None
    eager: Function | None = None
    view: Function = lambda value, others, gradients: (value, *gradients)
    eager_view: Function = same
    backward: Callable[[Function], Function] | None = None
    func: Function | None = None
    why: str = NO_FORM


class Own(NamedTuple):
    """A function that takes other arguments than those of the problem."""

    fun: Function
    args: tuple[Any, ...]


class Problem(NamedTuple):
    """One case at one size.

    Fields:
        args: the arguments, as NumPy arrays in any pytree.
        ours: the function that uses funcgrad; not jitted.
        hand: the same, hand-written in JAX; it returns the same leaves in the same order.
        torch: makes what PyTorch needs, where PyTorch is installed.
        peers: makes the function of another library, or an `Own`, by the name of the contender.
        control: what the others are measured against; `None`: an empty jitted function with the
            inputs and outputs of ours.
        host: the functions are called as they are, as their work is not one compiled program.
        tolerance: how far results may be apart, relative to the greatest number of each array.
        carry: how many arguments, from the first, the function returns anew in the same places;
            they are donated, and the next call gets the new ones.
        view: from what a function returns to what is compared; not timed.
        traced: only tracing and lowering are timed.
    """

    args: tuple[Any, ...]
    ours: Function
    hand: Function
    torch: Callable[[], Torch] | None = None
    peers: Mapping[str, Callable[[], Any]] = {}
    control: Function | None = None
    host: bool = False
    tolerance: float = 1e-4
    carry: int = 0
    view: Function = same
    traced: bool = False


class Case(NamedTuple):
    """One line of the table, or several: one for each size.

    Fields:
        name: its group and its own name, as in `models/mlp`.
        about: what it computes, in a few words.
        build: from a size to the problem.
        sizes: by name, from the smallest to the largest.
        sweep: what the size counts, where the case shows how cost grows.
        closer: whether it is a closer look: contenders have names of their own, each a line.
        extra: whether it runs only when it is asked for by name.
        dispatch: the sizes at which calling the program costs more than running it.
    """

    name: str
    about: str
    build: Callable[[Any], Problem]
    sizes: Mapping[str, Any]
    sweep: str | None = None
    closer: bool = False
    extra: bool = False
    dispatch: Sequence[str] = ()

    def size(self, name: str) -> Any:
        """The size of that name; `None` where there is none.

        Where sizes are called by their numbers, any others are sizes too.

        >>> Case("loops/x", "", print, {"64x1000": (64, 1000)}).size("8x10")
        (8, 10)
        """
        first, size = next(iter(self.sizes.items()))
        if name in self.sizes or not all(
            re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", n) for n in (first, name)
        ):
            return self.sizes.get(name)
        numbers = tuple(map(int, name.split("x")))
        if len(numbers) != len(first.split("x")):
            return None
        return numbers if isinstance(size, tuple) else numbers[0]


_CASES: dict[str, Case] = {}


def case(
    name: str, about: str, sizes: Mapping[str, Any] | Sequence[Any], **options: Any
) -> Callable[[Build], Build]:
    """Registers what it decorates, the function that builds the problem of a size.

    Sizes without names are numbers, or tuples of numbers, and are called by these: `64x1000`.
    """

    def register(build: Build) -> Build:
        if name in _CASES:
            raise AssertionError(f"there are two cases {name!r}")
        named = sizes if isinstance(sizes, Mapping) else {called(size): size for size in sizes}
        options.setdefault("extra", options.get("closer", False))
        _CASES[name] = Case(name, about, build, named, **options)
        return build

    return register


def called(size: Any) -> str:
    """The name of a size that is a number or a tuple of numbers."""
    return "x".join(map(str, size if isinstance(size, tuple) else [size]))


def cases() -> dict[str, Case]:
    """All cases by name, in the order of the table."""
    from . import cases as registered

    del registered
    return _CASES


def selected(
    patterns: Sequence[str] = (), sizes: Sequence[str] = (), quick: bool = False
) -> Iterator[tuple[Case, str]]:
    """The cases and sizes to run.

    Args:
        patterns: names, groups (`models`) or patterns (`models/*-hook`); none for all cases that
            are not extra.
        sizes: names of sizes; none for all.
        quick: of each case the smallest size only, of a sweep the smallest three.

    Raises:
        BenchError: a pattern or a size names nothing; the message says what is there.
    """
    chosen = _matching(patterns) if patterns else [c for c in cases().values() if not c.extra]
    known = list(dict.fromkeys(size for c in chosen for size in c.sizes))
    for size in sizes:
        if all(c.size(size) is None for c in chosen):
            raise BenchError(f"there is no size {size!r} in these cases: {', '.join(known)}")
    for one in chosen:
        here = [size for size in sizes or one.sizes if one.size(size) is not None]
        if quick:
            here = here[: 3 if one.sweep else 1]
        yield from ((one, size) for size in here)


def _matching(patterns: Sequence[str]) -> list[Case]:
    everyone = cases()
    found: dict[str, Case] = {}
    for pattern in patterns:
        exact = [c for c in everyone.values() if c.name == pattern]
        group = [c for c in everyone.values() if c.name.startswith(f"{pattern}/") and not c.extra]
        like = [c for c in everyone.values() if fnmatch.fnmatchcase(c.name, pattern)]
        if not (matches := exact or group or like):
            raise BenchError(f"there is no case {pattern!r}; there are {', '.join(everyone)}")
        found |= {c.name: c for c in matches}
    return [c for c in everyone.values() if c.name in found]


def unknown_contenders(names: Sequence[str]) -> None:
    """Refuses a contender that there is not.

    >>> unknown_contenders(["jax", "tinygrad"])
    Traceback (most recent call last):
    funcgrad.errors.BenchError: there is no contender 'tinygrad'; there are funcgrad, \
unjitted, jax, torch, compile, compile-func, cuda-graph, equinox, flax, optax, forward, known, \
control
    """
    for name in names:
        if name not in CONTENDERS:
            raise BenchError(f"there is no contender {name!r}; there are {', '.join(CONTENDERS)}")
