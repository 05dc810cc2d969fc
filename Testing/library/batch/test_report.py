"""The report of a batch, as a file and in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.browser import DESKTOP, PHONE, chromium, opened
from USMRISynthesisLib.batch.report import COLUMNS, check_report, is_report, write_report
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io.png import png_bytes

HARMFUL = "<script>alert(1)</script>\"'&"
ROWS: list[dict[str, Any]] = [
    {
        "name": "b.nrrd",
        "state": "done",
        "seconds": 4.25,
        "thumbnail": "thumbnails/b.png",
        "input": "/patients/Doe/b.nrrd",
        "quality": {"score": 0.91, "roughness": 1.1, "reliability_mean": 0.93, "found_by": "network", "warnings": ""},
    },
    {
        "name": "a10.nrrd",
        "state": "done",
        "seconds": 11.0,
        "thumbnail": "thumbnails/a10.png",
        "quality": {"score": 0.55, "reliability_mean": None, "warnings": "The head may be reversed."},
    },
    {"name": "a9.nrrd", "state": "refused", "message": "No head.", "remedy": "Choose another.", "quality": None},
    {"name": HARMFUL, "state": "failed", "message": "</script><img src=x onerror=alert(2)>", "seconds": 1},
    {"name": "c\u2028\ud800.nrrd", "state": "skipped", "quality": {"score": float("nan")}},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "thumbnails").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a10", "b"):
        (tmp_path / "thumbnails" / f"{name}.png").write_bytes(
            png_bytes(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        )
    return tmp_path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


def written(folder: Path, rows: list[dict[str, Any]] = ROWS, **options: int) -> Path:
    write_report(rows, folder, folder / "report.html", **options)
    return folder / "report.html"


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_the_page_holds_the_cases_and_no_path(folder: Path) -> None:
    page = written(folder)
    assert "Doe" not in page.read_text()
    rows = data_of(page)["rows"]
    assert [row["name"] for row in rows] == [row["name"] for row in ROWS]
    assert rows[2] == {"name": "a9.nrrd", "state": "refused", "note": "No head. Choose another."}
    assert "score" not in rows[4]


def test_texts_cannot_become_markup(folder: Path) -> None:
    text = written(folder).read_text()
    assert "alert" in text and "<script>alert" not in text and "<img" not in text
    assert text.count("</script>") == 4  # two thumbnails, the data and the program


def test_thumbnails_are_in_the_page(folder: Path) -> None:
    text = written(folder).read_text()
    for name in ("a10", "b"):
        assert base64.b64encode((folder / "thumbnails" / f"{name}.png").read_bytes()).decode() in text


def test_with_too_many_thumbnails_the_doubtful_cases_keep_theirs_and_the_others_are_linked(folder: Path) -> None:
    size = (folder / "thumbnails" / "a10.png").stat().st_size
    content = data_of(written(folder, embedded_bytes=size + 10))
    assert content["rows"][1]["picture"] == "#1" and content["rows"][0]["picture"] == "thumbnails/b.png"
    assert content["linked"] == 1


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "missing.png", "text.png", "", None, 7, "a\0b.png"])
def test_nothing_but_a_picture_of_the_folder_is_taken(folder: Path, name: object) -> None:
    (folder / "text.png").write_text("password")
    inner = folder / "thumbnails"
    (folder / "secret.png").write_bytes((inner / "b.png").read_bytes())
    page = inner / "report.html"
    write_report(
        [{"name": "a", "state": "done", "thumbnail": name}], inner if name == "../secret.png" else folder, page
    )
    assert "picture" not in data_of(page)["rows"][0]


def test_an_earlier_report_is_replaced_and_no_other_file(folder: Path) -> None:
    page = written(folder)
    assert is_report(page)
    assert len(data_of(written(folder, ROWS[:1]))["rows"]) == 1
    page.write_text("<html>mine</html>")
    with pytest.raises(Refused, match=r"report\.html exists and was not made by this program"):
        written(folder)
    assert page.read_text() == "<html>mine</html>"
    assert sorted(one.name for one in folder.iterdir()) == ["report.html", "thumbnails"]


def test_another_ending_is_refused(folder: Path) -> None:
    with pytest.raises(Refused, match=r"cannot be written as report\.pdf\. Use a name that ends in \.html\."):
        write_report(ROWS, folder, folder / "report.pdf")


def test_a_report_may_go_into_the_folder_that_the_run_makes(tmp_path: Path) -> None:
    check_report(tmp_path / "out" / "report.html", output=tmp_path / "out")
    with pytest.raises(Failed, match=r"The folder for report\.html does not exist"):
        check_report(tmp_path / "other" / "report.html", output=tmp_path / "out")
    with pytest.raises(Refused, match=r"ends in \.html"):
        check_report(tmp_path / "out" / "report.txt", output=tmp_path / "out")


def names(page: Any) -> list[str]:
    return list(page.locator("#rows td[data-key=name]").all_text_contents())


def test_the_table_is_sorted_by_click_and_by_key(browser: Any, folder: Path) -> None:
    with opened(browser, written(folder)) as page:
        assert names(page) == [row["name"] for row in ROWS]
        head = page.locator("th[data-key=score]")
        head.locator("button").click()
        assert names(page)[:2] == ["a10.nrrd", "b.nrrd"] and head.get_attribute("aria-sort") == "ascending"
        page.keyboard.press("Enter")
        assert names(page)[:2] == ["b.nrrd", "a10.nrrd"] and head.get_attribute("aria-sort") == "descending"
        page.locator("th[data-key=name] button").focus()
        page.keyboard.press("Space")
        shown = names(page)
        assert shown.index("a9.nrrd") < shown.index("a10.nrrd") < shown.index("b.nrrd")
        assert head.get_attribute("aria-sort") == "none"
        for one in page.locator("th button").all():  # every column, both ways
            for _ in range(2):
                one.click()
                assert sorted(names(page)) == sorted(shown)


def test_states_and_words_filter(browser: Any, folder: Path) -> None:
    with opened(browser, written(folder)) as page:
        counts = page.locator("#states button").all_text_contents()
        assert counts == ["5 all", "2 done", "1 failed", "1 refused", "1 skipped", "1 with warnings"]
        page.get_by_role("button", name="1 with warnings").click()
        assert names(page) == ["a10.nrrd"]
        assert page.get_by_text("The head may be reversed.").is_visible()
        page.get_by_role("button", name="5 all").click()
        page.locator("#text").fill("A9 another")
        page.locator("#rows tr").nth(1).wait_for(state="detached")
        assert names(page) == ["a9.nrrd"] and page.locator("#count").text_content() == "1 of 5 cases"
        page.locator("#text").fill("nothing like it")
        page.locator("#none").wait_for(state="visible")


def test_a_harmful_name_is_shown_as_it_is(browser: Any, folder: Path) -> None:
    with opened(browser, written(folder)) as page:  # a dialog would fail the test
        assert HARMFUL in names(page)
        assert page.locator("img[src=x]").count() == 0


def test_pictures_show_embedded_and_linked_and_grow_on_a_click(browser: Any, folder: Path) -> None:
    size = (folder / "thumbnails" / "a10.png").stat().st_size
    with opened(browser, written(folder, embedded_bytes=size + 10)) as page:
        for image in page.locator("img").all():
            image.scroll_into_view_if_needed()
            assert image.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") == 80
        assert page.locator("img").count() == 2
        assert page.locator("#linked").is_visible()
        picture = page.locator(".picture").first
        before = picture.bounding_box()["width"]
        picture.click()
        assert picture.bounding_box()["width"] > 2 * before


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Any, folder: Path, size: tuple[int, int], scheme: str) -> None:
    whole = {key: 0.123 for key, _, is_number in COLUMNS if is_number} | {"answer": "trans-ventricular"}
    full = {**ROWS[0], "name": "sub-01/ses-02/fetal-head-simulated.nrrd", "quality": whole}
    rows = [*ROWS, full, {"name": "x" * 300, "state": "failed", "message": "y" * 400}]
    with opened(browser, written(folder, rows), size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.locator("table").evaluate("(table) => table.parentElement.scrollWidth") <= size[0]
        paper, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        light = [sum(map(int, re.findall(r"\d+", one)[:3])) for one in (paper, ink)]
        assert (light[0] > light[1]) == (scheme == "light") and abs(light[0] - light[1]) > 500


def test_on_a_phone_a_list_sorts(browser: Any, folder: Path) -> None:
    with opened(browser, written(folder), PHONE) as page:
        page.locator("#by").select_option("seconds-")
        assert names(page)[:2] == ["a10.nrrd", "b.nrrd"]


def test_ten_thousand_rows_stay_usable_and_all_are_printed(browser: Any, folder: Path) -> None:
    many = [{**ROWS[n % 3], "name": f"case-{n:05d}", "thumbnail": None} for n in range(10_000)]
    with opened(browser, written(folder, many)) as page:
        assert page.locator("#rows tr").count() < 300
        page.locator("th[data-key=name] button").click()
        page.locator("th[data-key=name] button").click()
        assert names(page)[0] == "case-09999" and page.locator("#rows tr").count() < 300
        before = page.locator("#rows tr").count()
        page.mouse.wheel(0, 100_000)
        page.locator("#rows tr").nth(before).wait_for(state="attached")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#rows tr").count() == 10_000
