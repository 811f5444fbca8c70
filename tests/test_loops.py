"""`while_loop` and `fori_loop`: every mode of autodiff, in every place, against a masked scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, assert_same
from jax import lax
from jax.sharding import PartitionSpec as P
from tiers import slow_but

import funcgrad as fg
from funcgrad import _jax, fori_loop, while_loop

W = np.array([[0.3, 0.5], [-0.2, 0.9]], np.float32)
X = np.array([[0.5, 1.0], [0.1, 0.1], [-0.4, 0.3], [2.0, 2.0]], np.float32)
MOST = 6


# One loop, ours and as a scan of known length in which steps past the end change nothing.


def going(state):
    steps, x = state
    return (steps < 4) & (jnp.sum(x) < 2.0)


def going_for_three(state):
    return state[0] < 3


def body(w):
    def step(state):
        steps, x = state
        return steps + 1, 1.3 * jnp.tanh(w @ x) + 0.2 * x**2

    return step


def ours(w, x, cond=going):
    return while_loop(cond, body(w), (0, x), max_steps=MOST)[1]


def in_pieces(w, x, cond=going):
    """Four steps are two that are kept and a segment of two that is run again."""
    return while_loop(cond, body(w), (0, x), max_steps=MOST, checkpoints=2)[1]


def masked(w, x, cond=going):
    def step(state, _):
        new, on = body(w)(state), cond(state)
        return jax.tree.map(lambda a, b: jnp.where(on, a, b), new, state), None

    return lax.scan(step, (0, x), None, length=MOST)[0][1]


# Where it stands: each makes a scalar of the weights and the four rows of x.


def alone(loop, w, x):
    return jnp.sum(loop(w, x[0]) ** 2)


def in_jit(loop, w, x):
    return jnp.sum(jax.jit(loop)(w, x[0]) ** 2)


def in_vmap(loop, w, x):
    return jnp.sum(jax.vmap(loop, (None, 0))(w, x) ** 2)


def in_vmap_with_shared_steps(loop, w, x):
    def shared(x):
        return loop(w, x, going_for_three)

    return jnp.sum(jax.vmap(shared)(x) ** 2)


def in_scan(loop, w, x):
    def step(carry, row):
        new = loop(w, 0.5 * (carry + row))
        return new, jnp.sum(new)

    return jnp.sum(lax.scan(step, x[0], x)[1] ** 2)


def in_cond(loop, w, x):
    out = lax.cond(x[0, 0] > 0, lambda: loop(w, x[0]), lambda: x[0])
    return jnp.sum(out * lax.cond(x[0, 0] > 3, lambda: loop(w, x[0]), lambda: x[1]))


def in_checkpoint(loop, w, x):
    return jnp.sum(jax.checkpoint(lambda w, x: jnp.sin(loop(w, jnp.sin(x))))(w, x[0]) ** 2)


def in_shard_map(loop, w, x):
    """Each device takes its own number of steps."""
    if loop is masked:
        return in_vmap(loop, w, x)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def local(w, x):
        return loop(w, x[0])[None]

    each = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    return jnp.sum(each(w, x) ** 2)


def in_a_loop(loop, w, x):
    def step(i, x):
        return loop(w, 0.5 * x)

    def ours_twice(x):
        return fori_loop(0, jnp.int32(2), step, x, max_steps=3)

    def scanned_twice(x):
        return lax.scan(lambda x, _: (step(0, x), None), x, None, length=2)[0]

    return jnp.sum((scanned_twice if loop is masked else ours_twice)(x[0]) ** 2)


PLACES = [
    alone,
    in_jit,
    in_vmap,
    in_vmap_with_shared_steps,
    in_scan,
    in_cond,
    in_checkpoint,
    in_shard_map,
    in_a_loop,
]


# What is asked of it, as a function of weights and x.


def value(f):
    return f


def jvp(f):
    return lambda w, x: jax.jvp(f, (w, x), (jnp.cos(w), jnp.cos(x)))[1]


def grad(f):
    return jax.grad(f, (0, 1))


def folded(f):
    return lambda w, x: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(f(w, x)))


MODES = {
    "value": value,
    "jvp": jvp,
    "grad": grad,
    "forward over reverse": lambda f: jvp(folded(grad(f))),
    "reverse over forward": lambda f: grad(jvp(f)),
    "reverse over reverse": lambda f: grad(folded(grad(f))),
    "third order": lambda f: jvp(folded(grad(folded(grad(f))))),
}


QUICK = {"xla_backend_optimization_level": 0}  # a third of the time to compile


@functools.cache
def asked(loop, place, mode, dtype):
    w, x = (jnp.asarray(a, dtype) for a in (W, X))
    fun = MODES[mode](lambda w, x: place(loop, w, x))
    return jax.jit(fun, compiler_options=QUICK)(w, x)


def compared(place, mode, dtype, mine=ours):
    got, want = (asked(loop, place, mode, dtype) for loop in (mine, masked))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype == dtype
        yield np.asarray(a, np.float64), np.asarray(b, np.float64)


# Compiling is what takes time here: the third order stands where the rules differ most, and places
# that differ little from others have the modes that run every rule.
FEWER = ["grad", "reverse over reverse"]
SIMILAR = [in_jit, in_vmap_with_shared_steps, in_scan, in_cond, in_a_loop]
CASES = [
    (place, mode)
    for place in PLACES
    for mode in (FEWER if place in SIMILAR else MODES)
    if mode != "third order" or place in (alone, in_vmap, in_shard_map)
]


def is_quick(place, mode):
    return place in (alone, in_jit, in_vmap) and mode not in ("reverse over reverse", "third order")


@pytest.mark.slow
@pytest.mark.parametrize(("place", "mode"), slow_but(is_quick, CASES))
def test_every_mode_in_every_place(place, mode):
    with jax.enable_x64(True):
        for got, want in compared(place, mode, np.float64):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


RECOMPUTED = [(place, "grad") for place in (in_scan, in_cond, in_checkpoint, in_a_loop)] + [
    (place, mode)
    for place in (alone, in_vmap, in_shard_map)
    for mode in ("grad", "reverse over forward", "reverse over reverse")
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "mode"), [*RECOMPUTED, (alone, "third order")])
def test_every_mode_with_checkpoints(place, mode):
    with jax.enable_x64(True):
        for got, want in compared(place, mode, np.float64, in_pieces):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["value", "jvp", "grad"])
def test_single_precision(mode):
    for got, want in compared(in_vmap, mode, np.float32):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["value", "jvp", "grad"])
@pytest.mark.parametrize(("dtype", "allowed"), [(jnp.bfloat16, 0.1), (np.float16, 0.02)])
def test_half_precision(mode, dtype, allowed):
    for got, want in compared(in_vmap, mode, dtype):
        np.testing.assert_allclose(got, want, rtol=allowed, atol=allowed)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [grad, jvp])
def test_gradients_are_the_same_outside_jit(mode):
    got, want = (mode(lambda w, x, loop=loop: alone(loop, w, x))(W, X) for loop in (ours, masked))
    assert_close(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("transform", [jax.jacfwd, jax.jacrev, jax.hessian])
def test_jacobians_of_examples(transform):
    def batched(loop):
        return jax.jit(jax.vmap(transform(lambda x: loop(jnp.asarray(W), x))))

    assert_close(batched(ours)(X), batched(masked)(X))


# fori_loop.


def test_fori_loop_with_traced_bounds():
    def total(x, lower, upper):
        def step(i, s):
            return s * x + i.astype(jnp.float32)

        return fori_loop(lower, upper, step, jnp.float32(1), max_steps=9)

    def plain(x, lower, upper):
        s, slope = 1.0, 0.0
        for i in range(lower, upper):
            s, slope = s * x + i, slope * x + s
        return s, slope

    f = jax.jit(jax.value_and_grad(total))
    for lower, upper in [(0, 4), (2, 3), (3, 3), (5, 1), (-3, 6)]:
        np.testing.assert_allclose(f(3.0, lower, upper), plain(3.0, lower, upper), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("lower", "upper"), [(0, 4), (2, 3), (3, 3), (5, 1)])
def test_fori_loop_with_known_bounds_needs_no_max_steps(lower, upper):
    def total(x):
        return fori_loop(lower, upper, lambda i, s: s * x + i, 1.0)

    def plain(x):
        s = 1.0
        for i in range(lower, upper):
            s = s * x + i
        return s

    got, want = (jax.value_and_grad(f)(2.0) for f in (total, lambda x: plain(x) + 0 * x))
    np.testing.assert_allclose(got, want)


@pytest.mark.slow
def test_fori_loop_of_traced_bounds_alone_has_forward_mode():
    def power(x, n):
        return fori_loop(0, n, lambda i, y: y * x, 1.0)

    out, dot = jax.jit(lambda x, n: jax.jvp(lambda x: power(x, n), (x,), (1.0,)))(2.0, 5)
    assert (out, dot) == (32.0, 80.0)
    every = jax.vmap(jax.jacfwd(power), (None, 0))(2.0, jnp.array([0, 1, 3]))
    np.testing.assert_allclose(every, [0.0, 1.0, 12.0])
    with pytest.raises(fg.GradientError, match="pass max_steps="):
        jax.jit(jax.grad(power))(2.0, 5)


@pytest.mark.slow
def test_fori_loop_of_small_integers_does_not_overflow():
    count = jax.jit(lambda a, b: fori_loop(a, b, lambda i, n: n + 1, 0, max_steps=300))
    assert count(jnp.int8(-100), jnp.int8(100)) == 200
    assert count(jnp.uint8(3), jnp.uint8(1)) == 0


def test_fori_loop_over_more_steps_than_its_dtype_can_count_is_nan():
    count = jax.jit(lambda a, b: fori_loop(a, b, lambda i, x: x + 1, 0.0, max_steps=9))
    far = jnp.int32(2_000_000_000)
    assert jnp.isnan(count(-far, far))
    assert count(far, far + 8) == 8.0
    assert count(far, -far) == 0.0


def test_fori_loop_takes_bounds_of_numpy():
    step = lambda i, x: x + i.astype(jnp.float32)
    assert fori_loop(0, np.int64(4), step, 0.0) == 6.0
    assert fori_loop(jnp.int32(1), np.arange(5).sum(), step, 0.0) == 45.0


# Carries.


def test_closed_over_values_are_differentiated():
    def f(w, x):
        scale = jnp.sin(w)
        return while_loop(lambda y: y < 50 * scale, lambda y: scale * y + 3, x, max_steps=40)

    def plain(w, x):
        for _ in range(4):
            x = jnp.sin(w) * x + 3
        return x

    w, x = 1.5, 40.0
    y, count = x, 0
    while y < 50 * np.sin(w):
        y, count = np.sin(w) * y + 3, count + 1
    assert count == 4
    assert_close(jax.jit(jax.grad(f, (0, 1)))(w, x), jax.grad(plain, (0, 1))(w, x))


@pytest.mark.slow
def test_carry_of_many_kinds():
    def f(x):
        init = {"x": x, "key": jax.random.key(3), "n": jnp.int8(0), "on": True, "pair": (1, None)}

        def step(c):
            key, sub = jax.random.split(c["key"])
            x = c["x"] * (1 + jax.random.uniform(sub))
            return {
                "x": x,
                "key": key,
                "n": c["n"] + jnp.int8(1),
                "on": ~c["on"],
                "pair": (2, None),
            }

        return while_loop(lambda c: c["x"] < 10, step, init, max_steps=30)

    out = jax.jit(f)(1.0)
    assert (out["n"].dtype, out["pair"][0]) == (jnp.int8, 2)
    assert out["on"] == (out["n"] % 2 == 0)
    slope = jax.jit(jax.grad(lambda x: f(x)["x"]))(1.0)
    np.testing.assert_allclose(slope, out["x"], rtol=1e-6)
    each = jax.vmap(jax.grad(lambda x: f(x)["x"]))(jnp.array([1.0, 20.0]))
    np.testing.assert_allclose(each, [out["x"], 1.0], rtol=1e-6)


def test_no_steps_gives_the_first_carry_and_its_gradient():
    f = jax.jit(
        jax.value_and_grad(
            lambda x: while_loop(lambda y: y < 0, lambda y: jnp.log(-y), x, max_steps=5)
        )
    )
    assert f(2.0) == (2.0, 1.0)


def test_first_carry_of_a_weaker_type_is_promoted():
    out = while_loop(lambda y: y < 3, lambda y: y + jnp.float32(1), 0, max_steps=5)
    assert (out.dtype, out, out.weak_type) == (jnp.float32, 3.0, False)
    assert while_loop(lambda y: y < 3, lambda y: y + 1, 0.0, max_steps=5).weak_type
    strong = while_loop(lambda y: y < 3, lambda y: 2.0, jnp.float32(0), max_steps=5)
    assert (strong.dtype, strong.weak_type) == (jnp.float32, False)


@pytest.mark.slow
def test_complex_carry():
    def f(z):
        return while_loop(lambda z: jnp.abs(z) < 4, lambda z: z * z + 1j, z, max_steps=20)

    z = jnp.complex64(1 + 0.5j)
    got = jax.jit(jax.grad(lambda z: jnp.abs(f(z))))(z)
    want = jax.grad(lambda z: jnp.abs((z * z + 1j) ** 2 + 1j))(z)
    assert abs(z * z + 1j) < 4 <= abs((z * z + 1j) ** 2 + 1j)
    assert_close(got, want)


def test_effects_happen_once_per_step(capfd):
    def step(y):
        jax.debug.print("at {y}", y=y)
        return 2 * y

    f = jax.jit(jax.grad(lambda x: while_loop(lambda y: y < 5, step, x, max_steps=9)))
    assert f(1.0) == 8.0
    jax.effects_barrier()
    assert capfd.readouterr().out.split() == ["at", "1.0", "at", "2.0", "at", "4.0"]


def test_effects_in_order_are_refused():
    ordered = lambda y: jax.debug.print("{y}", y=y, ordered=True) or 2 * y
    with pytest.raises(fg.UsageError, match=r"effect OrderedDebugEffect.*without ordered=True"):
        while_loop(lambda y: y < 5, ordered, 1.0, max_steps=9)
    held = jax.new_ref(jnp.zeros(()))

    def writing(i, y):
        held[...] = y
        return 2 * y

    with pytest.raises(fg.UsageError, match=r"`fori_loop` .*WriteEffect.*into the carry"):
        fori_loop(0, 3, writing, 1.0)

    def inside(i, y):
        own = jax.new_ref(y)
        own[...] = 2 * own[...]
        return own[...]

    assert fori_loop(0, 3, inside, 1.0) == 8.0


# What is kept.


def arrays(jaxpr):
    """The shapes of all values in a jaxpr, inner ones included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars)
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from arrays(inner)


