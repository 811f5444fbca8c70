# %% [markdown]
# Tensors of every rank, with padding, wrapped lines and signs.
# %%
import torch

torch.tensor(28.0)
# %%
torch.arange(4.0) * 4
# %%
torch.tensor([-1.5, 2.0])
# %%
torch.arange(40.0)
# %%
torch.linspace(-3, 3, 23)
# %%
torch.arange(6.0).view(2, 3) / 7
# %%
torch.arange(12).view(3, 4) ** 2
# %%
torch.arange(12.0).view(2, 3, 2) - 6
# %%
torch.arange(16.0).view(2, 2, 2, 2) / 3
# %%
print(torch.tensor([]), torch.empty(0, 3), torch.empty(4, 0, dtype=torch.int64))
# %%
print(torch.tensor(7), torch.tensor([7]), torch.tensor([[[7]]]))
# %%
torch.eye(3)[:, None, :]
