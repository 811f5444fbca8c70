"""Which cell answers to which, and which value to which."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcgrad.compare import Cell, Output, pair_cells, pair_values, parse
from funcgrad.compare.recorded.align_cells import markers
from funcgrad.compare.recorded.map import read_map
from funcgrad.errors import CompareError


def cell(number, source="", place=0, tags=(), text="1"):
    return Cell(number, (Output("result", text),), source, tags, place)


def numbers(pairs):
    return [
        ([one.number for one in pair.recorded], [one.number for one in pair.port]) for pair in pairs
    ]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("# In [16]\nx", (16,)),
        ("\n# about it\n#In[16]: more\nx", (16,)),
        ("# In [18], [19]\nx", (18, 19)),
        ("# In [18]\n# In [19]\nx", (18, 19)),
        ("x\n# In [16]", ()),
        ("# see In [16]", ()),
        ("", ()),
    ],
)
def test_marker_in_the_first_comments(source, found):
    assert markers(cell(1, source)) == found


@pytest.mark.parametrize("tag", ["In[16]", "in-16", "in16"])
def test_marker_as_tag(tag):
    assert markers(cell(1, tags=("other", tag))) == (16,)


def test_markers_win_over_numbers_and_order():
    recorded = [cell(16), cell(17)]
    port = [cell(17, "# In [16]"), cell(16, "# In [17]")]
    assert numbers(pair_cells(recorded, port)) == [([16], [17]), ([17], [16])]


def test_cells_with_one_marker_are_read_together():
    recorded = [cell(16)]
    port = [cell(1, "# In [16]"), cell(2), cell(3, "# In [16]")]
    assert numbers(pair_cells(recorded, port)) == [([16], [1, 3]), ([], [2])]


def test_one_cell_may_answer_to_several():
    recorded = [cell(16), cell(17), cell(18)]
    port = [cell(1, "# In [16], [17]"), cell(2, "# In [18]")]
    pairs = pair_cells(recorded, port)
    assert numbers(pairs) == [([16, 17], [1]), ([18], [2])]
    assert pairs[0].label == "In [16], [17]"


def test_overlapping_markers_are_one_pair():
    recorded = [cell(16), cell(17), cell(18)]
    port = [cell(1, "# In [17]"), cell(2, "# In [16], [17]"), cell(3, "# In [18]")]
    assert numbers(pair_cells(recorded, port)) == [([16, 17], [1, 2]), ([18], [3])]


def test_without_markers_numbers_decide_else_order():
    assert numbers(pair_cells([cell(2), cell(3)], [cell(3), cell(2)])) == [([2], [2]), ([3], [3])]
    assert numbers(pair_cells([cell(16), cell(17)], [cell(1), cell(2)])) == [
        ([16], [1]),
        ([17], [2]),
    ]
    assert numbers(pair_cells([cell(None), cell(None)], [cell(None), cell(5)])) == [
        ([None], [None]),
        ([None], [5]),
    ]


def test_nothing_is_dropped():
    assert numbers(pair_cells([cell(1), cell(2)], [cell(1)])) == [([1], [1]), ([2], [])]
    assert numbers(pair_cells([cell(1)], [cell(1), cell(9)])) == [([1], [1]), ([], [9])]
    assert numbers(pair_cells([cell(1), cell(2)], [cell(7, "# In [1]"), cell(2)])) == [
        ([1], [7]),
        ([2], []),
        ([], [2]),
    ]


def test_a_port_with_markers_pairs_with_itself():
    cells = [cell(1, "# In [16]"), cell(2), cell(3, "# In [16]"), cell(4, "# In [17], [18]")]
    pairs = pair_cells(cells, cells)
    assert all(pair.recorded == pair.port for pair in pairs)
    assert sum(len(pair.recorded) for pair in pairs) == 4


def values(recorded, port):
    pairs = pair_values(parse(recorded).values, parse(port).values)
    return [(one and one.text, other and other.text) for one, other in pairs]


@pytest.mark.slow
def test_values_in_order_and_what_is_over_faces_nothing():
    assert values("(tensor(1.), True)", "Array(1.), True") == [
        ("tensor(1.)", "Array(1.)"), ("True", "True"),
    ]  # fmt: skip
    assert values("1 2", "1") == [("1", "1"), ("2", None)]
    assert values("1", "1 2") == [("1", "1"), (None, "2")]


def test_a_size_faces_the_tuple_that_jax_prints():
    assert values("torch.Size([2, 3])", "(2, 3)") == [("2", "2"), ("3", "3")]
    assert values("torch.Size([])", "()") == []
    assert values("(torch.Size([2]), tensor(6.))", "((2,), Array(6.))") == [
        ("2", "2"), ("tensor(6.)", "Array(6.)"),
    ]  # fmt: skip
    assert values("torch.Size([2, 3])", "torch.Size([2, 3])") == [
        ("torch.Size([2, 3])", "torch.Size([2, 3])")
    ]


# --- cells added and dropped ---------------------------------------------------------------------


def lettered(text):
    """Cells without numbers, each showing what a letter stands for."""
    shown = {
        "a": "tensor([1., 2.])", "b": "tensor([[3., 4.]])", "c": "tensor(5)", "d": "None",
        "s": "1.0", "t": "2.0", "u": "3.0", "A": "Array([[1., 2.]])", "S": "torch.Size([2, 3])",
        "T": "(2, 3)",
    }  # fmt: skip
    return [cell(None, place=i, text=shown[one]) for i, one in enumerate(text, start=1)]


def places(recorded, port):
    pairs = pair_cells(lettered(recorded), lettered(port))
    return [
        (
            pair.recorded[0].place if pair.recorded else None,
            pair.port[0].place if pair.port else None,
        )
        for pair in pairs
    ]


@pytest.mark.parametrize(
    ("recorded", "port", "pairs"),
    [
        ("abc", "abc", [(1, 1), (2, 2), (3, 3)]),
        ("abc", "ac", [(1, 1), (2, None), (3, 2)]),
        ("abc", "bc", [(1, None), (2, 1), (3, 2)]),
        ("abc", "ab", [(1, 1), (2, 2), (3, None)]),
        ("ac", "abc", [(1, 1), (2, 3), (None, 2)]),
        ("abc", "dabc", [(1, 2), (2, 3), (3, 4), (None, 1)]),
        ("abcd", "bcda", [(1, None), (2, 1), (3, 2), (4, 3), (None, 4)]),
        # another shape at the same place: still a pair
        ("abc", "Abc", [(1, 1), (2, 2), (3, 3)]),
        # all of one shape: what agrees tells which is missing
        ("stu", "su", [(1, 1), (2, None), (3, 2)]),
        ("stu", "tu", [(1, None), (2, 1), (3, 2)]),
        # nothing agrees: the earliest
        ("sss", "tt", [(1, 1), (2, 2), (3, None)]),
        ("aSc", "Tc", [(1, None), (2, 1), (3, 2)]),
    ],
)
def test_longest_common_subsequence_of_shapes(recorded, port, pairs):
    assert places(recorded, port) == pairs


@pytest.mark.one_line
def test_three_thousand_cells_of_which_one_is_missing():
    """No table of all pairs is made where the two ends agree."""
    recorded = [cell(None, place=i, text=f"{i}.5") for i in range(3000)]
    pairs = pair_cells(recorded, recorded[:2000] + recorded[2001:])
    assert [pair.recorded[0].place for pair in pairs if not pair.port] == [2000]


@pytest.mark.one_line
@given(st.text("abcdstuAS", max_size=8), st.text("abcdstuAT", max_size=8))
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_twice_used_or_crossed(recorded, port):
    pairs = places(recorded, port)
    assert [i for i, _ in pairs if i] == list(range(1, len(recorded) + 1))
    assert sorted(j for _, j in pairs if j) == list(range(1, len(port) + 1))
    matched = [j for i, j in pairs if i and j]
    assert matched == sorted(matched)
    assert len(matched) >= longest(recorded, port)


def longest(left, right):
    """The length of the longest common subsequence, by the plain recursion."""
    if not left or not right:
        return 0
    if left[0] == right[0]:
        return 1 + longest(left[1:], right[1:])
    return max(longest(left[1:], right), longest(left, right[1:]))


def test_a_value_missing_within_a_cell_is_told_from_its_neighbours():
    assert values("a 1.5 b 2.5 c 3.5", "1.5 3.5") == [
        ("1.5", "1.5"), ("2.5", None), ("3.5", "3.5"),
    ]  # fmt: skip
    assert values("tensor([1.]) 7", "step 3 [1.] 7") == [
        (None, "3"), ("tensor([1.])", "[1.]"), ("7", "7"),
    ]  # fmt: skip


# --- the map -------------------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path):
    def read(text, recorded, port):
        path = tmp_path / "pairs.toml"
        path.write_text(text)
        return read_map(path, recorded, port)

    return read


RECORDED = [cell(16, place=2), cell(17, place=3), cell(18, place=5), cell(17, place=9)]
PORT = [cell(None, place=1), cell(None, place=4), cell(3, place=6)]


def test_a_map_decides_and_the_rest_goes_by_order(mapped):
    mapping = mapped('"In [16]" = "cell 4"\n"cell 5" = ["cell 1", "In [3]"]', RECORDED, PORT)
    assert mapping == {2: [4], 5: [1, 6]}
    pairs = pair_cells(RECORDED, PORT, mapping)
    assert [
        ([one.place for one in pair.recorded], [one.place for one in pair.port]) for pair in pairs
    ] == [([2], [4]), ([3], []), ([5], [1, 6]), ([9], [])]


def test_two_keys_with_one_cell_are_read_together(mapped):
    mapping = mapped('"In [16]" = "cell 4"\n"In [18]" = "cell 4"', RECORDED, PORT)
    (first, *_) = pair_cells(RECORDED, PORT, mapping)
    assert (first.label, len(first.recorded), len(first.port)) == ("In [16], In [18]", 2, 1)


def test_a_map_wins_over_a_marker(mapped):
    port = [cell(None, "# In [16]", place=1), cell(None, "# In [18]", place=4)]
    pairs = pair_cells(RECORDED, port, mapped('"In [16]" = "cell 4"', RECORDED, port))
    assert [(p.label, [c.place for c in p.port]) for p in pairs][:1] == [("In [16]", [4])]


def test_a_map_may_say_that_nothing_answers(mapped):
    mapping = mapped('"In [16]" = []', RECORDED, PORT)
    (first, *_) = pair_cells(RECORDED, PORT, mapping)
    assert (first.label, first.port, first.mapped) == ("In [16]", (), True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("In [16] = 3", "not a map: Expected '='.*line 1"),
        ('"In [16]" = 3', "`In \\[16\\]` has 3; write 'cell 3'"),
        ('"In [16]" = [3]', "write 'cell 3'"),
        ('"16" = "cell 4"', "`16` names no cell; write `In \\[16\\]` for an execution count"),
        ('"In [99]" = "cell 4"', "the recording has no code cell `In \\[99\\]`"),
        ('"In [16]" = "cell 2"', "the port has no code cell `cell 2`"),
        ('"In [17]" = "cell 4"', "`In \\[17\\]` names 2 cells; use `cell 3`, `cell 9`"),
        ('"In [16]" = "cell 4"\n"cell 2" = "cell 1"', "two keys name the recording's `cell 2`"),
        ("[table]\nx = 1", "not a map"),
        ("\x00", "not a map"),
    ],
)
def test_a_bad_map_is_refused(mapped, text, reason):
    with pytest.raises(CompareError, match=reason):
        mapped(text, RECORDED, PORT)


def test_a_map_that_is_not_there(tmp_path):
    with pytest.raises(CompareError, match="no such file"):
        read_map(tmp_path / "absent.toml", RECORDED, PORT)


@pytest.mark.parametrize(
    ("theirs", "ours", "paired"),
    [
        ("{'w': 1.5, 'b': 2.5}", "{'b': 2.5, 'w': 1.5}", [1.5, 2.5]),
        ("OrderedDict([('w', 1.5), ('b', 2.5)])", "{'b': 2.5, 'w': 1.5}", [1.5, 2.5]),
        ("(9.5, [{'w': 1.5, 'b': 2.5}])", "(9.5, ({'b': 7.5, 'w': 8.5},))", [9.5, 8.5, 7.5]),
        ("{'w': 1.0, 'b': 2.0}\n" * 2, "{'b': 2.0, 'w': 1.0}\n" * 2, [1, 2, 1, 2]),
        ("{'w': 1.5, 'b': 2.5}", "{'bias': 2.5, 'weight': 1.5}", [2.5, 1.5]),
        ("(1.5, 2.5)", "(2.5, 1.5)", [2.5, 1.5]),
    ],
)
def test_items_of_dicts_are_paired_by_key(theirs, ours, paired):
    sides = [parse(text).values for text in (theirs, ours)]
    assert [b.numbers[0] for _, b in pair_values(*sides)] == paired


def test_a_cell_whose_dict_is_in_another_order_is_found():
    shows = lambda place, text: Cell(None, (Output("result", text),), "", (), place)
    dicts = "{'w': tensor([1., 2.]), 'b': tensor(3.)}", "{'b': Array(3.), 'w': Array([1., 2.])}"
    recorded = [shows(1, "tensor(7.)"), shows(2, dicts[0]), shows(3, "None")]
    port = [shows(1, dicts[1]), shows(2, "None")]
    pairs = pair_cells(recorded, port)
    assert [[cell.place for cell in pair.port] for pair in pairs] == [[], [1], [2]]
