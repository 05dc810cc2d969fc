"""A run's checkpoint: written whole or not at all, and enough of it to go on exactly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from USMRISynthesisLib.errors import Failed, Refused
from USMRISynthesisLib.training.common.config import changed_keys

CHECKPOINT = "checkpoint.pt"  # the last state, to go on from
BEST = "best.pt"  # the averaged generator with the best residual NCC so far


class Configuration(Protocol):
    """Of any run. One read from a checkpoint has defaults for what is newer than the checkpoint."""

    @property
    def output(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


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


def refuse_changes(before: Configuration, now: Configuration) -> None:
    """Raise Refused when a run was started with another configuration, naming the keys."""
    names = changed_keys(before.to_json(), now.to_json())
    if names:
        raise Refused(
            "configuration",
            f"The run in {now.output} was started with another configuration: {', '.join(names)} changed.",
            "Undo the change, or choose another output.",
        )


def random_state(rng: np.random.Generator) -> dict[str, Any]:
    """The state of every generator that training draws from."""
    state: dict[str, Any] = {"numpy": rng.bit_generator.state, "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any], rng: np.random.Generator) -> None:
    rng.bit_generator.state = state["numpy"]
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
