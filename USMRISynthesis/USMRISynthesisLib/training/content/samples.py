"""What the frame content network sees: real frames, cut, turned, disturbed, and images without a brain made of them.

Every disturbance meets brain frames and others alike. What differs between the sources - text, the fan's edge, the
sharpness, the grain, the compression - is varied far beyond that difference, so that only the anatomy is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from USMRISynthesisLib.alignment.common.unet import cell_centres
from USMRISynthesisLib.alignment.frame.content import NO_BRAIN, PLANES
from USMRISynthesisLib.alignment.frame.content_network import SIZE
from USMRISynthesisLib.alignment.frame.outline import square
from USMRISynthesisLib.datasets.disturbance import no_head
from USMRISynthesisLib.datasets.frame_content import ContentPicture
from USMRISynthesisLib.geometry.ellipse import Ellipse
from USMRISynthesisLib.training.content.disturbances import cover, disturb

UNKNOWN = -1
# Of a brain whose plane is not known, as HC18's: one of these, by their numbers in `PLANES`.
AXIAL_PLANES = [0, 1]
# How often each is drawn. HC18's frames are brain alone; "made": images without a brain, made of brain frames.
SHARES = {
    "trans-thalamic": 0.13, "trans-ventricular": 0.12, "trans-cerebellum": 0.12, "other brain plane": 0.03,
    "axial": 0.15, NO_BRAIN: 0.35, "made": 0.10,
}  # fmt: skip
_FILTERED = 0.35


@dataclass(frozen=True, eq=False)
class ContentBatch:
    """x (N, 1, S, S) in [-1, 1]; brain (N,) 0-1; plane (N,) its number in `PLANES`, UNKNOWN where nobody knows."""

    x: Tensor
    brain: Tensor
    plane: Tensor


Groups = dict[str, dict[str, list[ContentPicture]]]


def by_kind(pictures: Sequence[ContentPicture]) -> Groups:
    """Kind, as in `SHARES` (and in "no brain" the part of the body) -> patient -> frames."""
    groups: Groups = {}
    for picture in pictures:
        row = picture.row
        kind = f"{NO_BRAIN}: {row.part}" if row.shows == NO_BRAIN else row.shows
        groups.setdefault(kind, {}).setdefault(row.patient, []).append(picture)
    return groups


def draw(groups: Groups, rng: np.random.Generator, count: int, strength: float = 1.0) -> ContentBatch:
    """A batch: kinds as often as `SHARES` says, within a kind patients alike, whatever their frames."""
    shares = shares_of(groups)
    kinds = list(shares)
    weights = np.array([shares[kind] for kind in kinds])
    rows = []
    for number in rng.choice(len(kinds), count, p=weights / weights.sum()):
        kind = kinds[int(number)]
        if kind == "made":
            rows.append((made(groups, rng, strength), 0.0, UNKNOWN))
            continue
        picture = _one_of(groups[kind], rng)
        brain = picture.row.shows != NO_BRAIN
        plane = PLANES.index(picture.row.shows) if picture.row.shows in PLANES else UNKNOWN
        rows.append((seen(picture, view(picture, rng), rng, strength), float(brain), plane))
    x, brains, planes = zip(*rows, strict=True)
    return ContentBatch(torch.stack(x)[:, None], torch.tensor(brains), torch.tensor(planes))


def shares_of(groups: Groups) -> dict[str, float]:
    """`SHARES` of the kinds that there are; that of "no brain" is divided by the root of each part's patients."""
    parts = {kind: len(patients) ** 0.5 for kind, patients in groups.items() if kind.startswith(NO_BRAIN)}
    shares = {kind: share for kind, share in SHARES.items() if kind in groups or kind == "made"}
    return shares | {kind: SHARES[NO_BRAIN] * size / sum(parts.values()) for kind, size in parts.items()}


def view(picture: ContentPicture, rng: np.random.Generator) -> np.ndarray:
    """`unit_to_square` (3, 3): from the network's square to the frame's: turned anyhow, mirrored, stretched, any size.

    Where the head is annotated, half of them are about it, so that it fills 40 to 140 % of the square.
    """
    if picture.ellipse is not None and rng.random() < 0.5:
        side = picture.ellipse.length * float(np.exp(rng.uniform(np.log(0.72), np.log(2.5))))
        centre = picture.ellipse.centre + rng.uniform(-0.12, 0.12, 2) * side
    else:
        side = 2 * float(np.exp(rng.triangular(np.log(0.6), 0.0, np.log(1.8))))
        centre = rng.uniform(-0.2, 0.2, 2)
    turn = square(side, centre, float(rng.uniform(0, 2 * np.pi)), bool(rng.random() < 0.5))
    angle = float(rng.uniform(0, np.pi))
    about = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.eye(3)
    stretch[:2, :2] = about @ np.diag(np.exp(rng.uniform(-0.12, 0.12, 2))) @ about.T
    return turn @ stretch


