"""Times things in turn: what the benchmarks share.

On a machine that does other work a time says little and a ratio of times taken side by side says
much. So everything that is compared runs in turn, round after round, and ratios are of one round.
"""

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Times(NamedTuple):
    """What one thing took, in seconds, a number for each round.

    >>> times = Times((1.0, 2.0, 6.0))
    >>> times.median, times.minimum
    (2.0, 1.0)
    >>> times.ratio(Times((1.0, 1.0, 2.0)))
    2.0
    """

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.rounds)

    @property
    def minimum(self) -> float:
        """The least, which other work on the machine touches least."""
        return min(self.rounds)

    def ratio(self, base: "Times") -> float:
        """The median over the rounds of the ratio to `base` in the same round."""
        pairs = zip(self.rounds, base.rounds, strict=True)
        return statistics.median(mine / its for mine, its in pairs)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Collects garbage now, and none inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def clock(call: Callable[[], Any], calls: int = 1) -> float:
    """The seconds that one of so many calls in a row takes."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def in_turn(names: Iterable[str], turn: int) -> list[str]:
    """The order of a round: every other one goes backwards, so that drift hits all alike."""
    return list(names)[:: -1 if turn % 2 else 1]


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, at_least: float = 0.0
) -> dict[str, Times]:
    """Times each call in every round, after one that does not count, without garbage collection.

    Args:
        calls: functions of no arguments that return when their work is done, by name.
        rounds: how often each is timed; every other round goes through them backwards, so that
            what a call leaves behind for the next one favours neither.
        at_least: seconds; a call that takes less is repeated within the round to last so long.

    Returns:
        The times of one call each.
    """
    repeats = {name: math.ceil(at_least / clock(call)) or 1 for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    with uncollected():
        for turn in range(rounds):
            for name in in_turn(calls, turn):
                times[name].append(clock(calls[name], repeats[name]))
    return {name: Times(tuple(each)) for name, each in times.items()}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns, the first to the left and the others to the right.

    >>> print(table([("", "ms"), ("scan", "1.25")]))
            ms
    scan  1.25
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )
