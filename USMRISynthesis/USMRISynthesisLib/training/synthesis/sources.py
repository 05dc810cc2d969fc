"""All that a run of the synthesis learns from and is measured on, from the folders that the configuration names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from USMRISynthesisLib.datasets.cases import Case, Frames, joined, load_cases, load_frames
from USMRISynthesisLib.datasets.scans import MRVolume, Scan, held_back, load_mr, load_scans
from USMRISynthesisLib.training.synthesis.config import DataConfig

WITHOUT_PAIRS = (
    "Warning: there are no simulated pairs (data.folder). Unpaired training alone learns what MR looks like and "
    "invents the inside of the head: see docs/training.md."
)


@dataclass(frozen=True, eq=False)
class Sources:
    """training, validation: simulated heads. mr: where unpaired MR is drawn from; empty for the training heads' own.
    scans: real volumes without truth. held_scans, held_mr: subjects that are not trained on. seen, shown: real frames
    to train on and not. marked: those to train on with their marks.
    """

    training: list[Case]
    validation: list[Case]
    mr: list[Case] | list[MRVolume]
    scans: list[Scan]
    held_scans: list[Scan]
    held_mr: list[MRVolume]
    seen: Frames | None
    shown: Frames | None
    marked: Frames | None

    @property
    def names(self) -> list[str]:
        """Of all volumes that are trained on, as a checkpoint keeps them."""
        return [volume.name for volume in (*self.training, *self.mr, *self.scans)]

    def __str__(self) -> str:
        text = f"{len(self.training)} training and {len(self.validation)} validation cases"
        if self.scans:
            text += f", {len(self.scans)} real ultrasound volumes ({len(self.held_scans)} held back)"
        text += f", {len(self.mr or self.training)} for unpaired MR"
        return text + (f" ({len(self.held_mr)} held back)" if self.held_mr else "")


def load_sources(data: DataConfig) -> Sources:
    """Read them. Raises Refused for a folder without cases, or a damaged case."""
    folders = (data.folder, *data.also) if data.folder else data.also
    training = [case for folder in folders for case in load_cases(Path(folder) / "train")]
    validation = load_cases(Path(data.folder) / "val") if data.folder else []
    scans, held_scans = held_back(load_scans(data.scans)) if data.scans else ([], [])
    held_mr: list[MRVolume] = []
    mr: list[Case] | list[MRVolume]
    if data.mr:
        mr, held_mr = held_back(load_mr(data.mr))
    else:
        folder = Path(data.folder) / "mr"
        mr = load_cases(folder) if folder.is_dir() else []
    return Sources(
        training, validation, mr, scans, held_scans, held_mr,
        joined([load_frames(path, "train") for path in (data.frames, *data.also_frames)]) if data.frames else None,
        load_frames(data.frames, "val") if data.frames else None,
        load_frames(data.marked_frames, "train") if data.marked_frames else None,
    )  # fmt: skip
