"""Programs twice: with funcgrad's idioms, and as one writes them in JAX alone.

`PROGRAMS` take what tags a value, so that they are one text with tags and without. `BY_HAND` are
the same with zeros that are added where a gradient is wanted. `IDIOMS` are everything else.
"""

import jax
import jax.numpy as jnp
from jax import lax

import funcgrad as fg

X = jnp.linspace(0.1, 1.0, 64)
W = jnp.linspace(-1.0, 1.0, 64 * 64).reshape(64, 64)


def untagged(value, name):
    return value


def chain(x, tag):
    for n in range(6):
        x = tag(jnp.sin(x) * x, f"y{n}")
    return jnp.sum(x)


def mlp(x, tag):
    for n in range(3):
        x = tag(jnp.tanh(W @ x), f"y{n}")
    return jnp.sum(x**2)


def rnn(x, tag):
    step = lambda h, a: (jnp.tanh(tag(W @ h + a, "y")), h[0])
    h, ys = lax.scan(step, x, jnp.linspace(0.0, 1.0, 16))
    return jnp.sum(h * h) + jnp.sum(ys)


def checkpointed(x, tag):
    block = jax.checkpoint(lambda x: tag(jnp.tanh(W @ jnp.tanh(W @ x)), "y"))
    return jnp.sum(jnp.sin(block(x)))


def branched(x, tag):
    yes = lambda x: tag(jnp.tanh(W @ x), "y")
    return jnp.sum(lax.cond(x[0] > 0, yes, lambda x: x, x) ** 2)


def jitted(x, tag):
    return jnp.sum(jax.jit(lambda x: tag(jnp.tanh(W @ x), "y") ** 2)(x))


def vmapped(x, tag):
    return jnp.sum(jax.vmap(lambda row: tag(jnp.tanh(row @ x), "y"))(W) ** 2)


def transformer(x, tag):
    """Two checkpointed blocks of attention and a feed-forward net, on 4 tokens of 16 features."""

    def block(x, n):
        q, k, v = (x @ W[:16, 16 * i : 16 * i + 16] for i in range(3))
        weights = tag(jax.nn.softmax(q @ k.T / 4.0), f"weights{n}")
        x = x + weights @ v
        hidden = tag(jnp.tanh(x @ W[:16]), f"hidden{n}")
        return x + hidden @ W[:, :16]

    x = x.reshape(4, 16)
    for n in range(2):
        x = jax.checkpoint(block, static_argnums=1)(x, n)
    return jnp.sum(x**2)


PROGRAMS = [chain, mlp, rnn, checkpointed, branched, jitted, vmapped, transformer]


def chain_by_hand(x, zeros):
    kept = {}
    for name, zero in zeros.items():
        kept[name] = jnp.sin(x) * x
        x = kept[name] + zero
    return jnp.sum(x), kept


def mlp_by_hand(x, zeros):
    kept = {}
    for name, zero in zeros.items():
        kept[name] = jnp.tanh(W @ x)
        x = kept[name] + zero
    return jnp.sum(x**2), kept


def rnn_by_hand(x, zeros):
    def step(h, slices):
        a, zero = slices
        y = W @ h + a
        return jnp.tanh(y + zero), (h[0], y)

    h, (ys, kept) = lax.scan(step, x, (jnp.linspace(0.0, 1.0, 16), zeros["y"]))
    return jnp.sum(h * h) + jnp.sum(ys), {"y": kept}


def checkpointed_by_hand(x, zeros):
    @jax.checkpoint
    def block(x, zero):
        y = jnp.tanh(W @ jnp.tanh(W @ x))
        return y + zero, y

    y, kept = block(x, zeros["y"])
    return jnp.sum(jnp.sin(y)), {"y": kept}


def branched_by_hand(x, zeros):
    def yes(x, zero):
        y = jnp.tanh(W @ x)
        return y + zero, y

    no = lambda x, zero: (x, jnp.zeros(64))
    y, kept = lax.cond(x[0] > 0, yes, no, x, zeros["y"])
    return jnp.sum(y**2), {"y": kept}


def transformer_by_hand(x, zeros):
    def block(x, zeros):
        q, k, v = (x @ W[:16, 16 * i : 16 * i + 16] for i in range(3))
        weights = jax.nn.softmax(q @ k.T / 4.0)
        x = x + (weights + zeros[0]) @ v
        hidden = jnp.tanh(x @ W[:16])
        return x + (hidden + zeros[1]) @ W[:, :16], (weights, hidden)

    x, kept = x.reshape(4, 16), {}
    for n in range(2):
        names = f"weights{n}", f"hidden{n}"
        # A function of its own, as JAX traces a function once for all its calls.
        run = jax.checkpoint(lambda x, zeros: block(x, zeros))
        x, made = run(x, [zeros[name] for name in names])
        kept |= dict(zip(names, made, strict=True))
    return jnp.sum(x**2), kept


