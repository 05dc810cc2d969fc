"""Three planes become one volume: one border of the brain without teeth, the median of the grey, a correction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from USMRISynthesisLib.errors import Cancelled
from USMRISynthesisLib.geometry.planes import PLANES
from USMRISynthesisLib.synthesis import fusion
from USMRISynthesisLib.synthesis.fusion import CHANNELS, REACH, FusionNetwork, fused, prepared, weighted

SIZE = 48


def ball(radius: float = 16.0, height: float = 0.0) -> np.ndarray:
    """(K, H, W) float32: grey 0.3 in a ball, -1 outside."""
    k, j, i = np.indices((SIZE, SIZE, SIZE)) - (SIZE - 1) / 2
    return np.where((k - height) ** 2 + j**2 + i**2 < radius**2, 0.3, -1.0).astype(np.float32)


def jumping(axis: int, seed: int) -> np.ndarray:
    """The ball as slices along `axis` give it: each one ends the brain up to 6 voxels higher or lower than the next."""
    rng = np.random.default_rng(seed)
    result = ball()
    for n in range(SIZE):
        place = tuple(n if a == axis else slice(None) for a in range(3))
        result[place] = ball(height=float(rng.uniform(-6, 6)))[place]
    return result


def made_by(seed: int = 0) -> dict[str, np.ndarray]:
    """Axial slices that see no brain in the lower third, where coronal and sagittal ones jump."""
    axial = ball()
    axial[: SIZE // 2 - 6] = -1
    return {"axial": axial, "coronal": jumping(1, seed), "sagittal": jumping(2, seed + 1)}


def lower_rim(mr: np.ndarray) -> np.ndarray:
    """(H, W): where the brain begins from below, in the middle of the head."""
    middle = slice(SIZE // 2 - 9, SIZE // 2 + 9)
    return np.argmax(mr[:, middle, middle] > -0.5, axis=0).astype(float)


def jaggedness(mr: np.ndarray) -> float:
    """Mean step of the lower rim between neighbours beyond that of a smooth one, voxels."""
    rim = lower_rim(mr)
    return float(
        np.mean([np.abs(np.diff(rim - ndimage.gaussian_filter(rim, 2.5), axis=axis)).mean() for axis in (0, 1)])
    )


def test_a_rim_where_two_planes_jump_and_one_sees_nothing_has_no_teeth() -> None:
    made = made_by()
    median = np.median([made[plane] for plane in PLANES], axis=0)
    result = fused(made, np.zeros((SIZE,) * 3, np.float32))
    assert jaggedness(median) > 1.0  # what the median alone makes of it
    assert jaggedness(result) < 0.5 and jaggedness(result) < 0.4 * jaggedness(median)
    assert abs(lower_rim(result).mean() - lower_rim(ball()).mean()) < 4  # and it lies about where it should


def test_the_border_of_planes_that_agree_stays_where_it_is() -> None:
    truth = ball()
    result = fused(dict.fromkeys(PLANES, truth), np.zeros_like(truth))
    assert ((result > -0.35) != (truth > -0.35)).mean() < 0.01
    inner = ndimage.binary_erosion(truth > -1, iterations=4)
    np.testing.assert_allclose(result[inner], 0.3, atol=1e-6)
    assert result[~ndimage.binary_dilation(truth > -1, iterations=4)].max() == -1


def test_a_plane_that_sees_no_brain_does_not_darken_the_others_grey() -> None:
    made = dict.fromkeys(PLANES, ball()) | {"sagittal": np.full((SIZE,) * 3, -1, np.float32)}
    made["coronal"] = np.where(ball() > -1, 0.5, -1).astype(np.float32)
    result = fused(made, np.zeros((SIZE,) * 3, np.float32))
    inner = ndimage.binary_erosion(ball() > -1, iterations=8)
    np.testing.assert_allclose(result[inner], 0.4, atol=1e-5)


def test_without_brain_there_is_background() -> None:
    nothing = np.full((8, 9, 10), -1, np.float32)
    assert (fused(dict.fromkeys(PLANES, nothing), nothing, FusionNetwork()) == -1).all()


def trained_by_chance() -> FusionNetwork:
    torch.manual_seed(1)
    network = FusionNetwork().eval()
    torch.nn.init.normal_(network.layers[-1].weight, std=0.05)
    return network


def test_a_networks_image_lies_between_the_planes_and_keeps_the_border() -> None:
    rng = np.random.default_rng(0)
    made = {
        plane: (mr + (mr > -1) * rng.normal(0, 0.1, mr.shape)).astype(np.float32) for plane, mr in made_by().items()
    }
    us = rng.uniform(-1, 1, (SIZE,) * 3).astype(np.float32)
    parts = prepared(made, us)
    plain, result = fused(made, us), fused(made, us, trained_by_chance())
    inner = ndimage.binary_erosion(parts.border == 1, iterations=2)
    assert np.abs(result - plain)[inner].mean() > 0.005
    np.testing.assert_array_equal(result[parts.border == 0], -1)
    planes = np.stack([parts.channels[:3].min(axis=0), parts.channels[:3].max(axis=0)])
    low, high = ndimage.minimum_filter(planes[0], 3), ndimage.maximum_filter(planes[1], 3)
    assert (result[inner] >= low[inner] - 1e-5).all() and (result[inner] <= high[inner] + 1e-5).all()
    assert result.dtype == np.float32 and np.abs(result).max() <= 1


def test_planes_that_agree_are_not_changed_by_a_network() -> None:
    grey = np.full((SIZE,) * 3, 0.3, np.float32)
    result = fused(dict.fromkeys(PLANES, grey), np.zeros_like(grey), trained_by_chance())
    np.testing.assert_allclose(result, 0.3, atol=1e-5)


def test_slabs_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = prepared(made_by(), np.random.default_rng(0).uniform(-1, 1, (SIZE,) * 3).astype(np.float32))
    network = trained_by_chance()
    results = []
    for slab in (1000, 7):
        monkeypatch.setattr(fusion, "SLAB", slab)
        results.append(weighted(parts, network))
    np.testing.assert_allclose(*results, atol=1e-5)


def test_a_voxel_is_weighted_from_within_reach_only() -> None:
    channels = torch.zeros(1, CHANNELS, 19, 19, 19, requires_grad=True)
    trained_by_chance()(channels)[0, 0, 9, 9, 9].backward()
    assert channels.grad is not None
    seen = channels.grad.abs().sum(dim=(0, 1)).nonzero()
    assert int(seen.min()) >= 9 - REACH and int(seen.max()) <= 9 + REACH


def test_a_fusion_can_be_cancelled() -> None:
    with pytest.raises(Cancelled):
        fused(made_by(), np.zeros((SIZE,) * 3, np.float32), trained_by_chance(), cancel=lambda: True)
