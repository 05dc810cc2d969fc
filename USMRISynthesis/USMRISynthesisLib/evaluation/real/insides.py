"""The two-sample test of insides: can a classifier separate real from simulated brain, outline and all else left out?

Patches of the brain's inside, normalised as the generator's input is, are described by fixed features
(`metrics/scattering.py`), and a logistic regression is cross-validated by fetus and by simulated head. An AUC of 0.5
is chance. In 2D real patches come from head-circumference frames, in 3D from real volumes at their reference pose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from USMRISynthesisLib.datasets.cases import mark_fan
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.metrics.image import auc_between
from USMRISynthesisLib.evaluation.metrics.logistic import fit
from USMRISynthesisLib.evaluation.metrics.scattering import scattering
from USMRISynthesisLib.evaluation.real.cases import Head3D
from USMRISynthesisLib.evaluation.real.volumes import reference_of
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, SIZE, canonical_axis_mm, to_canonical
from USMRISynthesisLib.ultrasound.gate import find_fan
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound

INNER = 0.8  # of the skull's half axes
HALF_AXES_MM = np.array([33.0, HEAD_LENGTH_MM / 2, 33.0])  # of a usual head, canonical mm
FRAME_PATCH, FRAME_STEP = 32, 16  # voxels of 0.6 mm
VOLUME_PATCH, VOLUME_STEP = 24, 16
_FOLDS_2D = 5
_PENALTY = 0.02
_MOST_PER_VOLUME = 40


@dataclass(frozen=True, eq=False)
class Patches:
    """values (n, d): features; subject (n,): the fetus or the simulated head."""

    values: np.ndarray
    subject: np.ndarray


def frame_patches(us: np.ndarray, fan: np.ndarray, half_axes_mm: np.ndarray, exponent: float) -> np.ndarray:
    """Features (n, d) of a canonical frame's (160, 160) patches within the skull's ellipse and the fan."""
    image = normalise_ultrasound(us[None], fan[None], exponent)[0]
    axis = canonical_axis_mm()
    inside = (axis[None] / half_axes_mm[0]) ** 2 + (axis[:, None] / half_axes_mm[1]) ** 2 < INNER**2
    return _described([image[place] for place in _places(inside & fan, FRAME_PATCH, FRAME_STEP)])


def volume_patches(us: np.ndarray, fan: np.ndarray, exponent: float) -> np.ndarray:
    """Features (n, d) of a canonical volume's (160, 160, 160) patches within a usual head's inside and the fan."""
    image = normalise_ultrasound(us, fan, exponent)
    z, y, x = ((canonical_axis_mm() / half) ** 2 for half in (HALF_AXES_MM[2], HALF_AXES_MM[1], HALF_AXES_MM[0]))
    inside = z[:, None, None] + y[None, :, None] + x[None, None, :] < INNER**2
    places = _places(inside & fan, VOLUME_PATCH, VOLUME_STEP)
    if len(places) > _MOST_PER_VOLUME:
        chosen = np.linspace(0, len(places) - 1, _MOST_PER_VOLUME).round().astype(int)
        places = [places[n] for n in chosen]
    if not places:
        return np.zeros((0, 0))
    patches = np.stack([image[place] for place in places])
    slices = [np.moveaxis(patches, axis + 1, 1)[:, 2::6] for axis in range(3)]  # (n, 4, side, side) of each view
    across = [
        scattering(some.reshape(-1, *some.shape[2:])).reshape(*some.shape[:2], -1).mean(axis=1) for some in slices
    ]
    return np.hstack([np.stack([_quantiles(patch) for patch in patches]), *across])


def _described(patches: Sequence[np.ndarray]) -> np.ndarray:
    if not patches:
        return np.zeros((0, 0))
    return np.hstack([np.stack([_quantiles(patch) for patch in patches]), scattering(np.stack(patches))])


def _quantiles(patch: np.ndarray) -> np.ndarray:
    return np.asarray(np.percentile(patch, (5, 25, 50, 75, 95)))


def _places(inside: np.ndarray, size: int, step: int) -> list[tuple[slice, ...]]:
    """Patches of `size` along each axis, every `step` voxels, of which at least nine tenths are inside."""
    starts = [range(0, n - size + 1, step) for n in inside.shape]
    found = []
    for index in np.ndindex(*(len(start) for start in starts)):
        place = tuple(slice(start[i], start[i] + size) for start, i in zip(starts, index, strict=True))
        if inside[place].mean() > 0.9:
            found.append(place)
    return found


def cross_validated_auc(real: Patches, simulated: Patches, folds: int) -> float:
    """AUC of held-out patches, the mean over folds; a fold is a share of the fetuses and of the simulated heads.

    Raises Refused: there are fewer fetuses or heads than two.
    """
    parts = []
    for side in (real, simulated):
        subjects = sorted(set(side.subject.tolist()), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        folds = min(folds, len(subjects))
        parts.append({name: n for n, name in enumerate(subjects)})
    if folds < 2:
        raise Refused("cases", "Two fetuses and two simulated heads are needed.", "Give more with --simulated.")
    fold_of = [
        np.array([part[name] % folds for name in side.subject])
        for side, part in zip((real, simulated), parts, strict=True)
    ]
    scores = []
    for fold in range(folds):
        held = [number == fold for number in fold_of]
        train = [side.values[~out] for side, out in zip((real, simulated), held, strict=True)]
        middle = np.concatenate([np.median(side, axis=0)[None] for side in train]).mean(axis=0)
        spread = np.concatenate(train).std(axis=0) + 1e-6

        def scaled(values: np.ndarray, middle: np.ndarray = middle, spread: np.ndarray = spread) -> np.ndarray:
            return np.clip((values - middle) / spread, -4, 4)

        weights = fit(scaled(train[0]), scaled(train[1]), _PENALTY)
        test = [scaled(side.values[out]) @ weights[:-1] for side, out in zip((real, simulated), held, strict=True)]
        scores.append(auc_between(test[0], test[1]))
    return float(np.mean(scores))


def real_frame_patches(data: Path, exponent: float, limit: int) -> Patches:
    """Of HC18 frames of large enough heads at their annotated pose, evenly chosen, one a fetus."""
    from USMRISynthesisLib.simulation import dataset

    rows = {
        row["file"].split("_")[0]: row
        for row in dataset.read_frame_index(data)
        if float(row["head_circumference_mm"]) >= dataset.MINIMUM_CIRCUMFERENCE_MM
    }
    names = sorted(rows)
    chosen = np.unique(np.linspace(0, len(names) - 1, min(limit, len(names))).round().astype(int))
    made: dict[str, np.ndarray] = {}
    for name in (names[n] for n in chosen):
        row = rows[name]
        volume, matrix = dataset.frame_volume(data, row), dataset.frame_to_canonical(row)
        us, fan = _canonical(volume.array, volume.ijk_to_ras, find_fan(volume.array, volume.spacing), matrix)
        made[name] = frame_patches(us[0], fan[0], np.array(dataset.half_axes_of(row)), exponent)
    return _joined(made)


def real_volume_patches(heads: Sequence[Head3D], exponent: float) -> Patches:
    """Of real volumes at the pose of their landmarks."""
    made = {}
    for head in heads:
        volume = head.volume
        fan = find_fan(volume.array, volume.spacing)
        made[head.name] = volume_patches(
            *_canonical(volume.array, volume.ijk_to_ras, fan, reference_of(head)), exponent
        )
    return _joined(made)


def _canonical(
    array: np.ndarray, ijk_to_ras: np.ndarray, fan: np.ndarray, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    us, _ = to_canonical(array, ijk_to_ras, matrix)
    return us, to_canonical(fan, ijk_to_ras, matrix, order=0)[0] > 0.5


def simulated_patches(folder: Path, exponent: float) -> tuple[Patches, Patches]:
    """Of the cases of `usmri simulate` below a folder: of their frames (or their middle slice), and of their volumes.

    Raises Refused without cases.
    """
    files = sorted(path for path in folder.rglob("*.npz") if ".partial" not in path.name)
    frames: dict[str, np.ndarray] = {}
    volumes: dict[str, np.ndarray] = {}
    for path in files:
        with np.load(path) as case:
            if "us" not in case or "skull" not in case:
                continue
            frames[path.stem] = _of_frames(case, exponent)
            volumes[path.stem] = volume_patches(mark_fan(case["us"], case["fan"]), case["fan"], exponent)
    if not frames:
        raise Refused("no-cases", f"{folder.name} holds no simulated cases.", "Make them with `usmri simulate` first.")
    return _joined(frames), _joined(volumes)


def _of_frames(case: np.lib.npyio.NpzFile, exponent: float) -> np.ndarray:
    from USMRISynthesisLib.evaluation.simulator.frames import half_axes

    if "frames_us" in case:
        stacks = [case[f"frames_{name}"] for name in ("us", "fan", "skull")]
    else:
        middle = SIZE // 2
        stacks = [case[name][middle : middle + 1] for name in ("us", "fan", "skull")]
    rows = [
        frame_patches(us, fan, np.array(half_axes(skull)), exponent)
        for us, fan, skull in zip(*stacks, strict=True)
        if skull.any()
    ]
    return np.concatenate([row for row in rows if len(row)]) if any(map(len, rows)) else np.zeros((0, 0))


def _joined(made: dict[str, np.ndarray]) -> Patches:
    kept = {name: rows for name, rows in made.items() if len(rows)}
    if not kept:
        return Patches(np.zeros((0, 0)), np.zeros(0, str))
    return Patches(np.concatenate(list(kept.values())), np.repeat(list(kept), [len(rows) for rows in kept.values()]))


def simulate(
    data: Path, folder: Path, heads: int, *, frames: int = 8, progress: Callable[[float, str], None] | None = None
) -> None:
    """Write `heads` new cases of the bundled settings, from all weeks in turn, into a folder."""
    from USMRISynthesisLib.simulation.anatomy import atlas
    from USMRISynthesisLib.simulation.config import Head
    from USMRISynthesisLib.simulation.dataset import simulate_case

    names = atlas.available(data)
    for n in range(heads):
        name = names[n * len(names) // heads]
        np.savez(folder / f"{name}-{n:04d}.npz", **simulate_case(data, Head(name, 9000 + n), frames))
        if progress is not None:
            progress((n + 1) / heads, "simulating heads to compare with")


def evaluate(
    data: Path,
    heads: Sequence[Head3D],
    simulated: Path,
    exponent: float,
    *,
    limit: int = 150,
) -> dict[str, float]:
    """inside_two_sample_auc_2d and _3d, as far as there are real images, and the larger as inside_two_sample_auc."""
    frames, volumes = simulated_patches(simulated, exponent)
    found: dict[str, float] = {}
    if (data / "hc18" / "index.csv").is_file():
        real = real_frame_patches(data, exponent, limit)
        found["inside_two_sample_auc_2d"] = cross_validated_auc(real, frames, _FOLDS_2D)
        found["inside_patches_2d"] = float(len(real.values))
    if len(heads) > 1:
        real = real_volume_patches(heads, exponent)
        found["inside_two_sample_auc_3d"] = cross_validated_auc(real, volumes, len(heads))
        found["inside_patches_3d"] = float(len(real.values))
    worst = [value for name, value in found.items() if "auc" in name]
    return ({"inside_two_sample_auc": max(worst)} if worst else {}) | found
