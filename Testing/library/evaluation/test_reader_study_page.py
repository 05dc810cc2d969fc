"""The page of a reader study in a real browser, from the first click to the table. A test reads here, no reader."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.browser import DESKTOP, PHONE, chromium, opened
from USMRISynthesisLib.evaluation.reader_study.build import build_study
from USMRISynthesisLib.evaluation.reader_study.readings import read_key, read_readings
from USMRISynthesisLib.evaluation.reader_study.score import first_ratings, score_study
from USMRISynthesisLib.evaluation.reader_study.table import table

Image = pytest.importorskip("PIL.Image")
SIZE = (120, 90)  # width, height
LEVEL = {"real": 40, "ours": 120, "mean MR": 200}  # the grey by which the test knows a method
SCORE = {"real": 5, "ours": 3, "mean MR": 1}
TOTAL = 10  # three methods, three cases, one of them twice


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The page; its images are grey, with a white square at (90, 30) in image pixels."""
    for method, grey in LEVEL.items():
        (tmp_path / "in" / method).mkdir(parents=True)
        for case in range(3):
            pixels = np.full((SIZE[1], SIZE[0]), grey + case, np.uint8)
            pixels[28:33, 88:93] = 255
            Image.fromarray(pixels).save(tmp_path / "in" / method / f"{case}.png")
    build_study(tmp_path / "in", tmp_path / "study.html", title="A <b>test</b>", repeats=1)
    return tmp_path / "study.html"


def picture(page: Any, name: str) -> None:
    """Keep a picture of the page where $USMRI_SCREENSHOTS names a folder."""
    if folder := os.environ.get("USMRI_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"study-{name}-{page.viewport_size['width']}.png"))


def start(page: Any, kind: str = "test") -> None:
    page.locator("#agree").check()
    page.locator("#kind").select_option(kind)
    page.locator("#years").fill("4")
    page.locator("#start").click()


def method_shown(page: Any) -> str:
    """Which method the image on the screen is of, by its grey."""
    grey = page.locator("#image").evaluate(
        """async (image) => { await image.decode(); const canvas = document.createElement('canvas'); canvas.width = 1;
        canvas.height = 1; const pen = canvas.getContext('2d'); pen.drawImage(image, 0, 0, 1, 1, 0, 0, 1, 1);
        return pen.getImageData(0, 0, 1, 1).data[0]; }"""
    )
    return next(method for method, level in LEVEL.items() if level <= grey < level + 3)


def exported(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator(button).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def place(page: Any) -> str:
    return str(page.locator("#place").text_content())


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_from_the_first_click_to_the_table(browser: Any, study: Path, size: tuple[int, int]) -> None:
    phone = size == PHONE
    with opened(browser, study, size, has_touch=phone, is_mobile=phone, accept_downloads=True) as page:
        assert page.locator("h1").text_content() == "A <b>test</b>"
        picture(page, "intro")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        start(page)
        for number in range(TOTAL):
            assert place(page) == f"{number + 1} of {TOTAL}"
            assert page.locator("#next").is_disabled()
            method = method_shown(page)
            if method == "mean MR":
                box = page.locator("#image").bounding_box()
                x, y = box["x"] + box["width"] * 90 / SIZE[0], box["y"] + box["height"] * 30 / SIZE[1]
                (page.touchscreen.tap if phone else page.mouse.click)(x, y)
                assert page.locator("#marked").text_content() == "1 place marked as wrong."
            button = page.locator(f"#scores button[data-score='{SCORE[method]}']")
            (button.tap if phone else button.click)()
            assert button.get_attribute("aria-checked") == "true"
            if method == "mean MR":
                picture(page, "reading")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            page.locator("#next").click()
        picture(page, "end")
        file = exported(page, "#export", study.parent)
    key = read_key(study.with_suffix(".key.json"))
    assert file.name.startswith(f"reading-{key.study}-")
    (reading,) = read_readings([file], key)
    assert reading.complete and (reading.kind, reading.years) == ("test", 4)
    assert {image: SCORE[image[0]] for image in first_ratings(reading, key)} == first_ratings(reading, key)
    for one in reading.ratings:
        if key.items[one.item][0] == "mean MR":
            ((x, y),) = one.marks
            assert abs(x - 90) < 1 and abs(y - 30) < 1
        else:
            assert one.marks == ()
    figures = score_study([reading], key, draws=50)
    assert figures["mos"]["Test"]["ours"] == [3, 3, 3] and figures["intra"]["same_share"] == 1
    assert "TEST of the page" in table(figures)


def test_it_can_be_done_with_the_keyboard_alone(browser: Any, study: Path) -> None:
    with opened(browser, study, accept_downloads=True) as page:
        press = page.keyboard.press
        page.locator("#agree").focus()
        press("Space")
        press("Tab")
        page.keyboard.type("I only")
        press("Tab")
        page.keyboard.type("4")
        press("Tab")
        press("Enter")
        assert place(page) == f"1 of {TOTAL}"
        press("n")
        assert place(page) == f"1 of {TOTAL}"  # not without a rating
        press("m")
        for _ in range(4):
            press("ArrowRight")
        press("ArrowUp")
        press("Space")
        press("Shift+ArrowLeft")
        press("Space")
        assert page.locator("#marked").text_content() == "2 places marked as wrong."
        press("u")
        for number in range(TOTAL):
            press("Escape")
            press(str(1 + number % 5))
            press("n")
        assert page.locator("#end").is_visible()
        file = exported(page, "#export", study.parent)
    content = json.loads(file.read_text())
    assert [one["score"] for one in content["readings"]] == [1 + n % 5 for n in range(TOTAL)]
    step = max(1, round(SIZE[0] / 60))
    assert content["readings"][0]["marks"] == [{"x": 60 + 4 * step, "y": 45 - step}]


def test_a_rating_can_be_changed_and_a_mark_taken_away(browser: Any, study: Path) -> None:
    with opened(browser, study) as page:
        start(page)
        page.locator("#image").click(position={"x": 50, "y": 50})
        page.locator("#image").click(position={"x": 55, "y": 52})
        assert page.locator("#marked").text_content().startswith("Click what looks wrong")
        page.keyboard.press("2")
        page.keyboard.press("n")
        page.locator("#previous").click()
        assert page.locator("#scores button[aria-checked=true]").text_content() == "2 poor"
        page.keyboard.press("4")
        assert page.locator("#scores button[aria-checked=true]").text_content() == "4 good"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        ("document.getElementById('agree').checked = false", "of your own free will"),
        ("document.getElementById('kind').value = ''", "choose your profession"),
        ("document.getElementById('years').value = ''", "years of experience"),
        ("document.getElementById('years').value = '99'", "years of experience"),
    ],
)
def test_nobody_starts_without_consent_and_answers(browser: Any, study: Path, spoil: str, complaint: str) -> None:
    with opened(browser, study) as page:
        page.locator("#agree").check()
        page.locator("#kind").select_option("radiologist")
        page.locator("#years").fill("4")
        page.evaluate(spoil)
        page.locator("#start").click()
        assert complaint in page.locator("#message").text_content()
        assert page.locator("#intro").is_visible() and not page.locator("#reading").is_visible()


