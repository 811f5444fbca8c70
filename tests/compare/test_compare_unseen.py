"""Faults of a port that would be easy to overlook, each seen in its place; and what is no fault."""

import pytest
from nbformat.v4 import new_output

from funcgrad.compare import Cell, Output, compare, judge, pair_values, parse
from funcgrad.compare.recorded.compare import compare_cells
from funcgrad.compare.recorded.contents import contents_of
from funcgrad.compare.recorded.formats import formats_of
from funcgrad.compare.recorded.rounding import with_formats


def verdicts(recorded, ours, source="", kind="stdout"):
    """The status of each value, and what the report calls it by."""
    theirs = with_formats([Cell(1, (Output(kind, recorded),), source, (), 1)])
    (cell,) = compare_cells(theirs, [Cell(1, (Output(kind, ours),), "", (), 1)])
    return [row.status for row in cell.rows]


# --- numbers that Python printed in full ---------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "ours", "source"),
    [
        ("grad: 0.0", "grad: 0.04899999871850014", "print(f'grad: {x.grad}')"),
        ("0.5", "0.5489", "print(x.item())"),
        ("-2.25", "-2.2519", "print('x', float(x))"),
        ("[0.5 0.25]", "[0.53 0.2519]", "print(x.numpy())"),
        ("[[0.5 1. ]\n [0.  2. ]]", "[[0.54 1.  ]\n [0.   2.  ]]", "print(x.detach().numpy())"),
        ("loss 0.5, lr 0.1", "loss 0.5, lr 0.14", "print(f'loss {loss:.4f}, lr {lr}')"),
        ("1.5e-3", "1.54e-3", "print(x)"),
        ("0.5", "0.53", "print(f'{x:.4g}')"),
        ("0.5", "0.53", "print(round(x, 2))"),
        ("accuracy 0.912", "accuracy 0.9124", "print('accuracy', right / 1000)"),
    ],
)
def test_a_number_in_full_is_not_taken_as_rounded(recorded, ours, source):
    assert "differ" in verdicts(recorded, ours, source)


@pytest.mark.parametrize(
    ("recorded", "ours", "source"),
    [
        ("loss 0.5", "loss 0.5489", "print(f'loss {x:.1f}')"),
        ("loss 0.5", "loss 0.5489", "print('loss %.1f' % x)"),
        ("loss 0.5", "loss 0.5489", "print('loss {:6.1f}'.format(x))"),
        ("loss 0.5", "loss 0.5489", "print('loss', round(x, 1))"),
        ("loss 0.5", "loss 0.5489", "print('loss', x.round(1))"),
        ("91.2%", "91.2345%", "print(f'{accuracy:.1%}')"),
        ("1.23e-05", "1.2345e-05", "print(f'{x:.2e}')"),
        ("0.1235", "0.12345678", "print(f'{x:.4g}')"),
        ("12350", "12350", "print(f'{x:.4g}')"),
        ("[0.123 4.5  ]", "[0.12345 4.5001]", "np.set_printoptions(precision=3)\nprint(x)"),
        # the number itself, or another one of the same output, says that it is rounded
        ("loss 0.50", "loss 0.504", "train()"),
        ("loss 0.123\nloss 0.120", "loss 0.1234\nloss 0.1204", "train()"),
    ],
)
def test_a_number_that_a_format_rounded_agrees_with_all_that_round_to_it(recorded, ours, source):
    assert set(verdicts(recorded, ours, source)) == {"agree"}


def test_the_format_may_stand_in_a_function_of_an_earlier_cell():
    define = Cell(1, (), "def log(x):\n    print(f'loss {x:.3f}')", (), 1)
    through = Cell(2, (), "def train():\n    log(loss)", (), 2)
    use = Cell(3, (Output("stdout", "loss 0.123"),), "train()", (), 3)
    other = Cell(4, (Output("stdout", "loss 0.123"),), "print('loss', x)", (), 4)
    theirs = with_formats([define, through, use, other])
    ours = [one._replace(outputs=(Output("stdout", "loss 0.1234"),)) for one in theirs[2:]]
    assert [cell.agrees for cell in compare_cells(theirs, ours)] == [True, False]


def test_a_difference_that_may_be_rounding_says_so():
    theirs = [Cell(1, (Output("stdout", "loss 0.123"),), "train()", (), 1)]
    ours = [Cell(1, (Output("stdout", "loss 0.1234"),), "train()", (), 1)]
    (cell,) = compare_cells(theirs, ours)
    said = "ours rounded to 3 decimals is the recorded one: print it so, or mark the cell `# atol"
    assert f"{said} 0.0005`" in cell.rows[0].reason


