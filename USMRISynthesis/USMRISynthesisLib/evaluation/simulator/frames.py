"""Sets of head-circumference frames, real and simulated, that went through the same treatment.

Real frames are HC18's in the canonical plane; simulated ones come from the simulator's own 2D frames, or from a
folder of cases.  For both the fan is found again on the canonical picture and all beyond it is black, so that
only the picture itself distinguishes them.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, SIZE
from USMRISynthesisLib.ultrasound.fan import find_fan

PARTS = ("train", "val", "test")
_HC_SLICE = SIZE // 2
_SOURCES = Path(__file__).resolve().parents[2] / "simulation"
_MEASURES = [Path(__file__).with_name(name) for name in ("volumes.py", "appearance.py")]
_STORING = ("config.py", "dataset.py", "samples.py", "wide.py")  # they change no frame
_EVERY_VOLUME = 3  # heads


@dataclass(frozen=True, eq=False)
class Frames:
    """us (n, 160, 160) uint8, black outside fan; half_axes_mm (n, 2) of the outer skull, across and along.

    group: (n,) what a frame must not share with another part: its fetus, or its simulated head.
    part: (n,) "train", "val" or "test"; no fetus, head or simulated week is in two of them.
    probe: (n, 2) unit vector (x, y) to where the probe stands, nan where that is not known.
    """

    us: np.ndarray
    fan: np.ndarray
    half_axes_mm: np.ndarray
    group: np.ndarray
    part: np.ndarray
    probe: np.ndarray

    def __len__(self) -> int:
        return len(self.us)

    def take(self, which: np.ndarray) -> Frames:
        """Those frames (mask or indices)."""
        fields = (self.us, self.fan, self.half_axes_mm, self.group, self.part, self.probe)
        return Frames(*(values[which] for values in fields))


def treated(us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The common treatment of a canonical picture (160, 160): fan found on it, black beyond."""
    fan = find_fan(us[None])[0]
    return np.where(fan, us, 0).astype(np.uint8), fan


def real_frames(data: Path) -> Frames:
    """HC18 frames of large enough heads below `data`.  Raises Refused where they are missing."""
    from USMRISynthesisLib.geometry.canonical import to_canonical
    from USMRISynthesisLib.simulation import dataset

    if not (data / "hc18" / "index.csv").is_file():
        raise Refused("data", "There are no HC18 frames.", "Give the folder that holds hc18/ with --data.")
    pictures, axes, files, probes = [], [], [], []
    for row in dataset.read_frame_index(data):
        if float(row["head_circumference_mm"]) < dataset.MINIMUM_CIRCUMFERENCE_MM:
            continue
        volume = dataset.frame_volume(data, row)
        matrix = dataset.frame_to_canonical(row)
        image, _ = to_canonical(volume.array, volume.ijk_to_ras, matrix)
        pictures.append(treated(np.clip(np.round(image[0]), 0, 255).astype(np.uint8)))
        axes.append(dataset.half_axes_of(row))
        files.append(row["file"])
        probes.append(matrix[:2, 1] / np.linalg.norm(matrix[:2, 1]))  # at the picture's top
    fetuses = [f"fetus {file.split('_')[0]}" for file in files]
    return _frames(pictures, axes, fetuses, [_part_of_frame(file) for file in files], np.array(probes))


def _part_of_frame(file: str) -> str:
    """Tested on the fetuses (30 %) of which neither the simulator's grey levels nor any weights come."""
    from USMRISynthesisLib.simulation.dataset import split_of

    if split_of(file) != "train":
        return "test"
    share = int(hashlib.sha256(f"two-sample {file.split('_')[0]}".encode()).hexdigest(), 16) % 100
    return "val" if share < 20 else "train"


def parts_of_weeks(weeks: list[int]) -> list[str]:
    """Part of every simulated frame by its gestational week: a week is in one part only, each part spans the weeks."""
    distinct = sorted(set(weeks))
    if len(distinct) < len(PARTS):
        raise Refused("weeks", "Too few gestational weeks for three parts.", "Simulate heads of three weeks or more.")
    order = ("train", "test", "train", "val") if len(distinct) > len(PARTS) else PARTS
    part = {week: order[n % len(order)] for n, week in enumerate(distinct)}
    return [part[week] for week in weeks]


