"""`usmri evaluate real`: every measure on real ultrasound in one run, and a table of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.callbacks import Progress
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.real import consistency, identity, negatives, structures, volumes
from USMRISynthesisLib.evaluation.real.cases import (
    Frame,
    canonical_mr,
    frames_without_brain,
    hc18_frames,
    heads_3d,
    plane_frames,
    run,
)
from USMRISynthesisLib.evaluation.real.fitted_atlas import canonical_average, fitted_atlas
from USMRISynthesisLib.simulation.anatomy.atlas import available
from USMRISynthesisLib.simulation.dataset import split_of
from USMRISynthesisLib.synthesis.result import Synthesis


@dataclass(frozen=True)
class Sizes:
    """How many images each part takes, evenly chosen; None takes all."""

    negatives: int | None = None
    consistency: int = 60
    identity: int = 60

    @classmethod
    def quick(cls) -> Sizes:
        """A look in a few minutes."""
        return cls(negatives=120, consistency=12, identity=24)


def evaluate(
    data: Path,
    *,
    model: str = "default",
    device: str = "auto",
    planes: str = "axial",
    sizes: Sizes | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[volumes.Pose]]:
    """All measures, flat, with parts that are not there left out; and the volumes' results for pictures.

    Raises Refused: none of the real images is below `data`.
    """
    sizes = sizes or Sizes()
    heads = heads_3d(data)
    poses = volumes.measure_poses(heads, model=model, device=device, planes=planes, progress=progress)
    result: dict[str, Any] = {"model": model, "planes": planes}
    if poses:
        result |= summarise_poses(poses) | rough(poses, data)
    result |= _structures(data, model, device, progress)
    result |= _identity(data, model, device, sizes.identity, progress)
    result |= _consistency(data, model, device, sizes.consistency, progress)
    kinds = negatives.evaluate(frames_without_brain(data, sizes.negatives), heads, progress=progress)
    if frames := [kind for kind in kinds if kind not in ("random sector", "beside real 3D heads")]:
        counted = [(kinds[kind]["images"], kinds[kind]["accepted_share"]) for kind in frames]
        result["no_brain_accepted_share"] = sum(n * share for n, share in counted) / sum(n for n, _ in counted)
        result["no_brain"] = kinds
    if not poses and "cavum_auc" not in result and "no_brain" not in result:
        raise Refused("data", "There is no real ultrasound.", "Give the folder of us-3d-real/ and hc18/ with --data.")
    return result, poses


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


def rough(poses: list[volumes.Pose], data: Path) -> dict[str, Any]:
    """Roughness of the three views over that of MR averages of the same weeks, and the worst of these ratios."""
    made = [volumes.roughness(pose.mr) for pose in poses if pose.mr is not None and pose.mr.any()]
    names = available(data)
    true = [volumes.roughness(canonical_average(data, name)) for name in names[: min(4, len(names))]]
    if not made:
        return {}
    ratios = {
        view: float(np.median([one[view] for one in made]) / np.median([one[view] for one in true]))
        for view in volumes.VIEWS
    }
    return {"roughness_ratio": max(ratios.values()), "roughness": ratios}


def _structures(data: Path, model: str, device: str, progress: Progress | None) -> dict[str, Any]:
    def atlas(frame: Frame, result: Synthesis, marked: structures.Marked) -> np.ndarray:
        return fitted_atlas(data, result)[0]

    rows = structures.evaluate(data, model=model, device=device, progress=progress)
    if not rows:
        return {}
    baseline = structures.evaluate(data, model=model, device=device, show=atlas, progress=progress)
    result: dict[str, Any] = {
        "structure_frames": len(rows),
        "structure_frames_accepted_share": float(np.mean([row["accepted"] for row in rows])),
    }
    for name, key, over in (
        ("cavum_auc", "cavum_auc", np.mean),
        ("plexus_ring_auc", "plexus_ring_auc", np.mean),
        ("falx_deg_median", "falx_deg", np.median),
        ("falx_mm_median", "falx_mm", np.median),
        ("face_end_right_share", "face_right", np.mean),
    ):
        values = [row[key] for row in rows if key in row]
        if values:
            result[name] = float(over(values))
    for key in ("cavum_auc", "plexus_ring_auc"):
        values = [row[key] for row in baseline if key in row]
        if values:
            result[f"{key}_fitted_atlas"] = float(np.mean(values))
    return result


def _identity(data: Path, model: str, device: str, limit: int, progress: Progress | None) -> dict[str, Any]:
    frames = identity.frames_of_pairs([f for f in hc18_frames(data) if f.size_mm >= 150], limit)
    kept, images, atlas = [], [], []
    for number, frame in enumerate(frames):
        made, accepted = run(frame.volume, model=model, device=device)
        if made is not None and accepted:
            kept.append(frame)
            images.append(canonical_mr(made))
            fitted = made.mr.array * 0 + fitted_atlas(data, made)
            atlas.append(canonical_mr(_with(made, fitted)))
        if progress is not None:
            progress((number + 1) / len(frames), "identity")
    if len(kept) < 4:
        return {}
    return {
        "identity_frames": len(kept),
        "identity_auc": identity.identity_auc(kept, images),
        "identity_auc_fitted_atlas": identity.identity_auc(kept, atlas),
    }


def _with(made: Synthesis, array: np.ndarray) -> Synthesis:
    """A result with another image."""
    from dataclasses import replace

    from USMRISynthesisLib.io.volume import Volume

    return replace(made, mr=Volume(array.astype(np.int16), made.mr.ijk_to_ras))


def _consistency(data: Path, model: str, device: str, limit: int, progress: Progress | None) -> dict[str, Any]:
    held_out = [frame for frame in hc18_frames(data) if split_of(frame.name) != "train" and frame.size_mm >= 150]
    step = max(1, len(held_out) // max(1, limit // 2))
    frames = [*held_out[::step][: limit // 2], *plane_frames(data, limit - limit // 2)]
    if not frames:
        return {}
    found = consistency.evaluate(frames, model=model, device=device, progress=progress)
    return {
        f"{name}_ncc_{label}": float(np.percentile(values, share))
        for name, values in found.items()
        if values
        for label, share in (("median", 50), ("p10", 10))
    }


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    lines = ["real ultrasound, no MR of it"]
    lines += [f"{key:36s} {value:8.3f}" for key, value in result.items() if isinstance(value, float)]
    for name, values in result.get("volumes", {}).items():
        lines.append(
            f"{name:36s} score {values['score']:.2f}  {'accepted' if values['accepted'] else 'refused'}  "
            f"{values['rotation_deg']:.1f} deg  {values['translation_mm']:.1f} mm"
        )
    for kind, values in result.get("no_brain", {}).items():
        lines.append(f"{kind:36s} {values['accepted_share']:8.3f} of {values['images']:.0f} taken for a head")
    return "\n".join(lines)
