"""Normalised gradient fields, which neither SimpleITK nor elastix has; and correlation as a check of this engine.

The measure of Haber and Modersitzki (2006): 1 minus the mean of <n_f, n_m>^2 over the mask, where n = grad I /
sqrt(|grad I|^2 + eta^2) and eta is the mean length of the gradient inside the mask. The moving image is moved first
and its gradient taken on the fixed grid, so that a turn of the image turns its gradients. Levels, mask, steps and
control points are those of `itk_engine.py`; the measure's slopes come from torch. Correlation is squared as
SimpleITK's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.evaluation.registration.settings import (
    CORRELATION,
    GRADIENTS,
    Registered,
    Settings,
    centre_of,
    mapped,
    mesh_of,
)

_LEAST_OVERLAP = 0.05  # of the mask's voxels, as elastix wants it
_REACH_MM = 40.0  # a turn of 1 moves the head's surface so far


def register(
    fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, metric: str, settings: Settings, *, deformable: bool
) -> Registered:
    """As `itk_engine.register`, for GRADIENTS and CORRELATION. Raises RuntimeError: nothing to compare is left."""
    if metric not in (CORRELATION, GRADIENTS):
        raise ValueError(f"this engine has no metric {metric!r}")
    levels = [
        _Level(fixed, mask, moving, metric, *level) for level in zip(settings.shrink, settings.smooth_mm, strict=True)
    ]
    centre = torch.tensor(centre_of(mask), dtype=torch.float32)
    started = time.process_time()
    values = torch.zeros(6)
    for level in levels:
        values = _descend(partial(level.rigid_cost, centre), values, settings)
    rigid = _to_itk(values, centre)
    seconds = time.process_time() - started
    if not deformable:
        return Registered(mapped(rigid), None, seconds)
    started = time.process_time()
    spline = _spline(fixed, mesh_of(fixed, settings.control_mm))
    control = torch.zeros((3, *(int(n) for n in spline.GetFixedParameters()[2::-1])))
    for level in levels:
        weights = [w.to(torch.float32) for w in _spline_weights(spline, level.grid)]
        control = _bend(level, weights, control, values, centre, settings)
    spline.SetParameters(control.reshape(-1).double().tolist())
    whole = sitk.CompositeTransform([rigid, spline])
    return Registered(mapped(rigid), mapped(whole), seconds, time.process_time() - started)


class _Level:
    """One level of the pyramid: the fixed image's grid, and the measure of moved points on it."""

    def __init__(
        self, fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, metric: str, shrink: int, smooth_mm: float
    ) -> None:
        # Only the grid is Shrink's: its voxels are those nearest to the new places, up to half a voxel beside them.
        grid, smoothed = sitk.Shrink(fixed, [shrink] * 3), sitk.SmoothingRecursiveGaussian(fixed, smooth_mm)
        self.grid = sitk.Resample(smoothed, grid, sitk.Transform(), sitk.sitkLinear)
        inside = sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        self.inside = torch.from_numpy(sitk.GetArrayFromImage(inside) > 0)
        if int(self.inside.sum()) < 8:
            raise RuntimeError("the mask holds no voxel of this level")
        self.gradients = metric == GRADIENTS
        self.source = torch.from_numpy(sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(moving, smooth_mm)))
        self.points = _points(self.grid)
        direction = np.array(moving.GetDirection()).reshape(3, 3) * np.array(moving.GetSpacing())
        back = np.linalg.inv(direction)
        size = np.array(moving.GetSize())
        # LPS to grid_sample's coordinates, -1 and 1 at the middles of the outermost voxels.
        self.matrix = torch.from_numpy(back * (2 / (size - 1))[:, None]).float()
        self.offset = torch.from_numpy(-(back @ np.array(moving.GetOrigin())) * (2 / (size - 1)) - 1).float()
        image = torch.from_numpy(sitk.GetArrayFromImage(self.grid))
        self.wanted = self._compared(image)

    def cost(self, points: Tensor) -> Tensor:
        """Of points (k, j, i, 3) LPS to which the grid's voxels are moved. Raises RuntimeError: they left the image."""
        where = points @ self.matrix.T + self.offset
        if float((where.detach()[self.inside].abs() <= 1).all(dim=1).float().mean()) < _LEAST_OVERLAP:
            raise RuntimeError("the images do not overlap")
        moved = F.grid_sample(self.source[None, None], where[None], align_corners=True)[0, 0]
        found = self._compared(moved)
        if self.gradients:
            return 1 - (found * self.wanted).sum(0).square().mean()
        product = (found * self.wanted).mean()
        return 1 - product * product.abs()

    def rigid_cost(self, centre: Tensor, values: Tensor) -> Tensor:
        """Of the grid's voxels moved by six numbers."""
        return self.cost(_rigid(values, centre, self.points))

    def _compared(self, image: Tensor) -> Tensor:
        """Inside the mask: the normalised gradients (3, n), or the grey values (n,) with mean 0 and variance 1."""
        if not self.gradients:
            values = image[self.inside]
            values = values - values.mean()
            return values / (values.square().mean().sqrt() + 1e-6)
        steps = tuple(float(s) for s in self.grid.GetSpacing()[::-1])
        field = torch.stack(torch.gradient(image, spacing=steps))[:, self.inside]
        length = field.square().sum(0)
        eta = (length + 1e-12).sqrt().mean()
        return field / (length + eta * eta + 1e-12).sqrt()


