"""The alignment's data, losses, loop and export, on heads that are ellipsoids with eyes."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from USMRISynthesisLib import cli
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.normalisation import network_align
from USMRISynthesisLib.normalisation.canonical import canonical_ijk_to_ras
from USMRISynthesisLib.normalisation.coordinates import angle_deg, fit_similarity, rotation_of
from USMRISynthesisLib.normalisation.frame_align import align_frame, fit_ellipse
from USMRISynthesisLib.normalisation.network import Prediction, grid
from USMRISynthesisLib.normalisation.stages import NETWORKS, STAGES
from USMRISynthesisLib.simulation.wide import SIZE, wide_ijk_to_canonical, wide_volume
from USMRISynthesisLib.training import checkpoint as checkpoints
from USMRISynthesisLib.training.alignment_configuration import alignment_configuration_from, task_of
from USMRISynthesisLib.training.alignment_data import MIRROR, anatomical_pose, eyes_of, load_heads, no_head, sample
from USMRISynthesisLib.training.alignment_export import build_networks
from USMRISynthesisLib.training.alignment_frames import Frame, draw_frames, one_frame, slices_of, stored_frames
from USMRISynthesisLib.training.alignment_loop import train_alignment
from USMRISynthesisLib.training.alignment_losses import losses
from USMRISynthesisLib.training.alignment_samples import draw, draw_pose, one, upright_target
from USMRISynthesisLib.volume import Volume

EYES = np.array([[-12.0, 30.0, -20.0], [12.0, 30.0, -20.0]])


def simulated_case(seed: int, *, wide: bool = False) -> dict:
    """A case file's arrays: an ellipsoid of 44 mm half-length, bright in front, turned a little by `head_pose`."""
    rng = np.random.default_rng(seed)
    size = 160
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * 0.6
    z, y, x = axis[:, None, None], axis[None, :, None], axis[None, None, :]
    level = (x / 35) ** 2 + (y / 44) ** 2 + (z / 33) ** 2
    inside = level < 1
    us = np.where(inside, 60 + y, 25) + rng.integers(0, 20, inside.shape)
    us[(level > 0.93) & inside] = 220
    labels = inside.astype(np.uint8)
    labels[((x / 20) ** 2 + ((y - 12) / 18) ** 2 + ((z + 42) / 9) ** 2 < 1) & ~inside] = 17
    labels[(x / 16) ** 2 + ((y + 13) / 10) ** 2 + ((z + 16) / 8) ** 2 < 1] = 3
    case = {
        "us": us.clip(0, 255).astype(np.uint8), "t2": inside.astype(np.uint8), "labels": labels,
        "fan": np.broadcast_to(abs(x) < 44, inside.shape), "skull": inside, "week": 26, "seed": seed, "eyes": EYES,
        "head_pose": np.eye(4), "parameters": json.dumps({"view": "left"}),
    }  # fmt: skip
    if wide:
        case["wide"] = case["us"][::2, ::2, ::2].repeat(2, 0).repeat(2, 1).repeat(2, 2)[:SIZE, :SIZE, :SIZE]
        case["wide_fan"] = np.ones((SIZE,) * 3, bool)
    return case


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for part, seeds in (("train", (1, 2)), ("val", (3,))):
        (folder / part).mkdir()
        for seed in seeds:
            np.savez(folder / part / f"case-{seed}.npz", **simulated_case(seed))
    return folder


@pytest.fixture(scope="module")
def heads(data):
    return load_heads(data / "train")


def write_config(tmp_path: Path, data: Path, *, steps: int = 5, output: str = "run", **cycle: int) -> Path:
    counts = {"locate": 1, "orient": 1, "refine": 1, "frame": 1, "plane": 1, **cycle}
    path = tmp_path / f"{output}.toml"
    path.write_text(
        f'task = "alignment"\noutput = "{tmp_path / output}"\nsteps = {steps}\nbatch = 1\nthreads = 1\n'
        f'precision = "fp32"\nlog_every = 5\nevaluation_poses = 1\n[data]\nfolder = "{data}"\n[cycle]\n'
        + "".join(f"{name} = {count}\n" for name, count in counts.items()))
    return path


# --- data


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