def multiplied(w, x):
    rest = jnp.sin(w) / 2
    return jnp.sum(
        while_loop(lambda x: jnp.sum(x) > 0.1, lambda x: rest @ jnp.tanh(w @ x), x, max_steps=77)
    )


def test_matrices_that_stay_the_same_are_kept_once():
    w, x = jnp.ones((5, 5)), jnp.ones(5)
    shapes = set(arrays(jax.make_jaxpr(jax.grad(multiplied, (0, 1)))(w, x).jaxpr))
    assert (77, 5) in shapes
    assert (77, 5, 5) not in shapes


def test_residuals_that_follow_cheaply_from_others_are_not_kept():
    def stacked(step):
        f = lambda x: jnp.sum(fori_loop(0, 33, lambda i, x: step(x), x))
        made = jax.make_jaxpr(lambda x: jax.vjp(f, x)[0])(jnp.ones(5))
        (eqn,) = (e for e in made.jaxpr.eqns if e.primitive.name == "bounded_loop")
        return len([v for v in eqn.outvars if v.aval.shape == (33, 5)])

    assert stacked(jnp.tanh) == 1  # 1 - y follows from y
    assert stacked(lambda x: x * (3 - x) * (x * x - 1)) == 1  # everything follows from x
    assert stacked(lambda x: jnp.sin(x) * jnp.exp(x)) == 3  # sin, cos and exp of x


