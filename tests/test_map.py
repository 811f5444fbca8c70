"""The map of PyTorch's names: its lines run, agree with PyTorch's, and the names are all there."""

import functools
import importlib
import pkgutil
import re
import types

import jax
import numpy as np
import pytest
from page import ROOT, code, settings, spans, tables
from tiers import slow_but

PAGE = ROOT / "docs" / "map.md"
SETTING, TORCH_SETTING = settings(PAGE)
ROWS = [(heading, *row) for heading, rows in tables(PAGE).items() for row in rows]
IDS = [f"{heading}-{names}" for heading, names, *_ in ROWS]


@functools.cache
def run(setting, line):
    """The value of the last expression of `line`, if it ends in one."""
    names = {}
    exec(setting, names)
    *first, last = line.split("; ")
    exec("\n".join(first), names)
    try:
        return eval(last, names)
    except SyntaxError:
        return exec(last, names)


@pytest.mark.parametrize(
    ("heading", "names", "theirs", "ours"),
    slow_but(lambda *row: row in ROWS[::3], ROWS),
    ids=IDS,
)
def test_each_line_runs(heading, names, theirs, ours):
    assert code(ours) or (ours.startswith("None needed: ") and not theirs)
    for line in spans(ours):
        run(SETTING, line)


def numbers(value):
    """The leaves of a pytree of arrays or tensors as NumPy arrays."""
    leaves = jax.tree.leaves(value)
    return [np.asarray(x.detach() if hasattr(x, "detach") else x) for x in leaves]


COMPARED = {names: row for names, row in zip(IDS, ROWS, strict=True) if row[2]}


@pytest.mark.parametrize(
    ("theirs", "ours"), [row[2:] for row in COMPARED.values()], ids=list(COMPARED)
)
@pytest.mark.filterwarnings("ignore")  # of PyTorch's; the other test lets none of JAX's through
def test_each_line_agrees_with_pytorch(torch, theirs, ours):
    want = numbers(run(TORCH_SETTING, code(theirs)))
    got = numbers(run(SETTING, code(ours)))
    assert want
    assert [x.shape for x in got] == [x.shape for x in want]
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_most_lines_that_compute_something_are_compared():
    assert len(COMPARED) >= 75


# The names. Of the first sources, and of all modules of torch.autograd, the map has all that is
# public; of the others, which are about more than gradients, the names these words are found in.

WHOLE = [
    "torch.func",
    "torch.autograd",
    "torch.autograd.Function",
    "torch.autograd.SavedTensor",
    "torch.autograd.function.FunctionCtx",
    "torch.autograd.graph.Node",
    "torch.utils.checkpoint",
    "torch.optim.Optimizer",
    "torch.amp.GradScaler",
]
PARTLY = {
    "torch": "grad|detach|inference|anomaly|vmap",
    "torch.Tensor": "grad|backward|hook|detach|leaf|inference|output_nr|data$",
    "torch.nn.utils": "grad_|grads_|total_norm",
    "torch.nn.Module": "grad|backward|hook",
    "torch.nn.modules.module": "grad|backward|hook",
    "torch.nn.parallel.DistributedDataParallel": "grad|backward|hook|sync",
    "torch.distributed.fsdp.FSDPModule": "grad|backward|hook",
    "torch.optim.optimizer": "grad|backward|hook",
}


def owner(source):
    """The module of that name, where there is one, or else the class."""
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError:
        module, _, name = source.rpartition(".")
        return getattr(importlib.import_module(module), name)


def public(source, words=""):
    """The public names of a class; of a module what it exports, defines, or has from C."""
    home = owner(source)
    exported = getattr(home, "__all__", ())
    for name in dir(home):
        thing = getattr(home, name)
        if name.startswith("_") or isinstance(thing, types.ModuleType):
            continue
        made = getattr(thing, "__module__", None) or ""
        own = name in exported or made == source or made.startswith("torch._C")
        if (own or words or isinstance(home, type)) and re.search(words, name):
            yield f"{source}.{name}", thing


@pytest.fixture(scope="module")
def names(torch):
    modules = pkgutil.iter_modules(torch.autograd.__path__, "torch.autograd.")
    below = [module.name for module in modules if not module.name.split(".")[-1].startswith("_")]
    partly = [pair for source, words in PARTLY.items() for pair in public(source, words)]
    return dict([*partly, *(pair for source in [*WHOLE, *below] for pair in public(source))])


@pytest.fixture(scope="module")
def mapped(torch):
    rows = [(r[0], name) for r in ROWS if r[0].startswith("torch") for name in spans(r[1])]
    assert len(set(rows)) == len(rows)
    found = {f"{heading}.{name}": getattr(owner(heading), name, None) for heading, name in rows}
    return found | {name: thing for name, thing in newer() if thing is not None}


def newer():
    """The names that came with a later PyTorch than the tables are of, with what they name."""
    for name in (span for r in ROWS if r[0] == "Newer names" for span in spans(r[1])):
        if name.startswith("torch.") and not name.endswith(".checkpoint"):
            source, _, last = name.rpartition(".")
            yield name, getattr(owner(source), last, None)


def test_no_name_is_forgotten(names, mapped):
    # A name that two modules have is one thing, and has one row at least.
    known = {id(thing) for thing in mapped.values() if not isinstance(thing, bool | None)}
    assert len(names) > 200
    assert [n for n, thing in names.items() if n not in mapped and id(thing) not in known] == []


def test_no_name_is_made_up(torch, names, mapped):
    assert [name for name in mapped if name not in names] == ["torch.Tensor._version"]
    assert hasattr(torch.Tensor, "_version")  # spoken of everywhere, and has no other name
