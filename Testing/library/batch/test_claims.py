"""Claims on cases: one process at a time, whoever died, whichever machine, however close together they come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from USMRISynthesisLib.batch import claims as module
from USMRISynthesisLib.batch.claims import Claims
from USMRISynthesisLib.batch.identity import gone, this_process

LIBRARY = Path(__file__).parents[3] / "USMRISynthesis"
HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom USMRISynthesisLib.batch.claims import Claims\n"
    "claims = Claims(Path(sys.argv[1]))\nassert claims.take('case')\nprint('held', flush=True)\ntime.sleep(60)"
)


def start(code: str, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def write_claim(folder: Path, holder: dict[str, Any], *, age_s: float = 0.0, name: str = "case") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{module._key(name)}.theirs-0"
    path.write_text(json.dumps(holder))
    seen = time.time() - age_s
    os.utime(path, (seen, seen))
    return path


def test_a_case_is_claimed_once_until_it_is_given_back(tmp_path: Path) -> None:
    first, second = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    assert first.take("a") and not first.take("a") and not second.take("a") and second.take("b")
    assert first.holds("a") and not second.holds("a")
    first.release("a")
    assert second.take("a") and not first.holds("a")
    second.close()
    assert list((tmp_path / "claims").iterdir()) == []


def test_the_claim_of_a_killed_process_is_none(tmp_path: Path) -> None:
    process = start(HOLD, str(tmp_path))
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    claims = Claims(tmp_path)
    assert not claims.take("case")
    process.kill()
    process.wait()
    assert claims.take("case") and claims.holds("case")
    assert len(list(tmp_path.iterdir())) == 1  # the dead one's is gone
    claims.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("holder", "age_s", "free"),
    [
        ({"machine": "other", "pid": 1}, 10.0, False),  # another machine, heard of a moment ago
        ({"machine": "other", "pid": 1}, 400.0, True),
        ({}, 10.0, False),  # it is just being written
        ({}, 400.0, True),
        ({**this_process()}, 1e6, False),  # it runs here, however long ago it was touched
        ({**this_process(), "start": "1"}, 10.0, True),  # its process id was given to another process since
    ],
)
def test_a_claim_is_stale_with_its_process_or_without_a_sign_of_life(
    holder: dict[str, Any], age_s: float, free: bool, tmp_path: Path
) -> None:
    write_claim(tmp_path, holder, age_s=age_s)
    claims = Claims(tmp_path)
    assert claims.take("case") is free
    claims.close()


def test_a_claim_gives_signs_of_life(tmp_path: Path) -> None:
    claims = Claims(tmp_path, beat_s=0.05)
    assert claims.take("case")
    (path,) = tmp_path.iterdir()
    os.utime(path, (1.0, 1.0))
    end = time.monotonic() + 10
    while path.stat().st_mtime < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert path.stat().st_mtime > 2
    claims.close()


def test_who_was_taken_for_dead_knows_it_before_its_result_gets_a_name(tmp_path: Path) -> None:
    slow, other = Claims(tmp_path), Claims(tmp_path)
    assert slow.take("case")
    (own,) = tmp_path.iterdir()
    own.write_text(json.dumps({"machine": "other", "pid": 1}))  # as another machine sees it
    os.utime(own, (1.0, 1.0))
    assert other.take("case") and other.holds("case") and not slow.holds("case")
    slow.release("case")
    assert other.holds("case")
    other.close()


def test_who_sees_another_after_its_own_claim_withdraws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims, true = Claims(tmp_path), Claims._of
    looked: list[int] = []

    def of(self: Claims, key: str) -> list[Path]:
        looked.append(1)
        if len(looked) == 2:  # after its own is there: another one's has come as well
            write_claim(tmp_path, {**this_process()})
        return true(self, key)

    monkeypatch.setattr(Claims, "_of", of)
    assert not claims.take("case") and not claims.holds("case")
    assert [path.suffix for path in tmp_path.iterdir()] == [".theirs-0"]


def test_four_processes_that_want_the_same_cases_never_have_one_together(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom USMRISynthesisLib.batch.claims import Claims\n"
        "folder, got = Path(sys.argv[1]), 0\nclaims = Claims(folder / 'claims')\nend = time.monotonic() + 3\n"
        "while time.monotonic() < end:\n    for name in 'ab':\n        if claims.take(name):\n"
        "            (folder / name).open('x').close()\n            assert claims.holds(name)\n"
        "            (folder / name).unlink()\n            claims.release(name)\n            got += 1\nprint(got)"
    )
    crowd = [start(code, str(tmp_path)) for _ in range(4)]
    answers = [process.communicate(timeout=90) for process in crowd]
    assert [err for _, err in answers] == [""] * 4 and sum(int(out) for out, _ in answers) > 4


def test_a_process_that_has_ended_is_gone_and_a_foreign_one_unknown() -> None:
    assert gone(this_process()) is False and gone({"machine": "other", "pid": 1}) is None and gone({}) is None
    assert gone({**this_process(), "pid": 2**22 + 1}) is True
