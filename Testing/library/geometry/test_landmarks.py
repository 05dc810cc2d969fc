"""The similarity from three landmarks: pose and scale of an oblique head, and refused points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.landmarks import similarity_from_landmarks

FRONT, BACK, TOP = np.array([12.0, 37, 30]), np.array([12.0, -51, 30]), np.array([12.0, -3, 63])
_QUARTER = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
_OBLIQUE = np.array([[-0.8, 0.6, 0], [-0.6, -0.8, 0], [0, 0, 1.0]]) @ np.array(
    [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
)


@pytest.mark.parametrize("rotation", [np.eye(3), _QUARTER, _OBLIQUE], ids=["upright", "quarter-turn", "oblique"])
@pytest.mark.parametrize("size", [0.5, 1.0])
def test_landmarks_give_place_direction_and_scale(rotation: Any, size: float) -> None:
    points = [size * rotation @ point + [5.0, -20, 7] for point in (FRONT, BACK, TOP)]
    matrix = similarity_from_landmarks(*points)
    half = HEAD_LENGTH_MM / 2
    for point, expected in zip(points, ((0, half, 0), (0, -half, 0), (0, 4 * half / 44, 33 * half / 44)), strict=True):
        np.testing.assert_allclose(matrix[:3, :3] @ point + matrix[:3, 3], expected, atol=1e-9)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx((HEAD_LENGTH_MM / 88 / size) ** 3)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ((FRONT, FRONT + 1, TOP), "Front and Back are 2 mm apart, which no fetal head is. Move them"),
        ((FRONT, FRONT - [0, 201.0, 0], TOP), "Front and Back are 201 mm apart"),
        ((FRONT, BACK, FRONT + np.array([0, 5, 1])), "Top lies on the line from Back to Front. Move it"),
    ],
)
def test_impossible_landmarks_are_refused(points: Any, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        similarity_from_landmarks(*points)
