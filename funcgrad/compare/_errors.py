"""The errors of `funcgrad.compare`: each is one line that says what was got and what to do."""

import importlib
from collections.abc import Iterable

from funcgrad._errors import FuncgradError


class CompareError(FuncgradError, ValueError):
    """A comparison that could not be made: a file that cannot be read, a port that cannot run."""


class MissingExtraError(CompareError, ImportError):
    """A library of the extra `compare` is not installed."""


def need(modules: Iterable[str], what: str) -> None:
    """Check that the optional libraries behind `what` are installed.

    Args:
        modules: names to import.
        what: what needs them, as the user knows it.

    Raises:
        MissingExtraError: one is missing; the message names it and the extra that brings it.

    >>> need(["json"], "`read`")
    >>> need(["no_such_library"], "`read`")
    Traceback (most recent call last):
    funcgrad.compare._errors.MissingExtraError: `read` needs no_such_library, which is not \
installed; install it with: pip install 'funcgrad[compare]'
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"{what} needs {error.name}, which is not installed;"
                " install it with: pip install 'funcgrad[compare]'"
            ) from None
