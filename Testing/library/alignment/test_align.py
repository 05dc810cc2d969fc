"""The skull is found in phantoms whatever their grid, and the confidence is low where there is none."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.alignment.skull import search as skull_search
from USMRISynthesisLib.alignment.skull import template as skull_template
from USMRISynthesisLib.alignment.skull.fit import ELLIPSOID_Z_MM
from USMRISynthesisLib.alignment.skull.fit import align_skull as align
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.alignment.frames import evaluate_frames
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, SIZE, canonical_axis_mm, to_canonical
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.gate import find_fan

DATA = Path(os.environ.get("USMRI_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def phantom(points: np.ndarray, centre, semi_axes, rotation, seed=0) -> np.ndarray:
    """Brightness 0-255 of a skull ring or shell with a dark inside and grey, speckled surroundings.

    points: (n, ...) mm. The side along the beam (first axis) drops out; speckle is drawn per voxel.
    """
    n = len(points)
    local = np.tensordot(rotation.T, points - np.reshape(centre, (n,) + (1,) * (points.ndim - 1)), 1)
    radius = np.linalg.norm(local / np.reshape(semi_axes, (n,) + (1,) * (points.ndim - 1)), axis=0)
    away = np.abs(local[1]) / (np.linalg.norm(local, axis=0) + 1e-6)
    ring = np.exp(-(((radius - 0.96) / 0.035) ** 2)) * np.where(away > 0.97, 0.3, 1.0)
    tissue = np.where(radius > 1.03, 70.0, 35.0)
    rng = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(rng.normal(size=radius.shape), 0.8)
    return np.clip((tissue + 170 * ring) * (1 + 0.6 * grain / grain.std() * 0.5), 0, 255)


def world(shape, ijk_to_ras) -> np.ndarray:
    k, j, i = np.indices(shape, dtype=np.float64)
    return np.tensordot(ijk_to_ras[:3, :3], np.stack([i, j, k]), 1) + ijk_to_ras[:3, 3][:, None, None, None]


def head_volume(
    shape=(75, 82, 78),
    spacing=(1.6, 1.6, 1.6),
    axes=None,
    centre=(10.0, -20.0, 30.0),
    semi_axes=(38.0, 46.0, 36.0),
    tilt=(0.0, 0.0),
    seed=0,
):
    """A volume with a head, and the head's rotation."""
    axes = np.eye(3) if axes is None else axes
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = np.add(centre, (3, 2, -4)) - matrix[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    rotation = Rotation.from_rotvec(np.deg2rad([tilt[0], 0, tilt[1]])).as_matrix()
    array = phantom(world(shape, matrix), centre, semi_axes, rotation, seed)
    return Volume(array.astype(np.uint8), matrix), rotation


def head_frame(centre=(3.0, 4.0), semi_axes=(34.0, 44.0), angle=20.0, pixel=0.5, shape=(240, 300), seed=0):
    """A frame with a head whose major axis lies ``angle`` degrees from the RAS A axis, towards -R."""
    matrix = np.diag([-pixel, -pixel, pixel, 1.0])
    matrix[:2, 3] = pixel * (shape[1] - 1) / 2, pixel * (shape[0] - 1) / 2
    points = world((1, *shape), matrix)[:2, 0]
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    array = phantom(points, centre, semi_axes, np.array([[c, -s], [s, c]]), seed)
    return Volume(array[None].astype(np.uint8), matrix)


def whole(volume) -> np.ndarray:
    return np.ones(volume.shape, dtype=bool)


def is_similarity(matrix) -> bool:
    linear = matrix[:3, :3]
    scale = np.cbrt(np.linalg.det(linear))
    return scale > 0 and np.allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-6)


@pytest.mark.parametrize("n", [2, 3])
def test_a_climb_ends_where_there_is_nothing(n):
    channels = np.zeros((2, *[40] * n), np.float32)
    start = np.concatenate([np.full(n, 20.0), np.log(np.full(n, 14.0)), np.zeros(n - 1)])
    found, likely = skull_search.refine(channels, skull_template.template(n), start, 1.0, 2000, None)
    assert np.isfinite(found).all() and np.isfinite(likely) and found[n : 2 * n].max() < np.log(60)


