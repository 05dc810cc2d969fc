"""What the alignment networks learn from: simulated heads in every pose, cut, dimmed and made noisy on the fly.

A case is kept as four 8-bit channels on the wide grid (simulation/scanner/wide.py): ultrasound, fan, skull distance,
brain.
Each sample is one `grid_sample` of them through a random similarity, so that the truth moves with the image exactly.
Cases made before the wide grid existed are put on it as far as their canonical box reaches.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras, resample
from USMRISynthesisLib.simulation.anatomy import labels
from USMRISynthesisLib.simulation.anatomy.warp import rotation_matrix
from USMRISynthesisLib.simulation.scanner.wide import SIZE, SPACING_MM, wide_ijk_to_canonical
from USMRISynthesisLib.ultrasound.intensity import robust_range

US, FAN, DISTANCE, BRAIN = range(4)
CHANNELS = 4
# The skull distance as 8 bits: 128 + 5 a mm, so that it saturates 25 mm from the skull.
_DISTANCE_ZERO, _DISTANCE_STEP = 128.0, 5.0
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Head:
    """One simulated head.

    channels: (4, 96, 96, 96) uint8 on the wide grid. pose: (4, 4), the case's canonical mm to anatomical mm - the
    simulator turns each head a little within the canonical box, and the network must not learn that as noise.
    eyes: (2, 3) left and right, anatomical mm. low, high: the robust range of the ultrasound.
    """

    name: str
    week: int
    view: str
    channels: np.ndarray
    pose: np.ndarray
    eyes: np.ndarray
    low: float
    high: float

    @cached_property
    def coarse(self) -> np.ndarray:
        """The channels at half the resolution (4, 48, 48, 48), uint8."""
        blocks = self.channels.reshape(CHANNELS, SIZE // 2, 2, SIZE // 2, 2, SIZE // 2, 2)
        return np.asarray(np.rint(blocks.mean(axis=(2, 4, 6), dtype=np.float32)).astype(np.uint8))

    def unit_from_anatomy(self) -> np.ndarray:
        """(4, 4): anatomical mm to the wide grid's own coordinates, -1 and 1 at its faces."""
        to_unit = np.diag([2 / (SIZE * SPACING_MM)] * 3 + [1.0])
        return np.asarray(to_unit @ np.linalg.inv(self.pose))


