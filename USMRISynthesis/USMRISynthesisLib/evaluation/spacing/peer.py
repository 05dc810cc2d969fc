"""A public peer, ECLARE (Remedios et al.), run as the separate program that it is, on the same thick slices.

pip install eclare        # into an environment of its own: it pins other versions than ours
usmri evaluate spacing --baseline-command VENV/bin/run-eclare
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.io.volume import Volume


@dataclass(frozen=True)
class Peer:
    """command: the program and what comes before its options. patches: that it trains on."""

    command: Sequence[str]
    patches: int

    def __post_init__(self) -> None:
        if self.patches < 1:
            raise Refused("peer", "The peer needs at least one patch.", "Correct --baseline-patches.")

    @property
    def name(self) -> str:
        return f"ECLARE, {self.patches} patches"

    def __call__(self, thick: np.ndarray, factor: int, voxel_mm: float) -> np.ndarray:
        """Thick slices (n, h, w) -> fine ones (n * factor, h, w), with the same slice profile. Raises Failed."""
        with tempfile.TemporaryDirectory(prefix="usmri-peer-") as name:
            folder = Path(name)
            matrix = np.diag([voxel_mm, voxel_mm, voxel_mm * factor, 1.0])
            Volume(thick.astype(np.float32), matrix).write(folder / "thick.nii.gz")
            words = [
                *self.command,
                "--in-fpath",
                str(folder / "thick.nii.gz"),
                "--out-dir",
                str(folder / "out"),
                "--relative-slice-thickness",
                str(factor),
                "--n-patches",
                str(self.patches),
            ]
            try:
                done = subprocess.run(words, capture_output=True, text=True, check=False)
            except OSError as error:
                raise Failed(
                    "peer", f"The peer cannot be started ({error.strerror}).", "Check --baseline-command."
                ) from error
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no words"])[-1]
                raise Failed(
                    "peer", f"The peer ended with exit code {done.returncode}: {last}.", "Check --baseline-command."
                )
            fine = Volume.read(folder / "out" / "thick_eclare.nii.gz").array
        if fine.shape != (len(thick) * factor, *thick.shape[1:]):
            raise Failed("peer", f"The peer's result has the shape {fine.shape}.", "Check --baseline-command.")
        return np.asarray(fine, np.float32)
