"""The demonstration: the sample images through the product, by the same child process that Slicer uses.

    python -m USMRISynthesisLib.cli.demo build/demo

writes `<sample>-mr.nrrd` for each sample, `compare.png` and `provenance.json`. `make demo` calls it. With
`--picture FILE` the real head's three planes alone (ultrasound, MR-like, fused, reliability) go to FILE too:
README's first picture, Resources/Screenshots/compare.png, is made so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Failed, USMRIError
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import Synthesis
from USMRISynthesisLib.worker.client import WorkerProcess

REAL = "ucl"  # in the name of the real head
SAMPLES = Path(__file__).resolve().parents[3] / "Resources" / "SampleData"
TITLES = {
    "ucl": "Real 3D fetal head, 23 weeks (UCL, MIT licence)",
    "simulated": "Simulated 3D fetal head",
    "hc18": "Real 2D frame (HC18, CC BY 4.0)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="USMRISynthesisLib.cli.demo", description="Run the samples through the product and picture what comes out."
    )
    parser.add_argument("output", type=Path, help="folder for the results; made if it is missing")
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="folder of fetal-head-*.nrrd")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw the real head alone into this file")
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--trust-model", action="store_true", help="run a model of your own")
    options = parser.parse_args(arguments)
    try:
        demonstrate(
            options.output,
            options.samples,
            options.model,
            options.device,
            options.trust_model,
            picture=options.picture,
        )
    except USMRIError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Cancelled.", file=sys.stderr)
        return 1
    return 0


def demonstrate(
    output: Path,
    samples: Path,
    model: str = "default",
    device: str = "auto",
    trust_model: bool = False,
    *,
    picture: Path | None = None,
) -> None:
    """Synthesise every sample and write images, picture and provenance into `output`; the real head's picture to
    `picture`, too. Raises USMRIError."""
    from USMRISynthesisLib.evaluation.pictures.comparison import Case, compare

    # 3D first: it fills the picture's upper rows; what is real before what is simulated.
    order = [*TITLES, ""]
    paths = sorted(samples.glob("fetal-head-*.nrrd"), key=lambda path: (order.index(_kind(path)), path.name))
    if not paths:
        raise Failed("samples", "No sample image was found.", "Restore Resources/SampleData.")
    output.mkdir(parents=True, exist_ok=True)
    cases: list[Case] = []
    provenance: dict[str, Any] = {"notice": SYNTHETIC, "results": {}}
    with WorkerProcess() as worker:
        for path in paths:
            volume = Volume.read(path)
            print(f"\n{_title(path)}: {path.name}, {_describe(volume)}", flush=True)
            start = time.perf_counter()
            result = worker.synthesize(
                volume,
                model=model,
                device=device,
                trust_model=trust_model,
                allow_low_confidence=True,  # the report says so, and the picture shows what came of it
                on_event=_narrate(),
            )
            target = output / f"{path.stem}-mr.nrrd"
            result.mr.write(target)
            _report(result, time.perf_counter() - start)
            cases.append(
                Case(
                    _title(path),
                    volume,
                    result.mr,
                    None if volume.is_frame else result.transform,
                    result.confidence if "sha256" in result.provenance["support"] else None,
                )
            )
            provenance["results"][target.name] = {"source": path.name, **result.provenance}
    compare(cases, output / "compare.png")
    if picture is not None:
        compare([case for case in cases if case.title == TITLES[REAL]], picture)
    (output / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    doubted = ", and what not to believe" if any(case.reliability is not None for case in cases) else ""
    print(f"\nLook at {output / 'compare.png'}: ultrasound, MR-like, fused{doubted}. {SYNTHETIC}.")
    for name in sorted(path.name for path in output.iterdir()):
        print(f"  {output / name}")


def _kind(path: Path) -> str:
    """The word of TITLES that is in a sample's name, or nothing."""
    return next((word for word in TITLES if word in path.name), "")


def _title(path: Path) -> str:
    return TITLES.get(_kind(path), path.stem)


def _describe(volume: Volume) -> str:
    k, j, i = volume.shape
    spacing = " x ".join(f"{step:.2f}" for step in volume.spacing[: 2 if volume.is_frame else 3])
    return f"{i} x {j} pixels of {spacing} mm" if volume.is_frame else f"{i} x {j} x {k} voxels of {spacing} mm"


def _narrate() -> Callable[[dict[str, Any]], None]:
    """Print each stage when it begins, and what the worker logs."""
    stages: list[str] = []

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "log":
            print(f"  {'! ' if event['level'] != 'info' else ''}{event['text']}", flush=True)
        elif event["event"] == "progress" and event["stage"] not in stages and event["value"] < 1:
            stages.append(event["stage"])
            print(f"  {event['value']:4.0%} {event['stage']}", flush=True)

    return hear


def _report(result: Synthesis, seconds: float) -> None:
    alignment = result.provenance["alignment"]
    print(
        f"  head found by its {alignment['method']}, score {alignment['score']:.2f}"
        + ("" if result.trusted else ": not to be relied on")
    )
    for stage, spent in result.provenance["seconds"].items():
        print(f"  {spent:7.2f} s  {stage}")
    print(f"  {seconds:7.2f} s  in all, with starting the worker and carrying the voxels")


if __name__ == "__main__":
    raise SystemExit(main())
