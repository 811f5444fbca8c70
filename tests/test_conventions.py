"""`funcgrad.conventions`: JAX's values, PyTorch's gradients, and the page that tells of both."""

import functools

import conventions_grid as grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import funcgrad as fg
from funcgrad import conventions
from funcgrad.conventions._rules import with_rule

inf, nan = float("inf"), float("nan")


def of_singular_values(kink):
    return kink.ours == "norm(x, 2)" and np.ndim(kink.at[0]) == 2


PAGE = grid.written()
FIRST = [kink for kink in grid.DIFFERENT if kink.order == 1]
REAL = [kink for kink in FIRST if not grid.is_complex(kink)]
# PyTorch has no second derivative of `cdist`, and neither library one of equal singular values.
TWICE = [k for k in REAL if "cdist" not in k.theirs and not of_singular_values(k)]


@pytest.fixture
def wide():
    with grid.setting():
        yield


@pytest.fixture
def oracle(torch, wide):
    return torch


def assert_equal(kinks, ours, theirs, rtol=1e-9, atol=1e-12):
    """Fails with each call, point and pair of gradients that are not equal; NaN equals NaN."""
    wrong = [
        f"{grid.call(kink)} at {grid.shown(kink.at)}: got {grid.shown(a)}, wanted {grid.shown(b)}"
        for kink, a, b in zip(kinks, ours, theirs, strict=True)
        if not grid.equal(a, b, rtol, atol)
    ]
    assert not wrong, "\n".join(wrong)


# The page.


def column(name, shows):
    place = 3 + grid.TABLES[name].columns.index(shows)
    return [row[place] for row in PAGE[name]]


def test_the_page_has_each_call_and_point():
    for name, table in grid.TABLES.items():
        assert [tuple(row[:3]) for row in PAGE[name]] == [grid.names(kink) for kink in table.kinks]


@pytest.mark.parametrize("name", grid.TABLES)
def test_pytorch_gives_what_the_page_says(oracle, name):
    shows = grid.TABLES[name].columns[0]
    assert shows(grid.TABLES[name].kinks) == column(name, shows)


# JAX 0.12 gives what PyTorch does.
MENDED = ("sign(", "hypot(", "ldexp(", "i0(", "ndtri(", "gammaln(", "quantile(")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["different", "idioms", "other"])
def test_jax_gives_what_the_page_says(wide, name):
    kinks, theirs = grid.TABLES[name].kinks, column(name, grid.torch_shown)
    newer = jax.__version_info__ >= (0, 12)
    told = [
        theirs[i].partition(" (")[0] if newer and kink.ours.startswith(MENDED) else cell
        for i, (kink, cell) in enumerate(zip(kinks, column(name, grid.jax_shown), strict=True))
    ]
    assert grid.jax_shown(kinks) == told


@pytest.mark.slow
def test_funcgrad_gives_what_the_page_says(wide):
    assert grid.ours_shown(grid.DIFFERENT) == column("different", grid.ours_shown)


@pytest.mark.slow
def test_where_the_libraries_agree_jax_and_funcgrad_give_what_the_page_says(wide):
    assert grid.jax_shown(grid.AGREED) == column("agreed", grid.reverse_shown)
    assert grid.ours_shown(grid.AGREED) == column("agreed", grid.reverse_shown)


def test_every_row_is_in_the_right_table():
    for row in PAGE["different"]:
        theirs, jax_gives, here = row[3:]
        assert here == theirs.partition(" (")[0] != jax_gives, row
    for row in PAGE["other"] + PAGE["idioms"]:
        assert row[3].partition(" (")[0] != row[4], row


def near(kinks, seed, numbers):
    """Each call at other points of the same shapes, where all of them are defined."""
    rng = np.random.default_rng(seed)
    positive = lambda kink: "gaussian" in kink.theirs
    one = lambda kink, v: (np.abs if positive(kink) else np.asarray)(numbers(rng, np.shape(v)))
    return [kink._replace(at=tuple(one(kink, v) for v in kink.at)) for kink in kinks]


# PyTorch rounds the sixth of `hardsigmoid` to single precision.
SIXTH = 1e-7


