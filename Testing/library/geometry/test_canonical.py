"""Canonical space and back: a place in the head returns to where it was, on whatever grid it was saved."""

import time

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from USMRISynthesisLib.geometry.canonical import (
    SIZE,
    SPACING_MM,
    canonical_axis_mm,
    canonical_ijk_to_ras,
    from_canonical,
    to_canonical,
)


def rotation(rng: np.random.Generator, left_handed: bool = False) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q[:, 0] *= np.sign(np.linalg.det(q)) * (-1 if left_handed else 1)
    return q


def grid_around(centre, spacing, shape, axes) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return matrix


def similarity(rng, centre, scale) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation(rng)
    matrix[:3, 3] = -matrix[:3, :3] @ centre
    return matrix


def world(shape, ijk_to_ras) -> np.ndarray:
    """(3, k, j, i): RAS mm of every voxel."""
    k, j, i = np.indices(shape, dtype=np.float64)
    return np.tensordot(ijk_to_ras[:3, :3], np.stack([i, j, k]), 1) + ijk_to_ras[:3, 3][:, None, None, None]


def linear_image(points, slope, offset) -> np.ndarray:
    """A linear ramp: linear interpolation reproduces it exactly, so any error is one of place."""
    return np.tensordot(slope, points, 1) + offset


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 10**6),
    left=st.booleans(),
    scale=st.floats(0.7, 2.5),
    spacing=st.tuples(*[st.floats(0.8, 2.5)] * 3),
)
def test_places_come_back_within_a_thousandth_of_a_millimetre(seed, left, scale, spacing):
    rng = np.random.default_rng(seed)
    centre, shape = rng.uniform(-150, 150, 3), (30, 40, 35)
    ijk_to_ras = grid_around(centre, spacing, shape, rotation(rng, left))
    ras_to_canonical = similarity(rng, centre, scale)
    canonical_to_ras = np.linalg.inv(ras_to_canonical) @ canonical_ijk_to_ras()
    # A unit slope in RAS: an error of the image is an error of place in mm along that direction.
    slope = rotation(rng)[:, 0]
    points = world(shape, ijk_to_ras)
    ramp = linear_image(points, slope, -slope @ centre)
    expected = linear_image(world((SIZE,) * 3, canonical_to_ras), slope, -slope @ centre)

    canonical, z = to_canonical(ramp, ijk_to_ras, ras_to_canonical, fill=np.nan)
    assert canonical.shape == (SIZE,) * 3 and canonical.dtype == np.float32
    np.testing.assert_allclose(z, canonical_axis_mm())
    voxel = world((SIZE,) * 3, np.linalg.inv(ijk_to_ras) @ canonical_to_ras)
    inside = (voxel > 0.01).all(0) & (voxel < np.array(shape[::-1])[:, None, None, None] - 1.01).all(0)
    assert inside.any() and np.abs(canonical - expected)[inside].max() < 1e-3

    back = from_canonical(expected.astype(np.float32), ras_to_canonical, ijk_to_ras, shape, fill=np.nan)
    place = world(shape, ras_to_canonical @ ijk_to_ras)
    inside = (np.abs(place) < 38).all(0)  # the outermost cells are averaged for a coarse grid
    assert inside.any() and np.abs(back - ramp)[inside].max() < 1e-3


def test_a_smooth_volume_comes_back_as_itself():
    rng = np.random.default_rng(5)
    centre, shape = np.array([20.0, -30.0, 10.0]), (70, 80, 90)
    ijk_to_ras = grid_around(centre, (0.9, 0.8, 1.1), shape, rotation(rng, left_handed=True))
    x, y, z = world(shape, ijk_to_ras)
    image = 100 + 40 * np.sin(x / 9) + 30 * np.cos(y / 11) + 20 * np.sin(z / 13)
    transform = similarity(rng, centre, 1.2)
    back = from_canonical(to_canonical(image, ijk_to_ras, transform)[0], transform, ijk_to_ras, shape)
    near = (x - 20) ** 2 + (y + 30) ** 2 + (z - 10) ** 2 < 30**2
    assert np.abs(back - image)[near].max() < 0.7


