# %% [markdown]
# `mlp.ipynb` in funcgrad: the gradients of the outputs of the layers by tags.
# %%
import jax
import jax.numpy as jnp

import funcgrad as fg

shapes = {"0.weight": (3, 4), "0.bias": (3,), "2.weight": (2, 3), "2.bias": (2,)}
params = {
    name: jnp.sin(jnp.arange(float(jnp.prod(jnp.array(shape))))).reshape(shape)
    for name, shape in shapes.items()
}
# %%
x = jnp.cos(jnp.arange(12.0)).reshape(3, 4)
target = jnp.array([0, 1, 1])
x


# %%
def forward(params):
    hidden = fg.retain_grad(x @ params["0.weight"].T + params["0.bias"], "hidden")
    active = fg.retain_grad(jnp.tanh(hidden), "active")
    return fg.retain_grad(active @ params["2.weight"].T + params["2.bias"], "logits")


def cross_entropy(params):
    logits = forward(params)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1))


logits = forward(params)
logits
# %%
loss, grads, kept = fg.value_and_grad(cross_entropy, retain=...)(params)
loss
# %%
print("logits.grad:", kept["logits"].grad)
print("active.grad:", kept["active"].grad)
print("hidden.grad:", kept["hidden"].grad)
# %%
for name in shapes:
    print(name, grads[name])
# %%
norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
norm, grads["2.bias"] * jnp.minimum(1.0, 0.5 / norm)
# %%
predicted = jnp.argmax(jax.nn.softmax(logits), axis=1)
predicted, jnp.mean((predicted == target).astype(jnp.float32))
