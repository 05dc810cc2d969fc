"""Simulated data sets on disk, and the real frames of HC18 brought to the same canonical plane.

`usmri simulate CONFIG OUT` writes one `.npz` a case (format in docs/architecture.md), `manifest.json` with
the SHA-256 of every case, and `hc18.npz`.  Which heads: ``config.py``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, to_canonical
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.config import DatasetConfig, Head
from USMRISynthesisLib.ultrasound.gate import find_fan

if TYPE_CHECKING:
    from USMRISynthesisLib.simulation.scanner.beam import Beam

MINIMUM_CIRCUMFERENCE_MM = 150.0


def simulate_case(data: Path, spec: Head, frames: int = 0) -> dict[str, Any]:
    """One head with its ultrasound and truth, as the arrays of a case file; `frames` 2D frames of it besides."""
    from USMRISynthesisLib.simulation.anatomy.head import build
    from USMRISynthesisLib.simulation.scanner import frame, randomised, wide
    from USMRISynthesisLib.simulation.scanner.volume import simulate_canonical

    loaded, machine = atlas.load(data, spec.atlas), spec.machine
    if machine.randomised:
        head = build(loaded, spec.seed, randomised.ANATOMY, spec.anomaly, randomised.MEMBRANES)
    else:
        head = build(loaded, spec.seed, anomaly=spec.anomaly)
    us, fan, sweep = simulate_canonical(head, spec.seed, spec.ranges, spec.view, machine)
    parameters = {**head.parameters, **sweep.parameters, "view": sweep.view, "atlas": spec.atlas}
    arrays = {
        "us": us,
        "t2": np.round(head.t2 * 255).astype(np.uint8),
        "labels": head.labels,
        "fan": fan,
        "skull": head.skull_distance < 0,
        "week": np.int32(head.week),
        "seed": np.int64(spec.seed),
        "scale": np.float64(head.scale),
        "centre": head.centre,
        "length_mm": np.float64(head.length_mm),
        "eyes": head.eyes,
        "pose": probe_to_canonical(sweep.beam, head.scale),
        "anomaly": np.str_(spec.anomaly or "none"),
        "parameters": np.str_(json.dumps(parameters)),
    }
    arrays["wide"], arrays["wide_fan"], arrays["wide_to_canonical"] = wide.wide_volume(sweep)
    made = [frame.simulate_frame(head, frame_seed(spec.seed, n), machine=machine) for n in range(frames)]
    for key in ("us", "fan", "t2", "labels", "skull", "plane") if made else ():
        arrays[f"frames_{key}"] = np.stack([getattr(item, key) for item in made])
    return arrays


def frame_seed(seed: int, number: int) -> int:
    """Seed of a head's n-th 2D frame."""
    return 1000 * seed + number


