"""The decoder of `model.py` in Equinox: one row of tokens to its logits."""

import equinox as eqx
import jax
import jax.numpy as jnp


class Embed(eqx.Module):
    tokens: jax.Array
    places: jax.Array

    def __call__(self, tokens):
        return self.tokens[tokens] + self.places


class Attention(eqx.Module):
    query: jax.Array
    key: jax.Array
    value: jax.Array
    out: jax.Array
    biases: dict

    def __call__(self, x):
        def split(part):
            return jnp.einsum("pd,dhe->phe", x, getattr(self, part)) + self.biases[part]

        q, k, v = map(split, ("query", "key", "value"))
        logits = jnp.einsum("phe,qhe->hpq", q, k) / q.shape[-1] ** 0.5
        causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
        share = jax.nn.softmax(jnp.where(causal, logits, -1e30), -1)
        mixed = jnp.einsum("hpq,qhe->phe", share, v)
        return jnp.einsum("phe,hed->pd", mixed, self.out) + self.biases["out"]


class MLP(eqx.Module):
    net: eqx.nn.MLP

    def __call__(self, x):
        return jax.vmap(self.net)(x)


class Block(eqx.Module):
    norm_1: eqx.nn.LayerNorm
    attn: Attention
    norm_2: eqx.nn.LayerNorm
    mlp: MLP

    def __call__(self, x):
        x = x + self.attn(jax.vmap(self.norm_1)(x))
        return x + self.mlp(jax.vmap(self.norm_2)(x))


class Decoder(eqx.Module):
    embed: Embed
    layers: list
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __call__(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


def decoder(weights):
    """The decoder with the weights of `weights.npz`."""
    w = {name: jnp.asarray(x) for name, x in weights.items()}
    width = w["head.kernel"].shape[0]

    def norm(name):
        blank = eqx.nn.LayerNorm(width, eps=1e-6)

        def parts(layer):
            return (layer.weight, layer.bias)

        return eqx.tree_at(parts, blank, (w[f"{name}.scale"], w[f"{name}.bias"]))

    def linear(blank, name):
        def parts(layer):
            return (layer.weight, layer.bias)

        return eqx.tree_at(parts, blank, (w[f"{name}.kernel"].T, w[f"{name}.bias"]))

    def block(name):
        parts = ("query", "key", "value", "out")
        kernels = [w[f"{name}.attn.{part}.kernel"] for part in parts]
        biases = {part: w[f"{name}.attn.{part}.bias"] for part in parts}
        mlp = eqx.nn.MLP(width, width, 2 * width, 1, jax.nn.relu, key=jax.random.key(0))
        layers = [
            linear(layer, f"{name}.mlp.{part}")
            for layer, part in zip(mlp.layers, ("up", "down"), strict=True)
        ]
        mlp = eqx.tree_at(lambda mlp: mlp.layers, mlp, tuple(layers))
        attention = Attention(*kernels, biases)
        return Block(norm(f"{name}.norm_1"), attention, norm(f"{name}.norm_2"), MLP(mlp))

    head = eqx.nn.Linear(width, w["head.bias"].shape[0], key=jax.random.key(0))
    return Decoder(
        Embed(w["embed.tokens.embedding"], w["embed.places"]),
        [block("layers.0"), block("layers.1")],
        norm("norm"),
        linear(head, "head"),
    )
