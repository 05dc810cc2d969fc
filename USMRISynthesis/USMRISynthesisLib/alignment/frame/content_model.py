"""The frame content network at work: loaded from its folder, run on a frame.

    content = classify(load_network("content"), volume, fan)

The frame's fan is looked at whole and at its middle, in four orientations each, and the logits are averaged. torch is
imported with this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from USMRISynthesisLib.alignment.common.pyramid import Pyramid
from USMRISynthesisLib.alignment.frame.content import FrameContent, content_of
from USMRISynthesisLib.alignment.frame.content_network import SIZE, ContentConfig, ContentNetwork
from USMRISynthesisLib.alignment.frame.outline import square
from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.models import schema, store
from USMRISynthesisLib.models.manifest import malformed
from USMRISynthesisLib.models.network import ready

TASK = "content"
# The squares' sides over the fan's extent, and (quarter turns, mirrored) of the views of each.
SIDES = (1.0, 0.75)
VIEWS = ((0, False), (1, True), (2, False), (3, True))


@dataclass(eq=False)
class Network:
    """The network in evaluation mode on the CPU: (N, 1, S, S) -> (N, 5) logits."""

    logits: Callable[[Tensor], Tensor]
    name: str = TASK

    def __call__(self, x: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(self.logits(x).float().numpy())


def load_network(model: str = TASK, *, consent: store.Consent | None = None) -> Network:
    """The network of a model folder; the hash is checked every time, the preparation is done once.

    Raises Failed (no such model, hash, another task) and ConsentNeeded.
    """
    return store.load(model, TASK, _prepare, consent=consent)


def build(source: store.Source) -> nn.Module:
    """The network that a manifest describes, with random weights. Raises Failed."""
    config: ContentConfig = schema.build(
        ContentConfig,
        source.settings(TASK),
        lambda name, fault, _: malformed(f"architecture.config.{name}", fault),
    )
    return nn.ModuleDict({TASK: ContentNetwork(config.widths)})


def _prepare(source: store.Source) -> Network:
    try:
        module = source.network(lambda: build(source))
        return Network(ready(getattr(module, TASK).eval(), source.name), source.manifest.name)
    except (ValueError, RuntimeError, AttributeError) as error:
        raise Failed(
            "model",
            f"The model {source.manifest.name!r} is no model of frame contents of this version.",
            "Export it again, or choose another model.",
        ) from error


def classify(network: Callable[[Tensor], np.ndarray], volume: Volume, fan: np.ndarray) -> FrameContent:
    """What a frame shows.

    Args:
        network: (N, 1, S, S) in [-1, 1] -> (N, 5) logits: of a brain, then of each plane.
        volume: a 2D frame. fan: (1, j, i) bool.
    """
    return content_of(network(views_of(volume, fan)).mean(axis=0))


def views_of(volume: Volume, fan: np.ndarray) -> Tensor:
    """(8, 1, S, S): the squares of a frame that the network sees."""
    pyramid = Pyramid(volume, fan)
    return torch.cat(
        [
            pyramid.cut(square(side * pyramid.extent, pyramid.centre, quarters * np.pi / 2, mirrored), SIZE)
            for side in SIDES
            for quarters, mirrored in VIEWS
        ]
    )
