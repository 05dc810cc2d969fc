"""The host, started once, and the fixtures of its tests: a clean scene, a small model, the panel."""
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

from host_slicer import start  # noqa: E402

HOST = start()

import slicer  # noqa: E402
from scenery import MODULE_FILE  # noqa: E402
from USMRISynthesisScene.process import WorkerProcess  # noqa: E402


@pytest.fixture(scope="session")
def host() -> Any:
    return HOST


@pytest.fixture(scope="session")
def module(host: Any) -> Any:
    """The real module file, loaded as Slicer loads it."""
    return host.load_module(MODULE_FILE)


@pytest.fixture(autouse=True)
def clean_scene() -> Iterator[None]:
    """Every test begins with an empty scene and leaves no child process and no file behind."""
    slicer.mrmlScene.Clear(False)
    yield
    slicer.mrmlScene.Clear(False)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights that the user has agreed to run."""
    import torch
    from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    torch.manual_seed(7)
    generator = Generator(GeneratorConfig(width=4, multipliers=(1, 2, 2), skips=(1,),
                                          reconstruction_skips=(1,), attention_level=1)).eval()
    torch.jit.script(generator).save(str(folder / "model.pt"))
    sha256 = hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({
        "name": "tiny", "task": "synthesis", "version": "0", "sha256": sha256,
        "input": {"size": 160, "spacing_mm": 0.6, "channels": 4, "neighbours": 1, "location": True,
                  "intensity": "robust percentiles in the fan to [-1, 1]"},
        "output": {"channels": 1, "range": [-1, 1]}, "training": "none: random weights", "figures": {},
        "limits": ["for tests"], "synthetic": True}))
    config = tmp_path_factory.mktemp("config")
    (config / "trusted-models.json").write_text(json.dumps({sha256: "tiny"}))
    os.environ["USMRI_CONFIG_DIR"] = str(config)   # the worker inherits it
    return folder


@pytest.fixture
def panel(host: Any, module: Any) -> Iterator[Any]:
    """The opened module panel; closed again, with whatever still runs in it."""
    widget = host.open_module(module)
    widget.parent.resize(420, 600)
    widget.parent.show()
    yield widget
    widget.cleanup()
    widget.parent.close()
    HOST.app.processEvents()


@pytest.fixture
def ui(panel: Any) -> Any:
    """The panel's widgets, with the scripted worker behind them; the model's name is the part it plays."""
    panel.logic.synthesizer._worker = WorkerProcess(
        sys.executable, [str(Path(__file__).with_name("scripted_worker.py"))])
    return panel.ui
