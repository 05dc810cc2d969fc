"""The fetal T2 averages (Fidon et al. 2021, CC0) and what the simulator derives from each of them.

The averages hold the brain only. The inner surface of the skull is derived as the smoothed, closed
hull of the brain, so that one signed distance describes skull, scalp and everything outside.

The averages of normal fetuses (`normal-mr-atlas/`, non-commercial) have the same files and are loaded by name, but they
are never listed among the weeks that a data set is made from: they serve evaluation only. Everything that the simulator
needs is derived from the labels. It takes x = 0 for the midline, which the normal averages keep to within 2 mm only:
their grid is shifted so that it is (`on_midline`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.volume import Volume

WHITE_MATTER, VENTRICLES, CEREBELLUM, EXTERNAL_CSF = 1, 2, 3, 4
CORTEX, DEEP_GREY, BRAINSTEM, CORPUS_CALLOSUM = 5, 6, 7, 8

FOLDER, NORMAL_FOLDER = "fetal-mr-atlas", "normal-mr-atlas"
_NORMAL = "-normal"  # how the names of normal averages end

_HULL_CLOSING_MM = 12.0
_COARSE_FACTOR = 2
_BASE_SHARE = 0.4
_ROUNDNESS = 0.7


@dataclass(frozen=True, eq=False)
class Atlas:
    """One gestational week's average, in RAS, arrays (k, j, i) on one 0.8 mm grid.

    t2: 0-1, 1 = bright ventricular CSF, 0 = background.
    hull_distance: signed distance in mm to the closed brain hull, negative inside.
    ventricle_distance: signed distance in mm to the ventricles, negative inside.
    indicators: (9, k, j, i) smoothed indicators of the brain, then of labels 1-8: warped without staircases.
    """

    name: str
    week: int
    t2: np.ndarray
    labels: np.ndarray
    hull_distance: np.ndarray
    ventricle_distance: np.ndarray
    indicators: np.ndarray
    ijk_to_ras: np.ndarray

    def ras(self, index_kji: np.ndarray) -> np.ndarray:
        """World position (n, 3) in mm of voxel indices (n, 3) given as (k, j, i)."""
        ijk = np.atleast_2d(index_kji)[:, ::-1]
        return np.asarray(ijk @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3])

    def label_ras(self, label: int) -> np.ndarray:
        """World positions (n, 3) of a label's voxels."""
        return self.ras(np.argwhere(self.labels == label))


def available(data: Path, folder: str = FOLDER) -> list[str]:
    """Names of the atlas folders below `data`, by week.  Raises Failed if there are none."""
    names = sorted(p.name for p in (data / folder).glob("GA*") if (p / "t2.nii.gz").exists())
    if not names:
        raise Failed(
            "no-atlas",
            f"No fetal MR atlas was found below {data}.",
            f"Point --data at the folder that holds {folder}/.",
        )
    return names


def folder_of(data: Path, name: str) -> Path:
    """The folder of a week's average by its name, such as GA25-operated or GA25-normal."""
    return data / (NORMAL_FOLDER if name.endswith(_NORMAL) else FOLDER) / name


def week_of(name: str) -> int:
    """Gestational week of a folder name such as GA25-operated."""
    match = re.match(r"GA(\d+)", name)
    if match is None:
        raise Failed("bad-atlas", f"The atlas folder {name!r} names no week.", "Use names like GA25-operated.")
    return int(match.group(1))


@lru_cache(maxsize=3)
def load(data: Path, name: str) -> Atlas:
    """Read one week and derive its distances."""
    folder = folder_of(data, name)
    t2_volume = Volume.read(folder / "t2.nii.gz")
    t2 = t2_volume.array.astype(np.float32)
    labels = Volume.read(folder / "labels.nii.gz").array.astype(np.uint8)
    bright = float(np.percentile(t2[labels == VENTRICLES], 95))
    t2 = np.clip(t2 / bright, 0, 1.1) / 1.1
    spacing = np.asarray(t2_volume.spacing)[::-1]
    grid = t2_volume.ijk_to_ras
    if name.endswith(_NORMAL):
        grid = on_midline(labels, grid)
    return Atlas(
        name=name,
        week=week_of(name),
        t2=t2.astype(np.float32),
        labels=labels,
        hull_distance=_hull_distance(labels > 0, spacing),
        ventricle_distance=_signed_distance(labels == VENTRICLES, spacing, smooth_mm=1.0),
        indicators=np.stack(
            [ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.6)]
            + [ndimage.gaussian_filter((labels == n).astype(np.float32), 0.6) for n in range(1, 9)]
        ),
        ijk_to_ras=grid,
    )


