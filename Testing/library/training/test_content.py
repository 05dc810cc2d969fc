"""The training of what frames show: its data, its disturbances, its loop, its export and its evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from factories.content import PATIENTS, make_content
from USMRISynthesisLib.alignment.frame.content import NO_BRAIN, PLANES
from USMRISynthesisLib.alignment.frame.content_model import classify, load_network
from USMRISynthesisLib.alignment.frame.content_network import SIZE
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.datasets.frame_content import (
    AXIAL,
    ContentPicture,
    content_pictures,
    content_rows,
    read_frame,
)
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.content.evaluate import evaluate
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.content.disturbances import block_quantised, cover, disturb
from USMRISynthesisLib.training.content.loop import losses
from USMRISynthesisLib.training.content.samples import (
    SHARES,
    UNKNOWN,
    ContentBatch,
    beside,
    by_kind,
    draw,
    drawn,
    inside_share,
    shares_of,
)
from USMRISynthesisLib.training.run import read_run, train
from USMRISynthesisLib.ultrasound.fan import find_fan


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_content(tmp_path_factory.mktemp("content"))


@pytest.fixture(scope="module")
def pictures(data: Path) -> list[ContentPicture]:
    return content_pictures(content_rows(data))


def write_config(tmp_path: Path, data: Path, output: str = "run", more: str = "") -> Path:
    path = tmp_path / f"{output}.toml"
    path.write_text(
        f'task = "content"\noutput = "{tmp_path / output}"\ndata = "{data}"\nsteps = 4\nbatch = 6\n'
        f'precision = "fp32"\nlog_every = 2\n{more}'
    )
    return path


def test_all_frames_of_a_patient_are_in_one_split_in_all_sources(data: Path) -> None:
    splits: dict[str, set[str]] = {}
    for row in content_rows(data):
        if row.patient in PATIENTS:
            splits.setdefault(row.patient, set()).add(row.split)
    assert len(splits) == len(PATIENTS) and all(len(found) == 1 for found in splits.values())
    assert {next(iter(found)) for found in splits.values()} == {"train", "val", "test"}


def test_rows_say_what_a_frame_shows_and_frames_with_a_head_are_left_out(data: Path) -> None:
    rows = content_rows(data)
    assert {row.shows for row in rows} == {*PLANES, AXIAL, NO_BRAIN}
    assert all((row.ellipse is not None) == (row.shows == AXIAL) for row in rows)
    assert not [row for row in rows if "01212" in row.path.name]
    assert {row.source for row in rows if row.patient.endswith("EGY")} == {"african"}
    with pytest.raises(Refused, match="no frames of fetal-planes"):
        content_rows(data / "hc18")


def test_grey_values_are_even_in_training_and_as_stored_in_evaluation(data: Path) -> None:
    row = next(row for row in content_rows(data) if row.source == "hc18")
    assert not (read_frame(row).array % 2).any() and (read_frame(row, even=False).array % 2).any()


def test_a_picture_keeps_the_annotated_head_where_it_is_seen(pictures: list[ContentPicture]) -> None:
    """The bright skull lies on the ellipse, in the square's own coordinates."""
    picture = next(picture for picture in pictures if picture.ellipse is not None)
    assert picture.ellipse is not None and picture.images.shape == (3, 160, 160)
    line = picture.ellipse.outline() * 0.95
    i, j = np.clip(np.rint((line + 1) * 80 - 0.5).astype(int), 0, 159)
    image = picture.images[0].astype(float)
    assert image[j, i].mean() > 1.6 * image[image > 0].mean()
    rough = [float(np.abs(np.diff(one.astype(float), axis=0)).mean()) for one in picture.images]
    assert max(rough[1:]) < 0.8 * rough[0]  # the copies are filtered


def test_kept_pictures_are_those_that_were_made_and_serve_the_same_frames_only(data: Path, tmp_path: Path) -> None:
    rows, cache = content_rows(data)[:12], tmp_path / "pictures.npz"
    made, kept = content_pictures(rows, cache), content_pictures(rows, cache)
    assert cache.is_file() and all(np.array_equal(a.images, b.images) for a, b in zip(made, kept, strict=True))
    others = content_pictures(rows[3:6], cache)  # made anew
    assert np.array_equal(others[0].images, made[3].images)
    cache.write_bytes(b"nothing")
    assert np.array_equal(content_pictures(rows[:1], cache)[0].images, made[0].images)


def test_a_batch_holds_every_kind_as_often_as_its_share_says(pictures: list[ContentPicture]) -> None:
    groups = by_kind(pictures)
    batch = draw(groups, np.random.default_rng(0), 400)
    assert batch.x.shape == (400, 1, SIZE, SIZE) and batch.x.min() == -1 and batch.x.max() <= 1
    assert float(batch.brain.mean()) == pytest.approx(1 - SHARES[NO_BRAIN] - SHARES["made"], abs=0.07)
    assert not (batch.plane[batch.brain < 0.5] != UNKNOWN).any()
    assert float((batch.plane == 2).float().mean()) == pytest.approx(SHARES["trans-cerebellum"], abs=0.06)
    assert sum(share for kind, share in shares_of(groups).items() if kind.startswith(NO_BRAIN)) == pytest.approx(
        SHARES[NO_BRAIN]
    )


def test_a_batch_depends_on_its_generator_alone(pictures: list[ContentPicture]) -> None:
    groups = by_kind(pictures)
    one, same, other = (draw(groups, np.random.default_rng(seed), 8) for seed in (1, 1, 2))
    assert torch.equal(one.x, same.x) and not torch.equal(one.x, other.x)


