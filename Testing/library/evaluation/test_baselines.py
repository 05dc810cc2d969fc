"""Methods side by side: the deformation score and its gate, tissue Dice, real frames, the table."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from factories.heads import layered_case
from PIL import Image
from scipy import ndimage
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.datasets.simulated import Case, cases
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.metrics import deformation, segmenter
from USMRISynthesisLib.evaluation.metrics import image as image_measures
from USMRISynthesisLib.evaluation.synthesis import (
    baselines as comparison,
)
from USMRISynthesisLib.evaluation.synthesis import (
    evaluate as synthesis,
)
from USMRISynthesisLib.evaluation.synthesis import (
    real_frames,
)
from USMRISynthesisLib.simulation.anatomy.labels import (
    BRAINSTEM,
    CAVUM,
    CEREBELLUM,
    CHOROID,
    CORPUS_CALLOSUM,
    CORTEX,
    DEEP_GREY,
    EXTERNAL_CSF,
    MASS,
    VENTRICLES,
    WHITE_MATTER,
)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    texture = ndimage.gaussian_filter(rng.standard_normal((96, 96)), 3)
    inside = (x / 0.7) ** 2 + (y / 0.85) ** 2 < 1
    return np.where(inside, np.clip(0.45 + texture * 1.5, 0.05, 1), 0).astype(np.float32)


def deformations(image: np.ndarray, pixels: float) -> np.ndarray:
    y, x = np.mgrid[:96, :96].astype(float)
    return ndimage.map_coordinates(image, [y + pixels * np.sin(x / 9), x + pixels * np.cos(y / 9)], order=1)


def test_the_score_grows_with_what_has_to_be_bent_back(truth):
    brain = truth > 0
    scores = [deformation.register(deformations(truth, pixels), truth, brain).score for pixels in (0.0, 1.5, 3.0)]
    assert scores[0] < 0.02 < scores[1] < scores[2]


def test_turning_and_stretching_the_whole_image_is_not_scored(truth):
    brain = truth > 0
    stretched = ndimage.affine_transform(truth, [[1.04, 0.03], [-0.03, 1.04]], offset=[-2.0, 1.0], order=1)
    assert (
        deformation.register(stretched, truth, brain).score
        < 0.3 * deformation.register(deformations(truth, 3.0), truth, brain).score + 0.02
    )


def test_the_same_slices_give_the_same_numbers(truth):
    brain = truth > 0
    first, second = (deformation.register(deformations(truth, 2), truth, brain) for _ in range(2))
    assert (first.score, first.information) == pytest.approx((second.score, second.information), abs=1e-4)


def test_an_image_without_content_gets_the_worst_score_and_is_not_dropped(truth):
    brain = truth > 0
    flat = np.where(brain, 0.5, 0).astype(np.float32)
    mean = ndimage.gaussian_filter(truth, 6) * brain
    scored = {
        name: deformation.register(image, truth, brain)
        for name, image in {"mean": mean, "flat": flat, "bent": deformations(truth, 3.0), "empty": truth * 0}.items()
    }
    assert scored["flat"].score < scored["bent"].score  # the loophole
    penalised_scores = deformation.penalised_scores(scored)
    assert penalised_scores["bent"] == scored["bent"].score
    assert penalised_scores["flat"] == penalised_scores["empty"] == max(one.score for one in scored.values())


def test_mutual_information_is_none_with_noise_and_entropy_with_itself():
    rng = np.random.default_rng(0)
    a, b = rng.random((64, 64)), rng.random((64, 64))
    mask = np.ones(a.shape, bool)
    own = deformation.mutual_information(a, a, mask)
    assert own == pytest.approx(np.log(32), abs=0.05)
    assert deformation.mutual_information(a, b, mask) < 0.15 * own


def test_every_tissue_of_the_brain_has_a_class_and_what_is_no_brain_has_none():
    brain = {WHITE_MATTER, VENTRICLES, CEREBELLUM, EXTERNAL_CSF, CORTEX,
             DEEP_GREY, BRAINSTEM, CORPUS_CALLOSUM, CAVUM, CHOROID,
             MASS}  # fmt: skip
    mapped = segmenter.class_map(np.arange(22, dtype=np.uint8))
    assert {int(label) for label in np.flatnonzero(mapped)} == brain


def test_tissue_dice_counts_each_tissue_that_is_there():
    labels = np.zeros((2, 20, 20), np.uint8)
    labels[:, 2:12, 2:12] = CORTEX
    labels[:, 12:18, 2:18] = WHITE_MATTER
    found = segmenter.class_map(labels)
    everywhere = np.ones(labels.shape, bool)
    assert segmenter.tissue_dice(found, labels, everywhere) == {"cortex": 1.0, "white matter": 1.0}
    found[0][found[0] == 2] = 0
    scores = segmenter.tissue_dice(found, labels, everywhere)
    assert scores["cortex"] == pytest.approx(2 / 3) and scores["white matter"] == 1.0


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    for part, seeds in (("train", (1, 2)), ("val", (3, 4))):
        (folder / part).mkdir()
        for seed in seeds:
            np.savez(folder / part / f"head-{seed}.npz", **layered_case(seed))
    return folder


def test_a_faithful_method_beats_every_baseline_and_truth_is_the_most_that_can_be_had(heads, tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter, "STEPS", 40)
    monkeypatch.setattr(comparison, "DEFORMATION_SLICES", (84,))

    def faithful(case: Case) -> np.ndarray:
        return ndimage.gaussian_filter(case.t2, 1.0)

    figures = comparison.compare(heads, "val", heads / "train", {"faithful": faithful}, kept=tmp_path)
    assert set(figures) == {*comparison.BASELINES, "faithful"}
    for name in ("copy", "mean", "atlas"):
        assert figures["faithful"]["residual_ncc"][0] > figures[name]["residual_ncc"][0] + 0.3, name
        assert figures["faithful"]["psnr"][0] > figures[name]["psnr"][0], name
    for key in ("ncc", "residual_ncc", "ssim"):
        assert figures["truth"][key][0] == pytest.approx(1.0, abs=1e-3), key
    assert figures["truth"]["deformation"][0] == min(row["deformation"][0] for row in figures.values())
    assert all(low <= mean <= high for row in figures.values() for mean, low, high in row.values())
    text = comparison.table(figures)
    assert "faithful" in text and "tissue_dice" in text
    json.dumps(figures)
    assert len(list(tmp_path.glob("segmenter-*.pt"))) == 1
    network = segmenter.trained([heads / "train"], tmp_path)  # kept: not trained again
    assert not network.training


def test_slices_that_jump_are_seen_in_the_other_planes_and_not_in_their_own():
    case = Case("one", *(layered_case(1)[name] for name in ("us", "t2", "labels", "fan")), 1.0)
    case = dataclasses.replace(case, t2=case.t2.astype(np.float32) / 255)
    jumps = np.random.default_rng(0).uniform(0, 0.3, len(case.t2)).astype(np.float32)
    jumping = case.t2 + jumps[:, None, None]
    seen = case.brain & case.fan
    assert image_measures.gradient_ncc(jumping, case.t2, seen) == pytest.approx(1.0)
    assert comparison.through_planes(case, case.t2) == pytest.approx(1.0)
    assert comparison.through_planes(case, jumping) < 0.9


def test_a_slice_by_itself_is_a_frame_without_neighbours(trusted_model):
    case = Case("one", *(layered_case(1)[name] for name in ("us", "t2", "labels", "fan")), 1.0)
    alone = synthesis.single_slices_prediction(str(trusted_model), "cpu")
    whole = synthesis.canonical_prediction(str(trusted_model), "cpu")(case)
    k, made = 80, alone(case)
    other = dataclasses.replace(case, us=np.where(np.arange(160)[:, None, None] == k, case.us, case.us[::-1]))
    assert np.abs(alone(other)[k] - made[k]).mean() < 0.005  # but for the percentiles of the whole
    assert made.shape == whole.shape and not np.allclose(made[k], whole[k])


def test_the_kernel_distance_is_nothing_for_the_same_distribution_and_grows_with_the_difference():
    rng = np.random.default_rng(0)
    real, same, other = rng.standard_normal((3, 200, 16)) + np.array([0, 0, 0.5])[:, None, None]
    assert abs(image_measures.kernel_distance(same, real)) < 0.1 < image_measures.kernel_distance(other, real)
    assert image_measures.kernel_distance(other, real) < image_measures.kernel_distance(other + 0.5, real)


def test_a_channel_with_a_large_mean_does_not_decide_and_the_interval_widens_with_unlike_subjects():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((200, 8)) + 500
    alike = [rng.standard_normal((20, 8)) + 500 for _ in range(6)]
    unlike = [one + shift for one, shift in zip(alike, np.linspace(-2, 2, 6), strict=True)]
    near, far = image_measures.kernel_distance_of(alike, real), image_measures.kernel_distance_of(unlike, real)
    assert near[1] <= near[0] <= near[2] and abs(near[0]) < 0.3 < far[0]
    assert far[2] - far[1] > 2 * (near[2] - near[1])
    assert len(set(image_measures.kernel_distance_of(alike[:1], real))) == 1  # one subject has no interval


def test_volumes_are_compared_with_the_labels_over_heads_and_an_average_head_does_not_follow():
    true = np.array([[100.0, 900], [200, 800], [400, 700], [300, 600]])
    features, real = [np.zeros((3, 4))] * 4, np.zeros((5, 4))
    matched = comparison._over_heads(true * 2, true, features, real)
    assert matched["volume_rho"][0] == matched["csf_rho"][0] == 1.0 and matched["volume_bias"][0] == 1.0
    average = comparison._over_heads(np.full_like(true, 250.0), true, features, real)
    assert average["volume_rho"][0] == 0.0 and matched["kid"][0] == 0.0


def test_a_feature_that_true_mr_hardly_ever_has_does_not_decide_the_kernel_distance():
    rng, true = np.random.default_rng(0), np.array([[100.0, 900], [200, 800], [400, 700], [300, 600]])
    real = rng.standard_normal((40, 4)) * (1, 1, 1, 1e-7)
    features = [rng.standard_normal((10, 4)) * (1, 1, 1, 1e-3) for _ in true]
    assert comparison._over_heads(true, true, features, real)["kid"][0] < 1.0


def test_ssim_is_one_with_itself_and_falls_with_noise(truth):
    stack, mask = np.stack([truth, truth]), np.stack([truth, truth]) > 0
    noisy = stack + 0.2 * np.random.default_rng(0).standard_normal(stack.shape)
    assert image_measures.ssim(stack, stack, mask) == pytest.approx(1.0)
    assert image_measures.ssim(noisy, stack, mask) < 0.7


def frames_file(path, count: int = 4):
    rng = np.random.default_rng(0)
    us = rng.integers(1, 120, (count, 160, 160)).astype(np.uint8)
    axes = np.array([[33.0, 44.0]] * count)
    split = np.array(["train"] + ["val"] * (count - 1))
    np.savez(path, us=us, fan=np.ones(us.shape, bool), half_axes_mm=axes, split=split, fetus=np.arange(count) // 2)
    return path


def test_real_frames_catch_a_shift_an_asymmetry_and_a_dependence_on_gain(tmp_path):
    file = frames_file(tmp_path / "hc18.npz")
    filled = real_frames.ellipse(np.array([33.0, 44.0]))

    def good(us: np.ndarray, fan: np.ndarray) -> np.ndarray:
        return filled * (0.4 + 0.2 * (us > np.median(us)))

    figures = real_frames.evaluate(file, good)
    assert set(figures) == set(real_frames.FIGURES) and figures["real_frames"] == 3
    assert figures["head_fill_dice_median"] > 0.99 and figures["flip_ncc"] > 0.99
    assert figures["half_gain_ncc"] > 0.95 and figures["centre_offset_mm_median"] < 0.1

    def bad(us: np.ndarray, fan: np.ndarray) -> np.ndarray:
        ramp = np.linspace(0.2, 1, 160)[None] * np.ones((160, 1))  # the same side bright, whatever the frame
        return np.roll(filled, 5, axis=1) * (ramp if us.mean() > 40 else 1 - ramp)

    figures = real_frames.evaluate(file, bad, limit=2)
    assert figures["real_frames"] == 2 and 2 < figures["centre_offset_mm_median"] < 4
    assert figures["flip_ncc"] < 0 and figures["half_gain_ncc"] < 0 and figures["head_fill_dice_median"] < 0.95


def test_frames_like_true_mr_are_nearer_to_it_than_the_ultrasound(tmp_path):
    file = frames_file(tmp_path / "hc18.npz")
    for part, seeds in (("train", range(4)), ("val", range(4, 6))):
        (tmp_path / part).mkdir()
        for seed in seeds:
            np.savez(tmp_path / part / f"head-{seed}.npz", **layered_case(seed))
    truths = [case.t2[80] for case in cases(tmp_path / "train")]
    torch.manual_seed(0)
    network, served = segmenter.Segmenter().eval(), iter(truths * 9)
    figures = real_frames.kernel_distances(
        file, lambda us, fan: next(served), tmp_path / "val", tmp_path / "train", network
    )
    assert set(figures) == set(real_frames.DISTANCE_FIGURES)
    assert all(low <= value <= high for value, low, high in figures.values())
    assert figures["frames_kid"][0] < 0.5 * figures["frames_kid_ultrasound"][0]
    assert "frames_kid_truth" in real_frames.distance_table(figures)


def test_the_picture_shows_each_frame_above_its_output_marked_synthetic(tmp_path):
    file = frames_file(tmp_path / "hc18.npz")
    real_frames.draw(file, lambda us, fan: np.full(us.shape, 0.5), tmp_path / "new" / "frames.png")
    with np.load(file) as content:
        first = content["us"][content["split"] != "train"][0]
    with Image.open(tmp_path / "new" / "frames.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (336, 1280)
    np.testing.assert_array_equal(sheet[:160, :160], first[::-1])
    assert (sheet[160:320, :160] == 127).all() and sheet[320:, :160].max() > 200


def test_real_frames_that_are_missing_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"cannot be read.*usmri simulate"):
        real_frames.evaluate(tmp_path / "none.npz", lambda us, fan: us)


def test_a_package_that_is_not_installed_is_named_before_minutes_of_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setattr(synthesis, "evaluate", lambda *_, **__: pytest.fail("it began all the same"))
    assert cli.main(["evaluate", "synthesis", "--cases", str(tmp_path)]) == 1
    assert "needs the Python package 'torchmetrics', which is not installed" in capsys.readouterr().err
