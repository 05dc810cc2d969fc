"""Real frames of axial brain planes by many machines (`fetal-planes/`) in canonical space, for training.

`python -m USMRISynthesisLib.datasets.plane_frames --data DIR --out data/planes.npz`

They have no annotation: the outline comes from the model of frames, and a frame whose outline is not sure is left
out.  Split by patient.  Burgos-Artizzu et al., Scientific Reports 2020, 10:10200 (CC BY 4.0).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from pathlib import Path

import numpy as np

from USMRISynthesisLib.alignment.align import segment_head_2d
from USMRISynthesisLib.geometry.canonical import to_canonical
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.gate import find_fan

PLANES = ("trans-thalamic", "trans-ventricular")
PIXEL_MM = 0.5  # assumed: none is stored, and canonical space takes the size away
SURE = 0.8


def split_of(patient: str) -> str:
    """ "train", "val" or "test" (70/15/15) of a patient."""
    part = int(hashlib.sha256(f"patient {patient}".encode()).hexdigest(), 16) % 100
    return "train" if part < 70 else "val" if part < 85 else "test"


def canonical_frame(image: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Ultrasound uint8 and fan (160, 160) of a frame (j, i) uint8 in canonical space; None where no outline is sure."""
    volume = Volume(image[None], np.diag([-PIXEL_MM, -PIXEL_MM, PIXEL_MM, 1.0]))
    fan = find_fan(volume.array)
    found = segment_head_2d(volume, fan)
    if found is None or found.score < SURE:
        return None
    us, _ = to_canonical(volume.array, volume.ijk_to_ras, found.ras_to_canonical)
    inside, _ = to_canonical(fan.astype(np.float32), volume.ijk_to_ras, found.ras_to_canonical)
    return np.clip(np.round(us[0]), 0, 255).astype(np.uint8), inside[0] > 0.5


def main(arguments: list[str] | None = None) -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    folder = options.data / "fetal-planes"
    with open(folder / "index.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["plane"].lower() in PLANES]
    kept, us, fans = [], [], []
    for row in rows:
        with Image.open(folder / row["file"]) as picture:
            made = canonical_frame(np.asarray(picture.convert("L")))
        if made is not None:
            kept.append(row)
            us.append(made[0])
            fans.append(made[1])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        options.out, us=np.stack(us), fan=np.stack(fans), frame=np.array([row["file"] for row in kept]),
        split=np.array([split_of(row["patient"]) for row in kept]),
    )  # fmt: skip
    print(f"{len(kept)} of {len(rows)} frames")


if __name__ == "__main__":
    main()
