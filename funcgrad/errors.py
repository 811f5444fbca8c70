"""Every error that funcgrad raises.

Every class derives from [`FuncgradError`][funcgrad.FuncgradError] and from the built-in class that
fits, so that both `except funcgrad.FuncgradError` and the habits of PyTorch and JAX work. Importing
this module imports nothing heavy.
"""

from typing import Any


class FuncgradError(Exception):
    """The base of every error that funcgrad raises."""


class GradientError(FuncgradError, RuntimeError):
    """A gradient that cannot be taken as asked; PyTorch raises a `RuntimeError` for the same."""


class AnomalyError(FuncgradError, FloatingPointError):
    """A value that is NaN, or infinite where that was asked for; see `detect_anomaly`.

    Attributes:
        anomaly: what is known of it, an [`Anomaly`][funcgrad.Anomaly], or `None` where nothing is.
    """

    def __init__(self, message: str, anomaly: Any = None):
        super().__init__(message)
        self.anomaly = anomaly


class GradcheckError(FuncgradError, RuntimeError):
    """A derivative that is not what finite differences say; see `gradcheck`.

    Attributes:
        mismatches: the pairs of input and output whose derivatives disagree, the first told in
            full in the message, each a [`GradientMismatch`][funcgrad.GradientMismatch]; empty
            where a derivative cannot be taken at all.
    """

    def __init__(self, message: str, mismatches: tuple[Any, ...] = ()):
        super().__init__(message)
        self.mismatches = mismatches


class FileError(FuncgradError, OSError):
    """A file that a result cannot be written to; what stood there is untouched."""


class MissingExtraError(FuncgradError, ImportError):
    """A library of an extra is not installed; the message names the extra."""


class TagError(FuncgradError, ValueError):
    """A name given to `retain_grad` or asked for with `retain=` that cannot be served."""


class TreeError(FuncgradError, ValueError):
    """Two pytrees that should agree in structure, shape or dtype and do not."""


class UsageError(FuncgradError, TypeError):
    """A call of a wrong form: an argument of the wrong type, or one that makes no sense."""


class UnboundError(FuncgradError, UnboundLocalError):
    """A variable is read that has a value on some paths only."""


class PictureError(FuncgradError, OSError):
    """A picture that could not be drawn."""


class CompareError(FuncgradError, ValueError):
    """A comparison that could not be made: a file that cannot be read, a port that cannot run."""


class ParityError(FuncgradError, AssertionError):
    """The JAX function does not match the torch function.

    Attributes:
        report: what was found.
    """

    def __init__(self, report: Any) -> None:
        super().__init__(f"`assert_matches_torch` got functions that differ\n{report}")
        self.report = report


class BenchError(FuncgradError, ValueError):
    """A benchmark that could not be run or shown: no such case, no such device, another answer."""


class CompileError(FuncgradError, RuntimeError):
    """A program that a compiler refuses, or that cannot be lowered for the device."""
