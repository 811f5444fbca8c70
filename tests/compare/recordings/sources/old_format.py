# %% [markdown]
# Stored as nbformat 3, as notebooks were before 2015.
# %%
import torch

x = torch.arange(3.0, requires_grad=True)
x
# %%
print("loss", (x**2).sum())
(x**2).sum().backward()
x.grad
# %% tags=["raises-exception"]
x.undefined
# %%
x.detach().numpy()
