"""`graph`: what is in a picture, what it says of values, how it is made small, drawn and saved."""

import pickle
import re
import runpy
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from tiers import slow_but

import funcgrad as fg
from funcgrad import FuncgradError, TreeError, UsageError
from funcgrad.tools.graph.text import call, numbers


def chain(x):
    y = fg.retain_grad(2 * jnp.dot(x, x), "y")
    z = fg.retain_grad(2 * y, "z")
    return z**2


def drawn(picture):
    """Edges as pairs of titles."""
    nodes = picture.model.nodes
    return {(nodes[a].title, nodes[b].title) for a, b in picture.model.edges}


def titles(picture, kind=None):
    return [n.title for n in picture.model.nodes if kind in (None, n.kind)]


def boxes(picture):
    """The groups that have nodes, each as the titles of itself and those around it."""
    model = picture.model
    found = {group for node in model.nodes for group in model.around(node.group)}
    return {"/".join(model.groups[g].title for g in reversed(model.around(f))) for f in found}


def assert_whole(picture):
    """Acyclic, in order, every group one stretch of nodes, and DOT that Graphviz reads."""
    pygraphviz = pytest.importorskip("pygraphviz")
    model = picture.model
    assert all(a < b for a, b in model.edges)
    for group in range(1, len(model.groups)):
        inside = [i for i, node in enumerate(model.nodes) if group in model.around(node.group)]
        assert inside == list(range(inside[0], inside[-1] + 1)) if inside else True
    read = pygraphviz.AGraph(string=picture.dot)
    assert read.number_of_nodes() == len(model.nodes)
    assert read.number_of_edges() == len(model.edges | model.returns)
    used = {group for node in model.nodes for group in model.around(node.group)}
    assert len(_clusters(read)) == len(used)


def _clusters(graph):
    found = graph.subgraphs()
    return found + [inner for each in found for inner in _clusters(each)]


# What is in it


@pytest.mark.parametrize("fun", [chain, jax.jit(chain)], ids=["plain", "jit"])
def test_a_chain(fun):
    picture = fg.graph(fun, jnp.arange(4.0))
    assert titles(picture) == ["x", "dot", "mul 2", "y", "mul 2", "z", "integer_pow 2", "out"]
    assert sorted(picture.model.edges) == [(i, i + 1) for i in range(7)]
    assert titles(picture, "named") == ["y", "z"]
    assert not boxes(picture)
    assert_whole(picture)


def test_values_and_gradients_are_those_of_grad():
    facts = fg.graph(chain, jnp.arange(4.0)).model.facts
    assert facts["y"] == ("28", "224")
    assert facts["z"] == ("56", "112")
    assert facts["input 0"] == ("[0, 1, 2, 3]", "[0, 896, 1792, 2688]")
    assert facts["output 0"] == ("3136", "")


def test_types_are_shown():
    picture = fg.graph(lambda x, n: (x * 2, n), jnp.ones((2, 3), jnp.bfloat16), jnp.int32(3))
    lines = {node.title: node.lines for node in picture.model.nodes}
    assert lines["x"] == lines["out[0]"] == ("bfloat16[2,3]",)
    assert lines["n"] == ("int32[]",)


def test_inputs_and_outputs_have_the_names_of_the_function():
    def fun(params, *rest):
        return {"a": params["w"] * rest[1], "b": [rest[0]]}

    picture = fg.graph(fun, {"w": 1.0, "b": 2.0}, 3.0, 4.0)
    assert titles(picture, "input") == ["params['b']", "params['w']", "rest[0]", "rest[1]"]
    assert titles(picture, "output") == ["out['a']", "out['b'][0]"]
    assert ("rest[0]", "out['b'][0]") in drawn(picture)


def test_what_is_no_array_is_passed_on():
    picture = fg.graph(lambda x, how: x * len(how), 2.0, "three")
    assert titles(picture) == ["x", "mul 5", "out"]


def test_ints_and_bools_of_python_are_choices_and_no_inputs():
    def fun(x, depth, *, train=True):
        for _ in range(depth["n"]):
            x = jnp.sin(x)
        return x if depth["wide"] else -x

    picture = fg.graph(fun, 2.0, {"n": 2, "wide": True})
    assert titles(picture) == ["x", "sin", "sin", "out"]


