"""The frames' network: what it is taught, its loop and export, and the way it is used."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.frames import PIXEL_MM, make_frames
from USMRISynthesisLib.alignment import align as alignment
from USMRISynthesisLib.alignment.common.confidence import FRAME_NAMES, Calibration
from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.frame import outline as frame_align
from USMRISynthesisLib.alignment.frame.network import (
    COS,
    DISTANCE,
    FIELDS,
    HEAD,
    HEADED,
    LOG_SIGMA,
    SIN,
)
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.datasets.frames import real_pictures, simulated_pictures
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.evaluation.alignment import frames as frame_outlines
from USMRISynthesisLib.evaluation.alignment.negatives import off_head_crops
from USMRISynthesisLib.evaluation.alignment.outline_measures import overlap
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.outline.config import OutlineConfig
from USMRISynthesisLib.training.outline.losses import losses
from USMRISynthesisLib.training.outline.samples import FrameBatch, draw, draw_faces
from USMRISynthesisLib.training.run import read_run, train


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_frames(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def pictures(data):
    return real_pictures(data, "train"), simulated_pictures(data / "train")


def write_config(tmp_path: Path, data: Path, *, steps: int = 4, output: str = "run") -> Path:
    path = tmp_path / f"{output}.toml"
    path.write_text(
        f'task = "frames"\noutput = "{tmp_path / output}"\nsteps = {steps}\nreal = 1\nsimulated = 1\n'
        f'precision = "fp32"\nlog_every = 2\n[data]\nreal = "{data}"\nsimulated = "{data}"\n'
    )
    return path


def knowing(ellipse: Ellipse) -> frame_align.Network:
    """A network that sees one ellipse (in the plane's mm) in every square."""
    pyramid_cut = frame_align.Pyramid.cut
    drawn: list[tuple[np.ndarray, int]] = []

    def cut(self, unit, size):
        drawn.append((unit, size))
        return pyramid_cut(self, unit, size)

    def part(x: torch.Tensor) -> torch.Tensor:
        units = [unit for unit, size in drawn if size == 128][-len(x) :]
        rows = []
        for unit in units:
            there = ellipse.moved(np.linalg.inv(unit))
            distance = there.distance(cell_centres(64, 2).numpy())
            along = there.directions[:, 0]
            fields = np.zeros((FIELDS, 64, 64))
            fields[HEAD], fields[DISTANCE], fields[LOG_SIGMA], fields[HEADED] = -40 * distance, distance, -4, 6
            fields[COS], fields[SIN] = along[0] ** 2 - along[1] ** 2, 2 * along[0] * along[1]
            rows.append(fields)
        return torch.from_numpy(np.stack(rows)).float()

    frame_align.Pyramid.cut = cut
    return frame_align.Network(part, lambda x: torch.zeros(len(x)))


@pytest.fixture
def oracle(monkeypatch):
    monkeypatch.setattr(frame_align.Pyramid, "cut", frame_align.Pyramid.cut)  # put back afterwards
    return knowing


# --- what it is taught


def test_frames_are_split_by_fetus_and_carry_their_ellipse(data, pictures):
    real, simulated = pictures
    assert len({picture.group for picture in real}) == 3 and len(simulated) == 2
    held = {picture.group for split in ("val", "test") for picture in real_pictures(data, split)}
    assert len(held) == 2 and not held & {picture.group for picture in real}
    np.testing.assert_allclose(real[0].ellipse.semi_axes, (78 * PIXEL_MM, 62 * PIXEL_MM))
    np.testing.assert_allclose(simulated[0].ellipse.semi_axes, (43 * 1.02, 35 * 1.02), atol=0.4)
    with pytest.raises(Refused, match="no HC18 frames"):
        real_pictures(data / "train", "train")


def test_the_truth_moves_with_the_image(pictures):
    """The picture has its bright ring where the outline's target lies."""
    batch = draw(*pictures, np.random.default_rng(0), (24, 0), strength=0.0)
    x = torch.nn.functional.avg_pool2d(batch.x, 2)[:, 0]
    seen = 0
    for n in range(24):
        if not batch.there[n]:
            continue
        pixel = float(batch.distance[n].abs().max()) / 40
        ring = (batch.distance[n] < 0) & (batch.distance[n] > -2 * pixel) & (x[n] > -1)
        inner = (batch.distance[n] < -6 * pixel) & (x[n] > -1)
        assert float(x[n][ring].mean()) > float(x[n][inner].mean()) + 0.3
        seen += 1
    assert seen > 12 and float(batch.headed.min()) == 0  # some without a head, too


def test_the_truth_costs_least(pictures):
    batch = draw(*pictures, np.random.default_rng(2), (10, 2))
    exact = torch.zeros(12, FIELDS, 64, 64)
    exact[:, HEAD] = (batch.head * 2 - 1) * 12
    exact[:, DISTANCE] = batch.distance
    exact[:, LOG_SIGMA] = -3
    exact[:, COS : SIN + 1] = batch.midline[:, :, None, None]
    exact[:, HEADED] = ((batch.headed * 2 - 1) * 12)[:, None, None]
    best = losses(exact, batch)
    worse = losses(-exact, batch)
    assert all(torch.isfinite(value) for value in best.values())
    assert all(best[name] < worse[name] for name in ("head", "distance", "midline", "headed"))
    assert float(best["distance"]) < 1e-6 and float(best["midline"]) < 1e-6


def test_a_batch_depends_on_its_seed_alone(pictures):
    first, again = (draw(*pictures, np.random.default_rng(5), (2, 1)) for _ in range(2))
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in FrameBatch.__annotations__)


