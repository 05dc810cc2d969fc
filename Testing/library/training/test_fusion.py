"""The fusion's training: it learns what the median gets wrong, and is exported beside the weights it belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.planes import PLANES
from USMRISynthesisLib.models import store
from USMRISynthesisLib.synthesis.fusion import FusionNetwork
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.fusion import data, loop
from USMRISynthesisLib.training.fusion.config import FusionConfig
from USMRISynthesisLib.training.fusion.export import add_fusion
from USMRISynthesisLib.training.run import CONFIGURATIONS, train

SIZE = 40
SHA = hashlib.sha256(b"weights").hexdigest()


def stored_head(seed: int) -> dict[str, np.ndarray]:
    """What `run_head` would make: an axial plane with little noise, two others with much."""
    rng = np.random.default_rng(seed)
    k, j, i = np.indices((SIZE, SIZE, SIZE)) - (SIZE - 1) / 2
    inside = k**2 + j**2 + i**2 < 15**2
    truth = np.where(inside, 0.3 + 0.4 * np.sin(i / 3 + seed), -1)
    noise = dict(zip(PLANES, (0.05, 0.5, 0.5), strict=True))
    made = {plane: np.where(inside, truth + rng.normal(0, noise[plane], truth.shape), -1) for plane in PLANES}
    return {name: data._bytes(values.clip(-1, 1)) for name, values in {**made, "us": truth, "truth": truth}.items()} | {
        "inside": inside
    }


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    for split, seeds in (("learn", (0, 1)), ("held", (2,))):
        (tmp_path / "sim" / split).mkdir(parents=True)
        for seed in seeds:
            np.savez(tmp_path / "sim" / split / f"head-{seed}.npz")  # the generator is not run: its output is kept
            kept = tmp_path / "run" / f"planes-{data.LABELS}-{SHA[:16]}"
            kept.mkdir(parents=True, exist_ok=True)
            np.savez(kept / f"sim-{split}-head-{seed}.npz", **stored_head(seed))
    return tmp_path


@pytest.fixture
def config(cases: Path, monkeypatch: pytest.MonkeyPatch) -> FusionConfig:
    form = SimpleNamespace(planes=PLANES, exponent=1.0)
    generator = SimpleNamespace(manifest=SimpleNamespace(sha256=SHA, input=form))
    monkeypatch.setattr(loop, "load_generator", lambda *_: generator)
    return FusionConfig(
        output=str(cases / "run"), learn=(str(cases / "sim" / "learn"),), hold_out=(str(cases / "sim" / "held"),),
        steps=100, batch=2, size=20, precision="fp32", ema=0.9, rate=1e-2,
    )  # fmt: skip


def test_it_learns_which_plane_to_go_by(config: FusionConfig) -> None:
    content = checkpoint.load(train(config, report=str))
    figures = content["figures"]
    assert figures["difference"] < 0.75 * figures["median_difference"]
    assert figures["ncc"] > figures["median_ncc"]
    assert content["cases"] == ["head-0", "head-1"] and content["model_sha256"] == SHA


def test_a_run_goes_on_where_it_stopped_and_not_for_other_weights(
    config: FusionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = checkpoint.load(train(dataclasses.replace(config, steps=6), report=str))["averaged"]
    Path(config.output, "checkpoint.pt").unlink()
    first = dataclasses.replace(config, steps=6)
    polls = iter([False, False, True])
    with pytest.raises(Exception, match="stopped at step 3"):
        train(first, report=str, cancel=lambda: next(polls))
    again = checkpoint.load(train(first, report=str))["averaged"]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    other = SimpleNamespace(manifest=SimpleNamespace(sha256="0" * 64, input=SimpleNamespace(planes=PLANES)))
    monkeypatch.setattr(loop, "load_generator", lambda *_: other)
    with pytest.raises(Refused, match="belongs to other weights"):
        train(first, report=str)


def test_a_generator_of_one_plane_is_refused(config: FusionConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    one = SimpleNamespace(manifest=SimpleNamespace(sha256=SHA, input=SimpleNamespace(planes=("axial",))))
    monkeypatch.setattr(loop, "load_generator", lambda *_: one)
    with pytest.raises(Refused, match="needs a model of three planes"):
        train(config, report=str)


def test_edges_count_beside_the_grey() -> None:
    truth = torch.zeros(1, 1, 20, 20, 20)
    channels = torch.ones(1, 6, 20, 20, 20)
    batch = data.FusionBatch(channels, truth, torch.ones_like(truth))
    even = loop.losses(truth + 0.1, batch)
    assert even["grey"] == pytest.approx(0.01) and even["edge"] == pytest.approx(0, abs=1e-6)
    stripes = truth + 0.1 * (torch.arange(20) % 2 * 2 - 1).view(1, 1, 20, 1, 1)
    striped = loop.losses(stripes, batch)
    assert striped["grey"] == pytest.approx(0.01) and striped["edge"] == pytest.approx(0.04 / 3, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"learn": ()}, "learn and hold_out"), ({"size": 8}, "size"), ({"edge": -1.0}, "edge"), ({"batch": 0}, "batch")],
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FusionConfig(**{"output": "x", "learn": ("a",), "hold_out": ("b",), "steps": 1, **wrong})  # type: ignore[arg-type]


def content_for(sha256: str) -> dict[str, object]:
    torch.manual_seed(0)
    network = FusionNetwork(4)
    torch.nn.init.normal_(network.layers[-1].weight)
    config = FusionConfig(output="x", learn=("sim/a",), hold_out=("sim/b",), width=4)
    return {"task": "fusion", "config": config.to_json(), "step": 9, "cases": ["a"], "model_sha256": sha256,
            "figures": {"ncc": 0.5}, "averaged": network.state_dict()}  # fmt: skip


def three_planes(folder: Path, write_model: Callable[..., Path], **changes: object) -> Path:
    form = {"size": 160, "spacing_mm": 0.6, "channels": 5, "neighbours": 1, "location": True, "planes": PLANES}
    return write_model(folder, b"weights", input=form, **changes)


def test_an_export_is_named_in_manifest_and_card_and_read_back(
    tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    folder = three_planes(tmp_path / "m", write_model, support={"file": "support.pt", "sha256": SHA})
    (folder / "README.md").write_text("# m\n\n## Fusion of the planes\n\nold\n\nSHA-256 of `model.pt`: `x`\n")
    content = content_for(SHA)
    add_fusion(content, folder)
    manifest = store.read_manifest(folder)
    assert manifest.extra["fusion"]["figures"] == {"ncc": 0.5} and "support" not in manifest.extra
    stored = store.fusion_bytes(folder, manifest, consent=lambda sha256, name: True)
    source = store.Source("m", manifest, "plain", "cpu", stored or b"")
    state = source.network(lambda: FusionNetwork(4)).state_dict()
    assert all(torch.equal(value, content["averaged"][name]) for name, value in state.items())  # type: ignore[index]
    card = (folder / "README.md").read_text()
    assert card.count("## Fusion of the planes") == 1 and "old" not in card and card.endswith("`model.pt`: `x`\n")


def test_a_fusion_for_other_weights_is_not_exported(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    folder = three_planes(tmp_path / "m", write_model)
    with pytest.raises(Refused, match="trained for other weights"):
        add_fusion(content_for("0" * 64), folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"version": 99}, "another version"), ({"file": "other.bin"}, "does not name fusion.safetensors")],
)
def test_a_fusion_of_another_kind_is_not_loaded(
    tmp_path: Path, write_model: Callable[..., Path], change: dict[str, object], said: str
) -> None:
    folder = three_planes(tmp_path / "m", write_model)
    add_fusion(content_for(SHA), folder)
    written = json.loads((folder / "manifest.json").read_text())
    written["fusion"] |= change
    (folder / "manifest.json").write_text(json.dumps(written))
    with pytest.raises(Failed, match=said):
        store.fusion_bytes(folder, store.read_manifest(folder), consent=lambda sha256, name: True)


def test_a_changed_file_is_not_loaded_and_a_strangers_needs_consent(
    tmp_path: Path, write_model: Callable[..., Path]
) -> None:
    folder = three_planes(tmp_path / "m", write_model)
    add_fusion(content_for(SHA), folder)
    manifest = store.read_manifest(folder)
    with pytest.raises(store.ConsentNeeded):
        store.fusion_bytes(folder, manifest)
    file = folder / store.FUSION
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(Failed, match="SHA-256 differs"):
        store.fusion_bytes(folder, manifest, consent=lambda sha256, name: True)


def test_the_shipped_configuration_is_one() -> None:
    from USMRISynthesisLib.training.run import read_run

    assert isinstance(read_run(Path(__file__).parents[3] / "configs" / "fusion.toml"), FusionConfig)
    assert CONFIGURATIONS["fusion"] is FusionConfig
