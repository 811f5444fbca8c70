"""`with_torch` names the functions of `funcgrad.conventions` that have PyTorch's gradient."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiers import slow_but

import funcgrad as fg
from funcgrad.compare import with_torch
from funcgrad.compare.live import kinks

KINKS, ZEROS, TIES = 1, 2, 3  # seeds of further inputs of these styles


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


X, ROW = numbers(3, 4), numbers(5)


def named(report):
    """The functions named for each further input, without funcgrad's own prefix."""
    said = [advice for case in report.cases for advice in case.report.conventions]
    return {one.partition(" has ")[0].removeprefix("funcgrad.conventions.") for one in said}


def scanned(function):
    return lambda x: lax.scan(lambda total, row: (total + function(row), None), 0.0, x)[0]


def looped(function):
    step = lambda i, total, x: (i + 1, total + function(x[i]), x)
    start = lambda x: (0, 0.0, x)
    return lambda x: fg.while_loop(lambda s: s[0] < 3, lambda s: step(*s), start(x), max_steps=3)[1]


def chosen(function):
    return lambda x: lax.cond(x.shape[0] > 2, lambda x: jnp.sum(function(x)), jnp.sum, x)


max0 = lambda x: jnp.maximum(x, 0)
norms = lambda x: jnp.linalg.norm(x, axis=1)
F = lambda torch: torch.nn.functional

# What PyTorch has, what the port has, an input, the style at which they differ, and what is named.
CURED = {
    "norm": (lambda t: lambda x: x.norm(dim=1), norms, X, ZEROS, {"norm"}),
    "norm of order 1": (
        lambda t: lambda x: x.norm(p=1),
        lambda x: jnp.linalg.norm(x, 1),
        ROW,
        ZEROS,
        {"norm"},
    ),
    "norm of order 3": (
        lambda t: lambda x: t.linalg.norm(x, 3),
        lambda x: jnp.linalg.norm(x, 3),
        ROW,
        ZEROS,
        {"norm"},
    ),
    "norm by hand": (
        lambda t: lambda x: x.norm(dim=1),
        lambda x: jnp.sqrt(jnp.sum(x**2, axis=1)),
        X,
        ZEROS,
        {"norm"},
    ),
    "std": (lambda t: lambda x: x.std(1), lambda x: jnp.std(x, 1, ddof=1), X, ZEROS, {"std"}),
    "max": (lambda t: lambda x: x.max(1).values, lambda x: x.max(1), X, TIES, {"max"}),
    "min": (lambda t: lambda x: x.min(0).values, lambda x: jnp.min(x, 0), X, TIES, {"min"}),
    "pooling": (
        lambda t: lambda x: F(t).max_pool2d(x[None], (1, 2))[0],
        lambda x: x.reshape(3, 1, 2, 2).max((1, 3)),
        X,
        TIES,
        {"max"},
    ),
    "relu": (lambda t: t.relu, max0, X, ZEROS, {"jax.nn.relu"}),
    "clamp": (lambda t: lambda x: x.clamp(min=0), max0, X, ZEROS, {"clip"}),
    "clamp to bounds": (
        lambda t: lambda x: x.clamp(-1, 1),
        lambda x: jnp.clip(x, -1, 1),
        X,
        KINKS,
        {"clip"},
    ),
    "hardtanh": (lambda t: F(t).hardtanh, lambda x: jnp.clip(x, -1, 1), X, KINKS, {"hard_tanh"}),
    "hardtanh of jax": (lambda t: F(t).hardtanh, jax.nn.hard_tanh, X, KINKS, {"hard_tanh"}),
    "relu and clamp": (
        lambda t: lambda x: t.relu(x).clamp(max=2),
        lambda x: jnp.clip(jnp.maximum(x, 0), max=2),
        X,
        KINKS,
        {"jax.nn.relu", "clip"},
    ),
    "leaky relu": (lambda t: F(t).leaky_relu, jax.nn.leaky_relu, X, ZEROS, {"leaky_relu"}),
    "where": (
        lambda t: lambda x: F(t).leaky_relu(x, 0.25),
        lambda x: jnp.where(x >= 0, x, 0.25 * x),
        X,
        ZEROS,
        {"with equals on the other side `x >= 0`"},
    ),
    "abs": (lambda t: t.abs, jnp.abs, X, ZEROS, {"abs"}),
    "l1": (
        lambda t: lambda x: F(t).l1_loss(x, t.zeros_like(x)),
        lambda x: jnp.mean(abs(x)),
        X,
        ZEROS,
        {"abs"},
    ),
    "fmax": (
        lambda t: lambda x: t.fmax(x, t.zeros(4)),
        lambda x: jnp.fmax(x, jnp.zeros(4)),
        X,
        ZEROS,
        {"fmax"},
    ),
    "power": (
        lambda t: lambda x: x ** t.tensor([0.0, 1.0, 2.0, 3.0]),
        lambda x: x ** jnp.array([0.0, 1.0, 2.0, 3.0]),
        X,
        ZEROS,
        {"power"},
    ),
    "arctan2": (
        lambda t: lambda x: t.atan2(x[0], x[1]),
        lambda x: jnp.arctan2(x[0], x[1]),
        X,
        ZEROS,
        {"arctan2"},
    ),
    "sort": (
        lambda t: lambda x: t.sort(x, descending=True, stable=True).values,
        lambda x: jnp.sort(x, descending=True),
        X,
        TIES,
        {"sort"},
    ),
    "cummax": (
        lambda t: lambda x: t.cummax(x, 1).values,
        lambda x: lax.cummax(x, axis=1),
        X,
        TIES,
        {"cummax"},
    ),
    "median": (lambda t: t.median, jnp.median, ROW, TIES, {"median"}),
    "in vmap": (lambda t: lambda x: x.norm(dim=1), jax.vmap(jnp.linalg.norm), X, ZEROS, {"norm"}),
    "in jit": (lambda t: t.relu, jax.jit(max0), X, ZEROS, {"jax.nn.relu"}),
    "in checkpoint": (lambda t: t.relu, jax.checkpoint(max0), X, ZEROS, {"jax.nn.relu"}),
    "in scan": (
        lambda t: lambda x: x.norm(dim=1).sum(),
        scanned(jnp.linalg.norm),
        X,
        ZEROS,
        {"norm"},
    ),
    "in a loop of funcgrad": (
        lambda t: lambda x: x.norm(dim=1).sum(),
        looped(jnp.linalg.norm),
        X,
        ZEROS,
        {"norm"},
    ),
    "in cond": (lambda t: lambda x: t.relu(x).sum(), chosen(max0), X, ZEROS, {"jax.nn.relu"}),
    "beside a tag": (
        lambda t: lambda x: x.norm(),
        lambda x: jnp.linalg.norm(fg.retain_grad(2 * x, "doubled")) / 2,
        X,
        ZEROS,
        {"norm"},
    ),
    "beside a kink that agrees": (
        lambda t: lambda x: x.norm() + t.maximum(x, t.ones(4)).sum(),
        lambda x: jnp.linalg.norm(x) + jnp.sum(jnp.maximum(x, jnp.ones(4))),
        X,
        ZEROS,
        {"norm"},
    ),
}


