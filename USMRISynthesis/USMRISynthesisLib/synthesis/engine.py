"""The slice engine: a loaded generator, and why it runs where and as it does.

    generator = load_generator("default", "auto")
    mr = run_slices(generator.module, us, z_mm, neighbours=1, location=True, device=generator.device)

How slices are run through it is in `running.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.geometry.canonical import SIZE, SPACING_MM
from USMRISynthesisLib.models import openvino_runtime, schema, store
from USMRISynthesisLib.models.device import TOLERANCE, choose_device, half_precision_error, native_half
from USMRISynthesisLib.models.manifest import malformed
from USMRISynthesisLib.models.network import PLAIN, forced_form, ready
from USMRISynthesisLib.models.openvino_runtime import OpenVinoNetwork
from USMRISynthesisLib.models.quantisation import in_eight_bits
from USMRISynthesisLib.synthesis.fusion import WIDTH, FusionNetwork
from USMRISynthesisLib.synthesis.generator import Generator, GeneratorConfig
from USMRISynthesisLib.synthesis.norms import with_torch_norms
from USMRISynthesisLib.synthesis.reliability import CELL, CONDITIONS, IMAGES, PredictLogits, ReliabilityNetwork
from USMRISynthesisLib.synthesis.running import BACKGROUND as BACKGROUND
from USMRISynthesisLib.synthesis.running import BATCH as BATCH
from USMRISynthesisLib.synthesis.running import out_of_memory
from USMRISynthesisLib.synthesis.running import run_slices as run_slices

OPENVINO_TOLERANCE = 0.005  # rms difference to float32, as a share of the float32 output's range

_not_converted: dict[tuple[str, str], Failed] = {}  # by weights and device: what OpenVINO failed with


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

    @property
    def device_name(self) -> str:
        """Where the generator runs: "cpu", "cuda", "mps", "openvino:CPU" or "openvino:GPU"."""
        return self.module.device_name if isinstance(self.module, OpenVinoNetwork) else str(self.device)

    @property
    def precision(self) -> str:
        """What the generator computes in, such as "float32"."""
        at_work = self.module.precision if isinstance(self.module, OpenVinoNetwork) else str(self.dtype)
        return at_work.removeprefix("torch.")

    @property
    def runtime(self) -> dict[str, str]:
        """The library that runs the generator, and its version."""
        if isinstance(self.module, OpenVinoNetwork):
            return {"name": openvino_runtime.NAME, "version": openvino_runtime.version() or "?"}
        return {"name": "torch", "version": torch.__version__}

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

    device: one of `device.DEVICES`, "openvino", "openvino:CPU" or "openvino:GPU". "auto" takes OpenVINO where it is
    installed and pays and there is no GPU, and torch where OpenVINO fails.

    Raises Failed (no such model or device, hash, task) and ConsentNeeded.
    """
    if (where := openvino_runtime.requested(device)) is not None:
        return _load_openvino(model, where, "OpenVINO was chosen.", consent)
    chosen, reason = choose_device(device)
    if device == "auto" and chosen.type == "cpu" and openvino_runtime.missing_reason() is None:
        why_not = openvino_runtime.unused_reason()
        try:
            if why_not is None:
                return _load_openvino(model, "CPU", f"{reason} OpenVINO is installed.", consent)
        except Failed as error:
            if error.kind != openvino_runtime.NAME:
                raise
            why_not = error.message.rstrip(".")
        reason += f" OpenVINO is not used: {why_not}."

    def prepare(source: store.Source) -> LoadedGenerator:
        module = _checked(source, chosen)
        dtype, why, half = _choose_precision(source, chosen, module)
        return LoadedGenerator(
            source.manifest, half or module, chosen, reason, dtype, why, source, *_beside(source, chosen)
        )

    return store.load(model, "synthesis", prepare, device=chosen, consent=consent)


def _load_openvino(model: str, where: str, reason: str, consent: store.Consent | None) -> LoadedGenerator:
    """A generator that OpenVINO runs; what is beside it runs in torch on the CPU.

    Raises Failed, of the kind "openvino" where it cannot be converted; that is tried once in a process.
    """
    manifest = store.read_manifest(store.find_model(model))
    if not store.has_plain_weights(manifest) or forced_form() not in (None, PLAIN):
        raise Failed(
            openvino_runtime.NAME,
            f"The model {manifest.name!r} has no plain weights, or they are not to be used; OpenVINO needs them.",
            f"{openvino_runtime.REMEDY}",
        )
    device, threads = torch.device("cpu"), torch.get_num_threads()

    def prepare(source: store.Source) -> LoadedGenerator:
        key = hashlib.sha256(source.content + repr(source.manifest.architecture).encode()).hexdigest()
        if (failed := _not_converted.get((key, where))) is not None:
            raise failed
        _checked(source, device)
        plain = with_torch_norms(ready(source.network(lambda: build(source)), source.name))
        try:
            module = openvino_runtime.convert(
                plain, _example(manifest, device).contiguous(), key=key, device=where, threads=threads,
                tolerance=OPENVINO_TOLERANCE,
            )  # fmt: skip
        except Failed as error:
            if error.kind == openvino_runtime.NAME:
                _not_converted[key, where] = error
            raise
        why = f"{module.precision} by OpenVINO; the output differs from float32 by {module.difference:.2%} rms."
        return LoadedGenerator(manifest, module, device, reason, torch.float32, why, source, *_beside(source, device))

    at = f"{openvino_runtime.NAME}:{where}, {threads} threads"
    loaded = store.load(model, "synthesis", prepare, device=at, consent=consent, form=PLAIN)
    return replace(loaded, device_reason=reason)


def _checked(source: store.Source, device: torch.device) -> nn.Module:
    """The generator in float32, after it has shown that it does what its manifest says. Raises Failed."""
    manifest = source.manifest
    if (manifest.input.size, manifest.input.spacing_mm) != (SIZE, SPACING_MM):
        raise Failed(
            "model",
            f"The model {manifest.name!r} takes slices of {manifest.input.size} pixels of "
            f"{manifest.input.spacing_mm:g} mm, not {SIZE} of {SPACING_MM:g} mm.",
            "Choose another model.",
        )
    module = _prepare(source, build, device, torch.float32)
    _check_channels(module, manifest, device)
    return module


def _beside(
    source: store.Source, device: torch.device
) -> tuple[PredictLogits | None, Callable[[Tensor], Tensor] | None]:
    """The networks of the reliability map and of the fusion, where the model has them."""
    return (
        None if source.reliability is None else _load_reliability(source.reliability, device),
        None if source.fusion is None else _load_fusion(source.fusion, device),
    )


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
        if out_of_memory(error):
            raise
        shape = ()
    if shape != (1, 1, manifest.input.size, manifest.input.size):
        raise Failed(
            "model",
            f"The model {manifest.name!r} does not take the input its manifest describes.",
            "Export it again, or choose another model.",
        )