def test_an_array_closed_over_is_a_constant():
    scale = jnp.arange(3.0)
    picture = fg.graph(lambda x: x * scale, 2.0)
    (node,) = (n for n in picture.model.nodes if n.kind == "constant")
    assert node.lines == ("float32[3]", "[0, 1, 2]")
    assert ("constant", "mul") in drawn(picture)


def test_what_nobody_uses_is_left_out():
    def fun(x):
        fg.retain_grad(jnp.sin(x), "unused")
        return x * 2

    assert titles(fg.graph(fun, 1.0)) == ["x", "mul 2", "out"]


@pytest.mark.slow
def test_a_library_function_is_one_operation_and_its_inside_is_shown_on_request():
    def fun(x):
        return jax.nn.softmax(x) + jax.nn.relu(x).mean()

    x = jnp.arange(3.0)
    assert titles(fg.graph(fun, x), "operation") == ["softmax", "relu", "mean", "add"]
    assert "exp" in titles(fg.graph(fun, x, depth=None), "operation")


def test_operations_say_the_numbers_they_are_done_with():
    def fun(x):
        return 1 - jnp.maximum(0.5, (2 * x - 3) ** 2)

    wanted = ["mul 2", "sub 3", "integer_pow 2", "maximum 0.5", "sub(1, ·)"]
    assert titles(fg.graph(fun, 1.0), "operation") == wanted


@pytest.mark.slow
def test_each_run_of_a_python_loop_is_an_operation():
    def fun(x):
        for _ in range(5):
            x = jax.nn.softmax(x)
        return x

    assert titles(fg.graph(fun, jnp.ones(3)), "operation") == ["softmax"] * 5


def test_name_scopes_are_boxes():
    def fun(x):
        with jax.named_scope("outer"):
            x = jnp.sin(x)
            with jax.named_scope("inner"):
                x = fg.retain_grad(jnp.cos(x), "y")
        x = jnp.tan(x)
        with jax.named_scope("outer"):
            return jnp.exp(x)

    picture = fg.graph(fun, 1.0)
    assert boxes(picture) == {"outer", "outer/inner"}
    assert picture.model.facts["outer/inner/y"].value == "0.6664"
    assert_whole(picture)


def test_a_tip_has_the_line_and_the_parameters():
    picture = fg.graph(lambda x: x**3, 2.0)
    (node,) = (n for n in picture.model.nodes if n.kind == "operation")
    assert re.search(
        r"integer_pow\[y=3\]\ntest_graph.py, line \d+, in <lambda>\n.*x\*\*3", node.tip
    )


def test_a_name_without_a_gradient_is_highlighted_too():
    picture = fg.graph(lambda x: checkpoint_name(jnp.sin(x), "s") * 2, 1.0)
    assert titles(picture, "named") == ["s"]


def test_a_pytree_is_one_named_node():
    def fun(x):
        y = fg.retain_grad({"a": x * 2, "b": x + 1}, "y")
        return jnp.sum(y["a"] * y["b"])

    picture = fg.graph(fun, jnp.ones(2))
    assert picture.model.facts["y"] == ("[2, 2]; [2, 2]", "[2, 2]; [2, 2]")


# Bodies


def looped(x):
    def step(carry, row):
        carry = fg.retain_grad(jnp.tanh(carry * row), "c")
        return carry, jnp.sum(carry)

    return jnp.sum(jax.lax.scan(step, x, jnp.ones((4, 3)))[0])


@pytest.mark.slow
def test_a_scan():
    picture = fg.graph(looped, jnp.ones(3))
    assert boxes(picture) == {"scan step, 4 iterations"}
    assert titles(picture, "port") == ["carry", "row"]
    assert {("x", "carry"), ("carry", "mul"), ("row", "mul"), ("c", "sum axis 0")} <= drawn(picture)
    nodes, returns = picture.model.nodes, picture.model.returns
    assert {(nodes[a].title, nodes[b].title) for a, b in returns} == {("c", "carry")}
    retained = fg.grad(looped, retain="c")(jnp.ones(3))[1]["c"]
    assert picture.model.facts["c"] == (numbers(retained.value), numbers(retained.grad))
    assert_whole(picture)


