"""How fast, how large, how steady: the goals of the design's performance page, as ratios measured in one run.

    python Testing/benchmarks/speed.py [--json] [--model NAME_OR_FOLDER] [--quick] [--only-openvino]

R0, R1 and the limit are those of `references.py`; R0 and R1 run on a few slices, scaled to 160. Every time is the
best of several; peak memory is taken in processes of its own. Without `model_weights/default` an untrained model of the
same shape is measured: speed does not depend on the weights, precision does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the worker and the command line do

import numpy as np
import records
import torch
from openvino_speed import openvino_beside_torch, openvino_line
from references import (
    attend_naive,
    best,
    convolution_rate,
    convolutions_alone,
    gflop_a_slice,
    reference_seconds,
)
from USMRISynthesisLib.errors import Cancelled, Failed
from USMRISynthesisLib.geometry import planes
from USMRISynthesisLib.geometry.canonical import SIZE, canonical_axis_mm
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisLib.synthesis.attention import attend_linear
from USMRISynthesisLib.synthesis.engine import load_generator, run_slices
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.synthesis.pipeline import synthesize
from USMRISynthesisLib.worker.client import WorkerProcess

warnings.filterwarnings("ignore", category=DeprecationWarning)
SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "fetal-head-simulated.nrrd"
RELIABILITY = "Estimating the reliability"
GOALS = {  # key: (at least or at most, value, what it is)
    "attention_ratio_25600": (">=", 100, "attention at 160 x 160: naive time / ours"),
    "attention_difference": ("<=", 1e-5, "largest difference to naive"),
    "attention_peak_mb": ("<=", 50, "its peak memory, MB"),
    "r0_ratio": (">=", 25, "R0 / shipped, a volume"),
    "r1_ratio": (">=", 1.7, "R1 / shipped, a volume"),
    "fraction_of_limit": (">=", 0.65, "shipped rate / best convolution rate (stretch 0.85)"),
    "generator_peak_mb": ("<=", 200, "generator's peak over import, MB"),
    "pipeline_peak_mb": ("<=", 350, "pipeline's peak over the loaded state, MB"),
    "overhead_share": ("<=", 0.15, "gate, alignment, resampling and I/O / whole time"),
    "batch_difference": ("<=", 1e-5, "largest difference over batches 1-4 and 1-2 threads, float32"),
    "cancel_seconds": ("<=", 0.5, "from asking to stopped"),
}


def canonical_stack(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Slices (count, 160, 160) of noise in a disc and their z in mm."""
    us = np.random.default_rng(0).random((count, SIZE, SIZE), dtype=np.float32) * 2 - 1
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    us[:, np.hypot(x, y) > 75] = -1
    return us, canonical_axis_mm()[:count] if count < SIZE else canonical_axis_mm()


def run_shipped(model: str, count: int, *, full: bool = False, **options: Any) -> np.ndarray:
    """`count` canonical slices through the loaded model, as the product does it; `full`: in float32 throughout."""
    generator = load_generator(model, "cpu")
    form = generator.manifest.input
    us, z_mm = canonical_stack(count)
    return run_slices(
        generator.on_cpu() if full else generator.module,
        us,
        z_mm,
        neighbours=form.neighbours,
        location=form.location,
        plane=planes.plane_code("axial", form.planes),
        dtype=torch.float32 if full else generator.dtype,
        **options,
    )


def batch_difference(model: str, *, full: bool) -> float:
    """Largest difference of the output, in [-1, 1], over batches 1-4 and one or two threads."""
    threads = torch.get_num_threads()
    results = [run_shipped(model, 8, full=full, batch=batch) for batch in (1, 2, 3, 4)]
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run_shipped(model, 8, full=full))
    torch.set_num_threads(threads)
    return float(max(np.abs(result - results[0]).max() for result in results))


