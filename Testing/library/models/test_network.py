"""Both forms of the weights: the same numbers, the right one taken, and a sentence where TorchScript does not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from USMRISynthesisLib.alignment.frame import content_model, outline
from USMRISynthesisLib.alignment.volume import model as alignment
from USMRISynthesisLib.alignment.volume.network import STAGES
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.geometry.canonical import to_canonical
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import network, safetensors, store
from USMRISynthesisLib.models.quantisation import ByteConvolution
from USMRISynthesisLib.models.store import Source
from USMRISynthesisLib.spacing import model as spacing
from USMRISynthesisLib.spacing.inference import conditions
from USMRISynthesisLib.synthesis import engine
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig

Build = Callable[[Source], nn.Module]
SAMPLE = Path(__file__).resolve().parents[3] / "Resources" / "SampleData" / "fetal-head-simulated.nrrd"
BUILDERS: dict[str, Build] = {
    "default": engine.build,
    "paper": engine.build,
    "alignment": alignment.build,
    "content": content_model.build,
    "frames": outline.build,
    "spacing": spacing.build,
}


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(network.FORM_VARIABLE, raising=False)
    store.forget()


@pytest.fixture(scope="module")
def us() -> np.ndarray:
    """Canonical slices (K, 160, 160) of the sample head, in [-1, 1]."""
    volume = Volume.read(SAMPLE)
    centre = np.eye(4)
    centre[:3, 3] = -(volume.ijk_to_ras @ [*((np.array(volume.shape[::-1]) - 1) / 2), 1])[:3]
    slices, _ = to_canonical(volume.array, volume.ijk_to_ras, centre)
    return np.asarray(slices, np.float32) / 127.5 - 1


def both(model: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    """A bundled model's verified source in each form."""
    sources = {}
    for form in (network.TORCHSCRIPT, network.PLAIN):
        monkeypatch.setenv(network.FORM_VARIABLE, form)
        sources[form] = store.load(model, store.read_manifest(store.find_model(model)).task, lambda source: source)
        assert sources[form].form == form
    return sources


def outputs(module: nn.Module, model: str, us: np.ndarray) -> list[torch.Tensor]:
    """What a model makes of the sample's own slices, cubes and squares."""
    x = torch.from_numpy(us)
    shrunk = nn.functional.avg_pool3d(x[None, None], 2)  # (1, 1, 80, 80, 80)
    with torch.inference_mode():
        if model == "default":
            planes, heights = torch.full((3, 1, 160, 160), -1.0), torch.linspace(-0.5, 0.5, 3).view(3, 1, 1, 1)
            planes[1], planes[2] = 0.0, 1.0
            stack = torch.stack([x[n - 1 : n + 2] for n in (50, 80, 110)])
            return [module(torch.cat([stack, planes, heights.expand(-1, -1, 160, 160)], dim=1))]
        if model == "paper":
            return [module(x[[60, 80], None])]
        if model == "alignment":
            found: list[torch.Tensor] = []
            for name, stage in STAGES.items():
                first = (80 - stage.size) // 2
                part = slice(first, first + stage.size)
                found += getattr(module, name)(shrunk[:, :, part, part, part])
            return found
        if model == "content":
            return [module.content(x[[70, 90], None, 32:128, 32:128])]
        if model == "frames":
            square = x[[70, 90], None, 16:144, 16:144]
            return [module.outline(square), module.face(square[:, :, 24:104, 24:104])]
        views = (x[::3, :50, 80][None, None] + 1) / 2
        rows = conditions(18, views.shape[2], 0.05)
        return [module(views, rows), module.vae((x[[80], None] + 1) / 2)]


