"""The simulated head on a made-up brain: in place, of normal size and thickness, and abnormal only on request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry.canonical import SPACING_MM
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.simulation.anatomy import atlas, flow
from USMRISynthesisLib.simulation.anatomy.deformation import deform
from USMRISynthesisLib.simulation.anatomy.head import Anatomy, build
from USMRISynthesisLib.simulation.anatomy.labels import (
    BACKGROUND,
    CAVUM,
    CHOROID,
    EYE,
    FACE,
    FALX,
    LABEL_NAMES,
    LIMB,
    MASS,
    SKULL,
    SUTURE,
)
from USMRISynthesisLib.simulation.anatomy.ranges import AnatomyRanges, draw_head

STILL = AnatomyRanges(
    fine_warp_mm=(0, 0), coarse_warp_mm=(0, 0), pose_deg=0, pose_mm=0, width_factor=(1, 1), cavum_probability=1,
    limb_probability=1, placenta_probability=1, atrium_asymmetry=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> atlas.Atlas:
    """Week 29: an ellipsoidal brain with 13 mm wide lateral ventricles and a cerebellum, 1.2 mm voxels."""
    shape, spacing = (76, 92, 76), 1.2
    ijk_to_ras = np.diag([spacing, spacing, spacing, 1.0])
    ijk_to_ras[:3, 3] = -spacing * (np.array(shape[::-1]) - 1) / 2
    axes = [(np.arange(n) - (n - 1) / 2) * spacing for n in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    labels = np.zeros(shape, np.uint8)
    radius = (x / 34) ** 2 + (y / 44) ** 2 + (z / 34) ** 2
    labels[radius < 1] = atlas.CORTEX
    labels[radius < 0.8] = atlas.WHITE_MATTER
    labels[(np.abs(x) < 10) & (np.abs(y) < 12) & (np.abs(z) < 9)] = atlas.DEEP_GREY
    labels[((np.abs(x) - 14) / 6.5) ** 2 + ((y + 8) / 22) ** 2 + ((z - 5) / 9) ** 2 < 1] = atlas.VENTRICLES
    labels[(np.abs(x) < 5) & (np.abs(y) < 14) & (np.abs(z - 14) < 2)] = atlas.CORPUS_CALLOSUM
    labels[(np.abs(x) < 6) & (np.abs(y + 10) < 6) & (z < -8) & (radius < 1)] = atlas.BRAINSTEM
    labels[(x / 13) ** 2 + ((y + 22) / 8) ** 2 + ((z + 15) / 8) ** 2 < 1] = atlas.CEREBELLUM
    t2 = np.select([labels == atlas.VENTRICLES, labels == atlas.CORTEX, labels > 0], [2700.0, 1500.0, 1900.0])
    root = tmp_path_factory.mktemp("data")
    folder = root / "fetal-mr-atlas" / "GA29-made"
    folder.mkdir(parents=True)
    Volume(t2.astype(np.float32), ijk_to_ras).write(folder / "t2.nii.gz")
    Volume(labels, ijk_to_ras).write(folder / "labels.nii.gz")
    return atlas.load(Path(root), "GA29-made")


@pytest.fixture(scope="module")
def head(brain: atlas.Atlas) -> Anatomy:
    return build(brain, 3, replace(STILL, atrium_mm=(7, 7)))


def _atrium_mm(made: Anatomy) -> float:
    fluid = np.isin(made.labels, (atlas.VENTRICLES, CHOROID))
    fluid[:, :, 70:90] = False
    return 2 * float(ndimage.distance_transform_edt(fluid[:, 30:85]).max()) * SPACING_MM / made.scale


def test_the_same_seed_gives_the_same_bytes(brain: atlas.Atlas, head: Anatomy) -> None:
    again = build(brain, 3, replace(STILL, atrium_mm=(7, 7)))
    for name in ("t2", "labels", "membrane", "skull_distance", "eyes"):
        assert np.array_equal(getattr(again, name), getattr(head, name)), name
    assert again.parameters == head.parameters


def test_every_label_has_a_name(head: Anatomy) -> None:
    assert set(np.unique(head.labels)) <= set(LABEL_NAMES)
    assert {LIMB, EYE, CAVUM, FALX, SUTURE} <= set(np.unique(head.labels))


def test_arrays_have_the_type_and_size_that_the_acquisition_reads(head: Anatomy) -> None:
    for name in ("t2", "membrane", "skull_distance"):
        array = getattr(head, name)
        assert array.shape == (160, 160, 160) and array.dtype == np.float32 and np.isfinite(array).all(), name
    assert head.t2.min() >= 0 and head.t2.max() <= 1 and head.membrane.min() >= 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_map_to_the_atlas_never_folds(brain: atlas.Atlas, seed: int) -> None:
    ranges = AnatomyRanges(fine_warp_mm=(1.6, 1.6), coarse_warp_mm=(3, 3))
    anomaly = (None, "ventriculomegaly", None)[seed - 1]
    draw = draw_head(np.random.default_rng(seed), 29, ranges, anomaly)
    draw["gap_mm"] = 1.0
    mass = (np.array([15.0, 5, 12]), np.array([6.0, 7, 8])) if seed == 3 else None
    frame = deform(brain, np.random.default_rng(seed), draw, 8.0, 2.5, mass)
    rows = [[np.gradient(axis, SPACING_MM, axis=n) for n in (2, 1, 0)] for axis in (frame.x, frame.y, frame.z)]
    assert np.linalg.det(np.moveaxis(np.array(rows), (0, 1), (-2, -1))).min() > 0


@pytest.mark.parametrize("wanted", [5.0, 7.0, 10.0])
def test_the_atrium_becomes_as_wide_as_drawn(brain: atlas.Atlas, wanted: float) -> None:
    ranges = replace(
        STILL, atrium_mm=(wanted, wanted), large_atrium_mm=(wanted, wanted), wide_atrium_mm=(wanted, wanted)
    )
    assert _atrium_mm(build(brain, 4, ranges)) == pytest.approx(wanted, abs=1.6)


def test_a_larger_cerebellum_is_drawn_larger(brain: atlas.Atlas) -> None:
    volumes = []
    for factor in (0.85, 1.08):
        made = build(brain, 4, replace(STILL, cerebellum_factor=(factor, factor)))
        volumes.append(int((made.labels == atlas.CEREBELLUM).sum()))
    assert volumes[1] > 1.2 * volumes[0]


def test_the_eyes_lie_on_eye_and_outside_the_skull(brain: atlas.Atlas, head: Anatomy) -> None:
    for made in (head, build(brain, 8)):
        assert made.eyes[0, 0] < made.eyes[1, 0]
        for place in made.eyes:
            i, j, k = np.round(place / SPACING_MM + 79.5).astype(int)
            assert made.labels[k, j, i] == EYE and made.skull_distance[k, j, i] > 0


def test_the_edge_of_the_head_is_skull_suture_or_foramen(head: Anatomy) -> None:
    edge = (head.skull_distance < 0) & (head.skull_distance > -0.7)
    assert np.isin(head.labels[edge], (SKULL, SUTURE, FACE)).all()
    assert 0.7 < (head.labels[edge] == SKULL).mean() < 0.99
    assert head.t2[head.skull_distance > 0.6].max() == 0 and head.membrane[head.skull_distance > 0].max() == 0


def test_the_falx_is_one_voxel_and_spares_callosum_cavum_and_thalami(head: Anatomy) -> None:
    falx = head.labels == FALX
    columns = falx.sum(axis=2)
    assert falx.any() and np.percentile(columns[columns > 0], 95) <= 2


def test_sheets_are_thin(brain: atlas.Atlas) -> None:
    ranges = replace(STILL, cavum_probability=0)
    made = build(brain, 6, ranges)
    widths = []
    for line in made.membrane[95:130, 60:110, 72:88].reshape(-1, 16):  # across the midline, above the callosum
        peak = int(line.argmax())
        if line[peak] > 0.2 and 2 < peak < 13:
            fine = np.interp(np.linspace(0, 15, 301), np.arange(16), line)
            widths.append((fine > line[peak] / 2).sum() / 20 * SPACING_MM)
    assert len(widths) > 50 and np.median(widths) <= 1.3


def test_sheets_differ_in_strength_along_their_course(head: Anatomy) -> None:
    middle = head.membrane[95:130, 40:120, 76:84].max(axis=2)
    assert middle.max() > 0.3 and np.std(middle[middle > 0.02]) > 0.05


def test_ventriculomegaly_is_wider_than_any_normal_head(brain: atlas.Atlas) -> None:
    made = build(brain, 4, STILL, anomaly="ventriculomegaly")
    assert _atrium_mm(made) > 10.5 and made.parameters["anomaly"] == "ventriculomegaly"


def test_a_cavum_can_be_missing_on_request(brain: atlas.Atlas, head: Anatomy) -> None:
    made = build(brain, 3, replace(STILL, atrium_mm=(7, 7)), anomaly="absent-cavum")
    assert (head.labels == CAVUM).any() and not (made.labels == CAVUM).any()
    assert np.array_equal(made.skull_distance, head.skull_distance)  # the same head otherwise


@pytest.mark.parametrize("seed", [3, 5])
def test_a_mass_lies_in_the_brain_with_its_own_brightness(brain: atlas.Atlas, seed: int) -> None:
    made = build(brain, seed, STILL, anomaly="mass")
    mass = made.labels == MASS
    radius = (mass.sum() * SPACING_MM**3 * 3 / 4 / np.pi) ** (1 / 3) / made.scale
    assert made.skull_distance[mass].max() < 0
    assert 0.5 * float(made.parameters["mass_radius_mm"]) < radius < 1.5 * float(made.parameters["mass_radius_mm"])
    core = ndimage.binary_erosion(mass, iterations=3)
    assert made.t2[core].mean() == pytest.approx(float(made.parameters["mass_t2"]), abs=0.2)


def test_an_unknown_anomaly_is_refused_by_name(brain: atlas.Atlas) -> None:
    with pytest.raises(Refused, match="two-heads"):
        build(brain, 1, anomaly="two-heads")


def test_the_wanted_sizes_cover_normal_heads() -> None:
    ranges = AnatomyRanges()
    drawn = [draw_head(np.random.default_rng(seed), 21 + seed % 14, ranges, None) for seed in range(400)]
    atria = np.array([max(one["atrium_left_mm"], one["atrium_right_mm"]) for one in drawn])
    assert atria.min() < 6 and 6 < np.median(atria) < 8.5
    fluid = np.array([one["outer_fluid_mm"] for one in drawn])
    assert fluid.min() > 1 and fluid.max() < 7
    assert np.abs(flow.SHIFTS_MM[0]) > 5


def test_a_few_ordinary_heads_have_clearly_enlarged_ventricles() -> None:
    drawn = [draw_head(np.random.default_rng(seed), 22, AnatomyRanges(), None) for seed in range(1500)]
    widths = np.array([(one["atrium_left_mm"] + one["atrium_right_mm"]) / 2 for one in drawn])
    assert 0.015 < (widths > 12).mean() < 0.08  # most heads stay normal
    assert widths.max() < 16.01
    wide = np.histogram(widths, bins=(10, 11.5, 13, 14.5, 16))[0]
    assert (wide > 5).all()  # without a hole up to the largest


def test_an_ordinary_head_with_wide_atria_has_them(brain: atlas.Atlas) -> None:
    ranges = replace(STILL, atrium_mm=(14, 14), large_atrium_mm=(14, 14), wide_atrium_mm=(14, 14))
    made = build(brain, 4, ranges)
    assert _atrium_mm(made) > 10.5 and made.parameters["anomaly"] == "none"


@pytest.mark.parametrize("seed", [3, 8, 9])
def test_no_background_lies_below_the_scalp(brain: atlas.Atlas, seed: int) -> None:
    made = build(brain, seed)
    below = made.labels[made.skull_distance < 0.5 * float(made.parameters["scalp_mm"]) * made.scale]
    assert (below != BACKGROUND).all()


def test_a_head_reports_its_measures(head: Anatomy) -> None:
    assert {"atrium_left_mm", "cerebellum_mm", "outer_fluid_mm", "skull_mm", "anomaly"} <= set(head.parameters)
