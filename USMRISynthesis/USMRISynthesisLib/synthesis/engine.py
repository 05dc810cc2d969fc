"""The slice engine: a loaded generator, and how a stack of canonical slices is run through it.

    generator = load_generator("default", "auto")
    mr = run_slices(generator.module, us, z_mm, neighbours=1, location=True, device=generator.device)

Small batches win on a CPU: two slices stay in the cache, sixteen cost page faults. Its threads take a batch each
(`models/parallel.py`). What comes out is the same whatever the batch: every slice is normalised by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.callbacks import Cancel, Log, Progress
from USMRISynthesisLib.errors import Cancelled, Failed, memory_shortage
from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.models import schema, store
from USMRISynthesisLib.models.device import TOLERANCE, choose_device, half_precision_error, native_half
from USMRISynthesisLib.models.manifest import malformed
from USMRISynthesisLib.models.network import ready
from USMRISynthesisLib.models.parallel import map_in_order, threads_on
from USMRISynthesisLib.models.quantisation import in_eight_bits
from USMRISynthesisLib.synthesis.fusion import WIDTH, FusionNetwork
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.synthesis.reliability import CELL, CONDITIONS, IMAGES, PredictLogits, ReliabilityNetwork
from USMRISynthesisLib.synthesis.slices import assemble_input

BATCH = {"cpu": 2, "cuda": 16, "mps": 8}
BACKGROUND = -1.0


@dataclass(eq=False)
class LoadedGenerator:
    """A verified generator, ready to run on its device, and why it runs there and as it does."""

    manifest: store.Manifest
    module: nn.Module
    device: torch.device
    device_reason: str
    dtype: torch.dtype
    precision_reason: str
    source: store.Source = field(repr=False)
    reliability: PredictLogits | None = None  # of the reliability map
    fusion: Callable[[Tensor], Tensor] | None = None  # of the three planes' outputs

    @property
    def weights(self) -> str:
        """The form of the weights that run: "torchscript" or "plain"."""
        return self.source.form

    def reliability_for(self, *, frame: bool) -> PredictLogits | None:
        """The network of the reliability map; None if there is none, or none for frames where it is for a frame."""
        support = self.manifest.extra.get("support") or {}
        return self.reliability if not frame or support.get("frames") is True else None

    def on_cpu(self) -> nn.Module:
        """The same weights in float32 on the CPU, for when the device has no memory left."""
        return _prepare(self.source, build, torch.device("cpu"), torch.float32)


def load_generator(
    model: str = "default", device: str = "auto", *, consent: store.Consent | None = None
) -> LoadedGenerator:
    """Find, verify and prepare a generator; the hash is checked every time, the preparation is done once.

    Raises Failed (no such model or device, hash, task) and ConsentNeeded.
    """
    chosen, reason = choose_device(device)

    def prepare(source: store.Source) -> LoadedGenerator:
        manifest = source.manifest
        if (manifest.input.size, manifest.input.spacing_mm) != (SIZE, SPACING_MM):
            raise Failed(
                "model",
                f"The model {manifest.name!r} takes slices of {manifest.input.size} pixels of "
                f"{manifest.input.spacing_mm:g} mm, not {SIZE} of {SPACING_MM:g} mm.",
                "Choose another model.",
            )
        module = _prepare(source, build, chosen, torch.float32)
        _check_channels(module, manifest, chosen)
        dtype, why, half = _choose_precision(source, chosen, module)
        reliability = None if source.reliability is None else _load_reliability(source.reliability, chosen)
        fusion = None if source.fusion is None else _load_fusion(source.fusion, chosen)
        return LoadedGenerator(manifest, half or module, chosen, reason, dtype, why, source, reliability, fusion)

    return store.load(model, "synthesis", prepare, device=chosen, consent=consent)


def build(source: store.Source) -> Generator:
    """The generator that a manifest describes, with random weights. Raises Failed."""
    settings = source.settings("generator")
    config: GeneratorConfig = schema.build(
        GeneratorConfig, settings, lambda name, fault, _: malformed(f"architecture.config.{name}", fault)
    )
    return Generator(config)


def build_reliability(source: store.Source) -> nn.Module:
    """The reliability map's network as it is exported, with random weights: there is one of a version."""
    return in_eight_bits(ReliabilityNetwork())


