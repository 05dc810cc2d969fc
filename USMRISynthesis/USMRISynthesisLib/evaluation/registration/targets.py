"""The MR that an ultrasound is registered with, displaced by a start; and its points whose true places are known.

Two kinds of MR, neither the image that the ultrasound was simulated from:

- **same head**: the head's T2 with another contrast (a power, a gain for each label), a bias field and noise, bent by a
  smooth displacement of `BEND_MM` in the root mean square;
- **another head**: the average of normal fetuses (`normal-mr-atlas/`) of a neighbouring week, put about the head's own
  middle along the head's own axes: other anatomy, other intensities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.geometry.similarity import nearest_rotation
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import labels as names
from USMRISynthesisLib.simulation.anatomy.atlas import Atlas

MOST_DEG, MOST_MM = 20.0, 15.0
BEND_MM = 2.0
SAME, OTHER = "same head", "another head"
_BUMPS, _BUMP_MM = 8, 18.0
_MARGIN_MM = 8.0
_MASK_MARGIN_MM = 5.0  # around the brain: what lies just outside helps to find the border
_LEAST_VOXELS = 40
SURFACE_POINTS = 500
SURFACES = {
    "ventricles": (names.VENTRICLES, names.CHOROID),
    "deep grey": (names.DEEP_GREY,),
    "cerebellum": (names.CEREBELLUM,),
    "brainstem": (names.BRAINSTEM,),
    "brain": names.BRAIN,
}
_SIDED = ("ventricles", "deep grey", "cerebellum")
_MIDDLE = {
    "brainstem": (names.BRAINSTEM,),
    "corpus callosum": (names.CORPUS_CALLOSUM,),
    "cavum": (names.CAVUM,),
}


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels (k, j, i) on a grid: `to_world` (4, 4) voxels to RAS mm, `to_head` (4, 4) voxels to the head's own axes in
    any unit, x to the right of the midline."""

    labels: np.ndarray
    to_world: np.ndarray
    to_head: np.ndarray

    def landmarks(self) -> dict[str, np.ndarray]:
        """Centroids (3,) RAS mm of ventricles, deep grey and cerebellum on each side, and of the structures between."""
        found: dict[str, np.ndarray] = {}
        for name in _SIDED:
            voxels = _voxels(np.isin(self.labels, SURFACES[name]))
            right = apply(self.to_head, voxels)[:, 0] > 0
            for side, part in (("right", voxels[right]), ("left", voxels[~right])):
                if len(part) >= _LEAST_VOXELS:
                    found[f"{side} {name}"] = apply(self.to_world, part.mean(axis=0))[0]
        for name, members in _MIDDLE.items():
            voxels = _voxels(np.isin(self.labels, members))
            if len(voxels) >= _LEAST_VOXELS:
                found[name] = apply(self.to_world, voxels.mean(axis=0))[0]
        return found

    def surface_points(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Some of each structure's outermost voxels, (n, 3) RAS mm."""
        found = {}
        for name, members in SURFACES.items():
            voxels = _voxels(surface(np.isin(self.labels, members)))
            if len(voxels) >= _LEAST_VOXELS:
                chosen = rng.permutation(len(voxels))[:SURFACE_POINTS]
                found[name] = apply(self.to_world, voxels[chosen])
        return found

    def middle(self) -> np.ndarray:
        """The brain's centroid (3,), RAS mm."""
        return apply(self.to_world, _voxels(np.isin(self.labels, names.BRAIN)).mean(axis=0))[0]


@dataclass(frozen=True, eq=False)
class Target:
    """One MR and what is known of it.

    mr: 1 mm. brain, mask: uint8 on its grid; the mask reaches `_MASK_MARGIN_MM` farther. landmarks: name -> place in
    the MR and true place in the ultrasound's world, both (3,) RAS mm. surfaces: name -> points (n, 3) in the MR.
    """

    kind: str
    mr: Volume
    brain: Volume
    mask: Volume
    landmarks: Mapping[str, tuple[np.ndarray, np.ndarray]]
    surfaces: Mapping[str, np.ndarray]

    def displaced(self, start: np.ndarray) -> Target:
        """The same MR moved by a rigid matrix (4, 4) in RAS mm: a registration starts from where it lies then."""
        return Target(
            self.kind,
            Volume(self.mr.array, start @ self.mr.ijk_to_ras),
            Volume(self.brain.array, start @ self.brain.ijk_to_ras),
            Volume(self.mask.array, start @ self.mask.ijk_to_ras),
            {name: (apply(start, there)[0], here) for name, (there, here) in self.landmarks.items()},
            {name: apply(start, points) for name, points in self.surfaces.items()},
        )


@dataclass(frozen=True, eq=False)
class Bend:
    """A smooth displacement of space: a sum of bumps at `centres` (n, 3) mm by `shifts` (n, 3) mm."""

    centres: np.ndarray
    shifts: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        apart = ((points[:, None] - self.centres) ** 2).sum(axis=2)
        return np.asarray(points + np.exp(-apart / (2 * _BUMP_MM**2)) @ self.shifts)

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """The points that are taken here, by iteration; the displacement is much smaller than a bump."""
        found = points.copy()
        for _ in range(30):
            found = found + points - self(found)
        return found


def bend(points: np.ndarray, rng: np.random.Generator, size_mm: float = BEND_MM) -> Bend:
    """A displacement of points (n, 3) RAS mm that is `size_mm` in the root mean square."""
    centres = points[rng.integers(0, len(points), _BUMPS)]
    raw = Bend(centres, rng.standard_normal((_BUMPS, 3)))
    size = float(np.sqrt(((raw(points) - points) ** 2).sum(axis=1).mean()))
    return Bend(centres, raw.shifts * (size_mm / size))


def start(rng: np.random.Generator, middle: np.ndarray, part: int, parts: int) -> np.ndarray:
    """A rigid displacement (4, 4) about a point: its size lies in the `part`th of `parts` parts of 20 deg and 15 mm."""
    share = (part + rng.uniform(size=2)) / parts
    axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    angle = np.deg2rad(MOST_DEG) * share[0]
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + MOST_MM * share[1] * direction
    return matrix


def same_head(t2: np.ndarray, head: Labelled, rng: np.random.Generator) -> Target:
    """The MR of the same head from its T2 (k, j, i), 0-1, on the labels' grid."""
    brain = np.isin(head.labels, names.BRAIN)
    moved = bend(apply(head.to_world, _voxels(brain)[::50]), rng)
    grid, shape = _grid(brain, head.to_world)
    world = apply(grid, _voxels(np.ones(shape, bool)))
    inside = apply(np.linalg.inv(head.to_world), moved(world)).T[::-1]
    image = ndimage.map_coordinates(t2.astype(np.float32), inside, order=1).reshape(shape)
    found = ndimage.map_coordinates(head.labels, inside, order=0).reshape(shape)
    landmarks = {name: (moved.inverse(here[None])[0], here) for name, here in head.landmarks().items()}
    surfaces = {name: moved.inverse(points) for name, points in head.surface_points(rng).items()}
    mr = Volume(with_other_contrast(image, found, rng), grid)
    return Target(SAME, mr, *_masks(np.isin(found, names.BRAIN), grid), landmarks, surfaces)


def another_head(
    average: Atlas, middle: np.ndarray, axes: np.ndarray, true: Mapping[str, np.ndarray], rng: np.random.Generator
) -> Target:
    """An average about `middle` (3,) RAS mm, its axes turned by `axes` (3, 3) to the ultrasound's world."""
    own = average.ijk_to_ras
    there = Labelled(average.labels, own, own).middle()
    place = np.eye(4)
    place[:3, :3] = nearest_rotation(axes)
    place[:3, 3] = middle - place[:3, :3] @ there
    placed = Labelled(average.labels, place @ own, own)
    brain = average.labels > 0
    grid, shape = _grid(brain, placed.to_world)
    inside = apply(np.linalg.inv(placed.to_world) @ grid, _voxels(np.ones(shape, bool))).T[::-1]
    image = ndimage.map_coordinates(np.where(brain, average.t2, 0), inside, order=1).reshape(shape)
    found = ndimage.map_coordinates(average.labels, inside, order=0).reshape(shape)
    known = placed.landmarks()
    landmarks = {name: (known[name], here) for name, here in true.items() if name in known}
    mr = Volume(1000 * image.astype(np.float32), grid)
    return Target(OTHER, mr, *_masks(found > 0, grid), landmarks, placed.surface_points(rng))


def with_other_contrast(t2: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another scanner's image of a T2 (0-1): a power, a gain for each label, bias field, Rician noise; about 0-1000."""
    power, gains = rng.uniform(0.7, 1.4), rng.uniform(0.85, 1.15, 256)
    k, j, i = (np.linspace(-1, 1, n, dtype=np.float32) for n in t2.shape)
    slope = rng.uniform(-0.25, 0.25, 3)
    bias = 1 + slope[0] * k[:, None, None] + slope[1] * j[None, :, None] + slope[2] * i[None, None]
    clean = np.clip(t2, 0, 1) ** power * gains[labels] * bias
    noise = 0.03 * rng.standard_normal((2, *t2.shape))
    return np.asarray(1000 * np.hypot(clean + noise[0], noise[1]), np.float32)


def rigid_fit(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, 3): the source's points after the rigid motion that brings them nearest to the target's."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    return np.asarray(a @ nearest_rotation(b.T @ a).T + target.mean(axis=0))


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 3) points moved by a matrix (4, 4)."""
    return np.asarray(np.atleast_2d(points) @ matrix[:3, :3].T + matrix[:3, 3])


def surface(mask: np.ndarray) -> np.ndarray:
    """The outermost voxels of a mask."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def _voxels(mask: np.ndarray) -> np.ndarray:
    """(n, 3) indices (i, j, k)."""
    return np.argwhere(mask)[:, ::-1]


def _grid(brain: np.ndarray, to_world: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """A grid of 1 mm about the brain along the array's own axes: matrix to RAS mm, and shape (k, j, i)."""
    spacing = np.linalg.norm(to_world[:3, :3], axis=0)
    voxels = _voxels(brain)
    low, high = voxels.min(axis=0) - _MARGIN_MM / spacing, voxels.max(axis=0) + _MARGIN_MM / spacing
    matrix = to_world @ np.diag([*(1 / spacing), 1.0])
    matrix[:3, 3] = apply(to_world, low)[0]
    i, j, k = np.ceil((high - low) * spacing).astype(int) + 1
    return matrix, (int(k), int(j), int(i))


def _masks(brain: np.ndarray, grid: np.ndarray) -> tuple[Volume, Volume]:
    """The brain, and what lies near it."""
    near = ndimage.distance_transform_edt(~brain) <= _MASK_MARGIN_MM  # voxels of 1 mm
    return Volume(brain.astype(np.uint8), grid), Volume(near.astype(np.uint8), grid)
