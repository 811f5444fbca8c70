# %% [markdown]
# A convolution, a pooling layer and their gradients; axes in PyTorch's order.
# %%
import torch
from torch.nn import functional as F

image = torch.sin(torch.arange(32.0)).view(1, 2, 4, 4)
kernel = torch.cos(torch.arange(54.0)).view(3, 2, 3, 3).requires_grad_()
bias = torch.tensor([0.1, -0.2, 0.3], requires_grad=True)
image.shape, kernel.shape
# %%
out = F.conv2d(image, kernel, bias, padding=1)
out.retain_grad()
out
# %%
pooled = F.max_pool2d(F.relu(out), 2)
pooled
# %%
(pooled**2).sum().backward()
bias.grad, out.grad.shape
# %%
out.grad[0, 0]
# %%
kernel.grad
# %%
F.avg_pool2d(image, 2), F.pad(image[0, 0], (1, 0)), image.permute(0, 2, 3, 1)[0, :2, 0]
