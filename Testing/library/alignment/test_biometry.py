"""Biometry from the outline: sizes of known ellipses and ellipsoids in any pose, growth standard, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from USMRISynthesisLib.alignment import biometry as measured
from USMRISynthesisLib.alignment import growth
from USMRISynthesisLib.geometry.canonical import HC_PLANE_Z_MM
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.simulation.anatomy.warp import rotation_matrix

# Published tables (University of Oxford, grow_fetal-ct): weeks, 3rd, 50th and 97th centile, mm.
HC = [(14, 87.4, 97.9, 108.4), (20, 158.5, 172.5, 186.5), (30, 261.0, 278.4, 295.8), (40, 309.6, 333.9, 358.3)]
BPD = [(14, 26.3, 29.6, 32.9), (20, 44.1, 48.4, 52.8), (30, 73.1, 78.9, 84.7), (40, 87.5, 94.9, 102.3)]


def alignment(
    scale: float, semi_axes: tuple[float, float, float], *, turned: bool = True, **changes: object
) -> Alignment:
    """A head whose semi-axes are given in the ultrasound's mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * (rotation_matrix(np.array([0.4, -0.7, 0.3])) if turned else np.eye(3))
    matrix[:3, 3] = (12, -40, 7)
    found = Alignment(matrix, np.array([0, 0, HC_PLANE_Z_MM]), scale * np.array(semi_axes), np.eye(3), 0.95, "network")
    return replace(found, **changes)


@pytest.mark.parametrize(("name", "table"), [("hc", HC), ("bpd", BPD)])
def test_the_equations_give_the_published_tables(name: str, table: list[tuple[float, ...]]) -> None:
    for weeks, third, middle, last in table:
        mean, spread = growth.CURVES[name](weeks)
        assert [mean - 1.88079 * spread, mean, mean + 1.88079 * spread] == pytest.approx(
            [third, middle, last], abs=0.051
        )
        assert growth.centile(name, third, weeks) == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("weeks", [13.9, 40.1, math.nan])
def test_no_size_is_given_beyond_the_standard(weeks: float) -> None:
    for curve in growth.CURVES.values():
        with pytest.raises(ValueError, match="outside 14 to 40"):
            curve(weeks)


def test_age_by_circumference_lies_in_its_interval_and_errors_widen_it() -> None:
    mean, spread = growth.circumference(24.0)
    found = growth.age_of(mean)
    assert found is not None and found[0] == pytest.approx(24.0, abs=0.01)
    weeks, youngest, oldest = found
    assert youngest < weeks < oldest
    mean_of_youngest, spread_of_youngest = growth.circumference(youngest)
    assert mean_of_youngest + growth.NORMAL_95 * spread_of_youngest == pytest.approx(mean, abs=0.05)
    wider = growth.age_of(mean, 2 * spread)
    assert wider is not None and wider[1] < youngest and wider[2] > oldest
    assert growth.age_of(60.0) is None and growth.age_of(400.0) is None


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.7])
@pytest.mark.parametrize("is_frame", [True, False])
def test_sizes_are_those_of_the_ultrasound_in_any_pose_and_scale(scale: float, is_frame: bool) -> None:
    head = alignment(scale, (30, 40, 0 if is_frame else 33))
    sizes = measured.sizes_mm(head, is_frame=is_frame)
    assert sizes is not None
    assert (sizes["bpd"], sizes["ofd"]) == pytest.approx((60, 80))
    angle = np.linspace(0, 2 * np.pi, 20001)
    steps = np.diff(np.stack([30 * np.cos(angle), 40 * np.sin(angle)]))
    assert sizes["hc"] == pytest.approx(np.hypot(*steps).sum(), rel=1e-5)


def test_a_volume_is_measured_in_the_head_circumference_plane() -> None:
    below = alignment(1.0, (30, 40, 33), centre=np.array([0, 0, HC_PLANE_Z_MM - 16.5]))
    sizes = measured.sizes_mm(below, is_frame=False)
    assert sizes is not None and sizes["ofd"] == pytest.approx(80 * math.sqrt(0.75))
    assert measured.sizes_mm(replace(below, centre=np.array([0.0, 0, HC_PLANE_Z_MM - 40])), is_frame=False) is None


def test_a_tilted_ellipsoid_is_cut_not_projected() -> None:
    tilt = rotation_matrix(np.array([0.5, 0, 0]))
    sizes = measured.sizes_mm(alignment(1.0, (30, 40, 33), rotation=tilt), is_frame=False)
    assert sizes is not None
    # Along the line of the plane z = 0 in the y-z plane of the head.
    direction = tilt.T @ [0, 1, 0]
    assert sizes["ofd"] == pytest.approx(2 / np.linalg.norm(direction / [30, 40, 33]))
    assert sizes["bpd"] == pytest.approx(60)


def test_an_age_gives_centiles_and_none_gives_an_estimate() -> None:
    head = alignment(1.0, (24.5, 31, 27))
    free = measured.biometry(head, is_frame=False)
    assert free is not None and free.age is not None and free.hc.centile is None
    assert free.hc.low < free.hc.mm < free.hc.high
    known = measured.biometry(head, is_frame=False, weeks=21.0)
    assert known is not None and known.age is None and known.hc.centile is not None
    assert known.hc.centile == pytest.approx(growth.centile("hc", known.hc.mm, 21.0))
    text = known.to_json()
    assert text["notice"] == "Computed from the ultrasound, not for diagnosis."
    assert text["hc"]["interval_mm"][0] < text["hc"]["mm"] < text["hc"]["interval_mm"][1]
    assert "age_by_hc" not in text and "age_by_hc" in free.to_json()


def test_an_age_beyond_the_standard_gives_no_centile() -> None:
    found = measured.biometry(alignment(1.0, (45, 57, 50)), is_frame=False, weeks=41.0)
    assert found is not None and found.hc.centile is None and found.age is None


@pytest.mark.parametrize("score", [0.1, float("nan")])
def test_a_head_that_was_not_found_is_not_measured(score: float) -> None:
    assert measured.biometry(alignment(1.0, (30, 40, 33), score=score), is_frame=False) is None