@pytest.mark.parametrize(
    ("code", "formats"),
    [
        ("f'{x:.3f}'", ([3], [], [], [])),
        ("f'{x:>8.2e} {y:.1%}'", ([1], [2], [], [])),
        ("'%5.2f %g %d' % x", ([2], [], [6], [])),
        ("'{:.3}'.format(x)", ([], [], [3], [])),
        ("round(f(x), 2), np.round(x, decimals=4)", ([], [], [], [2, 4])),
        ("torch.set_printoptions(precision=2)", ([], [], [], [2])),
        ("x[1:e], y: float, z = 3 % f, {'a': f}", ([], [], [], [])),
        ("x % 10", ([], [], [], [])),
    ],
)
def test_formats_in_code(code, formats):
    assert tuple(sorted(one) for one in formats_of(code)) == formats


# --- keys ----------------------------------------------------------------------------------------


def pairs(recorded, ours):
    rows = pair_values(parse(recorded).values, parse(ours).values)
    return [
        (one and one.text, other and other.text, bool(one and other and judge(one, other).agrees))
        for one, other in rows
    ]


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ("{'weight': 1.0, 'bias': 2.0}", "{'weight': 1.0, 'beta': 2.0}"),
        ("{'weight': 1.0, 'bias': 2.0}", "{'bias': 1.0, 'weight': 2.0}"),
        ("{0: 1.0, 1: 2.0}", "{0: 1.0, 2: 2.0}"),
        ("{'a': {'x': 1.0, 'y': 2.0}}", "{'a': {'x': 1.0, 'z': 2.0}}"),
        ("OrderedDict([('w', tensor(1.)), ('b', tensor(2.))])", "{'w': Array(1.), 'c': Array(2.)}"),
        ("P(a=tensor(1.), b=tensor(2.))", "P(b=Array(1.), a=Array(2.))"),
        ("[{'a': 1.0}, {'b': 2.0}]", "[{'a': 1.0}, {'c': 2.0}]"),
    ],
)
def test_another_key_is_a_difference(recorded, ours):
    assert not all(agrees for _, _, agrees in pairs(recorded, ours))


def test_the_key_is_named():
    (one,), (other,) = (parse(text).values for text in ("{'bias': 2.0}", "{'beta': 2.0}"))
    found = judge(one, other)
    assert found.what == "key"
    assert found.reason == "recorded under the key ['bias'], ours is under ['beta']"


@pytest.mark.parametrize(
    ("recorded", "ours", "alone"),
    [
        ("{'weight': 1.0, 'bias': 2.0, 'scale': 3.0}", "{'bias': 2.0, 'weight': 1.0}", ["3.0"]),
        ("{'c': 1.0, 'b': 2.0, 'a': 3.0}", "{'a': 3.0, 'b': 2.0}", ["1.0"]),
        ("{'a': {'y': 1, 'x': 2}, 'b': 3}", "{'a': {'x': 2}, 'b': 3}", ["1"]),
        ("7 {'b': 1, 'a': 2}\n{'b': 3, 'a': 4} 8", "7 {'a': 2}\n{'a': 4, 'b': 3} 8", ["1"]),
        ("[{'b': 1, 'a': 2}, {'b': 3}]", "[{'a': 2, 'b': 1}]", ["3"]),
    ],
)
def test_a_missing_key_blames_no_other(recorded, ours, alone):
    rows = pairs(recorded, ours)
    assert [one for one, other, _ in rows if other is None] == alone
    assert all(agrees for _, other, agrees in rows if other)


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ("{'w': tensor(1.), 'b': tensor(2.)}", "Params(b=Array(2.), w=Array(1.))"),
        ("{'w': tensor(1.), 'b': tensor(2.)}", "(Array(1.), Array(2.))"),
        ('{"w": 1.5}', "{'w': 1.5}"),
        ("{'w': Parameter containing:\ntensor([1.])}", "{'w': Array([1.], dtype=float32)}"),
        ("{'a': [1, 2], 'b': 3}", "{'b': 3, 'a': (1, 2)}"),
    ],
)
def test_another_kind_of_container_is_no_difference(recorded, ours):
    assert all(agrees for _, _, agrees in pairs(recorded, ours))


# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ("torch.Size([2, 3])", "(2, 3, 4)"),
        ("torch.Size([2, 3])", "(2,)"),
        ("torch.Size([])", "(1,)"),
        ("(2, 3)", "(2, 3, 4)"),
        ("torch.Size([2, 3])", "torch.Size([2, 3, 1])"),
        ("[1.5, 2.5]", "[1.5, 2.5, 3.5]"),
        ("tensor(indices=tensor([[0]]), values=tensor([1.]), size=(2,), nnz=1)",
         "tensor(indices=tensor([[0]]), values=tensor([1.]), size=(3,), nnz=1)"),
    ],
)  # fmt: skip
def test_another_shape_is_a_difference(recorded, ours):
    rows = pairs(recorded, ours)
    assert rows
    assert not all(agrees for _, _, agrees in rows)


SIZES = "a: torch.Size([2, 3])\nb: torch.Size([4, 5])\nn: 7\nc: torch.Size([6, 7])\nm: 8\n"


@pytest.mark.parametrize(
    ("left_out", "alone"),
    [
        ("a: torch.Size([2, 3])\n", "torch.Size([2, 3])"),
        ("b: torch.Size([4, 5])\n", "torch.Size([4, 5])"),
        ("n: 7\n", "7"),
        ("m: 8\n", "8"),
    ],
)
@pytest.mark.parametrize("as_jax", [False, True])
def test_a_missing_size_blames_no_other(left_out, alone, as_jax):
    ours = SIZES.replace(left_out, "")
    if as_jax:
        ours = ours.replace("torch.Size([", "(").replace("])", ")")
    rows = pairs(SIZES, ours)
    assert [one for one, other, _ in rows if other is None] == [alone]
    assert all(agrees for _, other, agrees in rows if other)


# --- beside progress bars, with units, in strings ------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (" 50% 1/2 [00:01<00:01,  1.94s/it]Epoch: 2 | loss: 1.5", [2, 1.5]),
        ("Epoch 3: 100%|███| 9/9 [00:01<00:00, 7.1it/s, loss=0.5, acc=9.5]", [3, 0.5, 9.5]),
        ("loss 0.5:  10%|█  | 44.7M/447M [00:01<00:09, 45MB/s] 7", [0.5, 7]),
        ("3% of 5  50%|##  | 1/2 [00:01<00:01, 1.00batch/s]", [3, 5]),
        ("4.5 3it [00:00, 99.00it/s] 7.5", [4.5, 7.5]),
        ("10/10 [=====] - 0s 2ms/step - loss: 0.5", [10, 10, 0.5]),
        ("x 1 2.25 ms ± 15 µs per loop (mean ± std. dev. of 7 runs, 100 loops each) 1.5", [1, 1.5]),
        ("a 1 id(Z): 140381179266448 b 2", [1, 2]),
        ("1m 30s (- 12m 5s) (5000 6%) 2.5", [5000, 6, 2.5]),
        ("took 12.3s, 5ms: 3", [3]),
        ("3.5it/s and 4MB/s, 1.5s/it: 3", [3]),
        ("cuda:0 5 TFRT_CPU_0 [CpuDevice(id=0)] 6", [5, 6]),
    ],
)
def test_only_what_differs_from_run_to_run_is_left_out(text, left):
    found = contents_of(Cell(1, (Output("stdout", text),)))
    assert found.skipped
    assert [number for value in found.values for number in value.numbers] == left


@pytest.mark.parametrize(
    ("text", "numbers", "units"),
    [
        ("PSNR: 30.1dB, 2.5x, 124.2M", [30.1, 2.5, 124.2], ["dB", "x", "M"]),
        ("10k steps", [10], ["k"]),
        ("(-2.5x)", [-2.5], ["x"]),
        ("1.5e3GB.", [1500.0], ["GB"]),
        ("loss0.25 lr1e-3", [0.25, 0.001], ["", ""]),
        ("conv1 2x2 v1.2.3 0x7f a3f4 1st_2", [], []),
    ],
)
def test_numbers_glued_to_letters(text, numbers, units):
    values = parse(text).values
    assert [number for value in values for number in value.numbers] == numbers
    assert [dict(value.suffixes).get("unit", "") for value in values] == units


def test_another_unit_is_a_difference_and_none_is_not():
    assert verdicts("124.2M", "124.2K") == ["differ"]
    assert verdicts("124.2M", "124.2 M") == ["agree"]