def overhead(model: str, volume: Volume, along: str = "axial") -> tuple[float, dict[str, float]]:
    """Share of a warm run, file to file, outside the generator and the reliability map; seconds of each part.

    along: axial or all.
    """
    with tempfile.TemporaryDirectory() as folder:
        volume.write(Path(folder) / "in.nrrd")
        found: list[tuple[float, dict[str, float]]] = []
        for _ in range(2):
            start = time.perf_counter()
            read = Volume.read(Path(folder) / "in.nrrd")
            middle = time.perf_counter()
            result = synthesize(read, model=model, device="cpu", planes=along)
            after = time.perf_counter()
            result.mr.write(Path(folder) / "out.nrrd")
            end = time.perf_counter()
            parts = {"Reading": middle - start, **result.provenance["seconds"], "Writing": end - after}
            whole = end - start - parts["Loading the model"]
            found.append((1 - (parts["Synthesising"] + parts.get(RELIABILITY, 0.0)) / whole, parts))
    return min(found, key=lambda pair: sum(pair[1].values()))


def cancel_seconds(model: str, volume: Volume) -> float:
    """From asking the worker half-way to its having stopped."""
    cancelled_at: list[float] = []
    with WorkerProcess() as worker:

        def ask(event: dict[str, Any]) -> None:
            if event["event"] == "progress" and event["value"] > 0.4 and not cancelled_at:
                cancelled_at.append(time.perf_counter())
                worker.cancel()

        try:
            worker.synthesize(volume, model=model, device="cpu", on_event=ask)
        except Cancelled:
            return time.perf_counter() - cancelled_at[0]
    raise Failed("benchmark", "The run ended before it could be cancelled.", "Use a larger volume.")


def memory_mb(name: str) -> float:
    """VmRSS or VmHWM of this process in MB (Linux); elsewhere the peak so far for both."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def forget_peak() -> float:
    """Start measuring the peak anew; returns what is in use now, in MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return memory_mb("VmRSS")


def child(what: str, model: str) -> None:
    """Body of a child process: prints the peak memory of one thing over the state before it, in MB."""
    if what == "attention":
        q, k, v = torch.randn(3, 1, 32, SIZE * SIZE)
        before = forget_peak()
        attend_linear(q, k, v, True)
    elif what == "generator":
        before = forget_peak()
        run_shipped(model, 160)
    else:
        volume = Volume.read(SAMPLE)
        load_generator(model, "cpu")
        run_shipped(model, 4)
        before = forget_peak()
        synthesize(volume, model=model, device="cpu")
    print(memory_mb("VmHWM") - before)


def peak_mb(what: str, model: str) -> float:
    """`child` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", what, "--model", model], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def untrained(folder: Path) -> str:
    """A model folder of the default shape with random weights, trusted for this run."""
    torch.manual_seed(0)
    config = GeneratorConfig()
    generator = Generator(config).eval()
    folder.mkdir()
    with torch.no_grad(), warnings.catch_warnings():  # as training.export does it
        warnings.simplefilter("ignore")
        example = torch.zeros(2, config.in_channels, SIZE, SIZE)
        torch.jit.trace(generator, example, check_trace=False).save(str(folder / store.WEIGHTS))
    sha256 = hashlib.sha256((folder / store.WEIGHTS).read_bytes()).hexdigest()
    (folder / store.MANIFEST).write_text(
        json.dumps(
            {
                "name": "untrained",
                "task": "synthesis",
                "version": "0",
                "sha256": sha256,
                "synthetic": True,
                "input": {
                    "size": SIZE,
                    "spacing_mm": 0.6,
                    "channels": config.in_channels,
                    "intensity": "",
                    "neighbours": config.neighbours,
                    "location": config.location,
                },
                "output": {},
                "training": None,
                "figures": None,
                "limits": None,
            }
        )
    )
    store.verified_bytes(folder, consent=lambda *_: True)
    return str(folder)


def shape_of(model: str) -> GeneratorConfig:
    """The generator's shape from its manifest, or the default one."""
    training = store.read_manifest(store.find_model(model)).training
    stored = training.get("config", {}).get("generator", {}) if isinstance(training, dict) else {}
    known = {field.name for field in fields(GeneratorConfig)}
    return GeneratorConfig(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items() if key in known}
    )


