"""The Alignment section: confidence of the automatic alignment, and alignment by hand."""

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
from USMRISynthesisScene.nodes.node_observer import NodeObserver
from USMRISynthesisScene.nodes.outline import alignment_of, remove_outline, show_outline
from USMRISynthesisScene.panel.slots import status_slot

# Kinds of refusals for what an image shows, which the section's box allows, too.
CONTENT = ("content", "modality")
_TRANSFORM_MODIFIED = slicer.vtkMRMLTransformableNode.TransformModifiedEvent


class AlignmentSection:
    """Confidence, landmarks, and an outline that follows the transform while it is edited.

    Args:
        parameters: the scene's parameters, or None while there are none.
        result: the current MR-like volume, or None.
        set_status: shows one sentence in the status line.
    """

    def __init__(
        self, ui: Any, parameters: Callable[[], Any], result: Callable[[], Any], set_status: Callable[[str], None]
    ) -> None:
        self.ui = ui
        self._parameters, self._result, self._set_status = parameters, result, set_status
        self._source_id = ""  # of the ultrasound at the last refresh
        self._transform_observer = NodeObserver(self._on_transform, _TRANSFORM_MODIFIED)
        self._landmark_observer = NodeObserver(self._on_placed, slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent)
        ui.placeLandmarksButton.connect("clicked(bool)", self.on_place)
        ui.useLandmarksButton.connect("clicked(bool)", self.on_use)
        ui.outlineCheckBox.connect("toggled(bool)", self.on_outline)

    def refresh(self, running: bool) -> None:
        source = self._source()
        self._reset_for(source)
        for widget in (self.ui.placeLandmarksButton, self.ui.useLandmarksButton):
            widget.enabled = source is not None and not running
        if self._transform_observer.observe(self._transform()):
            self._on_transform()
        self.ui.outlineCheckBox.enabled = self._transform_observer.node is not None
        confidence, reliable = confidence_of(self._result())
        if confidence is None:
            self.ui.scoreLabel.text = _("Confidence: none yet.")
        elif reliable:
            self.ui.scoreLabel.text = _("Confidence: {value:.2f}. The head was found.").format(value=confidence)
        else:
            self.ui.scoreLabel.text = _(
                "Confidence: {value:.2f}. The head was not found reliably: show the outline, "
                "and align by landmarks or by a transform."
            ).format(value=confidence)
        self.ui.biometryLabel.text = biometry_text(provenance_of(self._result()))

    def _reset_for(self, source: Any) -> None:
        """When another ultrasound is chosen, drop the alignment and the age that belong to the one before."""
        before, self._source_id = self._source_id, source.GetID() if source is not None else ""
        parameters = self._parameters()
        if before != self._source_id:
            self.stop_placing()
        if not before or source is None or before == self._source_id or parameters is None:
            return
        if parameters.gestationalAge:
            parameters.gestationalAge = 0.0
            self._set_status(_("Another ultrasound was chosen: the gestational age was set back to unknown."))
        chosen = parameters.alignment
        owner = nodes.source_of(chosen)
        if owner is not None and owner is not source:
            parameters.alignment = None
            self._set_status(
                _("{transform} belongs to {other}: the alignment is automatic again.").format(
                    transform=chosen.GetName(), other=owner.GetName()
                )
            )

    def on_result(self) -> None:
        """After a run: open the section where the alignment is not reliable."""
        if not confidence_of(self._result())[1]:
            self.ui.alignmentCollapsibleButton.collapsed = False

    def explain(self, error: USMRIError) -> str:
        """The status sentence for a run that was refused for its head or its content; "" for other errors."""
        if error.kind not in ("unreliable", *CONTENT):
            return ""
        self.ui.alignmentCollapsibleButton.collapsed = False
        if error.kind in CONTENT:
            return " ".join(
                [
                    error.message,
                    _("Choose an ultrasound of the fetal brain; or tick the box under Alignment to continue anyway."),
                ]
            )
        return " ".join(
            [
                error.message,
                _(
                    "Under Alignment, place three landmarks or choose a transform; or tick the "
                    "box there to continue anyway."
                ),
            ]
        )

    @status_slot
    def on_place(self) -> str:
        landmarks = landmarks_of(self._source())
        if all_placed(landmarks):
            return _("All three landmarks are placed: drag them in the views, then press Use landmarks.")
        self._landmark_observer.observe(landmarks)
        start_placing(landmarks)
        return _("Click the head's front, its back and its top in the views.")

    def _on_placed(self, landmarks: Any, event: Any) -> None:
        """Stop at the last point, before the mouse moves: a mouse move would make Slicer start another list."""
        if all_placed(landmarks):
            self.stop_placing()
            self._set_status(_("All three landmarks are placed. Press Use landmarks."))

    def stop_placing(self) -> None:
        """Leave Slicer's place mode where it was placing landmarks."""
        landmarks = self._landmark_observer.node
        self._landmark_observer.observe(None)
        stop_placing(landmarks)

    @status_slot
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
                self._set_status(str(error))
        else:
            remove_outline(source)

    def close(self) -> None:
        self.stop_placing()
        self._transform_observer.observe(None)

    def _source(self) -> Any:
        parameters = self._parameters()
        return parameters.inputVolume if parameters is not None else None

    def _transform(self) -> Any:
        """The chosen transform; else the one that was estimated for the current result."""
        parameters, result = self._parameters(), self._result()
        chosen = parameters.alignment if parameters is not None else None
        if chosen is None and result is not None and nodes.source_of(result) is self._source():
            chosen = result.GetNodeReference(nodes.TRANSFORM_ROLE)
        return chosen

    def _on_transform(self, caller: Any = None, event: Any = None) -> None:
        if self.ui.outlineCheckBox.checked:
            self.on_outline(True)


