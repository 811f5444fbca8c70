"""Every primitive that holds a program, under every transform and tool: right, or refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import carriers
import jax
import jax.numpy as jnp
import pytest
from carriers import CARRIERS, SIZE
from closeness import assert_close
from jax import lax
from tiers import slow_but

import funcgrad as fg
from funcgrad import _jax
from funcgrad.tools.graph.text import numbers

X = jnp.array([0.2, 0.4, 0.6, 0.8])
TWO, THREE = jnp.float32(2), jnp.float32(3)
REVERSE = "Reverse-mode differentiation does not work for lax.while_loop"
RULES = [name for name, carrier in CARRIERS.items() if carrier.rule]
TOLD = [name for name in CARRIERS if name not in (*RULES, "while")]
LOOPS = ["scan", "map", "while", "while_loop", "fori_loop"]


@pytest.fixture(autouse=True, params=[False, True], ids=["now", "announced"])
def forms(request):
    with carriers.announced(request.param):
        yield


def tagged(x):
    return fg.retain_grad(jnp.sin(x), "t") * TWO


def hooked(x):
    return fg.register_hook(jnp.sin(x), lambda g: g * THREE)


def bad(x):
    return jnp.sqrt(x) - jnp.float32(1)


def kept(x):
    return fg.retain_grad(jnp.exp(x), "t")


def by_hand(name, x):
    """The gradient of `x`, and the value and the gradient of each run's tag, without tags."""
    carrier, values = CARRIERS[name], []

    def seen(i, x):
        values.append(jnp.sin(x))
        return values[-1] * TWO

    def loss(x, taps):
        return jnp.sum(carrier.plain(lambda i, x: (jnp.sin(x) + taps[i]) * TWO)(x) ** 2)

    carrier.plain(seen)(x)
    grad, grads = jax.grad(loss, (0, 1))(x, [jnp.zeros_like(value) for value in values])
    if carrier.runs is None:
        return grad, fg.Retained(values[0], grads[0])
    return grad, fg.Retained(jnp.stack(values), jnp.stack(grads))


def loss_of(name, inner=tagged):
    return lambda x: jnp.sum(CARRIERS[name].fun(inner)(x) ** 2)


@pytest.mark.parametrize("name", slow_but(carriers.quick, TOLD))
def test_retain(name):
    grad, retained = by_hand(name, X)
    assert_close(fg.grad(loss_of(name), retain="t")(X), (grad, {"t": retained}))


@pytest.mark.parametrize("name", ["while", *RULES])
def test_retain_where_no_gradient_can_be_told(name):
    match = f"'t' in `retain`, tagged at .*, inside `{CARRIERS[name].kind}`"
    with pytest.raises(fg.TagError, match=match):
        fg.grad(loss_of(name), retain=...)(X)


@pytest.mark.parametrize("name", slow_but(carriers.quick, TOLD))
def test_capture(name):
    out, values = fg.capture(CARRIERS[name].fun(tagged), "t")(X)
    assert_close(out, CARRIERS[name].plain(lambda i, x: tagged(x))(X))
    assert_close(values, {"t": by_hand(name, X)[1].value})


@pytest.mark.parametrize("name", slow_but(carriers.quick, TOLD))
def test_watch(name):
    asked = fg.watch(value={"max": jnp.max, "positive": lambda x: jnp.sum(x > 0)}, grad=jnp.min)
    grad, (value, grads) = by_hand(name, X)
    each = (lambda f: f) if CARRIERS[name].runs is None else jax.vmap
    wanted = {"max": each(jnp.max)(value), "positive": each(lambda x: jnp.sum(x > 0))(value)}
    got = fg.grad(loss_of(name), retain={"t": asked})(X)
    assert_close(got, (grad, {"t": fg.Retained(wanted, each(jnp.min)(grads))}))


