"""The reliability map: its input, its training, its output, its measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from USMRISynthesisLib.errors import Cancelled
from USMRISynthesisLib.evaluation.metrics.image import auc
from USMRISynthesisLib.geometry.planes import PLANES
from USMRISynthesisLib.synthesis.reliability import (
    WRONG,
    ReliabilityNetwork,
    cells_of,
    error_of,
    extrapolate_rim,
    frame_of,
    head_of,
    neighbourhood,
    reliability_and_size,
    spread_of,
)
from USMRISynthesisLib.training.reliability.data import (
    LabelledHead,
    LabelledPrediction,
    _mirrored,
    augmented,
    draw,
    slices_of,
)
from USMRISynthesisLib.training.reliability.loop import calibrate


def judged_head(seed: int) -> LabelledHead:
    """A head that is wrong just where its MR is bright: what a network can learn within seconds."""
    rng = np.random.default_rng(seed)
    us = rng.integers(0, 255, (80, 80, 80)).astype(np.uint8)
    mr = np.full(us.shape, 90, np.uint8)
    wrong = np.zeros(us.shape, bool)
    row, column = rng.integers(15, 35, 2)
    wrong[25:60, row : row + 30, column : column + 30] = True
    mr[wrong] = 220
    inside = np.zeros(us.shape, np.uint8)
    inside[20:60, 10:70, 10:70] = 255
    error, share = wrong * np.uint8(200), wrong * np.uint8(255)
    spreads = (None, wrong * np.uint8(40))
    predictions = tuple(LabelledPrediction(mr, error, share, spread) for spread in spreads)
    return LabelledHead(f"head-{seed}", us, predictions, inside)


def voxels(cells: np.ndarray) -> np.ndarray:
    return cells.repeat(2, 0).repeat(2, 1).repeat(2, 2)


def wrong_of(mr: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return error_of(mr, truth, np.ones(truth.shape, bool)) > WRONG


def test_wrong_is_what_is_off_by_more_than_a_step_between_tissues_and_not_an_edge_half_a_voxel_off():
    truth = np.zeros((8, 60, 60), np.float32)
    truth[:, 20:40, 20:40] = 0.5
    spot = np.zeros_like(truth)
    spot[:, 5:13, 5:13] = 1
    assert not wrong_of(truth + 0.1 * spot, truth).any()
    assert wrong_of(truth + 0.25 * spot, truth)[:, 7:11, 7:11].all()
    assert not wrong_of(truth + 0.4, truth).any()  # brighter as a whole: MR has no units
    moved = (truth + np.roll(truth, 1, axis=2)) / 2
    assert not wrong_of(moved, truth).any()
    assert wrong_of(np.roll(truth, 4, axis=2), truth).any()


@pytest.mark.parametrize("plane", PLANES)
def test_a_mirrored_slice_is_the_slice_of_the_mirrored_head(plane):
    head = judged_head(0)
    rng = np.random.default_rng(1)

    def turned(cells):
        return None if cells is None else cells[:, :, ::-1]

    made = tuple(LabelledPrediction(*map(turned, (m.mr, m.error, m.error_mask, m.spread))) for m in head.predictions)
    other = LabelledHead("mirrored", turned(head.us), made, turned(head.inside))
    k = int(rng.choice(head.usable_slices[plane]))
    there = 79 - k if plane == "sagittal" else k
    for n in range(2):
        mirrored = _mirrored(slices_of(head, n, plane, np.array([k])), plane)
        for a, b in zip(mirrored, slices_of(other, n, plane, np.array([there])), strict=True):
            torch.testing.assert_close(a, b)


def test_a_batch_is_of_one_plane_and_of_several_and_its_truth_is_its_own():
    batch = draw([judged_head(0)], 12, np.random.default_rng(1))
    bright = (batch.cells[:, 4:5] > 0).float()
    assert torch.equal(bright, batch.error_mask)
    spread = batch.cells[:, 6:7]
    several = spread.amin(dim=(1, 2, 3)) >= 0
    assert 0 < several.sum() < 12 and (spread[~several] == -1).all()
    assert torch.equal(spread[several] > 0, bright[several] > 0)


def test_conditions_hold_plane_and_depth_and_left_and_right_are_alike():
    head = head_of(*(np.zeros((160, 160, 160), np.float32),) * 2, None)
    for n, plane in enumerate(PLANES):
        cells, conditions = head.slices(plane, np.array([0, 39, 40, 79]))
        row, column, depth = cells[0, -2], cells[0, -1], conditions[:, 0, 0, 0]
        assert conditions[:, -3 + n].all() and conditions[:, -3:].sum() == 4
        assert row[0, 0] == -1 and row[-1, 0] == 1 and column[0, -1] == 1
        sagittal = plane == "sagittal"
        assert column[0, 0] == (-1 if sagittal else 1)
        assert depth[0] == (1 if sagittal else -1) and depth[3] == 1 and (depth[1] == depth[2]) == sagittal


def test_a_cell_is_the_mean_of_eight_voxels():
    voxels_here = np.zeros((4, 4, 4), np.float32)
    voxels_here[:2, :2, :2] = 1
    voxels_here[3, 3, 3] = 4
    assert cells_of(voxels_here).tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 0.5]]]
    assert cells_of(voxels_here > 2)[1, 1, 1] == 0.125


def test_what_is_wrong_moves_with_the_images():
    batch = draw([judged_head(0)], 6, np.random.default_rng(1))
    other = augmented(batch, np.random.default_rng(2))
    assert [part.shape for part in other] == [part.shape for part in batch]
    bright = (other.cells[:, 4:5] > 0.1).float()
    assert (
        float((bright - other.error_mask).abs().mean())
        < 0.008
        < float((batch.error_mask - other.error_mask).abs().mean())
    )
    assert torch.equal(batch.cells[:, 7:], other.cells[:, 7:])  # where it lies stays: a head lies elsewhere
    again = augmented(batch, np.random.default_rng(2))
    assert all(torch.equal(a, b) for a, b in zip(other, again, strict=True))


def test_the_ends_of_the_stack_stand_in_for_slices_beyond_it():
    stack = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    assert neighbourhood(stack, np.array([0, 3, 5]))[:, :, 0, 0].tolist() == [[0, 0, 1], [2, 3, 4], [4, 5, 5]]


def test_training_finds_errors_and_probabilities_are_calibrated():
    torch.manual_seed(0)
    network = ReliabilityNetwork()
    heads = [judged_head(n) for n in range(3)]
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        batch = draw(heads, 4, rng)
        predicted = network.predictions(*batch[:2])[:, :1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(predicted, batch.error_mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    calibrate(network, [judged_head(7)])
    held = judged_head(8)
    inside = voxels(held.inside) > 0
    for made in held.predictions:
        us, mr = (voxels(stack).astype(np.float32) / 127.5 - 1 for stack in (held.us, made.mr))
        spread = None if made.spread is None else voxels(made.spread) / np.float32(51)
        predicted, _ = reliability_and_size(network, us, mr, spread, inside)
        assert predicted.shape == us.shape and 0 <= predicted.min() and predicted.max() <= 1
        wrong = voxels(made.error_mask)[inside] > 0
        assert auc(1 - predicted[inside], wrong) > 0.9
        assert abs((1 - predicted[inside]).mean() - wrong.mean()) < 0.08


def test_equal_planes_have_zero_spread_and_one_plane_has_none():
    same = np.zeros((2, 3, 3), np.float32)
    assert not spread_of({"axial": same, "coronal": same}).any() and spread_of({"axial": same}) is None
    assert (spread_of({"axial": same, "coronal": same + 0.2}) == np.float32(0.5)).all()


def test_cancelling_ends_the_reliability_map():
    with pytest.raises(Cancelled):
        reliability_and_size(ReliabilityNetwork(), np.zeros((16, 160, 160)), np.zeros((16, 160, 160)), None,
                    np.ones((16, 160, 160), bool), cancel=lambda: True)  # fmt: skip


def test_auc_counts_ties_half_and_is_even_for_one_kind():
    truth = np.array([True, False, True, False])
    assert auc(np.array([0.9, 0.1, 0.8, 0.2]), truth) == 1.0
    assert auc(np.zeros(4), truth) == 0.5
    assert auc(np.array([0.1, 0.9, 0.2, 0.8]), truth) == 0.0
    assert auc(np.arange(3.0), np.ones(3, bool)) == 0.5


def test_the_rim_takes_the_probability_of_the_nearby_brain():
    brain = np.zeros((20, 40, 40), bool)
    brain[:, 10:30, 10:30] = True
    predicted = np.where(brain, 0.95, 0.1).astype(np.float32)  # outside the brain the output is arbitrary
    predicted[:, 10:30, 10:14] = 0.5
    result = extrapolate_rim(predicted, brain)
    np.testing.assert_array_equal(result[brain], predicted[brain])
    assert abs(result[10, 20, 31] - 0.95) < 0.01 and abs(result[10, 20, 8] - 0.5) < 0.05
    assert abs(result[0, 0, 0] - predicted[brain].mean()) < 0.01
    assert (extrapolate_rim(predicted, np.zeros_like(brain)) == 0).all()


def judged_frame(seed: int) -> LabelledHead:
    """A frame that is wrong just where its MR is bright: the middle slice of such a head."""
    head = judged_head(seed)
    middle = slice(40, 41)
    made = head.predictions[0]
    cut = LabelledPrediction(made.mr[middle], made.error[middle], made.error_mask[middle], None)
    return LabelledHead(f"frame-{seed}", head.us[middle], (cut,), head.inside[middle])


def test_a_frame_is_seen_like_the_axial_slice_of_a_volume_at_its_depth():
    rng = np.random.default_rng(0)
    us, mr = rng.uniform(-1, 1, (2, 160, 160)).astype(np.float32)
    volume = head_of(us[None].repeat(160, 0), mr[None].repeat(160, 0), None)
    frame = frame_of(us[None], mr[None], z_mm=0.6 * 79 / 2)
    cells, conditions = frame.slices("axial", np.array([0]))
    near, its = volume.slices("axial", np.array([59]))  # of 80 cells from -47.4 to 47.4 mm the nearest to 23.7 mm
    np.testing.assert_allclose(cells, near, atol=1e-6)
    np.testing.assert_allclose(conditions[0, 0], 0.5, atol=1e-6)
    np.testing.assert_allclose(conditions[:, 1:], its[:, 1:], atol=1e-5)
    assert abs(float(its[0, 0, 0, 0]) - 0.5) < 0.02 and frame.planes == ("axial",) and volume.planes == PLANES


def test_a_batch_draws_frames_beside_volumes_in_their_one_plane():
    heads = [judged_frame(1), judged_head(0)]
    batch = draw(heads, 16, np.random.default_rng(2))
    axial = batch.conditions[:, -3, 0, 0] == 1
    flat = (batch.cells[:, 0] == batch.cells[:, 1]).all(dim=(1, 2)) & (batch.cells[:, 1] == batch.cells[:, 2]).all(
        dim=(1, 2)
    )
    assert 2 < int(flat.sum()) < 14 and bool(axial[flat].all())
    assert torch.equal((batch.cells[:, 4:5] > 0).float(), batch.error_mask)


def test_frames_are_calibrated_as_what_is_of_one_plane():
    network = ReliabilityNetwork().eval()
    frames = [judged_frame(seed) for seed in range(2)]
    calibrate(network, [judged_head(0)])
    several = network.scale[1].item(), network.offset[1].item()
    calibrate(network, [judged_head(0), *frames])
    assert (network.scale[1].item(), network.offset[1].item()) == several


def test_a_frames_map_has_its_shape():
    pixels = np.zeros((1, 160, 160), np.float32)
    inside = np.zeros((1, 160, 160), bool)
    inside[0, 40:120, 40:120] = True
    result, _ = reliability_and_size(ReliabilityNetwork().eval(), pixels, pixels, None, inside, z_mm=0.0)
    assert result.shape == (1, 160, 160) and 0 <= result.min() and result.max() <= 1
