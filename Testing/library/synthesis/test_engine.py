"""The slice engine: the same result whatever the batch and the number of threads, also when memory runs out."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from USMRISynthesisLib.errors import Cancelled, Failed
from USMRISynthesisLib.geometry.canonical import canonical_axis_mm
from USMRISynthesisLib.models import device as devices
from USMRISynthesisLib.models import store
from USMRISynthesisLib.synthesis import engine
from USMRISynthesisLib.synthesis.engine import load_generator, run_slices


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
    store.forget()


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
def test_out_of_memory_halves_the_batch_with_a_warning(us: np.ndarray, error: Callable[[], Exception]) -> None:
    logged: list[tuple[str, str]] = []
    result = _run(_Starved(1, error), us, batch=4, log=lambda *line: logged.append(line))
    np.testing.assert_array_equal(result, us)
    assert [level for level, _ in logged] == ["warning"] * 2
    assert "continuing with 2" in logged[0][1] and "continuing with 1" in logged[1][1]


def test_out_of_memory_on_several_threads_goes_on_with_one(us: np.ndarray) -> None:
    alone = threading.Lock()

    class Crowded(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not alone.acquire(blocking=False):
                raise MemoryError
            time.sleep(0.05)
            alone.release()
            return x[:, 1:2]

    logged: list[str] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        result = _run(Crowded(), us, batch=1, log=lambda level, text: logged.append(text))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(result, us)
    assert logged == ["Out of memory with a slice on each of 2 threads: continuing with one slice at a time."]


def test_out_of_memory_with_one_slice_goes_on_on_the_cpu(us: np.ndarray) -> None:
    logged: list[str] = []
    result = _run(
        _Starved(0, lambda: RuntimeError("out of memory")),
        us,
        device="meta",
        batch=1,
        dtype=torch.float16,
        on_cpu=lambda: _Starved(9, MemoryError),
        log=lambda level, text: logged.append(text),
    )
    np.testing.assert_array_equal(result, us)  # float32 again, too
    assert logged == ["Out of memory on meta even with one slice: continuing on the CPU."]


def test_no_memory_for_a_single_slice_on_the_cpu_is_a_clear_failure(us: np.ndarray) -> None:
    with pytest.raises(Failed, match="not enough memory"):
        _run(_Starved(0, MemoryError), us)


def test_another_error_is_not_taken_for_a_lack_of_memory(us: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="mat1"):
        _run(_Starved(0, lambda: RuntimeError("mat1 and mat2 shapes")), us)


def test_auto_gives_its_reason_and_a_missing_device_is_a_clear_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cuda", lambda: (False, "torch finds no CUDA device"))
    monkeypatch.setattr(devices, "_mps", lambda: False)
    assert devices.choose_device("auto") == (torch.device("cpu"), "No GPU is used: torch finds no CUDA device.")
    for name, pattern in (("cuda", "CUDA was chosen"), ("mps", "MPS was chosen"), ("tpu", "no device")):
        with pytest.raises(Failed, match=pattern):
            devices.choose_device(name)
    monkeypatch.setattr(devices, "_mps", lambda: True)
    assert devices.choose_device("auto")[0] == torch.device("mps")


def test_a_cpu_without_native_bfloat16_stays_in_float32(trusted_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    store.forget()
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
    store.forget()
    generator = load_generator(str(trusted_model), "cpu")
    store.forget()
    expected = "does not run in it" if error > 1 else f"{error:.1%}"[:3]
    assert generator.dtype == dtype and expected in generator.precision_reason


class _NearOneHundredTwentyEight(torch.nn.Module):
    """Adds 128 and takes it away again: float32 keeps six digits of the image, bfloat16 steps as wide as the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, 1:2] + 128) - 128


class _Bounded(torch.nn.Module):
    """The image halved: bfloat16 is off by its own rounding alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 1:2] * 0.5


@pytest.mark.parametrize(
    ("network", "low", "high", "dtype"),
    [(_NearOneHundredTwentyEight(), 0.05, 0.5, torch.float32), (_Bounded(), 1e-5, 0.005, torch.bfloat16)],
)
def test_a_network_that_bfloat16_spoils_runs_in_float32(
    tmp_path: Path, write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, network: torch.nn.Module,
    low: float, high: float, dtype: torch.dtype,
) -> None:  # fmt: skip
    example = torch.rand(1, 4, 160, 160, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert low < devices.half_precision_error(network, network, example, torch.bfloat16) < high
    file = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, example, check_trace=False).save(str(file))
    folder = write_model(tmp_path / "model", file.read_bytes())
    monkeypatch.setattr(engine, "native_half", lambda device: (torch.bfloat16, "in this test"))
    generator = load_generator(str(folder), "cpu", consent=lambda *_: True)
    assert generator.dtype == dtype and str(dtype).removeprefix("torch.") in generator.precision_reason


def test_the_error_of_half_precision_is_the_rms_as_a_share_of_the_range() -> None:
    class Off(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.dtype == torch.float32 else x + 1

    example = torch.tensor([0.0, 4.0, 8.0, 16.0]).view(1, 1, 2, 2)  # exact in bfloat16
    assert devices.half_precision_error(Off(), Off(), example, torch.bfloat16) == pytest.approx(1 / 16)
    flat = torch.ones(1, 1, 2, 2)
    assert devices.half_precision_error(Off(), Off(), flat, torch.bfloat16) == float("inf")


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
