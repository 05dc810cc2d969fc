"""The stand-in for Slicer, started once, and the fixtures: a clean scene, small models, the panel."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The worker inherits it. Two threads that wait for each other on a busy machine take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "Testing"))
sys.path.insert(0, str(REPOSITORY / "USMRISynthesis"))

from slicer_standin import start  # noqa: E402

HOST = start()

import slicer  # noqa: E402
from scenery import MODULE_FILE, remember_bystanders  # noqa: E402
from USMRISynthesisScene.runs.worker_process import WorkerProcess  # noqa: E402


@pytest.fixture(scope="session")
def host() -> Any:
    return HOST


@pytest.fixture(scope="session")
def module(host: Any) -> Any:
    """The real module file, loaded as Slicer loads it."""
    return host.load_module(MODULE_FILE)


@pytest.fixture(autouse=True)
def clean_scene() -> Iterator[None]:
    """Every test starts with an empty scene and must leave no child process and no file."""
    slicer.mrmlScene.Clear(False)
    remember_bystanders()
    yield
    slicer.mrmlScene.Clear(False)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders with random weights that may run: one for axial slices, one for all three planes."""
    from USMRISynthesisLib.geometry.planes import PLANES

    top, config = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("config")
    folders = {"tiny": top / "tiny", "three": top / "three"}
    hashes = {_make_model(folders["tiny"], PLANES[:1]): "tiny", _make_model(folders["three"], PLANES): "three"}
    (config / "trusted-models.json").write_text(json.dumps(hashes))
    os.environ["USMRI_CONFIG_DIR"] = str(config)  # the worker inherits it
    return folders


@pytest.fixture(scope="session")
def model(models: dict[str, Path]) -> Path:
    """A small model of axial slices."""
    return models["tiny"]


@pytest.fixture(scope="session")
def three_planes(models: dict[str, Path]) -> Path:
    """A small model for axial, coronal and sagittal slices."""
    return models["three"]


def _make_model(folder: Path, planes: tuple[str, ...]) -> str:
    """Its SHA-256."""
    import torch
    from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig

    folder.mkdir()
    torch.manual_seed(7)
    config = GeneratorConfig(
        width=4, multipliers=(1, 2, 2), skips=(1,), reconstruction_skips=(1,), attention_level=1, planes=planes
    )
    torch.jit.script(Generator(config).eval()).save(str(folder / "model.pt"))
    sha256 = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "name": folder.name,
                "task": "synthesis",
                "version": "0",
                "sha256": sha256,
                "input": {
                    "size": 160,
                    "spacing_mm": 0.6,
                    "channels": config.in_channels,
                    "neighbours": 1,
                    "location": True,
                    "planes": planes,
                    "intensity": "robust percentiles in the fan to [-1, 1]",
                },
                "output": {"channels": 1, "range": [-1, 1]},
                "training": "none: random weights",
                "figures": {},
                "limits": ["for tests"],
                "synthetic": True,
            }
        )
    )
    return sha256


@pytest.fixture
def panel(host: Any, module: Any) -> Iterator[Any]:
    """The opened module panel; it is closed after the test, with its runs."""
    widget = host.open_module(module)
    widget.parent.resize(420, 600)
    widget.parent.show()
    yield widget
    host.close_module(module)
    HOST.app.processEvents()


@pytest.fixture
def ui(panel: Any) -> Any:
    """The panel's widgets, with the scripted worker; the model's name selects the worker's behaviour."""
    panel.logic.synthesizer._worker = WorkerProcess(
        sys.executable, [str(Path(__file__).with_name("scripted_worker.py"))]
    )
    return panel.ui
