"""The decoder of `model.py` in PyTorch, and what `interpretability.ipynb` finds, by hooks."""

import numpy as np
import torch
from torch import nn


def tensor(x):
    return torch.tensor(np.asarray(x), dtype=torch.long)


class Embed(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.tokens, self.places = w("embed.tokens.embedding"), w("embed.places")

    def forward(self, tokens):
        return self.tokens[tokens] + self.places


class Norm(nn.Module):
    def __init__(self, w, name):
        super().__init__()
        self.weight, self.bias = w(f"{name}.scale"), w(f"{name}.bias")

    def forward(self, x):
        return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-6)


class Linear(nn.Module):
    def __init__(self, w, name):
        super().__init__()
        self.weight, self.bias = w(f"{name}.kernel"), w(f"{name}.bias")

    def forward(self, x):
        return torch.tensordot(x, self.weight, 1) + self.bias


class Attention(nn.Module):
    def __init__(self, w, name):
        super().__init__()
        self.query, self.key, self.value = (
            Linear(w, f"{name}.{part}") for part in ("query", "key", "value")
        )
        self.out, self.bias = w(f"{name}.out.kernel"), w(f"{name}.out.bias")

    def forward(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        logits = torch.einsum("bphe,bqhe->bhpq", q, k) / q.shape[-1] ** 0.5
        causal = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        share = logits.masked_fill(~causal, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhpq,bqhe->bphe", share, v)
        return torch.einsum("bphe,hed->bpd", mixed, self.out) + self.bias


class Block(nn.Module):
    def __init__(self, w, name):
        super().__init__()
        self.norm_1, self.norm_2 = Norm(w, f"{name}.norm_1"), Norm(w, f"{name}.norm_2")
        self.attn = Attention(w, f"{name}.attn")
        self.mlp = nn.Sequential(
            Linear(w, f"{name}.mlp.up"), nn.ReLU(), Linear(w, f"{name}.mlp.down")
        )

    def forward(self, x):
        x = x + self.attn(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


def decoder(weights):
    """The decoder with the weights of `weights.npz`."""

    def w(name):
        return torch.tensor(np.asarray(weights[name]))

    layers = [Block(w, f"layers.{i}") for i in range(2)]
    return nn.Sequential(Embed(w), *layers, Norm(w, "norm"), Linear(w, "head"))


def _modules(model):
    """The modules by the names that the notebook has for them."""
    layers = {f"layers/{i}": model[1 + i] for i in range(2)}
    parts = {
        f"{name}/{part}": getattr(layer, part)
        for name, layer in layers.items()
        for part in ("attn", "mlp")
    }
    values = {f"{name}/attn/value": layer.attn.value for name, layer in layers.items()}
    return {"embed": model[0], **layers, **parts, **values}


def _score(model, tokens, right, wrong):
    logits = model(tokens)[:, -1]

    def pick(answer):
        return logits.gather(1, answer[:, None])[:, 0]

    return (pick(right) - pick(wrong)).mean()


def _hooked(module, hook, run):
    handle = module.register_forward_hook(hook)
    try:
        return run()
    finally:
        handle.remove()


def _read(model, names, tokens, right, wrong):
    """The score, and the values at all names with their gradients."""
    modules, kept = _modules(model), {}

    def keep(name):
        def hook(module, args, out):
            kept[name] = out.requires_grad_() if out.is_leaf else out
            out.retain_grad()

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    score = _score(model, tokens, right, wrong)
    score.backward()
    for handle in handles:
        handle.remove()
    return score.detach(), {name: (x.detach(), x.grad) for name, x in kept.items()}


def maps(model, clean, corrupt, right, wrong, names):
    """Patching, attribution by one gradient, and gradient times activation: name by position."""
    modules = _modules(model)
    high, values = _read(model, names, clean, right, wrong)
    low, others = _read(model, names, corrupt, right, wrong)

    def patched(name, position):
        def hook(module, args, out):
            out = out.clone()
            out[:, position] = values[name][0][:, position]
            return out

        with torch.no_grad():

            def run():
                return _score(model, corrupt, right, wrong)

            return (_hooked(modules[name], hook, run) - low) / (high - low)

    heat = [[patched(name, p) for p in range(clean.shape[1])] for name in names]
    once = [
        ((values[name][0] - others[name][0]) * others[name][1]).sum((0, 2)) / (high - low)
        for name in names
    ]
    speaks = [(values[name][0] * values[name][1]).sum((0, 2)) for name in names]
    return np.array(heat), np.array(torch.stack(once)), np.array(torch.stack(speaks))


def ablated(model, tokens, right, masks):
    """The share of right answers under each mask of heads: layer by mask."""
    modules = _modules(model)

    def share(layer, mask):
        def hook(module, args, out):
            return out * torch.tensor(mask)[:, None]

        def run():
            return (model(tokens)[:, -1].argmax(-1) == right).float().mean()

        with torch.no_grad():
            return _hooked(modules[f"layers/{layer}/attn/value"], hook, run)

    return np.array([[share(layer, mask) for mask in masks] for layer in range(2)])
