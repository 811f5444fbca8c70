"""The work of reading, pairing, judging and showing grows with the input, not with its square.

What is counted are calls, of Python's functions and of C's. A regular expression is one call,
whatever it costs, so a second test looks at how each one is made.
"""

import importlib
import json
import pkgutil
import re
import sys
from re import _constants as codes
from re import _parser as patterns

import pytest

from funcgrad.compare import Cell, Output, as_html, pair_cells, pair_values, parse, read
from funcgrad.compare.recorded.compare import compare_cells
from funcgrad.compare.recorded.contents import contents_of
from funcgrad.compare.recorded.grammar import lexer
from funcgrad.compare.recorded.map import read_map, read_tolerances
from funcgrad.compare.recorded.remarks import remarks, rows_shown
from funcgrad.compare.recorded.report import Report, as_json
from funcgrad.compare.recorded.rounding import with_formats
from funcgrad.compare.recorded.text_export import cells_of_export

N = 150
MOST = 2.6  # times the work for twice the input; its square would be 4


def work(function, *arguments):
    """How many calls a function makes."""
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return count


def grows_with(prepare, function):
    """The work for twice the input, as a multiple of that for the input."""
    contents_of.cache_clear()
    function(*prepare(8))  # what is made once, such as the grammar
    once, twice = (work(function, *prepare(n)) for n in (N, 2 * N))
    contents_of.cache_clear()
    assert once > N / 4
    return twice / once


def shows(text, place=1, source="x"):
    return Cell(place, (Output("stdout", text),), source, (), place)


def numbers(n, skip=()):
    """Cells with one number each, some left out."""
    return [shows(f"{i * i}.25", i + 1) for i in range(n) if i not in skip]


def log(n, skip=(), wrong=()):
    return "\n".join(f"Epoch {i} loss {i * i + (i in wrong)}.25" for i in range(n) if i not in skip)


TEXTS = {
    "headings": lambda n: "In [1]:\n" * n,
    "cells": lambda n: "In [1]:\nx\n\n1.5\n\n" * n,
    "paragraphs of code": lambda n: "In [1]:\n" + "x = 1\n\n" * n + "hello you\n",
    "paragraphs of values": lambda n: "In [1]:\nx\n\n" + "1.5\n\n" * n,
    "paragraphs of words": lambda n: "In [1]:\n" + "a b\n\n" * n,
    "brackets that never close": lambda n: "In [1]:\n" + "(\n\n" * n,
    "results": lambda n: "In [1]:\nx\nOut[1]:\n1.5\n" * n,
}


@pytest.mark.one_line
@pytest.mark.parametrize("name", TEXTS)
def test_reading_a_text_export(name):
    read_all = lambda text: list(cells_of_export(text))
    assert grows_with(lambda n: (TEXTS[name](n),), read_all) < MOST


PRINTS = {
    "numbers": "1.5 ",
    "words": "hello you, ",
    "units": "2.5x conv1 loss0.25 ",
    "rows": "tensor([1.0000, 2.0000])\n",
    "tuples": "(1, 2) ",
    "dicts": "{'a': 1} ",
    "open brackets": "([{f(",
    "closed brackets": ")]}",
    "strings": "'a 1' ",
    "bars": "50%|##  | 1/2 [00:01<00:01, 1.00it/s, loss=0.5]\n",
    "timings": "2m 3s 5ms ",
    "old tensors": " 1  2\n[torch.FloatTensor of size 2]\n",
    "devices": "cuda:0 ",
}


@pytest.mark.one_line
@pytest.mark.parametrize("name", PRINTS)
def test_reading_the_values_of_a_cell(name):
    function = lambda text: contents_of(shows(text))
    assert grows_with(lambda n: (PRINTS[name] * n,), function) < MOST