def test_faces_are_drawn_upright_and_upside_down(pictures):
    """The made frames have no face: the half behind is made dark instead."""
    marked = []
    for picture in pictures[1]:
        array = picture.volume.array.copy()
        array[:, :80] //= 4  # j grows towards anterior
        marked.append(replace(picture, volume=Volume(array, picture.volume.ijk_to_ras)))
    x, ahead = draw_faces(marked, np.random.default_rng(1), 24, strength=0.0)
    assert x.shape == (24, 1, 80, 80) and 4 < float(ahead.sum()) < 20
    more = x[:, 0, 40:].mean(dim=(1, 2)) - x[:, 0, :40].mean(dim=(1, 2))
    assert torch.equal(more > 0, ahead > 0.5)


class Even:
    """A pyramid of one grey."""

    def __init__(self, grey: float) -> None:
        self.grey = grey

    def cut(self, unit, size):
        return torch.full((1, 1, size, size), self.grey)


def test_a_third_of_the_faces_are_real_where_some_are_known(pictures):
    real, simulated = ([replace(picture, front=np.array([1.0, 0.0])) for picture in kind] for kind in pictures)
    for kind, grey in ((real, 0.5), (simulated, -0.5)):
        for picture in kind:
            vars(picture)["pyramid"] = Even(grey)
    x, _ = draw_faces(simulated, np.random.default_rng(4), 300, real=real, strength=0.0)
    assert 0.25 < float((x.flatten(1).median(1).values > 0).float().mean()) < 0.42
    unknown = [replace(picture, front=None) for picture in real]
    x, _ = draw_faces(simulated, np.random.default_rng(4), 300, real=unknown, strength=0.0)
    assert (x.flatten(1).median(1).values < 0).all()


def test_a_marked_cavum_says_where_the_face_of_a_real_frame_lies(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data / "hc18", folder / "hc18")
    name = real_pictures(folder, "train")[0].name
    (folder / "hc18" / "structures.csv").write_text(f"file,structure,face_angle_deg\n{name},csp,90\n")
    fronts = {picture.name: picture.front for picture in real_pictures(folder, "train")}
    np.testing.assert_allclose(fronts.pop(name), [0, 1], atol=1e-12)  # y grows downwards
    assert all(front is None for front in fronts.values())


# --- how it is used


def test_an_ellipse_that_the_network_sees_is_found(pictures, oracle):
    picture = pictures[0][0]
    found = frame_align.find_outline(oracle(picture.ellipse), picture.volume, picture.fan)
    assert found is not None and overlap(found.ellipse, picture.ellipse) > 0.995
    assert found.features.spread < 0.3 and found.features.fan > 0.9
    assert abs(found.midline @ picture.ellipse.directions[:, 0]) > 0.999