BY_HAND = [
    (chain, chain_by_hand, {f"y{n}": (64,) for n in range(6)}),
    (mlp, mlp_by_hand, {f"y{n}": (64,) for n in range(3)}),
    (rnn, rnn_by_hand, {"y": (16, 64)}),
    (checkpointed, checkpointed_by_hand, {"y": (64,)}),
    (branched, branched_by_hand, {"y": (64,)}),
    (
        transformer,
        transformer_by_hand,
        {
            f"{name}{n}": shape
            for n in range(2)
            for name, shape in (("weights", (4, 4)), ("hidden", (4, 64)))
        },
    ),
]


def retaining(program):
    """The value, the gradient and all that is tagged, with funcgrad."""
    return fg.value_and_grad(lambda x: program(x, fg.retain_grad), retain=...)


def retaining_by_hand(by_hand, shapes):
    """The same with zeros added by hand, which are differentiated too."""

    def run(x):
        zeros = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        (value, kept), grads = jax.value_and_grad(by_hand, (0, 1), has_aux=True)(x, zeros)
        return value, grads[0], {n: fg.Retained(kept[n], grads[1][n]) for n in shapes}

    return run


PARAMS = {"frozen": W, "free": W.T}
HALF = X.astype(jnp.bfloat16)
COMPLEX = lax.complex(X, X[::-1])
MASK = jnp.arange(64) % 2 == 0
ROWS = jnp.linspace(-1.0, 1.0, 8 * 64).reshape(8, 64)


def layer(x, w):
    return jnp.tanh(w @ x)


def loss(x, w):
    return jnp.sum(layer(x, w) ** 2)


def of_params(p, x):
    return jnp.sum(jnp.tanh(p["free"] @ jnp.tanh(p["frozen"] @ x)))


def mean_loss(w, rows):
    return jnp.mean(jnp.tanh(rows @ w) ** 2)


def with_aux(x, w):
    y = layer(x, w)
    return jnp.sum(y), y


def tagged(x, w):
    return fg.retain_grad(layer(x, w), "y") * x


def tapped(x, w, zero):
    y = layer(x, w)
    return (y + zero) * x, y


def vjp_retaining_by_hand(x, w):
    out, pullback, y = jax.vjp(tapped, x, w, jnp.zeros(64), has_aux=True)
    *grads, of_y = pullback(out)
    return out, tuple(grads), {"y": fg.Retained(y, of_y)}


def vjp_retaining(x, w):
    out, pullback = fg.vjp(tagged, x, w, retain="y")
    return out, *pullback(out)


@jax.custom_vjp
def negated(y):
    return y


negated.defvjp(lambda y: (y, None), lambda _, g: (-g,))


@jax.custom_vjp
def masked(y, mask):
    return y


masked.defvjp(lambda y, mask: (y, mask), lambda mask, g: (g * mask, None))


@jax.custom_jvp
def replaced(x, v):
    return v


replaced.defjvp(lambda primals, tangents: (primals[1], tangents[0]))


def masked_by_hook(x, w):
    y = layer(x, w)
    mask = (y > 0).astype(y.dtype)
    return jnp.sum(fg.register_hook(y, lambda g: g * mask) ** 2)


def masked_by_rule(x, w):
    y = layer(x, w)
    return jnp.sum(masked(y, (y > 0).astype(y.dtype)) ** 2)


def frozen_by_hand(p, x):
    fun = lambda free: of_params({"frozen": p["frozen"], "free": free}, x)
    value, grad = jax.value_and_grad(fun)(p["free"])
    return value, {"frozen": None, "free": grad}


def no_grad_by_hand(x, w):
    return jnp.sum(lax.stop_gradient(layer(lax.stop_gradient(x), w)) * x)


def microbatch_by_hand(w, rows):
    def add(total, part):
        value, pullback = jax.vjp(lambda w: mean_loss(w, part), w)
        (grad,) = pullback(jnp.ones_like(value) / 4)
        return jax.tree.map(jnp.add, total, (value, grad)), None

    zeros = jnp.zeros(()), jnp.zeros_like(w)
    (value, grad), _ = lax.scan(add, zeros, rows.reshape(4, 2, 64))
    return value / 4, grad


def scan_by_hand(x, w):
    return jnp.sum(lax.scan(lambda c, _: (layer(c, w), None), x, length=16)[0])


def fori_loop(x, w):
    return jnp.sum(fg.fori_loop(0, 16, lambda _, c: layer(c, w), x))


def small(c):
    return jnp.sum(c**2) > 0.01


def bounded_by_hand(x, w):
    """At most eight steps, forward: the loop counts them itself, and NaN says that it was cut."""
    going = lambda state: (state[0] < 8) & small(state[1])
    step = lambda state: (state[0] + 1, layer(state[1], w) / 2)
    _, c = lax.while_loop(going, step, (0, x))
    return jnp.where(small(c), jnp.nan, c)


