"""Generators in OpenVINO: the image of float32 torch within half a per cent, provenance, fallbacks and refusals."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from USMRISynthesisLib import Volume, synthesize
from USMRISynthesisLib.datasets.frames import rows_of
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import converted, openvino_runtime, store
from USMRISynthesisLib.simulation.dataset import frame_volume
from USMRISynthesisLib.synthesis import engine, multiplane
from USMRISynthesisLib.worker.client import WorkerProcess

DATA = Path(os.environ.get("USMRI_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SAMPLES = Path(__file__).resolve().parents[3] / "Resources" / "SampleData"
there = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed (pip install openvino)"
)
frames_there = pytest.mark.skipif(
    not (DATA / "hc18" / "index.csv").is_file(), reason="the HC18 frames are not here (set USMRI_DATA)"
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(converted.CACHE_DIR_VARIABLE, str(kept))
    monkeypatch.setattr(engine, "_not_converted", {})
    store.forget()


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Runs float32 torch on the same slices; holds the rms differences as shares of the output's range."""
    shares: list[float] = []
    run = multiplane.run_slices

    def both(model: torch.nn.Module, us: np.ndarray, z_mm: np.ndarray, **options: Any) -> np.ndarray:
        out = run(model, us, z_mm, **options)
        reference = run(options["on_cpu"](), us, z_mm, **{**options, "dtype": torch.float32, "device": "cpu"})
        seen = (reference > -1).any(axis=(1, 2))
        shares.append(float(np.sqrt(np.square(out - reference)[seen].mean()) / np.ptp(reference)))
        return out

    monkeypatch.setattr(multiplane, "run_slices", both)
    return shares


@there
@pytest.mark.parametrize("sample", ["fetal-head-simulated.nrrd", "fetal-head-ucl.nrrd"])
def test_samples_are_those_of_float32_torch(sample: str, compared: list[float]) -> None:
    result = synthesize(Volume.read(SAMPLES / sample), device="openvino", planes="axial", allow_low_confidence=True)
    assert result.provenance["device"]["name"] == "openvino:CPU"
    assert result.provenance["device"]["runtime"] == {"name": "openvino", "version": openvino_runtime.version()}
    assert result.provenance["precision"]["name"] in ("float32", "bfloat16")
    assert len(compared) == 1 and 0 < compared[0] < 0.005


@there
@frames_there
def test_real_frames_are_those_of_float32_torch(compared: list[float]) -> None:
    rows = rows_of(DATA, "test", 150.0)[::40]
    for row in rows:
        synthesize(frame_volume(DATA, row), device="openvino:CPU", allow_low_confidence=True, any_content=True)
    assert len(compared) == len(rows) > 2
    assert max(compared) < 0.005


@there
@pytest.mark.parametrize("model", ["default", "paper"])
def test_the_result_does_not_depend_on_batch_and_threads(model: str) -> None:
    us = np.random.default_rng(0).random((6, 160, 160), dtype=np.float32) * 2 - 1
    found = []
    before = torch.get_num_threads()
    try:
        for threads, batch in ((1, 1), (1, 3), (2, 2)):
            torch.set_num_threads(threads)
            generator = engine.load_generator(model, "openvino")
            form = generator.manifest.input
            found.append(
                engine.run_slices(
                    generator.module, us, np.linspace(-20, 20, 6), neighbours=form.neighbours, location=form.location,
                    plane=multiplane.plane_code("axial", form.planes), batch=batch,
                )
            )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert np.abs(other - found[0]).max() < (1e-5 if generator.precision == "float32" else 0.02)


@there
def test_no_more_threads_are_used_than_torch_may() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        module = engine.load_generator("default", "openvino").module
        assert module._compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert module._compiled.get_property("ENABLE_CPU_PINNING") is False
        torch.set_num_threads(2)
        assert engine.load_generator("default", "openvino").module._compiled.get_property("NUM_STREAMS") == 2
    finally:
        torch.set_num_threads(before)


