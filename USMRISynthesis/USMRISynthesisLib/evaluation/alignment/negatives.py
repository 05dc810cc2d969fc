"""Images without a head, made from images with one: rearranged, or cropped beside the head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from USMRISynthesisLib.datasets.disturbance import no_head
from USMRISynthesisLib.datasets.frames import Picture
from USMRISynthesisLib.io.volume import Volume


def remove_head(volume: Volume, fan: np.ndarray, rng: np.random.Generator) -> Volume:
    """The volume without its head: its content in another order, or noise."""
    x = torch.from_numpy(volume.array.astype(np.float32) / 127.5 - 1)
    mixed = no_head(x, torch.from_numpy(fan.astype(np.float32)), rng)
    return Volume(np.where(fan, (mixed.numpy() + 1) * 127.5, 0).astype(np.uint8), volume.ijk_to_ras)


def shuffle_tiles(picture: Picture, rng: np.random.Generator) -> Volume:
    """The frame without its head: its own tiles, a quarter of the head wide, in another order, or speckle alone."""
    array = picture.volume.array[0].copy()
    if rng.random() < 0.3:
        smooth = ndimage.gaussian_filter(rng.standard_normal(array.shape), max(array.shape) / rng.uniform(8, 30))
        level = 90 * np.exp(0.8 * smooth / smooth.std()) * rng.rayleigh(0.8, array.shape)
    else:
        step = max(6, int(0.5 * picture.ellipse.semi_axes[1] / picture.volume.spacing[0]))
        rows, columns = (size // step for size in array.shape)
        tiles = array[: rows * step, : columns * step].reshape(rows, step, columns, step).swapaxes(1, 2)
        tiles = rng.permutation(tiles.reshape(-1, step, step)).reshape(rows, columns, step, step)
        array[: rows * step, : columns * step] = tiles.swapaxes(1, 2).reshape(rows * step, columns * step)
        array[rows * step :], array[:, columns * step :] = 0, 0
        level = array.astype(np.float64)
    return Volume(np.where(picture.fan, np.clip(level, 0, 255), 0).astype(np.uint8), picture.volume.ijk_to_ras)


def off_head_crops(picture: Picture) -> list[Picture]:
    """The parts of a frame on the four sides of the head, if they are large enough, as frames."""
    size = float(picture.volume.spacing[0])
    line = picture.ellipse.outline() / size
    (left, top), (right, bottom) = np.floor(line.min(axis=1)), np.ceil(line.max(axis=1))
    _, rows, columns = picture.volume.shape
    parts = []
    for box in ((0, left, 0, rows), (right, columns, 0, rows), (0, columns, 0, top), (0, columns, bottom, rows)):
        i0, i1, j0, j1 = (int(v) for v in np.clip(box, 0, [columns, columns, rows, rows]))
        fan = picture.fan[:, j0:j1, i0:i1]
        if min(i1 - i0, j1 - j0) >= 60 and fan.mean() > 0.5:
            matrix = picture.volume.ijk_to_ras.copy()
            matrix[:3, 3] = (picture.volume.ijk_to_ras @ [i0, j0, 0, 1])[:3]
            part = Volume(np.ascontiguousarray(picture.volume.array[:, j0:j1, i0:i1]), matrix)
            parts.append(replace(picture, name=f"{picture.name} beside", volume=part, fan=np.ascontiguousarray(fan)))
    return parts
