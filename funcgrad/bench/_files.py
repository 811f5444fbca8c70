"""Writes files whole or not at all."""

import os
from pathlib import Path

from ._case import BenchError


def check(path: str | Path) -> Path:
    """The file that something may be written to, links followed.

    Raises:
        BenchError: its folder is not there, or something that is no plain file has its name.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise BenchError(f"{path}: cannot be written: there is no folder {target.parent}")
    if target.exists() and not target.is_file():
        raise BenchError(f"{path}: cannot be written: it is not a plain file")
    return target


def whole(path: str | Path, content: str | bytes) -> None:
    """Writes beside the file first, then puts it in its place.

    Raises:
        BenchError: it cannot be written; what stood there is untouched.
    """
    target = check(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content if isinstance(content, bytes) else content.encode())
        beside.replace(target)
    except OSError as error:
        raise BenchError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)