@there
def test_auto_takes_it_where_it_pays_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "choose_device", lambda name: (torch.device("cpu"), "No GPU is used: none is here."))
    monkeypatch.setattr(openvino_runtime, "unused_reason", lambda: None)
    loaded = engine.load_generator("default", "auto")
    assert loaded.device_name == "openvino:CPU"
    assert loaded.device_reason == "No GPU is used: none is here. OpenVINO is installed."
    monkeypatch.setattr(openvino_runtime, "unused_reason", lambda: "this CPU has AMX, which torch uses")
    loaded = engine.load_generator("default", "auto")
    assert loaded.device_name == "cpu" and loaded.runtime["name"] == "torch"
    assert loaded.device_reason.endswith("OpenVINO is not used: this CPU has AMX, which torch uses.")


@there
def test_a_failed_conversion_falls_back_under_auto_and_is_refused_where_it_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []

    def fail(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise Failed(openvino_runtime.NAME, "OpenVINO cannot convert or compile this model.", openvino_runtime.REMEDY)

    monkeypatch.setattr(engine, "choose_device", lambda name: (torch.device("cpu"), "No GPU is used: none is here."))
    monkeypatch.setattr(openvino_runtime, "unused_reason", lambda: None)
    monkeypatch.setattr(openvino_runtime, "convert", fail)
    for _ in range(2):
        loaded = engine.load_generator("default", "auto")
        assert loaded.device_name == "cpu"
        assert loaded.device_reason == (
            "No GPU is used: none is here. OpenVINO is not used: OpenVINO cannot convert or compile this model."
        )
    assert len(tried) == 1  # not again in this process
    with pytest.raises(
        Failed, match=r"^OpenVINO cannot convert or compile this model\. Choose the device cpu, or auto"
    ):
        engine.load_generator("default", "openvino")


@there
def test_a_model_without_plain_weights_runs_in_torch_or_is_refused(
    trusted_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Failed, match=r"The model 'tiny' has no plain weights.*OpenVINO needs them"):
        engine.load_generator(str(trusted_model), "openvino")
    monkeypatch.setattr(openvino_runtime, "unused_reason", lambda: None)
    monkeypatch.setattr(engine, "choose_device", lambda name: (torch.device("cpu"), "No GPU is used: none is here."))
    assert engine.load_generator(str(trusted_model), "auto").device_name == "cpu"


@there
def test_another_architecture_with_the_same_weights_is_converted_for_itself(
    kept: Path, tmp_path: Path, config_dir: Path
) -> None:
    """The manifest decides on the attention's norm; the weights are the same bytes."""
    folder = tmp_path / "other"
    folder.mkdir()
    real = store.find_model("paper")
    for path in real.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    config = manifest["architecture"]["config"]
    config["attention_norm"] = "softmax" if config.get("attention_norm") != "softmax" else "mean"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    engine.load_generator("paper", "openvino")
    before = len(list(kept.iterdir()))
    engine.load_generator(str(folder), "openvino")
    assert len(list(kept.iterdir())) == before + 1


@there
def test_a_failure_while_it_computes_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    module = engine.load_generator("default", "openvino").module

    class Broken:
        def infer(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("clEnqueue failed")

    class Compiled:
        create_infer_request: Callable[[], Broken] = staticmethod(Broken)

    monkeypatch.setattr(module, "_compiled", Compiled())
    module._idle.queue.clear()
    with pytest.raises(Failed, match=r"OpenVINO failed while it computed on openvino:CPU\. Choose the device cpu"):
        module(torch.zeros(1, 5, 160, 160))


@there
def test_the_worker_runs_it(kept: Path, head: Volume) -> None:
    with WorkerProcess() as worker:
        result = worker.synthesize(head, device="openvino", planes="axial", allow_low_confidence=True)
    assert result.provenance["device"]["name"] == "openvino:CPU"
