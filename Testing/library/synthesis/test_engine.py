"""The slice engine and the corridor: same result whatever the batch, masked, on the input's grid, cancellable."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from USMRISynthesisLib.alignment.common.confidence import MIN_CONFIDENCE
from USMRISynthesisLib.errors import Cancelled, Failed, Refused
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import device as devices
from USMRISynthesisLib.synthesis import engine
from USMRISynthesisLib.synthesis.engine import load_generator, run_slices
from USMRISynthesisLib.synthesis.pipeline import normalise, synthesize


@pytest.fixture
def us() -> np.ndarray:
    """Six canonical slices with a disc of speckle each; the first is empty."""
    rng = np.random.default_rng(0)
    slices = rng.random((6, 160, 160), dtype=np.float32) * 2 - 1
    y, x = np.mgrid[:160, :160] - 79.5
    slices[:, np.hypot(x, y) > 60] = -1
    slices[0] = -1
    return slices


@pytest.fixture
def module(trusted_model: Path) -> torch.nn.Module:
    return load_generator(str(trusted_model), "cpu").module


def _run(module: torch.nn.Module, us: np.ndarray, **options: object) -> np.ndarray:
    z_mm = canonical_axis_mm()[60 : 60 + len(us)]
    return run_slices(module, us, z_mm, neighbours=1, location=True, **options)  # type: ignore[arg-type]


@pytest.fixture
def float32_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "native_half", lambda device: (None, "not in this test"))
    engine._loaded.clear()


@pytest.mark.usefixtures("float32_only")
@pytest.mark.parametrize("batch", [2, 3, 4, 6])
def test_the_batch_does_not_change_the_result(module: torch.nn.Module, us: np.ndarray, batch: int) -> None:
    np.testing.assert_allclose(_run(module, us, batch=batch), _run(module, us, batch=1), atol=1e-5)


@pytest.mark.usefixtures("float32_only")
def test_the_thread_count_does_not_change_the_result(module: torch.nn.Module, us: np.ndarray) -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(_run(module, us))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_slices_without_ultrasound_are_skipped_and_the_others_see_their_neighbours(us: np.ndarray) -> None:
    fed = []

    class Recorder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            fed.append(x.clone())
            return x[:, 1:2]

    result = _run(Recorder(), us, batch=2)
    np.testing.assert_array_equal(result, us)
    x = torch.cat(sorted(fed, key=lambda part: float(part[0, 3, 0, 0]))).numpy()  # threads take a batch each
    assert len(x) == 5
    np.testing.assert_array_equal(x[0, :3], us[[0, 1, 2]])
    np.testing.assert_array_equal(x[-1, :3], us[[4, 5, 5]])
    np.testing.assert_allclose(x[:, 3, 0, 0], canonical_axis_mm()[61:66] / 48, rtol=1e-6)


def test_slices_that_are_not_wanted_stay_background(us: np.ndarray) -> None:
    wanted = np.array([0, 1, 0, 0, 1, 0], bool)
    result = _run(torch.nn.Identity(), us, wanted=wanted)
    assert (result[~wanted] == -1).all()
    assert (result[wanted] == np.stack([us[0], us[3]])).all()  # channel 0 is the neighbour below


def test_progress_and_cancel_come_at_least_every_two_slices_on_the_cpu(us: np.ndarray) -> None:
    seen: list[float] = []
    run = lambda **options: _run(torch.nn.Identity(), us, **options)  # noqa: E731
    run(progress=lambda value, stage: seen.append(value))
    assert len(seen) >= 3 and seen == sorted(seen) and seen[-1] == 1
    calls = iter([False, True])
    seen.clear()
    with pytest.raises(Cancelled):
        run(cancel=lambda: next(calls), progress=lambda value, stage: seen.append(value))
    assert len(seen) == 1


class _Starved(torch.nn.Module):
    """Runs out of memory above so many slices."""

    def __init__(self, slices: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.slices, self.error = slices, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.slices:
            raise self.error()
        return x[:, 1:2]


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("MPS backend out of memory (MPS allocated ...)"),
        lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        lambda: torch.cuda.OutOfMemoryError("CUDA out of memory."),
        MemoryError,
    ],
)
def test_out_of_memory_halves_the_batch_and_says_so(us: np.ndarray, error: Callable[[], Exception]) -> None:
    told: list[tuple[str, str]] = []
    result = _run(_Starved(1, error), us, batch=4, log=lambda *line: told.append(line))
    np.testing.assert_array_equal(result, us)
    assert [level for level, _ in told] == ["warning"] * 2
    assert "continuing with 2" in told[0][1] and "continuing with 1" in told[1][1]


def test_out_of_memory_on_several_threads_goes_on_with_one(us: np.ndarray) -> None:
    alone = threading.Lock()

    class Crowded(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not alone.acquire(blocking=False):
                raise MemoryError
            time.sleep(0.05)
            alone.release()
            return x[:, 1:2]

    told: list[str] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        result = _run(Crowded(), us, batch=1, log=lambda level, text: told.append(text))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(result, us)
    assert told == ["Out of memory with a slice on each of 2 threads: continuing with one slice at a time."]


def test_out_of_memory_with_one_slice_goes_on_on_the_cpu(us: np.ndarray) -> None:
    told: list[str] = []
    result = _run(
        _Starved(0, lambda: RuntimeError("out of memory")),
        us,
        device="meta",
        batch=1,
        dtype=torch.float16,
        on_cpu=lambda: _Starved(9, MemoryError),
        log=lambda level, text: told.append(text),
    )
    np.testing.assert_array_equal(result, us)  # float32 again, too
    assert told == ["Out of memory on meta even with one slice: continuing on the CPU."]


def test_no_memory_for_a_single_slice_on_the_cpu_is_a_clear_failure(us: np.ndarray) -> None:
    with pytest.raises(Failed, match="not enough memory"):
        _run(_Starved(0, MemoryError), us)


def test_another_error_is_not_taken_for_a_lack_of_memory(us: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="mat1"):
        _run(_Starved(0, lambda: RuntimeError("mat1 and mat2 shapes")), us)


def test_auto_says_why_it_chose_and_a_missing_device_is_a_clear_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cuda", lambda: (False, "torch finds no CUDA device"))
    monkeypatch.setattr(devices, "_mps", lambda: False)
    assert devices.choose_device("auto") == (torch.device("cpu"), "No GPU is used: torch finds no CUDA device.")
    for name, pattern in (("cuda", "CUDA was asked for"), ("mps", "MPS was asked for"), ("tpu", "no device")):
        with pytest.raises(Failed, match=pattern):
            devices.choose_device(name)
    monkeypatch.setattr(devices, "_mps", lambda: True)
    assert devices.choose_device("auto")[0] == torch.device("mps")


def test_a_cpu_without_native_bfloat16_stays_in_float32(trusted_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    engine._loaded.clear()
    generator = load_generator(str(trusted_model), "cpu")
    assert generator.dtype == torch.float32 and "no known native bfloat16" in generator.precision_reason


@pytest.mark.parametrize(
    ("error", "dtype"), [(0.02, torch.float32), (0.004, torch.bfloat16), (float("inf"), torch.float32)]
)
def test_half_precision_is_used_only_where_this_model_bears_it(
    trusted_model: Path, monkeypatch: pytest.MonkeyPatch, error: float, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(engine, "native_half", lambda device: (torch.bfloat16, "the CPU computes in bfloat16"))
    monkeypatch.setattr(engine, "half_precision_error", lambda *_: error)
    engine._loaded.clear()
    generator = load_generator(str(trusted_model), "cpu")
    engine._loaded.clear()
    told = "does not run in it" if error > 1 else f"{error:.1%}"[:3]
    assert generator.dtype == dtype and told in generator.precision_reason


def test_the_second_load_is_warm_but_still_checks_the_hash(trusted_model: Path) -> None:
    first = load_generator(str(trusted_model), "cpu")
    assert load_generator(str(trusted_model), "cpu") is first
    with open(trusted_model / "model.pt", "ab") as file:
        file.write(b"x")
    with pytest.raises(Failed, match="SHA-256 differs"):
        load_generator(str(trusted_model), "cpu")


def test_a_model_for_another_task_or_another_input_is_refused(
    tmp_path: Path, tiny_model_file: Path, write_model: Callable[..., Path]
) -> None:
    weights = tiny_model_file.read_bytes()
    form = {"size": 160, "spacing_mm": 0.6, "channels": 4, "neighbours": 1, "location": True}
    for number, (changes, pattern) in enumerate(
        [
            ({"task": "spacing"}, "made for 'spacing'"),
            ({"input": {**form, "size": 96}}, "96 pixels of 0.6 mm"),
            ({"input": {**form, "neighbours": 0, "channels": 2}}, "does not take the input"),
        ]
    ):
        folder = write_model(tmp_path / str(number), weights, **changes)
        with pytest.raises(Failed, match=pattern):
            load_generator(str(folder), "cpu", consent=lambda *_: True)


def _synthesize(volume: Volume, model: Path, **options: object):  # type: ignore[no-untyped-def]
    return synthesize(volume, model=str(model), device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture
def to_canonical(head: Volume) -> np.ndarray:
    """The head's true place: its own axes are the fetal ones, 88 mm long."""
    matrix = np.eye(4)
    centre = head.ijk_to_ras @ [*((np.array(head.shape[::-1]) - 1) / 2), 1]
    matrix[:3, 3] = -centre[:3]
    return matrix


