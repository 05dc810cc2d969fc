"""Model folders: found by name or path, refused when malformed, changed or not trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.store import ConsentNeeded, find_model, load, read_manifest

WriteModel = Callable[..., Path]


@pytest.fixture
def bundled(tmp_path: Path, tiny_model_file: Path, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled folder with the models `default` and `other`."""
    for name in ("default", "other"):
        write_model(tmp_path / "bundled" / name, tiny_model_file.read_bytes(), name=name)
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
    import torch

    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch read them"))
    path = bundled / "default" / "model.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Failed, match=r"SHA-256 differs.*Restore"):
        load(bundled / "default", "cpu")


def test_a_bundled_model_needs_no_consent_and_runs(bundled: Path) -> None:
    import torch

    module = load(bundled / "default", "cpu")
    assert not module.training
    assert module(torch.zeros(1, 4, 160, 160)).shape == (1, 1, 160, 160)


def test_consent_is_asked_once_for_each_hash_and_kept(tiny_model: Path, config_dir: Path) -> None:
    asked = []
    for _ in range(2):
        load(tiny_model, "cpu", consent=lambda sha256, name: asked.append((sha256, name)) or True)
    assert asked == [(read_manifest(tiny_model).sha256, "tiny")]
    assert [path.name for path in config_dir.iterdir()] == ["trusted-models.json"]


@pytest.mark.parametrize("consent", [None, lambda sha256, name: False])
def test_without_consent_nothing_is_loaded_or_remembered(
    tiny_model: Path, config_dir: Path, consent: store.Consent | None
) -> None:
    with pytest.raises(ConsentNeeded, match="--trust-model") as caught:
        load(tiny_model, "cpu", consent=consent)
    assert caught.value.sha256 == read_manifest(tiny_model).sha256
    assert not list(config_dir.iterdir())


def test_a_link_in_the_bundled_folder_does_not_make_a_model_bundled(bundled: Path, tiny_model: Path) -> None:
    (bundled / "linked").symlink_to(tiny_model)
    with pytest.raises(ConsentNeeded):
        load(bundled / "linked", "cpu")


def test_weights_that_are_no_torchscript_are_a_clear_failure(tmp_path: Path, write_model: WriteModel) -> None:
    folder = write_model(tmp_path / "m", b"not a zip archive")
    with pytest.raises(Failed, match="cannot be read by torch"):
        load(folder, "cpu", consent=lambda *_: True)
    (folder / "model.pt").unlink()
    with pytest.raises(Failed, match="cannot be read"):
        load(folder, "cpu")
