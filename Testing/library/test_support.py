"""The support map: what it learns, its export into a model's folder, its way through the corridor, its measure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_heads import layered_case
from USMRISynthesisLib import cli, weights
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.evaluation import support as evaluation
from USMRISynthesisLib.synthesis import engine
from USMRISynthesisLib.synthesis.engine import load_generator
from USMRISynthesisLib.synthesis.planes import PLANES
from USMRISynthesisLib.synthesis.result import BEAM_ONLY, PROBABILITY
from USMRISynthesisLib.synthesis.support import (
    WRONG,
    SupportNetwork,
    carried_outwards,
    cells_of,
    head_of,
    neighbourhood,
    spread_of,
    support_map,
)
from USMRISynthesisLib.training import checkpoint as checkpoints
from USMRISynthesisLib.training.support_configuration import support_configuration_from
from USMRISynthesisLib.training.support_data import Judged, Made, _mirrored, changed, draw, slices_of
from USMRISynthesisLib.training.support_export import add_support
from USMRISynthesisLib.training.support_loop import calibrate, train_support
from USMRISynthesisLib.volume import Volume


def quiet(text: str) -> None:
    pass


def judged_head(seed: int) -> Judged:
    """A head that is wrong just where its MR is bright: what a network can learn within seconds."""
    rng = np.random.default_rng(seed)
    us = rng.integers(0, 255, (80, 80, 80)).astype(np.uint8)
    mr = np.full(us.shape, 90, np.uint8)
    wrong = np.zeros(us.shape, bool)
    row, column = rng.integers(15, 35, 2)
    wrong[25:60, row : row + 30, column : column + 30] = True
    mr[wrong] = 220
    inside = np.zeros(us.shape, np.uint8)
    inside[20:60, 10:70, 10:70] = 255
    error, share = wrong * np.uint8(200), wrong * np.uint8(255)
    return Judged(f"head-{seed}", us, (Made(mr, error, share, None), Made(mr, error, share, wrong * np.uint8(40))),
                  inside)  # fmt: skip


def voxels(cells: np.ndarray) -> np.ndarray:
    return cells.repeat(2, 0).repeat(2, 1).repeat(2, 2)


def wrong_of(mr: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return evaluation.error_of(mr, truth, np.ones(truth.shape, bool)) > WRONG


def test_wrong_is_what_is_off_by_more_than_a_step_between_tissues_and_not_an_edge_half_a_voxel_off():
    truth = np.zeros((8, 60, 60), np.float32)
    truth[:, 20:40, 20:40] = 0.5
    spot = np.zeros_like(truth)
    spot[:, 5:13, 5:13] = 1
    assert not wrong_of(truth + 0.1 * spot, truth).any()
    assert wrong_of(truth + 0.25 * spot, truth)[:, 7:11, 7:11].all()
    assert not wrong_of(truth + 0.4, truth).any()  # brighter as a whole: MR has no units
    moved = (truth + np.roll(truth, 1, axis=2)) / 2
    assert not wrong_of(moved, truth).any()
    assert wrong_of(np.roll(truth, 4, axis=2), truth).any()


@pytest.mark.parametrize("plane", PLANES)
def test_a_mirrored_slice_is_the_slice_of_the_mirrored_head(plane):
    head = judged_head(0)
    rng = np.random.default_rng(1)

    def turned(cells):
        return None if cells is None else cells[:, :, ::-1]

    made = tuple(Made(*map(turned, (m.mr, m.error, m.wrong, m.spread))) for m in head.made)
    other = Judged("mirrored", turned(head.us), made, turned(head.inside))
    k = int(rng.choice(head.enough[plane]))
    there = 79 - k if plane == "sagittal" else k
    for n in range(2):
        mirrored = _mirrored(slices_of(head, n, plane, np.array([k])), plane)
        for a, b in zip(mirrored, slices_of(other, n, plane, np.array([there])), strict=True):
            torch.testing.assert_close(a, b)


def test_a_batch_is_of_one_plane_and_of_several_and_its_truth_is_its_own():
    batch = draw([judged_head(0)], 12, np.random.default_rng(1))
    bright = (batch.cells[:, 4:5] > 0).float()
    assert torch.equal(bright, batch.wrong)
    spread = batch.cells[:, 6:7]
    several = spread.amin(dim=(1, 2, 3)) >= 0
    assert 0 < several.sum() < 12 and (spread[~several] == -1).all()
    assert torch.equal(spread[several] > 0, bright[several] > 0)


def test_every_plane_tells_where_a_slice_lies_and_left_and_right_are_alike():
    head = head_of(*(np.zeros((160, 160, 160), np.float32),) * 2, None)
    for n, plane in enumerate(PLANES):
        cells, told = head.slices(plane, np.array([0, 39, 40, 79]))
        row, column, depth = cells[0, -2], cells[0, -1], told[:, 0, 0, 0]
        assert told[:, -3 + n].all() and told[:, -3:].sum() == 4
        assert row[0, 0] == -1 and row[-1, 0] == 1 and column[0, -1] == 1
        sagittal = plane == "sagittal"
        assert column[0, 0] == (-1 if sagittal else 1)
        assert depth[0] == (1 if sagittal else -1) and depth[3] == 1 and (depth[1] == depth[2]) == sagittal


def test_a_cell_is_the_mean_of_eight_voxels():
    voxels_here = np.zeros((4, 4, 4), np.float32)
    voxels_here[:2, :2, :2] = 1
    voxels_here[3, 3, 3] = 4
    assert cells_of(voxels_here).tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 0.5]]]
    assert cells_of(voxels_here > 2)[1, 1, 1] == 0.125


def test_what_is_wrong_moves_with_the_images():
    batch = draw([judged_head(0)], 6, np.random.default_rng(1))
    other = changed(batch, np.random.default_rng(2))
    assert [part.shape for part in other] == [part.shape for part in batch]
    bright = (other.cells[:, 4:5] > 0.1).float()
    assert float((bright - other.wrong).abs().mean()) < 0.008 < float((batch.wrong - other.wrong).abs().mean())
    assert torch.equal(batch.cells[:, 7:], other.cells[:, 7:])  # where it lies stays: a head lies elsewhere
    again = changed(batch, np.random.default_rng(2))
    assert all(torch.equal(a, b) for a, b in zip(other, again, strict=True))


def test_the_ends_of_the_stack_stand_in_for_slices_beyond_it():
    stack = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    assert neighbourhood(stack, np.array([0, 3, 5]))[:, :, 0, 0].tolist() == [[0, 0, 1], [2, 3, 4], [4, 5, 5]]


def test_it_learns_what_goes_wrong_and_its_probabilities_are_shares():
    torch.manual_seed(0)
    network = SupportNetwork()
    heads = [judged_head(n) for n in range(3)]
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        batch = draw(heads, 4, rng)
        said = network.readings(*batch[:2])[:, :1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(said, batch.wrong)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    calibrate(network, [judged_head(7)])
    held = judged_head(8)
    inside = voxels(held.inside) > 0
    for made in held.made:
        us, mr = (voxels(stack).astype(np.float32) / 127.5 - 1 for stack in (held.us, made.mr))
        spread = None if made.spread is None else voxels(made.spread) / np.float32(51)
        said = support_map(network, us, mr, spread, inside)
        assert said.shape == us.shape and 0 <= said.min() and said.max() <= 1
        wrong = voxels(made.wrong)[inside] > 0
        assert evaluation.auc(1 - said[inside], wrong) > 0.9
        assert abs((1 - said[inside]).mean() - wrong.mean()) < 0.08


def test_planes_that_agree_have_no_spread_and_one_plane_has_none_to_tell():
    same = np.zeros((2, 3, 3), np.float32)
    assert not spread_of({"axial": same, "coronal": same}).any() and spread_of({"axial": same}) is None
    assert (spread_of({"axial": same, "coronal": same + 0.2}) == np.float32(0.5)).all()


def test_cancelling_ends_it():
    with pytest.raises(Cancelled):
        support_map(SupportNetwork(), np.zeros((16, 160, 160)), np.zeros((16, 160, 160)), None,
                    np.ones((16, 160, 160), bool), cancel=lambda: True)  # fmt: skip


def test_auc_counts_ties_half_and_is_even_for_one_kind():
    truth = np.array([True, False, True, False])
    assert evaluation.auc(np.array([0.9, 0.1, 0.8, 0.2]), truth) == 1.0
    assert evaluation.auc(np.zeros(4), truth) == 0.5
    assert evaluation.auc(np.array([0.1, 0.9, 0.2, 0.8]), truth) == 0.0
    assert evaluation.auc(np.arange(3.0), np.ones(3, bool)) == 0.5


# --- training, export and use, with the tests' own generator


@pytest.fixture
def own_model(trusted_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tests' generator, into which a support map may be written; bundled, so that nobody is asked."""
    bundled = tmp_path / "model_weights"
    folder = bundled / "own"
    shutil.copytree(trusted_model, folder)
    monkeypatch.setattr(weights, "bundled_folders", lambda: [bundled])
    engine._loaded.clear()
    yield folder
    engine._loaded.clear()


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    for part, seed in (("train", 1), ("mr", 2), ("val", 3)):
        (tmp_path / "heads" / part).mkdir(parents=True)
        np.savez(tmp_path / "heads" / part / f"head-{seed}.npz", **layered_case(seed))
    return tmp_path / "heads"