@pytest.mark.slow
def test_a_cond():
    picture = fg.graph(
        lambda x: jax.lax.cond(x > 0, jnp.sin, lambda x: x * fg.retain_grad(2 * x, "y"), x), 1.0
    )
    assert boxes(picture) == {"cond", "cond/if False", "cond/if True"}
    pick = "pick a branch"
    assert {("sin", pick), ("mul", pick), (pick, "out"), ("x", "sin")} <= drawn(picture)
    assert ("convert_element_type", pick) in drawn(picture)
    assert picture.model.facts["y"] == ("0", "0")
    assert_whole(picture)


BODIES = {
    "jit": (lambda x: jax.jit(jnp_sin)(x) * 2, {"jit jnp_sin"}),
    "checkpoint": (lambda x: jax.checkpoint(jnp_sin)(x) * 2, {"checkpoint jnp_sin"}),
    "while_loop": (
        lambda x: fg.while_loop(lambda x: x < 9, lambda x: x * 2, x, max_steps=5),
        {"while_loop, at most 5 steps", "while_loop, at most 5 steps/while this holds"},
    ),
    "fori_loop": (
        lambda x: fg.fori_loop(0, 3, lambda i, x: x * i, x),
        {"while_loop, at most 3 steps"},
    ),
    "lax.while_loop": (
        lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x * 2, x),
        {"while", "while/while this holds"},
    ),
    "custom_vjp": (lambda x: guarded(x) * 2, {"custom_vjp guarded"}),
    "custom_jvp": (lambda x: ruled(x) * 2, {"custom_jvp ruled"}),
    "map": (lambda x: jax.lax.map(lambda r: r * 2, jnp.ones(3) * x), {"scan, 3 iterations"}),
    "switch": (
        lambda x: jax.lax.switch(x.astype(int), [jnp_sin, jnp.cos, lambda x: x + 2], x),
        {"cond", "cond/branch 0", "cond/branch 1", "cond/branch 2"},
    ),
    "autograph": (
        lambda x: autographed(x),
        {"while_loop, at most 5 steps", "while_loop, at most 5 steps/while this holds"},
    ),
}


def jnp_sin(x):
    return jnp.sin(x)


@jax.custom_vjp
def guarded(x):
    return jnp.sqrt(x)


guarded.defvjp(lambda x: (jnp.sqrt(x), x), lambda x, g: (g / x,))


@jax.custom_jvp
def ruled(x):
    return jnp.sqrt(x)


ruled.defjvps(lambda dot, out, x: dot / out)


def doubled(x):
    while x < 9:
        x = x * 2
    return x


def autographed(x):
    pytest.importorskip("malt")
    return fg.autograph(doubled, max_steps=5)(x)


LONG = ("while_loop", "fori_loop", "switch", "autograph")


@pytest.mark.parametrize("name", slow_but(lambda name: name not in LONG, BODIES))
def test_each_kind_of_body_is_a_box(name):
    fun, wanted = BODIES[name]
    picture = fg.graph(fun, jnp.float32(1.5))
    assert boxes(picture) == wanted
    assert picture.model.facts["output 0"].value == numbers(fun(jnp.float32(1.5)))
    assert_whole(picture)
    assert not boxes(fg.graph(fun, jnp.float32(1.5), depth=0))


@pytest.mark.slow
def test_a_shard_map():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((4,), ("data",), axis_types=auto)
    spec = jax.sharding.PartitionSpec("data")

    @jax.shard_map(mesh=mesh, in_specs=spec, out_specs=spec)
    def fun(x):
        return fg.retain_grad(x * 2, "y") + 1

    picture = fg.graph(lambda x: jnp.sum(fun(x)), jnp.arange(4.0))
    assert boxes(picture) == {"shard_map fun, data=4"}
    assert picture.model.facts["y"] == ("[[0], [2], [4], [6]]", "[[1], [1], [1], [1]]")
    assert_whole(picture)


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform",
    slow_but(
        (jax.jit, fg.grad).__contains__,
        [jax.vmap, jax.jit, jax.checkpoint, jax.jacfwd, jax.jacrev, jax.hessian, fg.grad],
    ),
    ids=lambda transform: transform.__name__,
)
def test_functions_made_by_transformations(transform):
    def fun(x):
        with jax.named_scope("scope"):
            return jnp.sum(fg.retain_grad(jnp.sin(x), "y") ** 3)

    x = jnp.ones((2, 3))
    picture = fg.graph(transform(fun), x)
    assert "scope" in {box.rpartition("/")[2] for box in boxes(picture)}
    assert picture.model.facts["output 0"].value == numbers(transform(fun)(x))
    assert_whole(picture)


