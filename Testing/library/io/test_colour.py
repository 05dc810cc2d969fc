"""Grey stored in colour is made grey; marks of the screen are taken out; colour in the tissue is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.colour import to_grey
from USMRISynthesisLib.io.volume import Volume


def frame(shape=(240, 320), seed=0) -> np.ndarray:
    """(j, i) uint8: speckle in a fan, black outside."""
    rng = np.random.default_rng(seed)
    j, i = np.indices(shape)
    fan = (np.hypot(i - shape[1] / 2, j + 40) < shape[0] + 20) & (abs(i - shape[1] / 2) < 0.7 * (j + 40))
    return (np.clip(rng.rayleigh(40, shape), 10, 255) * fan).astype(np.uint8)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, -1)


def test_grey_in_any_number_of_channels_is_the_same_grey():
    grey = frame()
    opaque = np.full_like(grey, 255)
    np.testing.assert_array_equal(to_grey(rgb(grey)), grey)
    np.testing.assert_array_equal(to_grey(np.dstack([rgb(grey), opaque])), grey)
    np.testing.assert_array_equal(to_grey(np.dstack([grey, opaque])), grey)
    np.testing.assert_array_equal(to_grey(np.dstack([rgb(grey), opaque * 0])), grey)  # a writer that knows no alpha


@pytest.mark.parametrize("dtype, white", [(np.uint16, 65535), (np.float32, 1.0)])
def test_other_types_of_colour(dtype, white):
    grey = (frame() / 255 * white).astype(dtype)
    np.testing.assert_allclose(to_grey(rgb(grey)), grey, atol=white * 1e-5 + (dtype == np.uint16))


def test_a_transparent_part_is_black():
    grey = frame()
    alpha = np.full_like(grey, 255)
    alpha[:, :160] = 0
    np.testing.assert_array_equal(to_grey(np.dstack([rgb(grey), alpha])), np.where(alpha > 0, grey, 0))


def test_compression_noise_is_no_colour():
    noisy = np.clip(rgb(frame()).astype(int) + np.random.default_rng(1).integers(-8, 9, (240, 320, 3)), 0, 255)
    np.testing.assert_allclose(to_grey(noisy.astype(np.uint8)), frame(), atol=8)


def test_marks_outside_the_fan_become_black():
    image = rgb(frame())
    image[2:12, 2:12] = (40, 90, 255)
    image[200:230, 4:14] = (20, 200, 120)
    expected = frame()
    result = to_grey(image)
    np.testing.assert_array_equal(result, expected)


def test_thin_marks_in_the_tissue_take_the_grey_around_them():
    image = rgb(frame())
    image[120, 100:220] = (255, 255, 0)  # a calliper's line
    image[60:64, 150:154] = (20, 200, 120)
    result = to_grey(image).astype(float)
    changed = np.abs(result - frame()) > 0
    assert 0 < changed.mean() < 0.02
    assert abs(result[120, 110:210].mean() - frame()[100:140, 110:210].mean()) < 12
    assert result[120, 110:210].std() < 25 and result.max() <= 255


@pytest.mark.parametrize(
    "box, colour",
    [
        ((slice(100, 120), slice(150, 170)), (220, 40, 30)),
        ((slice(90, 130), slice(120, 200)), (30, 40, 220)),
        ((slice(0, 240), slice(0, 320)), (255, 200, 120)),
    ],
)
def test_colour_in_the_tissue_is_refused(box, colour):
    image = rgb(frame())
    image[box] = (image[box] / 255 * colour).astype(np.uint8) if box[0].stop == 240 else colour
    with pytest.raises(Refused, match="in colour, like Doppler") as refusal:
        to_grey(image)
    assert refusal.value.kind == "colour" and "without colour Doppler" in refusal.value.remedy


def test_a_cine_is_converted_frame_by_frame():
    cine = np.stack([rgb(frame(seed=n)) for n in range(4)])
    cine[2, 2:12, 2:12] = (40, 90, 255)
    np.testing.assert_array_equal(to_grey(cine), np.stack([frame(seed=n) for n in range(4)]))
    cine[3, 100:120, 150:170] = (220, 40, 30)
    with pytest.raises(Refused, match=r"^0\.2 % of the image are in colour"):
        to_grey(cine)


def test_other_numbers_of_values_are_no_colours():
    for channels in (1, 5):
        with pytest.raises(Refused, match=f"{channels} values at each voxel"):
            to_grey(np.zeros((4, 5, channels), np.uint8))


def save(tmp_path: Path, name: str, image: Image.Image, **options) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "1"])
@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".bmp"])
def test_pictures_of_any_mode_are_read_as_grey(tmp_path, mode, ending):
    grey = frame() if mode != "1" else (frame() > 60).astype(np.uint8) * 255
    image = Image.fromarray(grey).convert(mode)
    try:
        path = save(tmp_path, "a" + ending, image)
    except OSError:
        pytest.skip(f"{ending} does not have the mode {mode}")
    volume = Volume.read(path, pixel_size_mm=0.25)
    assert volume.shape == (1, 240, 320)
    np.testing.assert_allclose(volume.array[0], grey, atol=0 if ending != ".jpg" else 60)
    np.testing.assert_allclose(volume.spacing[:2], 0.25)


def test_a_picture_stands_as_its_exif_entry_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    path = save(tmp_path, "a.png", Image.fromarray(frame()), exif=exif)
    np.testing.assert_array_equal(Volume.read(path, pixel_size_mm=1).array[0], np.rot90(frame(), -1))


def test_pictures_of_16_bits_and_of_floats_keep_their_values(tmp_path):
    values = frame().astype(np.uint16) * 257
    path = save(tmp_path, "a.png", Image.fromarray(values))
    np.testing.assert_array_equal(Volume.read(path, pixel_size_mm=1).array[0], values)
    path = save(tmp_path, "a.tif", Image.fromarray(frame().astype(np.float32) / 7))
    np.testing.assert_array_equal(Volume.read(path, pixel_size_mm=1).array[0], frame().astype(np.float32) / 7)


def test_a_tiff_of_several_pages_is_a_stack_or_frames(tmp_path):
    pages = [Image.fromarray(frame(seed=n)) for n in range(5)]
    path = save(tmp_path, "a.tif", pages[0], save_all=True, append_images=pages[1:])
    for options in ({}, {"pixel_size_mm": 0.5}):
        with pytest.raises(Refused, match=r"stack of 5 pages.*--voxel-size I J K.*--frame N, N from 0 to 4"):
            Volume.read(path, **options)
    stack = Volume.read(path, voxel_size_mm=(0.5, 0.6, 0.7))
    np.testing.assert_array_equal(stack.array, [frame(seed=n) for n in range(5)])
    np.testing.assert_allclose(stack.spacing, (0.5, 0.6, 0.7))
    page = Volume.read(path, frame=3, pixel_size_mm=0.5)
    np.testing.assert_array_equal(page.array, [frame(seed=3)])
    with pytest.raises(Refused, match="no frame 5"):
        Volume.read(path, frame=5, pixel_size_mm=0.5)
    with pytest.raises(Refused, match="without a pixel size"):
        Volume.read(path, frame=3)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = save(tmp_path, "a.png", Image.new("L", (20_000, 20_000)))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(Refused) as refusal:
        Volume.read(path, pixel_size_mm=0.1)
    assert refusal.value.kind in ("size", "unreadable")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp"])
def test_a_picture_cut_short_is_refused(tmp_path, ending):
    path = save(tmp_path, "a" + ending, Image.fromarray(frame()))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(Refused, match="could not be read"):
        Volume.read(path, pixel_size_mm=0.3)
