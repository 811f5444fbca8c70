"""Twenty steps in a library's own training loop, and in one that takes its gradients from here.

Ours accumulates by `microbatch`, clips by a hook, freezes by `requires_grad` and watches a part of
the named model; theirs adds up the gradients of the parts, clips by a rule of its own and
differentiates what is trained alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg

pytestmark = pytest.mark.slow
X, Y = jax.random.normal(jax.random.key(0), (2, 8, 4))
KEY = jax.random.key(1)
STEPS, PARTS = 20, 2
WATCHED = {"head": fg.watch()}
LEAST = 0.02  # of a gradient that is clipped: some are, some are not


def hooked(h):
    return fg.register_hook(h, lambda g: jnp.clip(g, -LEAST, LEAST))


@jax.custom_vjp
def clipped(h):
    return h


clipped.defvjp(lambda h: (h, None), lambda _, g: (jnp.clip(g, -LEAST, LEAST),))


def library(name):
    return pytest.importorskip(
        name, reason=f"{name} is not installed: pip install 'funcgrad[models]'"
    )


@pytest.fixture
def sgd():
    return library("optax").sgd(0.1, momentum=0.9)


def parts():
    return zip(jnp.split(X, PARTS), jnp.split(Y, PARTS), jax.random.split(KEY, PARTS), strict=True)


def total(results):
    return jax.tree.map(lambda *xs: sum(xs[1:], xs[0]), *results)


def assert_watched(told, grads):
    """That the gradient of the output of the head was seen: the bias has its sum over the rows."""
    assert told["head"].value["rms"].shape == (PARTS,)
    assert int(told["head"].grad["nonfinite_count"].sum()) == 0
    rms, rows = told["head"].grad["rms"], len(X) // PARTS * Y.shape[1]
    assert float(jnp.max(jnp.abs(grads))) <= float(jnp.sum(rms)) * rows


def assert_trained(ours, theirs, start):
    """That both went the same way, and that the way was long."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    ways = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), ours, start)
    assert sorted(jax.tree.leaves(ways))[-1] > 0.01