def test_a_pause_is_gone_on_with_in_the_same_browser(browser: Any, study: Path) -> None:
    with opened(browser, study) as page:
        start(page)
        order = page.evaluate("state.order")
        for _ in range(3):
            page.keyboard.press("3")
            page.keyboard.press("n")
        page.locator("#pause").click()
        picture(page, "paused")
        assert "kept in this browser" in page.locator("#kept").text_content()
        page.reload()
        assert page.locator("#resume").text_content() == f"Resume (3 of {TOTAL} rated)"
        page.locator("#resume").click()
        assert place(page) == f"4 of {TOTAL}" and page.evaluate("state.order") == order


def test_without_a_store_progress_goes_through_a_file(browser: Any, study: Path) -> None:
    """As in private windows, and where the page is carried to another machine."""
    forbid = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })"
    context = browser.new_context(accept_downloads=True)
    context.add_init_script(forbid)
    try:
        page = context.new_page()
        page.goto(study.as_uri())
        start(page)
        assert "cannot keep your progress" in page.locator("#message").text_content()
        page.keyboard.press("5")
        page.keyboard.press("n")
        page.locator("#pause").click()
        file = exported(page, "#save", study.parent)
        page.reload()
        assert not page.locator("#resume").is_visible()
        page.locator("#file").set_input_files(file)
        page.locator("#reading").wait_for(state="visible")
        assert place(page) == f"2 of {TOTAL}"
    finally:
        context.close()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "holds no saved progress"),
        ('{"a": 1}', "holds no saved progress"),
        ('{"study": "another"}', "of another study"),
        ('{"study": "STUDY", "order": []}', "holds no progress that can be gone on with"),
    ],
)
def test_a_file_that_is_no_progress_of_this_study_is_refused(
    browser: Any, study: Path, content: str, complaint: str
) -> None:
    name = read_key(study.with_suffix(".key.json")).study
    file = study.with_name("progress.json")
    file.write_text(content.replace("STUDY", name))
    with opened(browser, study) as page:
        page.locator("#file").set_input_files(file)
        page.locator("#message").wait_for(state="visible")
        assert complaint in page.locator("#message").text_content()
        assert page.locator("#intro").is_visible()


def test_every_reader_gets_an_order_of_his_own(browser: Any, study: Path) -> None:
    orders = []
    for _ in range(3):
        with opened(browser, study) as page:  # a new context: another reader's browser
            start(page)
            orders.append(tuple(page.evaluate("state.order")))
    assert len(set(orders)) > 1 and len({frozenset(order) for order in orders}) == 1
