"""Slice spacing learnt from one stack alone, for as long as somebody is ready to wait: what the public peers do.

    usmri evaluate spacing --alone 28

Both stages of `spacing_loop` on the very slices that are to be made thinner; nothing of the shipped weights.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing.inference import super_resolve
from USMRISynthesisLib.spacing.network import SuperResolution
from USMRISynthesisLib.training.common import checkpoint as checkpoints
from USMRISynthesisLib.training.spacing.config import TASK, spacing_configuration_from
from USMRISynthesisLib.training.spacing.loop import train_spacing

NAME = "ours, trained on the case alone"


def alone(thick: np.ndarray, factor: int, voxel_mm: float, minutes: float) -> np.ndarray:
    """Thick slices (n, h, w) -> fine ones (n * factor, h, w) by networks that saw these slices only, on one thread.

    Raises Refused where the stack is none to learn from, Failed where the loss is no number any more.
    """
    with tempfile.TemporaryDirectory(prefix="usmri-alone-") as name:
        folder = Path(name)
        matrix = np.diag([voxel_mm, voxel_mm, voxel_mm * factor, 1.0])
        Volume(thick.astype(np.float32), matrix, {"Modality": "MR"}).write(folder / "thick.nrrd")
        (folder / "alone.toml").write_text(
            f'task = "{TASK}"\noutput = {json.dumps(str(folder / "run"))}\nthreads = 1\n'
            f"[data]\nvolumes = [{json.dumps(str(folder / 'thick.nrrd'))}]\n",
            encoding="utf-8",
        )
        content = checkpoints.load(train_spacing(folder / "alone.toml", minutes=minutes, report=lambda text: None))
    network = SuperResolution(spacing_configuration_from(content["config"]).width)
    network.load_state_dict(content["averaged"]["super_resolution"])
    return super_resolve(network.eval(), thick, len(thick) * factor)