@pytest.mark.slow
def test_what_to_write_has_the_values_and_gradients_of_pytorch(oracle):
    """At the kinks, at other zeros and ties, and elsewhere."""
    kinks = grid.rewritten(grid.IDIOMS)
    ties = near(kinks, 0, lambda rng, shape: rng.integers(-2, 3, shape) / 2)
    every = kinks + ties + near(kinks, 1, lambda rng, shape: rng.normal(size=shape))
    ours = grid.jax_gradients(every, ours=True)
    assert_equal(every, ours, map(grid.torch_gradients, every), rtol=SIXTH)
    value = lambda kink: lambda *args: jnp.sum(grid.jax_function(kink, ours=True)(*args))
    values = grid.compiled([value(kink) for kink in every], [grid.arrays(kink) for kink in every])
    theirs = [grid.torch_function(kink)(*grid.tensors(kink)).sum().item() for kink in every]
    np.testing.assert_allclose(values, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_idioms_have_the_values_of_pytorch_but_for_a_forgotten_eps(oracle):
    value = lambda kink: lambda *args: jnp.sum(grid.jax_function(kink, ours=False)(*args))
    functions, points = zip(*((value(k), grid.arrays(k)) for k in grid.IDIOMS), strict=True)
    theirs = [grid.torch_function(k)(*grid.tensors(k)).sum().item() for k in grid.IDIOMS]
    finite = np.isfinite(ours := np.asarray(grid.compiled(functions, points)))
    assert [k.ours for k, ok in zip(grid.IDIOMS, finite, strict=True) if not ok] == [
        "jnp.log(jax.nn.softmax(x))[0]"
    ]
    np.testing.assert_allclose(ours[finite], np.asarray(theirs)[finite], atol=2e-6)


@pytest.mark.slow
def test_what_to_write_has_the_same_gradient_in_forward_mode(wide):
    kinks = [k for k in grid.rewritten(grid.IDIOMS) if "set_data" not in k.ours]
    both = [grid.jax_gradients(kinks, ours=True, differentiate=d) for d in (jax.jacfwd, jax.grad)]
    assert_equal(kinks, *both)


@pytest.mark.slow
def test_where_they_agree_they_agree_at_other_ties_too(oracle):
    """Of a tie in a longer array either library may pick another element than in a short one."""
    drawn = [kink for kink in grid.AGREED if not grid.is_complex(kink)]
    size = {0: (9,), 1: (9,), 2: (3, 3)}
    drawn = near(drawn, 0, lambda rng, shape: rng.integers(-2, 3, size[len(shape)]) / 2)
    ours = grid.jax_gradients(drawn, ours=True)
    assert_equal(drawn, ours, map(grid.torch_gradients, drawn), rtol=SIXTH)


@pytest.mark.slow
def test_bounds_of_hard_tanh_take_what_the_clipped_value_does_not(wide):
    x = jnp.array([-3.0, -2.0, 0.0, 2.0, 3.0])
    gradients = jax.grad(lambda *a: jnp.sum(conventions.hard_tanh(*a)), (0, 1, 2))(x, -2.0, 2.0)
    assert [g.tolist() for g in gradients] == [[0, 0, 1, 0, 0], 2, 2]


def public():
    return [name for name in vars(conventions) if not name.startswith("_")]


@pytest.mark.parametrize("name", public())
def test_every_function_has_an_example_and_a_row(name):
    told = getattr(conventions, name).__doc__
    assert ">>>" in told
    assert "Stands for `torch." in told
    alias = {"absolute": "abs", "atan2": "arctan2", "pow": "power"}.get(name, name)
    assert any(f"{alias}(" in kink.ours for kink in grid.DIFFERENT)


def test_conventions_is_an_attribute_of_funcgrad():
    assert fg.conventions is conventions


# Transforms at kinks.


@pytest.mark.slow
def test_forward_mode_gives_what_reverse_mode_gives(wide):
    kinks = [kink for kink in grid.DIFFERENT if not grid.is_complex(kink)]
    both = [grid.jax_gradients(kinks, ours=True, differentiate=d) for d in (jax.jacfwd, jax.grad)]
    for index, kink in enumerate(kinks):
        if kink.at == (0.0, -1.0) or kink.ours == "xlogy(x, y)":
            # infinite or NaN, and forward mode multiplies it by 0
            both[0][index] = both[1][index]
    assert_equal(kinks, *both)


@pytest.mark.slow
def test_vmap(wide):
    """A batch of the kink and a point beside it, against one at a time."""
    kinks = FIRST[::3]
    each = [[[a + step for a in grid.arrays(kink)] for kink in kinks] for step in (0, 0.25)]
    gradients = [grid.gradient(kink, ours=True) for kink in kinks]
    batch = jax.tree.map(lambda *points: jnp.stack(points), *each)
    batched = grid.compiled([jax.vmap(f) for f in gradients], batch)
    for index, points in enumerate(each):
        part = jax.tree.map(lambda g, index=index: g[index], batched)
        assert_equal(kinks, part, grid.compiled(gradients, points))


@pytest.mark.slow
def test_not_compiled(wide):
    some = FIRST[::6]
    got = [grid.gradient(kink, ours=True)(*grid.arrays(kink)) for kink in some]
    assert_equal(some, got, grid.jax_gradients(some, ours=True))


AT_NAN = [
    *grid.kinks("max(x, axis=0)", "torch.max(x, 0).values", grid.NANS),
    *grid.kinks("max(x)", "torch.max(x)", grid.NANS),
    *grid.kinks("min(x, axis=0)", "torch.min(x, 0).values", grid.NANS),
    *grid.kinks("min(x)", "torch.min(x)", grid.NANS),
    *grid.kinks("norm(x, 1)", "torch.linalg.norm(x, 1)", grid.NANS),
    *grid.kinks("norm(x, inf)", "torch.linalg.norm(x, inf)", grid.NANS),
    *grid.kinks("leaky_relu(x)", "F.leaky_relu(x)", grid.NANS),
    *grid.kinks("hard_tanh(x)", "F.hardtanh(x)", grid.NANS),
    *grid.kinks("elu(x)", "F.elu(x)", grid.NANS),
    *grid.kinks("selu(x)", "F.selu(x)", grid.NANS),
    *grid.kinks("celu(x)", "F.celu(x)", grid.NANS),
    *grid.kinks("clip(x, 0.0, 1.0)", "torch.clamp(x, 0.0, 1.0)", grid.NANS),
]


def test_gradients_at_nan(oracle):
    """JAX's own at some of these depend on what the compiler makes of 0 times NaN."""
    assert_equal(AT_NAN, grid.jax_gradients(AT_NAN, ours=True), map(grid.torch_gradients, AT_NAN))


@pytest.mark.slow
def test_second_derivatives_at_kinks(oracle):
    """PyTorch's where they are finite; 0 where only the first derivative is."""
    ours = grid.jax_gradients([kink._replace(order=2) for kink in TWICE], ours=True)
    theirs = [grid.torch_gradients(kink._replace(order=2)) for kink in TWICE]
    for index, kink in enumerate(TWICE):
        if all(np.isfinite(g).all() for g in grid.torch_gradients(kink)):
            theirs[index] = [np.nan_to_num(g, nan=0.0) for g in theirs[index]]
    assert_equal(TWICE, ours, theirs)


# Random points.


def at_random(kinks, seed, *, halves, dtype=np.float64):
    """Each call once, at other points and with more elements, all of them numbers of `dtype`."""
    rng = np.random.default_rng(seed)
    number = lambda shape: rng.integers(-3, 4, shape) / 2 if halves else rng.normal(size=shape)

    def one(value):
        shape = {0: (9,), 1: (7,), 2: (3, 4)}[np.ndim(value)]
        if np.iscomplexobj(np.asarray(value)):
            return number(shape) + 1j * number(shape)
        return np.asarray(jnp.asarray(number(shape), jnp.float32).astype(dtype), np.float64)

    kind = lambda kink: (grid.call(kink), np.ndim(kink.at[0]), grid.is_complex(kink))
    calls = {kind(kink): kink for kink in kinks}.values()
    return [kink._replace(at=tuple(map(one, kink.at))) for kink in calls]


@pytest.mark.slow
@pytest.mark.parametrize("halves", [True, False], ids=["ties and zeros", "normal"])
def test_random_points(oracle, halves):
    drawn = at_random(grid.DIFFERENT, 0, halves=halves)
    if halves:  # equal singular values have any singular vectors
        drawn = [kink for kink in drawn if not of_singular_values(kink)]
    ours = grid.jax_gradients(drawn, ours=True)
    assert_equal(drawn, ours, map(grid.torch_gradients, drawn), rtol=1e-8)


@pytest.mark.slow
def test_second_derivatives_at_random_points(oracle):
    drawn = [kink._replace(order=2) for kink in at_random(TWICE, 0, halves=False)]
    ours = grid.jax_gradients(drawn, ours=True)
    assert_equal(drawn, ours, map(grid.torch_gradients, drawn), rtol=1e-7, atol=1e-9)


# The steps of a bfloat16 are 2**-8 of a number and of a float16 2**-11; sums and powers add some.
ROUNDING = {"float32": 3e-5, "bfloat16": 4e-2, "float16": 5e-3}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ROUNDING)
def test_other_dtypes(torch, dtype):
    single = lambda kink: any(name in kink.theirs for name in ("cdist", "float_power"))
    drawn = [
        kink
        for kink in at_random(REAL, 5, halves=True, dtype=dtype)
        if not of_singular_values(kink) and (dtype == "float32" or not single(kink))
    ]
    found = grid.jax_gradients(drawn, ours=True, dtype=dtype)
    assert {str(g.dtype) for ours in found for g in ours} == {dtype}
    ours = [[g.astype(np.float64) for g in gradients] for gradients in found]
    theirs = [grid.torch_gradients(kink, dtype) for kink in drawn]
    assert_equal(drawn, ours, theirs, ROUNDING[dtype], ROUNDING[dtype])


