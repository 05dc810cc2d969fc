"""Do the discriminators still teach anything? Accuracy on held-out images, and a warning where it stays extreme."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from USMRISynthesisLib.training.synthesis.objective import ObjectiveConfig

WINS, GUESSES = 0.99, 0.5
EVALUATIONS = 3  # in a row: one alone is chance


def accuracies(
    discriminators: nn.ModuleDict, edge_net: nn.Module, mr: Tensor, fakes: Tensor, config: ObjectiveConfig
) -> dict[str, float]:
    """Share of patches classified rightly, real and made weighing alike, of the MR discriminators whose terms are on.

    mr, fakes: (n, 1, H, W) in [-1, 1], which nothing was trained on. Names are "accuracy_app" and "accuracy_stru".
    """
    middle = 0.5 if config.adversarial == "lsgan" else 0.0
    if not len(mr) or not len(fakes):
        return {}
    found = {}
    discriminators.eval()  # spectral norm learns from every call in training
    with torch.inference_mode():
        for term in ("app", "stru"):
            if config.weight(term):
                device = next(discriminators[term].parameters()).device
                real, made = (images.to(device) for images in (mr, fakes))
                if term == "stru":
                    real, made = edge_net(real), edge_net(made)
                right = (discriminators[term](real) > middle).float().mean()
                found[f"accuracy_{term}"] = float(right + (discriminators[term](made) <= middle).float().mean()) / 2
    discriminators.train()
    return found


class CollapseWatch:
    """Counts evaluations in a row in which a discriminator wins, or only guesses.

    Example:
        >>> watch = CollapseWatch()
        >>> [watch.warnings({"accuracy_app": 1.0}) for _ in range(3)][-1][0][:38]
        'Warning: the discriminator app separate'
    """

    def __init__(self) -> None:
        self._in_a_row: dict[tuple[str, str], int] = {}

    def warnings(self, figures: Mapping[str, float]) -> list[str]:
        """Sentences about those that have been extreme for EVALUATIONS in a row, each with what may help."""
        lines = []
        for name, value in figures.items():
            if not name.startswith("accuracy_"):
                continue
            term = name.removeprefix("accuracy_")
            states = {"wins": value >= WINS, "guesses": value <= GUESSES}
            for state, is_so in states.items():
                self._in_a_row[term, state] = self._in_a_row.get((term, state), 0) + 1 if is_so else 0
            if self._in_a_row[term, "wins"] >= EVALUATIONS:
                lines.append(f"Warning: the discriminator {term} separates held-out MR from made MR almost always: it "
                             "teaches little. Lower the term's weight, or set discriminators.spectral.")  # fmt: skip
            if self._in_a_row[term, "guesses"] >= EVALUATIONS:
                lines.append(f"Warning: the discriminator {term} only guesses on held-out images: it has collapsed or "
                             "knows the training MR by heart. Add MR, or raise [augmentation].")  # fmt: skip
        return lines
