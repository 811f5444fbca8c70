"""Where in the user's files an equation comes from, and the line itself with a caret."""

import functools
import linecache
import sysconfig
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jaxlib

from . import _compat as compat

_PACKAGES = [Path(module.__file__ or "").parent for module in (jax, jaxlib)]
_INTERNAL = tuple(f"{path}/" for path in (*_PACKAGES, Path(__file__).parent))
_PATHS = sysconfig.get_paths()
_STDLIB = (_PATHS["stdlib"] + "/", "<frozen ")
_INSTALLED = tuple({_PATHS["purelib"] + "/", _PATHS["platlib"] + "/"})


class Place(NamedTuple):
    """Where a user's code calls what became an equation.

    Fields:
        own: the innermost call in the user's own files; in an installed package where there is
            nothing else.
        through: the call in an installed package that `own` leads to, if there is one.
    """

    own: compat.Frame
    through: compat.Frame | None


def place(eqns: Sequence[compat.JaxprEqn]) -> Place | None:
    """The place the last of these equations comes from; `None` where JAX has not kept it.

    Each equation but the last holds the next. What stands in a body has the calls inside it alone,
    so that a body which JAX traced once and uses again leads to the line that uses it now.
    """
    every = (frame for eqn in reversed(eqns) for frame in compat.frames(eqn))
    frames = [frame for frame in every if not internal(frame.file)]
    if not frames:
        return None
    own = next((f for f in frames if not f.file.startswith(_INSTALLED)), frames[0])
    return Place(own, frames[0] if frames[0].key != own.key else None)


_OF_LIBRARIES: "weakref.WeakKeyDictionary[compat.Jaxpr, bool]" = weakref.WeakKeyDictionary()


def of_library(eqn: compat.JaxprEqn) -> bool:
    """Whether an equation holds programs, and JAX or funcgrad wrote all that is in them."""
    bodies = compat.subjaxprs(eqn.params)
    return bool(bodies) and all(map(_written_by_library, bodies))


def _written_by_library(jaxpr: compat.Jaxpr) -> bool:
    if jaxpr not in _OF_LIBRARIES:
        _OF_LIBRARIES[jaxpr] = all(map(_by_library, jaxpr.eqns))
    return _OF_LIBRARIES[jaxpr]


def _by_library(eqn: compat.JaxprEqn) -> bool:
    frames = compat.frames(eqn)
    inside = all(map(_written_by_library, compat.subjaxprs(eqn.params)))
    return inside and bool(frames) and all(internal(frame.file) for frame in frames)


@functools.lru_cache(maxsize=1024)
def internal(file: str) -> bool:
    """Whether a file is part of JAX, funcgrad or the standard library."""
    if file.startswith(_INSTALLED):
        return file.startswith(_INTERNAL)
    return file.startswith((*_INTERNAL, *_STDLIB))


def expression(frame: compat.Frame) -> str:
    """The source text of the expression at a place, on one line; empty where it is not known."""
    first, last = frame.line, frame.end_line or frame.line
    lines = [_bytes(frame.file, number) for number in range(first, last + 1)]
    if frame.column is None or frame.end_column is None or not lines[0]:
        return ""
    lines[-1] = lines[-1][: frame.end_column]
    lines[0] = lines[0][frame.column :]
    return " ".join(b" ".join(lines).decode("utf-8", "replace").split())


def excerpt(frame: compat.Frame) -> list[str]:
    """The line at a place, and carets under the expression; empty where the file is not there."""
    line = _bytes(frame.file, frame.line)
    if not line.strip():
        return []
    text = line.decode("utf-8", "replace")
    shown = [text.strip()]
    if frame.column is not None:
        indent = len(text) - len(text.lstrip())
        start = len(line[: frame.column].decode("utf-8", "replace"))
        same = frame.end_line == frame.line and frame.end_column is not None
        stop = len(line[: frame.end_column].decode("utf-8", "replace")) if same else len(text)
        shown.append(" " * (start - indent) + "^" * max(1, stop - start))
    return shown


def _bytes(file: str, number: int) -> bytes:
    return linecache.getline(file, number).rstrip("\n").encode()
