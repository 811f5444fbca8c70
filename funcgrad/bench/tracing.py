"""Measures what `retain=` adds to tracing: `python -m funcgrad.bench.tracing`.

For a straight line of equations with tags in it, and for a tag under ever more nested `jit`s, it
traces `jax.value_and_grad(f)` and `funcgrad.value_and_grad(f, retain=...)` of one and the same `f`
in turn, and prints the time of the first and the ratio of the second to it. The ratio is the figure
to quote: times differ between machines, and on one machine between minutes. Nothing is compiled.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import funcgrad as fg

from ._timer import clock, uncollected

Function = Callable[[Any], Any]


def line(equations: int, tags: int) -> Function:
    """A function of about so many equations in a row, with `tags` of its values tagged."""
    steps = equations // 2
    every = max(1, steps // tags)

    def fun(x: Any) -> Any:
        for step in range(steps):
            x = jnp.sin(x) * 1.01
            if step % every == 0:
                x = fg.retain_grad(x, f"t{step}")
        return jnp.sum(x)

    return fun


def nest(depth: int, equations: int = 20) -> Function:
    """A tag under `depth` nested jitted functions of so many equations each."""

    def level(depth: int) -> Function:
        if depth == 0:
            return lambda x: fg.retain_grad(2 * x, "t")
        inner = jax.jit(level(depth - 1))

        def fun(x: Any) -> Any:
            for _ in range(equations // 2):
                x = jnp.sin(x) * 1.01
            return inner(x)

        return fun

    nested = level(depth)
    return lambda x: jnp.sum(nested(x))


def seconds(transform: Callable[[Function], Any], make: Callable[[], Function]) -> float:
    """How long tracing takes once, from empty caches."""
    fun = jax.jit(transform(make()))
    jax.clear_caches()
    with uncollected():
        return clock(lambda: fun.trace(jnp.ones(8)))


def compare(make: Callable[[], Function], rounds: int = 5) -> tuple[float, float]:
    """The median time of plain tracing, and the median ratio of tracing with `retain=...` to it."""
    pairs = [(seconds(jax.value_and_grad, make), seconds(_retaining, make)) for _ in range(rounds)]
    return statistics.median(p for p, _ in pairs), statistics.median(r / p for p, r in pairs)


def _retaining(fun: Function) -> Function:
    return fg.value_and_grad(fun, retain=...)


def main() -> None:
    """Prints both tables."""
    print(f"jax {jax.__version__}, {jax.default_backend()}")
    print(f"{'equations':>10} {'tags':>6} {'plain, s':>9} {'retain=... / plain':>19}")
    for equations in (1_250, 2_500, 5_000, 10_000):
        for tags in (1, 50, equations // 4):
            plain, ratio = compare(lambda e=equations, t=tags: line(e, t))  # type: ignore[misc]
            print(f"{equations:>10} {tags:>6} {plain:>9.3f} {ratio:>19.2f}")
    print(f"{'depth':>10} {'':>6} {'plain, s':>9} {'retain=... / plain':>19}")
    for depth in (1, 4, 16, 64):
        plain, ratio = compare(lambda d=depth: nest(d))  # type: ignore[misc]
        print(f"{depth:>10} {'':>6} {plain:>9.3f} {ratio:>19.2f}")


if __name__ == "__main__":
    main()
