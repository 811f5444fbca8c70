# %% [markdown]
# A line fitted by hand, with the log that everybody prints.
# %%
import torch

x = torch.linspace(-1, 1, 9)
y = 3 * x - 0.5 + torch.tensor([0.1, -0.2, 0.05, 0.0, 0.15, -0.1, 0.02, -0.03, 0.07])
y
# %%
w = torch.tensor(0.0, requires_grad=True)
b = torch.tensor(0.0, requires_grad=True)
loss = ((w * x + b - y) ** 2).mean()
loss.backward()
print("loss:", loss, "w.grad:", w.grad, "b.grad:", b.grad)
# %%
optimizer = torch.optim.SGD([w, b], lr=0.1, momentum=0.9)
for epoch in range(5):
    optimizer.zero_grad()
    loss = ((w * x + b - y) ** 2).mean()
    loss.backward()
    optimizer.step()
    print(f"Epoch {epoch + 1}/5 | Loss: {loss.item():.4f} | w {w.item():.4f}, b {b.item():.4f}")
# %%
print("w =", w)
print("b =", b)
# %%
prediction = w * x + b
prediction.detach()
# %%
with torch.no_grad():
    residual = prediction - y
    print("max abs error: {:.3f}".format(residual.abs().max().item()))
    print("mse", (residual**2).mean().item())
