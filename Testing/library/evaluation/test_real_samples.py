"""Two-sample test of insides and kernel distance: a coin for one distribution, certain for two, no outlines seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.metrics.image import kernel_distance_of
from USMRISynthesisLib.evaluation.metrics.scattering import scattering
from USMRISynthesisLib.evaluation.real import insides, kernel


def speckle(seed: int, grain: float, shape: tuple[int, ...] = (160, 160)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fine = ndimage.gaussian_filter(rng.standard_normal((2, *shape)), (0, *[grain] * len(shape)))
    found = np.hypot(*fine)
    return np.clip(60 * found / found.mean(), 1, 255).astype(np.uint8)


def patches(seeds: range, grain: float, name: str) -> insides.Patches:
    fan, axes = np.ones((160, 160), bool), np.array([34.0, 44.0])
    made = {f"{name}{seed}": insides.frame_patches(speckle(seed, grain), fan, axes, 0.5) for seed in seeds}
    return insides._joined(made)


def test_one_kind_of_speckle_is_a_coin_and_two_are_told_apart() -> None:
    real, same, coarse = patches(range(6), 1.0, "a"), patches(range(20, 26), 1.0, "b"), patches(range(40, 46), 1.6, "c")
    assert insides.cross_validated_auc(real, same, 3) == pytest.approx(0.5, abs=0.17)
    assert insides.cross_validated_auc(real, coarse, 3) > 0.97


def test_a_fetus_with_a_texture_of_its_own_is_never_in_training_and_test() -> None:
    """Each subject has its own grain: a classifier that meets a subject again would tell the sides apart."""
    rng = np.random.default_rng(5)

    def side(name: str) -> insides.Patches:
        own = rng.standard_normal((8, 30))
        values = np.concatenate([row + 0.05 * rng.standard_normal((20, 30)) for row in own])
        return insides.Patches(values, np.repeat([f"{name}{n}" for n in range(8)], 20))

    found = [insides.cross_validated_auc(side("a"), side("b"), 4) for _ in range(6)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.15)


def test_patches_lie_within_head_and_fan() -> None:
    axes = np.array([34.0, 44.0])
    fan = np.ones((160, 160), bool)
    us = speckle(1, 1.0)
    inside = insides.frame_patches(us, fan, axes, 0.5)
    fan[:, :80] = False
    half = insides.frame_patches(us, fan, axes, 0.5)
    assert 0 < len(half) < len(inside)


def test_volumes_give_patches_of_their_inside() -> None:
    us = speckle(2, 1.0, (160, 160, 160))
    found = insides.volume_patches(us, np.ones(us.shape, bool), 0.5)
    assert 20 < len(found) <= 40 and np.isfinite(found).all()


def test_one_fetus_is_not_enough(tmp_path: Path) -> None:
    one = insides.Patches(np.zeros((3, 2)), np.array(["a"] * 3))
    with pytest.raises(Refused, match="Two fetuses and two simulated heads"):
        insides.cross_validated_auc(one, one, 5)
    with pytest.raises(Refused, match="holds no simulated cases"):
        insides.simulated_patches(tmp_path, 0.5)


def test_features_see_scale_and_direction_and_not_place_or_outline() -> None:
    y, x = np.mgrid[:64, :64]
    step = 2 * np.pi / 64
    fine, coarse, turned = (np.sin(12 * step * x), np.sin(6 * step * x), np.sin(12 * step * y))
    moved = np.sin(12 * step * x + 1.0)
    a, b, c, d = scattering(np.stack([fine, coarse, turned, moved]))
    assert np.abs(a - b).max() > 1 and np.abs(a - c).max() > 1 and np.abs(a - d).max() < 0.15
    disc = (x - 32) ** 2 + (y - 32) ** 2 < 20**2
    flat = scattering(np.where(disc, 0.7, 0.0)[None], disc[None])[0]
    assert flat[0] == pytest.approx(0.7, abs=1e-4) and (flat[1:] < np.log(2e-3)).all()


def head_like(seed: int, blobs: float) -> np.ndarray:
    y, x = np.mgrid[:160, :160]
    inside = ((x - 79.5) / 55) ** 2 + ((y - 79.5) / 72) ** 2 < 1
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((160, 160)), blobs)
    return np.where(inside, np.clip(0.5 + 0.15 * texture / texture.std(), 0.01, 1), 0)


def test_the_kernel_distance_of_like_images_is_small_beside_that_of_others() -> None:
    true = kernel.features(np.stack([head_like(n, 4) for n in range(12)]))
    like = kernel.features(np.stack([head_like(n, 4) for n in range(20, 32)]))
    other = kernel.features(np.stack([head_like(n, 1.5) for n in range(40, 52)]))
    near = kernel_distance_of([row[None] for row in like], true)[0]
    far = kernel_distance_of([row[None] for row in other], true)[0]
    assert far > 20 * abs(near)


def test_gain_does_not_count_in_the_kernel_distance() -> None:
    image = head_like(1, 4)
    assert kernel.features(np.stack([image, 0.6 * image])) == pytest.approx(
        np.stack([kernel.features(image[None])[0]] * 2), abs=1e-3
    )