def test_the_face_decides_which_end_becomes_anterior_only_where_it_is_sure(pictures, oracle, monkeypatch):
    picture = pictures[0][0]
    network = oracle(picture.ellipse)
    monkeypatch.setattr(frame_align, "load_network", lambda *_, **__: network)
    open_ = alignment.segment_head_2d(picture.volume, picture.fan)
    anterior = {}
    for sign in (1.0, -1.0):
        for logit in (9.0, 0.5):
            network.face = lambda x, value=sign * logit: torch.tensor([value, value, -value, -value])
            found = alignment.segment_head_2d(picture.volume, picture.fan)
            anterior[sign, logit] = found.ras_to_canonical[1, :3]
    np.testing.assert_allclose(anterior[1.0, 9.0], -anterior[-1.0, 9.0])
    for sign in (1.0, -1.0):
        np.testing.assert_allclose(anterior[sign, 0.5], open_.ras_to_canonical[1, :3])


def test_parts_beside_the_head_hold_none_of_it(pictures):
    for picture in pictures[0]:
        for part in off_head_crops(picture):
            assert min(part.volume.shape[1:]) >= 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data) -> Path:
    return train(write_config(tmp_path_factory.mktemp("whole"), data), report=str)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "frames"
    assert cli.main(["export", str(trained), str(folder), "--quiet"]) == 0
    return folder


def test_a_run_leaves_a_log_figures_and_a_checkpoint(trained):
    with (trained.parent / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"] and {"distance", "headed", "midline"} <= set(rows[0])
    with (trained.parent / "evaluation.csv").open() as file:
        assert {"dice_mean", "difference_mm_p90"} <= set(next(csv.DictReader(file)))
    assert checkpoint.load(trained)["step"] == 4


def test_a_stopped_run_goes_on_exactly(tmp_path, data, trained):
    config = write_config(tmp_path, data)
    polls = iter(range(9))
    with pytest.raises(Cancelled, match="step 2"):
        train(config, cancel=lambda: next(polls) == 1, report=str)
    parts = checkpoint.load(train(config, report=str))["averaged"]
    whole = checkpoint.load(trained)["averaged"]
    for part, weights_of in whole.items():
        assert all(torch.equal(value, parts[part][name]) for name, value in weights_of.items()), part
    config.write_text(config.read_text().replace("real = 1", "real = 2"))
    with pytest.raises(Refused, match="real"):
        train(config)


def test_an_export_loads_with_its_hash_and_is_no_alignment_of_volumes(exported):
    agreed = {"consent": lambda sha256, name: True}
    network = frame_align.load_network(str(exported), **agreed)
    assert network(torch.zeros(1, 1, 128, 128)).shape == (1, FIELDS, 64, 64)
    assert network.face(torch.zeros(3, 1, 80, 80)).shape == (3,)
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["task"] == "frames" and manifest["synthetic"] is True
    assert any("CC BY 4.0" in item["licence"] for item in manifest["training"]["data"])
    assert "not for diagnosis" in (exported / "README.md").read_text().lower()
    from USMRISynthesisLib.alignment.volume.model import load_networks

    with pytest.raises(Failed, match="not for alignment"):
        load_networks(str(exported), **agreed)


def test_the_corridor_takes_the_network_where_it_is_installed(exported, pictures, monkeypatch):
    picture = pictures[0][0]
    monkeypatch.setattr(store, "bundled_folders", lambda: [exported.parent])
    store.trust(exported)
    monkeypatch.setattr(alignment, "segment_head_2d", lambda *_, **__: None)
    unseen = alignment.align(picture.volume, picture.fan)
    assert unseen.method == "ellipse" and unseen.score <= alignment.NO_HEAD
    monkeypatch.undo()
    monkeypatch.setattr(store, "bundled_folders", lambda: [])
    fitted = alignment.align(picture.volume, picture.fan)
    assert fitted.method == "ellipse" and fitted.score > alignment.NO_HEAD
    assert alignment.align(picture.volume, picture.fan, transform=np.eye(4)).method == "given"


def test_without_torch_the_skull_is_fitted(exported, pictures, monkeypatch):
    picture = pictures[0][0]
    monkeypatch.setattr(store, "bundled_folders", lambda: [exported.parent])
    store.trust(exported)

    def missing(*_, **__):
        raise ImportError("no torch")

    monkeypatch.setattr(alignment, "segment_head_2d", missing)
    assert alignment.align(picture.volume, picture.fan).method == "ellipse"


def test_what_the_network_sees_becomes_the_alignment(data, pictures, oracle, monkeypatch):
    picture = pictures[0][1]
    network = oracle(picture.ellipse)
    monkeypatch.setattr(frame_align, "load_network", lambda *_, **__: network)
    found = alignment.segment_head_2d(picture.volume, picture.fan)
    assert found is not None and found.method == "network"
    row = next(row for row in frame_outlines.rows_of(data, "train") if row["file"] == picture.name)
    outcome = frame_outlines.outline(row, picture.volume, lambda *_: found)
    assert outcome.dice > 0.99 and outcome.angle_deg < 1
    linear = found.ras_to_canonical[:3, :3]
    scale = np.cbrt(np.linalg.det(linear))
    np.testing.assert_allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-6)
    large = Volume(picture.volume.array, picture.volume.ijk_to_ras @ np.diag([4.0, 4.0, 1.0, 1.0]))
    monkeypatch.setattr(
        frame_align, "load_network", lambda *_, **__: oracle(picture.ellipse.moved(np.diag([4.0, 4.0, 1.0])))
    )
    assert alignment.segment_head_2d(large, picture.fan) is None  # no head is 31 cm long