def test_disturbances_change_the_image_and_stay_in_the_fan() -> None:
    level, fan = torch.rand(SIZE, SIZE), torch.zeros(SIZE, SIZE)
    fan[10:80, 20:90] = 1
    changed = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = disturb(*cover(level, fan, rng, 1.0), rng, 1.0)
        assert bool((x[fan == 0] == -1).all()) and bool(torch.isfinite(x).all()) and x.abs().max() <= 1
        changed.append(float((x - (level * 2 - 1))[fan > 0].abs().mean()))
    assert min(changed) > 0.02
    off = disturb(*cover(level, fan, rng, 0.0), rng, 0.0)
    assert float((off - (level * 2 - 1))[fan > 0].abs().mean()) < 0.02


def test_blocks_are_stored_in_steps() -> None:
    level = torch.linspace(0, 1, SIZE).repeat(SIZE, 1) + 0.01 * torch.rand(SIZE, SIZE)
    fine, coarse = block_quantised(level, 1e-4), block_quantised(level, 0.3)
    assert float((fine - level).abs().max()) < 2e-3 < float((coarse - level).abs().max())
    assert float(coarse[:8, :8].std()) < float(level[:8, :8].std())


def test_a_view_beside_the_head_leaves_it_out(pictures: list[ContentPicture]) -> None:
    picture = next(picture for picture in pictures if picture.ellipse is not None)
    assert picture.ellipse is not None
    found = [beside(picture, np.random.default_rng(seed)) for seed in range(20)]
    views = [unit for unit in found if unit is not None]
    assert views and all(inside_share(picture.ellipse, unit) < 0.06 for unit in views)


def test_a_drawing_is_grey_and_no_two_are_alike() -> None:
    one, other = (drawn(SIZE, np.random.default_rng(seed)) for seed in (1, 2))
    assert one.shape == (SIZE, SIZE) and 0 <= one.min() and one.max() <= 1 and float((one - other).abs().mean()) > 0.05


def test_the_plane_costs_nothing_where_it_is_unknown_beyond_being_axial() -> None:
    batch = ContentBatch(torch.zeros(3, 1, 4, 4), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([2, UNKNOWN, UNKNOWN]))
    right = torch.tensor([[9.0, 0, 0, 9, 0], [9.0, 9, 0, 0, 0], [-9.0, 0, 0, 0, 9]])
    assert losses(right, batch, 0.0)["plane"] < 0.01 and losses(right, batch, 0.0)["brain"] < 0.01
    ventricular = right.clone()
    ventricular[1] = torch.tensor([9.0, 0, 9, 0, 0])
    cerebellar = right.clone()
    cerebellar[1] = torch.tensor([9.0, 0, 0, 9, 0])
    assert losses(ventricular, batch, 0.0)["plane"] < 0.01 < losses(cerebellar, batch, 0.0)["plane"]
    assert losses(-right, batch, 0.0)["brain"] > 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return train(write_config(tmp_path_factory.mktemp("whole"), data), report=str)


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "content"
    assert cli.main(["export", str(trained), str(folder), "--quiet"]) == 0
    return folder


def test_a_run_leaves_figures_and_a_checkpoint_of_the_training_patients_alone(trained: Path, data: Path) -> None:
    saved = checkpoint.load(trained)
    assert saved["step"] == 4 and {"brain_refused_share", "no_brain_accepted_share"} <= set(saved["figures"])
    held = {f"{row.source} {row.patient}" for row in content_rows(data) if row.split != "train"}
    assert saved["cases"] and not held & set(saved["cases"])


def test_a_source_that_is_held_back_is_not_trained_on(tmp_path: Path, data: Path) -> None:
    run = train(write_config(tmp_path, data, "held", 'held_back = ["hc18", "african"]\n'), report=str)
    assert {name.split()[0] for name in checkpoint.load(run)["cases"]} == {"fetal-planes", "not-brain"}
    with pytest.raises(Refused, match="held_back must name"):
        read_run(write_config(tmp_path, data, "wrong", 'held_back = ["nowhere"]\n'))


def test_an_export_answers_as_the_trained_network_does(exported: Path, trained: Path, data: Path) -> None:
    from USMRISynthesisLib.training.content.loop import PART, ContentNetwork

    network = load_network(str(exported), consent=lambda sha256, name: True)
    eager = ContentNetwork()
    eager.load_state_dict(checkpoint.load(trained)["averaged"][PART])
    eager.eval()
    x = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        np.testing.assert_allclose(network(x), eager(x).numpy(), atol=0.02)
    volume = read_frame(content_rows(data)[0])
    assert classify(network, volume, find_fan(volume.array, volume.spacing)).answer in (*PLANES, NO_BRAIN)
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["task"] == "content" and manifest["architecture"]["name"] == "content"
    assert (exported / "weights.safetensors").stat().st_size < 1e6


def test_an_evaluation_counts_what_is_held_out(exported: Path, data: Path, tmp_path: Path) -> None:
    record = tmp_path / "content.json"
    arguments = ["evaluate", "content", "--data", str(data), "--split", "val", "--model", str(exported)]
    assert cli.main([*arguments, "--trust-model", "--record", str(record), "--quiet"]) == 0
    result = json.loads(record.read_text())["result"]
    rows = [row for row in content_rows(data) if row.split == "val"]
    assert result["brain_frames"] + result["no_brain_frames"] == len(rows)
    assert sum(sum(counts.values()) for counts in result["confusion"].values()) == len(rows)
    assert result["accepted"]["head circumference"]["images"] == 1
    assert set(result["filtered"]["median 7x7"]) == {"images", "accepted_share", "without_speckle_share"}
    with pytest.raises(Refused, match="no split 'half'"):
        evaluate(data, "half", model=str(exported))