def test_a_volume_is_brought_to_the_canonical_size_and_place():
    volume, _ = head_volume()
    found = align(volume, whole(volume))
    assert found.method == "ellipsoid" and found.score > 0.8 and is_similarity(found.ras_to_canonical)
    assert np.linalg.norm((found.ras_to_canonical @ (10, -20, 30, 1))[:3] - (0, 0, ELLIPSOID_Z_MM)) < 4
    scale = np.cbrt(np.linalg.det(found.ras_to_canonical[:3, :3]))
    assert abs(scale * 2 * 46 / HEAD_LENGTH_MM - 1) < 0.07
    np.testing.assert_allclose(found.centre, (0, 0, ELLIPSOID_Z_MM), atol=1e-6)


def test_a_volume_keeps_its_assumed_axes_while_the_outline_follows_the_head():
    volume, _ = head_volume(tilt=(15.0, 0.0), semi_axes=(36.0, 46.0, 34.0))
    found = align(volume, whole(volume))
    linear = found.ras_to_canonical[:3, :3]
    np.testing.assert_allclose(linear / np.cbrt(np.linalg.det(linear)), np.eye(3), atol=1e-9)
    assert 2 < np.rad2deg(np.arctan2(found.rotation[2, 1], found.rotation[1, 1])) < 26


def test_the_result_does_not_depend_on_the_grid():
    first, _ = head_volume()
    axes = Rotation.from_rotvec([0.5, -1.0, 0.8]).as_matrix() * (1, 1, -1)  # oblique and left-handed
    second, _ = head_volume(shape=(110, 100, 60), spacing=(2.1, 1.3, 1.4), axes=axes)
    a, b = (align(v, whole(v)).ras_to_canonical for v in (first, second))
    corners = np.array(np.meshgrid(*[(-30, 30)] * 3)).reshape(3, -1) + np.array([[10], [-20], [30]])
    off = np.linalg.norm((a[:3, :3] - b[:3, :3]) @ corners + (a - b)[:3, 3:], axis=0)
    assert off.max() < 3


# The same frames in every run: narrow heads whose speckle outshines the skull may be turned by more than 10 degrees, as
# the example that fails shows; the score says of it that it is not to be trusted.
@example(x=0.0, y=0.0, width=0.72, length=44.0, angle=80.0, seed=12).xfail(
    raises=AssertionError, reason="the skull's ellipse is turned by 10.7 degrees"
)
@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(
    x=st.floats(-12, 12),
    y=st.floats(-10, 10),
    width=st.floats(0.72, 0.82),
    length=st.floats(38, 48),
    angle=st.floats(-80, 80),
    seed=st.integers(0, 99),
)
def test_a_frame_is_aligned_by_its_ellipse(x, y, width, length, angle, seed):
    frame = head_frame((x, y), (width * length, length), angle, seed=seed)
    found = align(frame, whole(frame))
    assert found.method == "ellipse" and is_similarity(found.ras_to_canonical)
    assert np.linalg.norm((found.ras_to_canonical @ (x, y, 0, 1))[:3]) < 4
    scale = np.cbrt(np.linalg.det(found.ras_to_canonical[:3, :3]))
    assert abs(scale * 2 * length / HEAD_LENGTH_MM - 1) < 0.12
    major = found.ras_to_canonical[1, :2] / scale
    turn = np.rad2deg(np.arccos(min(1, abs(major @ (-np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle)))))))
    assert turn < 10
    assert found.ras_to_canonical[1, 1] >= 0  # the end nearer to A


def test_a_frame_whose_ellipse_is_turned_is_not_trusted():
    for angle in (80.0, 0.0, -56.0, -48.0):  # 6 to 11 degrees off
        frame = head_frame((0, 0), (0.72 * 44, 44), angle, seed=12)
        assert align(frame, whole(frame)).score < MIN_CONFIDENCE


