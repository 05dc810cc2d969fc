"""Measures on real ultrasound: right values on made-up poses, images and marks, and what each of them must notice."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.real import consistency, evaluate, identity, structures, volumes
from USMRISynthesisLib.evaluation.real.cases import Frame, Head3D, heads_3d
from USMRISynthesisLib.evaluation.real.structures import Box, Marked
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.landmarks import similarity_from_landmarks
from USMRISynthesisLib.geometry.similarity import turn_about_x
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import Synthesis

FRONT, BACK, TOP = np.array([3.0, 40.0, 5.0]), np.array([3.0, -48.0, 5.0]), np.array([3.0, -4.0, 60.0])


def moved(degrees: float, shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = turn_about_x(degrees)
    matrix[:3, 3] = shift
    return matrix


def test_landmarks_give_the_canonical_ends_of_the_head() -> None:
    matrix = similarity_from_landmarks(FRONT, BACK, TOP)
    assert (matrix @ [*FRONT, 1])[:3] == pytest.approx([0, HEAD_LENGTH_MM / 2, 0])
    assert (matrix @ [*BACK, 1])[:3] == pytest.approx([0, -HEAD_LENGTH_MM / 2, 0])
    assert (matrix @ [*TOP, 1])[2] > 0 and np.linalg.det(matrix[:3, :3]) > 0


def test_a_pose_is_compared_by_angle_place_and_size() -> None:
    reference = similarity_from_landmarks(FRONT, BACK, TOP)
    found = np.diag([1.1, 1.1, 1.1, 1]) @ reference @ moved(20, (0, 3, 4))
    rotation, _, scale = volumes.compare(found, reference)
    assert rotation == pytest.approx(20, abs=1e-6) and scale == pytest.approx(1.1)
    assert volumes.compare(reference @ moved(0, (0, 3, 4)), reference)[1] == pytest.approx(5)
    assert not volumes.Pose("a", True, 1.0, 89.0, 0, 1, None).turned
    assert volumes.Pose("a", True, 1.0, 175.0, 0, 1, None).turned


def test_surroundings_hold_no_part_of_the_head() -> None:
    array = np.zeros((90, 100, 220), np.uint8)
    grid = np.diag([1.0, 1.0, 1.0, 1.0])
    grid[:3, 3] = (-60, -50, -45)
    head = Head3D("a", Volume(array, grid), {"front": np.array([0, 30.0, 0]), "back": np.array([0, -30.0, 0])})
    parts = volumes.surroundings(head)
    assert len(parts) == 1  # only on the right there is space
    corners = parts[0].ijk_to_ras @ [0, 0, 0, 1]
    assert corners[0] >= 30 and parts[0].shape == (90, 100, 130)


def result_of(mr: np.ndarray, turn: float = 0.0, pixel: float = 0.5) -> Synthesis:
    """A frame's result whose head stands in the middle, its front towards the top of the picture."""
    rows, columns = mr.shape
    grid = np.diag([-pixel, -pixel, pixel, 1.0])
    middle = grid @ [(columns - 1) / 2, (rows - 1) / 2, 0, 1]
    to_middle = np.eye(4)
    to_middle[:3, 3] = -middle[:3]
    angle = np.deg2rad(turn)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = Volume(mr[None].astype(np.int16), grid)
    return Synthesis(image, rotation @ to_middle, image, {})


def brain(shape: tuple[int, int] = (160, 120)) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = ((x - 59.5) / 50) ** 2 + ((y - 79.5) / 70) ** 2 < 1
    return np.where(inside, 400 + (x + y) % 7, 0).astype(float)


def test_a_bright_cavum_scores_one_and_a_dark_one_nothing() -> None:
    cavum = Box(60, 50, 24, 20)
    bright, dark = brain(), brain()
    bright[cavum.ellipse(bright.shape, 0.6)] = 900
    dark[cavum.ellipse(dark.shape, 0.6)] = 100
    marked = Marked(cavum=cavum)
    assert structures.measure(bright, result_of(bright), marked, 0.5)["cavum_auc"] == 1
    assert structures.measure(dark, result_of(dark), marked, 0.5)["cavum_auc"] == 0
    assert structures.measure(brain(), result_of(brain()), marked, 0.5)["cavum_auc"] == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("face", [0.0, 90.0, -90.0])
