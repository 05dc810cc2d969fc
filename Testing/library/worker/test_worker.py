"""The worker: warm, one answer a request, alive after garbage, clear when killed, gone without a trace."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models.store import ConsentNeeded
from USMRISynthesisLib.worker.client import WorkerProcess
from USMRISynthesisLib.worker.serve import Worker

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
WORKER = Path(__file__).parents[3] / "USMRISynthesis" / "USMRISynthesisLib" / "worker" / "__main__.py"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go during the test, so that none can be overlooked."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def worker(trusted_model: Path, scratch: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess() as worker:
        yield worker
    assert worker.pid is None and not list(scratch.iterdir())


@pytest.fixture
def to_canonical(head: Volume) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = -(head.ijk_to_ras @ [*((np.array(head.shape[::-1]) - 1) / 2), 1])[:3]
    return matrix


def _processes_of(session: int) -> list[int]:
    """Living processes of a session (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def test_a_second_request_finds_the_worker_warm_and_gives_the_same(
    worker: WorkerProcess, head: Volume, trusted_model: Path, to_canonical: np.ndarray
) -> None:
    events: list[dict[str, Any]] = []
    first = worker.synthesize(
        head, model=str(trusted_model), device="cpu", transform=to_canonical, on_event=events.append
    )
    pid = worker.pid
    second = worker.synthesize(head, model=str(trusted_model), device="cpu", transform=to_canonical)
    assert worker.pid == pid is not None
    np.testing.assert_array_equal(first.mr.array, second.mr.array)
    np.testing.assert_array_equal(first.mr.ijk_to_ras, head.ijk_to_ras)
    np.testing.assert_array_equal(first.transform, to_canonical)
    assert first.mr.array.dtype == np.int16 and first.confidence.array.max() == 1
    assert second.provenance["seconds"]["Loading the model"] < first.provenance["seconds"]["Loading the model"]
    values = [event["value"] for event in events if event["event"] == "progress"]
    assert values == sorted(values) and values[-1] == 1 and events[-1]["event"] == "done"
    assert events[-1]["result"]["ras_to_canonical"] == to_canonical.ravel().tolist()


def test_normalise_goes_through_the_worker_too(
    worker: WorkerProcess, head: Volume, scratch: Path, to_canonical: np.ndarray
) -> None:
    head.write(scratch / "in.nrrd")
    try:
        result = worker.request(
            "normalise",
            input=str(scratch / "in.nrrd"),
            output=str(scratch / "out.nrrd"),
            transform=to_canonical.ravel().tolist(),
        )
        assert Volume.read(scratch / "out.nrrd").shape == (160, 160, 160)
        assert result["method"] == "given" and len(result["ras_to_canonical"]) == 16
        assert result["provenance"]["alignment"]["gestational_age_weeks"] is None
        for weeks, error in ((50, Refused), ("late", Failed)):
            with pytest.raises(error, match=r"gestational age .*\. Give it in weeks"):
                worker.request(
                    "normalise",
                    input=str(scratch / "in.nrrd"),
                    output=str(scratch / "out.nrrd"),
                    transform=None,
                    gestational_age=weeks,
                )
    finally:
        for path in scratch.iterdir():
            path.unlink()


def test_a_refused_image_is_refused_with_its_sentence_and_the_worker_goes_on(worker: WorkerProcess) -> None:
    with pytest.raises(Refused) as caught:
        worker.synthesize(Volume(np.zeros((40, 40, 40), np.uint8), np.eye(4)))
    assert caught.value.kind == "constant" and caught.value.remedy
    assert worker.request("ping")["pid"] == worker.pid


def test_a_model_without_consent_is_asked_about_and_runs_with_it(
    scratch: Path, tiny_model: Path, head: Volume, to_canonical: np.ndarray
) -> None:
    with WorkerProcess() as worker:
        with pytest.raises(ConsentNeeded) as caught:
            worker.synthesize(head, model=str(tiny_model), device="cpu", transform=to_canonical)
        assert len(caught.value.sha256) == 64 and caught.value.name == "tiny"
        worker.synthesize(head, model=str(tiny_model), device="cpu", transform=to_canonical, trust_model=True)


@pytest.mark.parametrize("consent", [{}, {"trust_model": None}, {"trust_model": "yes"}, {"trust_model": 1}])
@pytest.mark.parametrize("operation", ["synthesize", "respace"])
def test_a_request_that_does_not_say_true_gives_no_consent(
    scratch: Path, tiny_model: Path, tmp_path: Path, config_dir: Path, head: Volume, to_canonical: np.ndarray,
    operation: str, consent: dict[str, Any],
) -> None:  # fmt: skip
    model = tiny_model
    if operation == "respace":
        from factories.spacing import spacing_model

        model = spacing_model(tmp_path / "spacing", config_dir)
        (config_dir / "trusted-models.json").unlink()
        head = Volume(head.array[::3], head.ijk_to_ras @ np.diag([1.0, 1.0, 3.0, 1.0]))
    source, target = tmp_path / "in.nrrd", tmp_path / "out.nrrd"
    head.write(source)
    job = {"id": 1, "op": operation, "input": str(source), "output": str(target), "model": str(model), "device": "cpu"}
    if operation == "synthesize":
        job["transform"] = to_canonical.ravel().tolist()
    events = io.StringIO()
    Worker(io.StringIO(), events)._run({**job, **consent})
    last = json.loads(events.getvalue().splitlines()[-1])
    assert (last["event"], last.get("kind")) == ("error", "consent") and len(last["sha256"]) == 64
    assert not target.exists() and not list(config_dir.iterdir())


@posix
def test_a_killed_worker_is_reported_and_the_next_run_works(
    worker: WorkerProcess, head: Volume, trusted_model: Path, to_canonical: np.ndarray
) -> None:

    def kill_half_way(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["value"] > 0.4 and worker.pid is not None:
            os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(Failed, match=r"ended by the signal SIGKILL.*next run starts a new worker"):
        worker.synthesize(head, model=str(trusted_model), device="cpu", transform=to_canonical, on_event=kill_half_way)
    result = worker.synthesize(head, model=str(trusted_model), device="cpu", transform=to_canonical)
    assert result.mr.array.max() > 0


@posix
def test_a_worker_that_died_between_requests_is_replaced_unnoticed(worker: WorkerProcess) -> None:
    first = worker.request("ping")["pid"]
    os.kill(first, signal.SIGKILL)
    time.sleep(0.1)
    assert worker.request("ping")["pid"] != first


def test_cancel_half_way_acts_within_half_a_second_and_leaves_nothing(
    worker: WorkerProcess, head: Volume, trusted_model: Path, to_canonical: np.ndarray, scratch: Path
) -> None:
    cancelled_at: list[float] = []

    def stop_half_way(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["value"] > 0.4 and not cancelled_at:
            cancelled_at.append(time.monotonic())
            worker.cancel()

    with pytest.raises(Cancelled):
        worker.synthesize(head, model=str(trusted_model), device="cpu", transform=to_canonical, on_event=stop_half_way)
    assert time.monotonic() - cancelled_at[0] < 0.5
    assert not list(scratch.iterdir())
    result = worker.synthesize(head, model=str(trusted_model), device="cpu", transform=to_canonical)
    assert result.mr.array.max() > 0


@posix
def test_a_worker_that_does_not_hear_a_cancel_is_killed_with_its_children(scratch: Path, tmp_path: Path) -> None:
    deaf = tmp_path / "deaf.py"
    deaf.write_text(
        textwrap.dedent("""
        import json, subprocess, sys, time
        subprocess.Popen(["sleep", "60"])
        request = json.loads(sys.stdin.readline())
        print(json.dumps({"id": request["id"], "event": "progress", "value": 0.1, "stage": "deaf"}), flush=True)
        time.sleep(60)
    """)
    )
    worker = WorkerProcess([sys.executable, str(deaf)])
    sessions: list[int] = []
    cancelled_at: list[float] = []

    def stop(event: dict[str, Any]) -> None:
        assert worker.pid is not None
        sessions.append(worker.pid)
        if sys.platform == "linux":
            assert len(_processes_of(worker.pid)) == 2
        cancelled_at.append(time.monotonic())
        worker.cancel()

    with pytest.raises(Cancelled):
        worker.request("synthesize", on_event=stop)
    assert time.monotonic() - cancelled_at[0] < 0.5
    assert worker.pid is None
    if sys.platform == "linux":
        deadline = time.monotonic() + 5  # the kernel ends a killed process when it next runs; unkilled it sleeps on
        while _processes_of(sessions[0]) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _processes_of(sessions[0])


def test_a_worker_that_cannot_start_is_a_clear_failure() -> None:
    with pytest.raises(Failed, match="cannot be started"):
        WorkerProcess(["/nonesuch/python"]).request("ping")
    with WorkerProcess([sys.executable, "-c", "raise SystemExit(3)"]) as worker:
        with pytest.raises(Failed, match=r"exit code 3|does not start"):
            worker.request("ping")


def _answer(worker: subprocess.Popen[str], *lines: str) -> list[dict[str, Any]]:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("".join(f"{line}\n" for line in lines))
    worker.stdin.flush()
    return [json.loads(worker.stdout.readline()) for _ in lines]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker started as a file from a foreign folder, as PythonSlicer does it."""
    with subprocess.Popen(
        [sys.executable, str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        yield process
        process.kill()


def test_garbage_is_answered_with_an_error_and_the_worker_goes_on(bare: subprocess.Popen[str]) -> None:
    answers = _answer(
        bare,
        "not json",
        "[1, 2]",
        '{"op": "ping"}',
        '{"id": 4, "op": "fly"}',
        '{"id": 5, "op": "synthesize"}',
        "\u0000\u0001",
        '{"id": "six", "op": "ping"}',
    )
    errors = sorted((str(a["id"]), a["kind"]) for a in answers if a["event"] == "error")
    assert errors == [("4", "request"), ("5", "request"), *[("None", "request")] * 4]
    done = [a for a in answers if a["event"] == "done"]
    assert [a["id"] for a in done] == ["six"] and done[0]["result"]["pid"] == bare.pid


def test_it_exits_when_its_input_closes(bare: subprocess.Popen[str]) -> None:
    _answer(bare, '{"id": 1, "op": "ping"}')
    assert bare.stdin is not None
    bare.stdin.close()
    assert bare.wait(timeout=5) == 0


@posix
def test_it_ends_cleanly_on_sigterm(bare: subprocess.Popen[str]) -> None:
    _answer(bare, '{"id": 1, "op": "ping"}')
    bare.terminate()
    assert bare.wait(timeout=5) == 0
    assert bare.stderr is not None and bare.stderr.read() == ""


def test_what_a_job_prints_does_not_mix_with_the_events() -> None:
    code = textwrap.dedent("""
        import os, sys
        from USMRISynthesisLib.worker import serve
        def noisy(self, job):
            print("python noise")
            os.write(1, b"C noise\\n")
            os.system("echo child noise")
            return {}
        serve.Worker._ping = noisy
        serve.main()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        answers = _answer(process, '{"id": 1, "op": "ping"}', '{"id": 2, "op": "ping"}')
        out, err = process.communicate(timeout=30)
    assert [answer["event"] for answer in answers] == ["done", "done"] and out == ""
    assert all(noise in err for noise in ("python noise", "C noise", "child noise"))


def test_an_unexpected_fault_gives_a_sentence_and_no_traceback(bare: subprocess.Popen[str], tmp_path: Path) -> None:
    [answer] = _answer(
        bare,
        json.dumps(
            {
                "id": 1,
                "op": "synthesize",
                "input": str(tmp_path / "none.nrrd"),
                "output": str(tmp_path / "out.nrrd"),
                "transform": [1, 2],
            }
        ),
    )
    assert answer["event"] == "error" and answer["message"] and "Traceback" not in answer["message"]
    assert not (tmp_path / "out.nrrd").exists()


@pytest.mark.parametrize(
    ("fields", "allowed"), [({}, False), ({"unreliable": True}, True), ({"allow_low_confidence": True}, True)]
)
def test_a_low_confidence_is_allowed_by_either_field_of_a_request(
    fields: dict[str, bool], allowed: bool, head: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from USMRISynthesisLib.errors import Cancelled
    from USMRISynthesisLib.synthesis import pipeline
    from USMRISynthesisLib.worker.serve import Worker

    received: dict[str, object] = {}

    def synthesize(volume: Volume, **options: object) -> None:
        received.update(options)
        raise Cancelled

    monkeypatch.setattr(pipeline, "synthesize", synthesize)
    head.write(tmp_path / "in.nrrd")
    job = {"id": 1, "input": str(tmp_path / "in.nrrd"), "output": str(tmp_path / "out.nrrd"), **fields}
    with pytest.raises(Cancelled):
        Worker(io.BytesIO(), io.StringIO())._synthesize(job)
    assert received["allow_low_confidence"] is allowed


@pytest.mark.parametrize("field", ["reliability", "confidence"])
def test_the_reliability_map_is_written_by_either_name_of_its_field(
    field: str, head: Volume, trusted_model: Path, to_canonical: np.ndarray, tmp_path: Path
) -> None:
    from USMRISynthesisLib.worker.serve import Worker

    head.write(tmp_path / "in.nrrd")
    job = {
        "id": 1, "input": str(tmp_path / "in.nrrd"), "output": str(tmp_path / "out.nrrd"), "device": "cpu",
        "model": str(trusted_model), "transform": to_canonical.ravel().tolist(), field: str(tmp_path / "map.nrrd"),
    }  # fmt: skip
    result = Worker(io.BytesIO(), io.StringIO())._synthesize(job)
    assert result["confidence"] == str(tmp_path / "map.nrrd")
    written = Volume.read(tmp_path / "map.nrrd").array
    assert written.shape == head.shape and 0 <= written.min() < written.max() <= 1
