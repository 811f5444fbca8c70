"""`autograph`: which Python it takes, where it stays Python, what it composes with and refuses."""

import functools
import inspect
import subprocess
import sys
import textwrap
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import funcgrad as fg

HERE = __file__


def line_of(fun, text):
    """The line of this file that holds `text` within `fun`."""
    lines, start = inspect.getsourcelines(fun)
    return start + next(k for k, line in enumerate(lines) if text in line)


def compiled(fun, max_steps=20):
    return jax.jit(fg.autograph(fun, max_steps=max_steps))


def agrees(fun, *inputs, max_steps=20):
    """Compiled on traced values it gives what Python gives."""
    for args in inputs:
        args = args if isinstance(args, tuple) else (args,)
        got, want = compiled(fun, max_steps)(*args), fun(*args)
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=str(args))


# It stays Python where Python can decide.


def test_on_python_values_it_is_python():
    def fun(x, kind="sum", *, steps=3):
        out, k = [], 0
        while k < steps:
            out.append(x * k)
            k += 1
        none, empty = None, []
        return {"sum": sum(out), "list": out}[kind], none or kind, empty and x, 0 < x < 3

    same = fg.autograph(fun)
    assert same(2) == fun(2) == (6, "sum", [], True)
    assert same(2, "list", steps=2) == ([0, 2], "list", [], True)
    assert type(same(2)[0]) is int


def test_python_loops_in_a_compiled_function_have_their_effects_once():
    seen = []

    def fun(x):
        rest, k = [1, 2, 3], 0
        while rest:
            seen.append(("pop", rest.pop()))
            x = x * 2
        while k < 2:
            seen.append(("while", k))
            k += 1
        for name in ["a", "b", "c"]:
            if name == "c":
                break
            seen.append(("for", name))
        return x

    assert compiled(fun)(1.0) == 8.0
    pops = [("pop", 3), ("pop", 2), ("pop", 1)]
    assert seen == [*pops, ("while", 0), ("while", 1), ("for", "a"), ("for", "b")]


@pytest.mark.slow
def test_under_gradients_that_are_not_jitted_no_max_steps_is_needed():
    def fun(x):
        while x < 100:
            x = x * x
        return x

    assert jax.grad(fg.autograph(fun))(3.0) == jax.grad(fun)(3.0)
    assert jax.jvp(fg.autograph(fun), (3.0,), (1.0,))[1] == jax.grad(fun)(3.0)


def test_arrays_outside_jit_are_python_values():
    def fun(xs):
        return [x for x in xs if x > 1] or "none"

    assert fg.autograph(fun)(jnp.arange(3.0)) == [2.0]
    assert fg.autograph(fun)(jnp.zeros(3)) == "none"


def test_loop_is_python_until_its_test_becomes_traced():
    def fun(x):
        log, error = [], 1.0
        while error > 0.1:
            log.append(1)
            error, x = abs(x) / 2, x / 2
        return x

    agrees(fun, 3.0, 0.1)


# Statements.


@pytest.mark.slow
def test_else_of_loops():
    def fun(x, n):
        for i in range(n):
            x = x + i
            if x > 10:
                break
        else:
            x = -x
        while x < 20:
            x = x + 5
            if x == 17:
                break
        else:
            x = x + 0.5
        return x

    agrees(fun, (1.0, 3), (1.0, 9), (2.0, 5), (0.0, 0))


@pytest.mark.slow
def test_assignment_in_a_test():
    def fun(x):
        count = 0
        while (y := x * 2) < 100:
            x = y
            count += 1
        if (z := x + y) > 120:
            count = count + 10
        return x, y, z, count

    agrees(fun, 3.0, 70.0)


@pytest.mark.slow
def test_range_in_every_direction():
    def fun(start, stop, step):
        total, last = 0, 99
        for last in range(start, stop, step):
            total = 10 * total + last
        return total, last

    agrees(fun, (0, 4, 1), (9, 2, -3), (3, 3, 1), (5, 0, 1), (1, 8, 3))

    def backwards(n):
        total = 0
        for i in reversed(range(1, n)):
            total = 10 * total + i
        return total

    agrees(backwards, 1, 5)


@pytest.mark.slow
def test_traced_step_of_zero_never_ends():
    def fun(x, step):
        for _ in range(0, 3, step):
            x = x + 1
        return x

    assert compiled(fun)(1.0, 2) == 3.0
    assert jnp.isnan(compiled(fun)(1.0, 0))
    with pytest.raises(ValueError, match="must not be zero"):
        jax.jit(lambda x: fg.autograph(lambda n: list(range(0, n, 0)))(x))(3)


