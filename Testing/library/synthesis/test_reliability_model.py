"""The reliability map of a model: trained for the tests' own generator, exported, used, measured, refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.heads import layered_case
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.evaluation.synthesis import reliability as evaluation
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import consent as consents
from USMRISynthesisLib.models import store
from USMRISynthesisLib.synthesis import engine
from USMRISynthesisLib.synthesis.engine import load_generator
from USMRISynthesisLib.synthesis.result import BEAM_ONLY, PROBABILITY
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.reliability.config import ReliabilityConfig
from USMRISynthesisLib.training.reliability.export import add_reliability, reexported
from USMRISynthesisLib.training.run import train


def quiet(text: str) -> None:
    pass


@pytest.fixture
def own_model(trusted_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the generator of the tests that may get a reliability map; whatever is in it counts as bundled."""
    bundled = tmp_path / "model_weights"
    folder = bundled / "own"
    shutil.copytree(trusted_model, folder)
    monkeypatch.setattr(store, "bundled_folders", lambda: [bundled])
    monkeypatch.setattr(consents, "is_listed", lambda sha256: True)
    store.forget()
    yield folder
    store.forget()


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    for part, seed in (("train", 1), ("mr", 2), ("val", 3)):
        (tmp_path / "heads" / part).mkdir(parents=True)
        np.savez(tmp_path / "heads" / part / f"head-{seed}.npz", **layered_case(seed))
    return tmp_path / "heads"


def configured(tmp_path: Path, heads: Path, model: Path, *, output: str = "run", steps: int = 30) -> Path:
    path = tmp_path / f"{output}.toml"
    path.write_text(f'task = "support"\noutput = "{tmp_path / output}"\nfolder = "{heads}"\nmodel = "{model}"\n'
                    f'steps = {steps}\nbatch = 2\nthreads = 1\nprecision = "fp32"\n')  # fmt: skip
    return path


def test_trained_exported_used_and_measured(own_model, heads, tmp_path, head):
    from USMRISynthesisLib.synthesis.pipeline import synthesize

    before = synthesize(head, model=str(own_model), device="cpu", unreliable=True)
    assert before.provenance["support"] == {"meaning": BEAM_ONLY}
    config = configured(tmp_path, heads, own_model)
    assert cli.main(["train", str(config), "--quiet"]) == 0
    printed = tmp_path / "printed.json"
    printed.write_text('{"support_auc": [0.7, 0.6, 0.8], "support_wrong_share": 0.05, "support_error_rho": 0.5}')
    exporting = ["export", str(tmp_path / "run" / "checkpoint.pt"), str(own_model)]
    assert cli.main([*exporting, "--figures", str(tmp_path / "none.json")]) == 2  # refused before anything is written
    assert not (own_model / "support.pt").exists()
    assert cli.main([*exporting, "--figures", str(printed)]) == 0
    assert "- auc: 0.700 [0.600, 0.800]" in (own_model / "README.md").read_text()
    assert cli.main(exporting) == 0
    assert store.hash_matches(own_model)
    card = (own_model / "README.md").read_text()
    assert card.count("## Reliability map") == 1 and "untested" in card
    add_reliability(checkpoint.load(tmp_path / "run" / "checkpoint.pt"), own_model)  # again: replaced, not added
    again = (own_model / "README.md").read_text()
    assert len(again) == len(card) and again.count("## Reliability map") == 1

    manifest = store.read_manifest(own_model)
    assert manifest.extra["support"]["file"] == "support.pt"
    result = synthesize(head, model=str(own_model), device="cpu", unreliable=True)
    assert result.provenance["support"]["meaning"] == PROBABILITY
    assert result.provenance["support"]["sha256"] == manifest.extra["support"]["sha256"]
    np.testing.assert_array_equal(result.mr.array, before.mr.array)  # the MR is the same
    seen, predicted = before.confidence.array > 0, result.confidence.array
    np.testing.assert_array_equal(predicted > 0, seen)
    assert predicted.max() <= 1 and len(np.unique(predicted[seen])) > 100
    assert result.provenance["support"]["mean"] == pytest.approx(float(predicted[seen].mean()), abs=2e-3)

    figures = evaluation.evaluate(heads / "val", str(own_model), "cpu")
    assert 0 <= figures["support_auc"][1] <= figures["support_auc"][2] <= 1
    assert sum(share for *_, share in figures["support_calibration"]) == pytest.approx(1)
    assert figures["support_by_anomaly"]["none"]["heads"] == 1
    assert "AUC over voxels" in evaluation.table(figures)
    json.dumps(figures)


