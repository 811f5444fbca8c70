"""Models for the tests of accumulation: parameters, a batch of rows, a loss that is a mean of them.

The transformer's loss is a mean over the tokens that are not masked, and takes a key for dropout.
What they give on the whole batch is computed once for all tests.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def mlp(dtype=jnp.float32):
    p = {"w": normal(0, 6, 16, dtype=dtype), "v": normal(1, 16, 2, dtype=dtype), "step": 3}

    def loss(p, batch):
        x, y = batch
        return jnp.mean((jnp.tanh(x.astype(dtype) @ p["w"]) @ p["v"] - y.astype(dtype)) ** 2)

    return loss, p, (normal(2, 40, 6), normal(3, 40, 2))


def cnn():
    p = {"k": normal(0, 4, 1, 3, 3), "v": normal(1, 4, 3)}

    def loss(p, batch):
        h = lax.conv(batch["x"], p["k"], (1, 1), "SAME")
        logits = jnp.mean(jax.nn.relu(h), (2, 3)) @ p["v"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], 1))

    return loss, p, {"x": normal(2, 40, 1, 6, 6), "y": jnp.arange(40) % 3}


def rnn():
    """A scan that starts from zeros: the user's function need not know of mesh axes."""
    p = {"a": normal(0, 4, 4), "b": normal(1, 3, 4)}

    def loss(p, x):
        step = lambda h, a: (jnp.tanh(h @ p["a"] + a @ p["b"]), None)
        h, _ = lax.scan(step, jnp.zeros((x.shape[0], 4)), x.swapaxes(0, 1))
        return jnp.mean(h**2)

    return loss, p, normal(2, 40, 5, 3)


MODELS = {"mlp": mlp, "cnn": cnn, "rnn": rnn, "bf16": lambda: mlp(jnp.bfloat16)}


@functools.cache
def whole(model):
    """The value and the gradients of a model on its whole batch."""
    loss, p, batch = MODELS[model]()
    return jax.jit(fg.value_and_grad(loss))(p, batch)


WORDS, LENGTH, WIDTH, HEADS = 11, 6, 8, 2


def transformer(rows=40):
    """A causal transformer of one block: its parameters, its batch, `loss(p, batch, key)`.

    The batch has tokens, what follows each, and a mask of those that count: none in every fifth
    row, and a different number in the others. Without a key there is no dropout.
    """
    shapes = {
        "embed": (WORDS, WIDTH),
        "place": (LENGTH, WIDTH),
        "qkv": (3, WIDTH, HEADS, WIDTH // HEADS),
        "out": (HEADS, WIDTH // HEADS, WIDTH),
        "up": (WIDTH, 2 * WIDTH),
        "down": (2 * WIDTH, WIDTH),
    }
    p = {name: normal(seed, *shape) / 2 for seed, (name, shape) in enumerate(shapes.items())}
    draw = np.random.default_rng(7)
    tokens = jnp.asarray(draw.integers(WORDS, size=(rows, LENGTH + 1)), jnp.int32)
    lengths = jnp.asarray(draw.integers(1, LENGTH + 1, size=rows)).at[::5].set(0)
    mask = jnp.arange(LENGTH) < lengths[:, None]
    batch = {"tokens": tokens[:, :-1], "next": tokens[:, 1:], "mask": mask}
    return _token_loss, p, batch


def tokens_that_count(batch):
    return jnp.sum(batch["mask"])


def _token_loss(p, batch, key=None):
    x = p["embed"][batch["tokens"]] + p["place"]
    keys = [None] * 2 if key is None else jax.random.split(key)
    x = x + _dropout(_attention(p, _normalized(x)), keys[0])
    x = x + _dropout(jax.nn.gelu(_normalized(x) @ p["up"]) @ p["down"], keys[1])
    logits = jax.nn.log_softmax(_normalized(x) @ p["embed"].T)
    picked = jnp.take_along_axis(logits, batch["next"][..., None], -1)[..., 0]
    count = tokens_that_count(batch).astype(jnp.float32)
    return -jnp.sum(jnp.where(batch["mask"], picked, 0)) / count  # NaN where no token counts


def _attention(p, x):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, w) for w in p["qkv"])
    scores = jnp.einsum("bthe,bshe->bhts", q, k) / q.shape[-1] ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -1e30)
    return jnp.einsum("bhts,bshe,hed->btd", jax.nn.softmax(scores), v, p["out"])


def _normalized(x):
    return (x - jnp.mean(x, -1, keepdims=True)) * lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5)


def _dropout(x, key):
    if key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 0.8, x.shape), x / 0.8, 0)


# The transformer takes seconds to compile, half of them spent on speed that no test needs.
quickly_compiled = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@functools.cache
def whole_transformer():
    loss, p, batch = transformer()
    return quickly_compiled(fg.value_and_grad(loss))(p, batch)


@functools.cache
def transformer_by_hand():
    """Eight parts with a key each, and the mean over the tokens of all of them."""
    loss, p, batch = transformer()
    parts = jax.tree.map(lambda x: x.reshape(8, 5, *x.shape[1:]), batch)

    def step(p, parts, key):
        fun = lambda part: jax.value_and_grad(loss)(p, *part)
        results = lax.map(fun, (parts, jax.random.split(key, 8)))
        weight = jax.vmap(tokens_that_count)(parts) / tokens_that_count(batch)
        return jax.tree.map(lambda r: jnp.tensordot(weight, r, 1), results)

    return quickly_compiled(step)(p, parts, jax.random.key(3))
