"""Hooks on named values and on their gradients, set from outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from jax import lax
from jax.sharding import PartitionSpec as P
from tiers import slow_but

import funcgrad as fg

X = jnp.array([0.2, 0.4, 0.6])
TWO = jnp.float32(2)


def fun(x):
    return jnp.sum(fg.retain_grad(jnp.sin(x), "h") ** 2)


def scanned(x, **options):
    step = lambda c, _: (fg.retain_grad(jnp.sin(c), "h"), None)
    return lax.scan(step, x, None, length=4, **options)[0]


def number(v, index):
    """A hook that writes the numbers of the rows."""
    places = sum(10**k * i for k, i in enumerate(reversed(index)))
    return jnp.full_like(v, places)


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"unroll": 2}], ids=str)
def test_index_numbers_the_rows_of_a_scan(options):
    asked = fg.with_hooks(functools.partial(scanned, **options), forward={"h": number})
    assert_close(fg.capture(asked, "h")(jnp.float32(1))[1]["h"], jnp.arange(4.0))


def loops(x):
    inner = lambda c: fg.fori_loop(2, 4, lambda i, c: jax.jit(tag)(c), c)
    return lax.scan(lambda c, _: (inner(c), None), x, None, length=3)[0]


def tag(x):
    return fg.retain_grad(x, "h")


@pytest.mark.slow
def test_index_numbers_loops_from_the_outside_in():
    numbered = fg.with_hooks(loops, forward={"h": number})
    values = fg.capture(numbered, "h")(jnp.float32(0))[1]["h"]
    assert_close(values, jnp.array([[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]]))
    backward = fg.with_hooks(loops, backward={"h": lambda g, index: g + number(g, index)})
    grads = fg.grad(backward, retain="h")(jnp.float32(0))[1]["h"].grad
    assert_close(grads, jnp.array([[64.0, 64.0], [63.0, 53.0], [42.0, 22.0]]))


def test_one_layer_of_a_scan_is_patched():
    patched = lambda v, index: jnp.where(index[0] == 2, TWO, v)
    got = fg.with_hooks(scanned, forward={"h": patched})(X)
    assert_close(got, jnp.full(3, jnp.sin(TWO)))


MODES = {
    "forward": lambda f: lambda x, s: jax.jvp(f, (x, s), (x, s)),
    "per example": lambda f: (
        lambda x, s: jax.vmap(jax.grad(f, (0, 1)), (0, None))(jnp.stack([x, 2 * x]), s)
    ),
    "hessian": lambda f: jax.jit(jax.hessian(f, (0, 1))),
    "reverse twice": lambda f: jax.grad(lambda x, s: jnp.sum(jax.grad(f)(x, s) ** 2), (0, 1)),
}


@pytest.mark.parametrize("mode", slow_but("forward".__eq__, MODES))
def test_what_a_hook_closes_over_is_differentiated_in_every_mode(mode):
    def ours(x, s):
        hook = lambda v, index: s * v**2 * (1 + index[0].astype(v.dtype))
        return jnp.sum(fg.with_hooks(scanned, forward={"h": hook})(x))

    def plain(x, s):
        for i in range(4):
            x = s * jnp.sin(x) ** 2 * (1 + i)
        return jnp.sum(x)

    assert_close(MODES[mode](ours)(X, TWO), MODES[mode](plain)(X, TWO))


def test_hooks_run_in_the_order_given():
    forward = {"h": [lambda v: v + 1, lambda v: None, lambda v: 2 * v], ...: lambda v: -v}
    backward = {"*": lambda g: 3 * g, "h": [lambda g: g + 1]}
    hooked = fg.with_hooks(fun, forward=forward, backward=backward)
    value = -2 * (jnp.sin(X) + 1)
    grads, retained = fg.grad(hooked, retain="h")(X)
    grad = 3 * (2 * value) + 1
    assert_close(retained["h"], fg.Retained(value, grad))
    assert_close(grads, -2 * grad * jnp.cos(X))


def test_hooks_compose():
    inner = fg.with_hooks(fun, forward={"h": lambda v: v * 2})
    outer = fg.with_hooks(inner, forward={"h": lambda v: v + 1})
    assert_close(outer(X), jnp.sum((2 * jnp.sin(X) + 1) ** 2))


@pytest.mark.parametrize(
    ("hook", "wanted"),
    [
        (functools.partial(lambda v, index: v * index, index=TWO), lambda v: 2 * v),
        (lambda index: 3 * index, lambda v: 3 * v),
        (lambda v, **rest: v * len(rest), jnp.zeros_like),
        (jnp.negative, jnp.negative),
        (np.negative, jnp.negative),
    ],
)
def test_only_a_keyword_that_nobody_gave_is_the_index(hook, wanted):
    assert_close(fg.with_hooks(fun, forward={"h": hook})(X), jnp.sum(wanted(jnp.sin(X)) ** 2))


@pytest.mark.slow
def test_a_vmap_inside_gives_each_example_and_what_they_share_once():
    def total(w, x):
        one = lambda x: jnp.prod(jnp.stack(fg.retain_grad((x, w), "h")))
        return jnp.sum(jax.vmap(one, axis_name="i")(x))

    shapes = []
    hook = lambda v: shapes.append(jax.tree.map(jnp.shape, v)) or (v[0] * 2, v[1] * 5)
    forward = fg.with_hooks(total, forward={"h": hook})
    assert_close(jax.grad(forward, (0, 1))(TWO, X), (10 * jnp.sum(X), jnp.full(3, 20.0)))
    backward = fg.with_hooks(total, backward={"h": hook})
    assert_close(jax.grad(backward, (0, 1))(TWO, X), (5 * jnp.sum(X), jnp.full(3, 4.0)))
    assert set(shapes) == {((), ())}
    centred = fg.with_hooks(total, forward={"h": lambda v: (v[0] - lax.pmean(v[0], "i"), v[1])})
    assert abs(centred(TWO, X)) < 1e-6
    mixing = lambda v: (v[0], v[0])
    for way in ("forward", "backward"):
        with pytest.raises(fg.TreeError, match=r"hook for 'h', tagged at .*all examples share one"):
            jax.grad(fg.with_hooks(total, **{way: {"h": mixing}}))(TWO, X)


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_new_value_is_sharded_as_the_old_one(way):
    mesh = jax.make_mesh(
        (3,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:3]
    )
    with jax.sharding.set_mesh(mesh):
        x = jax.device_put(X, jax.NamedSharding(mesh, P("d")))
        hooked = fg.with_hooks(scanned, **{way: {"h": lambda v: jnp.ones(v.shape)}})
        value, grad = jax.jit(jax.value_and_grad(lambda x: jnp.sum(hooked(x))))(x)
    assert_close(value, jnp.float32(3) if way == "forward" else jnp.sum(scanned(X)))
    assert_close(grad, jnp.zeros(3) if way == "forward" else jnp.cos(X))


def differentiated(carry):
    return lambda x: jax.grad(lambda x: carry(fun, x))(x)


INNER = {
    "alone": lambda f, x: f(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
    "the same in each step": lambda f, x: lax.scan(
        lambda c, _: (c + f(x), None), jnp.float32(0), None, length=2
    )[0],
    "fori_loop": lambda f, x: fg.fori_loop(0, 2, lambda i, c: c + f(x), jnp.float32(0)),
}


@pytest.mark.parametrize("name", INNER)
def test_a_hook_inside_an_inner_gradient_is_refused(name):
    with pytest.raises(fg.TagError, match=r"'h', tagged at .*, through which a gradient inside"):
        fg.with_hooks(differentiated(INNER[name]), forward={"h": jnp.zeros_like})(X)


def test_a_value_that_an_inner_gradient_does_not_go_through_takes_a_hook():
    inner = lambda x: jax.grad(lambda w: jnp.sum(w * fg.retain_grad(jnp.sin(x), "h")))(x)
    assert_close(fg.with_hooks(inner, forward={"h": lambda v: v + 1})(X), jnp.sin(X) + 1)


@pytest.mark.slow
@pytest.mark.usefixtures("checking_leaks")
@pytest.mark.parametrize("compiled", [False, True])
def test_no_tracer_stays_behind(compiled):
    body = jax.checkpoint(jax.jit(lambda c: fg.retain_grad(jnp.sin(c), "h")))
    loop = lambda x: lax.scan(lambda c, _: (body(c), None), x, None, length=2)[0]

    def loss(s, x):
        both = {"forward": {"h": lambda v, index: v * s}, "backward": {"h": lambda g: g * s}}
        return jnp.sum(fg.with_hooks(loop, **both)(x))

    grad = jax.grad(loss)
    got = (jax.jit(grad) if compiled else grad)(TWO, X)
    once = TWO * jnp.sin(X)
    # By hand: the hooks multiply the gradient behind each step by the scale once more.
    assert_close(got, jnp.sum(TWO * (jnp.sin(once) + 2 * TWO * jnp.cos(once) * jnp.sin(X))))


def test_backward_hooks_see_pytorch_s_gradient_of_complex_values():
    z = jnp.array([1 + 2j, 3 - 1j])
    seen = []

    def loss(z):
        return jnp.sum(jnp.real(fg.retain_grad(z * z, "h")))

    hooked = fg.with_hooks(loss, backward={"h": lambda g: seen.append(g.dtype) or g * (1 + 1j)})
    assert_close(fg.grad(hooked)(z), (1 + 1j) * jnp.conj(2 * z))
    assert seen == [jnp.complex64]


def module_hook(module, inputs, output):
    return output


@pytest.mark.parametrize(
    ("keywords", "kind", "match"),
    [
        ({"forward": {"z": jnp.sin}}, fg.TagError, "`with_hooks` got 'z' in `forward`, .* 'h'"),
        ({"forward": {3: jnp.sin}}, fg.UsageError, "`with_hooks` got 3 in `forward`"),
        ({"forward": jnp.sin}, fg.UsageError, "as `forward`, and wants a dict of names to hooks"),
        ({"backward": {"h": 3}}, fg.UsageError, "got int for 'h' in `backward`"),
        ({"forward": {"h": [jnp.sin, 3]}}, fg.UsageError, "got int for 'h' in `forward`"),
        ({"forward": {"h": module_hook}}, fg.UsageError, "cannot be called with the value alone"),
        ({"forward": {"h": lambda v: 1.0}}, fg.TreeError, r"got float32\[\], wanted float32\[3\]"),
        ({"forward": {"h": lambda v: (v,)}}, fg.TreeError, "a hook that returns another structure"),
        ({"forward": {"h": lambda v: v.astype("float16")}}, fg.TreeError, "got float16"),
        ({"backward": {"h": lambda g: g[:1]}}, fg.TreeError, "than the gradient it is given"),
    ],
)
def test_refusals(keywords, kind, match):
    with pytest.raises(kind, match=match):
        jax.grad(fg.with_hooks(fun, **keywords))(X)


def test_a_backward_hook_on_integers_is_refused():
    counted = lambda x: jnp.sum(x) + fg.retain_grad(jnp.arange(3), "n")[1].astype(x.dtype)
    assert_close(fg.with_hooks(counted, forward={"n": lambda n: n * 5})(X), jnp.sum(X) + 5)
    with pytest.raises(fg.TagError, match=r"'n' in `backward`, .* holds no floating array"):
        fg.with_hooks(counted, backward={"n": lambda g: g})(X)


def test_index_is_refused_where_a_loop_has_no_rows():
    loop = lambda x: lax.while_loop(
        lambda c: jnp.sum(c) < 9, lambda c: fg.retain_grad(c * 2, "h"), x
    )
    with pytest.raises(fg.TagError, match=r"hook with `index` for 'h', .*, inside `while`"):
        fg.with_hooks(loop, forward={"h": number})(X)


def test_a_row_of_a_loop_that_is_not_there_is_refused():
    first = lambda v, index: jnp.where(index[0] == 1, 0, v)
    with pytest.raises(fg.UsageError, match=r"at 'h', tagged at .*with_hooks.py.*: no loops are"):
        fg.with_hooks(fun, forward={"h": first})(X)
    with pytest.raises(fg.UsageError, match=r"out of range' at 'h', .*: no loops are around"):
        fg.grad(fg.with_hooks(fun, backward={"h": first}))(X)
    with pytest.raises(fg.UsageError, match=r"at 'h', .*: one loop is around"):
        fg.with_hooks(scanned, forward={"h": lambda v, index: v * index[1]})(X)
    with pytest.raises(IndexError, match="of mine"):
        fg.with_hooks(fun, forward={"h": own})(X)


def own(v, index):
    raise IndexError("of mine")


def test_nothing_asked_leaves_the_program_as_it_is():
    as_text = lambda f: jax.jit(f).lower(X).as_text()
    named = lambda x: fun(x)
    unhooked = fg.with_hooks(named, forward={}, backward={"h": []})
    assert as_text(unhooked).replace("hooked", "named") == as_text(named).replace(
        "<lambda>", "named"
    )


def test_pytorch_runs_hooks_in_the_same_order(torch):
    module = torch.nn.Identity()
    module.register_forward_hook(lambda m, i, out: out + 1)
    module.register_forward_hook(lambda m, i, out: None)
    module.register_forward_hook(lambda m, i, out: out * 2)
    kept = []

    def theirs(x):
        h = module(torch.sin(x))
        h.register_hook(lambda g: g * 3)
        h.register_hook(lambda g: g + 1)
        h.retain_grad()
        kept.append(h)
        return (h**3).sum()

    x = torch.tensor(np.asarray(X), requires_grad=True)
    (first,) = torch.autograd.grad(theirs(x), x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x)
    theirs(x).backward()
    forward = {"h": [lambda v: v + 1, lambda v: None, lambda v: v * 2]}
    backward = {"h": [lambda g: g * 3, lambda g: g + 1]}
    cubed = lambda x: jnp.sum(fg.retain_grad(jnp.sin(x), "h") ** 3)
    ours = fg.with_hooks(cubed, forward=forward, backward=backward)
    grads, retained = fg.grad(ours, retain="h")(X)
    assert_close(grads, first.detach().numpy())
    assert_close(retained["h"].value, kept[1].detach().numpy())
    assert_close(retained["h"].grad, kept[1].grad.numpy())
    again = fg.grad(lambda x: jnp.sum(fg.grad(ours)(x) ** 2))(X)
    assert_close(again, second.numpy())