def on_midline(labels: np.ndarray, ijk_to_ras: np.ndarray) -> np.ndarray:
    """The grid (4, 4), shifted so that the brain's mean x is 0. A turn is left: the averages stand straight."""
    voxels = np.argwhere(labels > 0)[:, ::-1].mean(axis=0)
    moved = ijk_to_ras.copy()
    moved[0, 3] -= float(ijk_to_ras[0, :3] @ voxels + ijk_to_ras[0, 3])
    return moved


def _signed_distance(mask: np.ndarray, spacing: np.ndarray, smooth_mm: float) -> np.ndarray:
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    distance = (outside - inside).astype(np.float32)
    return ndimage.gaussian_filter(distance, smooth_mm / spacing)


def _hull_distance(brain: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance to the brain closed by a ball: fissures and the hollow under the temporal lobes vanish."""
    step = _COARSE_FACTOR
    coarse = brain[::step, ::step, ::step]
    coarse_spacing = spacing * step
    pad = int(np.ceil(_HULL_CLOSING_MM / coarse_spacing.min())) + 2
    padded = np.pad(coarse, pad)
    dilated = ndimage.distance_transform_edt(~padded, sampling=coarse_spacing) < _HULL_CLOSING_MM
    closed = ndimage.distance_transform_edt(dilated, sampling=coarse_spacing) > _HULL_CLOSING_MM
    distance = _signed_distance(closed, coarse_spacing, smooth_mm=2.5)[pad:-pad, pad:-pad, pad:-pad]
    upsampled = ndimage.affine_transform(
        distance, np.full(3, 1 / step), output_shape=brain.shape, order=1, mode="nearest"
    )
    return _rounded(np.asarray(upsampled, np.float32), spacing)


def _rounded(hull: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The hull of an average is flat over the temporal lobes, a skull is round: outwards to its vault's ellipsoid.

    The ellipsoid is a least-squares fit to the surface above the base (the upper 60 % of its height).
    """
    axes = np.meshgrid(*(np.arange(n, dtype=np.float32) * s for n, s in zip(hull.shape, spacing, strict=True)),
                       indexing="ij", sparse=True)  # fmt: skip
    surface = np.argwhere(np.abs(hull) < spacing.min() / 2) * spacing
    vault = surface[surface[:, 0] > surface[:, 0].min() + _BASE_SHARE * np.ptp(surface[:, 0])]
    middle = vault.mean(axis=0)
    offset = vault - middle
    square, linear = np.split(np.linalg.lstsq(np.hstack([offset**2, offset]), np.ones(len(vault)), rcond=None)[0], 2)
    if (square <= 0).any():
        return hull  # no ellipsoid fits
    centre = middle - linear / (2 * square)
    half = np.sqrt((1 + (linear**2 / (4 * square)).sum()) / square)
    unit = [(axis - c) / h for axis, c, h in zip(axes, centre, half, strict=True)]
    radius = np.sqrt(sum(u**2 for u in unit))
    slope = np.sqrt(sum((u / h) ** 2 for u, h in zip(unit, half, strict=True))) / np.maximum(radius, 1e-3)
    ellipsoid = (radius - 1) / np.maximum(slope, 1e-3)
    mixed = (1 - _ROUNDNESS) * hull + _ROUNDNESS * np.clip(ellipsoid, -40, 40)
    return np.asarray(ndimage.gaussian_filter(np.minimum(hull, mixed), 2.0 / spacing), np.float32)
