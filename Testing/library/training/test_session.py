"""The loop that all trainings share, with a training of one number."""

from __future__ import annotations

import csv
import runpy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.common import config as config_module
from USMRISynthesisLib.training.common.config import RunConfig
from USMRISynthesisLib.training.common.networks import TrainedNetworks
from USMRISynthesisLib.training.common.session import Evaluation, Session, Training


@dataclass(frozen=True, kw_only=True)
class NumberConfig(RunConfig):
    TASK: ClassVar[str] = "number"
    task: str = TASK
    steps: int = 8
    precision: str = "fp32"
    log_every: int = 2
    checkpoint_every: int = 100
    rate: float = 0.1


class NumberTraining(Training[float]):
    """A weight on its way to the batches' values."""

    prefetched = True

    def __init__(self, session: Session[NumberConfig], *, scores: tuple[float, ...] = (), evaluation_s: float = 0.0):
        self.session, self.cases = session, ["one"]
        network = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(network.weight)
        self.learnt = TrainedNetworks(
            {"number": network}, lambda weights: torch.optim.SGD(weights, lr=1), ema=0.5, largest_gradient=1.0
        )
        self.parts = {**self.learnt.parts()}
        self.facts = {"note": "first"}
        self.rates: list[float] = []
        self.scores, self.evaluation_s = list(scores), evaluation_s

    def batch(self, number: int) -> float:
        return float(number % 3)

    def step(self, batch: float) -> None:
        self.session.set_rate(self.session.config.rate, *self.learnt.optimisers.values())
        self.rates.append(self.session.rate)
        loss = (self.learnt.networks["number"](torch.ones(1, 1)) - batch).square().mean()
        self.session.require_finite(loss)
        self.learnt.step(loss, ["number"])
        self.session.latest["loss"] = float(loss)

    def evaluation_is_due(self) -> bool:
        return bool(self.scores)

    def evaluate(self) -> Evaluation | None:
        time.sleep(self.evaluation_s)
        return Evaluation({"score": self.scores[0]}, self.scores.pop(0)) if self.scores else None


def config_of(tmp_path: Path, **changes: object) -> NumberConfig:
    return NumberConfig(output=str(tmp_path / "run"), **changes)  # type: ignore[arg-type]


def session_of(config: NumberConfig, **options: object) -> Session[NumberConfig]:
    return Session(config, report=str, **options)  # type: ignore[arg-type]


def test_the_rate_is_constant_over_the_first_half_and_then_falls_to_zero(tmp_path: Path) -> None:
    session = session_of(config_of(tmp_path))
    training = NumberTraining(session)
    session.run(training)
    assert training.rates == pytest.approx([0.1] * 5 + [0.075, 0.05, 0.025])


def test_a_run_stopped_anywhere_ends_as_one_in_one_go(tmp_path: Path) -> None:
    whole = session_of(config_of(tmp_path / "whole"))
    expected = checkpoint.load(whole.run(NumberTraining(whole)))
    for stop in (1, 4, 7):
        config, calls = config_of(tmp_path / str(stop)), iter(range(100))
        stopped = session_of(config, cancel=lambda calls=calls, stop=stop: next(calls) == stop - 1)
        with pytest.raises(Cancelled, match=f"step {stop};"):
            stopped.run(NumberTraining(stopped))
        again = session_of(config)
        found = checkpoint.load(again.run(NumberTraining(again)))
        for kind in ("networks", "averaged"):
            weights = expected[kind]["number"]
            assert all(torch.equal(value, found[kind]["number"][name]) for name, value in weights.items())
        assert found["trained"] == expected["trained"] == {"number": 8} and found["note"] == "first"
        rows = [list(csv.DictReader((tmp_path / name / "run" / "log.csv").open())) for name in ("whole", str(stop))]
        assert [[row["step"], row["loss"], row["rate"]] for row in rows[0]] == [
            [row["step"], row["loss"], row["rate"]] for row in rows[1]
        ]


