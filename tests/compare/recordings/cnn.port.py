# %% [markdown]
# `cnn.ipynb` in JAX, with PyTorch's axes: batch, channels, height, width.
# %%
import jax
import jax.numpy as jnp
from jax import lax

import funcgrad as fg

image = jnp.sin(jnp.arange(32.0)).reshape(1, 2, 4, 4)
kernel = jnp.cos(jnp.arange(54.0)).reshape(3, 2, 3, 3)
bias = jnp.array([0.1, -0.2, 0.3])
image.shape, kernel.shape


# %%
def conv(kernel, bias):
    out = lax.conv_general_dilated(image, kernel, (1, 1), "SAME")
    return fg.retain_grad(out + bias[:, None, None], "out")


def windows(x):
    """Blocks of two by two, on an axis of their own."""
    n, c, h, w = x.shape
    return (
        x.reshape(n, c, h // 2, 2, w // 2, 2)
        .transpose(0, 1, 2, 4, 3, 5)
        .reshape(n, c, h // 2, w // 2, 4)
    )


conv(kernel, bias)


# %%
def pooled(kernel, bias):
    return jnp.max(windows(jax.nn.relu(conv(kernel, bias))), axis=-1)


pooled(kernel, bias)
# %%
(kernel_grad, bias_grad), kept = fg.grad(
    lambda k, b: jnp.sum(pooled(k, b) ** 2), (0, 1), retain="out"
)(kernel, bias)
bias_grad, kept["out"].grad.shape
# %%
kept["out"].grad[0, 0]
# %%
kernel_grad
# %%
(
    jnp.mean(windows(image), -1),
    jnp.pad(image[0, 0], ((0, 0), (1, 0))),
    image.transpose(0, 2, 3, 1)[0, :2, 0],
)
