"""Registration with SimpleITK: mutual information (Mattes), correlation, local correlation (ANTs)."""

from __future__ import annotations

import time

import SimpleITK as sitk

from USMRISynthesisLib.evaluation.registration.settings import (
    CORRELATION,
    LOCAL,
    MUTUAL,
    Registered,
    Settings,
    centre_of,
    mapped,
    mesh_of,
)


def register(
    fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, metric: str, settings: Settings, *, deformable: bool
) -> Registered:
    """The rigid transform from the fixed image (MR) to the moving one, from where they lie, and a B-spline after it.

    Every voxel of a level inside the mask is a sample, so that the same input gives the same result. Correlation is
    SimpleITK's, the square: an inverted contrast is as good to it. Raises RuntimeError: SimpleITK gives up.
    """
    started = time.process_time()
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(centre_of(mask))
    method = _method(metric, mask, settings)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=settings.step_mm,
        minStep=settings.least_step_mm,
        numberOfIterations=settings.iterations,
        relaxationFactor=settings.relaxation,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(rigid, inPlace=True)
    method.Execute(fixed, moving)
    seconds = time.process_time() - started
    if not deformable:
        return Registered(mapped(rigid), None, seconds)
    started = time.process_time()
    spline = sitk.BSplineTransformInitializer(fixed, mesh_of(fixed, settings.control_mm), order=3)
    method = _method(metric, mask, settings)
    method.SetOptimizerAsLBFGSB(1e-5, settings.spline_iterations, 5, 10 * settings.spline_iterations, 1e7)
    method.SetMovingInitialTransform(rigid)
    method.SetInitialTransform(spline, inPlace=True)
    method.Execute(fixed, moving)
    whole = sitk.CompositeTransform([rigid, spline])  # the last is applied first
    return Registered(mapped(rigid), mapped(whole), seconds, time.process_time() - started)


def _method(metric: str, mask: sitk.Image, settings: Settings) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    if metric == MUTUAL:
        method.SetMetricAsMattesMutualInformation(settings.bins)
    elif metric == CORRELATION:
        method.SetMetricAsCorrelation()
    elif metric == LOCAL:
        method.SetMetricAsANTSNeighborhoodCorrelation(settings.radius)
    else:
        raise ValueError(f"SimpleITK has no metric {metric!r}")
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(list(settings.shrink))
    method.SetSmoothingSigmasPerLevel(list(settings.smooth_mm))
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)  # parts of a sum in another order lead the optimiser elsewhere
    return method
