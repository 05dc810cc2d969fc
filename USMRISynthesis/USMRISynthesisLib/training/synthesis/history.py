"""A pool of past fakes for the discriminators, so that they do not forget what the generator made before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HistoryPool:
    """Keeps up to `size` past fakes; each new one is, with probability 1/2, exchanged for an old one.

    Draws from torch's global generator: a run resumed with its state repeats exactly. Size 0 passes through.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self.kept: list[Tensor] = []

    def exchange(self, fakes: Tensor) -> Tensor:
        """(N, ...) new fakes -> (N, ...), each the new one or an older one, without gradient."""
        if self.size == 0:
            return fakes.detach()
        chosen = []
        for fake in fakes.detach():
            if len(self.kept) < self.size:
                self.kept.append(fake.clone())
                chosen.append(fake)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                chosen.append(self.kept[place])
                self.kept[place] = fake.clone()
            else:
                chosen.append(fake)
        return torch.stack(chosen)

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.size = state["size"]
        self.kept = list(state["kept"])