def run_slices(
    model: nn.Module,
    us: np.ndarray,
    z_mm: np.ndarray,
    *,
    neighbours: int,
    location: bool,
    plane: float | None = None,
    device: torch.device | str = "cpu",
    batch: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    wanted: np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
    on_cpu: Callable[[], nn.Module] | None = None,
    log: Log | None = None,
) -> np.ndarray:
    """Run canonical slices through the generator.

    us: (K, H, W) in [-1, 1], -1 outside the fan; z_mm: (K,) in mm; plane: its code for a model of several planes
    (`planes.plane_code`). -> (K, H, W) float32 in [-1, 1].

    `wanted`, (K,) bool: the slices to synthesise; by default those that are not empty. The others
    come back as -1. On a CPU each thread takes a batch. `progress` and `cancel` are called after each batch. When the
    device runs out of memory the batch is halved, then one thread runs alone, then the module of `on_cpu()` is used;
    each step is written to `log`.
    Raises Cancelled, and Failed if the memory is still not enough.
    """
    use = _Use(
        model, torch.device(device), dtype, max(1, batch or BATCH.get(torch.device(device).type, 2)), threads_on(device)
    )
    todo = np.flatnonzero((us > BACKGROUND).any(axis=(1, 2)) if wanted is None else wanted)
    output = np.full(us.shape, BACKGROUND, dtype=np.float32)
    stack = torch.from_numpy(np.ascontiguousarray(us, dtype=np.float32))
    heights = torch.from_numpy(np.ascontiguousarray(z_mm, dtype=np.float32))
    done = 0
    while done < len(todo):

        def synthesised(some: np.ndarray, use: _Use = use) -> np.ndarray:
            return _forward(use, _channels(stack, heights, some, neighbours, location, plane))

        parts = [todo[first : first + use.batch] for first in range(done, len(todo), use.batch)]
        try:
            with closing(map_in_order(synthesised, parts, min(use.threads, len(parts)))) as results:
                for some in parts:
                    if cancel is not None and cancel():
                        raise Cancelled
                    output[some] = next(results)
                    done += len(some)
                    if progress is not None:
                        progress(done / len(todo), "Synthesising")
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            use = _smaller(error, use, on_cpu, log)
    if cancel is not None and cancel():
        raise Cancelled
    return output


@dataclass(frozen=True, eq=False)
class _Use:
    """How slices are run: model, device, precision, slices in a batch and number of threads."""

    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    batch: int
    threads: int


def _channels(
    stack: Tensor, z_mm: Tensor, some: np.ndarray, neighbours: int, location: bool, plane: float | None
) -> Tensor:
    """Input channels (N, C, H, W) of the slices `some`; only the stretch of the stack they need is copied."""
    low, high = max(0, int(some[0]) - neighbours), min(len(stack), int(some[-1]) + neighbours + 1)
    # At the stretch's ends slices repeat, too: those are dropped again, or are the stack's true ends.
    x = assemble_input(stack[low:high], z_mm[low:high], neighbours, location, plane)
    return x[torch.from_numpy(some - low)]


def _forward(use: _Use, x: Tensor) -> np.ndarray:
    with torch.inference_mode():
        x = x.to(use.device, use.dtype).contiguous(memory_format=torch.channels_last)
        result: np.ndarray = use.model(x)[:, 0].float().clamp_(-1, 1).cpu().numpy()
    return result


