"""Recorded notebooks, read and parsed without a miss, and held against what PyTorch really had."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from funcgrad.compare import compare, judge, parse, read

HERE = Path(__file__).parent / "recordings"
NOTEBOOKS = sorted(path for path in HERE.glob("*.ipynb") if ".port" not in path.name)
NAMES = [path.stem for path in NOTEBOOKS]
# Any number in a text, found without the grammar: no letter, digit or point beside it.
PLAIN = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w|\.\w)")
OBJECT = re.compile(r"<[^<>\n]*>|'[^'\n]*'")


def code_cells(path):
    """The code cells of a notebook as JSON, of either format."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def one_by_one(values):
    """Parsed values with lists (`[3]` may be one) and sizes taken apart, as the truth has them."""
    for value in values:
        if value.form == "list" or (value.form == "text" and len(value.numbers) == 1):
            for number, unit in zip(value.numbers, value.units, strict=True):
                yield (
                    "int" if value.kind == "size" else value.kind,
                    None,
                    (),
                    [number],
                    [unit],
                    None,
                )
        else:
            yield value.kind, value.dtype, value.shape, value.numbers, value.units, value.places


def number(json_number):
    if isinstance(json_number, list):
        return complex(*map(float, json_number))
    return float(json_number) if isinstance(json_number, str) else json_number


def close(shown, unit, true, dtype):
    """Whether a printed number is the true one, rounded to its last printed place."""
    if isinstance(true, complex):
        unit = complex(unit)
        return close(shown.real, unit.real, true.real, dtype) and close(
            shown.imag, unit.imag, true.imag, dtype
        )
    if unit:
        return abs(shown - true) <= unit * 0.5000001 or shown == true or (shown != shown != true)
    if dtype in ("float32", "complex64"):
        shown, true = np.float32(shown), np.float32(true)
    return shown == true or (shown != shown and true != true)


def check_value(shown, true):
    kind, dtype, shape, numbers, units, places = shown
    nothing = true.get("numbers") == []  # an empty tensor does not always say its dtype
    assert kind == true["kind"] or nothing
    if "shape" not in true:
        assert kind != "dtype" or dtype == true["dtype"]
        return
    assert dtype is None or true["dtype"] is None or dtype == true["dtype"]
    assert len(shape) == len(true["shape"])
    assert all(a is None or a == b for a, b in zip(shape, true["shape"], strict=True))
    if places is None:
        assert len(numbers) == len(true["numbers"])
        expected = list(map(number, true["numbers"]))
    else:
        corners = {tuple(at): number(value) for at, value in true.get("corners", ())}
        at = [tuple(i % n for i, n in zip(p, true["shape"], strict=True)) for p in places]
        corners = corners or dict(
            zip(np.ndindex(*true["shape"]), map(number, true["numbers"]), strict=True)
        )
        expected = [corners[place] for place in at]
    for one, unit, other in zip(numbers, units, expected, strict=True):
        assert close(one, unit, other, true["dtype"]), (one, unit, other)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_every_value_is_the_one_that_torch_had(path):
    checked = 0
    for cell, raw in zip(read(path), code_cells(path), strict=True):
        texts = {output.kind: output.text for output in cell.outputs}
        for one in json.loads(raw["metadata"]["truth"]):
            values = parse(texts[one["in"]]).values
            inside = [v for v in values if one["from"] <= v.start and v.end <= one["to"]]
            shown = list(one_by_one(inside))
            assert len(shown) == len(one["values"]), (cell.source, one)
            for value, true in zip(shown, one["values"], strict=True):
                check_value(value, true)
                checked += 1
    assert checked >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_no_number_in_any_text_is_missed(path):
    """Each number, found by a plain search, stands in a value; those with a value of it."""
    for cell in read(path):
        for output in cell.outputs:
            if output.kind in ("stdout", "result"):
                check_no_miss(output.text)


def check_no_miss(text):
    values = parse(text).values
    objects = [match.span() for match in OBJECT.finditer(text)]
    for match in PLAIN.finditer(text):
        if any(start <= match.start() and match.end() <= end for start, end in objects):
            continue
        holding = [v for v in values if v.start <= match.start() and match.end() <= v.end]
        assert holding or inside_a_call(text, match), text[max(0, match.start() - 40) : match.end()]
        scalars = [v for v in holding if v.form == "scalar" and v.kind in ("int", "float")]
        for value in scalars:
            assert abs(value.numbers[0]) == abs(float(match.group()))


def inside_a_call(text, match):
    """Whether a number is a suffix of a tensor of several arrays, or the key of a dict."""
    before, after = text[: match.start()], text[match.end() :]
    return bool(
        re.search(r"(?:size=\([\d, ]*|nnz=|scale=|zero_point=|axis=)$", before)
        or (before.endswith(("{", ", ")) and after.startswith(":"))
    )


def test_the_corpus_covers_the_grammar():
    """Each form that the documentation lists stands in some recording."""
    cells = [cell for path in NOTEBOOKS for cell in read(path)]
    text = "\n".join(output.text for cell in cells for output in cell.outputs)
    for form in [
        "tensor([", "...,", "nan", "-inf", "True", "j]", "dtype=torch.float64", "e+", "e-0",
        "size=(0, 3)", "requires_grad=True", "grad_fn=<", "Parameter containing:", "torch.Size(",
        "OrderedDict(", "torch.return_types.max(", "None", "array(", "np.float32(", "Epoch 1/5",
        "tangent=", "nested_tensor(", "layout=torch.sparse_coo", "quantization_scheme",
        "device='meta'", "GradTrackingTensor(", "BatchedTensor(", "Error: ", "<Figure size ", "{'",
        "-0.", "dtype=torch.bfloat16", "float8_e4m3fn", "的梯度：",
    ]:  # fmt: skip
        assert form in text, form
    assert {output.kind for cell in cells for output in cell.outputs} >= {
        "stdout", "stderr", "result", "error",
    }  # fmt: skip
    assert '"image/png"' in (HERE / "wild.ipynb").read_text()
    assert len(NOTEBOOKS) >= 15


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_recording_agrees_with_itself_in_every_cell(path):
    report = compare(path, path, fresh=False, strict=True)
    assert report.agrees
    assert all(cell.port and not cell.only_ours for cell in report.cells)
    shown = sum(bool(cell.outputs) for cell in read(path))
    assert sum(len(cell.places) for cell in report.cells) == shown


def test_a_text_export_reads_as_the_notebook_it_is_of():
    exported = [c for c in read(HERE / "autograd.txt") if c.outputs]
    notebook = [c for c in read(HERE / "autograd.ipynb") if c.outputs]
    assert [cell.number for cell in exported] == [cell.number for cell in notebook]
    for one, other in zip(exported, notebook, strict=True):
        values = [v for output in one.outputs for v in parse(output.text).values]
        wanted = [v for output in other.outputs for v in parse(output.text).values]
        assert [judge(a, b).agrees for a, b in zip(values, wanted, strict=True)]
        assert [v.text for v in values] == [v.text for v in wanted]