def test_the_pose_of_an_older_case_is_drawn_again_from_its_seed():
    for parameters in ({"pose_scale": 1.02}, {"pose_scale": 0.97, "outer_fluid_mm": 2.0}):
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
    where = (unit[:3, :3] @ grid(size).numpy().reshape(3, -1) + unit[:3, 3:]).T
    level = ((where / [35, 44, 33]) ** 2).sum(axis=1).reshape(size, size, size)
    np.testing.assert_allclose((row["head"].numpy() > 0.5)[np.abs(level - 1) > 0.25], (level < 1)[
        np.abs(level - 1) > 0.25])
    # The dense coordinates bring the cells home, and the closed form finds the pose in them.
    cells = grid(size // 2).numpy().reshape(3, -1).T
    said = (row["coordinates"].numpy().reshape(3, -1).T + cells) * form.side_mm / 2
    fit = fit_similarity(cells.astype(float), said.astype(float), np.ones(len(cells)))
    np.testing.assert_allclose(fit.matrix, unit, atol=1e-3)
    # The front half is brighter.
    x = row["x"][0].numpy()
    front, back = (x[(level < 0.7) & (where[:, 1].reshape(level.shape) * sign > 12) & (x > -1)] for sign in (1, -1))
    if len(front) > 20 and len(back) > 20:
        assert front.mean() > back.mean()
    scale = np.cbrt(np.linalg.det(unit[:3, :3]))
    np.testing.assert_allclose(float(row["log_scale"]), np.log(44 / scale), atol=1e-6)
    turned = rotation_of(unit)
    expected = upright_target(np.deg2rad(angle_deg(turned, np.eye(3))))
    assert abs(float(row["upright"]) - expected) < 1e-6


def test_eyes_are_shown_where_they_are_and_not_outside_the_fan(heads):
    unit = np.diag([56.0, 56, 56, 1])
    maps = one("refine", heads[0], unit, False, None)["eyes"].numpy()
    cells = grid(48).numpy().reshape(3, -1)
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


@pytest.mark.parametrize("stage", ["orient", "plane"])
def test_a_batch_depends_on_its_generator_alone(heads, stage):
    def made(seed):
        rng = np.random.default_rng(seed)
        if stage == "plane":
            return draw_frames(stage, [], slices_of(heads, 2, 0), rng, 2, share_real=0.5)
        return draw(stage, heads, rng, 2)

    first, second, other = made(1), made(1), made(2)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))
    assert not torch.equal(first.x, other.x)


# --- losses


def truth_as_prediction(batch, n) -> Prediction:
    maps = torch.cat([(batch.head[:, None] * 2 - 1) * 12, (batch.brain[:, None] * 2 - 1) * 12,
                      batch.distance[:, None], (batch.eyes + 1e-9).log() + 14, batch.midline[:, None],
                      (batch.face[:, None] * 2 - 1) * 12, (batch.fossa[:, None] * 2 - 1) * 12], dim=1)
    upright = torch.logit(batch.upright.clamp(1e-4, 1 - 1e-4))
    pose = torch.cat([batch.rotation[:, :, 0], batch.rotation[:, :, 1]], dim=1) if n == 3 else torch.zeros(
        len(upright), 6)
    centre = torch.nn.functional.pad(batch.centre, (0, 3 - n))
    return Prediction(maps, batch.coordinates, torch.full_like(batch.coordinates[:, :1], -3), upright,
                      torch.cat([pose, centre, batch.log_scale[:, None]], dim=1))


@pytest.mark.parametrize("stage", ["locate", "orient", "refine", "plane"])
def test_the_truth_costs_least(heads, stage):
    rng = np.random.default_rng(3)
    n = STAGES[stage].dimensions
    batch = draw_frames(stage, [], slices_of(heads, 2, 0), rng, 3, share_real=0) if n == 2 else draw(
        stage, heads, rng, 3)
    said = truth_as_prediction(batch, n)
    best = losses(said, batch)
    false = Prediction(-said.maps, said.coordinates + 0.3, said.log_sigma, -said.upright, said.pose + 0.3)
    wrong = losses(false, batch)
    assert float(best["plain"]) < 0.01 and float(best["masks"]) < 0.4 and float(best["pose"]) < 0.1
    for name in ("masks", "skull", "pose", "midline"):
        assert best[name] < wrong[name]
    assert best["plain"] <= wrong["plain"] and best["upright"] <= wrong["upright"]
    assert all(torch.isfinite(value) for value in best.values())


