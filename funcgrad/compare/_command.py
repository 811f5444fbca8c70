"""The command `funcgrad compare`: arranges the library for a terminal."""

import sys
from pathlib import Path
from typing import Any

import click

from .._files import encoded, writable, write_whole
from ..errors import CompareError
from .recorded.compare import compare, default_file
from .recorded.files import MAX_SIZE
from .recorded.html import as_html
from .recorded.report import Report, as_json
from .recorded.run import DEFAULT_TIMEOUT
from .recorded.terminal import print_report

_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_NARROWEST = 40  # columns; a terminal that says it has fewer has not said how many


@click.command("compare")
@click.argument("recording", required=False)
@click.argument("port", required=False)
@click.option(
    "--json", "json_file", metavar="FILE", help="Write the result to FILE, `-` for stdout."
)
@click.option("--html", "html_file", metavar="FILE", help="Write a page to FILE, `-` for stdout.")
@click.option("--map", "map_file", metavar="FILE", help="Which cells belong together, as TOML.")
@click.option("--strict", is_flag=True, help="Another width of a dtype is a difference.")
@click.option("--no-run", is_flag=True, help="Compare the outputs stored in PORT; start no kernel.")
@click.option(
    "--timeout",
    type=click.IntRange(1, 1_000_000),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Limit for each cell.",
)
@click.option(
    "--max-size",
    type=click.FloatRange(min=0, min_open=True),
    default=MAX_SIZE,
    show_default=True,
    metavar="MB",
    help="The most megabytes that a file may have.",
)
@click.pass_context
def command(
    context: click.Context,
    recording: str | None,
    port: str | None,
    json_file: str | None,
    html_file: str | None,
    map_file: str | None,
    strict: bool,
    no_run: bool,
    timeout: int,
    max_size: float,
) -> None:
    """Run PORT and compare what it shows with RECORDING, number by number.

    RECORDING is a notebook with outputs, or a text export with `In [n]:` headings; PORT is a
    notebook, or a `.py` in percent format. Without them, the port of the autograd notebook that
    comes with funcgrad is compared with what PyTorch printed.

    A map has lines such as `"In [16]" = "cell 3"`, by execution count and by place in the file.

    Exit status: 0 all agree, 1 some differ, 2 it could not run.
    """
    if recording is not None and port is None:
        raise click.UsageError(f"got {recording} alone, and wants RECORDING and PORT, or neither")
    if recording is None or port is None:
        recording = str(default_file("original_outputs.ipynb"))
        port = str(default_file("autograd.ipynb"))
    writers = [(json_file, as_json), (html_file, as_html)]
    for file, _ in writers:
        _check(file, recording, port, map_file)
    if json_file and html_file and _target(json_file) == _target(html_file):
        raise CompareError(f"{json_file}: cannot hold both the JSON and the page; name two files")
    options = {
        "fresh": not no_run,
        "timeout": timeout,
        "strict": strict,
        "mapping": map_file,
        "max_size": max_size,
    }
    report = _with_progress(recording, port, options)
    for file, write in writers:
        if file is not None:
            _write(file, write(report))
    _print(report, to_stderr=any(file in _STDOUT for file, _ in writers))
    context.exit(0 if report.agrees else 1)


def _target(file: str) -> Any:
    """Where a file is written to, so that two names of one file are told."""
    return "-" if file in _STDOUT else writable(file)


def _write(file: str, text: str) -> None:
    if file not in _STDOUT:
        write_whole(file, text)
        return
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        sys.stdout.write(text)
    else:
        stream.write(encoded(text))
        stream.flush()


def _check(file: str | None, *inputs: str | None) -> None:
    """Refuse, before a long run, a file that could not or should not be written."""
    if file is None or file in _STDOUT:
        return
    target = writable(file)
    if any(target.exists() and target.samefile(one) for one in inputs if one and _exists(one)):
        raise CompareError(f"{file}: is an input of the comparison; name another file")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _with_progress(recording: str, port: str, options: dict[str, Any]) -> Report:
    """Compare, with a progress bar on the standard error stream where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not (options["fresh"] and console.is_terminal),
    ) as bar:
        task = bar.add_task("running the port", total=None)
        return compare(
            recording,
            port,
            **options,
            progress=lambda done, total: bar.update(
                task, completed=done, total=total, refresh=True
            ),
        )


def _print(report: Report, *, to_stderr: bool) -> None:
    """Print the report, on the standard error stream where a file goes to standard output."""
    from rich.console import Console

    console = Console(stderr=to_stderr)
    if console.width < _NARROWEST:
        console.width = 80
    print_report(report, console)