def simulated_frames(
    data: Path,
    heads: int,
    frames: int,
    cache: Path,
    *,
    workers: int = 2,
    seed: int = 7000,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[Frames, list[dict[str, Any]]]:
    """Frames of freshly simulated heads from all atlas weeks in turn, and the measures of `volumes.measure` for some
    heads.

    Kept in `cache`, under names that change with the simulator's sources, so that a stopped run goes on.
    """
    from USMRISynthesisLib.simulation.anatomy import atlas

    folders = atlas.available(data)
    stills, measures = cache / f"frames-{_fingerprint()}", cache / f"volumes-{_fingerprint(*_MEASURES)}"
    jobs = []
    for n, name in enumerate(sorted(folders[n % len(folders)] for n in range(heads))):
        volume = measures / f"{name}-{seed + n}.json" if n % _EVERY_VOLUME == 0 else None
        jobs.append(_Job(data, name, seed + n, frames, stills / f"{name}-{seed + n}-{frames}.npz", volume))
    missing = [job for job in jobs if not job.done]
    if missing:
        for folder in (stills, measures):
            folder.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for number, _ in enumerate(pool.imap_unordered(_head, missing, chunksize=2), start=1):
                if progress:
                    progress(number / len(missing), f"{number} of {len(missing)} heads simulated")
    pictures, axes, names = [], [], []
    for job in jobs:
        with np.load(job.stills) as file:
            pictures += [treated(us) for us in file["us"]]
            axes += list(file["axes"])
            names += [f"{job.atlas} seed {job.seed}"] * frames
    parts = parts_of_weeks([_week(name) for name in names])
    measured = [json.loads(job.volume.read_text(encoding="utf-8")) for job in jobs if job.volume]
    return _frames(pictures, axes, names, parts), measured


def stored_frames(folder: Path) -> Frames:
    """The 2D frames in the cases below `folder` (`usmri simulate`), or their head-circumference slice without any."""
    pictures, axes, names = [], [], []
    for path in sorted(p for p in folder.rglob("GA*.npz") if ".partial" not in p.name):
        with np.load(path) as case:
            if "us" not in case:  # another kind of file beside the cases
                continue
            if "frames_us" in case:
                for us, skull in zip(case["frames_us"], case["frames_skull"], strict=True):
                    pictures.append(treated(us))
                    axes.append(half_axes(skull))
                    names.append(path.stem)
            else:
                pictures.append(treated(case["us"][_HC_SLICE]))
                axes.append(half_axes(case["skull"][_HC_SLICE]))
                names.append(path.stem)
    if not pictures:
        raise Refused("no-cases", f"{folder} holds no simulated cases.", "Make them with `usmri simulate` first.")
    return _frames(pictures, axes, names, parts_of_weeks([_week(name) for name in names]))


def half_axes(skull: np.ndarray) -> tuple[float, float]:
    """Half axes in mm, across and along, of the outline that brought a head (mask on the canonical plane) into place.

    Its length is the canonical one, as that of a real frame's outline, which need not touch the bone.
    """
    across, along = (float(np.ptp(np.flatnonzero(skull.any(axis=axis)))) + 1 for axis in (0, 1))
    return HEAD_LENGTH_MM / 2 * across / along, HEAD_LENGTH_MM / 2


def _week(name: str) -> int:
    return int(re.match(r"GA(\d+)", name)[1])  # type: ignore[index]


def _frames(
    pictures: list[tuple[np.ndarray, np.ndarray]],
    axes: list[Any],
    group: list[str],
    part: list[str],
    probe: np.ndarray | None = None,
) -> Frames:
    return Frames(
        np.stack([us for us, _ in pictures]), np.stack([fan for _, fan in pictures]),
        np.array(axes, float), np.array(group), np.array(part),
        np.full((len(pictures), 2), np.nan) if probe is None else probe,
    )  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """A head to simulate: `frames` 2D frames into `stills`; its volume's measures into `volume` if requested."""

    data: Path
    atlas: str
    seed: int
    frames: int
    stills: Path
    volume: Path | None

    @property
    def done(self) -> bool:
        return self.stills.exists() and (self.volume is None or self.volume.exists())


def _head(job: _Job) -> None:
    import torch

    from USMRISynthesisLib.evaluation.simulator import volumes
    from USMRISynthesisLib.simulation.anatomy import atlas
    from USMRISynthesisLib.simulation.anatomy.head import build
    from USMRISynthesisLib.simulation.scanner import frame

    torch.set_num_threads(1)
    head = build(atlas.load(job.data, job.atlas), job.seed)
    if not job.stills.exists():
        made = [frame.simulate_frame(head, 100 * job.seed + n) for n in range(job.frames)]
        partial = job.stills.with_suffix(".partial.npz")
        axes = np.array([half_axes(item.skull) for item in made])
        np.savez(partial, us=np.stack([item.us for item in made]), axes=axes)
        partial.replace(job.stills)
    if job.volume and not job.volume.exists():
        part = job.volume.with_suffix(".partial")
        part.write_text(json.dumps(volumes.measure(head, job.seed)), encoding="utf-8")
        part.replace(job.volume)


def _fingerprint(*more: Path) -> str:
    digest = hashlib.sha256()
    shaping = [path for path in [*_SOURCES.rglob("*.py"), *_SOURCES.rglob("*.json")] if path.name not in _STORING]
    for path in [*sorted(shaping), *more]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