def test_new_figures_keep_weights_and_reliability_map_to_the_byte_and_other_weights_drop_it(own_model, heads, tmp_path):
    from factories.training import configure, make_data
    from USMRISynthesisLib.training.synthesis.export import export

    (tmp_path / "data").mkdir()
    data = make_data(tmp_path / "data")
    saved = train(configure(tmp_path, data, steps=1), report=quiet)
    folder = export(saved, own_model.parent / "trained", name="trained")
    support = {"file": "support.pt", "sha256": "0" * 64, "wrong": 0.15, "smoothing_mm": 0.9, "cases": 1, "steps": 1,
               "date": "", "config": {"learn": ["a"], "calibrate": ["b"], "seed": 0}, "figures": {}}  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "support": support}))
    before = (folder / "model.pt").read_bytes()
    export(saved, folder, name="trained", figures={"ncc": 0.5})
    after = json.loads((folder / "manifest.json").read_text())
    assert (folder / "model.pt").read_bytes() == before and after["sha256"] == manifest["sha256"]
    assert after["support"] == support and after["figures"]["ncc"] == 0.5
    assert (folder / "README.md").read_text().count("## Reliability map") == 1
    other = train(configure(tmp_path, data, steps=2, output="other"), report=quiet)
    export(other, folder, name="trained")
    assert "support" not in json.loads((folder / "manifest.json").read_text())
    assert (folder / "model.pt").read_bytes() != before


def test_a_model_written_again_has_the_same_weights_and_names_no_file_of_the_machine(own_model, heads, tmp_path):
    from factories.training import configure, make_data
    from USMRISynthesisLib.training.synthesis.export import export

    (tmp_path / "data").mkdir()
    saved = train(configure(tmp_path, make_data(tmp_path / "data"), steps=1), report=quiet)
    folder = export(saved, own_model.parent / "trained", name="trained", figures={"ncc": 0.5})
    trained = train(configured(tmp_path, heads, folder, output="reliability"), report=quiet)
    add_reliability(checkpoint.load(trained), folder)
    torch.jit.save(torch.jit.load(folder / "model.pt"), folder / "model.pt")  # as torch does: with its sources
    manifest = json.loads((folder / "manifest.json").read_text())
    exported = manifest["sha256"]
    manifest["sha256"] = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    manifest["files"]["model.pt"] = manifest["sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace(exported, manifest["sha256"]))
    assert sources(folder / "model.pt")
    before = load_generator(str(folder), "cpu")

    assert cli.main(["export", str(folder), str(folder)]) == 0
    after = load_generator(str(folder), "cpu")
    assert after.module is not before.module
    assert not sources(folder / "model.pt") and not sources(folder / "support.pt")
    cells, conditions = torch.rand(1, 9, 80, 80), torch.rand(1, 9, 1, 1)
    x = torch.rand(1, after.manifest.input.channels, 160, 160).to(after.dtype)
    with torch.inference_mode():
        assert torch.equal(before.module(x), after.module(x))
        assert torch.equal(before.reliability(cells, conditions), after.reliability(cells, conditions))
    written = json.loads((folder / "manifest.json").read_text())
    card = (folder / "README.md").read_text()
    assert written["sha256"] in card and written["support"]["sha256"] in card
    assert written["files"]["weights.safetensors"] == manifest["files"]["weights.safetensors"]
    hashed = {"sha256": None, "support": None, "files": None}
    assert written | hashed == manifest | hashed  # figures, version, training
    assert cli.main(["export", str(folder), str(folder), "--model-version", "3"]) == 2

    printed = tmp_path / "printed.json"
    printed.write_text(json.dumps({"split": "val", "through": "network", "cases": 8, "values": {"ncc": [0.75, 0.5, 1]},
                                   "support_auc": [0.7, 0.6, 0.8], "support_wrong_share": 0.05,
                                   "support_error_rho": 0.5}))  # fmt: skip
    assert cli.main(["export", str(folder), str(folder), "--figures", str(printed)]) == 0
    card = (folder / "README.md").read_text()
    assert "- ncc: 0.750 [0.500, 1.000]" in card and "- auc: 0.700 [0.600, 0.800]" in card


def sources(file: Path) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        return [name for name in archive.namelist() if name.endswith(".debug_pkl")]


def test_a_model_without_its_configuration_is_not_exported_again(own_model, capsys):
    before = {file.name: file.read_bytes() for file in own_model.iterdir()}
    (own_model / "README.md").write_text("card")
    assert cli.main(["export", str(own_model), str(own_model)]) == 1
    assert "does not say how its networks are built" in capsys.readouterr().err
    assert {name: (own_model / name).read_bytes() for name in before} == before


def test_a_reliability_map_of_another_shape_is_not_exported_again(tmp_path):
    file = tmp_path / "support.pt"
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), file)
    with pytest.raises(Failed, match="not one of eight bits"):
        reexported(file.read_bytes())


