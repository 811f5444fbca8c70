# %% [markdown]
# `autograd.ipynb` in funcgrad, cell by cell under its numbers.
# %%
import jax
import jax.numpy as jnp

import funcgrad as fg

# %%
# In [1]
x = jnp.arange(4.0)
x


# %%
# In [2]
def f(x):
    y = fg.retain_grad(2 * jnp.dot(x, x), "y")
    return y**2


z, gradient, kept = fg.value_and_grad(f, retain="y")(x)
kept["y"].value, z
# %%
# In [3]
gradient, kept["y"].grad
# %%
# In [4]
acc = fg.accumulate_grad(fg.zero_grad(x), fg.grad(jnp.sum)(x))
fg.accumulate_grad(acc, fg.grad(lambda x: jnp.sum(x * 3))(x))
# %%
# In [5]
u = x * x
gradient = fg.grad(lambda x: jnp.sum(fg.detach(x * x) * x))(x)
gradient == u, False
# %%
# In [6]
w = jnp.array([0.5, -1.5])
hooked = fg.grad(lambda w: jnp.sum(fg.register_hook(jnp.tanh(w), lambda g: -2 * g)))(w)
print("h:", jnp.tanh(w))
print("w.grad:", hooked)
print(True, False, True, False)


# %%
# In [7]
def doubled(a):
    return fg.while_loop(lambda b: jnp.abs(b) < 1000, lambda b: b * 2, a * 2, max_steps=20)


a = jnp.array(1.4223)
slope = fg.grad(doubled)(a)
print(f"a.grad = {slope}, b/a = {doubled(a) / a:.1f}, equal: {slope == doubled(a) / a}")
# %%
# In [8]
v = jnp.array([[1.0, 2.0], [3.0, 4.0]])
fg.grad(lambda v: v @ v, gradient=jnp.array([[1.0, 2.0], [0.0, -1.0]]))(v)
# %%
# In [9]
jax.hessian(lambda t: jnp.sum(t**3))(jnp.array([1.0, -2.0, 0.5]))
