"""What other machines and users do to an image, done in training: it changes the grey and never adds to the fan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from USMRISynthesisLib.datasets.disturbance import cut_out, disturb
from USMRISynthesisLib.training.synthesis.disturbance import disturbed


def slices() -> torch.Tensor:
    images = torch.full((6, 3, 40, 48), -1.0)
    images[:, :, 4:36, 6:42] = torch.rand(6, 3, 32, 36, generator=torch.Generator().manual_seed(0)) - 0.5
    return images


def test_no_strength_changes_nothing() -> None:
    images = slices()
    assert torch.equal(disturbed(images, np.random.default_rng(0), 0.0), images)


def test_fan_only_loses_and_grey_stays_in_range() -> None:
    images, seen = slices(), []
    for seed in range(10):
        made = disturbed(images, np.random.default_rng(seed), 1.0)
        assert torch.isfinite(made).all() and float(made.min()) >= -1 and float(made.max()) <= 1
        assert not bool(((made > -1) & (images == -1)).any())
        seen.append(float((made > -1).float().mean() / (images > -1).float().mean()))
    assert 0.6 < np.mean(seen) <= 1 and min(seen) < 1
    assert not torch.equal(made, images)


def test_disturbance_repeats_by_the_generator() -> None:
    first, again = (disturbed(slices(), np.random.default_rng(7), 1.0) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("shape", [(12, 12), (12, 12, 12), (8, 10, 12)])
def test_volumes_and_frames_of_any_sides_are_disturbed(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    made = disturb(x, torch.ones(shape), np.random.default_rng(1))
    assert made.shape == x.shape and torch.isfinite(made).all() and float(made.std()) > 0


def test_cut_out_leaves_the_head_and_takes_its_surroundings() -> None:
    axis = torch.arange(16.0) - 7.5
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt() * 6 - 30  # a ball of 30 mm
    x = torch.full((32, 32, 32), 0.5)
    made = [cut_out(x, distance, np.random.default_rng(seed)) for seed in range(60)]
    changed = [image for image in made if not torch.equal(image, x)]
    assert 8 < len(changed) < 32
    for image in changed:
        assert float(image[16, 16, 16]) == 0.5 and float(image[0, 0, 0]) == -1
