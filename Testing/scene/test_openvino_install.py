"""OpenVINO in Slicer: offered when one of its devices is chosen, and never installed unasked."""

from __future__ import annotations

from typing import Any

import pytest
import slicer
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import openvino_runtime
from USMRISynthesisScene.panel.parameters import DEVICES
from USMRISynthesisScene.panel.spacing import device_for_spacing
from USMRISynthesisScene.setup.openvino_install import ensure_openvino


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked and installed; `answer` is the user's."""
    log: dict[str, Any] = {"answer": True, "questions": [], "installed": []}

    def confirm(text: str, *_: Any, **__: Any) -> bool:
        log["questions"].append(text)
        return bool(log["answer"])

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", confirm)
    monkeypatch.setattr(slicer.util, "pip_install", log["installed"].append, raising=False)
    monkeypatch.setattr(openvino_runtime, "version", lambda: None)
    return log


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "mps"])
def test_other_devices_ask_nothing(asked: dict[str, Any], device: str) -> None:
    ensure_openvino(device)
    assert asked["questions"] == asked["installed"] == []


def test_it_is_installed_after_a_yes(asked: dict[str, Any]) -> None:
    ensure_openvino("openvino:GPU")
    assert asked["questions"] == [
        "The device openvino:GPU needs the Python package OpenVINO (about 60 MB). Install it?"
    ]
    assert asked["installed"] == ["openvino>=2025.0"]


def test_a_no_is_one_sentence_with_a_remedy(asked: dict[str, Any]) -> None:
    asked["answer"] = False
    with pytest.raises(Failed, match=r"openvino:CPU needs OpenVINO, which was not installed\. Choose the device auto"):
        ensure_openvino("openvino:CPU")
    assert asked["installed"] == []


def test_a_failed_installation_is_one_sentence(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(slicer.util, "pip_install", fail, raising=False)
    with pytest.raises(Failed, match=r"OpenVINO could not be installed\. See the Python console"):
        ensure_openvino("openvino:CPU")


def test_its_devices_are_offered_and_slice_spacing_goes_on_without(asked: dict[str, Any]) -> None:
    assert DEVICES[-2:] == ["openvino:CPU", "openvino:GPU"]
    assert [device_for_spacing(one) for one in ("openvino:GPU", "cpu", "auto")] == ["auto", "cpu", "auto"]
