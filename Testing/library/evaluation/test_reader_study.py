"""The reader study without its page: what is put in, and what readers' files give. All readings here are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.reader_study.agreement import intraclass_correlation, weighted_kappa
from USMRISynthesisLib.evaluation.reader_study.build import build_study
from USMRISynthesisLib.evaluation.reader_study.readings import read_key, read_readings
from USMRISynthesisLib.evaluation.reader_study.score import score_study
from USMRISynthesisLib.evaluation.reader_study.table import table

Image = pytest.importorskip("PIL.Image")
METHODS = ("real", "ours", "mean MR")
CASES = tuple(f"case-{n}" for n in range(5))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three methods of five cases, 40 x 30 pixels."""
    rng = np.random.default_rng(0)
    for method in METHODS:
        (tmp_path / "in" / method).mkdir(parents=True)
        for case in CASES:
            Image.fromarray(rng.integers(0, 256, (30, 40), dtype=np.uint8)).save(
                tmp_path / "in" / method / f"{case}.png"
            )
    return tmp_path / "in"


@pytest.fixture
def study(pictures: Path, tmp_path: Path) -> Path:
    """The key of a study of these pictures, three of them shown twice."""
    build_study(pictures, tmp_path / "study.html", repeats=3, seed=4)
    return tmp_path / "study.key.json"


Score = Callable[[str, str, bool], int]


def read_by(key: Path, reader: str, kind: str, score: Score, **changes: Any) -> Path:
    """A reader's file beside the key. score: of method, case and whether it comes for the second time."""
    items = json.loads(key.read_text())["items"]
    seen: set[tuple[str, str]] = set()
    readings = []
    for position, (name, one) in enumerate(items.items()):
        image = (one["method"], one["case"])
        value = score(*image, image in seen)
        seen.add(image)
        marks = [{"x": 3.5, "y": 29}] if one["method"] == "mean MR" else []
        readings.append({"item": name, "position": position, "score": value, "marks": marks, "seconds": 4.0})
    content = {
        "format": "usmri-reading", "version": 1, "study": json.loads(key.read_text())["study"], "complete": True,
        "reader": {"id": reader, "kind": kind, "years": 7}, "consent": True, "readings": readings,
    }  # fmt: skip
    path = key.parent / f"{reader}.json"
    path.write_text(json.dumps(content | changes))
    return path


def fixed(real: int, ours: int, mean: int) -> Score:
    return lambda method, case, again: {"real": real, "ours": ours, "mean MR": mean}[method]


def varied(level: dict[str, float], seed: int) -> Score:
    rng = np.random.default_rng(seed)
    return lambda method, case, again: int(np.clip(round(level[method] + rng.normal(0, 0.8)), 1, 5))


def scored(key: Path, *files: Path) -> dict[str, Any]:
    known = read_key(key)
    return score_study(read_readings(list(files), known), known, draws=500)


def test_the_key_names_every_image_and_the_page_none(pictures: Path, tmp_path: Path) -> None:
    made = build_study(pictures, tmp_path / "s.html", repeats=4)
    assert made["images"] == 15 and made["methods"] == {"mean MR": 5, "ours": 5, "real": 5}
    items = json.loads((tmp_path / "s.key.json").read_text())["items"]
    shown = sorted((one["method"], one["case"]) for one in items.values())
    assert len(shown) == 19 and sorted(set(shown)) == sorted((m, c) for m in METHODS for c in CASES)
    page = (tmp_path / "s.html").read_text()
    assert all(name in page for name in items)
    for word in ("case-", "mean MR", "ours", "key.json", str(tmp_path)):
        assert word not in page


def test_neither_place_in_the_file_nor_order_follows_the_methods(pictures: Path, tmp_path: Path) -> None:
    build_study(pictures, tmp_path / "s.html", repeats=0, seed=1)
    items = json.loads((tmp_path / "s.key.json").read_text())["items"]
    page = (tmp_path / "s.html").read_text()
    in_file = sorted(items, key=lambda name: page.index(f'id="i-{name}"'))
    assert any(len({items[name]["method"] for name in in_file[n : n + 5]}) > 1 for n in (0, 5, 10))