def test_a_covered_cavum_is_what_lies_behind_it(face: float) -> None:
    turn = np.deg2rad(face)
    y, x = np.mgrid[:160, :120].astype(float)
    along = (x - 60) * np.cos(turn) + (y - 80) * np.sin(turn)  # grows towards the face
    picture = (100 + along).astype(np.uint8)
    box = Box(60 + 20 * np.cos(turn), 80 + 20 * np.sin(turn), 16, 12)
    picture[box.ellipse(picture.shape, 1.0)] = 250
    painted = structures.covered(picture, box, face)
    assert painted.dtype == picture.dtype
    assert abs(int(painted[round(box.y), round(box.x)]) - (120 - 1.3 * 16)) <= 2
    untouched = ~box.ellipse(picture.shape, 2)
    assert (painted[untouched] == picture[untouched]).all()


def test_a_ring_of_any_brain_about_a_plexus_is_a_coin() -> None:
    noise = np.where(brain() > 0, np.random.default_rng(3).uniform(300, 700, brain().shape), 0)
    measured = structures.measure(noise, result_of(noise), Marked(plexus=(Box(45, 95, 20, 24),)), 0.5)
    assert measured["plexus_ring_auc"] == pytest.approx(0.5, abs=0.06)


def test_fluid_around_a_plexus_is_seen() -> None:
    plexus = Box(45, 95, 20, 24)
    image = brain()
    image[plexus.ellipse(image.shape, 1.6) & ~plexus.ellipse(image.shape, 0.8)] = 950
    measured = structures.measure(image, result_of(image), Marked(plexus=(plexus,)), 0.5)
    assert measured["plexus_ring_auc"] > 0.95


def symmetric_about(degrees: float, shift_mm: float = 0.0, pixel: float = 0.5) -> np.ndarray:
    """A head whose inside is a bright band along its midline, turned and shifted, between blobs of one shape."""
    image = brain()
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    angle = np.deg2rad(90 + degrees)
    along = np.array([np.cos(angle), np.sin(angle)])
    off = np.stack([x - 59.5, y - 79.5], axis=-1)
    v = off @ [-along[1], along[0]] - shift_mm / pixel
    u = off @ along
    inside = image > 0
    shown = 400 + 500 * np.exp(-((v / 3) ** 2)) + 200 * np.exp(-((np.abs(v) - 18) ** 2 + (u - 14) ** 2) / 90)
    return np.where(inside, shown, 0)


def test_the_midline_that_the_image_shows_is_compared_with_ellipse_and_falx() -> None:
    upright = Marked(falx=Box(63.5, 79.5, 1, 120), face_angle_deg=-90, axis_deg=91.0)
    straight = symmetric_about(0)
    measured = structures.measure(straight, result_of(straight), upright, 0.5)
    assert measured["falx_deg"] == pytest.approx(1, abs=0.6)
    assert measured["falx_mm"] == pytest.approx(2.0, abs=0.35) and measured["pose_mm"] == pytest.approx(2.0, abs=0.05)
    assert measured["face_right"] == 1
    # The image's own midline decides, not the estimated pose it is searched from.
    tilted = symmetric_about(12)
    measured = structures.measure(tilted, result_of(tilted, turn=4), upright, 0.5)
    assert measured["falx_deg"] == pytest.approx(11, abs=1) and measured["pose_deg"] < 6
    moved = symmetric_about(0, shift_mm=-2.0)  # towards the falx
    assert structures.measure(moved, result_of(moved), upright, 0.5)["falx_mm"] < 0.4


def test_a_pose_that_is_turned_round_has_the_face_at_the_wrong_end() -> None:
    upright = Marked(face_angle_deg=-90)
    turned = structures.measure(brain(), result_of(brain(), turn=180), upright, 0.5)
    assert turned["pose_deg"] < 1 and turned["face_right"] == 0
    tilted = structures.measure(brain(), result_of(brain(), turn=12), upright, 0.5)
    assert tilted["pose_deg"] == pytest.approx(12, abs=0.1)


