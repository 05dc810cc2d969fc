"""Slice spacing learnt from one stack alone, for a given time, as other public methods do.

`usmri evaluate spacing` can compare with it. Both stages of `training.spacing.loop` on the very slices that are to be
made thinner; nothing of the bundled weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing.inference import super_resolve
from USMRISynthesisLib.spacing.network import SuperResolution
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.run import train
from USMRISynthesisLib.training.spacing.config import SpacingConfig, SpacingDataConfig

NAME = "ours, trained on the case alone"


def train_and_super_resolve(thick: np.ndarray, factor: int, voxel_mm: float, minutes: float) -> np.ndarray:
    """Thick slices (n, h, w) -> fine ones (n * factor, h, w) by networks that saw these slices only, on one thread.

    Raises Refused where the stack is none to learn from, Failed where the loss is no number any more.
    """
    with tempfile.TemporaryDirectory(prefix="usmri-alone-") as name:
        folder = Path(name)
        matrix = np.diag([voxel_mm, voxel_mm, voxel_mm * factor, 1.0])
        Volume(thick.astype(np.float32), matrix, {"Modality": "MR"}).write(folder / "thick.nrrd")
        config = SpacingConfig(
            output=str(folder / "run"), data=SpacingDataConfig(volumes=(str(folder / "thick.nrrd"),)), threads=1
        )
        content = checkpoint.load(train(config, minutes=minutes, report=lambda text: None))
    network = SuperResolution(config.width)
    network.load_state_dict(content["averaged"]["super_resolution"])
    return super_resolve(network.eval(), thick, len(thick) * factor)
