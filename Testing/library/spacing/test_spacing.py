"""Slice spacing: profile, geometry of any affine, every refusal, and what the result keeps of its input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from factories.spacing import oblique, smooth, spacing_model, stack
from hypothesis import given, settings
from hypothesis import strategies as st
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.io.synthetic import PROVENANCE_KEY, SYNTHETIC, SYNTHETIC_KEY
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing import model as spacing_models
from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.spacing.admission import admit
from USMRISynthesisLib.spacing.grid import plan, stacked
from USMRISynthesisLib.spacing.inference import conditions, super_resolve
from USMRISynthesisLib.spacing.intensity import Scale
from USMRISynthesisLib.spacing.latent import synthesise
from USMRISynthesisLib.spacing.network import SliceVAE, SuperResolution
from USMRISynthesisLib.spacing.noise import LOUDEST, noise_of
from USMRISynthesisLib.spacing.pipeline import PROJECTED_TOLERANCE, TOLERANCE, respace

SAMPLE = Path(__file__).parents[3] / "Resources" / "SampleData" / "fetal-head-simulated.nrrd"
FACTORS = st.integers(5, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(-(-3 * n // 2), 6 * n)))


@pytest.fixture
def model(tmp_path: Path, config_dir: Path) -> str:
    return str(spacing_model(tmp_path / "model", config_dir))


# --- profile


@given(FACTORS)
@settings(deadline=None, max_examples=40)
def test_degrading_and_estimating_keep_a_constant_for_any_factor(counts: tuple[int, int]) -> None:
    n, m = counts
    assert np.allclose(profile.degradation(n, m) @ np.ones(m), 1)
    assert np.allclose(profile.estimation(n, m) @ np.ones(n), 1)


@given(FACTORS)
@settings(deadline=None, max_examples=40)
def test_projection_gives_back_the_thick_slices_for_any_factor(counts: tuple[int, int]) -> None:
    n, m = counts
    rng = np.random.default_rng(n * m)
    fine, thick = rng.random((m, 3, 4), np.float32), rng.random((n, 3, 4), np.float32)
    projected = profile.project(fine, thick)
    assert np.abs(profile.apply(profile.degradation(n, m), projected) - thick).max() < 1e-4
    assert np.allclose(profile.project(projected, thick), projected, atol=1e-4)  # once is enough


def test_the_profile_is_as_wide_at_half_its_height_as_the_slices_lie_apart() -> None:
    weights = profile.degradation(9, 9 * 40)[4]
    half = np.flatnonzero(weights >= weights.max() / 2)
    assert abs(len(half) - 40) <= 1
    assert abs(weights @ np.arange(360) - profile.positions(9, 360)[4]) < 1e-9


def test_the_linear_estimate_beats_cubic_interpolation_on_blurred_slices() -> None:
    truth = np.random.default_rng(1).random((48, 6, 7), np.float32)
    thick = profile.apply(profile.degradation(16, 48), truth)
    errors = [
        float(np.mean((profile.apply(matrix, thick) - truth) ** 2))
        for matrix in (profile.estimation(16, 48), profile.interpolation(16, 48, 3))
    ]
    assert errors[0] < errors[1]


def test_interpolation_hits_the_slices_where_they_lie() -> None:
    for order in (0, 1, 3):
        matrix = profile.interpolation(7, 21, order)
        assert np.allclose(matrix[1::3], np.eye(7), atol=1e-6)


# --- noise


def drawn_lines(n: int, m: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fine lines (m, 40, 50) as the prior has them, and thick ones with noise of this variance."""
    rng = np.random.default_rng(seed)
    truth = np.linalg.cholesky(profile.prior(m) + 1e-9 * np.eye(m)) @ rng.standard_normal((m, 2000))
    thick = profile.degradation(n, m) @ truth + np.sqrt(noise) * rng.standard_normal((n, 2000))
    return truth.reshape(m, 40, 50), thick.reshape(n, 40, 50)