def configured(tmp_path: Path, heads: Path, model: Path, *, output: str = "run", steps: int = 3) -> Path:
    path = tmp_path / f"{output}.toml"
    path.write_text(f'task = "support"\noutput = "{tmp_path / output}"\nfolder = "{heads}"\nmodel = "{model}"\n'
                    f'steps = {steps}\nbatch = 2\nthreads = 1\nprecision = "fp32"\n')  # fmt: skip
    return path


def test_trained_exported_used_and_measured(own_model, heads, tmp_path, head):
    from USMRISynthesisLib.synthesis.pipeline import synthesize

    before = synthesize(head, model=str(own_model), device="cpu", unreliable=True)
    assert before.provenance["support"] == {"meaning": BEAM_ONLY}
    config = configured(tmp_path, heads, own_model)
    assert cli.main(["train", str(config), "--quiet"]) == 0
    printed = tmp_path / "printed.json"
    printed.write_text('{"support_auc": [0.7, 0.6, 0.8], "support_wrong_share": 0.05, "support_error_rho": 0.5}')
    exporting = ["export", str(tmp_path / "run" / "checkpoint.pt"), str(own_model)]
    assert cli.main([*exporting, "--figures", str(tmp_path / "none.json")]) == 2  # refused before anything is written
    assert not (own_model / "support.pt").exists()
    assert cli.main([*exporting, "--figures", str(printed)]) == 0
    assert "- auc: 0.700 [0.600, 0.800]" in (own_model / "README.md").read_text()
    assert cli.main(exporting) == 0
    assert weights.hash_matches(own_model)
    card = (own_model / "README.md").read_text()
    assert card.count("## Support map") == 1 and "untested" in card
    add_support(checkpoints.load(tmp_path / "run" / "checkpoint.pt"), own_model)  # again: replaced, not added
    again = (own_model / "README.md").read_text()
    assert len(again) == len(card) and again.count("## Support map") == 1

    manifest = weights.read_manifest(own_model)
    assert manifest.extra["support"]["file"] == "support.pt"
    result = synthesize(head, model=str(own_model), device="cpu", unreliable=True)
    assert result.provenance["support"]["meaning"] == PROBABILITY
    assert result.provenance["support"]["sha256"] == manifest.extra["support"]["sha256"]
    np.testing.assert_array_equal(result.mr.array, before.mr.array)  # it judges and changes nothing
    seen, said = before.confidence.array > 0, result.confidence.array
    np.testing.assert_array_equal(said > 0, seen)
    assert said.max() <= 1 and len(np.unique(said[seen])) > 100
    assert result.provenance["support"]["mean"] == pytest.approx(float(said[seen].mean()), abs=2e-3)

    figures = evaluation.evaluate(heads / "val", str(own_model), "cpu")
    assert 0 <= figures["support_auc"][1] <= figures["support_auc"][2] <= 1
    assert sum(share for *_, share in figures["support_calibration"]) == pytest.approx(1)
    assert figures["support_by_anomaly"]["none"]["heads"] == 1
    assert "AUC over voxels" in evaluation.table(figures)
    json.dumps(figures)