def test_forward_mode_keeps_one_step():
    w, x = jnp.ones((5, 5)), jnp.ones(5)

    def forward(w, x):
        return jax.jvp(multiplied, (w, x), (w, x))

    assert not [s for s in arrays(jax.make_jaxpr(forward)(w, x).jaxpr) if 77 in s]
    assert not [s for s in arrays(jax.make_jaxpr(multiplied)(w, x).jaxpr) if 77 in s]


def test_second_call_traces_nothing():
    traced = []

    @jax.jit
    def f(x):
        def step(y):
            traced.append(1)
            return 2 * y

        return jax.grad(lambda x: while_loop(lambda y: y < 5, step, x, max_steps=9))(x)

    f(1.0)
    count = len(traced)
    with jax.no_tracing():
        assert f(2.0) == 4.0
    assert len(traced) == count == 1


# Checkpoints.


def stepped(n, max_steps, checkpoints, seen=None):
    """`n` steps of a map of `x`, each of which may be counted."""

    def step(state):
        i, x = state
        if seen is not None:
            jax.debug.callback(lambda i: seen.append(int(i)), i)
        return i + 1, 1.2 * jnp.sin(x) + 0.1 * x

    def loop(x):
        init = jnp.int32(0), x
        most = {"max_steps": max_steps, "checkpoints": checkpoints}
        return while_loop(lambda state: state[0] < n, step, init, **most)[1]

    return loop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("max_steps", "checkpoints"), [(6, 2), (7, 2), (15, 2), (29, 3), (9, 8), (8, 9)]
)
def test_every_number_of_steps_with_checkpoints(max_steps, checkpoints):
    def slopes(kept):
        @jax.jit
        def f(n):
            slope = jax.grad(stepped(n, max_steps, kept))
            return jnp.stack([slope(0.7), jax.grad(slope)(0.7)])

        return jnp.stack([f(n) for n in range(max_steps + 1)])

    np.testing.assert_allclose(slopes(checkpoints), slopes(max_steps), rtol=1e-5, atol=1e-5)


