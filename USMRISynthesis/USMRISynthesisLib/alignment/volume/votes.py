"""Rotation votes: orientations predicted in cubes turned about the midplane's normal, and their modes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.similarity import angle_deg, nearest_rotation, turn_about_x

TURNS = 4  # about the normal, on each of its sides
_TOGETHER_DEG = 40.0


@dataclass(frozen=True, eq=False)
class RotationVotes:
    """rotations (n, 3, 3), world to canonical; margins (n,): how clearly each vote separates front from back and top
    from bottom, 0 to about 1."""

    rotations: np.ndarray
    margins: np.ndarray

    @classmethod
    def from_gradients(cls, gradients: list[np.ndarray], length: float) -> RotationVotes | None:
        """The votes of the cubes; None without any.

        Args:
            gradients: (3, 3) each, canonical x, y, z as they change with the world, x along the cube's own first axis:
                which side that is follows from y and z.
            length: of the head, in the world.
        """
        rotations, margins = [], []
        for gradient in gradients:
            rows = gradient * (length / HEAD_LENGTH_MM)
            if np.linalg.norm(rows, axis=1).min() < 1e-3:
                continue
            rows[0] *= np.sign(np.linalg.det(rows)) or 1.0
            rotations.append(nearest_rotation(rows))
            margins.append(float(np.linalg.norm(rows[1:], axis=1).min()))
        return cls(np.stack(rotations), np.array(margins)) if rotations else None

    def agreement(self, rotation: np.ndarray) -> float:
        """0-1: the share of the votes within 40 degrees of this rotation, weighted by their margins."""
        near = [angle_deg(rotation, vote) < _TOGETHER_DEG for vote in self.rotations]
        return float(self.margins[near].sum() / max(float(self.margins.sum()), 1e-9))

    def margin(self, rotation: np.ndarray) -> float:
        """Mean margin of the votes within 40 degrees of this rotation; 0 without any."""
        near = [angle_deg(rotation, vote) < _TOGETHER_DEG for vote in self.rotations]
        return float(self.margins[near].mean()) if any(near) else 0.0

    def modes(self) -> list[np.ndarray]:
        """Rotations (3, 3), each the mean of one cluster of votes, the heaviest cluster first."""
        left = np.ones(len(self.rotations), dtype=bool)
        found = []
        while left.any():
            near = np.array([[angle_deg(a, b) < _TOGETHER_DEG for b in self.rotations] for a in self.rotations]) & left
            best = int(np.argmax(np.where(left, near @ self.margins, -1)))
            members = near[best]
            found.append(nearest_rotation(np.einsum("n,nab->ab", self.margins[members], self.rotations[members])))
            left &= ~members
        return found


def cube_axes(normal: np.ndarray) -> list[np.ndarray]:
    """Axes (3, 3), columns x, y, z in the world, of the cubes to predict in: x along either side of the normal."""
    across = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    across /= np.linalg.norm(across)
    frame = np.column_stack([normal, across, np.cross(normal, across)])
    return [side @ turn_about_x(360 * n / TURNS) for side in (frame, frame * (-1, 1, -1)) for n in range(TURNS)]


def other_normals(normal: np.ndarray) -> list[np.ndarray]:
    """This normal, and four across it: if it is wrong, one of them is near the right one."""
    axes = cube_axes(normal)[0]
    angles = np.deg2rad([0, 90, 45, 135])
    return [normal, *(np.cos(angle) * axes[:, 1] + np.sin(angle) * axes[:, 2] for angle in angles)]
