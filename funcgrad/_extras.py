"""Libraries that an extra brings, checked for where they are used."""

import importlib.util
from collections.abc import Iterable

from .errors import MissingExtraError


def need(modules: Iterable[str], what: str, extra: str) -> None:
    """Checks that the libraries of an extra are installed.

    Args:
        modules: names to import.
        what: what needs them, as the user knows it.
        extra: the extra that brings them.

    Raises:
        MissingExtraError: one is missing; the message names it and the extra.

    >>> need(["json"], "`read`", "compare")
    >>> need(["no_such_library"], "`read`", "compare")
    Traceback (most recent call last):
    funcgrad.errors.MissingExtraError: `read` needs no_such_library, which is not installed; \
install it with: pip install 'funcgrad[compare]'
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(
                f"{what} needs {module}, which is not installed;"
                f" install it with: pip install 'funcgrad[{extra}]'"
            )
