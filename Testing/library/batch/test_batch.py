"""A batch: every image of a folder, resumed, with failures collected and an exit code that says it all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
import pytest
from USMRISynthesisLib.batch import runner as batch_run
from USMRISynthesisLib.batch.cases import find_cases
from USMRISynthesisLib.batch.folder import Batch
from USMRISynthesisLib.batch.resources import processors
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Cancelled, Failed, Refused, USMRIError
from USMRISynthesisLib.io.provenance import marks, read_sidecar
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume


@pytest.fixture
def cohort(frame: Volume, tmp_path: Path) -> Path:
    """Three frames in a folder and a folder in it, and what is no image."""
    folder = tmp_path / "in"
    (folder / "late").mkdir(parents=True)
    for index, name in enumerate(("a.nrrd", "b.nii.gz", "late/c.mha")):
        Volume(np.roll(frame.array, index, axis=1), frame.ijk_to_ras).write(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.nrrd").write_bytes((folder / "a.nrrd").read_bytes())
    return folder


class Worker:
    """Plays a worker: copies the input, or does what the test says to the file of that name."""

    def __init__(self, faults: dict[str, USMRIError] | None = None, sha256: str = "") -> None:
        self.faults, self.sha256 = faults or {}, sha256
        self.requested: list[str] = []
        self.before: Callable[[str], None] = lambda name: None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def request(
        self, op: str, *, on_event: Callable[[dict], None], cancel: Callable[[], bool], **fields: Any
    ) -> dict[str, Any]:
        name = Path(fields["input"]).name
        self.requested.append(name)
        self.before(name)
        on_event({"event": "progress", "value": 0.5, "stage": "Synthesising"})
        if name in self.faults:
            raise self.faults[name]
        Volume.read(fields["input"]).write(fields["output"], metadata={"Comment": SYNTHETIC})
        from USMRISynthesisLib import __version__

        return {
            "output": fields["output"],
            "confidence": None,
            "masks": None,
            "ras_to_canonical": [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
            "method": "ellipsoid",
            "score": 0.9,
            "trusted": True,
            "provenance": {
                "notice": SYNTHETIC,
                "software": {"version": __version__},
                "planes": fields["planes"],
                "alignment": {"gestational_age_weeks": fields["gestational_age"]},
                "model": {"sha256": self.sha256},
                "input": {},
                "warnings": [],
            },
        }


@pytest.fixture
def run(cohort: Path, tmp_path: Path, tiny_model: Path) -> Callable[..., tuple[Batch, Worker]]:
    """`run(faults)`: a batch of the cohort into `out` by one played worker."""
    sha256 = json.loads((tiny_model / "manifest.json").read_text())["sha256"]

    def go(
        faults: dict[str, USMRIError] | None = None, *, workers: int = 1, before: Any = None, **options: Any
    ) -> tuple[Batch, Worker]:
        worker = Worker(faults, sha256)
        worker.before = before or worker.before
        batch = Batch(cohort, tmp_path / "out", model=str(tiny_model), **options)
        batch_run.run(batch, workers=workers, make_worker=lambda added: worker)  # type: ignore[arg-type,return-value]
        return batch, worker

    return go


def files(folder: Path) -> list[str]:
    """What a batch leaves, except the lines of its ledger."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(".usmri/ledger/"))


def test_every_image_is_found_once_and_results_are_not_taken_for_images(cohort: Path, tmp_path: Path) -> None:
    cases = find_cases(cohort, tmp_path / "out")
    assert [case.name for case in cases] == ["a.nrrd", "b.nii.gz", "late/c.mha"]
    assert [case.target.relative_to(tmp_path / "out").as_posix() for case in cases] == [
        "a-mr.nrrd",
        "b-mr.nrrd",
        "late/c-mr.nrrd",
    ]
    Volume.read(cohort / "a.nrrd").write(cohort / "result.nrrd", metadata={"Comment": SYNTHETIC})
    assert len(find_cases(cohort, cohort)) == 3
    Volume.read(cohort / "a.nrrd").write(cohort / "a.mha")  # must not be written over the result of a.nrrd
    assert sorted(case.target.name for case in find_cases(cohort, cohort)) == [
        "a.mha-mr.nrrd",
        "a.nrrd-mr.nrrd",
        "b-mr.nrrd",
        "c-mr.nrrd",
    ]


def test_results_lie_beside_their_provenance_and_the_states_are_told(run: Any, tmp_path: Path) -> None:
    batch, _worker = run()
    assert batch.status == "done" and batch.summary() == "3 cases: 3 done."
    out = tmp_path / "out"
    assert files(out) == [
        "a-mr.json",
        "a-mr.nrrd",
        "b-mr.json",
        "b-mr.nrrd",
        "batch.json",
        "late/c-mr.json",
        "late/c-mr.nrrd",
    ]
    assert marks(out / "a-mr.nrrd") and read_sidecar(out / "late/c-mr.nrrd")["output"]
    report = json.loads((out / "batch.json").read_text())
    assert report["counts"] == {"done": 3} and report["cases"]["late/c.mha"]["output"] == "late/c-mr.nrrd"
    assert str(tmp_path) not in json.dumps(report["cases"])


