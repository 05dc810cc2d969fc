"""`usmri evaluate ... --record FILE`: command and figures in one file; no other file is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from USMRISynthesisLib.cli import main
from USMRISynthesisLib.cli import record as records
from USMRISynthesisLib.evaluation.real import evaluate as real


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measures themselves have tests of their own."""
    monkeypatch.setattr(real, "evaluate", lambda data, **options: ({"no_brain_accepted_share": 0.5}, []))


def test_a_record_says_what_was_measured_by_which_command(tmp_path: Path) -> None:
    target = tmp_path / "real.json"
    words = ["evaluate", "real", "--data", "elsewhere", "--record", str(target), "--quiet"]
    assert main(words) == 0
    content = json.loads(target.read_text())
    assert content["result"] == {"no_brain_accepted_share": 0.5}
    assert content["command"] == "usmri evaluate real --data elsewhere"
    assert records.is_record(target) and main(words) == 0


def test_a_file_that_is_no_record_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.json"
    target.write_text('{"patients": 3}')
    assert main(["evaluate", "real", "--record", str(target)]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert target.read_text() == '{"patients": 3}'


def test_a_record_of_another_ending_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "real", "--record", str(tmp_path / "real.txt")]) == 2
    assert "Use a name that ends in .json" in capsys.readouterr().err