def test_range_that_a_traced_break_leaves_needs_no_max_steps():
    def fun(x):
        for i in range(50):
            if x > 20:
                break
            x = x + i
        return x

    jaxpr = str(jax.make_jaxpr(fg.autograph(fun))(1.0))
    assert jaxpr.count(" gt ") <= 2, "unrolled"
    assert jax.jit(fg.autograph(fun))(1.0) == fun(1.0)


@pytest.mark.slow
def test_range_whose_index_python_needs_is_unrolled():
    def fun(x):
        for i in range(3):
            x = x * [2.0, 3.0, 4.0][i]
            if x > 10:
                break
        return x

    agrees(fun, 1.0, 2.0, 6.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "factor",
    [
        lambda i: {"w0": 2.0, "w1": 3.0, "w2": 4.0}[f"w{i}"],
        lambda i: {0: 2.0, 1: 3.0, 2: 4.0}[i],
        lambda i: jnp.arange(2.0, 5.0)[: i + 1].sum(),
        lambda i: jnp.ones(i + 1).sum(),
    ],
    ids=["name", "key", "slice", "shape"],
)
def test_range_whose_index_is_a_name_a_key_a_bound_or_a_length_is_unrolled(factor):
    def fun(x):
        for i in range(3):
            x = x * factor(i)
            if x > 10:
                break
        return x

    agrees(fun, 1.0, 2.0, 6.0)


@pytest.mark.slow
def test_range_in_a_loop_whose_body_takes_items_is_unrolled():
    def fun(x):
        rest, items = [1.0, 2.0, 4.0, 8.0], iter([1.0, 10.0, 100.0, 1000.0])
        for _ in range(4):
            item = next(items)
            x = x + rest.pop() * item
            if x > 30:
                break
        return x

    agrees(fun, 0.0, 20.0, 40.0)


@pytest.mark.slow
def test_inner_range_of_an_index_needs_no_max_steps():
    def fun(x):
        count = 0
        for i in range(3):
            for j in range(i + 1):
                if x > 5:
                    break
                x, count = x + j, count + 1
            else:
                continue
            break
        return x, count

    agrees(fun, 3.0, 4.5, 9.0, max_steps=None)


@pytest.mark.slow
def test_lists_left_early():
    def fun(x):
        for name, scale in {"a": 2.0, "b": 3.0}.items():
            x = x * scale + len(name)
            if x > 10:
                return x + 0.5
        return x

    agrees(fun, 1.0, 6.0)


@pytest.mark.slow
def test_variable_first_given_a_value_inside_a_loop():
    def fun(x, n):
        for i in range(n):
            if x > 50:
                break
            square = x * x
            if square > 10:
                continue
            last = i
            x = x + square
        return square + last

    agrees(fun, (1.0, 1), (1.0, 3), (1.0, 8))
    assert jnp.isnan(compiled(fun)(1.0, 0))
    with pytest.raises(UnboundLocalError, match="'square'"):
        fg.autograph(fun)(1.0, 0)


def test_variable_given_a_value_as_the_loop_is_left():
    def fun(x):
        while True:
            x = x + 1
            if x > 5:
                found = x * 2
                break
        return found

    agrees(fun, 2.0, 9.0)


def test_variables_of_any_structure():
    def fun(state, n):
        for i in range(n):
            if state["n"] % 2 == 0:
                state = {"n": state["n"] + 1, "pair": (state["pair"][1], state["pair"][0] * i)}
            else:
                state["n"] += 3
                state["pair"] = (state["pair"][0] + 1.0, state["pair"][1])
        return state

    start = {"n": 0, "pair": (1.0, 2.0)}
    got = compiled(fun)(start, 4)
    want = fun(dict(start), 4)
    assert jax.tree.map(float, got) == jax.tree.map(float, want)


@pytest.mark.slow
def test_keys_are_carried():
    def fun(key, n):
        total = 0.0
        for _ in range(n):
            key, draw = jax.random.split(key)
            total = total + jax.random.normal(draw)
        for draw in jax.random.split(key, 3):
            total = total + jax.random.normal(draw)
        return total

    agrees(fun, (jax.random.key(0), 0), (jax.random.key(0), 3))


@pytest.mark.slow
def test_nested_loops_left_early():
    def fun(x, n):
        for i in range(n):
            j = 0
            while j < i:
                x = x * 1.5
                if x > 30:
                    return x, j
                j += 1
            else:
                x = x + 1
        return -x, n

    agrees(fun, (1.5, 0), (1.5, 3), (1.5, 9), (40.0, 3))


