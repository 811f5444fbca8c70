"""Mutations of what a recording shows, each of which `funcgrad compare` must see in its cell.

    python tests/mutations.py              all of them, some minutes; a nightly job runs this
    python tests/mutations.py mlp          those of one recording

A mutation changes one digit or one sign, exchanges two numbers, changes the key of a dict or a
shape, or drops a value. What `docs/comparing.md` says is not compared is excused, by patterns and
by arithmetic of its own: nothing of the comparison is asked, but for the dtype of a value.
"""

import re
import sys
from itertools import pairwise
from pathlib import Path

from funcgrad.compare import Output, parse, read
from funcgrad.compare.recorded.compare import compare_cells, is_random
from funcgrad.compare.recorded.rounding import with_formats
from funcgrad.compare.tolerances import RESOLUTION

HERE = Path(__file__).parent / "compare" / "recordings"
RECORDINGS = sorted(path for path in HERE.glob("*.ipynb") if ".port" not in path.name)
SEEN = ("stdout", "result")  # outputs whose values are compared
KINDS = ("digit", "sign", "exchange", "key", "shape", "drop")
NUMBER = re.compile(r"(?<![\w.])(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![^\Wj]|\.\d)")
EXCUSED = re.compile(
    r"""^.*(?:\ per\ loop|it/s|s/it).*$ | ^(?:CPU\ times|Wall\ time|Downloading).*$
      | ^[ \t]*\([\w.]+\):\ .*$ | ^[\[(]?[A-Z]\w+\((?:\w+=|\d).*\)[\])]?$  # a printed module
      | torch\.Size\(\[\]\)                                             # JAX prints `()` for it
      | <[^<>\n]*>                                                     # an object
      | \b(?:device|layout|quantization_scheme)=[^,)\n]*              # behind the numbers
      | \b(?:scale|zero_point)=[^)]* | \b(?:nnz|axis|lvl|bdim)=-?\d+
      | \bid\([^()]*\)\W*\d+
      | [A-Za-z_][\w.]* | \d+\.[A-Za-z_][\w.]*                       # words, and dtypes
      | \d+(?:\.\d+){2,}\w* | \d+x\d\w*                             # a version, 2x2
      | \b[\d.]+(?:ns|us|ms|s)\b
      | torch\.Size\(\[\]\)                                           # JAX prints `()` for it
      | tensor\(\[\],\ size                                           # the size says its shape
    """,
    re.VERBOSE | re.MULTILINE,
)


def mutations(text):
    """Each mutation of a text: its kind, from where to where, and what is put there."""
    numbers = list(NUMBER.finditer(text))
    for match in re.finditer(r"\d", text):
        place = match.start()
        yield "digit", place, place + 1, str((int(match[0]) + 1 + place % 9) % 10)
    for match in numbers:
        place = match.start()
        if text[place - 1 : place] == "-" and not re.match(r"[\w)\]]", text[place - 2 : place - 1]):
            yield "sign", place - 1, place, ""
        elif not place or text[place - 1] in " \n\t([=:":
            yield "sign", place, place, "-"
    for one, two in pairwise(numbers):
        between = text[one.end() : two.start()]
        if "\n" in between:
            continue
        yield "exchange", one.start(), two.end(), two[0] + between + one[0]
    for match in re.finditer(r"'[\w.]*(\w)'(?=:)|\('[\w.]*(\w)'(?=, tensor)", text):
        end = match.end() - 1
        yield "key", end - 1, end, "q" if text[end - 1] != "q" else "z"
    for match in re.finditer(r"torch\.Size\(\[[^\]]+()\]\)", text):
        yield "shape", match.start(1), match.start(1), ", 1"
    for match in re.finditer(r"\btensor\((\[[^\[\]()]*\])(?!,\s*size=)", text):
        yield "shape", *match.span(1), f"[{match[1]}]"
    for value in parse(text).values:
        yield "drop", value.start, value.end, ""


def is_excused(text, kind, start, end, new):
    """Whether `docs/comparing.md` says that this is not seen."""
    spans = [match.span() for match in EXCUSED.finditer(text)]
    ends = (start, end - 1) if kind == "exchange" else (start, max(start, end - 1))
    if all(any(a <= place < b for a, b in spans) for place in ends):
        return True
    if kind not in ("digit", "sign", "exchange"):
        return False
    reach = start + max(len(new), end - start)
    before = numbers_near(text, start, reach)
    after = numbers_near(text[:start] + new + text[end:], start, reach)
    if len(before) != len(after) or not before:
        return False
    held = [one for one in parse(text).values if one.start <= start and end <= one.end]
    dtypes = [one.dtype or "float32" for one in held]
    resolution = max(RESOLUTION.get(dtype, RESOLUTION["float32"]) for dtype in [*dtypes, "int"])
    # The parts of a complex number round by the larger of the two.
    size = max((abs(n) for one in held if one.kind == "complex" for n in one.numbers), default=0)
    return all(
        abs(one - two) <= resolution * max(abs(one), size)
        for one, two in zip(before, after, strict=True)
    )


def numbers_near(text, start, end):
    """The numbers that have a part in a stretch of a text."""
    found = []
    for match in NUMBER.finditer(text):
        if match.end() >= start and match.start() <= end:
            minus = text[match.start() - 1 : match.start()] == "-"
            found.append(-float(match[0]) if minus else float(match[0]))
    return found


def texts(path):
    """The texts of a recording in which there are values."""
    for cell in read(path):
        for output in cell.outputs:
            if output.kind in SEEN and not is_random(cell):
                yield output.text


def unseen(path, every=1, first=0):
    """How many mutations of a recording were tried, and those not seen in the right cell alone."""
    return unseen_in(path.stem, with_formats(read(path)), every, first)


def unseen_in(name, cells, every=1, first=0):
    """How many mutations of cells were tried, and those not seen in the right cell alone."""
    missed = []
    tried = 0
    for count, (place, number, one) in enumerate(_all(cells)):
        output = cells[place].outputs[number]
        if count % every != first or is_excused(output.text, *one):
            continue
        tried += 1
        kind, start, end, new = one
        outputs = list(cells[place].outputs)
        outputs[number] = Output(output.kind, output.text[:start] + new + output.text[end:])
        port = [*cells]
        port[place] = cells[place]._replace(outputs=tuple(outputs))
        wrong = [cell for cell in compare_cells(cells, port) if not cell.agrees]
        if [cell.places for cell in wrong] != [(cells[place].place,)]:
            before, after = output.text[max(0, start - 30) : start], output.text[end : end + 20]
            shown = f"{before}>>{output.text[start:end]}|{new}<<{after}"
            missed.append((name, cells[place].place, kind, shown, [one.label for one in wrong]))
    return tried, missed


def _all(cells):
    """Each mutation, with the cell and the output that it is of."""
    for place, cell in enumerate(cells):
        for number, output in enumerate(cell.outputs):
            if output.kind in SEEN and not is_random(cell):
                for one in mutations(output.text):
                    yield place, number, one


def main(names):
    """Try all mutations of the recordings of these names, or of all."""
    missed = []
    for path in RECORDINGS:
        if not names or path.stem in names:
            tried, found = unseen(path)
            print(f"{path.stem}: {len(found)} of {tried} mutations unseen", flush=True)
            for one in found:
                print("   ", *map(repr, one))
            missed += found
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