def levels(max_steps, checkpoints):
    """The least number for which so many powers of the checkpoints reach `max_steps`."""
    reach, number = checkpoints, 1
    while reach < max_steps:
        reach, number = checkpoints * (1 + reach), number + 1
    return number


@pytest.mark.slow
@pytest.mark.parametrize(("max_steps", "checkpoints"), [(10, 10), (110, 10), (60, 5), (60, 3)])
def test_steps_are_run_again_as_often_as_there_are_levels(max_steps, checkpoints):
    seen = []
    n = max_steps if max_steps == checkpoints else max_steps - 3
    jax.jit(jax.grad(stepped(n, max_steps, checkpoints, seen)))(0.7)
    jax.effects_barrier()
    runs = np.bincount(seen)
    assert len(runs) == n  # no step past the last
    assert runs[:checkpoints].tolist() == [1] * checkpoints
    assert runs.max() == levels(max_steps, checkpoints)


@pytest.mark.slow
def test_without_checkpoints_1024_steps_are_kept():
    for n, most in [(1024, 1024), (1024, 5000), (1030, 5000)]:
        seen = []
        jax.jit(jax.grad(stepped(n, most, None, seen)))(0.7)
        jax.effects_barrier()
        assert np.bincount(seen).tolist() == [1] * 1024 + [2] * (n - 1024)


def temporary(width, max_steps, checkpoints, loop=while_loop):
    def f(x, w, n):
        init = jnp.int32(0), x
        most = {"max_steps": max_steps, "checkpoints": checkpoints}
        step = lambda state: (state[0] + 1, jnp.tanh(w @ state[1]))
        return jnp.sum(loop(lambda state: state[0] < n, step, init, **most)[1])

    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((width,), (width, width))]
    n = jax.ShapeDtypeStruct((), "int32")
    compiled = jax.jit(jax.grad(f, (0, 1))).lower(*shapes, n).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_with_checkpoints_is_that_of_the_formula():
    width, bytes_of_carry = 512, 4 * 512 + 8  # the carry, its counter, and the steps of a segment
    fixed = temporary(width, 2, 2)  # gradients of the matrix, mostly
    residuals = (temporary(width, 1002, 1002) - fixed) / 1000
    for max_steps, k in [(10_000, 100), (1_000_000, 100), (1_000_000, 1000)]:
        j = levels(max_steps, k)
        formula = j * k * residuals + (j - 1) * (k * bytes_of_carry + 2 * 4 * width**2)
        assert temporary(width, max_steps, k) - fixed < 1.02 * formula


