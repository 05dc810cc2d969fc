"""How long the alignment of a 256^3 volume and of a frame takes, files included, and how much memory above import.

    python Testing/benchmarks/alignment_speed.py [--json] [--size 256] [--times 3]

A volume is read, admitted, aligned, resampled into canonical space and written, as `usmri normalise` does it. The sure
way is the sample head on a grid of that size; the slow way is the same speckle in another order, in which no direction
is certain, so that all are followed up. Each is measured in a process of its own: best of several, the peak of the
first. `load` is what else ran: above 1 the seconds of a clock are not to be quoted, those of the processor may be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from USMRISynthesisLib.geometry.canonical import resample
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.gate import find_fan

SAMPLES = Path(__file__).resolve().parents[2] / "Resources" / "SampleData"
KINDS = ("sure", "slow", "frame")


def prepared(kind: str, size: int, folder: Path) -> Path:
    """The input of one kind, as an uncompressed NRRD."""
    path = folder / f"{kind}.nrrd"
    if kind == "frame":
        Volume.read(SAMPLES / "fetal-head-hc18.nrrd").write(path, compress=False)
        return path
    head = Volume.read(SAMPLES / "fetal-head-simulated.nrrd")
    step = max(head.extent_mm) / (size - 1)
    matrix = np.eye(4)
    matrix[:3, :3] = head.ijk_to_ras[:3, :3] / head.spacing * step
    matrix[:3, 3] = head.ijk_to_ras[:3, 3]
    fine = resample(head.array, np.linalg.inv(head.ijk_to_ras) @ matrix, (size, size, size), 1, 0.0)
    volume = Volume(np.clip(np.rint(fine), 0, 255).astype(np.uint8), matrix)
    if kind == "slow":
        from USMRISynthesisLib.evaluation.alignment.negatives import remove_head

        volume = remove_head(volume, find_fan(volume.array, volume.spacing), np.random.default_rng(1))
    volume.write(path, compress=False)
    return path


def child(path: Path, times: int) -> dict[str, float]:
    """Measure in this process: seconds of clock and processor, and the peak over what importing took, MB."""
    from speed import forget_peak, memory_mb  # torch comes with it: its import is no part of the work
    from USMRISynthesisLib.alignment.volume import search as network_align  # noqa: F401
    from USMRISynthesisLib.synthesis import pipeline

    before = forget_peak()
    peak, clocks, processors = 0.0, [], []
    for _ in range(times):
        clock, processor = time.perf_counter(), time.process_time()
        result = pipeline.normalise(Volume.read(path))
        result.canonical.write(path.with_suffix(".out.nrrd"), compress=False)
        clocks.append(time.perf_counter() - clock)
        processors.append(time.process_time() - processor)
        peak = peak or memory_mb("VmHWM") - before
    return {
        "seconds": min(clocks),
        "processor_seconds": min(processors),
        "first_seconds": clocks[0],
        "peak_mb_over_import": peak,
        "score": result.provenance["alignment"]["score"],
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(child(options.child, options.times)))
        return 0
    figures: dict[str, object] = {"load": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = prepared(kind, options.size, Path(folder))
            done = subprocess.run(
                [sys.executable, __file__, "--child", str(path), "--times", str(options.times)],
                check=True,
                capture_output=True,
                text=True,
            )
            for name, value in json.loads(done.stdout.splitlines()[-1]).items():
                figures[f"{kind}_{name}"] = round(value, 3)
    print(json.dumps(figures) if options.json else "\n".join(f"{key:30s} {value}" for key, value in figures.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
