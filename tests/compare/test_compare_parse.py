"""The grammar, form by form, and that it survives anything."""

import math
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from funcgrad.compare import judge, parse
from funcgrad.compare.recorded.build import MAX_DEPTH

NAN = float("nan")
INF = float("inf")


def only(text):
    (value,) = parse(text).values
    return value


ARRAYS = [
    # text, kind, shape, numbers, units
    ("tensor(28.)", "float", (), (28.0,), (0.0,)),
    ("tensor(3.1416)", "float", (), (3.1416,), (1e-4,)),
    ("tensor(1.0000)", "float", (), (1.0,), (1e-4,)),
    ("tensor(112)", "int", (), (112,), (0.0,)),
    ("tensor([7])", "int", (1,), (7,), (0.0,)),
    ("tensor(True)", "bool", (), (True,), (0.0,)),
    ("tensor([ True, False])", "bool", (2,), (True, False), (0.0,) * 2),
    ("tensor([  0.,   4.,   8.,  12.])", "float", (4,), (0.0, 4.0, 8.0, 12.0), (0.0,) * 4),
    ("tensor([-1.5000,  2.0000])", "float", (2,), (-1.5, 2.0), (1e-4,) * 2),
    ("tensor([0., 0., 1.,\n        1.])", "float", (4,), (0.0, 0.0, 1.0, 1.0), (0.0,) * 4),
    ("tensor([[0., 1.],\n        [2., 3.]])", "float", (2, 2), (0.0, 1.0, 2.0, 3.0), (0.0,) * 4),
    (
        "tensor([[[1., 2.],\n         [3., 4.]],\n\n        [[5., 6.],\n         [7., 8.]]])",
        "float", (2, 2, 2), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0), (0.0,) * 8,
    ),
    ("tensor([[ 0,  1],\n        [10, 11]])", "int", (2, 2), (0, 1, 10, 11), (0.0,) * 4),
    ("tensor([5.1200e+01, 5.1200e-02])", "float", (2,), (51.2, 0.0512), (1e-3, 1e-6)),
    ("tensor([ 9.5483e-01, -8.2600e-04])", "float", (2,), (0.95483, -0.000826), (1e-5, 1e-8)),
    ("tensor([[ 0.00, 11.87]])", "float", (1, 2), (0.0, 11.87), (0.01, 0.01)),
    ("tensor([[-inf, 0.]])", "float", (1, 2), (-INF, 0.0), (0.0,) * 2),
    ("tensor(inf)", "float", (), (INF,), (0.0,)),
    ("tensor([-0., 0.])", "float", (2,), (-0.0, 0.0), (0.0,) * 2),
    ("tensor([])", "float", (0,), (), ()),
    ("tensor([], size=(0, 3))", "float", (0, 3), (), ()),
    ("tensor([], size=(4, 0))", "float", (4, 0), (), ()),
    ("tensor(1.+2.j)", "complex", (), (1 + 2j,), (0j,)),
    ("tensor([1.0000+2.j, 0.5000-1.j])", "complex", (2,), (1 + 2j, 0.5 - 1j), (1e-4 + 0j,) * 2),
    ("tensor([(0.3100+0.3553j)])", "complex", (1,), (0.31 + 0.3553j,), (1e-4 + 1e-4j,)),
    ("tensor(1.00000e-07 *\n       2.8312)", "float", (), (2.8312e-07,), (1e-11,)),
    ("Array(28., dtype=float32, weak_type=True)", "float", (), (28.0,), (0.0,)),
    ("Array([1.5 , 0.33333334], dtype=float32)", "float", (2,), (1.5, 0.33333334), (1e-8,) * 2),
    ("Array([], shape=(0, 3), dtype=float32)", "float", (0, 3), (), ()),
    ("Array([0, 1], dtype=bfloat16)", "float", (2,), (0, 1), (0.0,) * 2),
    ("array([[ 1.,  2.]], dtype=float32)", "float", (1, 2), (1.0, 2.0), (0.0,) * 2),
    ("array(2.71, dtype=float32)", "float", (), (2.71,), (0.0,)),
    ("array([1.  +2.j, 1.25-1.j])", "complex", (2,), (1 + 2j, 1.25 - 1j), (0j,) * 2),
    ("np.float32(1.0)", "float", (), (1.0,), (0.0,)),
    ("np.True_", "bool", (), (True,), (0.0,)),
    ("[1. 1. 1.]", "float", (3,), (1.0, 1.0, 1.0), (0.0,) * 3),
    ("[-4.414 -9.111 6.539]", "float", (3,), (-4.414, -9.111, 6.539), (1e-3,) * 3),
    ("[[1. 2.]\n [3. 4.]]", "float", (2, 2), (1.0, 2.0, 3.0, 4.0), (0.0,) * 4),
    ("[[1.0, 2.0], [3.0, 4.5]]", "float", (2, 2), (1.0, 2.0, 3.0, 4.5), (0.0,) * 4),
    ("-0.8971386551856995", "float", (), (-0.8971386551856995,), (1e-16,)),
    ("(1+2j)", "complex", (), (1 + 2j,), (0j,)),
    ("12", "int", (), (12,), (0.0,)),
    ("False", "bool", (), (False,), (0.0,)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "shape", "numbers", "units"), ARRAYS)
