"""The generator in OpenVINO beside torch, in one run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.geometry import planes
from USMRISynthesisLib.synthesis.engine import load_generator, run_slices


def openvino_beside_torch(model: str, us: np.ndarray, z_mm: np.ndarray) -> dict[str, Any] | None:
    """Canonical slices us (K, H, W) at z_mm (K,) by torch and by OpenVINO in turn; None without it, or for another
    model.

    Seconds and processor seconds of the faster of three runs each, their ratios torch / OpenVINO, and the largest rms
    difference to float32 torch as a share of its range.
    """
    try:
        generators = {"torch": load_generator(model, "cpu"), "openvino": load_generator(model, "openvino")}
    except Failed as error:
        print(f"OpenVINO is not measured: {error}")
        return None
    form = generators["torch"].manifest.input

    def run(name: str, *, full: bool = False) -> np.ndarray:
        one = generators[name]
        return run_slices(
            one.on_cpu() if full else one.module, us, z_mm, neighbours=form.neighbours, location=form.location,
            plane=planes.plane_code("axial", form.planes), dtype=torch.float32 if full else one.dtype,
        )  # fmt: skip

    outputs = {name: run(name) for name in generators}
    reference = run("torch", full=True)
    found: dict[str, Any] = {"precision": {name: one.precision for name, one in generators.items()}}
    seconds = dict.fromkeys(generators, float("inf"))
    processor = dict(seconds)
    for _ in range(3):
        for name in generators:
            start, used = time.perf_counter(), time.process_time()
            run(name)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            processor[name] = min(processor[name], time.process_time() - used)
    return found | {
        "seconds": seconds,
        "processor_seconds": processor,
        "ratio": seconds["torch"] / seconds["openvino"],
        "processor_ratio": processor["torch"] / processor["openvino"],
        "rms_difference": {
            name: float(np.sqrt(np.square(output - reference).mean()) / np.ptp(reference))
            for name, output in outputs.items()
        },
    }


def openvino_line(found: dict[str, Any] | None) -> str:
    """OpenVINO beside torch, as a line of text."""
    if found is None:
        return "OpenVINO: not measured."
    return (
        f"Generator, OpenVINO {found['precision']['openvino']} : torch {found['precision']['torch']}: "
        f"{found['ratio']:.2f}x in time ({found['seconds']['openvino']:.2f} and {found['seconds']['torch']:.2f} s), "
        f"{found['processor_ratio']:.2f}x in processor time; rms difference to float32 "
        f"{found['rms_difference']['openvino']:.3%} and {found['rms_difference']['torch']:.3%} (goal: 1.8x, 0.5 %)."
    )
