# %% [markdown]
# What notebooks in the wild hold besides numbers, run out of order.
# %% run=1
import sys
import warnings

import torch
from IPython.display import HTML, Latex, display

# %% run=6
torch.ones(2) * counter
# %% run=2
counter = 3
print("a first line", counter)
print("careful", file=sys.stderr)
print("a second line", counter + 1)
torch.tensor(0.5)
# %% run=3 tags=["raises-exception"]
torch.ones(2) @ torch.ones(3)
# %% run=4
display(HTML("<table><tr><td>1.5</td><td><script>alert(1)</script></td></tr></table>"))
display(Latex("$x^2 = 4$"))
# %% run=5
import matplotlib.pyplot as plt

plt.rcParams["figure.dpi"] = 30
plt.figure(figsize=(1.5, 1))
plt.plot([0, 1], [1, 0])
plt.title("loss")
# %% run=7
for step in range(3):
    print(f"\rstep {step}", end="")
print("\rdone, loss 0.25")
# %% run=8
for step in range(3):
    sys.stdout.write(f"\r{step * 50:3d}%|{'#' * step:<2}| {step}/2 [00:00<00:00, 99.00it/s]")
print()
print(f"\x1b[1m\x1b[32mgreen\x1b[0m {torch.tensor([1, 2])}")
# %% run=9
warnings.warn("this is deprecated since 1.5", stacklevel=1)
torch.tensor([0.1])
# %% run=11
# %time sum(range(10))
# %% run=10
torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Linear(4, 2), torch.nn.ReLU())
# %% run=12
{"address": object(), "generator": torch.Generator(), "id(Z)": 5}
