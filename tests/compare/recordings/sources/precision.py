# %% [markdown]
# How many digits: integral values, four decimals, scientific, and what the user sets.
# %%
import math

import torch

print(torch.tensor(1.0), torch.tensor(0.99999), torch.tensor(1.00001))
# %%
torch.tensor([51.2, 512.0, 0.0512]) ** 2
# %%
torch.tensor([0.954834, -0.00082604])
# %%
torch.tensor([1e-10, 1.0]), torch.tensor([1e10, 1.0]), torch.tensor(12345.678)
# %%
torch.tensor([1.0, math.nan]), torch.tensor([math.nan, math.inf, -math.inf])
# %%
torch.tensor([-0.6387, math.nan, -0.4552]), torch.tensor([1e38, math.inf])
# %%
torch.tensor([-0.0, 0.0]), torch.tensor([-0.0, 0.25])
# %%
torch.set_printoptions(precision=2)
torch.tensor([[0.0, 11.874, 0.0], [5.476, 2.138, 15.3]])
# %%
torch.set_printoptions(precision=10)
torch.tensor([math.pi, math.e], dtype=torch.float64)
# %%
torch.set_printoptions(precision=4, sci_mode=True)
torch.tensor([[1.5, 200.25], [-3.75, 0.0]])
# %%
torch.set_printoptions(sci_mode=False)
torch.tensor([1e-6, 123456.789])
# %%
torch.set_printoptions(profile="default", linewidth=40)
torch.sqrt(torch.arange(12.0))
# %%
torch.set_printoptions(profile="default")
math.pi, 1 / 3, 1e-07, -1.5e20, 2.0, [0.1, math.nan, math.inf]
