"""The repository is ready for Slicer's extension index, and the script that says so notices what is not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "check_extension.py"


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_extension", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_is_missing(check: ModuleType) -> None:
    assert list(check.problems()) == []


def test_a_description_that_does_not_fit_is_noticed(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(check.DESCRIPTION.read_text())
    wrong = {**content, "category": "Magic", "build_dependencies": [], "homepage": "x", "scm_url": "git://x"}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    monkeypatch.setattr(check, "DESCRIPTION", tmp_path / "wrong.json")
    found = list(check._description())
    assert len(found) == 5 and any("homepage" in one for one in found)


def test_a_picture_of_the_wrong_size_is_noticed(check: ModuleType, tmp_path: Path) -> None:
    assert check._size(tmp_path / "none.png") == (0, 0)
    assert check._size(check.ROOT / "Resources" / "USMRISynthesis.png") == (128, 128)
