"""`usmri evaluate normalisation`: simulated heads in random orientations, and real frames of held-out fetuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.alignment.align import FRAMES_MODEL
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.alignment.skull.fit import align_skull
from USMRISynthesisLib.alignment.volume.model import Networks, load_networks
from USMRISynthesisLib.alignment.volume.search import Located, find_head
from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.datasets.heads import Head, load_heads
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.alignment.frames import evaluate_frames
from USMRISynthesisLib.evaluation.alignment.negatives import remove_head
from USMRISynthesisLib.evaluation.alignment.poses import (
    Aligner,
    Outcome,
    Placed,
    by_group,
    failures,
    place,
    pose_error,
    run,
    summary,
)
from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras, to_canonical
from USMRISynthesisLib.io.style import FOUND
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.ultrasound.gate import admit, find_fan

SHOWN = 6
UPRIGHT_DEG = 20.0
OTHER_IMAGES = (
    "us-phantom/*.mha",
    "fetal-mr-atlas/GA*/t2.nii.gz",
    "fetal-mr-stacks/sr/*.nii.gz",
    "fetal-mr-stacks/stacks/*.nii.gz",
)


def evaluate(
    cases: Path,
    split: str,
    data: Path,
    model: str,
    *,
    poses: int = 4,
    limit: int | None = None,
    frames_model: str = FRAMES_MODEL,
    pictures: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All parts; the keys are the names of the figures.

    Args:
        cases: a data set of `usmri simulate`; split: its folder to use. A folder that holds cases itself does too.
        data: holds hc18/; without it the frames' figures are left out.
        model: an alignment model; frames_model: one for frames, without which their skull is fitted.
        poses: random orientations a head; 0 for the frames alone.
        limit: that many frames, drawn at random.
        pictures: a folder for the six best, middle and worst volumes, and the weakest tenth of the frames.
    """
    folder = cases / split if (cases / split).is_dir() else cases
    result: dict[str, Any] = {"poses": poses, "split": split}
    if poses:
        result |= evaluate_volumes(folder, data, model, poses, pictures=pictures, progress=progress)
    if (data / "hc18" / "index.csv").is_file():
        result |= evaluate_frames(data, limit=limit, cases=folder, model=frames_model, pictures=pictures)
    return result