def bounded(x, w):
    return fg.while_loop(small, lambda c: layer(c, w) / 2, x, max_steps=8)


def unused(x, w):
    return jnp.sum(w**2)


def spin(z):
    return jnp.sum(jnp.abs(z * jnp.exp(z)) ** 2)


# Arguments, with funcgrad, in JAX alone; both return the same leaves in the same order.
IDIOMS = {
    "grad": ((X, W), fg.grad(loss), jax.grad(loss)),
    "grad of several": ((X, W), fg.grad(loss, (0, 1)), jax.grad(loss, (0, 1))),
    "value_and_grad": ((X, W), fg.value_and_grad(loss), jax.value_and_grad(loss)),
    "has_aux": (
        (X, W),
        fg.value_and_grad(with_aux, has_aux=True),
        jax.value_and_grad(with_aux, has_aux=True),
    ),
    "gradient": (
        (X, W),
        lambda x, w: fg.grad(layer, gradient=x)(x, w),
        lambda x, w: jax.vjp(layer, x, w)[1](x)[0],
    ),
    "vjp": (
        (X, W),
        lambda x, w: fg.vjp(layer, x, w)[1](x),
        lambda x, w: jax.vjp(layer, x, w)[1](x),
    ),
    "vjp of one number": (
        (X, W),
        lambda x, w: fg.vjp(loss, x, w)[1](),
        lambda x, w: jax.vjp(loss, x, w)[1](1.0),
    ),
    "vjp retaining": ((X, W), vjp_retaining, vjp_retaining_by_hand),
    "register_hook": (
        (X, W),
        fg.grad(lambda x, w: jnp.sum(fg.register_hook(layer(x, w), jnp.negative) ** 2)),
        jax.grad(lambda x, w: jnp.sum(negated(layer(x, w)) ** 2)),
    ),
    "a hook that closes over a mask": ((X, W), fg.grad(masked_by_hook), jax.grad(masked_by_rule)),
    "a hook per example": (
        (ROWS, W),
        jax.vmap(fg.grad(masked_by_hook), (0, None)),
        jax.vmap(jax.grad(masked_by_rule), (0, None)),
    ),
    "detach": (
        (X, W),
        fg.grad(lambda x, w: jnp.sum(fg.detach(layer(x, w)) * x)),
        jax.grad(lambda x, w: jnp.sum(lax.stop_gradient(layer(x, w)) * x)),
    ),
    "no_grad": (
        (X, W),
        fg.grad(lambda x, w: jnp.sum(fg.no_grad(layer)(x, w) * x)),
        jax.grad(no_grad_by_hand),
    ),
    "set_data": (
        (X, W),
        fg.value_and_grad(lambda x, w: loss(fg.set_data(x, 100 * x), w)),
        jax.value_and_grad(lambda x, w: loss(replaced(x, lax.stop_gradient(100 * x)), w)),
    ),
    "requires_grad": (
        (PARAMS, X),
        fg.value_and_grad(of_params, requires_grad={"frozen": False, "free": True}),
        frozen_by_hand,
    ),
    "allow_unused": ((X, W), fg.grad(loss, (0, 1), allow_unused=False), jax.grad(loss, (0, 1))),
    "materialize_grads": (
        (X, W),
        fg.grad(unused, (0, 1), materialize_grads=False),
        lambda x, w: (None, jax.grad(unused, 1)(x, w)),
    ),
    "zeros of what is unused": ((X, W), fg.grad(unused, (0, 1)), jax.grad(unused, (0, 1))),
    "complex": (
        (COMPLEX,),
        fg.value_and_grad(spin),
        lambda z: (spin(z), jnp.conj(jax.grad(spin)(z))),
    ),
    "zero_grad": ((PARAMS,), fg.zero_grad, lambda p: jax.tree.map(jnp.zeros_like, p)),
    "accumulate_grad": (
        (PARAMS, PARAMS),
        fg.accumulate_grad,
        lambda p, q: jax.tree.map(jnp.add, p, q),
    ),
    "accumulate_grad in float32": (
        (X, HALF),
        lambda x, half: fg.accumulate_grad(x, half),
        lambda x, half: x + half.astype(jnp.float32),
    ),
    "microbatch": (
        (W, ROWS),
        fg.microbatch(fg.value_and_grad(mean_loss), 4),
        microbatch_by_hand,
    ),
    "per example": (
        (ROWS, W),
        jax.vmap(fg.grad(loss), (0, None)),
        jax.vmap(jax.grad(loss), (0, None)),
    ),
    "second order": (
        (X, W),
        fg.grad(lambda x, w: jnp.sum(fg.grad(loss)(x, w) ** 2)),
        jax.grad(lambda x, w: jnp.sum(jax.grad(loss)(x, w) ** 2)),
    ),
    "fori_loop": ((X, W), fori_loop, scan_by_hand),
    "while_loop": ((X, W), bounded, bounded_by_hand),
}
