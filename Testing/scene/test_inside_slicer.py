"""The tests that run inside Slicer, run in the stand-in: sample images, logic, and the installed model."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenery import REPOSITORY
from USMRISynthesisScene.files.sample_data import CHECKSUMS, FRAME, REAL, SIMULATED, sample_file

sys.path.insert(0, str(REPOSITORY / "USMRISynthesis" / "Testing" / "Python"))

needs_samples = pytest.mark.skipif(
    not all(sample_file(name).is_file() for name in (FRAME, SIMULATED)),
    reason="the sample images have not been made yet",
)


@pytest.fixture
def closed_afterwards(host: Any, module: Any) -> Iterator[None]:
    """The panel that the self test opened."""
    yield
    host.close_module(module)


@needs_samples
def test_the_tests_inside_slicer_fail_without_a_working_panel(
    module: Any, closed_afterwards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from USMRISynthesisModuleTest import USMRISynthesisModuleTest
    from USMRISynthesisScene.panel import panel

    monkeypatch.setattr(panel, "SynthesisPanel", None)
    for name in (
        "test_panel_opens_and_makes_a_volume_by_clicks",
        "test_panel_that_was_opened_without_an_image_asks_for_one",
    ):
        with pytest.raises(AssertionError, match="could not be opened"):
            getattr(USMRISynthesisModuleTest(name), name)()


@needs_samples
@pytest.mark.parametrize(
    "name",
    [
        "test_volume_keeps_its_grid_and_its_parent_transform",
        "test_frame_stays_a_frame",
        "test_result_is_marked_as_synthetic",
        "test_empty_volume_is_refused",
        "test_panel_opens_and_makes_a_volume_by_clicks",
        "test_panel_that_was_opened_without_an_image_asks_for_one",
    ],
)
def test_inside_slicer(host: Any, module: Any, model: Path, name: str, closed_afterwards: None) -> None:
    from USMRISynthesisModuleTest import USMRISynthesisModuleTest

    case = USMRISynthesisModuleTest(name)
    case.model = str(model)
    case.setUp()
    getattr(case, name)()


@needs_samples
def test_reload_and_test_passes_with_the_installed_model(module: Any, closed_afterwards: None) -> None:
    from USMRISynthesisLib.models.store import installed_models

    if not installed_models():
        pytest.skip("no model is installed yet")
    import slicer

    slicer.selfTests["USMRISynthesis"](msec=0)


@needs_samples
def test_sample_images_are_registered_as_files(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    registered: dict[str, dict[str, Any]] = {}

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataCategory(category: str, title: str) -> None:
            assert category == "USMRISynthesis"

        @staticmethod
        def registerCustomSampleDataSource(**options: Any) -> None:
            registered[options["sampleName"]] = options

    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=SampleDataLogic))
    sys.modules["USMRISynthesis"].registerSampleData()
    assert set(registered) == {REAL, SIMULATED, FRAME}
    for options in registered.values():
        assert options["uris"].startswith("file:///")
        sha256 = hashlib.sha256(sample_file(options["sampleName"]).read_bytes()).hexdigest()
        assert options["checksums"] == f"SHA256:{sha256}" == f"SHA256:{CHECKSUMS[options['sampleName']]}"
        assert Path(options["thumbnailFileName"]).is_file()
