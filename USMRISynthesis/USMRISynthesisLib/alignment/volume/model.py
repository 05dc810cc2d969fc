"""Loading of the alignment's networks: verified, frozen, and in bfloat16 if the CPU computes in it.

torch is imported with this module: nothing that Slicer loads at its start imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from USMRISynthesisLib.alignment.common.confidence import DEFAULT, Calibration
from USMRISynthesisLib.alignment.volume.network import STAGES, AlignmentNetwork, Prediction, Stage
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.models import schema, store
from USMRISynthesisLib.models.device import native_half
from USMRISynthesisLib.models.manifest import malformed
from USMRISynthesisLib.models.network import ready
from USMRISynthesisLib.models.quantisation import in_eight_bits

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


def load_networks(model: str = TASK, *, consent: store.Consent | None = None) -> Networks:
    """The networks of a model folder; the hash is checked every time, the preparation is done once.

    Raises Failed (no such model, hash, another task) and ConsentNeeded.
    """
    return store.load(model, TASK, _prepare, consent=consent)


def build(source: store.Source) -> nn.Module:
    """The networks that a manifest describes, by stage and as they are exported, with random weights. Raises Failed."""
    parts: dict[str, nn.Module] = {}
    for name, settings in source.settings("alignment").items():
        stage: Stage = schema.build(
            Stage, settings, lambda key, fault, _: malformed(f"architecture.config.{key}", fault), prefix=f"{name}."
        )
        parts[name] = in_eight_bits(AlignmentNetwork(stage.widths, stage.size, stage.maps, stage.upright))
    return nn.ModuleDict(parts)


def _prepare(source: store.Source) -> Networks:
    manifest = source.manifest
    try:
        calibration = Calibration.from_json(manifest.extra["trust"]) if "trust" in manifest.extra else DEFAULT
        parts = _frozen(source.network(lambda: build(source)), source.name)
    except (ValueError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        raise Failed(
            "model",
            f"The model {manifest.name!r} is no alignment model of this version.",
            "Export it again, or choose another model.",
        ) from error
    return Networks(parts, calibration, manifest.name, _quick(source))


def _frozen(module: nn.Module, model: str) -> dict[str, Passes]:
    return {name: ready(getattr(module, name).eval(), model) for name in STAGES}


def _quick(source: store.Source) -> dict[str, Passes] | None:
    """The networks in bfloat16 where the CPU computes in it, tried once; None where it or this torch does not."""
    if native_half(torch.device("cpu"))[0] is not torch.bfloat16:
        return None
    module = source.network(lambda: build(source)).to(torch.bfloat16)
    try:
        module = module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        quick = _frozen(module, source.name)
        networks = Networks({}, quick=quick)
        for stage, form in STAGES.items():
            networks(stage, torch.zeros(1, 1, form.size, form.size, form.size, device="cpu"))
    except (RuntimeError, Failed):
        return None
    return quick