def test_array_forms(text, kind, shape, numbers, units):
    value = only(text)
    assert (value.kind, value.shape, value.text) == (kind, shape, text)
    assert value.numbers == pytest.approx(numbers, rel=1e-15)
    assert value.units == pytest.approx(units, rel=1e-12)
    assert parse(text).pure


def test_nan_and_infinity_do_not_leave_the_integral_form():
    value = only("tensor([1., nan, -inf])")
    assert value.numbers[0] == 1.0
    assert math.isnan(value.numbers[1])
    assert value.numbers[2] == -INF
    assert value.exact
    assert only("tensor([-0.6387,     nan])").units[0] == 1e-4


@pytest.mark.parametrize(
    ("suffix", "dtype", "suffixes"),
    [
        ("requires_grad=True", None, (("requires_grad", "True"),)),
        ("grad_fn=<MulBackward0>", None, (("grad_fn", "<MulBackward0>"),)),
        ("\n       grad_fn=<AddBackward>", None, (("grad_fn", "<AddBackward>"),)),
        ("device='cuda:0'", None, (("device", "'cuda:0'"),)),
        ("dtype=torch.float64", "float64", (("dtype", "torch.float64"),)),
        (
            "device='cuda:1', dtype=torch.float64,\n       grad_fn=<PowBackward0>",
            "float64",
            (("device", "'cuda:1'"), ("dtype", "torch.float64"), ("grad_fn", "<PowBackward0>")),
        ),
    ],
)
def test_suffixes(suffix, dtype, suffixes):
    value = only(f"tensor([1., 4.], {suffix})")
    assert (value.numbers, value.dtype, value.suffixes) == ((1.0, 4.0), dtype, suffixes)


def test_elided_row_keeps_places():
    value = only("tensor([ 0.4553,  1.0848,  ...,  0.2638, -0.0149])")
    assert value.elided
    assert value.shape == (None,)
    assert value.places == ((0,), (1,), (-2,), (-1,))


@pytest.mark.parametrize(
    "text",
    [
        "tensor([[1., ..., 2.],\n        ...,\n        [3., ..., 4.]])",
        "[[1. ... 2.]\n ...\n [3. ... 4.]]",
    ],
)
def test_elided_matrix_keeps_places(text):
    value = only(text)
    assert value.numbers == (1.0, 2.0, 3.0, 4.0)
    assert value.places == ((0, 0), (0, -1), (-1, 0), (-1, -1))
    assert value.shape == (None, None)


def test_elided_array_with_its_shape():
    value = only("array([   0,    1, ..., 2999], shape=(3000,))")
    assert (value.shape, value.places) == ((3000,), ((0,), (1,), (-1,)))


