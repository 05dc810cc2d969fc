"""Model folders: found by name or path, refused when malformed, changed or not trusted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import bundled as bundled_list
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.network import plain_bytes
from USMRISynthesisLib.models.store import ConsentNeeded, Source, find_model, read_manifest
from USMRISynthesisLib.training.common import bundled_list as bundled_files

WriteModel = Callable[..., Path]


def load(folder: Path, consent: store.Consent | None = None) -> torch.nn.Module:
    """The network of a synthesis model in TorchScript."""
    return store.load(folder, "synthesis", lambda source: source.network(torch.nn.Identity), consent=consent)


@pytest.fixture(autouse=True)
def nothing_prepared() -> None:
    store.forget()


@pytest.fixture
def bundled(tmp_path: Path, tiny_model_file: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled folder with the models `default` and `other`, whose weights are on the package's list."""
    for name in ("default", "other"):
        write_model(tmp_path / "bundled" / name, tiny_model_file.read_bytes(), name=name)
        sha256 = read_manifest(tmp_path / "bundled" / name).sha256
        monkeypatch.setitem(bundled_list.FILES, name, {"model.pt": sha256})
    monkeypatch.setattr(store, "bundled_folders", lambda: [tmp_path / "bundled"])
    return tmp_path / "bundled"


def test_a_name_finds_the_bundled_model_and_not_a_folder_of_that_name_here(
    bundled: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model.rename(tiny_model.parent / "default")
    monkeypatch.chdir(tiny_model.parent)
    assert find_model("default") == bundled / "default"
    assert find_model("./default") == tiny_model.parent / "default"


def test_a_path_to_the_folder_or_to_its_files_finds_it(tiny_model: Path) -> None:
    for path in (tiny_model, tiny_model / "model.pt", str(tiny_model / "manifest.json")):
        assert find_model(path) == tiny_model


def test_an_unknown_name_is_answered_with_the_known_ones(bundled: Path) -> None:
    with pytest.raises(Failed, match=r"no model 'nonesuch'.*default, other"):
        find_model("nonesuch")


def test_models_are_offered_for_what_they_are_made(bundled: Path, write_model: WriteModel) -> None:
    write_model(bundled / "heads", b"", task="alignment")
    write_model(bundled / "damaged", b"", sha256="abc")
    assert store.models_for("synthesis") == ["default", "other"] and store.models_for("alignment") == ["heads"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": None}, "name"),
        ({"sha256": "abc"}, "sha256"),
        ({"synthetic": False}, "synthetic"),
        ({"input": {}}, "input.size"),
        ({"input": []}, "input"),
        ({"file": "../model.pt"}, "file"),
        ({"output": "x"}, "output"),
        ({"version": True}, "version"),
        (
            {"input": {"size": 160, "spacing_mm": 0.6, "channels": 9, "neighbours": 1, "location": True}},
            "input.channels",
        ),
        (
            {"input": {"size": 160, "spacing_mm": 0.6, "channels": True, "neighbours": 0, "location": False}},
            "input.channels",
        ),
    ],
)
def test_a_malformed_manifest_names_the_field(
    tmp_path: Path, write_model: WriteModel, change: dict[str, object], field: str
) -> None:
    with pytest.raises(Failed, match=f"malformed: '{field}'"):
        read_manifest(write_model(tmp_path / "m", b"", **change))


def test_a_missing_field_and_a_manifest_that_is_no_json_are_told_apart(tiny_model: Path) -> None:
    path = tiny_model / "manifest.json"
    content = json.loads(path.read_text())
    del content["limits"]
    path.write_text(json.dumps(content))
    with pytest.raises(Failed, match="'limits' is missing"):
        read_manifest(tiny_model)
    path.write_text("{")
    with pytest.raises(Failed, match="not JSON"):
        read_manifest(tiny_model)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path, write_model: WriteModel) -> None:
    folder = write_model(tmp_path / "m", b"", attention="mean")
    written = json.loads((folder / "manifest.json").read_text())
    read = json.loads(json.dumps(read_manifest(folder).to_json()))
    # what was left out comes back as its default
    assert read == {**written, "file": "model.pt", "input": {**written["input"], "planes": ["axial"]}}


