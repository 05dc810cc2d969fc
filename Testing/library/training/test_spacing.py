"""Training slice spacing: what it may learn from, exact resume, export."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.spacing import oblique, smooth, stack
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.datasets.stacks import HELD_OUT_SEED, WEEKS, Head, deformed
from USMRISynthesisLib.errors import Cancelled, Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.spacing import profile
from USMRISynthesisLib.training.common.checkpoint import load
from USMRISynthesisLib.training.common.config import read_table
from USMRISynthesisLib.training.run import train
from USMRISynthesisLib.training.spacing.acquisition import CLEAN, REACH, Acquisition, acquired, drawn
from USMRISynthesisLib.training.spacing.config import AcquisitionConfig, SpacingConfig, SpacingDataConfig
from USMRISynthesisLib.training.spacing.data import Stack, load_stacks, pair_batch, slice_batch
from USMRISynthesisLib.training.spacing.export import data_of
from USMRISynthesisLib.training.spacing.loop import pair_terms

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """A folder with one user's thick stacks, along different axes."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for axis in range(3):
        stack(pixels=(48, 40), axis=axis).write(folder / f"{axis}.nrrd")
    return folder


def write_config(tmp_path: Path, volumes: Path, *, steps: int = 6, output: str = "run", extra: str = "") -> Path:
    path = tmp_path / f"{output}.toml"
    path.write_text(
        f'task = "spacing"\noutput = "{tmp_path / output}"\nvae_steps = 3\nsteps = {steps}\nbatch = 2\n'
        f'size = 32\nthreads = 1\nprecision = "fp32"\nwidth = 4\nvae_width = 4\nlatent = 4\nlog_every = 2\n'
        f'checkpoint_every = 2\n{extra}\n[data]\nvolumes = ["{volumes}"]\n'
    )
    return path


STILL = AcquisitionConfig(share=0.0)


def config_of(**changes: object) -> SpacingConfig:
    return SpacingConfig(output="unused", data=SpacingDataConfig(volumes=("unused",)), batch=6, **changes)  # type: ignore[arg-type]


def test_one_volume_of_the_user_is_enough_through_the_command(
    tmp_path: Path, volumes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, volumes / "0.nrrd")
    assert cli.main(["train", str(config), "--json"]) == 0
    checkpoint = Path(json.loads(capsys.readouterr().out)["checkpoint"])
    content = load(checkpoint)
    assert content["step"] == 6 and content["switched"][0] == 3 and content["cases"] == ["0.nrrd"]
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4", "6"] and float(rows[-1]["super_resolution_l1"]) > 0


@pytest.mark.parametrize("stop", [2, 4])
def test_a_stopped_run_goes_on_exactly_in_either_stage(tmp_path: Path, volumes: Path, stop: int) -> None:
    whole = train(write_config(tmp_path, volumes, output="whole"), report=lambda text: None)
    config = write_config(tmp_path, volumes, output="parts")
    polls = iter(range(100))
    with pytest.raises(Cancelled, match=f"step {stop}"):
        train(config, cancel=lambda: next(polls) >= stop - 1, report=lambda text: None)
    parts = train(config, report=lambda text: None)
    a, b = load(whole), load(parts)
    for kind in ("networks", "averaged"):
        for name in ("vae", "super_resolution"):
            for key, value in a[kind][name].items():
                assert torch.equal(value, b[kind][name][key]), (kind, name, key)


def test_another_configuration_and_a_fresh_start_over_a_run_are_refused(tmp_path: Path, volumes: Path) -> None:
    train(write_config(tmp_path, volumes), report=lambda text: None)
    with pytest.raises(Refused, match="kl changed"):
        train(write_config(tmp_path, volumes, extra="kl = 0.5"), report=lambda text: None)
    with pytest.raises(Refused, match="already holds a run"):
        train(write_config(tmp_path, volumes), resume=False, report=lambda text: None)


def test_a_vae_of_another_run_spares_the_first_stage(tmp_path: Path, volumes: Path) -> None:
    first = train(write_config(tmp_path, volumes), report=lambda text: None)
    second = train(write_config(tmp_path, volumes, output="second", extra=f'vae = "{first}"'), report=lambda text: None)
    a, b = load(first), load(second)
    assert b["switched"] == [0, 0.0]
    assert all(torch.equal(value, b["averaged"]["vae"][key]) for key, value in a["averaged"]["vae"].items())


