"""The command line: `funcgrad compare`, `bench`, `compile`; also `python -m funcgrad compare`.

Whatever stops a command is one line on the standard error stream and exit status 2. The libraries
behind it come with the extras `funcgrad[compare]` and `funcgrad[bench]`.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from ._extras import need
from .errors import FuncgradError


def group() -> Any:
    """The `click` group that holds the commands.

    Raises:
        MissingExtraError: click or rich is not installed.
    """
    need(["click", "rich"], "the command `funcgrad`", "compare")
    import click

    from . import __version__
    from .bench._command import command as bench
    from .compare._command import command as compare
    from .tools.compiled._command import command as compile_

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, prog_name="funcgrad", message="%(prog)s %(version)s")
    def funcgrad() -> None:
        """PyTorch's autograd as pure functions on JAX: its tools."""

    funcgrad.add_command(compare)
    funcgrad.add_command(bench)
    funcgrad.add_command(compile_)
    return funcgrad


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status.

    Args:
        arguments: the command and its arguments; those of the process by default.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # one that a program put there
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    found = status(arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        found = _stopped(error)
    sys.exit(found)


def status(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        commands = group()
    except FuncgradError as error:
        return _refuse(str(error))
    import click

    try:
        return commands.main(arguments, prog_name="funcgrad", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _refuse(error.format_message())
    except FuncgradError as error:
        return _refuse(str(error))
    except (KeyboardInterrupt, click.Abort):
        return _refuse("interrupted")
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; Python would complain about it once more at exit
        return 2
    except OSError as error:
        return _stopped(error)
    except Exception:  # a fault of funcgrad: 1 would say that something differs
        traceback.print_exc()
        return _refuse("stopped by a fault of its own, shown above; please report it")


def _stopped(error: OSError) -> int:
    """Refuses where a stream takes no more, and keeps Python from trying again at exit."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    where = error.filename or "standard output"
    return _refuse(f"stopped by the system at {where}: {error.strerror or error}")


def _refuse(reason: str) -> int:
    print(f"funcgrad: {' '.join(reason.split())}", file=sys.stderr)
    return 2
