"""The ledger: appended, never rewritten, readable after a crash, as cheap for ten thousand cases as for a hundred."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from USMRISynthesisLib.batch import status
from USMRISynthesisLib.batch.ledger import FIELDS, FOLDER, Ledger, fold, thumbnail_of
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.synthetic import SYNTHETIC


def line(name: str, state: str = "done", **fields: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "seconds": 1.5, "worker": "host:1", **fields}


def written(out: Path, *lines: dict[str, Any]) -> Path:
    ledger = Ledger(out)
    for one in lines:
        assert ledger.append(one)
    ledger.close()
    return next((out / FOLDER / "ledger").iterdir())


def test_the_newest_line_of_each_case_counts_whoever_wrote_it(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.append(line("b", "failed", message="It broke.", remedy="Repair it."))
    second.append(line("a"))
    second.append(line("b"))
    first.append(line("c", "refused"))
    first.append(line("a", "skipped", kind="kept"))
    assert [(row["name"], row["state"]) for row in fold(tmp_path)] == [("a", "done"), ("b", "done"), ("c", "refused")]
    assert set(fold(tmp_path)[0]) == set(FIELDS)
    first.close()
    second.close()
    assert len(list((tmp_path / FOLDER / "ledger").iterdir())) == 2


def test_a_crash_in_the_middle_of_a_line_spoils_that_line_alone(tmp_path: Path) -> None:
    file = written(tmp_path, line("a"), line("b"))
    file.write_bytes(file.read_bytes()[:-40] + b'\xff{"name": "c", "state')
    written(tmp_path, line("c"))
    assert [row["name"] for row in fold(tmp_path)] == ["a", "c"]


def test_lines_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, line("a"))
    with file.open("a") as lines:
        lines.write(
            '\n[]\n{"name": 3, "state": "done"}\n{"name": "x", "state": "odd"}\n{"name": "y", "state": "done"}\n'
        )
    rows = fold(tmp_path)
    assert [row["name"] for row in rows] == ["a", "y"] and rows[1]["quality"] == {} and rows[1]["input"] == "y"


def test_a_full_disk_keeps_the_line_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, true = Ledger(tmp_path), os.write
    assert ledger.append(line("a"))
    halves: list[int] = []

    def full(descriptor: int, data: bytes) -> int:
        if halves:
            raise OSError(28, "No space left on device")
        halves.append(1)
        return true(descriptor, data[:30])  # the disk takes the half of a line

    monkeypatch.setattr(os, "write", full)
    assert not ledger.append(line("b")) and not ledger.append(line("c"))
    assert [row["name"] for row in fold(tmp_path)] == ["a"]
    monkeypatch.setattr(os, "write", true)
    assert ledger.append(line("d"))
    ledger.close()
    assert [row["name"] for row in fold(tmp_path)] == ["a", "b", "c", "d"]


def test_the_ledger_of_an_earlier_version_is_read_and_a_newer_line_wins(tmp_path: Path) -> None:
    cases = {
        "a": {"status": "done", "output": "a-mr.nrrd", "score": 0.8, "trusted": True, "warnings": ["Look."]},
        "b": {"status": "refused", "kind": "extent", "message": "It is small.", "remedy": "Correct it."},
        "c": {"status": "waiting"},
        "d": {"status": "kept", "output": "d-mr.nrrd"},
        "e": {"status": "failed", "kind": "worker", "message": "It died.", "remedy": "Again.", "seconds": 3.0},
    }
    content = {"notice": SYNTHETIC, "status": "failed", "settings": {"model": "m"}, "counts": {}, "cases": cases}
    (tmp_path / "batch.json").write_text(json.dumps(content))
    rows = {row["name"]: row for row in fold(tmp_path)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "a": "done",
        "b": "refused",
        "d": "done",
        "e": "failed",
    }
    assert rows["a"]["quality"] == {"score": 0.8} and rows["a"]["settings"] == {"model": "m"}
    assert rows["b"]["remedy"] == "Correct it."
    written(tmp_path, line("e"), line("d", "skipped"))
    assert {row["name"]: row["state"] for row in fold(tmp_path)}["e"] == "done"


def test_a_case_costs_the_same_among_a_hundred_and_ten_thousand(tmp_path: Path) -> None:
    """Bytes written are exact; time is measured by halves, with fsync left out: the disk's is noise here."""
    sizes, seconds = {}, {}
    true, os.fsync = os.fsync, lambda descriptor: None
    try:
        for count in (100, 10_000):
            out = tmp_path / str(count)
            ledger = Ledger(out)
            took = []
            for number in range(count):
                began = time.process_time_ns()
                ledger.append(line(f"case{number:05d}", settings={"model": "m"}, quality={"score": 0.5}))
                took.append(time.process_time_ns() - began)
            ledger.close()
            (file,) = (out / FOLDER / "ledger").iterdir()
            sizes[count] = file.stat().st_size / count
            seconds[count] = sorted(took[-100:])[50]
    finally:
        os.fsync = true
    assert sizes[100] == sizes[10_000]
    assert seconds[10_000] < 3 * seconds[100]
    assert len(fold(tmp_path / "10000")) == 10_000