def test_a_volume_comes_out_on_its_own_grid_masked_and_labelled(
    head: Volume, trusted_model: Path, to_canonical: np.ndarray
) -> None:
    result = _synthesize(head, trusted_model, transform=to_canonical)
    assert result.mr.shape == head.shape and result.mr.array.dtype == np.int16
    np.testing.assert_array_equal(result.mr.ijk_to_ras, head.ijk_to_ras)
    np.testing.assert_array_equal(result.transform, to_canonical)
    assert result.mr.array.min() == 0 and 0 < result.mr.array.max() <= 1000
    assert not result.mr.array[head.array == 0][:1000].any()  # outside the fan
    assert result.mr.metadata["Comment"] == SYNTHETIC
    seen = result.confidence.array
    assert 0 <= seen.min() and seen.max() <= 1 and not result.mr.array[seen == 0].any()
    centre = tuple(n // 2 for n in head.shape)
    assert seen[centre] == 1 and 0.1 < (seen > 0).mean() < 0.6
    far = np.ones(head.shape, bool)
    far[9:-9, 7:-7, 13:-13] = False
    assert not result.mr.array[far].any()  # outside the head


def test_a_frame_comes_out_on_its_own_grid(frame: Volume, trusted_model: Path) -> None:
    result = _synthesize(frame, trusted_model)
    assert result.mr.shape == frame.shape and result.mr.array.max() > 0
    np.testing.assert_array_equal(result.mr.ijk_to_ras, frame.ijk_to_ras)
    assert result.provenance["slices"] == {"planes": ["axial"], "synthesised": 1, "of": 1}


def _resaved(volume: Volume, how: str) -> Volume:
    """The same voxels stored differently: axes flipped to a left-handed grid, or permuted."""
    array, matrix = volume.array, volume.ijk_to_ras.copy()
    if how == "left-handed":
        array = array[:, :, ::-1]
        matrix[:3, 3] += matrix[:3, 0] * (volume.shape[2] - 1)
        matrix[:3, 0] *= -1
    else:
        array = array.transpose(2, 0, 1)  # (i, k, j)
        matrix[:3, :3] = matrix[:3, [1, 2, 0]]
    return Volume(np.ascontiguousarray(array), matrix)


@pytest.mark.parametrize("how", ["left-handed", "permuted"])
def test_storing_the_volume_differently_does_not_move_the_result(
    head: Volume, trusted_model: Path, to_canonical: np.ndarray, how: str
) -> None:
    expected = _synthesize(head, trusted_model, transform=to_canonical).mr
    result = _synthesize(_resaved(head, how), trusted_model, transform=to_canonical).mr
    back = result.array[:, :, ::-1] if how == "left-handed" else result.array.transpose(1, 2, 0)
    difference = np.abs(back.astype(int) - expected.array)
    assert np.percentile(difference, 99) <= 1 and (difference > 20).mean() < 0.002


def test_provenance_says_what_was_done_and_names_no_file(
    head: Volume, trusted_model: Path, to_canonical: np.ndarray
) -> None:
    named = Volume(head.array, head.ijk_to_ras, {"PatientName": "DOE^JANE"})
    result = _synthesize(named, trusted_model, transform=to_canonical)
    content = json.loads(json.dumps(result.provenance))
    assert content["notice"] == SYNTHETIC and content["alignment"]["method"] == "given"
    assert content["model"]["sha256"] and content["device"]["name"] == "cpu" and content["device"]["reason"]
    assert content["input"]["shape_kji"] == list(head.shape) and len(content["input"]["voxels_sha256"]) == 64
    assert len(content["seconds"]) >= 5 and content["batch"] == 2
    text = json.dumps(content) + json.dumps(dict(result.mr.metadata))
    assert "DOE" not in text and str(trusted_model) not in text


def test_a_poor_fit_is_not_refused_but_told(
    head: Volume, trusted_model: Path, monkeypatch: pytest.MonkeyPatch, to_canonical: np.ndarray
) -> None:
    from dataclasses import replace

    from USMRISynthesisLib.synthesis import pipeline

    align = pipeline.align
    monkeypatch.setattr(pipeline, "align", lambda *a, **k: replace(align(*a, **k), score=MIN_CONFIDENCE - 0.01))
    told: list[tuple[str, str]] = []
    result = _synthesize(head, trusted_model, transform=to_canonical, log=lambda *line: told.append(line))
    assert not result.trusted and result.provenance["alignment_trusted"] is False
    assert [text for level, text in told if level == "warning"] == result.provenance["warnings"] != []


@pytest.mark.parametrize(
    ("score", "method", "said"),
    [(0.79, "network", True), (0.81, "network", False), (0.79, "given", False), (0.79, "ellipsoid", False)],
)
def test_a_head_that_may_lie_the_wrong_way_round_is_made_and_told(
    head: Volume,
    trusted_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    to_canonical: np.ndarray,
    score: float,
    method: str,
    said: bool,
) -> None:
    from dataclasses import replace

    from USMRISynthesisLib.synthesis import pipeline

    align = pipeline.align
    monkeypatch.setattr(pipeline, "align", lambda *a, **k: replace(align(*a, **k), score=score, method=method))
    result = _synthesize(head, trusted_model, transform=to_canonical)
    told = [text for text in result.provenance["warnings"] if "may be reversed (score 0.79)" in text]
    assert bool(told) is said and result.trusted


def test_progress_rises_to_one(head: Volume, trusted_model: Path, to_canonical: np.ndarray) -> None:
    seen: list[tuple[float, str]] = []
    _synthesize(head, trusted_model, transform=to_canonical, progress=lambda *line: seen.append(line))
    values = [value for value, _ in seen]
    assert values == sorted(values) and values[0] == 0 and values[-1] == 1 and len(values) > 30


@pytest.mark.parametrize("stop", [0.0, 0.1, 0.5, 0.9])
def test_cancel_is_heard_at_every_stage(
    head: Volume, trusted_model: Path, to_canonical: np.ndarray, stop: float
) -> None:
    reached: list[float] = []
    with pytest.raises(Cancelled):
        _synthesize(
            head,
            trusted_model,
            transform=to_canonical,
            progress=lambda value, stage: reached.append(value),
            cancel=lambda: bool(reached) and reached[-1] >= stop,
        )
    assert stop <= reached[-1] < min(stop + 0.2, 1)


def test_no_such_planes_and_bad_images_are_refused_without_loading_a_model(head: Volume) -> None:
    with pytest.raises(Refused, match=r"There are no 'oblique' slices. Choose axial, coronal, sagittal, all."):
        synthesize(head, model="nonesuch", planes="oblique")
    with pytest.raises(Refused):
        synthesize(Volume(np.zeros((32, 32, 32)), np.eye(4)), model="nonesuch")


def test_normalise_gives_the_head_in_canonical_space(head: Volume, to_canonical: np.ndarray) -> None:
    result = normalise(head, transform=to_canonical)
    assert result.canonical.shape == (160, 160, 160) and result.trusted
    axial = result.canonical.array[80]
    skull = round(33.5 / 0.6)
    assert min(axial[80, 80 - skull], axial[80, 80 + skull]) > 150 > axial[80, 80 + skull // 2]


def test_importing_the_package_and_what_slicer_loads_brings_no_torch() -> None:
    code = (
        "import sys, USMRISynthesisLib as u, USMRISynthesisLib.io.volume, USMRISynthesisLib.ultrasound.gate, "
        "USMRISynthesisLib.alignment.align, "
        "USMRISynthesisLib.models.store, USMRISynthesisLib.worker.client, USMRISynthesisLib.cli.command_line, "
        "USMRISynthesisLib.cli.infer, USMRISynthesisLib.cli.study; u.synthesize; u.Volume; u.Synthesis; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_model_cautions_against_is_said_with_every_result(
    trusted_model: Path, head: Volume, tmp_path: Path
) -> None:
    folder = shutil.copytree(trusted_model, tmp_path / "unpaired")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"caution": "The inside is invented."}))
    told: list[tuple[str, str]] = []
    result = _synthesize(head, folder, unreliable=True, log=lambda *line: told.append(line))
    assert "The inside is invented." in result.provenance["warnings"]
    assert ("warning", "The inside is invented.") in told
