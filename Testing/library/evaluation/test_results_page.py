"""docs/results.md and the README's table hold the records' numbers and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.evaluation import results_page

REPOSITORY = Path(__file__).resolve().parents[3]
RECORD = {
    "title": "Real ultrasound",
    "command": "usmri evaluate real",
    "date": "2026-12-01",
    "version": "0.2.0",
    "result": {
        "volumes_accepted_share": 0.25,
        "interval": [1.0, 0.5, 1.5],
        "volumes": {"a.nii.gz": {"score": 0.75}},
        "per_case": {"left": {"out": 1.0}},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "real.json").write_text(json.dumps(RECORD))
    return tmp_path


def test_the_page_shows_figures_intervals_and_tables(folder: Path) -> None:
    text = results_page.page(results_page.read_records(folder))
    for part in (
        "## Real ultrasound",
        "`usmri evaluate real`, 2026-12-01, version 0.2.0.",
        "| volumes accepted share | 0.250 |",
        "| interval | 1.000 [0.500, 1.500] |",
        "| a.nii.gz | 0.750 |",
    ):
        assert part in text
    assert "left" not in text


def test_the_readme_keeps_its_text_around_the_table(folder: Path) -> None:
    readme = folder / "README.md"
    readme.write_text(f"before\n{results_page.BEGIN}\nold\n{results_page.END}\nafter\n")
    assert results_page.main(str(folder), str(folder / "results.md"), str(readme), str(folder)) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| real 3D heads accepted, share | 0.25 |" in text


@pytest.mark.parametrize(("content", "complaint"), [("{", "is not JSON"), ("{}", "lacks title")])
def test_a_file_that_is_no_record_is_refused(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(Failed, match=complaint):
        results_page.read_records(tmp_path)


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(Failed, match="no place for the results"):
        results_page.put_between("text", "table")


def test_the_committed_page_is_what_the_records_say(tmp_path: Path) -> None:
    records = results_page.read_records(REPOSITORY / "docs" / "results")
    records |= results_page.manifest_records(REPOSITORY / "model_weights")
    assert (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8") == results_page.page(records)
    deformation = results_page.deformation(records, REPOSITORY / "configs" / "study.toml")
    assert (REPOSITORY / "docs" / "deformation.md").read_text(encoding="utf-8") == deformation
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert results_page.put_between(readme, results_page.summary(records)) == readme
