"""A pytest plugin: a test for each recorded cell of the notebooks in a folder.

    pytest recordings --funcgrad-recordings recordings

For each recording `NAME.ipynb` (or `.txt`) in the folder the port is `NAME.port.ipynb` or
`NAME.port.py` beside it, and `NAME.map.toml`, where there is one, says which cells belong together.
The port is run once, in a kernel of its own, when the first of its tests is due.

This module is what pytest loads at every start, so it imports nothing but pytest: all else, JAX
and Jupyter with it, comes only with the option and the first test.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from funcgrad.compare import CellReport, Report

_FOLDER = "funcgrad_recordings"
_RECORDINGS = (".ipynb", ".txt")
_PORTS = (".port.ipynb", ".port.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("funcgrad", "compare ports with recorded PyTorch notebooks")
    group.addoption(
        "--funcgrad-recordings",
        dest=_FOLDER,
        metavar="DIR",
        type=Path,
        help="make a test of each cell of the recordings in DIR, each with its port beside it",
    )
    group.addoption(
        "--funcgrad-timeout",
        metavar="SECONDS",
        type=int,
        default=600,
        help="limit for each cell of a port (600)",
    )
    group.addoption(
        "--funcgrad-strict", action="store_true", help="another width of a dtype is a failure"
    )
    group.addoption(
        "--funcgrad-no-run",
        action="store_true",
        help="compare the outputs stored in the ports; start no kernel",
    )


def pytest_configure(config: pytest.Config) -> None:
    """See that the folder is among what pytest collects."""
    folder = config.getoption(_FOLDER)
    if folder is None:
        return
    if not folder.is_dir():
        raise pytest.UsageError(f"--funcgrad-recordings: {folder} is not a folder")
    folder = folder.resolve()
    named = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if not any(one == folder or one in folder.parents or folder in one.parents for one in named):
        config.args.append(str(folder))


def _folder(config: pytest.Config) -> Path | None:
    folder: Path | None = config.getoption(_FOLDER)
    return None if folder is None else folder.resolve()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave ports alone: they are no tests, and importing one as a doctest would run it."""
    folder = _folder(config)
    if folder is not None and folder in collection_path.parents and _is_port(collection_path):
        return True
    return None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "Recording | None":
    """Collect a recording."""
    folder = _folder(parent.config)
    if folder is None or folder not in file_path.parents or _is_port(file_path):
        return None
    if file_path.suffix not in _RECORDINGS:
        return None
    return Recording.from_parent(parent, path=file_path)


def _is_port(path: Path) -> bool:
    return path.name.endswith(_PORTS)


class Recording(pytest.File):
    """A recorded notebook; its report is made once, when the first of its cells is tested."""

    report: "Report | None" = None

    def collect(self) -> Iterator[pytest.Item]:
        """Collect a test for each cell with outputs."""
        from funcgrad import FuncgradError
        from funcgrad.compare import read

        try:
            cells = [cell for cell in read(self.path) if cell.outputs]
        except FuncgradError as error:
            if self.path.suffix == ".txt":  # some other text file
                return
            raise self.CollectError(str(error)) from None
        names: dict[str, int] = {}
        for cell in cells:
            name = f"In [{cell.number}]" if cell.number is not None else f"cell {cell.place}"
            names[name] = names.get(name, 0) + 1
            if names[name] > 1:
                name = f"{name}, cell {cell.place}"
            yield CellTest.from_parent(self, name=name, place=cell.place)

    def setup(self) -> None:
        """Run the port and compare it, or skip where there is none."""
        from funcgrad.compare import compare

        stem = self.path.name.removesuffix(self.path.suffix)
        beside = [self.path.with_name(stem + ending) for ending in _PORTS]
        port = next((path for path in beside if path.is_file()), None)
        if port is None:
            pytest.skip(f"no port: neither {' nor '.join(path.name for path in beside)} is there")
        mapping = self.path.with_name(f"{stem}.map.toml")
        self.report = compare(
            self.path,
            port,
            fresh=not self.config.getoption("funcgrad_no_run"),
            timeout=self.config.getoption("funcgrad_timeout"),
            strict=self.config.getoption("funcgrad_strict"),
            mapping=mapping if mapping.is_file() else None,
        )
        leftover = [cell.label for cell in self.report.cells if cell.only_ours]
        if leftover:
            _leftovers(self.config)[str(port)] = leftover

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show an error of ours as its one line."""
        return _one_line(excinfo) or super().repr_failure(excinfo)


class Differs(Exception):
    """A cell of the port does not show what the recording shows."""


class CellTest(pytest.Item):
    """A recorded cell: passes if all its values agree, is skipped if there was none to compare."""

    def __init__(self, *, place: int, **options: Any) -> None:
        super().__init__(**options)
        self.place = place

    def runtest(self) -> None:
        """Look up what came of the cell."""
        from funcgrad.compare.recorded.remarks import lines_of

        cell = self.cell_report()
        if not cell.agrees:
            raise Differs("\n".join(line for line, _ in lines_of(cell)))
        if not any(row.verdict for row in cell.rows):
            pytest.skip("; ".join(dict.fromkeys(row.reason for row in cell.rows)))

    def cell_report(self) -> "CellReport":
        """The part of the report that this cell is in."""
        assert isinstance(self.parent, Recording)
        assert self.parent.report is not None
        return next(cell for cell in self.parent.report.cells if self.place in cell.places)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what differs, where and by how much."""
        return _one_line(excinfo) or super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the cell as a report does."""
        return self.path, None, f"{self.path.name}: {self.name}"


def _one_line(excinfo: pytest.ExceptionInfo[BaseException]) -> str | None:
    from funcgrad import FuncgradError

    return str(excinfo.value) if isinstance(excinfo.value, (FuncgradError, Differs)) else None


_LEFT = pytest.StashKey[dict[str, list[str]]]()


def _leftovers(config: pytest.Config) -> dict[str, list[str]]:
    return config.stash.setdefault(_LEFT, {})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the cells of ports that answer to nothing, since no test is for them."""
    for port, labels in _leftovers(config).items():
        terminalreporter.write_line(
            f"funcgrad: {port}: only in the port, not compared: {', '.join(labels)}"
        )
