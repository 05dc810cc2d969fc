"""What the gate lets through, and the sentence with which it refuses the rest."""

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.fan import _close_widely, _grow
from USMRISynthesisLib.ultrasound.gate import admit, find_fan, speckle_evidence

DATA = Path(os.environ.get("USMRI_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")


def speckle(shape, seed=0, grain=0.6) -> np.ndarray:
    """Log-compressed Rayleigh speckle, 1-255, with a few bright interfaces."""
    rng = np.random.default_rng(seed)
    real, imaginary = (ndimage.gaussian_filter(rng.normal(size=shape), grain) for _ in range(2))
    envelope = np.hypot(real, imaginary)
    values = 90 + 40 * np.log(envelope / envelope.mean() + 1e-3)
    ring = (
        np.abs(
            np.linalg.norm(np.indices(shape) - np.reshape(shape, (-1,) + (1,) * len(shape)) / 2, axis=0)
            - min(s for s in shape if s > 1) / 3.2
        )
        < 1.5
    )
    return np.clip(values + 140 * ring, 1, 255).astype(np.uint8)


def sector(shape) -> np.ndarray:
    """A convex probe's fan (j, i), its concave near edge at the top."""
    j, i = np.indices(shape)
    r = np.hypot(i - shape[1] / 2, j + 0.35 * shape[0])
    angle = np.abs(np.arctan2(i - shape[1] / 2, j + 0.35 * shape[0]))
    return (r > 0.4 * shape[0]) & (r < 1.25 * shape[0]) & (angle < 0.6)


def frame(shape=(180, 240), pixel=0.5) -> Volume:
    return Volume((speckle((1, *shape)) * sector(shape)).astype(np.uint8), np.diag([pixel, pixel, pixel, 1.0]))


def cube(size=64, spacing=1.8, dtype=np.uint8) -> Volume:
    fan = np.repeat(sector((size, size))[:, None], size, axis=1)
    return Volume((speckle((size,) * 3) * fan).astype(dtype), np.diag([spacing, spacing, spacing, 1.0]))


def overlap(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def refusal(volume) -> Refused:
    with pytest.raises(Refused) as caught:
        admit(volume)
    return caught.value


def test_the_fan_is_found_in_a_frame_and_in_a_volume():
    assert overlap(find_fan(frame().array)[0], sector((180, 240))) > 0.99
    fan = find_fan(cube().array)
    assert overlap(fan, np.repeat(sector((64, 64))[:, None], 64, axis=1)) > 0.97


def test_enclosed_fluid_belongs_to_the_fan_and_so_does_fluid_at_its_edge():
    truth = sector((180, 240))
    image = frame().array.copy()
    j, i = np.indices(truth.shape)
    image[0][np.hypot(j - 120, i - 120) < 25] = 0  # amniotic fluid inside
    image[0][np.hypot(j - 110, i - 45) < 14] = 0  # and against the edge
    assert overlap(find_fan(image)[0], truth) > 0.98


def test_enclosed_fluid_belongs_to_the_fan_of_a_volume():
    array = cube().array.copy()
    array[36:46, 28:38, 28:38] = 0
    assert find_fan(array)[36:46, 28:38, 28:38].all()


def test_compression_noise_text_and_bars_do_not_enlarge_the_fan():
    truth = sector((180, 240))
    rng = np.random.default_rng(1)
    image = np.where(truth, speckle((1, 180, 240))[0], rng.integers(0, 4, truth.shape)).astype(np.uint8)
    image[8:14, 4:40] = rng.integers(0, 2, (6, 36)) * 255  # burnt-in text
    image[20:120, 0:3] = 200  # grey bar
    assert overlap(find_fan(image[None])[0], truth) > 0.98


def test_an_image_without_black_border_is_all_fan():
    assert find_fan(speckle((1, 100, 120))).mean() > 0.99


@settings(max_examples=15, deadline=None)
@given(
    scale=st.floats(0.01, 30), offset=st.floats(-500, 500), dtype=st.sampled_from([np.int16, np.float32, np.float64])
)
def test_the_fan_does_not_depend_on_the_range_of_values(scale, offset, dtype):
    scale = max(scale, 1.0) if np.dtype(dtype).kind == "i" else scale
    changed = (frame().array * scale + offset).astype(dtype)
    np.testing.assert_array_equal(find_fan(changed), find_fan(frame().array))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_real_type_is_admitted(dtype):
    volume = frame()
    array = (volume.array // 2).astype(dtype)
    assert admit(Volume(array, volume.ijk_to_ras)).shape == array.shape


def test_ultrasound_volume_is_admitted_with_its_fan():
    fan = admit(cube())
    assert fan.dtype == bool and 0.3 < fan.mean() < 0.95


@pytest.mark.parametrize(
    "volume, kind, text",
    [
        (Volume(np.zeros((0, 4, 4)), np.eye(4)), "empty", "no voxels"),
        (Volume(np.ones((20, 64, 64)) * 1j, np.eye(4)), "type", "greyscale"),
        (Volume(np.ones((20, 64, 64), bool), np.eye(4)), "type", "greyscale"),
        (Volume(np.full((20, 64, 64), np.nan), np.eye(4)), "nan", "not numbers"),
        (Volume(np.full((20, 64, 64), np.inf), np.eye(4)), "nan", "not numbers"),
        (Volume(np.full((20, 64, 64), 7), np.eye(4)), "constant", "same value"),
        (Volume(speckle((5, 64, 64)), np.diag([2.0, 2, 2, 1])), "slices", "only 5 slices.*single frame"),
        (Volume(speckle((1, 40, 64)), np.diag([2.0, 2, 2, 1])), "slices", "only 64 x 40 pixels"),
        (Volume(speckle((1, 300, 400)), np.eye(4)), "spacing", "no voxel size.*--pixel-size"),
        (Volume(speckle((8, 240, 64)), np.eye(4)), "spacing", "no voxel size.*Volumes module"),
        (cube(spacing=0.1), "extent", "6.4 mm wide.*30 to 400 mm"),
        (cube(spacing=18.0), "extent", "1.15e.03 mm wide.*30 to 400 mm"),
        (frame(pixel=0.01), "extent", "Check the voxel size"),
        (
            Volume(np.pad(speckle((1, 8, 8)), ((0, 0), (60, 60), (60, 60))), np.diag([0.5, 0.5, 0.5, 1])),
            "fan",
            "No ultrasound fan",
        ),
        (
            Volume((speckle((1, 180, 240)) // 90) * sector((180, 240)), np.diag([0.5, 0.5, 0.5, 1])),
            "labels",
            "like a segmentation",
        ),
    ],
)
def test_each_refusal_says_why_and_what_to_do(volume, kind, text):
    error = refusal(volume)
    assert error.kind == kind
    assert re.search(text, str(error)), str(error)
    assert error.message.endswith(".") and error.remedy.endswith(".") and "\n" not in str(error)


def test_a_smooth_volume_is_refused_as_mr():
    j, i = np.indices((120, 120))
    smooth = 400 + 200 * np.sin(j / 9) * np.cos(i / 11) + np.random.default_rng(0).normal(0, 8, (60, 120, 120))
    head = np.hypot(j - 60, i - 60) < 50
    error = refusal(Volume((smooth * head).astype(np.int16), np.diag([1.2, 1.2, 2.0, 1])))
    assert error.kind == "modality" and "MR or CT" in str(error)


def test_texture_is_judged_alike_whatever_the_gain():
    volume = cube()
    fan = find_fan(volume.array)
    dim = Volume((volume.array * 0.31 + 5 * fan).astype(np.float32), volume.ijk_to_ras)
    assert abs(speckle_evidence(volume, fan) - speckle_evidence(dim, fan)) < 1.5


@needs_data
def test_real_frames_are_admitted():
    with open(DATA / "hc18" / "index.csv") as file:
        rows = list(csv.DictReader(file))[::100]
    for row in rows:
        admit(Volume.read(DATA / "hc18" / "images" / row["file"], pixel_size_mm=float(row["pixel_size_mm"])))


@needs_data
@pytest.mark.parametrize(
    "pattern",
    ["fetal-mr-atlas/GA21*/t2.nii.gz", "fetal-mr-stacks/stacks/*run-1*.nii.gz", "fetal-mr-stacks/sr/*.nii.gz"],
)
def test_real_mr_is_refused(pattern):
    paths = sorted(DATA.glob(pattern))
    assert paths
    for path in paths:
        assert refusal(Volume.read(path)).kind == "modality"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), frame=st.booleans(), radius=st.floats(0.4, 9.0))
def test_closing_by_sweeps_is_closing_by_distances(seed, frame, radius):
    rng = np.random.default_rng(seed)
    shape, sizes = rng.integers(3, 15, 2 if frame else 3), rng.uniform(0.6, 1.8, 2 if frame else 3).tolist()
    mask = rng.random(shape) < rng.choice([0.02, 0.3])
    border = int(np.ceil(radius / min(sizes))) + 2
    wide = np.pad(mask, border)

    def grown(some):
        return (ndimage.distance_transform_edt(~some, sizes) <= radius * (1 + 1e-6)) & some.any()

    expected = ~grown(~grown(wide)) if mask.any() else wide
    np.testing.assert_array_equal(_close_widely(mask, radius, sizes), expected[(slice(border, -border),) * mask.ndim])
    np.testing.assert_array_equal(_grow(wide, radius, sizes), grown(wide))


def film(count: int, seed: int = 0, noise: float = 6.0, drift: int = 0) -> Volume:
    """A cine of one place: the same speckle, other noise, a slow shift."""
    rng = np.random.default_rng(seed)
    still = frame().array[0].astype(float)
    frames = [
        np.roll(still, n * drift // count, 1) + rng.normal(0, noise, still.shape) * (still > 0) for n in range(count)
    ]
    return Volume(np.clip(np.stack(frames), 0, 255).astype(np.uint8), np.diag([0.5, 0.5, 1.0, 1.0]))


@pytest.mark.parametrize("count, noise", [(10, 0.0), (40, 6.0), (60, 15.0)])
def test_a_film_stacked_as_a_volume_is_told(count, noise):
    error = refusal(film(count, noise=noise))
    assert error.kind == "time" and "frames in time" in error.message and "Save one frame" in error.remedy


@pytest.mark.parametrize("seed", range(4))
def test_a_volume_is_no_film(seed):
    volume = cube()
    for axes in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        turned = Volume(np.ascontiguousarray(volume.array.transpose(axes)), volume.ijk_to_ras)
        assert admit(turned).any()


@pytest.mark.parametrize("side", [1e-9, 1e-6, 1e5])
def test_a_side_that_no_voxel_has_is_refused_before_anything_is_computed(side):
    volume = cube()
    for axis in range(3):
        matrix = volume.ijk_to_ras.copy()
        matrix[axis, axis] = side
        assert refusal(Volume(volume.array, matrix)).kind == "spacing"


def test_directions_in_one_plane_are_refused():
    matrix = cube().ijk_to_ras.copy()
    matrix[:3, 2] = matrix[:3, 1] + (0, 0, 1e-5)
    assert refusal(Volume(cube().array, matrix)).kind == "geometry"
