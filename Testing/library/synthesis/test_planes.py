"""Slices along three planes: views that come back, an input that names the plane, one model for all three."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.training import SIZE, STILL, make_data
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from USMRISynthesisLib.datasets.cases import load_cases
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.geometry import planes
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis import pipeline
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.synthesis.multiplane import combined, wanted_slices
from USMRISynthesisLib.synthesis.pipeline import synthesize
from USMRISynthesisLib.synthesis.position import PositionalEncoding
from USMRISynthesisLib.synthesis.slices import assemble_input
from USMRISynthesisLib.training.synthesis.config import BatchConfig
from USMRISynthesisLib.training.synthesis.data import Batch, Slices
from USMRISynthesisLib.training.synthesis.warm_start import _widened

SMALL = {"width": 2, "multipliers": (1, 2, 2), "skips": (1,), "reconstruction_skips": (1,), "attention_level": 1}


@given(st.sampled_from(planes.PLANES), st.tuples(*[st.integers(1, 6)] * 3))
def test_a_stack_turned_to_a_plane_comes_back_as_it_was(plane: str, shape: tuple[int, int, int]) -> None:
    stack = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(planes.from_plane(planes.to_plane(stack, plane), plane), stack)


def test_rows_and_columns_of_each_plane_run_as_documented() -> None:
    stack = np.zeros((4, 5, 6))
    stack[3, 2, 1] = 1
    for plane, place in (("axial", (3, 2, 1)), ("coronal", (2, 3, 1)), ("sagittal", (1, 3, 2))):
        assert tuple(np.argwhere(planes.to_plane(stack, plane))[0]) == place


def test_the_encoding_of_a_voxel_is_the_same_in_every_plane() -> None:
    """A voxel's x, y and z do not depend on the plane that it is seen in; only the plane's own weights differ."""
    torch.manual_seed(0)
    code = PositionalEncoding(3, planes=True)
    torch.nn.init.normal_(code.out.weight)
    at = torch.linspace(-1, 1, 9)
    made = {}
    for plane in planes.PLANES:
        named = torch.full((9, 1, 1, 1), planes.plane_code(plane, planes.PLANES))
        with torch.inference_mode():
            slices = code(torch.zeros(9, 3, 9, 9), at.view(9, 1, 1, 1), named)
        made[plane] = np.stack([planes.from_plane(slices[:, c].numpy(), plane) for c in range(3)])
    np.testing.assert_allclose(made["coronal"], made["axial"], atol=1e-5)
    np.testing.assert_allclose(made["sagittal"], made["axial"], atol=1e-5)
    assert np.ptp(made["axial"][:, 4, 4, :]) > 0.01 and np.ptp(made["axial"][:, :, 4, 4]) > 0.01


def test_the_input_names_the_plane_before_the_location() -> None:
    config = GeneratorConfig(planes=planes.PLANES, place=True, **SMALL)
    named = planes.plane_code("sagittal", config.planes)
    x = assemble_input(torch.zeros(4, 16, 16), torch.linspace(-24, 24, 4), 1, True, named)
    assert x.shape[1] == config.in_channels == 5
    assert (x[:, 3] == 1).all() and torch.allclose(x[:, 4, 0, 0], torch.linspace(-0.5, 0.5, 4))
    assert planes.plane_code("axial", ("axial",)) is None


def test_weights_of_one_plane_go_on_unchanged_in_a_generator_of_three() -> None:
    torch.manual_seed(0)
    one = Generator(GeneratorConfig(place=True, **SMALL)).eval()
    for code in (one.place_latent, one.place_split):
        torch.nn.init.normal_(code.out.weight, std=0.1)
    three = Generator(GeneratorConfig(place=True, planes=planes.PLANES, **SMALL)).eval()
    state = {key: _widened(value, three.state_dict().get(key)) for key, value in one.state_dict().items()}
    missing = three.load_state_dict(state, strict=False)
    assert all(".plane." in key for key in missing.missing_keys) and not missing.unexpected_keys
    slices, z = torch.rand(4, 32, 32) * 2 - 1, torch.linspace(-24, 24, 4)
    with torch.inference_mode():
        expected = one(assemble_input(slices, z, 1, True))
        torch.testing.assert_close(three(assemble_input(slices, z, 1, True, -1.0)), expected)


def test_planes_that_a_generator_cannot_have_are_refused() -> None:
    for wrong in ((), ("axial", "axial"), ("oblique",)):
        with pytest.raises(ValueError, match="planes must be"):
            GeneratorConfig(planes=wrong)


def test_choices_name_planes_and_a_model_without_them_has_none() -> None:
    assert planes.supported_planes("all", planes.PLANES) == planes.PLANES
    assert planes.supported_planes("coronal", planes.PLANES) == ("coronal",)
    assert (
        planes.supported_planes("all", ("axial",)) is None and planes.supported_planes("sagittal", ("axial",)) is None
    )


def test_the_median_is_of_all_three_planes_each_smoothed_across_its_own_slices() -> None:
    made = dict(zip(planes.PLANES, np.random.default_rng(0).random((3, 4, 5, 6), np.float32), strict=True))
    smooth = [ndimage.correlate1d(mr, [0.25, 0.5, 0.25], axis, mode="nearest") for axis, mr in enumerate(made.values())]
    np.testing.assert_allclose(combined(made, made["axial"]), np.median(smooth, axis=0), atol=1e-6)
    assert combined({"axial": made["axial"]}, made["axial"]) is made["axial"]


def test_a_step_between_one_planes_slices_does_not_come_through() -> None:
    """A plane whose every other slice is darker: what the median alone lets through where the others lie apart."""
    low, high = np.full((20, 20, 20), 0.2, np.float32), np.full((20, 20, 20), 0.6, np.float32)
    steps = np.where(np.arange(20)[:, None, None] % 2, 0.5, 0.3).astype(np.float32) * np.ones_like(low)
    result = combined({"axial": steps, "coronal": low, "sagittal": high}, low)
    assert np.abs(result[2:-2] - 0.4).max() < 1e-6


def test_wanted_slices_reach_one_further() -> None:
    inside = np.zeros((6, 3, 3), bool)
    inside[2] = True
    assert wanted_slices(inside).tolist() == [False, True, True, True, False, False]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("planes"))


def _drawn(folder: Path, plane: str, flip: float) -> tuple[Batch, np.ndarray]:
    """Unchanged slices of one plane, and the T2 that they come from with that plane's slices first."""
    cases = load_cases(folder / "train")[:1]
    slices = Slices(
        cases, None, np.random.default_rng(5), batch=BatchConfig(12, 0, 0, axial=0.0),
        changes=replace(STILL, flip=flip), generator=GeneratorConfig(planes=(plane,), **SMALL),
    )  # fmt: skip
    return slices.draw(), planes.to_plane(cases[0].t2, plane).astype(np.float32) / 127.5 - 1


