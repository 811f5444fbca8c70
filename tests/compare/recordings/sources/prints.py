# %% [markdown]
# Labels of every kind, several values on a line, tables, and text with numbers in it.
# %%
import torch

x = torch.tensor([1.0, 2.0])
m = torch.tensor([[3.0, 4.5], [5.0, 6.0]])
print(torch.tensor(1.0), torch.tensor(1), torch.tensor(1, dtype=torch.int8))
# %%
print("x:", x)
print("x:" + str(x))
print("x = ", x, "; sum=", x.sum())
print("x的梯度：", x)
print(" m:", m, "\n", m.T)
# %%
print(m, m.mean())
print("First call\n", m, sep="")
print()
print("Second call", m * 2, sep="\n")
# %%
print(f"{x.is_leaf=} {m.requires_grad=} {x.sum()=} {float(m.max())=:.2f}")
# %%
print("Test label: 9.\nPred label:", torch.tensor([9]))
print("approx. 3.14, about -2 of 10 (20%), 1e-3 and +0.5; 3-2 is 1")
# %%
f"approximation: {x}, true value: {x + 0.25}"
# %%
for name, value in {"logprobs": 0.0, "hpreact": 4.656612873077393e-10}.items():
    print(f"{name:15s} | exact: {str(value == 0):5s} | approximate: True | maxdiff: {value}")
# %%
print("-" * 40)
print("| epoch | train  | valid  |")
for epoch in range(3):
    print(f"| {epoch:5d} | {1 / (epoch + 1):.4f} | {0.9**epoch:6.3f} |")
# %%
print(None, True, 3, 2.5, "text", x.shape, x.dtype, x.device)
# %%
print("conv3x3 of resnet18 v1.2.3 on 2024-01-02, sha 0x7f3a, a1b2")
# %%
print(*m, sep="\n")
print(*m.tolist(), m.tolist()[0][1])
x.sum()
# %%
print((x * 2).requires_grad_(), x.tolist(), end=" ")
print([float(v) for v in x])