def test_export_gives_a_model_that_respaces(tmp_path: Path, volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(write_config(tmp_path, volumes), report=lambda text: None)
    assert cli.main(["export", str(tmp_path / "run" / "checkpoint.pt"), str(tmp_path / "model")]) == 0
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["task"] == "spacing" and manifest["training"]["data"][0]["licence"] == "theirs"
    assert "synthesised fine slices alone" in (tmp_path / "model" / "README.md").read_text()
    capsys.readouterr()
    words = ["respace", str(volumes / "1.nrrd"), str(tmp_path / "thin.nrrd"), "--model", str(tmp_path / "model")]
    assert cli.main(words) == 2 and "has not been trusted" in capsys.readouterr().err
    assert cli.main([*words, "--trust-model", "--device", "cpu"]) == 0


def test_shipped_data_are_named_with_their_licences() -> None:
    table = {"config": {"data": read_table(REPOSITORY / "configs" / "spacing.toml")["data"]}}
    assert [item["licence"].split()[0] for item in data_of(table)] == ["CC0", "stated"]


def test_the_shipped_configuration_holds_out_the_simulators_weeks() -> None:
    data = read_table(REPOSITORY / "configs" / "spacing.toml")["data"]
    splits = json.loads((REPOSITORY / "configs" / "simulation.json").read_text())["splits"]
    held_out = {name for split in ("val", "test") for name in splits[split]["atlases"]}
    assert held_out == set(WEEKS["val"] + WEEKS["test"]) and not held_out & set(data["weeks"])
    copies = data["copies"] * len(data["weeks"])
    assert copies < HELD_OUT_SEED


def test_nothing_of_the_atlas_is_sharp_across_its_slices(tmp_path: Path) -> None:
    """The stacks that training sees are the thinned head, not the head: their slices are fewer and blurred."""
    folder = tmp_path / "fetal-mr-atlas" / "GA25-operated"
    folder.mkdir(parents=True)
    array = np.zeros((60, 56, 52), np.float32)
    array[6:-6, 6:-6, 6:-6] = smooth((48, 44, 40)) + 300 * np.random.default_rng(0).random((48, 44, 40))
    Volume(array, np.diag([0.8, 0.8, 0.8, 1])).write(folder / "t2.nii.gz")
    config = SpacingDataConfig(atlas=str(tmp_path), weeks=("GA25-operated",), copies=3)
    stacks = load_stacks(config, seed=0)
    assert len(stacks) == 3 and len({s.slices.shape for s in stacks}) == 3
    for one in stacks:
        assert 2.8 < one.factor < 5.3 and one.slices.shape[0] * one.factor < 60
    again = load_stacks(config, seed=0)
    assert all(np.array_equal(a.slices, b.slices) for a, b in zip(stacks, again, strict=True))


def test_no_batch_of_pairs_holds_a_real_image_unless_asked() -> None:
    """Real stacks are 5 everywhere but for a pattern, synthesised ones are 0: only one kind can be in a batch."""
    rng = np.random.default_rng(0)
    stacks = [Stack("real", 5 + rng.random((6, 70, 70), np.float32), 3.0)]
    fine = [rng.random((70, 70, 70), np.float32)]
    for step in range(4):
        assert pair_batch(fine, stacks, np.random.default_rng(step), config_of()).truth.max() < 2
        assert pair_batch([], stacks, np.random.default_rng(step), config_of(in_plane=1.0)).truth.min() > 2


def test_pairs_are_degraded_and_linearly_estimated_truth() -> None:
    fine = [smooth((80, 70, 75)) / 1000]
    pairs = pair_batch(fine, [], np.random.default_rng(4), config_of(every_axis=False, acquisition=STILL))
    m = pairs.truth.shape[2]
    n = round(m / float(2 ** pairs.conditions[0, 0]))
    assert profile.MIN_FACTOR * 0.95 < m / n < profile.MAX_FACTOR * 1.1
    expected = profile.estimation(n, m) @ profile.degradation(n, m) @ pairs.truth[0, 0].numpy()
    assert np.allclose(expected, pairs.x[0, 0].numpy(), atol=1e-4)


# --- what befalls the thick slices


def stripes(w: int = 64) -> np.ndarray:
    """A slab (11, 40, w) that is the same in every slice and every view: waves along the rows."""
    return np.broadcast_to(np.sin(np.arange(w, dtype=np.float32) / 3) + 1.5, (1 + 2 * REACH, 40, w)).copy()


def test_without_anything_but_the_profile_thick_rows_are_the_degraded_view() -> None:
    slab = np.random.default_rng(0).random((1, 40, 30), np.float32)
    seen = acquired(slab, 12, CLEAN, np.random.default_rng(0))
    assert np.allclose(seen, profile.degradation(12, 40) @ slab[0], atol=1e-6)
    assert drawn(STILL, np.random.default_rng(0)) == CLEAN and CLEAN.reach == 0


def test_moved_slices_show_other_places_and_some_patches_stay_still() -> None:
    how = Acquisition(motion=2.0, rotation=0.05)
    made = [acquired(stripes(), 12, how, np.random.default_rng(seed)) for seed in range(30)]
    spread = np.array([np.ptp(rows, axis=0).max() for rows in made])
    assert 4 < (spread < 1e-5).sum() < 20 and (spread > 0.2).sum() > 8
    flat = acquired(np.full((11, 40, 64), 0.5, np.float32), 12, how, np.random.default_rng(1))
    assert np.allclose(flat, 0.5, atol=1e-5)  # nothing comes in that was not there


def test_motion_along_the_slices_and_a_narrower_profile_change_what_a_slice_sees() -> None:
    ramp = np.arange(40.0)
    inner = slice(3, 9)
    assert np.allclose(
        (profile.degradation(12, 40, moved=1.5) @ ramp - profile.degradation(12, 40) @ ramp)[inner], 1.5, atol=0.01
    )
    narrow = profile.degradation(12, 40, width=0.5)[6]
    assert narrow.max() > 1.5 * profile.degradation(12, 40)[6].max() and narrow.sum() == pytest.approx(1)


def test_gains_differ_from_slice_to_slice_only() -> None:
    seen = acquired(stripes()[:1], 12, Acquisition(gain=0.1), np.random.default_rng(0))
    ratio = seen / stripes()[0, :1]
    assert np.ptp(ratio, axis=1).max() < 1e-5 and 0.03 < np.log(ratio[:, 0]).std() < 0.2


def test_noise_is_rician_and_correlated_between_neighbours() -> None:
    empty, bright = (
        acquired(np.full((1, 400, 300), value, np.float32), 200, Acquisition(noise=0.05), np.random.default_rng(5))
        for value in (0.0, 1.0)
    )
    assert empty.min() >= 0 and empty.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.05)
    assert bright.std() == pytest.approx(0.05, rel=0.1)
    along, across = (
        np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in ((bright[:, 1:], bright[:, :-1]), (bright[1:], bright[:-1]))
    )
    assert along > 0.1 and abs(across) < 0.03