@pytest.mark.parametrize("name", slow_but(carriers.quick, TOLD))
def test_with_hooks(name):
    """Hooks both ways; the one ahead closes over what is differentiated."""

    def step(scale):
        def run(i, x):
            y = scale * jnp.sin(x) ** 2
            return (THREE * y - lax.stop_gradient(TWO * y)) * TWO

        return run

    def hooked(x, scale):
        hooks = {"forward": {"t": lambda v: scale * v**2}, "backward": {"t": lambda g: THREE * g}}
        return jnp.sum(fg.with_hooks(CARRIERS[name].fun(tagged), **hooks)(x) ** 2)

    wanted = lambda x, scale: jnp.sum(CARRIERS[name].plain(step(scale))(x) ** 2)
    assert_close(jax.grad(hooked, (0, 1))(X, TWO), jax.grad(wanted, (0, 1))(X, TWO))


def test_with_hooks_in_a_while():
    fun = fg.with_hooks(CARRIERS["while"].fun(tagged), forward={"t": jnp.square})
    plain = carriers.twice(lambda i, x: jnp.sin(x) ** 2 * TWO)
    assert_close(jax.jvp(fun, (X,), (X,)), jax.jvp(plain, (X,), (X,)))


@pytest.mark.parametrize("name", ["while", *RULES])
def test_capture_where_no_value_can_be_reached(name):
    match = f"`capture` got 't' in `names`, tagged at .*, inside `{CARRIERS[name].kind}`"
    with pytest.raises(fg.TagError, match=match):
        fg.capture(CARRIERS[name].fun(tagged), "t")(X)


@pytest.mark.parametrize("name", RULES)
def test_with_hooks_in_what_a_rule_replaces(name):
    match = f"`with_hooks` got 't' in `forward`, tagged at .*, inside `{CARRIERS[name].kind}`"
    with pytest.raises(fg.TagError, match=match):
        fg.with_hooks(CARRIERS[name].fun(tagged), forward={"t": jnp.square})(X)


@pytest.mark.parametrize("name", slow_but(carriers.quick, [*TOLD, *RULES]))
def test_register_hook(name):
    def step(i, x):
        y = jnp.sin(x)
        return THREE * y - lax.stop_gradient(TWO * y)

    wanted = jax.grad(lambda x: jnp.sum(CARRIERS[name].plain(step)(x) ** 2))(X)
    assert_close(jax.grad(loss_of(name, hooked))(X), wanted)


def test_register_hook_in_a_while():
    loss = loss_of("while", hooked)
    with pytest.raises(ValueError, match=REVERSE):
        jax.grad(loss)(X)
    plain = lambda x: jnp.sum(jnp.sin(jnp.sin(x)) ** 2)
    assert_close(jax.jvp(loss, (X,), (X,)), jax.jvp(plain, (X,), (X,)))


def test_register_hook_in_what_a_rule_replaces():
    fun = jax.custom_jvp(hooked)
    fun.defjvp(lambda primals, tangents: (fun(*primals), jnp.cos(*primals) * tangents[0]))
    assert_close(jax.grad(lambda x: jnp.sum(fun(x)))(X), jnp.cos(X))


def bad_input(name):
    """An input of which the second run, or the third entry, is bad."""
    plain = CARRIERS[name].plain
    return jnp.full(SIZE, 0.25) if plain is carriers.twice else jnp.array([1.44, 1.44, -1.0, 1.44])


@pytest.mark.parametrize("mode", slow_but("interpreted".__eq__, ["interpreted", "compiled"]))
@pytest.mark.parametrize("name", slow_but(carriers.quick, CARRIERS))
def test_detect_anomaly(name, mode):
    carrier = CARRIERS[name]
    detecting = fg.detect_anomaly(lambda x: carrier.fun(bad)(x), mode=mode)
    good = jnp.full(SIZE, 4.0)
    assert_close(detecting(good), carrier.plain(lambda i, x: bad(x))(good))
    with pytest.raises(fg.AnomalyError) as caught:
        detecting(bad_input(name))
    found = caught.value.anomaly
    assert (found.operation, found.function, found.source) == ("sqrt", "bad", "jnp.sqrt(x)")
    run = 1 if carrier.plain is carriers.twice else 2
    assert found.steps == (((carrier.kind, run),) if name in LOOPS else ())
    assert found.device == ((("d", 2),) if name == "shard_map" else ())


