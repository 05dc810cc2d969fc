"""`usmri evaluate registration`: ultrasound to MR, directly, through the MR-like image, and through the fitted atlas.

Every method starts from the same places within 20 degrees and 15 mm of the truth, and once more from where the two
estimated poses put the MR ("from the pose"). What is found for a head is kept in a file, so that a stopped run goes on.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.registration.methods import ELASTIX, ITK, METHODS, OWN, run
from USMRISynthesisLib.evaluation.registration.settings import Map, Settings, identity, to_image
from USMRISynthesisLib.evaluation.registration.subjects import Source, Subject, pose_alone
from USMRISynthesisLib.evaluation.registration.summary import POSE_ALONE, START
from USMRISynthesisLib.evaluation.registration.targets import Target, apply, rigid_fit, start
from USMRISynthesisLib.io.strict_json import dumps

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Plan:
    """How much is run: starts for each MR, whether from the pose as well, with which engines B-splines after the first
    start."""

    starts: int = 3
    from_pose: bool = True
    deformable: tuple[str, ...] = (ITK, OWN, ELASTIX)

    @classmethod
    def quick(cls) -> Plan:
        """One start; no B-spline with elastix, which takes most of the time."""
        return cls(1, False, (ITK, OWN))


def evaluate(
    sources: Sequence[Source],
    plan: Plan,
    *,
    settings: Settings | None = None,
    folder: Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """What was found for each head: see `measure`.

    folder: where each head's file is kept. limit: that many heads, the first of `spread_order`. Raises Refused: the
    folder holds heads of other settings.
    """
    settings = settings or Settings()
    chosen = [sources[n] for n in spread_order(len(sources))[:limit]]
    found = []
    for number, (name, make) in enumerate(chosen):
        kept = folder / f"{name}.json" if folder is not None else None
        how = json.loads(dumps({"plan": asdict(plan), "settings": asdict(settings)}))
        one = _read(kept, how)
        if one is None:
            subject = make()
            one = {"head": name, "how": how, "accepted": False, "real": False, "rows": []}
            if subject is not None:
                one |= measure(subject, plan, settings)
            if kept is not None:
                part = kept.with_suffix(".part")
                part.write_text(dumps(one, indent=1), encoding="utf-8")
                part.replace(kept)
        found.append(one)
        if progress is not None:
            progress((number + 1) / len(chosen), name)
    return found


def spread_order(count: int) -> list[int]:
    """0 to count - 1 so that the first few spread over all (bits reversed): a higher limit only adds heads."""
    bits = max(1, (count - 1).bit_length())
    order = [int(f"{n:0{bits}b}"[::-1], 2) for n in range(2**bits)]
    return [n for n in order if n < count]


def _read(path: Path | None, how: dict[str, Any]) -> dict[str, Any] | None:
    if path is None or not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same = content["how"] == how
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused("kept", f"{path.name} is no head that was kept.", "Remove it or give another folder.") from error
    if not same:
        raise Refused("kept", f"{path.name} was measured with other settings.", "Give another folder with --folder.")
    return content


def measure(subject: Subject, plan: Plan, settings: Settings) -> dict[str, Any]:
    """Every method from every start on one head.

    Returns "accepted", "real" and "rows": one for each MR, start and method with the target registration error at the
    landmarks and the distance at surfaces, mm, rigid and, where it was run, deformable.
    """
    rng = np.random.default_rng(zlib.crc32(f"starts of {subject.name}".encode()))
    rows: list[dict[str, Any]] = []
    moving = {name: to_image(volume) for name, volume in subject.images.items()}
    for target in subject.targets:
        middle = np.mean([there for there, _ in target.landmarks.values()], axis=0)
        for part in range(plan.starts):
            matrix = start(rng, middle, part, plan.starts)
            rows += _rows(subject, target.displaced(matrix), moving, plan, settings, str(part), part == 0)
        began = time.process_time()
        pose, reliable = pose_alone(subject, target)
        seconds = time.process_time() - began
        base = {"target": target.kind, "start": "pose", "method": POSE_ALONE, "failed": not reliable}
        rows.append(base | _errors(subject, target, _matrix_map(pose)) | {"seconds": seconds})
        if plan.from_pose:
            rows += _rows(subject, target.displaced(pose), moving, plan, settings, "pose", False)
    return {"accepted": subject.accepted, "real": subject.real, "week": subject.week, "rows": rows}


def _matrix_map(matrix: np.ndarray) -> Map:
    return lambda points: apply(matrix, points)


def _rows(
    subject: Subject,
    target: Target,
    moving: dict[str, sitk.Image],
    plan: Plan,
    settings: Settings,
    name: str,
    bent: bool,
) -> list[dict[str, Any]]:
    """The start itself, and every method from it; `bent`: a B-spline after that with the plan's engines for it."""
    there, here = (np.array(points) for points in zip(*target.landmarks.values(), strict=True))
    begun = float(np.linalg.norm(there - here, axis=1).mean())
    floor = float(np.linalg.norm(rigid_fit(there, here) - here, axis=1).mean())
    base = {"target": target.kind, "start": name, "start_mm": begun, "best_rigid_mm": floor}
    rows: list[dict[str, Any]] = [base | {"method": START, "failed": False} | _errors(subject, target, identity)]
    fixed, mask = to_image(target.mr), sitk.Cast(to_image(target.mask), sitk.sitkUInt8)
    for method in METHODS:
        if method.moving not in moving:
            continue
        deformable = bent and method.engine in plan.deformable
        found, failed = run(method, fixed, mask, moving[method.moving], settings, deformable=deformable)
        row = base | {"method": method.name, "failed": failed, "seconds": found.seconds}
        row |= _errors(subject, target, found.rigid)
        if found.deformable is not None:
            after = _errors(subject, target, found.deformable)
            row |= {f"{key}_deformable": value for key, value in after.items()}
            row["seconds_deformable"] = found.seconds_deformable
        rows.append(row)
    return rows


def _errors(subject: Subject, target: Target, found: Map) -> dict[str, Any]:
    """Mean error at the landmarks, mm; mean distance to the true surfaces, mm, and of each; where landmarks went."""
    there, here = (np.array(points) for points in zip(*target.landmarks.values(), strict=True))
    places = found(there)
    errors: dict[str, Any] = {
        "tre": float(np.linalg.norm(places - here, axis=1).mean()),
        "places": np.round(places, 3).tolist(),
    }
    apart = {
        name: float(subject.surface_errors(name, found(points)).mean())
        for name, points in target.surfaces.items()
        if name in subject.distances
    }
    if apart:
        errors |= {"surface": float(np.mean(list(apart.values()))), "surfaces": apart}
    return errors
