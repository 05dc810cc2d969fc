"""Simulated data sets on disk, and the real frames of HC18 brought to the same canonical plane.

`usmri simulate CONFIG OUT` writes one `.npz` a case (format in docs/architecture.md), `manifest.json` with
the SHA-256 of every case, and `hc18.npz`.  Splits are by gestational week: no week stands in two of them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Refused
from ..gate import find_fan
from ..normalisation.canonical import HEAD_LENGTH_MM, to_canonical
from ..volume import Volume
from . import atlas as atlases

MINIMUM_CIRCUMFERENCE_MM = 150.0


@dataclass(frozen=True)
class Split:
    """Atlas folders of one split and how many heads are drawn from them (round robin)."""

    atlases: tuple[str, ...]
    cases: int


@dataclass(frozen=True)
class DatasetConfig:
    """What `usmri simulate` makes: splits by week, one base seed, and whether HC18 frames are prepared."""

    splits: dict[str, Split] = field(default_factory=dict)
    seed: int = 0
    frames: bool = True

    @classmethod
    def read(cls, path: Path, known: list[str]) -> DatasetConfig:
        """Read a JSON configuration.  Raises Refused naming the key and the reason."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise Refused("bad-configuration", f"{path.name} is no readable JSON ({error}).", "Correct it.") from error
        unknown = set(raw) - {"splits", "seed", "frames"}
        if unknown:
            raise _bad(path, sorted(unknown)[0], "is not a known key (splits, seed, frames)")
        splits: dict[str, Split] = {}
        weeks: dict[int, str] = {}
        for name, values in raw.get("splits", {}).items():
            folders, cases = values.get("atlases"), values.get("cases")
            if not isinstance(cases, int) or cases < 1:
                raise _bad(path, f"splits.{name}.cases", "must be a whole number of at least 1")
            if not folders or not set(folders) <= set(known):
                raise _bad(path, f"splits.{name}.atlases", f"must name atlas folders among {', '.join(known)}")
            for folder in folders:
                week = atlases.week_of(folder)
                if weeks.setdefault(week, name) != name:
                    raise _bad(path, f"splits.{name}", f"holds week {week}, which is in {weeks[week]} too")
            splits[name] = Split(tuple(folders), cases)
        if not splits:
            raise _bad(path, "splits", "is missing")
        return cls(splits, int(raw.get("seed", 0)), bool(raw.get("frames", True)))


def _bad(path: Path, key: str, reason: str) -> Refused:
    return Refused("bad-configuration", f"In {path.name}, {key} {reason}.", "Correct the configuration.")


def simulate_case(data: Path, folder: str, seed: int) -> dict[str, Any]:
    """One head with its ultrasound and truth, as the arrays of a case file."""
    from . import acquisition, anatomy

    atlas = atlases.load(data, folder)
    head = anatomy.build(atlas, seed)
    us, fan, sweep = acquisition.simulate_canonical(head, seed)
    parameters = {**head.parameters, **sweep.parameters, "view": sweep.view, "atlas": folder}
    return {
        "us": us,
        "t2": np.round(head.t2 * 255).astype(np.uint8),
        "labels": head.labels,
        "fan": fan,
        "skull": head.skull_distance < 0,
        "week": np.int32(head.week),
        "seed": np.int64(seed),
        "scale": np.float64(head.scale),
        "centre": head.centre,
        "length_mm": np.float64(head.length_mm),
        "eyes": head.eyes,
        "parameters": np.str_(json.dumps(parameters)),
    }


def _make(job: tuple[Path, str, int, Path]) -> tuple[str, str]:
    import torch

    data, folder, seed, target = job
    torch.set_num_threads(1)
    if not target.exists():
        partial = target.with_suffix(".partial.npz")
        np.savez(partial, **simulate_case(data, folder, seed))  # speckle does not compress
        partial.replace(target)
    return str(target.relative_to(target.parents[1])), hashlib.sha256(target.read_bytes()).hexdigest()


