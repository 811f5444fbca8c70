"""What is read of an equation: what it is called, where it comes from, what it does alone."""

import weakref
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from closeness import assert_same
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import funcgrad as fg
from funcgrad import _jax

X = jnp.array([1.0, 2.0, 3.0])


def equations(fun, *args):
    return _jax.equations(jax.make_jaxpr(fun)(*args))


def equation(fun, *args):
    (found,) = equations(fun, *args)
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pjit", "jit"),
        ("jit", "jit"),
        ("remat2", "checkpoint"),
        ("checkpoint", "checkpoint"),
        ("eval_jaxpr", "call"),
        ("shard_map", "shard_map"),
        ("sin", "sin"),
    ],
)
def test_kind_does_not_change_with_the_release(name, kind):
    primitive = SimpleNamespace(name=name)
    eqn = SimpleNamespace(primitive=primitive, params={}, invars=[], outvars=[])
    assert _jax.Equation(None, eqn).kind == kind


@pytest.mark.parametrize(
    ("fun", "kind"),
    [
        (jax.jit(jnp.tanh), "jit"),
        (jax.checkpoint(jnp.tanh), "checkpoint"),
        (lambda x: lax.map(jnp.tanh, x), "scan"),
        (lambda x: checkpoint_name(x, "x"), "name"),
    ],
)
def test_kind_on_this_jax(fun, kind):
    assert equation(fun, X).kind == kind


def test_two_views_of_an_equation_are_equal():
    program = jax.make_jaxpr(lambda x: jnp.sin(x) + 1)(X)
    first, second = _jax.equations(program), _jax.equations(program)
    assert first == second
    assert first[0] != first[1]
    assert {first[0]: "sin"}[second[0]] == "sin"


def test_the_parameters_of_primitives_of_jax_are_not_to_be_read():
    with pytest.raises(KeyError, match="sin is no primitive of funcgrad"):
        assert equation(jnp.sin, X).own
    assert equation(lambda x: fg.retain_grad(x, "t"), X).own["name"] == "t"


def test_parameters_are_shown_but_for_programs_functions_and_none():
    assert equation(lambda x: x**3, X).shown == {"y": "3"}
    hook = equation(lambda x: fg.register_hook(x, lambda g: g * 2), X)
    assert not {"0x", "lambda"} & set(" ".join(hook.shown.values()).split())
    checkpoint = equation(jax.checkpoint(jnp.tanh), X)
    assert "policy" not in checkpoint.shown
    assert not any("tanh" in text for text in checkpoint.shown.values())


def test_the_function_that_an_equation_calls_is_told():
    def inner(x):
        return jnp.sin(x)

    assert equation(jax.jit(inner), X).function == "inner"
    assert equation(jax.checkpoint(inner), X).function == "inner"


def test_an_equation_is_a_program_of_the_variables_it_reads():
    program = jax.make_jaxpr(lambda x, y: (x * x, y + 2.0))(X, X)
    square, added = (each.alone() for each in _jax.equations(program))
    first, second = _jax.inputs(program)
    assert (square[1], added[1]) == ([first], [second])
    assert_same(_jax.as_function(added[0])(X), [X + 2])


def test_an_equation_is_evaluated_whatever_it_reads_twice_or_holds():
    square, added = equations(lambda x, y: (x * x, y + 2.0), X, X)
    assert_same(square.evaluate([X, X]), [X * X])
    assert_same(added.evaluate([X, 2.0]), [X + 2])


@pytest.mark.usefixtures("current_forms")
def test_recomputation_is_told_from_the_first_computation():
    fun = jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.sin(jnp.sin(x)))))
    assert sum(each.recomputes for each in equations(fun, X)) == 1


def test_scopes_are_those_of_the_user_alone():
    def fun(x):
        with jax.named_scope("a"), jax.named_scope("b"):
            return jax.vmap(jnp.sin)(x)

    assert equation(fun, X).scopes == ("a", "b")


def test_the_calls_behind_an_equation_are_told():
    def inner(x):
        return jnp.sin(x)

    frames = equation(lambda x: inner(x), X).frames
    here = [frame for frame in frames if frame.file == __file__]
    assert [frame.function for frame in here[:2]] == ["inner", "<lambda>"]
    line = Path(__file__).read_text().splitlines()[here[0].line - 1]
    assert line[here[0].column : here[0].end_column] == "jnp.sin(x)"


def test_the_transformations_around_an_equation_are_told():
    found = equations(jax.vmap(jax.grad(lambda x: jnp.sin(jnp.sin(x)))), X)
    assert found[0].transforms == ["vmap", "jvp"]
    assert found[-1].transforms == ["vmap", "transpose", "jvp"]


def test_equations_are_found_everywhere_behind_those_that_hold_them():
    fun = jax.jit(lambda x: lax.cond(x > 0, jnp.sin, lambda x: lax.map(jnp.cos, x[None])[0], x))
    paths = ["/".join(e.kind for e in path) for path in _jax.everywhere(jax.make_jaxpr(fun)(1.0))]
    assert {"jit", "jit/cond", "jit/cond/sin", "jit/cond/scan/cos"} <= set(paths)
    assert paths.index("jit/cond") < paths.index("jit/cond/sin")


def test_a_program_is_evaluated_with_values_of_any_kind():
    program = jax.make_jaxpr(lambda x, y: (jnp.sin(x) * 2.0 + y, 3.0))(1.0, 2.0)
    apply = lambda equation, operands: [f"{equation.name}({', '.join(operands)})"]
    found = _jax.interpret(program, ["x", "y"], apply, lambda number: f"{float(number)}")
    assert found == ["add(mul(sin(x), 2.0), y)", "3.0"]


def test_a_value_that_nothing_reads_any_more_is_let_go():
    class Held:
        """Something that can be referred to weakly."""

    def chain(x):
        for _ in range(5):
            x = jnp.sin(x)
        return x

    made, alive = [], []

    def apply(equation, operands):
        result = Held()
        made.append(weakref.ref(result))
        alive.append(sum(ref() is not None for ref in made))
        return [result]

    _jax.interpret(jax.make_jaxpr(chain)(1.0), [Held()], apply, lambda number: number)
    assert max(alive) == 2
