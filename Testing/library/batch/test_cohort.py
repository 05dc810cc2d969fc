"""One cohort in three ways: processes of this machine, Dask with a worker lost half-way, parts at once; one result."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from factories.light_worker import LightWorker
from USMRISynthesisLib.batch.cases import Case
from USMRISynthesisLib.batch.folder import Batch
from USMRISynthesisLib.batch.ledger import FOLDER, fold
from USMRISynthesisLib.batch.runner import run
from USMRISynthesisLib.cli import command_line as cli
from USMRISynthesisLib.io.volume import Volume

CASES = 200
TESTING = Path(__file__).parents[2]
PART = (
    "import sys\nfrom pathlib import Path\nfrom factories.light_worker import LightWorker\n"
    "from USMRISynthesisLib.batch.folder import Batch\nfrom USMRISynthesisLib.batch.runner import run\n"
    "source, out, model, number, count = sys.argv[1:]\n"
    "part = None if count == '1' else (int(number), int(count))\n"
    "batch = Batch(Path(source), Path(out), model=model, part=part)\n"
    "run(batch, make_worker=LightWorker)\nprint(batch.summary())"
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small volumes, oblique and left-handed, in two folders; a text that calls itself an image is among them."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(5)
    matrix = np.array([[0.8, -0.1, 0, 4], [0.1, 0.9, 0.2, -7], [0, -0.2, -2.5, 12], [0, 0, 0, 1.0]])
    for number in range(CASES - 1):
        place = folder / ("early" if number % 3 else "late")
        place.mkdir(exist_ok=True)
        Volume(rng.integers(0, 255, (3, 6, 7)).astype(np.uint8), matrix).write(place / f"head{number:03d}.nrrd")
    (folder / "late" / "text.nrrd").write_text("this is no image")
    return folder


@pytest.fixture(autouse=True)
def light(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the light workers need, wherever they run."""
    monkeypatch.setenv("LIGHT_WORKER_SHA256", json.loads((tiny_model / "manifest.json").read_text())["sha256"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTING.parent / "USMRISynthesis"), str(TESTING)]))


def hashes(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*-mr.nrrd")
        if FOLDER not in path.parts
    }


def expected(cohort: Path) -> dict[str, str]:
    """The results of the same cases done one by one, without a batch."""
    found = {}
    for path in cohort.rglob("head*.nrrd"):
        volume = Volume.read(path)
        made = path.parents[1] / "made.nrrd"
        turned = Volume(volume.array.max() - volume.array, volume.ijk_to_ras)
        turned.write(made, metadata={"Comment": "SYNTHETIC - not for diagnosis"})
        name = path.relative_to(cohort).as_posix().replace(".nrrd", "-mr.nrrd")
        found[name] = hashlib.sha256(made.read_bytes()).hexdigest()
        made.unlink()
    return found


def ended(out: Path) -> Counter[tuple[str, str]]:
    """How often each case ended in each state, over all lines of all processes."""
    lines = [json.loads(line) for file in (out / FOLDER / "ledger").iterdir() for line in file.open()]
    return Counter((line["name"], line["state"]) for line in lines)


def check_all(cohort: Path, out: Path) -> None:
    """Nothing lost, nothing twice, nothing left over, and the results are those of the cases done alone."""
    assert hashes(out) == expected(cohort)
    times = ended(out)
    assert len(times) == CASES and set(times.values()) == {1}
    rows = {row["name"]: row for row in fold(out)}
    assert Counter(row["state"] for row in rows.values()) == {"done": CASES - 1, "refused": 1}
    text = rows["late/text.nrrd"]
    assert text["message"].startswith("text.nrrd") and text["remedy"]
    assert not list((out / FOLDER / "work").rglob("*.nrrd")) and not list((out / FOLDER / "claims").iterdir())


