"""Programs as values: traced as JAX traces, cut, pruned and opened without another result."""

import jax
import jax.numpy as jnp
import pytest
from closeness import assert_same
from jax import lax

from funcgrad import _jax
from funcgrad._jax.trace import programs_in

X = jnp.array([1.0, 2.0, 3.0])


def test_a_program_is_traced_as_make_jaxpr_traces_it():
    outer = jnp.arange(3.0)

    def fun(x, n, key):
        with jax.named_scope("inner"):
            y = jnp.where(x > n, x * outer, 2.0)
        return [y, n + 1, 3, jax.random.fold_in(key, n), jax.jit(jnp.sin)(y)]

    operands = [X, 2, jax.random.key(0)]
    want = jax.make_jaxpr(fun)(*operands)
    for given in (operands, [*map(jax.typeof, operands)]):
        with jax.named_scope("outer"):
            got = _jax.trace(fun, given)
        assert str(got) == str(want)
        assert got.out_avals == want.out_avals
        assert [id(x) for x in got.consts] == [id(x) for x in want.consts]
        stacks = [[str(e.source_info.name_stack) for e in j.eqns] for j in (got, want)]
        assert stacks[0] == stacks[1]
        assert "inner" in stacks[0]


def test_consts_become_leading_inputs():
    program = jax.make_jaxpr(lambda y: X * y)(2.0)
    opened = _jax.without_consts(program)
    assert list(opened.consts) == []
    assert_same(_jax.as_function(opened)(*program.consts, 2.0), [2 * X])


def test_used_inputs_look_into_bodies():
    fun = lambda a, b, c: lax.scan(lambda s, x: (s * a, x), b, X)[0]
    assert _jax.used_inputs(jax.make_jaxpr(fun)(1.0, 2.0, 3.0)) == [True, True, False]


def test_dependencies_are_told_output_by_output():
    program = jax.make_jaxpr(lambda a, b: (a * 2, a + b, 3.0))(1.0, 2.0)
    assert _jax.dependencies(program) == [[True, False], [True, True], [False, False]]


def test_a_pruned_program_gives_what_is_wanted_from_what_is_kept():
    program = jax.make_jaxpr(lambda a, b: (a * 2, b + 1))(1.0, 2.0)
    whole, kept = (_jax.prune(program, [False, True], k) for k in (None, [False, True]))
    assert _jax.as_function(whole)(1.0, 2.0) == _jax.as_function(kept)(2.0) == [3.0]


@pytest.mark.parametrize("share", [False, True])
def test_a_program_is_cut_at_chosen_equations(share):
    program = jax.make_jaxpr(lambda x, y: (jnp.cos(jnp.sin(x) * y) + y, x))(X, X)
    names = [equation.name for equation in _jax.equations(program)]
    pieces = _jax.cut(program, [name == "mul" for name in names], share)
    assert [piece.equation for piece in pieces] == [None, names.index("mul"), None]
    env = dict(zip(_jax.inputs(program), [X, 2 * X], strict=True))
    for piece in pieces:
        operands = [env[v] for v in piece.reads]
        results = piece.run(*operands) if piece.run else [operands[0] * operands[1]]
        env.update(zip(piece.makes, results, strict=True))
    got = [env[v] for v in _jax.outputs(program)]
    assert_same(got, _jax.as_function(program)(X, 2 * X))


def test_the_program_inside_a_jit_around_the_whole_is_found():
    fun = jax.jit(jax.jit(lambda x, y: x * y))
    inside = _jax.inside_jit(jax.make_jaxpr(fun)(1.0, 2.0))
    assert [equation.name for equation in _jax.equations(inside)] == ["mul"]
    partly = jax.make_jaxpr(lambda x, y: fun(y, x))(1.0, 2.0)
    assert _jax.inside_jit(partly) is partly


def test_programs_are_found_however_deep_they_lie_in_the_parameters():
    program = jax.make_jaxpr(jnp.sin)(1.0)
    assert len(programs_in({"a": (1, {"b": [program]}), "c": program.jaxpr})) == 2


def test_the_function_that_a_program_was_traced_from_is_told():
    def named(x, weights):
        return x * weights

    program = jax.make_jaxpr(named)(1.0, 2.0)
    assert _jax.function_name(program) == ("named", __file__)
    assert _jax.argument_names(program, 2) == ["x", "weights"]
    assert _jax.argument_names(program, 3) == ["", "", ""]


def test_what_is_found_in_a_program_is_found_once_as_long_as_it_lives():
    calls = []

    @_jax.once
    def count(program):
        calls.append(program)
        return len(_jax.equations(program))

    program = jax.make_jaxpr(jnp.sin)(1.0)
    assert (count(program), count(program), len(calls)) == (1, 1, 1)
