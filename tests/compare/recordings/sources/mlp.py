# %% [markdown]
# The gradients of every weight and of every layer's output in a small perceptron.
# %%
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
with torch.no_grad():
    for p in model.parameters():
        p.copy_(torch.sin(torch.arange(float(p.numel()))).view(p.shape))
model
# %%
x = torch.cos(torch.arange(12.0)).view(3, 4)
target = torch.tensor([0, 1, 1])
x
# %%
hidden = model[0](x)
active = model[1](hidden)
logits = model[2](active)
for t in (hidden, active, logits):
    t.retain_grad()
logits
# %%
loss = nn.functional.cross_entropy(logits, target)
loss.backward()
loss
# %%
print("logits.grad:", logits.grad)
print("active.grad:", active.grad)
print("hidden.grad:", hidden.grad)
# %%
for name, p in model.named_parameters():
    print(name, p.grad)
# %%
torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5), model[2].bias.grad
# %%
logits.softmax(1).argmax(1), (logits.argmax(1) == target).float().mean()
