"""Runs over heads: kept and taken up again, failures and successes counted, differences with the right sign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.registration import grid, head, labelled, volume
from scipy import ndimage
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.evaluation.registration import evaluate as registration
from USMRISynthesisLib.evaluation.registration import methods, summary
from USMRISynthesisLib.evaluation.registration.settings import CORRELATION, MUTUAL, Settings
from USMRISynthesisLib.evaluation.registration.subjects import Subject
from USMRISynthesisLib.evaluation.registration.targets import SAME, SURFACES, same_head, surface

OURS, DIRECT, ATLAS = (
    "MR-like, correlation (SimpleITK)",
    "ultrasound, mutual information (SimpleITK)",
    "fitted atlas, correlation (SimpleITK)",
)
FAST = Settings(shrink=(4,), smooth_mm=(2.0,), iterations=15)


def row(method: str, tre: float, **more: Any) -> dict[str, Any]:
    base = {"target": SAME, "start": "0", "start_mm": 12.0, "best_rigid_mm": 1.0, "failed": False, "seconds": 0.5}
    return base | {"method": method, "tre": tre, "places": [[0.0, 0, tre]], "surface": tre / 2} | more


def heads(*errors: dict[str, float], **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "head": f"h{n}",
            "real": False,
            "accepted": True,
            "rows": [row(name, tre, **more) for name, tre in one.items()],
        }
        for n, one in enumerate(errors)
    ]


def test_a_method_that_is_better_on_every_head_wins_with_an_interval_above_0() -> None:
    found = summary.summarise(heads({OURS: 1, DIRECT: 4, ATLAS: 3}, {OURS: 2, DIRECT: 6, ATLAS: 3}), "made-up heads")
    assert found["winner"].startswith(f"Over 2 simulated heads the smallest mean landmark error has {OURS}: 1.5 mm")
    assert f"then {ATLAS}: 3.0 mm" in found["winner"] and "decides nothing" not in found["winner"]
    better = found[f"{SAME}: error minus that of the best with the MR-like image, mm"]
    assert better[DIRECT]["difference_mm"][0] == pytest.approx(3.5)
    assert better[DIRECT]["difference_mm"][1] > 0


def test_a_rival_that_wins_is_named_and_the_difference_may_decide_nothing() -> None:
    text = summary.summarise(heads({OURS: 3, ATLAS: 1}, {OURS: 4, ATLAS: 2}), "")["winner"]
    assert f"has {ATLAS}: 1.5 mm" in text
    even = summary.summarise(heads({OURS: 3, ATLAS: 1}, {OURS: 1, ATLAS: 2.5}), "")["winner"]
    assert "decides nothing" in even


def test_a_failure_is_no_success_however_near_it_started() -> None:
    good, failed = row(OURS, 1.0), row(OURS, 1.0, failed=True)
    assert summary.succeeded(good) and not summary.succeeded(failed)
    assert not summary.succeeded(row(OURS, summary.SUCCESS_MM + 0.1))
    figures = summary.table_of([{**good, "head": "a"}, {**failed, "head": "b"}])[OURS]
    assert figures["success_share"] == 0.5 and figures["failed_share"] == 0.5


def test_successes_are_counted_by_the_distance_of_the_start() -> None:
    rows = [row(OURS, 1, start_mm=3), row(OURS, 9, start_mm=12), row(OURS, 2, start_mm=14)]
    assert summary.capture(rows) == {OURS: {"0-5 mm": "1 of 1", "10-15 mm": "1 of 2"}}


def test_the_spread_over_starts_is_of_places_not_of_errors() -> None:
    """Two starts that lead to opposite places with the same error are not repeatable."""
    rows = [{**row(OURS, 2.0, start=str(n), places=[[0, 0, side]]), "head": "a"} for n, side in enumerate((2, -2))]
    assert summary.spread(rows)[OURS]["spread_mm"] == pytest.approx(2.0)


def subject(name: str = "made") -> Subject:
    """A head whose MR-like image is its true MR, and whose ultrasound is noise."""
    image, _ = head()
    truth, rng = labelled(), np.random.default_rng(0)
    noise = volume(rng.uniform(size=image.shape))
    distances = {
        key: ndimage.distance_transform_edt(~surface(np.isin(truth.labels, members)), sampling=(1.8, 1.2, 1.5))
        for key, members in SURFACES.items()
    }
    images = {methods.US: noise, methods.MADE: volume(1000 * image), methods.TRUE: volume(1000 * image)}
    target = same_head(image, truth, rng)
    return Subject(name, 25, False, True, images, (target,), np.eye(4), distances, np.linalg.inv(grid()))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods, and an estimated pose that is right."""
    chosen = (methods.Method(methods.US, MUTUAL, methods.ITK), methods.Method(methods.MADE, CORRELATION, methods.ITK))
    monkeypatch.setattr(registration, "METHODS", chosen)
    monkeypatch.setattr(registration, "pose_alone", lambda subject, target: (np.eye(4), True))