def test_a_real_frame_may_be_either_way_round(heads):
    frame = slices_of(heads, 1, 0)[0]
    unmarked = Frame(frame.channels, frame.unit_from_canonical, frame.centre, frame.semi_axes, False, 0.0, 200.0)
    batch = draw_frames("plane", [unmarked], [], np.random.default_rng(1), 4, share_real=1.0)
    said = truth_as_prediction(batch, 2)
    cells = grid(64, 2)
    turned = said._replace(coordinates=-(said.coordinates + cells) - cells)
    assert abs(float(losses(said, batch)["plain"] - losses(turned, batch)["plain"])) < 1e-4
    assert float(losses(said, batch)["upright"]) == 0


# --- frames


def test_stored_frames_stand_along_their_own_outline(tmp_path):
    y, x = (np.indices((160, 160)) - 79.5) * 0.6
    turn = np.deg2rad(8)
    across, along = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    skull = (across / 33) ** 2 + ((along - 2) / 43) ** 2 < 1
    us = np.where(skull, 80 + along, 20).astype(np.uint8)
    case = simulated_case(1) | {f"frames_{key}": value[None] for key, value in (
        ("us", us), ("fan", np.ones_like(skull)), ("skull", skull), ("labels", skull.astype(np.uint8)))}
    np.savez(tmp_path / "case.npz", **case)
    frame, = stored_frames(tmp_path)
    np.testing.assert_allclose(frame.semi_axes, (33 * 44 / 43, 44), atol=0.3)
    canonical = np.linalg.inv(frame.unit_from_canonical) @ np.diag([1 / 48, 1 / 48, 1])
    face = canonical @ [-45 * np.sin(turn), 45 * np.cos(turn), 1]  # 43 mm in front of its centre
    np.testing.assert_allclose(face[:2], (0, 44), atol=0.8)
    row = one_frame("plane", frame, np.diag([60.0, 60, 1]), None)
    assert float(row["upright"]) == 1 and float(row["signed"]) == 1
    assert row["x"][0, 90:110, 60:68].mean() > row["x"][0, 20:40, 60:68].mean()


def test_an_ellipse_is_found_among_outliers():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 300)
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    points = np.stack([44 * np.cos(angle), 34 * np.sin(angle)], axis=1) @ turn.T + (10, -7)
    points += rng.normal(0, 0.4, points.shape)
    points[:30] += rng.normal(0, 12, (30, 2))
    found = fit_ellipse(points, np.ones(300))
    assert found is not None
    np.testing.assert_allclose(found.centre, (10, -7), atol=0.6)
    np.testing.assert_allclose(found.semi_axes, (34, 44), atol=1.0)
    assert abs(abs(found.major @ turn[:, 0]) - 1) < 1e-3 and found.residual < 1.5
    assert fit_ellipse(points[:5], np.ones(5)) is None


# --- the loop and what comes of it


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data) -> Path:
    return train_alignment(write_config(tmp_path_factory.mktemp("whole"), data), report=str)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "alignment"
    assert cli.main(["export", str(trained), str(folder), "--quiet"]) == 0
    return folder


