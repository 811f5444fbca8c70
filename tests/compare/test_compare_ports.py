"""Whole ports against recordings, run in a kernel; and faults planted in them."""

import json
from pathlib import Path

import nbformat
import pytest

from funcgrad.compare import compare
from funcgrad.compare.recorded.remarks import remarks

HERE = Path(__file__).parent / "recordings"
PORTS = {  # values that agree
    "attention": 13,
    "autograd": 19,
    "cnn": 20,
    "mlp": 14,
    "regression": 34,
}


@pytest.mark.kernel
@pytest.mark.parametrize("name", PORTS)
def test_a_port_agrees_when_it_is_run(name):
    report = compare(HERE / f"{name}.ipynb", HERE / f"{name}.port.py", timeout=120)
    assert [line for line, _ in remarks(report) if "differ" in line or "missing" in line] == []
    assert (report.agrees, report.count("agree")) == (True, PORTS[name])
    assert not any(cell.only_ours for cell in report.cells)


def test_random_draws_agree_in_shape_and_dtype():
    recording, port = HERE / "random_draws.ipynb", HERE / "random_draws.port.ipynb"
    report = compare(recording, port, fresh=False)
    assert report.agrees
    marked = [row for cell in report.cells for row in cell.rows if "random" in row.reason]
    assert len(marked) == 5
    assert all(row.status == "note" and row.verdict.compared == 0 for row in marked)


# --- planted faults ------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path):
    """Compare a recording with itself after one text in one cell's outputs was replaced."""

    def plant(name, place, old, new):
        path = HERE / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if old is None:
            notebook.cells.remove(code[place])
        else:
            outputs = json.dumps(code[place].outputs)
            quoted, other = json.dumps(old)[1:-1], json.dumps(new)[1:-1]
            assert outputs.count(quoted) == 1
            code[place].outputs = nbformat.from_dict(json.loads(outputs.replace(quoted, other)))
        port = tmp_path / "port.ipynb"
        nbformat.write(notebook, port)
        report = compare(path, port, fresh=False)
        return report, [line for line, _ in remarks(report) if ": differ" in line or "miss" in line]

    return plant


@pytest.mark.parametrize(
    ("name", "place", "old", "new", "where", "said"),
    [
        # one unit in the last printed place
        ("mlp", 3, "1.1149", "1.1150", "In [4], value 1 (loss)", "by 1 unit in the last printed"),
        ("regression", 2, "Loss: 1.2214", "Loss: 1.2215", "In [3], value 18 (Loss)", "by 1 unit"),
        ("autograd", 2, "672.", "673.", "In [3], value 1 (x.grad)", "at [3]: recorded 672.0"),
        (
            "elision", 3, "4.9988e+02]])", "4.9989e+02]])",
            "In [4], value 1 (torch.arange(4000.0).view(1000, 4) / 8)", "at [-1, 3]: recorded 4",
        ),
        # a transposed gradient
        (
            "autograd", 7, "tensor([[ 6., 10.],\n        [ 0., -4.]])",
            "Array([[ 6.,  0.],\n       [10., -4.]], dtype=float32)",
            "In [8], value 1 (v.grad)", "ours is the transpose of the recorded one",
        ),
        # a missing minus sign in the gradient of one intermediate
        (
            "mlp", 4, "tensor([[-0.1803,  0.1803]", "tensor([[ 0.1803,  0.1803]",
            "In [5], value 1 (logits.grad)", "but for the sign of 1 of its numbers",
        ),
        ("autograd", 2, "tensor(56.)", "tensor(-56.)", "In [3], value 2 (y.grad)", "sign flipped"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_caught_located_and_explained(
    planted, name, place, old, new, where, said
):
    report, lines = planted(name, place, old, new)
    assert (report.count("differ"), report.count("missing")) == (1, 0)
    (line,) = lines
    assert line.startswith(f"{where}: differ: ")
    assert said in line


@pytest.mark.kernel
def test_a_minus_sign_missing_in_a_port_is_located_when_it_is_run(tmp_path):
    """The gradient that enters the activation has the wrong sign: it shows from there backward."""
    source = (HERE / "mlp.port.py").read_text()
    right = "jnp.tanh(hidden)"
    assert source.count(right) == 1
    wrong = "fg.register_hook(jnp.tanh(hidden), lambda g: -g)"
    (tmp_path / "port.py").write_text(source.replace(right, wrong))
    report = compare(HERE / "mlp.ipynb", tmp_path / "port.py", timeout=120)
    found = [(line.partition(": ")[0], line) for line, _ in remarks(report) if "differ" in line]
    assert [where for where, _ in found] == [
        "In [5], value 3 (hidden.grad)",
        "In [6], value 1 (0.weight)",
        "In [6], value 2 (0.bias)",
    ]
    assert all("ours is the recorded one with its sign flipped" in line for _, line in found)


def test_a_swapped_axis_is_explained(notebook):
    rows = "[[[0., 1.],\n         [2., 3.],\n         [4., 5.]]]"
    swapped = (
        "[[[0.],\n        [2.],\n        [4.]],\n\n       [[1.],\n        [3.],\n        [5.]]]"
    )
    recording = notebook("a.ipynb", (1, "x.grad", f"tensor({rows})"))
    port = notebook("b.ipynb", (1, "", f"Array({swapped}, dtype=float32)"))
    (line,) = [line for line, _ in remarks(compare(recording, port, fresh=False))]
    assert line == (
        "In [1], value 1 (x.grad): differ: recorded shape (1, 3, 2), ours is (2, 3, 1);"
        " ours is the recorded one with its axes 0 and 2 swapped"
    )


@pytest.mark.parametrize("name", ["autograd", "mlp", "ranks", "attention", "regression"])
def test_a_dropped_cell_is_caught_and_no_other_is_blamed(planted, name):
    path = HERE / f"{name}.ipynb"
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    for place, cell in enumerate(code):
        if cell.outputs and "Sequential" not in str(cell.outputs):
            report, lines = planted(name, place, None, None)
            assert report.count("differ") == 0
            assert report.count("missing") > 0
            assert {line.partition(",")[0] for line in lines} == {f"In [{cell.execution_count}]"}
            assert all(": missing: the port has no such cell" in line for line in lines)


def test_an_added_cell_is_reported_and_no_fault(planted, tmp_path):
    notebook = nbformat.read(HERE / "mlp.ipynb", as_version=4)
    extra = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text="lr 0.1\n")])
    notebook.cells.insert(4, extra)
    nbformat.write(notebook, tmp_path / "port.ipynb")
    report = compare(HERE / "mlp.ipynb", tmp_path / "port.ipynb", fresh=False)
    assert report.agrees
    assert "only in the port, not compared: cell 5 (1)" in [line for line, _ in remarks(report)]