@pytest.mark.slow
def test_return_in_with_and_try():
    def fun(x):
        with jax.named_scope("inner"):
            try:
                while x < 10:
                    x = x * 2
                    if x > 7:
                        return x * 10
            finally:
                x = x + 1
        return x

    agrees(fun, 3.0, 5.5, 20.0)


def test_exceptions_that_are_handled():
    def fun(x):
        try:
            half = x / 0 if isinstance(x, int) else x / 2
        except ZeroDivisionError as error:
            half = float(len(str(error)))
        return half if half > 2 else -half

    assert fg.autograph(fun)(3) == fun(3) == 16.0
    agrees(fun, 3.0, 9.0)


@pytest.mark.slow
def test_what_jax_prints_in_a_loop_does_not_unroll_a_step():
    def fun(x):
        while True:
            x = fg.retain_grad(x * 2, "x")
            jax.debug.print("at {}", x)
            if x > 10:
                return x

    _, kept = fg.grad(fg.autograph(fun, max_steps=4), retain="x")(3.0)
    assert kept["x"].grad.tolist() == [2.0, 1.0, 0.0, 0.0]


def test_global_and_nonlocal_variables():
    def fun(n):
        total = 0

        def add(k):
            nonlocal total
            total = total + k

        for i in range(3):
            add(i)
        return total + n

    agrees(fun, 4)


def test_deleted_variable():
    def fun(x):
        y = x
        del y
        return y  # noqa: F821

    with pytest.raises(UnboundLocalError, match="'y'"):
        compiled(fun)(1.0)


# Expressions.


def test_each_operand_of_a_chain_is_evaluated_once():
    calls = []

    def seen(x):
        calls.append(x)
        return x

    def fun(x):
        return seen(0) < seen(x) < seen(3) < seen(4)

    assert fg.autograph(fun)(1)
    assert calls == [0, 1, 3, 4]
    assert not fg.autograph(fun)(5)
    assert calls[4:] == [0, 5, 3]
    agrees(lambda x: 0 < x < 3 < 4, 1, 5, -1)
    assert "a chained comparison" in refused(fun, 1)  # traced, `calls` could be too long


@pytest.mark.slow
def test_truth_of_numbers_and_values_of_and_and_or():
    def fun(n, x):
        while n and x > 0:
            n, x = n - 1, x - 1
        value = n or 7
        other = 2 * x and x + 1
        return value, other, not n, n if not (n and x) else -n

    agrees(fun, (3, 9.0), (9, 3.0), (2, 2.0))


@pytest.mark.slow
def test_built_in_functions_that_choose():
    def fun(x, y):
        checks = [x > 0, y > 0]
        return max(x, y, 1.0), min([x, y]), any(checks), all(c for c in checks), bool(x > y)

    agrees(fun, (2.0, 3.0), (-2.0, 3.0), (-1.0, -2.0))
    gradient = jax.grad(lambda x: jax.jit(fg.autograph(lambda a: max(a, 2 * a)))(x))
    assert (gradient(1.0), gradient(-1.0)) == (2.0, 1.0)


def test_bool_of_what_python_knows_is_a_bool():
    def fun(x):
        return x * (bool(3) + bool([]))

    agrees(fun, 1.0, -1.0)
    assert fg.autograph(lambda: bool("text"))() is True


@pytest.mark.slow
def test_enumerate_and_zip_of_arrays():
    def fun(xs, ys):
        total = 0.0
        for i, (x, (k, y)) in enumerate(zip(xs, enumerate(ys, 5), strict=False), start=1):
            total = total + i * x - k * y
            if total > 30:
                break
        return total

    xs, ys = jnp.array([1.0, 2.0, 9.0]), jnp.array([0.5, 0.25, 0.0, 7.0])
    agrees(fun, (xs, ys), (10 * xs, ys), (xs[:0], ys))
    assert "scan" in str(jax.make_jaxpr(fg.autograph(fun))(xs, ys))


@pytest.mark.slow
def test_comprehensions():
    def fun(xs, x):
        return sum(v * 2 if v > x else v for v in xs) + sum([abs(v) for v in [1, -2] if v < 0])

    agrees(fun, (jnp.arange(4.0), 1.5))


def test_print_of_traced_values_prints_them(capfd):
    def fun(x):
        print("got", "{", x, sep="|")
        print("python", 3)
        while x < 10:
            print("step")
            x = x * 2
        if x > 99:
            print("never")
        return x

    compiled(fun)(2.0)
    jax.effects_barrier()
    printed = sorted(capfd.readouterr().out.splitlines())
    assert printed == ["got|{|2.0", "python 3", "step", "step", "step"]


# What can be converted.


