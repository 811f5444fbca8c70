"""Objects of Flax NNX as arguments: gradients and state to the last bit those of Flax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg

pytest.importorskip("flax", reason="Flax is not installed: pip install 'funcgrad[bench]'")
optax = pytest.importorskip("optax", reason="optax is not installed: pip install optax")
from flax import nnx  # noqa: E402

pytestmark = pytest.mark.slow  # compiling what Flax makes of a module takes its time
X = jax.random.normal(jax.random.key(0), (8, 4))


class Calls(nnx.Variable):
    """A count of calls."""


class Net(nnx.Module):
    """Everything that moves: statistics, the streams of dropout, a count; and what is no array."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.linear, self.norm = nnx.Linear(4, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)
        self.drop, self.activation, self.kind = nnx.Dropout(0.5, rngs=rngs), jnp.tanh, "net"
        self.calls = Calls(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        return self.drop(self.activation(self.norm(self.linear(x))))


def loss(net, x):
    return jnp.mean(fg.retain_grad(net(x), "out") ** 3)


def assert_same(got, want):
    """Structures, types and numbers, to the last bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert ours.dtype == theirs.dtype
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)


def assert_close(got, want, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_allclose(ours, theirs, atol=atol, rtol=1e-5)


def moved(net):
    """Whether everything that moves has moved."""
    return (
        bool(net.calls[...])
        and bool(jnp.any(net.norm.mean[...]))
        and bool(net.drop.rngs.count[...])
    )


def in_a_dict(transform, net):
    return transform(lambda d, x: loss(d["net"], x) * d["scale"])(
        {"net": net, "scale": jnp.float32(2)}, X
    )


def in_a_tuple(transform, net):
    return transform(lambda pair, x: loss(pair[1], x) * pair[0])((jnp.float32(2), net), X)


def by_the_other(transform, net):
    return transform(lambda x, nets: loss(nets[0], x))(X, (net,))


def by_both(transform, net):
    return transform(loss, argnums=(0, 1))(net, X)


def with_aux(transform, net):
    return transform(lambda net, x: (loss(net, x), net.norm.mean[...] + 1), has_aux=True)(net, X)


CALLS = {
    "alone": lambda transform, net: transform(loss)(net, X),
    "jitted": lambda transform, net: nnx.jit(transform(loss))(net, X),
    "in a dict": in_a_dict,
    "in a tuple": in_a_tuple,
    "by the other": by_the_other,
    "by both": by_both,
    "with aux": with_aux,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("function", ["grad", "value_and_grad"])
def test_gradients_and_state_are_those_of_nnx(function, name):
    ours, theirs = Net(), Net()
    for _ in range(2):
        got = CALLS[name](getattr(fg, function), ours)
        assert_same(got, CALLS[name](getattr(nnx, function), theirs))
        assert_same(nnx.state(ours), nnx.state(theirs))
    assert moved(ours)


def test_three_steps_draw_three_masks_and_move_the_statistics():
    ours, theirs = Net(), Net()
    for _ in range(3):
        assert_same(fg.value_and_grad(loss)(ours, X), nnx.value_and_grad(loss)(theirs, X))
    assert_same(nnx.state(ours), nnx.state(theirs))
    assert int(ours.calls[...]) == int(ours.drop.rngs.count[...]) == 3


def test_vjp_and_retained_values_move_the_state_too():
    ours, theirs = Net(), Net()
    out, pullback = fg.vjp(loss, ours, X)
    want, want_grads = nnx.value_and_grad(loss, argnums=(0, 1))(theirs, X)
    assert_same((out, pullback()), (want, want_grads))
    value, grads, retained = fg.value_and_grad(loss, retain="out")(ours, X)
    assert_same((value, grads), nnx.value_and_grad(loss)(theirs, X))
    assert_same(nnx.state(ours), nnx.state(theirs))
    np.testing.assert_allclose(retained["out"].grad, retained["out"].value ** 2 / 8, rtol=1e-5)


def test_objects_that_are_returned_are_the_callers_own():
    net = Net()
    _, (same, part) = fg.grad(lambda net, x: (loss(net, x), (net, net.norm)), has_aux=True)(net, X)
    assert same is net
    assert part is net.norm


@pytest.mark.parametrize("kind", [nnx.Param, nnx.BatchStat])
def test_a_variable_by_itself_is_differentiated_whatever_it_is(kind):
    square = lambda v: jnp.sum(v[...] ** 2)
    v = kind(jnp.arange(3.0))
    assert_same(fg.grad(square)(v), nnx.grad(square)(v))


FILTERS = {
    "type": nnx.Param,
    "all of": nnx.All(nnx.Param, nnx.PathContains("kernel")),
    "any of": (nnx.BatchStat, nnx.PathContains("kernel")),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_of_flax_chooses_as_for_nnx(name):
    ours, theirs, wanted = Net(), Net(), FILTERS[name]
    got = fg.grad(loss, requires_grad=wanted)(ours, X)
    assert_same(got, nnx.grad(loss, argnums=nnx.DiffState(0, wanted))(theirs, X))


def is_kernel(path, leaf):
    return "kernel" in jax.tree_util.keystr(path)


KERNELS = nnx.PathContains("kernel")
MASKS = {
    "path and leaf": lambda net: is_kernel,
    "leaf": lambda net: lambda leaf: isinstance(leaf, nnx.Param) and leaf.ndim == 2,
    "state": lambda net: jax.tree_util.tree_map_with_path(is_kernel, nnx.state(net, nnx.Param)),
    "module": lambda net: jax.tree_util.tree_map_with_path(is_kernel, net),
    "prefix": lambda net: nnx.State({"linear": {"kernel": True, "bias": False}, "norm": False}),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_and_predicates_choose_variables(name):
    ours, theirs = Net(), Net()
    got = fg.grad(loss, requires_grad=MASKS[name](ours))(ours, X)
    assert_same(got, nnx.grad(loss, argnums=nnx.DiffState(0, KERNELS))(theirs, X))


def test_a_mask_that_leaves_out_a_parameter_is_refused():
    mask = nnx.State({"linear": True})
    with pytest.raises(fg.UsageError, match=r"`grad` got None from `requires_grad` for \['norm'\]"):
        fg.grad(loss, requires_grad=mask)(Net(), X)


def test_an_object_that_shares_with_one_before_is_refused():
    net = Net()
    both = lambda one, other, x: loss(one, x) + loss(other, x)
    with pytest.raises(fg.UsageError, match=r"`grad` got an object .* shares variables"):
        fg.grad(both, argnums=1)(net, net, X)
    want = nnx.grad(lambda net, x: loss(net, x) + loss(net, x))(Net(), X)
    assert_same(fg.grad(both)(net, net, X), want)


@pytest.mark.parametrize(
    "call",
    [
        lambda net: fg.grad(lambda x: jnp.sum(net(x)))(X),
        lambda net: fg.detect_anomaly(lambda x: jnp.sum(net(x)))(X),
        lambda net: fg.microbatch(lambda w, x: jnp.mean(w * net(x)), 2)(1.0, X),
        lambda net: fg.gradcheck(lambda x: jnp.sum(net(x)), X),
    ],
)
def test_a_change_of_what_is_closed_over_is_refused_with_what_to_do(call):
    with pytest.raises(fg.UsageError, match=r"changes an object which it closes over .*nnx\.split"):
        call(Net())


CALLED = {
    "grad": lambda fun, net: fg.grad(fun, 1)(net, X),
    "capture": lambda fun, net: fg.capture(fun, "out")(net, X)[0],
    "with_hooks": lambda fun, net: fg.with_hooks(fun, forward={"out": jnp.sin})(net, X),
}


@pytest.mark.parametrize("name", CALLED)
def test_an_object_from_outside_of_jit_may_be_looked_at_and_stays_whole(name):
    """Not so under `nnx.grad`, which wants it among the arguments of `nnx.jit`."""
    call = functools.partial(CALLED[name], loss)
    plain = nnx.Dict(one=nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    of_plain = functools.partial(CALLED[name], lambda net, x: loss(net["one"], x))
    assert_close(jax.jit(lambda: of_plain(plain))(), of_plain(plain))
    net = Net()
    with pytest.raises(fg.UsageError, match=r"got an object from outside .* nnx\.jit or nnx\.vmap"):
        jax.jit(lambda: call(net))()
    assert not moved(net)
    assert_close(nnx.jit(call)(net), call(Net()))
    assert moved(net)


def test_no_grad_and_hooks_on_saved_tensors_move_the_state():
    ours, theirs = Net(), Net()
    assert_same(fg.no_grad(lambda net, x: net(x))(ours, X), theirs(X))
    hooked = fg.saved_tensors_hooks(lambda net, x: net(x), lambda x: x, lambda x: x)
    assert_close(hooked(ours, X), theirs(X))
    assert_close(nnx.state(ours), nnx.state(theirs))


def test_no_grad_leaves_the_parameters_of_its_argument_differentiable():
    def mixed(still):
        return lambda net, x: jnp.sum(still(net, x)) + jnp.sum(net(x) ** 2)

    ours, theirs = Net(), Net()
    got = fg.grad(mixed(fg.no_grad(lambda net, x: net(x))))(ours, X)
    want = nnx.grad(mixed(lambda net, x: jax.lax.stop_gradient(net(x))))(theirs, X)
    assert_same(got, want)
    assert_same(nnx.state(ours), nnx.state(theirs))


def in_turn(net, parts, weights):
    """What nnx gives for parts of a batch one after the other, and the mean by weights."""
    found = [nnx.value_and_grad(loss)(net, part) for part in parts]
    mean = lambda *xs: sum(w * x for w, x in zip(weights, xs, strict=True))
    return jax.tree.map(mean, *found)


@pytest.mark.parametrize("rows", [32, 30])
def test_state_moves_from_micro_batch_to_micro_batch(rows):
    ours, theirs = Net(), Net()
    batch = jax.random.normal(jax.random.key(1), (rows, 4))
    parts = [batch[start : start + 8] for start in range(0, rows, 8)]
    want = in_turn(theirs, parts, [len(part) / rows for part in parts])
    assert_close(fg.microbatch(fg.value_and_grad(loss), 4)(ours, batch), want)
    assert_close(nnx.state(ours), nnx.state(theirs))
    want = in_turn(theirs, parts, [len(part) / rows for part in parts])
    wrapped = fg.microbatch(lambda x, net: fg.value_and_grad(loss)(net, x), 4, batch_argnums=0)
    assert_close(nnx.jit(wrapped)(batch, ours), want)
    assert_close(nnx.state(ours), nnx.state(theirs))


def test_on_a_mesh_statistics_are_the_mean_of_those_of_the_devices():
    class Normed(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.norm(x)

    mean_square = lambda net, x: jnp.mean(net(x) ** 2 * jnp.arange(4.0))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.P("data")))
    net = Normed()
    fun = fg.microbatch(fg.grad(mean_square), 2, mesh=mesh, batch_axis="data")
    grads = fun(net, rows)
    halves = []
    for half in (X[:4], X[4:]):
        each = Normed()
        parts = [nnx.grad(mean_square)(each, part) for part in (half[:2], half[2:])]
        halves.append((each, jax.tree.map(lambda a, b: (a + b) / 2, *parts)))
    mean = lambda a, b: (a + b) / 2
    assert_close(grads, jax.tree.map(mean, halves[0][1], halves[1][1]))
    kind = nnx.BatchStat
    stats = [nnx.state(each, kind) for each, _ in halves]
    assert_close(nnx.state(net, kind), jax.tree.map(mean, *stats))


def test_an_object_that_becomes_another_cannot_go_on_to_the_next_micro_batch():
    def grows(net, x):
        net.memory = nnx.Variable(x)
        return loss(net, x)

    with pytest.raises(fg.TreeError, match="changes what its object is made of"):
        fg.microbatch(fg.grad(grows), 2)(Net(), X)


def training(seed=0):
    net = Net(seed)
    return net, nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)


def step(net, optimizer, x):
    value, grads = nnx.value_and_grad(loss)(net, x)
    optimizer.update(net, grads)
    return value


@pytest.mark.parametrize("mode", ["interpreted", "compiled"])
@pytest.mark.parametrize("jit", [nnx.jit, lambda fun: fun])
def test_an_optimizer_steps_inside_detect_anomaly(mode, jit):
    net, optimizer = training()
    want, other = training()
    checked, jitted = fg.detect_anomaly(jit(step), mode=mode), nnx.jit(step)
    for _ in range(3):
        np.testing.assert_allclose(
            checked(net, optimizer, X), jitted(want, other, X), rtol=1e-5, atol=1e-7
        )
    assert_close(nnx.state((net, optimizer)), nnx.state((want, other)), atol=1e-5)
    assert moved(net)


@pytest.mark.parametrize("mode", ["interpreted", "compiled"])
def test_an_anomaly_leaves_the_objects_as_they_were(mode):
    net = Net()
    before = jax.tree.map(lambda x: x, nnx.state(net))
    with pytest.raises(fg.AnomalyError, match="log"):
        fg.detect_anomaly(lambda net, x: jnp.log(-1 - loss(net, x) ** 2), mode=mode)(net, X)
    assert_same(nnx.state(net), before)


def test_checks_and_tables_leave_the_state_alone_and_look_at_parameters():
    net = nnx.Sequential(
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)), jnp.sin, nnx.Dropout(0.5, rngs=nnx.Rngs(1))
    )
    fun = lambda net, x: jnp.sum(net(x) ** 2)
    before = jax.tree.map(lambda x: x, nnx.state(net))
    assert fg.gradcheck(fun, (net, X[:2]))
    assert fg.gradgradcheck(fun, (net, X[:2]))
    assert "argument 1" in {row.name for row in fg.saved_tensors(fun, net, X, argnums=0)}
    assert not fg.disconnected(fun, net, X)
    assert len(fg.graph(fun, net, X).model.nodes) > 3
    assert_same(nnx.state(net), before)


def test_a_parameter_that_nothing_uses_is_told_and_statistics_are_none():
    net = Net()
    found = fg.disconnected(lambda net, x: jnp.sum(net.linear(x)), net, X)
    norm = ["argument 0['norm']['bias'].value", "argument 0['norm']['scale'].value"]
    assert sorted(found.inputs) == norm


@pytest.mark.parametrize("set_to_none", [False, True])
def test_accumulators_are_like_gradients(set_to_none):
    net = Net()
    grads = fg.grad(loss)(net, X)
    acc = fg.accumulate_grad(fg.zero_grad(net, set_to_none), grads)
    assert_same(acc, grads)
    assert_same(fg.accumulate_grad(acc, grads), jax.tree.map(lambda g: g + g, grads))


def test_a_transform_of_a_transform_of_a_module():
    def penalty(transform, net, x):
        grads = transform(lambda net, x: jnp.sum(net(x) ** 2))(net, x)
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))

    ours, theirs = Net(), Net()
    got = fg.grad(functools.partial(penalty, fg.grad))(ours, X)
    assert_same(got, nnx.grad(functools.partial(penalty, nnx.grad))(theirs, X))
    assert_same(nnx.state(ours), nnx.state(theirs))


def test_the_step_is_compiled_once_in_compiled_mode():
    traces = []

    def counted(net, x):
        traces.append(None)
        return loss(net, x)

    net, checked = Net(), fg.detect_anomaly(counted, mode="compiled")
    for _ in range(3):
        checked(net, X)
    assert len(traces) == 1
    assert int(net.calls[...]) == 3


def test_a_state_to_differentiate_is_told_where_its_filter_goes():
    state = nnx.DiffState(0, nnx.Param)
    with pytest.raises(fg.UsageError, match=r"`grad` got argnums=DiffState.* requires_grad="):
        fg.grad(loss, argnums=state)(Net(), X)
