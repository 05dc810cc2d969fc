"""`usmri synthesize`, `normalise` and `respace`: what those do who use a model. `batch.py` has the rest of it.

Each takes the parsed options and returns (text, result). The text is for a person, the result for `--json`. Errors
are raised; `command_line.py` turns them into sentences.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from USMRISynthesisLib.cli import console, process
from USMRISynthesisLib.cli import options as shared
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.synthetic import MADE_BY, SYNTHETIC

if TYPE_CHECKING:
    from USMRISynthesisLib.io.volume import Volume

OUTPUT_FORMATS = (".nrrd", ".nii", ".nii.gz", ".mha")


def add_commands(commands: Any) -> None:
    """The commands' parsers."""
    made = shared.add_command(
        commands, "synthesize", "make an MR-like image on the grid of an ultrasound image", synthesize, silent=True
    )
    shared.add_input(made, every_frame=True, output=f"{shared.OUTPUT[:-1]}, or .dcm: one file a slice)")
    shared.add_model(made)
    made.add_argument("--planes", help=shared.PLANES)
    made.add_argument(
        "--transform", metavar="FILE", help="ITK transform to canonical space, where it is known; it wins"
    )
    made.add_argument(
        "--reliability",
        metavar="FILE",
        help="write the reliability map too: how probable it is that the grey is right, 0-1",
    )
    shared.add_hidden(made, "--support", "reliability")
    shared.add_low_confidence(made, "go on although the head was not found reliably")
    shared.add_any_content(made)
    shared.add_age(made)

    place = shared.add_command(
        commands, "normalise", "bring an ultrasound image into canonical space", normalise, silent=True
    )
    shared.add_input(place)
    place.add_argument(
        "--transform",
        metavar="FILE",
        help="write the transform to canonical space here, for ITK and Slicer (.tfm, .txt, .h5)",
    )
    shared.add_any_content(place)
    shared.add_age(place)

    thin = shared.add_command(
        commands, "respace", "reduce the slice spacing of an MR volume, an MR-like one too", respace, silent=True
    )
    thin.add_argument("input", metavar="IN", help="MR in thick slices: NRRD, NIfTI, MetaImage, DICOM")
    thin.add_argument("output", metavar="OUT", help=shared.OUTPUT)
    thin.add_argument("--spacing", type=float, metavar="MM", help="between slices afterwards (the pixel's side)")
    thin.add_argument(
        "--consistency", action="store_true", help="project, so that the result seen through thick slices is the input"
    )
    thin.add_argument("--axis", help="i, j or k: along which the slices are stacked (the largest voxel side)")
    thin.add_argument("--frame", type=int, metavar="N", help="which time point of a 4D file, from 0")
    shared.add_dicom(thin)
    shared.add_model(thin, "spacing", "slice-spacing model")


def synthesize(options: Namespace) -> Outcome:
    """`usmri synthesize IN OUT`: the image, and its provenance beside it as `<OUT without ending>.json`."""
    if options.frame == shared.ALL:
        from USMRISynthesisLib.cli.frames import every_frame

        return every_frame(options, _synthesize)
    return _synthesize(options)


def _synthesize(options: Namespace) -> Outcome:
    """One image, or one frame."""
    from USMRISynthesisLib.io.marks import DICOM, sidecar_of
    from USMRISynthesisLib.io.outputs import check
    from USMRISynthesisLib.io.provenance import write_all_with_sidecars
    from USMRISynthesisLib.io.transform import read_transform
    from USMRISynthesisLib.synthesis import pipeline

    source = Path(options.input)
    targets = [Path(name) for name in (options.output, options.reliability) if name]
    as_dicom = targets[0].name.lower().endswith(DICOM)
    given = [source, *([Path(options.transform)] if options.transform else [])]
    _check(targets[as_dicom:], given)
    transform = read_transform(options.transform) if options.transform else None
    volume = _read(options)
    slices: list[Path] = []
    if as_dicom:
        from USMRISynthesisLib.cli.frames import numbered

        slices = numbered(targets[0], volume.shape[0], first=1)
        check([*slices, sidecar_of(targets[0]), *targets[1:]], [*given, *volume.files])
    else:
        check(targets, [*given, *volume.files])
    result = pipeline.synthesize(
        volume,
        model=options.model,
        device=options.device,
        planes=options.planes,
        transform=transform,
        progress=console.progress(options),
        cancel=process.interrupted,
        log=console.log(options),
        consent=lambda sha256, name: options.trust_model,
        allow_low_confidence=options.unreliable,
        any_content=options.any_content,
        gestational_age=options.gestational_age,
    )
    if options.frame is not None:
        result.provenance["input"]["frame"] = options.frame
    provenance = result.provenance
    reliability = {"file": options.reliability, **provenance["support"]}
    images = list(zip((result.mr, result.confidence), targets, strict=False))
    if as_dicom:
        from USMRISynthesisLib.cli.frames import write_as_dicom

        sidecar = write_as_dicom(images, slices, provenance, volume.files, options.frame)
    else:
        sidecar = write_all_with_sidecars(images, provenance, source=volume.files)[0]
    written = targets[0] if len(slices) < 2 else f"{slices[0]} to {slices[-1].name}"
    seconds = sum(provenance["seconds"].values())
    text = (
        f"Wrote {written} ({SYNTHETIC}) and {sidecar.name} in {seconds:.1f} s with the model "
        f"{provenance['model']['name']!r} on {provenance['device']['name']}."
    )
    return text, {
        "output": str(targets[0]),
        **({"files": [str(one) for one in slices]} if slices else {}),
        "provenance": str(sidecar),
        "notice": SYNTHETIC,
        "reliability": reliability,
        "support": reliability,  # its former name
        "trusted": result.trusted,
        "alignment": provenance["alignment"],
        "biometry": provenance["biometry"],
        "expected_error": provenance["expected_error"],
        "device": provenance["device"],
        "precision": provenance["precision"],
        "seconds": provenance["seconds"],
        "warnings": provenance["warnings"],
    }


