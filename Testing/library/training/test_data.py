"""Training samples: what a batch holds, where it comes from, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.training import SIZE, STILL, configure, make_data, simulated_case
from USMRISynthesisLib.datasets import covering
from USMRISynthesisLib.datasets.cases import load_cases, load_frames
from USMRISynthesisLib.datasets.marked_frames import CAVUM, PLEXUS_RING
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.synthesis.slices import assemble_input
from USMRISynthesisLib.training.synthesis.config import BatchConfig, InputConfig, TrainingConfig
from USMRISynthesisLib.training.synthesis.data import Slices, centred_input, location_mm
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def slices_of(data, config, *, changes=STILL, batch=None, seed=0) -> Slices:
    return Slices(
        load_cases(data / "train"), load_frames(data / "hc18.npz", "train"), np.random.default_rng(seed),
        batch=batch or BatchConfig(6, 0, 2), changes=changes, generator=config.generator,
    )  # fmt: skip


def test_a_batch_has_the_contracts_shapes_and_ranges(tmp_path, data):
    batch = slices_of(data, TrainingConfig.read(configure(tmp_path, data)), changes=InputConfig()).draw()
    assert batch.x.shape == (8, 4, SIZE, SIZE) and batch.x.dtype == torch.float32
    for image in (batch.us, batch.mr, batch.truth):
        assert image.shape == (8, 1, SIZE, SIZE) and image.min() >= -1 and image.max() <= 1.0001
    assert torch.equal(batch.us, batch.x[:, 1:2])
    assert batch.has_truth.tolist() == [True] * 6 + [False] * 2


def test_training_and_inference_see_the_same_input(tmp_path, data):
    """Without augmentation, a case's slice is the volume normalised and assembled as at inference."""
    config = TrainingConfig.read(configure(tmp_path, data)).generator
    case = load_cases(data / "train")[0]
    plain = simulated_case(1)
    us = torch.from_numpy(normalise_ultrasound(np.maximum(plain["us"], plain["fan"]), plain["fan"]))
    z_mm = torch.from_numpy(location_mm(np.arange(SIZE), SIZE))
    expected = assemble_input(us, z_mm, 1, True)
    for k in (0, 12, SIZE - 1):
        x, truth = centred_input(case, k, config)
        torch.testing.assert_close(x[0], expected[k], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(truth[0, 0], plain["t2"][k] / 127.5 - 1, atol=1e-6)


def test_ultrasound_and_truth_are_moved_together(tmp_path, data):
    config = TrainingConfig.read(configure(tmp_path, data))
    moving = InputConfig(**{**vars(STILL), "rotation_deg": 20.0, "translation_mm": 2.0, "turn": 0.5, "flip": 0.5})
    slices = slices_of(data, config, changes=moving, batch=BatchConfig(12, 0, 0))
    for n, case in enumerate(slices.cases):  # ultrasound that is the truth itself
        slices.cases[n] = replace(case, us=case.t2, low=0.0, high=255.0)
    batch = slices.draw()
    torch.testing.assert_close(batch.us, batch.truth, rtol=0, atol=1e-4)


def test_unpaired_mr_comes_from_another_case_at_the_same_position(tmp_path, data):
    slices = slices_of(data, TrainingConfig.read(configure(tmp_path, data)), batch=BatchConfig(12, 0, 0))
    batch = slices.draw()
    known = {case.name: torch.from_numpy(case.t2.astype(np.float32)) / 127.5 - 1 for case in slices.cases}

    def origin(image):
        for name, volume in known.items():
            gaps = (volume - image).abs().amax(dim=(1, 2))
            if gaps.min() < 1e-4:
                return name, int(gaps.argmin())
        return None

    found = 0
    for truth, mr in zip(batch.truth[:, 0], batch.mr[:, 0], strict=True):
        if truth.max() > -1 and mr.max() > -1:  # slices without head look alike
            (name, k), (other, k_other) = origin(truth), origin(mr)
            assert name != other and k == k_other
            found += 1
    assert found > 3


def test_unpaired_mr_of_its_own_cases_is_preferred(tmp_path, data):
    config = TrainingConfig.read(configure(tmp_path, data))
    apart = load_cases(data / "val")
    slices = Slices(
        load_cases(data / "train"), None, np.random.default_rng(0), mr=apart,
        batch=BatchConfig(4, 0, 0), changes=STILL, generator=config.generator,
    )  # fmt: skip
    known = torch.from_numpy(apart[0].t2.astype(np.float32)) / 127.5 - 1
    for image in slices.draw().mr[:, 0]:
        assert (known - image).abs().amax(dim=(1, 2)).min() < 1e-4


def test_mr_weeks_limit_what_the_discriminators_see(tmp_path, data):
    config = TrainingConfig.read(configure(tmp_path, data))
    arguments = {"batch": BatchConfig(1, 0, 0), "changes": STILL, "generator": config.generator}
    slices = Slices(load_cases(data / "train"), None, np.random.default_rng(0), mr_weeks=(22,), **arguments)
    assert [case.week for case in slices.mr] == [22]
    with pytest.raises(Refused, match="weeks"):
        Slices(load_cases(data / "train"), None, np.random.default_rng(0), mr_weeks=(40,), **arguments)


def test_a_brighter_or_darker_copy_gives_the_same_input():
    rng = np.random.default_rng(0)
    us, fan = rng.random((2, 20, 20)) * 100, rng.random((2, 20, 20)) > 0.3
    expected = normalise_ultrasound(us, fan)
    np.testing.assert_allclose(normalise_ultrasound(us * 0.3 + 40, fan), expected, atol=1e-5)
    assert (expected[~fan] == -1).all() and expected.min() == -1 and expected.max() == 1


@pytest.mark.parametrize("fan", [np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)])
def test_an_image_without_contrast_or_fan_is_background(fan):
    assert (normalise_ultrasound(np.full((1, 4, 4), 7.0), fan) == -1).all()


