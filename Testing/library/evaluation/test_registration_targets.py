"""The MR to register with: points whose true places are known stay so through bend, start and awkward grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories.atlas import make_atlas
from factories.registration import displacement, grid, head, labelled
from scipy import ndimage
from USMRISynthesisLib.evaluation.registration import targets
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.anatomy import labels as names


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_landmarks_have_sides_on_a_left_handed_grid() -> None:
    found = labelled().landmarks()
    assert {"right ventricles", "left ventricles", "right cerebellum", "brainstem"} <= set(found)
    assert "cavum" not in found
    # Voxel i = 17 lies on the head's right: to_head turns i around.
    assert found["right ventricles"] == pytest.approx(targets.apply(grid(), np.array([17, 30, 26]))[0], abs=0.6)


def test_a_bend_has_the_size_that_was_asked_for_and_can_be_undone() -> None:
    points = targets.apply(grid(), np.argwhere(head()[1])[::50, ::-1])
    moved = targets.bend(points, rng(), 2.0)
    assert np.sqrt(((moved(points) - points) ** 2).sum(axis=1).mean()) == pytest.approx(2.0)
    assert moved(moved.inverse(points)) == pytest.approx(points, abs=1e-6)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_start_lies_within_20_degrees_and_15_mm_in_its_part_of_them(part: int) -> None:
    middle = np.array([30.0, -10, 5])
    for seed in range(20):
        matrix = targets.start(np.random.default_rng(seed), middle, part, 3)
        angle = np.degrees(np.arccos((np.trace(matrix[:3, :3]) - 1) / 2))
        shift = np.linalg.norm(targets.apply(matrix, middle)[0] - middle)
        assert 20 * part / 3 <= angle <= 20 * (part + 1) / 3
        assert 15 * part / 3 <= shift <= 15 * (part + 1) / 3
        assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)


def test_the_same_heads_mr_shows_each_landmark_where_it_says_it_is() -> None:
    """A landmark's place in the MR holds its own structure's brightest voxels, bent and displaced or not."""
    truth = labelled()
    bright = np.where(np.isin(truth.labels, (names.VENTRICLES, names.BRAINSTEM)), 1.0, 0.05 * (truth.labels > 0))
    made = targets.same_head(ndimage.gaussian_filter(bright, 0.7), truth, rng())
    start = displacement(truth.middle())
    for target in (made, made.displaced(start)):
        for name in ("right ventricles", "left ventricles", "brainstem"):
            there, here = target.landmarks[name]
            assert here == pytest.approx(truth.landmarks()[name])
            i, j, k = np.rint(targets.apply(np.linalg.inv(target.mr.ijk_to_ras), there)[0]).astype(int)
            near = target.mr.array[k - 8 : k + 9, j - 8 : j + 9, i - 8 : i + 9].astype(float)
            assert near[8, 8, 8] > 3 * np.median(near)
    moved = made.displaced(start)
    assert moved.landmarks["brainstem"][0] == pytest.approx(targets.apply(start, made.landmarks["brainstem"][0])[0])
    assert moved.surfaces["ventricles"] == pytest.approx(targets.apply(start, made.surfaces["ventricles"]))


def test_the_mr_is_not_the_image_that_was_given() -> None:
    image, _ = head()
    truth = labelled()
    changed = targets.with_other_contrast(image, truth.labels, rng())
    inside = truth.labels > 0
    assert np.corrcoef(changed[inside], image[inside])[0, 1] < 0.98
    assert changed.min() >= 0
    again = targets.with_other_contrast(image, truth.labels, rng())
    assert np.array_equal(changed, again)


def test_another_head_lies_about_the_heads_middle_along_its_axes(tmp_path: Path) -> None:
    average = atlas.load(make_atlas(tmp_path), "GA24-made")
    middle, axes = np.array([12.0, -30, 8]), displacement(np.zeros(3))[:3, :3]
    known = targets.Labelled(average.labels, average.ijk_to_ras, average.ijk_to_ras)
    true = {name: middle + axes @ (place - known.middle()) for name, place in known.landmarks().items()}
    made = targets.another_head(average, middle, axes, true | {"cavum": middle}, rng())
    assert "cavum" not in made.landmarks  # which this average does not have
    for there, here in made.landmarks.values():
        assert there == pytest.approx(here, abs=1e-6)
    ventricle = made.landmarks["right ventricles"][0]
    i, j, k = np.rint(targets.apply(np.linalg.inv(made.mr.ijk_to_ras), ventricle)[0]).astype(int)
    assert made.mr.array[k, j, i] > 800
    assert made.mask.array.sum() > made.brain.array.sum() > 0


def test_the_best_rigid_motion_undoes_a_rigid_motion_only() -> None:
    points = rng().uniform(-30, 30, (9, 3))
    assert targets.rigid_fit(targets.apply(displacement(np.ones(3)), points), points) == pytest.approx(points)
    assert not np.allclose(targets.rigid_fit(points * [1.2, 1, 1], points), points, atol=0.5)
