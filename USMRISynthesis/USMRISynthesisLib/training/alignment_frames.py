"""2D frames for the alignment: real ones with their annotated ellipses, and slices of simulated heads.

Real frames (HC18) say where the head lies and how its midline runs, but not which end is the face: their
coordinates count up to half a turn (`signed` 0). Slices of simulated heads know the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Refused
from ..fan import find_fan
from ..normalisation.canonical import HEAD_LENGTH_MM
from ..normalisation.canonical import SPACING_MM as SPACING
from ..normalisation.coordinates import cube_to_world, small_rotation
from ..normalisation.network import grid
from ..normalisation.stages import MIDLINE_REACH_MM, STAGES
from ..simulation.dataset import frame_to_canonical, frame_volume, read_frame_index, split_of
from ..synthesis.intensity import robust_range
from .alignment_data import BRAIN, BRAIN_LABELS, DISTANCE, FAN, US, Head, disturb, no_head
from .alignment_samples import NO_HEAD, Batch, collate, upright_target

_SLICE_SIZE, _SLICE_MM = 160, 150.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame, real or a slice.

    channels: (4, h, w) uint8: ultrasound, fan, head, brain (the head again in a real frame).
    unit_from_canonical: (3, 3), canonical mm in the plane to the image's own coordinates, -1 and 1 at its borders.
    semi_axes: (2,) of the outer skull's ellipse along R and A, centre: (2,), canonical mm. signed: the face is +A.
    """

    channels: np.ndarray
    unit_from_canonical: np.ndarray
    centre: np.ndarray
    semi_axes: np.ndarray
    signed: bool
    low: float
    high: float


def load_real(folder: Path, split: str) -> list[Frame]:
    """HC18 frames of a split (by fetus). Raises Refused when the folder holds none."""
    data = folder.parent
    if not (folder / "index.csv").is_file():
        raise Refused("data", f"There are no HC18 frames in {folder}.", "Correct data.frames.")
    return [real_frame(data, row) for row in read_frame_index(data) if split_of(row["file"]) == split]


def real_frame(data: Path, row: dict[str, str]) -> Frame:
    volume = frame_volume(data, row)
    image = volume.array[0]
    fan = find_fan(volume.array, volume.spacing)[0]
    to_canonical = frame_to_canonical(row) @ volume.ijk_to_ras
    plane = to_canonical[np.ix_([0, 1, 3], [0, 1, 3])]
    semi = np.array([float(row["semi_minor_px"]), float(row["semi_major_px"])])
    semi = semi * (HEAD_LENGTH_MM / 2 / semi.max())
    j, i = np.indices(image.shape)
    where = plane[:2, :2] @ np.stack([i.ravel(), j.ravel()]) + plane[:2, 2:]
    head = (((where / semi[:, None]) ** 2).sum(axis=0) <= 1).reshape(image.shape)
    h, w = image.shape
    to_unit = np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]])
    low, high = robust_range(image, fan)
    channels = np.stack([np.where(fan, image, 0), 255 * fan, 255 * head, 255 * head]).astype(np.uint8)
    return Frame(channels, to_unit @ np.linalg.inv(plane), np.zeros(2), semi, False, low, high)


def stored_frames(folder: Path) -> list[Frame]:
    """The 2D frames that cases bring along (simulation/frame.py), each along its own head's outline; none in older."""
    frames = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as case:
            if "frames_us" not in case:
                continue
            stack = [case[f"frames_{key}"] for key in ("us", "fan", "skull", "labels")]
        for us, fan, skull, labels in zip(*stack, strict=True):
            if skull.mean() > 0.1:
                frames.append(_outlined(us, fan, skull, np.isin(labels, BRAIN_LABELS)))
    return frames


