# %% [markdown]
# Sparse, quantised, nested, meta and dual tensors: arrays within arrays.
# %%
import warnings

import torch
from torch.autograd import forward_ad

warnings.simplefilter("ignore")
torch.eye(2).to_sparse()
# %%
(torch.eye(3) / 3).to_sparse_csr()
# %%
torch.sparse_coo_tensor([[0, 1], [1, 0]], [2.5, -1.0], (2, 2)).coalesce().requires_grad_()
# %%
torch.quantize_per_tensor(torch.tensor([1.0, 2.0, 3.04, 4.0]), 0.1, 10, torch.quint8)
# %%
torch.nested.nested_tensor([torch.ones(2), torch.arange(3.0) / 7])
# %%
torch.ones(2, device="meta")
# %%
with forward_ad.dual_level():
    dual = forward_ad.make_dual(torch.tensor([1.0, 2.5]), torch.tensor([2.0, -1.0]))
    print(dual)
    print(forward_ad.unpack_dual(dual))
# %%
torch.zeros(0, 3).to_sparse()
# %%
torch.sparse.mm(torch.eye(2).to_sparse(), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
