"""How well the head is outlined in real 2D frames: held-out fetuses of HC18 against their annotated ellipses.

The pipeline's alignment (the network, if its weights are installed) and the skull fit without networks, on the same
frames; the scores of frames without a head; and which end is the face, which is known for simulated frames only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.alignment import align as alignment
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE, NO_HEAD
from USMRISynthesisLib.alignment.skull.fit import align_skull
from USMRISynthesisLib.alignment.volume.pose import circumference_mm
from USMRISynthesisLib.datasets.frames import Picture, annotated, real_pictures, rows_of, simulated_pictures
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.alignment.negatives import off_head_crops, shuffle_tiles
from USMRISynthesisLib.evaluation.alignment.outline_measures import ellipse_in_pixels, faces, figures, inside_ellipse
from USMRISynthesisLib.evaluation.metrics.image import dice
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.style import ANNOTATED, FOUND, TEXT
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.dataset import MINIMUM_CIRCUMFERENCE_MM, frame_volume
from USMRISynthesisLib.ultrasound.gate import admit, find_fan

Aligner = Callable[[Volume, np.ndarray], Alignment]
PHANTOM_SLICES = 6


@dataclass(frozen=True, eq=False)
class Outline:
    """One frame's outcome. difference_mm: absolute, of the circumference. angle_deg: of the major axis, against the
    annotated one; nan for a head whose width is more than 0.9 of its length."""

    name: str
    volume: Volume
    alignment: Alignment
    dice: float
    difference_mm: float
    angle_deg: float


def aligner_of(model: str = alignment.FRAMES_MODEL) -> Aligner | None:
    """The product's alignment of frames with this model; None where it is not installed."""
    if not alignment.is_installed(model):
        return None

    def work(volume: Volume, fan: np.ndarray) -> Alignment:
        found = alignment.segment_head_2d(volume, fan, model=model)
        if found is not None:
            return found
        outline = align_skull(volume, fan)
        return Alignment(
            outline.ras_to_canonical,
            outline.centre,
            outline.semi_axes,
            outline.rotation,
            min(outline.score, NO_HEAD),
            outline.method,
        )

    return work