def test_planes_of_a_manifest_fit_its_channels_or_it_is_refused(tmp_path: Path, write_model: WriteModel) -> None:
    form = {"size": 160, "spacing_mm": 0.6, "channels": 5, "neighbours": 1, "location": True}
    three = write_model(tmp_path / "three", b"", input={**form, "planes": ["axial", "coronal", "sagittal"]})
    assert read_manifest(three).input.planes == ("axial", "coronal", "sagittal")
    for name, planes, fault in (("a", ["axial"], "input.channels"), ("b", ["oblique"], "input.planes"),
                                ("c", "axial", "input.planes"), ("d", [], "input.planes")):  # fmt: skip
        with pytest.raises(Failed, match=fault):
            read_manifest(write_model(tmp_path / name, b"", input={**form, "planes": planes}))


def test_a_manifest_from_before_the_exponent_means_none_and_a_senseless_one_is_refused(
    tmp_path: Path, write_model: WriteModel
) -> None:
    folder = write_model(tmp_path / "m", b"")
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["input"]["exponent"]
    path.write_text(json.dumps(content))
    assert read_manifest(folder).input.exponent == 1
    content["input"]["exponent"] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(Failed, match=r"input\.exponent"):
        read_manifest(folder)


def test_changed_weights_are_refused_before_torch_reads_them(bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch read them"))
    path = bundled / "default" / "model.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Failed, match=r"SHA-256 differs.*Restore"):
        load(bundled / "default")


def test_a_bundled_model_needs_no_consent_and_runs(bundled: Path) -> None:
    module = load(bundled / "default")
    assert not module.training
    assert module(torch.zeros(1, 4, 160, 160)).shape == (1, 1, 160, 160)


def test_consent_is_asked_once_for_each_hash_and_kept(tiny_model: Path, config_dir: Path) -> None:
    requests = []
    for _ in range(2):
        load(tiny_model, consent=lambda sha256, name: requests.append((sha256, name)) or True)
    assert requests == [(read_manifest(tiny_model).sha256, "tiny")]
    assert [path.name for path in config_dir.iterdir()] == ["trusted-models.json"]


@pytest.mark.parametrize("consent", [None, lambda sha256, name: False])
def test_without_consent_nothing_is_loaded_or_remembered(
    tiny_model: Path, config_dir: Path, consent: store.Consent | None
) -> None:
    with pytest.raises(ConsentNeeded, match="--trust-model") as caught:
        load(tiny_model, consent=consent)
    assert caught.value.sha256 == read_manifest(tiny_model).sha256
    assert not list(config_dir.iterdir())


def test_the_place_of_a_model_says_nothing_about_it(bundled: Path, tiny_model: Path, write_model: WriteModel) -> None:
    foreign = tiny_model.parent / "model_weights" / "default"
    write_model(foreign, (tiny_model / "model.pt").read_bytes() + b"x")
    write_model(bundled / "foreign", b"something else")
    (bundled / "linked").symlink_to(foreign)
    for folder in (foreign, bundled / "foreign", bundled / "linked"):
        assert not store.is_bundled(folder)
        with pytest.raises(ConsentNeeded):
            load(folder)
    elsewhere = shutil.copytree(bundled / "default", tiny_model.parent / "elsewhere")
    assert store.is_bundled(elsewhere)
    load(elsewhere)


def test_weights_that_are_no_torchscript_are_a_clear_failure(tmp_path: Path, write_model: WriteModel) -> None:
    folder = write_model(tmp_path / "m", b"not a zip archive")
    with pytest.raises(Failed, match="cannot be read by torch"):
        load(folder, consent=lambda *_: True)
    (folder / "model.pt").unlink()
    with pytest.raises(Failed, match="cannot be read"):
        load(folder)


def test_the_list_of_bundled_files_is_what_lies_in_model_weights() -> None:
    folder = Path(__file__).resolve().parents[3] / "model_weights"
    assert bundled_files.hashes(folder) == bundled_list.FILES and len(bundled_list.FILES) == 6
    assert all(store.is_bundled(model) and store.hash_matches(model) for model in folder.iterdir())


def test_the_list_is_written_by_its_command(bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundled.py"
    target.write_text('"""Opening."""\n\nFILES: dict[str, dict[str, str]] = {"old": {}}\n')
    monkeypatch.setattr(bundled_list, "__file__", str(target))
    assert bundled_files.main([str(bundled)]) == 0
    written: dict[str, Any] = {}
    exec(target.read_text(), written)
    sha256 = read_manifest(bundled / "default").sha256
    assert written["__doc__"] == "Opening."
    assert written["FILES"] == {"default": {"model.pt": sha256}, "other": {"model.pt": sha256}}
    with pytest.raises(Failed, match="no model in"):
        bundled_files.main([str(tmp_path / "empty")])


def test_the_question_says_that_a_model_can_run_code_and_write_files(tiny_model: Path) -> None:
    with pytest.raises(ConsentNeeded, match="can run code and write files") as caught:
        load(tiny_model)
    assert read_manifest(tiny_model).sha256 in caught.value.remedy


def test_a_model_for_another_task_is_refused_before_anybody_is_asked(tmp_path: Path, write_model: WriteModel) -> None:
    folder = write_model(tmp_path / "m", b"", task="spacing")
    with pytest.raises(
        Failed, match=r"made for 'spacing', not for synthesis\. Choose one for synthesis: default, paper"
    ):
        load(folder, consent=lambda *_: pytest.fail("consent was requested"))


def test_a_model_is_prepared_once_and_again_when_its_manifest_or_the_device_is_another(bundled: Path) -> None:
    prepared: list[Source] = []
    for device in ("cpu", "cpu", "meta"):
        store.load("default", "synthesis", prepared.append, device=device)
    assert [source.device for source in prepared] == ["cpu", "meta"]
    path = bundled / "default" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1.5}))
    store.load("default", "synthesis", prepared.append, device="meta")
    assert [source.manifest.version for source in prepared] == ["0", "0", "1.5"]


