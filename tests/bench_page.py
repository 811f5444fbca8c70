"""Brings the committed results into the pages: `python tests/bench_page.py`.

For each report in `benchmarks/` it draws the plot beside it, and writes its tables and
verdicts into docs/benchmarks.md and a short table into the README, between two marks each. The
name of the report is what it was measured on: `cpu.json`, `gpu.json`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from funcgrad._files import write_whole
from funcgrad.bench import _plot
from funcgrad.bench._case import CONTENDERS
from funcgrad.bench._report import (
    Report,
    Rows,
    cell,
    header_lines,
    markdown,
    programs,
    read,
    stages,
    times,
    verdict_lines,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks"
BEGIN, END = "<!-- made by python tests/bench_page.py -->", "<!-- end of what was made -->"
SHORT = ("funcgrad", "jax", "torch", "compile", "compile-func")


def reports(folder: Path = RESULTS) -> dict[str, Report]:
    """The committed reports, by what they were measured on."""
    return {path.stem: read(path) for path in sorted(folder.glob("*.json"))}


def tables(found: Mapping[str, Report]) -> str:
    """All that reports say, as Markdown."""
    return "\n".join(_tables(name, report) for name, report in found.items())


def _tables(name: str, report: Report) -> str:
    facts = "; ".join(header_lines(report))
    held = [line.replace("  ", "    - ", 1) if line[0] == " " else f"- {line}"
            for line in verdict_lines(report)]  # fmt: skip
    failed = [
        f"- {one['case']} {one['size']} failed: {one['error']}"
        for one in report["results"]
        if "error" in one
    ]
    parts = [
        f"### {name.upper()}",
        facts,
        "Time of a call, median ± quartile:",
        markdown(escaped(times(report))),
        "Before it runs (funcgrad, jitted; at the end what the others take to compile):",
        markdown(escaped(stages(report))),
        "Programs (funcgrad, jitted):",
        markdown(escaped(programs(report))),
        "Verdicts, with every case that misses:",
        "\n".join(held + failed),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(rows: Rows) -> Rows:
    """Rows whose text cannot end a cell."""
    return [[text.replace("|", "\\|") for text in row] for row in rows]


def short(found: Mapping[str, Report]) -> str:
    """The cells of the original and the networks alone."""
    return "\n\n".join(_short(name, report) for name, report in found.items())


def _short(name: str, report: Report) -> str:
    rows = [["case", "size", *(CONTENDERS[one] for one in SHORT)]]
    for result in report["results"]:
        group = result["case"].partition("/")[0]
        if group not in ("original", "models") or result["size"] == "medium":
            continue
        costs = result.get("costs", {})
        row = [cell(costs.get(one)).partition(" ±")[0] for one in SHORT]
        rows.append([f"`{result['case']}`", result["size"], *row])
    head = report["header"]
    where = head["processor"] or head["device"]
    return (
        f"{name.upper()}: {where}, {head['threads']} threads, JAX {head['jax']},"
        f" PyTorch {head['torch']}, {head['date']}.\n\n{markdown(rows)}"
    )


def renewed(text: str, made: str) -> str:
    """A page with what stands between the marks made anew.

    >>> made = renewed(f"before {BEGIN} old {END} after", "new")
    >>> "old" in made, "new" in made, made.endswith(" after")
    (False, True, True)
    """
    pattern = re.compile(rf"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n\n{made.strip()}\n\n{END}", text)


PAGES = {"docs/benchmarks.md": tables, "README.md": short}


def main() -> None:
    """Draws the plots and renews the pages."""
    found = reports()
    for name, report in found.items():
        write_whole(RESULTS / f"{name}.svg", _plot.drawn(report, "svg"))
    for page, make in PAGES.items():
        path = ROOT / page
        write_whole(path, renewed(path.read_text(encoding="utf-8"), make(found)))


if __name__ == "__main__":
    main()
