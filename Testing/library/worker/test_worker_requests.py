"""Whatever arrives on the worker's input, the worker answers and hears the next request."""

from __future__ import annotations

import io
import json
import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import Synthesis
from USMRISynthesisLib.worker.request import MAX_LINE, check_fields, identity_of, lines, parse, reliability_path
from USMRISynthesisLib.worker.serve import Worker

MAIN = Path(__file__).parents[3] / "USMRISynthesis" / "USMRISynthesisLib" / "worker" / "__main__.py"
NOT_A_REQUEST = [
    b"not json",
    b"[1, 2]",
    b"null",
    b"\x00\x01\xff\xfe\x80",
    "\ufeff{}".encode("utf-16"),
    b"[" * 200_000,
    b'{"id": ' * 100_000,
    b'{"id": NaN, "op": "ping"}',
    b'{"id": 1, "op": "ping", "spacing": Infinity}',
    b"1" * 5000,
    b"x" * (3 * MAX_LINE),
]
NO_ID = [
    b"{}",
    b'{"op": "ping"}',
    b'{"id": null, "op": "ping"}',
    b'{"id": true, "op": "ping"}',
    b'{"id": [1], "op": "ping"}',
    b'{"id": {}, "op": "cancel"}',
    b'{"id": 1e999, "op": "ping"}',
    b'{"id": -1e999, "op": "cancel"}',
    b'{"id": 1' + b"0" * 400 + b', "op": "ping"}',
]
WRONG = [
    *[(name, value) for name in ("input", "output", "model", "device", "planes", "reliability", "confidence", "masks")
      for value in (5, ["a"], {"a": 1}, True)],
    ("output", "a\0b"), ("masks", "\ud800"), ("axis", 3), ("trust_model", "yes"), ("trust_model", 1),
    ("compress", "no"), ("unreliable", []), ("allow_low_confidence", {}), ("consistency", 0), ("spacing", "1"),
    ("spacing", True), ("spacing", 1e999), ("spacing", 10**400),
]  # fmt: skip


@pytest.mark.parametrize("line", NOT_A_REQUEST + NO_ID, ids=lambda line: repr(line[:24]))
def test_a_line_that_cannot_be_understood_is_a_sentence(line: bytes) -> None:
    with pytest.raises(Failed, match=r"was received\. ") as caught:
        for one in lines(io.BytesIO(line + b"\n")):
            identity_of(parse(one))
    assert caught.value.kind == "request"


def test_a_line_that_is_too_long_does_not_swallow_the_next_one() -> None:
    end = b'{"id": 1}\n'
    for length in (MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 2 * MAX_LINE, 5 * MAX_LINE + 3):
        found = list(lines(io.BytesIO(b"x" * length + b"\n" + end)))
        assert found[1:] == [end] and (found[0] is None) == (length >= MAX_LINE), length


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_field_of_the_wrong_type_is_named(name: str, value: object) -> None:
    with pytest.raises(Failed, match=f"The field '{name}' of the request is not "):
        check_fields({"id": 1, "op": "synthesize", name: value})
    check_fields({"id": 1, "op": "synthesize", name: None})


def test_two_files_for_the_reliability_map_are_refused() -> None:
    for same in ({"reliability": "a"}, {"confidence": "a"}, {"reliability": "a", "confidence": "a"}):
        check_fields(same)
        assert reliability_path(same) == "a"
    with pytest.raises(Failed, match=r"'reliability' and 'confidence' name two files\. Give one"):
        check_fields({"reliability": "a", "confidence": "b"})


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, str(MAIN)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        yield process
        process.kill()


