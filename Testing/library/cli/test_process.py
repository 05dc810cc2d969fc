"""The command in a process of its own: interrupts at any moment, any code page, closed pipes, libraries that print."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from USMRISynthesisLib import cli
from USMRISynthesisLib.cli import command_line, console
from USMRISynthesisLib.io.volume import Volume

LIBRARY = Path(__file__).parents[3] / "USMRISynthesis"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


def start(*words: str | bytes, code: str = "", **environment: str) -> subprocess.Popen[bytes]:
    """`usmri` in a child process, or Python code that calls it."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "USMRISynthesisLib.cli"]
    return subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(LIBRARY), **environment},
        # A shell's background job ignores it.
        **({} if sys.platform == "win32" else {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}),
    )


def run(*words: str | bytes, code: str = "", **environment: str) -> tuple[int, bytes, bytes]:
    process = start(*words, code=code, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def one_object(out: bytes) -> dict:
    """The one JSON object on stdout, in JSON as its standard has it."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    assert out.count(b"\n") == 1 and out.endswith(b"\n")
    content = json.loads(out, parse_constant=refuse)
    assert isinstance(content, dict) and content["status"] in ("done", "failed", "refused", "cancelled")
    return content


@pytest.fixture
def image(frame: Volume, tmp_path: Path) -> Path:
    frame.write(tmp_path / "us.nrrd")
    return tmp_path / "us.nrrd"


@pytest.fixture
def working(trusted_model: Path) -> list[str]:
    """Options with which a frame is synthesised at once."""
    return ["--model", str(trusted_model), "--device", "cpu", "--unreliable"]


# --- interrupts

# Waits at a place that it names, as an import or a library does.
_WAITING = """
import sys, time
def wait(*_, **__):
    sys.__stderr__.flush(); import os; os.write(9, b"here"); time.sleep(60)
"""
_AT_PARSING = (
    _WAITING
    + """
import argparse
argparse.ArgumentParser.parse_args = wait
"""
)
_AT_IMPORT = (
    _WAITING
    + """
import importlib.abc
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "USMRISynthesisLib.cli.command_line": wait()
sys.meta_path.insert(0, Finder())
"""
)
_SWALLOWED = (
    _WAITING
    + """
import importlib.abc
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "SimpleITK" or name == "numpy":
            try: wait()
            except KeyboardInterrupt: raise ImportError("numpy could not be imported") from None
sys.meta_path.insert(0, Finder())
"""
)
_IGNORED = (
    _WAITING
    + """
from USMRISynthesisLib.synthesis import pipeline
def work(*_, cancel, **__):
    class Noisy:
        def __del__(self): wait()
    Noisy()
    assert cancel()
    from USMRISynthesisLib.errors import Cancelled
    raise Cancelled
pipeline.synthesize = work
"""
)


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
@pytest.mark.parametrize("place", [_AT_IMPORT, _AT_PARSING, _SWALLOWED, _IGNORED],
                         ids=["import", "parsing", "import-in-the-work", "destructor"])  # fmt: skip
def test_an_interrupt_is_one_line_at_any_moment(number: int, place: str, image: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    code = place + "\nfrom USMRISynthesisLib.cli import main\nsys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "synthesize", str(image), str(tmp_path / "mr.nrrd"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        preexec_fn=lambda: (signal.signal(signal.SIGINT, signal.SIG_DFL), os.dup2(writing, 9)),
        pass_fds=(9,) if writing == 9 else (),
        close_fds=False,
    )
    os.close(writing)
    assert os.read(reading, 4) == b"here"
    os.close(reading)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, b"Cancelled. Nothing was changed.\n")
    assert one_object(out)["kind"] == "cancelled" and [path.name for path in tmp_path.glob("*mr*")] == []


@POSIX
def test_an_interrupt_in_the_first_second_ends_with_one_line(image: Path, tmp_path: Path, working: list[str]) -> None:
    for delay in (0.15, 0.4, 0.8):  # the first 0.1 s belong to Python itself
        process = start("synthesize", str(image), str(tmp_path / "mr.nrrd"), *working)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (1, b"", b"Cancelled. Nothing was changed.\n")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["us.nrrd"]


# --- what is printed


def test_letters_that_the_code_page_lacks_are_replaced(image: Path, tmp_path: Path, working: list[str]) -> None:
    target = tmp_path / "голова-王.nrrd"
    code, out, err = run("synthesize", str(image), str(target), *working, PYTHONIOENCODING="cp1252")
    assert (code, err) == (0, b"") and target.is_file() and b"??????-?.nrrd" in out
    code, out, err = run("synthesize", str(tmp_path / "нет.nrrd"), str(target), PYTHONIOENCODING="ascii")
    assert (code, out) == (2, b"") and err.startswith(b"There is no file ???.nrrd")


@POSIX
def test_names_that_are_not_utf8_are_read_and_written(image: Path, tmp_path: Path, working: list[str]) -> None:
    source, target = (os.fsencode(tmp_path) + name for name in (b"/t\xeate.nrrd", b"/o\xeate.nrrd"))
    os.rename(image, source)
    code, out, err = run("synthesize", source, target, *working, "--json")
    assert (code, err) == (0, b"")
    result = one_object(out)
    assert os.fsencode(result["output"]) == target and os.path.isfile(target)
    assert os.path.isfile(os.fsencode(result["provenance"]))
    code, out, _ = run("synthesize", source, source + b".nrrd", *working)
    assert code == 0 and b"Wrote" in out


@POSIX
def test_a_reader_that_goes_away_is_no_fault(image: Path, tmp_path: Path, working: list[str]) -> None:
    for words in (
        ["info"],
        ["--help"],
        ["info", "--json"],
        ["synthesize", str(image), str(tmp_path / "a.nrrd"), *working],
    ):
        process = start(*words)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        assert (process.wait(timeout=60), err) == (0, b"")
    assert (tmp_path / "a.nrrd").is_file()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_an_answer_that_cannot_be_written_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "USMRISynthesisLib.cli", "info"],
            stdout=full, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(LIBRARY)}, check=False,
        )  # fmt: skip
    assert done.returncode == 1 and re.fullmatch(rb"The answer could not be written: No space left.*\n", done.stderr)


_PRINTING = """
import os, sys
from USMRISynthesisLib.synthesis import pipeline
def work(*_, **__):
    os.write(1, b"noise of a library on stdout\\n"); os.write(2, b"noise of a library on stderr\\n")
    import warnings; warnings.warn("a warning")
    from USMRISynthesisLib.errors import Refused
    raise Refused("kind", "It is\\nrefused.", "Do so.")
pipeline.synthesize = work
from USMRISynthesisLib.cli import main
sys.exit(main())
"""


def test_libraries_do_not_print_past_the_command(image: Path, tmp_path: Path) -> None:
    words = ["synthesize", str(image), str(tmp_path / "mr.nrrd")]
    assert run(*words, code=_PRINTING) == (2, b"", b"It is refused. Do so.\n")
    code, out, err = run(*words, "--verbose", "--json", code=_PRINTING)
    assert code == 2 and one_object(out)["message"] == "It is\nrefused."
    assert b"noise of a library on stdout" in err and b"noise of a library on stderr" in err


def test_damaged_files_are_one_line(tmp_path: Path, head: Volume) -> None:
    head.write(tmp_path / "whole.mha", compress=False)
    (tmp_path / "a.mha").write_bytes((tmp_path / "whole.mha").read_bytes()[:-9999])
    head.write(tmp_path / "whole.nii")
    data = bytearray((tmp_path / "whole.nii").read_bytes())
    data[40:42] = b"\x09\x00"  # nine dimensions
    (tmp_path / "b.nii").write_bytes(data)
    for name in ("a.mha", "b.nii"):
        code, out, err = run("synthesize", str(tmp_path / name), str(tmp_path / "mr.nrrd"))
        assert (code, out, err.count(b"\n")) == (2, b"", 1) and err.startswith(name.encode())


@pytest.mark.parametrize(
    "environment", [{"PYTORCH_JIT": "0"}, {"PYTHONWARNINGS": "error"}], ids=["jit-off", "warnings-are-errors"]
)
def test_settings_for_developers_do_not_end_the_work(
    environment: dict[str, str], image: Path, tmp_path: Path, working: list[str]
) -> None:
    words = ["synthesize", str(image), str(tmp_path / "mr.nrrd"), *working, "--quiet"]
    assert run(*words, **environment) == (0, b"", b"") and (tmp_path / "mr.nrrd").is_file()
    (tmp_path / "in").mkdir()
    image.rename(tmp_path / "in" / "us.nrrd")
    code, out, err = run("batch", str(tmp_path / "in"), str(tmp_path / "out"), *working, "--json", **environment)
    assert code == 0 and one_object(out)["counts"] == {"done": 1} and b"Traceback" not in err


# --- one JSON object


@pytest.mark.parametrize(
    ("words", "code", "status", "kind"),
    [
        (["--json"], 2, "refused", "arguments"),
        (["fly", "--json"], 2, "refused", "arguments"),
        (["--json", "synthesize"], 2, "refused", "arguments"),
        (["synthesize", "in", "out", "--frame", "x", "--json"], 2, "refused", "arguments"),
        (["synthesize", "--help", "--json"], 0, "done", None),
        (["--version", "--json"], 0, "done", None),
        (["--json", "info"], 0, "done", None),
        (["info", "nonesuch", "--json"], 1, "failed", "no-model"),
        (["normalise", "none.nrrd", "out.nrrd", "--json"], 2, "refused", "missing"),
    ],
)
def test_json_is_one_object_whatever_is_wrong(
    words: list[str], code: int, status: str, kind: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(words) == code
    content = one_object(capfd.readouterr().out.encode())
    assert content["status"] == status and content.get("kind") == kind


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        (KeyboardInterrupt(), "cancelled", "cancelled"),
        (ZeroDivisionError("secret"), "failed", "internal"),
        (MemoryError(), "failed", "memory"),
        (RuntimeError("could not create a primitive"), "failed", "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), "failed", "memory"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "failed", "memory"),
        (ImportError("a.so: failed to map segment from shared object: Operation not permitted"), "failed", "internal"),
        (OSError(12, "Cannot allocate memory"), "failed", "memory"),
        (ModuleNotFoundError("no", name="PIL.Image"), "failed", "package"),
        (BrokenPipeError(), "failed", "internal"),
    ],
)
def test_each_fault_of_the_work_is_one_object_and_one_sentence(
    fault: BaseException, status: str, kind: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from USMRISynthesisLib.synthesis import pipeline

    def work(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(pipeline, "synthesize", work)
    assert command_line.main(["synthesize", str(image), str(tmp_path / "mr.nrrd"), "--json"]) == 1
    out, err = capsys.readouterr()
    content = one_object(out.encode())
    assert (content["status"], content["kind"]) == (status, kind)
    assert err.count("\n") == 1 and "secret" not in err
    if kind == "package":
        assert content["remedy"] == "Install it: pip install pillow."


def test_numbers_that_are_none_are_null(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from USMRISynthesisLib.cli import info

    result = {"score": float("nan"), "array": np.array([1.5, np.inf]), "count": np.int64(3), "path": Path("x")}
    monkeypatch.setattr(info, "info", lambda options: ("", result))
    assert command_line.main(["info", "--json"]) == 0
    content = one_object(capsys.readouterr().out.encode())
    assert content == {"status": "done", "score": None, "array": [1.5, None], "count": 3, "path": "x"}


# --- as a guest in another process


def test_main_runs_in_a_thread_and_leaves_the_process_alone() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    streams, warned = (sys.stdout, sys.stderr), os.environ.get("PYTHONWARNINGS")
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(cli.main(["info", "--quiet"])))
    thread.start()
    thread.join()
    assert answers == [0] and cli.main(["info", "--quiet"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (sys.stdout, sys.stderr) == streams and os.environ.get("PYTHONWARNINGS") == warned


def test_closed_and_missing_streams_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as closed:
        pass
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        console.say("nobody hears")
    monkeypatch.setattr(sys, "stdout", None)
    assert console.answer("nobody hears") is None


# --- the parser


def test_help_takes_a_third_of_a_second_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time\nfrom USMRISynthesisLib.cli import main\ncode = main(['--help'])\n"
        "heavy = {'numpy', 'scipy', 'SimpleITK', 'torch', 'PIL'} & set(sys.modules)\n"
        "sys.stderr.write(f'{time.process_time()} {sorted(heavy)}'); sys.exit(code)"
    )
    code_, out, err = run(code=code)
    spent, heavy = err.decode().split(" ", 1)
    assert code_ == 0 and b"synthesize" in out and heavy == "[]" and float(spent) <= 0.3


@pytest.mark.parametrize(
    ("earlier", "today", "name", "value"),
    [
        ("evaluate spacing --alone 28", "evaluate spacing --single-stack-minutes 28", "single_stack_minutes", 28.0),
        ("evaluate spacing --peer run", "evaluate spacing --baseline-command run", "baseline_command", "run"),
        ("evaluate spacing --peer-patches 9", "evaluate spacing --baseline-patches 9", "baseline_patches", 9),
        ("evaluate spacing --peer-cases 3", "evaluate spacing --baseline-cases 3", "baseline_cases", 3),
        ("evaluate synthesis --through product", "evaluate synthesis --pose estimated", "pose", "estimated"),
        ("evaluate synthesis --through network", "evaluate synthesis --pose true", "pose", "true"),
        ("study c --trained", "study c --skip-training", "skip_training", True),
        ("synthesize a b --support c", "synthesize a b --reliability c", "reliability", "c"),
        ("synthesize a b --unreliable", "synthesize a b --allow-low-confidence", "unreliable", True),
        ("batch a b --unreliable", "batch a b --allow-low-confidence", "unreliable", True),
    ],
)
def test_options_by_their_earlier_and_their_present_name(earlier: str, today: str, name: str, value: object) -> None:
    parser = command_line.build_parser()
    first, second = (vars(parser.parse_args(words.split())) for words in (earlier, today))
    assert first == second and second[name] == value


def test_help_lists_the_present_names_only(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("evaluate", "study", "synthesize"):
        assert command_line.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--alone", "--peer", "--trained", "--through", "--support"):
        assert not re.search(rf"{option}\b", text)
    for option in ("--single-stack-minutes", "--baseline-command", "--skip-training", "--pose", "--reliability"):
        assert option in text


def test_an_older_evaluation_still_makes_a_card() -> None:
    from USMRISynthesisLib.cli.export import _figures

    for content in ({"through": "product"}, {"pose": "estimated"}):
        path = Path(os.environ["USMRI_CONFIG_DIR"]) / "figures.json"
        path.write_text(json.dumps({"split": "val", "cases": 2, "values": {"ncc": [0.5, 0.4, 0.6]}, **content}))
        assert _figures(path)["printed_by"] == "usmri evaluate synthesis --split val --pose estimated"
