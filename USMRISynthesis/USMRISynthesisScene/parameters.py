"""The panel's choices, saved with the scene."""
from __future__ import annotations

from typing import Annotated

from slicer import vtkMRMLLinearTransformNode, vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import Choice, parameterNodeWrapper


@parameterNodeWrapper
class SynthesisParameters:
    """
    inputVolume - Ultrasound volume or frame.
    outputVolume - Volume to write into; none makes a new one.
    alignment - Linear transform to canonical fetal space; none aligns the head automatically.
    model - Name of an installed model, or path of a model folder.
    device - Where the networks run.
    showComparison - Show the result side by side with the ultrasound.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode
    alignment: vtkMRMLLinearTransformNode
    model: str = "default"
    device: Annotated[str, Choice(["auto", "cpu", "cuda", "mps"])] = "auto"
    showComparison: bool = True