@pytest.mark.parametrize("noise", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("counts", [(22, 66), (12, 50)])
def test_the_noise_that_was_added_is_found(noise: float, counts: tuple[int, int]) -> None:
    _, thick = drawn_lines(*counts, noise)
    assert noise / 1.6 <= noise_of(thick, counts[1]) <= noise * 1.6
    assert noise_of(thick * 300 + 40, counts[1]) == noise_of(thick, counts[1])  # units do not matter


def test_slices_that_moved_and_slices_brighter_than_their_neighbours_count_as_noise() -> None:
    still = smooth((20, 40, 40), 4)
    moved = np.stack([np.roll(image, shift, axis=1) for image, shift in zip(still, [0, 3, -2, 4] * 5, strict=True)])
    uneven = still * np.tile([1.0, 1.2], 10)[:, None, None]
    assert noise_of(still, 60) == profile.CLEAN
    assert noise_of(moved, 60) > 5 * profile.CLEAN and noise_of(uneven, 60) > 5 * profile.CLEAN


def test_a_dark_background_hardly_changes_the_noise_estimate() -> None:
    _, thick = drawn_lines(22, 66, 0.05)
    wide = 0.02 * np.random.default_rng(0).standard_normal((22, 40, 200))
    wide[:, :, :50] = thick
    assert noise_of(wide, 66) == pytest.approx(noise_of(thick, 66), rel=0.4)
    assert noise_of(np.full((9, 16, 16), 7.0), 27) == profile.CLEAN


def test_knowing_the_noise_makes_the_linear_estimate_better() -> None:
    truth, thick = drawn_lines(22, 66, 0.1)
    errors = [
        float(np.mean((profile.apply(profile.estimation(22, 66, noise), thick) - truth) ** 2))
        for noise in (noise_of(thick, 66), profile.CLEAN, 3.0)
    ]
    assert errors[0] < 0.9 * min(errors[1:])


# --- geometry


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [1.1, 1.37, 2.0])
def test_extent_and_orientation_are_kept_along_every_axis_of_an_oblique_grid(
    axis: int, spacing: float, left_handed: bool, model: str
) -> None:
    volume = stack(axis=axis, left_handed=left_handed)
    result = respace(volume, spacing=spacing, model=model, device="cpu")
    thin = result.mr
    assert thin.shape[axis] == round(9 * 3.3 / spacing)
    assert [n for a, n in enumerate(thin.shape) if a != axis] == [n for a, n in enumerate(volume.shape) if a != axis]
    assert np.allclose(thin.extent_mm, volume.extent_mm)
    for corner in np.ndindex(2, 2, 2):  # voxel edges of the whole grid
        ends = [
            matrix @ [*(np.array(corner) * shape[::-1] - 0.5), 1]
            for matrix, shape in ((volume.ijk_to_ras, np.array(volume.shape)), (thin.ijk_to_ras, np.array(thin.shape)))
        ]
        assert np.allclose(*ends, atol=1e-9)
    unit = [m[:3, :3] / np.linalg.norm(m[:3, :3], axis=0) for m in (volume.ijk_to_ras, thin.ijk_to_ras)]
    assert np.allclose(*unit)
    assert thin.array.dtype == volume.array.dtype


def test_structures_stay_where_they_are(model: str) -> None:
    """A bright plane across the slices of a mirrored stack is found at the same RAS position afterwards."""
    array = 100 + smooth((9, 20, 24)) / 100
    array[6] += 800
    volume = Volume(array, oblique((1.0, 1.0, 3.0), left_handed=True))
    thin = respace(volume, spacing=1.0, model=model, device="cpu").mr
    weights = np.maximum(thin.array.mean(axis=(1, 2)) - 300, 0)
    centre = float((weights * np.arange(27)).sum() / weights.sum())
    assert np.allclose((thin.ijk_to_ras @ [5, 5, centre, 1])[:3], (volume.ijk_to_ras @ [5, 5, 6, 1])[:3], atol=0.5)


