"""Registration: open an installed registration module with its inputs selected, then apply its result to all nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import slicer
from slicer.i18n import tr as _
from USMRISynthesisLib.errors import Failed, Refused

from USMRISynthesisScene.nodes import companions, nodes
from USMRISynthesisScene.nodes.contours import CONTOUR_ROLE
from USMRISynthesisScene.nodes.masks import SEGMENTATION_ROLE

RESULT_ROLE = "USMRISynthesis.Registration"
FIXED, MOVING, INITIAL, OUTPUT = "fixed", "moving", "initial", "output"


@dataclass(frozen=True)
class Tool:
    """A registration module.

    Attributes:
        title: shown to the user.
        module: its name in Slicer.
        selectors: input or output -> names of its selector widget in the versions of that module.
    """

    title: str
    module: str
    selectors: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_command(self) -> bool:
        """Whether it is a command line module, which takes a parameter node instead of selector widgets."""
        return not self.selectors


_ANTS = {
    FIXED: ("fixedImageNodeComboBox",),
    MOVING: ("movingImageNodeComboBox",),
    OUTPUT: ("outputForwardTransformComboBox", "outputTransformComboBox"),
}
TOOLS = (
    Tool(
        "General Registration (Elastix)",
        "Elastix",
        {
            FIXED: ("fixedVolumeSelector",),
            MOVING: ("movingVolumeSelector",),
            INITIAL: ("initialTransformSelector",),
            OUTPUT: ("outputTransformSelector",),
        },
    ),
    Tool("ANTs Registration", "ANTsRegistration", _ANTS),
    Tool("General Registration (ANTs)", "antsRegistration", _ANTS),
    Tool("General Registration (BRAINS)", "BRAINSFit"),
)


def tools() -> list[Tool]:
    """The registration modules that are installed."""
    names = set(slicer.app.moduleManager().modulesNames())
    return [tool for tool in TOOLS if tool.module in names]


def open_tool(
    tool: Tool,
    output: slicer.vtkMRMLScalarVolumeNode,
    fixed: slicer.vtkMRMLScalarVolumeNode | None,
    from_alignment: bool = False,
) -> Any:
    """Switch to a registration module with its inputs and outputs selected.

    Args:
        output: the MR-like volume, used as the moving volume.
        fixed: the target, such as an atlas or an MR.
        from_alignment: start from the alignment of the synthesis; right for a target in canonical fetal space.

    Returns:
        The transform node that receives the result.

    Raises:
        Refused: there is no target, or it is the moving volume itself.
        Failed: there is no main window.
    """
    if fixed is None or fixed is output:
        raise Refused(
            "no-target", _("There is no volume to register to."), _("Choose an MR or an atlas under Register to.")
        )
    if slicer.util.mainWindow() is None:
        raise Failed(
            "no-views", _("Slicer has no main window to show a module in."), _("Call the module's logic instead.")
        )
    result = _result_transform(output)
    chosen = {
        FIXED: fixed,
        MOVING: output,
        OUTPUT: result,
        INITIAL: output.GetNodeReference(nodes.TRANSFORM_ROLE) if from_alignment else None,
    }
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


def share_transform(output: slicer.vtkMRMLScalarVolumeNode) -> list[Any]:
    """Put the ultrasound and everything made from it under the parent transform of the MR-like volume.

    Nothing is hardened. Returns the nodes that were moved. Raises Refused where all of them are there already.
    """
    source = nodes.require_source(output)
    roles = (nodes.RELIABILITY_ROLE, CONTOUR_ROLE, SEGMENTATION_ROLE)
    family = [source, *(output.GetNodeReference(role) for role in roles)]
    family += [
        node
        for node in (source.GetNodeReference(role) for role in companions.ROLES)
        if node is not None and node.GetTransformNodeID() == source.GetTransformNodeID()
    ]
    apart = [node for node in family if node is not None and node.GetTransformNodeID() != output.GetTransformNodeID()]
    if not apart:
        raise Refused(
            "same-transform",
            _("The ultrasound lies under the transform of the MR-like volume already."),
            _("Register the MR-like volume first, so that it has a transform of its own."),
        )
    for node in apart:
        node.SetAndObserveTransformNodeID(output.GetTransformNodeID())
    return apart


def _open_command(tool: Tool, chosen: dict[str, Any]) -> None:
    import slicer.cli

    parameters = {
        "fixedVolume": chosen[FIXED].GetID(),
        "movingVolume": chosen[MOVING].GetID(),
        "linearTransform": chosen[OUTPUT].GetID(),
        "useRigid": True,
        "initializeTransformMode": "Off",
    }
    if chosen[INITIAL] is not None:
        parameters["initialTransform"] = chosen[INITIAL].GetID()
    node = slicer.cli.createNode(slicer.util.getModule(tool.module), parameters)
    slicer.app.openNodeModule(node)


def _result_transform(output: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLLinearTransformNode:
    """The transform that receives the result: one node for each MR-like volume, the identity at first."""
    node = output.GetNodeReference(RESULT_ROLE)
    if node is None:
        source = nodes.source_of(output)
        name = (source or output).GetName()
        node = output.GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode", f"{name} registration")
        output.SetNodeReferenceID(RESULT_ROLE, node.GetID())
        nodes.place_beside(node, output)
    return node
