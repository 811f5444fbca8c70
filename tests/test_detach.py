"""`detach`, `no_grad` and `set_data`."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_same
from jax import lax

import funcgrad as fg
from funcgrad import _reached

X = jnp.array([1.0, 2.0, 3.0])


@pytest.mark.slow
def test_detach_keeps_the_value_and_stops_the_gradient():
    fun = lambda x: jnp.sum(fg.detach(x * x) * x)
    assert_same(fg.value_and_grad(fun)(X), (jnp.float32(36.0), X * X))
    assert_same(jax.jvp(fun, (X,), (X,))[1], jnp.sum(X**3))


def test_detach_on_a_pytree_leaves_what_is_no_array():
    tree = {"x": X, "n": 3, "name": "text", "k": None, "i": jnp.array([1])}
    got = fg.detach(tree)
    assert (got["n"], got["name"], got["k"]) == (3, "text", None)
    assert_same((got["x"], got["i"]), (X, jnp.array([1])))
    assert_same(fg.grad(lambda x: jnp.sum(fg.detach({"x": x})["x"] + x))(X), jnp.ones(3))


@pytest.mark.parametrize("value", [-0.0, np.nan, np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_detach_and_no_grad_keep_every_bit(value, dtype):
    x = jnp.array([value, 1.0], dtype)
    assert_same(fg.detach(x), x)
    assert_same(fg.no_grad(lambda x: x)(x), x)


@pytest.mark.parametrize("weak", [True, False])
def test_weak_type_is_kept(weak):
    x = jnp.asarray(2.0) if weak else jnp.float32(2.0)
    assert fg.detach(x).weak_type == weak
    assert fg.no_grad(lambda x: x)(x).weak_type == weak


def test_stop_gradient_is_detach():
    assert fg.stop_gradient is fg.detach


def test_detach_of_an_input_makes_its_gradient_zero_at_second_order():
    fun = lambda x: fg.detach(x) ** 2 * x
    assert fg.grad(fun)(3.0) == 9.0
    assert fg.grad(fg.grad(fun))(3.0) == 0.0


def test_no_grad_stops_arguments_keywords_and_what_is_closed_over():
    def fun(x):
        scale = fg.no_grad(lambda a, *, b: a * b["x"] * x)(x, b={"x": x})
        return jnp.sum(scale * x)

    assert_same(fg.grad(fun)(X), X**3)
    assert_same(jax.jvp(fun, (X,), (jnp.ones(3),))[1], jnp.sum(X**3))


def test_no_grad_around_a_while_loop_that_closes_over_a_differentiated_value():
    def fun(x):
        halve = fg.no_grad(lambda: lax.while_loop(lambda c: c > x[0], lambda c: c / 2, x[2] * 8))
        return jnp.sum(x * halve())

    assert_same(fg.grad(fun)(X), jnp.full(3, 0.75))
    assert_same(jax.jit(fg.grad(fun))(X), jnp.full(3, 0.75))


@pytest.mark.parametrize("decorate", [fg.no_grad, fg.no_grad()])
def test_no_grad_as_a_decorator_keeps_name_and_docstring(decorate):
    @decorate
    def double(x):
        """Twice x."""
        return 2 * x

    assert (double.__name__, double.__doc__) == ("double", "Twice x.")
    assert_same(fg.grad(lambda x: jnp.sum(double(x) * x))(X), 2 * X)


def test_no_grad_returns_what_the_function_returns():
    assert fg.no_grad(lambda: None)() is None
    assert fg.no_grad(lambda x: {"n": 3, "s": "text"})(X) == {"n": 3, "s": "text"}


def test_no_grad_as_a_with_block_is_refused_and_shows_the_function():
    with pytest.raises(fg.UsageError, match=r"`with` block.*wants a function") as error:  # noqa: SIM117
        with fg.no_grad():
            pass
    assert error.match(r"funcgrad\.no_grad\(lambda x: x\*\*3\)\(x\)")


def test_no_grad_of_an_array_is_refused():
    with pytest.raises(fg.UsageError, match=r"`no_grad` got float32\[3\], and wants a function"):
        fg.no_grad(X)


@pytest.mark.slow
def test_set_data_has_the_new_value_and_the_old_gradient():
    fun = lambda x: jnp.sum(fg.set_data(2 * x, x * 100) ** 2)
    # 2 * (100 x) reaches the old value, and 2 of it x.
    assert_same(fg.grad(fun)(X), 400 * X)
    assert_same(jax.jit(fg.grad(fun))(X), 400 * X)
    assert_same(jax.jvp(fun, (X,), (X,))[1], jnp.sum(400 * X * X))


def test_no_gradient_reaches_the_new_data():
    assert_same(fg.grad(lambda v: jnp.sum(fg.set_data(X, v) ** 2))(2 * X), jnp.zeros(3))


@pytest.mark.slow
def test_set_data_at_second_order():
    second = jax.hessian(lambda x: fg.set_data(x, 10 * x) ** 3)(jnp.float32(2))
    # The first gradient is 3 u^2 with u = 20, the second 6 u.
    assert_same(second, jnp.float32(120.0))


@pytest.mark.parametrize("value", [-0.0, np.nan, np.inf, 1e-42])
@pytest.mark.parametrize("old", [0.0, np.nan, np.inf])
def test_set_data_keeps_every_bit_whatever_the_old_value(value, old):
    x, v = jnp.full(2, old, jnp.float32), np.full(2, value, np.float32)
    assert_same(fg.set_data(x, jnp.asarray(v)), v)
    assert_same(jax.jit(fg.set_data)(x, v), v)
    assert_same(fg.grad(lambda x: jnp.sum(fg.set_data(x, v) * 3))(x), jnp.full(2, 3.0))


def test_set_data_on_a_pytree_with_an_integer():
    def fun(x):
        new = fg.set_data({"x": x, "n": jnp.array(1)}, {"x": x * 0, "n": jnp.array(5)})
        return jnp.sum((new["x"] + 3) * new["n"].astype(jnp.float32))

    assert_same(fg.value_and_grad(fun)(X), (jnp.float32(45.0), jnp.full(3, 5.0)))


def test_python_number_as_data_takes_the_dtype_of_the_old():
    got = fg.set_data(jnp.bfloat16(1), 2)
    assert (got.dtype, float(got)) == (jnp.bfloat16, 2.0)


@pytest.mark.slow
def test_set_data_where_only_one_of_the_two_is_batched():
    old = lambda x: jnp.sum(jax.vmap(lambda v: fg.set_data(x, v) ** 2)(jnp.stack([X, 2 * X])))
    assert_same(fg.grad(old)(X), 6 * X)
    new = lambda x: jnp.sum(jax.vmap(lambda a: fg.set_data(a, X) ** 2)(jnp.stack([x, 5 * x])))
    assert_same(fg.grad(new)(X), 12 * X)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (X[:2], r"got float32\[2\], wanted float32\[3\]"),
        (X.astype(jnp.bfloat16), r"got bfloat16\[3\], wanted float32\[3\]"),
        (jnp.arange(3), r"got int32\[3\], wanted float32\[3\]"),
        (1.0, r"got float32\[\], wanted float32\[3\]"),
        ((X,), r"\[0\]: got float32\[3\], wanted nothing"),
    ],
)
def test_data_that_does_not_fit_is_refused(new, message):
    with pytest.raises(fg.TreeError, match="`set_data` got new data that does not fit") as error:
        fg.set_data(X, new)
    assert error.match(message)


def test_what_names_a_dtype_or_has_one_passes_through_untouched():
    class Dense:
        dtype = jnp.float32

    layer = Dense()
    cast = lambda layer, x, dtype: (layer, x.astype(dtype), x.dtype)
    for dtype in (jnp.float32, "float32", jnp.dtype("float32")):
        same, value, got = fg.no_grad(cast)(layer, X, dtype=dtype)
        assert same is layer
        assert got == jnp.float32
        assert_same(value, X)


def test_data_that_is_text_is_refused():
    with pytest.raises(fg.FuncgradError, match="`set_data`"):
        fg.set_data(X, "text")


# What is no pytree.


class Encoding:
    def __init__(self, hidden):
        self.hidden = hidden


class Slotted:
    __slots__ = ("hidden",)

    def __init__(self, hidden):
        self.hidden = hidden


async def later(x):
    return x**2


HIDING = {
    "an object": lambda x: Encoding(x**2),
    "slots": lambda x: Slotted(x**2),
    "an object in an object": lambda x: Encoding([Encoding(x**2)]),
    "a closure": lambda x: lambda: x**2,
    "a partial": lambda x: functools.partial(jnp.add, x**2),
    "a method": lambda x: Encoding(x**2).__init__,
    "a set": lambda x: frozenset([Slotted(x**2)]),
    "in a dict": lambda x: {"out": [x, Encoding(x**2)]},
    "a generator": lambda x: (y for y in [x]),
    "a coroutine": later,
}


@pytest.mark.parametrize("kind", HIDING)
def test_what_would_let_a_gradient_through_unseen_is_refused(kind):
    make = HIDING[kind]
    with pytest.raises(fg.UsageError, match="`no_grad` got"):
        fg.grad(lambda x: (fg.no_grad(lambda: make(x))(), x)[1])(3.0)
    with pytest.raises(fg.UsageError, match="`detach` got"):
        fg.grad(lambda x: (fg.detach(make(x)), x)[1])(3.0)


def test_objects_without_a_traced_value_come_back_as_they_are():
    kept = [Encoding(np.ones(2)), jnp.tanh, functools.partial(jnp.add, 1.0), "text", None, dict]
    fun = lambda x: (fg.detach(kept), fg.no_grad(lambda x: kept)(x), x)
    inside = []
    jax.make_jaxpr(lambda x: inside.append(fun(x)))(1.0)
    assert inside[0][:2] == (kept, kept)


def test_the_error_says_where_the_value_is():
    with pytest.raises(fg.UsageError, match=r"Encoding at \['out'\]\[1\].*value \.hidden in it"):
        fg.grad(lambda x: (fg.detach(HIDING["in a dict"](x)), x)[1])(3.0)


# What is written elsewhere than into the result.


class Kept:
    pass


class Logging:
    def __init__(self):
        self.log = []

    def __call__(self, x):
        self.log.append(x * x)


GLOBAL = []


def appended(x):
    log = []
    fg.no_grad(lambda: log.append(x * x))()
    return log[0]


def set_in_a_dict(x):
    state = {"ema": 0.0}

    @fg.no_grad
    def update():
        state["ema"] = x * x

    update()
    return state["ema"]


def set_by_nonlocal(x):
    found = 0.0

    @fg.no_grad
    def update():
        nonlocal found
        found = x * x

    update()
    return found


def set_on_an_object(x):
    kept = Kept()

    @fg.no_grad
    def update():
        kept.v = (x * x, 1)

    update()
    return kept.v[0]


def appended_to_a_global(x):
    GLOBAL.clear()
    fg.no_grad(lambda: GLOBAL.append(x * x))()
    return GLOBAL.pop()


def appended_by_a_method(x):
    logging = Logging()
    fg.no_grad(logging)(x)
    return logging.log[0]


def dict_that_is_an_argument(x):
    def update(state, x):
        state["ema"] = 0.5 * state["ema"] + x * x

    state = {"ema": 0.0 * x}
    fg.no_grad(update)(state, x)
    return state["ema"]


def list_in_a_dict_that_is_an_argument(x):
    state = {"log": [x]}
    fg.no_grad(lambda state, x: state["log"].append(x * x))(state, x)
    assert len(state["log"]) == 2
    return state["log"][1] + 0 * fg.detach(state["log"][0])


def deque_that_is_an_argument(x):
    log = collections.deque()
    fg.no_grad(lambda log, x: log.append(x * x))(log, x)
    return log[0]


def appended_to_a_default(x):
    log = []
    fg.no_grad(lambda log=log: log.append(x * x))()
    return log[0]


def set_on_a_class(x):
    fg.no_grad(lambda: setattr(Logging, "last", x * x))()
    return Logging.last


def set_behind_much_else(x):
    much, late = [{} for _ in range(12_000)], [[{}]]
    fg.no_grad(lambda: late[0][0].update(h=x * x, count=len(much)))()
    return late[0][0]["h"]


WRITING = [
    appended_to_a_default,
    set_on_a_class,
    set_behind_much_else,
    appended,
    set_in_a_dict,
    set_by_nonlocal,
    set_on_an_object,
    appended_to_a_global,
    appended_by_a_method,
    dict_that_is_an_argument,
    list_in_a_dict_that_is_an_argument,
    deque_that_is_an_argument,
]


@pytest.mark.parametrize("fun", WRITING, ids=lambda fun: fun.__name__)
def test_what_is_written_elsewhere_carries_no_gradient_either(fun):
    """As in PyTorch, where 9 is the gradient of x**2, detached, times x at 3."""
    product = lambda x: fun(x) * x
    assert float(product(jnp.array(3.0))) == 27.0
    assert float(jax.grad(product)(3.0)) == 9.0
    assert float(jax.jit(fg.grad(product))(3.0)) == 9.0


def test_what_is_not_written_to_keeps_its_gradient():
    def fun(x):
        state = {"a": x, "b": 0.0}
        fg.no_grad(lambda s: s.update(b=s["a"] * s["a"]))(state)
        return state["a"] * state["b"]

    assert float(jax.grad(fun)(3.0)) == 9.0


def test_what_moves_in_a_list_or_dict_keeps_its_gradient():
    def fun(x):
        log, state = [2 * x], {"a": 3 * x}
        fg.no_grad(lambda: (log.insert(0, x), state.update(b=state.pop("a"))))()
        return log[1] + state["b"]

    assert float(jax.grad(fun)(3.0)) == 5.0


def test_a_dict_among_the_arguments_may_lose_items():
    state = {"a": 1.0, "b": [2.0]}
    fg.no_grad(lambda s: (s.pop("a"), s["b"].clear()))(state)
    assert state == {"b": []}


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 9_000, 20_000])
def test_what_was_there_before_keeps_its_gradient_however_much_is_reached(count):
    def fun(x):
        early, late = [Kept() for _ in range(count)], [[x * k] for k in range(50)]

        @fg.no_grad
        def clears():
            early.clear()  # so that more of the rest is looked into afterwards
            return late[0][0] + x

        return clears() + sum(one[0] for one in late)

    assert float(jax.grad(fun)(1.0)) == sum(range(50))


def test_of_globals_only_what_a_function_names_is_reached():
    double = lambda x: 2 * x
    assert _reached.reached(double) == []
    named = _reached.reached(lambda x: double(x) * X)
    assert [slot.name for slot in named] == [".double", "['X']"]


class Lazy(collections.abc.MutableMapping, dict):
    """Runs code on every look, which nobody but the function may do."""

    __slots__ = ("empty", "kept")

    def __getattribute__(self, name):
        if name == "__class__":  # which `isinstance` asks for
            return Lazy
        raise AssertionError(name)

    __getattr__ = __getitem__ = __iter__ = __len__ = __delitem__ = __getattribute__
    __setitem__ = dict.__setitem__

    def __repr__(self):
        raise AssertionError

    __hash__ = object.__hash__


def test_a_look_runs_no_code_of_objects():
    def fun(x):
        lazy = Lazy()
        dict.__setitem__(lazy, lazy, 2 * x)
        object.__setattr__(lazy, "kept", x)

        @fg.no_grad
        def sets():
            dict.__setitem__(lazy, 1, x * x)
            object.__setattr__(lazy, "kept", x * x * x)

        sets()
        kept = object.__getattribute__(lazy, "kept")
        return dict.__getitem__(lazy, lazy) + dict.__getitem__(lazy, 1) + kept

    assert float(jax.grad(fun)(3.0)) == 2.0


def test_a_global_that_was_not_there_before_carries_no_gradient():
    def fun(x):
        def sets():
            global NEW
            NEW = x * x

        fg.no_grad(sets)()
        return NEW * x

    assert float(jax.grad(fun)(3.0)) == 9.0
