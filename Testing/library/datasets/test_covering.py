"""Marked frames whose cavum, or another place, is painted over."""

from __future__ import annotations

import numpy as np
import pytest
from USMRISynthesisLib.datasets import covering
from USMRISynthesisLib.datasets.covering import ABSENT, cover, ellipse, painted
from USMRISynthesisLib.datasets.marked_frames import CAVUM, PLEXUS_RING

SHAPE = (160, 160)
CENTRE, SIZE = np.array([110.0, 80.0]), np.array([16.0, 12.0])


@pytest.fixture
def frame() -> tuple[np.ndarray, np.ndarray]:
    """A head that grows darker to the back, a bright cavum in front, a plexus behind; a fan with an edge."""
    us = np.broadcast_to(np.arange(60, 220, dtype=np.uint8)[:, None] // 2, SHAPE).copy()
    us[ellipse(SHAPE, CENTRE, SIZE * 0.6)] = 250
    us[:, :6] = 0
    marks = np.zeros(SHAPE, np.uint8)
    marks[ellipse(SHAPE, CENTRE, SIZE / 2)] = CAVUM
    marks[ellipse(SHAPE, np.array([50.0, 50.0]), SIZE * 1.5)] = PLEXUS_RING
    return us, marks


def test_a_covered_cavum_shows_the_tissue_behind_or_beside_it(frame):
    us, _ = frame
    for seed in range(10):
        made = painted(us, CENTRE, SIZE, np.random.default_rng(seed))
        assert made.dtype == np.uint8
        assert made[110, 80] < us[110 - 1, 110] + 2  # no brighter than what lies level with it
        assert made[110, 80] >= us[70, 110]
        far = ~ellipse(SHAPE, CENTRE, SIZE * 2.5)
        assert (made[far] == us[far]).all()


def test_the_cavum_is_absent_or_another_place_is_covered_or_nothing_is(frame):
    us, marks = frame
    kinds = {"absent": 0, "elsewhere": 0, "nothing": 0}
    for seed in range(200):
        made, codes = cover(us, marks, np.random.default_rng(seed))
        assert ((codes == PLEXUS_RING) == (marks == PLEXUS_RING)).all()
        if (codes == ABSENT).any():
            kinds["absent"] += 1
            assert ((codes == ABSENT) == (marks == CAVUM)).all() and not (codes == CAVUM).any()
            assert made[110, 80] < 200
        else:
            kinds["elsewhere" if (made != us).any() else "nothing"] += 1
            assert (codes == marks).all() and (made[marks > 0] == us[marks > 0]).mean() > 0.9
    assert kinds["absent"] / 200 == pytest.approx(covering.COVERED, abs=0.1)
    assert kinds["elsewhere"] / 200 == pytest.approx(covering.ELSEWHERE, abs=0.1)


def test_a_frame_without_a_marked_cavum_stays(frame):
    us, marks = frame
    marks = np.where(marks == CAVUM, 0, marks)
    for seed in range(10):
        made, codes = cover(us, marks, np.random.default_rng(seed))
        assert made is us and codes is marks


def test_what_lies_outside_the_fan_covers_nothing(frame):
    us, _ = frame
    us = np.where(np.arange(160) < 60, 0, us).astype(np.uint8)  # nothing was seen behind it
    for seed in range(20):
        made = painted(us, np.array([110.0, 70.0]), SIZE, np.random.default_rng(seed))
        assert (made[:, 60:] > 0).all()
