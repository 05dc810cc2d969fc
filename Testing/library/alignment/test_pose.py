"""Closed forms: similarity, skull ellipsoid, the parametric coordinate system, age and confidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from USMRISynthesisLib.alignment.common import confidence
from USMRISynthesisLib.alignment.volume import pose as poses
from USMRISynthesisLib.geometry.similarity import (
    affine,
    angle_deg,
    cube_rotations,
    fit_similarity,
    random_rotation,
    rotation_of,
    scale_of,
    similarity,
    small_rotation,
)

quick = settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
seeds = st.integers(0, 10_000)
# The smallest head in the test is 38 mm long (15 weeks), the largest 125 mm: canonical over world.
scales = st.floats(88 / 125, 88 / 38)


def pose_of(rng: np.random.Generator, scale: float) -> np.ndarray:
    """World to canonical, anywhere."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * random_rotation(rng)
    matrix[:3, 3] = rng.uniform(-60, 60, 3)
    return matrix


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    n = points.shape[1]
    return points @ matrix[:n, :n].T + matrix[:n, n]


def surface(rng: np.random.Generator, count: int, semi_axes, centre) -> np.ndarray:
    direction = rng.standard_normal((count, 3))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True) * semi_axes + centre


@quick
@given(seed=seeds, scale=scales, n=st.sampled_from([2, 3]))
def test_a_similarity_is_recovered_exactly(seed, scale, n):
    rng = np.random.default_rng(seed)
    truth = pose_of(rng, scale)
    if n == 2:
        angle = rng.uniform(-3, 3)
        truth = np.array(
            [
                [scale * np.cos(angle), -scale * np.sin(angle), 5],
                [scale * np.sin(angle), scale * np.cos(angle), -3],
                [0, 0, 1],
            ]
        )
    points = rng.normal(0, 30, (20, n))
    np.testing.assert_allclose(similarity(points, moved(points, truth), rng.uniform(0.1, 1, 20)), truth, atol=1e-8)
    np.testing.assert_allclose(affine(points, moved(points, truth)), truth, atol=1e-8)


@quick
@given(seed=seeds)
def test_mirrored_points_never_give_a_mirror(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 30, (30, 3))
    assert np.linalg.det(similarity(points, points * [-1, 1, 1])[:3, :3]) > 0


def test_too_few_points_are_no_similarity():
    with pytest.raises(ValueError, match="at least 3"):
        similarity(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="one place"):
        similarity(np.ones((9, 3)), np.ones((9, 3)))
    with pytest.raises(ValueError, match="affine"):
        affine(np.ones((9, 3)), np.ones((9, 3)))


@quick
@given(seed=seeds, scale=scales, wrong=st.floats(0, 0.35))
def test_coordinates_that_lie_are_voted_down(seed, scale, wrong):
    rng = np.random.default_rng(seed)
    truth = pose_of(rng, scale)
    points = rng.normal(0, 25, (400, 3)) / scale
    predicted = moved(points, truth) + rng.normal(0, 1.0, (400, 3))
    bad = rng.random(400) < wrong
    predicted[bad] = predicted[bad] * [-1, -1, 1] + rng.normal(0, 20, (int(bad.sum()), 3))  # half a turn
    fit = fit_similarity(points, predicted, np.ones(400))
    assert angle_deg(rotation_of(fit.matrix), rotation_of(truth)) < 2
    assert abs(fit.scale / scale - 1) < 0.03
    assert np.linalg.norm(moved(np.zeros((1, 3)), fit.matrix @ np.linalg.inv(truth))) < 2.5
    assert 0.35 < fit.inliers <= 1 and fit.residual < 3


def test_the_cube_has_24_rotations():
    turns = cube_rotations()
    assert turns.shape == (24, 3, 3) and len({tuple(t.ravel()) for t in turns}) == 24
    np.testing.assert_array_equal(turns[0], np.eye(3))
    assert all(np.linalg.det(turn) == 1 for turn in turns)


