"""Which tests run when: nothing is left out everywhere, and each part has some of the whole."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import tiers


def by_mark(params):
    made = {"slow": [], "nightly": []}
    for param in params:
        made[param.marks[0].name].append(param.values)
    return made["slow"], made["nightly"]


def test_any_two_values_of_different_axes_meet_by_day():
    axes = "abcde", "xyz", [False, True], [0, 1]
    slow, nightly = by_mark(tiers.pairs_of(*axes))
    assert sorted(slow + nightly) == sorted(itertools.product(*axes))
    assert len(slow) == 15
    for one, other in itertools.combinations(range(4), 2):
        met = {(cell[one], cell[other]) for cell in slow}
        assert met == {*itertools.product(axes[one], axes[other])}


def test_one_in_three_runs_by_day():
    slow, nightly = by_mark(tiers.one_in(3, [*range(7)]))
    assert slow == [(0,), (3,), (6,)]
    assert nightly == [(1,), (2,), (4,), (5,)]


class Item(NamedTuple):
    nodeid: str
    marks: tuple = ("slow",)

    def get_closest_marker(self, name):
        return name in self.marks


def test_each_case_is_in_one_half_and_each_test_in_both():
    halved = [Item(f"{name}[{n}]") for name, count in (("a", 2), ("b", 9)) for n in range(count)]
    whole = [Item("c"), Item("d[1]"), *(Item(f"e[{n}]", ("slow", "torch")) for n in range(4))]
    quick = [Item(f"f[{n}]", ()) for n in range(4)]
    left = [tiers.other_half(half, halved + whole + quick) for half in ("first", "second")]
    assert left[0] | left[1] == {*halved}
    assert not left[0] & left[1]
    for some in left:
        assert {test.nodeid[0] for test in some} == {"a", "b"}


def test_continuous_integration_runs_both_halves():
    script = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    assert re.findall(r"FUNCGRAD_HALF=(\S+)", script) == ["second", "${next:+first}"]