def doubled(x, limit=10, *, scale=1.0):
    while x < limit:
        x = x * 2
    return x * scale


class Model:
    __scale = 3.0

    def __init__(self, factor):
        self.factor = factor

    def grown(self, x):
        while x < 10:
            x = x * self.factor
        return x * self.__scale

    def __call__(self, x):
        return self.grown(x) if x > 0 else -x

    @fg.autograph(max_steps=20)
    def decorated(self, x):
        while x < 10:
            x = x * self.factor
        return x

    @staticmethod
    @fg.autograph
    def static(x):
        return x if x > 0 else -x

    @fg.autograph
    @classmethod
    def of_class(cls, x):
        return x * cls.__scale if x > 0 else -x


class Child(Model):
    def grown(self, x):
        y = super().grown(x)
        for _ in range(2):
            y = super().grown(y)
        return y


def twice(fun):
    @functools.wraps(fun)
    def wrapper(*args, **kwargs):
        return 2 * fun(*args, **kwargs)

    return wrapper


@twice
def decorated(x):
    return x if x > 0 else -x


TWO = (lambda x: x if x > 0 else -x), (lambda x: x if x > 1 else -2 * x)


@pytest.mark.parametrize(
    "fun",
    [
        doubled,
        functools.partial(doubled, limit=50, scale=2.0),
        Model(3.0),
        Model(3.0).grown,
        Child(2.0).grown,
        Child(2.0),
        decorated,
        *TWO,
        lambda x: (lambda y: y if y > 2 else -y)(x),
    ],
)
def test_callables(fun):
    agrees(fun, 1.5, 30.0)


def test_keyword_arguments_and_defaults():
    f = compiled(doubled)
    assert f(3.0) == 12.0
    assert f(3.0, limit=50, scale=2.0) == 192.0


def test_decorator_forms():
    assert jax.jit(Model(2.0).decorated)(3.0) == 12.0
    assert jax.jit(Model.static)(-3.0) == 3.0
    assert jax.jit(Model.of_class)(2.0) == 6.0
    assert fg.autograph(doubled).__name__ == "doubled"
    assert inspect.signature(fg.autograph(doubled)) == inspect.signature(doubled)


def test_closed_over_variables_are_seen_as_they_are_when_called():
    scale = 2.0

    def fun(x):
        return x * scale if x > 0 else scale

    converted = fg.autograph(fun)
    assert jax.jit(converted)(3.0) == 6.0
    scale = 5.0
    assert jax.jit(lambda x: converted(x))(3.0) == 15.0


def test_functions_given_to_jax_are_converted_too():
    def fun(xs):
        return jnp.sum(jax.vmap(doubled)(xs)) + jax.grad(doubled)(xs[0])

    assert compiled(fun)(jnp.array([3.0, 40.0])) == 12.0 + 40.0 + 4.0


def test_function_that_cannot_be_converted_is_called_as_it_is():
    names = {"jnp": jnp}
    exec("def opaque(x): return jnp.sin(x)\ndef bad(x): return 1 if x > 0 else 0", names)

    assert compiled(lambda x: names["opaque"](x) if x > 0 else x)(1.0) == jnp.sin(1.0)
    assert compiled(lambda x: jax.tree.map(names["opaque"], [x])[0])(1.0) == jnp.sin(1.0)
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        compiled(lambda x: names["bad"](x))(1.0)
    assert "whose source cannot be found" in caught.value.__notes__[0]


