"""`gradcheck` and `gradgradcheck`: what they find, what they say of it, and PyTorch's verdicts."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiers import slow_but

import funcgrad as fg

X = jnp.array([0.3, -0.7, 1.2])
W = jnp.array([[0.5, -1.0], [0.25, 2.0], [-0.75, 1.5]])
Z = jnp.array([0.3 + 0.5j, -0.7 + 0.5j, 1.2 + 0.5j])


def wrong_by(factor, fun, at=None):
    """`fun` with a derivative off by a factor, at one entry if `at` says which."""
    wrong = jax.custom_jvp(fun)

    @wrong.defjvp
    def _(primals, tangents):
        out, dots = jax.jvp(fun, primals, tangents)
        scale = (
            jnp.full(out.shape, factor) if at is None else jnp.ones(out.shape).at[at].set(factor)
        )
        return out, dots * scale.astype(dots.dtype)

    return wrong


def found(fun, *args, **options):
    """The error that `gradcheck` raises."""
    with pytest.raises(fg.GradcheckError) as caught:
        fg.gradcheck(fun, args, **options)
    return caught.value


def custom_vjp(backward):
    square = jax.custom_vjp(lambda x: x**2)
    square.defvjp(lambda x: (x**2, x), lambda x, g: (backward(x, g),))
    return square


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "fast"),
    slow_but(
        lambda dtype, fast: dtype == "float32",
        [("float32", True), ("bfloat16", False), ("float16", True), ("complex64", False)],
    ),
)
def test_right_passes_and_a_thousandth_more_does_not(dtype, fast):
    x = X.astype(dtype)
    assert fg.gradcheck(jnp.sin, (x,), fast=fast, batched=False) is True
    error = found(wrong_by(1.001, jnp.sin), x, fast=fast, batched=False)
    assert "in float64" in str(error)
    assert "1.001 times" in str(error)


def test_the_error_names_input_output_entry_and_numbers():
    fun = lambda p, n: {"y": wrong_by(2.0, jnp.sin, at=1)(p["w"]) * n, "z": p["b"]}
    with jax.enable_x64(True):
        error = found(fun, {"w": np.array([0.3, -0.7, 1.2]), "b": np.ones(2)}, 3)
    first = error.mismatches[0]
    assert (first.input, first.input_index) == ("argument 0['w']", (1,))
    assert (first.output, first.output_index) == ("result['y']", (1,))
    np.testing.assert_allclose((first.got, first.wanted), (6 * np.cos(0.7), 3 * np.cos(0.7)))
    assert (first.wrong, first.entries, first.precision) == (1, 9, "float64")
    assert first.check == "forward mode against finite differences"
    assert first.tolerance < 1e-6
    assert {m.check for m in error.mismatches} == {
        "forward mode against finite differences",
        "reverse mode against finite differences",
    }
    assert "argument 0['w'] at [1]" in str(error)
    assert "forward mode, outputs 0 to 2 by inputs 0 to 2:" in str(error)


@pytest.mark.slow
def test_the_block_around_the_entry_is_shown_of_large_ones():
    error = found(wrong_by(2.0, jnp.sin, at=17), jnp.linspace(0.1, 1, 20), batched=False)
    assert "outputs 15 to 19 by inputs 15 to 19:" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("fun", [jnp.tanh, lambda x: x @ x, lambda x: jnp.outer(x, x)])
def test_second_order(fun):
    assert fg.gradgradcheck(fun, (X,), batched=False)


@pytest.mark.slow
def test_second_order_finds_what_first_order_cannot():
    cube = jax.custom_jvp(lambda x: x**3)
    cube.defjvp(lambda p, t: (p[0] ** 3, 3 * lax.stop_gradient(p[0]) ** 2 * t[0]))
    assert fg.gradcheck(cube, (X,), batched=False)
    with pytest.raises(fg.GradcheckError, match="disagree") as caught:
        fg.gradgradcheck(cube, (X,), batched=False)
    assert caught.value.mismatches[0].input == "argument 0"
    given = jnp.ones(3)
    with pytest.raises(fg.GradcheckError, match="disagree"):
        fg.gradgradcheck(cube, X, given, batched=False)


@pytest.mark.slow
def test_second_order_of_some_arguments_integers_and_complex():
    fun = lambda n, x, z: {"a": x**n, "b": z * jnp.conj(z) * z, "d": jnp.abs(z) * x[0], "c": n}
    z = jnp.array([0.5 + 1j])
    assert fg.gradgradcheck(fun, (2, X, z), argnums=(2, 1), batched=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fun",
    [lambda z: z * z, jnp.conj, jnp.abs, lambda z: jnp.real(z) ** 2, lambda z: z * jnp.conj(z)],
)
def test_complex_holomorphic_or_not(fun):
    assert fg.gradcheck(fun, (jnp.array([0.3 + 0.5j, -1 + 0.25j]),), batched=False)


@pytest.mark.slow
def test_parts_of_complex_arrays_are_named():
    conj = jax.custom_jvp(jnp.conj)
    conj.defjvp(lambda p, t: (jnp.conj(p[0]), t[0]))
    first = found(conj, jnp.array([0.3 + 0.5j]), batched=False).mismatches[0]
    assert first.input == "the imaginary part of argument 0"
    assert first.output == "the imaginary part of result"
    assert (round(first.got), round(first.wanted)) == (1, -1)


@pytest.mark.slow
def test_integers_are_left_alone_and_argnums_choose():
    bad = lambda x, n, y: x * n + wrong_by(2.0, jnp.sin)(y)
    assert fg.gradcheck(bad, (X, 2, X), argnums=0, batched=False)
    assert fg.gradcheck(lambda x: (x, jnp.argmax(x)), X, batched=False)
    first = found(bad, X, 2, X, argnums=-1, batched=False).mismatches[0]
    assert first.input == "argument 2"


@pytest.mark.slow
def test_custom_rules_are_checked_in_the_mode_they_have():
    assert fg.gradcheck(custom_vjp(lambda x, g: 2 * x * g), (X,))
    error = found(custom_vjp(lambda x, g: 2.002 * x * g), X)
    assert {m.check.partition(" against")[0] for m in error.mismatches} == {"reverse mode"}
    with pytest.raises(fg.GradcheckError, match="modes asked for: TypeError: can't apply forward"):
        fg.gradcheck(custom_vjp(lambda x, g: 2 * x * g), (X,), modes=("fwd",))


@pytest.mark.slow
def test_a_dynamic_loop_is_checked_forward_and_funcgrads_both_ways():
    double = lambda loop: loop(lambda x: jnp.sum(x * x) < 100, lambda x: jnp.sinh(2 * x))
    assert fg.gradcheck(lambda x: double(lambda c, b: lax.while_loop(c, b, x)), (X,), batched=False)
    ours = lambda x: double(lambda c, b: fg.while_loop(c, b, x, max_steps=9))
    assert fg.gradcheck(ours, (X,), batched=False)
    with pytest.raises(fg.GradcheckError, match="Reverse-mode differentiation does not work"):
        fg.gradcheck(lambda x: double(lambda c, b: lax.while_loop(c, b, x)), (X,), modes=("rev",))


def test_a_rule_that_fails_is_an_error_and_not_left_out():
    square = jax.custom_jvp(lambda x: x**2)
    square.defjvp(lambda p, t: (p[0] ** 2, jnp.sin(t[0])))
    with pytest.raises(fg.GradcheckError, match="could not take the derivative in reverse mode"):
        fg.gradcheck(square, (X,))


@pytest.mark.slow
def test_what_cannot_be_batched_is_an_error_that_says_so():
    host = lambda x: jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    sine = jax.custom_jvp(lambda x: jnp.sin(x))
    sine.defjvp(lambda p, t: (jnp.sin(p[0]), t[0] * jnp.cos(p[0]) + 0 * host(t[0])))
    assert fg.gradcheck(sine, (X,), modes="fwd", batched=False)
    with pytest.raises(fg.GradcheckError, match=r"under `vmap`; `batched=False` leaves it out"):
        fg.gradcheck(sine, (X,), modes="fwd")


@pytest.mark.slow
def test_a_batching_rule_that_is_wrong():
    scale = jax.custom_batching.custom_vmap(lambda g: g * 2)
    scale.def_vmap(lambda size, batched, g: (g * 2.1, batched[0]))
    fun = jax.custom_vjp(lambda x: x * 2)
    fun.defvjp(lambda x: (x * 2, None), lambda _, g: (scale(g),))
    assert fg.gradcheck(fun, (X,), batched=False)
    assert found(fun, X).mismatches[0].check == "reverse mode under `vmap` against reverse mode"


@pytest.mark.slow
def test_a_hook_that_changes_the_gradient_is_named():
    assert fg.gradcheck(lambda x: fg.register_hook(x, lambda g: None) ** 2, (X,))
    fun = lambda x: fg.register_hook(x, lambda g: -g) ** 2
    text = str(found(fun, X))
    assert "a hook changes this gradient by intent (`register_hook` at " in text
    assert "test_gradcheck.py" in text
    assert 'modes=("fwd",)' in text
    assert fg.gradcheck(fun, (X,), modes=("fwd",))
    assert fg.gradgradcheck(fun, (X,), modes="fwd", batched=False)
    with pytest.raises(fg.GradcheckError, match="a hook changes this gradient by intent"):
        fg.gradgradcheck(fun, (X,), batched=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fun", "name"),
    [
        (lambda x: fg.detach(x) * x, "stop_gradient"),
        (lambda x: lax.stop_gradient(x) * x, "stop_gradient"),
        (lambda x: fg.no_grad(lambda x: x * 2)(x) * x, "stop_gradient"),
        (fg.autograph(lambda x: fg.detach(x) * x), "stop_gradient"),
        (lambda x: fg.set_data(x, x * 3), "set_data"),
    ],
)
def test_what_cuts_the_gradient_by_intent_is_named(fun, name):
    text = str(found(fun, X, batched=False))
    assert f"`{name}` makes the gradient another than the derivative, by intent, at " in text


def test_a_hook_is_named_beside_what_forward_mode_finds():
    text = str(found(lambda x: fg.register_hook(fg.detach(x) * x, jnp.negative), X, batched=False))
    assert "`stop_gradient` makes the gradient another" in text
    assert "hooks may change this gradient by intent: `register_hook` at " in text


@pytest.mark.slow
def test_what_packing_loses_is_named():
    wide, narrow = lambda x: x.astype("float32"), lambda x: x.astype("bfloat16")
    packing = fg.saved_tensors_hooks(jnp.sin, narrow, wide)
    text = str(found(lambda x: packing(x), X, batched=False))
    assert "packing may change this gradient by intent: `saved_tensors_hooks` at " in text
    assert "test_gradcheck.py" in text
    assert fg.gradcheck(fg.save_on_cpu(jnp.sin), (X,), batched=False)


@pytest.mark.slow
def test_what_jax_detaches_itself_is_not_named():
    fun = lambda x: wrong_by(1.01, jnp.sin)(jax.nn.softmax(x))
    assert "stop_gradient" not in str(found(fun, X, batched=False))


@pytest.mark.parametrize(
    ("fun", "at", "note"),
    [
        (jax.nn.relu, 0.0, "a kink: the slope from the left is 0, from the right 1"),
        (lambda x: jnp.abs(x - 1) + x, 1.0, "a kink: the slope from the left is 0"),
        (jnp.floor, 2.0, "has a jump"),
        (lambda x: jax.nn.relu(1e6 * x), 0.0, "a kink: the slope from the left is 0, from the"),
        (lambda x: jnp.where(x > 0, x**0.5, 0.0), 0.0, "has a kink: the slope from the left is 0"),
        (jnp.sqrt, 0.0, "at the edge of where it is defined"),
        (jnp.log, -1.0, "the output is nan at this point"),
    ],
)
def test_kinks_and_edges_are_pointed_out(fun, at, note):
    error = found(fun, jnp.array(at), batched=False, modes="fwd")
    assert note in str(error)


@pytest.mark.slow
def test_a_smooth_function_has_no_kink_and_a_kink_nearby_does_no_harm():
    assert "kink" not in str(found(wrong_by(1.001, jnp.sin), X, batched=False))
    assert fg.gradcheck(jnp.abs, (jnp.array([1e-3, -1e-4]),), batched=False)
    text = str(found(jax.nn.relu, jnp.array([1e-3]), batched=False, eps=64.0))
    assert "near this point the function has a kink" in text


@pytest.mark.slow
@pytest.mark.parametrize("fun", [jnp.sin, lambda x: jnp.cos(x / 3) + x])
@pytest.mark.parametrize("at", [1e7, 1e8, 1.7e9])
def test_waves_much_shorter_than_the_longest_step(fun, at):
    with jax.enable_x64(True):
        assert fg.gradcheck(fun, (np.array([at]),), batched=False)
        detached = lambda x: fun(lax.stop_gradient(x)) + 0 * x
        for wrong in (wrong_by(1.5, fun), detached):
            assert "kink" not in str(found(wrong, np.array([at]), batched=False))


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True])
def test_what_a_mask_makes_infinite_is_a_constant(fast):
    mask = np.array([True, False, True])
    scores = lambda x: jnp.where(mask, x**2, -jnp.inf)
    with warnings.catch_warnings(action="error"):
        assert fg.gradcheck(scores, (X,), fast=fast)
        wrong = lambda x: jnp.where(mask, wrong_by(1.001, jnp.sin)(x), -jnp.inf)
        assert "disagree" in str(found(wrong, X, fast=fast))
        assert "the output is inf at" in str(found(jnp.exp, jnp.array([1e4]), batched=False))


@pytest.mark.slow
def test_a_step_out_of_the_domain_is_no_anomaly():
    with jax.debug_nans(True):
        assert fg.gradcheck(jnp.log, (jnp.array([0.1, 2.0]),), batched=False)


@pytest.mark.slow
def test_results_that_differ_from_run_to_run():
    draw = np.random.default_rng(0)
    error = found(lambda x: x * draw.random(), X)
    assert "result differs from run to run" in str(error)
    noisy = lambda x: x * (1 + 1e-12 * draw.random())
    with jax.enable_x64(True):
        x = np.array([0.3, -0.7])
        assert "result differs" in str(found(noisy, x))
        assert fg.gradcheck(noisy, (x,), nondet_tol=1e-9)


@pytest.mark.slow
def test_derivatives_that_differ_from_run_to_run():
    draw = np.random.default_rng(0)
    host = lambda g: np.asarray(g) * np.float32(draw.random())
    fun = jax.custom_vjp(lambda x: x)
    like = lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype)
    back = lambda _, g: (jax.pure_callback(host, like(g), g, vmap_method="sequential"),)
    fun.defvjp(lambda x: (x, None), back)
    assert "run once against the same, run again" in str(found(fun, X))


@pytest.mark.slow
def test_empty_arrays_are_passed_over():
    fun = lambda x, y: (x * 2, y * 3)
    for fast in (False, True):
        assert fg.gradcheck(fun, (X, jnp.ones((0, 2))), fast=fast)


@pytest.mark.slow
@pytest.mark.parametrize("around", [True, False])
def test_shardings_that_are_part_of_types_are_kept(around):
    mesh = jax.make_mesh((4, 2), ("i", "j"))
    put = lambda x, *spec: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))
    x, w = put(jnp.tile(X, (4, 1)), "i"), put(W, None, "j")

    def layer(x, w):
        assert jax.typeof(x).sharding.spec == jax.P("i", None)
        return jnp.tanh(x @ w)

    with jax.set_mesh(mesh) if around else contextlib.nullcontext():
        assert fg.gradcheck(layer, (x, w), batched=False)
        assert fg.gradgradcheck(layer, (x, w), fast=True)
        assert "disagree" in str(found(wrong_by(1.001, layer), x, w, fast=True))


def test_errors_of_habit_have_the_fix_as_a_note():
    for check in (fg.gradcheck, fg.gradgradcheck):
        with pytest.raises(AttributeError) as caught:
            check(lambda x: x.detach() * x, (X,))
        assert caught.value.__notes__[-1] == "funcgrad: write `funcgrad.detach(x)`"
    cause = found(np.sin, X).__cause__
    assert "NumPy and PyTorch cannot compute with traced values" in cause.__notes__[-1]


@pytest.mark.slow
def test_python_control_flow_is_followed():
    def fun(x):
        return x**2 if x[0] > 0 else jnp.sin(x)

    assert fg.gradcheck(fun, (X,))
    assert fg.gradcheck(fun, (-X,))
    found(lambda x: wrong_by(1.001, fun)(x) if x[0] > 0 else x, -X * -1)


@pytest.mark.slow
def test_a_function_with_a_dtype_of_its_own_is_checked_in_that():
    rounded = lambda x: (jnp.sin(x.astype(jnp.bfloat16)) * 2).astype(jnp.float32)
    assert fg.gradcheck(rounded, (X,))
    assert "disagree" in str(found(wrong_by(1.5, rounded), X))
    parts = lambda p: {name: rounded(x) for name, x in p.items()}
    assert fg.gradcheck(parts, ({"a": X.astype("bfloat16"), "b": X.astype("bfloat16")},))
    key = jax.random.key(0)
    dropout = lambda x: jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x * 2, 0.0)
    assert fg.gradcheck(dropout, (jnp.linspace(0.1, 2, 9),))
    normal = lambda x: x * jax.random.normal(key, x.shape)
    assert fg.gradcheck(normal, (X,))
    assert "in float32" in str(found(wrong_by(1.01, normal), X))


@pytest.mark.slow
def test_constants_and_numbers_keep_their_dtype():
    assert fg.gradcheck(lambda x, p: jnp.abs(x) ** p, (X.astype("bfloat16"), 2.5), batched=False)
    w = W.astype("bfloat16")
    assert fg.gradcheck(lambda x: jnp.tanh(x @ w), (X.astype("bfloat16"),), batched=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_low_precision_cannot_hold_is_found(dtype):
    # The same in exact arithmetic; in half precision the difference is all rounding.
    cancelling = jax.custom_jvp(jnp.sin)
    cancelling.defjvp(lambda p, t: (jnp.sin(p[0]), (1000 + jnp.cos(p[0])) * t[0] - 1000 * t[0]))
    error = found(cancelling, jnp.array([0.3, 0.7], dtype), batched=False, modes="rev")
    assert error.mismatches[0].precision == dtype


@pytest.mark.slow
def test_no_flag_is_left_changed_and_64_bits_may_be_on():
    before = jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion
    fg.gradcheck(jnp.sin, (X,))
    found(wrong_by(2.0, jnp.sin), X)
    assert (jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion) == before
    with jax.enable_x64(True):
        assert fg.gradcheck(jnp.sin, (np.array([0.3, -0.7]),))


@pytest.mark.slow
def test_tolerances_and_step_are_as_given():
    wrong = wrong_by(1.001, jnp.sin)
    assert fg.gradcheck(wrong, (X,), rtol=0.01)
    assert fg.gradcheck(wrong, (X,), atol=0.01)
    assert fg.gradcheck(jnp.sin, (X,), eps=1e-3)
    found(wrong, X, eps=1e-3)


@pytest.mark.slow
def test_tiny_and_huge_numbers():
    with jax.enable_x64(True):
        assert fg.gradcheck(jnp.log, (np.array([1e-6, 1.0, 1e6]),), batched=False)
        assert fg.gradcheck(jnp.sin, (np.array([1e-9, 1e4]),), batched=False)
        assert fg.gradcheck(jnp.exp, (np.array([-40.0, 300.0]),), batched=False)
        found(wrong_by(1.001, jnp.log), np.array([1e-6, 1e6]), batched=False)
        found(wrong_by(1 + 1e-7, jnp.sin), np.array([0.3]), batched=False)
        found(wrong_by(1.001, lambda x: 1e-9 * x), np.array([1.0]), batched=False)


@pytest.mark.parametrize("option", ["eps", "atol", "rtol", "nondet_tol"])
def test_numbers_that_every_difference_would_pass_with_are_refused(option):
    for number in (-1.0, float("nan"), "small", *[0.0] * (option == "eps")):
        with pytest.raises(fg.UsageError, match=f"got {option}="):
            fg.gradcheck(wrong_by(2.0, jnp.sin), (X,), **{option: number})


def test_wrong_calls():
    with pytest.raises(fg.UsageError, match="without an entry that is floating"):
        fg.gradcheck(lambda n: n * 2.0, (3,))
    with pytest.raises(fg.UsageError, match="results have no floating or complex entry"):
        fg.gradcheck(jnp.argmax, (X,))
    with pytest.raises(fg.UsageError, match=r'modes=.*"fwd", "rev" or both'):
        fg.gradcheck(jnp.sin, (X,), modes=("forward",))
    with pytest.raises(fg.UsageError, match=r"got argnums \(3,\) for a call with 1"):
        fg.gradcheck(jnp.sin, (X,), argnums=3)
    for argnums in ("x", 0.5, True, ()):
        with pytest.raises(fg.UsageError, match=r"argnums=.*, and wants an integer or"):
            fg.gradcheck(jnp.sin, (X,), argnums=argnums)
    for check in (fg.gradcheck, fg.gradgradcheck):
        with pytest.raises(fg.UsageError, match=rf"`{check.__name__}` got tuple, and wants a func"):
            check((X,), jnp.sin)
        with pytest.raises(fg.UsageError, match=rf"`{check.__name__}` got modes=2"):
            check(jnp.sin, (X,), modes=2)
    with pytest.raises(fg.UsageError, match="returns str"):
        fg.gradcheck(lambda x: "text", (X,))
    with pytest.raises(fg.UsageError, match="traced arguments"):
        jax.jit(lambda x: fg.gradcheck(jnp.sin, (x,)))(X)


def _torch_square(torch, factor):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 2 * factor * x.conj()

    return Square.apply


def _jax_square(factor):
    fun = jax.custom_vjp(lambda x: x**2)
    fun.defvjp(lambda x: (x**2, x), lambda x, g: (g * 2 * factor * x,))
    return fun


CASES = {
    "right": (lambda t: _torch_square(t, 1.0), _jax_square(1.0), X),
    "wrong": (lambda t: _torch_square(t, 1.01), _jax_square(1.01), X),
    "complex, right": (lambda t: _torch_square(t, 1.0), _jax_square(1.0), Z),
    "complex, wrong": (lambda t: _torch_square(t, 1j), _jax_square(-1j), Z),
    "of the real part": (lambda t: lambda x: t.real(x) ** 2, lambda x: jnp.real(x) ** 2, Z),
    "at a kink": (lambda t: t.relu, jax.nn.relu, jnp.array([0.0, 1.0])),
    "detached": (lambda t: lambda x: x.detach() * x, lambda x: fg.detach(x) * x, X),
    "random": (
        lambda t: lambda x: x * t.rand(()),
        lambda x: x * np.random.random(),
        X,
    ),
    "matrix": (lambda t: t.linalg.inv, jnp.linalg.inv, jnp.eye(3) + 0.1 * jnp.outer(X, X)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_verdicts_are_pytorchs(case, torch):
    theirs, ours, x = CASES[case]
    with jax.enable_x64(True):
        wide = np.asarray(x).astype(np.complex128 if jnp.iscomplexobj(x) else np.float64)
        tensor = torch.tensor(wide, requires_grad=True)
        verdict = torch.autograd.gradcheck(theirs(torch), (tensor,), raise_exception=False)
        try:
            assert fg.gradcheck(ours, (wide,), modes=("rev",), batched=False) == verdict
        except fg.GradcheckError:
            assert not verdict


def off_at_zero(fun, off):
    """`fun` with a rule whose derivative is off by `off`."""
    made = jax.custom_jvp(fun)

    @made.defjvp
    def _(primals, tangents):
        out, dot = jax.jvp(fun, primals, tangents)
        return out, dot + off * tangents[0]

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "fun",
    [
        lambda x: x * jnp.abs(x),
        lambda x: jnp.sin(3 * x) + 50 * x * jnp.abs(x),
        lambda x: jnp.where(x > 0, jnp.exp(x), 1 + x),
    ],
)
def test_where_the_second_derivative_jumps_the_first_is_told(fun):
    assert fg.gradcheck(off_at_zero(fun, 0.0), (np.zeros(1),), batched=False)
    with pytest.raises(fg.GradcheckError, match="disagree"):
        fg.gradcheck(off_at_zero(fun, 1e-6), (np.zeros(1),), batched=False)


def test_slopes_that_agree_to_six_digits_are_no_kink():
    """As those of an adaptive solver, whose steps change with the arguments."""
    rough = lambda x: jnp.sin(x) + 1e-7 * jnp.abs(x - 0.5)
    text = str(found(lambda x: rough(fg.detach(x)) + 0 * x, jnp.array(0.5), modes="rev"))
    assert "kink" not in text
    assert "`stop_gradient` makes the gradient another" in text


def test_a_factor_that_is_1_is_not_told():
    with jax.enable_x64(True):
        text = str(found(wrong_by(1 + 3e-7, jnp.sin), np.array([0.3]), batched=False))
    assert " times what is wanted" not in text
