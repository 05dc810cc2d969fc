"""The pipeline: one ultrasound image in, one MR-like image on the same grid out.

    gate -> alignment -> canonical slices -> generator -> canonical MR -> the input's grid, masked

    result = synthesize(Volume.read("head.nrrd"))
    result.mr.write("head-mr.nrrd")

torch is imported when the network is needed: an input is refused without it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from USMRISynthesisLib.alignment.align import align, validate_gestational_age
from USMRISynthesisLib.alignment.biometry import biometry
from USMRISynthesisLib.alignment.common.confidence import CONFIDENT, MIN_CONFIDENCE
from USMRISynthesisLib.alignment.common.given import check_given_transform
from USMRISynthesisLib.alignment.frame.admission import check_content, doubts
from USMRISynthesisLib.alignment.frame.content import FrameContent
from USMRISynthesisLib.alignment.frame.inside import shows_structure
from USMRISynthesisLib.callbacks import Cancel, Consent, Log, Progress
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, memory_shortage, torch_missing
from USMRISynthesisLib.geometry.canonical import SIZE, canonical_ijk_to_ras, to_canonical
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.geometry.planes import CHOICES, chosen_planes, resolve_planes
from USMRISynthesisLib.io.synthetic import PROVENANCE_KEY, SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import store
from USMRISynthesisLib.synthesis.input_grid import onto_input_grid
from USMRISynthesisLib.synthesis.result import BEAM_ONLY, PROBABILITY, Normalised, Synthesis
from USMRISynthesisLib.ultrasound.fill import without_fill
from USMRISynthesisLib.ultrasound.gate import admit
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound


@dataclass
class Run:
    """One run's callbacks, and its timings and warnings for the provenance."""

    progress: Progress | None = None
    cancel: Cancel | None = None
    log: Log | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, value: float) -> Iterator[None]:
        """Announce a stage at `value` of the whole, time it, and stop before it when cancelled."""
        if self.cancel is not None and self.cancel():
            raise Cancelled
        if self.progress is not None:
            self.progress(value, name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)

    def report(self, level: str, text: str) -> None:
        """Log a line; warnings are kept for the provenance."""
        if level != "info":
            self.messages.append(text)
        if self.log is not None:
            self.log(level, text)