def seen(picture: ContentPicture, unit: np.ndarray, rng: np.random.Generator, strength: float) -> Tensor:
    """(S, S): a frame through a view, filtered or not, covered in part and disturbed."""
    filtered = len(picture.images) > 1 and rng.random() < _FILTERED
    image = picture.images[int(rng.integers(1, len(picture.images))) if filtered else 0]
    level, fan = cut(image, unit, SIZE)
    level, fan = cover(level, fan, rng, strength)
    return disturb(level, fan, rng, strength)


def cut(image: np.ndarray, unit: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    """(size, size) grey 0-1 and the fan: an image (n, n) uint8, 0 outside the fan, through a view (3, 3)."""
    source = torch.from_numpy(image).float()[None, None]
    stack = torch.cat([source / 255, (source > 0).float()], dim=1)
    theta = torch.from_numpy(unit[None, :2].astype(np.float32))
    where = F.affine_grid(theta, [1, 1, size, size], align_corners=False)
    cell = float(np.sqrt(abs(np.linalg.det(unit[:2, :2])))) * image.shape[0] / size
    if cell > 1.5:  # coarse cells are means
        stack, cell = F.avg_pool2d(stack, 2), cell / 2
    level, share = F.grid_sample(stack, where, align_corners=False)[0]
    return level / share.clamp_min(1e-6), (share > 0.5).float()


def made(groups: Groups, rng: np.random.Generator, strength: float) -> Tensor:
    """An image without a brain: beside an annotated head, a brain frame's blocks shuffled, speckle, a drawing."""
    if rng.random() < 0.2:
        return disturb(drawn(SIZE, rng), torch.ones(SIZE, SIZE), rng, strength)
    annotated = groups.get("axial", {})
    if annotated and rng.random() < 0.6:
        for _ in range(8):
            picture = _one_of(annotated, rng)
            unit = beside(picture, rng)
            if unit is not None:
                return seen(picture, unit, rng, strength)
    kinds = [kind for kind in groups if not kind.startswith(NO_BRAIN)] or list(groups)
    picture = _one_of(groups[kinds[int(rng.integers(len(kinds)))]], rng)
    level, fan = cut(picture.images[0], view(picture, rng), SIZE)
    x = no_head(torch.where(fan > 0.5, level * 2 - 1, -torch.ones(())), fan, rng)
    return disturb((x + 1) / 2, fan, rng, strength)


def drawn(size: int, rng: np.random.Generator) -> Tensor:
    """(size, size) grey 0-1: smooth shades with the spectrum of photographs, and a few flat shapes before them."""
    noise = torch.fft.fft2(torch.from_numpy(rng.standard_normal((size, size)).astype(np.float32)))
    frequency = torch.fft.fftfreq(size)
    radius = torch.hypot(frequency[None, :], frequency[:, None]).clamp_min(1 / size)
    level = torch.fft.ifft2(noise / radius ** float(rng.uniform(1.0, 1.8))).real
    level = 0.5 + level / level.std() * float(rng.uniform(0.05, 0.25))
    axis = torch.linspace(-1, 1, size)
    for _ in range(int(rng.integers(0, 8))):
        angle, (x, y) = float(rng.uniform(0, np.pi)), rng.uniform(-1, 1, 2)
        across = np.cos(angle) * (axis[None, :] - x) + np.sin(angle) * (axis[:, None] - y)
        along = -np.sin(angle) * (axis[None, :] - x) + np.cos(angle) * (axis[:, None] - y)
        a, b = rng.uniform(0.05, 0.6, 2)
        shape = torch.maximum((across / a).abs(), (along / b).abs()) < 1
        level = torch.where(shape, torch.tensor(float(rng.random()), dtype=level.dtype), level)
    return level.clamp(0, 1)


def beside(picture: ContentPicture, rng: np.random.Generator) -> np.ndarray | None:
    """A view of the fan that the annotated head hardly reaches; None where none was found."""
    assert picture.ellipse is not None
    corners = picture.ellipse.outline()
    for _ in range(12):
        unit = square(
            2 * float(rng.uniform(0.25, 0.7)), rng.uniform(-0.8, 0.8, 2), float(rng.uniform(0, 2 * np.pi)),
            bool(rng.random() < 0.5),
        )  # fmt: skip
        side = float(np.linalg.norm(unit[:2, 0]))
        if (np.abs(corners - unit[:2, 2:]) < 0.5 * side).all(axis=0).any():
            continue  # the outline passes through its middle: not worth a closer look
        if inside_share(picture.ellipse, unit) < 0.06 and float(cut(picture.images[0], unit, 16)[1].mean()) > 0.5:
            return unit
    return None


def inside_share(ellipse: Ellipse, unit: np.ndarray) -> float:
    """The share of a view that lies in the head."""
    return float((ellipse.moved(np.linalg.inv(unit)).distance(cell_centres(16, 2).numpy()) < 0).mean())


def _one_of(patients: dict[str, list[ContentPicture]], rng: np.random.Generator) -> ContentPicture:
    names = sorted(patients)
    frames = patients[names[int(rng.integers(len(names)))]]
    return frames[int(rng.integers(len(frames)))]
