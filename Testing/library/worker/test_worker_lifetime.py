"""A worker ends with the program it works for, leaves nothing behind, and imports nothing from the current folder."""

from __future__ import annotations

import hashlib
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.worker import command, folders
from USMRISynthesisLib.worker.client import WorkerProcess
from USMRISynthesisLib.worker.owner import is_alive, when_gone

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
LIBRARY = str(command.MAIN.parents[2])


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_is_known_to_live_or_to_have_ended(ended: int) -> None:
    assert is_alive(os.getpid()) and not is_alive(ended) and not is_alive(0) and not is_alive(-1)
    gone: list[str] = []
    when_gone(ended, lambda: gone.append("at once"))
    assert within(5, lambda: gone == ["at once"])
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        when_gone(process.pid, lambda: gone.append("then"))
        time.sleep(0.3)
        assert gone == ["at once"]
        process.communicate(b"\n")
        assert within(5, lambda: gone == ["at once", "then"])


@posix
@pytest.mark.parametrize("job", ["heavy", "deaf"])
def test_a_worker_ends_with_its_owner_though_its_input_stays_open(job: str, tmp_path: Path) -> None:
    """The owner is killed while a job runs, another process holds the pipe, and the worker's parent is a launcher."""
    busy = "while not worker._is_cancelled(job): time.sleep(0.02)" if job == "heavy" else "time.sleep(600)"
    worker = textwrap.dedent(f"""
        import sys, time
        from USMRISynthesisLib.worker import serve
        serve.EXIT_GRACE_S = 0.5
        def work(worker, job):
            worker._log(job)("info", "at work")
            {busy}
            return {{}}
        serve.Worker._ping = work
        serve.main(sys.argv[1:])
    """)
    launcher = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', *sys.argv[1:]]))"
    owner = textwrap.dedent(f"""
        import os, subprocess, sys, time
        read, write = os.pipe()
        holder = subprocess.Popen(["sleep", "60"], pass_fds=[write])     # keeps the worker's input open
        worker = subprocess.Popen([sys.executable, "-c", {launcher!r}, {worker!r}, "--owner", str(os.getpid())],
                                  stdin=read, start_new_session=True, stdout=sys.stdout)
        os.write(write, b'{{"id": 1, "op": "ping"}}\\n')
        print(holder.pid, worker.pid, flush=True)
        time.sleep(600)
    """)
    environment = {**os.environ, "PYTHONPATH": LIBRARY, "USMRI_TEST_FAMILY": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        holder = int(process.stdout.readline().split()[0])
        try:
            assert b"at work" in process.stdout.readline()
            process.kill()
            process.wait()
            if sys.platform == "linux":
                assert within(10, lambda: family(tmp_path) == [holder])
            assert is_alive(holder)
        finally:
            os.kill(holder, signal.SIGKILL)


def family(mark: Path) -> list[int]:
    """The living processes that were started with this mark in their environment (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"USMRI_TEST_FAMILY={mark}\0".encode() in entry.read_bytes() and is_alive(int(entry.parent.name)):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")
def test_cancel_ends_the_children_of_a_worker_too(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf.py"
    deaf.write_text(
        textwrap.dedent("""
        import json, subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '20'])"])
        request = json.loads(sys.stdin.readline())
        print(json.dumps({"id": request["id"], "event": "progress", "value": 0.1, "stage": "deaf"}), flush=True)
        time.sleep(60)
    """)
    )
    worker = WorkerProcess([sys.executable, str(deaf)], {"USMRI_TEST_FAMILY": str(tmp_path)})

    def stop(event: dict[str, object]) -> None:
        assert within(5, lambda: len(family(tmp_path)) == 3)
        worker.cancel()

    began = time.monotonic()
    with pytest.raises(USMRIError, match="Cancelled"):
        worker.request("synthesize", on_event=stop)
    assert within(3, lambda: family(tmp_path) == [])
    assert time.monotonic() - began < 15  # an orphan would hold the pipes, and so the cancel, for its 20 s


def test_folders_of_ended_processes_are_removed_and_nothing_else(tmp_path: Path, ended: int) -> None:
    host = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    abandoned = tmp_path / f"usmri-run-{host}-{ended}-abc_1"
    (abandoned / "inside").mkdir(parents=True)
    (abandoned / "input.nrrd").write_bytes(b"voxels")
    mine = folders.make_folder(tmp_path)
    others = [
        f"usmri-run-{host}-{os.getpid()}-abc",
        f"usmri-run-{'0' * 8}-{ended}-abc",
        f"usmri-run-{ended}-abc",
        f"usmri-run-{host}-{ended}",
        f"my usmri-run-{host}-{ended}-abc",
        f"usmri-run-{host}-{ended}x-abc",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / f"usmri-run-{host}-{ended}-file").write_text("a file")
    (tmp_path / "precious").mkdir()
    if os.name != "nt":
        (tmp_path / f"usmri-run-{host}-{ended}-link").symlink_to(tmp_path / "precious")
    before = set(os.listdir(tmp_path))
    assert folders.remove_abandoned(tmp_path) == [abandoned]
    assert before - set(os.listdir(tmp_path)) == {abandoned.name} and mine.is_dir()
    assert folders.remove_abandoned(tmp_path) == [] == folders.remove_abandoned(tmp_path / "nowhere")


@posix
def test_the_next_start_removes_what_a_killed_run_left(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys, time
        from USMRISynthesisLib.worker import folders
        folder = folders.make_folder()
        (folder / "input.nrrd").write_bytes(b"voxels")
        print(folder, flush=True)
        time.sleep(600)
    """)
    environment = {**os.environ, "PYTHONPATH": LIBRARY, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        left = Path(os.fsdecode(process.stdout.readline().strip()))
        process.kill()
    assert left.parent == tmp_path and left.is_dir()
    client = (
        "from USMRISynthesisLib.worker.client import WorkerProcess\nwith WorkerProcess() as w: print(w.request('ping'))"
    )
    subprocess.run([sys.executable, "-c", client], env=environment, check=True, capture_output=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [None, "", os.pathsep, f".{os.pathsep}modules"])
def test_modules_in_the_current_folder_are_not_imported(
    path: str | None, tmp_path: Path, frame: Volume, trusted_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run, for which torch, numpy and the library itself are imported."""
    here = tmp_path / "downloads"
    for folder in (here, here / "modules"):
        folder.mkdir()
        for name in ("torch", "numpy", "SimpleITK", "json", "USMRISynthesisLib", "sitecustomize"):
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(here)
    if path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", path)
    with WorkerProcess() as worker:
        if path is None:
            made = worker.synthesize(frame, model=str(trusted_model), device="cpu", unreliable=True)
            assert made.mr.shape == frame.shape
        else:
            with pytest.raises(USMRIError, match="no file"):
                worker.request("normalise", input=str(tmp_path / "none.nrrd"), output=str(tmp_path / "o.nrrd"))
    assert not (tmp_path / "harm").exists()


def test_absolute_folders_of_the_python_path_are_kept(tmp_path: Path) -> None:
    one, two = str(tmp_path), str(tmp_path / "two")
    given = {"A": "1", "PYTHONPATH": os.pathsep.join(["", one, ".", "relative", two])}
    assert command.environment(given) == {"A": "1", "PYTHONPATH": os.pathsep.join([one, two])}
    assert command.environment({"A": "1", "PYTHONPATH": "."}) == {"A": "1"}
    assert Path(command.arguments()[-3]).is_absolute() and command.arguments()[-2:] == ["--owner", str(os.getpid())]
