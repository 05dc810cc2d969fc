"""Heads whose echogenicities and boundaries are drawn anew, and the scatter model that nothing is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.simulation.anatomy import labels as names
from USMRISynthesisLib.simulation.config import DatasetConfig
from USMRISynthesisLib.simulation.scanner import physics
from USMRISynthesisLib.simulation.scanner.acoustics import MEMBRANE, SCATTER
from USMRISynthesisLib.simulation.scanner.physics import Sampling, with_side_lobes
from USMRISynthesisLib.simulation.scanner.randomised import Randomisation, randomise
from USMRISynthesisLib.simulation.scanner.volume import AcquisitionRanges, Machine


def labelled() -> np.ndarray:
    """A block of white matter with a ventricle in it, in fluid, in maternal tissue."""
    labels = np.full((24, 24, 24), names.MATERNAL, np.uint8)
    labels[3:21, 3:21, 3:21] = names.EXTERNAL_CSF
    labels[6:18, 6:18, 6:18] = names.WHITE_MATTER
    labels[10:14, 10:14, 10:14] = names.VENTRICLES
    return labels


def maps_of(labels: np.ndarray) -> np.ndarray:
    maps = np.zeros((6, *labels.shape), np.float32)
    maps[SCATTER] = 0.1
    return maps


def test_tissues_change_and_the_mother_does_not() -> None:
    labels = labelled()
    still = Randomisation(fields=(0.0, 0.0))
    ratios = [randomise(maps_of(labels), labels, seed, still)[SCATTER] / 0.1 for seed in range(8)]
    contrast = [np.log(ratio[12, 12, 12] / ratio[7, 7, 7]) for ratio in ratios]
    assert np.std(contrast) > 0.3  # ventricle against white matter is another thing in each head
    assert all(abs(ratio[0, 0, 0] - 1) < 1e-5 for ratio in ratios)


def test_a_head_repeats_by_its_seed() -> None:
    labels = labelled()
    first, again, other = (randomise(maps_of(labels), labels, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_boundaries_lie_between_tissues_inside_the_skull_only() -> None:
    labels = labelled()
    shining = Randomisation(boundary=(1.0, 1.0), boundary_share=(1.0, 1.0))
    sheets = np.max([randomise(maps_of(labels), labels, seed, shining)[MEMBRANE] for seed in range(6)], axis=0)
    assert sheets[9:11, 12, 12].max() > 0.1  # the ventricle's wall
    assert sheets[12, 8, 8] < 0.02  # the middle of the white matter
    assert sheets[2:4, 12, 12].max() < 0.02 * sheets.max() + 1e-3  # fluid against maternal tissue


def test_randomised_machine_leaves_the_t2_scatter_model_to_the_check() -> None:
    draws = [Machine(randomised=True).draw(AcquisitionRanges(), np.random.default_rng(n), n) for n in range(30)]
    assert all(draw["t2_scatter"] == 0 and "point_share" not in draw for draw in draws)
    check = Machine(scatter="points").draw(AcquisitionRanges(), np.random.default_rng(1), 1)
    assert check["t2_scatter"] == 1 and 0 < check["point_share"] < 0.5 and check["side_lobes"] > 0


def test_usual_machine_draws_what_it_always_drew() -> None:
    ranges = AcquisitionRanges()
    assert Machine().draw(ranges, np.random.default_rng(5), 5) == ranges.draw(np.random.default_rng(5))


def test_few_scatterers_make_speckle_that_is_not_rayleigh() -> None:
    draw = AcquisitionRanges().draw(np.random.default_rng(0))
    depths = 30.0 + torch.arange(120) * 0.34
    sampling = Sampling(0.34, depths * 0.007, depths * 0.009)

    def ratio(settings: dict[str, float]) -> float:
        image = physics.speckle(torch.ones(120, 64, 32), sampling, settings, torch.Generator().manual_seed(1))
        return float(image.mean() / image.std())

    assert ratio(draw) == pytest.approx(1.91, abs=0.12)
    assert ratio(draw | {"point_share": 0.02, "side_lobes": 0.2}) < 1.6


def test_side_lobes_keep_the_sum_and_reach_beyond_the_main_lobe() -> None:
    kernel = physics.gaussian(1.5)
    wide = with_side_lobes(kernel, 0.3)
    assert sum(wide) == pytest.approx(1) and len(wide) > len(kernel) and min(wide) < 0
    assert wide == pytest.approx(wide[::-1])


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [("randomised", "yes", "must be true or false"), ("scatter_model", "waves", "must be one of speckle, points")],
)
def test_wrong_machine_is_refused_by_name(tmp_path: Path, key: str, value: str, sentence: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"splits": {"train": {"cases": 1, "atlases": ["GA21-made"], key: value}}}))
    with pytest.raises(Refused, match=sentence):
        DatasetConfig.read(path, ["GA21-made"])


def test_machine_of_a_split_is_that_of_its_heads(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    split = {"cases": 2, "atlases": ["GA21-made"], "randomised": True}
    path.write_text(json.dumps({"splits": {"train": split}}))
    heads = DatasetConfig.read(path, ["GA21-made"]).splits["train"]
    assert [head.machine for head in heads] == [Machine(randomised=True)] * 2
