"""Mutations of the recordings are seen; `mutations.py` tries all of them, and this some."""

import random
import re

import mutations
import pytest

from funcgrad.compare import Cell, Output, read
from funcgrad.compare.recorded.compare import compare_cells
from funcgrad.compare.recorded.rounding import with_formats

names = pytest.mark.parametrize("path", mutations.RECORDINGS, ids=lambda path: path.stem)


@pytest.mark.one_line
@names
def test_a_sample_of_mutations_is_seen_each_in_its_cell_alone(path):
    tried, missed = mutations.unseen(path, every=20, first=random.Random(path.stem).randrange(20))
    assert missed == []
    assert tried or path.stem in ("old_format", "random_draws")


@pytest.mark.slow
def test_the_mutations_are_of_all_kinds_and_few_are_excused():
    counts = dict.fromkeys(mutations.KINDS, 0)
    excused = 0
    for path in mutations.RECORDINGS:
        if path.stem in ("containers", "prints", "ranks"):
            for text in mutations.texts(path):
                for one in mutations.mutations(text):
                    counts[one[0]] += 1
                    excused += mutations.is_excused(text, *one)
    assert all(counts.values()), counts
    assert excused < 0.2 * sum(counts.values())


@pytest.mark.parametrize(
    ("text", "one", "excused"),
    [
        ("tensor([1., 2.])", ("digit", 8, 9, "3"), False),
        ("loss 0.1234", ("digit", 10, 11, "5"), False),
        ("tensor(1234.5678)", ("digit", 15, 16, "9"), True),  # below what float32 resolves
        ("tensor(0.)", ("sign", 7, 7, "-"), True),
        ("conv1", ("digit", 4, 5, "2"), True),
        ("tensor(1., device='cuda:0')", ("digit", 24, 25, "1"), True),
    ],
)
def test_what_is_excused(text, one, excused):
    assert mutations.is_excused(text, *one) == excused


FORMS = [
    "Epoch 3: 100%|███| 9/9 [00:01<00:00, 7.1it/s, loss=0.532, acc=9.51]\nval 3.25",
    "PSNR: 30.1dB, 2.5x, 124.2M\nparams=3.2M flops=10G\n",
    "{'state': {0: {'step': 12, 'exp_avg': tensor([0.5000, 1.2500])}}, 'groups': [{'lr': 0.001,"
    " 'betas': (0.9, 0.999), 'params': [0, 1]}]}",
    "   epoch  loss   acc\n0      1  0.523  0.91\n1      2  0.410  0.95\n",
    "Config(lr=0.001, layers=3, name='mlp', dims=(3, 4))",
    "[[12  3]\n [ 4 19]]\naccuracy: 81.58%",
    "loss 2.302585092994046 grad 0.0 -0.5 1e-05 3.4e+10",
    "torch.Size([2, 3]) torch.float32 True None\n(torch.Size([4, 5]), tensor(6.))",
    "x.grad=tensor([1., -2., 3.]) y=None z=(1, 2.5, None)",
    "Train Epoch: 1 [640/60000 (1%)]\tLoss: 0.212345\nTest set: Average loss: 0.0345, Accuracy:"
    " 9889/10000 (99%)",
    "step:100,lr:1.0e-04;loss:3.1416|ppl=23.10",
    "($2.50) <1.5> ~3.5 @7 #9 ±0.25 1/3 2:30 -0.0 +4.5 5-3 7*8 2^10 1,234.5",
    "max\t3\nmin\t-4.5\nmean±std 0.12±0.03",
    "array([[1.5, 2.25],\n       [3. , 4. ]]) [1.5 2.25] [1, 2, 3] ['a1', 'b2'] {1, 2}",
    "tensor([[0.1235+0.5000j, 1.0000-2.0000j]]) (1+2j) 3.5j",
    "OrderedDict([('0.weight', tensor([[1.5000]])), ('0.bias', tensor([0.2500]))])",
    "namedtuple_out(values=tensor([1.5000]), indices=tensor([2]))",
    "OK (3 passed, 2 failed in 1.2s)\n[1/10] loss=0.5\n[ 2/10] loss=0.25",
    "的梯度：2.5，损失0.25。x₁=3.5",
    "θ=0.5rad μ=2.5 σ²=3.5 5μm",
    "Iteration 10 - loss 0.5e-3 - 12ms\nlayer1.0.weight 3.5 conv2d_1 (None, 28, 28, 32) 320",
]


@pytest.mark.one_line
@pytest.mark.parametrize("kind", mutations.SEEN)
def test_mutations_of_what_people_print_are_seen(kind):
    """Forms of public notebooks: logs, tables, bars, units, optimizers' states, other scripts."""
    cells = [Cell(i, (Output(kind, text),), "x", (), i) for i, text in enumerate(FORMS, start=1)]
    tried = 0
    for cell in cells:
        count, missed = mutations.unseen_in("forms", [cell])
        assert missed == []
        tried += count
    assert tried > 500


HARMLESS = {
    "no suffixes": lambda text: re.sub(r",\s+(?:requires_grad=True|grad_fn=<\w+>)", "", text),
    "another device": lambda text: re.sub(
        r"(?m)^(tensor\([^()]*\])\)", r"\1, device='cuda:0')", text
    ),
    "as JAX prints a shape": lambda text: re.sub(
        r"torch\.Size\(\[(\d+), (.*?)\]\)", r"(\1, \2)", text
    ),
    "other white space": lambda text: re.sub(r"\n +(?=[\[\d-])", "\n   ", text),
    "another name of a gradient function": lambda text: re.sub(
        r"<\w+Backward\d*>", "<Other>", text
    ),
    "more digits of zero": lambda text: re.sub(r"\b0\.(?=[,\]])", "0.0", text),
}


@pytest.mark.one_line
@pytest.mark.parametrize("change", HARMLESS)
def test_harmless_changes_stay_green(change):
    changed = 0
    for path in mutations.RECORDINGS:
        theirs = with_formats(read(path))
        for cell in theirs:
            outputs = [
                one._replace(text=HARMLESS[change](one.text)) if one.kind in mutations.SEEN else one
                for one in cell.outputs
            ]
            if tuple(outputs) != cell.outputs:
                changed += 1
                (found, *_) = compare_cells([cell], [cell._replace(outputs=tuple(outputs))])
                assert found.agrees, (path.stem, cell.place, found)
    assert changed >= 2


def test_a_mutation_is_told_from_its_neighbours():
    cells = [one for one in read(mutations.RECORDINGS[0]) if one.outputs]
    port = [*cells[:-1], cells[-1]._replace(outputs=(Output("result", "tensor(77.)"),))]
    wrong = [cell.places for cell in compare_cells(cells, port) if not cell.agrees]
    assert wrong == [(cells[-1].place,)]
