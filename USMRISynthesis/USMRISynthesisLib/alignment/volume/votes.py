"""Which way a head looks: votes of the network on cubes turned about its midplane's normal, and what they agree on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM
from USMRISynthesisLib.geometry.similarity import angle_deg, turn_about_x

TURNS = 4  # about the normal, on each of its sides
_TOGETHER_DEG = 40.0


@dataclass(frozen=True, eq=False)
class Ballot:
    """rotations (n, 3, 3), world to canonical; clear (n,): how plainly each vote tells front from back and top from
    bottom, 0 to about 1."""

    rotations: np.ndarray
    clear: np.ndarray

    def agreement(self, rotation: np.ndarray) -> float:
        """0-1: the share of the votes for about this rotation, counted by how clear they are."""
        near = [angle_deg(rotation, vote) < _TOGETHER_DEG for vote in self.rotations]
        return float(self.clear[near].sum() / max(float(self.clear.sum()), 1e-9))

    def clearness(self, rotation: np.ndarray) -> float:
        """How clear the votes for about this rotation are; 0 without any."""
        near = [angle_deg(rotation, vote) < _TOGETHER_DEG for vote in self.rotations]
        return float(self.clear[near].mean()) if any(near) else 0.0

    def winners(self) -> list[np.ndarray]:
        """Rotations (3, 3), each the mean of the votes that stand together, the most votes first."""
        left = np.ones(len(self.rotations), dtype=bool)
        found = []
        while left.any():
            near = np.array([[angle_deg(a, b) < _TOGETHER_DEG for b in self.rotations] for a in self.rotations]) & left
            best = int(np.argmax(np.where(left, near @ self.clear, -1)))
            members = near[best]
            found.append(_nearest(np.einsum("n,nab->ab", self.clear[members], self.rotations[members])))
            left &= ~members
        return found


def cube_axes(normal: np.ndarray) -> list[np.ndarray]:
    """Axes (3, 3), columns x, y, z in the world, of the cubes to be asked: x along either side of the normal."""
    across = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    across /= np.linalg.norm(across)
    frame = np.column_stack([normal, across, np.cross(normal, across)])
    return [side @ turn_about_x(360 * n / TURNS) for side in (frame, frame * (-1, 1, -1)) for n in range(TURNS)]


def other_normals(normal: np.ndarray) -> list[np.ndarray]:
    """This normal, and those across it that one of is near to the right one, if it is not right itself."""
    axes = cube_axes(normal)[0]
    angles = np.deg2rad([0, 90, 45, 135])
    return [normal, *(np.cos(angle) * axes[:, 1] + np.sin(angle) * axes[:, 2] for angle in angles)]


def counted(gradients: list[np.ndarray], length: float) -> Ballot | None:
    """The votes of the cubes.

    Args:
        gradients: (3, 3) each, canonical x, y, z as they change with the world, x along the cube's own first axis:
            which side that is follows from y and z.
        length: the head's, in the world.
    """
    rotations, clear = [], []
    for gradient in gradients:
        rows = gradient * (length / HEAD_LENGTH_MM)
        if np.linalg.norm(rows, axis=1).min() < 1e-3:
            continue
        rows[0] *= np.sign(np.linalg.det(rows)) or 1.0
        rotations.append(_nearest(rows))
        clear.append(float(np.linalg.norm(rows[1:], axis=1).min()))
    return Ballot(np.stack(rotations), np.array(clear)) if rotations else None


def _nearest(matrix: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(matrix)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ v)) or 1.0])
    return np.asarray((u * sign) @ v)
