"""Recording: every ultrasound picture and the image that was made from it, as two sequences under one browser."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.live.mark import burn_in

from USMRISynthesisScene.nodes import nodes

# Sequences lie in memory.
MOST_BYTES = 2 << 30


class Recording:
    """Collects pairs; the scene is touched by `finish` alone.

    recording = Recording(source)
    recording.add(0.05, ultrasound, mr, ijk_to_ras)
    browser = recording.finish()
    """

    def __init__(self, source: Any) -> None:
        self._source_name, self._transform = source.GetName(), source.GetTransformNodeID()
        self.count = self._bytes = 0
        self._ultrasound = self._sequence(_("{name} recorded").format(name=self._source_name))
        self._mr = self._sequence(f"{self._source_name} recorded MR-like ({nodes.SYNTHETIC})")

    @property
    def full(self) -> bool:
        """Whether no more fits into memory."""
        return self._bytes >= MOST_BYTES

    def add(self, seconds: float, ultrasound: np.ndarray, mr: np.ndarray, ijk_to_ras: np.ndarray) -> None:
        """One pair, (1, j, i) each, at a time from the start that is later than the last one's."""
        value = f"{seconds:.3f}"
        for sequence, array in ((self._ultrasound, ultrasound), (self._mr, burn_in(mr))):
            node = slicer.vtkMRMLScalarVolumeNode()
            node.SetName(sequence.GetName())
            if sequence is self._mr:
                node.SetAttribute(nodes.SYNTHETIC_ATTRIBUTE, nodes.SYNTHETIC)
            slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array))
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))
            sequence.SetDataNodeAtValue(node, value)
            self._bytes += array.nbytes
        self.count = self._mr.GetNumberOfDataNodes()

    def finish(self) -> Any:
        """Put the sequences into the scene; returns their browser, or None where nothing was recorded."""
        if not self.count:
            return None
        scene = slicer.mrmlScene
        name = scene.GenerateUniqueName(_("{name} live recording").format(name=self._source_name))
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", name)
        for sequence in (self._ultrasound, self._mr):
            scene.AddNode(sequence)
            browser.AddSynchronizedSequenceNode(sequence)
            proxy = browser.GetProxyNode(sequence)
            if proxy is not None:
                proxy.SetAndObserveTransformNodeID(self._transform)
        proxy = browser.GetProxyNode(self._mr)
        if proxy is not None and proxy.GetDisplayNode() is not None:
            proxy.GetDisplayNode().SetAutoWindowLevel(False)
            proxy.GetDisplayNode().SetWindowLevelMinMax(*nodes.MR_WINDOW)
        return browser

    @staticmethod
    def _sequence(name: str) -> Any:
        sequence = slicer.vtkMRMLSequenceNode()
        sequence.SetName(name)
        sequence.SetIndexName("time")
        sequence.SetIndexUnit("s")
        sequence.SetIndexType(sequence.NumericIndex)
        return sequence