# Values: JAX's, bit for bit.

VALUES = [
    ("abs", jnp.abs, {}),
    ("absolute", jnp.abs, {}),
    ("sign", jnp.sign, {}),
    ("angle", jnp.angle, {}),
    ("angle", jnp.angle, {"deg": True}),
    ("leaky_relu", jax.nn.leaky_relu, {"negative_slope": 0.3}),
    ("hard_tanh", jax.nn.hard_tanh, {}),
    ("hard_tanh", lambda x, **bounds: jnp.clip(x, *bounds.values()), {"min_val": -1, "max_val": 1}),
    ("elu", jax.nn.elu, {"alpha": 0.7}),
    ("celu", jax.nn.celu, {"alpha": 0.7}),
    ("selu", jax.nn.selu, {}),
    ("soft_sign", jax.nn.soft_sign, {}),
    ("clip", jnp.clip, {}),
    ("clip", jnp.clip, {"min": -0.5, "max": 1}),
    ("clip", jnp.clip, {"max": 0.5}),
    *[(name, getattr(jnp, name), {}) for name in ("max", "min", "median", "nanmedian", "nanmean")],
    *[
        (name, getattr(jnp, name), {"axis": axis, "keepdims": keepdims})
        for name in ("max", "min", "median", "nanmedian", "nanmean", "std")
        for axis, keepdims in ((0, False), ((-1, 1), True))
    ],
    ("max", jnp.max, {"axis": 1, "initial": -0.5, "where": np.arange(4)[:, None] > 1}),
    ("min", jnp.min, {"axis": (1, 2), "initial": 0.5, "where": np.arange(4)[:, None] > 1}),
    ("nanmean", jnp.nanmean, {"axis": 1, "where": np.arange(4)[:, None] > 1}),
    ("sort", jnp.sort, {}),
    ("sort", jnp.sort, {"descending": True}),
    ("sort", jnp.sort, {"axis": 0, "descending": True}),
    ("sort", jnp.sort, {"axis": None, "descending": True}),
    ("cummax", jax.lax.cummax, {}),
    ("cummax", jax.lax.cummax, {"axis": 2, "reverse": True}),
    ("cummin", jax.lax.cummin, {"axis": 1}),
    ("cummin", jax.lax.cummin, {"axis": 1, "reverse": True}),
    ("std", jnp.std, {"ddof": 1}),
    ("std", jnp.std, {"axis": 1, "where": np.arange(4)[:, None] > 1}),
    ("norm", jnp.linalg.norm, {}),
    *[
        (name, getattr(jnp.linalg, name), {"ord": p, "axis": axis, "keepdims": keepdims})
        for p in (0, 1, 2, 3, -1, 0.5, inf, -inf)
        for name, axis, keepdims in (("norm", 1, False), ("vector_norm", (0, 2), True))
    ],
    *[
        ("norm", jnp.linalg.norm, {"ord": p, "axis": axis, "keepdims": keepdims})
        for p in (None, "fro", "nuc", 1, -1, 2, -2, inf, -inf)
        for axis, keepdims in (((2, 0), False),)
    ],
    ("vector_norm", jnp.linalg.vector_norm, {}),
    ("matrix_norm", jnp.linalg.matrix_norm, {}),
    ("matrix_norm", jnp.linalg.matrix_norm, {"ord": 2, "keepdims": True}),
]
REAL_ONLY = {"clip", "leaky_relu", "hard_tanh", "celu", "selu", "elu", "cummax", "cummin"}
REAL_ONLY |= {"median", "nanmedian", "nanmean", "max", "min", "sort", "soft_sign", "std"}


