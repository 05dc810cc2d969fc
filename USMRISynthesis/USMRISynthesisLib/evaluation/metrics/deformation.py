"""The deformation score: how far a free-form registration must deform a synthesised slice to fit the true one.

Jiao et al. (2019) report "the average Jacobian of the deformation, normalised", without details; the mean determinant
stays near 1 for any deformation, so this score is the mean of |ln det J| over the brain.  A featureless image hardly
moves and would score well.  So a slice counts only if, after registration, it shares at least as much information with
the truth as the mean MR; otherwise it is a failure and gets the worst score of that slice. None is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

MESH = (8, 8)
ITERATIONS = 100
LIMITS = (0.05, 20.0)  # of det J, before its logarithm
_BINS = 32


@dataclass(frozen=True)
class DeformationScore:
    """score: mean |ln det J|; jacobian: mean |det J - 1|; folds: share of det J <= 0; information: Mattes MI, nats."""

    score: float
    jacobian: float
    folds: float
    information: float


def register(made: np.ndarray, truth: np.ndarray, brain: np.ndarray) -> DeformationScore:
    """Affine, then B-spline registration of `made` to `truth` (both (H, W), 0-1); only the second is scored.

    brain (H, W) bool: where it is scored. Same input, same numbers to four digits: no sampling, one thread.
    """
    fixed, moving = (sitk.GetImageFromArray(np.asarray(image, np.float32)) for image in (truth, made))
    centred = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(2), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    affine = _method()
    affine.SetOptimizerAsGradientDescentLineSearch(1.0, 50, 1e-5, 10)
    affine.SetOptimizerScalesFromPhysicalShift()
    affine.SetInitialTransform(centred, inPlace=True)
    moved = sitk.Resample(moving, fixed, _run(affine, fixed, moving, centred), sitk.sitkLinear, 0.0)
    spline = sitk.BSplineTransformInitializer(fixed, list(MESH), order=3)
    bend = _method()
    bend.SetOptimizerAsLBFGSB(1e-5, ITERATIONS, 5, 1000, 1e7)
    bend.SetInitialTransform(spline, inPlace=True)
    field = _run(bend, fixed, moved, spline)
    displacement = sitk.TransformToDisplacementField(
        field, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    )
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(displacement))[brain]
    final = sitk.GetArrayFromImage(sitk.Resample(moved, fixed, field, sitk.sitkLinear, 0.0))
    return DeformationScore(
        float(np.abs(np.log(determinant.clip(*LIMITS))).mean()),
        float(np.abs(determinant - 1).mean()),
        float((determinant <= 0).mean()),
        mutual_information(final, truth, brain),
    )


def mutual_information(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Of two images (0-1) inside a mask, nats, from a joint histogram of 32 bins a side."""
    joint, _, _ = np.histogram2d(a[mask], b[mask], bins=_BINS, range=[[0, 1], [0, 1]])
    share = joint / max(joint.sum(), 1)
    apart = share.sum(axis=1, keepdims=True) * share.sum(axis=0, keepdims=True)
    some = share > 0
    return float((share[some] * np.log(share[some] / apart[some])).sum())


def penalised_scores(scores: Mapping[str, DeformationScore], mean: str = "mean") -> dict[str, float]:
    """Each method's score on one slice; the worst of all for one with less information about the truth than the mean
    MR."""
    worst = max(value.score for value in scores.values())
    least = scores[mean].information
    return {name: value.score if value.information >= least else worst for name, value in scores.items()}


def _method() -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)  # parts of a sum in another order lead the optimiser elsewhere
    return method


def _run(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform
) -> sitk.Transform:
    """The transform, or the start, which deforms nothing, if nothing can be registered (an empty image)."""
    try:
        return method.Execute(fixed, moving)
    except RuntimeError:
        return start
