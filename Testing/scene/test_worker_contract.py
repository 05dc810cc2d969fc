"""The stand-ins for the worker answer as the real one does: the same events in the same order, the same result.

What a test of the panel or of a batch says about a stand-in holds for the product only as long as this holds.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from played_worker import PlayedWorker
from scenery import NARROW, REPOSITORY, WIDE, head_array, spin_until
from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisScene.runs.worker_process import WorkerProcess

Events = list[dict[str, Any]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A frame, and its true fan."""
    array = head_array((3, 200, 180), (1.0, 0.6, 0.6))[1:2]
    matrix = np.diag([0.6, 0.6, 1.0, 1.0])
    matrix[:3, 3] = (-54, -60, 5)
    Volume(array, matrix).write(tmp_path / "input.nrrd")
    return tmp_path / "input.nrrd"


def request(source: Path, name: str, **fields: Any) -> dict[str, Any]:
    folder = source.parent / name
    folder.mkdir()
    return {
        "op": "synthesize",
        "input": str(source),
        "output": str(folder / "output.nrrd"),
        "model": "copy",
        "device": "cpu",
        "planes": "axial",
        "transform": None,
        "trust_model": False,
        "unreliable": True,
        "gestational_age": 24.0,
        "confidence": str(folder / "confidence.nrrd"),
        "masks": str(folder / "masks.nrrd"),
        **fields,
    }


def heard(worker: Any, job: dict[str, Any]) -> Events:
    events: Events = []
    worker.send(job, events.append)
    spin_until(lambda: bool(events) and events[-1]["event"] in ("done", "error"), 120)
    worker.shutdown()
    return events


def batch_stand_in(job: dict[str, Any]) -> Events:
    """The worker of the batch's tests, whose answer is a return value or an exception."""
    place = importlib.util.spec_from_file_location("batch_tests", REPOSITORY / "Testing/library/batch/test_batch.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    events: Events = []
    fields = {key: value for key, value in job.items() if key not in ("op", "confidence", "masks")}
    result = module.Worker().request(job["op"], on_event=events.append, cancel=lambda: False, **fields)
    return [*events, {"event": "done", "result": result}]


def kinds(value: Any) -> str:
    """A type, where numbers are numbers."""
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def without_repeats(events: Events) -> list[str]:
    names = [event["event"] for event in events if event["event"] != "log"]
    return [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]


def scripted() -> WorkerProcess:
    return WorkerProcess(sys.executable, [str(Path(__file__).with_name("scripted_worker.py"))])


def test_stand_ins_give_the_events_and_the_result_of_the_real_worker(source: Path, model: Path) -> None:
    real = heard(WorkerProcess(), request(source, "real", model=str(model)))
    assert without_repeats(real) == ["progress", "done"], real[-1]
    result = real[-1]["result"]
    assert set(result) == {
        "output",
        "confidence",
        "masks",
        "ras_to_canonical",
        "trusted",
        "score",
        "method",
        "provenance",
    }
    for name, events in {
        "scripted": heard(scripted(), request(source, "scripted")),
        "played": heard(PlayedWorker(), request(source, "played")),
        "batch": batch_stand_in(request(source, "batch")),
    }.items():
        assert without_repeats(events) == ["progress", "done"], name
        for event in events:
            if event["event"] == "progress":
                assert 0 <= event["value"] <= 1 and isinstance(event["stage"], str), name
        answer = events[-1]["result"]
        assert set(answer) == set(result), name
        for key, value in answer.items():
            if value is not None:  # an output that was not requested
                assert kinds(value) == kinds(result[key]), (name, key)
        for key, value in answer["provenance"].items():
            assert key in result["provenance"] and kinds(value) == kinds(result["provenance"][key]), (name, key)
            if isinstance(value, dict) and value and key != "input":
                assert set(value) <= set(result["provenance"][key]), (name, key)


@pytest.mark.parametrize(
    ("name", "low", "high", "kind"), [("output", 0, 1000, "ui"), ("confidence", 0, 1, "f"), ("masks", 0, 2, "u")]
)
def test_files_of_the_stand_ins_have_the_ranges_of_the_real_ones(
    name: str, low: float, high: float, kind: str, source: Path, model: Path
) -> None:
    image = Volume.read(source)
    for maker, job in (
        (WorkerProcess(), request(source, "real", model=str(model))),
        (scripted(), request(source, "scripted")),
        (PlayedWorker(), request(source, "played")),
    ):
        assert heard(maker, job)[-1]["event"] == "done"
        made = Volume.read(job[name])
        np.testing.assert_allclose(made.ijk_to_ras, image.ijk_to_ras, atol=1e-6)
        assert made.shape == image.shape and made.array.dtype.kind in kind
        assert low <= made.array.min() < made.array.max() <= high


@pytest.mark.parametrize("opening", [WIDE, NARROW])
def test_masks_of_the_real_worker_are_the_fan_and_the_head_in_it(opening: float, source: Path, model: Path) -> None:
    """Also where the head reaches beyond the fan, with its place given."""
    image = Volume.read(source)
    array = head_array((3, 200, 180), (1.0, 0.6, 0.6), opening=opening)[1:2]
    Volume(array, image.ijk_to_ras).write(source)
    place = np.eye(4)
    place[:3, 3] = -(image.ijk_to_ras @ [89.5, 99.5, 0, 1])[:3]
    job = request(source, "real", model=str(model), transform=place.ravel().tolist())
    assert heard(WorkerProcess(), job)[-1]["event"] == "done"
    masks, seen = Volume.read(job["masks"]).array, Volume.read(job["confidence"]).array
    _k, j, i = np.indices(masks.shape)
    x, y = 0.6 * (i - 89.5), 0.6 * (j - 99.5)
    fan, head = array > 0, (x / 34) ** 2 + (y / 44) ** 2 < 1
    assert ((head & ~fan).sum() > 0.02 * head.sum()) == (opening == NARROW)
    assert np.mean((masks >= 1) == fan) > 0.98 and set(np.unique(masks)) == {0, 1, 2}
    assert np.mean((masks == 2) == (head & fan)) > 0.97
    np.testing.assert_array_equal(masks == 2, (masks >= 1) & (seen > 0))
    assert not Volume.read(job["output"]).array[~(masks == 2)].any()


@pytest.mark.parametrize("part", ["refuse", "foreign"])
def test_stand_ins_give_errors_in_the_words_of_the_real_worker(part: str, source: Path, model: Path) -> None:
    flat = source.with_name("flat.nrrd")
    Volume(np.zeros((1, 40, 40), np.uint8), np.eye(4)).write(flat)
    real = heard(WorkerProcess(), request(flat, "real", model=str(model)))[-1]
    for maker in (scripted(), PlayedWorker()):
        answer = heard(maker, request(source, type(maker).__name__, model=part))[-1]
        assert answer["event"] == real["event"] == "error" and answer["category"] == real["category"] == "refused"
        assert {key for key in real if key != "id"} <= set(answer)
        assert all(isinstance(answer[key], str) for key in ("kind", "message", "remedy"))


def test_a_request_with_a_number_that_is_none_is_answered_by_the_clients(source: Path) -> None:
    from USMRISynthesisLib.worker.client import WorkerProcess as LibraryWorker

    job = request(source, "none", transform=[float("nan")] * 16)
    assert heard(WorkerProcess(), job)[-1]["kind"] == "request"
    with LibraryWorker() as worker, pytest.raises(USMRIError, match="cannot be sent"):
        worker.request(job.pop("op"), **job)
    assert slicer.mrmlScene is not None