AROUND = [
    jax.jit,
    lambda f: jax.jit(lambda *args: jax.vjp(f, *args)[0]),
]


def assert_same_values(names, ours, theirs, *args, around=AROUND):
    """The same bits, dtype and weak type, alone and with a gradient wanted."""
    every = lambda functions: lambda *args: [f(*args) for f in functions]
    for transform in around:
        got, want = transform(every(ours))(*args), transform(every(theirs))(*args)
        for name, a, b in zip(names, got, want, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            assert jax.typeof(a).weak_type == jax.typeof(b).weak_type, name
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


def is_of(dtype, name, options):
    """Whether JAX has the function for that dtype."""
    if dtype == "bfloat16":
        singular = name in ("norm", "matrix_norm") and options.get("ord") in ("nuc", 2, -2)
        return name != "angle" and not (singular and isinstance(options.get("axis", ()), tuple))
    return dtype == "float32" or name not in REAL_ONLY


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_values_are_those_of_jax(dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 4, 3)) / 2
    x = x + 1j * rng.normal(size=x.shape) if dtype == "complex64" else x
    x = jnp.asarray(x, jnp.complex64 if dtype == "complex64" else jnp.float32).astype(dtype)
    taken = [value for value in VALUES if is_of(dtype, value[0], value[2])]
    ours = [functools.partial(getattr(conventions, name), **options) for name, _, options in taken]
    theirs = [functools.partial(reference, **options) for _, reference, options in taken]
    assert_same_values(taken, ours, theirs, x, around=AROUND if dtype == "float32" else AROUND[:1])


