"""Shows a report of `funcgrad bench`: tables, verdicts, ratios to an earlier report, JSON."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BenchError
from ._case import CONTENDERS, NO_FORM

Report = dict[str, Any]
Result = dict[str, Any]
Rows = list[list[str]]

PEERS = ("equinox", "flax", "optax", "forward", "known")


def duration(seconds: float | None) -> str:
    """Seconds with three digits and a unit.

    >>> duration(1.634e-5), duration(0.25), duration(12.0), duration(None)
    ('16.3 µs', '250 ms', '12.0 s', '-')
    """
    if seconds is None:
        return "-"
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{_digits(seconds * scale)} {unit}"
    return f"{_digits(seconds)} s"


def amount(number: float | None) -> str:
    """A number of bytes or operations with three digits and a prefix.

    >>> amount(96), amount(2_097_336), amount(None)
    ('96', '2.10 M', '-')
    """
    if number is None or number < 0:
        return "-"
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{_digits(number / scale)} {prefix}"
    return f"{number:.0f}"


def _digits(number: float) -> str:
    return f"{number:.{max(0, 2 - math.floor(math.log10(max(number, 0.01))))}f}"


def cell(cost: Result | None) -> str:
    """The median of a contender, and how far the quartiles are from it."""
    if cost is None:
        return ""
    if "median" not in cost:
        return str(cost.get("missing", "-"))
    off = max(cost["high"] - cost["median"], cost["median"] - cost["low"]) / cost["median"]
    return f"{duration(cost['median'])} ±{off:.0%}"


def present(report: Report) -> list[str]:
    """The contenders that some case has."""
    return [n for n in CONTENDERS if any(n in r.get("costs", {}) for r in report["results"])]


def split(report: Report) -> tuple[Report, Report]:
    """The report without closer looks, and with these alone."""
    found = report["results"]
    close = [result for result in found if result.get("closer")]
    rest = [result for result in found if not result.get("closer")]
    return report | {"results": rest}, report | {"results": close}


def closer(report: Report) -> Rows:
    """Closer looks, a row for each contender."""
    heads = ["case", "contender", "run", "least", "/ JAX", "/ control", "trace", "/ JAX", "lower"]
    rows = [[*heads, "compile", "temporary", "/ JAX"]]
    for result in report["results"]:
        costs = result.get("costs", {})
        its = costs.get("jax", {}).get("program", {}).get("temporary")
        for name, cost in costs.items():
            if cost.get("missing") == NO_FORM:
                continue
            memory = cost.get("program", {}).get("temporary")
            rows.append(
                [
                    f"{result['case']} {result['size']}",
                    CONTENDERS.get(name, name),
                    cell(cost),
                    duration(cost.get("least")),
                    *(ratio(cost.get(key)) for key in ("to_jax", "to_control")),
                    duration(cost.get("trace")),
                    ratio(cost.get("trace_to_jax")),
                    *(duration(cost.get(key)) for key in ("lower", "compile")),
                    amount(memory),
                    ratio(memory / its if memory is not None and its else None),
                ]
            )
    return rows


def times(report: Report) -> Rows:
    """What a call takes, a row for each case and size, a column for each contender."""
    names = [name for name in present(report) if name not in PEERS]
    peers = any(peer in r.get("costs", {}) for r in report["results"] for peer in PEERS)
    rows = [["case", "size", *(CONTENDERS[n] for n in names), *(["peer"] if peers else [])]]
    for result in report["results"]:
        costs = result.get("costs", {})
        row = [result["case"], result["size"]]
        if "error" in result:
            row += [result["error"]] + [""] * (len(rows[0]) - 3)
        else:
            row += [cell(costs.get(name)) for name in names]
            others = [f"{CONTENDERS[p]}: {cell(costs[p])}" for p in PEERS if p in costs]
            row += ["; ".join(others)] if peers else []
        rows.append(row)
    return rows


def compiled(report: Report) -> Iterator[tuple[Result, Result, Result]]:
    """The results of compiled programs, with what ours and the hand-written version cost."""
    for result in report["results"]:
        costs = result.get("costs", {})
        if "program" in (mine := costs.get("funcgrad", {})):
            yield result, mine, costs.get("jax", {})


def stages(report: Report) -> Rows:
    """What it costs before a program runs."""
    rows = [["case", "size", "trace", "/ JAX", "lower", "/ JAX", "compile", "JAX", "torch.compile"]]
    for result, mine, hand in compiled(report):
        torch = result["costs"].get("compile", {})
        row = [duration(mine["trace"]), ratio(mine["trace_to_jax"])]
        row += [duration(mine["lower"]), ratio(mine["lower_to_jax"])]
        row += [duration(one.get("compile")) for one in (mine, hand, torch)]
        rows.append([result["case"], result["size"], *row])
    return rows


def programs(report: Report) -> Rows:
    """What the compiler says of programs, and how close the three that are close run."""
    rows = [
        [
            *("case", "size", "run / JAX", "run / control", "program"),
            *("flops", "bytes", "temporary", "peak", "peak / JAX"),
        ]
    ]
    for result, mine, hand in compiled(report):
        told, its = mine["program"], hand.get("program")
        row = [ratio(mine.get("to_jax")), ratio(mine.get("to_control")), likeness(told, its)]
        row += [amount(told[key]) for key in ("flops", "bytes", "temporary", "peak")]
        row.append(ratio(told["peak"] / its["peak"]) if its and its["peak"] else "-")
        rows.append([result["case"], result["size"], *row])
    return rows


def likeness(mine: Result, hand: Result | None) -> str:
    """How the compiled program relates to that of the hand-written version."""
    if hand is None:
        return "-"
    if mine["same"]:
        return "the same"
    keys = ("flops", "bytes", "outputs", "temporary")
    return "equal costs" if all(mine[key] == hand[key] for key in keys) else "another"


def ratio(number: float | None) -> str:
    """A ratio with two decimals."""
    return "-" if number is None else f"{number:.2f}"


class Verdict(NamedTuple):
    """Whether one case keeps one promise.

    Fields:
        rule: which promise.
        case: name and size.
        number: what was measured.
        holds: whether it is kept.
        note: what else there is to say.
    """

    rule: str
    case: str
    number: float
    holds: bool
    note: str = ""


RULES = {
    "original": "a cell of the original is at least 5 times faster than eager PyTorch and than"
    " torch.compile with backward()",
    "original-func": "and than torch.compile with torch.func.grad",
    "fastest": "funcgrad, jitted, is at most 5 % slower than the fastest contender",
    "run": "funcgrad, jitted, runs within 2 % of hand-written JAX",
    "trace": "and is traced within 25 % of it",
    "dispatch": "where calling is all the cost, within 1.5 times of an empty jitted function",
}
NOTES = {
    "the same": "the programs are the same, instruction for instruction",
    "equal costs": "the programs have equal flops, bytes and memory",
}
ORIGINAL = {"original": ("torch", "compile"), "original-func": ("compile-func",)}


def verdicts(report: Report) -> list[Verdict]:
    """Every promise held against every case that it is made for."""
    return [verdict for result in report["results"] for verdict in _of(result)]


def _of(result: Result) -> Iterator[Verdict]:
    name = f"{result['case']} {result['size']}"
    costs = {n: c for n, c in result.get("costs", {}).items() if c.get("median")}
    if "funcgrad" not in costs:
        return
    mine = costs["funcgrad"]
    median = mine["median"]
    if result["case"].startswith("original/"):
        for rule, names in ORIGINAL.items():
            theirs = {n: costs[n]["median"] / median for n in names if n in costs}
            if theirs:
                least = min(theirs, key=theirs.__getitem__)
                yield Verdict(rule, name, theirs[least], theirs[least] >= 5, CONTENDERS[least])
    yield from _fastest(name, costs)
    if result["host"]:
        return
    note = NOTES.get(likeness(mine["program"], costs.get("jax", {}).get("program")), "")
    by_hand = [mine[key] for key in ("to_jax", "to_known") if mine.get(key)]
    for rule, number, most in (
        ("run", max(by_hand, default=None), 1.02),
        ("trace", mine["trace_to_jax"], 1.25),
        ("dispatch", mine.get("to_control") if result["dispatch"] else None, 1.5),
    ):
        if number is not None:
            yield Verdict(rule, name, number, number <= most, note if rule == "run" else "")


def _fastest(name: str, costs: dict[str, Result]) -> Iterator[Verdict]:
    mine = costs["funcgrad"]
    slower = {
        n: mine["median"] / cost["median"]
        for n, cost in costs.items()
        if n not in ("funcgrad", "unjitted", "control")
    }
    slower |= {n: mine[f"to_{n}"] for n in slower if mine.get(f"to_{n}")}
    if slower:
        fastest = max(slower, key=slower.__getitem__)
        yield Verdict(
            "fastest", name, slower[fastest], slower[fastest] <= 1.05, CONTENDERS[fastest]
        )


def verdict_lines(report: Report) -> list[str]:
    """The promises, each with how many cases keep it, and below it those that do not."""
    lines = []
    everything = verdicts(report)
    for rule, words in RULES.items():
        held = [one for one in everything if one.rule == rule]
        if not held:
            continue
        misses = [one for one in held if not one.holds]
        lines.append(f"{words}: {len(held) - len(misses)} of {len(held)}")
        for one in sorted(misses, key=lambda one: one.case):
            note = f" ({one.note})" if one.note else ""
            lines.append(f"  {one.case}: {one.number:.2f}{note}")
    return lines


def comparison(new: Report, old: Report) -> Rows:
    """The ratio of new medians to old ones, and of new peak memory, where both reports have them.

    A ratio that lies within the quartiles of both runs is shown in brackets.
    """
    before = {(r["case"], r["size"]): r.get("costs", {}) for r in old["results"]}
    names = [name for name in present(new) if name in present(old)]
    rows = [["case", "size", *(CONTENDERS[n] for n in names), "trace", "temporary"]]
    for result in new["results"]:
        its = before.get((result["case"], result["size"]))
        if its is None:
            continue
        mine = result.get("costs", {})
        pairs = [(mine.get(name, {}), its.get(name, {})) for name in names]
        ours = mine.get("funcgrad", {}), its.get("funcgrad", {})
        memory = [one.get("program", {}).get("temporary") for one in ours]
        rows.append(
            [
                *(result["case"], result["size"]),
                *(_change(*pair) for pair in pairs),
                _quotient(*(one.get("trace") for one in ours)),
                _quotient(*memory),
            ]
        )
    return rows


def _change(new: Result, old: Result) -> str:
    text = _quotient(new.get("median"), old.get("median"))
    if text and new["low"] <= old["high"] and old["low"] <= new["high"]:
        return f"({text})"
    return text


def _quotient(new: float | None, old: float | None) -> str:
    return f"{new / old:.2f}" if new is not None and old else ""


def differences(new: Report, old: Report) -> list[str]:
    """What of the headers differs, so that nobody compares two machines unawares."""
    pairs = ((key, old["header"].get(key), value) for key, value in new["header"].items())
    return [
        f"{key}: {was} then, {now} now"
        for key, was, now in pairs
        if was != now and key not in ("date", "load")
    ]


def header_lines(report: Report) -> list[str]:
    """The header, line by line."""
    return [f"{key}: {value}" for key, value in report["header"].items() if value is not None]


def markdown(rows: Rows) -> str:
    """Rows as a table of Markdown, the first two columns to the left.

    >>> print(markdown([["case", "size", "time"], ["a", "tiny", "1 s"]]))
    | case | size | time |
    |---|---|---:|
    | a | tiny | 1 s |
    """
    head, *body = rows
    rule = "|".join(["---"] * 2 + ["---:"] * (len(head) - 2))
    lines = [f"| {' | '.join(row)} |" for row in (head, *body)]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def printed(rows: Rows, console: Any, title: str) -> None:
    """Rows as a table on a `rich` console."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    for place, name in enumerate(rows[0]):
        drawn.add_column(Text(name), justify="left" if place < 2 else "right", overflow="fold")
    for row, following in zip(rows[1:], [*rows[2:], None], strict=False):
        last = following is None or following[0] != row[0]
        drawn.add_row(*map(Text, row), end_section=last and len(rows) < 12)
    console.print(drawn)


def read(path: str | Path) -> Report:
    """A report from a file.

    Raises:
        BenchError: it cannot be read, or is no report.
    """
    try:
        report = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: cannot be read as a report: {error}") from None
    if not isinstance(report, dict) or not {"header", "results"} <= set(report):
        raise BenchError(f"{path}: is no report of `funcgrad bench --json`")
    return report


def as_json(report: Report) -> str:
    """A report as strict JSON."""
    return json.dumps(rounded(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def rounded(tree: Any) -> Any:
    """Numbers to four digits, which is more than timing gives; whole numbers as they are.

    >>> rounded({"median": 1.23456e-05, "flops": 123456.0})
    {'median': 1.235e-05, 'flops': 123456}
    """
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [rounded(value) for value in tree]
    if isinstance(tree, float):
        return int(tree) if tree.is_integer() else float(f"{tree:.4g}")
    return tree
