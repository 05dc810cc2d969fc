"""The page on deformation holds the record's scores beside the paper's, in the right rows and order."""

from __future__ import annotations

from typing import Any

import pytest
from USMRISynthesisLib.evaluation import deformation_page
from USMRISynthesisLib.evaluation.deformation_page import SCORE, TABLE_1, page, scores_of, titles_of


def record(**scores: str) -> dict[str, Any]:
    return {
        "command": "usmri study",
        "date": "2026-12-01",
        "version": "1",
        "result": {"methods": {name: {SCORE: score, "NCC": "0.1"} for name, score in scores.items()}},
    }


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if f"`{name}`" in line and line.startswith("|"))


def test_a_row_holds_the_papers_score_and_ours_with_both_ranks() -> None:
    text = page(record(paper="1.31 / 1.33", ae="1.71", gan="1.10 / 1.20"), {}, "study.jpg")
    assert row(text, "paper") == "| Ours | `paper` | 3.90 / 4.08 | 0.46 | 1 | 1.31 / 1.33 | 2 |"
    assert row(text, "gan").endswith("| 0.78 | 2 | 1.10 / 1.20 | 1 |")
    assert row(text, "ae").endswith("| 0.97 | 3 | 1.71 | 3 |")
    assert "over 3 methods: 0.50 (Spearman)" in text
    assert "the lowest score here has `gan`" in text


def test_the_mean_mr_is_named_where_no_method_needs_less_deformation() -> None:
    text = page(record(paper="1.3", ae="1.7", **{"mean MR": "0.41", "the truth": "0.00"}), {}, "study.jpg")
    assert "no methods need less deformation than the mean MR (0.41)" in text
    better = page(record(paper="0.3", ae="1.7", **{"mean MR": "0.41", "the truth": "0.00"}), {}, "study.jpg")
    assert "1 method needs less deformation than the mean MR" in better


def test_every_method_is_listed_lowest_first_with_its_title_and_the_picture() -> None:
    text = page(record(paper="1.3", ae="1.7", pairs="0.8"), titles_of('[methods.pairs]\ntitle = "ours"\n'), "s.jpg")
    listed = [line.split("|")[1].strip() for line in text.split("## All methods")[1].splitlines() if "|" in line][2:]
    assert listed == ["pairs", "paper", "ae"]
    assert "| pairs | ours | 0.80 |" in text
    assert "(s.jpg)" in text


def test_a_score_that_is_no_number_is_not_taken_for_one() -> None:
    with pytest.raises(ValueError, match="unknown"):
        scores_of(record(paper="unknown"))


def test_the_papers_table_is_complete() -> None:
    """Table 1 of the paper: its own method is best of those that synthesise, real MR needs no deformation."""
    assert [column.deformation for column in TABLE_1] == [0.97, 0.78, 0.66, 0.55, 0.65, 0.47, 0.46, 0.00]
    assert min(TABLE_1[:-1], key=lambda column: column.deformation).ours == "paper"
    assert deformation_page.TRUTH == TABLE_1[-1].ours
