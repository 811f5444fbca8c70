"""The anatomy of every primitive that holds programs: what its links say, how it is made anew."""

from types import SimpleNamespace

import carriers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carriers import CARRIERS, equation_of, quick
from closeness import assert_close
from jax import lax
from tiers import slow_but

import funcgrad as fg
from funcgrad import _jax
from funcgrad._jax import CARRY, ROW, WHOLE, Link

X = jnp.array([0.2, 0.4, 0.6, 0.8])


@pytest.fixture(params=[False, True], ids=["now", "announced"])
def forms(request):
    with carriers.announced(request.param):
        yield


def fun(name, x, a, b):
    """Reads two numbers from outside, which must not be exchanged."""
    return CARRIERS[name].fun(lambda v: jnp.sin(v) * a - b)(x)


def found(name):
    kind = CARRIERS[name].kind
    return equation_of(kind, lambda x, a, b: fun(name, x, a, b), X, jnp.float32(2), jnp.float32(3))


def evaluated(body, inputs, given):
    return _jax.as_function(body.program)(*inputs), given


def by_links(equation, operands):
    """The results of an equation, by its bodies and links alone."""
    run = lambda body, given: _jax.as_function(body.program)(*given)
    body, *others = equation.bodies
    if body.role in (_jax.CALL, _jax.CUSTOM):
        return body.put(run(body, body.take(operands)))
    if body.role == _jax.BRANCH:
        return body.put(run((body, *others)[int(operands[equation.decides])], body.take(operands)))
    return looped(equation, operands, run)


def looped(equation, operands, run):
    step, *tests = equation.bodies
    state, trips, rows = dict(enumerate(operands)), equation.trips, []
    most = trips.length if trips.limit is None else int(operands[trips.limit])
    value = lambda link, i: state[link.place][i] if link.flow == ROW else state[link.place]
    starts = [link.place for link in step.inputs if link.flow == CARRY]
    for taken in range(most if most is not None else 100):
        i = most - 1 - taken if trips.reverse else taken
        if not all(run(test, [value(link, i) for link in test.inputs])[0] for test in tests):
            break
        made = run(step, [value(link, i) for link in step.inputs])
        rows.append([x for x, link in zip(made, step.outputs, strict=True) if link.flow == ROW])
        moved = [x for x, link in zip(made, step.outputs, strict=True) if link.flow == CARRY]
        state.update(zip(starts, moved, strict=True))
    ends = [link.place for link in step.outputs if link.flow == CARRY]
    results = dict(zip(ends, (state[place] for place in starts), strict=True))
    written = [link.place for link in step.outputs if link.flow == ROW]
    stacks = [jnp.stack(xs) for xs in zip(*(rows[::-1] if trips.reverse else rows), strict=True)]
    results.update(zip(written, stacks, strict=True))
    types = enumerate(equation.result_types)
    return [results.get(place, jnp.asarray(len(rows), type_.dtype)) for place, type_ in types]


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize("name", slow_but(quick, CARRIERS))
def test_the_links_of_each_primitive_say_what_it_computes(name):
    equation, operands = found(name)
    if equation.bodies[0].role == _jax.DEVICE:
        (body,) = equation.bodies
        assert body.axes == {"d": carriers.SIZE}
        shapes = [type_.shape for type_ in _jax.input_types(body.program)]
        whole = [np.shape(operands[link.place]) for link in body.inputs]
        assert sorted(zip(whole, shapes, strict=True)) == [((), ()), ((), ()), ((4,), (1,))]
        return
    assert_close(by_links(equation, operands), equation.evaluate(operands))


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize("name", slow_but(quick, CARRIERS))
def test_a_call_made_anew_gives_the_same_results(name):
    equation, operands = found(name)
    if CARRIERS[name].rule:
        assert not _jax.reenters(equation)
        return
    results, made = _jax.reenter(equation, operands, evaluated)
    assert_close(results, equation.evaluate(operands))
    assert jax.tree.leaves(made) == []


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize(
    "name", slow_but(quick, [n for n, c in CARRIERS.items() if not c.rule and n != "while"])
)
def test_bodies_made_anew_get_and_give_values_of_each_run(name):
    equation, operands = found(name)
    around = _jax.around(equation)
    assert around == (() if CARRIERS[name].runs is None else (CARRIERS[name].runs,))
    rows = jnp.arange(6.0).reshape(3, 2) if not around else jnp.arange(2.0 * around[0])
    rows = rows.reshape(*around, -1)

    def run(body, inputs, given):
        outputs = _jax.as_function(body.program)(*inputs)
        return outputs, None if body.role == _jax.TEST else {"doubled": given * 2}

    _, made = _jax.reenter(equation, operands, run, rows)
    assert_close(made, {"doubled": rows * 2})