def test_networks_of_another_task_lose_their_sources_only_and_take_no_figures(tmp_path, monkeypatch, capsys):
    bundled = tmp_path / "model_weights"
    shutil.copytree(store.find_model("frames"), bundled / "frames")
    monkeypatch.setattr(store, "bundled_folders", lambda: [bundled])
    folder = bundled / "frames"
    manifest = json.loads((folder / "manifest.json").read_text())
    state = torch.jit.load(folder / "model.pt").state_dict()
    assert cli.main(["export", str(folder), str(tmp_path / "again")]) == 0
    written = json.loads((tmp_path / "again" / "manifest.json").read_text())
    again = torch.jit.load(tmp_path / "again" / "model.pt").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items()) and len(again) == len(state)
    name = "weights.safetensors"  # the program is another one, what it computes with is not
    assert written["files"][name] == manifest["files"][name] and written["files"]["model.pt"] == written["sha256"]
    assert written | {"sha256": None, "files": None} == manifest | {"sha256": None, "files": None}
    assert store.hash_matches(tmp_path / "again") and not sources(tmp_path / "again" / "model.pt")
    figures = {"split": "val", "through": "network", "cases": 1, "values": {"ncc": [1, 1, 1]}}
    (tmp_path / "printed.json").write_text(json.dumps(figures))
    assert cli.main(["export", str(folder), str(folder), "--figures", str(tmp_path / "printed.json")]) == 2
    assert "Only a synthesis model" in capsys.readouterr().err


def test_a_reliability_map_runs_in_half_precision_where_the_hardware_does(own_model, heads, tmp_path, monkeypatch):
    train(configured(tmp_path, heads, own_model), report=quiet)
    add_reliability(checkpoint.load(tmp_path / "run" / "checkpoint.pt"), own_model)
    cells, conditions = torch.rand(2, 9, 80, 80), torch.rand(2, 9, 1, 1)
    predicted = {}
    for dtype in (None, torch.bfloat16):
        store.forget()
        monkeypatch.setattr(engine, "native_half", lambda device, dtype=dtype: (dtype, "in this test"))
        with torch.inference_mode():
            predicted[dtype] = load_generator(str(own_model), "cpu").reliability(cells, conditions)
    assert predicted[torch.bfloat16].dtype is torch.float32
    assert torch.allclose(predicted[None], predicted[torch.bfloat16], atol=0.03 * float(predicted[None].abs().max()))
    assert not torch.equal(predicted[None], predicted[torch.bfloat16])


def test_a_model_without_a_reliability_map_is_not_measured(own_model, heads):
    assert evaluation.evaluate(heads / "val", str(own_model), "cpu") is None


