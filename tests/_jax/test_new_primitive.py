"""A primitive that funcgrad does not know: one call of `anatomy`, and everything sees through."""

import re

import jax
import jax.numpy as jnp
import pytest
from closeness import assert_close

import funcgrad as fg
from funcgrad import _jax
from funcgrad._jax import Body, Link
from funcgrad._jax.dataflow import Dataflow

X = jnp.array([0.2, 0.4, 0.6])
Y = jnp.array([1.0, 2.0, 3.0])


def _run(*operands, program):
    """Calls its program with the operands in reverse, and gives the results in reverse too."""
    return list(_jax.as_function(program)(*operands[::-1]))[::-1]


def _types(*_, program):
    return _jax.output_types(program)[::-1]


def _jvp(primals, tangents, *, program):
    dots = [*map(_jax.instantiate_zeros, tangents)]
    return jax.jvp(lambda *xs: _run(*xs, program=program), list(primals), dots)


def _batch(axis, operands, dims, *, program):
    run = lambda *xs: _run(*xs, program=program)
    out = _jax.vmap_like(axis, run, list(dims))(*operands)
    return out, [0] * len(out)


reversed_p = _jax.computing_primitive("reversed_call", _run, _types)
_jax.def_jvp(reversed_p, _jvp)
_jax.def_batch(reversed_p, _batch)


def _bodies(equation):
    program = equation.own["program"]
    backwards = lambda ends: tuple(Link(place) for place in reversed(range(len(ends))))
    inputs, outputs = backwards(equation.reads), backwards(equation.makes)
    return (Body(program, _jax.CALL, inputs, outputs),)


def _reenter(equation, operands, run, given):
    (body,) = equation.bodies
    outputs, made = run(body, body.take(operands), given)
    return body.put(outputs), made


_jax.anatomy("reversed_call", _bodies, _reenter)


def reversed_call(fun):
    """`fun(*args)`, by the primitive; `fun` closes over no tracer."""

    def call(*args):
        program = _jax.trace(lambda *xs: list(fun(*xs)), args)
        return reversed_p.bind(*args[::-1], program=program)[::-1]

    return call


def pair(x, y):
    return fg.retain_grad(jnp.exp(x), "t") * y, y - x


def loss(x, y, call=reversed_call):
    first, second = call(pair)(x, y)
    return jnp.sum(first**2) + jnp.sum(second)


def plain(x, y):
    return loss(x, y, lambda fun: fun)


@pytest.mark.slow
def test_it_computes_and_differentiates_what_it_calls():
    assert_close(loss(X, Y), plain(X, Y))
    assert_close(jax.grad(loss, (0, 1))(X, Y), jax.grad(plain, (0, 1))(X, Y))
    assert_close(jax.vmap(loss)(X, Y), jax.vmap(plain)(X, Y))


@pytest.mark.parametrize("transform", [lambda fun: fun, jax.jit, jax.checkpoint])
def test_retain(transform):
    got = fg.grad(transform(loss), (0, 1), retain="t")(X, Y)
    assert_close(got, fg.grad(plain, (0, 1), retain="t")(X, Y))


def test_capture_of_examples():
    got = jax.vmap(fg.grad(loss, retain="t"))(X, Y)
    assert_close(got, jax.vmap(fg.grad(plain, retain="t"))(X, Y))


def test_register_hook():
    def hooked(x, y):
        return fg.register_hook(jnp.exp(x), lambda g: g * 3) * y, y - x

    def summed(call):
        return jax.grad(lambda x: sum(map(jnp.sum, call(hooked)(x, Y))))(X)

    assert_close(summed(reversed_call), 3 * jnp.exp(X) * Y - 1)
    assert_close(summed(reversed_call), summed(lambda fun: fun))


@pytest.mark.parametrize("mode", ["interpreted", "compiled"])
def test_detect_anomaly(mode):
    def bad(x, y):
        return jnp.log(x), jnp.sqrt(y)

    fun = lambda x, y: reversed_call(bad)(x, y)
    assert_close(fg.detect_anomaly(fun, mode=mode)(X, Y), [jnp.log(X), jnp.sqrt(Y)])
    with pytest.raises(fg.AnomalyError) as caught:
        fg.detect_anomaly(fun, mode=mode)(X, Y.at[1].set(-2.0))
    found = caught.value.anomaly
    assert (found.operation, found.computed, found.at) == ("sqrt", "sqrt(-2.0)", (1,))
    assert found.source == "jnp.sqrt(y)"


def test_saved_tensors():
    saved = fg.saved_tensors(loss, X, Y)
    assert saved.total == fg.saved_tensors(plain, X, Y).total
    assert (saved["t"].shape, saved["t"].operation) == ((3,), "exp")
    assert saved["argument 1"].kind == "argument"


def test_a_value_is_followed_through_it_to_its_place():
    program = jax.make_jaxpr(lambda x, y: reversed_call(lambda x, y: (x, y * 2))(x, y))(X, Y)
    graph = Dataflow(program)
    first, second = graph.outputs
    assert first is graph.inputs[0]
    assert second.sources[0] is graph.inputs[1]


def test_disconnected():
    detached = lambda x, y: reversed_call(lambda x, y: (x * fg.detach(y), x))(x, y)
    found = fg.disconnected(detached, X, Y)
    assert list(found.inputs) == ["argument 1"]
    assert re.match(r"only under `detach` \(test_new_primitive.py", found.inputs["argument 1"])


def test_graph():
    picture = fg.graph(loss, X, Y)
    model = picture.model
    assert [group.title for group in model.groups[1:]] == ["reversed"]  # without `_call`
    assert model.facts == fg.graph(plain, X, Y).model.facts
    titles = [node.title for node in model.nodes]
    edges = {(titles[a], titles[b]) for a, b in model.edges}
    assert {("x", "exp"), ("exp", "t"), ("t", "mul"), ("y", "mul")} <= edges
    assert ("y", "exp") not in edges


@pytest.mark.slow
def test_gradcheck():
    assert fg.gradcheck(loss, (X, Y))
