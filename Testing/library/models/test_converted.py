"""Converted networks in the user's cache folder: made once, made again when damaged, never half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from USMRISynthesisLib.models import converted


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(converted.CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_kept_is_not_made_again(folder: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"network"

    assert [converted.cached("a", make) for _ in range(3)] == [b"network"] * 3
    assert len(made) == 1
    assert converted.cached("b", make) == b"network" and len(made) == 2
    converted.drop("a")
    converted.cached("a", make)
    assert len(made) == 3


@pytest.mark.parametrize("damage", [b"", b"usmri-converted-1\n", b"something else altogether", None])
def test_a_damaged_file_is_made_again(folder: Path, damage: bytes | None) -> None:
    converted.cached("a", lambda: b"network")
    (kept,) = folder.iterdir()
    stored = kept.read_bytes()
    kept.write_bytes(stored[:-1] + b"K" if damage is None else damage)
    assert converted.cached("a", lambda: b"again") == b"again"
    assert converted.cached("a", lambda: b"not made") == b"again"


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(converted.CACHE_DIR_VARIABLE, str(tmp_path / "file" / "cache"))
    assert converted.cached("a", lambda: b"one") == b"one"
    assert converted.cached("a", lambda: b"two") == b"two"
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_read_only_folder_is_read_and_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted.cached("a", lambda: b"one")

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(converted.tempfile, "mkstemp", refuse)
    assert converted.cached("a", lambda: b"two") == b"one"
    assert converted.cached("b", lambda: b"three") == b"three"
    assert [path.name for path in folder.iterdir()] == ["a.converted"]


def test_a_disk_that_refuses_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert converted.cached("a", lambda: b"one") == b"one"
    assert list(folder.iterdir()) == []


def test_the_oldest_files_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted, "KEPT", 2)
    for n, key in enumerate("abc"):
        converted.cached(key, key.encode)
        os.utime(folder / f"{key}.converted", (n, n))
    converted.cached("d", lambda: b"d")
    assert sorted(path.stem for path in folder.iterdir()) == ["c", "d"]


def test_processes_at_once_all_get_the_whole(folder: Path) -> None:
    program = (
        "from USMRISynthesisLib.models.converted import cached\n"
        "for n in range(40): assert cached(f'k{n % 4}', lambda: bytes(200_000)) == bytes(200_000)"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in running] == [b"", b"", b""]
    assert sorted(path.name for path in folder.iterdir()) == [f"k{n}.converted" for n in range(4)]


@pytest.mark.parametrize("key", ["", "../a", "a/b", "a b"])
def test_a_key_names_a_file_in_the_folder(folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        converted.cached(key, lambda: b"")
