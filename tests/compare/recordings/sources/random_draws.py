# %% [markdown]
# Numbers that nobody can port, marked as such, and what can be said of them.
# %%
import torch

torch.rand(2, 3)  # random
# %% tags=["random"]
noise = torch.randn(4)
print("noise:", noise, "mean", noise.mean().item())
# %%
# random: the order of a shuffled batch
torch.randperm(5)
# %%
torch.rand(2, 3).shape, torch.randn(3).dtype
# %%
torch.rand(1000).sum() > 100
# %%
dropped = torch.nn.functional.dropout(torch.ones(2, 4), 0.5)  # random
dropped
