"""Draws a report: bars for each case, lines for each sweep.

The picture has a ground of its own, so that it reads the same on a light and on a dark page.
"""

import io
import math
from pathlib import Path
from typing import Any

from ..errors import BenchError
from ._case import CONTENDERS
from ._report import Report, Result, duration

GROUND, INK, FAINT = "#ffffff", "#24292f", "#d8dee4"
COLORS = {
    "funcgrad": "#0059b3",
    "jax": "#7fb2e5",
    "unjitted": "#b9c3cc",
    "torch": "#d1440c",
    "compile": "#f08c4a",
    "compile-func": "#f7c59f",
    "cuda-graph": "#9c2f00",
    "equinox": "#3d8f5f",
    "flax": "#3d8f5f",
    "optax": "#3d8f5f",
    "forward": "#8a63b8",
    "known": "#b8860b",
    "control": "#57606a",
}
FONTS = ["DejaVu Sans", "sans-serif"]
SUFFIXES = {".svg": "svg", ".png": "png", ".pdf": "pdf"}
MARKS = {"funcgrad": "o", "jax": "s", "torch": "^", "known": "D", "control": "x"}


def check(path: str | Path) -> str:
    """The format that a file's name asks for.

    Raises:
        BenchError: it is none that can be drawn, or matplotlib is not installed.

    >>> check("bench.svg")
    'svg'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise BenchError(f"{path}: a plot is written as {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise BenchError(
            "a plot needs matplotlib, which is not installed; install it with:"
            " pip install 'funcgrad[bench]'"
        ) from None
    return SUFFIXES[suffix]


def drawn(report: Report, form: str) -> bytes:
    """The picture of a report as a file's content, in the format `form`."""
    from matplotlib import rc_context

    content = io.BytesIO()
    nothing = {"Date": None} if form == "svg" else {}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "funcgrad", "font.family": FONTS}):
        figure(report).savefig(content, format=form, facecolor=GROUND, dpi=110, metadata=nothing)
    return content.getvalue()


def figure(report: Report, columns: int = 4) -> Any:
    """The picture of a report: a `matplotlib` figure, a panel for each case.

    Raises:
        BenchError: nothing in the report was measured.
    """
    from matplotlib.figure import Figure

    panels: dict[str, list[Result]] = {}
    for result in report["results"]:
        if _shown(result):
            panels.setdefault(result["case"], []).append(result)
    if not panels:
        raise BenchError("nothing was measured that could be drawn")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    drawn = Figure(figsize=(4.1 * columns + 0.4, 2.75 * rows + 1.0), facecolor=GROUND)
    axes: Any = drawn.subplots(rows, columns, squeeze=False)
    for ax, (name, results) in zip(list(axes.flat), panels.items(), strict=False):
        (_lines if results[0]["sweep"] else _bars)(ax, results)
        _dress(ax, name)
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    here = [n for n in CONTENDERS if any(n in _shown(r) for rs in panels.values() for r in rs)]
    head = report["header"]
    drawn.suptitle(
        f"Time of a call (log scale){' — ' if columns > 2 else chr(10)}"
        f"{head.get('processor') or head['device']}, {head['threads']} threads,"
        f" JAX {head['jax']}, PyTorch {head['torch']}",
        color=INK, fontsize=11 if columns > 1 else 9, x=0.01, ha="left",
    )  # fmt: skip
    across = min(len(here), 2 * columns if columns < 4 else 6)
    drawn.legend(
        [_patch(name) for name in here],
        [CONTENDERS[name] for name in here],
        loc="outside lower center", ncols=across, frameon=False, fontsize=9, labelcolor=INK,
    )  # fmt: skip
    foot = 0.2 + 0.22 * math.ceil(len(here) / across)
    height = drawn.get_figheight()
    drawn.tight_layout(rect=(0, foot / height, 1, 1 - 0.3 / height))
    return drawn


def _patch(name: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=COLORS[name])


def _shown(result: Result) -> dict[str, float]:
    """The medians of the contenders that were timed."""
    costs = result.get("costs", {})
    return {name: costs[name]["median"] for name in CONTENDERS if costs.get(name, {}).get("median")}


def _bars(ax: Any, results: list[Result]) -> None:
    names = [name for name in CONTENDERS if any(name in _shown(r) for r in results)]
    width = 0.84 / len(names)
    low = min(min(_shown(r).values()) for r in results) / 3
    for place, name in enumerate(names):
        at = [(x, r) for x, r in enumerate(results) if name in _shown(r)]
        left = [x - 0.42 + (place + 0.5) * width for x, _ in at]
        tops = [_shown(r)[name] for _, r in at]
        ax.bar(left, tops, width * 0.92, color=COLORS[name], zorder=2)
        costs = [r["costs"][name] for _, r in at]
        ax.vlines(
            left, [c["low"] for c in costs], [c["high"] for c in costs], INK, lw=0.7, zorder=3
        )
        if len(results) == 1:
            for x, top, cost in zip(left, tops, costs, strict=True):
                ax.annotate(
                    duration(top), (x, cost["high"]), xytext=(0, 2), textcoords="offset points",
                    ha="center", fontsize=6.5, color=INK,
                )  # fmt: skip
    ax.set_xticks(range(len(results)), [r["size"] for r in results])
    ax.set_yscale("log")
    ax.set_ylim(bottom=low)
    ax.margins(y=0.15)


def _lines(ax: Any, results: list[Result]) -> None:
    names = [name for name in CONTENDERS if any(name in _shown(r) for r in results)]
    for name in names:
        at = [(int(r["size"]), _shown(r)[name]) for r in results if name in _shown(r)]
        ax.plot(
            *zip(*at, strict=True), color=COLORS[name], marker=MARKS.get(name, "."), markersize=4.5,
            linestyle=":" if name == "control" else "-", zorder=2,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks([int(r["size"]) for r in results], [r["size"] for r in results])
    ax.set_xlabel(results[0]["sweep"], color=INK, fontsize=8)


def _dress(ax: Any, name: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_facecolor(GROUND)
    ax.set_title(name, loc="left", fontsize=10, color=INK, fontweight="bold")
    ax.yaxis.set_major_locator(LogLocator(10, numticks=6))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _short(seconds)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.tick_params(colors=INK, labelsize=8, which="both", length=0)
    ax.grid(axis="y", color=FAINT, linewidth=0.7, zorder=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(FAINT)


def _short(seconds: float) -> str:
    """A power of ten with its unit.

    >>> _short(1e-5), _short(1e-3), _short(10)
    ('10 µs', '1 ms', '10 s')
    """
    for unit, scale in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 999:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
