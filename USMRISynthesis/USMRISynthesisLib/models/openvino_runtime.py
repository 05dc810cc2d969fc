"""OpenVINO as the runtime of a network: a little faster than torch on CPUs without AMX, and the way to Intel's GPUs.

    network = convert(module, example, key="3f5c...", device="CPU", threads=2, tolerance=0.005)
    mr = network(x)  # a torch tensor in, a torch tensor out

The package `openvino` is optional and imported inside functions. A network is traced and converted once, and kept in
the user's cache folder (`converted.py`). Nothing is reported over the network, as OpenVINO does by default. Pinning is
off, for several workers would be pinned to the same cores.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import platform
import queue
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Failed, memory_shortage
from USMRISynthesisLib.models import converted
from USMRISynthesisLib.models.parallel import MOST

NAME = "openvino"
OLDEST = (2025, 0)
DEVICES = ("CPU", "GPU")
REMEDY = "Choose the device cpu, or auto."
_FORMAT = "v1"  # of what is kept; another number when the conversion changes
_HALF = {"CPU": ("BF16", "bf16", "bfloat16"), "GPU": ("FP16", "f16", "float16")}  # capability, hint, name

_TELEMETRY = "openvino_telemetry"
_importing = threading.Lock()

_log = logging.getLogger(__name__)


class OpenVinoNetwork(nn.Module):
    """A compiled network of one input and one output; may be called by several threads at a time.

    Attributes: device_name, such as "openvino:CPU"; precision, "float32", "bfloat16" or "float16"; difference, the rms
    difference to float32 torch on the example as a share of its range.
    """

    def __init__(self, compiled: Any, device: str, precision: str) -> None:
        super().__init__()
        self.device_name, self.precision, self.difference = f"{NAME}:{device}", precision, float("nan")
        self._compiled = compiled
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float32 -> the network's output, float32. Raises Failed where the device gives up."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            result = request.infer([x.contiguous().numpy()], share_inputs=True, share_outputs=True)[0]
            output = torch.from_numpy(np.array(result, np.float32))
        except RuntimeError as error:
            if memory_shortage(error) is not None:
                raise
            raise Failed(NAME, f"OpenVINO failed while it computed on {self.device_name}.", REMEDY) from error
        self._idle.put(request)
        return output


def requested(device: str) -> str | None:
    """ "CPU" or "GPU" for `openvino`, `openvino:CPU` and `openvino:GPU`, None for another device.

    Raises Failed for another device of OpenVINO, and where the package is missing or has no such device.
    """
    name, _, which = device.partition(":")
    if name.lower() != NAME:
        return None
    which = which.upper() or DEVICES[0]
    if which not in DEVICES:
        raise Failed(
            "device",
            f"There is no device {device!r}.",
            f"Choose one of {', '.join(f'{NAME}:{one}' for one in DEVICES)}.",
        )
    if (missing := missing_reason()) is not None:
        raise Failed(NAME, f"OpenVINO was chosen, but {missing}.", f"{REMEDY} To install it: pip install openvino.")
    available = [str(one).partition(".")[0] for one in _core().available_devices]
    if which not in available:
        raise Failed("device", f"OpenVINO was chosen, but it finds no {which} here.", REMEDY)
    return which


def version() -> str | None:
    """The installed version of OpenVINO from its metadata, None without it; loads nothing."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing_reason() -> str | None:
    """Why OpenVINO cannot be used, or None; loads nothing."""
    found = version()
    if found is None or importlib.util.find_spec(NAME) is None:
        return "it is not installed"
    numbers = tuple(int(part) for part in found.split("-")[0].split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        return f"version {found} is older than {OLDEST[0]}.{OLDEST[1]}"
    return None


def unused_reason() -> str | None:
    """Why `auto` leaves the generator to torch on this CPU, or None where OpenVINO pays.

    With AMX torch computes in bfloat16 on the same tiles, and nothing faster has been measured; nor has it on ARM.
    """
    if (missing := missing_reason()) is not None:
        return missing
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "it was measured on x86-64 only"
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, and absent before 2.6
    try:
        amx = bool(probe()) if probe is not None else False
    except RuntimeError:
        amx = False
    return "this CPU has AMX, which torch uses" if amx else None


def convert(
    module: nn.Module, example: Tensor, *, key: str, device: str, threads: int, tolerance: float
) -> OpenVinoNetwork:
    """Convert, or take from the cache, and compile; in half precision where the device has it and the network bears it.

    Args:
        module: plain float32 network on the CPU, (N, C, H, W) -> tensor; what is traced.
        example: (1, C, H, W): its size is fixed by it, the number of images is not.
        key: the hash of the weights.
        device: "CPU" or "GPU".
        threads: processor threads at most; each takes an image of its own.
        tolerance: largest rms difference to `module` on the example, as a share of the output's range.

    Raises Failed where it cannot be converted or compiled, or where its output is another one.
    """
    try:
        model = _model(module, example, key)
        with torch.inference_mode():
            reference = module(example).float()
        core = _core()
        capability, hint, half = _HALF[device]
        choices = [(hint, half)] if capability in core.get_property(device, "OPTIMIZATION_CAPABILITIES") else []
        for hint, precision in [*choices, ("f32", "float32")]:
            settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint}
            if device == "CPU":
                settings |= {
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": min(threads, MOST),
                    "ENABLE_CPU_PINNING": False,
                }
            network = OpenVinoNetwork(core.compile_model(model, device, settings), device, precision)
            network.difference = _difference(network(example), reference)
            if network.difference <= tolerance:
                return network
    except Failed:
        raise
    except Exception as error:  # of many types; OpenVINO's own are RuntimeErrors
        if (shortage := memory_shortage(error)) is not None:
            raise shortage from error
        _log.info("OpenVINO could not be used.", exc_info=True)
        raise Failed(NAME, "OpenVINO cannot convert or compile this model.", REMEDY) from error
    raise Failed(NAME, f"OpenVINO changes this model's output by {network.difference:.1%}.", REMEDY)