def _outlined(us: np.ndarray, fan: np.ndarray, skull: np.ndarray, brain: np.ndarray) -> Frame:
    """A stored frame, which stands nearly upright, by the ellipse of its skull's second moments."""
    size = us.shape[0]
    axis = (np.arange(size) - (size - 1) / 2) * SPACING
    y, x = np.nonzero(skull)
    points = np.stack([axis[x], axis[y]], axis=1)
    middle = points.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov((points - middle).T))
    major = axes[:, 1] * (np.sign(axes[1, 1]) or 1.0)
    scale = HEAD_LENGTH_MM / (4 * float(np.sqrt(values[1])))  # an ellipse's semi-axis is twice its deviation
    to_canonical = np.eye(3)
    to_canonical[:2, :2] = scale * np.array([[major[1], -major[0]], major])
    to_canonical[:2, 2] = -to_canonical[:2, :2] @ middle
    to_unit = np.diag([2 / (size * SPACING), 2 / (size * SPACING), 1.0])
    channels = np.stack([np.where(fan, us, 0), 255 * fan, 255 * skull, 255 * brain]).astype(np.uint8)
    low, high = robust_range(us, fan)
    semi = np.array([2 * float(np.sqrt(values[0])) * scale, HEAD_LENGTH_MM / 2])
    return Frame(channels, to_unit @ np.linalg.inv(to_canonical), np.zeros(2), semi, True, low, high)


def slices_of(heads: Sequence[Head], each: int, seed: int) -> list[Frame]:
    """Axial slices near the head-circumference plane of simulated heads, a little tilted."""
    rng = np.random.default_rng([seed, 7])
    frames = []
    for head in heads:
        source = torch.from_numpy(head.channels).float()[None]
        for _ in range(each):
            to_anatomy = np.eye(4)
            to_anatomy[:3, :3] = small_rotation(rng, 14.0)
            to_anatomy[2, 3] = rng.uniform(-5, 10)
            turned = to_anatomy @ np.diag([_SLICE_MM / 2, _SLICE_MM / 2, 1.0, 1.0])
            theta = (head.unit_from_anatomy() @ turned)[:3]
            where = F.affine_grid(torch.from_numpy(theta[None].astype(np.float32)),
                                  [1, 1, 1, _SLICE_SIZE, _SLICE_SIZE], align_corners=False)
            # One layer of cells lies at the middle of its own axis, so z = 0 as wanted.
            cut = F.grid_sample(source, where, align_corners=False)[0, :, 0]
            inside = (cut[DISTANCE] < 128) & ~(where[0, 0].abs() > 1).any(dim=-1)
            if float(inside.float().mean()) < 0.1:
                continue
            frames.append(_slice(head, cut, inside))
    return frames


def _slice(head: Head, cut: Tensor, inside: Tensor) -> Frame:
    axis = (np.arange(_SLICE_SIZE) + 0.5) / _SLICE_SIZE * _SLICE_MM - _SLICE_MM / 2
    y, x = np.nonzero(inside.numpy())
    low, high = np.array([axis[x].min(), axis[y].min()]), np.array([axis[x].max(), axis[y].max()])
    channels = torch.stack([cut[US], cut[FAN], 255 * inside.float(), cut[BRAIN]]).round().clamp(0, 255)
    return Frame(channels.numpy().astype(np.uint8), np.diag([2 / _SLICE_MM, 2 / _SLICE_MM, 1.0]), (low + high) / 2,
                 (high - low) / 2, True, head.low, head.high)


def draw_frames(stage: str, real: Sequence[Frame], simulated: Sequence[Frame], rng: np.random.Generator,
                count: int, *, share_real: float, strength: float = 1.0) -> Batch:
    """A batch of "frame" (the whole image, any direction) or "plane" (a crop, or that crop half a turn round)."""
    rows = []
    for _ in range(count):
        pool = real if real and (not simulated or rng.random() < share_real) else simulated
        frame = pool[int(rng.integers(len(pool)))]
        rows.append(one_frame(stage, frame, draw_plane(stage, frame, rng), rng, strength,
                              mirrored=bool(rng.random() < 0.5)))
    return collate(rows)


