"""The simulator on a made-up brain: reproducible, in place, with clear refusals."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.atlas import make_atlas
from scipy import ndimage
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.geometry.canonical import HEAD_LENGTH_MM, canonical_axis_mm
from USMRISynthesisLib.simulation.anatomy import atlas
from USMRISynthesisLib.simulation.anatomy.head import Anatomy, build
from USMRISynthesisLib.simulation.anatomy.labels import (
    CHOROID,
    EXTERNAL_CSF,
    LABEL_NAMES,
    SKULL,
    VENTRICLES,
    WHITE_MATTER,
)
from USMRISynthesisLib.simulation.anatomy.warp import canonical_points, sample, smooth_displacement, spline_field
from USMRISynthesisLib.simulation.scanner import acoustics as tissue
from USMRISynthesisLib.simulation.scanner import display, frame, physics
from USMRISynthesisLib.simulation.scanner.volume import Acquisition, AcquisitionRanges, acquire, speckle_phantom


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_atlas(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def head(data: Path) -> Anatomy:
    return build(atlas.load(data, "GA29-made"), seed=3)


@pytest.fixture(scope="module")
def sweep(head: Anatomy) -> Acquisition:
    return acquire(head, seed=3, view="left")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    data: Path, head: Anatomy, sweep: Acquisition
) -> None:
    again = build(atlas.load(data, "GA29-made"), seed=3)
    assert np.array_equal(again.t2, head.t2) and np.array_equal(again.labels, head.labels)
    assert torch.equal(acquire(again, seed=3, view="left").image, sweep.image)
    assert not np.array_equal(build(atlas.load(data, "GA29-made"), seed=4).labels, head.labels)


def test_the_outer_skull_has_the_canonical_length_at_the_recorded_centre(head: Anatomy) -> None:
    assert head.length_mm == pytest.approx(HEAD_LENGTH_MM, abs=7)
    assert np.abs(head.centre).max() < 8
    inside = head.skull_distance < 0
    rows = np.flatnonzero(inside.any(axis=(0, 2)))
    extent = canonical_axis_mm()[rows[-1]] - canonical_axis_mm()[rows[0]]
    assert extent == pytest.approx(head.length_mm, abs=1.3)


def test_t2_and_labels_move_together(head: Anatomy) -> None:
    ventricles = head.labels == atlas.VENTRICLES
    tissue = head.labels == atlas.WHITE_MATTER
    assert head.t2[ventricles].mean() > head.t2[tissue].mean() + 0.1
    assert head.t2[head.skull_distance > 1].max() == 0


def test_the_displacement_never_folds() -> None:
    field = smooth_displacement(np.random.default_rng(1), 48, 24.0, 50.0).numpy()
    points = canonical_points(48).numpy() + field
    step = canonical_points(48)[0, 0, 1, 0] - canonical_points(48)[0, 0, 0, 0]
    rows = [np.gradient(points[..., axis], float(step)) for axis in range(3)]
    jacobian = np.linalg.det(np.stack([np.stack(row[::-1], -1) for row in rows], -2))
    assert jacobian.min() > 0


def test_a_constant_control_grid_gives_a_constant_field() -> None:
    assert np.allclose(spline_field(np.full((5, 5, 5), 2.5), 20), 2.5)


def test_sampling_reads_world_positions_and_the_value_beyond() -> None:
    array = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    ijk_to_ras = np.array([[0, -2.0, 0, 1], [1.5, 0, 0, -3], [0, 0, 3.0, 2], [0, 0, 0, 1]])
    ras = ijk_to_ras @ np.array([2, 3, 1, 1.0])
    points = torch.tensor(np.stack([ras[:3], [900, 0, 0]]), dtype=torch.float32)
    values = sample(array, ijk_to_ras, points, outside=7.0)
    assert values[0] == pytest.approx(float(array[1, 3, 2]), abs=1e-5) and values[1] == 7


def test_the_skull_is_where_the_image_is_brightest_and_outside_the_pyramid_is_black(
    head: Anatomy, sweep: Acquisition
) -> None:
    us, fan = sweep.scan_convert(canonical_points())
    assert us.dtype == np.uint8 and (us[~fan] == 0).all()
    near_beam = fan & (head.labels == SKULL) & (np.abs(canonical_points()[..., 0].numpy()) > 25)
    brain = fan & (head.labels == atlas.WHITE_MATTER)
    assert us[near_beam].mean() > 1.5 * us[brain].mean()
    ventricles = fan & (head.labels == atlas.VENTRICLES)
    core = ndimage.binary_erosion(ventricles, iterations=4)  # away from the bright walls
    ring = ndimage.binary_dilation(ventricles, iterations=12) & (head.labels == atlas.WHITE_MATTER) & fan
    assert us[core].mean() < us[ring].mean()


def test_a_scan_on_another_grid_shows_the_same_place(sweep: Acquisition) -> None:
    points = canonical_points()
    whole, _ = sweep.scan_convert(points)
    some, _ = sweep.scan_convert(points[40:60, 70:90, 60:80])
    assert np.array_equal(whole[40:60, 70:90, 60:80], some)


def test_fully_developed_speckle_has_the_rayleigh_signal_to_noise_ratio() -> None:
    envelope = speckle_phantom(0)[20:-20, 20:-20, 10:-10]
    assert float(envelope.mean() / envelope.std()) == pytest.approx(1.91, abs=0.08)


def test_the_point_spread_keeps_the_power_of_noise() -> None:
    draw = AcquisitionRanges().draw(np.random.default_rng(1))
    sampling = physics.Sampling(0.34, torch.full((90,), 0.5), torch.full((90,), 0.6))
    noise = torch.randn((2, 90, 60, 60), generator=torch.Generator().manual_seed(0))
    blurred = physics.point_spread(noise, sampling, draw, power=True)[:, 10:-10, 10:-10, 10:-10]
    assert float(blurred.std()) == pytest.approx(1.0, abs=0.1)


def test_a_frame_shows_the_head_upright_centred_and_88_mm_long_with_its_truth(head: Anatomy) -> None:
    made = frame.simulate_frame(head, seed=5)
    again = frame.simulate_frame(head, seed=5)
    assert np.array_equal(made.us, again.us) and np.array_equal(made.plane, again.plane)
    assert made.us.dtype == np.uint8 and (made.us[~made.fan] == 0).all()
    rows, columns = np.flatnonzero(made.skull.any(axis=1)), np.flatnonzero(made.skull.any(axis=0))
    assert 0.6 * np.ptp(rows) == pytest.approx(HEAD_LENGTH_MM, abs=4)
    assert abs(rows.mean() - 79.5) < 4 and abs(columns.mean() - 79.5) < 4
    assert (made.t2[~made.skull] == 0).all()
    more = [made, *(frame.simulate_frame(head, seed=seed) for seed in (6, 7))]  # a plane may pass beside the ventricles
    assert np.concatenate([one.t2[one.labels == atlas.VENTRICLES] for one in more]).mean() > 120


def test_a_frames_bright_ring_lies_where_its_truth_has_the_skull(head: Anatomy) -> None:
    reach = range(-8, 9, 2)  # pixels of 0.6 mm
    for seed in range(4):
        made = frame.simulate_frame(head, seed=seed)
        outline = made.skull & ~ndimage.binary_erosion(made.skull, iterations=4)
        grey = np.where(made.fan, made.us, made.us[made.fan].mean())
        eroded = [ndimage.binary_erosion(made.skull, iterations=n) for n in (4, 8, 12)]
        shifted = {(j, i): grey[np.roll(outline, (j, i), (0, 1))].mean() for j in reach for i in reach}
        best = max(shifted, key=shifted.__getitem__)
        assert np.hypot(*best) <= 4, f"seed {seed}: the ring is {0.6 * np.hypot(*best):.1f} mm off"
        assert grey[outline].mean() > 1.5 * max(grey[a & ~b].mean() for a, b in itertools.pairwise(eroded))


def test_ventricles_scatter_less_than_the_fluid_around_the_brain_and_that_less_than_brain() -> None:
    scatter = {label: values[2] for label, values in tissue.PROPERTIES.items()}
    assert scatter[VENTRICLES] < scatter[EXTERNAL_CSF] < scatter[WHITE_MATTER]
    assert scatter[WHITE_MATTER] < scatter[CHOROID] and set(scatter) == set(LABEL_NAMES)


def test_the_grey_map_gives_the_brain_the_levels_of_real_frames(head: Anatomy) -> None:
    rows = display.appearances()
    low, high = rows[:, 4].min(), rows[:, 4].max()  # medians inside the brain
    for seed in range(3):
        made = frame.simulate_frame(head, seed=seed)
        inner = ndimage.binary_erosion(made.skull, iterations=16) & made.fan
        assert 0.6 * low <= np.median(made.us[inner]) <= 1.5 * high


def test_a_folder_without_an_atlas_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="No fetal MR atlas"):
        atlas.available(tmp_path)
