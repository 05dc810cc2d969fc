"""The order of the steps, from the closed panel to the closed scene."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import slicer

from slicer_walkthrough import display_steps, other_steps, synthesis_steps
from slicer_walkthrough.transcript import Transcript
from slicer_walkthrough.walk import MODULE, Walk, expect, listed_nodes


def try_everything(folder: Path, pace: float = 1.0) -> int:
    """Walk through the panel; writes transcript.json and PNG files to the folder. 0: nothing failed; 1: something."""
    folder.mkdir(parents=True, exist_ok=True)
    transcript = Transcript(_application())
    walk = Walk(folder, transcript, pace)
    try:
        if _open(walk):
            _samples(walk)
    finally:
        walk.close()
        transcript.write(folder / "transcript.json")
    print(f"{len(transcript.steps)} steps, {len(transcript.failed)} failed; {folder / 'transcript.json'}", flush=True)
    return 1 if transcript.failed or not transcript.steps else 0


def _application() -> dict[str, Any]:
    """Where it runs; not compared."""
    app = slicer.app
    version = f"{app.majorVersion}.{app.minorVersion}" if app.majorVersion else "stand-in"
    return {
        "slicer": version,
        "revision": app.revision or "",
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _open(walk: Walk) -> bool:
    with walk.transcript.step("open the panel") as state:
        slicer.mrmlScene.Clear(0)
        walk.open()
        walk.rest(1.0)
        state["status"], state["run"] = walk.ui.statusLabel.text, walk.ui.runButton.enabled
        expect(walk.ui.runButton.visible, "the panel is empty")
        expect("Not for diagnosis" in state["status"], "the panel shows no warning")
        walk.photograph("empty")
        return True
    return False


def _samples(walk: Walk) -> None:
    from USMRISynthesisScene.files.sample_data import FRAME, SIMULATED

    for sample in (SIMULATED, FRAME):
        source = synthesis_steps.load(walk, sample)
        output = synthesis_steps.synthesize(walk, sample)
        display_steps.display(walk, sample, output)
        display_steps.slice_in_3d(walk, sample, output)
        other_steps.export(walk, sample, output)
        if sample == SIMULATED:
            output = synthesis_steps.synthesize(walk, sample, "All three combined")
            other_steps.alignment(walk, sample, source, output)
            display_steps.another_parent(walk, sample, source)
            other_steps.registration(walk, sample, source, output)
    other_steps.respacing(walk)
    other_steps.batch(walk)
    with walk.transcript.step("leave the panel and come back") as state:
        before = walk.ui.statusLabel.text
        for name in ("Data", MODULE):
            if slicer.app.moduleManager().module(name) is not None:  # the stand-in has no other modules
                slicer.util.selectModule(name)
                walk.rest()
        state["nodes"], state["status kept"] = listed_nodes(), walk.ui.statusLabel.text == before
    synthesis_steps.cancel(walk)
    synthesis_steps.close_scene(walk)
