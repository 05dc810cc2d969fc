"""Grey levels of real frames for the display's grey map.

`python -m USMRISynthesisLib.simulation.calibration --data DIR` writes ``appearance.json``.
Only HC18 frames of training fetuses are read (the split of ``dataset.prepare_frames``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from USMRISynthesisLib.simulation.dataset import MINIMUM_CIRCUMFERENCE_MM, frame_volume, read_frame_index, split_of
from USMRISynthesisLib.simulation.scanner.display import (
    APPEARANCE,
    BRAIN_LIMIT_MM,
    BRAIN_PERCENTILES,
    SKULL_PERCENTILES,
)
from USMRISynthesisLib.ultrasound.gate import find_fan

_EVERY = 2  # frames of one fetus are alike


def grey_levels(image: np.ndarray, fan: np.ndarray, row: dict[str, str]) -> np.ndarray:
    """(12,) grey levels of a frame (j, i) with its ellipse from the index: brain and skull-peak percentiles."""
    j, i = np.mgrid[: image.shape[0], : image.shape[1]]
    angle = np.deg2rad(float(row["angle_deg"]))
    x, y = i - float(row["centre_x_px"]), j - float(row["centre_y_px"])
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    axes = float(row["semi_major_px"]), float(row["semi_minor_px"])
    limit = 1 + BRAIN_LIMIT_MM / 40
    radius = np.hypot(u / axes[0], v / axes[1])
    brain = image[(radius < limit) & fan]
    sector = (np.arctan2(v / axes[1], u / axes[0]) / (2 * np.pi) * 72).astype(int) % 72
    ring = (radius > 0.88) & (radius < 1.06) & fan
    peaks = [image[ring & (sector == n)].max() for n in range(72) if (ring & (sector == n)).any()]
    return np.concatenate((np.percentile(brain, BRAIN_PERCENTILES), np.percentile(peaks, SKULL_PERCENTILES)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=APPEARANCE)
    options = parser.parse_args(arguments)
    rows = []
    for row in read_frame_index(options.data):
        if float(row["head_circumference_mm"]) < MINIMUM_CIRCUMFERENCE_MM or split_of(row["file"]) != "train":
            continue
        volume = frame_volume(options.data, row)
        rows.append(grey_levels(volume.array[0], find_fan(volume.array)[0], row).round().astype(int).tolist())
    record = {
        "source": "HC18, training fetuses (van den Heuvel et al. 2018, CC BY 4.0)",
        "brain_percentiles": BRAIN_PERCENTILES,
        "skull_percentiles": SKULL_PERCENTILES,
        "grey_levels": rows[::_EVERY],
    }
    options.out.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
