"""Images that show no brain, or one in no plane that the product knows: which of them does it take for a head?

Real frames without a brain; what lies beside the head on real frames, and about it in real volumes; speckle in a
sector; simulated trunks; and, apart from these, cuts through real heads in other planes than the axial one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from USMRISynthesisLib.evaluation.real.cases import (
    Frame,
    Head3D,
    evenly,
    hc18_ellipses,
    hc18_frames,
    is_accepted,
)
from USMRISynthesisLib.evaluation.real.volumes import reference_of, surroundings
from USMRISynthesisLib.geometry.canonical import resample
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.geometry.similarity import scale_of
from USMRISynthesisLib.io.volume import Volume

SECTOR, BESIDE, OFF_PLANE = "random sector", "beside the head (frames)", "real head, oblique plane"
BODY, COVERED, BESIDE_VOLUME = "simulated trunk (3D)", "real volume, head covered (3D)", "beside real 3D heads (3D)"
NOT_REAL_FRAMES = (SECTOR, BESIDE, OFF_PLANE, BODY, COVERED, BESIDE_VOLUME)
LEAST_MM = 30.0  # of both sides of what is cut from beside a head
_MARGIN = 1.12  # of the head, which must not show
TILTS_DEG = (45.0, 60.0, 75.0, 90.0)


def random_sector(seed: int, shape: tuple[int, int] = (260, 340), pixel_mm: float = 0.5) -> Volume:
    """A frame of speckle of uneven brightness in a sector, with a bright arc now and then, and no head."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), max(shape) / rng.uniform(6, 20))
    fine = ndimage.gaussian_filter(rng.standard_normal((2, *shape)), (0, 0.8, 1.6))
    speckle = np.hypot(*fine) / np.hypot(*fine).mean()
    y, x = np.mgrid[: shape[0], : shape[1]]
    apex = (-0.15 * shape[0], shape[1] / 2)
    radius, angle = np.hypot(y - apex[0], x - apex[1]), np.arctan2(x - apex[1], y - apex[0])
    level = 70 * np.exp(0.7 * smooth / smooth.std()) * speckle
    if rng.random() < 0.5:
        level[np.abs(radius - rng.uniform(0.4, 0.9) * shape[0]) < 4] *= 3
    inside = (np.abs(angle) < np.deg2rad(38)) & (radius < 1.12 * shape[0]) & (radius > 0.2 * shape[0])
    image = np.where(inside, np.clip(level, 1, 255), 0).astype(np.uint8)
    return Volume(image[None], np.diag([-pixel_mm, -pixel_mm, pixel_mm, 1.0]))


def beside_head(frame: Volume, ellipse: Ellipse, seen: float = 0.5) -> list[Volume]:
    """The strips of a frame left, right, above and below its head (in pixels) that are large enough, as frames.

    seen: share of a strip that must not be black.
    """
    reach = _MARGIN * np.linalg.norm(ellipse.axes, axis=1)
    low, high = np.floor(ellipse.centre - reach).astype(int), np.ceil(ellipse.centre + reach).astype(int)
    rows, columns = frame.shape[1:]
    everything = (slice(0, rows), slice(0, columns))
    strips = [
        (everything[0], slice(0, max(low[0], 0))),
        (everything[0], slice(max(high[0], 0), columns)),
        (slice(0, max(low[1], 0)), everything[1]),
        (slice(max(high[1], 0), rows), everything[1]),
    ]
    parts = []
    for j, i in strips:
        image = frame.array[0, j, i]
        size = np.array(image.shape) * np.array(frame.spacing)[[1, 0]]
        if size.min() < LEAST_MM or (image > 8).mean() < seen:
            continue
        grid = frame.ijk_to_ras.copy()
        grid[:3, 3] = (frame.ijk_to_ras @ [i.start, j.start, 0, 1])[:3]
        parts.append(Volume(np.ascontiguousarray(image[None]), grid))
    return parts


def covered(head: Head3D, seed: int = 0) -> Volume:
    """A real volume whose head is filled with speckle as bright as what lies nearest to it: its surroundings alone."""
    volume = head.volume
    to_unit = reference_of(head) @ volume.ijk_to_ras
    k, j, i = (np.arange(n, dtype=np.float32) for n in volume.shape)
    half = np.array([36.0, 46.0, 40.0]) * _MARGIN
    radius = sum(
        ((row[0] * i[None, None] + row[1] * j[None, :, None] + row[2] * k[:, None, None] + row[3]) / h) ** 2
        for row, h in zip(to_unit[:3].astype(np.float32), half, strict=True)
    )
    inside = np.asarray(radius) < 1
    unseen = volume.array == 0
    where = ndimage.distance_transform_edt(inside | unseen, return_distances=False, return_indices=True)
    near = ndimage.gaussian_filter(volume.array[tuple(where)].astype(np.float32), 4)
    fine = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((2, *volume.shape)), (0, 1, 1, 1))
    speckle = np.hypot(*fine)
    filled = np.clip(near * np.sqrt(speckle / speckle.mean()), 1, 255)  # as in a log image
    return Volume(np.where(inside & ~unseen, filled, volume.array).astype(np.uint8), volume.ijk_to_ras)


