"""Networks from verified bytes: a TorchScript program, or plain weights put into the package's own classes.

    module = from_plain(content, lambda: Generator(config), "default")
    fast = ready(module.to(torch.bfloat16))

Both give the same numbers. TorchScript is what other tools read; torch deprecates it, and Python 3.14 is not supported
by it: there the plain weights are used. torch is imported with this module.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Failed, memory_shortage
from USMRISynthesisLib.models import safetensors
from USMRISynthesisLib.models.quantisation import ByteConvolution, norms_taken_in

TORCHSCRIPT, PLAIN = "torchscript", "plain"
FORM_VARIABLE = "USMRI_WEIGHTS"
DEPRECATED_FROM = (2, 14)  # of torch: TorchScript warns whoever sees warnings by default
UNSUPPORTED_FROM = (3, 14)  # of Python

Build = Callable[[], nn.Module]


def forced_form() -> str | None:
    """The form of weights that USMRI_WEIGHTS asks for, or None. Raises Failed for a word that is neither."""
    word = os.environ.get(FORM_VARIABLE, "").strip().lower()
    if word not in ("", TORCHSCRIPT, PLAIN):
        raise Failed(
            "weights",
            f"The environment variable {FORM_VARIABLE} asks for weights of the form {word!r}.",
            f"Set it to {TORCHSCRIPT} or {PLAIN}, or unset it.",
        )
    return word or None


def prefers_plain() -> bool:
    """Whether plain weights are the better choice here, where a model has both."""
    version = torch.__version__.split("+")[0].split(".")
    numbers = tuple(int(part) for part in version[:2] if part.isdecimal())
    return numbers >= DEPRECATED_FROM or sys.version_info >= UNSUPPORTED_FROM or not _enabled()


def from_torchscript(content: bytes, name: str) -> "torch.jit.ScriptModule":
    """The program in these bytes, for evaluation on the CPU, in the precision it is stored in.

    Raises Failed of the kind "torchscript" where this torch cannot read it.
    """
    try:
        with without_deprecation():
            module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(content), map_location=torch.device("cpu"))
    except Exception as error:  # RuntimeError mostly; AttributeError where TorchScript is switched off or gone
        raise memory_shortage(error) or _unusable(name, "read") from error
    return module.eval()


def from_plain(content: bytes, build: Build, name: str) -> nn.Module:
    """The weights in these bytes in the module that `build` makes, for evaluation on the CPU, in float32.

    Parameters and buffers must be the same by name and shape. Raises Failed.
    """
    try:
        with torch.device("cpu"):  # whatever the program's default device is
            module = build().eval().requires_grad_(False)
        fill(module, tensors(content))
    except ValueError as error:
        raise Failed(
            "weights",
            f"The plain weights of the model {name!r} do not fit the networks that its manifest describes.",
            "Export the model again, or choose another one.",
        ) from error
    return module


def tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file's bytes, in the precision they are stored in. Raises ValueError."""
    return {name: torch.from_numpy(np.array(array)) for name, array in safetensors.read(content).items()}


def plain_bytes(state: Mapping[str, Tensor]) -> bytes:
    """A state dictionary as a safetensors file's bytes, in the precision that it has."""
    return safetensors.write({name: value.detach().cpu().numpy() for name, value in state.items()})


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module's parameters and buffers, all of them. Raises ValueError where the two differ.

    Buffers that a state dictionary leaves out count too: they are stored rounded, and a TorchScript file holds them.
    """
    targets = dict(module.named_parameters()) | dict(module.named_buffers())
    if targets.keys() != state.keys():
        raise ValueError(f"{sorted(targets.keys() ^ state.keys())[0]} is in one of the two only")
    with torch.no_grad():
        for name, target in targets.items():
            value = state[name]
            if value.shape != target.shape or value.is_floating_point() != target.is_floating_point():
                raise ValueError(f"{name} is {tuple(value.shape)} {value.dtype}")
            target.copy_(value)


def ready(module: nn.Module, name: str) -> nn.Module:
    """A module as it is run, its weights constants that no `to` reaches. It must be in its final precision.

    TorchScript is frozen. Elsewhere what freezing does is done here: stored bytes are multiplied out, and batch norms
    go into the convolutions before them. Raises Failed of the kind "torchscript".
    """
    if not isinstance(module, torch.jit.ScriptModule):
        return _folded(module)
    try:
        with without_deprecation():
            frozen: nn.Module = torch.jit.freeze(module.eval())
    except Exception as error:
        raise memory_shortage(error) or _unusable(name, "prepared") from error
    return frozen


@contextmanager
def without_deprecation() -> Iterator[None]:
    """Around calls of torch.jit: that it is deprecated is known, and handled by the plain weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _folded(module: nn.Module) -> nn.Module:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ByteConvolution):
                setattr(parent, name, child.multiplied_out())
    return norms_taken_in(module).requires_grad_(False)


def _enabled() -> bool:
    return os.environ.get("PYTORCH_JIT", "1") != "0"


def _unusable(name: str, what: str) -> Failed:
    if not _enabled():
        return Failed(
            "torchscript",
            f"The model {name!r} is a TorchScript file, and TorchScript is switched off here (PYTORCH_JIT=0).",
            "Unset PYTORCH_JIT, or choose a model with plain weights.",
        )
    return Failed(
        "torchscript",
        f"The weights of the model {name!r} cannot be {what} by torch {torch.__version__} under Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}: they are no TorchScript file that it can run.",
        "Use the version of torch that the model was made with, or choose another model.",
    )
