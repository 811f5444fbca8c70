# %% [markdown]
# NumPy arrays and scalars beside tensors.
# %%
import numpy as np
import torch

a = np.array([[1.0, 2.0], [3.0, 4.5]], dtype=np.float32)
a, torch.from_numpy(a)
# %%
print(a, torch.from_numpy(a))
# %%
np.sin(np.arange(5.0)), np.sin(np.arange(5, dtype=np.float32))
# %%
print(np.sin(np.arange(5.0)))
# %%
np.float32(0.1), np.float64(0.1), np.int64(3), np.bool_(True), np.complex64(1 + 2j)
# %%
np.array(2.71, dtype=np.float32), np.array([True, False]), np.array([1 + 2j, 3 - 1.5j])
# %%
torch.ones(3).numpy(), torch.tensor([1, 2]).numpy(), np.arange(6).reshape(2, 3)
# %%
np.array([1e-10, 1.0, 1e10]), np.array([np.nan, np.inf, -0.5])
# %%
print(np.array([1e-10, 1.0]), np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([1, 20, 300]))
# %%
{"mean": a.mean(), "shape": a.shape, "dtype": a.dtype}
# %%
torch.tensor([1.5]).item(), torch.tensor([[1.5, 2.5]]).tolist()
# %%
np.set_printoptions(precision=3)
print(np.array([-4.41382, -9.11104, 6.53921]))
