"""Configuration, data, the loop and the export, on a data set of a few 32-pixel cases."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
import torch
from factories.training import configure, make_data, same_weights
from USMRISynthesisLib.errors import Cancelled, Refused
from USMRISynthesisLib.models.store import read_manifest
from USMRISynthesisLib.synthesis.generator import Generator
from USMRISynthesisLib.training.common.checkpoint import load, save
from USMRISynthesisLib.training.run import train
from USMRISynthesisLib.training.synthesis.config import TrainingConfig
from USMRISynthesisLib.training.synthesis.export import card, export
from USMRISynthesisLib.training.synthesis.warm_start import start_from


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


# --- configuration


def test_the_shipped_configuration_is_valid():
    config = TrainingConfig.read(Path(__file__).parents[3] / "configs" / "default.toml")
    assert config.generator.in_channels == 5 and config.objective.supervised > 0


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"objective": {"latt": 1.0}}, "objective.latt is not known"),
        ({"speed": 3}, "speed is not known"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": 0}, "steps must be positive"),
        ({"generator": {"skips": [9]}}, "generator cannot be"),
        ({"generator": {"skips": 1}}, "generator.skips must be a list"),
        ({"generator": 3}, "generator must be a table"),
        ({"optimiser": {"betas": [0.5]}}, "optimiser.betas must be a list of 2"),
        ({"objective": {"lat": -1}}, "objective cannot be"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"data": {}}, "data.folder is missing"),
        ({"batch": {"real": 1}}, "batch.real needs data.frames"),
    ],
)
def test_a_bad_key_is_refused_by_name_and_with_the_reason(table, named):
    whole = {"output": "run", "data": {"folder": "d"}, "batch": {"real": 0}, **table}
    with pytest.raises(Refused, match=named.replace(".", r"\.")):
        TrainingConfig.from_json(whole)


def test_a_configuration_survives_its_plain_form(tmp_path, data):
    config = TrainingConfig.read(configure(tmp_path, data))
    assert TrainingConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("content", ["steps = ", None])
def test_a_file_that_is_missing_or_no_toml_is_refused(tmp_path, content):
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Refused):
        TrainingConfig.read(path)


# --- the loop


def test_a_run_leaves_a_log_figures_pictures_and_checkpoints(tmp_path, data):
    lines: list[str] = []
    saved = train(configure(tmp_path, data), report=lines.append)
    assert saved == tmp_path / "run" / "checkpoint.pt"
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6", "8", "10"]
    assert {"lat", "app", "stru", "proj", "back", "bi", "supervised", "edge", "d_app", "d_bi"} <= set(rows[0])
    assert float(rows[-1]["rate"]) < float(rows[0]["rate"]) == pytest.approx(2e-4)
    with (tmp_path / "run" / "evaluation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["5", "10"]
    assert (tmp_path / "run" / "best.pt").is_file() and (tmp_path / "run" / "step-000010.png").is_file()
    assert any("left" in line for line in lines)
    assert not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_and_resumed_run_equals_one_in_one_go(tmp_path, data, precision):
    whole = train(configure(tmp_path, data, output="whole", precision=precision), report=str)
    config, polls = configure(tmp_path, data, output="parts", precision=precision), iter(range(100))
    with pytest.raises(Cancelled, match="step 5"):
        train(config, cancel=lambda: next(polls) == 4, report=str)
    parts = train(config, report=str)
    assert same_weights(whole, parts)
    logs = [
        [row[:1] + row[2:] for row in csv.reader((tmp_path / run / "log.csv").open())] for run in ("whole", "parts")
    ]
    assert logs[0] == logs[1]


def test_the_unpaired_terms_can_be_computed_less_often(tmp_path, data):
    whole = train(configure(tmp_path, data, output="whole", extra="unpaired_every = 3"), report=str)
    config, polls = configure(tmp_path, data, output="parts", extra="unpaired_every = 3"), iter(range(100))
    with pytest.raises(Cancelled):
        train(config, cancel=lambda: next(polls) == 4, report=str)
    assert same_weights(whole, train(config, report=str))
    with (tmp_path / "whole" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Steps 1, 4, 7 and 10 compute them: what was last computed is logged.
    assert rows[1]["app"] == rows[2]["app"] != rows[3]["app"]
    assert len({row["supervised"] for row in rows}) == len(rows)


def test_another_seed_gives_another_run(tmp_path, data):
    first = train(configure(tmp_path, data, steps=2, output="a"), report=str)
    other = configure(tmp_path, data, steps=2, output="b")
    other.write_text(other.read_text().replace("seed = 3", "seed = 4"))
    assert not same_weights(first, train(other, report=str))


def test_a_changed_configuration_is_refused_by_name_and_more_steps_are_not(tmp_path, data):
    train(configure(tmp_path, data, steps=2), report=str)
    longer = configure(tmp_path, data, steps=3)
    train(longer, report=str)
    assert load(tmp_path / "run" / "checkpoint.pt")["step"] == 3
    longer.write_text(longer.read_text().replace("supervised = 10", "supervised = 9"))
    with pytest.raises(Refused, match=r"objective\.supervised"):
        train(longer, report=str)


def test_a_setting_newer_than_the_checkpoint_is_no_change(tmp_path, data):
    saved = train(configure(tmp_path, data, steps=2), report=str)
    state = load(saved)
    del state["config"]["unpaired_every"], state["latest"]
    save(saved, state)
    train(configure(tmp_path, data, steps=3), report=str)
    assert load(saved)["step"] == 3


def test_a_run_can_start_from_another_runs_generator(tmp_path, data):
    first = train(configure(tmp_path, data, steps=2, output="first"), report=str)
    train(configure(tmp_path, data, steps=1, output="next", extra=f'initial = "{first}"'), report=str)
    start, after = load(first)["averaged"], load(tmp_path / "next" / "checkpoint.pt")
    weights = [name for name in start if name.endswith("weight")]  # not the running statistics
    assert all(torch.allclose(start[name], after["generator"][name], atol=1e-3) for name in weights)
    other = configure(tmp_path, data, steps=1, output="other", extra=f'initial = "{first}"')
    other.write_text(other.read_text().replace("width = 2", "width = 3"))
    with pytest.raises(Refused, match="no generator of this shape"):
        train(other, report=str)


def test_a_run_can_start_from_an_exported_model_with_a_place_code(tmp_path, data):
    def placed(name: str, extra: str = "") -> Path:
        path = configure(tmp_path, data, steps=1, output=name, extra=extra)
        path.write_text(path.read_text().replace("[generator]", "[generator]\nplace = true"))
        return path

    exported = export(train(placed("first"), report=str), tmp_path / "model", name="first") / "model.pt"
    train(placed("next", f'initial = "{exported}"'), report=str)
    start, after = (load(tmp_path / name / "checkpoint.pt") for name in ("first", "next"))
    weights = [name for name in start["averaged"] if name.endswith("weight")]
    assert all(torch.allclose(start["averaged"][name], after["generator"][name], atol=1e-3) for name in weights)


def test_without_resume_an_existing_run_is_not_written_over(tmp_path, data):
    config = configure(tmp_path, data, steps=2)
    train(config, report=str)
    with pytest.raises(Refused, match="already holds a run"):
        train(config, resume=False, report=str)


def test_the_time_limit_ends_a_run_with_a_checkpoint(tmp_path, data):
    saved = train(configure(tmp_path, data, steps=100000), minutes=0.5 / 60, report=str)
    assert 0 < load(saved)["step"] < 100000


def test_the_sigterm_of_a_scheduler_saves_a_checkpoint(tmp_path, data):
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)

    def ask_once() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    with pytest.raises(Cancelled):
        # The signal arrives while the first step polls for it and is obeyed after the second.
        train(configure(tmp_path, data), cancel=ask_once, report=str)
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(Refused, match="not a training checkpoint"):
        export(tmp_path / "checkpoint.pt", tmp_path / "model", name="x")


# --- export


@pytest.fixture(scope="module")
def exported(tmp_path_factory, data) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("export")
    train(configure(folder, data, steps=2), report=str)
    return folder / "run" / "best.pt", export(folder / "run" / "best.pt", folder / "model", name="tiny")


def test_an_exported_model_can_be_gone_on_from(exported):
    checkpoint, folder = exported
    state = load(checkpoint)
    generator = Generator(TrainingConfig.from_json(state["config"]).generator)
    start_from(generator, str(folder / "model.pt"))
    for name, value in generator.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, state["averaged"][name].half().float())  # as it is stored


def test_an_export_can_be_the_mean_of_two_weights_and_says_so(exported, tmp_path, data):
    checkpoint, folder = exported
    state = load(checkpoint)
    other = {key: value + 0.5 for key, value in state["averaged"].items()}
    save(tmp_path / "other.pt", state | {"averaged": other})
    made = export(checkpoint, tmp_path / "model", name="mean", averaged_with=str(tmp_path / "other.pt"))
    stored = torch.jit.load(made / "model.pt").float().state_dict()
    for key, value in state["averaged"].items():
        torch.testing.assert_close(stored[key], (value + 0.25).half().float())
    manifest = read_manifest(made)
    assert len(manifest.training["averaged_with"]) == 64 and "mean of these weights" in (made / "README.md").read_text()
    again = export(checkpoint, tmp_path / "model", name="mean", averaged_with=str(tmp_path / "other.pt"))
    assert read_manifest(again).sha256 == manifest.sha256
    with pytest.raises(Refused, match=r"There is no file nowhere.pt"):
        export(checkpoint, tmp_path / "none", name="mean", averaged_with=str(tmp_path / "nowhere.pt"))
    assert not (tmp_path / "none").exists() and folder.is_dir()


def test_the_exported_model_is_the_averaged_generator_for_every_batch(exported):
    checkpoint, folder = exported
    state = load(checkpoint)
    generator = Generator(TrainingConfig.from_json(state["config"]).generator).eval()
    generator.load_state_dict(state["averaged"])
    stored = torch.jit.load(folder / "model.pt")
    assert {parameter.dtype for parameter in stored.parameters()} == {torch.float16}
    model = stored.float()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    x = torch.rand(4, 4, 160, 160) * 2 - 1
    with torch.inference_mode():
        for count in range(1, 5):
            assert (model(x[:count]) - generator(x[:count])).abs().mean() < 1e-3
        rounded = generator.half().float()
        for count in range(1, 5):
            torch.testing.assert_close(model(x[:count]), rounded(x[:count]), rtol=0, atol=1e-5)


def test_the_manifest_describes_the_file_and_is_accepted_at_inference(exported):
    _, folder = exported
    manifest = read_manifest(folder)
    assert manifest.sha256 == hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    assert manifest.name == "tiny" and manifest.task == "synthesis" and manifest.synthetic
    assert (manifest.input.channels, manifest.input.neighbours, manifest.input.location) == (4, 1, True)
    assert {item["licence"] for item in manifest.training["data"]} == {"CC0 1.0", "CC BY 4.0"}
    assert manifest.training["steps"] == 2 and "residual_ncc" in manifest.figures


def test_the_card_says_what_the_manifest_says(exported):
    _, folder = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    text = (folder / "README.md").read_text()
    assert text == card(manifest) and manifest["sha256"] in text
    assert "spina bifida" in text and "simulated ultrasound" in text and "not for diagnosis" in text.lower()


def test_an_export_runs_in_half_precision(exported):
    _, folder = exported
    x = torch.rand(1, 4, 160, 160) * 2 - 1
    model = torch.jit.load(folder / "model.pt").float()
    half = torch.jit.freeze(torch.jit.load(folder / "model.pt").to(torch.bfloat16).eval())
    with torch.inference_mode():
        result = half(x.bfloat16())
        assert result.dtype == torch.bfloat16
        # Over all pixels: the worst of 25,600 lies between 0.08 and 0.12 from one noise image to the next.
        assert (result.float() - model(x)).square().mean().sqrt() < 0.015


def test_an_export_holds_no_operator_that_torch_2_1_lacks(exported):
    _, folder = exported
    graph = torch.jit.load(folder / "model.pt").inlined_graph
    known = {
        "__getitem__", "__isnot__", "_convolution", "add", "append", "batch_norm", "batch_norm_update_stats", "bmm",
        "cat", "contiguous", "div", "eq", "expand_as", "flatten", "group_norm", "leaky_relu_", "len", "max_pool2d",
        "mean", "mul", "ne", "ones_like", "relu_", "select", "size", "split", "stack", "sub", "tanh", "to", "transpose",
        "type_as", "unflatten", "upsample_nearest2d", "view", "view_as", "zeros_like",
    }  # fmt: skip

    def nodes(block):
        for node in block.nodes():
            yield node
            for inner in node.blocks():
                yield from nodes(inner)

    used = {node.kind().removeprefix("aten::") for node in nodes(graph) if node.kind().startswith("aten::")}
    assert used <= known, used - known