def oblique_frames(head: Head3D, size: int = 280) -> Iterator[Volume]:
    """Cuts through a real head's middle, tilted by TILTS_DEG out of the axial plane about both its other axes."""
    to_canonical = reference_of(head)
    pixel = min(head.volume.spacing)
    step = pixel * scale_of(to_canonical)
    for tilt in TILTS_DEG:
        for axis in "xy":
            plane = np.eye(4)
            plane[:3, :3] = Rotation.from_euler(axis, tilt, degrees=True).as_matrix() @ np.diag([step, -step, step])
            plane[:3, 3] = -plane[:3, :2] @ [(size - 1) / 2, (size - 1) / 2]
            to_voxel = np.linalg.inv(head.volume.ijk_to_ras) @ np.linalg.inv(to_canonical) @ plane
            image = resample(head.volume.array, to_voxel, (1, size, size), 1, 0.0)
            yield Volume(np.clip(image, 0, 255).astype(np.uint8), np.diag([-pixel, -pixel, pixel, 1.0]))


def trunks(count: int) -> Iterator[Volume]:
    """Simulated abdomens and thoraxes, in turn, scanned by the simulator and turned at random."""
    from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras
    from USMRISynthesisLib.simulation.anatomy.body import KINDS, build_body
    from USMRISynthesisLib.simulation.scanner.volume import simulate_canonical

    for seed in range(count):
        body = build_body(seed, KINDS[seed % len(KINDS)])
        us, _, _ = simulate_canonical(body, seed)
        grid = np.diag([1 / body.scale] * 3 + [1.0]) @ canonical_ijk_to_ras()
        turn = np.eye(4)
        turn[:3, :3] = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
        yield Volume(us, turn @ grid)


def evaluate(
    data: Path,
    frames: Sequence[Frame],
    heads: Sequence[Head3D],
    *,
    model: str,
    device: str,
    sectors: int = 40,
    crops: int = 60,
    bodies: int = 6,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Kind of image -> how many there are, and the share of which the product makes an MR-like image."""
    kinds: dict[str, list[bool]] = {}

    def add(kind: str, volumes: Sequence[Volume] | Iterator[Volume]) -> None:
        for volume in volumes:
            kinds.setdefault(kind, []).append(is_accepted(volume, model=model, device=device))

    for number, frame in enumerate(frames):
        add(frame.plane, [frame.volume])
        if progress is not None:
            progress((number + 1) / len(frames), "images without a brain")
    add(SECTOR, (random_sector(seed) for seed in range(sectors)))
    add(BESIDE, crops_beside(data, crops))
    for head in heads:
        add(OFF_PLANE, oblique_frames(head))
        add(BESIDE_VOLUME, surroundings(head))
        add(COVERED, [covered(head)])
    add(BODY, trunks(bodies))
    return {
        kind: {"images": float(len(taken)), "accepted_share": float(np.mean(taken))} for kind, taken in kinds.items()
    }


def crops_beside(data: Path, limit: int) -> list[Volume]:
    """At most `limit` strips beside the heads of HC18, evenly chosen."""
    ellipses = hc18_ellipses(data)
    names = evenly(list(ellipses), 3 * limit)  # most frames have such a strip
    parts = [part for frame in hc18_frames(data, names) for part in beside_head(frame.volume, ellipses[frame.name])]
    return evenly(parts, limit)


def summarise(kinds: dict[str, dict[str, float]]) -> dict[str, float]:
    """Shares over all images of a sort: real frames without a brain (the headline), and the others."""

    def share(names: Sequence[str]) -> float | None:
        counted = [(kinds[name]["images"], kinds[name]["accepted_share"]) for name in names if name in kinds]
        total = sum(n for n, _ in counted)
        return sum(n * one for n, one in counted) / total if total else None

    found = {
        "no_brain_accepted_share": share([kind for kind in kinds if kind not in NOT_REAL_FRAMES]),
        "beside_head_accepted_share": share([BESIDE]),
        "random_sector_accepted_share": share([SECTOR]),
        "oblique_plane_accepted_share": share([OFF_PLANE]),
        "no_brain_volumes_accepted_share": share([BODY, COVERED, BESIDE_VOLUME]),
    }
    return {name: value for name, value in found.items() if value is not None}