def test_a_frame_has_no_reliability_map_of_a_model_trained_on_volumes(own_model, heads, tmp_path, head):
    from dataclasses import replace

    from USMRISynthesisLib.synthesis.pipeline import synthesize

    saved = train(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    add_reliability(checkpoint.load(saved), own_model)
    middle = head.shape[0] // 2
    frame = replace(head, array=head.array[middle : middle + 1])
    result = synthesize(frame, model=str(own_model), device="cpu", unreliable=True)
    assert result.provenance["support"] == {"meaning": BEAM_ONLY}


def test_a_frame_has_the_reliability_map_of_a_model_trained_on_frames(own_model, heads, tmp_path, head):
    from dataclasses import replace

    from USMRISynthesisLib.synthesis.pipeline import synthesize

    for split, seed in (("train", 1), ("val", 3)):
        case = layered_case(seed)
        frames = {f"frames_{name}": case[name][79:81] for name in ("us", "fan", "t2", "labels")}
        np.savez(heads / split / f"head-{seed}.npz", **case, **frames)
    config = configured(tmp_path, heads, own_model, steps=2)
    named = f'frames = ["{heads / "train"}"]\ncalibrate_frames = ["{heads / "val"}"]\n'
    config.write_text(config.read_text() + named)
    content = checkpoint.load(train(config, report=quiet))
    assert {"head-1-0", "head-1-1"} < set(content["cases"])
    add_reliability(content, own_model)
    assert store.read_manifest(own_model).extra["support"]["frames"] is True
    assert "Simulated frames" in (own_model / "README.md").read_text()
    frame = replace(head, array=head.array[head.shape[0] // 2][None])
    result = synthesize(frame, model=str(own_model), device="cpu", unreliable=True)
    assert result.provenance["support"]["meaning"] == PROBABILITY
    share = result.confidence.array
    assert share.shape == frame.shape and 0 < share[result.mr.array > 0].min() and share.max() <= 1


def test_frames_to_learn_from_without_any_are_refused(own_model, heads, tmp_path):
    config = configured(tmp_path, heads, own_model, steps=1)
    named = f'frames = ["{heads / "train"}"]\ncalibrate_frames = ["{heads / "val"}"]\n'
    config.write_text(config.read_text() + named)
    with pytest.raises(Refused, match="no simulated frames"):
        train(config, report=quiet)


def test_a_reliability_map_for_other_weights_is_refused(own_model, heads, tmp_path):
    saved = train(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    content = checkpoint.load(saved) | {"model_sha256": "0" * 64}
    with pytest.raises(Refused, match="trained for other weights"):
        add_reliability(content, own_model)


def test_a_tampered_or_missing_reliability_map_is_not_loaded(own_model, heads, tmp_path):
    saved = train(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    add_reliability(checkpoint.load(saved), own_model)
    file = own_model / "support.pt"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    store.forget()
    with pytest.raises(Failed, match=r"reliability map.*SHA-256 differs"):
        load_generator(str(own_model), "cpu")
    file.unlink()
    with pytest.raises(Failed, match="cannot be read"):
        load_generator(str(own_model), "cpu")


def test_a_reliability_map_of_another_version_is_not_loaded_and_its_remedy_works(own_model, heads, tmp_path):
    saved = train(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    add_reliability(checkpoint.load(saved), own_model)
    manifest = json.loads((own_model / "manifest.json").read_text())
    del manifest["support"]["version"]  # as it was before there was more than one
    (own_model / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Failed, match="made by another version of USMRISynthesis") as refused:
        load_generator(str(own_model), "cpu")
    assert "manifest.json" in refused.value.remedy
    del manifest["support"]
    (own_model / "manifest.json").write_text(json.dumps(manifest))
    assert load_generator(str(own_model), "cpu").reliability is None


def test_further_heads_are_calibrated_on(own_model, heads, tmp_path):
    path = configured(tmp_path, heads, own_model, steps=1)
    path.write_text(path.read_text() + f'learn = ["train"]\nalso_calibrate = ["{heads / "val"}"]\n')
    predicted: list[str] = []
    other = configured(tmp_path, heads, own_model, output="alone", steps=1)
    alone = checkpoint.load(train(other, report=quiet))
    both = checkpoint.load(train(path, report=predicted.append))
    assert any(line.startswith("head-3") for line in predicted) and both["cases"] == ["head-1"]
    assert not torch.equal(both["averaged"]["offset"], alone["averaged"]["offset"])
    add_reliability(both, own_model)
    assert f"calibrated on mr, {heads / 'val'}" in (own_model / "README.md").read_text()


def test_a_stopped_run_goes_on_exactly(own_model, heads, tmp_path):
    straight = train(configured(tmp_path, heads, own_model, output="whole"), report=quiet)
    parts = configured(tmp_path, heads, own_model, output="parts")
    requests = iter([False, True])
    with pytest.raises(Cancelled):
        train(parts, report=quiet, cancel=lambda: next(requests))
    resumed = train(parts, report=quiet)
    a, b = checkpoint.load(straight), checkpoint.load(resumed)
    assert all(torch.equal(a["averaged"][name], b["averaged"][name]) for name in a["averaged"])


def test_heads_labelled_in_the_axial_plane_alone_are_kept_separately(own_model, heads, tmp_path):
    path = configured(tmp_path, heads, own_model)
    path.write_text(path.read_text() + f'learn = ["mr"]\naxial = ["{heads / "train"}"]\n')
    predicted: list[str] = []
    content = checkpoint.load(train(path, report=predicted.append))
    assert content["cases"] == ["head-2", "head-1"] and content["step"] == 30
    add_reliability(content, own_model)
    assert "mr, " + str(heads / "train") in (own_model / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"learn": []}, "learn and calibrate must name a split"), ({"steps": 0}, "steps must be positive"),
     ({"speed": 1}, "speed is not known"), ({"ema": 1.0}, "ema must lie in 0..1"),
     ({"dropout": 1.0}, "dropout lie in 0..1")],
)  # fmt: skip
def test_a_bad_configuration_is_refused_with_the_reason(change, message):
    with pytest.raises(Refused, match=message):
        ReliabilityConfig.from_json({"output": "run", "folder": "data", **change})


def test_the_command_line_writes_the_map_beside_the_image(own_model, heads, tmp_path, head):
    saved = train(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    add_reliability(checkpoint.load(saved), own_model)
    source, target, believed = (tmp_path / f"{name}.nrrd" for name in ("us", "mr", "support"))
    head.write(source)
    assert cli.main(["synthesize", str(source), str(target), "--model", str(own_model), "--unreliable",
                     "--support", str(believed)]) == 0  # fmt: skip
    map_, image = Volume.read(believed), Volume.read(target)
    assert map_.shape == image.shape and 0 <= map_.array.min() and map_.array.max() <= 1
    assert "SYNTHETIC" in json.dumps(dict(map_.metadata)) or (tmp_path / "support.json").is_file()
