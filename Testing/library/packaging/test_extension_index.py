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


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"category": "Magic"}, "The category is not one"),
        ({"build_dependencies": []}, "different dependencies"),
        ({"homepage": "x"}, "does not know homepage"),
        ({"scm_url": "git://x/SlicerX.git"}, "does not say where the code is"),
        ({"scm_url": "https://github.com/x/USMRISynthesis.git"}, "does not begin with Slicer"),
        ({"scm_revision": "main"}, "names a revision"),
        ({"dicom_support_rule": "Modality == 'US'"}, "support rule lacks 1.2.840.10008.5.1.4.1.1.6.1"),
        ({"tier": 6}, "The tier is not 1 to 5"),
    ],
)
def test_a_description_that_the_index_refuses_is_noticed(
    change: dict[str, object], complaint: str, check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(check.DESCRIPTION.read_text()) | change
    (tmp_path / "USMRISynthesis.json").write_text(json.dumps(content))
    monkeypatch.setattr(check, "DESCRIPTION", tmp_path / "USMRISynthesis.json")
    assert any(complaint in one for one in check._description())


def test_line_ends_of_another_system_are_noticed(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "USMRISynthesis.json").write_bytes(check.DESCRIPTION.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(check, "DESCRIPTION", tmp_path / "USMRISynthesis.json")
    assert any("line ends" in one for one in check._description())


def test_a_picture_of_the_wrong_size_is_noticed(check: ModuleType, tmp_path: Path) -> None:
    assert check._size(tmp_path / "none.png") == (0, 0)
    assert check._size(check.ROOT / "Resources" / "USMRISynthesis.png") == (128, 128)
