"""Alignment on real volumes: poses against landmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from USMRISynthesisLib.evaluation.real.cases import Head3D, run
from USMRISynthesisLib.geometry.landmarks import similarity_from_landmarks
from USMRISynthesisLib.geometry.similarity import angle_deg, rotation_of, scale_of
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import Synthesis

TURNED_DEG = 90.0


@dataclass(frozen=True, eq=False)
class Pose:
    """One volume's estimated pose against its landmarks.

    rotation_deg: between the axes. translation_mm: between the origins, in the volume's mm. scale: estimated over
    reference. score: the alignment's own. result: None where nothing was made.
    """

    name: str
    accepted: bool
    score: float
    rotation_deg: float
    translation_mm: float
    scale: float
    result: Synthesis | None

    @property
    def turned(self) -> bool:
        """Whether the head lies the wrong way round: by more than a right angle."""
        return self.rotation_deg > TURNED_DEG


def reference_of(head: Head3D) -> np.ndarray:
    """(4, 4) RAS mm to canonical mm, by the landmarks on the outer skull."""
    return similarity_from_landmarks(*(head.landmarks[name] for name in ("front", "back", "top")))


def measure_poses(
    heads: Sequence[Head3D],
    *,
    model: str,
    device: str,
    planes: str,
    progress: Callable[[float, str], None] | None = None,
) -> list[Pose]:
    """The product on each volume."""
    poses = []
    for number, head in enumerate(heads):
        result, accepted = run(head.volume, model=model, device=device, planes=planes)
        if result is None:
            poses.append(Pose(head.name, False, 0.0, np.nan, np.nan, np.nan, None))
        else:
            score = float(result.provenance["alignment"]["score"])
            errors = compare(result.transform, reference_of(head))
            poses.append(Pose(head.name, accepted, score, *errors, result))
        if progress is not None:
            progress((number + 1) / len(heads), "real volumes")
    return poses


def compare(found: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Rotation in degrees, translation in mm of the image, scale, of one pose (4, 4) against another."""
    scale = scale_of(found) / scale_of(reference)
    off = np.linalg.inv(found)[:3, 3] - np.linalg.inv(reference)[:3, 3]
    return angle_deg(rotation_of(found), rotation_of(reference)), float(np.linalg.norm(off)), float(scale)


def surroundings(head: Head3D, least_mm: float = 35.0) -> list[Volume]:
    """Parts of a real volume that lie wholly beside its head, as volumes: what else a probe sees.

    The head is taken as a ball about its middle that reaches its front and back; parts thinner than `least_mm` are
    left out.
    """
    front, back = head.landmarks["front"], head.landmarks["back"]
    to_ijk = np.linalg.inv(head.volume.ijk_to_ras)
    centre = (to_ijk @ [*((front + back) / 2), 1.0])[:3]
    spacing = np.array(head.volume.spacing)
    reach = np.linalg.norm(front - back) / 2 / spacing
    size = np.array(head.volume.shape[::-1])
    parts = []
    for axis in range(3):
        for low, high in ((0, centre[axis] - reach[axis]), (centre[axis] + reach[axis], size[axis])):
            first, last = int(np.ceil(max(low, 0))), int(np.floor(min(high, size[axis])))
            if (last - first) * spacing[axis] < least_mm:
                continue
            box = [slice(None)] * 3
            box[2 - axis] = slice(first, last)
            matrix = head.volume.ijk_to_ras.copy()
            matrix[:3, 3] += matrix[:3, axis] * first
            parts.append(Volume(np.ascontiguousarray(head.volume.array[tuple(box)]), matrix))
    return parts
