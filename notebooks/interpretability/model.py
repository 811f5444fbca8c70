"""A decoder of two layers in Flax NNX. Nothing in it knows that it will be looked into."""

import jax
import jax.numpy as jnp
from flax import nnx

VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS = 20, 15, 32, 4, 2


class Embed(nnx.Module):
    """What the token is, plus where it stands."""

    def __init__(self, rngs):
        self.tokens = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.places = nnx.Param(0.1 * jax.random.normal(rngs.params(), (LENGTH, WIDTH)))

    def __call__(self, tokens):
        return self.tokens(tokens) + self.places[...]


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return self.down(jax.nn.relu(self.up(x)))


class Block(nnx.Module):
    """Attention, then an MLP; each reads the residual stream and adds to it."""

    def __init__(self, rngs):
        self.norm_1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.norm_2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.mlp = MLP(rngs)

    def __call__(self, x):
        causal = jnp.tril(jnp.ones((x.shape[-2], x.shape[-2]), bool))
        x = x + self.attn(self.norm_1(x), mask=causal)
        return x + self.mlp(self.norm_2(x))


class Decoder(nnx.Module):
    """Tokens of shape (batch, position) to logits of shape (batch, position, token)."""

    def __init__(self, rngs):
        self.embed = Embed(rngs)
        self.layers = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))