@given(st.floats(0.55, 2.2))
@settings(deadline=None, max_examples=40)
def test_any_spacing_within_the_factors_fills_the_extent_with_whole_slices(spacing: float) -> None:
    grid = plan(stack(), spacing)
    assert grid.spacing_mm[1] * grid.fine == pytest.approx(3.3 * 9)
    assert grid.spacing_mm[1] == pytest.approx(spacing, rel=0.5 / grid.fine + 1e-9)
    assert grid.name == "k"


def test_without_a_spacing_the_voxels_become_cubes_or_as_thin_as_may_be() -> None:
    assert plan(stack(side=3.0)).spacing_mm[1] == pytest.approx(1.0)
    assert plan(stack(side=9.0)).factor == pytest.approx(6.0)


# --- refusals


@pytest.mark.parametrize(
    ("volume", "given_", "sentence"),
    [
        (stack(side=1.3), {}, "isotropic already"),
        (Volume(smooth((1, 40, 40)), oblique((1, 1, 4))), {}, "single slice"),
        (stack(3), {}, "only 3 slices"),
        (stack(pixels=(12, 40)), {}, "smaller than 16 pixels"),
        (stack(), {"axis": "i"}, "Along the axis i the voxels are not thick"),
        (stack(), {"axis": "x"}, "no axis 'x'"),
        (Volume(smooth((20, 20, 20)), oblique((1, 3, 3))), {}, "thick along two axes"),
        (stack(), {"spacing": 3.0}, "too coarse"),
        (stack(), {"spacing": 0.3}, "too fine"),
        (stack(), {"spacing": -1.0}, "positive number"),
        (stack(), {"spacing": float("nan")}, "positive number"),
        (Volume(np.zeros((9, 24, 20)), oblique((1, 1, 3))), {}, "same value everywhere"),
        (Volume(np.full((9, 24, 20), np.nan), oblique((1, 1, 3))), {}, "not numbers"),
        (Volume(np.arange(9 * 24 * 20).reshape(9, 24, 20) % 5, oblique((1, 1, 3))), {}, "looks like a segmentation"),
        (Volume(stack().array > 500, oblique((1, 1, 3))), {}, "no grey levels"),
        (Volume(smooth((9, 24, 20)) * 3 - 1900, oblique((1, 1, 3))), {}, "look like CT"),
        (Volume(stack().array, oblique((1, 1, 3)), {"DICOM.Modality": "US"}), {}, "modality in the file is US"),
    ],
)
def test_each_refusal_is_its_own_sentence_with_a_remedy(volume: Volume, given_: dict, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence) as caught:
        respace(volume, model="no model is needed to refuse", **given_)
    assert caught.value.remedy.endswith(".") and len(caught.value.remedy) > 10


def test_an_mr_like_image_is_admitted_and_noted_whatever_its_modality(model: str) -> None:
    volume = stack()
    marked = Volume(volume.array, volume.ijk_to_ras, {"Modality": "US", SYNTHETIC_KEY: SYNTHETIC})
    assert respace(marked, model=model, device="cpu").provenance["input"]["synthetic"] is True


def thinned_out(volume: Volume, every: int = 4) -> Volume:
    """Every so many slices of the volume, without its header."""
    matrix = volume.ijk_to_ras.copy()
    matrix[:3, 2] *= every
    return Volume(np.ascontiguousarray(volume.array[1::every]), matrix)


def test_ultrasound_without_a_modality_is_refused_by_its_speckle() -> None:
    with pytest.raises(Refused, match="the speckle of ultrasound, and no modality in its header") as caught:
        respace(thinned_out(Volume.read(SAMPLE)), model="no model is needed to refuse")
    assert "Modality = MR" in caught.value.remedy


