"""`usmri evaluate real`: every measure on real ultrasound in one run, and a table of them.

The figures of the product stand flat under their names; under `methods` they stand beside those of the fitted atlas and
of the mean MR in the same pose (`fitted_atlas.py`), which know nothing of the head's inside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.evaluation.real import (
    consistency,
    identity,
    insides,
    kernel,
    negatives,
    structures,
    volumes,
)
from USMRISynthesisLib.evaluation.real.cases import (
    Frame,
    Head3D,
    canonical_mr,
    frames_without_brain,
    hc18_frames,
    heads_3d,
    plane_frames,
)
from USMRISynthesisLib.evaluation.real.fitted_atlas import FITTED, METHODS, OURS, canonical_average, images
from USMRISynthesisLib.evaluation.real.fitted_atlas import with_image as image_in_place
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.dataset import split_of
from USMRISynthesisLib.synthesis.roughness import VIEWS, roughness

Methods = dict[str, dict[str, float]]
FEWEST_MM = 150.0  # head circumference of the youngest heads that the simulator knows
HEADLINES = (
    "volumes_accepted_share", "volumes_turned_share", "rotation_deg_median", "cavum_auc", "plexus_ring_auc",
    "falx_deg_median", "face_end_right_share", "identity_auc", "flip_ncc_p10", "roughness_ratio",
    "no_brain_accepted_share", "inside_two_sample_auc",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How many images each part takes, evenly chosen; None takes all. heads: simulated where none are given."""

    negatives: int | None = None
    consistency: int = 60
    identity: int = 60
    planes: int = 60
    insides: int = 150
    heads: int = 8
    crops: int = 60
    bodies: int = 6

    @classmethod
    def quick(cls) -> Sizes:
        """A look in some minutes."""
        return cls(negatives=120, consistency=12, identity=24, planes=12, insides=60, heads=4, crops=20, bodies=2)


def evaluate(
    data: Path,
    *,
    model: str = "default",
    device: str = "auto",
    planes: str = "axial",
    sizes: Sizes | None = None,
    simulated: Path | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[volumes.Pose]]:
    """All measures, with parts that are not there left out; and the volumes' results for pictures.

    simulated: a folder of cases of `usmri simulate` for the two-sample test; some are made where there is none.
    Raises Refused: none of the real images is below `data`, or there are no cases in `simulated`.
    """
    sizes = sizes or Sizes()
    heads = heads_3d(data)
    poses = volumes.measure_poses(heads, model=model, device=device, planes=planes, progress=progress)
    result: dict[str, Any] = {"model": model, "planes": planes}
    methods: Methods = {}
    if poses:
        result |= summarise_poses(poses)
        _merge(methods, rough(poses, data))
    rows = structures.evaluate(data, model=model, device=device, progress=progress)
    if rows.get(OURS):
        result["structure_frames"] = len(rows[OURS])
        result["structure_frames_accepted_share"] = float(np.mean([row["accepted"] for row in rows[OURS]]))
        _merge(methods, {name: structures.summarise(own) for name, own in rows.items()})
    _merge(methods, _identity(data, model, device, sizes, result, progress))
    _merge(methods, _consistency(data, model, device, sizes.consistency, progress))
    kinds = _negatives(data, heads, model, device, sizes, progress)
    if not poses and not rows and not kinds:
        raise Refused("data", "There is no real ultrasound.", "Give the folder of us-3d-real/ and hc18/ with --data.")
    result |= _insides(data, heads, model, simulated, sizes, progress)
    ours = methods.get(OURS, {})
    fitted = {f"{name}_fitted_atlas": value for name, value in methods.get(FITTED, {}).items() if name in HEADLINES}
    flat = result | ours | negatives.summarise(kinds) | fitted
    first = {name: flat.pop(name) for name in HEADLINES if name in flat}
    listed = {name: methods[name] for name in METHODS if name in methods}
    return first | flat | {"methods": listed, "no_brain": kinds}, poses


def _merge(methods: Methods, more: Mapping[str, Mapping[str, float]]) -> None:
    for name, figures in more.items():
        methods.setdefault(name, {}).update(figures)


def summarise_poses(poses: list[volumes.Pose]) -> dict[str, Any]:
    """Shares and medians over volumes; each one's figures under `volumes`."""
    found = [pose for pose in poses if np.isfinite(pose.rotation_deg)]
    return {
        "volumes_accepted_share": float(np.mean([pose.accepted for pose in poses])),
        "volumes_turned_share": float(np.mean([pose.turned for pose in found])) if found else float("nan"),
        "rotation_deg_median": float(np.median([pose.rotation_deg for pose in found])) if found else float("nan"),
        "translation_mm_median": float(np.median([pose.translation_mm for pose in found])) if found else float("nan"),
        "volumes": {
            pose.name: {
                "accepted": pose.accepted,
                "score": pose.score,
                "rotation_deg": pose.rotation_deg,
                "translation_mm": pose.translation_mm,
                "scale": pose.scale,
            }
            for pose in poses
        },
    }


