"""The command `funcgrad compare`: arranges the library for a terminal."""

import click

from ._compare import Report, compare, default_file
from ._errors import CompareError
from ._report import as_json, check_writable, print_report, write_whole
from ._run import DEFAULT_TIMEOUT


@click.command("compare")
@click.argument("recording", required=False)
@click.argument("port", required=False)
@click.option("--json", "json_file", metavar="FILE", help="Write the whole result to FILE.")
@click.option("--no-run", is_flag=True, help="Compare the outputs stored in PORT; start no kernel.")
@click.option(
    "--timeout",
    type=click.IntRange(1, 1_000_000),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Limit for each cell.",
)
@click.pass_context
def command(
    context: click.Context,
    recording: str | None,
    port: str | None,
    json_file: str | None,
    no_run: bool,
    timeout: int,
) -> None:
    """Run PORT and compare what it shows with RECORDING, number by number.

    RECORDING is a notebook with outputs, or a text export with `In [n]:` headings; PORT is a
    notebook. Without them, the port of the autograd notebook that comes with funcgrad is compared
    with what PyTorch printed.

    Exit status: 0 all agree, 1 some differ, 2 it could not run.
    """
    recording = recording or str(default_file("original_outputs.ipynb"))
    port = port or str(default_file("autograd.ipynb"))
    if json_file is not None:
        _check_json(json_file, recording, port)
    report = _with_progress(recording, port, not no_run, timeout)
    if json_file is not None:
        write_whole(json_file, as_json(report))
    _print(report)
    context.exit(0 if report.agrees else 1)


def _check_json(json_file: str, *inputs: str) -> None:
    """Refuse, before a long run, a file that could not or should not be written."""
    target = check_writable(json_file)
    if any(target.exists() and target.samefile(one) for one in inputs if _exists(one)):
        raise CompareError(f"{json_file}: is an input of the comparison; name another file")


def _exists(path: str) -> bool:
    try:
        open(path).close()
    except OSError:
        return False
    return True


def _with_progress(recording: str, port: str, fresh: bool, timeout: int) -> Report:
    """Compare, with a progress bar on the standard error stream where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=console, transient=True, disable=not (fresh and console.is_terminal)
    ) as bar:
        task = bar.add_task("running the port", total=None)
        return compare(
            recording,
            port,
            fresh=fresh,
            timeout=timeout,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _print(report: Report) -> None:
    from rich.console import Console

    print_report(report, Console())
