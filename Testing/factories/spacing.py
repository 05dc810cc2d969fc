"""What the tests of slice spacing share: stacks of something smooth on any grid, and models with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing.network import SliceVAE, SpacingNetworks, SuperResolution
from USMRISynthesisLib.training.common.export import export_checkpoint
from USMRISynthesisLib.training.spacing.config import SpacingConfig, SpacingDataConfig
from USMRISynthesisLib.training.spacing.export import export_spacing


def smooth(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """(k, j, i) float32 in about 100-900: a few waves, the same for the same seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros(shape, np.float32)
    for _ in range(5):
        waves = [np.sin(np.linspace(0, rng.uniform(1, 7), n) + rng.uniform(0, 6)) for n in shape]
        total += (waves[0][:, None, None] * waves[1][None, :, None] * waves[2][None, None, :]).astype(np.float32)
    return 500 + 350 * total / np.abs(total).max()


def oblique(spacing: tuple[float, float, float], *, left_handed: bool = False) -> np.ndarray:
    """ijk_to_ras (4, 4): turned about two axes, mirrored where left_handed, with these voxel sides along i, j, k."""
    a, b = np.deg2rad((25, -40))
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    if left_handed:
        turn = turn @ np.diag([1, -1, 1])
    matrix = np.eye(4)
    matrix[:3, :3] = turn * spacing
    matrix[:3, 3] = (13, -55, 21)
    return matrix


def stack(
    thick: int = 9,
    pixels: tuple[int, int] = (24, 20),
    *,
    axis: int = 0,
    side: float = 3.3,
    dtype: type = np.int16,
    left_handed: bool = False,
) -> Volume:
    """Thick slices along one of the array's axes, oblique and anisotropic."""
    shape = np.insert(np.array(pixels), axis, thick)
    sides = np.insert(np.array((1.2, 1.0)), axis, side)  # along k, j, i
    array = smooth((int(shape[0]), int(shape[1]), int(shape[2]))).astype(dtype)
    return Volume(array, oblique((sides[2], sides[1], sides[0]), left_handed=left_handed))


def spacing_model(folder: Path, config_dir: Path, seed: int = 3) -> Path:
    """A model folder with random weights of small networks, with consent on file."""
    torch.manual_seed(seed)
    networks = SpacingNetworks(SliceVAE(4, 4), SuperResolution(4))
    config = SpacingConfig(output="unused", data=SpacingDataConfig(volumes=("unused",)), width=4, vae_width=4, latent=4)
    export_checkpoint(
        {
            "task": "spacing",
            "config": config.to_json(),
            "step": 0,
            "cases": [],
            "averaged": {"vae": networks.vae.state_dict(), "super_resolution": networks.super_resolution.state_dict()},
        },
        folder,
        export_spacing,
        name="tiny spacing",
    )
    hashes = json.loads((folder / "manifest.json").read_text())["files"].values()
    (config_dir / "trusted-models.json").write_text(json.dumps(dict.fromkeys(hashes, "tiny spacing")))
    return folder
