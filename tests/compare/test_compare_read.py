"""Reading notebooks and text exports, and telling code from output."""

import json
import os
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_output

from funcgrad import MissingExtraError
from funcgrad.compare import Cell, Output, read
from funcgrad.compare.recorded.cells import clean
from funcgrad.compare.recorded.contents import contents_of
from funcgrad.errors import CompareError

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


CODE = '{"cells": [{"cell_type": "code", "source": "", %s}]}'


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.ipynb", "{not json", "not a notebook: it is not valid JSON"),
        ("a.ipynb", "[]", "the file is a list, and an object is wanted"),
        ("a.ipynb", "{}", "it has no `cells`"),
        ("a.ipynb", "null", "the file is missing"),
        ("a.ipynb", '{"nbformat": 4}', "`cells` is missing, and a list is wanted"),
        ("a.ipynb", '{"nbformat": "4", "cells": []}', "its `nbformat` is no whole number"),
        ("a.ipynb", '{"cells": {"a": 1}}', "`cells` is an object, and a list is wanted"),
        ("a.ipynb", '{"cells": [5]}', "cell 1 is a number, and an object is wanted"),
        ("a.ipynb", '{"cells": [{"source": ""}]}', "cell 1 has no `cell_type`"),
        ("a.ipynb", CODE % '"outputs": 5', "`outputs` of cell 1 is a number"),
        ("a.ipynb", CODE % '"outputs": [5]', "an output of cell 1 is a number"),
        ("a.ipynb", CODE % '"outputs": [{"data": "x"}]', "`data` in an output of cell 1 is a text"),
        ("a.ipynb", CODE % '"metadata": [1]', "`metadata` of cell 1 is a list"),
        ("a.ipynb", CODE % '"metadata": {"tags": 3}', "`tags` of cell 1 is a number"),
        ("a.ipynb", '{"nbformat": 3, "worksheets": 5}', "nor what a notebook of nbformat 3 has"),
        (
            "a.ipynb",
            '{"nbformat": 2, "worksheets": [[1]]}',
            "nor what a notebook of nbformat 2 has",
        ),
        ("a.ipynb", "[" * 100_000, "not a notebook: its JSON is nested too deeply"),
        ("a.txt", "plain text", "neither a notebook nor a text export"),
        ("a.txt", "", "neither a notebook nor a text export"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(CompareError, match=reason) as caught:
        read(tmp_path / name)
    pythons = ("object is not", "attribute", "expected", "argument", "Error:", "KeyError")
    assert not any(word in str(caught.value).removeprefix(str(tmp_path)) for word in pythons)


@pytest.mark.parametrize("cells", ["cells", "worksheets"])
def test_a_notebook_that_does_not_say_its_format_is_read(tmp_path, cells):
    output = {"output_type": "stream", "stream": "stdout", "text": "2.5", "metadata": {}}
    cell = {"cell_type": "code", "input": "x", "source": "x", "outputs": [output], "metadata": {}}
    text = {"cell_type": "markdown", "source": "about", "metadata": {}}
    held = [text, cell]
    body = (
        {"cells": held} if cells == "cells" else {"metadata": {}, "worksheets": [{"cells": held}]}
    )
    (tmp_path / "a.ipynb").write_text(json.dumps(body))
    (found,) = read(tmp_path / "a.ipynb")
    assert (found.source, found.outputs[0].text, found.place) == ("x", "2.5", 2)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.ipynb")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "null.py").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the name of a socket may not be long
        listening.bind("socket.ipynb")
    for name, kind in [
        ("pipe.ipynb", "a named pipe"), ("zero.txt", "a device"), ("null.py", "a device"),
        ("socket.ipynb", "a socket"),
    ]:  # fmt: skip
        with pytest.raises(CompareError, match=rf"{name}: not a regular file, but {kind}$"):
            read(tmp_path / name)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(225_000_000)  # a hole: it takes no room
    with pytest.raises(
        CompareError, match=r"a\.txt: has 225 MB, and at most 100 MB are read; .*--max-size"
    ):
        read(path)
    path.write_text(EXPORT)
    assert read(path, max_size=0.01)
    with pytest.raises(CompareError, match=r"at most 0\.0001 MB are read"):
        read(path, max_size=0.0001)


def test_a_name_that_no_file_can_have():
    with pytest.raises(CompareError, match="no file can have this name"):
        read("a\0b.ipynb")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CompareError, match="no such file"):
        read(tmp_path / "absent.ipynb")
    with pytest.raises(CompareError, match="a folder"):
        read(tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(CompareError, match="not a text file"):
        read(tmp_path / "binary.txt")


def test_recording_that_ships_is_valid_and_holds_no_code():
    from funcgrad.compare.recorded.compare import default_file

    path = default_file("original_outputs.ipynb")
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = read(path)
    assert [cell.number for cell in cells] == list(range(16, 29))
    assert all(cell.outputs and not cell.source for cell in cells)


# --- percent format ------------------------------------------------------------------------------

PERCENT = """# %% [markdown]
# About.
# %%
# In [16]
x = 1
# %% tags=["random", "in-17"]
# %time x

x + 1
# %% a title
"x"
"""


def test_a_file_in_percent_format(tmp_path):
    path = tmp_path / "port.py"
    path.write_text(PERCENT)
    cells = read(path)
    assert [cell.place for cell in cells] == [2, 3, 4]
    assert [cell.source for cell in cells] == ["# In [16]\nx = 1", "%time x\n\nx + 1", '"x"']
    assert cells[1].tags == ("random", "in-17")
    assert all(cell.number is None and cell.outputs == () for cell in cells)


@pytest.mark.parametrize("text", ["x = 1\n", "", "# In [1]\nx\n"])
def test_a_python_file_that_is_not_in_percent_format(tmp_path, text):
    path = tmp_path / "port.py"
    path.write_text(text)
    with pytest.raises(
        CompareError, match=r"port\.py: not in percent format; write `# %%` on a line"
    ):
        read(path)


def test_a_missing_jupytext_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupytext", None)
    path = tmp_path / "port.py"
    path.write_text(PERCENT)
    with pytest.raises(MissingExtraError, match=r"jupytext.*pip install 'funcgrad\[compare\]'"):
        read(path)


# --- what stands in notebooks in the wild --------------------------------------------------------


def test_a_stream_is_whole_although_the_other_one_comes_between(notebook):
    pieces = [("stdout", "tensor([1.,"), ("stderr", "careful"), ("stdout", " 2.])\n")]
    outputs = [new_output("stream", name=name, text=text) for name, text in pieces]
    (cell,) = read(notebook("a.ipynb", (1, "", *outputs)))
    assert [tuple(one) for one in cell.outputs] == [
        ("stdout", "tensor([1., 2.])\n"), ("stderr", "careful"),
    ]  # fmt: skip


def test_a_result_ends_a_stream(notebook):
    outputs = [new_output("stream", text="1\n"), "tensor(2)", new_output("stream", text="3\n")]
    (cell,) = read(notebook("a.ipynb", (1, "", *outputs)))
    assert [one.text for one in cell.outputs] == ["1\n", "tensor(2)", "3\n"]


def test_a_widget_is_no_value(notebook):
    data = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "0"},
        "text/plain": "FloatProgress(value=0.0, max=9.0)",
    }
    (cell,) = read(notebook("a.ipynb", (1, "", new_output("display_data", data=data))))
    assert cell.outputs[0].kind == "other"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
        ("\x1b(Ba\x1b=b\x1b", "ab"),
        ("a\x00\x07\x08\x9bb", "ab"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[" + "1;" * 50_000, "1;" * 50_000),
    ],
)
def test_nothing_that_steers_a_terminal_is_left(text, shown):
    assert clean(text).removeprefix("[") == shown


