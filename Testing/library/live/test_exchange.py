"""The worker's operation "live": pictures as files, answers as JSON, and sentences for what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories.live import HEAD, NO_HEAD, HeldRunner, NumberedEngine, number_in, picture
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.live import engine as real_engine
from USMRISynthesisLib.live import session as live_session
from USMRISynthesisLib.live.exchange import MR, ULTRASOUND, LiveExchange
from USMRISynthesisLib.live.mark import burn_in, stamp


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> LiveExchange:
    made: list[tuple[Any, ...]] = []

    def build(*choices: Any, **more: Any) -> NumberedEngine:
        made.append((*choices, *more.values()))
        return NumberedEngine()

    monkeypatch.setattr(real_engine, "Engine", build)
    monkeypatch.setattr(real_engine, "use_one_thread", lambda: None)  # it loads torch, and is the process's own
    monkeypatch.setattr(live_session, "BackgroundRunner", HeldRunner)
    found = LiveExchange()
    found.made = made  # type: ignore[attr-defined]
    return found


def request(folder: Path, number: int, kind: int = HEAD, **more: Any) -> dict[str, Any]:
    one = picture(number, kind, (70, 80))
    one.array.tofile(folder / ULTRASOUND)
    return {
        "op": "live", "folder": str(folder), "size": [70, 80], "type": "uint16",
        "grid": one.ijk_to_ras.ravel().tolist(), "waited": 0.02, **more,
    }  # fmt: skip


def test_a_picture_becomes_an_image_and_an_answer(exchange: LiveExchange, tmp_path: Path) -> None:
    answer = exchange.answer(request(tmp_path, 7))
    image = np.fromfile(tmp_path / MR, np.int16).reshape(1, 70, 80)
    assert number_in(image) == 7 and answer["state"] == "live" and answer["image"] is True
    assert answer["taken_s"] == pytest.approx(0.02) and answer["number"] == 1 and answer["confidence"] == 0.9
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer


def test_without_a_picture_it_tells_what_is_shown_now(exchange: LiveExchange, tmp_path: Path) -> None:
    exchange.answer(request(tmp_path, 7))
    answer = exchange.answer({"op": "live", "folder": str(tmp_path)})
    assert answer["number"] == 1 and answer["image"] is True and answer["taken_s"] >= 0.02


def test_a_blank_view_has_no_image(exchange: LiveExchange, tmp_path: Path) -> None:
    answer = exchange.answer(request(tmp_path, 7, NO_HEAD))
    assert (answer["state"], answer["image"], answer["taken_s"]) == ("blank", False, None)
    assert answer["reason"] == "Picture 7 shows no brain. Move the probe." and not (tmp_path / MR).exists()


def test_other_choices_and_a_restart_begin_anew(exchange: LiveExchange, tmp_path: Path) -> None:
    numbers = [
        exchange.answer(request(tmp_path, n, **more))["number"]
        for n, more in enumerate([{}, {}, {"median": 3}, {"median": 3}, {"median": 3, "restart": True}])
    ]
    assert numbers == [1, 2, 1, 2, 1]
    assert len(exchange.made) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change",
    [
        {"size": [70, 81]}, {"size": [0, 80]}, {"size": "wide"}, {"size": [1 << 13, 1 << 13]}, {"type": "object"},
        {"type": "uint8"}, {"grid": [0.0] * 16}, {"grid": [1]}, {"grid": None}, {"median": 0}, {"median": True},
        {"folder": "here"}, {"folder": None},
    ],
)  # fmt: skip
def test_what_is_no_request_is_a_sentence(exchange: LiveExchange, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(Failed) as caught:
        exchange.answer(request(tmp_path, 1) | change)
    assert caught.value.kind == "request"


@pytest.mark.parametrize("waited", ["long", True, -1, None])
def test_a_waiting_time_that_is_none_counts_as_none(exchange: LiveExchange, tmp_path: Path, waited: object) -> None:
    assert exchange.answer(request(tmp_path, 1, waited=waited))["taken_s"] == 0


def test_the_mark_is_legible_and_the_image_below_it_untouched() -> None:
    image = np.full((1, 480, 640), 400, np.int16)
    marked = burn_in(image, "frozen")
    rows = np.flatnonzero((marked[0] != 400).any(axis=1))
    assert rows[0] == 0 and rows[-1] < 20 and (image == 400).all()
    letters = stamp("SYNTHETIC - not for diagnosis - frozen", 1)
    assert np.array_equal(marked[0, : letters.shape[0], : letters.shape[1]] == 1000, letters)
    assert letters[1:8, 1:6].astype(int).tolist() == [
        [0, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 1, 0],
        [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 0],
    ]  # fmt: skip
    assert burn_in(np.zeros((1, 64, 64), np.int16)).any()  # cut where it does not fit