def test_missing_and_broken_cases_are_refused(tmp_path):
    with pytest.raises(Refused, match="no simulated cases"):
        load_cases(tmp_path)
    (tmp_path / "case.npz").write_bytes(b"PK nothing")
    with pytest.raises(Refused, match=r"case\.npz"):
        load_cases(tmp_path)


def test_real_frames_come_from_the_split_asked_for(data):
    assert len(load_frames(data / "hc18.npz", "train")) == 8 and len(load_frames(data / "hc18.npz", "val")) == 4
    with pytest.raises(Refused, match=r"none\.npz"):
        load_frames(data / "none.npz", "train")


def test_a_case_made_again_is_unpacked_again(tmp_path):
    np.savez(tmp_path / "case.npz", **simulated_case(1))
    first = load_cases(tmp_path)[0].t2.copy()
    np.savez(tmp_path / "case.npz", **simulated_case(2))
    assert not np.array_equal(load_cases(tmp_path)[0].t2, first)


def test_simulated_frames_bring_their_truth_at_the_head_circumference_plane(tmp_path, data):
    config = TrainingConfig.read(configure(tmp_path, data))
    batch = slices_of(data, config, batch=BatchConfig(1, 5, 2)).draw()
    assert batch.has_truth.tolist() == [True] * 6 + [False] * 2
    known = [torch.from_numpy(frame.astype(np.float32)) / 127.5 - 1
             for case in load_cases(data / "train") for frame in case.frames_t2]  # fmt: skip
    for n in range(1, 6):
        assert any(torch.allclose(batch.truth[n, 0], frame, atol=1e-4) for frame in known)
        assert torch.equal(batch.x[n, 0], batch.x[n, 2])  # a frame has no neighbours


def test_frames_asked_of_cases_without_any_are_refused(tmp_path, data):
    plain = tmp_path / "plain"
    plain.mkdir()
    np.savez(plain / "case.npz", **{k: v for k, v in simulated_case(9).items() if not k.startswith("frames")})
    config = TrainingConfig.read(configure(tmp_path, data))
    with pytest.raises(Refused, match="no simulated frames"):
        Slices(load_cases(plain), None, np.random.default_rng(0), batch=BatchConfig(1, 1, 0), changes=STILL,
               generator=config.generator)  # fmt: skip


def test_the_exponent_opens_up_the_dark_alike_in_training_and_at_inference(tmp_path, data):
    config = replace(TrainingConfig.read(configure(tmp_path, data)).generator, exponent=0.5)
    plain = simulated_case(1)
    us = normalise_ultrasound(np.maximum(plain["us"], plain["fan"]), plain["fan"], 0.5)
    x, _ = centred_input(load_cases(data / "train")[0], 12, config)
    np.testing.assert_allclose(x[0, 1], us[12], atol=1e-5)
    linear = normalise_ultrasound(np.maximum(plain["us"], plain["fan"]), plain["fan"])
    np.testing.assert_allclose(((us + 1) / 2) ** 2, (linear + 1) / 2, atol=1e-5)