def held(fun):
    """The bytes of the distinct arrays that a pullback holds."""
    arrays = {id(x): x for x in jax.tree.leaves(jax.vjp(fun, X)[1])}
    return sum(x.nbytes for x in arrays.values())


@pytest.mark.parametrize("name", slow_but(carriers.quick, [*TOLD, *RULES]))
def test_saved_tensors(name):
    fun = lambda x: CARRIERS[name].fun(kept)(x)
    saved = fg.saved_tensors(fun, X)
    assert saved.total == held(fun)
    if name == "checkpoint":
        assert [row.name for row in saved] == ["argument 0"]
        return
    row = saved["t"]
    assert row.shape == ((2, SIZE) if CARRIERS[name].plain is carriers.twice else (SIZE,))
    assert row.operation.partition(",")[0] == "exp"
    assert row.expression == "jnp.exp(x)"
    assert row.kind == "intermediate"


def test_saved_tensors_of_a_while():
    with pytest.raises(ValueError, match=REVERSE):
        fg.saved_tensors(lambda x: CARRIERS["while"].fun(kept)(x), X)
    counted = lambda x: lax.while_loop(lambda n: n < 3, lambda n: n + 1, 0) * jnp.exp(x)
    with jax.numpy_dtype_promotion("standard"):
        assert fg.saved_tensors(counted, X).total > 0


def looked_at(name, inner):
    return lambda *args: CARRIERS[name].fun(lambda x: inner(x, *args[1:]))(args[0])


@pytest.mark.parametrize("name", TOLD)
def test_disconnected_by_detach(name):
    found = fg.disconnected(looked_at(name, lambda x, y: x * fg.detach(y)), X, TWO)
    assert list(found.inputs) == ["argument 1"]
    assert re.match(r"only under `detach` \(test_carriers.py:\d+ in", found.inputs["argument 1"])


@pytest.mark.parametrize("name", TOLD)
def test_not_disconnected(name):
    fun = looked_at(name, lambda x, y: fg.retain_grad(x * y, "t") * TWO)
    assert not fg.disconnected(fun, X, TWO)


# What leads past the rounding: another branch, or no step at all.
PAST = ["cond", "switch", "while_loop", "fori_loop"]


@pytest.mark.parametrize("name", [name for name in TOLD if name not in PAST])
def test_disconnected_by_an_operation_without_derivative(name):
    found = fg.disconnected(looked_at(name, lambda x: jnp.round(x)), X)
    assert re.match(r"only through `round`, which has no derivative", found.inputs["argument 0"])


@pytest.mark.parametrize("name", PAST)
def test_connected_past_an_operation_without_derivative(name):
    assert not fg.disconnected(looked_at(name, lambda x: jnp.round(x)), X)


@pytest.mark.parametrize(
    ("name", "what"), [("custom_jvp", "`custom_jvp_call`"), ("custom_vjp", "a `custom_vjp`")]
)
def test_disconnected_by_a_rule(name, what):
    found = fg.disconnected(looked_at(name, lambda x: fg.retain_grad(jnp.round(x), "t")), X)
    assert found.inputs["argument 0"].startswith(f"only through {what}, which ")
    assert found.unknown == {
        "t": f"inside `{CARRIERS[name].kind}`, where gradients of inner values cannot be told"
    }
    assert not fg.disconnected(looked_at(name, lambda x: x * x), X)


def test_disconnected_in_a_while():
    with pytest.raises(ValueError, match=REVERSE):
        fg.disconnected(looked_at("while", lambda x: x * x), X)


