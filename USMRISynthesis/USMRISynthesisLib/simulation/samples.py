"""The sample inputs: `python -m USMRISynthesisLib.simulation.samples OUT --data DIR` remakes them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from USMRISynthesisLib.geometry.canonical import resample
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.anatomy.head import build
from USMRISynthesisLib.simulation.anatomy.warp import rotation_matrix, sample
from USMRISynthesisLib.simulation.dataset import frame_volume, read_frame_index
from USMRISynthesisLib.simulation.scanner.volume import CANONICAL_IJK_TO_RAS, acquire
from USMRISynthesisLib.ultrasound.fan import find_fan

SIMULATED = ("GA26-operated", 11, "right")  # a week that no weights were trained on
REAL_HEAD = "ucl-23w.nii.gz"  # of the three the one whose millimetres are physical
REAL_FRAME = "540_HC.png"  # of a fetus that no weights were trained on
_SPACING_MM = 0.8
_SMOOTHING_MM = 0.25  # before the real head is resampled
_SIZE = (150, 160, 140)  # k, j, i


def simulated_head(data: Path, folder: str, seed: int, view: str) -> tuple[Volume, Volume]:
    """Ultrasound as a probe would store it (RAS, turned by some degrees, off centre) and the true T2 on its grid."""
    head = build(atlas.load(data, folder), seed)
    sweep = acquire(head, seed, view=view)
    rotation = rotation_matrix(np.array([6.0, -4.0, 7.0]))
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = rotation * _SPACING_MM
    middle = (np.array(_SIZE[::-1]) - 1) / 2
    ijk_to_ras[:3, 3] = np.array([12.0, -20.0, 31.0]) - ijk_to_ras[:3, :3] @ middle
    k, j, i = np.meshgrid(*(np.arange(n) for n in _SIZE), indexing="ij")
    ijk = np.stack((i, j, k), axis=-1).astype(np.float32)
    offset = (ijk - middle.astype(np.float32)) * _SPACING_MM + np.array([1.5, -3.0, 2.0], np.float32)
    points = torch.from_numpy((offset * head.scale).astype(np.float32))  # canonical mm
    us, _ = sweep.scan_convert(points)
    t2 = sample(head.t2, CANONICAL_IJK_TO_RAS, points).numpy()
    note = {"description": f"Simulated fetal head ultrasound ({folder}, seed {seed}); no patient"}
    truth = {"description": f"Truth of the simulated head ({folder}, seed {seed}): T2 from an atlas average"}
    return (
        Volume(us, ijk_to_ras, note),
        Volume(np.round(t2 * 1000).astype(np.int16), ijk_to_ras, truth),
    )


def real_frame(data: Path, name: str) -> Volume:
    """A real HC18 frame with its pixel size and attribution."""
    row = next(row for row in read_frame_index(data) if row["file"] == name)
    frame = frame_volume(data, row)
    note = {
        "description": "Fetal head, 2D ultrasound, HC18 (van den Heuvel et al. 2018, CC BY 4.0), half size",
        "source": f"zenodo.1327317, training set, {name}",
    }
    return Volume(frame.array, frame.ijk_to_ras, note)


def real_head(data: Path, name: str = REAL_HEAD) -> Volume:
    """A real 3D ultrasound of a head, cropped to its fan, on its own oblique axes at about 0.8 mm; uint8, 0 outside the
    fan."""
    source = Volume.read(data / "us-3d-real" / name)
    fan = find_fan(source.array, source.spacing)
    box = ndimage.find_objects(fan.astype(np.uint8))[0]
    corner = np.array([part.start for part in box[::-1]])
    extent = (np.array([part.stop for part in box[::-1]]) - 1 - corner) * source.spacing  # i, j, k, mm
    size = np.floor(extent / _SPACING_MM).astype(int) + 1
    to_source = np.diag([*(_SPACING_MM / np.array(source.spacing)), 1.0])
    to_source[:3, 3] = corner
    smooth = ndimage.gaussian_filter(source.array.astype(np.float32), _SMOOTHING_MM / np.array(source.spacing)[::-1])
    shape = tuple(int(n) for n in size[::-1])
    us = resample(smooth, to_source, shape, 1, 0.0)
    seen = resample(fan, to_source, shape, 0, 0.0) > 0.5
    note = {
        "description": "Fetal head, real 3D ultrasound, 23 weeks (UCL, MIT licence), resampled to 0.8 mm",
        "source": f"github.com/surgical-vision/FetalUltrasoundSimulator-Unity-GameVersion, {name}",
        "licence": "MIT, Copyright (c) 2024 Surgical Vision and Robotics at UCL",
    }
    return Volume(np.where(seen, np.rint(us), 0).astype(np.uint8), source.ijk_to_ras @ to_source, note)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--truth", type=Path, help="also write the simulated head's true T2 here")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    us, truth = simulated_head(options.data, *SIMULATED)
    us.write(options.out / "fetal-head-simulated.nrrd")
    if options.truth:
        truth.write(options.truth)
    real_head(options.data).write(options.out / "fetal-head-ucl.nrrd")
    real_frame(options.data, REAL_FRAME).write(options.out / "fetal-head-hc18.nrrd")


if __name__ == "__main__":
    main()