def synthesize(
    volume: Volume,
    *,
    model: str = "default",
    device: str = "auto",
    planes: str | None = None,
    transform: np.ndarray | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    log: Log | None = None,
    consent: Consent | None = None,
    batch: int | None = None,
    allow_low_confidence: bool = False,
    gestational_age: float | None = None,
    unreliable: bool = False,
    any_content: bool = False,
) -> Synthesis:
    """Make an MR-like image from a fetal head ultrasound.

    Args:
        volume: 3D greyscale, or one frame of shape (1, h, w).
        model: name of an installed model, or the path of a model folder.
        device: "auto", "cpu", "cuda", "mps", "openvino:CPU" or "openvino:GPU".
        planes: along which slices to synthesise: "axial", "coronal", "sagittal", or "all" for the three combined, which
            takes three times as long; by default all, if the model supports it. A frame has one plane in any case.
        transform: (4, 4) ras_to_canonical where it is known; it wins over the estimated one.
        progress: called with a share of the whole, 0-1, and the stage.
        cancel: called at least every two slices on the CPU; True ends the run.
        log: called with a level, "info" or "warning", and a sentence.
        consent: called with (sha256, name) before a model from outside the bundled folders is run.
        batch: slices at a time; by default what suits the device.
        allow_low_confidence: go on although the head was not found reliably.
        gestational_age: weeks (14-42), where it is known: a prior for the head's size, never needed.
        unreliable: the former name of `allow_low_confidence`; either of them is enough.
        any_content: go on although the image has no speckle, or the frame shows no brain.

    Raises: Refused (the input; the head was not found reliably), Failed (model, device, memory), Cancelled.
    """
    if planes is not None and planes not in CHOICES:
        raise Refused("planes", f"There are no {planes!r} slices.", f"Choose {', '.join(CHOICES)}.")
    if planes != "axial":  # before the alignment, which takes a second or two
        known = store.read_manifest(store.find_model(model))
        planes = chosen_planes(planes, known.input.planes)
        if not volume.is_frame:
            resolve_planes(planes, known.input.planes, known.name)
    run = Run(progress, cancel, log)
    allowed = allow_low_confidence or unreliable or transform is not None
    given, volume = volume, volume.with_values(without_fill(volume.array))
    fan, alignment, content = locate(
        volume, transform, run, age=gestational_age, allow_low_confidence=allowed, any_content=any_content
    )
    with run.stage("Loading the model", 0.12):
        try:
            from USMRISynthesisLib.synthesis.engine import BATCH, load_generator
            from USMRISynthesisLib.synthesis.multiplane import combined, run_planes, wanted_slices
        except (ImportError, OSError) as error:  # OSError: an installation that broke half-way
            raise memory_shortage(error) or torch_missing() from error

        generator = load_generator(model, device, consent=consent)
        run.report("info", f"{generator.device_reason} {generator.precision_reason}")
        if caution := generator.manifest.extra.get("caution"):
            run.report("warning", str(caution))
    with run.stage("Resampling to canonical space", 0.18):
        to_canonical_of = alignment.ras_to_canonical
        slices, z_mm = to_canonical(volume.array, volume.ijk_to_ras, to_canonical_of)
        seen = to_canonical(fan, volume.ijk_to_ras, to_canonical_of, order=0)[0] > 0.5
        us = normalise_ultrasound(slices, seen, generator.manifest.input.exponent)
        if not np.isfinite(us).all():
            raise Refused(
                "nan",
                "The image holds grey values that cannot be computed with.",
                "Export it again, as 8 or 16 bits.",
            )
        head = alignment.head_mask(z_mm)
    reliability_network = generator.reliability_for(frame=volume.is_frame)
    with run.stage("Synthesising", 0.22):
        made = run_planes(
            generator,
            us,
            z_mm,
            planes=planes,
            inside=head & seen,
            batch=batch,
            cancel=cancel,
            log=run.report,
            progress=_within(progress, 0.22, 0.92 if reliability_network is None else 0.86),
        )
        mr = combined(made, us, generator.fusion, device=generator.device, cancel=cancel)
        if not np.isfinite(mr).all():
            raise Failed(
                "model",
                f"The model {generator.manifest.name!r} gave values that are no numbers.",
                "Try the device cpu; if it happens again, use another model.",
            )
    reliability = size = None
    if reliability_network is not None:
        from USMRISynthesisLib.synthesis.reliability import reliability_and_size, spread_of

        with run.stage("Estimating the reliability", 0.86):
            reliability, size = reliability_and_size(
                reliability_network, us, mr, spread_of(made), head & seen, z_mm=float(z_mm[0]),
                device=generator.device, cancel=cancel,
            )  # fmt: skip
    expected = None
    if size is not None and not volume.is_frame and alignment.score >= MIN_CONFIDENCE:
        from USMRISynthesisLib.synthesis import expected_error

        calibration = expected_error.read_calibration(store.find_model(model), generator.manifest)
        features = expected_error.features_of(size, mr, head & seen)
        if calibration is not None and features is not None:
            expected = expected_error.estimate(features, calibration, several=len(made) > 1, z_mm=z_mm)
    with run.stage("Resampling to the image's grid", 0.92):
        values, confidence = onto_input_grid(mr, head, fan, volume, alignment, reliability)
    manifest = generator.manifest
    provenance = _provenance(given, alignment, content, transform is not None, gestational_age, run) | {
        "model": {"name": manifest.name, "version": manifest.version, "sha256": manifest.sha256}
        | {"weights": generator.weights},
        "device": {"name": generator.device_name, "reason": generator.device_reason, "runtime": generator.runtime},
        "precision": {"name": generator.precision, "reason": generator.precision_reason},
        "batch": batch or BATCH.get(generator.device.type, 2),
        "planes": planes,
        "fusion": manifest.extra["fusion"]["sha256"] if generator.fusion is not None and len(made) > 1 else None,
        "seed": None,
        "expected_error": expected,
        "support": {"meaning": BEAM_ONLY}
        if reliability is None
        else {
            "meaning": PROBABILITY,
            "sha256": manifest.extra["support"]["sha256"],
            "mean": round(float(confidence[confidence > 0].mean()), 3) if confidence.any() else None,
        },
        "parameters": {"device": device, "planes": planes, "transform_given": transform is not None},
        "slices": {"planes": list(made), "synthesised": int(wanted_slices(head & seen).sum()), "of": len(z_mm)},
    }
    if progress is not None:
        progress(1.0, "Done")
    note = {"Comment": SYNTHETIC, SYNTHETIC_KEY: SYNTHETIC, PROVENANCE_KEY: _text(provenance)}
    return Synthesis(
        given.with_values(values, note),
        alignment.ras_to_canonical.copy(),
        given.with_values(confidence),
        provenance,
    )


