# %% [markdown]
# `attention.ipynb` in JAX, under its numbers.
# %%
import jax
import jax.numpy as jnp

q, k, v = (jnp.sin(jnp.arange(12.0) * s).reshape(4, 3) for s in (1.0, 0.7, 2.3))


def attend(q, k):
    return q @ k.T / jnp.sqrt(3.0)


mask = jnp.tril(jnp.ones((4, 4))) == 0


def weigh(q, k):
    return jax.nn.softmax(jnp.where(mask, -jnp.inf, attend(q, k)))


def layer_norm(x):
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


# %% tags=["in-1"]
attend(q, k)
# %% tags=["in-2"]
print(mask)
print(weigh(q, k))
# %% tags=["in-3"]
layer_norm(weigh(q, k) @ v)
# %%
# In [4], [5]
q_grad, k_grad, v_grad = jax.grad(
    lambda q, k, v: jnp.sum(layer_norm(weigh(q, k) @ v) * jnp.arange(12.0).reshape(4, 3)), (0, 1, 2)
)(q, k, v)
print(q_grad)
print("k", k_grad, "v", v_grad)
# %% tags=["in-6"]
jax.nn.gelu(q[0], approximate=False), jax.nn.silu(q[0]), jax.nn.logsumexp(attend(q, k), 1)
# %% tags=["in-7"]
jax.nn.one_hot(jnp.array([2, 0, 1]), 4, dtype=int), tuple(jax.lax.top_k(v[:, 0], 2))