@pytest.mark.slow
def test_tags_with_checkpoints_have_the_same_rows():
    def retained(checkpoints):
        def fun(x):
            step = lambda y: fg.retain_grad(jnp.sin(y) * 1.1, "y")
            most = {"max_steps": 15, "checkpoints": checkpoints}
            return while_loop(lambda y: y > 0.5, step, x, **most)

        return jax.jit(fg.grad(fun, retain="y"))(1.4)

    assert jnp.sum(retained(15)[1]["y"].grad != 0) > 6  # three levels deep with two
    assert_close(retained(2), retained(15))


def test_bounds_known_while_tracing_are_known_to_the_compiler_backwards_too():
    loss = lambda x: fg.fori_loop(0, 64, lambda i, y: jnp.sin(y) * x, x)
    program = jax.jit(jax.grad(loss)).lower(0.5).compile().as_text()
    assert program.count('"known_trip_count":{"n":"64"}') == program.count(" while(") == 2


@pytest.mark.slow
def test_gradients_of_gradients_with_checkpoints_keep_no_more_rows():
    def f(x, n):
        step = lambda state: (state[0] + 1, jnp.tanh(state[1]) * jnp.sin(state[1]))
        most = {"max_steps": 200, "checkpoints": 20}
        return jnp.sum(while_loop(lambda state: state[0] < n, step, (0, x), **most)[1])

    def slope(x, n):
        return jnp.sum(jax.grad(f)(x, n) ** 2)

    for g in (slope, jax.grad(slope)):
        shapes = set(arrays(jax.make_jaxpr(g)(jnp.ones(7), 5).jaxpr))
        assert max(shapes, key=np.prod) == (20, 7)


@pytest.mark.slow
def test_empty_tag_with_checkpoints():
    def fun(x):
        step = lambda state: (state[0] * 2, fg.retain_grad(state[1] * 2, "y"))
        init = x, jnp.zeros((0, 3))
        return while_loop(lambda state: state[0] < 9, step, init, max_steps=7, checkpoints=2)[0]

    slope, kept = jax.jit(fg.grad(fun, retain="y"))(1.0)
    assert slope == 16.0
    assert kept["y"].grad.shape == (7, 0, 3)


@pytest.mark.slow
def test_keys_in_the_carry_with_checkpoints():
    def f(x, checkpoints):
        def step(state):
            key, x = state
            key, sub = jax.random.split(key)
            return key, x * (1 + jax.random.uniform(sub))

        most = {"max_steps": 30, "checkpoints": checkpoints}
        return while_loop(lambda s: s[1] < 100, step, (jax.random.key(3), x), **most)[1]

    got, want = (jax.jit(jax.grad(f), static_argnums=1)(1.0, k) for k in (2, 30))
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.slow
def test_fori_loop_with_checkpoints():
    def f(x, n, known):
        upper = 12 if known else n
        most = {} if known else {"max_steps": 12}
        return fori_loop(0, upper, lambda i, y: y * x + 1, 1.0, checkpoints=3, **most)

    plain = jax.grad(lambda x: fori_loop(0, 12, lambda i, y: y * x + 1, 1.0))(1.1)
    for known in (True, False):
        got = jax.jit(jax.grad(f), static_argnums=2)(1.1, 12, known)
        np.testing.assert_allclose(got, plain, rtol=1e-6)


@pytest.mark.parametrize("bad", [1, 0, -1, 2.0, True, "3", jnp.int32(3)])
def test_checkpoints_that_are_no_int_from_2_are_refused(bad):
    with pytest.raises(fg.UsageError, match=r"checkpoints=.* and wants an int of at least 2"):
        while_loop(lambda x: x < 2, lambda x: x + 1, 0, max_steps=9, checkpoints=bad)
    with pytest.raises(fg.UsageError, match=r"checkpoints=.* and wants an int of at least 2"):
        fori_loop(0, 2, lambda i, x: x + 1, 0, checkpoints=bad)


# What nobody wants.


def test_what_nobody_wants_of_a_loop_is_not_computed():
    def f(x, y, z):
        def step(state):
            i, x, y, z = state
            return i + 1, x * 2 + y, y, jnp.sin(z)

        return while_loop(lambda s: s[0] < 3, step, (0, x, y, z), max_steps=4)[1]

    closed = jax.make_jaxpr(f)(1.0, 2.0, 3.0)
    assert _jax.used_inputs(closed) == [True, True, False]
    assert "sin" in str(closed)
    assert "sin" not in str(_jax.prune(closed, [True]))
    both = jax.make_jaxpr(lambda x, dot: jax.jvp(lambda x: f(x, 2.0, x), (x,), (dot,)))(1.0, 2.0)
    assert _jax.dependencies(both) == [[True, False], [True, True]]
    run = jax.core.eval_jaxpr(_jax.prune(both, [True, False]).jaxpr, [], 1.0, 2.0)
    assert run == [f(1.0, 2.0, 1.0)]


