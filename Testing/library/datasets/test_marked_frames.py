"""Real frames with marks in canonical space: where a mark lies, and which end is the face."""

from __future__ import annotations

import numpy as np
import pytest
from USMRISynthesisLib.datasets.marked_frames import CAVUM, PLEXUS_RING, marks_of, upright
from USMRISynthesisLib.errors import Refused

ROW = {
    "file": "1_HC.png", "pixel_size_mm": "0.3", "centre_x_px": "200", "centre_y_px": "130", "angle_deg": "12",
    "semi_major_px": "120", "semi_minor_px": "90",
}  # fmt: skip


def box(structure: str, x: float, y: float, w: float = 40, h: float = 30) -> dict[str, str]:
    return {"structure": structure, "cx": str(x), "cy": str(y), "w": str(w), "h": str(h)}


def test_a_cavum_is_marked_in_the_middle_of_its_box_and_a_plexus_around_its_box():
    marks = marks_of([box("csp", 50, 40), box("choroid_plexus", 150, 100), box("falx", 100, 60)], (200, 260))
    assert marks[40, 50] == CAVUM and marks[40, 50 + 12] == 0  # half of the box's size
    assert marks[100, 150] == 0 and marks[100, 150 + 24] == PLEXUS_RING
    assert marks[60, 100] == 0  # a falx is no fluid


@pytest.mark.parametrize("away", [0.0, 180.0])
def test_the_face_comes_to_lie_in_front_whichever_end_it_is(away):
    angle = np.deg2rad(12.0 + away)
    matrix = upright(ROW, 12.0 + away)
    face = np.array([200 + 120 * np.cos(angle), 130 + 120 * np.sin(angle)])
    x, y, _, _ = matrix @ [*(-0.3 * face), 0, 1]
    assert abs(x) < 1e-6 and y > 40
    assert np.linalg.det(matrix[:3, :3]) > 0  # nothing is mirrored


def test_a_face_beside_the_head_is_refused():
    with pytest.raises(Refused, match="does not lie at an end"):
        upright(ROW, 102.0)
