"""The judge judged: planted errors are caught and located, honest rounding is not."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from funcgrad.compare import judge, parse
from funcgrad.compare.tolerances import Tolerance, allowed_in_one_print, allowed_in_print


def verdict(recorded, actual, **options):
    (one,), (other,) = parse(recorded).values, parse(actual).values
    return judge(one, other, **options)


@pytest.mark.parametrize(
    ("recorded", "actual"),
    [
        ("tensor(28., grad_fn=<MulBackward0>)", "Array(28., dtype=float32, weak_type=True)"),
        ("tensor([   0.,  896.])", "Array([  0., 896.], dtype=float32)"),
        ("tensor(1.4223, requires_grad=True)", "Array(1.42234, dtype=float32)"),
        ("tensor(0.3333)", "Array(0.33333334, dtype=float32)"),
        ("tensor(0.5000)", "0.49995"),
        ("tensor(7.)", "Array(7.0000005, dtype=float32)"),
        ("tensor(True)", "True"),
        ("tensor(3)", "3"),
        ("tensor([-0., 0.])", "Array([0., 0.], dtype=float32)"),
        ("tensor([nan, inf, -inf])", "Array([nan, inf, -inf], dtype=float32)"),
        ("tensor([5.1200e+01, 5.1200e-02])", "Array([51.2004, 0.0512004], dtype=float32)"),
        ("tensor([1.0000+2.j])", "Array([1.00004+2.j], dtype=complex64)"),
        ("tensor([], size=(0, 3))", "Array([], shape=(0, 3), dtype=float32)"),
        ("tensor(1.5000, dtype=torch.bfloat16)", "Array(1.5, dtype=bfloat16)"),
        ("tensor([1., 2.])", "[1. 2.]"),
        ("None", "None"),
        ("'N'", "'N'"),
        ("tensor([0., 1.,  ..., 9.])", "Array([0., 1., 2., 8., 9.], dtype=float32)"),
        ("tensor([0., 1.,  ..., 9.])", "Array([0., ..., 8., 9.], shape=(10,), dtype=float32)"),
        ("tensor([[0.,  ..., 1.],\n        ...,\n        [2.,  ..., 3.]])",
         "Array([[0., 5., 1.],\n       [6., 6., 6.],\n       [2., 5., 3.]], dtype=float32)"),
        ("0.7577999830245972", "0.757800042629242"),
    ],
)  # fmt: skip
def test_agree(recorded, actual):
    assert verdict(recorded, actual).agrees


@pytest.mark.parametrize(
    ("recorded", "actual", "at", "reason"),
    [
        ("tensor([0.5000, 1.2346])", "Array([0.5, 1.2347], dtype=float32)", (1,), "1 of 2 numbers"),
        ("tensor([0., 896., 1792., 2688.])", "Array([0., 896., 1792., 2689.])", (3,), "at \\[3\\]"),
        ("tensor(28.)", "Array(28.01, dtype=float32)", (), "recorded 28.0, ours 28.01"),
        ("tensor([[1., 2.],\n        [3., 4.]])", "[[1. 3.]\n [2. 4.]]", (0, 1), "2 of 4 numbers"),
        ("tensor([1., 2.])", "[-1. 2.]", (0,), "1 of 2"),
        ("tensor([True, False])", "[ True  True]", (1,), "recorded False, ours True"),
        ("tensor([1., nan])", "Array([1., 2.], dtype=float32)", (1,), "recorded nan"),
        ("tensor([inf])", "Array([-inf], dtype=float32)", (0,), "recorded inf"),
        ("tensor([5.1200e+01, 5.1200e-02])", "[51.2 0.051206]", (1,), "1 of 2"),
        ("tensor([1.0000+2.0000j])", "Array([1.+2.1j], dtype=complex64)", (0,), "1 of 1"),
        ("tensor([1, 2])", "Array([1, 3], dtype=int32)", (1,), "recorded 2, ours 3"),
        ("tensor([0., 1.,  ..., 9.])", "Array([0., 1., 2., 8.], dtype=float32)", (-1,), "1 of 3"),
        ("tensor(9007199254740993)", "9007199254740992", (), "9007199254740993"),
    ],
)
def test_planted_error_is_located(recorded, actual, at, reason):
    found = verdict(recorded, actual)
    assert not found.agrees
    assert found.at == at
    assert re.search(reason, found.reason)
    assert found.difference > found.allowed


@pytest.mark.parametrize(
    ("recorded", "actual", "reason"),
    [
        ("tensor([1., 2.])", "Array([[1., 2.]])", r"recorded shape \(2,\), ours is \(1, 2\)"),
        ("tensor([1.])", "Array(1., dtype=float32)", r"recorded shape \(1,\), ours is \(\)"),
        ("tensor([1., 2.,  ..., 3.])", "Array([[1., 2.]])", r"shape \(\?,\)"),
        ("tensor([1, 2])", "Array([1., 2.], dtype=float32)", "recorded int, ours is float32"),
        ("tensor([1., 2.])", "Array([1, 2], dtype=int32)", "recorded float, ours is int32"),
        ("tensor(True)", "Array(1, dtype=int32)", "recorded bool, ours is int32"),
        ("None", "tensor(1.)", "recorded none, ours is float"),
        ("'a'", "'b'", "the strings differ"),
        ("torch.float32", "dtype('int32')", "recorded float32, ours is int32"),
        ("tensor([1., 2.])", "tensor([1.], size=(2,))", "ours shows 1 numbers"),
    ],
)
def test_other_differences_are_named(recorded, actual, reason):
    found = verdict(recorded, actual)
    assert not found.agrees
    assert re.search(reason, found.reason)


@pytest.mark.parametrize(
    ("recorded", "actual", "note"),
    [
        ("tensor([1, 2])", "Array([1, 2], dtype=int32)", "recorded int64, ours is int32"),
        (
            "tensor([1.], dtype=torch.float64)",
            "Array([1.], dtype=float32)",
            "recorded float64, ours is float32",
        ),
        ("torch.float64", "dtype('float32')", "recorded float64, ours is float32"),
        ("torch.bfloat16", "dtype('float32')", "recorded bfloat16, ours is float32"),
    ],
)
def test_width_is_only_noted(recorded, actual, note):
    found = verdict(recorded, actual)
    assert found.agrees
    assert found.notes == (note,)
    strict = verdict(recorded, actual, strict=True)
    assert (strict.agrees, strict.reason, strict.notes) == (False, note, ())


def test_float64_is_judged_as_float64():
    recorded = "tensor(1., dtype=torch.float64)"
    assert not verdict(recorded, "Array(1.00000001, dtype=float64)").agrees
    assert verdict(recorded, "Array(1.0000001, dtype=float32)").agrees


def test_printed_value_that_rounds_to_one_is_not_one():
    assert verdict("tensor(1.0000)", "Array(0.99996, dtype=float32)").agrees
    assert not verdict("tensor(1.)", "Array(0.99996, dtype=float32)").agrees


def test_python_float_in_a_list_is_exact():
    assert not verdict("[3.5, 1.0]", "[3.54, 1.0]").agrees
    assert verdict("3.5", "3.54").agrees


def test_report_of_a_difference():
    found = verdict("tensor([1.0000, 2.0000, 3.0000])", "Array([1.1, 2. , 3.3], dtype=float32)")
    assert (found.compared, found.differing, found.at) == (3, 2, (2,))
    assert found.difference == pytest.approx(0.3)
    assert found.allowed == pytest.approx(5e-5)
    assert (found.recorded, found.actual) == (3.0, 3.3)


@pytest.mark.one_line
@given(st.integers(-999_999, 999_999), st.sampled_from([-1, 1]))
@settings(max_examples=100, deadline=None)
def test_one_unit_in_the_last_place_is_caught_and_half_passes(thousandths, sign):
    """Up to 100 the fourth decimal is coarser than float32, so it decides."""
    recorded = f"tensor({thousandths / 10_000:.4f})"
    one = f"{thousandths / 10_000 + sign * 1e-4:.6f}"
    half = f"{thousandths / 10_000 + sign * 0.5e-4:.6f}"
    assert not verdict(recorded, f"Array({one}, dtype=float32)").agrees
    assert verdict(recorded, f"Array({half}, dtype=float32)").agrees


@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
@settings(max_examples=50, deadline=None)
def test_integers_are_exact(one, other):
    assume(one != other)
    assert not verdict(f"tensor({one}.)", f"Array({other}., dtype=float32)").agrees
    assert not verdict(f"tensor({one})", f"Array({other}, dtype=int32)").agrees


@pytest.mark.parametrize(
    ("recorded", "actual"),
    [
        ("tensor([0.1, 0.2])", "Array([0.7, 0.8], dtype=float32)"),
        ("tensor([3, 1, 2])", "Array([1, 2, 3], dtype=int32)"),
        ("tensor(True)", "Array(False, dtype=bool)"),
        ("tensor([0.1,  ..., 0.2])", "Array([0.7, ..., 0.8], shape=(10,), dtype=float32)"),
        ("0.5", "0.25"),
        ("'a'", "'b'"),
        ("None", "None"),
        ("torch.Size([2, 3])", "torch.Size([2, 3])"),
    ],
)
def test_random_numbers_are_not_compared(recorded, actual):
    found = verdict(recorded, actual, random=True)
    assert found.agrees
    assert (found.compared == 0) == ("Size" not in recorded)


@pytest.mark.parametrize(
    ("recorded", "actual", "reason"),
    [
        ("tensor([0.1, 0.2])", "Array([0.7], dtype=float32)", "recorded shape"),
        ("tensor([3, 1, 2])", "Array([1., 2., 3.], dtype=float32)", "recorded int, ours is float"),
        ("tensor([0.1])", "None", "recorded float, ours is none"),
        ("torch.Size([2, 3])", "torch.Size([2, 4])", "at \\[1\\]: recorded 3, ours 4"),
    ],
)
def test_shape_and_dtype_of_random_numbers_are_compared(recorded, actual, reason):
    found = verdict(recorded, actual, random=True)
    assert not found.agrees
    assert re.search(reason, found.reason)


def test_random_numbers_of_another_width_differ_when_strict():
    given = "tensor([3, 1])", "Array([1, 3], dtype=int32)"
    assert verdict(*given, random=True).notes == ("recorded int64, ours is int32",)
    assert not verdict(*given, random=True, strict=True).agrees


@pytest.mark.parametrize(
    ("recorded", "actual", "hint"),
    [
        ("tensor(112.)", "Array(-112., dtype=float32)", "its sign flipped"),
        ("tensor([1., -2.])", "[-1. 2.]", "its sign flipped"),
        ("tensor([1., -2., 3.])", "[-1. -2. 3.]", "but for the sign of 1 of its numbers"),
        ("tensor([1.+2.j])", "Array([-1.-2.j], dtype=complex64)", "its sign flipped"),
        ("tensor([[1., 2.], [3., 4.]])", "[[1. 3.] [2. 4.]]", "the transpose of"),
        ("tensor([[1, 2, 3]])", "[[1] [2] [3]]", "the transpose of"),
        ("tensor([[[1., 2.]]])", "[[[1.] [2.]]]", "its axes 1 and 2 swapped"),
        (
            "tensor([[[1., 2., 3.], [4., 5., 6.]]])", "[[[1. 4.]] [[2. 5.]] [[3. 6.]]]",
            "permuted; undo it with (1, 2, 0)",
        ),
        ("tensor([1., 2., 3.])", "[[1. 2. 3.]]", "the numbers are the same, in the same order"),
        ("tensor([1., 2., 3.])", "[4. 8. 12.]", "times 4"),
        ("tensor([0.3000, 0.6000, 0.9000])", "[0.1 0.2 0.3]", "times 0.3333"),
        ("tensor(0.1234)", "0.1235", "by 1 unit in the last printed place"),
        ("tensor(1.2340e+03)", "Array(1237., dtype=float32)", "by 30 units in the last"),
        ("tensor(0.1234)", "5.", ""),
        ("tensor([1., 2.])", "[4. 8.]", ""),
        ("tensor(True)", "False", ""),
        ("tensor([1., 2.])", "Array([1, 2], dtype=int32)", ""),
    ],
)  # fmt: skip
def test_what_a_difference_looks_like(recorded, actual, hint):
    found = verdict(recorded, actual)
    assert not found.agrees
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)


def test_marks_are_the_positions_that_differ():
    assert verdict("tensor([1., 2., 3.])", "[1. 5. 6.]").marks == ((1, 1), (2, 2))
    elided = verdict("tensor([0., ..., 8., 9.])", "Array([0., 1., 8., 7.], dtype=float32)")
    assert elided.marks == ((2, 3),)
    many = verdict(f"tensor([{'1., ' * 2000}])", f"[{'2. ' * 2000}]")
    assert (many.differing, len(many.marks)) == (2000, 1000)


def test_a_common_factor_sets_the_unit():
    recorded = "tensor(1.00000e-05 *\n       [ 1.2346, 20.5000])"
    assert verdict(recorded, "Array([1.23462e-05, 2.05e-04], dtype=float32)").agrees
    found = verdict(recorded, "Array([1.23472e-05, 2.05e-04], dtype=float32)")
    assert (found.agrees, found.at, found.unit) == (False, (0,), pytest.approx(1e-9))


@pytest.mark.parametrize(
    ("recorded", "actual", "what"),
    [
        ("tensor([1., 2.])", "Array([1., 2.], dtype=float32)", ""),
        ("tensor([1., 2.])", "Array([1., 3.], dtype=float32)", "value"),
        ("tensor([1., 2.])", "Array([[1., 2.]], dtype=float32)", "shape"),
        ("tensor([1., 2.])", "Array([1, 2], dtype=int32)", "dtype"),
        ("tensor([1, 2], dtype=torch.int32)", "Array([1, 2], dtype=int64)", "dtype"),
        ("torch.float32", "dtype('int32')", "dtype"),
        ("tensor(1.)", "None", "kind"),
        ("'a'", "'b'", "value"),
    ],
)
def test_shape_dtype_and_value_are_told_apart(recorded, actual, what):
    found = verdict(recorded, actual, strict=True)
    assert (found.what, found.agrees) == (what, not what)


numbers = st.one_of(
    st.floats(width=32).map(repr),
    st.floats(-10, 10).map("{:.4f}".format),
    st.sampled_from(["nan", "inf", "-inf", "0.", "-0.", "1e300", "-1.7977e+308"]),
)
integers = st.one_of(st.integers(), st.just(10**400)).map(str)


@pytest.mark.one_line
@given(
    st.one_of(st.tuples(numbers, numbers), st.tuples(integers, integers)),
    st.sampled_from([None, 1e-3]),
)
@settings(max_examples=400, deadline=None)
def test_a_single_number_is_judged_as_a_row_of_it(pair, rtol):
    """A single number takes a shorter way, on which the same must come out."""
    tolerance = Tolerance(rtol=rtol)
    one, other = (f"tensor({text})" for text in pair)
    row, other_row = (f"tensor([{text}, {text}])" for text in pair)
    short, long = (
        verdict(one, other, tolerance=tolerance),
        verdict(row, other_row, tolerance=tolerance),
    )
    assert (short.agrees, short.allowed, short.difference, short.unit, short.notes) == (
        long.agrees, long.allowed, long.difference, long.unit, long.notes,
    )  # fmt: skip


@pytest.mark.parametrize("unit", [0.0, 0.01])
@pytest.mark.parametrize("number", [0.0, -3.25, 1e9, float("inf"), float("nan")])
def test_one_number_is_allowed_what_it_is_in_an_array(number, unit):
    row = allowed_in_print(np.array([[number]]), np.array([[unit]]), 1e-6)
    assert allowed_in_one_print(number, unit, 1e-6) == row[0, 0]
