"""Ellipses: distances, from masks, through distances, and under affine maps."""

from __future__ import annotations

import numpy as np
import pytest
from factories.frames import turned
from USMRISynthesisLib.geometry.ellipse import Ellipse, from_mask, through_distances


def places(size: int = 120) -> np.ndarray:
    y, x = np.mgrid[:size, :size].astype(float)
    return np.stack([x, y])


def test_lengths_and_directions_are_those_it_was_made_of():
    ellipse = turned((60, 50), (40, 25), 30)
    np.testing.assert_allclose(ellipse.semi_axes, (40, 25))
    assert ellipse.length == pytest.approx(80)
    along = ellipse.directions[:, 0]
    assert abs(along @ [np.cos(np.deg2rad(30)), np.sin(np.deg2rad(30))]) == pytest.approx(1)
    assert np.linalg.det(ellipse.directions) == pytest.approx(1)


def test_a_distance_is_one_of_length_near_the_outline():
    ellipse = turned((60, 50), (40, 25), 30)
    line = ellipse.outline(200)
    normal = ellipse.outline(200) - ellipse.centre[:, None]
    normal = np.linalg.inv(ellipse.axes @ ellipse.axes.T) @ normal
    normal /= np.linalg.norm(normal, axis=0)
    for step in (-1.0, 0.0, 1.0):
        np.testing.assert_allclose(ellipse.distance(line + step * normal), step, atol=0.05)


def test_a_mask_gives_its_ellipse_and_too_little_gives_none():
    ellipse = turned((60, 50), (40, 25), 30)
    grid = places().reshape(2, -1)
    found = from_mask((ellipse.distance(grid) < 0).astype(float), grid)
    assert found is not None
    np.testing.assert_allclose(found.centre, ellipse.centre, atol=0.1)
    np.testing.assert_allclose(found.semi_axes, ellipse.semi_axes, atol=0.2)
    assert from_mask(np.zeros(grid.shape[1]), grid) is None


def test_distances_give_the_ellipse_though_a_third_is_cut_off_and_some_are_wrong():
    ellipse = turned((60, 50), (40, 25), 30)
    grid = places().reshape(2, -1)
    field = ellipse.distance(grid)
    near = (np.abs(field) < 8) & (grid[0] > 45)
    wrong = np.random.default_rng(0).random(near.sum()) < 0.1
    fitted = field[near] + np.where(wrong, 6.0, 0.0)
    start = Ellipse(ellipse.centre + np.array([6, -4]), 1.1 * turned((0, 0), (40, 28), 10).axes)
    found = through_distances(grid[:, near], fitted, np.ones(near.sum()), start, 0.5)
    assert found is not None
    np.testing.assert_allclose(found[0].centre, ellipse.centre, atol=0.3)
    np.testing.assert_allclose(found[0].semi_axes, ellipse.semi_axes, atol=0.4)
    assert 0.4 < found[1] < 0.9  # the tenth that is 6 off
    assert through_distances(grid[:, :5], field[:5], np.ones(5), start, 0.5) is None


def test_an_affine_map_takes_the_outline_along():
    ellipse = turned((60, 50), (40, 25), 30)
    matrix = np.array([[0.8, 0.3, 5.0], [-0.2, 1.1, -7.0], [0, 0, 1]])
    moved = ellipse.moved(matrix)
    line = matrix[:2, :2] @ ellipse.outline() + matrix[:2, 2:]
    np.testing.assert_allclose(moved.distance(line), 0, atol=1e-9)
