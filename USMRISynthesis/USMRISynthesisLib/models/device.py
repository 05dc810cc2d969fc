"""Where the network runs and in which precision: chosen, never assumed, and always with the reason."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from USMRISynthesisLib.errors import Failed

DEVICES = ("auto", "cpu", "cuda", "mps")
TOLERANCE = 0.01  # rms difference to float32, as a share of the float32 output's range


def choose_device(name: str = "auto") -> tuple[torch.device, str]:
    """The device, and one sentence that says why. Raises Failed when the chosen one is not there."""
    if name.partition(":")[0].lower() == "openvino":
        raise Failed("device", "OpenVINO runs the generators of MR-like images only.", "Choose auto or cpu.")
    if name not in DEVICES:
        raise Failed("device", f"There is no device {name!r}.", f"Choose one of {', '.join(DEVICES)}, openvino.")
    if name == "cpu":
        return torch.device("cpu"), "The CPU was chosen."
    cuda, no_cuda = _cuda()
    mps = _mps()
    if name == "cuda" and not cuda:
        raise Failed("device", f"CUDA was chosen, but {no_cuda}.", "Choose auto or cpu.")
    if name == "mps" and not mps:
        raise Failed("device", "MPS was chosen, but this machine or this torch has none.", "Choose auto or cpu.")
    if cuda and name != "mps":
        return torch.device("cuda"), f"CUDA device {torch.cuda.get_device_name(0)}."
    if mps:
        return torch.device("mps"), "Apple GPU (MPS)."
    return torch.device("cpu"), f"No GPU is used: {no_cuda}."


def native_half(device: torch.device) -> tuple[torch.dtype | None, str]:
    """The half precision that the hardware computes in natively, or None, and why.

    Emulated half precision is slower than float32: a CPU without bf16 instructions needs 3-6 times as long.
    """
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, "the GPU computes in bfloat16"
        return None, "this GPU has no native bfloat16"
    if device.type == "cpu":
        # Private in every torch so far, and absent before 2.4: no answer counts as no.
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        try:
            native = bool(probe()) if probe is not None else False
        except RuntimeError:
            native = False
        if native and torch.backends.mkldnn.is_available():
            return torch.bfloat16, "the CPU computes in bfloat16"
        return None, "this CPU has no known native bfloat16"
    return None, f"half precision is not used on {device.type}"


def half_precision_error(full: torch.nn.Module, half: torch.nn.Module, example: Tensor, dtype: torch.dtype) -> float:
    """rms(half - full) as a share of full's range on one input `(N, C, H, W)`; inf where it cannot run."""
    try:
        with torch.inference_mode():
            reference = full(example).float()
            difference = half(example.to(dtype)).float() - reference
    except RuntimeError:
        return float("inf")
    spread = float(reference.max() - reference.min())
    rms = float(difference.square().mean().sqrt())
    return rms / spread if spread > 0 and rms == rms else float("inf")


def _cuda() -> tuple[bool, str]:
    """Whether CUDA can really compute here; a new GPU with an old torch says available and then fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
            return False, "this torch was built without CUDA"
        if not torch.cuda.is_available():
            return False, "torch finds no CUDA device"
        try:
            float((torch.ones(8, device="cuda") * 2).sum())
        except RuntimeError:
            return False, "this torch does not support the GPU that is installed"
    return True, ""


def _mps() -> bool:
    return bool(torch.backends.mps.is_available())