def evaluate_frames(
    data: Path,
    *,
    split: str = "test",
    limit: int | None = None,
    cases: Path | None = None,
    model: str = alignment.FRAMES_MODEL,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Frames of held-out fetuses, 150 mm of head circumference or more; the keys begin with `hc18_`.

    Args:
        data: holds hc18/, and perhaps us-phantom/. limit: that many frames, drawn at random.
        cases: a folder of simulated cases with frames, for the face's end. pictures: a folder for the weakest tenth.
    """
    rows = rows_of(data, split, MINIMUM_CIRCUMFERENCE_MM)
    if limit is not None and limit < len(rows):
        rows = [rows[n] for n in np.random.default_rng(0).choice(len(rows), limit, replace=False)]
    work = aligner_of(model)
    outlines = [outline(row, frame_volume(data, row), work or align_skull) for row in rows]
    result: dict[str, Any] = {"hc18_frames": len(rows), "hc18_method": "network" if work else "skull"}
    result["hc18_refused_by_gate_share"] = float(np.mean([not _admitted(frame_volume(data, row)) for row in rows]))
    result |= {f"hc18_{name}": value for name, value in summary(outlines).items()}
    if work is not None:
        fitted = [outline(row, frame_volume(data, row), align_skull) for row in rows]
        result |= {f"hc18_skull_{name}": value for name, value in summary(fitted).items()}
        wanted = {row["file"] for row in rows}
        some = [picture for picture in real_pictures(data, split) if picture.name in wanted]
        result |= without_head(some, data, work)
        if cases is not None:
            result |= face_of(simulated_pictures(cases), some, model)
    if pictures is not None:
        draw(pictures / "frames-weakest.png", outlines, [annotated(row) for row in rows])
    return result


def _admitted(volume: Volume) -> bool:
    try:
        admit(volume)
    except Refused:
        return False
    return True


def outline(row: dict[str, str], volume: Volume, work: Aligner) -> Outline:
    """One frame, outlined and compared with its annotation."""
    found = work(volume, find_fan(volume.array, volume.spacing))
    centre, semi, turn = ellipse_in_pixels(found, volume)
    true = annotated(row)
    overlap = dice(
        inside_ellipse(centre, semi, turn, volume), inside_ellipse(true.centre, true.semi_axes, true.directions, volume)
    )
    measured = circumference_mm(semi) * float(row["pixel_size_mm"])
    angle = float(np.rad2deg(np.arccos(min(1.0, abs(float(turn[:, 0] @ true.directions[:, 0]))))))
    plain = true.semi_axes[1] <= 0.9 * true.semi_axes[0]
    return Outline(
        row["file"],
        volume,
        found,
        overlap,
        abs(measured - float(row["head_circumference_mm"])),
        angle if plain else float("nan"),
    )


def summary(outlines: Sequence[Outline]) -> dict[str, float]:
    """Figures of a set of frames."""
    low = np.array([o.alignment.score < MIN_CONFIDENCE for o in outlines])
    good = np.array([o.dice >= 0.9 for o in outlines])
    return {
        **figures(np.array([o.dice for o in outlines]), np.array([o.difference_mm for o in outlines])),
        "angle_deg_mean": float(np.nanmean([o.angle_deg for o in outlines])),
        "angle_deg_most": float(np.nanmax([o.angle_deg for o in outlines])),
        "good_with_low_score": float(low[good].mean()) if good.any() else 0.0,
    }


def without_head(pictures: Sequence[Picture], data: Path, work: Aligner) -> dict[str, Any]:
    """The share with a low score among frames that show no head."""

    def low(volume: Volume, fan: np.ndarray) -> bool:
        try:
            return work(volume, fan).score < MIN_CONFIDENCE
        except Refused:  # nothing of a possible size: as good
            return True

    rng = np.random.default_rng(11)
    mixed = [low(shuffle_tiles(picture, rng), picture.fan) for picture in pictures]
    parts = [low(part.volume, part.fan) for picture in pictures for part in off_head_crops(picture)]
    slices = [low(frame, find_fan(frame.array, frame.spacing)) for frame in phantom_frames(data)]
    result: dict[str, Any] = {"hc18_parts_beside_the_head": len(parts)}
    for name, values in (("mixed_or_noise", mixed), ("beside_the_head", parts), ("phantom_slices", slices)):
        if values:
            result[f"hc18_{name}_caught_share"] = float(np.mean(values))
    return result


def phantom_frames(data: Path) -> list[Volume]:
    """Slices of the spine phantom's volumes, in three directions, as frames; those that are nearly black left out."""
    frames = []
    for path in sorted((data / "us-phantom").glob("*.mha")):
        volume = Volume.read(path)
        spacing = np.array(volume.spacing)[::-1]
        for axis in range(3):
            for share in np.linspace(0.25, 0.75, PHANTOM_SLICES):
                image = volume.array.take(int(share * volume.shape[axis]), axis)
                rows, columns = np.delete(spacing, axis)
                if min(image.shape) >= 64 and (image > 0).mean() > 0.1:
                    frames.append(Volume(image[None], np.diag([columns, rows, 1.0, 1.0])))
    return frames


def face_of(simulated: Sequence[Picture], real: Sequence[Picture], model: str) -> dict[str, float]:
    """Which end is the face: share right and confident on simulated frames, where it is known; share confident on real
    ones, and share with the same result for the mirrored frame."""
    from USMRISynthesisLib.alignment.frame.outline import find_outline, load_network

    network = load_network(model)
    confident, alike = [], []
    for picture in real:
        mirrored = Volume(np.ascontiguousarray(picture.volume.array[:, :, ::-1]), picture.volume.ijk_to_ras)
        found = find_outline(network, picture.volume, picture.fan)
        again = find_outline(network, mirrored, np.ascontiguousarray(picture.fan[:, :, ::-1]))
        if found is None or again is None:
            continue
        confident.append(abs(found.front) >= alignment.CONFIDENT_FRONT)
        towards = found.ellipse.directions[:, 0] * found.front
        back = again.ellipse.directions[:, 0] * again.front * [-1, 1]
        alike.append(float(towards @ back) > 0)
    result = faces(network, simulated)
    if confident:
        result["hc18_face_sure_share"] = float(np.mean(confident))
        result["hc18_face_alike_in_mirror_share"] = float(np.mean(alike))
    return result


def draw(path: Path, outlines: Sequence[Outline], true: Sequence[Any]) -> None:
    """The weakest tenth by the circumference's difference, worst first: annotated blue, found yellow."""
    from PIL import Image, ImageDraw

    order = np.argsort([-o.difference_mm for o in outlines])[: max(1, len(outlines) // 10)]
    tiles = []
    for n in order:
        image = Image.fromarray(outlines[n].volume.array[0]).convert("RGB")
        pen = ImageDraw.Draw(image)
        centre, semi, turn = ellipse_in_pixels(outlines[n].alignment, outlines[n].volume)
        angle = np.linspace(0, 2 * np.pi, 200)
        found = centre[:, None] + turn * semi @ np.stack([np.cos(angle), np.sin(angle)])
        for line, colour in ((true[n].outline(200), ANNOTATED), (found, FOUND)):
            pen.line([tuple(point) for point in line.T], fill=colour, width=1)
        pen.text(
            (4, 4),
            f"{outlines[n].name} {outlines[n].difference_mm:.1f} mm, Dice {outlines[n].dice:.3f}, score "
            f"{outlines[n].alignment.score:.2f}",
            fill=TEXT,
        )
        tiles.append(image.resize((440, 300)))
    sheet = Image.new("RGB", (3 * 440, 300 * -(-len(tiles) // 3)))
    for n, tile in enumerate(tiles):
        sheet.paste(tile, (n % 3 * 440, n // 3 * 300))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
