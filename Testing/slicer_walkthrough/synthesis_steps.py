"""From the sample to the result: loading, synthesis, cancelling, and the end of the scene."""

from __future__ import annotations

from typing import Any

import slicer

from slicer_walkthrough import views
from slicer_walkthrough.walk import Walk, expect, listed_nodes, need_torch

IDLE = "Synthesize MR"
SYNTHETIC = "SYNTHETIC - not for diagnosis"


def load(walk: Walk, sample: str) -> Any:
    """A sample into an empty scene; it is selected by itself."""
    from USMRISynthesisScene.files.sample_data import sample_file

    slicer.mrmlScene.Clear(0)
    walk.rest()
    with walk.transcript.step(f"{sample}: load") as state:
        node = slicer.util.loadVolume(str(sample_file(sample)), {"name": sample, "singleFile": True})
        walk.rest()
        selected = walk.ui.inputSelector.currentNode()
        expect(selected is not None and selected.GetID() == node.GetID(), "the sample is not selected")
        expect(walk.ui.runButton.enabled, walk.ui.runButton.toolTip)
        walk.unfold("inputs")
        state["summary"] = walk.ui.inputSummaryLabel.text
        state["colour conversion offered"] = walk.ui.greyscaleButton.enabled
        state["model"] = walk.ui.modelLabel.text
    return walk.ui.inputSelector.currentNode()


def synthesize(walk: Walk, sample: str, planes: str = "Axial") -> Any:
    """Everything ticked under Output, then the button; returns the result or None."""
    with walk.transcript.step(f"{sample}: synthesis, {planes}") as state:
        need_torch()
        walk.unfold("output")
        for box in (walk.ui.showComparisonCheckBox, walk.ui.makeMasksCheckBox, walk.ui.makeReliabilityCheckBox):
            walk.tick(box)
        walk.unfold("advanced")
        if walk.ui.planesComboBox.enabled:
            walk.choose(walk.ui.planesComboBox, planes)
        state.update(walk.run(walk.ui.runButton, IDLE))
        expect(state["status"].startswith("Done"), state["status"])
        walk.unfold("alignment")
        state["score"] = walk.ui.scoreLabel.text
        state["nodes"], state["views"] = listed_nodes(), views.views_state()
        walk.photograph(f"{sample}-{planes.lower().replace(' ', '-')}")
        output = _result(walk)
        expect(SYNTHETIC in output.GetName(), "the name is not marked as synthetic")
        source = walk.ui.inputSelector.currentNode()
        expect(output.GetImageData().GetDimensions() == source.GetImageData().GetDimensions(), "another grid")
        voxels = slicer.util.arrayFromVolume(output)
        state["filled"] = round(float((voxels > 0).mean()), 2)
        for name, view in state["views"].items():
            if name != "3D marked":
                expect(not view["blank"], f"the view {name} shows nothing")
                expect(view["marked"] == ("Ultrasound" not in name), f"the view {name} is wrongly marked")
    return _result(walk)


def _result(walk: Walk) -> Any:
    """The newest MR-like volume of the ultrasound that is selected."""
    from USMRISynthesisScene.nodes.nodes import result_of

    return result_of(walk.ui.inputSelector.currentNode())


def cancel(walk: Walk) -> None:
    with walk.transcript.step("cancel") as state:
        need_torch()
        before = listed_nodes()
        _start(walk)
        walk.click(walk.ui.runButton)
        walk.wait(lambda: walk.ui.runButton.text == IDLE, "the end of a cancelled run", 60)
        state["status"] = walk.ui.statusLabel.text
        expect(not walk.ui.progressBar.visible, "the progress bar stays")
        expect(listed_nodes() == before, "the scene is not as it was")


def close_scene(walk: Walk) -> None:
    """While a run goes on."""
    with walk.transcript.step("close the scene during a run") as state:
        need_torch()
        _start(walk)
        slicer.mrmlScene.Clear(0)
        walk.rest(1.0)
        state["button"], state["enabled"] = walk.ui.runButton.text, walk.ui.runButton.enabled
        state["nodes"], state["3D marked"] = listed_nodes(), views.views_state()["3D marked"]
        expect(walk.ui.runButton.text == IDLE and not walk.ui.runButton.enabled, "the button still offers a run")
        expect(not state["nodes"], "nodes are left")
        walk.photograph("closed")


def _start(walk: Walk) -> None:
    walk.click(walk.ui.runButton)
    expect(walk.ui.runButton.text == "Cancel", walk.ui.statusLabel.text)
    walk.wait(lambda: walk.ui.progressBar.value > 2, "progress", 300)