def simulate(
    config_path: Path,
    out: Path,
    *,
    data: Path,
    workers: int = 2,
    progress: Callable[[float, str], None] | None = None,
) -> Path:
    """Make the data set; cases that exist already are kept, so a stopped run goes on.  Returns the manifest."""
    config = DatasetConfig.read(config_path, atlases.available(data))
    jobs = []
    for split_index, (name, split) in enumerate(config.splits.items()):
        (out / name).mkdir(parents=True, exist_ok=True)
        for case in range(split.cases):
            folder = split.atlases[case % len(split.atlases)]
            seed = config.seed + 100_000 * split_index + case
            jobs.append((data, folder, seed, out / name / f"{folder}-{case:04d}.npz"))
    jobs.sort(key=lambda job: (job[3].parent, job[1]))  # a worker meets the same atlas again and reads it once
    hashes: dict[str, str] = {}
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        for done, (case_name, digest) in enumerate(pool.imap_unordered(_make, jobs), start=1):
            hashes[case_name] = digest
            if progress:
                left = (time.monotonic() - started) / done * (len(jobs) - done)
                progress(done / len(jobs), f"{done} of {len(jobs)} heads, {left / 60:.1f} min left")
    if config.frames and (data / "hc18" / "index.csv").exists():
        prepare_frames(data, out / "hc18.npz")
    manifest = out / "manifest.json"
    record = {"simulated": True, "configuration": json.loads(config_path.read_text()), "sha256": hashes}
    manifest.write_text(json.dumps(record, indent=1, sort_keys=True))
    return manifest


def read_frame_index(data: Path) -> list[dict[str, str]]:
    """Rows of hc18/index.csv."""
    with open(data / "hc18" / "index.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def frame_volume(data: Path, row: dict[str, str]) -> Volume:
    """A real frame as a one-slice volume; its pixel size refers to the half-size image that is stored."""
    from PIL import Image

    image = np.asarray(Image.open(data / "hc18" / "images" / row["file"]).convert("L"))
    size = float(row["pixel_size_mm"])
    return Volume(image[None], np.diag([-size, -size, size, 1.0]))


def frame_to_canonical(row: dict[str, str]) -> np.ndarray:
    """The similarity (4, 4) that puts the annotated head ellipse upright in the canonical plane.

    Input world: `frame_volume`'s RAS mm.  Which end is the face stays open.
    """
    size = float(row["pixel_size_mm"])
    centre = -size * np.array([float(row["centre_x_px"]), float(row["centre_y_px"])])
    angle = np.deg2rad(float(row["angle_deg"]))
    major = -np.array([np.cos(angle), np.sin(angle)])
    scale = HEAD_LENGTH_MM / (2 * size * max(float(row["semi_major_px"]), float(row["semi_minor_px"])))
    matrix = np.eye(4)
    matrix[0, :2] = scale * np.array([major[1], -major[0]])
    matrix[1, :2] = scale * major
    matrix[2, 2] = scale
    matrix[:2, 3] = -matrix[:2, :2] @ centre
    return matrix


def prepare_frames(data: Path, target: Path) -> None:
    """All HC18 frames of MINIMUM_CIRCUMFERENCE_MM or more, in the canonical plane, split by fetus (70/15/15)."""
    us, fans, fetuses, files, splits = [], [], [], [], []
    for row in read_frame_index(data):
        if float(row["head_circumference_mm"]) < MINIMUM_CIRCUMFERENCE_MM:
            continue
        volume = frame_volume(data, row)
        fan = find_fan(volume.array)
        matrix = frame_to_canonical(row)
        image, _ = to_canonical(volume.array, volume.ijk_to_ras, matrix)
        inside, _ = to_canonical(fan.astype(np.float32), volume.ijk_to_ras, matrix)
        fetus = int(row["file"].split("_")[0])
        part = int(hashlib.sha256(f"fetus {fetus}".encode()).hexdigest(), 16) % 100
        us.append(np.clip(np.round(image[0]), 0, 255).astype(np.uint8))
        fans.append(inside[0] > 0.5)
        fetuses.append(fetus)
        files.append(row["file"])
        splits.append("train" if part < 70 else "val" if part < 85 else "test")
    arrays: dict[str, Any] = {
        "us": np.stack(us),
        "fan": np.stack(fans),
        "fetus": np.array(fetuses),
        "frame": np.array(files),
        "split": np.array(splits),
    }
    np.savez_compressed(target, **arrays)
