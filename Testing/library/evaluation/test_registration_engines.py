"""Every metric recovers a known displacement in its own pair of images, on awkward grids; failures are counted."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import SimpleITK as sitk
from factories.registration import displacement, grid, head, volume
from scipy import ndimage
from USMRISynthesisLib.evaluation.registration import elastix_engine, itk_engine, methods, own_engine
from USMRISynthesisLib.evaluation.registration.settings import (
    CORRELATION,
    GRADIENTS,
    LOCAL,
    MUTUAL,
    Settings,
    coarse,
    mapped,
    to_image,
)
from USMRISynthesisLib.evaluation.registration.targets import apply, bend
from USMRISynthesisLib.io.volume import Volume

SMALL = Settings(shrink=(3, 1), smooth_mm=(3.0, 1.2), iterations=60, elastix_iterations=150, spline_iterations=10)
elastix_only = pytest.mark.skipif(
    importlib.util.find_spec("itk") is None, reason="itk-elastix is not installed (extra `registration`)"
)


def other_contrast(image: np.ndarray) -> np.ndarray:
    """What only mutual information and gradients see as the same: dark for bright and bright for dark."""
    return np.where(image > 0, 1.1 - image, 0)


def shaded(image: np.ndarray) -> np.ndarray:
    """The same image under a strong bias field."""
    return image * np.linspace(0.4, 2.0, image.shape[2])


def pair(change=lambda image: image) -> tuple[sitk.Image, sitk.Image, sitk.Image, np.ndarray, np.ndarray]:
    """Fixed image, mask, moving image; points of the fixed one and their true places."""
    image, inside = head()
    there = apply(grid(), np.argwhere(inside)[::200, ::-1])
    start = displacement(there.mean(axis=0))
    fixed, mask = Volume(image, start @ grid()), Volume(inside.astype(np.uint8), start @ grid())
    moving = volume(change(image))
    return to_image(fixed), sitk.Cast(to_image(mask), sitk.sitkUInt8), to_image(moving), apply(start, there), there


def error(mapping, points: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(mapping(points) - true, axis=1).mean())


@pytest.mark.parametrize(
    ("register", "metric", "change"),
    [
        (itk_engine.register, MUTUAL, other_contrast),
        (itk_engine.register, CORRELATION, lambda image: image),
        (itk_engine.register, LOCAL, shaded),
        (own_engine.register, GRADIENTS, other_contrast),
        (own_engine.register, CORRELATION, lambda image: image),
        pytest.param(elastix_engine.register, MUTUAL, other_contrast, marks=elastix_only),
        pytest.param(elastix_engine.register, CORRELATION, lambda image: image, marks=elastix_only),
    ],
)
def test_each_metric_recovers_a_small_displacement_in_its_own_pair(register, metric, change) -> None:
    fixed, mask, moving, points, true = pair(change)
    assert np.linalg.norm(points - true, axis=1).mean() > 4
    found = register(fixed, mask, moving, metric, SMALL, deformable=False)
    assert error(found.rigid, points, true) < 0.5
    assert found.deformable is None


@pytest.mark.parametrize(
    ("register", "metric"),
    [
        (itk_engine.register, CORRELATION),
        (own_engine.register, GRADIENTS),
        pytest.param(elastix_engine.register, CORRELATION, marks=elastix_only),
    ],
)
def test_a_deformable_registration_follows_a_smooth_bend(register, metric) -> None:
    image, inside = head()
    there = apply(grid(), np.argwhere(inside)[::200, ::-1])
    moved = bend(there, np.random.default_rng(3), 2.5)
    world = apply(grid(), np.argwhere(np.ones(image.shape, bool))[:, ::-1])
    source = apply(np.linalg.inv(grid()), moved(world)).T[::-1]
    bent = ndimage.map_coordinates(image, source, order=1).reshape(image.shape)
    fixed, mask = to_image(volume(bent)), sitk.Cast(to_image(volume(inside.astype(np.uint8))), sitk.sitkUInt8)
    found = register(fixed, mask, to_image(volume(image)), metric, SMALL, deformable=True)
    rigid, deformed = error(found.rigid, there, moved(there)), error(found.deformable, there, moved(there))
    assert rigid > 1.0
    assert deformed < 0.75 * rigid


def test_the_same_input_gives_the_same_result() -> None:
    fixed, mask, moving, points, _ = pair(other_contrast)
    for register, metric in ((itk_engine.register, MUTUAL), (own_engine.register, GRADIENTS)):
        first, second = (register(fixed, mask, moving, metric, SMALL, deformable=False) for _ in range(2))
        assert first.rigid(points) == pytest.approx(second.rigid(points), abs=1e-9)


@pytest.mark.parametrize("engine", [methods.ITK, methods.OWN, pytest.param(methods.ELASTIX, marks=elastix_only)])
def test_a_registration_that_cannot_be_done_is_counted_as_a_failure(engine: str) -> None:
    """The images lie far apart, or hold nothing: no exception, and the points stay where they started."""
    fixed, mask, _, points, _ = pair()
    image, _ = head()
    far = grid()
    far[:3, 3] += 900
    method = methods.Method(methods.US, GRADIENTS if engine == methods.OWN else MUTUAL, engine)
    found, failed = methods.run(method, fixed, mask, to_image(Volume(image, far)), SMALL, deformable=False)
    assert failed
    assert found.rigid(points) == pytest.approx(points)


def test_an_engine_refuses_a_metric_that_it_does_not_have() -> None:
    fixed, mask, moving, _, _ = pair()
    with pytest.raises(ValueError, match="no metric"):
        itk_engine.register(fixed, mask, moving, GRADIENTS, SMALL, deformable=False)
    with pytest.raises(ValueError, match="no metric"):
        own_engine.register(fixed, mask, moving, MUTUAL, SMALL, deformable=False)


def test_an_image_keeps_its_place_on_an_oblique_left_handed_grid() -> None:
    made = volume(head()[0])
    image = to_image(made)
    x, y, z = image.TransformIndexToPhysicalPoint((3, 7, 11))
    assert np.linalg.det(made.ijk_to_ras[:3, :3]) < 0
    assert (-x, -y, z) == pytest.approx(apply(grid(), np.array([3, 7, 11]))[0].tolist())


def test_averaging_voxels_moves_nothing() -> None:
    image, _ = head()
    made = volume(ndimage.gaussian_filter(image, 2))
    small = coarse(made, 3.0)
    assert small.shape == (22, 26, 24)
    assert coarse(made, 1.0) is made

    def middle(one: Volume) -> np.ndarray:
        voxels = np.argwhere(one.array > -1)[:, ::-1]
        return np.average(apply(one.ijk_to_ras, voxels), axis=0, weights=one.array.ravel())

    assert middle(small) == pytest.approx(middle(made), abs=0.05)


def test_a_transform_maps_points_in_ras() -> None:
    shift = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    assert mapped(shift)(np.array([[10.0, 20.0, 30.0]])) == pytest.approx(np.array([[9.0, 18.0, 33.0]]))
