"""Writes files whole or not at all."""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from .errors import FileError


def writable(path: str | os.PathLike[str]) -> Path:
    """The file that something may be written to, links followed.

    Raises:
        FileError: its folder is not there, or something that is no plain file has its name.
    """
    try:
        target = Path(path).resolve()
        there, plain = target.exists(), target.is_file()
    except (OSError, ValueError) as error:
        raise _refused(path, error) from None
    if not target.parent.is_dir():
        raise FileError(f"{path}: cannot be written: there is no folder {target.parent}")
    if there and not plain:
        raise FileError(f"{path}: cannot be written: it is not a plain file")
    return target


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes beside the file first, then puts it in its place, under the mode and the names it has.

    Raises:
        FileError: it cannot be written; what stood there is untouched.
    """
    target = writable(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with beside.open("xb") as file:
            file.write(content if isinstance(content, bytes) else encoded(content))
        there = target.stat() if target.exists() else None
        if there is not None and there.st_nlink > 1:
            shutil.copyfile(beside, target)  # its other names go on naming the same file
            return
        if there is not None:
            beside.chmod(stat.S_IMODE(there.st_mode))
        beside.replace(target)
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def encoded(text: str) -> bytes:
    """A text as UTF-8; the name of a file may hold bytes that are none, shown as `?`."""
    return text.encode("utf-8", "replace")


def _refused(path: object, error: Exception) -> FileError:
    return FileError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}")