def test_every_orientation_is_near_one_of_them():
    rng = np.random.default_rng(1)
    drawn = [random_rotation(rng) for _ in range(300)]
    assert max(min(angle_deg(one, turn) for turn in cube_rotations()) for one in drawn) < 62.9
    # Uniform over the sphere: the angle to any one rotation is 126 degrees in the mean.
    assert abs(np.mean([angle_deg(one, np.eye(3)) for one in drawn]) - 126.5) < 6
    assert all(angle_deg(small_rotation(rng, 10), np.eye(3)) <= 10.01 for _ in range(50))


@quick
@given(seed=seeds, scale=scales, seen=st.floats(0.45, 1.0))
def test_an_ellipsoid_is_found_from_part_of_a_skull(seed, scale, seen):
    rng = np.random.default_rng(seed)
    world = np.linalg.inv(pose_of(rng, scale))
    axes = rotation_of(world)
    semi, centre = np.array([34.0, 44.0, 34.0]), np.array([1.0, -1.0, 3.0])
    points = surface(rng, 900, semi, centre)
    points = points[points[:, int(rng.integers(3))].argsort()][: int(900 * seen)]  # the rest is in shadow
    points += rng.normal(0, 0.5, points.shape)
    found = poses.fit_ellipsoid(moved(points, world), axes, prior=60.0)
    back = np.linalg.inv(world)
    assert np.linalg.norm(moved(found.centre[None], back)[0] - centre) < 3.5
    np.testing.assert_allclose(found.semi_axes * scale, semi, rtol=0.08)
    assert found.residual * scale < 1.5


def test_no_ellipsoid_is_made_of_a_few_points_or_a_plane():
    with pytest.raises(ValueError, match="six"):
        poses.fit_ellipsoid(np.zeros((5, 3)), np.eye(3))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="fit no ellipsoid"):
        poses.fit_ellipsoid(np.column_stack([rng.normal(0, 30, (50, 2)), rng.normal(0, 30, 50) ** 2]), np.eye(3))


@quick
@given(seed=seeds, scale=scales, eyes=st.sampled_from([(1, 1), (1, 0), (0, 1), (0, 0)]), skull=st.booleans())
def test_the_skulls_own_coordinates_survive_missing_parts(seed, scale, eyes, skull):
    rng = np.random.default_rng(seed)
    truth = pose_of(rng, scale)
    world = np.linalg.inv(truth)
    ellipsoid = None
    # The network's pose is off by up to 6 degrees and 3 mm.
    off = np.eye(4)
    off[:3, :3] = small_rotation(rng, 6.0)
    off[:3, 3] = rng.uniform(-1.7, 1.7, 3)
    predicted = off @ truth
    if skull:
        points = surface(rng, 400, poses.SKULL_SEMI_AXES_MM, poses.SKULL_CENTRE_MM)
        ellipsoid = poses.fit_ellipsoid(moved(points, world), poses.head_axes(predicted), prior=20)
    places = moved(poses.EYES_MM, world)
    places[np.array(eyes) == 0] = 1e6  # the row of an eye that is not visible is ignored
    found = poses.parametric(ellipsoid, places, np.array(eyes, float), predicted)
    error = found @ world
    assert angle_deg(rotation_of(error), np.eye(3)) < 7.5
    assert np.linalg.norm(error[:3, 3]) < (2.5 if skull else 4.0)
    assert abs(scale_of(error) - 1) < 0.04
    np.testing.assert_allclose(rotation_of(found) @ rotation_of(found).T, np.eye(3), atol=1e-9)


def test_an_affine_map_takes_the_skull_to_the_usual_one():
    rng = np.random.default_rng(3)
    world = np.linalg.inv(pose_of(rng, 1.3))
    points = moved(surface(rng, 500, [31.0, 45.0, 36.0], np.zeros(3)), world)
    ellipsoid = poses.fit_ellipsoid(points, rotation_of(world))
    matrix = poses.parametric(
        ellipsoid, np.zeros((2, 3)), np.zeros(2), np.linalg.inv(world), pose_spread_mm=1e3, full=True
    )
    found = poses.fit_ellipsoid(moved(points, matrix), np.eye(3))
    np.testing.assert_allclose(found.semi_axes, poses.SKULL_SEMI_AXES_MM, atol=0.3)
    with pytest.raises(ValueError, match="needs the skull"):
        poses.parametric(None, np.zeros((2, 3)), np.zeros(2), np.eye(4), full=True)