@pytest.mark.one_line
@pytest.mark.parametrize("version", [3, 4])
def test_reading_a_notebook(tmp_path, version):
    def prepare(n):
        source, number = (
            ("input", "prompt_number") if version == 3 else ("source", "execution_count")
        )
        output = {"output_type": "stream", "stream": "stdout", "name": "stdout", "text": ["1\n"]}
        cell = {"cell_type": "code", "metadata": {}, source: ["x"], number: 1, "outputs": [output]}
        body = {"cells": [cell] * n} if version == 4 else {"worksheets": [{"cells": [cell] * n}]}
        path = tmp_path / "a.ipynb"
        path.write_text(
            json.dumps({"nbformat": version, "nbformat_minor": 0, "metadata": {}} | body)
        )
        return (path,)

    assert grows_with(prepare, read) < MOST


@pytest.mark.one_line
def test_reading_a_map(tmp_path):
    def prepare(n):
        path = tmp_path / "a.toml"
        lines = (f'"In [{i + 1}]" = {{ cells = "cell {i + 1}", rtol = 1e-3 }}' for i in range(n))
        path.write_text("\n".join(lines))
        return path, numbers(n)

    def read_both(path, cells):
        read_map(path, cells, cells)
        read_tolerances(path, cells)

    assert grows_with(prepare, read_both) < MOST


@pytest.mark.one_line
def test_which_formats_the_code_of_a_notebook_has():
    code = "def log{0}(x):\n    print(f'{{x:.{1}f}}')\nlog{0}(1)"
    cells = lambda n: [shows("1", i, code.format(i, i % 9)) for i in range(n)]
    assert grows_with(lambda n: (cells(n),), with_formats) < MOST