# More steps than max_steps.


def capped(x, n=3, how="nan"):
    init = {"x": x, "n": 0}

    def step(c):
        return {"x": 2 * c["x"], "n": c["n"] + 1}

    return while_loop(lambda c: c["x"] < 10, step, init, max_steps=n, on_max_steps=how)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_unfinished_loop_is_nan_and_so_is_its_gradient(wrap):
    out = wrap(capped)(1.0)
    assert jnp.isnan(out["x"])
    assert out["n"] == 3
    assert jnp.isnan(wrap(jax.grad(lambda x: capped(x)["x"]))(1.0))
    assert wrap(jax.grad(lambda x: capped(x)["x"]))(2.0) == 8.0
    each = wrap(jax.vmap(capped))(jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(each["x"], [np.nan, 16.0])


def test_finished_loop_keeps_every_bit():
    value = np.array([-0.0, 1e-42, np.inf, np.nan], np.float32)
    f = jax.jit(
        lambda x: while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1]), (0, x), max_steps=2)
    )
    assert_same(f(jnp.asarray(value))[1], value)
    both = jnp.asarray(np.array([complex(-0.0, -1.0), complex(np.inf, 0.0)], np.complex64))
    assert_same(f(both)[1], both)


def test_unfinished_loop_is_ignored_where_asked():
    assert capped(1.0, how="ignore")["x"] == 8.0
    assert jax.grad(lambda x: capped(x, how="ignore")["x"])(1.0) == 8.0


def test_unfinished_loop_raises_where_asked():
    with pytest.raises(fg.GradientError, match="would go on after max_steps=3 steps"):
        capped(1.0, how="raise")
    assert capped(2.0, how="raise")["x"] == 16.0
    assert jax.jit(lambda x: capped(x, how="raise"))(2.0)["x"] == 16.0

    def run(x):
        jax.block_until_ready(jax.jit(lambda x: capped(x, how="raise"))(x))
        jax.effects_barrier()

    with pytest.raises(jax.errors.JaxRuntimeError, match="would go on after max_steps=3 steps"):
        run(1.0)


def test_fori_loop_over_more_than_max_steps_is_nan():
    f = jax.jit(
        jax.value_and_grad(lambda x, n: fori_loop(0, n, lambda i, y: y * x, 1.0, max_steps=3))
    )
    assert f(2.0, 3) == (8.0, 12.0)
    assert jnp.all(jnp.isnan(jnp.stack(f(2.0, 4))))


@pytest.mark.slow
def test_derivative_at_the_end_of_one_example_does_not_spoil_another():
    # The step has an infinite derivative at 0, where the first example ends.
    def f(x):
        return while_loop(lambda y: y > 0.5, lambda y: jnp.sqrt(y - 1.0), x, max_steps=5)

    x = jnp.array([1.0 + 1e-3, 5.0, 0.25])
    one = [jax.grad(f)(v) for v in x]
    for g in (jax.vmap(jax.grad(f)), jax.grad(lambda x: jnp.sum(jax.vmap(f)(x)))):
        np.testing.assert_allclose(jax.jit(g)(x), one, rtol=1e-4)


def repeated(step):
    """`step(w, y)` as often as `n` says."""

    def fun(w, y, n, checkpoints):
        body = lambda state: (state[0] - 1, step(w, state[1]))
        most = {"max_steps": 6, "checkpoints": checkpoints}
        return while_loop(lambda state: state[0] > 0, body, (n, y), **most)[1]

    return fun


# Each step has no derivative where an example that is done must not be: at 0, in rows that it did
# not write, and where it ends.
UNKIND = [
    (lambda w, y: jnp.log(w * y), [3.0, 50.0]),
    (lambda w, y: w * jnp.sqrt(y) * (y - 1), [1.0, 4.0]),
]


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [6, 2])
@pytest.mark.parametrize(("step", "ys"), UNKIND)
def test_steps_of_other_examples_do_not_spoil_gradients_of_gradients(step, ys, checkpoints):
    def squared(w, y, n):
        return jax.grad(repeated(step), 1)(w, y, n, checkpoints) ** 2

    def summed(w, ys, ns):
        return jnp.sum(jax.vmap(squared, (None, 0, 0))(w, ys, ns))

    ys, ns = jnp.array(ys), jnp.array([1, 3])
    want = sum(jax.jit(jax.grad(squared))(0.5, y, n) for y, n in zip(ys, ns, strict=True))
    got = jax.jit(jax.grad(summed), compiler_options=QUICK)(0.5, ys, ns)
    assert jnp.isfinite(want)
    np.testing.assert_allclose(got, want, rtol=1e-5)


# Refusals.


