"""Where the planes of DICOM images lie, and how they make up a volume (PS3.3 C.7.6.2, C.7.6.16.2, C.8.24.3).

Coordinates are LPS mm here; `Stack.ijk_to_ras` is RAS. Enhanced US Volumes whose planes lie in the frame of reference
of the volume, not of the patient, are taken the same way: their axes are then those of the probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import LPS_RAS
from USMRISynthesisLib.io.dicom_file import guarded, text, vector, whole
from USMRISynthesisLib.io.dicom_pixels import Stored, frame_count
from USMRISynthesisLib.io.header import check_geometry, wrong_geometry

# Two planes nearer than this lie in one place, mm.
_SAME_MM = 1e-2
# Gaps between planes may differ by this share of their mean (and by `_SAME_MM`).
_UNEVEN = 0.02
_ALIKE = 1e-3
_UNRELATED = "Export the series again, complete; or load it in 3D Slicer, which resamples it, and save it as NRRD."


@dataclass(frozen=True, eq=False)
class Plane:
    """A frame in its place.

    Attributes:
        position: (3,) LPS mm of the first pixel's centre.
        along: (2, 3) unit vectors along i (a row) and j (a column).
        sides: mm of a pixel along i and j.
        thickness: mm; 0 where it is not stated.
        order: sorts the planes of one place in time.
        stored: where the pixels are.
        values: what holds the rescale slope.
    """

    position: np.ndarray
    along: np.ndarray
    sides: np.ndarray
    thickness: float
    order: tuple[float, ...]
    stored: Stored
    values: Any

    @property
    def normal(self) -> np.ndarray:
        """(3,) perpendicular to the plane."""
        return np.asarray(np.cross(self.along[0], self.along[1]))


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes that make up a volume: `times[t][k]` is slice k at time point t; ijk_to_ras is (4, 4) in mm."""

    times: list[list[Plane]]
    ijk_to_ras: np.ndarray


def plane_of(header: Any, stored: Stored) -> Plane | None:
    """The plane of an image of one frame; None where it does not state its place."""
    order = tuple(float(whole(header, key)) for key in ("TemporalPositionIdentifier", "AcquisitionNumber"))
    return _plane(
        vector(header, "ImagePositionPatient", 3),
        vector(header, "ImageOrientationPatient", 6),
        header,
        (*order, float(whole(header, "InstanceNumber"))),
        stored,
        header,
    )


def planes_of(header: Any, stored: Stored) -> list[Plane]:
    """The planes of an enhanced image from its functional groups; empty where a frame does not state its place.

    Raises Refused where the frames show something else than tissue.
    """
    name = stored.path.name
    with guarded(name):
        shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
        frames = list(header.get("PerFrameFunctionalGroupsSequence") or [])
        if not frames or len(frames) != frame_count(header):
            return []
        planes = []
        for index, own in enumerate(frames):
            groups = [own, *shared]
            kind = text(_group(groups, "ImageDataTypeSequence"), "DataType")
            if kind not in ("", "TISSUE_INTENSITY"):
                raise Refused(
                    "colour",
                    f"{name} holds {kind.replace('_', ' ').lower()[:40]} beside or instead of the tissue.",
                    "Export the B-mode volume alone.",
                )
            patient = _group(groups, "PlanePositionSequence"), _group(groups, "PlaneOrientationSequence")
            volume = _group(groups, "PlanePositionVolumeSequence"), _group(groups, "PlaneOrientationVolumeSequence")
            position = vector(patient[0], "ImagePositionPatient", 3)
            orientation = vector(patient[1], "ImageOrientationPatient", 6)
            if position is None or orientation is None:
                position = vector(volume[0], "ImagePositionVolume", 3)
                orientation = vector(volume[1], "ImageOrientationVolume", 6)
            content = _group(groups, "FrameContentSequence")
            moment = vector(_group(groups, "TemporalPositionSequence"), "TemporalPositionTimeOffset", 1)
            time = whole(content, "TemporalPositionIndex") if moment is None else float(moment[0])
            measures = _group(groups, "PixelMeasuresSequence")
            values = _group(groups, "PixelValueTransformationSequence")
            one = _plane(
                position,
                orientation,
                measures,
                (float(time), float(index)),
                Stored(stored.path, header, index),
                values or header,
            )
            if one is None:
                return []
            planes.append(one)
        return planes