def test_evaluation_prints_both_ways_and_draws_the_weakest(exported, data, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "bundled_folders", lambda: [exported.parent])
    store.trust(exported)
    figures = frame_outlines.evaluate_frames(data, pictures=tmp_path)
    assert {
        "hc18_dice_mean",
        "hc18_difference_mm_p90",
        "hc18_skull_difference_mm_mean",
        "hc18_mixed_or_noise_caught_share",
        "hc18_difference_mm_weakest_tenth",
    } <= set(figures)
    assert figures["hc18_frames"] == 1 and (tmp_path / "frames-weakest.png").is_file()
    monkeypatch.setattr(store, "bundled_folders", lambda: [])
    assert frame_outlines.evaluate_frames(data)["hc18_method"] == "skull"


def test_an_export_holds_no_operator_that_torch_2_1_lacks(exported):
    module = torch.jit.load(exported / "model.pt")
    used = {
        node.kind().removeprefix("aten::")
        for part in (module.outline, module.face)
        for node in part.inlined_graph.nodes()
        if node.kind().startswith("aten::")
    }
    known = {
        "_convolution",
        "add",
        "add_",
        "batch_norm",
        "cat",
        "expand",
        "leaky_relu",
        "max_pool2d",
        "mul",
        "pixel_unshuffle",
        "size",
        "to",
        "upsample_nearest2d",
        "Int",
        "dropout",
        "flatten",
        "linear",
        "select",
        "slice",
    }
    assert used <= known, used - known
    assert (exported / "model.pt").stat().st_size < 1.5e6


def test_the_configuration_names_what_is_wrong():
    shipped = Path(__file__).parents[3] / "configs" / "frames.toml"
    assert read_run(shipped).task == "frames"
    plain = {"output": "run", "data": {"real": "d", "simulated": "s"}}
    assert OutlineConfig.from_json(plain).real == 13
    for table, named in (
        ({"real": 0}, "real"),
        ({"ema": 2.0}, "ema"),
        ({"losses": {"faces": 1.0}}, r"losses\.faces"),
        ({"task": "synthesis"}, "task"),
    ):
        with pytest.raises(Refused, match=named):
            OutlineConfig.from_json({**plain, **table})


def test_a_calibration_of_volumes_is_none_of_frames():
    content = Calibration((0.0,) * 6, (1.0,) * 6, (1.0,) * 6, 0.0).to_json(FRAME_NAMES)
    assert Calibration.from_json(content, FRAME_NAMES).weights == (1.0,) * 6
    with pytest.raises(ValueError, match="other names"):
        Calibration.from_json(content)
