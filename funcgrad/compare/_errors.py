"""The error of `funcgrad.compare`: one line that says what was got and what to do."""

from funcgrad._errors import FuncgradError


class CompareError(FuncgradError, ValueError):
    """A comparison that could not be made: a file that cannot be read, a port that cannot run."""
