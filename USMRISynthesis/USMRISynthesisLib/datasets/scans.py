"""A lab's own volumes in canonical space, as `training/lab/folders.py` prepared them: ultrasound without truth, and MR.

Both are .npz files named `SUBJECT-FILE.npz` after hashes of the subject and of the input file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from USMRISynthesisLib.datasets.cases import mark_fan, pixels, unpacked
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.ultrasound.intensity import robust_range

HELD_BACK = 5  # one subject in so many is never trained on
REMEDY = "Prepare the folders again with `usmri train --us DIR --mr DIR`."


@dataclass(frozen=True, eq=False)
class Scan:
    """One ultrasound volume whose MR nobody has; (K, H, W) uint8, the fan coded as in `Case`.

    low, high: its robust range. heads: (3, K) pixels of the head in each slice of each of the three planes.
    """

    name: str
    us: np.ndarray
    low: float
    high: float
    heads: np.ndarray


@dataclass(frozen=True, eq=False)
class MRVolume:
    """One T2 volume, (K, H, W) uint8, 0 outside the head. week: of the template that it is most like."""

    name: str
    week: int
    t2: np.ndarray


Named = TypeVar("Named", Scan, MRVolume)


def load_scans(folder: str | Path) -> list[Scan]:
    """The prepared ultrasound volumes of a folder, by name. Raises Refused for none, or for a bad one."""
    scans = []
    for path in _files(folder):
        facts, arrays = unpacked(path, "heads", _read_scan)
        scans.append(Scan(path.stem, arrays["us"], facts["low"], facts["high"], np.array(facts["heads"])))
    return scans


def load_mr(folder: str | Path) -> list[MRVolume]:
    """The prepared MR volumes of a folder, by name. Raises Refused for none, or for a bad one."""
    volumes = []
    for path in _files(folder):
        facts, arrays = unpacked(path, "week", _read_mr)
        volumes.append(MRVolume(path.stem, facts["week"], arrays["t2"]))
    return volumes


def held_back(volumes: Sequence[Named]) -> tuple[list[Named], list[Named]]:
    """Those to train on and those held back: one subject in five, all volumes of it, by hash; none of fewer than five.

    Which ones does not depend on the order of the files, and hardly on what is added later.
    """
    subjects = {volume.name.split("-")[0] for volume in volumes}
    ranked = sorted(subjects, key=lambda subject: hashlib.sha256(subject.encode()).hexdigest())
    apart = set(ranked[: len(ranked) // HELD_BACK])
    train = [volume for volume in volumes if volume.name.split("-")[0] not in apart]
    return train, [volume for volume in volumes if volume.name.split("-")[0] in apart]


def _files(folder: str | Path) -> list[Path]:
    paths = sorted(Path(folder).glob("*.npz"))
    if not paths:
        raise Refused("data", f"There are no prepared volumes in {folder}.", REMEDY)
    return paths


def _read_scan(content: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    us = mark_fan(content["us"], content["fan"])
    low, high = robust_range(us, us > 0)
    return {"low": low, "high": high, "heads": pixels(np.asarray(content["skull"]))}, {"us": us}


def _read_mr(content: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return {"week": int(content["week"])}, {"t2": np.asarray(content["t2"])}
