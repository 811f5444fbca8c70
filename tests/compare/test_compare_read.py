"""Reading notebooks and text exports, and telling code from output."""

import json

import nbformat
import pytest
from nbformat.v4 import new_output

from funcgrad.compare import CompareError, read

EXPORT = """In [3]:
import library  # it's here: (unclosed, [brackets

'''a string alone'''

In [4]:
x = library.arange(4.0)

x

tensor([0., 1., 2., 3.])

In [5]:
def f(a):

    return a[0], {1: 2,

                  3: 4}
f(x), 2

(tensor([[[1.],

          [2.]]]),
 tensor(2., grad_fn=<MulBackward0>))

In [6]:
print(x.requires_grad)
print(1.5, x)

True
1.5 tensor([0., 1., 2., 3.])

In [7]:
for epoch in range(2):
    print("epoch", epoch)

print("done")

epoch 0, loss 0.5
epoch 1, loss 0.25
done now

In [8]:
y = 2
%timeit y

z = 3

In [9]:
x == 1
# a comment, in words

tensor([False,  True])
"""


@pytest.fixture
def export(tmp_path):
    path = tmp_path / "export.txt"
    path.write_text(EXPORT, encoding="utf-8")
    return {cell.number: cell for cell in read(path)}


def test_export_has_all_cells(export):
    assert list(export) == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("number", "begins"),
    [
        (4, "tensor([0., 1., 2., 3.])"),
        (5, "(tensor([[[1.],"),
        (6, "True\n1.5 tensor"),
        (7, "epoch 0, loss 0.5\nepoch 1"),
        (9, "tensor([False,  True])"),
    ],
)
def test_export_output(export, number, begins):
    (output,) = export[number].outputs
    assert output.text.startswith(begins)


@pytest.mark.parametrize("number", [3, 8])
def test_export_code_without_output(export, number):
    assert export[number].outputs == ()


def test_export_code_may_hold_blank_lines(export):
    assert export[5].source.endswith("f(x), 2")
    assert export[7].source.endswith('print("done")')


def test_export_with_out_headings(tmp_path):
    path = tmp_path / "export.txt"
    path.write_text("In [1]: x = 2\nx\nOut[1]: \n2.5\n\nIn [2]:\nx\n\nIn [ ]:\npass\n")
    one, two, three = read(path)
    assert (one.number, one.source, [tuple(o) for o in one.outputs]) == (
        1, "x = 2\nx", [("result", "2.5")],
    )  # fmt: skip
    assert (two.outputs, three.number) == ((), None)


def test_notebook(notebook):
    path = notebook(
        "a.ipynb",
        (5, "x", "tensor(1.)"),
        (None, "y", new_output("stream", name="stderr", text="careful")),
        (2, "print(z)", new_output("stream", text="1"), new_output("stream", text="5.\n")),
        (3, "plot()", new_output("display_data", data={"image/png": "AAAA"})),
        (4, "fail()", new_output("error", ename="ValueError", evalue="no", traceback=[])),
    )
    cells = read(path)
    assert [cell.number for cell in cells] == [5, None, 2, 3, 4]
    assert [tuple(cell.outputs[0]) for cell in cells] == [
        ("result", "tensor(1.)"),
        ("stderr", "careful"),
        ("stdout", "15.\n"),
        ("other", "image/png"),
        ("error", "ValueError: no"),
    ]
    assert cells[2].source == "print(z)"


def test_progress_bars_and_colours_are_read_as_a_terminal_shows_them(notebook):
    text = "  0%\r 50%\r100%\n\x1b[31mred\x1b[0m 1.5\r\n"
    path = notebook("a.ipynb", (1, "", new_output("stream", text=text)))
    assert read(path)[0].outputs[0].text == "100%\nred 1.5\n"


def test_notebook_of_version_3(tmp_path):
    path = tmp_path / "old.ipynb"
    cell = {
        "cell_type": "code", "collapsed": False, "input": ["x\n", "x"], "language": "python",
        "metadata": {}, "prompt_number": 7,
        "outputs": [
            {"output_type": "pyout", "prompt_number": 7, "text": ["tensor(1.)"], "metadata": {}},
            {"output_type": "stream", "stream": "stdout", "text": ["2.5\n"]},
        ],
    }  # fmt: skip
    path.write_text(
        json.dumps(
            {
                "metadata": {"name": ""},
                "nbformat": 3,
                "nbformat_minor": 0,
                "worksheets": [{"cells": [cell], "metadata": {}}],
            }
        )
    )
    (read_cell,) = read(path)
    assert (read_cell.number, read_cell.source) == (7, "x\nx")
    assert [tuple(one) for one in read_cell.outputs] == [
        ("result", "tensor(1.)"), ("stdout", "2.5\n"),
    ]  # fmt: skip


def test_notebook_in_the_wild_need_not_be_valid(tmp_path):
    path = tmp_path / "colab.ipynb"
    path.write_text(
        json.dumps(
            {
                "nbformat": 4,
                "nbformat_minor": 0,
                "metadata": {"colab": {"provenance": []}, "accelerator": "GPU"},
                "cells": [
                    {"cell_type": "markdown", "source": "#", "metadata": {"id": "x"}},
                    {
                        "cell_type": "code",
                        "source": ["x"],
                        "metadata": {"id": "y"},
                        "outputs": [
                            {
                                "output_type": "execute_result",
                                "data": {"text/plain": ["tensor(1.)"]},
                                "metadata": {},
                            }
                        ],
                    },
                ],
            }
        )
    )
    (cell,) = read(path)
    assert (cell.number, cell.outputs[0].text, cell.place) == (None, "tensor(1.)", 2)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.ipynb", "{not json", "not a notebook: it is not valid JSON"),
        ("a.ipynb", "[]", "not a notebook"),
        ("a.ipynb", "{}", "not a notebook"),
        ("a.ipynb", '{"nbformat": 4, "nbformat_minor": 0, "metadata": {}}', "not a notebook"),
        ("a.ipynb", '{"nbformat": 4, "nbformat_minor": 0, "cells": [5]}', "not a notebook"),
        ("a.txt", "plain text", "neither a notebook nor a text export"),
        ("a.txt", "", "neither a notebook nor a text export"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(CompareError, match=reason):
        read(tmp_path / name)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CompareError, match="no such file"):
        read(tmp_path / "absent.ipynb")
    with pytest.raises(CompareError, match="a folder"):
        read(tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(CompareError, match="not a text file"):
        read(tmp_path / "binary.txt")


def test_recording_that_ships_is_valid_and_holds_no_code():
    from funcgrad.compare._compare import default_file

    path = default_file("original_outputs.ipynb")
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = read(path)
    assert [cell.number for cell in cells] == list(range(16, 29))
    assert all(cell.outputs and not cell.source for cell in cells)
