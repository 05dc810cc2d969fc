"""The Alignment section: how well the head was found, and what to do when it was not."""
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import USMRIError

from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.nodes.manual_alignment import (
    align_by_landmarks,
    all_placed,
    landmarks_of,
    start_placing,
    stop_placing,
)
from USMRISynthesisScene.nodes.node_observer import Watch
from USMRISynthesisScene.nodes.outline import alignment_of, remove_outline, show_outline
from USMRISynthesisScene.panel.slots import answered

_TRANSFORM_MODIFIED = slicer.vtkMRMLTransformableNode.TransformModifiedEvent


class AlignmentSection:
    """Score, landmarks, and an outline that follows the transform while it is edited.

    Args:
        parameters: the scene's parameters, or None while there are none.
        result: the MR-like volume at hand, or None.
        say: where one sentence for the user goes.
    """

    def __init__(self, ui: Any, parameters: Callable[[], Any], result: Callable[[], Any],
                 say: Callable[[str], None]) -> None:
        self.ui = ui
        self._parameters, self._result, self._say = parameters, result, say
        self._aligned = ""      # id of the ultrasound at the last look
        self._followed = Watch(self._on_transform, _TRANSFORM_MODIFIED)
        self._placed = Watch(self._on_placed, slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent)
        ui.placeLandmarksButton.connect("clicked(bool)", self.on_place)
        ui.useLandmarksButton.connect("clicked(bool)", self.on_use)
        ui.outlineCheckBox.connect("toggled(bool)", self.on_outline)

    def refresh(self, running: bool) -> None:
        source = self._source()
        self._forget_other(source)
        for widget in (self.ui.placeLandmarksButton, self.ui.useLandmarksButton):
            widget.enabled = source is not None and not running
        if self._followed.follow(self._transform()):
            self._on_transform()
        self.ui.outlineCheckBox.enabled = self._followed.node is not None
        score, trusted = score_of(self._result())
        if score is None:
            self.ui.scoreLabel.text = _("Score: none yet.")
        elif trusted:
            self.ui.scoreLabel.text = _("Score: {score:.2f}. The head was found.").format(score=score)
        else:
            self.ui.scoreLabel.text = _("Score: {score:.2f}. The head was not found reliably: show the outline, and "
                                        "align by landmarks or by a transform.").format(score=score)

    def _forget_other(self, source: Any) -> None:
        """Another ultrasound was chosen: an alignment or an age that was given for the one before is silently wrong."""
        before, self._aligned = self._aligned, source.GetID() if source is not None else ""
        parameters = self._parameters()
        if before != self._aligned:
            self.stop_placing()
        if not before or source is None or before == self._aligned or parameters is None:
            return
        if parameters.gestationalAge:
            parameters.gestationalAge = 0.0
            self._say(_("Another ultrasound was chosen: its gestational age is unknown again."))
        chosen = parameters.alignment
        owner = nodes.source_of(chosen)
        if owner is not None and owner is not source:
            parameters.alignment = None
            self._say(_("{transform} belongs to {other}: the alignment is automatic again.").format(
                transform=chosen.GetName(), other=owner.GetName()))

    def on_result(self) -> None:
        """After a run: a doubtful alignment is not left unmentioned."""
        if not score_of(self._result())[1]:
            self.ui.alignmentCollapsibleButton.collapsed = False

    def answer(self, error: USMRIError) -> str:
        """What to say, and where to lead, when a run was refused because the head was not found; else nothing."""
        if error.kind != "unreliable":
            return ""
        self.ui.alignmentCollapsibleButton.collapsed = False
        return " ".join([error.message, _("Under Alignment, place three landmarks or choose a transform; or tick there "
                                          "to go on all the same.")])

    @answered
    def on_place(self) -> str:
        landmarks = landmarks_of(self._source())
        if all_placed(landmarks):
            return _("All three landmarks are placed: drag them in the views, then press Use landmarks.")
        self._placed.follow(landmarks)
        start_placing(landmarks)
        return _("Click the head's front, its back and its top in the views.")

    def _on_placed(self, landmarks: Any, event: Any) -> None:
        """After the last point, before the mouse moves: a move is enough for Slicer to begin another list."""
        if all_placed(landmarks):
            self.stop_placing()
            self._say(_("All three landmarks are placed. Press Use landmarks."))

    def stop_placing(self) -> None:
        """The mouse is free again, where it placed landmarks."""
        landmarks = self._placed.node
        self._placed.follow(None)
        stop_placing(landmarks)

    @answered
    def on_use(self) -> str:
        self.stop_placing()
        parameters = self._parameters()
        parameters.alignment = align_by_landmarks(self._source(), parameters.alignment)
        self.ui.outlineCheckBox.checked = True
        self.on_outline(True)
        return _("Aligned by landmarks. Press Synthesize MR to use it.")

    def on_outline(self, shown: bool) -> None:
        source, transform = self._source(), self._transform()
        if shown and source is not None and transform is not None:
            try:
                show_outline(source, alignment_of(source, transform))
            except USMRIError as error:
                self._say(str(error))
        else:
            remove_outline(source)

    def close(self) -> None:
        self.stop_placing()
        self._followed.follow(None)

    def _source(self) -> Any:
        parameters = self._parameters()
        return parameters.inputVolume if parameters is not None else None

    def _transform(self) -> Any:
        """The transform that was chosen; else the one that was estimated for the result at hand."""
        parameters, result = self._parameters(), self._result()
        chosen = parameters.alignment if parameters is not None else None
        if chosen is None and result is not None and nodes.source_of(result) is self._source():
            chosen = result.GetNodeReference(nodes.TRANSFORM_ROLE)
        return chosen

    def _on_transform(self, caller: Any = None, event: Any = None) -> None:
        if self.ui.outlineCheckBox.checked:
            self.on_outline(True)


def score_of(output: slicer.vtkMRMLNode | None) -> tuple[float | None, bool]:
    """(score 0-1, whether it is to be trusted) of a result, from its provenance; (None, True) where none is kept."""
    text = output.GetAttribute(nodes.PROVENANCE_ATTRIBUTE) if output is not None else None
    provenance = json.loads(text) if text else {}
    score = provenance.get("alignment", {}).get("score")
    return score, bool(provenance.get("alignment_trusted", True))
