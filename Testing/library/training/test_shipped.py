"""The configurations and model cards of this repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from USMRISynthesisLib.training.alignment import export as alignment
from USMRISynthesisLib.training.content import export as content
from USMRISynthesisLib.training.outline import export as outline
from USMRISynthesisLib.training.reliability.export import described_card
from USMRISynthesisLib.training.run import read_run
from USMRISynthesisLib.training.spacing import export as spacing
from USMRISynthesisLib.training.synthesis import export as synthesis

REPOSITORY = Path(__file__).parents[3]
CONFIGS = REPOSITORY / "configs"
MODELS = {
    "default": synthesis,
    "paper": synthesis,
    "alignment": alignment,
    "content": content,
    "frames": outline,
    "spacing": spacing,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_starts_from_nothing_a_bundled_model_or_another_shipped_run(path: Path) -> None:
    if path.stem == "study":
        return  # methods over a base: test_study.py
    config = read_run(path)
    outputs = {read_run(other).output for other in CONFIGS.glob("*.toml") if other.stem != "study"}
    initial = getattr(config, "initial", "")
    assert initial in ("", "default") or Path(initial).parent.as_posix() in outputs


@pytest.mark.parametrize("name", ["default", "alignment"])
def test_bundled_weights_are_trained_from_nothing(name: str) -> None:
    assert not getattr(read_run(CONFIGS / f"{name}.toml"), "initial")  # noqa: B009


def test_no_command_reads_weights_out_of_old_commits() -> None:
    for path in (REPOSITORY / "Makefile", *CONFIGS.iterdir()):
        assert "git show" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_bundled_models_card_is_what_its_manifest_says(name: str) -> None:
    folder = REPOSITORY / "model_weights" / name
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    card = MODELS[name].card(manifest)
    if "support" in manifest:
        card = described_card(card, manifest["support"])
    assert (folder / "README.md").read_text(encoding="utf-8") == card
    if manifest["training"]["config"].get("initial"):  # one run did not make them
        assert "not reproducible by one command" in card
