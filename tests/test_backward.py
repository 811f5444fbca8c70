"""`grad`, `value_and_grad` and `vjp`: what they return, what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, assert_same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

import funcgrad as fg
from funcgrad import Retained, retain_grad

X = jnp.array([1.0, 2.0, 3.0])


def square(x):
    return jnp.sum(x**2)


def tagged(x):
    return jnp.sum(retain_grad(x**2, "y"))


def with_aux(x):
    return tagged(x), {"last": x[-1]}


KEPT = {"y": Retained(X**2, jnp.ones(3))}
VALUE, AUX, GRADS = jnp.float32(14.0), {"last": jnp.float32(3.0)}, 2 * X

# What comes back, and in which order.


@pytest.mark.slow
@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_order_of_results(around):
    assert_same(around(fg.grad(tagged))(X), GRADS)
    assert_same(around(fg.grad(tagged, retain="y"))(X), (GRADS, KEPT))
    assert_same(around(fg.grad(with_aux, has_aux=True))(X), (GRADS, AUX))
    assert_same(around(fg.grad(with_aux, has_aux=True, retain="y"))(X), (GRADS, AUX, KEPT))
    assert_same(around(fg.value_and_grad(tagged))(X), (VALUE, GRADS))
    assert_same(around(fg.value_and_grad(tagged, retain="y"))(X), (VALUE, GRADS, KEPT))
    assert_same(around(fg.value_and_grad(with_aux, has_aux=True))(X), ((VALUE, AUX), GRADS))
    assert_same(
        around(fg.value_and_grad(with_aux, has_aux=True, retain="y"))(X),
        ((VALUE, AUX), GRADS, KEPT),
    )


def test_order_of_results_of_vjp():
    out, pullback = fg.vjp(tagged, X)
    assert_same((out, pullback()), (VALUE, (GRADS,)))
    out, pullback, aux = fg.vjp(with_aux, X, has_aux=True)
    assert_same((out, pullback(), aux), (VALUE, (GRADS,), AUX))
    out, pullback, aux = fg.vjp(with_aux, X, has_aux=True, retain="y")
    assert_same((out, pullback(), aux), (VALUE, ((GRADS,), KEPT), AUX))


def test_without_keywords_the_results_are_those_of_jax():
    assert_same(fg.grad(square)(X), jax.grad(square)(X))
    assert_same(fg.value_and_grad(square)(X), jax.value_and_grad(square)(X))
    out, pullback = fg.vjp(jnp.sin, X)
    assert_same((out, pullback(X)), (jnp.sin(X), jax.vjp(jnp.sin, X)[1](X)))


@pytest.mark.parametrize(
    ("argnums", "want"),
    [(0, 3.0), (1, 2.0), (-1, 2.0), ((0,), (3.0,)), ([1, 0], (2.0, 3.0)), ((0, -1), (3.0, 2.0))],
)
def test_argnums(argnums, want):
    got = fg.grad(lambda a, b: a * b, argnums)(jnp.float32(2), jnp.float32(3))
    assert_same(got, jax.tree.map(jnp.float32, want))


def test_keyword_arguments_are_passed_on():
    assert_same(fg.grad(lambda x, *, by: jnp.sum(x * by))(X, by=4.0), jnp.full(3, 4.0))


def test_pytrees_in_and_out():
    def fun(p):
        return p["a"][0] * p["b"] ** 2

    got = fg.grad(fun)({"a": (jnp.float32(2), None), "b": jnp.float32(3)})
    assert_same(got, {"a": (jnp.float32(9), None), "b": jnp.float32(12)})


@pytest.mark.slow
def test_integers_bools_and_keys_get_none():
    p = {"x": X, "n": 2, "m": jnp.array([True, False, True]), "k": jax.random.key(0)}

    def fun(p):
        return jnp.sum(jnp.where(p["m"], p["x"], 0.0)) * p["n"]

    want = {"x": jnp.array([2.0, 0.0, 2.0]), "n": None, "m": None, "k": None}
    assert_same(fg.grad(fun)(p), want)
    assert_same(jax.jit(fg.grad(fun))(p), want)


@pytest.mark.parametrize("whole", [3, True, {"n": jnp.arange(3), "k": jax.random.key(0)}])
def test_nothing_but_integers_bools_and_keys_is_refused_unless_asked_for(whole):
    def fun(whole):
        return retain_grad(jnp.float32(2), "y") ** 2

    with pytest.raises(fg.GradientError, match="only Tensors of floating point and complex dtype"):
        fg.grad(fun)(whole)
    with pytest.raises(fg.GradientError, match=r"`vjp` got .* make it floating"):
        fg.vjp(fun, whole)
    nothing = jax.tree.map(lambda _: None, whole)
    assert fg.grad(fun, requires_grad=False)(whole) == nothing
    grads, retained = fg.grad(fun, retain="y")(whole)
    assert grads == nothing
    assert_same(retained["y"].grad, jnp.float32(4))


def test_an_empty_pytree_has_an_empty_gradient():
    assert fg.grad(lambda p: jnp.float32(1))({}) == {}


def test_an_array_in_the_place_of_argnums_is_refused():
    with pytest.raises(fg.UsageError, match=r"second pair of parentheses: funcgrad.grad\(fun\)"):
        fg.grad(square, jnp.arange(2))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_output_of_one_element_may_have_any_number_of_axes(shape):
    assert_same(fg.grad(lambda x: jnp.reshape(square(x), shape))(X), GRADS)


def test_gradient_stands_for_the_output():
    assert_same(fg.grad(lambda x: x**2, gradient=X)(X), 2 * X * X)
    out = lambda x: {"a": x * 2, "n": jnp.array([1, 2]), "b": jnp.sum(x)}
    got = fg.grad(out, gradient={"a": X, "n": None, "b": 10.0})(X)
    assert_same(got, 2 * X + 10)


@pytest.mark.slow
def test_gradient_may_be_traced():
    assert_same(jax.jit(lambda v: fg.grad(lambda x: x**2, gradient=v)(X))(X), 2 * X * X)
    second = jax.jacrev(lambda v: fg.grad(lambda x: x**2, gradient=v)(X))(X)
    assert_same(second, jnp.diag(2 * X))


def test_gradient_as_a_python_number_takes_the_dtype_of_the_output():
    got = fg.grad(lambda x: x * 3, gradient=2)(jnp.bfloat16(1))
    assert_same(got, jnp.bfloat16(6))


def test_pullback_may_be_called_again():
    _, pullback = fg.vjp(lambda x: retain_grad(x**2, "y") * 3, X, retain="y")
    assert_same(pullback(jnp.ones(3)), ((6 * X,), {"y": Retained(X**2, jnp.full(3, 3.0))}))
    assert_same(pullback(X)[1]["y"].grad, 3 * X)
    assert_same(jax.vmap(pullback)(jnp.eye(3))[0][0], jnp.diag(6 * X))


def test_pullback_passes_through_jit_as_result_and_as_argument():
    _, pullback = jax.jit(lambda x: fg.vjp(lambda x: retain_grad(x**2, "y"), x, retain="y"))(X)
    got = jax.jit(lambda pullback, v: pullback(v))(pullback, X)
    assert_same(got, ((2 * X * X,), {"y": Retained(X**2, X)}))


def test_vjp_of_several_primals_and_of_a_pytree():
    _, pullback = fg.vjp(lambda a, b, n: {"c": a * b["w"] * n}, X, {"w": 2 * X}, 3)
    assert_same(pullback({"c": jnp.ones(3)}), (6 * X, {"w": 3 * X}, None))


def test_vjp_of_a_plain_function_may_look_at_its_values():
    def fun(x):
        return 100 * x if x > 0 else x

    out, pullback = fg.vjp(fun, -2.0)
    assert (float(out), float(pullback()[0])) == (-2.0, 1.0)
    assert fg.grad(fun)(3.0) == 100.0


def test_name_docstring_and_signature_of_the_result():
    def loss(x, *, scale=1.0):
        """What it is."""
        return jnp.sum(x) * scale

    assert fg.grad(loss).__name__ == "grad_loss"
    assert fg.value_and_grad(loss).__doc__ == "What it is."
    assert_same(jax.jit(fg.grad(loss), static_argnames="scale")(X, scale=2.0), jnp.full(3, 2.0))


@pytest.mark.slow
def test_partial_functions_and_callable_objects():
    assert_same(fg.grad(functools.partial(jnp.dot, X))(X), X)
    assert_same(fg.grad(jax.jit(square), retain=...)(X), (GRADS, {}))


def test_aux_of_any_type_without_retain():
    assert fg.value_and_grad(lambda x: (square(x), "aux"), has_aux=True)(X)[0][1] == "aux"


def test_aux_of_any_type_with_retain():
    got = fg.value_and_grad(lambda x: (tagged(x), "aux"), has_aux=True, retain="y")(X)
    assert got[0][1] == "aux"


def test_constant_results_are_arrays_with_retain():
    _, aux, _ = fg.grad(lambda x: (tagged(x), jnp.float32(2)), has_aux=True, retain="y")(X)
    assert isinstance(aux, jax.Array)


def test_numpy_inputs():
    assert_same(fg.grad(tagged, retain="y")(np.float32([1, 2, 3])), (GRADS, KEPT))


# requires_grad.

PARAMS = {"lora": {"a": X, "b": X}, "frozen": X, "steps": jnp.array(3)}


def model(p):
    return jnp.sum(p["lora"]["a"] * p["lora"]["b"] * p["frozen"])


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    "mask",
    [
        {"lora": True, "frozen": False, "steps": True},
        {"lora": {"a": True, "b": True}, "frozen": False, "steps": False},
        lambda path, leaf: path[0].key == "lora",
    ],
    ids=["prefix", "full", "predicate"],
)
def test_mask_switches_leaves_off(around, mask):
    want = {"lora": {"a": X * X, "b": X * X}, "frozen": None, "steps": None}
    assert_same(around(fg.grad(model, requires_grad=mask))(PARAMS), want)


def test_one_bool_for_all():
    none = {"lora": {"a": None, "b": None}, "frozen": None, "steps": None}
    assert fg.grad(model, requires_grad=False)(PARAMS) == none
    assert_same(fg.grad(model, requires_grad=True)(PARAMS), fg.grad(model)(PARAMS))


def test_mask_for_several_arguments_is_a_tuple_and_the_path_says_which():
    fun = lambda a, b: jnp.sum(a * b)
    assert_same(fg.grad(fun, (0, 1), requires_grad=(False, True))(X, 2 * X), (None, X))
    second = lambda path, leaf: path[0].idx == 1
    assert_same(fg.grad(fun, (0, 1), requires_grad=second)(X, 2 * X), (None, X))


def test_predicate_sees_the_leaf():
    got = fg.grad(model, requires_grad=lambda path, leaf: leaf.ndim == 1)(PARAMS)
    assert_same(got, fg.grad(model)(PARAMS))


def test_retained_gradients_stand_though_every_input_is_switched_off():
    assert_same(fg.grad(tagged, requires_grad=False, retain="y")(X), (None, KEPT))


@pytest.mark.slow
def test_nothing_is_computed_for_a_leaf_that_is_switched_off():
    a, b = jnp.ones((64, 64)), jnp.ones((64, 64))
    fun = lambda a, b: jnp.sum(jnp.sin(a @ b))

    def flops(**options):
        compiled = jax.jit(fg.grad(fun, (0, 1), **options)).lower(a, b).compile()
        return compiled.cost_analysis()["flops"]

    one = 2 * 64**3
    assert flops() - flops(requires_grad=(True, False)) >= one
    wanted = jax.jit(jax.grad(fun)).lower(a, b).compile().cost_analysis()["flops"]
    assert flops(requires_grad=(True, False)) == wanted


# Unused inputs.


def through_scan(a, b):
    step = lambda c, _: ((c[0] * a, c[1] + 1.0), c[1])
    return jnp.sum(lax.scan(step, (a, b), None, length=2)[0][0])


def through_cond(a, b):
    return jnp.sum(lax.cond(a[0] > 0, lambda a, b: a * 2, lambda a, b: a, a, b))


SLOW = pytest.mark.slow
UNUSED = [
    pytest.param(lambda a, b: jnp.sum(a), id="plain"),
    pytest.param(lambda a, b: jnp.sum(a * fg.detach(b)), id="detach"),
    pytest.param(lambda a, b: jnp.sum(a + fg.no_grad(lambda: b * 2)()), id="no_grad"),
    pytest.param(lambda a, b: jnp.sum(jax.jit(lambda a, b: (a, b))(a, b)[0]), id="jit"),
    pytest.param(
        lambda a, b: jnp.sum(a * b.astype(jnp.int32).astype(jnp.float32)), id="integer", marks=SLOW
    ),
    pytest.param(lambda a, b: jnp.sum(jnp.where(b > 0, a, -a)), id="comparison", marks=SLOW),
    pytest.param(lambda a, b: jnp.sum(jnp.where(a > 0, fg.set_data(a, b), a)), id="set_data"),
    pytest.param(through_scan, id="scan", marks=SLOW),
    pytest.param(through_cond, id="cond", marks=SLOW),
    pytest.param(lambda a, b: jnp.sum(jax.checkpoint(lambda a, b: a)(a, b)), id="checkpoint"),
    pytest.param(lambda a, b: jnp.sum(jax.vmap(lambda a, b: a * 2)(a, b)), id="vmap", marks=SLOW),
]


@pytest.mark.parametrize("fun", UNUSED)
def test_unused_input_gets_zeros_none_or_an_error(fun):
    assert_same(fg.grad(fun, 1)(X, X), jnp.zeros(3))
    assert fg.grad(fun, 1, materialize_grads=False)(X, X) is None
    assert jax.jit(fg.grad(fun, 1, materialize_grads=False))(X, X) is None
    assert_same(fg.grad(fun, (0, 1), materialize_grads=False)(X, X), (jax.grad(fun)(X, X), None))
    with pytest.raises(fg.GradientError, match="appears to not have been used in the graph"):
        fg.grad(fun, 1, allow_unused=False)(X, X)


USED = [
    pytest.param(lambda a, b: jnp.sum(a * b), id="plain"),
    pytest.param(lambda a, b: jnp.sum(a + b * 0), id="times zero"),
    pytest.param(lambda a, b: jax.jit(lambda a, b: jnp.sum(a * b))(a, b), id="jit"),
    pytest.param(
        lambda a, b: lax.scan(lambda c, _: (c * b[0], None), a[0], None, length=2)[0], id="scan"
    ),
    pytest.param(
        lambda a, b: lax.cond(a[0] > 9, lambda: jnp.sum(b), lambda: jnp.sum(a)), id="cond untaken"
    ),
    pytest.param(lambda a, b: jnp.sum(fg.register_hook(b, lambda g: g * 0)), id="hook"),
    pytest.param(lambda a, b: jnp.sum(retain_grad(b, "y")), id="tag"),
    pytest.param(lambda a, b: jnp.sum(jax.nn.relu(b)), id="custom_jvp"),
]


@pytest.mark.parametrize("fun", USED)
def test_used_input_keeps_its_gradient(fun):
    want = jax.grad(fun, 1)(X, X)
    assert_same(fg.grad(fun, 1, allow_unused=False)(X, X), want)
    assert_same(fg.grad(fun, 1, materialize_grads=False)(X, X), want)


def test_unused_leaf_is_named_by_its_path():
    fun = lambda p: jnp.sum(p["a"]["w"])
    with pytest.raises(fg.GradientError, match=r"does not depend on \['a'\]\['b'\], \['c'\]\[0\],"):
        fg.grad(fun, allow_unused=False)({"a": {"b": X, "w": X}, "c": (X, 3)})


def test_unused_leaf_that_is_switched_off_is_no_error():
    fun = lambda p: jnp.sum(p["a"])
    mask = {"a": True, "b": False}
    got = fg.grad(fun, allow_unused=False, requires_grad=mask)({"a": X, "b": X})
    assert_same(got, {"a": jnp.ones(3), "b": None})


def test_unused_path_after_a_leaf_that_is_switched_off_is_the_right_one():
    fun = lambda p: jnp.sum(p["c"])
    mask = {"a": False, "b": True, "c": True}
    with pytest.raises(fg.GradientError, match=r"does not depend on \['b'\],"):
        fg.grad(fun, allow_unused=False, requires_grad=mask)({"a": X, "b": X, "c": X})


def test_aux_does_not_count_as_use():
    fun = lambda a, b: (jnp.sum(a), jnp.sum(b))
    assert fg.grad(fun, 1, has_aux=True, materialize_grads=False)(X, X)[0] is None


# Higher order, and inside other transforms.


@pytest.mark.slow
def test_second_order_equals_jax():
    want = jax.hessian(lambda x: jnp.sum(x**3 * x[0]))(X)
    fun = fg.grad(lambda x: jnp.sum(x**3 * x[0]))
    assert_close(jax.jacfwd(fun)(X), want)
    assert_close(jax.jacrev(fun)(X), want)
    assert_close(jax.vmap(lambda v: fg.vjp(fun, X)[1](v)[0])(jnp.eye(3)), want)


def test_three_levels():
    third = fg.grad(fg.grad(fg.grad(lambda x: x**4)))
    assert_close(third(2.0), jnp.float32(48.0))


@pytest.mark.slow
def test_vmap_of_grad_is_one_example_at_a_time():
    rows = jnp.stack([X, 2 * X])
    value, grads, kept = jax.vmap(fg.value_and_grad(tagged, retain="y"))(rows)
    assert_same((value, grads), (jnp.array([14.0, 56.0]), 2 * rows))
    assert_same(kept["y"], Retained(rows**2, jnp.ones((2, 3))))


def test_grad_inside_scan():
    def step(x, _):
        grads, kept = fg.grad(tagged, retain="y")(x)
        return x - 0.5 * grads, kept["y"].value

    last, values = lax.scan(step, X, None, length=2)
    assert_same((last, values), (jnp.zeros(3), jnp.stack([X**2, jnp.zeros(3)])))


# Complex numbers: the conjugate of jax.grad.


@pytest.mark.slow
def test_complex_gradient_descends():
    target = jnp.complex64(1 + 2j)
    fun = lambda z: jnp.abs(z - target) ** 2
    z = jnp.complex64(0)
    assert_close(fg.grad(fun)(z), jnp.complex64(-2 - 4j))
    assert_close(fg.grad(fun)(z), jnp.conj(jax.grad(fun)(z)))
    assert fun(z - 0.25 * fg.grad(fun)(z)) < fun(z)


def test_gradient_and_retained_gradients_are_in_one_convention():
    fun = lambda z: retain_grad(z * (2 + 1j), "y") * (1 + 1j)
    grads, kept = fg.grad(fun, gradient=jnp.complex64(1j), retain="y")(jnp.complex64(1))
    # v conj(a), as PyTorch: 1j (1-1j) = 1+1j at y, times (2-1j) at z.
    assert_close(kept["y"].grad, jnp.complex64(1 + 1j))
    assert_close(grads, jnp.complex64(3 + 1j))


# Refusals.

SENTENCE = "grad can be implicitly created only for scalar outputs"


@pytest.mark.parametrize("transform", [fg.grad, fg.value_and_grad])
@pytest.mark.parametrize(
    ("fun", "shown"),
    [
        (lambda x: x, r"float32\[3\]"),
        (lambda x: (x[0], x[1]), r"float32\[\], float32\[\]"),
        (lambda x: {}, "nothing"),
        (lambda x: x[:0], r"float32\[0\]"),
    ],
)
def test_output_that_is_not_one_number_is_refused_in_the_words_of_pytorch(transform, fun, shown):
    with pytest.raises(fg.GradientError, match=SENTENCE) as error:
        transform(fun)(X)
    assert error.match(rf"`{transform.__name__}` got a function that returns {shown}; reduce it")


def test_pullback_without_gradient_of_an_output_that_is_not_one_number_is_refused():
    with pytest.raises(fg.GradientError, match=rf"{SENTENCE}: `vjp` got"):
        fg.vjp(lambda x: x, X)[1]()


@pytest.mark.parametrize("fun", [lambda x: jnp.int32(3), lambda x: x[0] > 0])
def test_output_that_takes_no_gradient_is_refused(fun):
    with pytest.raises(fg.GradientError, match="element 0 of tensors does not require grad"):
        fg.grad(fun)(X)


def test_complex_output_without_gradient_is_refused():
    with pytest.raises(fg.GradientError, match="only for real scalar outputs but got complex64"):
        fg.grad(lambda x: lax.complex(x[0], x[1]))(X)


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (jnp.ones(2), r"got float32\[2\], wanted float32\[3\]"),
        (jnp.ones((3, 1)), r"got float32\[3,1\], wanted float32\[3\]"),
        (1.0, r"got float32\[\], wanted float32\[3\]"),
        (jnp.ones(3, jnp.bfloat16), r"got bfloat16\[3\], wanted float32\[3\]"),
        (jnp.ones(3, jnp.int32), r"got int32\[3\], wanted float32\[3\]"),
        (jnp.ones(3, jnp.complex64), r"got complex64\[3\], wanted float32\[3\]"),
        ({"a": X}, r"\['a'\]: got float32\[3\], wanted nothing"),
        ([X, X], r"\[1\]: got float32\[3\], wanted nothing"),
    ],
)
@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_gradient_that_does_not_fit_is_refused_and_both_are_shown(gradient, message, around):
    with pytest.raises(fg.TreeError, match="`grad` got a `gradient` that does not fit") as error:
        around(fg.grad(lambda x: x * 2, gradient=gradient))(X)
    assert error.match(message)
    with pytest.raises(fg.TreeError, match="`vjp` got a `gradient`"):
        fg.vjp(lambda x: x * 2, X)[1](gradient)


def test_gradient_for_an_integer_leaf_is_refused():
    out = lambda x: (x, jnp.array(1))
    with pytest.raises(fg.TreeError, match=r"\[1\]: got float32\[\], wanted nothing"):
        fg.grad(out, gradient=(X, jnp.float32(1)))(X)


@pytest.mark.parametrize("text", ["text", "f", "float32"])
def test_output_that_is_text_is_refused(text):
    with pytest.raises(fg.UsageError, match="returns str, and wants arrays"):
        fg.grad(lambda x: text)(X)


def test_argnums_may_be_anything_that_counts():
    fun = lambda a, b: a * b**2
    for argnums in (np.int64(1), np.array(1), -1):
        assert_same(fg.grad(fun, argnums)(2.0, 3.0), jnp.array(12.0))
    assert_same(fg.grad(fun, range(2))(2.0, 3.0), (jnp.array(9.0), jnp.array(12.0)))


def test_mask_as_a_list_fits_several_arguments():
    got = fg.grad(lambda a, b: a * b, [0, 1], requires_grad=[True, np.bool_(False)])(2.0, 3.0)
    assert_same(got, (jnp.array(3.0), None))


@pytest.mark.parametrize("flat", [jnp.sign, jnp.floor, jnp.round])
def test_leaf_used_through_a_derivative_that_is_zero_everywhere_counts_as_unused(flat):
    fun = lambda x: jnp.sum(flat(x))
    assert fg.grad(fun, materialize_grads=False)(X) is None
    with pytest.raises(fg.GradientError, match=r"zero everywhere \(sign, floor, round\)"):
        fg.grad(fun, allow_unused=False)(X)


def test_gradient_that_is_text_is_refused():
    with pytest.raises(fg.FuncgradError, match="`grad` got a `gradient`"):
        fg.grad(lambda x: x, gradient="text")(X)


@pytest.mark.parametrize("argnums", [2, -3, (0, 2), (0, 0), (0, -2)])
def test_argnums_out_of_range_or_doubled_are_refused(argnums):
    with pytest.raises(fg.UsageError, match=r"`grad` got argnums .* 2 positional arguments"):
        fg.grad(lambda a, b: a * b, argnums)(1.0, 2.0)


def test_argument_given_by_keyword_is_not_found():
    with pytest.raises(fg.UsageError, match=r"call with 0 positional arguments.*by keyword"):
        fg.grad(square)(x=X)


@pytest.mark.parametrize("argnums", ["0", (), (0, "1"), True, 1.5, None])
def test_argnums_of_a_wrong_type_are_refused(argnums):
    with pytest.raises(fg.UsageError, match=r"`value_and_grad` got argnums=.*an integer or"):
        fg.value_and_grad(square, argnums)


@pytest.mark.parametrize("transform", [fg.grad, fg.value_and_grad, fg.vjp])
def test_array_in_place_of_a_function_is_refused(transform):
    with pytest.raises(fg.UsageError, match=r"got float32\[3\], and wants a function"):
        transform(X)


@pytest.mark.parametrize("leaf", [jax.ShapeDtypeStruct((2,), "float32"), jax.new_ref(jnp.ones(2))])
def test_leaf_that_stands_for_an_array_is_refused_with_its_path(leaf):
    with pytest.raises(fg.UsageError, match=r"`grad` got .* at \['b'\] of what it differentiates"):
        fg.grad(lambda p: p["a"])({"a": 1.0, "b": leaf})


@pytest.mark.parametrize("leaf", ["text", jnp.sin, object()])
def test_arguments_that_hold_no_array_are_refused(leaf):
    with pytest.raises(fg.GradientError, match=r"require gradients: `grad` got \w+ to diff"):
        fg.grad(lambda p: 1.0)({"b": leaf})


def test_output_that_is_no_array_is_refused():
    with pytest.raises(fg.UsageError, match="`grad` got a function that returns str"):
        fg.grad(lambda x: (jnp.sum(x), "text"))(X)


@pytest.mark.parametrize("out", [lambda x: x[0], lambda x: (x[0],), lambda x: [x[0], x[1]]])
@pytest.mark.parametrize("retain", [None, ...])
def test_has_aux_without_a_pair_is_refused(out, retain):
    with pytest.raises(fg.UsageError, match=r"has_aux=True.*wants one that returns a pair"):
        fg.grad(out, has_aux=True, retain=retain)(X)


@pytest.mark.parametrize(
    "mask", [{"lora": True}, {"lora": True, "frozen": True, "typo": True}, (True, True)]
)
def test_mask_that_is_no_prefix_is_refused(mask):
    with pytest.raises(fg.TreeError, match="`requires_grad` that is not a prefix"):
        fg.grad(model, requires_grad=mask)(PARAMS)


@pytest.mark.parametrize("mask", [1, 0.0, "yes", lambda path, leaf: None, lambda path, leaf: 1])
def test_mask_of_anything_but_bools_is_refused(mask):
    with pytest.raises(fg.UsageError, match=r"from `requires_grad` for .*wants True or False"):
        fg.grad(model, requires_grad=mask)(PARAMS)


def test_python_control_flow_with_retain_is_explained():
    def fun(x):
        return retain_grad(x, "y") if x > 0 else x

    with pytest.raises(jax.errors.TracerBoolConversionError) as error:
        fg.grad(fun, retain="y")(1.0)
    assert any(
        "traced (under `jax.jit`, in loops, and where `retain`" in note
        for note in error.value.__notes__
    )


# Random programs: what is retained equals the gradient of explicitly added zeros.

OPERATIONS = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "sin": lambda a, b: jnp.sin(a),
    "jit": lambda a, b: jax.jit(lambda a, b: a - 0.5 * b)(a, b),
    "cond": lambda a, b: lax.cond(a[0] > 0, lambda: a * 0.5, lambda: b * 2),
    "scan": lambda a, b: lax.scan(lambda c, _: (c * 0.5 + b, None), a, None, length=2)[0],
    "reverse": lambda a, b: a[::-1],
    "tanh": lambda a, b: jax.checkpoint(jnp.tanh)(b),
}
STEP = st.tuples(
    st.sampled_from(sorted(OPERATIONS)), st.integers(0, 9), st.integers(0, 9), st.booleans()
)


def interpreted(program, x, name):
    """The program's values in order; `name` is applied to what is to be tagged."""
    values = [x, jnp.cos(x)]
    for index, (operation, left, right, tag) in enumerate(program):
        value = OPERATIONS[operation](values[left % len(values)], values[right % len(values)])
        values.append(name(value, f"v{index}") if tag else value)
    return jnp.sum(values[-1] * values[-2])


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, min_size=1, max_size=6))
def test_retained_gradients_of_random_programs_are_those_of_added_zeros(program):
    names = [f"v{index}" for index, step in enumerate(program) if step[-1]]

    def by_hand(x, zeros):
        kept = {}

        def name(value, name):
            kept[name] = value
            return value + zeros[name]

        return interpreted(program, x, name), kept

    zeros = {name: jnp.zeros(3) for name in names}
    differentiate = jax.value_and_grad(by_hand, (0, 1), has_aux=True)
    ours = fg.value_and_grad(lambda x: interpreted(program, x, retain_grad), retain=...)

    def wanted(x):
        (value, kept), (grads, taps) = differentiate(x, zeros)
        return value, grads, {name: Retained(kept[name], taps[name]) for name in names}

    # Without jit nothing is fused, and the two agree to the last bit, but for the sign of a zero.
    jax.tree.map(np.testing.assert_array_equal, ours(X), wanted(X))
    assert_close(jax.jit(ours)(X), jax.jit(wanted)(X))


