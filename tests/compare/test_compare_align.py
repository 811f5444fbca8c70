"""Which cell answers to which, and which value to which."""

import pytest

from funcgrad.compare import Cell, Output, pair_cells, pair_values, parse
from funcgrad.compare._align import markers


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