def evaluate_volumes(
    folder: Path, data: Path, model: str, poses: int, *, pictures: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """The part about simulated volumes, and about what is no volume of a head."""
    networks = load_networks(model)
    heads = load_heads(folder)

    def aligner(volume: Volume, fan: np.ndarray) -> Located | None:
        return find_head(networks, volume, fan)

    outcomes = run(heads, poses, aligner, progress)
    result: dict[str, Any] = {"heads": len(heads), **summary(outcomes), **compare_with_skull_fit(heads, aligner)}
    result["no_head_caught_share"] = without_head(heads, aligner)
    result["other_images"] = other_images(data, aligner)
    if result["other_images"]:
        others = list(result["other_images"].values())
        result["other_images_caught_share"] = float(
            np.mean([bool(one["gate"]) or one["score"] < MIN_CONFIDENCE for one in others])
        )
        result["other_images_caught_by_score_share"] = float(np.mean([one["score"] < MIN_CONFIDENCE for one in others]))
    result["heads_refused_by_gate_share"] = refused_by_gate(folder)
    result["groups"] = by_group(outcomes)
    result["failures"] = failures(outcomes)
    if pictures is not None:
        draw(pictures, heads, outcomes, networks)
    return result


def compare_with_skull_fit(heads: Sequence[Head], aligner: Aligner) -> dict[str, float]:
    """Heads that are turned by 20 degrees at most, which the skull fit alone takes to be upright: both ways."""
    errors: dict[str, list[tuple[float, float]]] = {"network": [], "skull": []}
    for head in heads:
        placed = place(head, 0, most_deg=UPRIGHT_DEG)
        found = aligner(placed.volume, placed.fan)
        errors["network"].append((180.0, 100.0) if found is None else pose_error(placed, found.matrix))
        errors["skull"].append(pose_error(placed, align_skull(placed.volume, placed.fan).ras_to_canonical))
    return {
        f"upright_{name}_{unit}_median": float(np.median([row[n] for row in rows]))
        for name, rows in errors.items()
        for n, unit in enumerate(("rotation_deg", "translation_mm"))
    }


def without_head(heads: Sequence[Head], aligner: Aligner) -> float:
    """The share with a low score among volumes of the same speckle without a head."""
    low = []
    for n, head in enumerate(heads):
        placed = place(head, 0)
        found = aligner(remove_head(placed.volume, placed.fan, np.random.default_rng([n, 11])), placed.fan)
        low.append(found is None or found.score < MIN_CONFIDENCE)
    return float(np.mean(low))


def other_images(data: Path, aligner: Aligner) -> dict[str, dict[str, Any]]:
    """Results for images that are no ultrasound of a head: phantoms of a spine, fetal MR. For each, `gate`: the
    reason of the gate's refusal, or ""; `score`: of the alignment, as if the gate had admitted it."""
    paths = [path for pattern in OTHER_IMAGES for path in sorted(data.glob(pattern))]
    answers = {}
    for path in paths:
        volume = Volume.read(path)
        found = aligner(volume, find_fan(volume.array, volume.spacing))
        answers[str(path.relative_to(data))] = {
            "gate": _refusal(volume),
            "score": 0.0 if found is None else round(found.score, 3),
        }
    return answers


def refused_by_gate(folder: Path) -> float:
    """The share of the simulated volumes of a folder that the gate does not admit."""
    refused = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as case:
            refused.append(_refusal(Volume(case["us"], canonical_ijk_to_ras())) != "")
    return float(np.mean(refused))


def _refusal(volume: Volume) -> str:
    try:
        admit(volume)
    except Refused as error:
        return error.kind
    return ""


def table(result: dict[str, Any]) -> str:
    """For a person: the figures, then each view and week, then the failures."""
    volumes = "heads" in result
    lines = [f"{result['heads']} simulated heads in {result['poses']} random orientations each"] if volumes else []
    lines += [f"  {key:34s} {value:8.3f}" for key, value in result.items() if isinstance(value, float)]
    if not volumes:
        return "\n".join(lines)
    lines += [
        f"{name}: rotation {g['rotation_deg_median']:.1f} deg, translation {g['translation_mm_median']:.1f} mm, "
        f"flips {g['flip_share']:.0%}"
        for name, g in result["groups"].items()
    ]
    lines += [
        f"failed: {f['case']} ({f['view']}), {f['rotation_deg']} deg off, score {f['score']}"
        f"{', caught' if f['caught'] else ', NOT caught'}"
        for f in result["failures"]
    ] or ["no flips"]
    lines += [
        f"no head: {name}, "
        + (f"refused ({one['gate']}); " if one["gate"] else "admitted; ")
        + f"score {one['score']:.2f}"
        for name, one in result["other_images"].items()
    ]
    return "\n".join(lines)


def draw(folder: Path, heads: Sequence[Head], outcomes: Sequence[Outcome], networks: Networks) -> None:
    """best.png, median.png and worst.png: six volumes each as the alignment puts them, with its outline.

    Rows are volumes, columns axial, coronal and sagittal through the canonical origin; anterior and superior are up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    poses = len(outcomes) // len(heads)
    order = np.argsort([o.rotation_deg for o in outcomes])
    middle = max(0, len(order) // 2 - SHOWN // 2)
    groups = {"best": order[:SHOWN], "median": order[middle : middle + SHOWN], "worst": order[::-1][:SHOWN]}
    for name, chosen in groups.items():
        rows = []
        for n in chosen:
            placed = place(heads[n // poses], int(n % poses))
            found = find_head(networks, placed.volume, placed.fan)
            if found is not None:
                rows.append(_row(placed, found))
        if rows:
            _save(folder / f"{name}.png", np.concatenate(rows))


def _row(placed: Placed, found: Located) -> np.ndarray:
    """(160, 480, 3) uint8."""
    us, _ = to_canonical(placed.volume.array, placed.volume.ijk_to_ras, found.matrix)
    axis = (np.arange(160) - 79.5) * 0.6
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    local = (np.stack([x, y, z], axis=-1) - found.ellipsoid.centre) @ found.ellipsoid.axes / found.ellipsoid.semi_axes
    inside = (local**2).sum(axis=-1) <= 1
    panels = []
    for cut in (np.s_[80], np.s_[:, 80], np.s_[:, :, 80]):
        grey = np.clip(us[cut], 0, 255).astype(np.uint8)
        edge = inside[cut] & ~ndimage.binary_erosion(inside[cut])
        colour = np.repeat(grey[..., None], 3, axis=-1)
        colour[edge] = FOUND
        panels.append(colour[::-1])
    return np.concatenate(panels, axis=1)


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)
