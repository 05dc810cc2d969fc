"""Several processes train as one with the same whole batch; and the discriminators are watched."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from factories import training as made_training
from factories.training import configure, make_data
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.common.distributed import Processes, processes
from USMRISynthesisLib.training.run import train
from USMRISynthesisLib.training.synthesis.augmentation import AugmentationConfig, augment
from USMRISynthesisLib.training.synthesis.collapse import CollapseWatch, accuracies
from USMRISynthesisLib.training.synthesis.networks import Discriminators, EdgeNet
from USMRISynthesisLib.training.synthesis.objective import ObjectiveConfig


class _OneOfTwo(Processes):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.count = rank, 2


def test_alone_a_process_keeps_the_whole_batch_and_needs_no_fabric():
    alone = processes()
    assert alone.is_first and alone.part(7) == slice(0, 7) and alone.share(torch.zeros(7), slice(0, 7)) == 1.0
    image = torch.rand(7, 1, 4, 4)
    assert alone.gathered(image, 7).data_ptr() == image.data_ptr() and alone.agreed(3) == 3
    assert "lightning_fabric" not in sys.modules


def test_parts_weigh_as_the_whole_batch_does():
    has_truth = torch.tensor([True, False, True, True, False, True, True])
    values, mean, wanted = torch.arange(7.0), 0.0, torch.arange(7.0)[has_truth].mean()
    for rank in (0, 1):
        one = _OneOfTwo(rank)
        part = one.part(7)
        mean += float(one.share(has_truth, part) * values[part][has_truth[part]].mean() / 2)
    assert mean == pytest.approx(float(wanted))
    assert _OneOfTwo(0).share(torch.zeros(7), slice(0, 3)) == 0.0


def test_a_batch_smaller_than_the_processes_is_refused():
    with pytest.raises(Refused, match="2 processes"):
        _OneOfTwo(0).part(1)


def test_a_part_is_augmented_as_in_the_whole():
    images, config = torch.rand(5, 1, 16, 16), AugmentationConfig()
    torch.manual_seed(0)
    whole = augment(images, config)
    for part in (slice(0, 2), slice(2, 5)):
        torch.manual_seed(0)
        assert torch.equal(augment(images[part], config, 5, part), whole[part])


def test_two_processes_give_the_weights_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Three samples, so that the parts differ in size and in truths. Spectral norm: the biases before an instance norm
    have no gradient but rounding, which Adam blows up to its rate.
    """
    if importlib.util.find_spec("lightning_fabric") is None:
        pytest.skip("lightning-fabric is not installed")
    text = made_training.TOML.replace("[discriminators]", "[discriminators]\nspectral = true")
    monkeypatch.setattr(made_training, "TOML", text)
    (tmp_path / "data").mkdir()
    data = make_data(tmp_path / "data")
    one = train(configure(tmp_path, data, steps=6, output="one"), report=str)
    config = configure(tmp_path, data, steps=6, output="two")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, "--module", "USMRISynthesisLib.cli", "train", str(config)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall("Wrote", done.stdout)) == 1  # the first process alone speaks
    a, b = checkpoint.load(one), checkpoint.load(tmp_path / "two" / "checkpoint.pt")
    for part in ("generator", "averaged", "backward", "discriminators"):
        for name, value in a[part].items():
            assert torch.allclose(value.float(), b[part][name].float(), rtol=0, atol=1e-5), (part, name)
    for pool in ("pool_mr", "pool_us"):
        for first, second in zip(a[pool]["kept"], b[pool]["kept"], strict=True):
            assert torch.allclose(first, second, rtol=0, atol=1e-4)  # images, through tanh
    assert torch.equal(a["random"]["torch"], b["random"]["torch"])
    assert a["random"]["numpy"] == b["random"]["numpy"]


# --- collapse


def test_accuracy_is_one_for_a_judge_that_knows_and_a_half_for_one_that_says_the_same_to_all():
    judges = Discriminators(4, 2, spectral=True)
    before = {name: value.clone() for name, value in judges.state_dict().items()}
    bright, dark = torch.full((2, 1, 32, 32), 0.8), torch.full((2, 1, 32, 32), -0.8)
    found = accuracies(judges, EdgeNet(), bright, bright, ObjectiveConfig(stru=0.0))
    assert found == {"accuracy_app": pytest.approx(0.5)} and judges.training
    assert all(torch.equal(value, before[name]) for name, value in judges.state_dict().items())

    class Knows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * self.weight

    sure = torch.nn.ModuleDict({"app": Knows()})
    assert accuracies(sure, EdgeNet(), bright, dark, ObjectiveConfig(stru=0.0)) == {"accuracy_app": 1.0}
    assert accuracies(judges, EdgeNet(), bright[:0], dark, ObjectiveConfig()) == {}


@pytest.mark.parametrize(("value", "words"), [(1.0, "almost always"), (0.5, "only guesses")])
def test_a_discriminator_that_stays_extreme_is_warned_of(value, words):
    watch = CollapseWatch()
    warnings = [watch.warnings({"accuracy_stru": value, "l1": 0.0}) for _ in range(3)]
    assert warnings[:2] == [[], []] and words in warnings[2][0] and "stru" in warnings[2][0]
    assert watch.warnings({"accuracy_stru": 0.8}) == [] == watch.warnings({"accuracy_stru": value})