@pytest.mark.parametrize("model", BUILDERS)
def test_plain_weights_equal_the_torchscript_file_to_the_bit(
    model: str, us: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = both(model, monkeypatch)
    scripted = network.from_torchscript(sources["torchscript"].content, model)
    stored = network.tensors(sources["plain"].content)
    state = scripted.state_dict()
    assert stored.keys() == state.keys()
    for name, value in state.items():
        assert stored[name].dtype == value.dtype and torch.equal(stored[name], value), name
    modules = [source.network(lambda source=source: BUILDERS[model](source)) for source in sources.values()]
    assert isinstance(modules[0], torch.jit.ScriptModule) and not isinstance(modules[1], torch.jit.ScriptModule)
    expected, made = (outputs(module, model, us) for module in modules)
    for one, other in zip(expected, made, strict=True):
        assert one.dtype == torch.float32 and float((one - other).abs().max() if one.numel() else 0) == 0.0
    assert max(float(one.std()) for one in expected if one.numel()) > 1e-3  # there was something to see


def test_the_reliability_maps_plain_weights_equal_its_torchscript_file_to_the_bit(
    us: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [source.reliability for source in both("default", monkeypatch).values()]
    modules = [part.network(lambda part=part: engine.build_reliability(part)) for part in parts if part is not None]
    cells = nn.functional.avg_pool2d(torch.from_numpy(us[60:78].reshape(2, 9, 160, 160)), 2)
    condition = torch.linspace(-1, 1, 18).view(2, 9, 1, 1)
    with torch.inference_mode():
        expected, made = (module(cells, condition) for module in modules)
    assert torch.equal(expected, made) and float(expected.std()) > 1e-3


@pytest.mark.parametrize("model", BUILDERS)
def test_what_is_made_ready_to_run_differs_by_rounding_alone(
    model: str, us: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = both(model, monkeypatch)["plain"]
    plain, ready = (source.network(lambda: BUILDERS[model](source)) for _ in range(2))
    expected = outputs(plain, model, us)
    if model in ("alignment", "content", "frames"):
        for name, child in list(ready.named_children()):
            setattr(ready, name, network.ready(child, model))
    else:
        ready = network.ready(ready, model)
    assert not any(isinstance(layer, ByteConvolution | nn.BatchNorm2d) for layer in ready.modules())
    for one, other in zip(expected, outputs(ready, model, us), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("torch_version", "python", "plain"),
    [
        ("2.1.2", (3, 10), False),
        ("2.13.0+cpu", (3, 13), False),
        ("2.14.0", (3, 10), True),
        ("2.14.1+cu130", (3, 11), True),
        ("3.0.0", (3, 12), True),
        ("2.13.0", (3, 14), True),
        ("2.16.0a0+git1234", (3, 12), True),
    ],
)
def test_plain_weights_are_taken_where_torchscript_is_on_its_way_out(
    monkeypatch: pytest.MonkeyPatch, torch_version: str, python: tuple[int, int], plain: bool
) -> None:
    monkeypatch.delenv("PYTORCH_JIT", raising=False)
    monkeypatch.setattr(torch, "__version__", torch_version)
    monkeypatch.setattr(sys, "version_info", (*python, 0, "final", 0))
    used = store.load("paper", "synthesis", lambda source: source.form)
    assert used == ("plain" if plain else "torchscript")


def test_a_word_that_is_no_form_is_a_clear_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.FORM_VARIABLE, "pickle")
    with pytest.raises(Failed, match=r"USMRI_WEIGHTS asks for weights of the form 'pickle'\. Set it to torchscript or"):
        store.load("paper", "synthesis", lambda source: source)


def test_plain_weights_that_are_not_there_cannot_be_asked_for(
    trusted_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(network.FORM_VARIABLE, "plain")
    with pytest.raises(Failed, match=r"'tiny' has no plain weights, which USMRI_WEIGHTS asks for\. Unset"):
        engine.load_generator(str(trusted_model), "cpu")


@pytest.mark.parametrize("error", [RuntimeError("unknown operator"), AttributeError("_construct")])
def test_where_torchscript_fails_a_bundled_model_takes_its_plain_weights_and_keeps_them(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(network, "prefers_plain", lambda: False)
    monkeypatch.setattr(torch.jit, "load", broken)
    loaded = engine.load_generator("paper", "cpu")
    assert loaded.weights == "plain" and engine.load_generator("paper", "cpu") is loaded
    monkeypatch.setenv(network.FORM_VARIABLE, "torchscript")
    with pytest.raises(Failed, match="'paper' cannot be read by torch"):
        engine.load_generator("paper", "cpu")


def test_a_model_that_cannot_be_frozen_takes_its_plain_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("freeze")

    monkeypatch.setattr(network, "prefers_plain", lambda: False)
    monkeypatch.setattr(torch.jit, "freeze", broken)
    assert engine.load_generator("paper", "cpu").weights == "plain"
    monkeypatch.setenv(network.FORM_VARIABLE, "torchscript")
    with pytest.raises(Failed, match="'paper' cannot be prepared by torch"):
        engine.load_generator("paper", "cpu")


def test_every_task_runs_without_torchscript_and_a_foreign_model_says_why_it_cannot(trusted_model: Path) -> None:
    code = (
        "import sys, torch\n"
        "from USMRISynthesisLib.errors import Failed\n"
        "from USMRISynthesisLib.alignment.frame.outline import load_network\n"
        "from USMRISynthesisLib.alignment.volume.model import load_networks\n"
        "from USMRISynthesisLib.spacing.model import load_model\n"
        "from USMRISynthesisLib.synthesis.engine import load_generator\n"
        "print(load_generator('default', 'cpu').weights, load_model('spacing', 'cpu').weights)\n"
        "load_networks(), load_network()\n"
        "try:\n    load_generator(sys.argv[1], 'cpu')\n"
        "except Failed as error:\n    print(error.kind, error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(trusted_model)],
        env={**os.environ, "PYTORCH_JIT": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    first, second = run.stdout.splitlines()
    assert first == "plain plain"
    assert second == (
        "torchscript The model 'tiny' is a TorchScript file, and TorchScript is switched off here (PYTORCH_JIT=0). "
        "Unset PYTORCH_JIT, or choose a model with plain weights."
    )


def test_the_command_line_runs_a_foreign_model_whatever_switches_torchscript_off(
    trusted_model: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-W", "error", "-m", "USMRISynthesisLib.cli", "synthesize", str(SAMPLE),
               str(tmp_path / "out.nrrd"), "--model", str(trusted_model), "--device", "cpu", "--quiet"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, env={**environment, "PYTORCH_JIT": "0"}, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and run.stderr == ""  # the command's own process is settled before torch is loaded
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and run.stderr == ""  # no warning of torch's, in whichever version
    assert json.loads((tmp_path / "out.json").read_text())["model"]["weights"] == "torchscript"


def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]) -> Callable[[], nn.Module]:
    """Loading a small generator's plain weights after a change to the arrays."""
    config = GeneratorConfig(width=2, multipliers=(1, 2), skips=(), reconstruction_skips=(), attention_level=1)
    state = Generator(config).half().state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    change(arrays)
    content = safetensors.write(arrays)
    return lambda: network.from_plain(content, lambda: Generator(config), "small")


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("attention.eta.bias"),
        lambda arrays: arrays.update(more=np.zeros(2, np.float16)),
        lambda arrays: arrays.update({"attention.eta.bias": np.zeros(5, np.float16)}),
        lambda arrays: arrays.update({"attention.eta.bias": np.zeros(4, np.int8)}),
    ],
)
def test_plain_weights_of_another_network_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]
) -> None:
    changed(monkeypatch, lambda arrays: None)()
    with pytest.raises(Failed, match="'small' do not fit the networks that its manifest describes"):
        changed(monkeypatch, change)()


@pytest.mark.parametrize(
    ("config", "fault"),
    [({"width": 0}, "width and multipliers must be positive"), ({"wdith": 4}, "wdith' is not known")],
)
def test_an_architecture_that_makes_no_sense_is_a_malformed_manifest(config: dict[str, Any], fault: str) -> None:
    manifest = store.read_manifest(store.find_model("paper"))
    described = manifest.architecture
    assert described is not None
    source = Source("x", store.Manifest(**{**vars(manifest), "architecture": type(described)("generator", config)}),
                    "plain", "cpu", b"")  # fmt: skip
    with pytest.raises(Failed, match=fault):
        engine.build(source)
    with pytest.raises(Failed, match="'architecture' is not of the kind 'spacing'"):
        spacing.build(source)


def test_networks_are_the_same_whatever_the_default_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for form in (network.TORCHSCRIPT, network.PLAIN):
        monkeypatch.setenv(network.FORM_VARIABLE, form)
        store.forget()
        torch.set_default_device("meta")
        try:
            generator = engine.load_generator("default", "cpu")
            networks, frames = alignment.load_networks(), outline.load_network()
            assert spacing.load_model(device="cpu").weights == form
        finally:
            torch.set_default_device("cpu")
            torch.set_default_device(None)
        assert generator.weights == form and generator.reliability is not None
        x = torch.zeros(1, 5, 160, 160, dtype=generator.dtype)
        with torch.inference_mode():
            assert generator.module(x).device.type == "cpu"
        assert networks("locate", torch.zeros(1, 1, 32, 32, 32)).fields.device.type == "cpu"
        assert frames(torch.zeros(1, 1, 128, 128)).shape == (1, 6, 64, 64)