def test_halves_of_characters_do_not_stop_a_report(tmp_path):
    output = {"output_type": "stream", "name": "stdout", "text": "\ud83d 1.5 \ud83d\ude00 \ude00"}
    cell = {"cell_type": "code", "source": "\ud800", "metadata": {}, "outputs": [output]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "metadata": {}, "cells": [cell]}))
    (read_cell,) = read(path)
    assert read_cell.outputs[0].text == "\ufffd 1.5 \U0001f600 \ufffd"
    assert read_cell.source == "\ufffd"


@pytest.mark.parametrize(
    ("text", "skipped", "left"),
    [
        (" 50%|##   | 1/2 [00:01<00:01, 1.00it/s]\nloss 0.5", 1, [0.5]),
        ("  0%|          | 0/26421880 [00:00<?, ?it/s]", 1, []),
        ("3it [00:00, 99.00it/s]", 1, []),
        ("2.25 ms ± 15 µs per loop (mean ± std. dev. of 7 runs, 100 loops each)\n1.5", 1, [1.5]),
        ("CPU times: user 4 µs, sys: 1 µs, total: 5 µs\nWall time: 9.06 µs\n45", 2, [45]),
        ("Downloading https://x.org/a-12.zip 5 MB\n7", 1, [7]),
        ("id(Z): 140381179266448\nid(x) = 140381179266448", 2, []),
        ("Sequential(\n  (0): Conv2d(1, 3, kernel_size=(3, 3))\n  (1): ReLU()\n)", 2, []),
        ("Linear(in_features=2, out_features=3, bias=True)", 1, []),
        ("[Dropout(p=0.5, inplace=False)]", 1, []),
        ("Linear regression gave 3", 0, [3]),
        ("Point(x=1, y=2)", 0, [1, 2]),
        ("wall time: 3 s, id 5, [00] 1:2", 0, [3, 5, 0, 1, 2]),
    ],
)  # fmt: skip
def test_lines_that_no_two_runs_share(text, skipped, left):
    found = contents_of(Cell(1, (Output("stdout", text),)))
    assert len(found.skipped) == skipped
    assert [number for value in found.values for number in value.numbers] == left