def test_local_workers_do_a_cohort_once(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    batch = Batch(cohort, tmp_path / "out", model=str(tiny_model))
    run(batch, workers=2, make_worker=LightWorker)  # type: ignore[arg-type]
    assert batch.summary() == f"{CASES} cases: {CASES - 1} done, 1 refused." and batch.status == "refused"
    check_all(cohort, tmp_path / "out")
    again = Batch(cohort, tmp_path / "out", model=str(tiny_model))
    run(again, make_worker=LightWorker)  # type: ignore[arg-type]
    assert again.summary() == f"{CASES} cases: {CASES - 1} kept, 1 refused."
    assert ended(tmp_path / "out")["late/text.nrrd", "refused"] == 2


@pytest.mark.parametrize("parts", [True, False], ids=["parts", "the same cases"])
def test_four_processes_at_once_into_one_output(parts: bool, cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", PART, str(cohort), str(out), str(tiny_model), str(number), "4" if parts else "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(1, 5)
    ]
    answers = [process.communicate(timeout=200) for process in crowd]
    assert [err for _, err in answers] == [""] * 4
    if parts:
        check_all(cohort, out)
        assert sum(int(text.split()[0]) for text, _ in answers) == CASES
        return
    assert hashes(out) == expected(cohort)
    times = ended(out)  # the text is refused by each of the four, as a batch tries again what was refused
    assert all(count == 1 for (_, state), count in times.items() if state == "done")
    assert sum(state == "done" for _, state in times) == CASES - 1


def test_dask_survives_a_lost_worker(
    cohort: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    from USMRISynthesisLib.batch.dask_runner import run_on_dask

    monkeypatch.setenv("LIGHT_WORKER_SECONDS", "0.01")
    out, said = tmp_path / "out", []
    killed: list[int] = []
    finished: list[str] = []

    def settled(case: Case) -> None:
        finished.append(case.name)
        if len(finished) == CASES // 2:
            pids = {int(file.name.split("-")[-2]) for file in (out / FOLDER / "ledger").iterdir()} - {os.getpid()}
            assert len(pids) > 1
            killed.append(min(pids))
            os.kill(killed[0], signal.SIGKILL)

    batch = Batch(cohort, out, model=str(tiny_model))
    run_on_dask(
        batch,
        "local",
        options={"n_workers": 4},
        settled=settled,
        say=said.append,
        make_worker=LightWorker,
    )
    assert killed and len(finished) == CASES and "dashboard" in said[0] and "http://127.0.0.1" in said[0]
    assert batch.status == "refused" and batch.counts()["refused"] == 1
    assert hashes(out) == expected(cohort)
    times = ended(out)
    assert len(times) == CASES and set(times.values()) == {1}
    workers = {row["worker"] for row in fold(out)}
    assert len(workers) >= 4 and all(" at tcp://" in worker for worker in workers)
    assert not list((out / FOLDER / "claims").iterdir())


def test_a_killed_process_leaves_what_another_one_goes_on_with(
    cohort: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHT_WORKER_SECONDS", "0.05")
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", PART, str(cohort), str(out), str(tiny_model), "1", "1"])
    end = time.monotonic() + 60
    while len(hashes(out)) < 5 and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    monkeypatch.setenv("LIGHT_WORKER_SECONDS", "0")
    before = len(hashes(out))
    assert 5 <= before < CASES - 1
    for file in (out / FOLDER / "ledger").iterdir():  # as if it had been killed in the middle of a line
        with file.open("a") as lines:
            lines.write('{"name": "late/head')
    batch = Batch(cohort, out, model=str(tiny_model))
    run(batch, make_worker=LightWorker)  # type: ignore[arg-type]
    assert before - 1 <= batch.counts()["kept"] <= before + 1 and batch.status == "refused"
    assert hashes(out) == expected(cohort) and Counter(row["state"] for row in fold(out))["done"] >= CASES - 2


def test_real_synthesis_is_the_same_as_a_part_and_on_dask(
    frame: Volume, tmp_path: Path, trusted_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    source = tmp_path / "in"
    source.mkdir()
    for number in range(2):
        Volume(np.roll(frame.array, number, axis=1), frame.ijk_to_ras).write(source / f"{number}.nrrd")

    def do(name: str, *words: str) -> dict[str, str]:
        command = ["batch", str(source), str(tmp_path / name), "--model", str(trusted_model), "--device", "cpu", *words]
        assert cli.main(command) == 0
        # Of the voxels and their place: the header holds how long each step took.
        images = {path.name: Volume.read(path) for path in (tmp_path / name).glob("*-mr.nrrd")}
        return {
            file: hashlib.sha256(image.array.tobytes() + image.ijk_to_ras.tobytes()).hexdigest()
            for file, image in images.items()
        }

    alone = do("local")
    assert len(alone) == 2
    assert {**do("parts", "--part", "1/2"), **do("parts", "--part", "2/2")} == alone
    assert do("dask", "--dask", "local") == alone
    assert "The dashboard of the cluster is at http" in capsys.readouterr().err
    for row in fold(tmp_path / "dask"):
        assert row["quality"]["score"] is not None and row["quality"]["trusted"] in (True, False)
        assert (tmp_path / "dask" / row["thumbnail"]).read_bytes().startswith(b"\x89PNG")
        assert row["models"]["name"] == "tiny" and row["settings"]["device"] == "cpu" and row["seconds"] > 0


def test_a_part_is_the_same_whatever_else_is_there(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    def names(number: int) -> set[str]:
        batch = Batch(cohort, tmp_path / "out", model=str(tiny_model), part=(number, 3))
        batch.close()
        return {case.name for case in batch.cases}

    parts = [names(number) for number in (1, 2, 3)]
    assert sum(map(len, parts)) == CASES == len(set().union(*parts)) and min(map(len, parts)) > CASES // 6
    new = cohort / "early" / "another.nrrd"
    new.write_text("one more")
    try:
        assert [part - {"early/another.nrrd"} for part in map(names, (1, 2, 3))] == parts
    finally:
        new.unlink()
