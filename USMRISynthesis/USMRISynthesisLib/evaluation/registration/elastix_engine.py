"""Registration with itk-elastix: mutual information (Mattes), correlation; deformable with its bending energy.

elastix has its own optimiser (adaptive stochastic gradient descent) and its own random samples, with a fixed seed. Its
pyramid, mask and control points are those of the other engines.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.evaluation.registration.settings import (
    CORRELATION,
    MUTUAL,
    Registered,
    Settings,
    centre_of,
    mapped,
)

_METRICS = {MUTUAL: "AdvancedMattesMutualInformation", CORRELATION: "AdvancedNormalizedCorrelation"}
Parameters = dict[str, list[str]]


def register(
    fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, metric: str, settings: Settings, *, deformable: bool
) -> Registered:
    """As `itk_engine.register`. Raises RuntimeError: elastix gives up; Failed: itk-elastix is not installed."""
    itk = _itk()
    images = [_to_itk(itk, fixed), _to_itk(itk, moving), _to_itk(itk, mask)]
    started = time.process_time()
    found = _run(itk, images, _rigid(metric, mask, settings), None)
    rigid = _euler(found.GetParameterMap(0))
    seconds = time.process_time() - started
    if not deformable:
        return Registered(mapped(rigid), None, seconds)
    started = time.process_time()
    bent = _run(itk, images, _spline(metric, settings), found)
    last = bent.GetParameterMap(bent.GetNumberOfParameterMaps() - 1)
    # elastix applies the initial transform first; of SimpleITK's composite the last is applied first.
    whole = sitk.CompositeTransform([_bspline(last), rigid])
    return Registered(mapped(rigid), mapped(whole), seconds, time.process_time() - started)


def _itk() -> Any:
    try:
        import itk

        itk.set_nthreads(1)
        itk.ElastixRegistrationMethod  # noqa: B018 - loads the module now
    except (ImportError, AttributeError) as error:
        raise Failed(
            "package", "The package itk-elastix is not installed.", 'Install it: pip install ".[registration]".'
        ) from error
    return itk


def _to_itk(itk: Any, image: sitk.Image) -> Any:
    made = itk.image_from_array(np.ascontiguousarray(sitk.GetArrayFromImage(image)))
    made.SetOrigin(image.GetOrigin())
    made.SetSpacing(image.GetSpacing())
    made.SetDirection(itk.matrix_from_array(np.array(image.GetDirection()).reshape(3, 3)))
    return made


def _run(itk: Any, images: list[Any], parameters: Parameters, initial: Any) -> Any:
    """The found transform parameters."""
    fixed, moving, mask = images
    listed = itk.ParameterObject.New()
    listed.AddParameterMap(parameters)
    method = itk.ElastixRegistrationMethod.New(fixed, moving)
    method.SetFixedMask(mask)
    method.SetParameterObject(listed)
    if initial is not None:
        method.SetInitialTransformParameterObject(initial)
    method.SetNumberOfThreads(1)
    method.SetLogToConsole(False)
    method.UpdateLargestPossibleRegion()
    return method.GetTransformParameterObject()


def _common(settings: Settings) -> Parameters:
    levels = len(settings.shrink)
    shrink = [str(factor) for factor in settings.shrink for _ in range(3)]
    return {
        "FixedInternalImagePixelType": ["float"],
        "MovingInternalImagePixelType": ["float"],
        "UseDirectionCosines": ["true"],
        "FixedImagePyramid": ["FixedGenericImagePyramid"],
        "MovingImagePyramid": ["MovingGenericImagePyramid"],
        "NumberOfResolutions": [str(levels)],
        "FixedImagePyramidRescaleSchedule": shrink,
        "MovingImagePyramidRescaleSchedule": ["1"] * (3 * levels),
        "FixedImagePyramidSmoothingSchedule": [str(s) for s in settings.smooth_mm for _ in range(3)],
        "MovingImagePyramidSmoothingSchedule": [str(s) for s in settings.smooth_mm for _ in range(3)],
        "Interpolator": ["LinearInterpolator"],
        "ResampleInterpolator": ["FinalLinearInterpolator"],
        "Resampler": ["DefaultResampler"],
        "ImageSampler": ["RandomCoordinate"],
        "NumberOfSpatialSamples": [str(settings.elastix_samples)],
        "NewSamplesEveryIteration": ["true"],
        "MaximumNumberOfSamplingAttempts": ["8"],
        "RandomSeed": [str(settings.seed)],
        "Optimizer": ["AdaptiveStochasticGradientDescent"],
        "MaximumNumberOfIterations": [str(settings.elastix_iterations)],
        "NumberOfHistogramBins": [str(settings.bins)],
        "ErodeMask": ["false"],
        "UseMultiThreadingForMetrics": ["false"],
        "WriteResultImage": ["false"],
        "HowToCombineTransforms": ["Compose"],
        "RequiredRatioOfValidSamples": ["0.05"],
    }


def _rigid(metric: str, mask: sitk.Image, settings: Settings) -> Parameters:
    return _common(settings) | {
        "Registration": ["MultiResolutionRegistration"],
        "Metric": [_METRICS[metric]],
        "Transform": ["EulerTransform"],
        "AutomaticScalesEstimation": ["true"],
        "AutomaticTransformInitialization": ["false"],
        "CenterOfRotationPoint": [repr(float(value)) for value in centre_of(mask)],
        "MaximumStepLength": [str(settings.step_mm)],
    }


def _spline(metric: str, settings: Settings) -> Parameters:
    return _common(settings) | {
        "Registration": ["MultiMetricMultiResolutionRegistration"],
        "MaximumNumberOfIterations": [str(settings.elastix_iterations // 2)],
        "Metric": [_METRICS[metric], "TransformBendingEnergyPenalty"],
        "Metric0Weight": ["1"],
        "Metric1Weight": [str(settings.bending)],
        "Transform": ["BSplineTransform"],
        "FinalGridSpacingInPhysicalUnits": [str(settings.control_mm)] * 3,
        "GridSpacingSchedule": ["1"] * len(settings.shrink),
    }


def _numbers(parameters: Any, key: str) -> list[float]:
    return [float(value) for value in parameters[key]]


def _euler(parameters: Any) -> sitk.Transform:
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(_numbers(parameters, "CenterOfRotationPoint"))
    rigid.SetParameters(_numbers(parameters, "TransformParameters"))
    return rigid


def _bspline(parameters: Any) -> sitk.Transform:
    spline = sitk.BSplineTransform(3, 3)
    direction = np.array(_numbers(parameters, "GridDirection")).reshape(3, 3)
    spline.SetFixedParameters(
        [
            *_numbers(parameters, "GridSize"),
            *_numbers(parameters, "GridOrigin"),
            *_numbers(parameters, "GridSpacing"),
            *direction.T.ravel().tolist(),  # elastix writes the matrix by columns
        ]
    )
    spline.SetParameters(_numbers(parameters, "TransformParameters"))
    return spline
