"""The panel's choices, saved with the scene; device, planes and model of a new scene are those used last."""

from __future__ import annotations

from typing import Annotated, Any, Optional, Union

from slicer import vtkMRMLLinearTransformNode, vtkMRMLScalarVolumeNode, vtkMRMLVectorVolumeNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisLib.geometry.planes import ALL, CHOICES
from USMRISynthesisLib.models import store

from USMRISynthesisScene.panel import settings

DEVICES = ["auto", "cpu", "cuda", "mps", "openvino:CPU", "openvino:GPU"]
# Not a field of the wrapper: when the scene is closed, a wrapper that is still alive writes its defaults.
_BEGUN = "begunWithSettings"


@parameterNodeWrapper
class SynthesisParameters:
    """
    inputVolume - Ultrasound volume or frame.
    inputConfirmed - The user chose the input or has run it: the automatic choice does not replace it.
    allFrames - Run all frames when the input belongs to a sequence.
    outputVolume - Volume to write into; none makes a new one.
    alignment - Linear transform to canonical fetal space; none aligns the head automatically.
    model - Name of an installed model, or path of a model folder.
    device - Where the networks run.
    planes - Planes of the slices that the network processes: one plane, or all combined, where the model has several.
    showComparison - Show the result side by side with the ultrasound.
    makeSupport - Add the reliability map. The name stays: saved scenes have it.
    goOnUnreliable - Continue when the head was not found reliably or no brain is seen. The name stays, for scenes.
    gestationalAge - Weeks, a prior for the size of the head; 0 where it is not known.
    makeMasks - Add the segmentation of fan and head.
    fusion - Opacity of the MR-like image over the ultrasound in the fused view.
    showContours - Outline the MR-like image over the ultrasound.
    """

    # Colour volumes can be selected so that the panel can offer to convert them. Any node may be missing; in a union
    # the wrapper needs None for that, and before Slicer 5.13 it does not support X | None.
    inputVolume: Union[vtkMRMLScalarVolumeNode, vtkMRMLVectorVolumeNode, None]  # noqa: UP007
    allFrames: bool = False
    inputConfirmed: bool = False
    outputVolume: Optional[vtkMRMLScalarVolumeNode]  # noqa: UP045
    alignment: Optional[vtkMRMLLinearTransformNode]  # noqa: UP045
    model: str = "default"
    device: Annotated[str, Choice(DEVICES)] = "auto"
    planes: Annotated[str, Choice(list(CHOICES))] = ALL
    showComparison: bool = True
    makeSupport: bool = False
    goOnUnreliable: bool = False
    gestationalAge: Annotated[float, WithinRange(0, 42)] = 0.0
    makeMasks: bool = True
    fusion: Annotated[float, WithinRange(0, 1)] = 0.5
    showContours: bool = False


def parameters_of(node: Any) -> SynthesisParameters:
    """The parameters in a parameter node. A new node starts with the user's settings."""
    is_new = not node.HasParameter(_BEGUN)
    wrapped: Any = SynthesisParameters  # Slicer's decorator gives it a constructor that takes the node
    parameters: SynthesisParameters = wrapped(node)
    if is_new:
        node.SetParameter(_BEGUN, "True")
        device = settings.remembered("Device", "auto")
        if device in DEVICES:
            parameters.device = device
        planes = settings.remembered("Planes", ALL)
        if planes in CHOICES:
            parameters.planes = planes
        parameters.model = _known_model(settings.remembered("Model", "default"))
    return parameters


def age_of(parameters: SynthesisParameters) -> float | None:
    """The gestational age in weeks, or None where it is not known."""
    return parameters.gestationalAge or None


def remember_choices(parameters: SynthesisParameters) -> None:
    """Store device, planes and model for the next scene and the next start of Slicer."""
    settings.remember("Device", parameters.device)
    settings.remember("Planes", parameters.planes)
    settings.remember("Model", parameters.model)


def _known_model(name: str) -> str:
    """The model's name, or "default" where the model is no longer there."""
    try:
        store.find_model(name)
    except USMRIError:
        return "default"
    return name
