"""No process outlives a cancel, the panel or Slicer itself, also where it has lost its parent (Linux)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scenery import add_head, is_idle, leftovers, play, spin_until
from USMRISynthesisLib.worker.owner import is_alive

MARK = "USMRI_TEST_FAMILY"


def family(mark: str) -> list[int]:
    """The living processes that were started with this mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            marked = f"{MARK}={mark}\0".encode() in entry.read_bytes()
        except OSError:
            continue
        if marked and is_alive(int(entry.parent.name)):
            found.append(int(entry.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")
@pytest.mark.parametrize("end", ["cancel", "close the panel"])
def test_children_of_the_worker_end_with_it(
    end: str, panel: Any, ui: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"{tmp_path}-{end}"
    monkeypatch.setenv(MARK, mark)
    add_head()
    play(panel, "family")
    spin_until(lambda: len(family(mark)) == 2, 30)
    stop: Callable[[], Any] = ui.runButton.click if end == "cancel" else panel.panel.close
    stop()
    spin_until(lambda: family(mark) == [], 10)
    assert end != "cancel" or is_idle(ui)
    spin_until(lambda: leftovers() == [], 10)
