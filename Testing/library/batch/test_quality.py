"""The figures and the small picture of one result."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.batch import quality
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.marks import is_ours
from USMRISynthesisLib.io.png import framed, notice_mask, png_bytes
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import BEAM_ONLY, PROBABILITY, Synthesis

Image = pytest.importorskip("PIL.Image")
# Oblique, anisotropic and left-handed.
GRID = np.array([[0.9, 0.3, 0.0, -30], [-0.3, 0.9, 0.5, -40], [0.1, -0.2, -1.5, 40], [0, 0, 0, 1]])
SHAPE = (50, 80, 70)


def ball(where: np.ndarray, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """Voxels (k, j, i) whose place in RAS mm lies in a ball."""
    return np.linalg.norm(where - np.array(centre), axis=-1) < radius


@pytest.fixture
def places() -> np.ndarray:
    k, j, i = np.indices(SHAPE)
    return np.stack([i, j, k], axis=-1) @ GRID[:3, :3].T + GRID[:3, 3]


def made(places: np.ndarray, *, meaning: str = PROBABILITY, **provenance: object) -> tuple[Synthesis, Volume]:
    """A head: the brain is a ball, its right half bright in the MR, its lower half unreliable; the frontal pole shines
    in the ultrasound."""
    brain = ball(places, (0, 0, 0), 25)
    mr = np.where(brain, np.where(places[..., 0] > 0, 900, 200), 0).astype(np.int16)
    confidence = np.where(brain, np.where(places[..., 2] < 0, 0.5, 0.95), 0).astype(np.float32)
    us = np.where(ball(places, (0, 18, 0), 6), 250, 20).astype(np.uint8)
    facts = {"alignment": {"score": 0.75, "method": "network"}, "support": {"meaning": meaning}, "warnings": []}
    result = Synthesis(Volume(mr, GRID), np.eye(4), Volume(confidence, GRID), facts | provenance)
    return result, Volume(us, GRID)


def test_figures_are_of_the_inside_of_the_head(places: np.ndarray) -> None:
    result, _ = made(places, warnings=["Check it.", "And that."])
    found = quality.measure(result)
    assert found["score"] == 0.75 and found["found_by"] == "network"
    assert found["reliability_mean"] == pytest.approx(0.725, abs=0.02) and found["reliability_p10"] == 0.5
    assert found["warnings"] == "Check it. And that."
    assert found["answer"] is None and found["brain"] is None and found["expected_error"] is None


def test_without_a_reliability_map_there_is_no_reliability(places: np.ndarray) -> None:
    found = quality.measure(made(places, meaning=BEAM_ONLY)[0])
    assert found["reliability_mean"] is None and found["reliability_p10"] is None


def test_torn_slices_raise_the_roughness(places: np.ndarray) -> None:
    result, _ = made(places)
    smooth = np.where(result.mr.array > 0, 500 + 200 * np.cos(places / 9).sum(axis=-1), 0)
    stripes = 250 * (np.floor(places[..., 2] / 2) % 2) * (smooth > 0)
    result.mr = result.mr.with_values(smooth.astype(np.int16))
    before = quality.measure(result)["roughness"]
    result.mr = result.mr.with_values((smooth + stripes).astype(np.int16))
    after = quality.measure(result)["roughness"]
    assert isinstance(before, float) and isinstance(after, float) and after > 1.2 * before


def test_an_empty_result_has_figures_that_are_missing_and_a_picture(places: np.ndarray, tmp_path: Path) -> None:
    result, ultrasound = made(places)
    result.mr = result.mr.with_values(np.zeros(SHAPE, np.int16))
    result.confidence = result.mr.with_values(np.zeros(SHAPE, np.float32))
    found = quality.measure(result)
    assert found["roughness"] is None and found["reliability_mean"] is None
    quality.thumbnail(result, ultrasound, tmp_path / "a.png")


def test_what_a_frame_shows_is_named(places: np.ndarray) -> None:
    result, ultrasound = made(
        places, frame_content={"answer": "trans-thalamic", "probabilities": {"trans-thalamic": 0.9, "no brain": 0.1}}
    )
    flat = Synthesis(
        Volume(result.mr.array[25:26], GRID), result.transform, Volume(result.confidence.array[25:26], GRID),
        result.provenance,
    )  # fmt: skip
    found = quality.measure(flat)
    assert (found["answer"], found["brain"], found["roughness"]) == ("trans-thalamic", 0.9, None)
    assert quality.draw(flat, Volume(ultrasound.array[25:26], GRID)).shape[0] == quality.TILE


@pytest.mark.parametrize(
    ("value", "expected"), [(31.25, 31.25), ({"whole": 12, "slices": [1]}, 12.0), (float("nan"), None), ("much", None)]
)
def test_the_expected_error_is_taken_where_there_is_one(places: np.ndarray, value: object, expected: object) -> None:
    assert quality.measure(made(places, expected_error=value)[0])["expected_error"] == expected


def test_the_tiles_show_the_right_side_on_the_left_and_the_front_up(places: np.ndarray) -> None:
    """Whatever the grid of the image."""
    picture = quality.draw(*made(places)).astype(int)
    step = quality.TILE + 2

    def tile(row: int, column: int) -> np.ndarray:
        return picture[row * step : row * step + quality.TILE, column * step : column * step + quality.TILE]

    half = quality.TILE // 2
    for row in (0, 1):  # axial, coronal: the bright right half
        assert tile(row, 1)[:, : half - 2].sum() > 3 * tile(row, 1)[:, half + 2 :].sum()
    us = tile(0, 0)[..., 0]
    rows, columns = np.nonzero(us > 200)
    assert rows.mean() < half - 10 and abs(columns.mean() - half) < 3  # front: up, on the midline
    assert np.nonzero(tile(2, 0)[..., 0] > 200)[1].mean() < half - 10  # sagittal: front on the left
    coloured = np.ptp(tile(1, 3), axis=-1) > 60
    assert coloured[half + 3 :].sum() > 200 and coloured[: half - 3].sum() == 0  # unreliable below


def test_without_a_reliability_map_its_tile_is_empty(places: np.ndarray) -> None:
    picture = quality.draw(*made(places, meaning=BEAM_ONLY))
    assert np.ptp(picture[: quality.TILE, -quality.TILE :].reshape(-1, 3), axis=0).max() == 0


def test_the_picture_says_that_it_is_synthetic_and_may_be_replaced(places: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for _ in range(2):
        quality.thumbnail(*made(places), path)
    assert is_ours(path) and path.stat().st_size < 100_000
    image = Image.open(path)
    strip = np.asarray(image)[:20].astype(int)
    letters = (np.abs(strip - (255, 196, 84)).max(axis=-1) < 8).sum()
    assert letters == notice_mask().sum() > 500
    assert image.info["Comment"] == "SYNTHETIC - not for diagnosis"
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]


def test_a_foreign_picture_is_not_replaced(places: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(Refused, match="not made by this program"):
        quality.thumbnail(*made(places), path)
    assert path.read_bytes() == b"mine"


def test_another_grid_is_an_error(places: np.ndarray, tmp_path: Path) -> None:
    result, ultrasound = made(places)
    with pytest.raises(ValueError, match="one grid"):
        quality.thumbnail(result, Volume(ultrasound.array[1:], GRID), tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (96, 200, 3)])
def test_a_png_holds_what_was_put_in(shape: tuple[int, int, int]) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(BytesIO(png_bytes(rgb)))), rgb)
    assert np.array_equal(framed(rgb)[20:, : shape[1]], rgb)