def measure(model: str, quick: bool) -> dict[str, Any]:
    """Every figure, by key."""
    config, times = shape_of(model), 2 if quick else 5
    generator = load_generator(model, "cpu")
    q, k, v = torch.randn(3, 1, 32, SIZE * SIZE)
    ours = best(lambda: attend_linear(q, k, v, True), 20)
    naive = best(lambda: attend_naive(q, k, v), 1)
    difference = float((attend_linear(q, k, v, True) - attend_naive(q, k, v)).abs().max())
    volume_seconds = best(lambda: run_shipped(model, 160), 1 if quick else 3)
    # Fast and slow moments of a shared machine fall on both alike: the limit is measured before and after.
    rate, shape = convolution_rate(generator.dtype, times)
    r1 = reference_seconds(config, 2 if quick else 8, full_resolution=False)
    r0 = reference_seconds(config, 1 if quick else 2, full_resolution=True)
    volume_seconds = min(volume_seconds, best(lambda: run_shipped(model, 160), 1))
    layers = convolutions_alone(config, generator.dtype, times)
    rate, shape = max((rate, shape), convolution_rate(generator.dtype, times))
    gflop = gflop_a_slice(config)  # convolutions and attention; normalisation and pooling count as nothing
    share, parts = overhead(model, Volume.read(SAMPLE))
    several = len(generator.manifest.input.planes) > 1
    return {
        "attention_ratio_25600": naive / ours,
        "attention_difference": difference,
        "attention_peak_mb": peak_mb("attention", model),
        "r0_ratio": r0 / volume_seconds,
        "r1_ratio": r1 / volume_seconds,
        "fraction_of_limit": gflop * 160 / volume_seconds / rate,
        "generator_peak_mb": peak_mb("generator", model),
        "pipeline_peak_mb": peak_mb("pipeline", model),
        "overhead_share": share,
        "overhead_share_three_planes": overhead(model, Volume.read(SAMPLE), planes.ALL)[0] if several else None,
        "batch_difference": batch_difference(model, full=True),
        "batch_difference_half": None if generator.dtype is torch.float32 else batch_difference(model, full=False),
        "convolutions_fraction": sum(n * g for _, n, g, _ in layers) / sum(n * s for _, n, _, s in layers) / rate,
        "convolutions_seconds": 160 * sum(n * s for _, n, _, s in layers),
        "layers": [
            {"layer": what, "count": n, "gflop": g, "fraction_of_limit": g / s / rate, "seconds_a_volume": 160 * n * s}
            for what, n, g, s in layers
        ],
        "cancel_seconds": cancel_seconds(model, Volume.read(SAMPLE)),
        "volume_seconds": volume_seconds,
        "r0_seconds": r0,
        "r1_seconds": r1,
        "gflop_a_slice": gflop,
        "openvino": openvino_beside_torch(model, *canonical_stack(160)),
        "limit_gflops": rate,
        "limit_shape": shape,
        "precision": generator.precision_reason,
        "width": config.width,
        "threads": torch.get_num_threads(),
        "stages": parts,
    }


def met(figures: dict[str, Any], key: str) -> bool:
    """Whether a goal is reached."""
    sign, goal, _ = GOALS[key]
    return bool(figures[key] >= goal if sign == ">=" else figures[key] <= goal)