@pytest.mark.kernel
def test_in_a_notebook_cell():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cell = """
        import jax, funcgrad as fg
        def fun(x):
            while x < 10:
                x = x * 2
            return x
        print(jax.jit(jax.grad(fg.autograph(fun, max_steps=9)))(3.0))
        print(jax.jit(fg.autograph(lambda x: x if x > 0 else -x))(-3.0))
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell))])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    assert "".join(x.text for x in notebook.cells[0].outputs).split() == ["4.0", "3.0"]


# What it composes with.


def relaxed(w, x):
    steps = 0
    while jnp.sum(x) < 10:
        if steps % 2 == 0:
            x = jnp.tanh(w @ x) + x
        else:
            longer = x * 1.5
            x = longer
        steps += 1
    return jnp.sum(x)


W = np.array([[0.5, 0.1], [0.0, 0.4]], np.float32)
X = np.array([[0.5, 1.0], [0.1, 3.0], [2.0, 2.0], [9.0, 9.0]], np.float32)


@functools.cache
def plain_gradients():
    return np.stack([jax.grad(relaxed)(W, x) for x in X])


def in_vmap(f):
    return jax.vmap(jax.jit(jax.grad(f)), (None, 0))(W, X)


def around_vmap(f):
    return jax.grad(lambda w: jnp.sum(jax.vmap(f, (None, 0))(w, X)))(W)


def in_scan(f):
    return jax.grad(lambda w: lax.scan(lambda s, x: (s + f(w, x), None), 0.0, X)[0])(W)


def in_checkpoint(f):
    return jax.grad(jax.checkpoint(lambda w: sum(f(w, x) for x in X)))(W)


def in_shard_map(f):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    local = lambda w, x: f(w, x[0])[None]
    each = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("x")), out_specs=P("x"))
    return jax.grad(lambda w: jnp.sum(each(w, X)))(W)


@pytest.mark.slow
@pytest.mark.parametrize("place", [in_vmap, around_vmap, in_scan, in_checkpoint, in_shard_map])
def test_places(place):
    got = jax.jit(place, static_argnums=0)(fg.autograph(relaxed, max_steps=20))
    want = plain_gradients()
    np.testing.assert_allclose(got, want if np.ndim(got) == 3 else want.sum(0), rtol=1e-4)


@pytest.mark.slow
def test_second_derivatives():
    scaled = lambda f: lambda s: f(s * W, X[0])
    f, want = scaled(fg.autograph(relaxed, max_steps=20)), jax.hessian(scaled(relaxed))(1.0)
    for second in (jax.hessian(f), jax.jacrev(jax.grad(f))):
        np.testing.assert_allclose(jax.jit(second)(1.0), want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("checking_leaks")
def test_no_tracer_leaks():
    f = jax.jit(jax.grad(fg.autograph(relaxed, max_steps=20)))
    np.testing.assert_allclose(f(W, X[0]), plain_gradients()[0], rtol=1e-4)


def test_second_call_traces_nothing():
    traced = []

    def fun(x):
        traced.append(1)
        while x < 3:
            x = x * 2
        return x

    f = jax.jit(jax.grad(fg.autograph(fun, max_steps=4)))
    f(1.0)
    with jax.no_tracing():
        assert f(2.0) == 2.0
    assert len(traced) == 1


@pytest.mark.slow
def test_compiles_to_what_the_loop_written_by_hand_compiles_to():
    def python(w, x, n):
        i = 0
        while i < n:
            x = jnp.tanh(w @ x)
            i += 1
        return jnp.sum(x)

    def by_hand(w, x, n):
        step = lambda s: (s[0] + 1, jnp.tanh(w @ s[1]))
        return jnp.sum(fg.while_loop(lambda s: s[0] < n, step, (0, x), max_steps=99)[1])

    def cost(fun):
        made = jax.jit(jax.grad(fun)).lower(jnp.eye(8), jnp.ones(8), 50).compile()
        return made.cost_analysis()["flops"], made.memory_analysis().temp_size_in_bytes

    assert cost(fg.autograph(python, max_steps=99)) == cost(by_hand)


@pytest.mark.slow
def test_checkpoints_are_passed_on():
    def fun(x, n):
        for i in range(n):
            x = jnp.sin(x) + i
        while x < 9:
            x = x + jnp.cos(x) ** 2 + 1
        return x

    few = jax.jit(jax.grad(fg.autograph(fun, max_steps=20, checkpoints=3)))
    np.testing.assert_allclose(few(1.0, 6), jax.grad(fun)(1.0, 6), rtol=1e-5)

    def along(xs):
        y = xs[0]
        for x in xs:
            y = jnp.tanh(x + y)
        return y

    xs = jnp.linspace(0, 1, 777)
    few = str(jax.make_jaxpr(jax.grad(fg.autograph(along, checkpoints=10)))(xs))
    every = str(jax.make_jaxpr(jax.grad(fg.autograph(along)))(xs))
    assert few != every
    got = jax.grad(fg.autograph(along, checkpoints=10))(xs[:6])
    np.testing.assert_allclose(got, jax.grad(along)(xs[:6]), rtol=1e-5)


def test_in_double_precision():
    with jax.enable_x64(True):
        f = compiled(doubled)
        assert f(0.1) == doubled(0.1)
        assert f(0.1).dtype == jnp.float64


@pytest.mark.slow
def test_branch_not_taken_has_no_part_in_gradients_under_vmap():
    def fun(x):
        return jnp.sqrt(x) if x > 0 else x

    f, xs = fg.autograph(fun), jnp.array([-1.0, 0.0, 4.0])
    inside, around = jax.vmap(jax.grad(f)), jax.grad(lambda xs: jnp.sum(jax.vmap(f)(xs)))
    assert inside(xs).tolist() == around(xs).tolist() == [1.0, 1.0, 0.25]


@pytest.mark.slow
def test_more_steps_than_max_steps_give_nan_and_nan_gradients():
    def carried(x):
        while x < 50:
            x = x + 1
        return x

    def returned(x):
        while True:
            x = x + 1
            if x > 50:
                return x

    def found(x):
        while True:
            x = x + 1
            if x > 50:
                y = x
                break
        return y

    def counted(x, n=9):
        for _ in range(jnp.int32(n)):
            x = x + 1
        return x

    for fun in (carried, returned, found, counted):
        # Whether a loop was left is a bool, and to use an unfinished one is an error by default.
        how = {"on_max_steps": "nan"} if fun in (returned, found) else {}
        few, enough = (
            jax.jit(fg.value_and_grad(fg.autograph(fun, max_steps=n, **how))) for n in (6, 60)
        )
        assert all(jnp.isnan(v) for v in few(2.0)), fun
        assert enough(2.0) == (fun(2.0), 1.0), fun


@pytest.mark.slow
def test_weak_types_are_kept():
    def fun(x, n):
        total = 0
        for i in range(n):
            if i == 3:
                break
            y = x * i
            total += y
        return total if total > 0 else y

    assert compiled(fun)(1.5, jnp.int32(5)).weak_type
    assert compiled(fun)(jnp.bfloat16(1.5), 5).dtype == jnp.bfloat16


# Tags and hooks.


def tagged(x):
    while x < 100:
        x = fg.retain_grad(x * 2, "y")
    return x


def tagged_until_break(x):
    while True:
        x = fg.retain_grad(x * 2, "y")
        if x >= 100:
            break
    return x


def tagged_in_range(x):
    for _ in range(5):
        x = fg.retain_grad(x * 2, "y")
        if x >= 100:
            return x
    return x


def tagged_in_traced_range(x, n=3):
    for _ in range(jnp.int32(n)):
        x = fg.retain_grad(x * 2, "y")
    return x


@pytest.mark.slow
@pytest.mark.parametrize(
    "fun", [tagged, tagged_until_break, tagged_in_range, tagged_in_traced_range]
)
@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint])
def test_tag_in_a_loop_has_a_row_for_each_step(fun, around):
    _, kept = fg.grad(around(fg.autograph(fun, max_steps=5)), retain="y")(20.0)
    assert kept["y"].value.tolist() == [40.0, 80.0, 160.0, 0.0, 0.0]
    assert kept["y"].grad.tolist() == [4.0, 2.0, 1.0, 0.0, 0.0]


@pytest.mark.slow
def test_tag_along_an_array_has_a_row_for_each_row():
    def fun(xs):
        total = 0.0
        for x in xs:
            if x > 2:
                break
            total = total + fg.retain_grad(x * x, "square")
        return total

    _, kept = fg.grad(fg.autograph(fun), retain="square")(jnp.array([1.0, 2.0, 3.0]))
    assert kept["square"].value.tolist() == [1.0, 4.0, 0.0]
    assert kept["square"].grad.tolist() == [1.0, 1.0, 0.0]


def test_tag_in_a_branch_not_taken_is_zero():
    def fun(x):
        if x > 0:  # noqa: SIM108
            y = fg.retain_grad(3 * x, "above")
        else:
            y = fg.retain_grad(5 * x, "below")
        return y * y

    _, kept = fg.grad(fg.autograph(fun), retain=...)(2.0)
    assert (kept["above"].value, kept["above"].grad) == (6.0, 12.0)
    assert (kept["below"].value, kept["below"].grad) == (0.0, 0.0)


def test_hook_in_a_loop():
    def fun(x, n):
        for _ in range(n):
            x = fg.register_hook(2 * x, lambda g: -g)
        return x

    f = jax.jit(fg.grad(fg.autograph(fun, max_steps=5)))
    assert (f(1.0, 2), f(1.0, 3)) == (4.0, -8.0)


# Errors.


def refused(fun, *args, error=fg.FuncgradError, max_steps=20):
    with pytest.raises(error) as caught:
        compiled(fun, max_steps)(*args)
    return str(caught.value)


def test_branches_that_disagree():
    def fun(x):
        if x > 0:
            a, b, c, d = jnp.ones(3), 1, {"u": x}, "text"
        else:
            a, b, c, d = jnp.ones(2), jnp.ones(1, bool), {"v": x}, "other"
        return a, b, c, d

    message = refused(fun, 1.0, error=fg.TreeError)
    assert f"{HERE}:{line_of(fun, 'if x > 0')} that disagree" in message
    assert "\n  a: float32[3] where it holds, float32[2] where not" in message
    assert "\n  b: int32[] where it holds, bool[1] where not" in message
    assert "\n  c: {'u': float32[]} where it holds, {'v': float32[]} where not" in message
    assert "\n  d: str 'text' where it holds, str 'other' where not" in message


def test_return_on_one_path_only():
    def fun(x):
        if x > 0:
            return x

    message = refused(fun, 1.0, error=fg.TreeError)
    assert "the returned value: float32[] where it holds, None where not" in message


def test_variable_of_one_branch_is_an_error_only_where_it_is_read():
    def unread(x):
        if x > 0:
            y = 2 * x
            x = y
        return x

    def read(x):
        if x > 0:
            y = 2 * x
        return y + x

    agrees(unread, 1.0, -1.0)
    message = refused(read, 1.0, error=UnboundLocalError)
    assert (
        f"reads `y`, which has a value in one branch only of the traced condition at {HERE}:"
        in (message)
    )
    assert f":{line_of(read, 'if x > 0')};" in message


def test_loop_that_changes_a_variable():
    def fun(x, n):
        name, shape, best = "a", x, None
        for _ in range(n):
            name, shape, best = name + "b", jnp.stack([x, x]), x
        return name, shape, best

    message = refused(fun, 1.0, 3, error=fg.TreeError)
    assert f"{HERE}:{line_of(fun, 'for _')}" in message
    assert "\n  name: str 'a' before a step, str 'ab' after it" in message
    assert "\n  shape: float32[] before a step, float32[2] after it" in message
    assert "\n  best: None before a step, float32[] after it" in message


def test_variable_that_only_the_first_step_sets():
    def fun(xs):
        for k, x in enumerate(xs):
            if k == 0:
                best = x
                low = x
            else:
                best, low = x, jnp.minimum(best, x)
        return best, low

    def traced(n):
        for k in range(n):
            if k == 0:
                best, low = k, k
            else:
                best, low = k, jnp.minimum(best, k)
        return best, low

    agrees(fun, jnp.arange(3.0))  # unrolled, as under `jax.jit`
    message = refused(traced, 3, error=UnboundLocalError)
    assert "reads `best` before it has a value, in the traced branch or loop at" in message
    assert f"{HERE}:{line_of(traced, 'if k == 0')}" in message


@pytest.mark.slow
def test_taking_items_in_a_traced_loop():
    def stack(x):
        rest = [1.0, 2.0, 3.0]
        while rest:
            x = x + rest.pop()
            if x > 4:
                break
        return x

    def iterator(x):
        items = iter([1.0, 2.0, 3.0])
        while x < 4:
            x = x + next(items)
        return x

    def along(xs):
        items, total = iter([1.0, 2.0, 3.0]), 0.0
        for x in xs:
            total = total + x * next(items)
        return total

    def of_the_step(xs):
        total = 0.0
        for x in xs:
            rest = [x, 2 * x]
            total = total + rest.pop() * next(iter({"a": 2.0}.values()))
        return total

    message = refused(stack, 1.0, error=fg.TreeError)
    assert f"the traced loop at {HERE}:{line_of(stack, 'while')}, in which" in message
    assert "\n  rest: [float32[], float32[], float32[]] before a step, [float32[], float" in message
    message = refused(iterator, 1.0, error=fg.UsageError)
    assert f"loop at {HERE}:{line_of(iterator, 'while')} that takes a further item" in message
    assert "item of `items`, which" in message
    agrees(along, jnp.arange(3.0))
    agrees(of_the_step, jnp.arange(3.0))


@pytest.mark.slow
def test_setting_items_in_a_traced_branch_or_loop():
    def left(x):
        rows = [0.0] * 4
        for i in range(4):
            rows[i] = x
            x = x * 2
            if x > 5:
                break
        return rows[0], rows[3]

    def named(x):
        found = {"a": 0.0, "b": 1.0}
        if x > 0:
            for key in found:
                found[key] = x
        return found["a"], found["b"]

    def taken(x, rows):
        rows, found, mine = list(rows), {"a": x, "n": 0}, {}
        for i in range(3):
            if x > 2 * i:
                rows[i] = x
            x = x * 2
        while found["a"] < 5:
            found["a"], found["n"] = found["a"] * 2, found["n"] + 1
        if x > 3:
            mine = {}
            for key in ("u", "v"):
                mine[key] = x
        else:
            mine = {"u": x, "v": 2 * x}
        return rows, found["a"], found["n"], mine["u"], mine["v"]

    agrees(left, 1.0, 0.1, 9.0)
    agrees(named, 1.0, -1.0)
    agrees(taken, (1.0, (0.0, 1.0, 2.0)), (0.3, (0.0, 1.0, 2.0)))


def test_dtype_that_cannot_be_promoted():
    def fun(n):
        total = jnp.int32(0)
        for i in range(n):
            total = jnp.float32(i)
        return total

    message = refused(fun, 3, error=fg.TreeError)
    assert "total: int32[] before a step, float32[] after it" in message


def test_no_max_steps():
    def loop(x):
        while x < 3:
            x = x + 1
        return x

    def left(x, n):
        for _ in range(n):
            if x > 3:
                break
            x = x + 1
        return x

    message = refused(loop, 1.0, error=fg.UsageError, max_steps=None)
    assert (
        f"`while` on traced values at {HERE}:{line_of(loop, 'while')} and no max_steps" in message
    )
    message = refused(left, 1.0, 3, error=fg.UsageError, max_steps=None)
    assert f"{HERE}:{line_of(left, 'for _')} and no max_steps" in message


def test_condition_of_several_truth_values():
    def fun(x):
        return 1 if x > 0 else 0

    message = refused(fun, jnp.ones(3), error=fg.UsageError)
    assert f"condition of bool[3] at {HERE}:{line_of(fun, 'return')}" in message


def test_raise_and_assert():
    def raising(x):
        if x < 0:
            raise ValueError("negative")
        return x

    def asserting(x):
        assert x > 0, "not positive"
        return x

    with pytest.raises(ValueError, match="negative"):
        fg.autograph(raising)(-1.0)
    with pytest.raises(AssertionError, match="not positive"):
        fg.autograph(asserting)(-1.0)
    message = refused(raising, 1.0, error=fg.UsageError)
    assert f"a `raise` at {HERE}:{line_of(raising, 'raise V')}" in message
    assert f"at {HERE}:{line_of(raising, 'if x')}, where" in message
    message = refused(asserting, 1.0, error=fg.UsageError)
    assert f"`assert` on a traced value at {HERE}:{line_of(asserting, 'assert x')}" in message


@pytest.mark.slow
def test_recursion_under_a_traced_condition():
    def factorial(n):
        return 1 if n == 0 else n * factorial(n - 1)

    assert fg.autograph(factorial)(5) == 120
    message = refused(factorial, 3, error=fg.UsageError)
    assert "calls itself" in message
    assert f"{HERE}:{line_of(factorial, 'return')}" in message


def test_errors_of_the_users_own_point_at_the_users_lines():
    def fun(x):
        while x < 10:
            y = x * 2
            x = jnp.ones(3) @ jnp.ones(2) + y
        return x

    with pytest.raises(TypeError, match="contracting") as caught:
        compiled(fun)(1.0)
    frames = [f for f in traceback.extract_tb(caught.value.__traceback__) if f.filename == HERE]
    names = [(f.name, f.lineno) for f in frames]
    assert ("fun", line_of(fun, "while")) in names
    assert ("loop_body", line_of(fun, "jnp.ones(3)")) in names


async def asynchronous(x):
    return x


def generating(x):
    yield x


def matching(x):
    match x:
        case 1:
            return 2
    return 3


def assigning(x):
    return x > 0 and (y := x) and y


@pytest.mark.parametrize(
    ("fun", "message"),
    [
        (asynchronous, "an `async` function"),
        (generating, "`yield`"),
        (matching, r"`match` \(write it as"),
        (assigning, "`:=` in an operand that may not be evaluated"),
        (eval("lambda x: x"), "whose source cannot be found"),
        (len, "wants a function written in Python"),
        (jax.jit(doubled), r"jax.jit\(funcgrad.autograph\(fun\)\)"),
        (fg.value_and_grad(doubled), r"convert it first, .*grad\(funcgrad.autograph\(fun, max_"),
        (3, "wants a function written in Python"),
    ],
)
def test_what_is_not_taken(fun, message):
    with pytest.raises(fg.UsageError, match=message):
        fg.autograph(fun)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3"])
def test_max_steps_that_is_no_positive_int(bad):
    with pytest.raises(fg.UsageError, match="wants a positive int"):
        fg.autograph(doubled, max_steps=bad)


@pytest.mark.slow
def test_without_the_library_it_names_the_extra():
    code = "import sys; sys.modules['malt'] = None\nimport funcgrad\nfuncgrad.autograph(print)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'funcgrad[autograph]'" in done.stderr


def test_traced_range_outside_a_for_statement():
    with pytest.raises(fg.UsageError, match="only as what a `for` statement goes over"):
        compiled(lambda n: list(range(n)))(3)
    with pytest.raises(fg.UsageError, match="wants integer scalars"):
        compiled(lambda n: list(range(n)))(3.0)
