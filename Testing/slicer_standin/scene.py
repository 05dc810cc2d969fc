"""The scene and what Slicer's application puts beside it: logics, default nodes, subject hierarchy items."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import slicer
import vtk

_kept: list[Any] = []


def create_scene() -> tuple[Any, Any, dict[str, Any]]:
    """(scene, application logic, module logics by name), set up as at the start of Slicer."""
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    application_logic = slicer.vtkSlicerApplicationLogic()
    application_logic.SetMRMLScene(scene)
    application_logic.SetSliceLogics(vtk.vtkCollection())
    application_logic.SetViewLogics(vtk.vtkCollection())
    application_logic.GetColorLogic().SetMRMLScene(scene)
    application_logic.GetColorLogic().AddDefaultColorNodes()
    application_logic.SetModuleLogic("Colors", application_logic.GetColorLogic())  # volumes that are loaded ask for it
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    logics = {
        name: _logic(class_, name, scene, application_logic)
        for name, class_ in {
            "Volumes": slicer.vtkSlicerVolumesLogic,
            "SubjectHierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic,
            "Transforms": slicer.vtkSlicerTransformLogic,
            "Sequences": slicer.vtkSlicerSequencesLogic,
            "VolumeRendering": slicer.vtkSlicerVolumeRenderingLogic,
            "Markups": slicer.vtkSlicerMarkupsLogic,
            "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
        }.items()
    }
    _add_rendering_presets(logics["VolumeRendering"])
    _give_file_access(scene)
    _follow_with_subject_hierarchy(scene)
    return scene, application_logic, logics


def _logic(class_: type, name: str, scene: Any, application_logic: Any) -> Any:
    logic = class_()
    logic.SetMRMLScene(scene)
    logic.SetMRMLApplicationLogic(application_logic)
    application_logic.SetModuleLogic(name, logic)
    return logic


def _add_rendering_presets(logic: Any) -> None:
    """Presets with the names that Slicer's logic uses. Their file is not in the wheel; here all of them are grey."""
    folder = tempfile.TemporaryDirectory(prefix="host-slicer-presets-")
    (Path(folder.name) / "presets.xml").write_text("<MRML></MRML>")
    logic.SetModuleShareDirectory(folder.name)
    _kept.append(folder)
    for name in ("MR-Default", "CT-Chest-Contrast-Enhanced", "CT-X-ray", "US-Fetal"):
        preset, opacity, colour = (
            slicer.vtkMRMLVolumePropertyNode(),
            vtk.vtkPiecewiseFunction(),
            vtk.vtkColorTransferFunction(),
        )
        preset.SetName(name)
        for value, share in ((0, 0.0), (20, 0.0), (120, 0.3), (1024, 0.5)):
            opacity.AddPoint(value, share)
            colour.AddRGBPoint(value, share * 2, share * 2, share * 2)
        preset.SetScalarOpacity(opacity, 0)
        preset.SetColor(colour, 0)
        logic.AddPreset(preset)
        _kept.append(preset)


def _give_file_access(scene: Any) -> None:
    """What bundles (.mrb) are unpacked with."""
    logic, folder = slicer.vtkMRMLRemoteIOLogic(), tempfile.TemporaryDirectory(prefix="host-slicer-cache-")
    logic.SetMRMLScene(scene)
    logic.GetCacheManager().SetRemoteCacheDirectory(folder.name)
    logic.AddDataIOToScene()
    _kept.extend([logic, folder])  # the scene does not own them


def _follow_with_subject_hierarchy(scene: Any) -> None:
    """In Slicer the plugins of the subject hierarchy give every visible data node an item, and take it away."""
    slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(caller: Any, event: str, node: Any) -> None:
        if _has_item(node) and not scene.IsBatchProcessing():
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            if not hierarchy.GetItemByDataNode(node):
                hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def about_to_be_removed(caller: Any, event: str, node: Any) -> None:
        if not scene.IsClosing() and not node.IsA("vtkMRMLSubjectHierarchyNode"):
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            item = hierarchy.GetItemByDataNode(node)
            if item:
                hierarchy.RemoveItem(item, False, False)

    def closed(caller: Any, event: str) -> None:
        slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)

    scene.AddObserver(scene.NodeAddedEvent, added)
    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, about_to_be_removed)
    scene.AddObserver(scene.EndCloseEvent, closed)


def _has_item(node: Any) -> bool:
    kinds = (
        "vtkMRMLVolumeNode",
        "vtkMRMLTransformNode",
        "vtkMRMLModelNode",
        "vtkMRMLSegmentationNode",
        "vtkMRMLMarkupsNode",
    )
    return not node.GetHideFromEditors() and any(node.IsA(kind) for kind in kinds)