@pytest.mark.usefixtures("forms")
@pytest.mark.parametrize("name", ["scan", "map", "while", "while_loop", "fori_loop"])
def test_a_loop_made_anew_adds_up_what_its_bodies_make(name):
    equation, operands = found(name)

    def run(body, inputs, given):
        tested = body.role == _jax.TEST
        return _jax.as_function(body.program)(*inputs), jnp.array([not tested, tested], jnp.int32)

    total = _jax.Total(jnp.zeros(2, jnp.int32), lambda sum_, made: sum_ + made)
    results, steps = _jax.reenter(equation, operands, run, total=total)
    assert_close(results, equation.evaluate(operands))
    tests = sum(body.role == _jax.TEST for body in equation.bodies)
    assert steps.tolist() == [CARRIERS[name].runs, (CARRIERS[name].runs + 1) * tests]


@pytest.mark.usefixtures("current_forms")
@pytest.mark.parametrize("on", [False, True], ids=["now", "announced"])
@pytest.mark.parametrize("name", ["checkpoint", "custom_jvp", "custom_vjp"])
def test_the_announced_forms_are_other_primitives_of_the_same_kind(name, on):
    with carriers.announced(on):
        equation, _ = found(name)
    assert equation.name.endswith("Traced") == on
    assert equation.kind == CARRIERS[name].kind


def test_the_derivative_of_a_loop_is_a_call():
    push = lambda x: jax.jvp(CARRIERS["while_loop"].fun(jnp.sin), (x,), (jnp.ones(4),))
    equation, operands = equation_of("bounded_loop_jvp", jax.jit(push), X)
    (body,) = equation.bodies
    assert body.role == _jax.CALL
    assert_close(by_links(equation, operands), equation.evaluate(operands))


def test_what_packs_is_a_call_that_others_do_not_look_behind():
    hooked = fg.saved_tensors_hooks(jnp.sin, lambda a: a * 2, lambda p: p / 2)
    equation, operands = equation_of("pack", jax.grad(lambda x: hooked(x).sum()), X)
    (body,) = equation.bodies
    assert (body.role, _jax.reenters(equation)) == (_jax.CUSTOM, False)
    assert_close(by_links(equation, operands), [operands[0] * 2])


def test_what_has_no_known_anatomy_has_programs_and_no_bodies():
    solve = lambda x: lax.custom_linear_solve(
        lambda y: 2 * y, x, lambda _, b: b / 2, symmetric=True
    )
    equation, operands = equation_of("custom_linear_solve", solve, X)
    assert (equation.bodies, _jax.reenters(equation)) == ((), False)
    assert len(equation.programs) == 4
    assert_close(equation.evaluate(operands), [X / 2])


# Stand-ins for the shape that parameters have on the other line of JAX.

BODY = jax.make_jaxpr(lambda w, c, x: (c * w + x, c))(1.0, 2.0, 3.0)
LOOP = {"jaxpr": BODY, "length": 3, "reverse": True, "unroll": 2, "_split_transpose": False}
COUNTS = {"num_consts": 1, "num_carry": 1, "linear": (False,) * 3}
TREES = {"ft_in": SimpleNamespace(unpack=lambda: [SimpleNamespace(vals=(0,)) for _ in range(3)])}


def stand_in(name, params, reads=3, makes=2):
    eqn = SimpleNamespace(
        primitive=SimpleNamespace(name=name),
        params=params,
        invars=[object()] * reads,
        outvars=[object()] * makes,
    )
    return _jax.Equation(BODY, eqn)


@pytest.mark.parametrize("shape", [COUNTS, TREES], ids=["counts", "trees"])
def test_scan_is_read_whatever_shape_its_parameters_have(shape):
    loop = stand_in("scan", {**LOOP, **shape})
    (body,) = loop.bodies
    assert loop.trips == _jax.Trips(3, reverse=True)
    assert body.inputs == (Link(0, WHOLE), Link(1, CARRY), Link(2, ROW))
    assert body.outputs == (Link(0, CARRY), Link(1, ROW))
    assert body.role == _jax.STEP
    run = lambda *operands: _jax.reenter(loop, operands, evaluated)[0]
    operands = jnp.float32(2), jnp.float32(1), X[:3]
    assert_close(run(*operands), [jnp.float32(11.4), jnp.float32([5.6, 2.6, 1.0])])
    made, _ = equation_of("scan", run, *operands)
    assert made.shown["reverse"] == "True"
    assert (made.shown["unroll"], made.shown["length"]) == ("2", "3")