@pytest.mark.parametrize(
    ("theirs", "ours", "x", "seed", "functions"),
    slow_but(lambda *row: row[-1] in ({"jax.nn.relu"}, {"abs"}), CURED.values()),
    ids=list(CURED),
)
def test_the_function_with_the_gradient_of_pytorch_is_named(
    torch, theirs, ours, x, seed, functions
):
    report = with_torch(theirs(torch), ours, x, n=1, seed=seed)
    assert not report.ok
    assert report.conventions == ()
    assert {name.partition(" (/")[0] for name in named(report)} == functions


ELSEWHERE = {
    "a gradient that is cut": (
        lambda t: lambda x: t.relu(x) * x.detach(),
        lambda x: max0(x) * x,
    ),
    "a gradient that is added": (
        lambda t: t.abs,
        lambda x: jnp.abs(x) + x - fg.detach(x),
    ),
    "a gradient that is scaled": (
        lambda t: lambda x: x.clamp(min=0),
        lambda x: max0(fg.register_hook(x, lambda g: 2 * g)),
    ),
    "another value": (lambda t: t.abs, lambda x: jnp.abs(x) + 1),
    "a rule of the user's own": (
        lambda t: t.square,
        lambda x: with_half_a_rule(x),
    ),
}


@jax.custom_jvp
def with_half_a_rule(x):
    return jnp.square(jnp.abs(x))


with_half_a_rule.defjvps(lambda t, out, x: t * jnp.abs(x))


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), ELSEWHERE.values(), ids=list(ELSEWHERE))
def test_no_function_is_named_where_the_difference_is_elsewhere(torch, theirs, ours):
    report = with_torch(theirs(torch), ours, X, n=3, seed=1)
    assert not report.ok
    assert [report.conventions, *(case.report.conventions for case in report.cases)] == [()] * 4


