"""The processes that share a run: one, or as many as torchrun started.

    torchrun --nproc-per-node 2 --module USMRISynthesisLib.cli train configs/default.toml

Every process draws the same whole batch from the same generators and keeps its part; losses weigh its samples as the
whole batch does, gradients are averaged, and the history pool sees the fakes of all. So a run does not depend on the
number of processes, but for the order in which sums are rounded. Only the first process writes and reports.

Lightning Fabric finds the devices, starts the process group (gloo on CPUs, nccl on GPUs) and moves the tensors. It is
loaded for two processes or more only: it would bring a single one nothing but seconds at the start. Its wrappers of
modules and optimisers are not used, as a step here calls parts of the generator several times and in turns with the
discriminators, and a checkpoint keeps plain modules.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from USMRISynthesisLib.errors import Refused

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PATIENCE = timedelta(hours=1)  # while the first process evaluates, the others wait


class Processes:
    """This process among those of the run; alone, nothing here changes a single bit.

    Attributes:
        rank: from 0. count: how many there are. device: where this one computes, None to choose as ever.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self._fabric = fabric
        self.rank = fabric.global_rank if fabric else 0
        self.count = fabric.world_size if fabric else 1
        self.device = fabric.device if fabric else None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, total: int) -> slice:
        """This process's samples of a batch. Raises Refused where there are fewer samples than processes."""
        if total < self.count:
            raise Refused(
                "processes",
                f"A batch of {total} samples cannot be shared by {self.count} processes.",
                "Start fewer processes, or take larger batches.",
            )
        return slice(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def share(self, whole: Tensor, part: slice) -> float:
        """Weight of a mean over the samples of this part that `whole` (N,) marks, so that the mean of the processes'
        weighted means is the mean over all that it marks; 1 for a single process.
        """
        if self.count == 1:
            return 1.0
        return float(whole[part].sum()) * self.count / max(float(whole.sum()), 1.0)

    def shares(
        self, has_truth: Tensor, part: slice, terms: Iterable[str], *, paired: Iterable[str], unpaired: Iterable[str]
    ) -> dict[str, float] | None:
        """By what the means of each term over a part of a batch weigh in the whole; None where there is one part.

        has_truth: (N,) of the whole batch. paired, unpaired: those of `terms` that are means over the samples with, and
        without, truth.
        """
        if self.count == 1:
            return None
        by_term = dict.fromkeys(terms, self.share(torch.ones_like(has_truth), part))
        by_term |= dict.fromkeys(paired, self.share(has_truth, part))
        return by_term | dict.fromkeys(unpaired, self.share(~has_truth, part))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, all in one message."""
        if self._fabric is None:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self._fabric.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduce_op="sum")
        assert isinstance(flat, Tensor)
        for gradient, mean in zip(gradients, (flat / self.count).split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """Of a number over the processes, detached."""
        if self._fabric is None:
            return value.detach()
        summed = self._fabric.all_reduce(value.detach().clone(), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed / self.count

    def gathered(self, samples: Tensor, total: int) -> Tensor:
        """Parts (n, ...) of a batch -> the whole (total, ...), without gradient, the same in every process."""
        if self._fabric is None:
            return samples.detach()
        whole = torch.zeros(total, *samples.shape[1:], dtype=samples.dtype, device=samples.device)
        whole[self.part(total)] = samples.detach()
        whole = self._fabric.all_reduce(whole, reduce_op="sum")  # type: ignore[assignment]
        return whole

    def agreed(self, value: Any) -> Any:
        """What the first process has."""
        return value if self._fabric is None else self._fabric.broadcast(value)

    def wait(self) -> None:
        """Until all are here."""
        if self._fabric is not None:
            self._fabric.barrier()


@lru_cache(maxsize=1)
def processes() -> Processes:
    """Those that torchrun started, or this one alone. Raises ModuleNotFoundError where Fabric is needed and missing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy=DDPStrategy(timeout=_PATIENCE),
    )
    fabric.launch()
    return Processes(fabric)
