"""States of PyTorch: extension missing, not installed, broken, declined, repaired."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import slicer
from USMRISynthesisLib.errors import Failed
from USMRISynthesisScene.setup import torch_install
from USMRISynthesisScene.setup.torch_install import TorchState


class Extension:
    """Stands in for the PyTorch extension."""

    def __init__(self, installed: Any, installs: Any = "torch") -> None:
        self.installed, self.installs, self.requests = installed, installs, 0

    def PyTorchUtilsLogic(self) -> Any:
        return self

    def torchInstalled(self) -> bool:
        if isinstance(self.installed, Exception):
            raise self.installed
        return self.installed

    def installTorch(self, askConfirmation: bool, torchVersionRequirement: str) -> Any:
        assert askConfirmation and torchVersionRequirement == ">=2.1"
        self.requests += 1
        if isinstance(self.installs, Exception):
            raise self.installs
        self.installed = self.installs is not None
        return self.installs


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*arguments: Any) -> Extension:
        one = Extension(*arguments)
        monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=one.PyTorchUtilsLogic))
        return one

    monkeypatch.setattr(torch_install, "remove_remains", lambda: [])
    return install


def test_installed_torch_opens_no_dialog(extension: Any) -> None:
    one = extension(True)
    torch_install.ensure_torch()
    torch_install.require_torch()
    assert one.requests == 0


def test_missing_torch_is_installed_through_the_extension(extension: Any) -> None:
    one = extension(False)
    torch_install.ensure_torch()
    assert one.requests == 1


def test_declining_raises_an_error_with_a_remedy(extension: Any) -> None:
    extension(False, None)
    with pytest.raises(Failed, match="needs PyTorch, which was not installed"):
        torch_install.ensure_torch()


def test_failed_installation_is_not_swallowed(extension: Any) -> None:
    extension(False, OSError("no network"))
    with pytest.raises(Failed, match=r"could not be installed.*no network"):
        torch_install.ensure_torch()


@pytest.mark.parametrize("fault", [TypeError("'NoneType' object is not iterable"), OSError("libtorch.so")])
def test_interrupted_installation_is_offered_a_repair(
    extension: Any, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = extension(fault)
    assert torch_install.torch_state() is TorchState.BROKEN
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: True)
    torch_install.ensure_torch()
    assert one.requests == 1


def test_declined_repair_changes_nothing(extension: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = extension(TypeError())
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: False)
    with pytest.raises(Failed, match="incomplete"):
        torch_install.ensure_torch()
    assert one.requests == 0


def test_console_opens_no_dialog(extension: Any) -> None:
    one = extension(False)
    with pytest.raises(Failed, match="PyTorch Utils"):
        torch_install.require_torch()
    assert one.requests == 0


def test_torch_can_be_installed_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    assert torch_install.torch_state() is TorchState.READY
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert torch_install.torch_state() is TorchState.NO_EXTENSION


def test_repair_removes_only_what_belongs_to_torch(tmp_path: Path) -> None:
    for name in ("torch", "torchgen", "functorch", "torch-2.13.0.dist-info", "torchvision", "torchmetrics", "numpy"):
        (tmp_path / name).mkdir()
    torch_install.remove_remains(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["numpy", "torchmetrics", "torchvision"]
