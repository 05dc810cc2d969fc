"""Ultrasound pictures as DICOM: pixel size and part by region; what shows no B-mode image is refused with a way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")
from factories.dicom import US, US_FILM, US_FILM_RETIRED, US_RETIRED, dataset, region, save
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume

PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)


def picture(tmp_path: Path, *regions: Any, pixels: np.ndarray = PICTURE, sop_class: str = US, **fields: Any) -> Path:
    if regions:
        fields["SequenceOfUltrasoundRegions"] = list(regions)
    return save(dataset(sop_class, pixels, **fields), tmp_path / "us.dcm")


@pytest.mark.parametrize("sop_class", [US, US_RETIRED])
def test_the_region_gives_the_pixel_size_and_stays_in_its_place(sop_class: str, tmp_path: Path) -> None:
    read = Volume.read(picture(tmp_path, region(10, 5, 49, 40, (0.03, 0.05)), sop_class=sop_class))
    np.testing.assert_array_equal(read.array[0], PICTURE[5:41, 10:50])
    # mm; columns to the patient's left, rows to the back, as DICOM has them; the offset is that of pixel (10, 5).
    np.testing.assert_allclose(
        read.ijk_to_ras, [[-0.3, 0, 0, -3.0], [0, -0.5, 0, -2.5], [0, 0, 1, 0], [0, 0, 0, 1]], atol=1e-9
    )


def test_a_last_pixel_given_as_the_one_after_it_is_understood(tmp_path: Path) -> None:
    assert Volume.read(picture(tmp_path, region(0, 0, 64, 48))).shape == (1, 48, 64)


@pytest.mark.parametrize("fields", [{"PhysicalDeltaX": -0.03}, {"PhysicalDeltaY": -0.03}])
def test_a_negative_delta_is_a_direction_and_no_size(fields: dict[str, float], tmp_path: Path) -> None:
    np.testing.assert_allclose(Volume.read(picture(tmp_path, region(0, 0, 63, 47, **fields))).spacing[:2], 0.3)


def test_several_b_mode_regions_are_listed_and_chosen(tmp_path: Path) -> None:
    path = picture(tmp_path, region(0, 0, 31, 47), region(32, 0, 63, 47, (0.02, 0.02)))
    with pytest.raises(Refused, match=r"shows 2 B-mode images: 1 \(columns 0 to 31, rows 0 to 47, 0.3 mm a pixel\); 2"):
        Volume.read(path)
    second = Volume.read(path, region=2)
    np.testing.assert_array_equal(second.array[0], PICTURE[:, 32:])
    assert second.spacing[0] == pytest.approx(0.2)
    for number in (0, 3, -1):
        with pytest.raises(Refused, match=f"no B-mode region {number}.*--region N"):
            Volume.read(path, region=number)


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ([region(0, 0, 63, 47, RegionSpatialFormat=3, RegionDataType=3)], "shows spectral Doppler and no 2D B-mode"),
        ([region(0, 0, 63, 47, RegionSpatialFormat=2)], "shows M-mode and no 2D B-mode"),
        ([region(0, 0, 63, 47, RegionDataType=2)], "shows colour flow and no 2D B-mode"),
        ([region(0, 0, 63, 47, RegionSpatialFormat=4, RegionDataType=10)], "shows a waveform and no 2D B-mode"),
        ([region(0, 0, 63, 47), region(20, 20, 40, 40, RegionDataType=2)], "Colour flow lies over the B-mode image"),
        ([region(0, 0, 63, 47, PhysicalUnitsXDirection=4)], "has no pixel size in cm"),
        ([region(0, 0, 63, 47, (0.0, 0.03))], "has no pixel size in cm"),
        ([region(0, 0, 99, 47)], "does not lie in its picture"),
        ([region(30, 0, 20, 47)], "does not lie in its picture"),
    ],
)
def test_what_shows_no_b_mode_image_is_refused(others: list[Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=sentence) as refusal:
        Volume.read(picture(tmp_path, *others))
    assert refusal.value.kind in ("region", "spacing") and refusal.value.remedy


def test_colour_flow_beside_the_b_mode_image_is_no_matter(tmp_path: Path) -> None:
    path = picture(tmp_path, region(0, 0, 31, 47), region(32, 0, 63, 47, RegionDataType=2))
    assert Volume.read(path).shape == (1, 48, 32)


def test_a_given_pixel_size_wins_over_the_region(tmp_path: Path) -> None:
    path = picture(tmp_path, region(10, 5, 49, 40, PhysicalUnitsXDirection=0))
    read = Volume.read(path, pixel_size_mm=0.25)
    assert read.spacing[:2] == (0.25, 0.25) and read.shape == (1, 36, 40)
    np.testing.assert_allclose(read.ijk_to_ras[:2, 3], (-2.5, -1.25))
    outside = picture(tmp_path, region(10, 5, 490, 400))
    assert Volume.read(outside, pixel_size_mm=0.25).shape == (1, 48, 64)


def test_without_regions_the_pixel_spacing_counts_or_a_size_is_needed(tmp_path: Path) -> None:
    assert Volume.read(picture(tmp_path, PixelSpacing=[0.4, 0.3])).spacing[:2] == (0.3, 0.4)
    bare = picture(tmp_path)
    with pytest.raises(Refused, match=r"us\.dcm does not state the size of its pixels\. Give it with --pixel-size MM"):
        Volume.read(bare)
    assert Volume.read(bare, pixel_size_mm=0.3).spacing[:2] == (0.3, 0.3)
    with pytest.raises(Refused, match="states no regions"):
        Volume.read(bare, region=1, pixel_size_mm=0.3)


def test_the_coloured_screen_around_the_region_does_not_matter(tmp_path: Path) -> None:
    screen = np.repeat(PICTURE[..., None], 3, axis=-1)
    screen[:8] = (30, 60, 200)  # the scanner's bar
    path = picture(tmp_path, region(0, 8, 63, 47), pixels=screen)
    np.testing.assert_allclose(Volume.read(path).array[0], PICTURE[8:], atol=1)
    with pytest.raises(Refused, match="in colour"):
        Volume.read(picture(tmp_path, pixels=screen), pixel_size_mm=0.3)


@pytest.mark.parametrize("sop_class", [US_FILM, US_FILM_RETIRED])
def test_a_film_is_time_and_no_volume(sop_class: str, tmp_path: Path) -> None:
    film = np.random.default_rng(1).integers(0, 255, (5, 48, 64), dtype=np.uint8)
    path = picture(tmp_path, region(0, 0, 63, 47), pixels=film, sop_class=sop_class)
    with pytest.raises(Refused, match=r"us\.dcm holds 5 time points\. Choose one with --frame N, N from 0 to 4"):
        Volume.read(path)
    for frame in range(5):
        np.testing.assert_array_equal(Volume.read(path, frame=frame).array[0], film[frame])
    with pytest.raises(Refused, match=r"There is no frame 5: us.dcm holds 5"):
        Volume.read(path, frame=5)


def test_options_of_dicom_are_refused_elsewhere(tmp_path: Path) -> None:
    Volume(PICTURE[None], np.eye(4)).write(tmp_path / "a.nrrd")
    for options in ({"series": "1"}, {"region": 1}):
        with pytest.raises(Refused, match=r"a\.nrrd is not DICOM, which alone has it\. Leave --(series|region) out"):
            Volume.read(tmp_path / "a.nrrd", **options)