def stacked(planes: Sequence[Plane], name: str) -> Stack:
    """The volume that planes make up, ordered along their normal, as 3D Slicer and ITK do it.

    Args:
        planes: at least one; several in one place are time points.
        name: of the series, for the sentences.

    Raises:
        Refused: the planes are not parallel, not of one pixel size, not evenly spaced, or not alike at all times.
    """
    first = planes[0]
    for one in planes[1:]:
        if np.abs(one.along - first.along).max() > _ALIKE or np.abs(one.sides / first.sides - 1).max() > _ALIKE:
            raise Refused("geometry", f"The slices of {name} are not parallel or differ in pixel size.", _UNRELATED)
    heights = np.array([one.position @ first.normal for one in planes])
    order = np.argsort(heights, kind="stable")
    places: list[list[Plane]] = []
    for index in order:
        if places and heights[index] - places[-1][0].position @ first.normal < _SAME_MM:
            places[-1].append(planes[index])
        else:
            places.append([planes[index]])
    counts = {len(one) for one in places}
    if len(counts) != 1:
        raise Refused(
            "geometry", f"The slices of {name} do not make up a volume: some places have more than others.", _UNRELATED
        )
    times = [list(one) for one in zip(*(sorted(place, key=lambda plane: plane.order) for place in places), strict=True)]
    chosen = times[0]
    step = first.normal * (first.thickness or 1.0)
    if len(chosen) > 1:
        corners = np.array([one.position for one in chosen])
        step = (corners[-1] - corners[0]) / (len(chosen) - 1)
        expected = corners[0] + np.arange(len(chosen))[:, None] * step
        allowed = _SAME_MM + _UNEVEN * float(np.linalg.norm(step))
        gaps = np.diff(corners @ first.normal)
        if np.abs(corners - expected).max() > allowed or np.ptp(gaps) > 2 * allowed:
            raise Refused(
                "geometry",
                f"The slices of {name} are not evenly spaced ({gaps.min():.3g} to {gaps.max():.3g} mm apart), as where "
                "one is missing.",
                _UNRELATED,
            )
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([*(first.along * first.sides[:, None]), step])
    lps[:3, 3] = chosen[0].position
    matrix = np.asarray(LPS_RAS @ lps)
    check_geometry(matrix, name, flat=len(chosen) == 1)
    return Stack(times, matrix)


def _group(groups: Sequence[Any], key: str) -> Any:
    """The first item of a functional group, the frame's own before the shared one; an empty one where there is none."""
    for one in groups:
        found = one.get(key)
        if found:
            return found[0]
    return {}


def _plane(
    position: np.ndarray | None,
    orientation: np.ndarray | None,
    measures: Any,
    order: tuple[float, ...],
    stored: Stored,
    values: Any,
) -> Plane | None:
    if position is None or orientation is None:
        return None
    name = stored.path.name
    spacing = vector(measures, "PixelSpacing", 2)
    if spacing is None or not (spacing > 0).all():
        raise Refused(
            "spacing",
            f"{name} does not state the size of its pixels.",
            "Export it again; or load it in 3D Slicer, enter the spacing in the Volumes module, and save it as NRRD.",
        )
    along = orientation.reshape(2, 3)
    lengths = np.linalg.norm(along, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(along[0] @ along[1]) > 0.01:
        raise wrong_geometry(name)
    thickness = vector(measures, "SliceThickness", 1)
    thick = 0.0 if thickness is None or thickness[0] <= 0 else float(thickness[0])
    return Plane(position, along / lengths[:, None], spacing[::-1].copy(), thick, order, stored, values)
