"""The heads: simulated from normal averages, simulated cases on disk, and the real volumes; what stands for each one's
ultrasound in a registration, and the truth, or for real volumes what three points on the skull give instead."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from USMRISynthesisLib.datasets.mr_registration.register import align_mr
from USMRISynthesisLib.datasets.simulated import case_files, read_case
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.normal.heads import read_heads, simulate
from USMRISynthesisLib.evaluation.real.cases import Head3D, heads_3d, run
from USMRISynthesisLib.evaluation.real.fitted_atlas import FITTED, canonical_placement, fitted_atlas
from USMRISynthesisLib.evaluation.real.volumes import reference_of
from USMRISynthesisLib.evaluation.registration.methods import MADE, TRUE, US
from USMRISynthesisLib.evaluation.registration.settings import coarse
from USMRISynthesisLib.evaluation.registration.targets import (
    SURFACES,
    Labelled,
    Target,
    another_head,
    apply,
    same_head,
    surface,
)
from USMRISynthesisLib.geometry.canonical import canonical_ijk_to_ras
from USMRISynthesisLib.geometry.similarity import nearest_rotation, random_rotation
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.config import Head


@dataclass(frozen=True, eq=False)
class Subject:
    """One head.

    images: what is registered with the MR, by name, coarse, on grids of the ultrasound's world. targets: the MR. pose:
    (4, 4) estimated RAS mm to canonical mm. distances: structure -> mm to its true surface on the grid that
    `from_world` (4, 4) leads to; empty for a real volume, whose landmarks are proxies.
    """

    name: str
    week: int
    real: bool
    accepted: bool
    images: dict[str, Volume]
    targets: tuple[Target, ...]
    pose: np.ndarray
    distances: dict[str, np.ndarray]
    from_world: np.ndarray

    def surface_errors(self, name: str, points: np.ndarray) -> np.ndarray:
        """How far points (n, 3) RAS mm lie from a structure's true surface, mm."""
        inside = apply(self.from_world, points).T[::-1]
        return np.asarray(ndimage.map_coordinates(self.distances[name], inside, order=1, mode="nearest"))


Source = tuple[str, Callable[[], Subject | None]]


def simulated(data: Path, config: Path, *, model: str, device: str, planes: str) -> list[Source]:
    """The heads of a configuration (`configs/normal-heads.json`), by name, each made when it is called for."""
    return [
        (f"{spec.atlas}-{spec.seed}", partial(_normal, data, spec, model, device, planes))
        for spec in read_heads(config, data)
    ]


def stored(data: Path, folder: Path, *, model: str, device: str, planes: str) -> list[Source]:
    """The cases of a folder of `usmri simulate`, each turned at random. Raises Refused: there are none."""
    return [(path.stem, partial(_case, data, path, model, device, planes)) for path in case_files(folder)]


def real(data: Path, *, model: str, device: str, planes: str) -> list[Source]:
    """The volumes of `us-3d-real/`."""
    return [(head.name.split(".")[0], partial(_real, data, head, model, device, planes)) for head in heads_3d(data)]


def _normal(data: Path, spec: Head, model: str, device: str, planes: str) -> Subject | None:
    head = simulate(data, spec)
    grid = np.linalg.inv(head.to_canonical) @ canonical_ijk_to_ras()
    truth = Labelled(head.labels, grid, canonical_ijk_to_ras())
    return _known(
        data, f"{spec.atlas}-{spec.seed}", head.week, head.volume, head.t2, truth, model, device, planes, None
    )


def _case(data: Path, path: Path, model: str, device: str, planes: str) -> Subject | None:
    case = read_case(path)
    rng = np.random.default_rng(zlib.crc32(path.stem.encode()))
    to_world = np.eye(4)
    to_world[:3, :3] = random_rotation(rng) / case.scale
    grid = to_world @ canonical_ijk_to_ras()
    truth = Labelled(case.labels, grid, canonical_ijk_to_ras())
    week = atlas.week_of(path.stem)
    return _known(data, path.stem, week, Volume(case.us, grid), case.t2, truth, model, device, planes, week)


