"""What the library's tests share: a tiny model with random weights, and a head that a gate lets through."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import consent

# The half-angle of a fan that cuts both sides of the head, as a tangent.
NARROW = 0.22
# Threads that wait must not spin: on a busy machine that costs ten times the work. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def config_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder of the test's own: no test knows the user's or another's consent."""
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setattr(consent, "_session", set())
    monkeypatch.setenv("USMRI_CONFIG_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of width 4 with random weights as TorchScript, written once a session."""
    import torch
    from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig

    torch.manual_seed(7)
    generator = Generator(
        GeneratorConfig(width=4, multipliers=(1, 2, 2), skips=(1,), reconstruction_skips=(1,), attention_level=1)
    ).eval()
    with torch.no_grad():  # zero-initialised: the attention would do nothing
        for parameter in generator.attention.parameters():
            parameter.normal_(std=0.5)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    with warnings.catch_warnings(), torch.no_grad():  # as training.export does it
        warnings.simplefilter("ignore")
        torch.jit.trace(generator, torch.zeros(2, 4, 160, 160), check_trace=False).save(str(path))
    return path


@pytest.fixture
def tiny_model(tmp_path: Path, tiny_model_file: Path) -> Path:
    """A model folder that nobody has agreed to yet."""
    return _write_model(tmp_path / "models" / "tiny", tiny_model_file.read_bytes())


@pytest.fixture
def write_model() -> Callable[..., Path]:
    """`write_model(folder, weights, **changes)`: a model folder of the test's own making."""
    return _write_model


@pytest.fixture
def trusted_model(tiny_model: Path, config_dir: Path) -> Path:
    """The tiny model with the user's consent already on file, for child processes too."""
    manifest = json.loads((tiny_model / "manifest.json").read_text())
    (config_dir / "trusted-models.json").write_text(json.dumps({manifest["sha256"]: manifest["name"]}))
    return tiny_model


def _write_model(folder: Path, weights: bytes, **changes: object) -> Path:
    """A model folder with these bytes as its weights, and a manifest that fits them except for `changes`."""
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(weights)
    manifest = {
        "name": "tiny",
        "task": "synthesis",
        "version": "0",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "input": {
            "size": 160,
            "spacing_mm": 0.6,
            "channels": 4,
            "neighbours": 1,
            "location": True,
            "intensity": "robust percentiles in the fan to [-1, 1]",
            "exponent": 1.0,
        },
        "output": {"channels": 1, "range": [-1, 1]},
        "training": "none: random weights",
        "figures": {},
        "limits": ["for tests"],
        "synthetic": True,
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def head() -> Volume:
    """A 3D ultrasound-like head: bright skull, speckled brain, dark ventricles, a cone-shaped fan; 1.6 mm."""
    return _head(0.55)[0]


@pytest.fixture(scope="session")
def wide_head() -> Volume:
    """The same head in a narrower fan, whose sides cut it: the head reaches beyond what the probe saw."""
    return _head(NARROW)[0]


@pytest.fixture(scope="session")
def wide_head_fan() -> np.ndarray:
    """(k, j, i) bool: the true fan of `wide_head`."""
    return _head(NARROW)[1]


def _head(opening: float) -> tuple[Volume, np.ndarray]:
    """A head, and the fan that it is seen in; opening: the tangent of half the fan's angle."""
    rng = np.random.default_rng(3)
    shape, spacing = (64, 72, 72), 1.6
    k, j, i = (
        np.arange(n)[tuple(slice(None) if a == b else None for b in range(3))] - (n - 1) / 2
        for a, n in enumerate(shape)
    )
    x, y, z = i * spacing, j * spacing, k * spacing
    radius = np.sqrt((x / 34) ** 2 + (y / 44) ** 2 + (z / 33) ** 2)
    image = 70 * rng.rayleigh(0.8, shape)
    image = np.where(radius < 0.96, image, 25 * rng.rayleigh(0.8, shape))
    image[(radius > 0.93) & (radius < 1.03)] = 235
    for side in (-1, 1):
        image[((x - side * 9) / 4) ** 2 + ((y + 4) / 14) ** 2 + (z / 6) ** 2 < 1] = 6
    fan = (np.hypot(x, z) < opening * (y + 120)) & (np.sqrt(x**2 + z**2 + (y + 120) ** 2) < 172)
    array = np.where(fan, np.clip(image, 4, 255), 0).astype(np.uint8)
    matrix = np.diag([spacing, spacing, spacing, 1.0])
    matrix[:3, 3] = -spacing * (np.array(shape[::-1]) - 1) / 2 + (12, -7, 30)
    return Volume(array, matrix), fan


@pytest.fixture(scope="session")
def frame(head: Volume) -> Volume:
    """The head's middle slice as a 2D frame."""
    matrix = head.ijk_to_ras.copy()
    matrix[:3, 3] += matrix[:3, 2] * 32
    return Volume(head.array[32:33], matrix)