def test_the_worker_hears_every_request_after_everything_that_is_none(process: subprocess.Popen[bytes]) -> None:
    strange = [json.dumps({"id": n, "op": "synthesize", "input": "i", "output": "o", name: value}).encode()
               for n, (name, value) in enumerate(WRONG) if value not in (1e999,)]  # fmt: skip
    operations = [json.dumps({"id": "op", "op": op}).encode() for op in (None, ["ping"], {"ping": 1}, 7, "x" * 999)]
    numbers = [
        json.dumps({"id": "n", "op": "normalise", "input": "none.nrrd", "output": "o.nrrd", **fields}).encode()
        for fields in (
            {"transform": [10**400] * 16},
            {"transform": [[[]]]},
            {"transform": {"a": 1}},
            {"gestational_age": 10**400},
            {"gestational_age": [20]},
        )
    ]
    sent = [*NOT_A_REQUEST, *NO_ID, *strange, *operations, *numbers]
    assert process.stdin is not None and process.stdout is not None
    for line in sent:
        process.stdin.write(line + b"\n" + b'{"op": "cancel", "id": "nobody\'s"}\n')
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["event"] == "error" and answer["message"] and answer["remedy"], (line[:60], answer)
        assert answer["kind"] in ("request", "transform", "missing"), (line[:60], answer)
    process.stdin.write(b'{"id": 1, "op": "ping"}\n{"id": 1, "op": "ping"}\n')
    process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [(one["id"], one["event"]) for one in answers] == [(1, "done")] * 2  # a repeated id: two requests


class Running(Worker):
    """A worker whose lines are handed to it, without threads."""

    def __init__(self) -> None:
        self.written = io.StringIO()
        super().__init__(io.BytesIO(), self.written)

    def run_all(self) -> list[dict[str, Any]]:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return [json.loads(line) for line in self.written.getvalue().splitlines()]
            assert job is not None
            self._run(job)


def test_cancel_ends_what_waits_and_says_nothing_of_what_does_not() -> None:
    worker = Running()
    for line in (b'{"op": "cancel", "id": 8}', b'{"id": 8, "op": "ping"}', b'{"id": 9, "op": "ping"}'):
        worker._accept(line)
    worker._accept(b'{"op": "cancel", "id": 9}')
    answers = worker.run_all()
    assert [(one["id"], one["event"]) for one in answers] == [(8, "done"), (9, "error")]
    assert answers[1]["category"] == answers[1]["kind"] == "cancelled"
    # Once it is answered, its id is free again.
    worker._accept(b'{"op": "cancel", "id": 9}')
    worker._accept(b'{"id": 9, "op": "ping"}')
    assert worker.run_all()[-1]["event"] == "done"


def test_a_result_that_json_cannot_hold_is_an_error_and_no_death(tmp_path: Path) -> None:
    worker = Running()
    worker._operations["ping"] = lambda job: {"score": float("nan")}
    worker._accept(b'{"id": 1, "op": "ping"}')
    [answer] = worker.run_all()
    assert answer["event"] == "error" and answer["kind"] == "internal"


@pytest.mark.parametrize("allowed", [None, False, "yes", 1])
def test_a_request_without_trust_is_a_no(allowed: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is not exactly true is refused, or a no; a missing one is a no."""
    from USMRISynthesisLib.synthesis import pipeline

    consents: list[bool] = []

    def synthesize(volume: Volume, *, consent: Any, **_: Any) -> Synthesis:
        consents.append(consent("0" * 64, "foreign"))
        raise Failed("stop", "Far enough.", "None.")

    monkeypatch.setattr(pipeline, "synthesize", synthesize)
    Volume(np.zeros((2, 3, 4), np.uint8), np.eye(4)).write(tmp_path / "i.nrrd")
    request = {"id": 1, "op": "synthesize", "input": str(tmp_path / "i.nrrd"), "output": str(tmp_path / "o.nrrd")}
    worker = Running()
    worker._accept(json.dumps(request if allowed is None else request | {"trust_model": allowed}).encode())
    [answer] = worker.run_all()
    assert consents == ([False] if allowed in (None, False) else [])
    assert answer["kind"] == ("stop" if consents else "request")
