# %% [markdown]
# Tuples, lists, dicts, named tuples and parameters, as results and printed.
# %%
from collections import OrderedDict, namedtuple

import torch

a, b = torch.arange(3.0), torch.arange(6).view(2, 3)
a, b, 3.5, 3, True, None
# %%
(a,), [a, b]
# %%
print([a, b], (a.sum(), b.shape))
# %%
{"loss": a.mean(), "steps": [1, 2], "state": {0: {"momentum_buffer": None}}}
# %%
torch.max(b.float(), 1), torch.max(b.float() / 3, 0)
# %%
torch.sort(torch.tensor([[3.0, 1.0], [0.25, 2.0]]))
# %%
layer = torch.nn.Linear(2, 3)
with torch.no_grad():
    layer.weight.copy_(torch.arange(6.0).view(3, 2) / 7)
    layer.bias.zero_()
layer.state_dict()
# %%
layer.weight
# %%
list(layer.parameters())
# %%
print(layer)
print([(name, p.shape) for name, p in layer.named_parameters()])
# %%
OrderedDict(a=a, b=b.T)
# %%
Point = namedtuple("Point", "x y")
Point(torch.tensor(1.5), torch.tensor([2, 3]))
# %%
torch.linalg.qr(torch.tensor([[3.0, 1.0], [4.0, 2.0]]))
# %%
b.shape, b.size(0), tuple(b.stride()), b.numel(), a.ndim
# %%
[[1.0, 2.0], [3.0, 4.5]], [[1, 2], [3]], ("N", "C"), torch.Size([])
# %%
a.requires_grad_().sum().grad_fn, (a * 2).grad_fn.next_functions
