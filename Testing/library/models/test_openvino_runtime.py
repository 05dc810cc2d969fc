"""OpenVINO as a runtime: which devices there are, what is said without it, conversion, and no word to the network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import converted, openvino_runtime
from USMRISynthesisLib.models.device import choose_device
from USMRISynthesisLib.spacing.model import load_model
from USMRISynthesisLib.synthesis import engine

there = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed (pip install openvino)"
)
WriteModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(converted.CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "_not_converted", {})
    return tmp_path / "cache"


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1), nn.Tanh()).eval()


def convert(module: nn.Module, key: str = "k", tolerance: float = 0.005) -> openvino_runtime.OpenVinoNetwork:
    torch.manual_seed(4)
    return openvino_runtime.convert(
        module, torch.randn(1, 3, 32, 32), key=key, device="CPU", threads=2, tolerance=tolerance
    )


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "version", lambda: None)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "open", ""])
def test_other_devices_are_not_openvinos(device: str) -> None:
    assert openvino_runtime.requested(device) is None


@there
def test_the_cpu_is_openvinos_default() -> None:
    assert [openvino_runtime.requested(name) for name in ("openvino", "openvino:CPU", "OpenVINO:cpu")] == ["CPU"] * 3


@there
def test_an_unknown_device_of_openvino_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match=r"There is no device 'openvino:TPU'\. Choose one of openvino:CPU, openvino:GPU\."):
        openvino_runtime.requested("openvino:TPU")

    class CPUOnly:
        available_devices = ("CPU",)

    monkeypatch.setattr(openvino_runtime, "_core", CPUOnly)
    with pytest.raises(Failed, match=r"it finds no GPU here\. Choose the device cpu, or auto\."):
        openvino_runtime.requested("openvino:GPU")


def test_without_it_an_explicit_choice_is_refused_and_auto_goes_on(missing: None, tiny_model: Path) -> None:
    with pytest.raises(Failed, match=r"OpenVINO was chosen, but it is not installed\. .*pip install openvino"):
        engine.load_generator(str(tiny_model), "openvino", consent=lambda *_: True)
    loaded = engine.load_generator(str(tiny_model), "auto", consent=lambda *_: True)
    assert "OpenVINO" not in loaded.device_reason and not loaded.device_name.startswith("openvino")


def test_an_old_version_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "version", lambda: "2023.3.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert openvino_runtime.missing_reason() == "version 2023.3.0 is older than 2025.0"


def test_auto_leaves_amx_and_arm_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "missing_reason", lambda: None)
    monkeypatch.setattr(openvino_runtime.platform, "machine", lambda: "arm64")
    assert openvino_runtime.unused_reason() == "it was measured on x86-64 only"
    monkeypatch.setattr(openvino_runtime.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert openvino_runtime.unused_reason() == "this CPU has AMX, which torch uses"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert openvino_runtime.unused_reason() is None


def test_other_tasks_refuse_it_in_one_sentence() -> None:
    with pytest.raises(Failed, match=r"OpenVINO runs the generators of MR-like images only\. Choose auto or cpu\."):
        choose_device("openvino:GPU")
    with pytest.raises(Failed, match="OpenVINO runs the generators"):
        load_model("spacing", "openvino")


@there
def test_a_converted_network_gives_the_same_numbers_for_any_batch_and_from_any_thread(network: nn.Module) -> None:
    made = convert(network)
    assert made.device_name == "openvino:CPU" and made.difference <= 0.005
    x = torch.randn(5, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        reference = network(x)
    output = made(x)
    spread = float(reference.max() - reference.min())
    assert float((output - reference).square().mean().sqrt()) < 0.005 * spread
    found: dict[int, torch.Tensor] = {}

    def run(n: int) -> None:
        for _ in range(20):
            found[n] = made(x[n : n + 1])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, single in found.items():
        assert torch.allclose(single[0], output[n], atol=1e-5)


@there
def test_a_network_is_converted_once(network: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 3, 32, 32)
    before = convert(network)(x)
    monkeypatch.setattr(openvino_runtime, "_converted", lambda *_: pytest.fail("converted again"))
    assert torch.equal(convert(network)(x), before)
    (kept,) = folder.iterdir()
    assert kept.name.startswith("k-openvino-")


@there
def test_a_file_that_openvino_cannot_read_is_converted_again(network: nn.Module, folder: Path) -> None:
    name = f"k-openvino-{openvino_runtime.version()}-v1"
    converted.cached(name, lambda: (4).to_bytes(8, "little") + b"<no>")
    x = torch.randn(1, 3, 32, 32)
    output = convert(network)(x)
    with torch.inference_mode():
        assert torch.allclose(output, network(x), atol=0.02)
    assert (folder / f"{name}.converted").stat().st_size > 1000


@there
def test_a_network_whose_output_changes_is_refused(network: nn.Module) -> None:
    with pytest.raises(Failed, match=r"OpenVINO changes this model's output by"):
        convert(network, tolerance=-1)


@there
def test_half_precision_that_changes_too_much_gives_way_to_float32(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([0.2, 1e-6])
    monkeypatch.setattr(openvino_runtime, "_difference", lambda *_: next(answers))
    capable = "BF16" in openvino_runtime._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if not capable:
        next(answers)
    assert convert(network).precision == "float32"


class Unconvertible(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy())[:, :1] + torch.linalg.eigvals(x[:, :1, :3, :3]).real.mean()


@there
def test_what_cannot_be_converted_is_refused_in_one_sentence() -> None:
    with pytest.raises(Failed, match=r"OpenVINO cannot convert or compile this model\. Choose the device cpu, or auto"):
        convert(Unconvertible().eval())


@there
def test_importing_it_reports_nothing(tmp_path: Path) -> None:
    """OpenVINO's telemetry makes files in the home folder and calls Google Analytics when the package is imported."""
    program = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('the network was used')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from USMRISynthesisLib.models import openvino_runtime\n"
        "assert openvino_runtime.requested('openvino') == 'CPU'\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "HOME": str(tmp_path / "home")}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]
    assert not (tmp_path / "home").exists()