def test_only_frames_make_half_turns(tmp_path, data):
    """A volume's direction is known, a frame's is not."""
    config = TrainingConfig.read(configure(tmp_path, data))
    turning = InputConfig(**{**vars(STILL), "turn": 1.0})
    batch = slices_of(data, config, changes=turning, batch=BatchConfig(3, 3, 0)).draw()
    slices = [torch.from_numpy(t2.astype(np.float32)) / 127.5 - 1
              for case in load_cases(data / "train") for t2 in case.t2]  # fmt: skip
    frames = [torch.from_numpy(t2.astype(np.float32)) / 127.5 - 1
              for case in load_cases(data / "train") for t2 in case.frames_t2]  # fmt: skip
    for n in range(3):
        assert any(torch.allclose(batch.truth[n, 0], upright, atol=1e-3) for upright in slices)
        assert any(torch.allclose(batch.truth[3 + n, 0].flip(0, 1), turned, atol=1e-3) for turned in frames)


def test_blur_softens_some_samples_and_leaves_their_truth(tmp_path, data):
    config = TrainingConfig.read(configure(tmp_path, data))
    batch = BatchConfig(8, 0, 0)
    sharp = slices_of(data, config, batch=batch)
    soft = slices_of(data, config, changes=replace(STILL, blur=1.5), batch=batch)
    us = torch.rand(8, 3, SIZE, SIZE) * 2 - 1
    blurred = soft._blurred(us)
    same = [torch.equal(a, b) for a, b in zip(us, blurred, strict=True)]
    assert 0 < sum(same) < 8
    for n in np.flatnonzero(~np.array(same)):
        assert blurred[n].std() <= us[n].std() and blurred[n].mean() == pytest.approx(float(us[n].mean()), abs=0.02)
    fresh = slices_of(data, config, changes=replace(STILL, blur=1.5), batch=batch)
    assert torch.equal(sharp.draw().truth, fresh.draw().truth)


def test_shrunk_samples_are_means_of_pixels_with_the_same_constant_channels(tmp_path, data):
    config = TrainingConfig.read(configure(tmp_path, data))
    whole = slices_of(data, config).draw()
    coarse = Slices(
        load_cases(data / "train"), load_frames(data / "hc18.npz", "train"), np.random.default_rng(0),
        batch=BatchConfig(6, 0, 2), changes=STILL, generator=config.generator, shrink=2,
    ).draw()  # fmt: skip
    assert coarse.x.shape == (8, 4, SIZE // 2, SIZE // 2)
    torch.testing.assert_close(coarse.x[:, -1, 0, 0], whole.x[:, -1, 0, 0])
    torch.testing.assert_close(coarse.truth, torch.nn.functional.avg_pool2d(whole.truth, 2))


def marked_frames(folder: Path, marks: np.ndarray) -> Path:
    us = np.full(marks.shape, 90, np.uint8)
    us[:, :, SIZE // 2 :] = 30
    fan = np.ones(us.shape, bool)
    np.savez(folder / "marked.npz", us=us, fan=fan, marks=marks, split=np.array(["train"] * (len(us) - 1) + ["val"]))
    return folder / "marked.npz"


def test_marks_move_with_their_frame_and_only_marked_frames_have_any(tmp_path, data, monkeypatch):
    marks = np.zeros((3, SIZE, SIZE), np.uint8)
    marks[:, 8:12, SIZE // 2 :] = CAVUM  # the darker half of these frames
    marks[:, 20:24, SIZE // 2 :] = PLEXUS_RING
    marked = load_frames(marked_frames(tmp_path, marks), "train")
    assert marked.marks is not None and len(marked.marks) == 2
    config = TrainingConfig.read(configure(tmp_path, data))
    moving = InputConfig(**{**vars(STILL), "rotation_deg": 20.0, "translation_mm": 2.0, "turn": 0.5, "flip": 0.5})
    slices = Slices(
        load_cases(data / "train"), load_frames(data / "hc18.npz", "train"), np.random.default_rng(1),
        batch=BatchConfig(2, 0, 1, marked=4), changes=moving, generator=config.generator, marked=marked,
    )  # fmt: skip
    monkeypatch.setattr(covering, "COVERED", 0.0)
    batch = slices.draw()
    assert batch.marks.shape == (7, 3, SIZE, SIZE) and batch.has_truth.tolist() == [True] * 2 + [False] * 5
    assert not batch.marks[:3].any() and not batch.marks[:, 2].any()
    assert batch.marks[3:, :2].any(dim=(2, 3)).all()
    for n in range(3, 7):
        middle = batch.us[n, 0][batch.marks[n, 1]].median()
        assert middle < batch.us[n, 0][batch.us[n, 0] > -1].median()  # still on the darker half


def test_marked_frames_that_are_not_there_are_refused(tmp_path, data):
    config = TrainingConfig.read(configure(tmp_path, data))
    with pytest.raises(Refused, match="no real frames with marks"):
        slices_of(data, config, batch=BatchConfig(2, 0, 0, marked=1))