def confidence_of(output: slicer.vtkMRMLNode | None) -> tuple[float | None, bool]:
    """(confidence 0-1, whether the alignment is reliable) from the provenance; (None, True) where there is none."""
    provenance = provenance_of(output)
    return provenance.get("alignment", {}).get("score"), bool(provenance.get("alignment_trusted", True))


def provenance_of(output: slicer.vtkMRMLNode | None) -> dict[str, Any]:
    """The provenance that a node carries; {} where there is none."""
    text = output.GetAttribute(nodes.PROVENANCE_ATTRIBUTE) if output is not None else None
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def biometry_text(provenance: dict[str, Any]) -> str:
    """Biometry and expected error in one line each; "" where a result has none."""
    found, lines = provenance.get("biometry") or {}, []
    if found:
        measures = ", ".join(
            _("{name} {mm:.0f} mm ({low:.0f}-{high:.0f}{centile})").format(
                name=name.upper(), mm=found[name]["mm"], low=found[name]["interval_mm"][0],
                high=found[name]["interval_mm"][1],
                centile=_(", centile {value:.0f}").format(value=found[name]["centile"])
                if "centile" in found[name] else "",
            )
            for name in ("hc", "bpd", "ofd")
        )  # fmt: skip
        age = found.get("age_by_hc")
        if age:
            measures += _("; {weeks:.0f} weeks by HC ({low:.0f}-{high:.0f})").format(
                weeks=age["weeks"], low=age["interval_weeks"][0], high=age["interval_weeks"][1]
            )
        lines.append(_("{measures}. Computed from the ultrasound, not for diagnosis.").format(measures=measures))
    error = provenance.get("expected_error") or {}
    if error:
        lines.append(
            _("Expected error of the grey: {word}, {value:.0f} of 255 ({low:.0f}-{high:.0f}).").format(
                word=error["word"], value=error["whole"], low=error["interval"][0], high=error["interval"][1]
            )
        )
    return "\n".join(lines)