@quick
@given(seed=seeds, scale=scales, cut=st.floats(0, 60))
def test_unsigned_distances_give_the_midplane(seed, scale, cut):
    rng = np.random.default_rng(seed)
    world = np.linalg.inv(pose_of(rng, scale))
    inside = rng.uniform(-1, 1, (4000, 3))
    inside = inside[np.linalg.norm(inside, axis=1) < 1] * poses.SKULL_SEMI_AXES_MM
    inside = inside[inside[:, 0] < cut] if cut < 36 else inside  # one side is in shadow
    distance = np.abs(inside[:, 0]) + rng.normal(0, 2.0, len(inside))
    bad = rng.random(len(inside)) < 0.15
    distance[bad] = rng.uniform(0, 30, int(bad.sum()))
    points = moved(inside, world)
    plane = poses.fit_midplane(points, np.maximum(distance, 0) / scale, np.ones(len(points)))
    truth = rotation_of(world)
    assert abs(plane.normal @ truth[:, 0]) > np.cos(np.deg2rad(6))


def test_head_length_follows_the_published_curve():
    for weeks, length in ((16, 42.9), (20, 60.7), (28, 91.9), (36, 111.6)):
        mean, spread = poses.head_length_mm(weeks)
        assert abs(mean - length) < 1.0 and 0.02 < spread / mean < 0.08
    with pytest.raises(ValueError, match="12 to 42"):
        poses.head_length_mm(50)


def test_age_pulls_an_unsure_size_and_leaves_a_sure_one():
    centre = np.array([0.0, -1.0, 2.0])
    world = np.linalg.inv(pose_of(np.random.default_rng(0), 88 / 60.7))
    right = np.linalg.inv(world)
    small = np.eye(4)
    small[:3, :3] *= 0.8
    small[:3, 3] = centre - 0.8 * centre
    wrong = small @ right
    sure, unsure = (poses.with_age(wrong, 20, spread=s, centre=centre) for s in (0.001, 0.5))
    assert abs(scale_of(sure) / scale_of(wrong) - 1) < 0.01
    assert abs(scale_of(unsure) / scale_of(right) - 1) < 0.02
    place = moved(centre[None], np.linalg.inv(wrong))
    np.testing.assert_allclose(moved(place, unsure)[0], centre, atol=1e-9)


def features(rng: np.random.Generator, good: bool) -> confidence.Features:
    shift = 1.0 if good else -1.0
    return confidence.Features(
        *(
            float(m + s * (np.sign(w) * shift * 0.7 + rng.normal()))
            for m, s, w in zip(
                confidence.DEFAULT.mean, confidence.DEFAULT.spread, confidence.DEFAULT.weights, strict=True
            )
        )
    )


def test_a_calibration_separates_right_from_wrong_and_survives_its_file():
    rng = np.random.default_rng(0)
    labels = [bool(rng.random() < 0.8) for _ in range(300)]
    rows = [features(rng, label) for label in labels]
    fitted = confidence.Calibration.from_json(confidence.calibrate(rows, labels).to_json())
    scores = np.array([confidence.predict_proba(row, fitted) for row in rows])
    right = np.array(labels)
    assert ((scores > 0.5) == right).mean() > 0.9
    assert all(w * d >= 0 for w, d in zip(fitted.weights, confidence.DEFAULT.weights, strict=True))
    strange = confidence.Features(1e9, -1e9, float("inf"), float("nan"), 0, 1e9, 1e9, 1e9, 1e9, -1)
    assert 0 <= confidence.predict_proba(strange, fitted) <= 1


def test_a_calibration_needs_both_kinds_and_the_right_names():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="some that are wrong"):
        confidence.calibrate([features(rng, True) for _ in range(9)], [True] * 9)
    content = confidence.DEFAULT.to_json()
    for broken in ({**content, "names": ["a"]}, {**content, "mean": [1.0]}, {}, {**content, "bias": None}):
        with pytest.raises(ValueError):
            confidence.Calibration.from_json(broken)
