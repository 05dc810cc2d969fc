"""A generator that goes on from the weights of another run or of an exported model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.models import store
from USMRISynthesisLib.models.manifest import PLAIN_WEIGHTS
from USMRISynthesisLib.synthesis.generator import Generator
from USMRISynthesisLib.training.common import checkpoint
from USMRISynthesisLib.training.common.export import MODEL


def start_from(generator: Generator, path: str) -> None:
    """Copy the averaged generator of another run's checkpoint, or an exported model, which may be an installed one's
    name. Raises Refused if the two differ, Failed where there is no such model, ConsentNeeded for a TorchScript file
    that nobody has agreed to.

    Only the place codes, or their planes, may be missing there: they start as if they were not there. So does the
    channel that names the plane.
    """
    try:
        exported = not Path(path).is_file() or Path(path).name in (MODEL, PLAIN_WEIGHTS)
        state = store.state_of(path) if exported else checkpoint.load(path)["averaged"]
        constants = dict(generator.named_buffers()).keys() - generator.state_dict().keys()  # a trace keeps them
        state = {k: _widened(v, generator.state_dict().get(k)) for k, v in state.items() if k not in constants}
        missing = generator.load_state_dict(state, strict=False)
        lacking = [key for key in missing.missing_keys if not key.startswith("place_")]
        if lacking or missing.unexpected_keys:
            raise KeyError((lacking or missing.unexpected_keys)[0])
    except (KeyError, RuntimeError) as error:
        raise Refused(
            "initial", f"{path} holds no generator of this shape.", "Use the same [generator] settings in both runs."
        ) from error


def _widened(weight: Tensor, like: Tensor | None) -> Tensor:
    """A first convolution's weight (C, n, 3, 3) with zeros for a channel before the last, where one was added."""
    if like is None or weight.dim() != 4 or like.shape[1] != weight.shape[1] + 1:
        return weight
    return torch.cat([weight[:, :-1], torch.zeros_like(weight[:, :1]), weight[:, -1:]], dim=1)
