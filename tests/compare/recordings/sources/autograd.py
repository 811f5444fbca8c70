# %% [markdown]
# Gradients of leaves and of intermediates, accumulated, hooked and detached.
# %%
import torch

x = torch.arange(4.0, requires_grad=True)
x
# %%
y = 2 * torch.dot(x, x)
z = y**2
y.retain_grad()
y, z
# %%
z.backward()
x.grad, y.grad
# %%
x.grad.zero_()
x.sum().backward()
(x * 3).sum().backward()
x.grad
# %%
u = (x * x).detach()
(gradient,) = torch.autograd.grad((u * x).sum(), x)
gradient == u, u.requires_grad
# %%
w = torch.tensor([0.5, -1.5], requires_grad=True)
h = torch.tanh(w)
h.register_hook(lambda g: -2 * g)
h.sum().backward()
print("h:", h, "\nw.grad:", w.grad)
print(w.is_leaf, h.is_leaf, h.grad_fn is not None, x.grad is None)
# %%
a = torch.tensor(1.4223, requires_grad=True)
b = a * 2
while b.norm() < 1000:
    b = b * 2
b.backward()
print(f"a.grad = {a.grad}, b/a = {(b / a).item():.1f}, equal: {(a.grad == b / a).item()}")
# %%
v = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
(v @ v).backward(gradient=torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
v.grad
# %%
torch.autograd.functional.hessian(lambda t: (t**3).sum(), torch.tensor([1.0, -2.0, 0.5]))