def normalise(
    volume: Volume,
    *,
    transform: np.ndarray | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    log: Log | None = None,
    gestational_age: float | None = None,
    any_content: bool = False,
) -> Normalised:
    """Bring a fetal head ultrasound into canonical space without synthesising anything; arguments as `synthesize`'s.

    Raises: Refused, Cancelled.
    """
    run = Run(progress, cancel, log)
    given, volume = volume, volume.with_values(without_fill(volume.array))
    fan, alignment, content = locate(volume, transform, run, age=gestational_age, any_content=any_content)
    with run.stage("Resampling to canonical space", 0.6):
        slices, z_mm = to_canonical(np.where(fan, volume.array, 0), volume.ijk_to_ras, alignment.ras_to_canonical)
    grid = canonical_ijk_to_ras()
    if len(z_mm) == 1:
        grid[2, 3] = z_mm[0]
    if progress is not None:
        progress(1.0, "Done")
    return Normalised(
        Volume(slices, grid),
        alignment.ras_to_canonical.copy(),
        _provenance(given, alignment, content, transform is not None, gestational_age, run),
    )


def locate(
    volume: Volume,
    transform: np.ndarray | None,
    run: Run,
    *,
    age: float | None = None,
    allow_low_confidence: bool = True,
    any_content: bool = False,
) -> tuple[np.ndarray, Alignment, FrameContent | None]:
    """Gate and alignment: the fan, the head's pose, and what a frame shows (None for a volume).

    Raises Refused for a frame without a brain and for a low score, unless that is allowed.
    """

    def warn(text: str) -> None:
        run.report("warning", text)

    content = None
    with run.stage("Checking the image", 0.0):
        validate_gestational_age(age)
        fan = admit(volume, texture=not (volume.is_frame or any_content))
        if volume.is_frame:
            content = check_content(volume, fan, any_content=any_content, marked=transform is not None, warn=warn)
    with run.stage("Finding the head", 0.04):
        alignment = align(volume, fan, transform=transform, gestational_age=age)
    if not np.isfinite(alignment.score):
        raise Refused(
            "unreliable",
            "How well the head was found could not be computed from this image.",
            "Check its grey values; export it again, as 8 or 16 bits.",
        )
    if volume.is_frame and transform is None and not shows_structure(volume, fan, alignment):
        run.report(
            "warning",
            "Inside the outline that was found there is hardly anything but speckle: see that it is a head, and not a "
            "belly, a bladder or a phantom.",
        )
    if transform is not None:
        for doubt in filter(None, (check_given_transform(alignment, volume, fan), alignment.doubt)):
            run.report("warning", doubt)
    if not alignment.score >= MIN_CONFIDENCE and not allow_low_confidence:
        raise Refused(
            "unreliable",
            f"The head was not found reliably (score {alignment.score:.2f}; {MIN_CONFIDENCE:.2f} is needed).",
            "Give a transform to canonical space (in Slicer, three landmarks make one), or continue "
            "with --allow-low-confidence.",
        )
    if not alignment.score >= MIN_CONFIDENCE:
        run.report(
            "warning",
            f"The head was found with low confidence (score {alignment.score:.2f}; {MIN_CONFIDENCE:.2f} is "
            "needed to rely on it): check the result against the ultrasound, or give a transform.",
        )
    elif alignment.method == "network" and not volume.is_frame and alignment.score < CONFIDENT:
        run.report(
            "warning",
            f"The head may be reversed (score {alignment.score:.2f}): check that face and cerebellum lie "
            "where the ultrasound has them, or give a transform.",
        )
    if volume.is_frame:
        for doubt in doubts(content, alignment):
            warn(doubt)
    if content is not None:  # the lower of the two decides whether the result is relied on
        alignment = replace(alignment, score=min(alignment.score, content.brain))
    return fan, alignment, content


def _within(progress: Progress | None, low: float, high: float) -> Progress | None:
    """A progress callback for a stage that takes the share low-high of the whole."""
    if progress is None:
        return None
    return lambda value, stage: progress(low + (high - low) * value, stage)


def _text(provenance: dict[str, Any]) -> str:
    """As JSON, which knows no NaN. Raises ValueError for one."""
    return json.dumps(provenance, sort_keys=True, allow_nan=False)


def _provenance(
    volume: Volume, alignment: Alignment, content: FrameContent | None, given: bool, age: float | None, run: Run
) -> dict[str, Any]:
    """The provenance of a result. No names and no paths: files are often named after patients."""
    from USMRISynthesisLib.io.provenance import described, software

    sizes = biometry(alignment, is_frame=volume.is_frame, weeks=age)
    return {
        "notice": SYNTHETIC,
        "software": software(),
        "input": {
            **described(volume),
        },
        "alignment": {
            "method": alignment.method,
            "score": round(float(alignment.score), 4),
            "ras_to_canonical": alignment.ras_to_canonical.ravel().tolist(),
            "transform_given": given,
            "gestational_age_weeks": age,
        },
        "biometry": None if sizes is None else sizes.to_json(),
        "alignment_trusted": bool(alignment.score >= MIN_CONFIDENCE),
        **({} if content is None else {"frame_content": content.to_json()}),
        "canonical": {"size": SIZE},
        "seconds": run.seconds,
        "warnings": run.messages,
    }
