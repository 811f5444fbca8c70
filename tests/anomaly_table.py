"""What funcgrad, PyTorch and JAX say of the programs in `anomaly_programs`: one table.

`python tests/anomaly_table.py` runs all of them and rewrites the table in `docs/debugging.md`.
PyTorch runs under `torch.autograd.detect_anomaly()`, JAX under `jax.debug_nans(True)`.
"""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import re
import traceback
import warnings
from pathlib import Path

import anomaly_programs
import jax
from anomaly_programs import PROGRAMS, Program, marked

import funcgrad as fg

DOC = Path(__file__).parents[1] / "docs" / "debugging.md"
MARKS = "<!-- table of programs -->\n", "<!-- end of table -->\n"
FILE = Path(anomaly_programs.__file__).name


def ours(program: Program) -> str:
    """funcgrad's answer."""
    fun, args = program.make()
    try:
        fg.detect_anomaly(fun)(*args)
    except fg.AnomalyError as error:
        a = error.anomaly
        right = Path(a.file).name == FILE and a.line == program.line
        what = f"`{a.computed}`" if a.computed else f"`{a.operation}`"
        where = [f"step {step}" for _, step in a.steps]
        where += [f"example {i}" for i in a.examples if i is not None]
        where += [f"device {i}" for _, i in a.device]
        return ", ".join([a.phase, what, _line(right), *where])
    return "nothing"


def torchs(program: Program, torch) -> str:
    """PyTorch's answer on the twin."""
    if program.twin is None:
        return "-"
    with warnings.catch_warnings(record=True) as caught, torch.autograd.detect_anomaly():
        warnings.simplefilter("always")
        try:
            program.twin(torch)
        except RuntimeError as error:
            name = re.search(r"Function '(\w+)'", str(error))
            lines = re.findall(rf"{FILE}\", line (\d+)", "".join(str(w.message) for w in caught))
            right = str(marked(program.twin)) in lines[-1:]
            return f"backward, `{name.group(1)}`, {_line(right)}" if name else _raised(error)
        except Exception as error:
            return _raised(error)
    return "nothing"


def jaxs(program: Program) -> str:
    """The answer of JAX's own flag."""
    fun, args = program.make()
    with jax.debug_nans(True):
        try:
            jax.block_until_ready(fun(*args))
        except FloatingPointError as error:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if Path(frame.filename).name == FILE]
            what = re.search(r"\(nan\) encountered in ([\w ]+)", str(error))
            name = f"`{what.group(1)}`" if what else "NaN"
            return f"{name}, {_line(lines[-1:] == [program.line])}"
        except Exception as error:
            return _raised(error)
    return "nothing"


def _raised(error: Exception) -> str:
    return f"raises `{type(error).__name__}`"


def _line(right: bool) -> str:
    return "the line" if right else "no line"


def table(torch) -> str:
    """The whole table, and what it adds up to."""
    rows = [(f"{p.says} ({p.phase})", ours(p), torchs(p, torch), jaxs(p)) for p in PROGRAMS]
    counts = [sum("the line" in row[i] for row in rows) for i in (1, 2, 3)]
    tried = sum(row[2] != "-" for row in rows)
    lines = [
        f"The line is named by funcgrad in {counts[0]} of {len(rows)} programs, by PyTorch in"
        f" {counts[1]} of the {tried}\nthat it can express, by JAX in {counts[2]} of {len(rows)}.",
        "",
        "| program | funcgrad | `torch.autograd.detect_anomaly` | `jax.debug_nans` |",
        "|---|---|---|---|",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    import torch

    text = DOC.read_text()
    before, rest = text.split(MARKS[0])
    DOC.write_text(before + MARKS[0] + table(torch) + MARKS[1] + rest.split(MARKS[1])[1])


if __name__ == "__main__":
    main()