def frames_of(count: int) -> list[Frame]:
    volume = Volume(np.zeros((1, 4, 4), np.uint8), np.eye(4))
    return [Frame(f"{n}", volume, f"fetus {n // 2}", size_mm=250 + n // 2) for n in range(count)]


def test_identity_is_one_for_anatomy_of_its_own_and_a_coin_for_an_average() -> None:
    rng = np.random.default_rng(1)
    average = ndimage.gaussian_filter(rng.standard_normal((40, 40)), 3)
    own = [ndimage.gaussian_filter(rng.standard_normal((40, 40)), 3) for _ in range(6)]
    noise = [0.02 * rng.standard_normal((40, 40)) for _ in range(12)]
    faithful = [2 + average + own[n // 2] + noise[n] for n in range(12)]
    memorised = [2 + average + noise[n] for n in range(12)]
    assert identity.identity_auc(frames_of(12), faithful) == 1
    assert identity.identity_auc(frames_of(12), memorised) == pytest.approx(0.5, abs=0.25)


def test_pairs_of_unlike_size_do_not_count() -> None:
    volume = Volume(np.zeros((1, 4, 4), np.uint8), np.eye(4))
    frames = [Frame(str(n), volume, "ab"[n // 2], size_mm=(200, 200, 260, 260)[n]) for n in range(4)]
    images = [np.random.default_rng(n).random((30, 30)) + 1 for n in range(4)]
    assert np.isnan(identity.identity_auc(frames, images))


def test_two_frames_of_each_fetus_with_several_are_chosen() -> None:
    volume = Volume(np.zeros((1, 4, 4), np.uint8), np.eye(4))
    frames = [Frame(f"{s}{n}", volume, s) for s, many in (("a", 3), ("b", 1), ("c", 2)) for n in range(many)]
    assert [frame.name for frame in identity.frames_of_pairs(frames, 5)] == ["a0", "a1", "c0", "c1"]


@pytest.mark.parametrize("name", consistency.CHANGES)
def test_each_change_changes_a_frame_and_keeps_its_grid(name: str) -> None:
    array = np.random.default_rng(2).integers(1, 200, (1, 60, 80)).astype(np.uint8)
    changed = consistency.CHANGES[name](array)
    assert changed.shape == array.shape and changed.dtype == np.uint8 and (changed != array).any()


def test_volumes_are_read_with_their_landmarks(tmp_path: Path) -> None:
    folder = tmp_path / "us-3d-real"
    folder.mkdir()
    Volume(np.ones((8, 9, 10), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])).write(folder / "a.nrrd")
    with open(folder / "landmarks.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "point", "ras_x", "ras_y", "ras_z"])
        writer.writerow(["a.nrrd", "front", 1, 2, 3])
        writer.writerow(["missing.nrrd", "front", 1, 2, 3])
    (head,) = heads_3d(tmp_path)
    assert head.name == "a.nrrd" and head.landmarks["front"].tolist() == [1, 2, 3]


def test_shares_and_medians_over_volumes() -> None:
    poses = [
        volumes.Pose("a", True, 0.9, 4.0, 1.0, 1.0, None),
        volumes.Pose("b", False, 0.3, 170.0, 2.0, 1.0, None),
        volumes.Pose("c", False, 0.0, np.nan, np.nan, np.nan, None),
    ]
    found = evaluate.summarise_poses(poses)
    assert found["volumes_accepted_share"] == pytest.approx(1 / 3)
    assert found["volumes_turned_share"] == 0.5 and found["rotation_deg_median"] == 87
    assert "b" in evaluate.table(found)


def test_a_folder_without_real_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="There is no real ultrasound"):
        evaluate.evaluate(tmp_path)


def test_a_table_puts_each_figure_beside_the_baselines() -> None:
    result = {
        "cavum_auc": 0.91,
        "cavum_auc_fitted_atlas": 0.4,
        "methods": {"ours": {"cavum_auc": 0.91}, "fitted atlas": {"cavum_auc": 0.4}, "mean MR": {"cavum_auc": 0.3}},
    }
    (line,) = [line for line in evaluate.table(result).splitlines() if line.startswith("cavum")]
    assert line.split() == ["cavum_auc", "0.910", "0.400", "0.300"]
