"""Features of pictures by a fixed filter bank: nothing is trained, nothing is downloaded.

A scattering transform (Mallat 2012; Bruna and Mallat 2013) of Morlet wavelets: how much of each scale and direction a
picture holds, and how unevenly. The mean over the picture's inside makes it indifferent to small shifts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

DIRECTIONS = 4
_SLANT = 0.55  # of the wavelets' envelope, in units of their frequency
_FLOOR = 1e-3
_AT_ONCE = 200_000  # pixels, by 16 answers of 8 bytes each


@lru_cache(maxsize=16)
def _wavelets(shape: tuple[int, int], scales: int) -> np.ndarray:
    """(scales, DIRECTIONS, h, w) real transfer functions; scale 0 has a period of 2.7 pixels, each next twice that."""
    down, across = (2 * np.pi * np.fft.fftfreq(size) for size in shape)
    bank = np.empty((scales, DIRECTIONS, *shape), np.float32)
    for scale in range(scales):
        centre = 0.75 * np.pi / 2**scale
        for direction in range(DIRECTIONS):
            angle = np.pi * direction / DIRECTIONS
            y, x = down[:, None] - centre * np.sin(angle), across[None] - centre * np.cos(angle)
            width = 2 * (_SLANT * centre) ** 2
            offset = np.exp(-(centre**2) / width)  # takes the mean away: a wavelet answers nothing to a flat picture
            low = np.exp(-(down[:, None] ** 2 + across[None] ** 2) / width)
            bank[scale, direction] = np.exp(-(x**2 + y**2) / width) - offset * low
    return bank


def scattering(pictures: np.ndarray, inside: np.ndarray | None = None, scales: int = 3) -> np.ndarray:
    """Features (n, d) of pictures (n, h, w): the mean, then logs of deviation, first and second order of the transform.

    inside: (n, h, w) bool, over which answers are averaged (all of it); what lies outside is replaced by the inside's
    mean, so that the outline is no edge. A picture with nothing inside gives what a flat one does.
    """
    shown = np.asarray(pictures, np.float32)
    where = np.ones(shown.shape, bool) if inside is None else np.asarray(inside)
    empty = np.asarray(~where.any(axis=(1, 2)))
    shown, where = np.where(empty[:, None, None], 0, shown), where | empty[:, None, None]
    share = where / where.sum(axis=(1, 2), keepdims=True)
    bank = _wavelets((shown.shape[1], shown.shape[2]), scales)
    step = max(1, _AT_ONCE // shown[0].size)
    parts = [slice(first, first + step) for first in range(0, len(shown), step)]
    return np.concatenate([_features(shown[part], share[part].astype(np.float32), bank) for part in parts])


def _features(pictures: np.ndarray, share: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """(n, d) of pictures (n, h, w); share: of each pixel in the mean over the inside, 0 beyond it."""

    def mean(values: np.ndarray) -> np.ndarray:  # (n, ..., h, w) -> (n, ...)
        return np.asarray(np.einsum("n...hw,nhw->n...", values, share))

    def centred(values: np.ndarray, middle: np.ndarray) -> np.ndarray:
        return np.where(share > 0, values - middle[:, None, None], 0).astype(np.float32)

    middle = mean(pictures)
    flat = centred(pictures, middle)
    first = np.abs(fft.ifft2(fft.fft2(flat)[:, None, None] * bank))  # (n, scales, directions, h, w)
    answers = [np.sqrt(mean(flat**2))[:, None], mean(first).reshape(len(pictures), -1)]
    for scale in range(len(bank) - 1):
        for direction in range(DIRECTIONS):
            inner = first[:, scale, direction]
            spectrum = fft.fft2(centred(inner, mean(inner)))
            second = np.abs(fft.ifft2(spectrum[:, None, None] * bank[scale + 1 :]))
            answers.append(mean(second).reshape(len(pictures), -1))
    return np.concatenate([middle[:, None], np.log(np.concatenate(answers, axis=1) + _FLOOR)], axis=1)