def test_failures_are_collected_and_only_they_are_tried_again(run: Any, tmp_path: Path) -> None:
    batch, _worker = run(
        {
            "b.nii.gz": Refused("extent", "It is 5 mm wide.", "Correct the spacing."),
            "c.mha": Failed("worker", "The worker was ended.", "Try again."),
        }
    )
    assert batch.status == "failed" and batch.summary() == "3 cases: 1 done, 1 refused, 1 failed."
    assert batch.states["b.nii.gz"] | {"seconds": 0} == {
        "status": "refused",
        "kind": "extent",
        "message": "It is 5 mm wide.",
        "remedy": "Correct the spacing.",
        "seconds": 0,
    }
    assert files(tmp_path / "out") == ["a-mr.json", "a-mr.nrrd", "batch.json"]
    again, worker = run()
    assert worker.requested == ["b.nii.gz", "c.mha"] and again.summary() == "3 cases: 2 done, 1 kept."


def test_only_refusals_leave_the_batch_refused(run: Any) -> None:
    assert run({"a.nrrd": Refused("extent", "It is small.", "Look.")})[0].status == "refused"


@pytest.mark.parametrize("change", ["input", "output", "sidecar", "model"])
def test_what_was_made_from_something_else_is_made_again(change: str, run: Any, cohort: Path, tmp_path: Path) -> None:
    run()
    out = tmp_path / "out"
    if change == "input":
        volume = Volume.read(cohort / "a.nrrd")
        Volume(volume.array[:, ::-1], volume.ijk_to_ras).write(cohort / "a.nrrd")
    elif change == "output":
        (out / "a-mr.nrrd").write_bytes((out / "a-mr.nrrd").read_bytes()[:-20])
    elif change == "sidecar":
        (out / "a-mr.json").write_text('{"notice": "SYNTHETIC - not for diagnosis"}')
    else:
        content = json.loads((out / "a-mr.json").read_text())
        content["model"]["sha256"] = "0" * 64
        (out / "a-mr.json").write_text(json.dumps(content))
    assert run()[1].requested == ["a.nrrd"]
    assert run()[1].requested == []
    assert run(fresh=True)[1].requested == ["a.nrrd", "b.nii.gz", "c.mha"]


@pytest.mark.parametrize(
    ("options", "allowed"), [({}, False), ({"unreliable": True}, True), ({"allow_low_confidence": True}, True)]
)
def test_a_low_confidence_is_allowed_by_either_name(
    options: dict[str, bool], allowed: bool, cohort: Path, tmp_path: Path, tiny_model: Path
) -> None:
    batch = Batch(cohort, tmp_path / "out", model=str(tiny_model), **options)
    sent = batch.request(batch.cases[0])
    assert sent["allow_low_confidence"] is allowed and sent["unreliable"] is allowed
    batch.close()
    assert json.loads((tmp_path / "out" / "batch.json").read_text())["settings"]["allow_low_confidence"] is allowed


def test_another_gestational_age_is_another_result(run: Any) -> None:
    run(gestational_age=26.0)
    assert run(gestational_age=26.0)[1].requested == []
    batch, worker = run()
    assert worker.requested == ["a.nrrd", "b.nii.gz", "c.mha"] and batch.report()["settings"]["gestational_age"] is None


