"""All frames of a 4D sequence: one run after the other, and the scene is touched only when all are done.

The frames are read from the sequence itself, so that the user may browse meanwhile. The result is a sequence of its
own under the same browser: whoever moves through the ultrasound moves through the MR-like images. Each frame is
aligned by itself, lies where its ultrasound frame lies, and carries its own provenance; the transform node holds the
alignment of the frame shown at the end.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Cancelled, USMRIError

from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.inputs import browser_of
from USMRISynthesisScene.runs.run import Reports, require_in_scene
from USMRISynthesisScene.runs.synthesis import SynthesizerProtocol


def frame_count(volume: slicer.vtkMRMLNode | None) -> int:
    browser = browser_of(volume)
    return browser.GetSequenceNode(volume).GetNumberOfDataNodes() if browser is not None else 1


class SequenceRun:
    """Runs a synthesizer over the frames.

    SequenceRun(synthesizer).start(volumeNode, model="default", device="auto", reports=reports)
    """

    def __init__(self, synthesizer: SynthesizerProtocol) -> None:
        self._synthesizer = synthesizer
        self._results: list[nodes.Result] = []

    def start(self, source: Any, *, reports: Reports, **options: Any) -> None:
        """Begin with the first frame; `reports.finished` gets the proxy volume of the new sequence, or the error."""
        self._source, self._browser = source, browser_of(source)
        self._sequence = self._browser.GetSequenceNode(source)
        self._count = self._sequence.GetNumberOfDataNodes()
        self._reports, self._options = reports, options
        self._results = []
        self._run_next()

    def _run_next(self) -> None:
        index = len(self._results)

        def progress(value: float, stage: str) -> None:
            self._reports.progress(
                (index + value) / self._count,
                _("Frame {n} of {count}").format(n=index + 1, count=self._count) + f", {stage}",
            )

        self._synthesizer.start(
            self._sequence.GetNthDataNode(index),
            deliver=self._results.append,
            reports=Reports(progress, self._reports.message, self._on_finished),
            **self._options,
        )

    def _on_finished(self, node: Any, error: USMRIError | None) -> None:
        if error is None:
            try:
                for one in (self._source, self._sequence, self._browser):
                    require_in_scene(one)
            except Cancelled as gone:
                error = gone
        if error is not None:
            self._results = []
            self._reports.finished(None, error)
        elif len(self._results) < self._count:
            self._run_next()
        else:
            self._reports.finished(self._write(), None)

    def _write(self) -> Any:
        """The MR-like sequence, and its proxy volume under the same browser."""
        now = min(max(0, self._browser.GetSelectedItemNumber()), self._count - 1)
        output = nodes.write_result(self._results[now], self._source)
        made = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", f"{output.GetName()} sequence")
        made.SetIndexName(self._sequence.GetIndexName())
        made.SetIndexUnit(self._sequence.GetIndexUnit())
        made.SetIndexType(self._sequence.GetIndexType())
        for index, result in enumerate(self._results):
            self._show(index, result, output)
            made.SetDataNodeAtValue(output, self._sequence.GetNthIndexValue(index))
        self._show(now, self._results[now], output)
        self._browser.AddSynchronizedSequenceNode(made)
        self._browser.AddProxyNode(output, made, False)
        self._results = []
        return output

    def _show(self, index: int, result: nodes.Result, output: Any) -> None:
        """Put a frame's result into the proxy volume: voxels, place and provenance."""
        slicer.util.updateVolumeFromArray(output, np.ascontiguousarray(result.mr.array))
        nodes.set_geometry(output, self._sequence.GetNthDataNode(index), result.mr.ijk_to_ras)
        output.SetAttribute(nodes.PROVENANCE_ATTRIBUTE, json.dumps(dict(result.provenance), sort_keys=True))