def _points(image: sitk.Image) -> Tensor:
    """(k, j, i, 3) LPS mm of an image's voxels."""
    i, j, k = (torch.arange(n, dtype=torch.float64) for n in image.GetSize())
    index = torch.stack(torch.meshgrid(k, j, i, indexing="ij")[::-1], dim=-1)
    matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return (index @ torch.from_numpy(matrix).T + torch.tensor(image.GetOrigin())).float()


def _rotation(values: Tensor) -> Tensor:
    x, y, z = (values[:3] / _REACH_MM).unbind()
    zero = torch.zeros(())
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return torch.linalg.matrix_exp(skew)


def _rigid(values: Tensor, centre: Tensor, points: Tensor) -> Tensor:
    return (points - centre) @ _rotation(values).T + centre + values[3:]


def _descend(cost: Callable[[Tensor], Tensor], start: Tensor, settings: Settings) -> Tensor:
    """Steps of a fixed length along the gradient, shorter where it turns back, as ITK's regular-step descent."""
    values, step, before = start.clone(), settings.step_mm, torch.zeros_like(start)
    for _ in range(settings.iterations):
        now = values.clone().requires_grad_()
        (slope,) = torch.autograd.grad(cost(now), now)
        length = float(slope.norm())
        if not np.isfinite(length):
            raise RuntimeError("the measure is not a number")
        if length < 1e-10 or step < settings.least_step_mm:
            break
        if float(slope @ before) < 0:
            step *= settings.relaxation
        before = slope
        values = values - step * slope / length
    return values


def _to_itk(values: Tensor, centre: Tensor) -> sitk.Transform:
    rigid = sitk.VersorRigid3DTransform()
    rigid.SetCenter(centre.double().tolist())
    rigid.SetMatrix(_rotation(values.double()).ravel().tolist(), 1e-6)
    rigid.SetTranslation(values[3:].double().tolist())
    return rigid


def _spline(image: sitk.Image, mesh: list[int]) -> sitk.BSplineTransform:
    """A cubic B-spline over an image along the image's own axes; SimpleITK's initializer may turn them."""
    direction = np.array(image.GetDirection()).reshape(3, 3)
    spacing = (np.array(image.GetSize()) - 1) * np.array(image.GetSpacing()) / mesh
    origin = np.array(image.GetOrigin()) - direction @ spacing
    spline = sitk.BSplineTransform(3, 3)
    spline.SetFixedParameters([*(n + 3.0 for n in mesh), *origin, *spacing, *direction.ravel()])
    return spline


def _spline_weights(spline: sitk.BSplineTransform, grid: sitk.Image) -> list[Tensor]:
    """(n, control points) for the axes k, j, i: cubic B-spline weights of a grid with the spline's own directions."""
    size = spline.GetFixedParameters()
    count, origin, spacing = size[:3], np.array(size[3:6]), size[6:9]
    direction = np.array(grid.GetDirection()).reshape(3, 3)
    first = direction.T @ (np.array(grid.GetOrigin()) - origin)
    found = []
    for axis in (2, 1, 0):
        along = (first[axis] + np.arange(grid.GetSize()[axis]) * grid.GetSpacing()[axis]) / spacing[axis]
        apart = np.abs(along[:, None] - np.arange(int(count[axis])))
        near = 2 / 3 - apart**2 + apart**3 / 2
        found.append(torch.from_numpy(np.where(apart < 1, near, np.maximum(2 - apart, 0) ** 3 / 6)))
    return found


def _bend(
    level: _Level, weights: list[Tensor], control: Tensor, values: Tensor, centre: Tensor, settings: Settings
) -> Tensor:
    """The control points' displacements (3, k, j, i) in mm that fit best, climbed by L-BFGS."""
    now = control.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([now], max_iter=settings.spline_iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        shift = torch.einsum("kc,jb,ia,dcba->kjid", *weights, now)
        # Of a mean over many voxels one control point's slope is too small for the optimiser's own limits.
        cost = 1000 * level.cost(_rigid(values, centre, level.points + shift))
        cost.backward()
        return cost

    optimiser.step(closure)
    found = now.detach()
    if not bool(torch.isfinite(found).all()):
        raise RuntimeError("the measure is not a number")
    return found
