"""Features of pictures by a fixed filter bank: nothing is trained, nothing is downloaded.

A scattering transform (Mallat 2012; Bruna and Mallat 2013) of Morlet wavelets: how much of each scale and direction a
picture holds, and how unevenly. The mean over the picture's inside makes it indifferent to small shifts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

DIRECTIONS = 4
_SLANT = 0.55  # of the wavelets' envelope, in units of their frequency
_FLOOR = 1e-3


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
    made = []
    for n, picture in enumerate(np.asarray(pictures, np.float32)):
        where = np.ones(picture.shape, bool) if inside is None else inside[n]
        made.append(_features(picture, where, scales))
    return np.stack(made)


def _features(picture: np.ndarray, where: np.ndarray, scales: int) -> np.ndarray:
    if not where.any():
        where, picture = np.ones(picture.shape, bool), np.zeros_like(picture)
    mean, deviation = float(picture[where].mean()), float(picture[where].std())
    bank = _wavelets((picture.shape[0], picture.shape[1]), scales)
    spectrum = np.fft.fft2(np.where(where, picture - mean, 0))
    first = np.abs(np.fft.ifft2(spectrum * bank))  # (scales, directions, h, w)
    answers = [mean, deviation, *first[..., where].mean(axis=-1).ravel()]
    for scale in range(scales - 1):
        for direction in range(DIRECTIONS):
            inner = first[scale, direction]
            spread = np.fft.fft2(np.where(where, inner - inner[where].mean(), 0))
            second = np.abs(np.fft.ifft2(spread * bank[scale + 1 :]))
            answers += list(second[..., where].mean(axis=-1).ravel())
    return np.concatenate([[mean], np.log(np.array(answers[1:], np.float64) + _FLOOR)])
