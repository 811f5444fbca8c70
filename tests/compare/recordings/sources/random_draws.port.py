# %% [markdown]
# `random_draws.ipynb` in JAX: other numbers, the same shapes and dtypes.
# %%
import jax
import jax.numpy as jnp

key = jax.random.key(0)
jax.random.uniform(key, (2, 3))
# %%
noise = jax.random.normal(key, (4,))
print("noise:", noise, "mean", jnp.mean(noise))
# %%
jax.random.permutation(key, 5)
# %%
jax.random.uniform(key, (2, 3)).shape, jax.random.normal(key, (3,)).dtype
# %%
jnp.sum(jax.random.uniform(key, (1000,))) > 100
# %%
jnp.where(jax.random.bernoulli(key, 0.5, (2, 4)), 2.0, 0.0)