@pytest.mark.parametrize("plane", planes.PLANES)
def test_training_draws_the_planes_own_slices_at_their_location(data: Path, plane: str) -> None:
    batch, t2 = _drawn(data, plane, 0.0)
    k = torch.round(batch.x[:, -1, 0, 0] * 48 / 0.6 + (SIZE - 1) / 2).long()
    np.testing.assert_allclose(batch.truth[:, 0], t2[k], atol=1e-5)


def test_a_flip_exchanges_left_and_right_in_every_plane_and_never_front_and_back(data: Path) -> None:
    for plane in ("coronal", "sagittal"):
        batch, t2 = _drawn(data, plane, 1.0)
        k = torch.round(batch.x[:, -1, 0, 0] * 48 / 0.6 + (SIZE - 1) / 2).long()
        expected = t2[k, :, ::-1] if plane == "coronal" else t2[SIZE - 1 - k]
        np.testing.assert_allclose(batch.truth[:, 0], expected, atol=1e-5)


def test_a_warp_moves_ultrasound_and_truth_together(data: Path) -> None:
    cases = [replace(case, us=case.t2, low=0.0, high=255.0) for case in load_cases(data / "train")]
    slices = Slices(
        cases, None, np.random.default_rng(5), batch=BatchConfig(4, 0, 0), changes=replace(STILL, warp_mm=2.0),
        generator=GeneratorConfig(**SMALL),
    )  # fmt: skip
    batch = slices.draw()
    torch.testing.assert_close(batch.us, batch.truth, atol=1e-3, rtol=0)
    k = torch.round(batch.x[:, -1, 0, 0] * 48 / 0.6 + (SIZE - 1) / 2).long()
    still = [np.abs(case.t2[k].astype(np.float32) / 127.5 - 1 - batch.truth[:, 0].numpy()).mean() for case in cases]
    assert min(still) > 1e-3