def _known(
    data: Path, name: str, week: int, us: Volume, t2: np.ndarray, truth: Labelled, model: str, device: str, planes: str,
    without: int | None,
) -> Subject | None:  # fmt: skip
    """A simulated head; `without`: a week of which the fitted atlas may not be, for the head was made from it."""
    result, accepted = run(us, model=model, device=device, planes=planes)
    if result is None:
        return None
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    t2 = t2.astype(np.float32)
    other = another_head(
        atlas.load(data, neighbour(data, week)), truth.middle(), truth.to_world[:3, :3], truth.landmarks(), rng
    )
    spacing = float(np.linalg.norm(truth.to_world[:3, 0]))
    distances = {
        key: np.asarray(
            ndimage.distance_transform_edt(~surface(np.isin(truth.labels, members)), sampling=spacing), np.float32
        )
        for key, members in SURFACES.items()
        if np.isin(truth.labels, members).any()
    }
    fitted = fitted_atlas(data, result, without=without)
    images = {
        US: coarse(us),
        MADE: coarse(result.mr),
        FITTED: coarse(Volume(fitted, result.mr.ijk_to_ras)),
        TRUE: coarse(Volume(1000 * t2, truth.to_world)),
    }
    targets = (same_head(t2, truth, rng), other)
    return Subject(name, week, False, accepted, images, targets, result.transform, distances,
                   np.linalg.inv(truth.to_world))  # fmt: skip


def _real(data: Path, head: Head3D, model: str, device: str, planes: str) -> Subject | None:
    """A real volume with the normal average of its week: where landmarks lie follows from the points on the skull."""
    found = re.search(r"(\d+)w", head.name)
    if found is None:
        raise Refused("name", f"{head.name} names no week.", "Use names like ucl-24w.nii.gz.")
    result, accepted = run(head.volume, model=model, device=device, planes=planes)
    if result is None:
        return None
    week, reference = int(found.group(1)), reference_of(head)
    name = nearest(data, week)
    average = atlas.load(data, name)
    placement = np.linalg.inv(reference) @ canonical_placement(data, name)  # the average's mm to the volume's
    known = Labelled(average.labels, average.ijk_to_ras, average.ijk_to_ras)
    proxies = {key: apply(placement, place)[0] for key, place in known.landmarks().items()}
    middle = apply(placement, known.middle())[0]
    rng = np.random.default_rng(zlib.crc32(head.name.encode()))
    target = another_head(average, middle, nearest_rotation(placement[:3, :3]), proxies, rng)
    fitted = Volume(fitted_atlas(data, result), result.mr.ijk_to_ras)
    images = {US: coarse(head.volume), MADE: coarse(result.mr), FITTED: coarse(fitted)}
    return Subject(head.name.split(".")[0], week, True, accepted, images, (target,), result.transform, {}, np.eye(4))


def nearest(data: Path, week: int) -> str:
    """The normal average of the week nearest to this one."""
    return min(atlas.available(data, atlas.NORMAL_FOLDER), key=lambda name: abs(atlas.week_of(name) - week))


def neighbour(data: Path, week: int) -> str:
    """The normal average of the nearest other week, the later one of two; the only one where there is one only."""
    others = [name for name in atlas.available(data, atlas.NORMAL_FOLDER) if atlas.week_of(name) != week]
    others = others or atlas.available(data, atlas.NORMAL_FOLDER)
    return min(others, key=lambda name: (abs(atlas.week_of(name) - week), -atlas.week_of(name)))


def pose_alone(subject: Subject, target: Target) -> tuple[np.ndarray, bool]:
    """(4, 4) rigid, the MR's RAS mm to the ultrasound's: the two estimated poses against each other, without a look at
    the other image; and whether the MR's pose is reliable."""
    found = align_mr(target.mr, target.brain.array > 0)
    both = np.linalg.inv(subject.pose) @ found.ras_to_canonical
    voxels = np.argwhere(target.brain.array > 0).mean(axis=0)[::-1]
    middle = apply(target.brain.ijk_to_ras, voxels)[0]
    matrix = np.eye(4)
    matrix[:3, :3] = nearest_rotation(both[:3, :3])
    matrix[:3, 3] = apply(both, middle)[0] - matrix[:3, :3] @ middle
    return matrix, found.is_reliable