def rough(poses: list[volumes.Pose], data: Path) -> Methods:
    """Method -> roughness of each view over that of MR averages, the median over volumes, and the worst view's."""
    found: dict[str, list[dict[str, float]]] = {}
    for pose in poses:
        if pose.result is not None and pose.result.mr.array.any():
            for method, image in images(data, pose.result).items():
                shown = canonical_mr(image_in_place(pose.result, image))
                found.setdefault(method, []).append(roughness(shown))
    if not found:
        return {}
    names = atlas.available(data)
    true = [roughness(canonical_average(data, name).astype(np.float32)) for name in names[:4]]
    methods: Methods = {}
    for method, made in found.items():
        ratios = {
            f"roughness_{view}": float(np.median([one[view] for one in made]) / np.median([one[view] for one in true]))
            for view in VIEWS
        }
        methods[method] = {"roughness_ratio": max(ratios.values())} | ratios
    return methods


def _identity(
    data: Path, model: str, device: str, sizes: Sizes, result: dict[str, Any], progress: Progress | None
) -> Methods:
    """Identity of fetuses, and the kernel distance of the same images and of those of other planes' frames."""
    frames = identity.frames_of_pairs([f for f in hc18_frames(data) if f.size_mm >= FEWEST_MM], sizes.identity)
    kept, shown = identity.evaluate(data, frames, model=model, device=device, progress=progress)
    methods: Methods = {}
    if len(kept) >= 4:
        result["identity_frames"] = len(kept)
        _merge(methods, {name: {"identity_auc": identity.identity_auc(kept, own)} for name, own in shown.items()})
    others = plane_frames(data, sizes.planes)
    more, made = identity.evaluate(data, others, model=model, device=device, progress=progress)
    if kept or more:
        joined = {name: [*shown.get(name, []), *made.get(name, [])] for name in {**shown, **made}}
        try:
            found = kernel.distances(data, [*kept, *more], joined)
        except Failed:  # there is no atlas to compare with
            return methods
        _merge(methods, {name: {"kernel_distance": value} for name, (value, _, _) in found.items()})
        result["kernel_distance_interval"] = found[OURS]
        result["kernel_distance_frames"] = len(kept) + len(more)
    return methods


def _consistency(data: Path, model: str, device: str, limit: int, progress: Progress | None) -> Methods:
    held_out = [frame for frame in hc18_frames(data) if split_of(frame.name) != "train" and frame.size_mm >= FEWEST_MM]
    step = max(1, len(held_out) // max(1, limit // 2))
    frames = [*held_out[::step][: limit // 2], *plane_frames(data, limit - limit // 2)]
    found = consistency.evaluate(data, frames, model=model, device=device, progress=progress)
    return {
        method: {
            f"{name}_ncc_{label}": float(np.percentile(values, share))
            for name, values in changes.items()
            if values
            for label, share in (("median", 50), ("p10", 10))
        }
        for method, changes in found.items()
    }


def _negatives(
    data: Path, heads: list[Head3D], model: str, device: str, sizes: Sizes, progress: Progress | None
) -> dict[str, dict[str, float]]:
    frames: list[Frame] = frames_without_brain(data, sizes.negatives)
    if not frames and not heads and not (data / "hc18").is_dir():
        return {}
    return negatives.evaluate(
        data, frames, heads, model=model, device=device, crops=sizes.crops, bodies=sizes.bodies, progress=progress
    )


def _insides(
    data: Path, heads: list[Head3D], model: str, simulated: Path | None, sizes: Sizes, progress: Progress | None
) -> dict[str, float]:
    from USMRISynthesisLib.models import store

    exponent = store.read_manifest(store.find_model(model)).input.exponent
    if simulated is not None:
        return insides.evaluate(data, heads, simulated, exponent, limit=sizes.insides)
    with tempfile.TemporaryDirectory(prefix="usmri-heads-") as folder:
        insides.simulate(data, Path(folder), sizes.heads, progress=progress)
        return insides.evaluate(data, heads, Path(folder), exponent, limit=sizes.insides)


def table(result: dict[str, Any]) -> str:
    """The figures as text: each measure beside the baselines', then volumes and images without a brain one by one."""
    methods = result.get("methods", {})
    lines = ["real ultrasound, no MR of it", f"{'':36s} " + " ".join(f"{name:>13s}" for name in methods or (OURS,))]
    for key, value in result.items():
        if not isinstance(value, float) or key.endswith("_fitted_atlas"):
            continue
        others = [methods[name].get(key) for name in list(methods)[1:]]
        cells = [f"{one:13.3f}" if one is not None else " " * 13 for one in (value, *others)]
        lines.append(f"{key:36s} " + " ".join(cells).rstrip())
    for name, values in result.get("volumes", {}).items():
        lines.append(
            f"{name:36s} score {values['score']:.2f}  {'accepted' if values['accepted'] else 'refused'}  "
            f"{values['rotation_deg']:.1f} deg  {values['translation_mm']:.1f} mm"
        )
    for kind, values in result.get("no_brain", {}).items():
        lines.append(f"{kind:36s} {values['accepted_share']:8.3f} of {values['images']:.0f} taken for a head")
    return "\n".join(lines)