def test_a_run_leaves_a_log_figures_and_a_checkpoint(trained):
    with (trained.parent / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["5"] and {"orient_upright", "plane_plain", "refine_eyes"} <= set(rows[0])
    with (trained.parent / "evaluation.csv").open() as file:
        assert {"rotation_deg_median", "flip_share"} <= set(next(csv.DictReader(file)))
    content = checkpoints.load(trained)
    assert content["step"] == 5 and set(content["averaged"]) == set(NETWORKS)


def test_a_stopped_run_goes_on_exactly(tmp_path, data, trained):
    config = write_config(tmp_path, data)
    asked = iter(range(9))
    with pytest.raises(Cancelled, match="step 3"):
        train_alignment(config, cancel=lambda: next(asked) == 2, report=str)
    parts = checkpoints.load(train_alignment(config, report=str))
    whole = checkpoints.load(trained)
    for stage, weights in whole["averaged"].items():
        assert all(torch.equal(value, parts["averaged"][stage][name]) for name, value in weights.items()), stage
    with pytest.raises(Refused, match="already holds a run"):
        train_alignment(config, resume=False)
    config.write_text(config.read_text().replace("batch = 1", "batch = 2"))
    with pytest.raises(Refused, match="batch"):
        train_alignment(config)


def test_an_export_loads_with_its_hash_and_answers(exported, data):
    networks = network_align.load_networks(str(exported), consent=lambda sha256, name: True)
    assert set(networks.parts) == set(NETWORKS)
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["task"] == "alignment" and manifest["synthetic"] is True
    assert "not for diagnosis" in (exported / "README.md").read_text().lower()
    case = simulated_case(9)
    volume = Volume(case["us"][::2, ::2, ::2], canonical_ijk_to_ras() @ np.diag([2, 2, 2, 1.0]))
    found = network_align.align_volume(networks, volume, case["fan"][::2, ::2, ::2])
    assert found is None or found.score < 0.9  # five steps teach nothing, and it says so
    align_frame(networks, Volume(case["us"][80:81], canonical_ijk_to_ras()), np.asarray(case["fan"][80:81]))
    damaged = Path(shutil.copytree(exported, exported.parent / "damaged"))
    (damaged / "model.pt").write_bytes((damaged / "model.pt").read_bytes() + b" ")
    with pytest.raises(Failed, match="SHA-256"):
        network_align.load_networks(str(damaged), consent=lambda sha256, name: True)


def test_the_corridors_alignment_is_the_networks_where_it_is_installed(exported, monkeypatch):
    from USMRISynthesisLib import weights
    from USMRISynthesisLib.normalisation import alignment, learned

    monkeypatch.setattr(weights, "bundled_folders", lambda: [exported.parent])
    case = simulated_case(9)
    step = canonical_ijk_to_ras() @ np.diag([2, 2, 2, 1.0])
    volume, fan = Volume(case["us"][::2, ::2, ::2], step), np.ascontiguousarray(case["fan"][::2, ::2, ::2])
    found = alignment.align(volume, fan)
    assert found.method == "network" or found.score <= alignment.UNSEEN_SCORE
    assert alignment.align(volume, fan, transform=np.eye(4)).method == "given"
    monkeypatch.setattr(learned, "align_by_network", lambda *_, **__: None)
    assert alignment.align(volume, fan).score <= alignment.UNSEEN_SCORE < alignment.LOW_SCORE
    monkeypatch.setattr(weights, "bundled_folders", lambda: [])
    assert alignment.align(volume, fan).method == "ellipsoid"


def test_an_export_holds_no_operator_that_torch_2_1_lacks(trained, tmp_path):
    assert cli.main(["export", str(trained), str(tmp_path / "m"), "--quiet"]) == 0
    module = torch.jit.load(tmp_path / "m" / "model.pt")
    known = {
        "_convolution", "add", "cat", "expand", "flatten", "instance_norm", "leaky_relu", "linear", "max_pool2d",
        "max_pool3d", "mul", "permute", "reshape", "select", "size", "slice", "to", "upsample_nearest2d",
        "upsample_nearest3d", "Int", "floor_divide", "view",
    }  # fmt: skip
    for name in NETWORKS:
        graph = getattr(module, name).inlined_graph
        used = {node.kind().removeprefix("aten::") for node in graph.nodes() if node.kind().startswith("aten::")}
        assert used <= known, used - known


def test_the_configuration_names_what_is_wrong(tmp_path):
    shipped = Path(__file__).parents[2] / "configs" / "alignment.toml"
    assert task_of(shipped) == "alignment" and task_of(shipped.with_name("default.toml")) == "synthesis"
    plain = {"output": "run", "data": {"folder": "d"}}
    assert alignment_configuration_from(plain).cycle.stages().count("orient") == 3
    for table, named in (({"batch": 0}, "batch"), ({"cycle": {"orientt": 1}}, r"cycle\.orientt"), ({"ema": 2.0}, "ema"),
                         ({"cycle": dict.fromkeys(STAGES, 0)}, "no stage"), ({"task": "synthesis"}, "task")):
        with pytest.raises(Refused, match=named):
            alignment_configuration_from({**plain, **table})
    other = tmp_path / "other.toml"
    other.write_text('task = "spacing"')
    with pytest.raises(Refused, match="spacing"):
        task_of(other)


def test_networks_are_small_enough_to_ship():
    total = sum(p.numel() for network in build_networks(NETWORKS).values() for p in network.parameters())
    assert 2 * total < 8e6  # bytes in half precision


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