def probe_to_canonical(beam: Beam, scale: float) -> np.ndarray:
    """(4, 4) similarity from the probe's own physical mm to canonical mm.

    The probe's origin is the apex of its beams; x runs laterally, y in elevation, z into depth.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = beam.axes.T * scale
    matrix[:3, 3] = beam.apex
    return matrix


def array_hashes(case: Path) -> dict[str, str]:
    """SHA-256 of a case's ultrasound and of its truth, over names, types, shapes and bytes.

    Apart, because the last bit of the ultrasound may depend on the processor; the file also on numpy's version.
    """
    digests = {"ultrasound": hashlib.sha256(), "truth": hashlib.sha256()}
    with np.load(case) as arrays:
        for name in sorted(arrays.files):
            array = np.ascontiguousarray(arrays[name])
            digest = digests["ultrasound" if name in ("us", "wide", "frames_us") else "truth"]
            digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
            digest.update(array.tobytes())
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _make(job: tuple[Path, Head, int, Path]) -> tuple[str, str, dict[str, str]]:
    import torch

    data, spec, frames, target = job
    torch.set_num_threads(1)
    if not target.exists():
        partial = target.with_suffix(".partial.npz")
        np.savez(partial, **simulate_case(data, spec, frames))  # speckle does not compress
        partial.replace(target)
    name = target.relative_to(target.parents[1]).as_posix()
    return name, hashlib.sha256(target.read_bytes()).hexdigest(), array_hashes(target)


def simulate(
    config_path: Path,
    out: Path,
    *,
    data: Path,
    workers: int = 2,
    progress: Callable[[float, str], None] | None = None,
) -> Path:
    """Make the data set; cases that exist already are kept, so a stopped run goes on.  Returns the manifest."""
    config = DatasetConfig.read(config_path, atlas.available(data))
    jobs = []
    for name, heads in config.splits.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for case, spec in enumerate(heads):
            jobs.append((data, spec, config.frames_a_head, out / name / f"{spec.atlas}-{case:04d}.npz"))
    jobs.sort(key=lambda job: (job[3].parent, job[1].atlas))  # a worker meets the same atlas again and reads it once
    files: dict[str, str] = {}
    arrays: dict[str, dict[str, str]] = {}
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        for done, (case_name, digest, parts) in enumerate(pool.imap_unordered(_make, jobs), start=1):
            files[case_name], arrays[case_name] = digest, parts
            if progress:
                left = (time.monotonic() - started) / done * (len(jobs) - done)
                progress(done / len(jobs), f"{done} of {len(jobs)} heads, {left / 60:.1f} min left")
    if config.frames and (data / "hc18" / "index.csv").exists():
        prepare_frames(data, out / "hc18.npz")
    manifest = out / "manifest.json"
    record = {
        "simulated": True,
        "configuration": json.loads(config_path.read_text(encoding="utf-8")),
        "sha256": files,
        "array_sha256": arrays,
    }
    manifest.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    return manifest


def write_hashes(manifest: Path, target: Path) -> None:
    """Write down the arrays' SHA-256 of every case of a manifest, for `check_hashes` on another day."""
    record = json.loads(manifest.read_text(encoding="utf-8"))["array_sha256"]
    target.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check_hashes(manifest: Path, expected: Path) -> None:
    """Raises Failed naming a case and part (ultrasound or truth) that is not as written in `expected`."""
    made = json.loads(manifest.read_text(encoding="utf-8"))["array_sha256"]
    try:
        wanted: dict[str, dict[str, str]] = json.loads(expected.read_text(encoding="utf-8"))
        differ = [f"the {part} of {name}" for name in sorted({*wanted, *made}) for part in ("truth", "ultrasound")
                  if wanted.get(name, {}).get(part) != made.get(name, {}).get(part)]  # fmt: skip
    except (OSError, ValueError, AttributeError) as error:
        raise Refused("hashes", f"{expected.name} holds no hashes.", "Give what --hashes wrote.") from error
    if differ:
        raise Failed(
            "hashes",
            f"{len(differ)} of {2 * len(wanted)} hashes differ from {expected.name}: first {differ[0]}.",
            "Remove the folder and make it anew; if they still differ, the simulator or the processor is another.",
        )


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


def split_of(file: str) -> str:
    """ "train", "val" or "test" (70/15/15) of a frame, by its fetus: the number before the first underscore."""
    fetus = int(file.split("_")[0])
    part = int(hashlib.sha256(f"fetus {fetus}".encode()).hexdigest(), 16) % 100
    return "train" if part < 70 else "val" if part < 85 else "test"


def half_axes_of(row: dict[str, str]) -> tuple[float, float]:
    """Half axes of a frame's outer skull in the canonical plane, across and along, in mm."""
    short, long = sorted((float(row["semi_minor_px"]), float(row["semi_major_px"])))
    return HEAD_LENGTH_MM / 2 * short / long, HEAD_LENGTH_MM / 2


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
    us, fans, fetuses, files, splits, axes = [], [], [], [], [], []
    for row in read_frame_index(data):
        if float(row["head_circumference_mm"]) < MINIMUM_CIRCUMFERENCE_MM:
            continue
        volume = frame_volume(data, row)
        fan = find_fan(volume.array)
        matrix = frame_to_canonical(row)
        image, _ = to_canonical(volume.array, volume.ijk_to_ras, matrix)
        inside, _ = to_canonical(fan.astype(np.float32), volume.ijk_to_ras, matrix)
        fetus = int(row["file"].split("_")[0])
        us.append(np.clip(np.round(image[0]), 0, 255).astype(np.uint8))
        fans.append(inside[0] > 0.5)
        fetuses.append(fetus)
        files.append(row["file"])
        axes.append(half_axes_of(row))
        splits.append(split_of(row["file"]))
    arrays: dict[str, Any] = {
        "us": np.stack(us),
        "fan": np.stack(fans),
        "fetus": np.array(fetuses),
        "frame": np.array(files),
        "split": np.array(splits),
        "half_axes_mm": np.array(axes),
    }
    np.savez_compressed(target, **arrays)