def test_a_picture_made_while_tracing_has_no_values():
    seen = []

    @jax.jit
    def fun(x):
        seen.append(fg.graph(chain, x))
        return x

    fun(jnp.arange(4.0))
    assert seen[0].model.facts == {}
    assert "values are not shown" in seen[0].notes[0]
    assert titles(seen[0], "named") == ["y", "z"]


def test_a_picture_of_what_closes_over_a_traced_value():
    seen = []

    @jax.jit
    def fun(x):
        seen.append(fg.graph(lambda scale: fg.retain_grad(scale * x, "y"), 2.0))
        return x

    fun(jnp.arange(4.0))
    assert seen[0].model.facts["y"] == ("", "")
    assert_whole(seen[0])


def test_a_model_too_large_to_run_is_drawn_from_types():
    x = jax.ShapeDtypeStruct((10**6, 10**6), jnp.float32)
    picture = fg.graph(lambda x: jnp.sum(fg.retain_grad(x @ x, "y")), x)
    assert "float32[1000000,1000000]" in picture.dot
    assert picture.model.facts == {}


# Gradients


def test_gradient_makes_gradients_of_an_array():
    def fun(x):
        return fg.retain_grad(x * x, "y") * 3

    x = jnp.arange(3.0)
    assert fg.graph(fun, x).model.facts["y"] == ("[0, 1, 4]", "")
    facts = fg.graph(fun, x, gradient=jnp.ones(3)).model.facts
    assert facts["y"].grad == "[3, 3, 3]"
    assert facts["input 0"].grad == "[0, 6, 12]"


def test_a_complex_gradient_is_that_of_pytorch():
    facts = fg.graph(lambda x: jnp.real(x * 1j), jnp.complex64(1 + 1j)).model.facts
    assert facts["input 0"] == ("(1+1j)", "-1j")


def test_has_aux():
    def fun(x):
        return x * 2, {"k": x * 3, "text": "not an array"}

    picture = fg.graph(fun, 2.0, has_aux=True)
    assert titles(picture, "output") == ["out", "aux['k']"]
    assert picture.model.facts["input 0"].grad == "2"


def test_integers_have_no_gradient():
    facts = fg.graph(lambda n, x: n * x, jnp.asarray(3), 2.0).model.facts
    assert facts["input 0"] == ("3", "")
    assert facts["input 1"] == ("2", "3")
    assert fg.graph(lambda n: n + 1, jnp.int32(3)).model.facts["output 0"].value == "4"


def test_what_cannot_be_told_is_noted():
    def fun(x):
        def body(c):
            return fg.retain_grad(c * 2, "inside")

        x = fg.retain_grad(x * 1, "before")
        return jax.lax.while_loop(lambda c: c < 10, body, x)

    picture = fg.graph(fun, 1.0)
    assert picture.model.facts["before"] == ("1", "")
    assert titles(picture, "named") == ["before", "inside"]
    assert "'inside' is not told: it is inside `while`" in picture.notes
    assert any("no gradients: Reverse-mode" in note for note in picture.notes)
    with pytest.raises(ValueError, match="Reverse-mode differentiation"):
        fg.graph(fun, 1.0, gradient=1.0)


def test_a_name_used_twice_is_drawn_twice_and_not_told():
    picture = fg.graph(lambda x: fg.retain_grad(fg.retain_grad(x * 2, "y") * 2, "y"), 1.0)
    assert titles(picture, "named") == ["y", "y"]
    assert "y" not in picture.model.facts
    assert picture.notes == ("'y' is not told: it is used twice",)


def test_a_name_that_retain_refuses_leaves_the_others():
    def fun(x, n):
        x = fg.retain_grad(x * 2, "y")
        condition = lambda c: fg.retain_grad(jnp.sum(c), "s") < 9
        return fg.while_loop(condition, lambda c: c * 2, x, max_steps=9)

    picture = fg.graph(fun, 1.0, 3)
    assert picture.model.facts["y"].value == "2"
    assert any("'s' is not told" in note for note in picture.notes)


