"""Images without a brain: what is cut from beside a head holds none of it, and trunks are trunks."""

from __future__ import annotations

import numpy as np
import pytest
from USMRISynthesisLib.evaluation.real import negatives
from USMRISynthesisLib.evaluation.real.cases import Head3D
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy.body import KINDS, build_body
from USMRISynthesisLib.simulation.anatomy.labels import AMNIOTIC, MATERNAL, SKULL, VENTRICLES

GRID = np.diag([-0.5, -0.5, 0.5, 1.0])


def test_a_random_sector_is_speckle_in_a_fan() -> None:
    one, again, other = (negatives.random_sector(seed).array for seed in (1, 1, 2))
    assert (one == again).all() and (one != other).any()
    assert 0.3 < (one > 0).mean() < 0.9 and one[0, 0, 0] == 0


def test_strips_beside_a_head_keep_their_place_and_hold_none_of_it() -> None:
    image = np.full((1, 200, 400), 60, np.uint8)
    y, x = np.mgrid[:200, :400]
    image[0][((x - 120) / 70) ** 2 + ((y - 100) / 60) ** 2 < 1] = 200
    head = Ellipse(np.array([120.0, 100.0]), np.diag([70.0, 60.0]))
    (strip,) = negatives.beside_head(Volume(image, GRID), head)
    assert strip.array.max() == 60 and strip.shape[1] == 200
    first = 400 - strip.shape[2]
    assert first >= 120 + 70 and (strip.ijk_to_ras @ [0, 0, 0, 1])[0] == pytest.approx(-0.5 * first)


def test_black_and_narrow_strips_are_left_out() -> None:
    head = Ellipse(np.array([120.0, 100.0]), np.diag([70.0, 60.0]))
    assert negatives.beside_head(Volume(np.zeros((1, 200, 400), np.uint8), GRID), head) == []
    assert negatives.beside_head(Volume(np.full((1, 200, 240), 60, np.uint8), GRID), head) == []


def head_3d() -> Head3D:
    """A ball of 200 in 40, 80 mm long along y."""
    n, mm = 72, 2.0
    axis = (np.arange(n) - (n - 1) / 2) * mm
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    array = np.where(x**2 + y**2 + z**2 < 30**2, 200, 40).astype(np.uint8)
    array[:4] = 0
    grid = np.diag([mm, mm, mm, 1.0])
    grid[:3, 3] = axis[0]
    points = {"front": np.array([0, 40.0, 0]), "back": np.array([0, -40.0, 0]), "top": np.array([0, 0, 35.0])}
    return Head3D("ball", Volume(array, grid), points)


def test_a_covered_head_is_gone_and_the_rest_of_the_volume_stays() -> None:
    head = head_3d()
    hidden = negatives.covered(head)
    assert (hidden.array[head.volume.array == 200] < 150).mean() > 0.99
    assert (hidden.array[:4] == 0).all() and hidden.array[10, 10, 10] == 40
    assert (hidden.ijk_to_ras == head.volume.ijk_to_ras).all()


def test_oblique_cuts_go_through_the_middle_of_the_head() -> None:
    frames = list(negatives.oblique_frames(head_3d(), size=80))
    assert len(frames) == 2 * len(negatives.TILTS_DEG)
    for frame in frames:
        assert frame.is_frame and frame.array[0, 40, 40] == 200 and frame.spacing[0] == pytest.approx(2.0)
        assert (frame.array == 200).sum() == pytest.approx(np.pi * 15**2, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trunk_has_ribs_spine_and_fluid_and_no_closed_skull(kind: str) -> None:
    body, again, other = build_body(3, kind), build_body(3, kind), build_body(4, kind)
    assert (body.labels == again.labels).all() and (body.labels != other.labels).any()
    near = (body.skull_distance < -0.5) & (body.skull_distance > -1.5)
    assert 0.02 < (body.labels[near] == SKULL).mean() < 0.6
    assert (body.labels == VENTRICLES).sum() > 500
    outside = body.labels[body.skull_distance > 8]
    assert np.isin(outside, (AMNIOTIC, MATERNAL)).all()


def test_shares_are_weighted_by_numbers_and_kept_apart_by_sort() -> None:
    found = negatives.summarise(
        {
            "abdomen": {"images": 30.0, "accepted_share": 0.1},
            "femur": {"images": 10.0, "accepted_share": 0.5},
            negatives.BESIDE: {"images": 5.0, "accepted_share": 1.0},
            negatives.BODY: {"images": 3.0, "accepted_share": 0.0},
            negatives.COVERED: {"images": 1.0, "accepted_share": 1.0},
        }
    )
    assert found == {
        "no_brain_accepted_share": pytest.approx(0.2),
        "beside_head_accepted_share": 1.0,
        "no_brain_volumes_accepted_share": 0.25,
    }