def reached(model, start):
    """The nodes that follow from one."""
    found = {start}
    for a, b in sorted(model.edges):
        if a in found:
            found.add(b)
    return found


@pytest.mark.parametrize("name", slow_but(carriers.quick, CARRIERS))
def test_graph(name):
    picture = fg.graph(loss_of(name), X)
    model, carrier = picture.model, CARRIERS[name]
    kinds = {node.kind: index for index, node in enumerate(model.nodes)}
    assert kinds["named"] in reached(model, kinds["input"])
    assert kinds["output"] in reached(model, kinds["named"])
    boxes = [model.groups[g].title for g in model.around(model.nodes[kinds["named"]].group)]
    assert carrier.box in {re.split(r"[ ,]", title)[0] for title in boxes}
    if name in TOLD:
        grad, retained = by_hand(name, X)
        assert model.facts["input 0"].grad == numbers(grad)
        assert model.facts["t"] == (numbers(retained.value), numbers(retained.grad))
        return
    assert "t" not in model.facts
    assert f"'t' is not told: it is inside `{carrier.kind}`" in picture.notes
    value = jnp.sum(carrier.plain(lambda i, x: jnp.sin(x) * TWO)(X) ** 2)
    assert model.facts["output 0"].value == numbers(value)


# What holds programs in other ways.


class Other(NamedTuple):
    """A primitive of which inner values are not told.

    Fields:
        kind: what funcgrad calls it, as a pattern: JAX changes some.
        fun: from a function of an array, a linear one, to one that runs it inside the primitive.
        plain: from a factor to what it gives for the function that multiplies by it.
        slope: how many times the derivative by that factor is, of a hook in it that triples.
        found: the operation that is found to make NaN, a pattern too.
        kept: the names of what the backward pass keeps, and how many others, but for constants.
        cut: why what is detached in it is disconnected, a pattern too.
    """

    kind: str
    fun: Callable
    plain: Callable
    slope: float
    found: str
    kept: tuple[set, int]
    cut: str


def solve(inner):
    divided = lambda matvec, b: b / matvec(jnp.ones_like(b))
    return lambda x: lax.custom_linear_solve(inner, x, divided, symmetric=True)


def root(inner):
    """The root of `y - 2 * x`, which the function finds."""
    over = lambda g, y: y / g(jnp.ones_like(y))
    return lambda x: lax.custom_root(lambda y: y - TWO * x, x, lambda _, x: inner(x), over)


def pack(inner):
    """The gradient of `exp`, for which the function packs `exp(x)`."""
    fun = fg.saved_tensors_hooks(jnp.exp, inner, lambda packed: packed)
    return jax.grad(lambda x: jnp.sum(fun(x)))


def tangent(inner):
    run = CARRIERS["while_loop"].fun(inner)
    return lambda x: jax.jvp(run, (x,), (x,))[1]


def tangent_in_python(factor):
    tripling = lambda x: fg.register_hook(x * factor, lambda g: g * THREE)
    return jax.jvp(lambda x: tripling(tripling(x)), (X,), (X,))[1] / THREE


ROOT = "(custom_jvp_call|CustomRoot)"
OTHERS = {
    "custom_linear_solve": Other(
        "custom_linear_solve",
        solve,
        lambda factor: X / factor,
        3.0,  # the matrix is differentiated, what solves is not
        "custom_linear_solve",
        (set(), 0),
        "only through `custom_linear_solve`, which has no derivative",
    ),
    "custom_root": Other(
        ROOT,
        root,
        lambda factor: X * TWO + 0 * factor,
        1.0,
        "(sqrt|CustomRoot)",
        (set(), 1),
        f"only through `{ROOT}`, which has no derivative",
    ),
    "pack": Other(
        "pack",
        pack,
        lambda factor: jnp.exp(X) * factor,
        3.0,
        "sqrt",
        ({"t"}, 2),
        "only through `pack`, which has no derivative",
    ),
    "bounded_loop_jvp": Other(
        "bounded_loop_jvp",
        tangent,
        tangent_in_python,
        3.0,
        "sqrt",
        (set(), 2),
        "only under `detach`",
    ),
}