def test_a_consent_that_cannot_be_written_down_holds_for_this_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("USMRI_CONFIG_DIR", str(tmp_path / "file" / "folder"))
    load(tiny_model, consent=lambda *_: True)
    load(tiny_model)


def test_weights_to_go_on_from_need_consent_only_where_they_are_a_program(
    tiny_model: Path, tmp_path: Path, config_dir: Path
) -> None:
    alone = tmp_path / "start.pt"
    alone.write_bytes((tiny_model / "model.pt").read_bytes())
    for path in (tiny_model, tiny_model / "model.pt", alone):
        with pytest.raises(ConsentNeeded):
            store.state_of(path)
    state = store.state_of(alone, consent=lambda *_: True)
    assert "encoder_a.blocks.0.conv_1.weight" in state
    (tmp_path / "start.safetensors").write_bytes(plain_bytes(state))
    (config_dir / "trusted-models.json").unlink()
    plain = store.state_of(tmp_path / "start.safetensors")
    assert plain.keys() == state.keys() and all(torch.equal(value, plain[name]) for name, value in state.items())
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(Failed, match=r"bad\.safetensors cannot be read \(the header"):
        store.state_of(tmp_path / "bad.safetensors")


def test_files_that_contradict_the_hash_or_lie_elsewhere_are_malformed(tmp_path: Path, write_model: WriteModel) -> None:
    for name, files, fault in (
        ("a", {"model.pt": "0" * 64}, "contradicts sha256"),
        ("b", {"../weights.safetensors": "0" * 64}, "the model's own folder"),
        ("c", {"weights.safetensors": "0"}, "not a SHA-256"),
        ("d", {"weights.safetensors": 1}, "must be text"),
        ("e", [], "must be a table"),
    ):
        with pytest.raises(Failed, match=f"malformed: .*{fault}"):
            read_manifest(write_model(tmp_path / name, b"", files=files))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_model_in_a_folder_that_may_not_be_entered_is_no_model(tiny_model: Path) -> None:
    tiny_model.parent.chmod(0)
    try:
        with pytest.raises(Failed, match="There is no model"):
            store.find_model(tiny_model)
    finally:
        tiny_model.parent.chmod(0o755)
