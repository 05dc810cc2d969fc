"""The alignment's losses, loop and export, on heads that are ellipsoids with eyes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.heads import data_set, simulated_case
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.alignment.volume import model as alignment_networks
from USMRISynthesisLib.alignment.volume import search as network_align
from USMRISynthesisLib.alignment.volume.network import (
    BRAIN,
    EYE_LEFT,
    FIELDS,
    HEAD_FINE,
    LOG_SIGMA,
    SKULL,
    STAGES,
    Prediction,
)
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.datasets.heads import load_heads
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.store import ConsentNeeded
from USMRISynthesisLib.training.alignment.config import AlignmentConfig
from USMRISynthesisLib.training.alignment.export import build_networks, example, start_from
from USMRISynthesisLib.training.alignment.losses import losses
from USMRISynthesisLib.training.alignment.samples import Batch, draw
from USMRISynthesisLib.training.common import checkpoint, torchscript
from USMRISynthesisLib.training.run import read_run, train


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return data_set(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def heads(data):
    return load_heads(data / "train")


def write_config(tmp_path: Path, data: Path, *, steps: int = 5, output: str = "run", **cycle: int) -> Path:
    counts = {"locate": 1, "orient": 1, "refine": 1, **cycle}
    path = tmp_path / f"{output}.toml"
    path.write_text(
        f'task = "alignment"\noutput = "{tmp_path / output}"\nsteps = {steps}\nbatch = 1\nthreads = 1\n'
        f'precision = "fp32"\nlog_every = 5\nevaluation_poses = 1\n[data]\nfolder = "{data}"\n[cycle]\n'
        + "".join(f"{name} = {count}\n" for name, count in counts.items())
    )
    return path


# --- losses


def truth_as_prediction(batch: Batch) -> Prediction:
    n, s = len(batch.x), batch.head.shape[-1]
    fields = torch.zeros(n, FIELDS, s, s, s)
    fields[:, 0] = (batch.head * 2 - 1) * 12
    fields[:, 1:4] = batch.coordinates
    fields[:, LOG_SIGMA] = -3
    fields[:, 5] = torch.logit(batch.upright.clamp(1e-4, 1 - 1e-4))[:, None, None, None]
    maps = torch.zeros(n, 5, *batch.x.shape[2:])
    if batch.brain.ndim > 2:
        maps[:, BRAIN], maps[:, HEAD_FINE] = (batch.brain * 2 - 1) * 12, (batch.head_fine * 2 - 1) * 12
        maps[:, SKULL] = batch.distance
        maps[:, EYE_LEFT:] = (batch.eyes + 1e-9).log() + 14
    return Prediction(maps, fields)


@pytest.mark.parametrize("stage", list(STAGES))
def test_the_truth_costs_least(heads, stage):
    batch = draw(stage, heads, np.random.default_rng(3), 3)
    exact = truth_as_prediction(batch)
    best = losses(stage, exact, batch)
    fields = -exact.fields
    fields[:, LOG_SIGMA] = -3
    wrong = losses(stage, Prediction(-exact.maps, fields), batch)
    assert float(best["coordinates"]) < 0.01 and float(best["head"]) < 0.1
    assert all(best[name] < wrong[name] for name in best)
    assert all(torch.isfinite(value) for value in best.values())


def test_only_the_distance_to_the_midline_is_asked_where_the_head_may_stand_anyhow(heads):
    batch = draw("locate", heads, np.random.default_rng(3), 2)
    exact = truth_as_prediction(batch)
    moved = exact.fields.clone()
    moved[:, 2:4] += 5.0
    torch.testing.assert_close(losses("locate", Prediction(exact.maps, moved), batch), losses("locate", exact, batch))


# --- the loop and what comes of it


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data) -> Path:
    return train(write_config(tmp_path_factory.mktemp("whole"), data), report=str)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "alignment"
    assert cli.main(["export", str(trained), str(folder), "--quiet"]) == 0
    return folder


def test_a_run_leaves_a_log_figures_and_a_checkpoint(trained):
    with (trained.parent / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["5"]
    assert {"orient_upright", "locate_coordinates", "refine_eyes"} <= set(rows[0])
    with (trained.parent / "evaluation.csv").open() as file:
        assert {"rotation_deg_median", "flip_share"} <= set(next(csv.DictReader(file)))
    content = checkpoint.load(trained)
    assert content["step"] == 5 and set(content["averaged"]) == set(STAGES)


def test_a_stopped_run_goes_on_exactly(tmp_path, data, trained):
    config = write_config(tmp_path, data)
    polls = iter(range(9))
    with pytest.raises(Cancelled, match="step 3"):
        train(config, cancel=lambda: next(polls) == 2, report=str)
    parts = checkpoint.load(train(config, report=str))
    whole = checkpoint.load(trained)
    for stage, state in whole["averaged"].items():
        assert all(torch.equal(value, parts["averaged"][stage][name]) for name, value in state.items()), stage
    with pytest.raises(Refused, match="already holds a run"):
        train(config, resume=False)
    config.write_text(config.read_text().replace("batch = 1", "batch = 2"))
    with pytest.raises(Refused, match="batch"):
        train(config)


def test_a_run_goes_on_from_an_exported_model_of_sixteen_bits_and_learns_from_further_folders(tmp_path, data, heads):
    torch.manual_seed(3)
    networks = build_networks()
    start = tmp_path / "start.pt"
    start.write_bytes(torchscript.stages({name: n.eval() for name, n in networks.items()}, example, 2e-2))
    others = build_networks()
    with pytest.raises(ConsentNeeded, match=r"'start\.pt' does not come with"):
        start_from(others, str(start))
    config = write_config(tmp_path, data, steps=1)
    config.write_text(config.read_text().replace("[data]", f'initial = "{start}"\n[data]\nalso = ["{data / "val"}"]'))
    with pytest.raises(ConsentNeeded):
        train(config, report=str)
    store.trust(start)
    start_from(others, str(start))
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            torch.testing.assert_close(others[name].state_dict()[key].float(), value.half().float())
    lines = []
    content = checkpoint.load(train(config, report=lines.append))
    assert lines[0] == f"{len(heads) + 1} training and 1 validation heads" and len(content["cases"]) == len(heads) + 1
    before, after = networks["refine"].state_dict(), content["networks"]["refine"]
    moved = max(float((after[key] - value).abs().max()) for key, value in before.items() if key.endswith("0.weight"))
    assert moved < 0.01  # no other random weights


def test_a_start_of_eight_bits_or_of_something_else_is_refused(exported, tmp_path):
    for path in (exported / "model.pt", tmp_path / "none.pt"):
        with pytest.raises(Refused, match=r"no alignment networks that training can go on from. Give a model.pt"):
            start_from(build_networks(), str(path))


def test_an_export_loads_with_its_hash_and_answers(exported, data):
    networks = alignment_networks.load_networks(str(exported), consent=lambda sha256, name: True)
    assert set(networks.parts) == set(STAGES)
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["task"] == "alignment" and manifest["synthetic"] is True
    assert "not for diagnosis" in (exported / "README.md").read_text().lower()
    case = simulated_case(9)
    volume = Volume(case["us"][::2, ::2, ::2], canonical_ijk_to_ras() @ np.diag([2, 2, 2, 1.0]))
    found = network_align.find_head(networks, volume, case["fan"][::2, ::2, ::2])
    assert found is None or found.score < 0.9  # five steps teach nothing, and it says so
    damaged = Path(shutil.copytree(exported, exported.parent / "damaged"))
    (damaged / "model.pt").write_bytes((damaged / "model.pt").read_bytes() + b" ")
    with pytest.raises(Failed, match="SHA-256"):
        alignment_networks.load_networks(str(damaged), consent=lambda sha256, name: True)


def test_the_evaluation_prints_the_figures_and_draws_what_it_measured(exported, data, tmp_path, capsys):
    (tmp_path / "us-phantom").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    Volume(noise, np.eye(4)).write(tmp_path / "us-phantom" / "noise.mha")
    command = ["evaluate", "normalisation", "--cases", str(data), "--model", str(exported), "--poses", "1",
               "--data", str(tmp_path), "--pictures", str(tmp_path / "pictures"), "--json", "--quiet"]  # fmt: skip
    assert cli.main(command) == 2 and "--trust-model" in capsys.readouterr().err
    assert cli.main([*command, "--trust-model"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {
        "mask_dice_median",
        "rotation_deg_p90",
        "flips_caught_share",
        "eye_mm_median",
        "no_head_caught_share",
        "upright_skull_rotation_deg_median",
        "upright_network_translation_mm_median",
    } <= set(figures)
    assert set(figures["other_images"]) == {"us-phantom/noise.mha"} and figures["heads"] == 1
    assert set(figures["other_images"]["us-phantom/noise.mha"]) == {"gate", "score"}
    assert 0 <= figures["heads_refused_by_gate_share"] <= 1


def test_the_corridors_alignment_is_the_networks_where_it_is_installed(exported, monkeypatch):
    from USMRISynthesisLib.alignment import align as alignment

    monkeypatch.setattr(store, "bundled_folders", lambda: [exported.parent])
    store.trust(exported)
    case = simulated_case(9)
    step = canonical_ijk_to_ras() @ np.diag([2, 2, 2, 1.0])
    volume, fan = Volume(case["us"][::2, ::2, ::2], step), np.ascontiguousarray(case["fan"][::2, ::2, ::2])
    found = alignment.align(volume, fan)
    assert found.method == "network" or found.score <= alignment.NO_HEAD
    assert alignment.align(volume, fan, transform=np.eye(4)).method == "given"
    monkeypatch.setattr(alignment, "align_volume", lambda *_, **__: None)
    assert alignment.align(volume, fan).score <= alignment.NO_HEAD < MIN_CONFIDENCE
    monkeypatch.setattr(store, "bundled_folders", lambda: [])
    assert alignment.align(volume, fan).method == "ellipsoid"


def test_an_export_holds_no_operator_that_torch_2_1_lacks(trained, tmp_path):
    assert cli.main(["export", str(trained), str(tmp_path / "m"), "--quiet"]) == 0
    module = torch.jit.load(tmp_path / "m" / "model.pt")
    known = {
        "_convolution", "add", "batch_norm", "cat", "constant_pad_nd", "expand", "leaky_relu", "max_pool3d", "mul",
        "pad", "permute", "reshape", "size", "slice", "to", "upsample_nearest3d", "Int", "floor_divide", "view", "div",
            "type_as",
    }  # fmt: skip
    for name in STAGES:
        graph = getattr(module, name).inlined_graph
        used = {node.kind().removeprefix("aten::") for node in graph.nodes() if node.kind().startswith("aten::")}
        assert used <= known, used - known


def test_the_configuration_names_what_is_wrong(tmp_path):
    shipped = Path(__file__).parents[3] / "configs" / "alignment.toml"
    assert read_run(shipped).task == "alignment" and read_run(shipped.with_name("default.toml")).task == "synthesis"
    plain = {"output": "run", "data": {"folder": "d"}}
    assert AlignmentConfig.from_json(plain).cycle.stages().count("orient") == 3
    for table, named in (
        ({"batch": 0}, "batch"),
        ({"cycle": {"orientt": 1}}, r"cycle\.orientt"),
        ({"ema": 2.0}, "ema"),
        ({"cycle": {"locate": 0}}, "every stage"),
        ({"task": "synthesis"}, "task"),
    ):
        with pytest.raises(Refused, match=named):
            AlignmentConfig.from_json({**plain, **table})
    other = tmp_path / "other.toml"
    other.write_text('task = "weather"')
    with pytest.raises(Refused, match="weather"):
        read_run(other)


def test_networks_are_small_enough_to_ship():
    total = sum(p.numel() for network in build_networks().values() for p in network.parameters())
    assert 2 * total < 4e6 + 5e5  # bytes in half precision