def draw_plane(stage: str, frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """`unit_to_canonical` (3, 3) of the square that is cut out."""
    length = 2 * float(frame.semi_axes.max())
    if stage == "frame":
        side = length * float(np.exp(rng.uniform(np.log(1.15), np.log(3.2))))
        reach = max(2.0, (side - length) / 2 + 8)
        return cube_to_world(side, frame.centre + rng.uniform(-reach, reach, 2), _turn(rng.uniform(0, 2 * np.pi)))
    side = STAGES[stage].side_mm * length / HEAD_LENGTH_MM * float(np.exp(np.clip(rng.normal(0, 0.06), -0.15, 0.15)))
    turn = rng.normal(0, np.deg2rad(9)) + (np.pi if rng.random() < 0.5 else 0.0)
    return cube_to_world(side, frame.centre + rng.normal(0, 3, 2), _turn(turn))


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def one_frame(stage: str, frame: Frame, unit_to_canonical: np.ndarray, rng: np.random.Generator | None,
              strength: float = 1.0, *, mirrored: bool = False) -> dict[str, Tensor]:
    """One sample as the rows of a `Batch`."""
    size, half_side = STAGES[stage].size, STAGES[stage].side_mm / 2
    mirror = np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0])
    theta = frame.unit_from_canonical @ mirror @ unit_to_canonical
    where = F.affine_grid(torch.from_numpy(theta[None, :2].astype(np.float32)), [1, 4, size, size],
                          align_corners=False)
    source = torch.from_numpy(frame.channels).float()[None]
    step = float(np.sqrt(abs(np.linalg.det(theta[:2, :2])))) * max(source.shape[2:]) / size
    if step > 1.6:
        source = F.avg_pool2d(source, round(step))
    values = F.grid_sample(source, where, align_corners=False)[0]
    fan = (values[FAN] > 127.5).float()
    x = ((values[US] - frame.low) * (2 / max(frame.high - frame.low, 1.0)) - 1).clamp(-1, 1)
    x = torch.where(fan > 0.5, x, x.new_tensor(-1.0))
    headed = 1.0
    if rng is not None:
        if rng.random() < NO_HEAD:
            x, headed = no_head(x, fan, rng), 0.0
        x = disturb(x, fan, rng, strength)
    scale = float(np.sqrt(np.linalg.det(unit_to_canonical[:2, :2])))
    rotation = unit_to_canonical[:2, :2] / scale
    angle = float(np.abs(np.arctan2(rotation[1, 0], rotation[0, 0])))
    linear = torch.from_numpy(unit_to_canonical[:2, :2].astype(np.float32))
    offset = torch.from_numpy(unit_to_canonical[:2, 2:].astype(np.float32)).reshape(2, 1, 1)
    cells, fine = grid(size // 2, 2), grid(size, 2)
    canonical = torch.einsum("ab,bji->aji", linear, cells) + offset
    centre = torch.from_numpy((mirror[:2, :2] @ frame.centre).astype(np.float32)).reshape(2, 1, 1)
    semi = torch.from_numpy(frame.semi_axes.astype(np.float32)).reshape(2, 1, 1)
    local = torch.einsum("ab,bji->aji", linear, fine) + offset - centre
    radius = (local / semi).norm(dim=0)
    # First-order distance to the ellipse: its level over the gradient's length.
    distance = (radius - 1) * radius / ((local / semi**2).norm(dim=0) + 1e-6)
    head = (radius <= 1).float() if not frame.signed else (values[2] > 127.5).float()
    to_unit = np.linalg.inv(unit_to_canonical)
    middle = to_unit[:2, :2] @ (mirror[:2, :2] @ frame.centre) + to_unit[:2, 2]
    return {
        "x": x[None], "head": head * headed, "brain": head * headed, "distance": distance / scale,
        "coordinates": canonical / half_side - cells,
        "eyes": torch.zeros(2, size, size), "face": torch.zeros(size, size), "fossa": torch.zeros(size, size),
        "midline": local[0].abs().clamp(max=MIDLINE_REACH_MM) / scale,
        "upright": torch.tensor(upright_target(angle) * headed),
        "rotation": torch.from_numpy(rotation.astype(np.float32)),
        "centre": torch.from_numpy(middle.astype(np.float32)),
        "log_scale": torch.tensor(float(np.log(frame.semi_axes.max() / scale))),
        "headed": torch.tensor(headed),
        # The crop the other way round is a question of "upright" alone, as for the cube's rotations in 3D.
        "posed": torch.tensor(headed * float(stage == "plane" and (angle < np.pi / 2 or not frame.signed))),
        "signed": torch.tensor(float(frame.signed)),
    }  # fmt: skip
