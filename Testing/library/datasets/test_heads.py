"""What the alignment learns from: cases packed once, cubes cut out of them, and the truth that moves with the image."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from factories.heads import EYES, data_set, simulated_case
from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.volume.network import (
    STAGES,
)
from USMRISynthesisLib.datasets.disturbance import no_head
from USMRISynthesisLib.datasets.heads import MIRROR, anatomical_pose, eyes_of, load_heads, sample
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.similarity import angle_deg, fit_similarity, rotation_of
from USMRISynthesisLib.simulation.scanner.wide import SIZE, wide_ijk_to_canonical, wide_volume
from USMRISynthesisLib.training.alignment.samples import draw, draw_pose, one, upright_target


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_set(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def heads(data):
    return load_heads(data / "train")


def test_heads_are_packed_once(data, heads):
    assert [head.name for head in heads] == ["case-1", "case-2"] and heads[0].view == "left"
    kept = sorted((data / "train" / "alignment").glob("*.npz"))
    assert len(kept) == 2
    again = load_heads(data / "train")
    np.testing.assert_array_equal(again[1].channels, heads[1].channels)
    assert sorted((data / "train" / "alignment").glob("*.npz")) == kept
    os.utime(data / "train" / "case-2.npz")  # made again
    load_heads(data / "train")
    assert len(set((data / "train" / "alignment").glob("*.npz")) & set(kept)) == 1
    assert len(list((data / "train" / "alignment").glob("*.npz"))) == 2


def test_a_wide_grid_is_used_as_it_is(tmp_path):
    case = simulated_case(4, wide=True)
    np.savez(tmp_path / "wide.npz", **case)
    head = load_heads(tmp_path)[0]
    np.testing.assert_array_equal(head.channels[0], case["wide"])


def test_missing_or_broken_cases_are_refused(tmp_path):
    with pytest.raises(Refused, match="no simulated cases"):
        load_heads(tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    with pytest.raises(Refused, match=r"bad\.npz"):
        load_heads(tmp_path)


def test_the_pose_of_a_case_is_drawn_again_from_its_seed():
    for parameters in ({"pose_scale": 1.02}, {"pose_scale": 0.97}):
        matrix = anatomical_pose({"seed": 5, "parameters": json.dumps(parameters)})
        assert abs(np.cbrt(np.linalg.det(matrix[:3, :3])) * parameters["pose_scale"] - 1) < 1e-9
        assert 0 < angle_deg(rotation_of(matrix), np.eye(3)) < 14.1


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("stage", ["locate", "orient", "refine"])
def test_truth_lies_where_the_image_shows_it(heads, stage, mirrored):
    rng = np.random.default_rng(7)
    unit = draw_pose(stage, rng)
    row = one(stage, heads[0], unit, mirrored, None)
    form = STAGES[stage]
    size = form.size
    where = (unit[:3, :3] @ cell_centres(size, 3).numpy().reshape(3, -1) + unit[:3, 3:]).T
    level = ((where / [35, 44, 33]) ** 2).sum(axis=1).reshape(size, size, size)
    half = (unit[:3, :3] @ cell_centres(size // 2, 3).numpy().reshape(3, -1) + unit[:3, 3:]).T
    coarse = ((half / [35, 44, 33]) ** 2).sum(axis=1).reshape(size // 2, size // 2, size // 2)
    clear = np.abs(coarse - 1) > 0.35
    np.testing.assert_array_equal((row["head"].numpy() > 0.5)[clear], (coarse < 1)[clear])
    # The dense coordinates bring the cells home, and the closed form finds the pose in them.
    cells = cell_centres(size // 2, 3).numpy().reshape(3, -1).T
    target = row["coordinates"].numpy().reshape(3, -1).T * form.side_mm / 2
    if stage == "locate":
        np.testing.assert_allclose(target[:, 0], np.abs(cells @ unit[0, :3] + unit[0, 3]), atol=1e-3)
    else:
        target[:, 0] *= np.sign(unit[0, 0]) if stage == "orient" else 1
        fit = fit_similarity(cells.astype(float), target.astype(float), np.ones(len(cells)))
        np.testing.assert_allclose(fit.matrix, unit, atol=1e-3)
    # The front half is brighter.
    x = row["x"][0].numpy()
    front, back = (x[(level < 0.7) & (where[:, 1].reshape(level.shape) * sign > 12) & (x > -1)] for sign in (1, -1))
    if len(front) > 20 and len(back) > 20:
        assert front.mean() > back.mean()
    assert float(row["upright"]) <= 1 and float(row["headed"]) == 1
    assert (row["brain"].numel() > 0) == (form.maps > 0)


def test_orient_meets_heads_from_either_side_of_their_midplane(heads):
    rng = np.random.default_rng(1)
    units = [draw_pose("orient", rng) for _ in range(200)]
    across = np.array([rotation_of(unit)[0, 0] for unit in units])
    assert np.abs(across).min() > np.cos(np.deg2rad(26)) and 60 < (across > 0).sum() < 140
    forward = [rotation_of(unit)[1, 1] for unit in units]
    assert min(forward) < -0.9 < 0.9 < max(forward)
    for unit in units[:6]:  # x is given along the cube's own first axis
        x = one("orient", heads[0], unit, False, None)["coordinates"][0]
        assert x[:, :, -1].mean() > 0 > x[:, :, 0].mean()


def test_eyes_are_shown_where_they_are_and_not_outside_the_fan(heads):
    unit = np.diag([56.0, 56, 56, 1])
    maps = one("refine", heads[0], unit, False, None)["eyes"].numpy()
    cells = cell_centres(48, 3).numpy().reshape(3, -1)
    for eye, shown in zip(EYES, maps, strict=True):
        np.testing.assert_allclose(cells @ shown.ravel() * 56, eye, atol=0.1)
    unit[0, 3] = 80.0  # the cube's middle lies at x = 80 mm: the fan ends at 44
    assert one("refine", heads[0], unit, False, None)["eyes"].sum() == 0


def test_a_mirrored_heads_left_eye_is_its_right_one(heads):
    np.testing.assert_allclose(eyes_of(heads[0], True), heads[0].eyes[::-1] @ MIRROR[:3, :3])


def test_a_cube_beyond_the_wide_grid_is_empty(heads):
    unit = np.diag([56.0, 56, 56, 1])
    unit[:3, 3] = 400
    cut = sample(heads[0], unit, 32)
    assert (cut.x == -1).all() and (cut.fan == 0).all() and (cut.distance > 20).all() and (cut.brain == 0).all()


def test_an_upright_head_is_worth_most():
    values = [upright_target(angle) for angle in np.linspace(0, np.pi, 9)]
    assert values[0] == 1 and values[-1] < 1e-9 and values == sorted(values, reverse=True)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_image_without_a_head_keeps_its_fan(dimensions):
    rng = np.random.default_rng(0)
    fan = torch.ones([24] * dimensions)
    fan[:4] = 0
    x = torch.where(fan > 0.5, torch.rand(fan.shape), torch.tensor(-1.0))
    for _ in range(6):
        mixed = no_head(x, fan, rng)
        assert mixed.shape == x.shape and torch.isfinite(mixed).all()


@pytest.mark.parametrize("stage", ["orient", "refine"])
def test_a_batch_depends_on_its_generator_alone(heads, stage):
    first, second, other = (draw(stage, heads, np.random.default_rng(seed), 2) for seed in (1, 1, 2))
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))
    assert not torch.equal(first.x, other.x)


class FlatSweep:
    """Stands in for an acquisition: a fan of half-space x < 40 mm, brightness by y."""

    def scan_convert(self, points: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        fan = points[..., 0] < 40
        image = torch.where(fan, 100 + points[..., 1], torch.zeros(()))
        return image.numpy().astype(np.uint8), fan.numpy()


def test_the_wide_volume_is_centred_on_the_head():
    us, fan, matrix = wide_volume(FlatSweep())  # type: ignore[arg-type]
    assert us.shape == fan.shape == (SIZE,) * 3 and us.dtype == np.uint8 and fan.dtype == bool
    np.testing.assert_allclose(matrix, wide_ijk_to_canonical())
    np.testing.assert_allclose(matrix @ [47.5, 47.5, 47.5, 1], [0, 0, 0, 1], atol=1e-9)
    y = matrix[1, 1] * np.arange(SIZE) + matrix[1, 3]
    np.testing.assert_allclose(us[10, :, 5], np.clip(100 + y, 0, 255), atol=1.3)
    assert fan[0, 0].sum() == np.sum(matrix[0, 0] * np.arange(SIZE) + matrix[0, 3] < 40)
