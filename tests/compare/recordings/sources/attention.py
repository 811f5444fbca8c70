# %% [markdown]
# Scaled dot-product attention, layer normalisation, and their gradients.
# %%
import math

import torch
from torch.nn import functional as F

q, k, v = (torch.sin(torch.arange(12.0) * s).view(4, 3).requires_grad_() for s in (1.0, 0.7, 2.3))
scores = q @ k.T / math.sqrt(3)
scores
# %%
mask = torch.tril(torch.ones(4, 4)) == 0
weights = scores.masked_fill(mask, -math.inf).softmax(-1)
print(mask)
print(weights)
# %%
out = F.layer_norm(weights @ v, (3,))
out
# %%
(out * torch.arange(12.0).view(4, 3)).sum().backward()
q.grad
# %%
print("k", k.grad, "v", v.grad)
# %%
F.gelu(q[0]), F.silu(q[0]), torch.logsumexp(scores, 1)
# %%
F.one_hot(torch.tensor([2, 0, 1]), 4), torch.topk(v[:, 0], 2)
