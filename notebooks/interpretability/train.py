"""Makes `weights.npz`: `python notebooks/interpretability/train.py`, a minute or so on a CPU.

Eight different tokens, then seven of the first seven in another order. After each of those the
model says the token that followed it among the eight: `a b c d e f g h  c` goes on with `d`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from model import VOCABULARY, Decoder


def example(key):
    """Fifteen tokens, and what the model should say after each of the last seven."""
    first, second = jax.random.split(key)
    told = jax.random.permutation(first, VOCABULARY)[:8]
    asked = jax.random.permutation(second, 7)
    return jnp.concatenate([told, told[asked]]), told[asked + 1]


def loss(model, tokens, answers):
    logits = model(tokens)[:, 8:]
    right = jnp.mean(jnp.argmax(logits, -1) == answers)
    return optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean(), right


@nnx.jit
def step(model, optimizer, key):
    tokens, answers = jax.vmap(example)(jax.random.split(key, 128))
    (value, right), grads = nnx.value_and_grad(loss, has_aux=True)(model, tokens, answers)
    optimizer.update(model, grads)
    return value, right


if __name__ == "__main__":
    steps = 6000
    model = Decoder(nnx.Rngs(0))
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 200, steps)
    optimizer = nnx.Optimizer(model, optax.adamw(rate, weight_decay=0.01), wrt=nnx.Param)
    for number in range(steps):
        value, right = step(model, optimizer, jax.random.fold_in(jax.random.key(1), number))
        if number % 500 == 499:
            print(f"{number + 1:5d}  loss {value:.4f}  right {right:.4f}", flush=True)
    weights = {
        ".".join(map(str, path)): np.asarray(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    np.savez(Path(__file__).with_name("weights.npz"), **weights)
