"""Positions of the probe and directions of its beams: motor-swept volumes and single frames, in canonical mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras
from USMRISynthesisLib.simulation.anatomy.head import Anatomy
from USMRISynthesisLib.simulation.anatomy.warp import combine, sample

# probe directions from the head's centre with their share: mostly the side (trans-thalamic), then oblique and top
VIEWS = {"left": 0.34, "right": 0.34, "top": 0.1, "front-side": 0.12, "back-side": 0.1}
_VIEW_AXES = {
    "left": (-1, 0, 0), "right": (1, 0, 0), "top": (0, 0.1, 1), "front-side": (0.75, 0.65, 0.1),
    "back-side": (0.75, -0.65, 0.15),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Beam:
    """Geometry of a sweep in canonical mm: apex, axes (rows: lateral, elevational, depth), ranges.

    near_mm, far_mm: from the apex; lateral, sweep: half openings in radians.
    """

    apex: np.ndarray
    axes: np.ndarray
    near_mm: float
    far_mm: float
    lateral: float
    sweep: float

    def points(self, depths: torch.Tensor, lateral: torch.Tensor, sweep: torch.Tensor) -> torch.Tensor:
        """World positions (len(depths), len(lateral), len(sweep), 3)."""
        direction = self.directions(lateral, sweep)
        return torch.from_numpy(self.apex).float() + depths[:, None, None, None] * direction[None]

    def directions(self, lateral: torch.Tensor, sweep: torch.Tensor) -> torch.Tensor:
        """Unit vectors (len(lateral), len(sweep), 3)."""
        a, b = torch.meshgrid(lateral, sweep, indexing="ij")
        local = torch.stack((torch.sin(a), torch.cos(a) * torch.sin(b), torch.cos(a) * torch.cos(b)), dim=-1)
        return combine(local, torch.from_numpy(self.axes.T.copy()).float())

    def coordinates(self, points: torch.Tensor) -> torch.Tensor:
        """Grid-sample coordinates (..., 3) in [-1, 1] as (sweep, lateral, depth) of world points."""
        local = combine(points - torch.from_numpy(self.apex).float(), torch.from_numpy(self.axes).float())
        depth = local.norm(dim=-1).clamp_min(1e-3)
        lateral = torch.asin((local[..., 0] / depth).clamp(-1, 1))
        sweep = torch.atan2(local[..., 1], local[..., 2])
        span = (depth - self.near_mm) / (self.far_mm - self.near_mm) * 2 - 1
        return torch.stack((sweep / self.sweep, lateral / self.lateral, span), dim=-1)


def choose_view(rng: np.random.Generator) -> str:
    """One of VIEWS by its share."""
    return str(rng.choice(list(VIEWS), p=list(VIEWS.values())))


def place(anatomy: Anatomy, view: str, draw: dict[str, float], rng: np.random.Generator) -> Beam:
    """A motor-swept probe at a view of VIEWS, off by some degrees and mm."""
    axis = np.asarray(_VIEW_AXES[view], float)
    if view.endswith("side") and rng.random() < 0.5:
        axis[0] *= -1
    axis = axis / np.linalg.norm(axis) + rng.normal(0, 0.13, 3)
    axis /= np.linalg.norm(axis)
    depth_axis = -axis + rng.normal(0, 0.05, 3)
    depth_axis /= np.linalg.norm(depth_axis)
    lateral_axis = np.cross(depth_axis, (0, 0, 1) if abs(axis[2]) < 0.8 else (1, 0, 0))
    lateral_axis /= np.linalg.norm(lateral_axis)
    elevation = np.cross(depth_axis, lateral_axis)
    roll = float(rng.normal(0, 0.25))
    lateral_axis, elevation = (
        np.cos(roll) * lateral_axis + np.sin(roll) * elevation,
        -np.sin(roll) * lateral_axis + np.cos(roll) * elevation,
    )
    axes = np.stack((lateral_axis, elevation, depth_axis))
    apex, near, far = _stand_off(anatomy, axis, draw, rng)
    return Beam(apex + rng.normal(0, 4, 3), axes, near, far,
                float(np.deg2rad(draw["lateral_deg"])), float(np.deg2rad(draw["sweep_deg"])))  # fmt: skip


def place_in_plane(anatomy: Anatomy, plane: np.ndarray, draw: dict[str, float], rng: np.random.Generator) -> Beam:
    """A probe whose middle scan plane is the plane (4, 4; columns: its two axes, normal, origin, canonical mm)."""
    # sonographers bring the midline across the beam: HC18's heads lie within 12 degrees of it, one in 14 is turned
    angle = float(rng.normal(0, np.deg2rad(7))) if rng.random() < 0.93 else float(rng.uniform(-np.pi, np.pi))
    angle += np.pi * float(rng.random() < 0.5)
    # the plane's columns carry the frame's scale; a beam's axes are unit vectors
    right, front, normal = (plane[:3, n] / np.linalg.norm(plane[:3, n]) for n in range(3))
    axis = np.cos(angle) * right + np.sin(angle) * front
    turn = float(rng.normal(0, 0.06))
    depth_axis = -(np.cos(turn) * axis + np.sin(turn) * np.cross(normal, axis))
    axes = np.stack((np.cross(normal, depth_axis), normal, depth_axis))
    apex, near, far = _stand_off(anatomy, axis, draw, rng)
    apex = apex + normal * float((plane[:3, 3] - apex) @ normal)  # into the plane
    apex = apex + float(rng.normal(0, 4)) * axes[0]
    return Beam(apex, axes, near, far, float(np.deg2rad(draw["lateral_deg"])), float(np.deg2rad(1.0)))


def _stand_off(
    anatomy: Anatomy, axis: np.ndarray, draw: dict[str, float], rng: np.random.Generator
) -> tuple[np.ndarray, float, float]:
    """Apex, and the first and last depth from it, of a probe that points at the centre along -axis."""
    steps = np.arange(0, 70, 0.6)
    ray = torch.from_numpy((anatomy.centre + steps[:, None] * axis).astype(np.float32))
    distance = sample(anatomy.skull_distance, canonical_ijk_to_ras(), ray, outside=50.0).numpy()
    surface = float(steps[int(np.argmax(distance > 0))])
    radius, gap = draw["radius_mm"] * anatomy.scale, draw["distance_mm"] * anatomy.scale
    apex = anatomy.centre + axis * (surface + gap + radius)
    return apex, radius, radius + gap + surface * 2 + float(rng.uniform(10, 42))
