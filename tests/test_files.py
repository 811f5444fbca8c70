"""Files are written whole or not at all."""

from pathlib import Path

import pytest

import funcgrad as fg
from funcgrad._files import writable, write_whole


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "result.json"
    target.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(fg.FileError, match=r"result\.json: cannot be written: No space left"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("content", ["new\n", b"new\n"])
def test_a_link_is_followed(tmp_path, content):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_whole(tmp_path / "link.json", content)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_bytes() == b"new\n"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/result.json", "there is no folder"),
        ("file/result.json", "there is no folder|Not a directory"),
        ("folder", "it is not a plain file"),
        ("x" * 300, "File name too long"),
        ("nul\0", "null byte"),
    ],
)
def test_what_cannot_be_written_is_refused_before(tmp_path, name, reason):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for write in (writable, lambda path: write_whole(path, "new")):
        with pytest.raises(OSError, match=f"cannot be written: .*({reason})") as caught:
            write(tmp_path / name)
        assert isinstance(caught.value, fg.FuncgradError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
