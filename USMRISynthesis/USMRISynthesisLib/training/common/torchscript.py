"""TorchScript in half precision: half the bytes of a download. Loaded as float32 and computed as before."""

from __future__ import annotations

import copy
import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import network


class Stages(nn.Module):
    """Networks in one file; `forward` passes its input through."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, part in networks.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return x


def traced(module: nn.Module, example: Tensor | tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """A trace in float32. It shares its parameters with a copy, so that the network stays as it is.

    Traced and not scripted: a script carries every branch of torch's own functions, and with them operators that an
    older torch does not know and then refuses to load. Any batch goes in; the other sizes are fixed.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # newer torch discourages TorchScript; sizes become constants, as meant
        trace: torch.jit.ScriptModule = torch.jit.trace(copy.deepcopy(module).float(), example, check_trace=False)
    return trace


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """A script of a copy in float32, for what takes any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: torch.jit.ScriptModule = torch.jit.script(copy.deepcopy(module).float())
    return script


def stored(module: torch.jit.ScriptModule) -> tuple[bytes, Any]:
    """The module's bytes in half precision, and what they are when read back as float32."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(module.half(), buffer)
        data = without_sources(buffer.getvalue())
        loaded = network.from_torchscript(data, "exported").float()
    return data, loaded


def plain(content: bytes, name: str) -> bytes:
    """The weights of a saved module without its program: a safetensors file's bytes, every tensor as it is stored."""
    return network.plain_bytes(network.from_torchscript(content, name).state_dict())


def without_sources(saved: bytes) -> bytes:
    """A saved module without what names the files of the machine that saved it: for tracebacks, and of no use to
    whoever downloads it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved)) as before, zipfile.ZipFile(buffer, "w") as after:
        for entry in before.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept = zipfile.ZipInfo(entry.filename)  # of 1980, as torch writes it
                kept.compress_type = entry.compress_type
                after.writestr(kept, before.read(entry))
    return buffer.getvalue()


def stages(networks: Mapping[str, nn.Module], example: Callable[[str], Tensor], tolerance: float) -> bytes:
    """Several networks as one file, read back and checked against eager on each one's example. Raises Failed."""
    parts = {name: traced(part, example(name)) for name, part in networks.items()}
    data, loaded = stored(scripted(Stages(parts)))
    with torch.inference_mode():
        for name, part in networks.items():
            for exported, expected in zip(*(_outputs(run(example(name))) for run in (getattr(loaded, name), part)),
                                      strict=True):  # fmt: skip
                if expected.numel():  # a stage without maps has none
                    checked(name, exported, expected, tolerance)
    return data


def checked(what: str, exported: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raises Failed where an exported network's output is off by more, of what is largest in it if that is above 1."""
    worst = float((exported - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    if not worst <= tolerance:
        raise Failed("export", f"The exported {what} network differs by {worst:.1e}.", "Report it.")


def _outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)