CONTAINERS = [
    ("(tensor(112.), tensor(224.))", ["tuple[0]", "tuple[1]"]),
    ("(tensor([3.]),)", ["tuple[0]"]),
    ("(None, tensor([1.]), True, 3, 3.5, 'N')", [f"tuple[{i}]" for i in range(6)]),
    ("[tensor([1.]), tensor([[2.],\n        [3.]])]", ["list[0]", "list[1]"]),
    ("Parameter containing:\ntensor([0.1], requires_grad=True)", [""]),
    (
        "[Parameter containing:\n tensor([0.3], requires_grad=True), Parameter containing:\n"
        " tensor(2., requires_grad=True)]",
        ["list[0]/Parameter[0]", "list[1]/Parameter[0]"],
    ),
    (
        "OrderedDict([('weight', tensor([[0.9690]])),\n"
        "             ('bias', tensor([1.0235], device='cuda:0'))])",
        ["OrderedDict['weight']", "OrderedDict['bias']"],
    ),
    ("OrderedDict({'a': tensor(1.)})", ["OrderedDict['a']"]),
    ("{'state': {0: {'buffer': None}}}", ["dict['state']/dict[0]/dict['buffer']"]),
    (
        "torch.return_types.max(\nvalues=tensor([15.,  6.]),\nindices=tensor([0, 0]))",
        ["torch.return_types.max[values]", "torch.return_types.max[indices]"],
    ),
    (
        "tensor(indices=tensor([[0, 1],\n                       [0, 1]]),\n"
        "       values=tensor([1., 1.]),\n       size=(2, 2), nnz=2, layout=torch.sparse_coo)",
        ["tensor[indices]", "tensor[values]"],
    ),
    ("tensor([1.], tangent=tensor([2.]))", ["tensor[0]", "tensor[tangent]"]),
    ("Retained(value=Array(3., dtype=float32), grad=None)", ["Retained[value]", "Retained[grad]"]),
    ("[1, True]", ["list[0]", "list[1]"]),
    ("[[1, 2], [3]]", ["list[0]", "list[1]"]),
    ("()", []),
    ("[]", []),
    ("((<MulBackward0 at 0x7f>, 0), (<AccumulateGrad at 0x7e>, 0))",
     ["tuple[0]/tuple[1]", "tuple[1]/tuple[1]"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "paths"), CONTAINERS)
def test_containers_keep_order_and_path(text, paths):
    assert ["/".join(value.path) for value in parse(text).values] == paths
    assert parse(text).pure


@pytest.mark.parametrize(
    ("text", "kind", "dtype"),
    [
        ("None", "none", None),
        ("torch.float32", "dtype", "float32"),
        ("dtype('float64')", "dtype", "float64"),
        ("torch.double", "dtype", "float64"),
        ("bfloat16", "dtype", "bfloat16"),
        ("'some text'", "string", None),
        ("ShapeDtypeStruct(shape=(3,), dtype=float32)", "struct", "float32"),
    ],
)
def test_values_without_numbers(text, kind, dtype):
    value = only(text)
    assert (value.kind, value.dtype, value.numbers) == (kind, dtype, ())


def test_size():
    value = only("torch.Size([2, 3])")
    assert (value.kind, value.numbers) == ("size", (2, 3))
    assert only("torch.Size([])").numbers == ()


PRINTED = [
    ("tensor(1.) tensor(1) tensor(1, dtype=torch.int8)", [1.0, 1, 1]),
    ("x1.grad: tensor([4.])", [4.0]),
    ("a:tensor([[2.]])", [2.0]),
    ("y= tensor(0.) ; x= tensor(1.0000)", [0.0, 1.0]),
    ("y的梯度： tensor([0.5])", [0.5]),
    ("损失0.5米", [0.5]),
    ("First call\ntensor([[4.]])\n\nSecond call\ntensor(8)", [4.0, 8]),
    ("tensor([3.], grad_fn=<AddBackward>)\n<AddBackward object at 0x10ed634a8>", [3.0]),
    ("x.is_leaf=True z.is_leaf=False", [True, False]),
    ("torch.__version__=2.4.0", []),
    ("Test label: 9.\nPred label: tensor([9])", [9, 9]),
    ("Epoch 500, Loss 7.860116", [500, 7.860116]),
    ("[1. 1.] tensor([2.], dtype=torch.float64)", [1.0, 2.0]),
    ("tensor([[1.]], requires_grad=True)\nNone", [1.0, None]),
    ("'about: tensor([1.0819]), true: tensor([1.0821])'", [1.0819, 1.0821]),
    ("size 2x2, id 0x7f, ratio 3-2, don't", [3, 2]),
    ("an interval [0, 1) and (tensor(1.),)", [0, 1, 1.0]),
    ("  0%|          | 0/26421880", [0, 0, 26421880]),
    ("Sequential(\n  (0): Linear(in_features=3, bias=True)\n)", [0, 3, True]),
    ("(numpy.ndarray, torch.Tensor)", []),
]


@pytest.mark.parametrize(("text", "firsts"), PRINTED)
def test_values_among_words(text, firsts):
    values = parse(text).values
    assert [value.numbers[0] if value.numbers else None for value in values] == firsts


def test_legacy_form_is_one_tensor():
    text = "\n 0.5000  1.0000\n 1.5000  2.0000\n[torch.FloatTensor of size 2x2]\n"
    value = only(text)
    assert (value.shape, value.dtype, value.numbers) == ((2, 2), "float32", (0.5, 1.0, 1.5, 2.0))


RARE = [
    # text, then of each of its values: path, kind, dtype, shape, numbers
    ("tensor(..., device='meta', size=(2,))", [((), "float", None, (2,), ())]),
    (
        "nested_tensor([\n  tensor([1.]),\n  tensor([2., 3.])\n])",
        [
            (("nested_tensor[0]", "list[0]"), "float", None, (1,), (1.0,)),
            (("nested_tensor[0]", "list[1]"), "float", None, (2,), (2.0, 3.0)),
        ],
    ),
    (
        "tensor([0.1000], size=(1,), dtype=torch.quint8,\n"
        "       quantization_scheme=torch.per_tensor_affine, scale=0.1, zero_point=10)",
        [((), "float", "quint8", (1,), (0.1,))],
    ),
    (
        "GradTrackingTensor(lvl=1, value=\n    tensor([1., 2.])\n)",
        [
            (("GradTrackingTensor[lvl]",), "int", None, (), (1,)),
            (("GradTrackingTensor[value]",), "float", None, (2,), (1.0, 2.0)),
        ],
    ),
    (
        "(0 ,.,.) = \n  1  2\n[torch.FloatTensor of size 1x1x2]",
        [((), "float", "float32", (1, 1, 2), (1.0, 2.0))],
    ),
    ("[torch.FloatTensor of size 0x99999999999999999999]", []),
    ("tensor([inf], dtype=torch.int32)", [((), "int", "int32", (1,), (INF,))]),
]


@pytest.mark.parametrize(("text", "values"), RARE)
def test_rare_forms(text, values):
    seen = [(v.path, v.kind, v.dtype, v.shape, v.numbers) for v in parse(text).values]
    assert seen == values


def test_words_and_values_make_up_the_text():
    parsed = parse("loss: 0.1234 (tensor([1.]), True) end")
    pieces = [parsed.words[0]]
    for value, words in zip(parsed.values, parsed.words[1:], strict=True):
        pieces += [value.text, words]
    assert "".join(pieces) == "loss: 0.1234 (tensor([1.]), True) end"
    assert not parsed.pure


LEGACY = [
    (
        "Variable containing:\n 0.5000  1.0000\n 1.5000  2.0000\n[torch.FloatTensor of size 2x2]",
        "float32", (2, 2), (0.5, 1.0, 1.5, 2.0), 1e-4,
    ),
    (
        "\n1.00000e-02 *\n  0.5000\n  1.2500\n[torch.DoubleTensor of size 2]",
        "float64", (2,), (0.005, 0.0125), 1e-6,
    ),
    (
        "\nColumns 0 to 2 \n 1  2  3\n 4  5  6\n\nColumns 3 to 4 \n 7  8\n 9 10\n"
        "[torch.LongTensor of size 2x5]",
        "int64", (2, 5), (1, 2, 3, 7, 8, 4, 5, 6, 9, 10), 0.0,
    ),
    (
        "\nColumns 0 to 1 \n1.00000e+03 *\n  1.5 2.5\n  3.5 4.5\n\nColumns 2 to 2 \n"
        "1.00000e+03 *\n  7.5\n  8.5\n[torch.FloatTensor of size 2x3]",
        "float32", (2, 3), (1500.0, 2500.0, 7500.0, 3500.0, 4500.0, 8500.0), 100.0,
    ),
    (
        "\n(0 ,.,.) = \n  1  2\n  3  4\n\n(1 ,.,.) = \n  5  6\n  7  8\n"
        "[torch.ByteTensor of size 2x2x2]",
        "uint8", (2, 2, 2), (1, 2, 3, 4, 5, 6, 7, 8), 0.0,
    ),
    ("\n 0.5\n-1.5\n[torch.cuda.FloatTensor of size 2 (GPU 0)]", "float32", (2,), (0.5, -1.5), 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("text", "dtype", "shape", "numbers", "unit"), LEGACY)
@pytest.mark.parametrize("before", ["", "loss 5\n", "1.5\n", "x:", "tensor([1.])\n"])
def test_what_torch_printed_before_it_said_tensor(before, text, dtype, shape, numbers, unit):
    values = parse(before + "\n" + text + "\ntail 4\n").values
    value = values[-2]
    assert (value.dtype, value.shape, value.form) == (dtype, shape, "tensor")
    assert value.numbers == pytest.approx(numbers)
    assert value.units == pytest.approx((unit,) * len(numbers))
    assert len(values) == 2 + any(c.isdigit() for c in before)


@pytest.mark.parametrize(
    "text",
    [
        "[torch.FloatTensor of size 2x2]",
        "1  2\n3\n[torch.FloatTensor of size 2x2]",
        "a 1\n[torch.FloatTensor of size 2]",
        "1\n2\n[torch.FloatTensor of size x]",
        "1 2\n3\n[torch.FloatTensor of size 3x1]",
        "[torch.FloatTensor of size 3x0]",
        "1\n[torch.FloatTensor of size 99999999999999999999]",
        "9e999 *\n 1e308\n[torch.FloatTensor of size 1]",
    ],
)
def test_what_only_ends_like_a_tensor_of_old(text):
    parse(text)
    assert all(value.form == "scalar" for value in parse("x " + text).values) or "9e999" in text


def test_a_number_rounded_up_beyond_the_largest_is_the_largest():
    assert only("tensor(-1.7977e+308, dtype=torch.float64)").numbers == (-1.7976931348623157e308,)


def work(text):
    """How many Python and C functions are called: a measure of time that no load disturbs."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        parse(text)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.one_line
@given(
    st.one_of(st.text(min_size=1, max_size=12), st.text("[](){},.*+-='\"1eEjx: \n\\", min_size=1))
)
@settings(max_examples=25, deadline=None)
@example("(")
@example("[1,")
@example("tensor(")
@example("1\n[torch.FloatTensor of size 3]\n")
@example("Columns 0 to 1 \n")
@example("'")
def test_twice_the_text_is_at_most_twice_the_work(text):
    once, twice = (work(text * (n // len(text) + 1)) for n in (2000, 4000))
    assert twice <= 2.2 * once + 2000


tokens = st.sampled_from(
    ["tensor(", "Array(", "[", "]", "(", ")", "{", "}", ",", ":", "=", "dtype=", "size=", "...",
     "*", "1.", "-2.5e-3", "nan", "1+2j", "True", "None", "'", '"', "\\", "\n", " ", "<", ">", "j",
     "x", "torch.Size(", "Parameter containing:", "[torch.FloatTensor of size 2x2]", "np.float32(",
     "OrderedDict(", "dtype(", "torch.float32", "ShapeDtypeStruct(", "[1., 2.]", "9" * 5000]
)  # fmt: skip


@pytest.mark.one_line
@given(st.one_of(st.text(), st.lists(tokens, max_size=30).map("".join)))
@settings(max_examples=400, deadline=None)
@example("tensor([1.], size=('a',))")
@example("np.float32([1, [2]])")
@example("tensor(1+2j * [1.])")
@example("tensor(" + "9" * 400 + " * 1.5)")
@example("tensor(1.5 * " + "9" * 400 + ")")
@example("np.int64(nan)")
@example("f(1, a=2, 3)")
@example("OrderedDict([(1, 2), 3])")
def test_any_text_can_be_parsed(text):
    parsed = parse(text)
    pieces = [parsed.words[0]]
    for value, words in zip(parsed.values, parsed.words[1:], strict=True):
        pieces += [value.text, words]
    assert "".join(pieces) == text
    for value in parsed.values:
        assert 0 <= value.start <= value.end <= len(text)
        assert len(value.units) == len(value.numbers)
        assert value.places is None or len(value.places) == len(value.numbers)
        itself = judge(value, value)
        assert itself.agrees or "numbers for" in itself.reason


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("[" * 10_000, []),
        ("[" * 10_000 + "1." + "]" * 10_000, [1.0]),
        ("(" * 10_000 + "1" + ",)" * 10_000, [1]),
        ("tensor(" * 10_000 + ")" * 10_000, []),
        ("{1: " * 10_000 + "2" + "}" * 10_000, [1] * (10_000 - MAX_DEPTH) + [2]),
        ("([" * 10_000 + ")]" * 10_000, []),
        ("'\\" * 10_000, []),
    ],
)
def test_ten_thousand_brackets(text, numbers):
    values = parse(text).values
    assert [number for value in values for number in value.numbers] == numbers


@pytest.mark.one_line
def test_ten_megabytes():
    row = "[" + ", ".join(["-0.1234"] * 64) + "]"
    rows = 10_000_000 // len(row)
    value = only("tensor([" + ",\n        ".join([row] * rows) + "])")
    assert value.shape == (rows, 64)
    assert value.numbers[-1] == -0.1234


shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
floats = st.floats(width=32, allow_subnormal=False)


def within_half_a_unit(value, array):
    assert value.shape == array.shape
    for number, unit, true in zip(value.numbers, value.units, array.ravel().tolist(), strict=True):
        if math.isfinite(true):
            assert abs(number - true) <= unit / 2 + 2e-7 * abs(true)
        else:
            assert str(number) == str(true)


@given(hnp.arrays(np.float32, shapes, elements=floats))
@settings(max_examples=60, deadline=None)
def test_reads_back_what_numpy_prints(array):
    value = only(repr(array))
    within_half_a_unit(value, array)
    assert value.dtype == "float32"


@pytest.mark.one_line
@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=floats))
@settings(max_examples=40, deadline=None)
def test_reads_back_what_jax_prints(array):
    jnp = pytest.importorskip("jax.numpy")
    value = only(repr(jnp.asarray(array)))
    within_half_a_unit(value, array)
    assert (value.form, value.dtype) == ("array", "float32")


@pytest.mark.torch
@given(
    hnp.arrays(st.sampled_from([np.float32, np.float64, np.int64, np.bool_]), shapes),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_reads_back_what_torch_prints(array, requires_grad):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to read back")
    tensor = torch.from_numpy(array.copy())
    if tensor.is_floating_point():
        tensor.requires_grad_(requires_grad)
    value = only(repr(tensor))
    within_half_a_unit(value, array)
    assert value.kind == {"f": "float", "i": "int", "b": "bool"}[array.dtype.kind]
    assert value.dtype in (None, str(array.dtype))