@pytest.mark.usefixtures("few")
def test_each_method_is_measured_from_each_start_and_from_the_pose() -> None:
    plan = registration.Plan(starts=2, deformable=())
    (found,) = registration.evaluate([("made", subject)], plan, settings=FAST)
    keys = {(one["start"], one["method"]) for one in found["rows"]}
    assert {("0", DIRECT), ("1", OURS), ("pose", OURS), ("pose", summary.POSE_ALONE), ("0", summary.START)} <= keys
    by = {(one["start"], one["method"]): one for one in found["rows"]}
    assert by["1", OURS]["tre"] < 0.6 * by["1", summary.START]["tre"]
    assert by["1", OURS]["surface"] < by["1", summary.START]["surface"]
    assert by["1", summary.START]["tre"] == pytest.approx(by["1", OURS]["start_mm"])


@pytest.mark.usefixtures("few")
def test_a_stopped_run_goes_on_and_other_settings_are_refused(tmp_path: Path) -> None:
    plan = registration.Plan(starts=1, from_pose=False, deformable=())
    calls = []

    def make() -> Subject:
        calls.append(1)
        return subject()

    first = registration.evaluate([("made", make)], plan, settings=FAST, folder=tmp_path)
    again = registration.evaluate([("made", make)], plan, settings=FAST, folder=tmp_path)
    assert len(calls) == 1
    assert again == json.loads(json.dumps(first))
    with pytest.raises(Refused, match="measured with other settings"):
        registration.evaluate([("made", make)], registration.Plan(starts=2), settings=FAST, folder=tmp_path)
    (tmp_path / "made.json").write_text("{")
    with pytest.raises(Refused, match="no head that was kept"):
        registration.evaluate([("made", make)], plan, settings=FAST, folder=tmp_path)


def test_a_higher_limit_adds_heads_to_those_of_a_lower_one() -> None:
    assert registration.spread_order(14)[:4] == [0, 8, 4, 12]
    assert sorted(registration.spread_order(14)) == list(range(14))
    assert registration.spread_order(1) == [0] and registration.spread_order(0) == []
    sources = [(f"h{n}", lambda: None) for n in range(5)]
    plan = registration.Plan.quick()
    few, more = (
        [one["head"] for one in registration.evaluate(sources, plan, settings=FAST, limit=limit)] for limit in (2, 3)
    )
    assert few == ["h0", "h4"] and more[:2] == few


def test_a_head_of_which_nothing_is_made_is_counted() -> None:
    found = registration.evaluate([("none", lambda: None)], registration.Plan.quick(), settings=FAST)
    assert found[0]["rows"] == [] and found[0]["accepted"] is False
    assert summary.summarise(found, "made-up heads")["heads"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--starts", "0"), "At least one start"), (("--cases", "nowhere"), "holds no simulated cases")],
)
def test_the_command_refuses_with_a_reason(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "registration", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_picture_shows_every_head(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `registration`)")
    from PIL import Image
    from USMRISynthesisLib.evaluation.pictures.registration import draw

    draw(heads({OURS: 1, DIRECT: 4}, {OURS: 2, DIRECT: 6}), tmp_path / "a.png")
    draw(heads({OURS: 1, DIRECT: 4}), tmp_path / "b.png")
    first, second = (np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("a.png", "b.png"))
    assert first.shape[1] > 1000 and not np.array_equal(first, second)