@pytest.mark.parametrize("body", [BODY, BODY.jaxpr], ids=["closed", "open"])
def test_bodies_are_closed_whichever_class_they_have(body):
    branches = {"branches": [body]}
    for equation in (
        stand_in("scan", {**LOOP, **COUNTS, "jaxpr": body}),
        stand_in("checkpoint", {"jaxpr": body, "policy": None, "prevent_cse": True}),
        stand_in("cond", branches, reads=4),
    ):
        (held,) = equation.bodies
        assert isinstance(held.program, _jax.Jaxpr)
        assert _jax.as_function(held.program)(2.0, 3.0, 4.0) == [10.0, 3.0]


def test_an_announced_custom_function_is_not_given_what_its_rule_alone_is_given():
    rule = SimpleNamespace(params={"traced": SimpleNamespace(jaxpr=BODY)}, in_avals=([1.0],))
    equation = stand_in("hi", {"_prim": rule}, reads=5)
    equation.kind = "custom_vjp_call"
    (body,) = equation.bodies
    assert body.inputs == (Link(0), Link(3), Link(4))


@pytest.mark.parametrize("manual", ["newly_manual_axes", "manual_axes"])
def test_the_manual_axes_of_a_mesh_are_read_in_its_order(manual):
    mesh = SimpleNamespace(shape={"a": 2, "b": 3, "c": 4})
    params = {"jaxpr": BODY, "mesh": mesh, manual: frozenset("ca"), "check_vma": False}
    (body,) = stand_in("shard_map", params).bodies
    assert (dict(body.axes), list(body.axes), body.typed) == ({"a": 2, "c": 4}, ["a", "c"], False)
    assert body.role == _jax.DEVICE


# What this JAX makes.


def test_scan_of_this_jax_is_read():
    step = lambda c, x: (c * X[0] + x, c)
    scan = lambda c, xs: lax.scan(step, c, xs, reverse=True, unroll=3)
    equation, _ = equation_of("scan", scan, jnp.float32(1), X)
    flows = [link.flow for link in equation.bodies[0].inputs]
    assert equation.trips == _jax.Trips(4, reverse=True)
    assert flows == [WHOLE, CARRY, ROW] or flows == [CARRY, ROW]
    assert equation.shown["unroll"] == "3"


def test_scan_of_a_backward_pass_is_read():
    step = jax.checkpoint(lambda c, a: (jnp.sin(c * a), None))
    program = jax.make_jaxpr(jax.grad(lambda c: lax.scan(step, c, X)[0]))(1.0)
    *_, last = (e for e in _jax.equations(program) if e.kind == "scan")
    assert last.trips == _jax.Trips(4, reverse=True)
    rows = last.bodies[0].take(last.operand_types, ROW)
    assert rows
    assert all(type_.shape[0] == 4 for type_ in rows)


def test_jit_of_this_jax_is_made_anew_with_its_options():
    fun = jax.jit(lambda x, y: x * y, donate_argnums=1, keep_unused=True)
    (equation,) = _jax.equations(jax.make_jaxpr(lambda x, y: fun(x, y))(X, X))
    assert _jax.placements(equation) == ([None, None], [None])
    again = lambda *operands: _jax.reenter(equation, operands, evaluated)[0]
    (made,) = _jax.equations(jax.make_jaxpr(again)(X, X))
    wanted = {"donated_invars": "(False, True)", "keep_unused": "True", "name": "<lambda>"}
    for each in (equation, made):
        assert wanted.items() <= each.shown.items()
        assert _jax.placements(each) == ([None, None], [None])
    assert_close(again(X + 0, X + 1), [X * (X + 1)])


def test_checkpoint_of_this_jax_is_made_anew_with_its_policy():
    policy = jax.checkpoint_policies.dots_saveable
    fun = jax.checkpoint(jnp.tanh, policy=policy, prevent_cse=False)
    equation, operands = equation_of("checkpoint", fun, X)
    again = lambda *operands: _jax.reenter(equation, operands, evaluated)[0]
    made, _ = equation_of("checkpoint", again, *operands)
    for each in (equation, made):
        assert (each.params["policy"], each.params["prevent_cse"]) == (policy, False)
        assert not each.recomputes


def test_a_while_of_this_jax_is_read():
    fun = lambda a, x: lax.while_loop(lambda s: s < a * 9, lambda s: s * a * 2, x)
    equation, _ = equation_of("while", fun, jnp.float32(1), jnp.float32(2))
    step, test = equation.bodies
    assert (step.role, test.role) == (_jax.STEP, _jax.TEST)
    assert step.inputs == (Link(1, WHOLE), Link(2, CARRY))
    assert test.inputs == (Link(0, WHOLE), Link(2, CARRY))
    assert _jax.as_function(test.program)(1.0, 2.0) == [True]
    assert _jax.as_function(step.program)(1.0, 2.0) == [4.0]
    assert (equation.trips, equation.rows) == (_jax.Trips(None), False)