def test_new_figures_keep_weights_and_support_map_to_the_byte_and_other_weights_drop_it(own_model, heads, tmp_path):
    from made_training import configure, make_data
    from USMRISynthesisLib.training.export import export
    from USMRISynthesisLib.training.loop import train

    (tmp_path / "data").mkdir()
    data = make_data(tmp_path / "data")
    saved = train(configure(tmp_path, data, steps=1), report=quiet)
    folder = export(saved, own_model.parent / "trained", name="trained")
    support = {"file": "support.pt", "sha256": "0" * 64, "wrong": 0.15, "smoothing_mm": 0.9, "cases": 1, "steps": 1,
               "date": "", "config": {"learn": ["a"], "calibrate": ["b"], "seed": 0}, "figures": {}}  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "support": support}))
    before = (folder / "model.pt").read_bytes()
    export(saved, folder, name="trained", figures={"ncc": 0.5})
    after = json.loads((folder / "manifest.json").read_text())
    assert (folder / "model.pt").read_bytes() == before and after["sha256"] == manifest["sha256"]
    assert after["support"] == support and after["figures"]["ncc"] == 0.5
    assert (folder / "README.md").read_text().count("## Support map") == 1
    other = train(configure(tmp_path, data, steps=2, output="other"), report=quiet)
    export(other, folder, name="trained")
    assert "support" not in json.loads((folder / "manifest.json").read_text())
    assert (folder / "model.pt").read_bytes() != before