def test_thumbnails_of_two_cases_never_share_a_name(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a:b", "ä" * 300, "ä" * 301]
    files = {thumbnail_of(tmp_path, name) for name in names}
    assert len(files) == len(names) and all(len(file.name) < 200 for file in files)
    assert {file.parent for file in files} == {tmp_path / ".usmri" / "thumbnails"}


# --- the table


ROWS = (
    line("good.nrrd", output="good-mr.nrrd", quality={"score": 0.9}, warnings=["Look at it."], models={"name": "m"}),
    line("=bad.nrrd", "refused", message="It is a text.", remedy="Save it as NRRD.", seconds=None),
)


def test_status_is_a_table_on_the_terminal_and_as_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "out", *ROWS)
    assert cli.main(["batch", "--status", str(tmp_path / "out"), "--csv", str(tmp_path / "t.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["=bad.nrrd", "refused"] and lines[0].endswith("It is a text. Save it as NRRD.")
    assert lines[1].split()[:4] == ["good.nrrd", "done", "1.5", "s"] and lines[1].endswith("Look at it.")
    assert lines[2] == "2 cases: 1 done, 1 refused."
    with (tmp_path / "t.csv").open(newline="") as file:
        bad, good = csv.DictReader(file)
    assert (bad["name"], bad["remedy"], good["score"], good["model"]) == ("'=bad.nrrd", "Save it as NRRD.", "0.9", "m")
    assert cli.main(["batch", "--status", str(tmp_path / "out"), "--csv", str(tmp_path / "t.csv"), "--json"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)["cases"]] == ["refused", "done"]


def test_a_foreign_table_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("mine")
    with pytest.raises(Refused, match=r"mine\.csv exists and was not made by this program"):
        status.write_csv([], tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "mine"


def test_status_writes_the_report(tmp_path: Path) -> None:
    written(tmp_path / "out", *ROWS)
    assert cli.main(["batch", "--status", str(tmp_path / "out"), "--report", str(tmp_path / "r.html")]) == 0
    assert "good.nrrd" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "pattern"),
    [
        (["--status", "{tmp}/none"], 2, "No batch has worked on none. Give the folder of its results."),
        (["{tmp}/in", "{tmp}/out", "--csv", "{tmp}/a.csv"], 2, "Give --status OUT with it."),
        (["{tmp}/in"], 2, "the following arguments are required: OUT"),
        (["{tmp}/in", "{tmp}/out", "--part", "3"], 2, "invalid part value"),
        (["{tmp}", "{tmp}/out", "--part", "3/2"], 2, "There is no part 3 of 2. Give --part I/N"),
        (["--status", "{tmp}", "--csv", "{tmp}/none/a.csv"], 1, "The folder for a.csv does not exist."),
    ],
)
def test_wrong_words_are_a_sentence(
    words: list[str], code: int, pattern: str, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".usmri").mkdir()
    (tmp_path / "head.nrrd").write_text("an image")
    arguments = [word.format(tmp=tmp_path) for word in words]
    model = [] if "--status" in words else ["--model", str(tiny_model)]
    assert cli.main(["batch", *arguments, *model]) == code
    assert pattern in capsys.readouterr().err