# Values in words


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.float32(0.1), "0.1"),
        (np.int32(12345678), "12345678"),
        (True, "True"),
        (np.zeros((0, 3)), "[]"),
        (np.eye(2), "[[1, 0], [0, 1]]"),
        (np.full(100, 7.0), "all 7"),
        (np.arange(10), "0 to 9, mean 4.5"),
        (np.arange(10) > 2, "7 of 10 true"),
        (np.append(np.arange(10.0), [np.nan, np.inf]), "0 to 9, mean 4.5, 2 of 12 not finite"),
        (np.full(10, np.nan), "10 of 10 not finite"),
        (np.append(np.ones(9), np.nan), "1, 1 of 10 not finite"),
        (np.full((5, 5), 0.5, jnp.bfloat16), "all 0.5"),
        (np.arange(-8, 8).astype(jnp.int4), "-8 to 7, mean -0.5"),
        (np.arange(10).astype(jnp.bfloat16), "0 to 9, mean 4.5"),
        (np.arange(10) * (3 + 4j), "size up to 45"),
        (np.array([np.nan, -np.inf]), "[nan, -inf]"),
        (np.float32(1e30), "1e+30"),
    ],
    ids=str,
)
def test_arrays_in_words(array, words):
    assert numbers(jnp.asarray(array)) == words


def test_a_key_has_no_words():
    assert numbers(jax.random.key(0)) == ""


@pytest.mark.parametrize(
    ("text", "name"),
    [("jnp.dot(x, x)", "dot"), ("f(g(x))", "f"), ("x.sum()", "sum"), ("a + b", ""), ("(a", "")],
)
def test_the_function_that_an_expression_calls(text, name):
    assert call(text) == name


# Made small


@pytest.mark.slow
def test_depth():
    @jax.jit
    def inner(x):
        return fg.retain_grad(jnp.sin(x), "y")

    def step(x, _):
        return inner(x), None

    def fun(x):
        return jnp.sum(jax.lax.scan(step, x, length=3)[0])

    x = jnp.ones(2)
    scan = "scan step, 3 iterations"
    assert boxes(fg.graph(fun, x)) == {scan, f"{scan}/jit inner"}
    one = fg.graph(fun, x, depth=1)
    assert boxes(one) == {scan}
    assert titles(one, "folded") == ["jit inner"]
    none = fg.graph(fun, x, depth=0)
    assert titles(none) == ["x", scan, "sum axis 0", "out"]
    (box,) = (n for n in none.model.nodes if n.kind == "folded")
    assert (box.names, box.lines) == (("y",), ("float32[2]",))
    # What has a name is still told, in the box that it is folded into.
    for picture in (one, none):
        assert re.search(r"y value \[\[0\.8415, 0\.8415\]", picture.dot)
        assert_whole(picture)


def transformer(layers, x):
    for number, p in enumerate(layers):
        with jax.named_scope(f"layer{number}"):
            with jax.named_scope("attention"):
                q, k, v = (x @ p[name] for name in "qkv")
                scores = fg.retain_grad(q @ k.T / jnp.sqrt(q.shape[-1]).astype(q.dtype), "scores")
                x = x + jax.nn.softmax(scores) @ v
            with jax.named_scope("mlp"):
                x = x + jnp.tanh(jnp.sin(x @ p["w"]) * 2 + 1) @ p["u"]
    return jnp.mean(x**2)


def layers(count):
    return [{name: jnp.eye(4) * (i + 1) / 9 for name in "qkvwu"} for i in range(count)]


def test_fifty_operations_are_all_shown():
    def fun(x):
        for _ in range(25):
            x = jnp.sin(x) * 2
        return x

    picture = fg.graph(fun, 1.0)
    assert len(titles(picture, "operation")) == 50
    assert picture.notes == ()


@pytest.mark.slow
def test_a_large_model_is_abbreviated():
    types = jax.eval_shape(lambda: (layers(24), jnp.ones((3, 4))))
    picture, whole = fg.graph(transformer, *types), fg.graph(transformer, *types, limit=None)
    assert len(whole.model.nodes) > 400
    assert len(picture.model.nodes) <= 60
    assert "scopes and bodies are opened 0 deep" in picture.notes
    assert titles(picture, "folded") == [f"layer{i}" for i in range(24)]
    assert all(node.names for node in picture.model.nodes if node.kind == "folded")
    assert "attention/scores" in picture.dot
    assert picture.notes[-1] in picture.dot
    assert sum(n.operations for n in picture.model.nodes if n.kind != "input") == sum(
        n.operations for n in whole.model.nodes
    )
    assert_whole(picture)
    assert_whole(whole)