def test_a_frame_lands_in_the_head_circumference_plane():
    frame = head_frame()
    found = align(frame, whole(frame))
    slices, z = to_canonical(frame.array, frame.ijk_to_ras, found.ras_to_canonical)
    assert slices.shape == (1, SIZE, SIZE)
    np.testing.assert_allclose(z, 0, atol=1e-9)
    mask = found.head_mask(z)
    assert mask.shape == (1, SIZE, SIZE)
    rows = canonical_axis_mm()[mask[0].any(axis=1)]
    assert abs(np.ptp(rows) - HEAD_LENGTH_MM) < 1.3
    ring = mask[0] & ~ndimage.binary_erosion(mask[0], iterations=6)
    inside = ndimage.binary_erosion(mask[0], iterations=14)
    assert slices[0][ring].mean() > 1.8 * slices[0][inside].mean()


def test_head_mask_is_the_ellipsoid():
    volume, _ = head_volume()
    found = align(volume, whole(volume))
    mask = found.head_mask(canonical_axis_mm())
    expected = 4 / 3 * np.pi * np.prod(found.semi_axes)
    assert abs(mask.sum() * 0.6**3 / expected - 1) < 0.02


def test_a_given_transform_is_kept_exactly_and_the_skull_is_still_found():
    volume, _ = head_volume()
    given = np.eye(4)
    given[:3, :3] = 44 / 46 * Rotation.from_rotvec([0, 0, np.pi]).as_matrix()  # the other way round
    given[:3, 3] = -given[:3, :3] @ (12, -19, 31)
    found = align(volume, whole(volume), transform=given)
    np.testing.assert_array_equal(found.ras_to_canonical, given)
    assert found.method == "given" and found.score > MIN_CONFIDENCE
    truth = (given @ (10, -20, 30, 1))[:3]
    assert np.linalg.norm(found.centre - truth) < 4
    np.testing.assert_allclose(found.semi_axes, np.array([38, 46, 36]) * 44 / 46, atol=4)
    np.testing.assert_allclose(np.linalg.det(found.rotation), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["volume", "frame"])
def test_without_a_visible_skull_a_given_transform_brings_a_usual_head(kind):
    rng = np.random.default_rng(0)
    shape = (60, 60, 60) if kind == "volume" else (1, 150, 180)
    matrix = np.diag([2.0, 2.0, 2.0, 1.0]) if kind == "volume" else np.diag([0.7, 0.7, 0.7, 1.0])
    volume = Volume(rng.integers(1, 255, shape, dtype=np.uint8), matrix)
    given = np.eye(4)
    given[:3, 3] = -(matrix @ np.append((np.array(shape[::-1]) - 1) / 2, 1))[:3]
    found = align(volume, find_fan(volume.array), transform=given)
    assert found.score < MIN_CONFIDENCE
    np.testing.assert_allclose(found.centre, (0, 0, ELLIPSOID_Z_MM if kind == "volume" else 0), atol=1e-6)
    np.testing.assert_allclose(found.semi_axes[1], HEAD_LENGTH_MM / 2, rtol=0.03)
    assert found.head_mask(np.zeros(1)).sum() > 5000


@pytest.mark.parametrize("sigma", [0.7, 4.0])
def test_noise_has_low_confidence(sigma):
    rng = np.random.default_rng(3)
    for shape, cell in (((70, 70, 70), 1.8), ((1, 200, 260), 0.5)):
        noise = ndimage.gaussian_filter(rng.rayleigh(60, shape), [0 if s == 1 else sigma for s in shape])
        noise = 255 * (noise - noise.min()) / np.ptp(noise)
        volume = Volume(noise.astype(np.uint8), np.diag([cell, cell, cell, 1.0]))
        assert align(volume, whole(volume)).score < MIN_CONFIDENCE


