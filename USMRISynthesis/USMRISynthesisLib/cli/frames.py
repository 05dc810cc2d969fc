"""Results of several files: all frames of a film or sequence, a file a frame, and DICOM, a file a slice."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from USMRISynthesisLib.cli import console, process
from USMRISynthesisLib.cli.options import Outcome
from USMRISynthesisLib.errors import Cancelled, Refused
from USMRISynthesisLib.io.marks import sidecar_of, stem_of

if TYPE_CHECKING:
    from USMRISynthesisLib.io.volume import Volume


def numbered(target: Path, count: int, *, first: int = 0) -> list[Path]:
    """So many names after the target's, `head-0000.nrrd` and on; of a single one, the target itself."""
    if count == 1:
        return [target]
    stem = stem_of(target)
    ending, digits = target.name[len(stem) :], max(4, len(str(first + count - 1)))
    return [target.with_name(f"{stem}-{number:0{digits}d}{ending}") for number in range(first, first + count)]


def every_frame(options: Namespace, run: Callable[[Namespace], Outcome]) -> Outcome:
    """Run a command for each frame of its input. A frame that is refused is noted, and the others go on.

    Args:
        options: the command's; `output` and `reliability` get the frame's number.
        run: the command for one frame.

    Raises:
        Refused: the input cannot be read, or a file is in the way of a result: before anything is done.
        Failed: what would befall the other frames as well.
    """
    from USMRISynthesisLib.io.outputs import check
    from USMRISynthesisLib.io.reading import count_frames, is_dicom

    source, series = Path(options.input), options.series
    if is_dicom(source):  # a study is searched once, not for each frame
        from USMRISynthesisLib.io.dicom_find import chosen, items_at

        item = chosen(items_at(source, source.name), series, source.name)
        if len(item.files) == 1:
            source, series = item.files[0], None
    count = count_frames(source, series=series, region=options.region)
    outputs = numbered(Path(options.output), count)
    maps = numbered(Path(options.reliability), count) if options.reliability else []
    check([*outputs, *maps], [source])
    states: list[dict[str, Any]] = []
    for frame in range(count):
        if process.interrupted():
            raise Cancelled
        one = Namespace(**vars(options))
        one.input, one.series = str(source), series
        one.frame, one.output = frame, str(outputs[frame])
        one.reliability = str(maps[frame]) if maps else None
        try:
            text, result = run(one)
            states.append({"frame": frame, "status": "done", **result})
            if not options.quiet:
                console.say(f"frame {frame}: {text}")
        except Refused as error:
            states.append(
                {
                    "frame": frame,
                    "status": "refused",
                    "kind": error.kind,
                    "message": error.message,
                    "remedy": error.remedy,
                }
            )
            console.say(f"frame {frame}: {error}")
    done = sum(state["status"] == "done" for state in states)
    refused = f", {count - done} refused" if done < count else ""
    return f"{count} frame{'s' if count != 1 else ''}: {done} done{refused}.", {
        "status": "done" if done == count else "refused",
        "output": str(outputs[0].parent),
        "frames": states,
    }


def write_as_dicom(
    images: Sequence[tuple[Volume, Path]],
    slices: Sequence[Path],
    provenance: Mapping[str, Any],
    sources: Sequence[Path],
    frame: int | None,
) -> Path:
    """Write the first image as derived DICOM, a file a slice, the others as they are, and the provenance beside them.

    Args:
        images: (image, target): the MR-like image, and its reliability map where it is wanted.
        slices: the files of the first image's slices.
        provenance: of the synthesis.
        sources: what the image was made from; DICOM files are referred to, and give patient and study.
        frame: which frame of the source.

    Returns:
        The path of the first image's provenance; all files are written, or none.

    Raises:
        Refused, Failed: as `write_dicom` and `staged` do.
    """
    from USMRISynthesisLib.io.dicom_file import save_dataset
    from USMRISynthesisLib.io.dicom_write import derived_slices
    from USMRISynthesisLib.io.outputs import staged
    from USMRISynthesisLib.io.provenance import complete
    from USMRISynthesisLib.io.reading import is_dicom
    from USMRISynthesisLib.io.strict_json import dumps
    from USMRISynthesisLib.io.synthetic import SYNTHETIC, SYNTHETIC_KEY
    from USMRISynthesisLib.io.volume import COMMENT

    [(mr, target), *others] = images
    dicom = [one for one in sources if is_dicom(one)]
    sidecars = [sidecar_of(target), *(sidecar_of(path) for _, path in others)]
    with staged([*slices, *(path for _, path in others), *sidecars]) as names:
        files, maps = names[: len(slices)], names[len(slices) : len(slices) + len(others)]
        for one, name in zip(derived_slices(mr, provenance, source=dicom, frame=frame), files, strict=True):
            save_dataset(one, name)
        for (image, _), name in zip(others, maps, strict=True):
            image.write(name, metadata={COMMENT: SYNTHETIC, SYNTHETIC_KEY: SYNTHETIC})
        for made, name in zip((files, *([one] for one in maps)), names[len(slices) + len(others) :], strict=True):
            content = complete(provenance, sources, *made)
            name.write_text(dumps(content, indent=2) + "\n", encoding="utf-8")
    return sidecars[0]