# Custom rules, where the function is traced first.


def cut(rule):
    """An identity whose backward rule is `rule`."""
    fun = jax.custom_vjp(lambda x: x * 1)
    fun.defvjp(lambda x: (x, None), lambda _, g: (rule(g),))
    return fun


@pytest.mark.slow
@pytest.mark.parametrize("rule", [lambda g: None, jnp.zeros_like])
@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.vmap, jax.checkpoint])
def test_what_a_backward_rule_lets_nothing_through_to_is_unused(rule, around):
    def fun(p):
        return jnp.sum(around(cut(rule))(2 * p["cut"]) + p["kept"])

    p = {"cut": X, "kept": X}
    assert fg.grad(fun, materialize_grads=False)(p)["cut"] is None
    assert_same(fg.grad(fun)(p)["cut"], jnp.zeros_like(X))
    with pytest.raises(fg.GradientError, match=r"does not depend on \['cut'\]"):
        fg.grad(fun, allow_unused=False)(p)


def test_a_rule_that_passes_a_part_on_is_used():
    fun = lambda x: jnp.sum(cut(lambda g: g / 2)(x))
    assert_same(fg.grad(fun, allow_unused=False)(X), jnp.full_like(X, 0.5))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def pick(x, i):
    return x[i]


@pick.defjvp
def _(i, primals, tangents):
    return pick(primals[0], i), tangents[0][i]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"retain": "y"}, {"allow_unused": False}])
def test_a_rule_that_holds_what_was_traced_before_is_refused_by_its_line(options, current_forms):
    fun = lambda x: fg.retain_grad(pick(x, jnp.argmax(x)), "y") ** 2
    assert_same(fg.grad(fun)(X), jax.grad(fun)(X))
    with pytest.raises(fg.GradientError, match=r"custom rule, at .*test_backward\.py:\d+, that"):
        fg.grad(fun, **options)(X)


def test_hooks_act_in_a_second_backward_pass_where_those_of_a_module_do_not():
    cube = lambda x: fg.register_hook(x, lambda g: 2 * g) ** 3
    hooked = jax.custom_vjp(lambda x: x)
    hooked.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))
    once = lambda x: hooked(x) ** 3
    assert (fg.grad(cube)(1.5), fg.grad(fg.grad(cube))(1.5)) == (13.5, 36)
    assert (fg.grad(once)(1.5), fg.grad(fg.grad(once))(1.5)) == (13.5, 18)