def test_a_model_without_a_support_map_is_not_measured(own_model, heads):
    assert evaluation.evaluate(heads / "val", str(own_model), "cpu") is None


def test_what_is_said_of_brain_stands_and_beside_it_the_brain_near_by_speaks():
    brain = np.zeros((20, 40, 40), bool)
    brain[:, 10:30, 10:30] = True
    said = np.where(brain, 0.95, 0.1).astype(np.float32)  # of the skull a network that never learnt it says anything
    said[:, 10:30, 10:14] = 0.5
    result = carried_outwards(said, brain)
    np.testing.assert_array_equal(result[brain], said[brain])
    assert abs(result[10, 20, 31] - 0.95) < 0.01 and abs(result[10, 20, 8] - 0.5) < 0.05
    assert abs(result[0, 0, 0] - said[brain].mean()) < 0.01
    assert (carried_outwards(said, np.zeros_like(brain)) == 0).all()


def test_a_frame_has_no_support_map_of_a_model_that_learnt_it_from_volumes(own_model, heads, tmp_path, head):
    from dataclasses import replace

    from USMRISynthesisLib.synthesis.pipeline import synthesize

    saved = train_support(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    add_support(checkpoints.load(saved), own_model)
    middle = head.shape[0] // 2
    frame = replace(head, array=head.array[middle : middle + 1])
    result = synthesize(frame, model=str(own_model), device="cpu", unreliable=True)
    assert result.provenance["support"] == {"meaning": BEAM_ONLY}


def test_a_support_map_for_other_weights_is_refused(own_model, heads, tmp_path):
    saved = train_support(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    content = checkpoints.load(saved) | {"model_sha256": "0" * 64}
    with pytest.raises(Refused, match="trained for other weights"):
        add_support(content, own_model)


def test_a_tampered_or_missing_support_map_is_not_loaded(own_model, heads, tmp_path):
    saved = train_support(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    add_support(checkpoints.load(saved), own_model)
    file = own_model / "support.pt"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    engine._loaded.clear()
    with pytest.raises(Failed, match=r"support map.*SHA-256 differs"):
        load_generator(str(own_model), "cpu")
    file.unlink()
    with pytest.raises(Failed, match="cannot be read"):
        load_generator(str(own_model), "cpu")


def test_a_support_map_of_another_version_is_not_loaded_and_its_remedy_works(own_model, heads, tmp_path):
    saved = train_support(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    add_support(checkpoints.load(saved), own_model)
    manifest = json.loads((own_model / "manifest.json").read_text())
    del manifest["support"]["version"]  # as it was before there was more than one
    (own_model / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Failed, match="made by another version of USMRISynthesis") as refused:
        load_generator(str(own_model), "cpu")
    assert "manifest.json" in refused.value.remedy
    del manifest["support"]
    (own_model / "manifest.json").write_text(json.dumps(manifest))
    assert load_generator(str(own_model), "cpu").support is None


def test_further_heads_are_calibrated_on(own_model, heads, tmp_path):
    path = configured(tmp_path, heads, own_model, steps=1)
    path.write_text(path.read_text() + f'learn = ["train"]\nalso_calibrate = ["{heads / "val"}"]\n')
    said: list[str] = []
    other = configured(tmp_path, heads, own_model, output="alone", steps=1)
    alone = checkpoints.load(train_support(other, report=quiet))
    both = checkpoints.load(train_support(path, report=said.append))
    assert any(line.startswith("head-3") for line in said) and both["cases"] == ["head-1"]
    assert not torch.equal(both["averaged"]["offset"], alone["averaged"]["offset"])
    add_support(both, own_model)
    assert f"calibrated on mr, {heads / 'val'}" in (own_model / "README.md").read_text()


def test_a_stopped_run_goes_on_exactly(own_model, heads, tmp_path):
    straight = train_support(configured(tmp_path, heads, own_model, output="whole"), report=quiet)
    parts = configured(tmp_path, heads, own_model, output="parts")
    asked = iter([False, True])
    with pytest.raises(Cancelled):
        train_support(parts, report=quiet, cancel=lambda: next(asked))
    resumed = train_support(parts, report=quiet)
    a, b = checkpoints.load(straight), checkpoints.load(resumed)
    assert all(torch.equal(a["averaged"][name], b["averaged"][name]) for name in a["averaged"])


def test_heads_judged_axially_alone_stand_beside_the_others(own_model, heads, tmp_path):
    path = configured(tmp_path, heads, own_model)
    path.write_text(path.read_text() + f'learn = ["mr"]\naxial = ["{heads / "train"}"]\n')
    said: list[str] = []
    content = checkpoints.load(train_support(path, report=said.append))
    assert content["cases"] == ["head-2", "head-1"] and content["step"] == 3
    add_support(content, own_model)
    assert "mr, " + str(heads / "train") in (own_model / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"learn": []}, "learn and calibrate must name a split"), ({"steps": 0}, "steps must be positive"),
     ({"speed": 1}, "speed is not known"), ({"ema": 1.0}, "ema and dropout lie in"),
     ({"dropout": 1.0}, "ema and dropout lie in")],
)  # fmt: skip
def test_a_bad_configuration_is_refused_with_the_reason(change, message):
    with pytest.raises(Refused, match=message):
        support_configuration_from({"output": "run", "folder": "data", **change})


def test_the_command_line_writes_the_map_beside_the_image(own_model, heads, tmp_path, head):
    saved = train_support(configured(tmp_path, heads, own_model, steps=1), report=quiet)
    add_support(checkpoints.load(saved), own_model)
    source, target, believed = (tmp_path / f"{name}.nrrd" for name in ("us", "mr", "support"))
    head.write(source)
    assert cli.main(["synthesize", str(source), str(target), "--model", str(own_model), "--unreliable",
                     "--support", str(believed)]) == 0  # fmt: skip
    map_, image = Volume.read(believed), Volume.read(target)
    assert map_.shape == image.shape and 0 <= map_.array.min() and map_.array.max() <= 1
    assert "SYNTHETIC" in json.dumps(dict(map_.metadata)) or (tmp_path / "support.json").is_file()
