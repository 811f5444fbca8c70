# %% [markdown]
# Large arrays, of which only the corners are printed.
# %%
import numpy as np
import torch

torch.sin(torch.arange(2000.0))
# %%
torch.arange(2000)
# %%
torch.cos(torch.arange(5000.0)).view(5, 1000)
# %%
torch.arange(4000.0).view(1000, 4) / 8
# %%
print("table:", torch.arange(3600).view(60, 60) % 7 > 3)
# %%
torch.sqrt(torch.arange(2197.0)).view(13, 13, 13)
# %%
torch.set_printoptions(edgeitems=2, threshold=10)
torch.arange(25.0).view(5, 5)
# %%
torch.set_printoptions(profile="default")
np.arange(3000)
# %%
print(np.linspace(0, 1, 1500), np.arange(1600.0).reshape(40, 40) / 3)
# %%
torch.complex(torch.cos(torch.arange(1100.0)), torch.sin(torch.arange(1100.0)))
