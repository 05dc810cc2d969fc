"""Heads simulated from averages of normal fetuses (`normal-mr-atlas/`): evaluation only, nothing is trained on them.

What a machine would store: the whole sweep on the probe's own grid, surroundings and all, turned anywhere in the world.
The truth lies in canonical space.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.similarity import random_rotation
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.anatomy.head import build
from USMRISynthesisLib.simulation.anatomy.labels import BRAIN
from USMRISynthesisLib.simulation.anatomy.ranges import AnatomyRanges
from USMRISynthesisLib.simulation.config import DatasetConfig, Head
from USMRISynthesisLib.simulation.scanner.volume import Acquisition, simulate_canonical

# The simulator lifts the cerebellum that spina bifida draws down; here it lies where it should.
ANATOMY = AnatomyRanges(cerebellum_lift_mm=(0.0, 0.0))
VOXEL_MM, VOXELS = 0.8, 184  # canonical mm; a side of 147 mm holds the sweep about a head
_SLAB = 16


@dataclass(frozen=True, eq=False)
class NormalHead:
    """One head as it is scanned, and its truth.

    volume: uint8 ultrasound. to_canonical: (4, 4) true RAS mm to canonical mm. t2 (160, 160, 160) float16, 0-1; seen:
    bool, brain where the beam was; labels: of everything; all canonical.
    """

    name: str
    week: int
    volume: Volume
    to_canonical: np.ndarray
    t2: np.ndarray
    seen: np.ndarray
    labels: np.ndarray


def read_heads(config: Path, data: Path) -> list[Head]:
    """The heads of a configuration whose atlases are normal ones. Raises Refused (bad, or missing), Failed (no atlas).

    Every split's scatter model must be named in it: "points" is the one that no training uses.
    """
    if not config.is_file():
        raise Refused("bad-configuration", f"There is no configuration {config.name}.", "Give one with --config.")
    splits = DatasetConfig.read(config, atlas.available(data, atlas.NORMAL_FOLDER)).splits
    return [head for heads in splits.values() for head in heads]


def simulate(data: Path, spec: Head) -> NormalHead:
    """Scan one head. The same specification gives the same bytes on one machine."""
    head = build(atlas.load(data, spec.atlas), spec.seed, ANATOMY, spec.anomaly)
    _, fan, sweep = simulate_canonical(head, spec.seed, spec.ranges, spec.view, spec.machine)
    name = f"{spec.atlas}-{spec.seed}"
    rng = np.random.default_rng([zlib.crc32(spec.atlas.encode()), spec.seed])
    to_world = np.eye(4)
    to_world[:3, :3] = random_rotation(rng) / head.scale
    to_world[:3, 3] = rng.uniform(-40, 40, 3)
    us, to_canonical = stored(sweep, head.centre)
    return NormalHead(
        name,
        head.week,
        Volume(us, to_world @ to_canonical),
        np.linalg.inv(to_world),
        head.t2.astype(np.float16),
        np.isin(head.labels, BRAIN) & fan,
        head.labels,
    )


def stored(sweep: Acquisition, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sweep (k, j, i) uint8 on the probe's own axes about a place in canonical mm, black beyond the pyramid.

    Returns the matrix (4, 4) from voxels to canonical mm, too.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = sweep.beam.axes.T * VOXEL_MM
    matrix[:3, 3] = centre - matrix[:3, :3] @ np.full(3, (VOXELS - 1) / 2)
    us = np.empty((VOXELS,) * 3, np.uint8)
    along = torch.arange(VOXELS, dtype=torch.float32)
    axes = torch.from_numpy(matrix).float()
    for first in range(0, VOXELS, _SLAB):
        k, j, i = torch.meshgrid(along[first : first + _SLAB], along, along, indexing="ij")
        points = torch.stack([i * row[0] + j * row[1] + k * row[2] + row[3] for row in axes[:3]], dim=-1)
        us[first : first + _SLAB] = sweep.scan_convert(points)[0]
    return us, matrix