def load_heads(folder: Path, cache: Path | None = None) -> list[Head]:
    """All cases of a folder, by name. The packed channels are kept in `cache` (default: folder/alignment).

    Raises Refused (no cases, a damaged case).
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise Refused("data", f"There are no simulated cases in {folder}.", "Make them with `usmri simulate`.")
    return [_packed(path, cache or folder / "alignment") for path in paths]


def _packed(path: Path, cache: Path) -> Head:
    stamp = path.stat()
    key = hashlib.sha256(f"{stamp.st_size} {stamp.st_mtime_ns} 4".encode()).hexdigest()[:12]
    kept = cache / f"{path.stem}-{key}.npz"
    try:
        if not kept.is_file():
            with np.load(path) as case:
                content = pack(case)
            cache.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(".part.npz")
            np.savez(part, **content)
            for older in cache.glob(f"{path.stem}-????????????.npz"):
                older.unlink()
            part.replace(kept)
        with np.load(kept) as packed:
            return Head(
                path.stem,
                int(packed["week"]),
                str(packed["view"]),
                packed["channels"],
                packed["pose"],
                packed["eyes"],
                float(packed["low"]),
                float(packed["high"]),
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise Refused("data", f"{path.name} is not a simulated case ({error}).", "Make the data set again.") from error


def pack(case: Any) -> dict[str, Any]:
    """The arrays of a `Head` from those of a case file (`simulation/dataset.py`)."""
    to_canonical = wide_ijk_to_canonical()
    to_box = np.linalg.inv(canonical_ijk_to_ras()) @ to_canonical
    shape = (SIZE, SIZE, SIZE)
    if "wide" in case:
        us, fan = case["wide"], case["wide_fan"]
    else:
        fan = resample(case["fan"], to_box, shape, 1, 0.0) > 0.5
        us = np.where(fan, resample(case["us"], to_box, shape, 1, 0.0), 0)
    distance = _signed_distance(case["skull"], to_box)
    brain = resample(np.isin(case["labels"], labels.BRAIN), to_box, shape, 1, 0.0)
    channels = (
        np.stack(
            [
                us,
                255.0 * fan,
                np.rint(distance * _DISTANCE_STEP + _DISTANCE_ZERO),
                np.rint(255 * brain),
            ]
        )
        .clip(0, 255)
        .astype(np.uint8)
    )
    low, high = robust_range(channels[US], channels[FAN] > 0)
    pose = anatomical_pose(case)
    parameters = json.loads(str(case["parameters"]))
    eyes = np.asarray(case["eyes"], dtype=np.float64) if "eyes" in case else np.full((2, 3), np.nan)
    return {
        "channels": channels, "low": low, "high": high, "pose": pose, "week": int(case["week"]),
        "view": str(parameters.get("view", "")), "eyes": eyes @ pose[:3, :3].T + pose[:3, 3],
    }  # fmt: skip


def anatomical_pose(case: Any) -> np.ndarray:
    """(4, 4): a case's canonical mm to anatomical mm (midline at x = 0, axes along the anatomy, 88 mm long).

    A case that does not hold it as `head_pose` has it drawn again from its seed, as `simulation/anatomy/deformation.py`
    draws it.
    """
    if "head_pose" in case:
        return np.asarray(case["head_pose"], dtype=np.float64)
    rng = np.random.default_rng([int(case["seed"]), 2])
    rotation = rotation_matrix(rng.uniform(-8.0, 8.0, 3))
    shift, scale = rng.uniform(-2.5, 2.5, 3), float(json.loads(str(case["parameters"]))["pose_scale"])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.T / scale
    matrix[:3, 3] = -matrix[:3, :3] @ shift
    return matrix


def _signed_distance(inside: np.ndarray, to_box: np.ndarray) -> np.ndarray:
    """mm, negative inside, on the wide grid: from the canonical grid where that reaches, else from the wide one."""
    coarse = inside[::2, ::2, ::2]
    spacing = 2 * float(canonical_ijk_to_ras()[0, 0])
    near = ndimage.distance_transform_edt(~coarse, sampling=spacing)
    near = near - ndimage.distance_transform_edt(coarse, sampling=spacing)
    near = ndimage.affine_transform(near, np.full(3, 0.5), output_shape=inside.shape, order=1, mode="nearest")
    shape = (SIZE, SIZE, SIZE)
    far = ndimage.distance_transform_edt(resample(inside, to_box, shape, 1, 0.0) < 0.5, sampling=SPACING_MM)
    within = resample(np.ones(inside.shape, np.float32), to_box, shape, 1, 0.0) > 0.99
    return np.where(within, resample(near, to_box, shape, 1, 0.0), far - SPACING_MM / 2)


@dataclass(frozen=True, eq=False)
class Sampled:
    """One cube cut out of a head, float32: x (s, s, s) in [-1, 1] and fan; on the cells of the truth the skull distance
    in mm and the brain 0-1."""

    x: Tensor
    fan: Tensor
    distance: Tensor
    brain: Tensor


def sample(
    head: Head, unit_to_anatomy: np.ndarray, size: int, *, truth: int | None = None, mirrored: bool = False
) -> Sampled:
    """Cut a cube out of a head.

    Args:
        unit_to_anatomy: (4, 4), the cube's own coordinates (-1 and 1 at its faces) to anatomical mm.
        size: cells along the cube's side; truth: those of distance and brain, where they are not the same.
        mirrored: the head with left and right exchanged.
    """
    cell = 2 * float(np.abs(np.linalg.det(unit_to_anatomy[:3, :3]))) ** (1 / 3) / size
    theta = head.unit_from_anatomy() @ (MIRROR if mirrored else np.eye(4)) @ unit_to_anatomy
    channels = head.coarse if cell > 1.5 * SPACING_MM else head.channels  # coarse cells are means
    us, fan = _cut(channels[[US, FAN]], theta, size)
    inside = fan > 127.5
    x = ((us - head.low) * (2 / max(head.high - head.low, 1.0)) - 1).clamp(-1, 1)
    x = torch.where(inside, x, x.new_tensor(-1.0))
    # Distance and brain are smooth: the coarse cells are enough.
    distance, brain = _cut(head.coarse[[DISTANCE, BRAIN]], theta, truth or size, beyond=(255.0, 0.0))
    return Sampled(x, inside.float(), (distance - _DISTANCE_ZERO) / _DISTANCE_STEP, brain / 255)


def _cut(channels: np.ndarray, theta: np.ndarray, size: int, *, beyond: tuple[float, ...] = (0.0, 0.0)) -> Tensor:
    """(c, s, s, s) float32: channels at `theta` (4, 4), the cube's own coordinates to theirs; `beyond` elsewhere."""
    source, other = torch.from_numpy(channels).float(), torch.tensor(beyond).reshape(-1, 1, 1, 1)
    where = F.affine_grid(
        torch.from_numpy(theta[None, :3].astype(np.float32)), [1, 1, size, size, size], align_corners=False
    )
    # grid_sample fills with 0: a channel that goes on otherwise is shifted there and back.
    return F.grid_sample((source - other)[None], where, align_corners=False)[0] + other


def eyes_of(head: Head, mirrored: bool) -> np.ndarray:
    """(2, 3) left and right eye, anatomical mm, of the head as it stands or mirrored."""
    return head.eyes[::-1] @ MIRROR[:3, :3] if mirrored else head.eyes