def _smaller(error: BaseException, use: _Use, on_cpu: Callable[[], nn.Module] | None, log: Log | None) -> _Use:
    """The settings after running out of memory: half the batch, then one thread, then the CPU."""
    if use.device.type == "cuda":
        torch.cuda.empty_cache()
    if use.batch > 1:
        _warn(
            log,
            f"Out of memory with {use.batch} slices at a time on {use.device.type}: continuing with {use.batch // 2}.",
        )
        return replace(use, batch=use.batch // 2)
    if use.threads > 1:
        _warn(log, f"Out of memory with a slice on each of {use.threads} threads: continuing with one slice at a time.")
        return replace(use, threads=1)
    if use.device.type == "cpu" or on_cpu is None:
        raise Failed(
            "memory", "There is not enough memory for a single slice.", "Close other programs and try again."
        ) from error
    _warn(log, f"Out of memory on {use.device.type} even with one slice: continuing on the CPU.")
    return _Use(on_cpu(), torch.device("cpu"), torch.float32, BATCH["cpu"], threads_on("cpu"))


def _warn(log: Log | None, text: str) -> None:
    if log is not None:
        log("warning", text)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or memory_shortage(error) is not None


def _prepare(
    source: store.Source, build: Callable[[store.Source], nn.Module], device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Load, convert, then freeze: a frozen module's weights are constants that no `to` reaches.

    `optimize_for_inference` on top gains nothing (width 16, one thread, float32: 36 ms a slice frozen, 38 with
    it), and the layouts it chooses slow pooling and upsampling down.
    """
    module = source.network(lambda: build(source)).to(device=device, dtype=dtype)
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scripted = isinstance(module, torch.jit.ScriptModule)
    frozen = ready(module, source.name)
    return _Unspecialised(frozen) if scripted and device.type == "cpu" else frozen


class _Unspecialised(nn.Module):
    """A frozen module that torch does not specialise any further: on a CPU that takes as long as ten slices, at the
    second call, and gains nothing. On a GPU it is what fuses small operators."""

    def __init__(self, frozen: nn.Module) -> None:
        super().__init__()
        self.frozen = frozen

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.jit.optimized_execution(False):  # of this thread
            result: Tensor = self.frozen(*inputs)
        return result


def _choose_precision(
    source: store.Source, device: torch.device, module: nn.Module
) -> tuple[torch.dtype, str, nn.Module | None]:
    """Half precision where the hardware has it and this model bears it, checked on one fixed input."""
    dtype, why = native_half(device)
    if dtype is None:
        return torch.float32, f"float32: {why}.", None
    half = _prepare(source, build, device, dtype)
    error = half_precision_error(module, half, _example(source.manifest, device), dtype)
    if error == float("inf"):
        return torch.float32, f"float32: {why}, but this model does not run in it.", None
    if error > TOLERANCE:
        return torch.float32, f"float32: {why}, but this model's output changes by {error:.1%} in it.", None
    return dtype, f"{str(dtype).removeprefix('torch.')}: {why}; the output changes by {error:.2%} rms.", half


def _load_reliability(source: store.Source, device: torch.device) -> PredictLogits:
    """The network of the reliability map, in half precision if hardware and network support it.

    Its output are logits: near a probability of 1, bfloat16 has a resolution of 0.004 only.
    """
    full = _prepare(source, build_reliability, device, torch.float32)
    dtype, _ = native_half(device)
    if dtype is None:
        return full
    half = _prepare(source, build_reliability, device, dtype)

    def predict(cells: Tensor, conditions: Tensor) -> Tensor:
        logits: Tensor = half(cells.to(dtype), conditions.to(dtype))
        return logits.float()

    try:
        with torch.inference_mode():
            predict(
                *(
                    torch.zeros(1, channels, size, size, device=device)
                    for channels, size in ((IMAGES + 2, SIZE // CELL), (CONDITIONS, 1))
                )
            )
    except RuntimeError:  # exported by an earlier version, with weights that stay float32
        return full
    return predict


def _load_fusion(source: store.Source, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network that fuses the planes, in half precision if the hardware has it."""
    width = source.manifest.extra["fusion"].get("width", WIDTH)
    dtype, _ = native_half(device)
    network = source.network(lambda: FusionNetwork(width)).to(device=device, dtype=dtype or torch.float32)
    network = ready(network.to(memory_format=torch.channels_last_3d), source.name)  # type: ignore[call-overload]

    def correct(channels: Tensor) -> Tensor:
        x = channels.to(dtype or torch.float32).contiguous(memory_format=torch.channels_last_3d)
        result: Tensor = network(x)
        return result.float()

    return correct


def _example(manifest: store.Manifest, device: torch.device) -> Tensor:
    """A fixed input (1, C, size, size): a speckled disc on -1, similar to the real input."""
    size, channels = manifest.input.size, manifest.input.channels
    noise = np.random.default_rng(0).random((channels, size, size), dtype=np.float32) * 2 - 1
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    noise[:, np.hypot(x, y) > size * 0.45] = BACKGROUND
    if manifest.input.location:
        noise[-1] = 0.0
    if len(manifest.input.planes) > 1:
        noise[2 * manifest.input.neighbours + 1] = -1.0
    example = torch.from_numpy(noise)[None].to(device)
    return example.contiguous(memory_format=torch.channels_last)


def _check_channels(module: nn.Module, manifest: store.Manifest, device: torch.device) -> None:
    """Refuse a model that does not do what its manifest says, before anything is computed with it."""
    try:
        with torch.inference_mode():
            shape = tuple(module(_example(manifest, device)).shape)
    except RuntimeError as error:
        if _out_of_memory(error):
            raise
        shape = ()
    if shape != (1, 1, manifest.input.size, manifest.input.size):
        raise Failed(
            "model",
            f"The model {manifest.name!r} does not take the input its manifest describes.",
            "Export it again, or choose another model.",
        )