def test_nnx(sgd):
    nnx = library("flax.nnx")
    trained = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("body")))

    class Net(nnx.Module):
        def __init__(self, clip):
            rngs = nnx.Rngs(0)
            self.body, self.head = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
            self.norm, self.drop = nnx.BatchNorm(6, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
            self.clip = clip

        def __call__(self, x):
            return self.head(self.drop(self.clip(self.norm(self.body(x)))))

    def loss(net, x, y):
        return jnp.mean((net(x) - y) ** 2)

    gradient = fg.grad(loss, requires_grad=trained, retain=WATCHED)
    accumulated = fg.microbatch(gradient, PARTS, batch_argnums=(1, 2), reduce=("mean", "stack"))

    @nnx.jit
    def ours(net, optimizer):
        grads, told = accumulated(net, X, Y)
        optimizer.update(net, grads)
        return told, grads["head"]["bias"][...]

    @nnx.jit
    def theirs(net, optimizer):
        share = nnx.grad(
            lambda net, x, y: loss(net, x, y) / PARTS, argnums=nnx.DiffState(0, trained)
        )
        optimizer.update(net, total([share(net, x, y) for x, y, _ in parts()]))

    nets = []
    for step, clip in ((ours, hooked), (theirs, clipped)):
        net = fg.named(Net(clip)) if step is ours else Net(clip)
        optimizer = nnx.Optimizer(net, sgd, wrt=trained)
        for _ in range(STEPS):
            seen = step(net, optimizer)
            if step is ours:
                assert_watched(*seen)
        nets.append(net)
    start = Net(hooked)
    states = [nnx.state(net, (nnx.Param, nnx.BatchStat)) for net in (*nets, start)]
    assert_trained(*states)
    np.testing.assert_array_equal(nets[0].body.kernel[...], start.body.kernel[...])
    counts = [int(net.drop.rngs.count[...]) for net in nets]
    assert counts == [STEPS * PARTS] * 2


def test_equinox(sgd):
    eqx = library("equinox")

    class Net(eqx.Module):
        body: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        head: eqx.nn.Linear

        def __call__(self, x, state, key, clip):
            h, state = self.norm(self.body(x), state)
            return self.head(self.drop(clip(h), key=key)), state

    def make():
        norm, drop = eqx.nn.BatchNorm(6, "rows", mode="batch"), eqx.nn.Dropout(0.5)
        return Net(
            eqx.nn.Linear(4, 6, key=KEY), norm, drop, eqx.nn.Linear(6, 4, key=jax.random.key(2))
        )

    def loss(net, state, x, y, key, clip):
        rows = jax.vmap(
            lambda x, key: net(x, state, key, clip), axis_name="rows", out_axes=(0, None)
        )
        out, state = rows(x, jax.random.split(key, len(x)))
        return jnp.mean((out - y) ** 2), state

    start, state = eqx.nn.make_with_state(make)()
    start = fg.named(start)
    mask = jax.tree.map(eqx.is_inexact_array, start)
    mask = eqx.tree_at(lambda net: net.body, mask, jax.tree.map(lambda _: False, start.body))

    @eqx.filter_jit
    def ours(net, state, moments):
        hooked_loss = lambda net, state, x, y, key: loss(net, state, x, y, key, hooked)
        accumulated = fg.microbatch(
            fg.grad(hooked_loss, has_aux=True, requires_grad=mask, retain=WATCHED),
            PARTS,
            batch_argnums=(2, 3),
            key_argnums=4,
            reduce=("mean", "stack", "stack"),
        )
        grads, states, told = accumulated(net, state, X, Y, KEY)
        assert told["head"].grad["rms"].shape == (PARTS, len(X) // PARTS)
        updates, moments = sgd.update(grads, moments)
        return eqx.apply_updates(net, updates), jax.tree.map(lambda x: x[-1], states), moments

    @eqx.filter_jit
    def theirs(net, state, moments):
        moving, still = eqx.partition(net, mask)

        @eqx.filter_grad(has_aux=True)
        def share(moving, x, y, key):
            own = jax.tree.map(lambda leaf: leaf, state)  # one that was used cannot be used again
            value, left = loss(eqx.combine(moving, still), own, x, y, key, clipped)
            return value / PARTS, left

        results = [share(moving, *part) for part in parts()]
        updates, moments = sgd.update(total([grads for grads, _ in results]), moments)
        return eqx.apply_updates(net, updates), results[-1][1], moments

    ends = []
    for step in (ours, theirs):
        at = start, state, sgd.init(eqx.filter(start, mask))
        for _ in range(STEPS):
            at = step(*at)
        ends.append(at)
    nets = [eqx.filter(net, eqx.is_inexact_array) for net in (ends[0][0], ends[1][0], start)]
    assert_trained(*nets)
    np.testing.assert_array_equal(ends[0][0].body.weight, start.body.weight)
    assert ends[0][0].drop.p == 0.5


def test_linen(sgd):
    nn = library("flax.linen")
    from flax.core import freeze

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, clip):
            h = nn.BatchNorm(use_running_average=False, name="norm")(nn.Dense(6, name="body")(x))
            h = nn.Dropout(0.5, deterministic=False)(clip(h))
            return nn.Dense(4, name="head")(h)

    net, named = Net(), fg.named(Net())
    variables = net.init({"params": KEY, "dropout": KEY}, X, hooked)
    start, stats = variables["params"], variables["batch_stats"]
    mask = freeze({"body": False, "head": True, "norm": {"scale": True, "bias": True}})

    def loss(params, stats, x, y, key, clip):
        out, moved = (named if clip is hooked else net).apply(
            {"params": params, "batch_stats": stats},
            *(x, clip),
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return jnp.mean((out - y) ** 2), moved["batch_stats"]

    @jax.jit
    def ours(params, stats, moments):
        hooked_loss = lambda params, stats, x, y, key: loss(params, stats, x, y, key, hooked)
        accumulated = fg.microbatch(
            fg.grad(hooked_loss, has_aux=True, requires_grad=mask, retain=WATCHED),
            PARTS,
            batch_argnums=(2, 3),
            key_argnums=4,
            reduce=("mean", "mean", "stack"),
        )
        grads, stats, told = accumulated(params, stats, X, Y, KEY)
        assert told["head"].grad["rms"].shape == (PARTS,)
        grads = {"head": grads["head"], "norm": grads["norm"]}
        updates, moments = sgd.update(grads, moments)
        moved = jax.tree.map(jnp.add, {name: params[name] for name in updates}, updates)
        return {**params, **moved}, stats, moments

    @jax.jit
    def theirs(params, stats, moments):
        still = {"body": params["body"]}

        def share(moving, x, y, key):
            value, left = loss({**moving, **still}, stats, x, y, key, clipped)
            return value / PARTS, left

        moving = {"head": params["head"], "norm": params["norm"]}
        results = [jax.grad(share, has_aux=True)(moving, *part) for part in parts()]
        updates, moments = sgd.update(total([grads for grads, _ in results]), moments)
        left = jax.tree.map(lambda *xs: sum(xs) / PARTS, *(left for _, left in results))
        return {**jax.tree.map(jnp.add, moving, updates), **still}, left, moments

    ends = []
    for step in (ours, theirs):
        at = start, stats, sgd.init({"head": start["head"], "norm": start["norm"]})
        for _ in range(STEPS):
            at = step(*at)
        ends.append(at)
    assert_trained(ends[0][:2], ends[1][:2], (start, stats))
    np.testing.assert_array_equal(ends[0][0]["body"]["kernel"], start["body"]["kernel"])
