"""PyTorch as the oracle: every idiom on random inputs, complex numbers, hooks, double backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

import funcgrad as fg

SHAPES = [(), (1,), (5,), (3, 4), (2, 1, 3)]


@pytest.fixture(params=SHAPES, ids=str)
def x(request):
    return np.random.default_rng(len(request.param)).normal(size=request.param).astype("float32")


@pytest.fixture
def z():
    numbers = np.random.default_rng(1).normal(size=(2, 4))
    return (numbers[0] + 1j * numbers[1]).astype("complex64")


def agree(ours, *theirs):
    """Compares with tensors, which may require gradients and be lazily conjugated."""
    got = jax.tree.leaves(ours)
    want = [jnp.asarray(t.detach().resolve_conj().numpy()) for t in theirs]
    assert_close(got, want)


def test_backward_and_retain_grad(torch, x):
    t = torch.tensor(x, requires_grad=True)
    y = torch.sin(t) * 3
    y.retain_grad()
    u = y * y
    u.retain_grad()
    loss = (u * t).sum()
    loss.backward()

    def fun(x):
        y = fg.retain_grad(jnp.sin(x) * 3, "y")
        return jnp.sum(fg.retain_grad(y * y, "u") * x)

    for around in (lambda f: f, jax.jit):
        value, grads, kept = around(fg.value_and_grad(fun, retain=...))(x)
        agree((value, grads), loss, t.grad)
        agree((kept["y"], kept["u"]), y, y.grad, u, u.grad)


def test_backward_with_gradient_several_times(torch, x):
    t = torch.tensor(x, requires_grad=True)
    y = torch.exp(t) * t
    _, pullback = fg.vjp(lambda x: jnp.exp(x) * x, x)
    for scale in (1.0, -2.5):
        (want,) = torch.autograd.grad(y, t, torch.tensor(scale * x), retain_graph=True)
        agree(pullback(scale * x), want)
        agree(fg.grad(lambda x: jnp.exp(x) * x, gradient=scale * x)(x), want)


def test_hook(torch, x):
    t = torch.tensor(x, requires_grad=True)
    y = t * t
    y.register_hook(lambda g: g.clamp(-0.5, 0.5) * 2)
    (torch.sin(y) * t).sum().backward()

    def fun(x):
        y = fg.register_hook(x * x, lambda g: jnp.clip(g, -0.5, 0.5) * 2)
        return jnp.sum(jnp.sin(y) * x)

    agree(fg.grad(fun)(x), t.grad)


def test_several_hooks_run_in_the_order_of_registration(torch, x):
    t = torch.tensor(x, requires_grad=True)
    y = t * 3
    y.register_hook(lambda g: g + 1)
    y.register_hook(lambda g: g * g)
    (y * t).sum().backward()

    def fun(x):
        # The first registered is met first on the way back, and so stands outermost.
        y = fg.register_hook(x * 3, lambda g: g * g)
        return jnp.sum(fg.register_hook(y, lambda g: g + 1) * x)

    agree(fg.grad(fun)(x), t.grad)


@pytest.mark.parametrize("retain_first", [True, False])
def test_retain_grad_retains_what_the_hook_returned_in_either_order(torch, x, retain_first):
    t = torch.tensor(x, requires_grad=True)
    y = t * 3
    if retain_first:
        y.retain_grad()
    y.register_hook(lambda g: g * 10)
    if not retain_first:
        y.retain_grad()
    (y * y).sum().backward()

    def fun(x):
        y = fg.register_hook(fg.retain_grad(x * 3, "y"), lambda g: g * 10)
        return jnp.sum(y * y)

    grads, kept = fg.grad(fun, retain="y")(x)
    agree((grads, kept["y"].grad), t.grad, y.grad)


def test_hook_on_a_leaf_acts_on_what_reaches_grad(torch, x):
    t = torch.tensor(x, requires_grad=True)
    t.register_hook(lambda g: -g)
    (t * t + 3 * t).sum().backward()

    def fun(x):
        x = fg.register_hook(x, lambda g: -g)
        return jnp.sum(x * x + 3 * x)

    agree(fg.grad(fun)(x), t.grad)


def test_detach(torch, x):
    t = torch.tensor(x, requires_grad=True)
    y = t * t
    (y.detach() * t + torch.sin(y)).sum().backward()
    fun = lambda x: jnp.sum(fg.detach(x * x) * x + jnp.sin(x * x))
    agree(fg.grad(fun)(x), t.grad)


def test_no_grad(torch, x):
    t = torch.tensor(x, requires_grad=True)
    with torch.no_grad():
        y = t**3
    (t**2 + y * t).sum().backward()
    fun = lambda x: jnp.sum(x**2 + fg.no_grad(lambda: x**3)() * x)
    agree(fg.grad(fun)(x), t.grad)


def test_data_set_before_it_is_used(torch, x):
    t = torch.tensor(x, requires_grad=True)
    before = 2 * t
    t.data = t.data * 100
    loss = (t * t + before).sum()
    loss.backward()

    def fun(x):
        before = 2 * x
        x = fg.set_data(x, x * 100)
        return jnp.sum(x * x + before)

    agree(fg.value_and_grad(fun)(x), loss, t.grad)


def test_data_changed_after_use_goes_wrong_in_pytorch_alone(torch):
    t = torch.ones(1, requires_grad=True)
    y = t * t
    t.data *= 100
    y.backward()
    assert t.grad.tolist() == [200.0]

    def fun(x):
        y = x * x
        fg.set_data(x, x * 100)
        return y

    assert fg.grad(fun)(jnp.ones(1)).tolist() == [2.0]


def test_accumulation_and_zeroing(torch, x):
    t = torch.tensor(x, requires_grad=True)
    acc = fg.zero_grad(jnp.asarray(x))
    for power in (2, 3):
        (t**power).sum().backward()
        acc = fg.accumulate_grad(acc, fg.grad(lambda x, power=power: jnp.sum(x**power))(x))
    agree(acc, t.grad)
    t.grad.zero_()
    agree(fg.zero_grad(acc), t.grad)


def test_parameters_that_require_no_gradient(torch, x):
    a, b = (torch.tensor(x, requires_grad=n == 0) for n in range(2))
    (a * b * b).sum().backward()
    got = fg.grad(lambda p: jnp.sum(p[0] * p[1] ** 2), requires_grad=[True, False])([x, x])
    assert b.grad is None
    assert got[1] is None
    agree(got[0], a.grad)


@pytest.mark.parametrize("materialize", [True, False])
def test_unused_inputs(torch, x, materialize):
    a, b = (torch.tensor(x, requires_grad=True) for _ in range(2))
    fun = lambda a, b: jnp.sum(a * fg.detach(b))
    want = torch.autograd.grad(
        (a * b.detach()).sum(), (a, b), allow_unused=True, materialize_grads=materialize
    )
    got = fg.grad(fun, (0, 1), materialize_grads=materialize)(x, x)
    assert [g is None for g in got] == [w is None for w in want]
    agree(got, *[w for w in want if w is not None])


def sentence(error):
    """What PyTorch says, up to its first full stop or colon."""
    return str(error.value).split(".")[0].split(":")[0]


def test_sentences_are_those_of_pytorch(torch):
    t = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="scalar outputs") as theirs:
        (t * 2).backward()
    with pytest.raises(RuntimeError, match=sentence(theirs)):
        fg.grad(lambda x: x * 2)(jnp.ones(3))
    with pytest.raises(RuntimeError, match="does not require grad") as theirs:
        torch.ones(1).backward()
    with pytest.raises(RuntimeError, match=sentence(theirs)):
        fg.grad(lambda x: 1)(jnp.ones(3))


def test_sentence_for_an_unused_input_is_that_of_pytorch(torch):
    t = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="not have been used in the graph") as theirs:
        torch.autograd.grad(t.sum(), torch.ones(1, requires_grad=True))
    with pytest.raises(RuntimeError, match=sentence(theirs)):
        fg.grad(lambda x: 1.0, allow_unused=False)(jnp.ones(3))


def test_double_backward(torch, x):
    t = torch.tensor(x, requires_grad=True)
    (g,) = torch.autograd.grad((torch.sin(t) * t**2).sum(), t, create_graph=True)
    (want,) = torch.autograd.grad((g**2).sum(), t)
    inner = fg.grad(lambda x: jnp.sum(jnp.sin(x) * x**2))
    agree(fg.grad(lambda x: jnp.sum(inner(x) ** 2))(x), want)


@pytest.mark.parametrize("factor", [-1.0, 3.0])
def test_double_backward_through_a_linear_hook(torch, x, factor):
    t = torch.tensor(x, requires_grad=True)
    y = t * t
    y.register_hook(lambda g: g * factor)
    (g,) = torch.autograd.grad(torch.sin(y).sum(), t, create_graph=True)
    (want,) = torch.autograd.grad((g**2).sum(), t)

    def fun(x):
        return jnp.sum(jnp.sin(fg.register_hook(x * x, lambda g: g * factor)))

    agree(fg.grad(lambda x: jnp.sum(fg.grad(fun)(x) ** 2))(x), want)


def test_double_backward_through_a_nonlinear_hook_that_closes_over_values(torch, x):
    t = torch.tensor(x, requires_grad=True)
    y = t * t
    y.register_hook(lambda g: g * g * t)
    (g,) = torch.autograd.grad(torch.sin(y).sum(), t, create_graph=True)
    (want,) = torch.autograd.grad((g * t).sum(), t)

    def fun(x):
        return jnp.sum(jnp.sin(fg.register_hook(x * x, lambda g: g * g * x)))

    agree(fg.grad(lambda x: jnp.sum(fg.grad(fun)(x) * x))(x), want)


def test_retained_gradient_is_differentiable(torch, x):
    t = torch.tensor(x, requires_grad=True)
    y = t * t
    (gy,) = torch.autograd.grad((y**3).sum(), y, create_graph=True)
    (want,) = torch.autograd.grad(gy.sum(), t)
    kept = lambda x: fg.grad(lambda x: jnp.sum(fg.retain_grad(x * x, "y") ** 3), retain="y")(x)[1]
    agree(fg.grad(lambda x: jnp.sum(kept(x)["y"].grad))(x), want)


# Complex numbers.


COMPLEX = {
    "holomorphic": (lambda t, z: (t.sin(z) * z).real.sum(), lambda z: jnp.sin(z) * z),
    "abs": (lambda t, z: (z.abs() ** 3).sum(), lambda z: jnp.abs(z) ** 3),
    "conj": (lambda t, z: (z.conj() * z * z).real.sum(), lambda z: jnp.conj(z) * z * z),
    "imag": (lambda t, z: (z * z).imag.sum(), lambda z: jnp.imag(z * z)),
    "angle": (lambda t, z: z.angle().sum(), jnp.angle),
    "mixed": (lambda t, z: (z.real * t.exp(z.imag)).sum(), lambda z: z.real * jnp.exp(z.imag)),
    "real to complex": (
        lambda t, z: t.polar(z.real.abs(), z.imag).real.sum(),
        lambda z: jnp.abs(z.real) * jnp.cos(z.imag),
    ),
    "division": (lambda t, z: (1 / (z + 3)).imag.sum(), lambda z: jnp.imag(1 / (z + 3))),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_gradient_of_a_complex_input_is_pytorchs(torch, z, name):
    theirs, ours = COMPLEX[name]
    t = torch.tensor(z, requires_grad=True)
    theirs(torch, t).backward()
    agree(fg.grad(lambda z: jnp.sum(jnp.real(ours(z))))(z), t.grad)


def test_complex_output_with_gradient_retained_values_and_hooks(torch, z):
    t = torch.tensor(z, requires_grad=True)
    y = t * t
    y.retain_grad()
    y.register_hook(lambda g: g * (1 - 2j))
    out = torch.exp(y) * t
    out.backward(torch.tensor(z[::-1].copy()))

    def fun(z):
        y = fg.register_hook(fg.retain_grad(z * z, "y"), lambda g: g * jnp.complex64(1 - 2j))
        return jnp.exp(y) * z

    value, grads, kept = fg.value_and_grad(fun, gradient=z[::-1], retain="y")(z)
    agree((value, grads, kept["y"]), out, t.grad, y, y.grad)


def test_real_input_through_complex_values(torch, x):
    t = torch.tensor(x, requires_grad=True)
    y = t * (2 + 1j)
    y.retain_grad()
    loss = (y * y).imag.sum()
    loss.backward()

    def fun(x):
        y = fg.retain_grad(jax.lax.complex(2 * x, x), "y")
        return jnp.sum(jnp.imag(y * y))

    value, grads, kept = fg.value_and_grad(fun, retain="y")(x)
    agree((value, grads, kept["y"].grad), loss, t.grad, y.grad)


def test_double_backward_of_complex_numbers(torch, z):
    t = torch.tensor(z, requires_grad=True)
    (g,) = torch.autograd.grad((t.abs() ** 4).sum(), t, create_graph=True)
    (want,) = torch.autograd.grad((g.abs() ** 2).sum(), t)
    inner = fg.grad(lambda z: jnp.sum(jnp.abs(z) ** 4))
    agree(fg.grad(lambda z: jnp.sum(jnp.abs(inner(z)) ** 2))(z), want)