@pytest.mark.parametrize("metadata", [{"Modality": "MR"}, {SYNTHETIC_KEY: SYNTHETIC}])
def test_speckle_is_checked_only_without_a_modality_in_the_header(metadata: dict[str, str]) -> None:
    volume = thinned_out(Volume.read(SAMPLE))
    admit(Volume(volume.array, volume.ijk_to_ras, metadata))


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_noisy_mr_is_not_taken_for_ultrasound(noise: float) -> None:
    clean = np.maximum(smooth((20, 90, 90), 3) - 300, 0)
    parts = noise * 900 * np.random.default_rng(0).standard_normal((2, *clean.shape))
    admit(Volume(np.hypot(clean + parts[0], parts[1]), oblique((1.1, 1.1, 3.3))))


def test_a_synthesis_model_is_no_spacing_model(trusted_model: Path) -> None:
    with pytest.raises(Failed, match="made for 'synthesis', not for slice spacing"):
        respace(stack(), model=str(trusted_model))


# --- values


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_consistency_gives_back_the_input_in_its_own_units(dtype: type, model: str) -> None:
    array = smooth((9, 24, 20)) / (4 if dtype is np.uint8 else 1)
    volume = Volume(array.astype(dtype), oblique((1, 1, 3.0)))
    free = respace(volume, model=model, device="cpu")
    kept = respace(volume, model=model, device="cpu", consistency=True)
    assert kept.consistency < PROJECTED_TOLERANCE and kept.consistency < free.consistency
    seen = profile.apply(profile.degradation(9, 27), kept.mr.array)
    spread = float(np.ptp(np.percentile(volume.array, (0.5, 99.5))))
    assert np.sqrt(np.mean((seen - volume.array) ** 2)) / spread == pytest.approx(kept.consistency, rel=0.05, abs=1e-6)
    assert kept.mr.array.dtype == dtype
    assert free.mr.array.min() >= 0  # what was never negative stays so


def test_the_same_input_gives_the_same_bytes_and_shape_of_batches_does_not_matter(model: str) -> None:
    a, b = (respace(stack(), model=model, device="cpu").mr.array for _ in range(2))
    assert a.tobytes() == b.tobytes()


def test_scaling_the_input_scales_the_result(model: str) -> None:
    volume = Volume(smooth((9, 24, 20)), oblique((1, 1, 3.0)))
    louder = Volume(volume.array * 7 + 40, volume.ijk_to_ras)
    made = [respace(v, model=model, device="cpu").mr.array for v in (volume, louder)]
    assert np.allclose(made[0] * 7 + 40, made[1], rtol=1e-3)


def test_provenance_and_mark_travel_with_the_volume(model: str) -> None:
    result = respace(stack(), model=model, device="cpu", consistency=True)
    assert result.mr.metadata[SYNTHETIC_KEY] == SYNTHETIC and PROVENANCE_KEY in result.mr.metadata
    assert result.provenance["slices"] == {"axis": "k", "before": 9, "after": 30, "spacing_mm": [3.3, 0.99]}
    assert result.provenance["parameters"]["consistency"] is True
    assert result.provenance["model"]["name"] == "tiny spacing"


def test_progress_rises_to_one_and_cancel_stops_between_batches(model: str) -> None:
    heard: list[float] = []
    respace(stack(), model=model, device="cpu", progress=lambda value, stage: heard.append(value))
    assert heard == sorted(heard) and heard[-1] == 1.0
    calls = iter(range(100))
    with pytest.raises(Cancelled):
        respace(stack(), model=model, device="cpu", cancel=lambda: next(calls) >= 3)


def test_slices_that_disagree_are_not_reproduced_without_consistency_and_cause_a_warning(model: str) -> None:
    _, thick = drawn_lines(22, 66, 3.0)
    noisy = Volume((500 + 100 * thick).astype(np.float32), oblique((1, 1, 3.0)), {"Modality": "MR"})
    free, kept = (respace(noisy, model=model, device="cpu", consistency=exact) for exact in (False, True))
    assert free.consistency > TOLERANCE and "disagree with each other" in free.provenance["warnings"][0]
    assert kept.consistency < PROJECTED_TOLERANCE and kept.provenance["warnings"] == []
    assert free.provenance["noise"] == kept.provenance["noise"] > 0.1
    assert respace(stack(), model=model, device="cpu").provenance["noise"] < 0.01


