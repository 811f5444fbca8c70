# %% [markdown]
# `regression.ipynb` in JAX, in its order; momentum written out.
# %%
import jax
import jax.numpy as jnp

x = jnp.linspace(-1, 1, 9)
y = 3 * x - 0.5 + jnp.array([0.1, -0.2, 0.05, 0.0, 0.15, -0.1, 0.02, -0.03, 0.07])
y


# %%
def mse(params):
    w, b = params
    return jnp.mean((w * x + b - y) ** 2)


params = (jnp.array(0.0), jnp.array(0.0))
loss, (w_grad, b_grad) = jax.value_and_grad(mse)(params)
print("loss:", loss, "w.grad:", w_grad, "b.grad:", b_grad)
# %%
velocity = jax.tree.map(jnp.zeros_like, params)
for epoch in range(5):
    loss, grads = jax.value_and_grad(mse)(params)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
    params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    w, b = params
    print(f"Epoch {epoch + 1}/5 | Loss: {loss:.4f} | w {w:.4f}, b {b:.4f}")
# %%
print("w =", w)
print("b =", b)
# %%
prediction = w * x + b
prediction
# %%
residual = prediction - y
print(f"max abs error: {jnp.max(jnp.abs(residual)):.3f}")
print("mse", jnp.mean(residual**2))
