"""Loading of the alignment's networks: verified, frozen, and in bfloat16 if the CPU computes in it.

torch is imported with this module: nothing that Slicer loads at its start imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from USMRISynthesisLib.alignment.common.confidence import DEFAULT, Calibration
from USMRISynthesisLib.alignment.volume.network import STAGES, Prediction
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.device import native_half

TASK = "alignment"

Passes = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(eq=False)
class Networks:
    """The networks by stage, in evaluation mode on the CPU, and the calibration of their confidence.

    quick: the same in bfloat16, where the CPU computes in it: a fifth of the time, poses as good.
    """

    parts: Mapping[str, Passes]
    calibration: Calibration = DEFAULT
    name: str = TASK
    quick: Mapping[str, Passes] | None = None

    def __call__(self, stage: str, x: Tensor) -> Prediction:
        with torch.inference_mode():
            if self.quick is None:
                return Prediction(*(value.float() for value in self.parts[stage](x)))
            x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)
            return Prediction(*(value.float() for value in self.quick[stage](x)))


_loaded: dict[str, Networks] = {}


def load_networks(model: str = TASK, *, consent: store.Consent | None = None) -> Networks:
    """The networks of a model folder; the hash is checked every time, the preparation is done once.

    Raises Failed (no such model, hash, another task) and ConsentNeeded.
    """
    manifest, content = store.verified_bytes(store.find_model(model), consent=consent)
    if manifest.task != TASK:
        raise Failed(
            "task",
            f"The model {manifest.name!r} is made for {manifest.task!r}, not for alignment.",
            "Choose an alignment model.",
        )
    if manifest.sha256 not in _loaded:
        try:
            calibration = Calibration.from_json(manifest.extra["trust"]) if "trust" in manifest.extra else DEFAULT
            parts = _frozen(store.from_bytes(content, manifest.name, "cpu").float())
        except (ValueError, RuntimeError, AttributeError) as error:
            raise Failed(
                "model",
                f"The model {manifest.name!r} is no alignment model of this version.",
                "Export it again, or choose another model.",
            ) from error
        _loaded.clear()
        _loaded[manifest.sha256] = Networks(parts, calibration, manifest.name, _quick(content, manifest.name))
    return _loaded[manifest.sha256]


def _frozen(module: torch.nn.Module) -> dict[str, Passes]:
    return {name: torch.jit.freeze(getattr(module, name).eval()) for name in STAGES}


def _quick(content: bytes, name: str) -> dict[str, Passes] | None:
    """The networks in bfloat16 where the CPU computes in it, tried once; None where it or this torch does not."""
    if native_half(torch.device("cpu"))[0] is not torch.bfloat16:
        return None
    module = store.from_bytes(content, name, "cpu").to(torch.bfloat16)
    try:
        quick = _frozen(module.to(memory_format=torch.channels_last_3d))  # type: ignore[call-overload]
        networks = Networks({}, quick=quick)
        for stage, form in STAGES.items():
            networks(stage, torch.zeros(1, 1, form.size, form.size, form.size))
    except RuntimeError:
        return None
    return quick
