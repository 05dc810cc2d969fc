"""Networks in training: each with its moving average, its optimiser and the number of its steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class TrainedNetworks:
    """Networks that share no weight, by their names.

    averaged: their moving averages, which are evaluated and exported. trained: how many steps each one has made.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimiser: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
        *,
        ema: float,
        largest_gradient: float,
    ) -> None:
        self.networks = dict(networks)
        self.averaged = {name: averaged_copy(network) for name, network in networks.items()}
        self.optimisers = {name: optimiser(network.parameters()) for name, network in networks.items()}
        self.trained = Counts((name, 0) for name in networks)
        self._ema, self._largest_gradient = ema, largest_gradient

    def step(self, loss: Tensor, names: Sequence[str]) -> None:
        """One step of these networks down the loss; each one's gradient is clipped to a norm of its own.

        A network whose gradient is no number stays as it is: bfloat16 gradients of small volumes are not now and then
        (torch 2.13).
        """
        for name in names:
            self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        for name in names:
            network = self.networks[name]
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), self._largest_gradient)
            if bool(torch.isfinite(norm)):
                self.optimisers[name].step()
                self.trained[name] += 1
                count = self.trained[name]
                update_ema(self.averaged[name], network, min(self._ema, (1 + count) / (10 + count)))

    def parts(self) -> dict[str, Group | Counts]:
        """What a checkpoint keeps, by its name there."""
        return {
            "networks": Group(self.networks),
            "averaged": Group(self.averaged),
            "optimisers": Group(self.optimisers),
            "trained": self.trained,
        }


class Counts(dict[str, int]):
    """Numbers as one part of a checkpoint."""

    def state_dict(self) -> dict[str, int]:
        return dict(self)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.update(state)


class Group:
    """Networks or optimisers as one part of a checkpoint."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members

    def state_dict(self) -> dict[str, Any]:
        return {name: member.state_dict() for name, member in self._members.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, member in self._members.items():
            member.load_state_dict(state[name])


def averaged_copy(network: Network) -> Network:
    """What a moving average begins with."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def update_ema(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters and running statistics; `decay` is smaller at first, to forget the
    start.
    """
    with torch.no_grad():
        for mean, new in zip(averaged.parameters(), network.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)
        for kept, now in zip(averaged.buffers(), network.buffers(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(now, 1 - decay)
            else:
                kept.copy_(now)
