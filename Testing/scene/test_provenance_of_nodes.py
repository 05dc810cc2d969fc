"""A result's provenance and its mark come back with the scene, with its file, and from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from scenery import add_head, ijk_to_ras, is_idle, play, spin_until
from USMRISynthesisLib.io.provenance import read_sidecar
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisScene.files import export
from USMRISynthesisScene.nodes import inputs, nodes
from USMRISynthesisScene.views import marking


@pytest.fixture(autouse=True)
def marks() -> Iterator[None]:
    marking.keep_marked()
    yield


@pytest.fixture
def done(panel: Any, ui: Any) -> Any:
    add_head()
    play(panel, "copy")
    spin_until(lambda: is_idle(ui))
    return slicer.mrmlScene.GetNodeByID(panel.panel._last_output_id)


def test_provenance_names_model_alignment_and_notice(done: Any) -> None:
    content = export.provenance_of(done)
    assert content["model"]["name"] == "copy" and content["alignment"]["score"] == 0.9
    assert content["notice"] == nodes.SYNTHETIC


def test_bundle_brings_back_provenance_source_and_transform(done: Any, tmp_path: Path) -> None:
    before, matrix = export.provenance_of(done), ijk_to_ras(done)
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear(False)
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "case.mrb"), True)
    loaded = next(
        node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if nodes.source_of(node) is not None
    )
    assert export.provenance_of(loaded) == before and nodes.is_synthetic(loaded)
    assert loaded.GetNodeReference(nodes.TRANSFORM_ROLE).GetName() == "Fetal head to canonical fetal space"
    np.testing.assert_allclose(ijk_to_ras(loaded), matrix, atol=1e-6)


def test_saved_file_brings_back_provenance_and_mark_under_any_name(done: Any, ui: Any, tmp_path: Path) -> None:
    before, voxels, matrix = export.provenance_of(done), slicer.util.arrayFromVolume(done).copy(), ijk_to_ras(done)
    ui.exportFolderButton.directory = str(tmp_path)
    ui.saveButton.click()
    assert ui.statusLabel.text == "Written: MR-like-SYNTHETIC.nrrd, MR-like-SYNTHETIC.json."
    assert read_sidecar(tmp_path / "MR-like-SYNTHETIC.nrrd")["model"] == before["model"]
    (tmp_path / "MR-like-SYNTHETIC.nrrd").rename(tmp_path / "T2.nrrd")
    slicer.mrmlScene.Clear(False)
    loaded = slicer.util.loadVolume(str(tmp_path / "T2.nrrd"))
    assert loaded.GetName() == "T2" and nodes.is_synthetic(loaded)
    assert export.provenance_of(loaded) == before
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), voxels)
    np.testing.assert_allclose(ijk_to_ras(loaded), matrix, atol=1e-6)
    assert inputs.likely_ultrasound(slicer.mrmlScene) is None


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_result_of_the_command_line_is_recognised_as_synthetic(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"head-mr{ending}"
    Volume(np.full((4, 5, 6), 300, np.int16), np.eye(4), {"Comment": nodes.SYNTHETIC}).write(path)
    (tmp_path / "head-mr.json").write_text(json.dumps({"notice": nodes.SYNTHETIC, "model": {"name": "default"}}))
    loaded = slicer.util.loadVolume(str(path))
    assert nodes.is_synthetic(loaded) and export.provenance_of(loaded)["model"] == {"name": "default"}


def test_ordinary_files_stay_unmarked(tmp_path: Path) -> None:
    Volume(np.full((4, 5, 6), 300, np.int16), np.eye(4)).write(tmp_path / "t2.nrrd")
    loaded = slicer.util.loadVolume(str(tmp_path / "t2.nrrd"))
    assert not nodes.is_synthetic(loaded) and list(loaded.GetAttributeNames()) == []