BINARY = ["fmax", "fmin", "arctan2", "atan2", "hypot", "copysign", "power", "pow", "float_power"]
BINARY += ["xlogy", "xlog1py"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_of_two_are_those_of_jax(dtype):
    points = np.array([0.0, -0.0, 1.0, -1.5, 2.0, inf, -inf, nan])
    x, y = (jnp.asarray(a.ravel(), jnp.float32).astype(dtype) for a in np.meshgrid(points, points))
    original = lambda name: getattr(jnp, name, None) or getattr(jax.scipy.special, name)
    ours, theirs = ([of(name) for name in BINARY] for of in (conventions.__dict__.get, original))
    assert_same_values(BINARY, ours, theirs, x, y)
    for exponent in (2.0, 2, 0.5, 0):
        with_it = lambda f, exponent=exponent: lambda x: f(x, exponent)
        assert_same_values(BINARY, map(with_it, ours), map(with_it, theirs), x, around=[jax.jit])


@pytest.mark.parametrize("name", ["abs", "hard_tanh", "max", "std", "norm"])
def test_python_numbers_and_integers(name):
    """A Python number stays a weak type; an integer is no floating number where JAX's is none."""
    places = (jnp, jax.nn, jnp.linalg)
    (reference,) = (getattr(place, name) for place in places if hasattr(place, name))
    ours, plain = getattr(conventions, name), [lambda f: f]
    if name != "norm":
        assert_same_values([name], [ours], [reference], 1.5, around=plain)
    integers = lambda f: lambda x: f(x.astype(int))
    assert_same_values(
        [name], [integers(ours)], [integers(reference)], jnp.array([-2.0, 3.0]), around=plain
    )


# What the tables do not show.


@pytest.mark.slow
def test_options_take_part_in_the_gradient():
    x = jnp.array([[3.0, 1.0, 3.0], [2.0, 3.0, 2.0]])
    total = lambda **options: jax.grad(lambda x: jnp.sum(conventions.max(x, **options)))(x).tolist()
    assert total(axis=1) == [[1, 0, 0], [0, 1, 0]]
    assert total(axis=-1, keepdims=True) == [[1, 0, 0], [0, 1, 0]]
    assert total(axis=np.int64(1)) == [[1, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(total(axis=(0, 1)), [[1 / 3, 0, 1 / 3], [0, 1 / 3, 0]], rtol=1e-6)
    masked = {"axis": 1, "where": jnp.array([False, True, True]), "initial": 2.5}
    assert total(**masked) == [[0, 0, 1], [0, 1, 0]]
    assert total(**(masked | {"initial": 5.0})) == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["power", "float_power"])
def test_an_unsigned_exponent_does_not_wrap(name):
    gradient = lambda n: jax.grad(lambda x: jnp.sum(getattr(conventions, name)(x, n)))
    x = jnp.array([2.0, 0.0, -3.0])
    with jax.numpy_dtype_promotion("standard"):
        for one in (jnp.uint8, jnp.uint32, np.uint8):
            assert gradient(one(0))(x).tolist() == [0, 0, 0]
            assert gradient(one(1))(x).tolist() == [1, 1, 1]
            assert gradient(one(3))(x).tolist() == [12, 0, 27]


@pytest.mark.slow
def test_a_median_over_several_axes_shares_among_equals():
    x = jnp.array([[[1.0, 5.0], [2.0, 2.0]], [[2.0, 0.0], [7.0, 1.0]]])
    gradient = jax.grad(lambda x: conventions.median(x, axis=(0, 2))[1])(x)
    assert gradient.tolist() == [[[0, 0], [0.5, 0.5]], [[0, 0], [0, 0]]]
    even = jax.grad(conventions.median)(jnp.array([4.0, 1.0, 1.0, 3.0, 3.0, 3.0]))
    assert even.tolist() == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    apart = jax.grad(conventions.median)(jnp.array([1.0, 1.0, 2.0, 2.0]))
    assert apart.tolist() == [0.25, 0.25, 0.25, 0.25]


@pytest.mark.slow
def test_a_running_maximum_in_reverse_gives_to_the_one_next_to_it():
    x = jnp.array([2.0, 2.0, 1.0])
    gradient = jax.jacobian(lambda x: conventions.cummax(x, reverse=True))(x)
    assert gradient.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [2.0, 2, 0.0, 3.0, np.float32(2.0)])
def test_a_constant_exponent_of_a_negative_base_brings_no_nan(exponent):
    constant = jnp.float32(exponent)
    for fun in (
        lambda x: conventions.power(x, exponent),
        lambda x: conventions.power(x, constant),
        jax.jit(lambda x: conventions.power(x, constant)),
        lambda x: jax.lax.scan(lambda c, n: (conventions.power(c, n), None), x, constant[None])[0],
    ):
        assert jax.grad(fun)(-2.0) == exponent * (-2.0) ** (float(exponent) - 1)


@pytest.mark.slow
def test_second_derivatives_of_powers_are_those_of_calculus(wide):
    """At an exponent of 0 too, where PyTorch loses the mixed one: d2 x**y / dx dy = 1 / x."""
    hessian = jax.jit(jax.hessian(conventions.power, (0, 1)))(2.0, 0.0)
    np.testing.assert_allclose(hessian, [[0, 0.5], [0.5, np.log(2) ** 2]])
    x, y = jnp.array([0.5, 2.0, 3.0]), jnp.array([1.5, -2.0, 2.5])
    for order in (jax.jacfwd, jax.jacrev):
        ours, theirs = (
            order(jax.grad(lambda x, y, f=f: jnp.sum(f(x, y)), (0, 1)), (0, 1))(x, y)
            for f in (conventions.power, jnp.power)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.slow
def test_a_gradient_penalty_through_a_norm():
    """Third order, mixed modes: the norm of the gradient of a norm is 1 and stays so."""
    norm_of_gradient = lambda x: conventions.norm(jax.grad(conventions.norm)(x))
    x = jnp.array([3.0, 4.0])
    assert norm_of_gradient(x) == pytest.approx(1.0)
    np.testing.assert_allclose(
        jax.jacfwd(jax.grad(norm_of_gradient))(x), np.zeros((2, 2)), atol=1e-6
    )
    assert jnp.isfinite(jax.grad(norm_of_gradient)(jnp.zeros(2))).all()


@pytest.mark.slow
def test_complex_gradients_under_fg_grad_are_those_of_pytorch(torch):
    z = np.array([3 + 4j, 0, 1j], np.complex64)
    t = torch.tensor(z, requires_grad=True)
    (torch.linalg.norm(t, 1) + torch.linalg.norm(t) + torch.linalg.norm(t, 0.5)).backward()
    norm = conventions.norm
    ours = fg.grad(lambda z: norm(z, 1) + norm(z) + norm(z, 0.5))(z)
    np.testing.assert_allclose(ours, t.grad.numpy(), rtol=1e-5)


@pytest.mark.slow
def test_gradients_of_slopes_and_alphas():
    """PyTorch has none: against differences."""
    x = jnp.array([-2.0, -0.5, 0.0, 1.5])
    for fun in (conventions.leaky_relu, conventions.elu, conventions.celu):
        check_grads(lambda a, fun=fun: fun(x, a), (jnp.float32(0.7),), 1, atol=1e-2, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "fmax", "arctan2", "hypot", "copysign", "power", "xlogy"])
def test_operands_broadcast(name):
    x, y = jnp.array([[0.5], [2.0]]), jnp.array([1.0, 3.0, 4.0])
    fun = lambda x, y: jnp.sum(jnp.sin(getattr(conventions, name)(x, y)))
    check_grads(fun, (x, y), 2, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", ["max", "min", "median", "nanmedian", "nanmean", "std"])
def test_out_is_refused(name):
    with pytest.raises((NotImplementedError, ValueError), match="out"):
        getattr(conventions, name)(jnp.ones(2), out=jnp.ones(()))


def test_wrong_orders_and_axes_are_refused():
    with pytest.raises(ValueError, match="order"):
        conventions.norm(jnp.ones((2, 2)), 3)
    with pytest.raises(ValueError, match="order"):
        conventions.norm(jnp.ones(2), "nuc")
    with pytest.raises(ValueError, match="axes"):
        conventions.norm(jnp.ones((2, 2, 2)), 2)
    with pytest.raises(ValueError, match="axis 3"):
        conventions.max(jnp.ones(2), axis=3)
    with pytest.raises(ValueError, match="zero-size"):
        conventions.max(jnp.ones(0))


@pytest.mark.parametrize(
    ("shape", "ord", "axis"),
    [((), inf, None), ((3,), 1, (0, 1)), ((3,), 2, (0, 1)), ((2, 2), 1, (1, 1)), ((2,), -inf, 1)],
)
def test_norm_refuses_what_jax_refuses(shape, ord, axis):
    with pytest.raises(ValueError, match=r"ax[ei]s") as theirs:
        jnp.linalg.norm(jnp.ones(shape), ord, axis)
    with pytest.raises(ValueError, match=r"ax[ei]s") as ours:
        conventions.norm(jnp.ones(shape), ord, axis)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.slow
def test_nothing_leaks_and_nothing_is_traced_twice(checking_leaks):
    traces = []

    @jax.jit
    def step(x):
        traces.append(None)
        return jax.grad(lambda x: conventions.norm(x) + conventions.max(x, 0) * conventions.std(x))(
            x
        )

    for _ in range(2):
        step(jnp.zeros(3))
    assert len(traces) == 1


@pytest.mark.slow
def test_the_value_alone_compiles_to_the_program_of_jax():
    """Nothing of a rule is left in a program that takes no gradient."""
    kinks = [kink for kink in REAL if "norm(x, inf)" not in kink.ours]
    points = [grid.arrays(kink, "float32") for kink in kinks]

    def cost(ours):
        functions = [grid.jax_function(kink, ours=ours) for kink in kinks]
        every = lambda points: [f(*args) for f, args in zip(functions, points, strict=True)]
        return jax.jit(every).lower(points).compile().cost_analysis()

    ours, theirs = cost(True), cost(False)
    assert ours["flops"] == theirs["flops"]
    assert ours["bytes accessed"] == theirs["bytes accessed"]


@pytest.mark.slow
def test_the_tester_fails_on_another_rule():
    """A derivative that is off by 0.05%, or half of a tie, is told from PyTorch's."""
    off = with_rule(jnp.abs, lambda t, out, x: t * 1.0005 * jnp.sign(x))
    ours, right = (np.asarray(jax.grad(f)(2.0)) for f in (off, conventions.abs))
    assert not grid.equal([ours], [right])
    shared, first = (
        jax.grad(lambda x, f=f: f(x, 0))(jnp.ones(2)) for f in (jnp.max, conventions.max)
    )
    assert not grid.equal([shared], [first])