@pytest.mark.parametrize(
    ("source", "text", "names"),
    [
        ("x = 1\nx.grad", "tensor(1.)", ["x.grad"]),
        ("x.grad, y.grad", "(tensor(1.), tensor(2.))", ["x.grad", "y.grad"]),
        ("%time f()\nmax(x, 0)", "torch.return_types.max(\nvalues=tensor(1.),\nindices=tensor(0))",
         ["values", "indices"]),
        ("a, b", "({'w': tensor(1.)}, [tensor(2.), 3])", ["a['w']", "b[0]", "b[1]"]),
        ("p", "Parameter containing:\ntensor([1.], requires_grad=True)", ["p"]),
        ("f(", "tensor(1.)", [""]),
        ("x = 1", "(tensor(1.), 2)", ["", ""]),
        ("", "{'w': tensor(1.)}", ["['w']"]),
    ],
)  # fmt: skip
def test_values_go_by_the_expressions_that_made_them(source, text, names):
    found = contents_of(Cell(1, (Output("result", text),), source))
    assert [value.label for value in found.values] == names


def test_printed_values_go_by_the_words_before_them():
    text = "x.grad: tensor([1.])\nFirst call\ntensor(2.) 3\nw = 4, b=5; (6)"
    found = contents_of(Cell(1, (Output("stdout", text),), "x.grad"))
    assert [value.label for value in found.values] == ["x.grad", "First call", "", "w", "b", ""]


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.just("code"))
keys = st.sampled_from(
    ["cell_type", "source", "outputs", "metadata", "tags", "output_type", "text", "data", "name",
     "text/plain", "execution_count", "ename", "evalue", "traceback", "nbformat", "cells", "input",
     "worksheets", "prompt_number"]
)  # fmt: skip
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.one_line
@given(st.sampled_from([3, 4]), st.lists(st.dictionaries(keys, anything, max_size=6), max_size=3))
@settings(max_examples=100, deadline=None)
@example(4, [{"cell_type": "code", "source": "", "outputs": {"a": 1}, "metadata": {}}])
@example(4, [{"cell_type": "code", "source": "", "outputs": [1], "metadata": {}}])
@example(4, [{"cell_type": "code", "source": 3, "outputs": [], "metadata": "x"}])
def test_any_json_is_read_or_refused(version, cells):
    for cell in cells:
        cell.setdefault("cell_type", "code")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.ipynb"
        body = {"cells": cells} if version == 4 else {"worksheets": [{"cells": cells}]}
        path.write_text(
            json.dumps({"nbformat": version, "nbformat_minor": 0, "metadata": {}} | body)
        )
        with suppress(CompareError):
            assert all(isinstance(cell, Cell) for cell in read(path))