@pytest.mark.parametrize(
    ("cond", "got"),
    [
        (lambda x: x < 2, r"bool\[2\]"),
        (lambda x: jnp.sum(x), r"float32\[\]"),
        (lambda x: None, "NoneType"),
        (lambda x: (True,), "tuple"),
        (lambda x: 1, "int"),
    ],
)
def test_condition_that_is_no_scalar_bool_is_refused(cond, got):
    with pytest.raises(
        fg.UsageError, match=f"cond_fun that returns {got}, and wants a scalar bool"
    ):
        while_loop(cond, lambda x: x, jnp.ones(2), max_steps=3)


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (
            lambda c: {**c, "x": c["x"][None]},
            r"\['x'\]: after the step float32\[1,2\], before float32\[2\]",
        ),
        (
            lambda c: {**c, "n": jnp.float32(0)},
            r"\['n'\]: after the step float32\[\], before int32\[\]",
        ),
        (lambda c: {"x": c["x"]}, r"\['n'\]: after the step nothing, before int32\[\]"),
    ],
)
def test_body_that_changes_the_carry_is_refused(step, line):
    init = {"x": jnp.ones(2), "n": jnp.int32(0)}
    with pytest.raises(fg.TreeError, match=line):
        while_loop(lambda c: c["n"] < 2, step, init, max_steps=3)
    with pytest.raises(fg.TreeError, match=r"`fori_loop` got a body that returns another"):
        fori_loop(0, 2, lambda i, c: step(c), init)


@pytest.mark.parametrize("returned", ["text", object(), jnp.float32])
def test_body_that_returns_no_array_is_refused(returned):
    for loop in (
        lambda body: fori_loop(0, 3, lambda i, x: body(x), 1.0),
        lambda body: while_loop(lambda x: True, body, 1.0, max_steps=3),
    ):
        with pytest.raises(fg.UsageError, match=r"_loop` got a body that returns .* wants arrays"):
            loop(lambda x: returned)


@pytest.mark.parametrize(
    ("lower", "upper", "dtype"),
    [(np.int8(0), 200, "int8"), (2**31 - 2, 2**31 + 1, "int32"), (-1, jnp.uint32(3), "uint32")],
)
def test_bound_that_the_index_cannot_reach_is_refused(lower, upper, dtype):
    with pytest.raises(fg.UsageError, match=rf"bound .* which an index of {dtype} cannot reach"):
        fori_loop(lower, upper, lambda i, x: x + 1, 0)


def test_bound_that_a_traced_one_cannot_reach_is_refused():
    with pytest.raises(fg.UsageError, match=r"bound 200, which an index of int8 cannot reach"):
        jax.jit(lambda n: fori_loop(n, 200, lambda i, x: x + 1, 0, max_steps=9))(jnp.int8(0))


@pytest.mark.parametrize("bad", [0, -1, 2.0, None, True, "3", 2**31, jnp.int32(3)])
def test_max_steps_that_is_no_positive_int_is_refused(bad):
    with pytest.raises(fg.UsageError, match="and wants a positive int"):
        while_loop(lambda x: x < 2, lambda x: x + 1, 0, max_steps=bad)
    if bad is not None:
        with pytest.raises(fg.UsageError, match="and wants a positive int"):
            fori_loop(0, 2, lambda i, x: x + 1, 0, max_steps=bad)


def test_other_refusals():
    def step(x):
        return x + 1

    with pytest.raises(fg.UsageError, match="wants 'nan', 'raise', 'ignore' or None"):
        while_loop(lambda x: x < 2, step, 0, max_steps=3, on_max_steps="stop")
    with pytest.raises(fg.UsageError, match="got str in init_val"):
        while_loop(lambda x: True, lambda x: x, "text", max_steps=3)
    with pytest.raises(fg.UsageError, match="and wants integer scalars"):
        fori_loop(0, 2.0, lambda i, x: x, 0)
    with pytest.raises(fg.UsageError, match="bounds of different dtypes"):
        fori_loop(jnp.int32(0), jnp.int16(2), lambda i, x: x, 0)
    with pytest.raises(fg.GradientError, match="transposed only after it is linearised"):
        jax.linear_transpose(lambda x: fori_loop(0, 2, lambda i, x: 2 * x, x), 1.0)(1.0)
    with pytest.raises(fg.UsageError, match="which are 5 steps, and max_steps=3"):
        fori_loop(0, 5, lambda i, x: x, 0, max_steps=3)


# PyTorch.


def test_doubling_loop_of_the_original_against_pytorch(torch):
    def theirs(a):
        b = 2 * a
        while b.norm() < 1000:
            b = 2 * b
        return b.sum() if b.sum() > 0 else 100 * b.sum()

    @jax.jit
    @jax.value_and_grad
    def mine(a):
        b = while_loop(lambda b: jnp.linalg.norm(b) < 1000, lambda b: 2 * b, 2 * a, max_steps=60)
        return jnp.where(jnp.sum(b) > 0, jnp.sum(b), 100 * jnp.sum(b))

    for seed in range(6):
        a = np.random.default_rng(seed).normal(size=3).astype(np.float32)
        tensor = torch.tensor(a, requires_grad=True)
        out = theirs(tensor)
        out.backward()
        np.testing.assert_allclose(mine(a)[0], out.item(), rtol=1e-6)
        np.testing.assert_allclose(mine(a)[1], tensor.grad.numpy(), rtol=1e-6)


# Tags inside.


def halved(x):
    """Halves until below 1; the gradient at the k-th of n values is 2 ** -(n - k)."""
    step = lambda y: fg.retain_grad(y / 2, "y")
    return fg.while_loop(lambda y: y >= 1, step, x, max_steps=5)


