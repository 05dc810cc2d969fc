"""Agreement of a synthesised slice or volume with its truth (numpy; any shape, a mask chooses the voxels).

Measures that a memorised average or copied speckle cannot win are the ones that decide: `residual_ncc`
scores the mean MR 0 by construction, and NCC is always read beside the mean MR's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, stats


def ncc(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Normalised cross-correlation inside the mask, -1 to 1; 0 where one of them is constant."""
    x = np.asarray(a, np.float64)[mask]
    y = np.asarray(b, np.float64)[mask]
    if x.size < 2:
        return 0.0
    x = x - x.mean()
    y = y - y.mean()
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / norm) if norm > 1e-9 else 0.0


def residual_ncc(prediction: np.ndarray, truth: np.ndarray, mean: np.ndarray, mask: np.ndarray) -> float:
    """NCC of what differs from the mean MR at the same position: a memorised average scores 0."""
    return ncc(np.asarray(prediction) - mean, np.asarray(truth) - mean, mask)


def ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Structural similarity of slices (K, H, W) in 0-1, mean of its map inside the mask (torchmetrics; 11 pixels)."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    pair = [torch.from_numpy(np.ascontiguousarray(x, np.float32))[:, None] for x in (a, b)]
    _, similar = structural_similarity_index_measure(*pair, data_range=1.0, return_full_image=True)
    return float(similar[:, 0].numpy()[np.asarray(mask)].mean())


def gradient_ncc(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """NCC of gradient magnitudes (Gaussian derivative, sigma 1 voxel) over the last two axes' planes."""
    return ncc(_gradient(np.asarray(a, float)), _gradient(np.asarray(b, float)), mask)


def _gradient(image: np.ndarray) -> np.ndarray:
    """Magnitude within the planes of the last two axes. Not `gaussian_gradient_magnitude` with a sigma of 0 for the
    others: that takes the image itself for their derivative.
    """
    down, across = (ndimage.gaussian_filter(image, 1.0, order=order, axes=(-2, -1)) for order in ((1, 0), (0, 1)))
    return np.asarray(np.hypot(down, across))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks; 1 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def shift(a: np.ndarray, b: np.ndarray, limit: int = 6) -> tuple[int, int]:
    """In-plane offset (rows, columns) of `a` against `b` (2D) at which their gradients agree best."""
    x = _gradient(np.asarray(a, float))
    y = _gradient(np.asarray(b, float))
    spectrum = np.fft.rfft2(x - x.mean()) * np.conj(np.fft.rfft2(y - y.mean()))
    correlation = np.fft.fftshift(np.fft.irfft2(spectrum, s=x.shape))
    centre = np.array(correlation.shape) // 2
    window = correlation[
        centre[0] - limit : centre[0] + limit + 1,
        centre[1] - limit : centre[1] + limit + 1,
    ]
    row, column = np.unravel_index(int(window.argmax()), window.shape)
    return int(row) - limit, int(column) - limit


def stripe_peak(image: np.ndarray) -> float:
    """Largest spectral power above 0.35 cycles a pixel over the median there (2D): stripes carry hidden code.

    Natural slices stay below about 40; a checkerboard or comb is in the hundreds.
    """
    image = np.asarray(image, float)
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None])
    high = power[radius > 0.35]
    return float(high.max() / (np.median(high) + 1e-12))


def auc(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve of scores (n,) against booleans (n,), ties counted half; 0.5 if all are of one kind."""
    positive = int(truth.sum())
    if positive in (0, len(truth)):
        return 0.5
    ranks = stats.rankdata(score)[truth].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * (len(truth) - positive)))


def auc_between(low: np.ndarray, high: np.ndarray) -> float:
    """Probability that a value of `high` (n,) is above one of `low` (m,), ties counted half; 0.5 if one is empty."""
    return auc(np.concatenate((low, high)), np.repeat([False, True], [len(low), len(high)]))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho over cases; 0 if either is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy of features (n, d) and (m, d), cubic polynomial kernel (Binkowski 2018).

    Unbiased: about 0, and now and then below, for two samples of the same distribution.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    return float(sum(within) - 2 * kernel(a, b).mean())


def kernel_distance_of(subjects: Sequence[np.ndarray], real: np.ndarray) -> list[float]:
    """[value, low, high] of the kernel distance of subjects' features, (n, d) each, to those of real images (m, d).

    Every channel is brought to the real ones' mean 0 and deviation 1 first: of a channel whose mean is large beside it
    the cubic kernel would see nothing else.  The 95 % interval is a jackknife's over subjects: drawn twice, as a
    bootstrap does, a subject would count as two that agree.
    """
    spread = real.std(axis=0)
    # A channel that hardly ever answers would decide alone.
    size = np.where(spread > 0.01 * spread.max(), spread, max(float(spread.max()), 1e-6))
    theirs, ours = (real - real.mean(axis=0)) / size, [(one - real.mean(axis=0)) / size for one in subjects]
    value = kernel_distance(np.concatenate(ours), theirs)
    count = len(ours)
    total = sum(map(len, ours))
    if count < 2 or any(total - len(one) < 2 for one in ours):
        return [value, value, value]  # too few for an interval
    left = np.array([kernel_distance(np.concatenate(ours[:n] + ours[n + 1 :]), theirs) for n in range(count)])
    error = float(np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum()))
    return [value, value - 1.96 * error, value + 1.96 * error]