@pytest.mark.slow
def test_scopes_close_from_the_innermost_outwards():
    picture = fg.graph(transformer, layers(6), jnp.ones((3, 4)))
    assert boxes(picture) == {f"layer{i}" for i in range(6)}
    assert titles(picture, "folded") == ["attention", "mlp"] * 6
    assert "scores value" in picture.dot
    # Weights used in one place are one node, and stand beside it.
    assert titles(picture, "input").count("layers[2]") == 2
    assert ("layers[2]", "attention") in drawn(picture)


@pytest.mark.slow
def test_runs_of_elementwise_operations_are_folded_first():
    def fun(x):
        for _ in range(10):
            x = jnp.sin(x) * 2 + 1
            x = x @ jnp.eye(2)
        return x

    picture = fg.graph(fun, jnp.ones((2, 2)), limit=40)
    assert titles(picture).count("sin · mul 2 · add 1") == 10
    assert titles(picture).count("dot_general") == 10
    assert picture.notes == ("runs of elementwise operations are folded",)
    assert_whole(picture)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [8, 15, 40, 100, 399])
def test_the_limit_holds_whatever_the_program(limit):
    def flat(x):
        for i in range(200):
            x = fg.retain_grad(jnp.sort(x), f"y{i}")
            x = jnp.cumsum(x) / 3
        return x, {"a": x * 2, "b": jnp.sin(x)}

    picture = fg.graph(flat, jax.ShapeDtypeStruct((3,), jnp.float32), limit=limit)
    assert len(picture.model.nodes) <= limit
    assert_whole(picture)


def test_a_folded_run_keeps_the_graph_acyclic():
    def between(x):
        a = jnp.sin(x)
        return a + jnp.sort(x)  # the sort is between the two that are folded

    def used_twice(x):
        a = jnp.sin(x)
        return jnp.cos(a) + jnp.sort(a)  # were the first three one, it would use what it makes

    for fun in (between, used_twice):
        for limit in range(1, 7):
            assert_whole(fg.graph(fun, jnp.ones(3), limit=limit))
    assert "sin · add" in titles(fg.graph(between, jnp.ones(3), limit=4))
    assert "cos · add" in titles(fg.graph(used_twice, jnp.ones(3), limit=5))


# Drawn


