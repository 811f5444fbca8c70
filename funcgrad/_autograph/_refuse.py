"""What Python, NumPy and JAX say of traced values, said in the words of `autograph`."""

import contextlib
import linecache
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ..errors import FuncgradError, UsageError

INSTALLED = tuple(sysconfig.get_path(x) for x in ("stdlib", "platstdlib", "purelib", "platlib"))
UNTRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_SEQUENCE = "setting an array element with a sequence"  # NumPy's words for a traced value
_UNHASHABLE = ("unhashable type", "Tracer")
_OF_ONE_PATH = (AttributeError, LookupError, StopIteration, ZeroDivisionError)


@contextlib.contextmanager
def outermost() -> Iterator[None]:
    """Around the call of a converted function: what needs a value that is traced is refused."""
    try:
        yield
    except UNTRACED as error:
        if isinstance(error, FuncgradError):
            raise
        raise _unknown(error) from None
    except TypeError as error:
        if isinstance(error, FuncgradError) or not all(x in str(error) for x in _UNHASHABLE):
            raise
        raise UsageError(
            f"`autograph` got {text_of(line_of(error))}, where a traced value would be a key of a"
            " dict or an element of a set, which have to be known while compiling; use an array and"
            " an index"
        ) from None
    except ValueError as error:
        if isinstance(error, FuncgradError) or not str(error).startswith(_SEQUENCE):
            raise
        raise UsageError(
            f"`autograph` got a traced value that is set into an array of NumPy at"
            f" {line_of(error)}; make it an array of jax.numpy, and assign a new value:"
            " x = x.at[i].set(v)"
        ) from None


def _unknown(error: Exception) -> UsageError:
    """An error of JAX that is one of ours too, at the user's line."""
    place = line_of(error)
    kind = type("UsageError", (UsageError, type(error)), {"__init__": Exception.__init__})
    told: UsageError = kind(
        f"`autograph` got {text_of(place)}, where Python or a library has to look at a value that"
        " is traced; autograph converts the statements and operators of your own source, and not"
        " what operators, properties and functions of others do inside: write it with jax.numpy, as"
        f" jnp.where, jnp.sort, or as an `if`. JAX says: {str(error).splitlines()[0]}"
    )
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told.with_traceback(error.__traceback__)


@contextlib.contextmanager
def of_one_path(place: str) -> Iterator[None]:
    """Around a path that may or may not be taken: that it fails does not say that the program does.

    Raises:
        UsageError: an item, attribute or quotient is asked for that is not there, or an object of
            Flax is changed.
    """
    try:
        yield
    except Exception as error:
        flax = getattr(sys.modules.get("flax.errors"), "TraceContextError", ())
        if isinstance(error, flax):
            raise UsageError(
                f"`autograph` got {text_of(line_of(error))} inside the traced branch or loop at"
                f" {place}, which changes an object of Flax NNX"
                f" ({str(error).partition(' (http')[0]}): its state can be neither carried nor"
                " chosen there. Keep it in a variable, and set the object after: count ="
                " model.count[...] before, count = count + 1 inside, model.count[...] = count after"
            ) from error
        if (
            not isinstance(error, _OF_ONE_PATH)
            or isinstance(error, FuncgradError)
            or _of_an_array(error)
        ):
            raise
        raise UsageError(
            f"`autograph` got {text_of(line_of(error))} inside the traced branch or loop at"
            f" {place}, which fails: {type(error).__name__}: {error}. It is run while tracing,"
            " whether it is taken or not, so it has to work where it is not"
        ) from error


def _of_an_array(error: Exception) -> bool:
    """Whether it is an attribute of an array or a library that is missing, whatever the path."""
    if not isinstance(error, AttributeError):
        return False
    return isinstance(error.obj, jax.Array | np.ndarray | type(np) | None)


def line_of(error: BaseException) -> str:
    """Where in the user's code an error was raised: the innermost line outside of libraries."""
    traceback: Any = error.__traceback__
    place = "an unknown place"
    while traceback:
        frame = traceback.tb_frame
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        file = frame.f_code.co_filename
        if package not in ("funcgrad", "jax", "jaxlib") and not file.startswith(INSTALLED):
            place = f"{file}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def text_of(place: str) -> str:
    """A line of the user's code with its place."""
    file, _, line = place.rpartition(":")
    text = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
    return f"`{text}` at {place}" if text else place