@pytest.mark.parametrize(
    ("recorded", "ours", "agree"),
    [
        ("'layer 3 is dead'", "'layer 3 is alive'", False),
        ("'layer 3 is dead'", "'layer 4 is dead'", False),
        ("'layer 3 is dead'", '"layer 3 is dead"', True),
        ("'x: tensor([1.0819])'", "'x: tensor([1.0822])'", False),
        ("'a1'", "'a2'", False),
        ("('layer 3', 1.0)", "('layer 4', 1.0)", False),
    ],
)
def test_strings_with_digits(recorded, ours, agree):
    assert ("differ" not in verdicts(recorded, ours, kind="result")) == agree


# --- what is no difference -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ("TensorImage([0.1235, 0.9877])", "Array([0.12345679, 0.98765433], dtype=float32)"),
        ("TensorMask([[1., 0.]])", "Array([[1., 0.]], dtype=float32)"),
        ("TensorBase(0.1235, grad_fn=<AliasBackward>)", "Array(0.12345679, dtype=float32)"),
        ("TensorCategory([1, 2], device='cuda:0')", "Array([1, 2], dtype=int32)"),
        ("Parameter containing:\nMine([0.1235])", "Array([0.12345679], dtype=float32)"),
        ("(tensor([1.]), device(type='cuda', index=0))", "(Array([1.]), CpuDevice(id=0))"),
        ("('cuda:0', 1.5)", "('TFRT_CPU_0', 1.5)"),
        ("tensor([1., 2.], grad_fn=<MulBackward0>)", "Array([1., 2.], dtype=float32)"),
        ("tensor([[1., 2.],\n        [3., 4.]])", "[[1. 2.]\n [3. 4.]]"),
    ],
)  # fmt: skip
def test_harmless_changes_stay_green(recorded, ours):
    assert set(verdicts(recorded, ours, kind="result")) <= {"agree", "note"}


@pytest.mark.parametrize("text", ["Foo([0.1235, 0.12])", "deque([0.1235, 0.9877])", "f(0.1235)"])
def test_what_is_no_tensor_is_in_full(text):
    assert all(value.exact for value in parse(text).values)


# --- a tolerance of the user's own ---------------------------------------------------------------


def test_a_marker_widens_what_is_allowed_in_its_cell_alone(notebook):
    recorded = notebook("a.ipynb", (1, "", "tensor([1.2346, 2.])"), (2, "", "tensor(1.2346)"))
    port = notebook(
        "b.ipynb",
        (1, "x  # rtol 1e-3: its inputs were printed", "Array([1.2351, 2.001], dtype=float32)"),
        (2, "y", "Array(1.2351, dtype=float32)"),
    )
    first, second = compare(recorded, port, fresh=False).cells
    assert (first.agrees, second.agrees) == (True, False)
    assert first.rows[0].verdict.notes == ("agrees by the tolerance asked for, rtol 0.001",)


@pytest.mark.parametrize(
    ("tolerance", "agree"),
    [("# rtol 1e-3", True), ("# rtol = 1e-4", False), ("# atol: 6e-4", True),
     ("#  rtol 1e-9, atol 6e-4", True), ("# see rtol 1e-3", False),
     ("# rtol and atol are PyTorch's", False)],
)  # fmt: skip
def test_markers(notebook, tolerance, agree):
    recorded = notebook("a.ipynb", (1, "", "tensor(1.2346)"))
    port = notebook("b.ipynb", (1, f"{tolerance}\nx", "Array(1.2351, dtype=float32)"))
    assert compare(recorded, port, fresh=False).agrees == agree


@pytest.mark.parametrize("given", ["-1", "1", "2e-3x", "1e-3.5"])
def test_a_tolerance_that_is_none_is_refused(notebook, given):
    path = notebook("a.ipynb", (1, f"x  # rtol {given}", "tensor(1.)"))
    with pytest.raises(ValueError, match=r"cell 1 has `# rtol .*a number from 0 to below 1"):
        compare(path, path, fresh=False)


