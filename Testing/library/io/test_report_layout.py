"""The page of a report holds all of its text, whatever the pictures' shape and the title's length and alphabet."""

from __future__ import annotations

import numpy as np
import pytest
from USMRISynthesisLib.io import report as page
from USMRISynthesisLib.io.report import PAGE, Report, draw_report

Image = pytest.importorskip("PIL.Image")
PROVENANCE = {"software": {"name": "USMRISynthesis", "version": "1"}, "planes": "axial",
              "model": {"name": "default", "version": "2", "sha256": "0" * 64}}  # fmt: skip
ORDINARY = (300, 400)


def drawn(shape: tuple[int, int] = ORDINARY, title: str = page.TITLE, count: int = 3, **changes: object) -> np.ndarray:
    pictures = {f"Picture {n}": np.full((*shape, 3), 255, np.uint8) for n in range(count)}
    return draw_report(Report(pictures, PROVENANCE | changes, title))


def rows_of_text(image: np.ndarray) -> int:
    dark = (image < 200).all(axis=2).any(axis=1).astype(int)
    return int((np.diff(np.r_[0, dark, 0]) == 1).sum())


def margins_are_free(image: np.ndarray) -> bool:
    dark = (image < 200).any(axis=2)
    return not (dark[-60:].any() or dark[:60].any() or dark[:, :70].any() or dark[:, -70:].any())


@pytest.mark.parametrize("shape", [(850, 276), (1600, 300), (5000, 40), (300, 400), (40, 5000), (1, 1), (4000, 4000)])
def test_all_of_the_text_is_on_the_page_whatever_the_shape_of_the_views(shape: tuple[int, int]) -> None:
    image = drawn(shape)
    assert image.shape == (PAGE[1], PAGE[0], 3)
    assert rows_of_text(image) == rows_of_text(drawn()) > 12 and margins_are_free(image)


def test_pictures_keep_their_proportions() -> None:
    tall = np.zeros((1600, 400, 3), np.uint8)
    tall[:, :, 0] = 255  # nothing else on the page is this red
    image = draw_report(Report({"One": tall}, PROVENANCE)).astype(int)
    red = (image[..., 0] > 250) & (image[..., 1] < 5)
    height, width = red.any(axis=1).sum(), red.any(axis=0).sum()
    assert height > 300 and abs(height / width - 4) < 0.05


@pytest.mark.parametrize("title", ["W" * 500, "wide Words " * 60, "a\nb\tc", ""])
def test_a_long_title_stays_in_the_margins(title: str) -> None:
    image = drawn((1600, 300), title)
    assert margins_are_free(image) and rows_of_text(image) >= rows_of_text(drawn(title="x")) - 1


def test_a_long_name_of_a_model_stays_in_the_margins() -> None:
    image = drawn((1600, 300), model={"name": "m" * 900, "version": "v" * 900, "sha256": "0" * 64})
    assert margins_are_free(image)


@pytest.mark.parametrize(
    "title",
    [
        "\u80ce\u513f\u8d85\u58f0",
        "\u0635\u0648\u0631\u0629",
        "\u05ea\u05de\u05d5\u05e0\u05d4",
        "\ud0dc\uc544",
        "Head \U0001f9e0",
    ],
)
def test_a_title_that_the_font_lacks_is_replaced_and_a_note_says_so(title: str) -> None:
    image, usual = drawn(title=title), drawn()
    np.testing.assert_array_equal(image[:170], usual[:170])  # the heading
    assert rows_of_text(image) == rows_of_text(usual) + 1


def test_a_title_that_the_font_has_is_shown() -> None:
    image, usual = drawn(title="Ultrasound - MR"), drawn()
    assert rows_of_text(image[170:]) == rows_of_text(usual[170:])  # no note
    assert (image[:140] != usual[:140]).any()


def test_a_title_with_accents_is_shown_without_them_and_a_note_says_so() -> None:
    image, plain = drawn(title="F\u00f6tus, t\u00eate"), drawn(title="Fotus, tete")
    np.testing.assert_array_equal(image[:170], plain[:170])
    assert rows_of_text(image) == rows_of_text(plain) + 1
