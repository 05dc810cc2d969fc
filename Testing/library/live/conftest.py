"""Real frames for the live tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from USMRISynthesisLib.io.volume import Volume

SAMPLE = Path(__file__).resolve().parents[3] / "Resources" / "SampleData" / "fetal-head-hc18.nrrd"


@pytest.fixture(scope="session")
def real_frame() -> Volume:
    """The bundled real frame in a picture of 640 x 480 pixels."""
    sample = Volume.read(SAMPLE)
    size = 640, 480
    array = np.zeros((1, *size[::-1]), np.uint8)
    grown = ndimage.zoom(sample.array[0], min(size[1] / sample.shape[1], size[0] / sample.shape[2]), order=1)
    rows, columns = ((all - part) // 2 for all, part in zip(size[::-1], grown.shape, strict=True))
    array[0, rows : rows + grown.shape[0], columns : columns + grown.shape[1]] = grown
    matrix = sample.ijk_to_ras.copy()
    matrix[:3, :2] *= sample.shape[2] / grown.shape[1]
    return Volume(array, matrix)


@pytest.fixture(scope="session")
def moved(real_frame: Volume) -> Callable[..., tuple[Volume, np.ndarray]]:
    """`moved(right, down, degrees, grain, seed)`: the frame moved in its plane, with other speckle, and (4, 4) from its
    pixels to those of the frame at rest."""

    def make(right: float, down: float, degrees: float, grain: float = 0.3, seed: int = 0) -> tuple[Volume, np.ndarray]:
        turn = np.deg2rad(degrees)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])  # rows first
        middle = (np.array(real_frame.shape[1:]) - 1) / 2
        offset = middle - rotation @ (middle + np.array([down, right]))
        image = ndimage.affine_transform(real_frame.array[0].astype(float), rotation, offset, order=1)
        speckle = ndimage.gaussian_filter(np.random.default_rng(seed).rayleigh(0.8, image.shape), 1.0)
        image *= 1 + grain * (speckle - speckle.mean()) / speckle.std()
        matrix = np.eye(4)
        matrix[:2, :2], matrix[:2, 3] = rotation[::-1, ::-1], offset[::-1]
        return real_frame.with_values(np.clip(image, 0, 255).astype(np.uint8)[None]), matrix

    return make
