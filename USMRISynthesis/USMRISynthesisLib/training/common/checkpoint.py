"""A run's checkpoint: written whole or not at all, and enough of it to go on exactly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.training.common.config import RunConfig, changed_keys

CHECKPOINT = "checkpoint.pt"  # the last state, to go on from
BEST = "best.pt"  # the averaged generator with the best residual NCC so far


def save(path: Path, content: Mapping[str, Any]) -> None:
    """torch.save through a file beside it: an interrupted write leaves the old checkpoint as it was."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        torch.save(dict(content), part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise Failed("checkpoint", f"The checkpoint {path} cannot be written.", "Free some space.") from error


def load(path: str | Path) -> dict[str, Any]:
    """Plain values and tensors only: a checkpoint cannot run code. Raises Refused."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and others
        raise Refused(
            "checkpoint", f"{path} is not a training checkpoint.", "Give a checkpoint.pt or best.pt."
        ) from error
    return content


def refuse_changes(before: RunConfig, now: RunConfig) -> None:
    """Raise Refused when a run was started with another configuration, naming the keys. What is newer than the
    checkpoint has its default in `before`."""
    names = changed_keys(before.to_json(), now.to_json())
    if names:
        raise Refused(
            "configuration",
            f"The run in {now.output} was started with another configuration: {', '.join(names)} changed.",
            "Undo the change, or choose another output.",
        )


class RandomState:
    """The generators that training draws from, as a part of a checkpoint: this one, and torch's."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"numpy": self._rng.bit_generator.state, "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


class TorchRandomState:
    """Torch's generator on the CPU alone."""

    state_dict = staticmethod(torch.get_rng_state)
    load_state_dict = staticmethod(torch.set_rng_state)