# --- networks


def test_the_engine_averages_the_views_along_rows_and_columns() -> None:
    class Adds(torch.nn.Module):
        """Adds the width of the view, which differs between the two views."""

        def forward(self, x: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
            return x + x.shape[3]

    thick = smooth((5, 16, 30)) / 1000
    start = profile.apply(profile.estimation(5, 15, noise_of(thick, 15)), thick)
    assert np.allclose(super_resolve(Adds(), thick, 15), start + (16 + 30) / 2, atol=1e-4)


def test_the_conditions_hold_factor_and_position_in_the_slice() -> None:
    known = conditions(5, 15).numpy()
    assert (
        np.allclose(known[0], np.log2(3))
        and np.allclose(known[1, 1::3], 1)
        and np.allclose(known[2, 1::3], 0, atol=1e-5)
    )


def test_the_conditions_hold_how_far_the_slices_disagree() -> None:
    levels = [float(conditions(5, 15, noise)[3].unique()) for noise in (profile.CLEAN, 0.03, LOUDEST)]
    assert levels[0] == 0 and 0.4 < levels[1] < 0.6 and levels[2] == pytest.approx(1)


def test_the_network_gets_the_noise_of_the_slices() -> None:
    received = []

    class Listens(torch.nn.Module):
        def forward(self, x: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
            received.append(float(known[3, 0]))
            return x

    thick = smooth((12, 16, 30)) / 1000
    super_resolve(Listens(), thick, 36)
    super_resolve(Listens(), thick, 36, noise=0.2)
    assert received[0] == float(conditions(12, 36, noise_of(thick, 36))[3, 0])
    assert received[-1] == pytest.approx(0.767, abs=1e-3)


@given(st.integers(6, 40), st.integers(16, 40))
@settings(deadline=None, max_examples=10)
def test_networks_take_any_size(m: int, w: int) -> None:
    x = torch.rand(2, 1, m, w)
    with torch.inference_mode():
        assert SuperResolution(4)(x, torch.zeros(4, m)).shape == x.shape
        assert SliceVAE(4, 4)(x).shape == x.shape


def test_latents_are_interpolated_and_every_slice_is_decoded() -> None:
    torch.manual_seed(0)
    vae = SliceVAE(4, 4).eval()
    thick = smooth((4, 16, 20)) / 1000
    fine = synthesise(vae, thick, 12)
    with torch.inference_mode():
        own = vae(torch.from_numpy(thick)[:, None])[:, 0].numpy()
        means = vae.encode(torch.from_numpy(thick)[:, None])[0]
        between = vae.decode(means[1:2] * 2 / 3 + means[2:3] / 3)[0, 0].numpy()
    assert np.allclose(fine[1::3], own, atol=1e-5) and np.allclose(fine[5], between, atol=1e-5)


def test_the_scale_ignores_a_background_and_goes_back_exactly() -> None:
    array = np.zeros((10, 20, 20), np.float32)
    array[5:] = smooth((5, 20, 20))
    scale = Scale.of(array)
    assert scale.low > 100
    assert np.allclose(scale.values(scale.shares(array)), array, atol=1e-3)


def test_the_stack_axis_comes_first() -> None:
    assert stacked(np.zeros((2, 3, 4)), 1).shape == (3, 2, 4)


def test_a_model_of_another_version_is_refused(
    tmp_path: Path, config_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = spacing_model(tmp_path / "model", config_dir, seed=11)
    monkeypatch.setattr(spacing_models, "CONDITIONS", 7)
    with pytest.raises(Failed, match=r"was made for another version of this software\. Train and export it again"):
        respace(stack(), model=str(folder))