def test_fine_input_is_averaged_not_picked():
    checker = np.indices((160, 160, 160)).sum(0) % 2 * 100.0
    canonical, _ = to_canonical(checker, grid_around(np.zeros(3), (0.3,) * 3, checker.shape, np.eye(3)), np.eye(4))
    np.testing.assert_allclose(canonical[60:100, 60:100, 60:100], 50, atol=1e-3)


def test_labels_keep_their_values():
    labels = np.random.default_rng(0).integers(0, 9, (20, 20, 20))
    canonical, _ = to_canonical(
        labels, grid_around(np.zeros(3), (2.0,) * 3, labels.shape, np.eye(3)), np.eye(4), order=0
    )
    assert set(np.unique(canonical)) <= set(range(9))


def test_axes_of_the_canonical_array_are_superior_anterior_right():
    matrix = canonical_ijk_to_ras()
    np.testing.assert_allclose(matrix @ [79.5, 79.5, 79.5, 1], [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(np.diag(matrix)[:3], SPACING_MM)
    x, y, z = world((40, 40, 40), grid_around(np.zeros(3), (2.0,) * 3, (40, 40, 40), np.eye(3)))
    for image, axis in ((z, 0), (y, 1), (x, 2)):
        canonical, _ = to_canonical(image, grid_around(np.zeros(3), (2.0,) * 3, (40,) * 3, np.eye(3)), np.eye(4))
        assert (np.diff(canonical[40:120, 40:120, 40:120], axis=axis) > 0).all()


@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_a_frame_is_one_slice_in_its_plane(tilt):
    shape = (1, 90, 120)
    axes = np.array([[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]])
    ijk_to_ras = grid_around(np.array([5.0, 6.0, 7.0]), (0.7, 0.5, 1.0), shape, axes)
    transform = np.eye(4)
    transform[:3, :3] = 1.3 * axes.T
    transform[:3, 3] = -transform[:3, :3] @ (5, 6, 7)
    x, y, _ = world(shape, transform @ ijk_to_ras)
    image = 3 * x - 2 * y
    slices, z = to_canonical(image, ijk_to_ras, transform)
    assert slices.shape == (1, SIZE, SIZE)
    np.testing.assert_allclose(z, 0, atol=1e-9)
    axis = canonical_axis_mm()
    expected = 3 * axis[None, :] - 2 * axis[:, None]
    near = np.hypot(axis[None, :], axis[:, None]) < 25
    assert np.abs(slices[0] - expected)[near].max() < 1e-3
    back = from_canonical(expected[None].astype(np.float32), transform, ijk_to_ras, shape)
    assert back.shape == shape
    assert np.abs(back - image)[np.hypot(x, y) < 40].max() < 1e-3


def test_a_frame_cannot_fill_a_volume_and_a_flat_transform_is_an_error():
    with pytest.raises(ValueError, match="cannot fill"):
        from_canonical(np.zeros((1, 160, 160)), np.eye(4), np.eye(4), (3, 4, 5))
    with pytest.raises(ValueError, match="cannot be inverted"):
        to_canonical(np.zeros((4, 4, 4)), np.eye(4), np.diag([1.0, 1, 0, 1]))


def test_outside_the_input_is_filled():
    canonical, _ = to_canonical(np.ones((9, 9, 9)), np.eye(4), np.eye(4), fill=-1)
    assert canonical[0, 0, 0] == -1 and canonical[84, 84, 84] == 1


def test_a_large_volume_goes_both_ways_in_seconds():
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        array = np.zeros((256, 256, 256), np.uint8)
        matrix = grid_around(np.zeros(3), (0.5,) * 3, array.shape, rotation(np.random.default_rng(0)))
        begun = time.process_time()
        from_canonical(to_canonical(array, matrix, np.eye(4))[0], np.eye(4), matrix, array.shape)
        assert time.process_time() - begun < 5
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
