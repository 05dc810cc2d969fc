"""Made-up fetal brain MR: the templates' own brains, turned in the world."""

from __future__ import annotations

import numpy as np
from USMRISynthesisLib.datasets.mr_registration.template import template_ijk_to_ras, templates
from USMRISynthesisLib.geometry.similarity import random_rotation
from USMRISynthesisLib.io.volume import Volume


def brain(number: int, turn: np.ndarray | None = None) -> tuple[Volume, np.ndarray]:
    """A template's brain as an MR volume of its own grey values, turned in the world; and where it belongs."""
    rng = np.random.default_rng(number)
    placed = np.eye(4)
    placed[:3, :3] = 0.9 * (random_rotation(rng) if turn is None else turn)
    placed[:3, 3] = rng.uniform(-30, 30, 3)
    template = templates()[number % len(templates())]
    grey = template.t2 * 700 + rng.normal(0, 10, template.t2.shape)
    return Volume(np.where(template.skull, grey, 0).astype(np.int16), placed @ template_ijk_to_ras()), placed
