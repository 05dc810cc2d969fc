"""Fit slice views to the head: the volume's own planes, through the middle of the head, filled by it.

New views, and views whose layout has changed, do not keep what is set immediately: Slicer's layout sets their size in
the next turn of the event loop, and the slider of a new view then sets the slice offset to 0. `Settling` fits them
again until that no longer happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import qt
import slicer
import vtk

from USMRISynthesisScene.nodes.nodes import is_frame

MARGIN = 1.2  # times the extent of the head inside the skull: space for the skull and the texts
_QUIET_TURNS = 2  # of the event loop without a change: the view has settled
MOST_TURNS = 20  # after that, something else keeps changing the layout


@dataclass(frozen=True)
class Region:
    """A box of voxels in world coordinates (RAS, mm, parent transforms applied).

    Attributes:
        centre: (3,).
        voxel: (3,), the centre of a voxel at the centre: a slice through it is not interpolated.
        corners: (8, 3).
    """

    centre: np.ndarray
    voxel: np.ndarray
    corners: np.ndarray


def head_region(mr: slicer.vtkMRMLScalarVolumeNode) -> Region:
    """The box around the voxels of an MR-like volume that are not 0; the whole volume where all are 0.

    A result is 0 outside the part of the head in the fan, so these voxels are a mask of the head.
    """
    filled = slicer.util.arrayFromVolume(mr) != 0
    lower, upper = np.zeros(3), np.array(filled.shape[::-1]) - 1.0
    for axis in range(3):  # i, j, k
        where = np.flatnonzero(filled.any(axis=tuple(one for one in range(3) if one != 2 - axis)))
        if len(where):
            lower[axis], upper[axis] = where[0], where[-1]
    sides = np.array([lower - 0.5, upper + 0.5])
    corners = [(sides[i, 0], sides[j, 1], sides[k, 2]) for k in (0, 1) for j in (0, 1) for i in (0, 1)]
    middle = (lower + upper) / 2
    points = _to_world(mr, np.array([middle, np.floor(middle), *corners]))
    return Region(points[0], points[1], points[2:])


def fit_views(widgets: Sequence[Any], volume: slicer.vtkMRMLScalarVolumeNode, region: Region, plane: str) -> None:
    """Show the region in views of one plane of the volume, all at the same zoom.

    Args:
        volume: the volume whose own planes are shown; those of an oblique volume are not anatomical planes.
        plane: Axial, Coronal or Sagittal; a frame is shown in its own plane instead.
    """
    mm_per_pixel = 0.0
    for widget in widgets:
        slice_node = widget.mrmlSliceNode()
        slice_node.SetOrientation(plane)
        if is_frame(volume):
            _align_to_frame(slice_node, volume)
        else:
            slice_node.RotateToVolumePlane(volume)
        axes = slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS())[:3, :2]
        extent = 2 * np.abs((region.corners - region.centre) @ axes).max(axis=0)
        mm_per_pixel = max(mm_per_pixel, float(np.max(MARGIN * extent / _pixels(slice_node))))
    for widget in widgets:
        slice_node = widget.mrmlSliceNode()
        widget.sliceLogic().FitSliceToBackground()  # its thickness and origin are right
        modified = slice_node.StartModify()
        slice_node.SetFieldOfView(*(mm_per_pixel * _pixels(slice_node)), slice_node.GetFieldOfView()[2])
        normal = slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS())[:3, 2]
        place = region.centre + ((region.voxel - region.centre) @ normal) * normal
        for row in range(3):
            slice_node.GetSliceToRAS().SetElement(row, 3, place[row])
        slice_node.UpdateMatrices()
        slice_node.EndModify(modified)


class Settling:
    """Fits views now, and again in the next turns of the event loop when the layout or a new slider undid it.

    It ends when the views did not change for some turns, when the user has changed them, or when `fit` returns False.
    It runs no event loop itself, so any signal may start it.

    Args:
        fit: fits the views; returns False where they, or their volumes, no longer exist.
        slice_nodes: the views that it fits.
    """

    def __init__(self, fit: Callable[[], bool], slice_nodes: Sequence[slicer.vtkMRMLSliceNode]) -> None:
        self._fit, self._slice_nodes = fit, slice_nodes
        self._quiet = self._turns = 0
        self.pending = True
        self._fit_again()
        self._wait()

    def stop(self) -> None:
        """Leave the views as they are from now on."""
        self.pending = False

    def _wait(self) -> None:
        qt.QTimer.singleShot(0, self._on_turn)

    def _on_turn(self) -> None:
        if not self.pending:
            return
        self._turns += 1
        now = [_State.of(one) for one in self._slice_nodes]
        pairs = list(zip(self._fitted, now, strict=True))
        if any(new.is_undone(old) for old, new in pairs):
            self._quiet = 0
            self._fit_again()
        elif any(new != old for old, new in pairs):
            self.stop()  # the user has scrolled, zoomed or rotated a view
        else:
            self._quiet += 1
        if self._quiet == _QUIET_TURNS or self._turns == MOST_TURNS:
            self.stop()
        if self.pending:
            self._wait()

    def _fit_again(self) -> None:
        if not self._fit():
            self.stop()
        self._fitted = [_State.of(one) for one in self._slice_nodes]


@dataclass(frozen=True)
class _State:
    """Size and position of a view, rounded below what is visible."""

    size: tuple[int, ...]
    field: tuple[float, ...]
    place: tuple[float, ...]
    offset: float

    @classmethod
    def of(cls, slice_node: slicer.vtkMRMLSliceNode) -> _State:
        place = slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS())[:3].ravel()
        return cls(
            tuple(slice_node.GetDimensions()),
            tuple(round(one, 3) for one in slice_node.GetFieldOfView()),
            tuple(round(float(one), 3) for one in place),
            round(slice_node.GetSliceOffset(), 3),
        )

    def is_undone(self, before: _State) -> bool:
        """Whether the layout (a new size) or the slider of a new view (offset 0) has undone the fit."""
        return self.size != before.size or (self.offset == 0 != before.offset and self.field == before.field)


def _pixels(slice_node: slicer.vtkMRMLSliceNode) -> np.ndarray:
    """(2,) width and height of a view, at least 1: they are 0 in a minimised window."""
    return np.maximum(slice_node.GetDimensions()[:2], 1)


def _to_world(volume: slicer.vtkMRMLVolumeNode, ijk: np.ndarray) -> np.ndarray:
    """(N, 3) voxel coordinates to world coordinates, through parent transforms of any kind."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    local = ijk @ slicer.util.arrayFromVTKMatrix(matrix)[:3, :3].T + slicer.util.arrayFromVTKMatrix(matrix)[:3, 3]
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volume.GetParentTransformNode(), None, transform)
    return np.array([transform.TransformPoint(point) for point in local])


def _align_to_frame(slice_node: slicer.vtkMRMLSliceNode, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Put the slice into the plane of a frame, i to the right and j downwards."""
    origin, right, down = _to_world(volume, np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0)], dtype=float))
    right, up = right - origin, origin - down
    right, up = right / np.linalg.norm(right), up / np.linalg.norm(up)
    slice_node.SetSliceToRASByNTP(*np.cross(right, up), *right, *origin, 0)
