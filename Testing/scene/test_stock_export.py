"""Slicer's own saving and export: none of them turns an MR-like image silently into a real MR."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
from scenery import add_head, add_result
from slicer_standin.generated import slicer_class
from USMRISynthesisScene.files import dicom_plugin, saving
from USMRISynthesisScene.nodes import nodes
from USMRISynthesisScene.views import marking

pydicom = pytest.importorskip("pydicom")


@pytest.fixture(autouse=True)
def following() -> Iterator[None]:
    marking.keep_marked()
    saving.follow_saves()
    saving.follow_saves()  # twice does no harm
    yield
    saving.stop_following()


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Messages in the status bar."""
    texts: list[str] = []
    monkeypatch.setattr(slicer.util, "showStatusMessage", lambda text, duration=0: texts.append(text))
    return texts


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin as the DICOM module finds it."""

    class DICOMPlugin:
        def __init__(self) -> None:
            self.loadType = "Generic DICOM"

    monkeypatch.setitem(sys.modules, "DICOMLib", types.SimpleNamespace(DICOMPlugin=DICOMPlugin))
    monkeypatch.setattr(slicer.modules, "dicomPlugins", {}, raising=False)
    monkeypatch.setattr(slicer, "qSlicerDICOMExportable", slicer_class("qSlicerDICOMExportable"), raising=False)
    dicom_plugin.register_dicom_plugin()
    return slicer.modules.dicomPlugins["USMRISynthesisDICOMPlugin"]()


def item_of(node: Any) -> int:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene).GetItemByDataNode(node)


def test_saved_file_has_its_provenance_beside_it_and_is_marked_when_it_comes_back(
    messages: list[str], tmp_path: Path
) -> None:
    source = add_head()
    output = add_result(source)
    assert slicer.util.saveNode(output, str(tmp_path / "t2.nrrd"))
    assert messages == [
        "t2.nrrd is a SYNTHETIC image, not for diagnosis: keep its .json file beside it when you pass it on."
    ]
    assert json.loads((tmp_path / "t2.json").read_text())["notice"] == nodes.SYNTHETIC
    slicer.mrmlScene.Clear(False)
    assert nodes.is_synthetic(slicer.util.loadVolume(str(tmp_path / "t2.nrrd")))


def test_other_volumes_are_saved_without_a_note(messages: list[str], tmp_path: Path) -> None:
    assert slicer.util.saveNode(add_head(), str(tmp_path / "us.nrrd"))
    assert messages == [] and [path.name for path in tmp_path.iterdir()] == ["us.nrrd"]


def test_other_json_file_is_not_replaced(messages: list[str], tmp_path: Path) -> None:
    (tmp_path / "t2.json").write_text("{}")
    assert slicer.util.saveNode(add_result(add_head()), str(tmp_path / "t2.nrrd"))
    assert (tmp_path / "t2.json").read_text() == "{}" and len(messages) == 1


@pytest.mark.parametrize("properties", [None, {}, {"nodeID": "none"}, {"nodeID": "", "fileName": "/none.nrrd"}])
def test_unknown_properties_of_a_saved_file_are_ignored(properties: Any, messages: list[str]) -> None:
    saving.on_saved(properties)
    assert messages == []


def test_dicom_export_offers_the_synthetic_series_first(plugin: Any, tmp_path: Path) -> None:
    source = add_head()
    output = add_result(source)
    assert plugin.examineForExport(item_of(source)) == [] and plugin.examineForImport([["x.dcm"]]) == []
    (exportable,) = plugin.examineForExport(item_of(output))
    assert exportable.confidence == 1.0 and "SYNTHETIC" in exportable.name
    assert "looks like a real scan" in exportable.tooltip
    exportable.directory = str(tmp_path)
    assert plugin.export([exportable]) == ""
    files = sorted((tmp_path / "MR-like-SYNTHETIC").iterdir())
    one = pydicom.dcmread(files[0])
    assert len(files) == 48 and list(one.ImageType) == ["DERIVED", "SECONDARY"] and one[0x0008, 0x001C].value == "YES"


def test_failed_dicom_export_returns_the_reason(plugin: Any, tmp_path: Path) -> None:
    (exportable,) = plugin.examineForExport(item_of(add_result(add_head())))
    exportable.directory = str(tmp_path / "gone")
    assert plugin.export([exportable]).startswith("The folder for the DICOM files could not be made.")


def test_without_the_dicom_module_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "DICOMLib", None)
    dicom_plugin.register_dicom_plugin()