def test_a_repeat_comes_in_the_other_half(pictures: Path, tmp_path: Path) -> None:
    build_study(pictures, tmp_path / "s.html", repeats=6)
    items = json.loads((tmp_path / "s.key.json").read_text())["items"]
    text = (tmp_path / "s.html").read_text()
    blocks = json.loads(text.split('id="data">')[1].split("</script>")[0])["blocks"]
    images = [{(items[name]["method"], items[name]["case"]) for name in block} for block in blocks]
    assert [len(block) for block in blocks] == [len(one) for one in images]  # none twice in one half
    assert abs(len(blocks[0]) - len(blocks[1])) <= 1 and len(images[0] & images[1]) == 6
    assert len({method for method, _ in images[0] & images[1]}) == 3  # from all methods


def test_a_key_is_never_replaced(study: Path, pictures: Path) -> None:
    before = study.read_bytes()
    with pytest.raises(Refused, match=r"study\.html exists"):
        build_study(pictures, study.parent / "study.html")
    (study.parent / "study.html").unlink()
    with pytest.raises(Refused, match=r"study\.key\.json exists"):
        build_study(pictures, study.parent / "study.html")
    assert study.read_bytes() == before and not (study.parent / "study.html").exists()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: Image.new("L", (41, 30)).save(folder / "ours" / "case-0.png"), "has another size"),
        (lambda folder: Image.new("L", (40, 30)).save(folder / "ours" / "case-0.bmp"), "two pictures of case-0"),
        (lambda folder: (folder / "ours" / "case-0.png").write_bytes(b"x"), "damaged|cannot be read"),
    ],
)
def test_pictures_that_would_spoil_a_study_are_refused(
    pictures: Path, spoil: Callable[[Path], object], complaint: str, tmp_path: Path
) -> None:
    spoil(pictures)
    with pytest.raises(Refused, match=complaint):
        build_study(pictures, tmp_path / "s.html")
    assert not list(tmp_path.glob("s.*"))


def test_a_folder_without_pictures_too_many_repeats_and_another_ending_are_refused(
    pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="holds no pictures in folders"):
        build_study(tmp_path / "empty", tmp_path / "s.html")
    with pytest.raises(Refused, match="There is no folder nowhere"):
        build_study(tmp_path / "nowhere", tmp_path / "s.html")
    with pytest.raises(Refused, match=r"16 images cannot be shown twice\. Give 0 to 15"):
        build_study(pictures, tmp_path / "s.html", repeats=16)
    with pytest.raises(Refused, match=r"Use a name that ends in \.html"):
        build_study(pictures, tmp_path / "s.pdf")


def test_mean_scores_are_of_each_group(study: Path) -> None:
    figures = scored(
        study,
        read_by(study, "a", "radiologist", fixed(5, 4, 1)),
        read_by(study, "b", "sonographer", fixed(4, 3, 1)),
        read_by(study, "c", "beginner", fixed(5, 5, 2)),
    )
    assert figures["mos"]["Expert"]["ours"][0] == 3.5 and figures["mos"]["Beginner"]["ours"][0] == 5
    assert figures["mos"]["All readers"]["real"][0] == pytest.approx(14 / 3)
    assert figures["mos"]["Expert"]["ours"][1:] == [3, 4]  # two readers of one opinion each
    assert figures["mos_by_kind"]["Radiologist"]["mean MR"] == [1, 1, 1]
    assert figures["readers"] == {"Radiologist": 1, "Sonographer": 1, "None of these": 1} and not figures["test"]
    assert figures["marks"]["mean MR"] == {"marked_share": 1, "marks_mean": 1}
    assert figures["marks"]["real"]["marked_share"] == 0


def test_a_clear_difference_is_told_from_none(study: Path) -> None:
    level = {"real": 4.2, "ours": 4.2, "mean MR": 1.8}
    files = [read_by(study, f"r{n}", "radiologist", varied(level, n)) for n in range(5)]
    pairs = {(one["method"], one["other"]): one for one in scored(study, *files)["comparisons"]["Expert"]}
    clear, same = pairs["mean MR", "ours"], pairs["ours", "real"]
    assert clear["difference"][2] < -1 and clear["p_holm"] < 0.02 and clear["paired"]
    assert same["difference"][1] < 0 < same["difference"][2] and same["p"] > 0.1
    assert all(one["p"] <= one["p_holm"] <= 1 for one in pairs.values())


