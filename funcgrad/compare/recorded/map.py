"""Reads a map, the user's own word on which cell of the port answers to which of the recording.

It is TOML. The keys are cells of the recording, the values cells of the port, under the names that
reports use: `In [16]` by execution count, `cell 7` by place in the file.

    "In [16]" = "cell 3"
    "In [17]" = ["cell 4", "cell 6"]   # both together
    "cell 12" = []                     # the port has nothing for it, and that is meant
    "In [18]" = { rtol = 1e-3 }        # its floats may be so far apart
    "In [19]" = { cells = "cell 8", rtol = 1e-3, atol = 1e-6 }

Two keys with one cell of the port are read together. What the map does not name is paired as if
there were no map.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import CompareError
from ..tolerances import Tolerance
from .asked import tolerance
from .cells import Cell
from .files import text_of

_FIELDS = ("cells", "rtol", "atol")
_NAME = re.compile(
    r"\s*+(?:in\s*+\[\s*+([0-9]{1,9})\s*+\]|cell\s*+([0-9]{1,9}))\s*+", re.IGNORECASE
)


def read_map(
    path: str | Path, recorded: Sequence[Cell], port: Sequence[Cell]
) -> dict[int, list[int]]:
    """Read a map.

    Args:
        path: the file.
        recorded: the cells of the recording.
        port: the cells of the port.

    Returns:
        For places of recorded cells the places of the port's cells that answer to them.

    Raises:
        CompareError: the file is no TOML of this form, or names a cell that is not there, or one
            that two cells go by.
    """
    path = Path(path)
    mapping: dict[int, list[int]] = {}
    seen = set()
    theirs, ours = _Names(path, recorded, "recording"), _Names(path, port, "port")
    for key, entry in _entries(path).items():
        place = theirs.place(key)
        if place in seen:
            raise CompareError(f"{path}: not a map: two keys name the recording's `{key}`")
        seen.add(place)
        if "cells" in entry:
            names = _names(path, key, entry["cells"])
            mapping[place] = list(map(ours.place, names))
    return mapping


def read_tolerances(path: str | Path, recorded: Sequence[Cell]) -> dict[int, Tolerance]:
    """Read which tolerances a map asks for, by the places of recorded cells.

    Raises:
        CompareError: as `read_map`, or one is no number from 0 to below 1.
    """
    path = Path(path)
    names = _Names(path, recorded, "recording")
    found = {}
    for key, entry in _entries(path).items():
        where = f"{path}: not a map: `{key}` has "
        given = {
            name: tolerance(entry[name], f"{where}{name} = {entry[name]!r}", f"`{name} = 1e-3`")
            for name in ("rtol", "atol")
            if name in entry
        }
        if given:
            found[names.place(key)] = Tolerance(given.get("rtol"), given.get("atol"))
    return found


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a map, each as a table of `cells`, `rtol` and `atol`."""
    try:
        entries = tomllib.loads(text_of(path))
    except tomllib.TOMLDecodeError as error:
        raise CompareError(f"{path}: not a map: {error}") from None
    except RecursionError:
        raise CompareError(f"{path}: not a map: its brackets are nested too deeply") from None
    tables = {
        key: entry if isinstance(entry, dict) else {"cells": entry}
        for key, entry in entries.items()
    }
    for key, entry in tables.items():
        unknown = next((name for name in entry if name not in _FIELDS), None)
        if unknown is not None:
            raise CompareError(
                f"{path}: not a map: `{key}` has `{unknown}`; write cells, rtol or atol"
            )
    return tables


def _names(path: Path, key: str, named: Any) -> list[str]:
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CompareError(
            f"{path}: not a map: `{key}` has {named!r}; write 'cell 3', or a list of such"
        )
    return names


class _Names:
    """The cells of one side, by the names that reports use."""

    def __init__(self, path: Path, cells: Sequence[Cell], side: str) -> None:
        self.path, self.side = path, side
        self.by_number: defaultdict[int | None, list[int]] = defaultdict(list)
        for cell in cells:
            self.by_number[cell.number].append(cell.place)
        self.places = {cell.place for cell in cells}

    def place(self, name: str) -> int:
        """The place of the one cell of this name."""
        path, side = self.path, self.side
        match = _NAME.fullmatch(name)
        if match is None:
            raise CompareError(
                f"{path}: not a map: `{name}` names no cell; write `In [16]` for an execution"
                " count, `cell 7` for a place in the file"
            )
        if match.group(1):
            found = self.by_number.get(int(match.group(1)), [])
        else:
            found = [int(match.group(2))] if int(match.group(2)) in self.places else []
        if not found:
            raise CompareError(f"{path}: the {side} has no code cell `{name.strip()}`")
        if len(found) > 1:
            places = ", ".join(f"`cell {one}`" for one in found)
            raise CompareError(f"{path}: `{name.strip()}` names {len(found)} cells; use {places}")
        return found[0]
