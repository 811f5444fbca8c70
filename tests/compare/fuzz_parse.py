"""Coverage-guided fuzzing of the parser, the judge, and the reader of text; no part of the suite.

    pip install atheris
    mkdir -p corpus
    nice python tests/compare/fuzz_parse.py corpus -max_total_time=600 -max_len=1024

The corpus starts with the outputs of the recordings beside this file. An input that fails is left
in a file `crash-...`; give that file as the argument to see it again. What must hold of any text:

* `parse` raises nothing, its values and words make up the text, and each value agrees with itself;
* `split`, `clean` and the lookup of a cell's values raise nothing;
* the time is not superlinear: repeated to 32,000 characters, an input is read in two seconds.
"""

import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["funcgrad.compare"]):
    from funcgrad.compare import Cell, Output, judge, pair_values, parse, read
    from funcgrad.compare.recorded.cells import clean
    from funcgrad.compare.recorded.contents import contents_of
    from funcgrad.compare.recorded.text_export import split

HERE = Path(__file__).parent / "recordings"
FULL = 32_000
LIMIT = 2.0  # seconds; a text of that length takes some hundredths


def check(text):
    parsed = parse(text)
    pieces = [parsed.words[0]]
    for value, words in zip(parsed.values, parsed.words[1:], strict=True):
        pieces += [value.text, words]
        assert len(value.units) == len(value.numbers)
        assert value.places is None or len(value.places) == len(value.numbers)
        verdict = judge(value, value)
        assert verdict.agrees or "numbers for" in verdict.reason, verdict
    assert "".join(pieces) == text
    half = len(parsed.values) // 2
    for one, other in pair_values(parsed.values[:half], parsed.values[half:]):
        if one is not None and other is not None:
            judge(one, other, strict=True)
    split(text)
    contents_of(Cell(1, (Output("stdout", clean(text)), Output("result", text)), text))


def check_time(text):
    repeated = (text * (FULL // len(text) + 1))[:FULL]
    seconds = []
    for _ in range(3):
        start = time.process_time()
        parse(repeated)
        contents_of(Cell(1, (Output("stdout", repeated),)))
        seconds.append(time.process_time() - start)
        if seconds[-1] < LIMIT:
            return
    raise AssertionError(f"{min(seconds)} s for {text!r} repeated to {FULL} characters")


def fuzz(data):
    text = data.decode("utf-8", "replace")
    check(text)
    if text and sum(data) % 64 == 0:
        check_time(text)


def seed(folder):
    """The outputs of the recordings, for a corpus that is empty."""
    folder = Path(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        for path in HERE.glob("*.ipynb"):
            for place, cell in enumerate(read(path)):
                for number, output in enumerate(cell.outputs):
                    name = f"{path.stem}-{place}-{number}"
                    (folder / name).write_text(output.text[:400], encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        seed(argument)
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