def test_methods_of_other_cases_are_compared_unpaired(pictures: Path, tmp_path: Path) -> None:
    for path in list((pictures / "real").iterdir()):
        path.rename(path.with_name(f"mr-{path.name}"))
    build_study(pictures, tmp_path / "s.html", repeats=0)
    key = tmp_path / "s.key.json"
    figures = scored(key, read_by(key, "a", "radiologist", varied({"real": 4, "ours": 3, "mean MR": 2}, 0)))
    paired = {frozenset((one["method"], one["other"])): one["paired"] for one in figures["comparisons"]["Expert"]}
    assert paired == {frozenset({"real", "ours"}): False, frozenset({"real", "mean MR"}): False,
                      frozenset({"mean MR", "ours"}): True}  # fmt: skip


def test_a_reader_who_repeats_himself_agrees_and_one_who_does_not_does_not(study: Path) -> None:
    by_case = {case: n + 1 for n, case in enumerate(CASES)}
    steady = read_by(study, "a", "radiologist", lambda method, case, again: by_case[case])
    fickle = read_by(
        study, "b", "radiologist", lambda method, case, again: 6 - by_case[case] if again else by_case[case]
    )
    intra = scored(study, steady, fickle)["intra"]
    assert intra["readers"]["a"] == {"pairs": 3, "weighted_kappa": 1.0, "same_share": 1.0}
    assert intra["readers"]["b"]["weighted_kappa"] < 0.5
    inter = scored(study, steady, fickle)["inter"]["Expert"]
    assert inter == {
        "readers": 2,
        "images": 15,
        "weighted_kappa": 1.0,
        "icc": pytest.approx(1.0),
    }  # first ratings alone


def test_kappa_and_icc_are_those_of_the_books() -> None:
    """Shrout and Fleiss's own example: ICC(2,1) = 0.29."""
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert intraclass_correlation(ratings) == pytest.approx(0.29, abs=0.005)
    assert intraclass_correlation(ratings[:, :1]) is None and intraclass_correlation(np.ones((3, 3))) is None
    # The table [[2, 1], [1, 2]] has the unweighted kappa 1/3, and of two categories weights change nothing.
    assert weighted_kappa([1, 1, 1, 2, 2, 2], [1, 1, 2, 2, 2, 1]) == pytest.approx(1 / 3)
    assert weighted_kappa([1, 5], [5, 1]) == pytest.approx(-1)
    assert weighted_kappa([3, 3], [3, 3]) is None and weighted_kappa([], []) is None


def test_the_table_has_the_papers_layout(study: Path) -> None:
    files = [
        read_by(study, "a", "radiologist", fixed(5, 4, 1)),
        read_by(study, "b", "beginner", fixed(5, 4, 2)),
    ]
    lines = table(scored(study, *files)).splitlines()
    assert "| Method | | mean MR | ours | real |" in lines
    assert any(line.startswith("| MOS, higher is better | Expert | 1.00 [1.00, 1.00] |") for line in lines)
    assert any(line.startswith("|  | Beginner | 2.00 ") for line in lines)
    assert not any("TEST" in line for line in lines)


def test_readings_of_those_who_tested_the_page_are_called_a_test(study: Path) -> None:
    test = read_by(study, "t", "test", fixed(5, 4, 1))
    assert "TEST of the page" in table(scored(study, test))
    with pytest.raises(Refused, match=r"t\.json comes from somebody who only tested the page\. Leave it out\."):
        scored(study, test, read_by(study, "a", "radiologist", fixed(5, 4, 1)))


def test_an_incomplete_reading_counts_with_what_it_holds_and_is_named(study: Path) -> None:
    whole = json.loads(read_by(study, "a", "radiologist", fixed(5, 4, 1)).read_text())["readings"]
    part = read_by(study, "a", "radiologist", fixed(5, 4, 1), readings=whole[:4])
    figures = scored(study, part)
    assert figures["incomplete"] == ["a"] and "Incomplete, counted with what they hold: a." in table(figures)