def _difference(output: Tensor, reference: Tensor) -> float:
    """rms difference as a share of the reference's range; inf for another shape, or values that are no numbers."""
    if output.shape != reference.shape:
        return float("inf")
    spread = float(reference.max() - reference.min())
    rms = float((output - reference).square().mean().sqrt())
    return rms / spread if spread > 0 and rms == rms else float("inf")


def _model(module: nn.Module, example: Tensor, key: str) -> Any:
    """The converted network, from the cache where it is there and OpenVINO can read it."""
    name = f"{key[:32]}-openvino-{version()}-{_FORMAT}"
    kept = converted.cached(name, lambda: _converted(module, example))
    try:
        return _read(kept)
    except (RuntimeError, ValueError):
        converted.drop(name)
        return _read(converted.cached(name, lambda: _converted(module, example)))


def _read(kept: bytes) -> Any:
    size = int.from_bytes(kept[:8], "little")
    return _core().read_model(kept[8 : 8 + size], kept[8 + size :])


def _converted(module: nn.Module, example: Tensor) -> bytes:
    """Trace, convert and write: the description's length, the description, the weights."""
    openvino = _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        # Two images: a trace of one may take their number for a constant.
        decoder = TorchScriptPythonDecoder(module, example_input=example.repeat(2, 1, 1, 1))
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    model.reshape(openvino.PartialShape([-1, *example.shape[1:]]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        description, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    return len(description).to_bytes(8, "little") + description + weights


def _core() -> Any:
    return _openvino().Core()


def _openvino() -> Any:
    """The package, imported without its telemetry: every import would be reported to Google Analytics.

    Without `openvino_telemetry` OpenVINO uses an empty stand-in of its own. Where the program has imported OpenVINO
    before, it is as it is.
    """
    with _importing:
        if NAME in sys.modules:
            return sys.modules[NAME]
        missing = object()
        before = sys.modules.get(_TELEMETRY, missing)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            return importlib.import_module(NAME)
        finally:
            if before is missing:
                del sys.modules[_TELEMETRY]
            else:
                sys.modules[_TELEMETRY] = before  # type: ignore[assignment]
