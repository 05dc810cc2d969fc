"""The folders of a batch: nothing of the user's is replaced, one batch at a time works there, changes are noticed."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from USMRISynthesisLib import __version__
from USMRISynthesisLib.batch import runner
from USMRISynthesisLib.batch.cases import find_cases
from USMRISynthesisLib.batch.folder import Batch
from USMRISynthesisLib.batch.identity import machine
from USMRISynthesisLib.batch.ledger import fold
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.errors import Failed, Refused, USMRIError
from USMRISynthesisLib.io.provenance import write_with_sidecar
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume

MATRIX = np.array([[0.0, -0.9, 0, 4], [0.8, 0, 0, -7], [0, 0, -2.5, 12], [0, 0, 0, 1]])


def image(value: int = 1) -> Volume:
    return Volume(np.full((3, 4, 5), value, np.int16), MATRIX)


class Worker:
    """Plays a worker that copies its input, marked; `before` is called with each request's fields."""

    sha256 = ""

    def __init__(self, before: Callable[[dict[str, Any]], None] = lambda fields: None) -> None:
        self.requested: list[str] = []
        self.before = before

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def request(self, op: str, *, on_event: Any, cancel: Any, **fields: Any) -> dict[str, Any]:
        self.requested.append(Path(fields["input"]).name)
        self.before(fields)
        Volume.read(fields["input"]).write(fields["output"], metadata={"Comment": SYNTHETIC})
        return {
            "score": float("nan"),
            "provenance": {
                "notice": SYNTHETIC,
                "software": {"version": __version__},
                "planes": fields["planes"],
                "alignment": {"gestational_age_weeks": None},
                "model": {"sha256": self.sha256},
            },
        }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study: an ultrasound image."""
    made = tmp_path / "in"
    made.mkdir()
    image().write(made / "case1.nrrd")
    return made


@pytest.fixture
def run(tiny_model: Path) -> Callable[..., tuple[Batch, Worker]]:
    def go(source: Path, output: Path, before: Any = lambda fields: None) -> tuple[Batch, Worker]:
        worker = Worker(before)
        worker.sha256 = json.loads((tiny_model / "manifest.json").read_text())["sha256"]
        batch = Batch(source, output, model=str(tiny_model))
        runner.run(batch, make_worker=lambda added: worker)  # type: ignore[arg-type,return-value]
        return batch, worker

    return go


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_acquired_mr_beside_the_ultrasound_is_kept(folder: Path, run: Any) -> None:
    image(7).write(folder / "case1-mr.nrrd")
    (folder / "case1-mr.json").write_text('{"EchoTime": 0.09}')
    before = content(folder)
    with pytest.raises(Refused, match=r"case1-mr\.nrrd would overwrite an input"):
        run(folder, folder)
    assert content(folder) == before


@pytest.mark.parametrize("name", ["case1-mr.nrrd", "case1-mr.json", "batch.json"])
def test_a_file_of_the_users_in_the_output_folder_stops_the_batch_before_any_work(
    name: str, folder: Path, tmp_path: Path, run: Any
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    if name.endswith(".nrrd"):
        image(7).write(output / name)
    else:
        (output / name).write_text('{"cases": {}, "notice": "mine"}')
    before = content(output)
    with pytest.raises(Refused, match=f"{name} exists and was not made by this program"):
        run(folder, output)
    assert content(output) == before


def test_a_single_images_provenance_is_not_taken_for_a_ledger(folder: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "out").mkdir()
    write_with_sidecar(image(), {"notice": SYNTHETIC}, tmp_path / "out" / "batch.nrrd")
    with pytest.raises(Refused, match=r"batch\.json exists"):
        run(folder, tmp_path / "out")


def test_a_file_that_appears_meanwhile_costs_one_case_and_no_more(folder: Path, tmp_path: Path, run: Any) -> None:
    image(2).write(folder / "case2.nrrd")

    def before(fields: dict[str, Any]) -> None:
        if fields["input"].endswith("case1.nrrd"):
            image(9).write(tmp_path / "out" / "case1-mr.nrrd")

    batch, _ = run(folder, tmp_path / "out", before)
    assert [batch.states[name]["status"] for name in ("case1.nrrd", "case2.nrrd")] == ["refused", "done"]
    assert batch.states["case1.nrrd"]["kind"] == "exists"
    assert int(Volume.read(tmp_path / "out" / "case1-mr.nrrd").array[0, 0, 0]) == 9


def test_names_that_differ_in_case_alone_do_not_share_a_result(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("Head.nrrd", "head.nrrd", "HEAD.mha", "head.nrrd.nrrd"):
        image().write(source / name)
    names = [case.target.name for case in find_cases(source, tmp_path / "out")]
    assert len({name.casefold() for name in names}) == len(list(source.iterdir())) == len(names)


def test_a_file_where_a_folder_for_results_should_be_is_a_sentence(folder: Path, tmp_path: Path, run: Any) -> None:
    (folder / "late").mkdir()
    image().write(folder / "late" / "case2.nrrd")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "late").write_text("mine")
    with pytest.raises(Failed, match="late is in the way of a folder for the results"):
        run(folder, tmp_path / "out")
    assert content(tmp_path / "out") == {"late": b"mine"}


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_a_changed_voxel_file_makes_a_case_anew(ending: str, tmp_path: Path, run: Any) -> None:
    source = tmp_path / "in"
    source.mkdir()
    image(1).write(source / f"us{ending}", compress=False)
    assert run(source, tmp_path / "out")[1].requested == [f"us{ending}"]
    assert run(source, tmp_path / "out")[1].requested == []
    header = (source / f"us{ending}").read_bytes()
    (source / "us.raw").write_bytes(np.full((3, 4, 5), 2, "<i2").tobytes())
    assert run(source, tmp_path / "out")[1].requested == [f"us{ending}"]
    assert (source / f"us{ending}").read_bytes() == header
    assert int(Volume.read(tmp_path / "out" / "us-mr.nrrd").array[0, 0, 0]) == 2


def test_a_score_that_is_no_number_is_null_in_the_ledger(folder: Path, tmp_path: Path, run: Any) -> None:
    run(folder, tmp_path / "out")

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    report = json.loads((tmp_path / "out" / "batch.json").read_text(), parse_constant=refuse)
    assert report["cases"]["case1.nrrd"]["score"] is None


# --- several batches at a time


def test_a_second_batch_works_beside_the_first_and_leaves_its_case_alone(
    folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    image(2).write(folder / "case2.nrrd")
    first = Batch(folder, tmp_path / "out", model=str(tiny_model))
    second = Batch(folder, tmp_path / "out", model=str(tiny_model))
    case1, case2 = first.cases
    assert first.take(case1) and not second.take(case1) and second.take(case2)
    assert second.states["case1.nrrd"]["status"] == "held"
    first.close()
    assert second.take(case1)
    second.close()


def test_working_folders_of_killed_processes_go_and_other_things_stay(folder: Path, tmp_path: Path, run: Any) -> None:
    work = tmp_path / "out" / ".usmri" / "work"
    gone, living, mine = f"{machine()}-{2**22 + 1}--0123abcd", f"{'0' * 12}-1-1-0123abcd", "my-thesis"
    for name in (gone, living, mine):
        (work / name).mkdir(parents=True)
        (work / name / "text.nrrd").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0.nrrd").write_text("mine")
    if sys.platform != "win32":
        (work / f"{machine()}-{2**22 + 1}--0123abce").symlink_to(elsewhere)
    run(folder, tmp_path / "out")
    assert (
        not (work / gone).exists() and (work / living / "text.nrrd").exists() and (work / mine / "text.nrrd").exists()
    )
    assert (elsewhere / "0.nrrd").read_text() == "mine"


def test_two_batches_at_once_do_the_work_once_and_lose_nothing(folder: Path, tmp_path: Path, run: Any) -> None:
    for number in range(2, 5):
        shutil.copy(folder / "case1.nrrd", folder / f"case{number}.nrrd")
    begun, may_end = threading.Event(), threading.Event()

    def before(fields: dict[str, Any]) -> None:
        begun.set()
        may_end.wait(30)

    ended: list[tuple[Batch, Worker]] = []
    first = threading.Thread(target=lambda: ended.append(run(folder, tmp_path / "out", before)))
    first.start()
    assert begun.wait(30)
    threading.Timer(0.5, may_end.set).start()
    second, worker = run(folder, tmp_path / "out")
    first.join()
    assert ended[0][0].status == second.status == "done"
    assert sorted(ended[0][1].requested + worker.requested) == [f"case{number}.nrrd" for number in range(1, 5)]
    assert [row["state"] for row in fold(tmp_path / "out")] == ["done"] * 4
    assert run(folder, tmp_path / "out")[1].requested == []


# --- remedies


def test_a_batch_gives_no_remedy_that_it_does_not_have(folder: Path, tmp_path: Path, run: Any) -> None:
    faults = {"case1.nrrd": Refused("pixel-size", "It has none.", "Give it with --pixel-size MM."),
              "case2.nrrd": Refused("unreliable", "Not found.", "Go on all the same with --unreliable.")}  # fmt: skip
    image().write(folder / "case2.nrrd")

    def before(fields: dict[str, Any]) -> None:
        raise faults[Path(fields["input"]).name]

    states = run(folder, tmp_path / "out", before)[0].states
    assert "--pixel" not in states["case1.nrrd"]["remedy"] and "usmri synthesize" in states["case1.nrrd"]["remedy"]
    assert states["case2.nrrd"]["remedy"] == "Go on all the same with --unreliable."


def test_every_option_that_a_batch_may_name_is_one_of_its_own() -> None:
    from USMRISynthesisLib.batch.session import OPTIONS

    parser = cli.build_parser()
    for option in OPTIONS:
        values = {
            "--model": ["m"],
            "--device": ["cpu"],
            "--planes": ["all"],
            "--gestational-age": ["20"],
            "--frame": ["all"],
            "--retry": ["failed"],
        }
        parser.parse_args(["batch", "in", "out", option, *values.get(option, [])])


def test_a_folder_of_pictures_is_told_what_takes_pictures(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.PNG").write_bytes(b"")
    with pytest.raises(USMRIError, match=r"Pictures \(\.png, .*\) have no pixel size.*`usmri synthesize`") as caught:
        Batch(tmp_path / "in", tmp_path / "out", model=str(tiny_model))
    assert caught.value.kind == "no-cases" and not (tmp_path / "out").exists()
