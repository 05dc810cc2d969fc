"""The stand-in is strict: names that Slicer does not have must not work in it."""

from __future__ import annotations

from pathlib import Path

import ctk
import pytest
import qt
import slicer
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer_standin.generated import plays, slicer_class


def test_properties_are_attributes_and_never_calls() -> None:
    button = qt.QPushButton()
    button.text = "Go"
    assert button.text == "Go"
    with pytest.raises(TypeError):
        button.text()


@pytest.mark.parametrize(
    "make",
    [lambda: qt.QPushButton(), lambda: slicer.qMRMLNodeComboBox(), lambda: ctk.ctkCollapsibleButton()],
    ids=["Qt", "Slicer", "CTK"],
)
def test_unknown_property_signal_and_method_raise(make: object) -> None:
    widget = make()
    with pytest.raises(AttributeError):
        widget.colour = "red"
    with pytest.raises(AttributeError):
        widget.connect("pressedHard(int)", print)
    with pytest.raises(AttributeError):
        widget.doMagic()


def test_unknown_classes_do_not_exist() -> None:
    for module, name in ((qt, "QMagic"), (ctk, "ctkMagic"), (slicer, "qMRMLMagic")):
        assert not hasattr(module, name)


def test_python_subclass_may_have_attributes_of_its_own() -> None:
    class Mine(qt.QPushButton):
        pass

    mine = Mine()
    mine.note = "allowed in PythonQt, too"
    assert mine.note


def test_name_of_slicer_that_is_not_emulated_raises() -> None:
    with pytest.raises(NotImplementedError, match="does not play"):
        slicer.qMRMLNodeComboBox().editCurrentNode()


def test_name_that_slicer_does_not_have_cannot_be_emulated() -> None:
    with pytest.raises(AttributeError, match="has no shine"):
        plays(type("qMRMLWidget", (slicer_class("qMRMLWidget"),), {"shine": lambda self: None}))


def test_misspelt_property_in_a_ui_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "Wrong.ui"
    path.write_text(
        '<ui version="4.0"><class>W</class><widget class="QWidget" name="W">'
        '<widget class="qMRMLNodeComboBox" name="n"><property name="nonEnabled"><bool>true</bool>'
        "</property></widget></widget></ui>"
    )
    with pytest.raises(AttributeError, match="nonEnabled"):
        slicer.util.loadUI(str(path))


def test_parameter_of_an_unknown_type_is_an_error() -> None:
    with pytest.raises(Exception, match=r"Unable to create serializer for .* member anything"):
        parameterNodeWrapper(type("P", (), {"__annotations__": {"anything": bytes}}))