def changed(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: content | fields


def first_rating(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: content | {"readings": [content["readings"][0] | fields, *content["readings"][1:]]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (changed(study="other"), r"a\.json is of another study than the key"),
        (changed(format="else"), r"a\.json is no reading of a study"),
        (changed(consent=False), "lacks the reader's consent"),
        (
            changed(reader={"id": "a", "kind": "plumber", "years": 3}),
            "lacks the reader's consent, profession and years",
        ),
        (changed(reader={"id": "a", "kind": "radiologist", "years": -1}), "lacks the reader's consent, profession"),
        (changed(readings=[]), "lacks any rating"),
        (changed(readings={}), "is saved progress, not a finished reading"),
        (first_rating(score=6), "a rating that is not from 1 to 5"),
        (first_rating(score=3.5), "a rating that is not from 1 to 5"),
        (first_rating(score=True), "a rating that is not from 1 to 5"),
        (first_rating(item="nothing"), "rates an image that is not in the study"),
        (first_rating(marks=[{"x": 41, "y": 3}]), "marks that lie in no image"),
        (first_rating(marks=[{"x": "a", "y": 3}]), "marks that lie in no image"),
        (first_rating(position=99), "lacks the order of the images"),
        (first_rating(position=1), "rates an image twice"),
        (first_rating(seconds=None), "lacks how long the ratings took"),
    ],
)
def test_a_malformed_file_is_refused(
    study: Path, change: Callable[[dict[str, Any]], dict[str, Any]], complaint: str
) -> None:
    path = read_by(study, "a", "radiologist", fixed(5, 4, 1))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(Refused, match=complaint):
        scored(study, path)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\x00\xff"])
def test_what_is_no_json_object_is_refused(study: Path, text: str) -> None:
    path = study.parent / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Refused, match=r"a\.json (is not JSON|holds no object)"):
        scored(study, path)


def test_one_reader_is_not_counted_twice(study: Path) -> None:
    path = read_by(study, "a", "radiologist", fixed(5, 4, 1))
    copy = path.with_name("copy.json")
    copy.write_bytes(path.read_bytes())
    with pytest.raises(Refused, match=r"copy\.json and a\.json are of the same reader"):
        scored(study, path, copy)


def test_a_file_that_is_no_key_is_refused(study: Path) -> None:
    path = read_by(study, "a", "radiologist", fixed(5, 4, 1))
    with pytest.raises(Refused, match=r"a\.json is no key of a reader study"):
        read_key(path)
    study.write_text(json.dumps(json.loads(study.read_text()) | {"items": []}))
    with pytest.raises(Refused, match=r"The key study\.key\.json is damaged"):
        read_key(study)


def test_the_commands_make_a_page_and_a_table(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    consent = tmp_path / "consent.txt"
    consent.write_text("You take part\nfreely.\n\n<b>Second</b> paragraph.\n")
    page = tmp_path / "s.html"
    assert cli.main(["study-page", str(pictures), str(page), "--consent", str(consent), "--repeats", "2"]) == 0
    assert "5 x mean MR, 5 x ours, 5 x real; 2 shown twice" in capsys.readouterr().out
    text = page.read_text()
    assert "You take part freely." in text and "<b>Second" not in text
    key = tmp_path / "s.key.json"
    file = read_by(key, "a", "radiologist", fixed(5, 4, 1))
    assert cli.main(["study-score", str(file), "--key", str(key)]) == 0
    assert "| MOS, higher is better | Expert |" in capsys.readouterr().out
    assert cli.main(["study-score", str(file), "--key", str(key), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mos"]["Expert"]["real"] == [5, 5, 5]
    assert cli.main(["study-score", str(file), "--key", str(file)]) == 2
    assert "is no key of a reader study" in capsys.readouterr().err
    consent.write_text(" \n")
    assert cli.main(["study-page", str(pictures), str(tmp_path / "t.html"), "--consent", str(consent)]) == 2