@pytest.mark.parametrize(
    "fault",
    [
        Failed("hash", "The weights are changed.", "Restore them."),
        Failed("torch", "PyTorch is not installed.", "Install it."),
    ],
)
def test_what_would_befall_every_case_ends_the_batch(fault: Failed, run: Any, tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        run({"a.nrrd": fault})
    assert caught.value is fault
    report = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert [one["status"] for one in report["cases"].values()] == ["failed", "waiting", "waiting"]
    assert files(tmp_path / "out") == ["batch.json"]


def test_a_full_disk_costs_its_cases_and_stops_no_other(run: Any, tmp_path: Path) -> None:
    batch, _worker = run({"a.nrrd": Failed("write", "No space left on device.", "Free space.")})
    assert batch.summary() == "3 cases: 2 done, 1 failed."
    assert (batch.states["a.nrrd"]["kind"], batch.states["a.nrrd"]["remedy"]) == ("write", "Free space.")


def test_a_full_disk_is_noticed_before_the_work(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    batch, worker = run()
    assert worker.requested == [] and batch.summary() == "3 cases: 3 failed."
    assert batch.states["a.nrrd"]["message"] == "The disk of the folder out is full."
    assert batch.states["a.nrrd"]["remedy"].startswith("Free space")


def test_a_full_disk_at_the_last_step_leaves_no_half_written_case(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = os.link

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "a-mr.nrrd":
            raise OSError(28, "No space left on device")
        true(source, target)

    monkeypatch.setattr(os, "link", full)
    batch, _worker = run()
    assert batch.states["a.nrrd"]["message"] == "Writing a-mr.nrrd failed: No space left on device."
    assert files(tmp_path / "out") == ["b-mr.json", "b-mr.nrrd", "batch.json", "late/c-mr.json", "late/c-mr.nrrd"]


def test_workers_are_bounded() -> None:
    assert batch_run.bounded(1, 10) == 1
    assert 1 <= batch_run.bounded(1000, 10_000) <= processors() <= (os.cpu_count() or 1)
    assert batch_run.bounded(1000, 1) == 1
    with pytest.raises(Refused, match="0 workers"):
        batch_run.bounded(0, 3)


def test_several_workers_do_each_case_once(run: Any) -> None:
    batch, worker = run(workers=2)
    assert sorted(worker.requested) == ["a.nrrd", "b.nii.gz", "c.mha"] and batch.status == "done"


def test_progress_rises_to_the_end(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    values: list[float] = []
    batch_run.run(
        Batch(cohort, tmp_path / "out", model=str(tiny_model)),
        make_worker=lambda added: cast(Any, Worker()),
        progress=lambda value, stage: values.append(round(value, 3)),
    )
    assert values == [0.167, 0.5, 0.833]


def test_an_interrupt_cancels_what_runs_and_keeps_what_is_done(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    true, calls = threading.Thread.join, []

    def join(self: Any, timeout: float | None = None) -> None:
        calls.append(timeout)
        if timeout == 0.2 and len(calls) == 1:
            raise KeyboardInterrupt
        true(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(Cancelled, match="Run it again to go on with the rest"):
        run(before=lambda name: time.sleep(0.2))
    monkeypatch.undo()
    states = json.loads((tmp_path / "out" / "batch.json").read_text())["cases"]
    assert [one["status"] for one in states.values()] == ["done", "waiting", "waiting"]
    assert not list((tmp_path / "out" / ".usmri" / "work").iterdir())
    assert not list((tmp_path / "out" / ".usmri" / "claims").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        (["{in}/none", "{out}"], 2, "There is no folder none. Give a folder"),
        (["{empty}", "{out}"], 2, "no image to synthesise in empty"),
        (["{in}", "{out}", "--model", "nonesuch"], 1, "no model 'nonesuch'"),
        (["{in}", "{in}/a.nrrd"], 1, "cannot be written"),
        (["{in}", "{out}", "--workers", "0"], 2, "0 workers"),
        (["{in}", "{out}", "--gestational-age", "43"], 2, "43 weeks is outside 14 to 42"),
        (["{in}", "{out}", "--model", "{model}"], 2, "has not been trusted yet"),
    ],
)
def test_each_wrong_start_is_one_sentence(
    arguments: list[str],
    code: int,
    pattern: str,
    cohort: Path,
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"in": cohort, "out": tmp_path / "out", "empty": tmp_path / "empty", "model": tiny_model}
    assert cli.main(["batch", *[one.format(**names) for one in arguments], "--quiet"]) == code
    assert pattern in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.rglob("*-mr.nrrd")) and not list(tmp_path.rglob(".usmri/work/*"))


def test_the_command_does_all_resumes_and_ends_with_one_json_line(
    cohort: Path, tmp_path: Path, trusted_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Volume(np.zeros((1, 40, 40), np.uint8), np.eye(4)).write(cohort / "blank.nrrd")
    command = ["batch", str(cohort), str(tmp_path / "out"), "--model", str(trusted_model), "--device", "cpu", "--json"]
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    report = json.loads(out.splitlines()[-1])
    assert (report["status"], report["counts"]) == ("refused", {"done": 3, "refused": 1})
    assert "refused: blank.nrrd: " in err and "done: late/c.mha (" in err and "Traceback" not in err
    mr = Volume.read(tmp_path / "out" / "late" / "c-mr.nrrd")
    assert mr.array.dtype == np.int16 and mr.array.max() > 0
    (cohort / "blank.nrrd").unlink()
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["counts"] == {"kept": 3}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_batch_goes_on_where_it_was(cohort: Path, tmp_path: Path, trusted_model: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "USMRISynthesisLib.cli",
        "batch",
        str(cohort),
        str(tmp_path / "out"),
        "--model",
        str(trusted_model),
        "--device",
        "cpu",
        "--json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "USMRISynthesis")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None and process.stderr.readline().startswith("done: a.nrrd")
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    counts = json.loads(done.stdout.splitlines()[-1])["counts"]
    assert counts["kept"] >= 1 and sum(counts.values()) == 3 and set(counts) == {"done", "kept"}
