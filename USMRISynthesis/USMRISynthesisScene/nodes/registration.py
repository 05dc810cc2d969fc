"""Registration by the modules that are there: opened with the MR-like volume, its target and transforms chosen."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed, Refused

from USMRISynthesisScene.nodes import nodes

RESULT_ROLE = "USMRISynthesis.Registration"
FIXED, MOVING, INITIAL, OUTPUT = "fixed", "moving", "initial", "output"


@dataclass(frozen=True)
class Tool:
    """A registration module.

    Attributes:
        title: what the user knows it by.
        module: its name in Slicer.
        selectors: what is to be chosen -> the names that the module's selector for it has had.
    """

    title: str
    module: str
    selectors: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_command(self) -> bool:
        """A command line module: it is given a node of parameters instead of having its selectors set."""
        return not self.selectors


_ANTS = {FIXED: ("fixedImageNodeComboBox",), MOVING: ("movingImageNodeComboBox",),
         OUTPUT: ("outputForwardTransformComboBox", "outputTransformComboBox")}
TOOLS = (
    Tool("General Registration (Elastix)", "Elastix", {
        FIXED: ("fixedVolumeSelector",), MOVING: ("movingVolumeSelector",), INITIAL: ("initialTransformSelector",),
        OUTPUT: ("outputTransformSelector",)}),
    Tool("ANTs Registration", "ANTsRegistration", _ANTS),
    Tool("General Registration (ANTs)", "antsRegistration", _ANTS),
    Tool("General Registration (BRAINS)", "BRAINSFit"),
)


def tools() -> list[Tool]:
    """The registration modules that are there."""
    names = set(slicer.app.moduleManager().modulesNames())
    return [tool for tool in TOOLS if tool.module in names]


def open_tool(tool: Tool, output: slicer.vtkMRMLScalarVolumeNode, fixed: slicer.vtkMRMLScalarVolumeNode | None,
              near: bool = False) -> Any:
    """Switch to a registration module, with everything chosen that it asks for.

    Args:
        output: the MR-like volume, which is to be moved.
        fixed: what it is to be registered to, such as an atlas or an MR.
        near: start from the alignment of the synthesis, for a fixed volume in canonical fetal space.

    Returns:
        The transform node that the result is to be written into.

    Raises:
        Refused: there is no fixed volume, or it is the one to be moved.
        Failed: there is no main window.
    """
    if fixed is None or fixed is output:
        raise Refused("no-target", _("There is no volume to register to."),
                      _("Choose an MR or an atlas under Register to."))
    if slicer.util.mainWindow() is None:
        raise Failed("no-views", _("Slicer has no main window to show a module in."),
                     _("Call the module's logic instead."))
    result = _result_transform(output)
    chosen = {FIXED: fixed, MOVING: output, OUTPUT: result,
              INITIAL: output.GetNodeReference(nodes.TRANSFORM_ROLE) if near else None}
    if tool.is_command:
        _open_command(tool, chosen)
    else:
        slicer.util.selectModule(tool.module)
        ui = slicer.util.getModuleWidget(tool.module).ui
        for role, names in tool.selectors.items():
            selector = next((getattr(ui, name) for name in names if hasattr(ui, name)), None)
            if selector is not None:
                selector.setCurrentNode(chosen[role])
    return result


def _open_command(tool: Tool, chosen: dict[str, Any]) -> None:
    import slicer.cli

    parameters = {"fixedVolume": chosen[FIXED].GetID(), "movingVolume": chosen[MOVING].GetID(),
                  "linearTransform": chosen[OUTPUT].GetID(), "useRigid": True, "initializeTransformMode": "Off"}
    if chosen[INITIAL] is not None:
        parameters["initialTransform"] = chosen[INITIAL].GetID()
    node = slicer.cli.createNode(slicer.util.getModule(tool.module), parameters)
    slicer.app.openNodeModule(node)


def _result_transform(output: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLLinearTransformNode:
    """Where the result goes: one node for each MR-like volume, the identity at first. Nothing lies under it yet."""
    node = output.GetNodeReference(RESULT_ROLE)
    if node is None:
        source = nodes.source_of(output)
        name = (source or output).GetName()
        node = output.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode", f"{name} registration")
        output.SetNodeReferenceID(RESULT_ROLE, node.GetID())
        nodes.place_beside(node, output)
    return node
