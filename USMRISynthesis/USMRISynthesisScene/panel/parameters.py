"""The panel's choices, saved with the scene; device, planes and model of a new scene are those used last."""
from __future__ import annotations

from typing import Annotated, Any, Optional, Union

from slicer import vtkMRMLLinearTransformNode, vtkMRMLScalarVolumeNode, vtkMRMLVectorVolumeNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisLib.geometry.planes import CHOICES
from USMRISynthesisLib.models import store

from USMRISynthesisScene.panel import settings

DEVICES = ["auto", "cpu", "cuda", "mps"]
# Said apart from the parameters: when the scene is closed, any wrapper of the node that is still alive writes defaults.
_BEGUN = "begunWithSettings"


@parameterNodeWrapper
class SynthesisParameters:
    """
    inputVolume - Ultrasound volume or frame.
    inputConfirmed - The user chose the input or has run it: it is not to be replaced by a likelier one.
    allFrames - Run all frames when the input belongs to a sequence.
    outputVolume - Volume to write into; none makes a new one.
    alignment - Linear transform to canonical fetal space; none aligns the head automatically.
    model - Name of an installed model, or path of a model folder.
    device - Where the networks run.
    planes - Along which slices the network goes, where the model knows several: one plane, or all combined.
    showComparison - Show the result side by side with the ultrasound.
    makeSupport - Add the support map: how probable it is that the grey is right; of a frame, where the beam looked.
    goOnUnreliable - Synthesise although the head was not found reliably.
    gestationalAge - Weeks, a prior for the head's size; 0 where it is not known.
    makeMasks - Add the segmentation of fan and head.
    fusion - Opacity of the MR-like image over the ultrasound in the fused view.
    showContours - Outline the MR-like image over the ultrasound.
    """

    # Colour volumes can be selected so that their conversion can be offered. Every node may be missing, which the
    # wrapper accepts of a union only where None is named; before Slicer 5.13 it knows no X | None.
    inputVolume: Union[vtkMRMLScalarVolumeNode, vtkMRMLVectorVolumeNode, None]  # noqa: UP007
    allFrames: bool = False
    inputConfirmed: bool = False
    outputVolume: Optional[vtkMRMLScalarVolumeNode]  # noqa: UP045
    alignment: Optional[vtkMRMLLinearTransformNode]  # noqa: UP045
    model: str = "default"
    device: Annotated[str, Choice(DEVICES)] = "auto"
    planes: Annotated[str, Choice(list(CHOICES))] = CHOICES[0]
    showComparison: bool = True
    makeSupport: bool = False
    goOnUnreliable: bool = False
    gestationalAge: Annotated[float, WithinRange(0, 42)] = 0.0
    makeMasks: bool = True
    fusion: Annotated[float, WithinRange(0, 1)] = 0.5
    showContours: bool = False


def parameters_of(node: Any) -> SynthesisParameters:
    """The parameters in a parameter node. A node that has none yet begins with what the user's settings hold."""
    is_new = not node.HasParameter(_BEGUN)
    wrapped: Any = SynthesisParameters  # Slicer's decorator gives it a constructor that takes the node
    parameters: SynthesisParameters = wrapped(node)
    if is_new:
        node.SetParameter(_BEGUN, "True")
        device = settings.remembered("Device", "auto")
        if device in DEVICES:
            parameters.device = device
        planes = settings.remembered("Planes", CHOICES[0])
        if planes in CHOICES:
            parameters.planes = planes
        parameters.model = _known_model(settings.remembered("Model", "default"))
    return parameters


def age_of(parameters: SynthesisParameters) -> float | None:
    """The gestational age in weeks, or None where it is not known."""
    return parameters.gestationalAge or None


def remember_choices(parameters: SynthesisParameters) -> None:
    """For the next scene and the next start of Slicer."""
    settings.remember("Device", parameters.device)
    settings.remember("Planes", parameters.planes)
    settings.remember("Model", parameters.model)


def _known_model(name: str) -> str:
    """A model that was removed meanwhile is not proposed."""
    try:
        store.find_model(name)
    except USMRIError:
        return "default"
    return name
