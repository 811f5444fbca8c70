"""Programs with one planted NaN each are located: line, phase, iterations, examples."""

import re
from pathlib import Path

import anomaly_programs
import pytest
from anomaly_programs import PROGRAMS

import funcgrad as fg

PAGE = Path(__file__).parents[1] / "docs" / "debugging.md"
FILE = Path(anomaly_programs.__file__).name
NAMES = [program.name for program in PROGRAMS]


def located(program, **options):
    fun, args = program.make()
    with pytest.raises(fg.AnomalyError, match="`detect_anomaly` found NaN") as caught:
        fg.detect_anomaly(fun, **options)(*args)
    return caught.value.anomaly


def test_there_are_enough_programs():
    assert len(PROGRAMS) >= 30
    assert len(set(NAMES)) == len(PROGRAMS)


def on_lines(number, mode):
    """All are interpreted on each, and compiled on one; a third are compiled on the other too."""
    return pytest.mark.slow if mode == "interpreted" or number % 3 == 1 else pytest.mark.one_line


@pytest.mark.parametrize(
    ("program", "mode"),
    [
        pytest.param(program, mode, marks=on_lines(number, mode), id=f"{program.name}-{mode}")
        for number, program in enumerate(PROGRAMS)
        for mode in ("interpreted", "compiled")
    ],
)
def test_the_planted_nan_is_located(program, mode):
    found = located(program, mode=mode)
    assert (Path(found.file).name, found.line) == (FILE, program.line), found
    assert found.phase == program.phase
    assert tuple(step for _, step in found.steps) == program.steps
    assert found.examples == program.examples


def test_the_page_has_a_row_for_each_program_and_says_how_many_are_located():
    text = PAGE.read_text()
    rows = re.findall(r"^\| (.*?) \| (?:forward|backward), .*?, the line.*? \|", text, re.MULTILINE)
    assert rows == [f"{program.says} ({program.phase})" for program in PROGRAMS]
    assert f"named by funcgrad in {len(PROGRAMS)} of {len(PROGRAMS)} programs" in text
