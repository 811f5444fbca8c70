# %% [markdown]
# Every dtype, and how each is named.
# %%
import torch

for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
    print(torch.tensor([1, 2, 100], dtype=dtype))
# %%
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
    print(torch.tensor([0.1, 1.0, -2.5], dtype=dtype), torch.tensor(3.0, dtype=dtype))
# %%
torch.tensor([True, False]), torch.tensor(True), torch.tensor([[True], [True]])
# %%
torch.tensor([1 + 2j, 0.5 - 1j]), torch.tensor(1 + 2j), torch.tensor([1 + 2j]).to(torch.complex128)
# %%
torch.tensor([complex(1e10, 1e-5), complex(1, -1)])
# %%
torch.tensor([0.5, 1.5]).to(torch.float8_e4m3fn), torch.tensor([0.5, 3.0]).to(torch.float8_e5m2)
# %%
torch.float32, torch.double, torch.tensor(1).dtype, torch.ones(2).numpy().dtype
# %%
torch.tensor([1, 2]).double(), torch.tensor([1.7, -1.7]).int(), torch.tensor([0, 3]).bool()
# %%
torch.tensor(1.0, dtype=torch.float64) / 3, (torch.tensor(1.0) / 3).item()
# %%
print(torch.tensor(3).item(), torch.tensor(True).item(), torch.tensor(2.5).item())
# %%
torch.arange(3).type(), torch.ones(2).type()
