"""The command `funcgrad bench`: arranges the benchmarks for a terminal."""

import contextlib
from collections.abc import Callable, Iterator

import click

from .._files import writable, write_whole
from . import _plot, _report
from ._case import CONTENDERS, Case, cases, selected, unknown_contenders
from ._measure import Plan
from ._report import Report
from ._run import PLATFORMS, Job, Setting, run

QUICK = Plan(rounds=7, stages=3, at_least=0.001, budget=0.3)


@click.command("bench")
@click.argument("names", metavar="[CASE]...", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Show the cases and their sizes, run none.")
@click.option("--size", "sizes", multiple=True, metavar="SIZE", help="Only this size; repeatable.")
@click.option(
    "--contenders",
    metavar="NAME,...",
    help=f"Only these: {', '.join(CONTENDERS)}.",
)
@click.option(
    "--rounds", type=click.IntRange(1, 10_000), metavar="N", help="Rounds of timing, at most."
)
@click.option("--quick", is_flag=True, help="Smallest sizes, few rounds, no torch.compile.")
@click.option("--device", type=click.Choice(list(PLATFORMS)), help="Where to run.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Processors for everyone.")
@click.option("--json", "json_file", metavar="FILE", help="Write the numbers to FILE.")
@click.option("--plot", "plot_file", metavar="FILE", help="Draw them to FILE: .svg, .png or .pdf.")
@click.option("--compare", "old_file", metavar="OLD.json", help="Show ratios to an earlier run.")
@click.pass_context
def command(
    context: click.Context,
    names: tuple[str, ...],
    listing: bool,
    sizes: tuple[str, ...],
    contenders: str | None,
    rounds: int | None,
    quick: bool,
    device: str | None,
    threads: int | None,
    json_file: str | None,
    plot_file: str | None,
    old_file: str | None,
) -> None:
    """Measure funcgrad beside JAX by hand, PyTorch, torch.compile and others.

    CASE is a name, a group (`models`) or a pattern (`models/*-hook`); without one, all are run but
    those that --list marks as extra. Contenders must agree on the numbers before any is timed.

    Exit status: 0 all was measured, 1 some case failed or contenders differ, 2 it could not run.
    """
    if listing:
        for one in cases().values():
            _list(one)
        return
    asked = contenders.split(",") if contenders else _usual(quick)
    unknown_contenders(asked)
    jobs = list(selected(names, sizes, quick))
    for file in filter(None, (json_file, plot_file)):
        writable(file)
    form = _plot.check(plot_file) if plot_file else ""
    old = _report.read(old_file) if old_file else None
    plan = QUICK if quick else Plan()
    if rounds:
        plan = plan._replace(rounds=rounds)
    with _progress(jobs) as step:
        report = run(jobs, Setting(asked, plan, device, threads), step)
    if json_file:
        write_whole(json_file, _report.as_json(report))
    if plot_file:
        write_whole(plot_file, _plot.drawn(report, form))
    show(report, old)
    context.exit(1 if any("error" in result for result in report["results"]) else 0)


def _usual(quick: bool) -> list[str]:
    return [name for name in CONTENDERS if not (quick and name.startswith(("compile", "cuda")))]


def _list(case: Case) -> None:
    extra = " (extra)" if case.extra else ""
    click.echo(f"{case.name}{extra}: {case.about}; {', '.join(case.sizes)}")


@contextlib.contextmanager
def _progress(jobs: list[Job]) -> Iterator[Callable[[Report], None]]:
    """A bar on the standard error stream where that is a terminal, lines where it is not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda result: click.echo(_done(result), err=True)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    left = iter([f"{case.name} {size}" for case, size in [*jobs[1:], jobs[-1]]])
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{jobs[0][0].name} {jobs[0][1]}", total=len(jobs))

        def step(result: Report) -> None:
            console.print(_done(result), highlight=False, markup=False)
            bar.update(task, advance=1, description=next(left))

        yield step


def _done(result: Report) -> str:
    name = f"{result['case']} {result['size']}"
    if "error" in result:
        return f"{name}: {result['error']}"
    times = {n: cost.get("median", cost.get("trace")) for n, cost in result["costs"].items()}
    return f"{name}: {', '.join(f'{n} {_report.duration(t)}' for n, t in times.items() if t)}"


def show(report: Report, old: Report | None = None, width: int | None = None) -> None:
    """Prints a report: what it depends on, the tables, the verdicts, and ratios to an old one."""
    from rich.console import Console

    console = Console(width=width)
    if not (width or console.is_terminal):
        console = Console(width=220)

    def lines(them: list[str]) -> None:
        for line in them:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    lines(_report.header_lines(report))
    table, closer = _report.split(report)
    if closer["results"]:
        _report.printed(_report.closer(closer), console, "Closer looks: median ± quartile")
    if table["results"]:
        _report.printed(_report.times(table), console, "Time of a call: median ± quartile")
    if any(_report.compiled(table)):
        _report.printed(_report.stages(table), console, "Before it runs: funcgrad, jitted")
        _report.printed(_report.programs(table), console, "Programs: funcgrad, jitted")
    if old:
        rows = _report.comparison(report, old)
        _report.printed(rows, console, "New / old (in brackets: within the quartiles of both)")
        lines(_report.differences(report, old))
    if table["results"]:
        lines(["", "Verdicts", *_report.verdict_lines(table)])
    failed = [result for result in report["results"] if "error" in result]
    lines([f"failed: {one['case']} {one['size']}: {one['error']}" for one in failed])
