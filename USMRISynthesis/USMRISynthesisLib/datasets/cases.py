"""The .npz cases of `usmri simulate` and the real frames beside them, unpacked once and mapped from disk."""

from __future__ import annotations

import glob
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.planes import PLANES, to_plane
from USMRISynthesisLib.ultrasound.intensity import robust_range

UNPACKED = "unpacked"  # beside the .npz files: the volumes as .npy, which can be memory-mapped
REMEDY = "Make the data set again with `usmri simulate`."
_UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


@dataclass(frozen=True, eq=False)
class Case:
    """One simulated head on the canonical grid; arrays (K, H, W) uint8, memory-mapped.

    us: 0 outside the fan and at least 1 inside it, so that the fan needs no array of its own.
    t2: 0 outside the head. low, high: the ultrasound's robust range. heads: (3, K) head pixels in each slice of each of
    the three planes.
    frames: the same head's simulated 2D frames, frames_t2 (n, H, W) their truth.
    """

    name: str
    week: int
    us: np.ndarray
    t2: np.ndarray
    low: float
    high: float
    heads: np.ndarray
    frames: Frames
    frames_t2: np.ndarray

    @property
    def head(self) -> np.ndarray:
        """(K,) head pixels in each axial slice."""
        return np.asarray(self.heads[0])


@dataclass(frozen=True, eq=False)
class Frames:
    """2D frames, (n, H, W) uint8, the fan coded as in `Case`; ranges (n, 2).

    marks: (n, H, W) uint8, the codes of `marked_frames.py`, where fluid is marked on them.
    """

    us: np.ndarray
    ranges: np.ndarray
    marks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.us)


def load_cases(folder: str | Path) -> list[Case]:
    """The .npz cases of a folder, in the order of their names. Raises Refused for none, or for a bad one."""
    paths = sorted(Path(folder).glob("*.npz"))
    if not paths:
        raise Refused("data", f"There are no simulated cases in {folder}.", REMEDY)
    return [_load_case(path) for path in paths]


def load_frames(path: str | Path, split: str) -> Frames:
    """The real frames of one split ("train", "val"; by fetus) of an .npz with us, fan, split. Raises Refused."""
    try:
        with np.load(path) as content:
            chosen = content["split"] == split
            us = mark_fan(content["us"][chosen], content["fan"][chosen])
            marks = np.asarray(content["marks"][chosen]) if "marks" in content else None
    except _UNREADABLE as error:
        raise Refused("data", f"The real frames {path} cannot be read ({error}).", REMEDY) from error
    ranges = _ranges(us)
    usable = ranges[:, 1] > ranges[:, 0]
    return Frames(us[usable], ranges[usable], None if marks is None else marks[usable])


def joined(parts: list[Frames]) -> Frames:
    """The frames of all parts, in their order."""
    return Frames(np.concatenate([part.us for part in parts]), np.concatenate([part.ranges for part in parts]))


def _ranges(us: np.ndarray) -> np.ndarray:
    return np.array([robust_range(frame, frame > 0) for frame in us], dtype=np.float32).reshape(-1, 2)


def mark_fan(us: np.ndarray, fan: np.ndarray) -> np.ndarray:
    """8-bit ultrasound with 0 outside the fan only."""
    return np.where(fan, np.maximum(us, 1), 0).astype(np.uint8)


def _load_case(path: Path) -> Case:
    facts, arrays = unpacked(path, "heads", _read_case)
    ranges = np.array(facts["frame_ranges"], np.float32).reshape(-1, 2)
    return Case(
        path.stem, facts["week"], arrays["us"], arrays["t2"], facts["low"], facts["high"], np.array(facts["heads"]),
        Frames(arrays["frames"], ranges), arrays["frames_t2"],
    )  # fmt: skip


def _read_case(content: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    us = mark_fan(content["us"], content["fan"])
    t2, week = np.asarray(content["t2"]), int(content["week"])
    frames = frames_t2 = np.zeros((0, *us.shape[1:]), np.uint8)
    if "frames_us" in content:
        frames = mark_fan(content["frames_us"], content["frames_fan"])
        frames_t2 = np.asarray(content["frames_t2"])
    low, high = robust_range(us, us > 0)
    facts = {"week": week, "low": low, "high": high, "heads": pixels(t2 > 0), "frame_ranges": _ranges(frames).tolist()}
    return facts, {"us": us, "t2": t2, "frames": frames, "frames_t2": frames_t2}


def pixels(mask: np.ndarray) -> list[list[int]]:
    """How many are true in each slice of (K, K, K) in each of the three planes."""
    return [np.count_nonzero(to_plane(mask, plane), axis=(1, 2)).tolist() for plane in PLANES]


def unpacked(
    path: Path,
    newest: str,
    read: Callable[[Mapping[str, np.ndarray]], tuple[dict[str, Any], dict[str, np.ndarray]]],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `read` makes of an .npz, done once and kept next to it; later runs map the arrays from there.

    read: the arrays of the file -> plain facts, and arrays by name, always the same names. newest: a fact that what was
    kept by an older version lacks. Raises Refused for a file that cannot be read.
    """
    folder = path.parent / UNPACKED
    facts_path = folder / f"{path.stem}.json"
    stamp = [path.stat().st_size, path.stat().st_mtime_ns]
    facts: dict[str, Any] = json.loads(facts_path.read_text()) if facts_path.is_file() else {}
    if facts.get("stamp") != stamp or newest not in facts:
        try:
            with np.load(path) as content:
                facts, arrays = read(content)
        except _UNREADABLE as error:
            raise Refused("data", f"The case {path} cannot be read ({error}).", REMEDY) from error
        folder.mkdir(exist_ok=True)
        for name, array in arrays.items():
            _write_array(folder / f"{path.stem}.{name}.npy", array)
        part = facts_path.with_suffix(f".{os.getpid()}.part")
        facts |= {"stamp": stamp}
        part.write_text(json.dumps(facts))
        os.replace(part, facts_path)  # last: it vouches for the arrays
    names = [found.name.split(".")[-2] for found in sorted(folder.glob(f"{glob.escape(path.stem)}.*.npy"))]
    return facts, {name: np.load(folder / f"{path.stem}.{name}.npy", mmap_mode="r") for name in names}


def _write_array(path: Path, array: np.ndarray) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)