def test_a_run_that_is_over_trains_no_further(tmp_path: Path) -> None:
    first = session_of(config_of(tmp_path))
    saved = first.run(NumberTraining(first))
    before = saved.read_bytes()
    again = session_of(config_of(tmp_path))
    training = NumberTraining(again)
    assert again.run(training) == saved and not training.rates and saved.read_bytes() == before


def test_an_evaluation_beyond_the_time_limit_still_ends_with_a_checkpoint(tmp_path: Path) -> None:
    session = session_of(config_of(tmp_path, steps=100000), minutes=0.2 / 60)
    training = NumberTraining(session, scores=(1.0,), evaluation_s=0.4)
    content = checkpoint.load(session.run(training))
    assert content["step"] == session.step == len(training.rates) and content["elapsed_s"] >= 0.4
    assert training.rates[-1] == 0.0  # never below


def test_best_is_of_the_highest_score_and_holds_its_figures(tmp_path: Path) -> None:
    session = session_of(config_of(tmp_path))
    session.run(NumberTraining(session, scores=(0.1, 0.9, 0.5)))
    best = checkpoint.load(tmp_path / "run" / checkpoint.BEST)
    assert best["figures"] == {"score": 0.9} and best["step"] == 2 and "networks" not in best
    with (tmp_path / "run" / "evaluation.csv").open() as file:
        assert [row["score"] for row in csv.DictReader(file)] == ["0.1", "0.9", "0.5"]


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path: Path) -> None:
    session = session_of(config_of(tmp_path))
    training = NumberTraining(session)
    training.batch = lambda number: float("nan") if number == 3 else 0.0  # type: ignore[method-assign]
    with pytest.raises(Failed, match="no number at step 3") as failed:
        session.run(training)
    assert failed.value.remedy == "Lower rate."


def test_a_gradient_that_is_no_number_leaves_the_network_as_it_is() -> None:
    learnt = TrainedNetworks(
        {"one": torch.nn.Linear(1, 1)}, lambda weights: torch.optim.SGD(weights, lr=1), ema=0.5, largest_gradient=1.0
    )
    before = {name: value.clone() for name, value in learnt.networks["one"].state_dict().items()}
    learnt.step(learnt.networks["one"](torch.full((1, 1), float("inf"))).sum() * 0, ["one"])
    assert learnt.trained == {"one": 0}
    assert all(torch.equal(value, before[name]) for name, value in learnt.networks["one"].state_dict().items())


def test_another_run_in_the_folder_is_refused_by_the_changed_key(tmp_path: Path) -> None:
    session = session_of(config_of(tmp_path))
    session.run(NumberTraining(session))
    with pytest.raises(Refused, match="rate changed"):
        session_of(config_of(tmp_path, rate=0.2))
    with pytest.raises(Refused, match="already holds a run"):
        session_of(config_of(tmp_path), resume=False)


def test_training_cases_that_changed_are_reported(tmp_path: Path) -> None:
    session = session_of(config_of(tmp_path))
    session.run(NumberTraining(session))
    lines: list[str] = []
    longer = Session(config_of(tmp_path, steps=9), report=lines.append)
    training = NumberTraining(longer)
    training.cases = ["another"]
    longer.run(training)
    assert any("the training cases have changed" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps must be positive"),
        ({"log_every": 0}, "log_every must be positive"),
        ({"ema": 1.0}, "ema must lie"),
        ({"minutes": -1.0}, "minutes and seed"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"task": "synthesis"}, "task must be 'number'"),
        ({"TASK": "number"}, "TASK is not known"),
    ],
)
def test_what_every_run_needs_is_checked_for_all_alike(changes: dict, words: str) -> None:
    with pytest.raises(Refused, match=words):
        NumberConfig.from_json({"output": "run", **changes})


def test_before_python_3_11_toml_is_read_through_tomli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tomli = ModuleType("tomli")
    tomli.loads = lambda text: {"read_by": "tomli", "text": text}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tomli", tomli)
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    older = runpy.run_path(config_module.__file__, run_name="config_of_python_3_10")
    (tmp_path / "run.toml").write_text("steps = 3")
    assert older["read_table"](tmp_path / "run.toml") == {"read_by": "tomli", "text": "steps = 3"}