def test_one_model_of_three_planes_gives_each_and_their_median(
    head: Volume, tmp_path: Path, config_dir: Path, write_model: Callable[..., Path]
) -> None:
    torch.manual_seed(3)
    generator = Generator(GeneratorConfig(place=True, planes=planes.PLANES, **SMALL)).eval()
    for code in (generator.place_latent, generator.place_split):
        torch.nn.init.normal_(code.out.weight, std=0.1)
    file = tmp_path / "traced.pt"
    torch.jit.trace(generator, torch.zeros(2, 5, 160, 160), check_trace=False).save(str(file))
    form = {"size": 160, "spacing_mm": 0.6, "channels": 5, "neighbours": 1, "location": True, "planes": planes.PLANES}
    folder = write_model(tmp_path / "three", file.read_bytes(), input=form)
    trusted = {json.loads((folder / "manifest.json").read_text())["sha256"]: "three"}
    (config_dir / "trusted-models.json").write_text(json.dumps(trusted))
    pose = np.diag([1.0, 1, 1, 1])
    pose[:3, 3] = -(head.ijk_to_ras @ [*((np.array(head.shape[::-1]) - 1) / 2), 1])[:3]
    made = {choice: synthesize(head, model=str(folder), device="cpu", transform=pose, planes=choice)
            for choice in planes.CHOICES}  # fmt: skip
    by_default = synthesize(head, model=str(folder), device="cpu", transform=pose)
    np.testing.assert_array_equal(by_default.mr.array, made["all"].mr.array)
    assert by_default.provenance["planes"] == "all"
    single = [made[plane].mr.array.astype(float) for plane in planes.PLANES]
    assert np.abs(single[0] - single[1]).max() > 5 and np.abs(single[1] - single[2]).max() > 5
    together = made["all"].mr.array  # not to the voxel: the median is taken before the way back to the input's grid
    apart = (np.max(single, axis=0) - np.min(single, axis=0))[together > 0].mean()
    assert np.abs(together - np.median(single, axis=0))[together > 0].mean() < 0.2 * apart
    assert made["all"].provenance["slices"]["planes"] == list(planes.PLANES)
    assert made["all"].provenance["planes"] == "all"


def test_a_model_of_axial_slices_refuses_the_other_planes_at_once(
    head: Volume, trusted_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "align", lambda *_, **__: pytest.fail("the alignment ran"))
    with pytest.raises(Refused, match=r"'tiny' takes axial slices, not 'all'. Choose axial, or another model."):
        synthesize(head, model=str(trusted_model), device="cpu", transform=np.eye(4), planes="all")


def test_a_model_of_axial_slices_takes_them_where_nothing_is_chosen(head: Volume, trusted_model: Path) -> None:
    pose = np.eye(4)
    pose[:3, 3] = -(head.ijk_to_ras @ [*((np.array(head.shape[::-1]) - 1) / 2), 1])[:3]
    made = synthesize(head, model=str(trusted_model), device="cpu", transform=pose)
    assert made.provenance["planes"] == "axial" and made.provenance["slices"]["planes"] == ["axial"]
    assert (
        planes.chosen_planes(None, ("coronal",)) == "coronal"
        and planes.chosen_planes("axial", planes.PLANES) == "axial"
    )


def test_a_frame_has_one_plane_whatever_is_chosen(frame: Volume, trusted_model: Path) -> None:
    made = synthesize(frame, model=str(trusted_model), device="cpu", planes="all", unreliable=True)
    assert made.provenance["slices"]["planes"] == ["axial"]
