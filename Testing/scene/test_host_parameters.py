"""The stand-in's parameterNodeWrapper follows Slicer's rules for None, unions, defaults and unknown types."""

from __future__ import annotations

import types
from typing import Annotated, Any, Optional, Union

import pytest
import qt
import slicer
from slicer import vtkMRMLLinearTransformNode, vtkMRMLModelNode, vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper


def made(node: Any = None, **members: Any) -> Any:
    """A wrapper with these members, given as type or as (type, default)."""
    split = {name: one if isinstance(one, tuple) else (one,) for name, one in members.items()}
    wrapper = parameterNodeWrapper(
        type(
            "Parameters",
            (),
            {
                "__annotations__": {name: one[0] for name, one in split.items()},
                **{name: one[1] for name, one in split.items() if len(one) > 1},
            },
        )
    )
    return wrapper(node or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def add(kind: str) -> Any:
    return slicer.mrmlScene.AddNewNodeByClass(kind)


def test_union_of_nodes_without_none_cannot_be_unset() -> None:
    with pytest.raises(TypeError, match="Unable to write value 'None' of type '<class 'NoneType'>'"):
        made(one=Union[vtkMRMLScalarVolumeNode, vtkMRMLModelNode])  # noqa: UP007


def test_union_that_names_none_holds_each_of_its_types() -> None:
    parameters = made(one=Union[vtkMRMLScalarVolumeNode, vtkMRMLModelNode, None])  # noqa: UP007
    assert parameters.one is None
    for kind in ("vtkMRMLModelNode", "vtkMRMLScalarVolumeNode"):
        node = add(kind)
        parameters.one = node
        assert parameters.one is node
    parameters.one = None
    assert parameters.one is None
    with pytest.raises(TypeError):
        parameters.one = add("vtkMRMLLinearTransformNode")
    assert parameters.one is None


def test_node_alone_and_optional_node_may_be_none() -> None:
    parameters = made(alone=vtkMRMLModelNode, optional=Optional[vtkMRMLModelNode])  # noqa: UP045
    assert parameters.alone is None and parameters.optional is None
    model = add("vtkMRMLModelNode")
    parameters.alone = parameters.optional = model
    slicer.mrmlScene.RemoveNode(model)
    assert parameters.alone is None and parameters.optional is None


@pytest.mark.parametrize("value_type", [str, int, float, bool])
def test_texts_numbers_and_truth_values_are_never_none(value_type: type) -> None:
    parameters = made(one=value_type)
    assert parameters.one == value_type()
    with pytest.raises(ValueError, match="must not be None"):
        parameters.one = None


@pytest.mark.parametrize("value_type", [bytes, vtkMRMLModelNode | None, vtkMRMLModelNode | vtkMRMLScalarVolumeNode])
def test_unknown_types_are_refused_when_the_class_is_made(value_type: Any) -> None:
    with pytest.raises(Exception, match=r"Unable to create serializer for .* member one"):
        made(one=value_type)


@pytest.mark.parametrize("value_type", [list[int], dict, tuple[int, int], Any])
def test_types_of_slicer_that_are_not_emulated_raise(value_type: Any) -> None:
    with pytest.raises(NotImplementedError, match="does not play"):
        made(one=value_type)


def test_default_is_written_and_checked_when_the_wrapper_is_made() -> None:
    parameters = made(one=(Annotated[float, WithinRange(0, 1)], 0.25))
    assert parameters.one == 0.25 and parameters.parameterNode.GetParameter("one") == "0.25"
    with pytest.raises(ValueError, match="must be in one of the following"):
        made(one=(Annotated[str, Choice(["a", "b"])], "c"))


def test_value_in_the_node_wins_over_the_default() -> None:
    node = add("vtkMRMLScriptedModuleNode")
    made(node, one=(int, 3)).one = 7
    assert made(node, one=(int, 5)).one == 7


def test_selector_takes_its_node_types_from_a_union_without_none() -> None:
    parameters = made(one=Union[vtkMRMLLinearTransformNode, vtkMRMLModelNode, None])  # noqa: UP007
    selector = slicer.qMRMLNodeComboBox()
    selector.setProperty("SlicerParameterName", "one")
    parameters.connectGui(types.SimpleNamespace(selector=selector))
    assert list(selector.nodeTypes) == ["vtkMRMLLinearTransformNode", "vtkMRMLModelNode"]


def test_while_widgets_are_set_from_the_node_none_of_them_writes_back() -> None:
    parameters = made(one=(Annotated[str, Choice(["a", "b"])], "a"), two=(bool, False))
    box, check = qt.QComboBox(), qt.QCheckBox()
    box.setProperty("SlicerParameterName", "one")
    check.setProperty("SlicerParameterName", "two")
    tag = parameters.connectGui(types.SimpleNamespace(box=box, check=check))
    check.connect("toggled(bool)", lambda on: setattr(box, "currentIndex", 1))
    parameters.two = True
    assert box.currentText == "b" and parameters.one == "a"
    box.currentIndex = 0
    box.currentIndex = 1
    assert parameters.one == "b"
    parameters.disconnectGui(tag)
    box.currentIndex = 0
    assert parameters.one == "b"