CELLS = {
    "all the same": lambda n: (numbers(n), numbers(n)),
    "one missing": lambda n: (numbers(n), numbers(n, {n // 3})),
    "one missing on either side": lambda n: (numbers(n, {n // 2}), numbers(n, {n // 3})),
    "others": lambda n: (numbers(n), [shows("None", i) for i in range(n)]),
    "markers": lambda n: (
        numbers(n), [shows("1.5", i, f"# In [{i + 1}], [{i + 2}]\nx") for i in range(n)],
    ),
    "another order of numbers": lambda n: (numbers(n), numbers(n)[::-1]),
}  # fmt: skip


@pytest.mark.one_line
@pytest.mark.parametrize("name", CELLS)
def test_pairing_cells(name):
    assert grows_with(CELLS[name], pair_cells) < MOST


VALUES = {
    "all the same": lambda n: (log(n), log(n)),
    "one line missing": lambda n: (log(n), log(n, {n // 3})),
    "one line more, one other wrong": lambda n: (log(n, {n // 2}), log(n, {}, {n // 4})),
    "every tenth missing": lambda n: (log(n), log(n, range(0, n, 10))),
    "all wrong, one missing": lambda n: (log(n), log(n, {n // 3}, range(n))),
    "all alike, one missing": lambda n: ("1.5\n" * n, "2.5\n" * (n - 1)),
    "sizes against tuples": lambda n: ("torch.Size([2, 3])\n" * n, "(2, 3)\n" * (n - 1)),
    "a dict of many keys": lambda n: tuple(
        "{" + ", ".join(f"'k{i}': {i}.5" for i in keys) + "}" for keys in (range(n), range(n)[1:])
    ),
    "many dicts": lambda n: ("{'a': 1, 'b': 2}\n" * n, "{'b': 2, 'a': 1}\n" * (n - 1)),
    "lists against numbers": lambda n: ("[1, 2, 3]\n" * n, "1 2 3\n" * n),
}


@pytest.mark.one_line
@pytest.mark.parametrize("name", VALUES)
def test_pairing_values(name, monkeypatch):
    """Beyond a stretch of bounded size no table of all pairs is made: it is made small here."""
    from funcgrad.compare.recorded import sequence

    monkeypatch.setattr(sequence, "_MOST_PAIRS", 100)
    prepare = lambda n: tuple(parse(text).values for text in VALUES[name](n))
    assert grows_with(prepare, pair_values) < MOST


def test_a_table_is_never_larger_than_its_bound(monkeypatch):
    from funcgrad.compare.recorded import sequence

    made = []
    real = sequence._matched
    monkeypatch.setattr(
        sequence,
        "_matched",
        lambda left, right, *rest: made.append(len(left) * len(right)) or real(left, right, *rest),
    )
    for theirs, ours in [VALUES["every tenth missing"](600), VALUES["all wrong, one missing"](400)]:
        pair_values(parse(theirs).values, parse(ours).values)
    assert max(made, default=0) <= sequence._MOST_PAIRS


@pytest.mark.one_line
@pytest.mark.parametrize("name", ["all the same", "one line missing", "all wrong, one missing"])
def test_judging_and_showing(name):
    def whole(theirs, ours):
        report = Report("a", "b", False, compare_cells([shows(theirs)], [shows(ours)]))
        return as_html(report), as_json(report), list(remarks(report)), rows_shown(report.cells[0])

    assert grows_with(VALUES[name], whole) < MOST


@pytest.mark.one_line
def test_one_line_more_blames_no_other_line():
    """3,000 lines, one of them left out, another one wrong far from it."""
    theirs, ours = parse(log(3000)).values, parse(log(3000, {1000}, {2000})).values
    rows = pair_values(theirs, ours)
    assert [one.text for one, other in rows if other is None] == ["1000", "1000000.25"]
    assert not [other for one, other in rows if one is None]
    wrong = [(one.text, other.text) for one, other in rows if other and one.text != other.text]
    assert wrong == [("4000000.25", "4000001.25")]


def test_lines_of_equal_numbers_are_told_by_what_is_beside_them():
    both = [f"{i % 7}.5 {i % 11}.5 {i % 13}.5" for i in range(400)]
    theirs, ours = parse("\n".join(both)).values, parse("\n".join(both[:99] + both[100:])).values
    ours = [*ours[:900], ours[900]._replace(numbers=(99.0,)), *ours[901:]]
    rows = pair_values(theirs, ours)
    missing = [one.start for one, other in rows if other is None]
    assert len(missing) == 3
    assert sum(bool(one and other and one.numbers != other.numbers) for one, other in rows) == 1


# --- regular expressions -------------------------------------------------------------------------


def compiled():
    """Each pattern of the room, with where it stands; the terminals of the grammar too."""
    from funcgrad.compare import recorded

    for module in pkgutil.iter_modules(recorded.__path__, recorded.__name__ + "."):
        for name, found in vars(importlib.import_module(module.name)).items():
            for one in found if isinstance(found, tuple) else [found]:
                one = one[1] if isinstance(one, tuple) and len(one) == 2 else one
                if isinstance(one, re.Pattern):
                    yield f"{module.name}.{name}", one.pattern, one.flags
    for terminal in lexer().terminals:
        if terminal.pattern.type == "re":
            yield terminal.name, terminal.pattern.to_regexp(), 0


def unbounded(parsed):
    """The repeats of a parsed pattern that have no bound and may give back what they took."""
    for code, argument in parsed:
        if code is codes.MAX_REPEAT and argument[1] is codes.MAXREPEAT:
            yield str(argument)
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            yield from unbounded(argument[2])
        elif code is codes.SUBPATTERN:
            yield from unbounded(argument[3])
        elif code is codes.BRANCH:
            for one in argument[1]:
                yield from unbounded(one)
        elif code in (codes.ASSERT, codes.ASSERT_NOT):
            yield from unbounded(argument[1])


@pytest.mark.parametrize(
    ("where", "pattern", "flags"), [pytest.param(*one, id=one[0]) for one in compiled()]
)
def test_no_pattern_goes_back_over_what_it_has_read(where, pattern, flags):
    assert list(unbounded(patterns.parse(pattern, flags & ~re.UNICODE))) == []