@pytest.mark.slow
def test_svg_is_well_formed_and_says_what_is_known():
    pytest.importorskip("pygraphviz")
    picture = fg.graph(chain, jnp.arange(4.0))
    root = ElementTree.fromstring(picture.svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(root.itertext())
    for wanted in ("x", "value 28", "grad 224", "grad 112", "float32[4]", "dot"):
        assert wanted in text
    tips = {e.get("{http://www.w3.org/1999/xlink}title") for e in root.iter()} - {None}
    assert any("test_graph.py" in tip for tip in tips)
    assert picture._repr_svg_() == picture.svg


def test_names_of_any_letters_are_drawn():
    pytest.importorskip("pygraphviz")
    name = '中文 <b> & "quoted" \\N \n\t\x00 {|}'

    def fun(x):
        with jax.named_scope("s<&>&amp;\\"):
            return fg.retain_grad(x * 2, name)

    picture = fg.graph(fun, {name: jnp.ones(2)}[name])
    text = " ".join(ElementTree.fromstring(picture.svg).itertext())
    assert '中文 <b> & "quoted" \\N' in text
    assert "s<&>&amp;\\" in text


def test_nothing_in_the_picture_is_made_for_a_white_page():
    picture = fg.graph(chain, jnp.arange(4.0))
    assert 'bgcolor="transparent"' in picture.dot
    assert not re.search(r'[^_]color="(black|#000)', picture.dot)
    assert re.search(r'fontcolor="#1f2328"', picture.dot)  # of nodes, which are filled


def test_saved(tmp_path):
    pytest.importorskip("pygraphviz")
    picture = fg.graph(chain, jnp.arange(4.0))
    for name in ("a.svg", "a.png", "a.dot"):
        picture.save(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert (tmp_path / "a.svg").read_text() == picture.svg
    assert (tmp_path / "a.dot").read_text() == picture.dot
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.dot", "a.png", "a.svg"]


def test_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    picture = fg.graph(chain, jnp.arange(4.0))
    target = tmp_path / "a.dot"
    target.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FuncgradError, match=r"a\.dot: cannot be written: No space left"):
        picture.save(target)
    assert target.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.dot"]


def test_saving_under_a_file_or_an_impossible_name(tmp_path):
    (tmp_path / "file").write_text("")
    picture = fg.graph(chain, jnp.ones(3))
    for name in ("file/x.dot", "x" * 300 + ".dot", "nul\0.dot"):
        with pytest.raises(FuncgradError, match="cannot be written"):
            picture.save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_picture_is_pickled():
    picture = fg.graph(chain, jnp.ones(3))
    assert pickle.loads(pickle.dumps(picture)).dot == picture.dot


def test_saving_where_no_folder_is(tmp_path):
    with pytest.raises(OSError, match="cannot be written: there is no folder"):
        fg.graph(chain, jnp.arange(4.0)).save(tmp_path / "no" / "a.dot")


def test_a_drawing_that_fails_writes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("pygraphviz")
    picture = fg.graph(chain, jnp.arange(4.0))
    monkeypatch.setattr("funcgrad.tools.graph.picture._DRAW", "import sys; sys.exit('broken')")
    with pytest.raises(FuncgradError, match=r"(?s)`graph` could not draw .*status 1: broken"):
        picture.save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_error_names_it_and_dot_works(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    picture = fg.graph(chain, jnp.arange(4.0))
    for show in (picture._repr_svg_, lambda: picture.save(tmp_path / "a.png")):
        with pytest.raises(ImportError, match=r"pip install 'funcgrad\[graph\]'") as caught:
            show()
        assert isinstance(caught.value, FuncgradError)
    picture.save(tmp_path / "a.dot")
    assert (tmp_path / "a.dot").read_text().startswith("digraph")


@pytest.mark.slow
def test_the_picture_of_the_page_is_the_one_its_code_draws(tmp_path, monkeypatch):
    pytest.importorskip("pygraphviz")
    page = Path(__file__).parents[1] / "docs" / "debugging.md"
    (section,) = re.findall(
        r"^## A picture.*?(?=^## |\Z)", page.read_text(), re.DOTALL | re.MULTILINE
    )
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (image,) = re.findall(r"!\[[^]]*\]\((.*?)\)", section)
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(code)
    with jax.numpy_dtype_promotion("standard"):
        runpy.run_path("train.py")
    shown, stored = (
        re.findall(r"<text[^>]*>([^0-9<]+)", path.read_text())
        for path in (tmp_path / "graph.svg", page.parent / image)
    )
    assert len(stored) > 40
    assert shown == stored


# Refused


@pytest.mark.parametrize(
    ("args", "keywords", "error", "words"),
    [
        ((3,), {}, UsageError, "`graph` got int, and wants a function"),
        ((chain, 1.0), {"depth": -1}, UsageError, "`graph` got depth=-1"),
        ((chain, 1.0), {"depth": True}, UsageError, "`graph` got depth=True"),
        ((chain, 1.0), {"limit": 0}, UsageError, "`graph` got limit=0"),
        ((lambda x: "text", 1.0), {}, UsageError, "`graph` got a function that returns str"),
        ((lambda x: x, 1.0), {"has_aux": True}, UsageError, r"wants \(out, aux\)"),
        ((lambda x: x, jnp.ones(2)), {"gradient": 1.0}, TreeError, "`graph` got a `gradient`"),
        (
            (lambda x: x > 0, 1.0),
            {"gradient": 1.0},
            TreeError,
            "`graph` got a `gradient` that does not fit",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(args, keywords, error, words):
    with pytest.raises(error, match=words):
        fg.graph(*args, **keywords)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"`Picture.save` got .*a.pdf.* ends in .svg, .png or"):
        fg.graph(chain, jnp.arange(4.0)).save(tmp_path / "a.pdf")


def test_python_control_flow_is_refused_with_advice():
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        fg.graph(lambda x: x if x > 0 else -x, 1.0)
    assert "funcgrad.autograph" in " ".join(caught.value.__notes__)
