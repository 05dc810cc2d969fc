"""An outline that is kept beside a new face's network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.models import safetensors, store
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.outline import combine
from USMRISynthesisLib.training.outline.export import build_networks, export_outline


@pytest.fixture
def content() -> dict:
    torch.manual_seed(3)
    averaged = {name: network.state_dict() for name, network in build_networks().items()}
    return {"averaged": averaged, "trust": {"bias": 0.0}, "figures": {"dice_mean": 0.5, "real_face_right_share": 1.0}}


@pytest.fixture
def bundled() -> Path:
    return store.find_model("frames")


def test_the_outline_is_the_models_and_the_face_the_checkpoints(content, bundled, tmp_path):
    checkpoint.save(tmp_path / "new.pt", content)
    combine.main([str(bundled), str(tmp_path / "new.pt"), str(tmp_path / "out.pt")])
    out = checkpoint.load(tmp_path / "out.pt")
    kept = safetensors.read((bundled / "weights.safetensors").read_bytes())
    assert out["averaged"]["outline"].keys() == content["averaged"]["outline"].keys()
    for name, value in out["averaged"]["outline"].items():
        assert torch.equal(value, torch.from_numpy(kept[f"outline.{name}"].copy()).float()), name
    for name, value in out["averaged"]["face"].items():
        assert torch.equal(value, content["averaged"]["face"][name]), name


def test_confidence_and_figures_of_the_outline_come_with_it(content, bundled):
    manifest = json.loads((bundled / "manifest.json").read_text())
    out = combine.combined(bundled, content)
    assert out["trust"] == manifest["trust"]
    assert out["figures"]["dice_mean"] == manifest["figures"]["dice_mean"]
    assert out["figures"]["real_face_right_share"] == 1.0


def test_an_export_says_where_its_outline_came_from(content, bundled):
    manifest = json.loads((bundled / "manifest.json").read_text())
    exported = export_outline(combine.combined(bundled, content))
    assert exported.training["outline_from"]["sha256"] == manifest["sha256"]
    card = exported.card(manifest | {"training": manifest["training"] | dict(exported.training)})
    assert f"`{manifest['sha256']}`" in card
    assert "the face's network is new" in card


@pytest.mark.parametrize("change", ["task", "shape"])
def test_a_model_without_such_an_outline_is_refused(content, bundled, tmp_path, change):
    folder = tmp_path / "model"
    shutil.copytree(bundled, folder)
    if change == "task":
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"task": "content"}))
    else:
        content["averaged"]["outline"] = {"other": torch.zeros(2)}
    with pytest.raises(Refused, match=r"holds no head outline of this shape.*task frames"):
        combine.combined(folder, content)