@pytest.mark.skipif(not (DATA / "us-phantom").is_dir(), reason="the shared data are not here")
def test_a_spine_is_not_a_head():
    volume = Volume.read(DATA / "us-phantom" / "SpinePhantomFreehandReconstructed.mha")
    assert align(volume, find_fan(volume.array, volume.spacing)).score < MIN_CONFIDENCE


@pytest.mark.skipif(not (DATA / "hc18").is_dir(), reason="the shared data are not here")
def test_real_frames_agree_with_the_annotation():
    measured = evaluate_frames(DATA, limit=5, model="not-installed")  # the skull fit alone
    assert measured["hc18_method"] == "skull" and measured["hc18_dice_median"] > 0.95
    with open(DATA / "hc18" / "index.csv") as file:  # the pixel size belongs to the half-size images
        row = next(csv.DictReader(file))
    a, b = float(row["semi_major_px"]), float(row["semi_minor_px"])
    around = np.pi * (a + b) * float(row["pixel_size_mm"])
    assert abs(around / float(row["head_circumference_mm"]) - 1) < 0.03


def test_an_impossible_transform_is_refused():
    frame = head_frame()
    for wrong in (np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(Refused, match=r"not an invertible 4x4 matrix.*Give the matrix"):
            align(frame, whole(frame), transform=wrong)


def test_an_image_too_small_for_any_head_is_refused():
    rng = np.random.default_rng(0)
    tiny = Volume(rng.integers(0, 255, (1, 100, 120), dtype=np.uint8), np.diag([0.02, 0.02, 0.02, 1.0]))
    with pytest.raises(Refused, match="Nothing in the image has a possible size for a fetal head"):
        align(tiny, whole(tiny))


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 10**6), frame=st.booleans(), mirrored=st.booleans())
def test_the_head_on_any_grid_is_the_ellipsoid_voxel_by_voxel(seed, frame, mirrored):
    rng = np.random.default_rng(seed)
    grid, to_canonical_mm = np.eye(4), np.eye(4)
    grid[:3, :3] = Rotation.random(random_state=seed).as_matrix() * rng.uniform(1.5, 5, 3)
    grid[:3, 0] *= -1 if mirrored else 1
    to_canonical_mm[:3, :3] = rng.uniform(0.7, 1.3) * Rotation.random(random_state=seed + 1).as_matrix()
    to_canonical_mm[:3, :3] += rng.normal(0, 0.05, (3, 3))  # a transform that was given may shear
    shape = (1 if frame else 18, 21, 25)
    middle = grid[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2 + rng.uniform(-6, 6, 3) * (1, 1, not frame))
    to_canonical_mm[:3, 3] = -to_canonical_mm[:3, :3] @ (middle + grid[:3, 3])
    found = Alignment(
        to_canonical_mm,
        rng.uniform(-3, 3, 3),
        rng.uniform(15, 50, 3) * (1, 1, not frame),
        np.eye(3) if frame else Rotation.random(random_state=seed + 2).as_matrix(),
        1.0,
        "given",
    )
    places = np.tensordot(to_canonical_mm[:3, :3], world(shape, grid), 1) + to_canonical_mm[:3, 3][:, None, None, None]
    n = 2 if frame else 3
    local = np.tensordot(found.rotation[:n, :n].T, places[:n] - found.centre[:n, None, None, None], 1)
    radius = ((local / found.semi_axes[:n, None, None, None]) ** 2).sum(axis=0)
    head = found.head_on(grid, shape)
    assert head.shape == shape and head.dtype == bool
    sure = np.abs(radius - 1) > 1e-9
    np.testing.assert_array_equal(head[sure], (radius <= 1)[sure])


def test_a_head_beside_the_grid_leaves_it_empty():
    away = np.eye(4)
    away[0, 3] = 500
    found = Alignment(away, np.zeros(3), np.array([36.0, 44, 35]), np.eye(3), 1.0, "given")
    assert not found.head_on(np.eye(4), (10, 11, 12)).any()
