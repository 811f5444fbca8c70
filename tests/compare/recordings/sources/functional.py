# %% [markdown]
# Jacobians, Hessians, products with them, and torch.func.
# %%
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap


def f(x):
    return torch.stack([x[0] ** 2 * x[1], torch.exp(x[1]), x.sum()])


x = torch.tensor([1.5, -0.5])
jacrev(f)(x), jacfwd(f)(x)
# %%
hessian(lambda x: f(x)[0])(x)
# %%
jvp(f, (x,), (torch.tensor([1.0, 0.0]),))
# %%
out, pullback = vjp(f, x)
pullback(torch.tensor([1.0, 2.0, 3.0]))
# %%
vmap(grad(lambda x: (x**3).sum()))(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
# %%
layer = torch.nn.Linear(2, 1, bias=False)
functional_call(layer, {"weight": torch.tensor([[2.0, -3.0]])}, (x,))
# %%
torch.autograd.functional.vhp(lambda x: (x**4).sum(), x, torch.ones(2))


# %%
def show(x):
    print(x)
    return (x * x).sum()


grad(show)(x)
# %%
vmap(lambda row: show(row) * row)(torch.ones(2, 3))