def scaled(x):
    return fg.retain_grad(x * TWO, "t")


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_what_they_are_named_after(name):
    program = jax.make_jaxpr(OTHERS[name].fun(scaled))(X)
    kinds = {path[-1].kind for path in _jax.everywhere(program)}
    assert any(re.fullmatch(OTHERS[name].kind, kind) for kind in kinds)


@pytest.mark.parametrize("name", OTHERS)
def test_retain_in_others(name):
    other = OTHERS[name]
    with pytest.raises(fg.TagError, match=f"'t' in `retain`, .* inside `{other.kind}`, where the"):
        fg.grad(lambda x: jnp.sum(other.fun(scaled)(x)), retain="t")(X)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_register_hook_in_others(name):
    other = OTHERS[name]

    def loss(factor, times):
        tripling = lambda x: fg.register_hook(x * factor, lambda g: g * times)
        return jnp.sum(other.fun(tripling)(X))

    got = jax.grad(loss)(TWO, THREE)
    assert_close(got, other.slope * jax.grad(lambda factor: jnp.sum(other.plain(factor)))(TWO))


@pytest.mark.parametrize("mode", slow_but("interpreted".__eq__, ["interpreted", "compiled"]))
@pytest.mark.parametrize("name", OTHERS)
def test_detect_anomaly_in_others(name, mode):
    other = OTHERS[name]
    good = fg.detect_anomaly(lambda x: other.fun(lambda x: x * jnp.sqrt(TWO))(x), mode=mode)
    assert_close(good(X), other.fun(lambda x: x * jnp.sqrt(TWO))(X))
    with pytest.raises(fg.AnomalyError) as caught:
        fg.detect_anomaly(lambda x: other.fun(lambda x: x * jnp.sqrt(-TWO))(x), mode=mode)(X)
    assert re.fullmatch(other.found, caught.value.anomaly.operation)
    assert Path(caught.value.anomaly.file).name == "test_carriers.py"


@pytest.mark.parametrize("name", OTHERS)
def test_saved_tensors_in_others(name):
    fun = OTHERS[name].fun(scaled)
    saved = fg.saved_tensors(fun, X)
    assert saved.total == held(fun)
    kept = [row.name for row in saved if row.kind == "intermediate"]
    assert ({name for name in kept if name}, kept.count("")) == OTHERS[name].kept


@pytest.mark.parametrize("name", OTHERS)
def test_disconnected_in_others(name):
    detached = lambda x, y: OTHERS[name].fun(lambda x: fg.retain_grad(x * fg.detach(y), "t"))(x)
    found = fg.disconnected(detached, X, TWO)
    assert list(found.inputs) == ["argument 1"]
    assert re.match(OTHERS[name].cut, found.inputs["argument 1"])
    assert re.match(f"inside `{OTHERS[name].kind}`, where gradients of", found.unknown["t"])


@pytest.mark.parametrize("name", OTHERS)
def test_graph_of_others(name):
    fun = lambda x: jnp.sum(OTHERS[name].fun(scaled)(x))
    picture = fg.graph(fun, X)
    model = picture.model
    (at,) = (index for index, node in enumerate(model.nodes) if "t" in node.names)
    assert model.nodes[at].kind in ("named", "folded")
    assert at in reached(model, next(i for i, n in enumerate(model.nodes) if n.kind == "input"))
    assert "t" not in model.facts
    assert any(
        re.match(f"'t' is not told: it is inside `{OTHERS[name].kind}`", n) for n in picture.notes
    )
    assert model.facts["input 0"].grad == numbers(jax.grad(fun)(X))
