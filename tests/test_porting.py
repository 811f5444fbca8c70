"""The notebook on porting a script: its proof is repeated, and the recording it rests on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from funcgrad.compare import compare, read
from funcgrad.compare.recorded.remarks import remarks

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
RECORDING, PORT = NOTEBOOKS / "porting" / "in_torch.ipynb", NOTEBOOKS / "porting.ipynb"


def test_the_notebook_agrees_with_the_recording():
    report = compare(RECORDING, PORT, fresh=False)
    assert report.agrees, [line for line, _ in remarks(report)]
    assert report.count("agree") == 52
    assert {f"In [{number}]" for number in range(3, 9)} <= {cell.label for cell in report.cells}


def test_the_notebook_says_so_step_by_step():
    said = [output.text for cell in read(PORT) for output in cell.outputs]
    assert sum("All agree with PyTorch." in text for text in said) == 7
    assert sum("names agree, and they do on 7 inputs more." in text for text in said) == 2


@pytest.mark.kernel
def test_pytorch_still_prints_what_was_recorded(torch, tmp_path):
    """And draws the same: the script is run afresh, in a folder of its own."""
    shutil.copy(RECORDING, tmp_path / "again.ipynb")
    report = compare(RECORDING, tmp_path / "again.ipynb", timeout=120)
    assert report.agrees, [line for line, _ in remarks(report)]
    stored, drawn = (np.load(folder / "drawn.npz") for folder in (RECORDING.parent, tmp_path))
    assert stored.files == drawn.files
    for name in stored.files:
        np.testing.assert_allclose(drawn[name], stored[name], rtol=1e-4, atol=1e-4, err_msg=name)