def normalise(options: Namespace) -> Outcome:
    """`usmri normalise IN OUT --transform T`: the image in canonical space, and the way there as a file."""
    from USMRISynthesisLib.io.outputs import staged
    from USMRISynthesisLib.io.transform import FORMATS, write_transform
    from USMRISynthesisLib.io.volume import COMMENT
    from USMRISynthesisLib.synthesis import pipeline

    targets = [Path(name) for name in (options.output, options.transform) if name]
    _check_format(targets[1:], FORMATS, "Transforms")
    _check(targets[:1], [Path(options.input)], also=targets[1:], sidecars=False)
    result = pipeline.normalise(
        _read(options),
        progress=console.progress(options),
        cancel=process.interrupted,
        log=console.log(options),
        gestational_age=options.gestational_age,
        any_content=options.any_content,
    )
    with staged(targets) as names:
        result.canonical.write(names[0], metadata={COMMENT: f"{MADE_BY}: ultrasound in canonical space"})
        for name in names[1:]:
            write_transform(result.transform, name)
            _mark_transform(name)
    alignment = result.provenance["alignment"]
    text = f"Wrote {options.output}" + (f" and {options.transform}" if options.transform else "")
    return (
        f"{text}; the head was found by its {alignment['method']} (score {alignment['score']:.2f}).",
        {
            "output": options.output,
            "transform": options.transform,
            "alignment": alignment,
            "trusted": result.trusted,
            "warnings": result.provenance["warnings"],
        },
    )


def respace(options: Namespace) -> Outcome:
    """`usmri respace IN OUT`: thinner slices over the same extent, and their provenance beside them."""
    from USMRISynthesisLib.io.provenance import write_with_sidecar
    from USMRISynthesisLib.io.volume import Volume
    from USMRISynthesisLib.spacing.pipeline import respace as reduce_spacing

    source, target = Path(options.input), Path(options.output)
    _check([target], [source])
    volume = Volume.read(source, frame=options.frame, series=options.series, region=options.region)
    _check([target], volume.files)
    result = reduce_spacing(
        volume,
        spacing=options.spacing,
        axis=options.axis,
        model=options.model,
        device=options.device,
        consistency=options.consistency,
        progress=console.progress(options),
        cancel=process.interrupted,
        consent=lambda sha256, name: options.trust_model,
    )
    sidecar = write_with_sidecar(result.mr, result.provenance, target, source=volume.files)
    slices = result.provenance["slices"]
    before, after = slices["spacing_mm"]
    seconds = sum(result.provenance["seconds"].values())
    text = (
        f"Wrote {target} ({SYNTHETIC}) and {sidecar.name} in {seconds:.1f} s: {slices['before']} slices of "
        f"{before:.3g} mm became {slices['after']} of {after:.3g} mm along {slices['axis']}; seen through the "
        f"slice profile they differ from the input by {result.consistency:.2%} of its range."
    )
    text = " ".join([text, *result.provenance["warnings"]])
    return text, {
        "output": str(target),
        "provenance": str(sidecar),
        "notice": SYNTHETIC,
        "slices": slices,
        "consistency": result.consistency,
        "device": result.provenance["device"],
        "seconds": result.provenance["seconds"],
        "warnings": result.provenance["warnings"],
    }


def _read(options: Namespace) -> Volume:
    from USMRISynthesisLib.io.volume import Volume

    return Volume.read(
        options.input,
        frame=options.frame,
        pixel_size_mm=options.pixel_size,
        voxel_size_mm=options.voxel_size,
        series=options.series,
        region=options.region,
    )


def _check(images: Sequence[Path], inputs: Sequence[Path], *, also: Sequence[Path] = (), sidecars: bool = True) -> None:
    """All outputs of a command, before any work is done for them. Raises Refused, Failed."""
    from USMRISynthesisLib.io.outputs import check

    _check_format(images, OUTPUT_FORMATS, "Images")
    check([*images, *also], inputs, sidecars=sidecars)


def _check_format(targets: Sequence[Path], formats: Sequence[str], what: str) -> None:
    for target in targets:
        if not target.name.lower().endswith(tuple(formats)):
            raise Failed(
                "format",
                f"{what} cannot be written as {target.name}.",
                f"Use one of these endings: {', '.join(formats)}.",
            )


def _mark_transform(file: Path) -> None:
    """Note in a transform's text that this program made it; ITK skips the line."""
    from USMRISynthesisLib.io.marks import TRANSFORM_MARK

    if file.suffix.lower() != ".h5":
        first, _, rest = file.read_bytes().partition(b"\n")
        file.write_bytes(first + b"\n" + TRANSFORM_MARK + b": image to canonical space\n" + rest)