@pytest.mark.slow
def test_the_report_says_where_and_points_to_the_page(torch):
    ours = lambda x: jnp.sum(jnp.maximum(x, 0.0))
    report = with_torch(lambda x: torch.relu(x).sum(), ours, np.zeros(3, "float32"))
    line = ours.__code__.co_firstlineno
    advice = (
        f"jax.nn.relu has PyTorch's gradient, in place of `jnp.maximum(x, 0.0)` ({__file__}:{line})"
    )
    assert report.conventions == (advice,)
    assert str(report).startswith("DIFFER: 1 of 2 names agree\n")
    assert f"\n{advice}\n(gradients at kinks" in str(report)
    assert "docs/conventions.md" in str(report)
    assert json.loads(report.to_json())["conventions"] == [advice]
    assert with_torch(lambda x: torch.relu(x).sum(), ours, ROW).conventions == ()


@pytest.mark.slow
def test_the_fewest_functions_are_named_for_each_input(torch):
    """At zeros both are at a kink, at ties the maximum alone."""
    theirs = lambda x: x.abs().sum() + x.max(1).values.sum()
    report = with_torch(theirs, lambda x: jnp.sum(jnp.abs(x)) + jnp.sum(x.max(1)), X, n=2, seed=2)
    zeros, ties = (
        {one.partition(" has ")[0] for one in c.report.conventions} for c in report.cases
    )
    assert zeros == {"funcgrad.conventions.abs", "funcgrad.conventions.max"}
    assert ties == {"funcgrad.conventions.max"}


@pytest.mark.slow
def test_gradients_of_parameters_and_intermediates_count_too(torch):
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4, 4))

        def forward(self, x):
            return torch.relu(fg.compare.capture(x @ self.weight, "h")).sum()

    ours = lambda p, x: jnp.sum(max0(fg.retain_grad(x @ p["weight"], "h")))
    layer = Layer()
    report = with_torch(layer, ours, X, params=layer)
    assert [row.name for row in report.rows if not row.ok] == ["weight", "h"]
    assert [one.partition(" has ")[0] for one in report.conventions] == ["jax.nn.relu"]


@pytest.mark.slow
def test_a_function_that_looks_at_its_values_is_compared_without_advice(torch):
    ours = lambda x: max0(x) if jnp.sum(x) >= 0 else x
    report = with_torch(torch.relu, ours, np.zeros(3, "float32"), jit=False)
    assert not report.ok
    assert report.conventions == ()


def test_the_search_ends_with_the_fewest_choices():
    found = {"abs": ("abs",), "maximum": ("clip", "flat"), "comparison": ("", "other side")}
    tried = []

    def agrees(wanted, choices):
        tried.append(choices)
        return choices == wanted or choices == {"abs": "abs", **wanted}

    search = lambda wanted: kinks.search(found, functools.partial(agrees, wanted))
    assert search({"maximum": "flat"}) == {"maximum": "flat"}
    assert tried[0] == {"abs": "abs", "maximum": "clip"}
    assert search({"abs": "sign"}) == {}
    assert kinks.search({}, lambda choices: True) == {}


# Without PyTorch: a choice gives the gradient of the function it is called after.

C = fg.conventions
ALONE = {
    "abs": (jnp.abs, C.abs),
    "norm": (jnp.linalg.norm, C.norm),
    "std": (jnp.std, C.std),
    "median": (jnp.median, C.median),
    "leaky_relu": (jax.nn.leaky_relu, C.leaky_relu),
    "hard_tanh": (jax.nn.hard_tanh, C.hard_tanh),
    "max": (lambda x: jnp.max(x, axis=0), lambda x: C.max(x, axis=0)),
    "cummin": (lax.cummin, C.cummin),
    "fmin": (lambda x: jnp.fmin(x, 0.0), lambda x: C.fmin(x, 0.0)),
    "sort": (lambda x: jnp.sort(x, descending=True), lambda x: C.sort(x, descending=True)),
    "copysign": (lambda x: jnp.copysign(x, 2.0), lambda x: C.copysign(x, 2.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_a_choice_is_the_function_that_is_named(name):
    theirs, ours = ALONE[name]
    x, weights = np.zeros(3, "float32") + (name == "hard_tanh"), np.float32([1, 2, 3])
    program, _ = kinks.flat(theirs, x)
    assert kinks.kinks(program)[name] == (name,)
    chosen = kinks.choosing(program, {name: name})
    gradients = [
        jax.grad(lambda x, f=f: jnp.sum(f(x) * weights))(x)
        for f in (theirs, lambda x: chosen(x)[0], ours)
    ]
    np.testing.assert_array_equal(gradients[1], gradients[2])
    assert not np.array_equal(gradients[0], gradients[2])
    assert np.array_equal(chosen(x)[0], theirs(x))
