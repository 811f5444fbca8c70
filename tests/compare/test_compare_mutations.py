"""Mutations of the recordings are seen; `mutations.py` tries all of them, and this some."""

import random
import re

import mutations
import pytest

from funcgrad.compare import Output, read
from funcgrad.compare.recorded.compare import compare_cells
from funcgrad.compare.recorded.rounding import with_formats

names = pytest.mark.parametrize("path", mutations.RECORDINGS, ids=lambda path: path.stem)


@pytest.mark.slow
@names
def test_a_sample_of_mutations_is_seen_each_in_its_cell_alone(path):
    tried, missed = mutations.unseen(path, every=20, first=random.Random(path.stem).randrange(20))
    assert missed == []
    assert tried or path.stem in ("old_format", "random_draws")


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


@pytest.mark.slow
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