def reasons(figures: dict[str, Any]) -> list[str]:
    """What explains the goals missed, in this run's own numbers."""
    lines = []
    if not met(figures, "fraction_of_limit"):
        alone = figures["convolutions_fraction"]
        lines.append(
            f"fraction_of_limit: the same convolutions alone, without norms, take "
            f"{figures['convolutions_seconds']:.2f} s, {alone:.2f} of the limit; the shipped path reaches "
            f"{figures['fraction_of_limit'] / alone:.0%} of that. The rest is norms, ReLU, pooling and "
            "concatenation, which count as nothing. Each convolution alone:"
        )
        lines += [
            f"  {layer['fraction_of_limit']:5.2f} of the limit, {layer['seconds_a_volume']:6.3f} s a volume: "
            f"{layer['count']} x {layer['layer']}"
            for layer in sorted(figures["layers"], key=lambda layer: -layer["seconds_a_volume"])
        ]
    if not met(figures, "overhead_share"):
        others = sum(
            v for k, v in figures["stages"].items() if k not in ("Synthesising", RELIABILITY, "Loading the model")
        )
        gate = figures["stages"]["Checking the image"]
        whole = sum(v for k, v in figures["stages"].items() if k != "Loading the model")
        lines.append(
            f"overhead_share: {others:.2f} s beside {figures['stages']['Synthesising']:.2f} s of synthesis; "
            f"without the gate {(others - gate) / whole:.2f}."
            + (
                ""
                if (share := figures["overhead_share_three_planes"]) is None
                else f" Along all three planes: {share:.2f}."
            )
        )
    if figures["batch_difference_half"] is not None:
        half = figures["batch_difference_half"]
        lines.append(
            f"batch_difference in half precision: {half:.2g}, {half * 500:.1f} of the MR's 1000 grey levels; "
            "bfloat16 keeps 8 bits, so that its last place is 0.0039 near 1."
        )
    return lines


def main() -> int:
    """Measure, print the table, and with --json one object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--model", default="default")
    parser.add_argument("--only-openvino", action="store_true", help="OpenVINO beside torch, nothing else")
    parser.add_argument("--record", metavar="FILE", help="with --only-openvino: also write it for `make results`")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.model)
        return 0
    if options.only_openvino:
        found = openvino_beside_torch(options.model, *canonical_stack(16 if options.quick else 160))
        print(openvino_line(found))
        if options.record and found is not None:
            command = "python Testing/benchmarks/speed.py --only-openvino"
            records.write(options.record, "The generator in OpenVINO beside torch, 160 slices", command, found)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ[store.CONFIG_DIR_VARIABLE] = str(Path(folder) / "config")
        model = options.model
        try:
            store.verified_bytes(store.find_model(model), consent=lambda *_: True)
        except Failed as error:
            print(f"{error}\nMeasuring an UNTRAINED model of the default shape instead.")
            model = untrained(Path(folder) / "untrained")
        figures = measure(model, options.quick)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1.5 * figures["threads"]:
        print(f"OTHER PROGRAMS WERE RUNNING (load {load:.1f}): times and ratios below are not to be quoted.")
    print(
        f"torch {torch.__version__}, {figures['threads']} threads, load {load:.1f}; width {figures['width']}, "
        f"{figures['gflop_a_slice']:.2f} GFLOP a slice. {figures['precision']}"
    )
    print(
        f"Limit: {figures['limit_gflops']:.0f} GFLOP/s ({figures['limit_shape']}). A volume of 160 slices: "
        f"shipped {figures['volume_seconds']:.2f} s, R1 {figures['r1_seconds']:.1f} s, "
        f"R0 {figures['r0_seconds']:.0f} s (R1 and R0 from a few slices)."
    )
    print("\n".join(f"  {seconds:7.3f} s  {stage}" for stage, seconds in figures["stages"].items()))
    for key, (sign, goal, what) in GOALS.items():
        word = "met   " if met(figures, key) else "MISSED"
        print(f"{word} {key:22} {figures[key]:>12.4g}  goal {sign} {goal:<7g} {what}")
    print(openvino_line(figures["openvino"]))
    print("\n".join(reasons(figures)))
    if options.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