@pytest.mark.parametrize(
    ("line", "agree"),
    [
        ('"In [1]" = { rtol = 1e-3 }', True),
        ('"In [1]" = { cells = "cell 1", rtol = 1e-3 }', True),
        ('"In [1]" = { atol = 6e-4 }', True),
        ('"In [1]" = { rtol = 0 }', False),
        ('"In [1]" = "cell 1"', False),
    ],
)
def test_a_map_may_ask_for_a_tolerance(notebook, tmp_path, line, agree):
    recorded = notebook("a.ipynb", (1, "", "tensor(1.2346)"))
    port = notebook("b.ipynb", (1, "x", "Array(1.2351, dtype=float32)"))
    (tmp_path / "map.toml").write_text(line)
    report = compare(recorded, port, fresh=False, mapping=tmp_path / "map.toml")
    assert report.agrees == agree


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('"In [1]" = { rtol = "x" }', "has rtol = 'x', and a number from 0 to below 1 is wanted"),
        ('"In [1]" = { rtol = true }', "has rtol = True"),
        ('"In [1]" = { tolerance = 1 }', "has `tolerance`; write cells, rtol or atol"),
        ('"In [1]" = { cells = 3 }', "has 3; write 'cell 3'"),
        ('a = "' + "[" * 5, "not a map"),
        ("a = " + "[" * 100_000, "not a map: its brackets are nested too deeply"),
    ],
)
def test_a_map_with_a_wrong_tolerance_is_refused(notebook, tmp_path, line, reason):
    path = notebook("a.ipynb", (1, "", "tensor(1.2346)"))
    (tmp_path / "map.toml").write_text(line)
    with pytest.raises(ValueError, match=r"map\.toml: ") as caught:
        compare(path, path, fresh=False, mapping=tmp_path / "map.toml")
    assert reason in str(caught.value)


def test_integers_and_shapes_know_no_tolerance(notebook):
    recorded = notebook("a.ipynb", (1, "", "tensor([1000, 2000])"), (2, "", "tensor([1., 2.])"))
    port = notebook(
        "b.ipynb",
        (1, "# rtol 0.5\nx", "Array([1001, 2000], dtype=int32)"),
        (2, "# rtol 0.5\nx", "Array([[1., 2.]], dtype=float32)"),
    )
    assert [cell.agrees for cell in compare(recorded, port, fresh=False).cells] == [False, False]


# --- cells that only show a tensor's state -------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text", "said"),
    [
        ("x.requires_grad", "True", "only shows `requires_grad`"),
        ("x.is_leaf, y.is_leaf", "(True, False)", "only shows `is_leaf`"),
        ("x.grad", "None", "only shows `None`"),
        ("print(x.grad_fn, x.requires_grad)", "None False", "`grad_fn` and `requires_grad`"),
        ("x > 1", "tensor([True])", ""),
    ],
)
def test_a_cell_that_only_shows_state_is_named_with_the_line_of_a_map(source, text, said):
    theirs = [Cell(4, (Output("result", text),), source, (), 7), Cell(5, (Output("result", "1"),))]
    cell, _ = compare_cells(theirs, [theirs[1]])
    assert all(row.status == "missing" for row in cell.rows)
    hint = 'which a port may lack; a map leaves it out: `"cell 7" = []`'
    assert all((hint in row.reason) == bool(said) and said in row.reason for row in cell.rows)


def test_a_stream_of_only_devices_is_named_and_no_difference(notebook):
    recorded = notebook(
        "a.ipynb", (1, "print(d)", new_output("stream", text="cuda:0\n")), (2, "", "tensor(1.)")
    )
    port = notebook(
        "b.ipynb", (1, "print(d)", new_output("stream", text="TFRT_CPU_0\n")), (2, "", "Array(1.)")
    )
    report = compare(recorded, port, fresh=False)
    assert report.agrees
    assert "a device" in report.cells[0].rows[0].reason


# --- what two outputs say apart ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ("{(0, 1): 0.5, (1, 1): 2.0}", "{(0, 2): 0.5, (1, 1): 2.0}"),
        ("{frozenset({1}): 0.5}", "{frozenset({2}): 0.5}"),
        ("loss: NaN", "loss: 0.5"),
        ("loss: Infinity", "loss: -Infinity"),
        ("   a    b\n0  1  NaN", "   a    b\n0  1  2.0"),
    ],
)
def test_keys_of_tuples_and_nan_in_capitals_are_compared(recorded, ours):
    assert "agree" in verdicts(recorded, recorded)
    assert {"differ", "missing"} & set(verdicts(recorded, ours))


def test_a_minus_sign_as_it_is_typeset_is_a_sign(notebook):
    recorded = notebook("a.ipynb", (1, "x", new_output("stream", text="x = \u22120.5\n")))
    port = notebook("b.ipynb", (1, "x", new_output("stream", text="x = 0.5\n")))
    assert not compare(recorded, port, fresh=False).agrees