def test_targets_stay_clean_whatever_befell_the_thick_slices() -> None:
    """A target of two values alone, dark and bright, has no noise, gain or blur in it; the input has."""
    fine = [(np.random.default_rng(0).random((70, 70, 70)) > 0.5).astype(np.float32)]
    for step in range(3):
        pairs = pair_batch(fine, [], np.random.default_rng(step), config_of(acquisition=AcquisitionConfig(share=1.0)))
        assert all(len(np.unique(target)) == 2 for target in pairs.truth.numpy())
        assert len(np.unique(pairs.x[0].numpy())) > 100


def test_patches_of_small_slices_are_mirrored_on_and_flat_ones_avoided() -> None:
    image = np.zeros((3, 20, 100), np.float32)
    image[:, :, 80:] = np.random.default_rng(0).random((3, 20, 20))
    batch = slice_batch([Stack("small", image, 3.0)], np.random.default_rng(1), config_of(size=64))
    assert batch.shape == (6, 1, 64, 64)
    assert float((batch.std(dim=(2, 3)) > 0.03).float().mean()) > 0.5


def test_terms_are_shares_of_the_linear_estimates_error() -> None:
    truth = torch.rand(2, 1, 8, 8)
    start = truth + 0.1
    terms = pair_terms(truth + 0.05, start, truth)
    assert float(terms["l1"]) == pytest.approx(0.5, rel=1e-3)
    assert float(terms["square"]) == pytest.approx(0.25, rel=1e-3)


def test_a_deformation_moves_but_keeps_the_range_and_is_the_same_for_its_seed() -> None:
    head = Head("x", smooth((40, 44, 48)) / 1000, 0.8)
    a, b, c = deformed(head, 1), deformed(head, 1), deformed(head, 2)
    assert np.array_equal(a.truth, b.truth) and not np.allclose(a.truth, c.truth)
    assert 0 <= a.truth.min() and a.truth.max() < 1.3 * head.truth.max()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("size = 30", "multiple of 4"),
        ("in_plane = 2.0", "0..1"),
        ("vae_steps = 99", "larger than vae_steps"),
        ("precision = 'fp8'", "precision"),
        ("wrong = 1", "not known"),
        ("acquisition = {share = 1.5}", "share must lie in 0..1"),
        ("acquisition = {noise = -1.0}", "0 or more"),
        ("acquisition = {profile = [1.2, 0.7]}", "two widths"),
        ("acquisition = {speed = 1}", "not known"),
    ],
)
def test_each_mistake_in_a_configuration_is_named(tmp_path: Path, volumes: Path, line: str, message: str) -> None:
    path = write_config(tmp_path, volumes)
    key = line.split(" ")[0]
    kept = [text for text in path.read_text().splitlines() if not text.startswith(f"{key} ")]
    path.write_text("\n".join([line, *kept]))
    with pytest.raises(Refused, match=message):
        train(path, report=lambda text: None)


def test_isotropic_volumes_and_empty_folders_teach_nothing(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(Refused, match="holds no volume"):
        train(write_config(tmp_path, tmp_path / "none"), report=lambda text: None)
    Volume(smooth((20, 24, 28)), oblique((1, 1, 1))).write(tmp_path / "cube.nrrd")
    with pytest.raises(Refused, match="isotropic already"):
        train(write_config(tmp_path, tmp_path / "cube.nrrd"), report=lambda text: None)