@pytest.mark.slow
@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint])
def test_tag_in_a_loop_has_a_row_for_each_step_and_zeros_past_the_last(around):
    _, kept = fg.grad(around(halved), retain="y")(5.0)
    assert kept["y"].value.tolist() == [2.5, 1.25, 0.625, 0.0, 0.0]
    assert kept["y"].grad.tolist() == [0.25, 0.5, 1.0, 0.0, 0.0]
    assert fg.grad(halved, retain="y")(0.5)[1]["y"].grad.tolist() == [0.0] * 5


@pytest.mark.slow
def test_tag_in_a_loop_under_vmap_has_the_gradients_of_each_example():
    xs = jnp.array([5.0, 0.5, 1.5])
    want = [fg.grad(halved, retain="y")(x)[1]["y"].grad for x in xs]
    outside = jax.vmap(fg.grad(halved, retain="y"))(xs)[1]["y"].grad
    inside = fg.grad(lambda xs: jnp.sum(jax.vmap(halved)(xs)), retain="y")(xs)[1]["y"].grad
    assert outside.tolist() == inside.T.tolist() == jnp.stack(want).tolist()


@pytest.mark.slow
def test_tag_in_a_loop_in_a_scan_with_a_pytree_and_an_integer():
    def step(state):
        n, y = state
        return n + 1, fg.retain_grad({"y": y * 3, "n": n}, "t")["y"]

    def fun(x):
        loop = lambda y: fg.while_loop(lambda s: s[0] < 2, step, (jnp.int32(0), y), max_steps=3)[1]
        return jax.lax.scan(lambda y, _: (loop(y), None), x, None, length=2)[0]

    t = fg.grad(fun, retain="t")(1.0)[1]["t"]
    assert t.value["y"].tolist() == [[3.0, 9.0, 0.0], [27.0, 81.0, 0.0]]
    assert t.value["n"].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert t.grad["y"].tolist() == [[27.0, 9.0, 0.0], [3.0, 1.0, 0.0]]
    assert t.grad["n"] is None


@pytest.mark.slow
def test_gradient_retained_in_a_loop_can_be_differentiated():
    def squared(x):
        step = lambda y: fg.retain_grad(y * y, "y")
        return fg.while_loop(lambda y: y < 10, step, x, max_steps=4)

    # y1 = x^2, y2 = x^4: the gradient at y1 is 2 y1 = 2 x^2, its derivative 4 x.
    first = lambda x: fg.grad(squared, retain="y")(x)[1]["y"].grad[0]
    assert first(2.0) == 8.0
    assert jax.grad(first)(2.0) == 8.0


def test_tag_in_a_loop_without_a_bound_is_refused():
    fun = lambda x, n: fg.fori_loop(0, n, lambda i, y: fg.retain_grad(y * 2, "y"), x)
    with pytest.raises(fg.TagError, match=r"'y' .* inside `fori_loop`.*pass max_steps="):
        jax.jit(fg.grad(fun, retain="y"))(1.0, 3)


def test_tag_in_the_condition_of_a_loop_is_refused():
    cond = lambda y: fg.retain_grad(y, "y") < 3
    fun = lambda x: fg.while_loop(cond, lambda y: y * 2, x, max_steps=3, on_max_steps="ignore")
    with pytest.raises(fg.TagError, match="'y'"):
        fg.grad(fun, retain="y")(1.0)


# Meshes as `jax.make_mesh` makes them: shardings are part of types.


@pytest.mark.slow
@pytest.mark.parametrize("spec", [P(), P("d"), P(None, "m"), P("d", "m")], ids=str)
@pytest.mark.parametrize("checkpoints", [None, 3])
def test_gradient_on_a_default_mesh_is_that_without_one(spec, checkpoints):
    def fun(x):
        step = lambda y: jnp.tanh(y) * 0.7
        more = lambda y: jnp.sum(y) > 1.0
        return jnp.sum(while_loop(more, step, x, max_steps=30, checkpoints=checkpoints))

    x = jnp.linspace(0.1, 0.9, 32).reshape(8, 4)
    mesh = jax.make_mesh((4, 2), ("d", "m"))
    on_mesh = jax.device_put(x, jax.NamedSharding(mesh, spec))
    grads = jax.jit(fg.grad(fun))(on_mesh)
    assert_close(jax.device_get(grads), fg.grad(fun)(x))
    assert grads.sharding.is_equivalent_to(on_mesh.sharding, x.ndim)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [None, 2])
def test_examples_on_devices_each_take_their_own_steps(checkpoints):
    def power(n, x):
        return fori_loop(0, n, lambda i, y: 2 * y * y, x, max_steps=9, checkpoints=checkpoints)

    n, x = jnp.arange(16) % 4, jnp.linspace(0.1, 0.5, 16)
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    local = jax.shard_map(jax.vmap(power), mesh=mesh, in_specs=(P("i"), P("i")), out_specs=P("i"))
    grads = jax.jit(fg.grad(lambda x: jnp.sum(local(n, x))))(x)
    assert_close(grads, fg.grad(lambda x: jnp.sum(jax.vmap(power)(n, x)))(x))
