"""The panel's choices stay connected to the scene, while scenes are closed and loaded and nodes come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from USMRISynthesisScene.nodes import inputs
from USMRISynthesisScene.nodes.node_observer import NodeObserver


class SceneConnection(VTKObservationMixin):
    """Connects the widgets to the scene's parameters, and keeps the choice of the ultrasound sensible.

    Args:
        parameter_node: returns the parameters of the current scene.
        refresh: updates the panel.
        closing: called before the scene is closed, while the parameters are still connected.

    Attributes:
        parameters: those of the scene; None while a scene is closed or loaded.
        closed: whether the panel no longer exists.
    """

    def __init__(
        self, ui: Any, parameter_node: Callable[[], Any], refresh: Callable[..., None], closing: Callable[[], None]
    ) -> None:
        super().__init__()
        self.ui = ui
        self.parameters: Any = None
        self.closed = False
        self._parameter_node, self._refresh, self._closing = parameter_node, refresh, closing
        self._choices = NodeObserver(refresh, vtk.vtkCommand.ModifiedEvent)
        self._refresh_pending = False
        self._gui_tag: int | None = None
        scene = slicer.mrmlScene
        # While a scene is loaded, the selectors would write their own selection into its parameter node.
        for event, callback in (
            (scene.StartCloseEvent, self._on_start_close),
            (scene.EndCloseEvent, self._on_end_close),
            (scene.NodeAddedEvent, self._on_node_added),
            (scene.NodeAboutToBeRemovedEvent, self._on_node_about_to_be_removed),
            (scene.NodeRemovedEvent, self._on_node_removed),
            (scene.StartImportEvent, self._on_start_import),
            (scene.EndImportEvent, self._on_end_import),
        ):
            self.addObserver(scene, event, callback)
        ui.inputSelector.connect("nodeActivated(vtkMRMLNode*)", self._on_input_chosen)

    def connect(self) -> None:
        """Use the scene's parameter node. Where the user has not chosen an ultrasound, choose the most likely one."""
        parameters = self._parameter_node()
        if not (parameters.inputVolume and parameters.inputConfirmed):
            parameters.inputVolume = inputs.likely_ultrasound(slicer.mrmlScene, parameters.inputVolume)
        self._set(parameters)

    def close(self) -> None:
        self.closed = True
        self._set(None)
        self.removeObservers()

    def _set(self, parameters: Any) -> None:
        if self.parameters is not None:
            self.parameters.disconnectGui(self._gui_tag)
        self.parameters = parameters
        self._choices.observe(parameters)
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
            self.ui.modelComboBox.setCurrentText(parameters.model)
        self._refresh()

    def _on_start_close(self, caller: Any, event: Any) -> None:
        self._closing()
        self._set(None)

    def _on_end_close(self, caller: Any, event: Any) -> None:
        self.connect()

    def _on_start_import(self, caller: Any, event: Any) -> None:
        self._set(None)

    def _on_end_import(self, caller: Any, event: Any) -> None:
        # The selectors add the new nodes shortly after this event.
        qt.QTimer.singleShot(0, lambda: None if self.closed else self.connect())

    def _on_node_added(self, caller: Any, event: Any) -> None:
        """The node may be the ultrasound where none is selected. Its voxels are set after this event."""
        if self.parameters is not None and self.parameters.inputVolume is None:
            self._refresh_later()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_about_to_be_removed(self, caller: Any, event: Any, node: Any) -> None:
        """Deselect the node: otherwise a selector would select its neighbour, such as the MR-like volume as ultrasound.

        This runs before the selectors, which observe the event with a lower priority.
        """
        parameters = self.parameters
        if parameters is None or slicer.mrmlScene.IsClosing():
            return
        for selector in (
            self.ui.outputSelector,
            self.ui.alignmentSelector,
            self.ui.fixedSelector,
            self.ui.respaceSelector,
            self.ui.liveSelector,
        ):
            if selector.currentNode() is node:
                selector.setCurrentNode(None)
        if parameters.inputVolume is node:
            parameters.inputConfirmed = False
            parameters.inputVolume = inputs.likely_ultrasound(slicer.mrmlScene, without=node)

    def _on_node_removed(self, caller: Any, event: Any) -> None:
        """The node may have been the current result. Refreshed later: other nodes may still refer to it now."""
        if not slicer.mrmlScene.IsBatchProcessing():
            self._refresh_later()

    def _on_input_chosen(self, node: Any) -> None:
        if self.parameters is not None and node is not None:
            self.parameters.inputConfirmed = True

    def _refresh_later(self) -> None:
        if not self._refresh_pending:
            self._refresh_pending = True
            qt.QTimer.singleShot(0, self._refresh_now)

    def _refresh_now(self) -> None:
        self._refresh_pending = False
        if self.closed:
            return
        if self.parameters is not None and self.parameters.inputVolume is None:
            self.parameters.inputVolume = inputs.likely_ultrasound(slicer.mrmlScene)
        self._refresh()
