"""The alignment network's parts, and its passes over a volume with an oracle in the networks' place."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from USMRISynthesisLib.alignment.common import confidence
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.alignment.common.pyramid import Pyramid, plane_of
from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.volume import model, readout, refine, search
from USMRISynthesisLib.alignment.volume.network import (
    BRAIN,
    EYE_LEFT,
    HEAD,
    HEAD_FINE,
    LOG_SIGMA,
    SKULL,
    STAGES,
    UPRIGHT,
    AlignmentNetwork,
    Prediction,
    X,
    Z,
)
from USMRISynthesisLib.alignment.volume.pose import EYES_MM, SKULL_CENTRE_MM, SKULL_SEMI_AXES_MM
from USMRISynthesisLib.alignment.volume.votes import RotationVotes, cube_axes
from USMRISynthesisLib.datasets.heads import Head
from USMRISynthesisLib.evaluation.alignment.poses import by_group, compare, failures, place, run, summary
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.similarity import angle_deg, random_rotation, rotation_of, scale_of
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisLib.simulation.scanner.wide import SIZE, wide_ijk_to_canonical
from USMRISynthesisLib.ultrasound.gate import find_fan


@pytest.mark.parametrize(("maps", "upright"), [(0, False), (5, True)])
def test_a_network_has_the_outputs_of_its_stage(maps, upright):
    torch.manual_seed(0)
    prediction = Prediction(*AlignmentNetwork((8, 16), 16, maps, upright)(torch.randn(2, 1, 16, 16, 16)))
    assert prediction.maps.shape == (2, maps, 16, 16, 16) and prediction.fields.shape == (2, 6, 8, 8, 8)
    # Where the head stands nearly upright, coordinates start from the cube's own.
    start = cell_centres(8, 3) if upright else torch.zeros(3, 8, 8, 8)
    assert (prediction.fields[0, X : Z + 1] - start).abs().mean() < 0.3


@pytest.mark.parametrize("wrong", [0, 3])
def test_the_majority_of_votes_wins_for_either_sign_of_the_normal(wrong):
    rng = np.random.default_rng(wrong)
    truth = random_rotation(rng)  # world to canonical
    gradients = []
    for axes in cube_axes(truth[0]):
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
        assert np.linalg.det(axes) > 0
        rows = truth * 1.3
        rows[0] *= np.sign(rows[0] @ axes[:, 0])  # x is predicted along the cube's own first axis
        gradients.append(rows + rng.normal(0, 0.05, (3, 3)))
    for n in range(wrong):
        gradients[n] = 0.4 * gradients[n] * np.array([[1], [-1], [-1]])  # the half turn, less plainly
    votes = RotationVotes.from_gradients(gradients, 88 / 1.3)
    assert votes is not None
    first, *others = votes.modes()
    assert angle_deg(first, truth) < 5 and len(others) == (wrong > 0)
    assert abs(votes.agreement(first) - (8 - wrong) / (8 - 0.6 * wrong)) < 0.06
    assert votes.margin(first) > 0.9 and votes.margin(first @ cube_axes(first[0])[2]) <= 0.5
    assert RotationVotes.from_gradients([np.zeros((3, 3))], 80.0) is None


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.4, 0.5, 0.7)])
def test_a_cube_shows_what_lies_there_whatever_the_voxels(spacing):
    rng = np.random.default_rng(0)
    shape = tuple(int(64 / s) for s in spacing[::-1])
    matrix = np.eye(4)
    matrix[:3, :3] = random_rotation(rng) * spacing
    matrix[:3, 3] = 5, -20, 9
    k, j, i = np.indices(shape)
    world = np.stack([i, j, k], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
    middle = matrix[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2) + matrix[:3, 3]
    array = 100 + 50 * np.sin((world - middle) @ [0.05, 0.02, -0.03])
    fan = np.ones(shape, bool)
    pyramid = Pyramid(Volume(array.astype(np.float32), matrix), fan)
    unit = np.eye(4)
    unit[:3, :3] = random_rotation(rng) * 15.0
    unit[:3, 3] = middle
    x = pyramid.cut(unit, 16)[0, 0].numpy()
    assert x.shape == (16, 16, 16)
    where = np.moveaxis(cell_centres(16, 3).numpy(), 0, -1) @ unit[:3, :3].T + unit[:3, 3]
    low, high = np.percentile(array, (1, 99.5))
    expected = (100 + 50 * np.sin((where - middle) @ [0.05, 0.02, -0.03]) - low) / (high - low) * 2 - 1
    np.testing.assert_allclose(x, expected.clip(-1, 1), atol=0.06)
    unit[:3, 3] += 500
    assert (pyramid.cut(unit, 16) == -1).all()


def test_a_frames_plane_is_orthonormal_and_brings_its_pixels_back():
    matrix = np.eye(4)
    matrix[:3, :3] = random_rotation(np.random.default_rng(4)) * (0.3, 0.4, 1.0)
    matrix[:3, 3] = 3, 4, 5
    to_ras, to_plane = plane_of(Volume(np.zeros((1, 70, 80), np.uint8), matrix))
    np.testing.assert_allclose(to_ras[:3, :3] @ to_ras[:3, :3].T, np.eye(3), atol=1e-12)
    place = to_plane @ [7.0, 9.0, 1.0]
    np.testing.assert_allclose(to_ras @ [place[0], place[1], 0, 1], matrix @ [7, 9, 0, 1], atol=1e-9)


# --- the passes, with networks that know the truth and get the position of each cube


class Oracle(threading.local):
    """Answers as perfect networks would, from the truth and the cubes that were cut, on each thread by itself.

    hesitant_deg: `refine` sees the head turned by so much at most. mistaken: (4, 4), how `orient` takes the head to
    lie, and `refine` one that does not stand about upright.
    """

    def __init__(self, ras_to_canonical: np.ndarray, hesitant_deg: float, mistaken: np.ndarray) -> None:
        self.truth = ras_to_canonical
        self.hesitant_deg = hesitant_deg
        self.mistaken = mistaken
        self.units: list[np.ndarray] = []

    def stage(self, name: str):
        def answer(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            units = self.units[-len(x) :]
            return tuple(torch.cat(parts) for parts in zip(*(self._one(name, u) for u in units), strict=True))

        return answer

    def _one(self, name: str, unit: np.ndarray) -> tuple[torch.Tensor, ...]:
        form = STAGES[name]
        to_canonical = upright = self.truth @ unit
        if name == "orient" or (name == "refine" and np.trace(rotation_of(upright)) < 1.5):
            to_canonical = self.mistaken @ to_canonical
        if name == "refine" and self.hesitant_deg:
            turn = Rotation.from_matrix(rotation_of(to_canonical))
            seen = Rotation.from_rotvec(turn.as_rotvec() * min(1, np.deg2rad(self.hesitant_deg) / turn.magnitude()))
            to_canonical = np.block([[(seen * turn.inv()).as_matrix(), np.zeros((3, 1))], [0, 0, 0, 1]]) @ to_canonical

        def canonical(size: int) -> np.ndarray:
            cells = cell_centres(size, 3).numpy().reshape(3, -1)
            return (to_canonical[:3, :3] @ cells + to_canonical[:3, 3:]).reshape(3, size, size, size)

        def level(places: np.ndarray) -> np.ndarray:
            offset = places - SKULL_CENTRE_MM[:, None, None, None]
            return np.sqrt(((offset / SKULL_SEMI_AXES_MM[:, None, None, None]) ** 2).sum(axis=0))

        full, coarse = canonical(form.size), canonical(form.size // 2)
        fields = np.zeros((6, *coarse.shape[1:]))
        fields[HEAD] = np.where(level(coarse) < 1, 8, -8)
        fields[X : Z + 1] = coarse / (form.side_mm / 2)
        if name == "locate":
            fields[X] = np.abs(fields[X])
            fields[X + 1 : Z + 1] = 0
        elif name == "orient":
            fields[X] *= np.sign(to_canonical[0, 0])
        fields[LOG_SIGMA] = -4
        fields[UPRIGHT] = (np.trace(rotation_of(upright)) - 2) * 4.0
        maps = np.zeros((form.maps, *full.shape[1:]))
        if form.maps:
            maps[HEAD_FINE] = maps[BRAIN] = np.where(level(full) < 1, 8, -8)
            maps[SKULL] = level(full) - 1
            for row, eye in enumerate(EYES_MM):
                maps[EYE_LEFT + row] = 4 - ((full - eye[:, None, None, None]) ** 2).sum(axis=0) / 20
        return torch.from_numpy(maps).float()[None], torch.from_numpy(fields).float()[None]


@pytest.fixture
def oracle(monkeypatch):
    """`oracle(ras_to_canonical)`: networks that know it."""

    def make(truth: np.ndarray, hesitant_deg: float = 0.0, mistaken: np.ndarray | None = None) -> model.Networks:
        knows = Oracle(truth, hesitant_deg, np.eye(4) if mistaken is None else mistaken)
        cut = Pyramid.cut

        def noted(self, unit, size):
            knows.units.append(unit)
            return cut(self, unit, size)

        monkeypatch.setattr(Pyramid, "cut", noted)
        return model.Networks({name: knows.stage(name) for name in STAGES})

    return make


def head_of(seed: int = 0) -> Head:
    """A head for placing: a bright ellipsoid in noise; the oracle does not look at it."""
    k, j, i = (np.indices((SIZE, SIZE, SIZE)) - (SIZE - 1) / 2) * 1.6
    inside = sum(((a - c) / r) ** 2 for a, c, r in zip((i, j, k), SKULL_CENTRE_MM, SKULL_SEMI_AXES_MM, strict=True)) < 1
    channels = np.zeros((4, SIZE, SIZE, SIZE), np.uint8)
    channels[0] = np.random.default_rng(seed).integers(10, 120, inside.shape) + 60 * inside
    channels[1] = 255
    channels[3] = 255 * inside
    return Head(f"case-{seed}", 26, "left", channels, np.eye(4), EYES_MM, 10.0, 180.0)


@pytest.mark.parametrize("number", range(4))
def test_perfect_networks_align_any_head(oracle, number):
    placed = place(head_of(number), number)
    networks = oracle(np.linalg.inv(placed.anatomy_to_ras))
    found = search.find_head(networks, placed.volume, placed.fan)
    assert found is not None
    outcome = compare(placed, found)
    assert outcome.rotation_deg < 0.5 and outcome.translation_mm < 0.5 and abs(outcome.scale_percent) < 0.5
    assert outcome.mask_dice > 0.95 and outcome.eye_mm < 1.0 and not outcome.flipped
    np.testing.assert_allclose(found.ellipsoid.semi_axes, SKULL_SEMI_AXES_MM, atol=0.8)
    assert found.features.agreement > 0.99 and found.score > 0.5
    corner = np.array([30.0, -20, 10, 1])
    round_trip = np.linalg.inv(found.matrix) @ (found.matrix @ corner)
    np.testing.assert_allclose(round_trip, corner, atol=1e-9)


def test_every_pass_runs_in_bfloat16_where_it_is_faster(oracle):
    placed = place(head_of(), 0)
    networks = oracle(np.linalg.inv(placed.anatomy_to_ras))
    full, calls = networks.parts, []

    def noted(name: str):
        def answer(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            calls.append((name, x.dtype))
            return full[name](x)

        return answer

    networks.parts, networks.quick = {}, {name: noted(name) for name in STAGES}
    found = search.find_head(networks, placed.volume, placed.fan)
    assert found is not None and compare(placed, found).translation_mm < 0.5
    assert set(calls) == {(name, torch.bfloat16) for name in STAGES}


def test_candidates_are_sorted_by_the_logit_of_the_upright_head(oracle):
    placed = place(head_of(), 3)
    truth = np.linalg.inv(placed.anatomy_to_ras)
    networks, pyramid = oracle(truth), Pyramid(placed.volume, placed.fan)
    at = search._detect(networks, pyramid)
    assert at is not None
    right = rotation_of(truth)
    first = search._refine_candidates(networks, pyramid, at, [np.diag([-1.0, -1, 1]) @ right, right])
    assert first and angle_deg(rotation_of(first[0].start), right) < 1
    assert [refinement.upright for refinement in first] == sorted(
        (refinement.upright for refinement in first), reverse=True
    )


@pytest.mark.parametrize("turn_deg", [(180, 0, 0), (0, 180, 0), (0, 0, 180), (-90, 0, 0), (130, 180, 0)])
def test_a_head_with_wrong_votes_is_found_by_alternative_rotations(oracle, turn_deg, monkeypatch):
    placed = place(head_of(), 1)
    mistaken = np.eye(4)
    mistaken[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    networks = oracle(np.linalg.inv(placed.anatomy_to_ras), mistaken=mistaken)
    found = search.find_head(networks, placed.volume, placed.fan)
    assert found is not None and compare(placed, found).rotation_deg < 0.5
    monkeypatch.setattr(search, "_ALTERNATIVE_TURNS", ())
    voted = search.find_head(networks, placed.volume, placed.fan)
    assert voted is not None and compare(placed, voted).rotation_deg > 89 and voted.score < found.score


def from_a_turned_start(oracle, turned_deg: float, hesitant_deg: float):
    """A head, and what is found from a pose turned about S by networks that see it turned by so much at most."""
    placed = place(head_of(), 0)
    truth = np.linalg.inv(placed.anatomy_to_ras)
    start = np.eye(4)
    start[:3, :3] = Rotation.from_rotvec(np.deg2rad([0, 0, turned_deg])).as_matrix()
    found = search.find_head_from(oracle(truth, hesitant_deg), placed.volume, placed.fan, start @ truth)
    assert found is not None
    return compare(placed, found).rotation_deg, found.score


def test_a_turning_pose_is_refined_until_it_converges(oracle):
    off, score = from_a_turned_start(oracle, 80, 8.0)
    assert off < 0.5 and score > 0.5


def test_a_pose_that_does_not_converge_has_low_confidence(oracle):
    off, score = from_a_turned_start(oracle, 170, 6.0)
    assert off > 30 and score <= refine.UNSETTLED_SCORE < MIN_CONFIDENCE


def test_a_torch_that_fails_in_bfloat16_goes_on_in_float32(monkeypatch):
    def broken(self, stage, x):
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(model, "native_half", lambda device: (torch.bfloat16, "as the test wants it"))
    monkeypatch.setattr(model.Networks, "__call__", broken)
    store.forget()
    assert model.load_networks().quick is None
    store.forget()


def test_the_shipped_networks_find_the_sample_alike_in_both_precisions():
    volume = Volume.read(Path(__file__).resolve().parents[3] / "Resources" / "SampleData" / "fetal-head-simulated.nrrd")
    networks, fan = model.load_networks(), find_fan(volume.array, volume.spacing)
    if networks.quick is None:
        pytest.skip("this CPU does not compute in bfloat16")
    quick = search.find_head(networks, volume, fan)
    slow = search.find_head(replace(networks, quick=None), volume, fan)
    assert quick is not None and slow is not None
    change = quick.matrix @ np.linalg.inv(slow.matrix)
    assert angle_deg(rotation_of(change), np.eye(3)) < 1.0 and np.linalg.norm(change[:3, 3]) < 1.0
    assert abs(scale_of(change) - 1) < 0.01
    assert abs(quick.score - slow.score) < 0.05


def test_gestational_age_moves_the_size_only_a_little_when_the_image_is_clear(oracle):
    placed = place(head_of(), 0)
    networks = oracle(np.linalg.inv(placed.anatomy_to_ras))
    plain = search.find_head(networks, placed.volume, placed.fan)
    aged = search.find_head(networks, placed.volume, placed.fan, gestational_age=34.0)
    assert plain is not None and aged is not None
    ratio = np.linalg.det(aged.matrix[:3, :3] @ np.linalg.inv(plain.matrix[:3, :3])) ** (1 / 3)
    assert 0.9 < ratio < 1.1 and abs(ratio - 1) > 1e-4
    np.testing.assert_allclose(rotation_of(aged.matrix), rotation_of(plain.matrix), atol=1e-9)


def test_nothing_is_found_where_the_networks_see_no_head(oracle):
    placed = place(head_of(), 1)
    networks = oracle(np.diag([1e-3, 1e-3, 1e-3, 1]) + np.array([[0, 0, 0, 900.0]] * 3 + [[0, 0, 0, 0]]))
    assert search.find_head(networks, placed.volume, placed.fan) is None
    outcome = compare(placed, None)
    assert outcome.flipped and outcome.score == 0


def test_figures_list_failures_and_those_with_a_low_score(oracle):
    head = head_of()
    networks = oracle(np.linalg.inv(place(head, 0).anatomy_to_ras))
    outcomes = run([head], 2, lambda volume, fan: search.find_head(networks, volume, fan))
    figures = summary(outcomes)
    assert figures["flip_share"] == 0.5  # the second pose is another one, which this oracle does not know
    assert len(failures(outcomes)) == 1 and set(by_group(outcomes)) == {"view left", "week 26"}
    assert {"mask_dice_median", "translation_mm_p90", "rotation_deg_p90", "flips_caught_share", "eye_mm_median"} <= set(
        figures
    )


def test_a_random_pose_is_reproducible():
    head = head_of()
    np.testing.assert_array_equal(place(head, 3).anatomy_to_ras, place(head, 3).anatomy_to_ras)
    assert not np.allclose(place(head, 3).anatomy_to_ras, place(head, 4).anatomy_to_ras)
    np.testing.assert_allclose(
        place(head, 0).volume.ijk_to_ras, place(head, 0).anatomy_to_ras @ wide_ijk_to_canonical()
    )


def test_skull_points_lie_on_the_level_between_cells():
    cells = cell_centres(24, 3).numpy()
    distance = np.sqrt((cells**2).sum(axis=0)) - 0.7
    points, weights = readout.skull_points(distance, np.diag([50.0, 50, 50, 1]))
    assert len(points) == len(weights) > 200
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 35.0, atol=0.3)
    empty, none = readout.skull_points(np.ones((8, 8, 8)), np.eye(4))
    assert empty.shape == (0, 3) and len(none) == 0


def test_a_start_without_votes_has_no_agreement(oracle):
    placed = place(head_of(), 2)
    truth = np.linalg.inv(placed.anatomy_to_ras)
    flipped = np.diag([-1.0, -1, 1, 1]) @ truth
    found = search.find_head_from(oracle(truth), placed.volume, placed.fan, flipped)
    assert found is None or found.features.agreement > 0.99  # the dense coordinates turned it back
    votes = RotationVotes.from_gradients([truth[:3, :3]] * 4, HEAD_LENGTH_MM / 0.9)
    assert votes is not None and votes.agreement(rotation_of(flipped)) == 0


def test_the_head_fits_its_cubes():
    for form in STAGES.values():
        assert form.side_mm > 1.2 * HEAD_LENGTH_MM and form.size % 2 ** len(form.widths) == 0
    assert confidence.predict_proba(confidence.Features(0.3, 0.2, -4, 20, 0.3, 40, 20, 8, 0.6, 0.1)) < 0.1
