"""What a cohort costs: two workers against one in the same run, and the ledger from 100 to 10,000 cases.

    python Testing/benchmarks/cohort.py [--json] [--cases 8] [--frame] [--ledger-only]

The throughput is that of whole batches of the sample volume, or with --frame of its middle slice, each worker with one
thread; a first batch warms the disk. The ledger is measured with made-up cases: milliseconds a line, with fsync.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import records
from USMRISynthesisLib.batch.folder import Batch
from USMRISynthesisLib.batch.ledger import Ledger, fold
from USMRISynthesisLib.batch.resources import processors
from USMRISynthesisLib.batch.runner import run
from USMRISynthesisLib.io.volume import Volume

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "fetal-head-simulated.nrrd"
GOAL = 1.7  # two workers to one, on two processors
COUNTS = (100, 1000, 10_000)


def ledger_cost(folder: Path) -> dict[str, float]:
    """Milliseconds for the last 100 lines of so many, each; and for folding them, a case."""
    found = {}
    for count in COUNTS:
        out = folder / str(count)
        ledger = Ledger(out)
        took = []
        for number in range(count):
            began = time.perf_counter()
            ledger.append({"name": f"case{number:05d}.nrrd", "state": "done", "quality": {"score": 0.8}})
            took.append(time.perf_counter() - began)
        ledger.close()
        began = time.perf_counter()
        fold(out)
        found[f"append_ms_{count}"] = 1e3 * float(np.median(took[-100:]))
        found[f"fold_ms_{count}"] = 1e3 * (time.perf_counter() - began) / count
    return found


def throughput(folder: Path, cases: int, *, frame: bool) -> dict[str, Any]:
    """Cases a minute of one worker and of two, and their ratio."""
    volume = Volume.read(SAMPLE)
    middle = volume.shape[0] // 2
    matrix = volume.ijk_to_ras.copy()
    matrix[:3, 3] += matrix[:3, 2] * middle * frame
    array = volume.array[middle : middle + 1] if frame else volume.array
    (folder / "in").mkdir()
    for number in range(cases):
        Volume(np.roll(array, number, axis=2), matrix).write(folder / "in" / f"{number:03d}.nrrd")
    rates = {}
    for name, workers in (("warm", 1), ("one", 1), ("two", 2)):
        batch = Batch(folder / "in", folder / name, device="cpu", unreliable=True, any_content=True)
        if name == "warm":
            batch.cases = batch.cases[:1]
            batch.states = {case.name: batch.states[case.name] for case in batch.cases}
        began = time.perf_counter()
        run(batch, workers=workers)
        rates[name] = 60 * len(batch.cases) / (time.perf_counter() - began)
        if batch.status != "done":
            raise SystemExit(f"{batch.summary()} {batch.states}")
    return {
        "cases": cases,
        "one_worker_per_minute": rates["one"],
        "two_workers_per_minute": rates["two"],
        "ratio": rates["two"] / rates["one"],
        "goal": GOAL,
        "processors": processors(),
    }


def main() -> int:
    """Print the figures; 1 where two workers are less than the goal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--frame", action="store_true", help="frames instead of volumes")
    parser.add_argument("--ledger-only", action="store_true")
    parser.add_argument("--record", metavar="FILE", help="also write the figures for `make results`")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the one worker as of each of the two
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = ledger_cost(Path(folder))
        if not options.ledger_only:
            result |= throughput(Path(folder), options.cases, frame=options.frame)
    if options.record:
        of = "frames" if options.frame else "volumes"
        command = f"python Testing/benchmarks/cohort.py --cases {options.cases}{' --frame' * options.frame}"
        records.write(options.record, f"Cohort of {of}: two workers against one, and the ledger", command, result)
    print(json.dumps(result) if options.json else "\n".join(f"{key:24} {one:.4g}" for key, one in result.items()))
    return int(result.get("ratio", GOAL) < GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
