"""The work on one frame: finding the head, following it, and drawing the MR-like image. torch is imported here.

    engine = Engine(model="default", device="auto")
    found = engine.find(frame)                                       # seldom: 250 ms
    followed = engine.follow(found, frame, found.ijk_to_canonical)   # every frame: 3 ms
    mr = engine.draw(found, frame, followed.ijk_to_canonical)        # every frame: 20 ms
    values = engine.place(found, frame, followed.ijk_to_canonical, mr)

Each step does what `synthesis.pipeline.synthesize` does with a frame, with the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from USMRISynthesisLib.callbacks import Consent
from USMRISynthesisLib.errors import Failed, memory_shortage, torch_missing
from USMRISynthesisLib.geometry.canonical import to_canonical
from USMRISynthesisLib.geometry.head import Alignment
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.live.pose import in_pose, steadied
from USMRISynthesisLib.live.tracking import Followed, Template, follow
from USMRISynthesisLib.synthesis.input_grid import mr_on_input_grid
from USMRISynthesisLib.synthesis.pipeline import Run, locate
from USMRISynthesisLib.ultrasound.fill import without_fill
from USMRISynthesisLib.ultrasound.intensity import normalise_ultrasound


def use_one_thread() -> None:
    """Let torch use one thread for a frame, in this process and the threads that it starts from now on.

    Two threads that share one small convolution wait for each other: with other programs on both processors a stream
    took 45 ms of processor time an image instead of 40. The search for the head takes another thread of its own.
    """
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True, eq=False)
class Found:
    """What is kept of a frame in which the head was found.

    Attributes:
        fan: (1, j, i) bool. alignment: the pose and the outline. template: for following the head.
        confidence: 0-1, the lower one of the outline's and of a brain being seen.
        warnings: sentences for the user.
    """

    fan: np.ndarray
    alignment: Alignment
    template: Template
    confidence: float
    warnings: tuple[str, ...]

    @property
    def ijk_to_canonical(self) -> np.ndarray:
        """(4, 4), of the frame in which the head was found."""
        return self.template.ijk_to_canonical


class Engine:
    """A loaded model and the choices of a run.

    Args:
        model, device, consent: as for `synthesis.pipeline.synthesize`.
        allow_low_confidence: go on although the head was not found reliably.
        any_content: go on although a frame shows no brain.

    Raises:
        Failed: the model, the device; PyTorch is not there. ConsentNeeded.
    """

    def __init__(
        self,
        model: str = "default",
        device: str = "auto",
        *,
        consent: Consent | None = None,
        allow_low_confidence: bool = False,
        any_content: bool = False,
    ) -> None:
        try:
            from USMRISynthesisLib.synthesis.engine import load_generator
        except (ImportError, OSError) as error:  # OSError: an installation that broke half-way
            raise memory_shortage(error) or torch_missing() from error
        self._generator = load_generator(model, device, consent=consent)
        self._allow_low_confidence, self._any_content = allow_low_confidence, any_content

    @property
    def description(self) -> str:
        """The model, its version, and where it runs, for a log."""
        manifest = self._generator.manifest
        return f"{manifest.name} {manifest.version} on {self._generator.device}"

    def find(self, frame: Volume, expected: np.ndarray | None = None) -> Found:
        """Check a frame and find the head in it. Raises Refused, as `synthesize` does.

        expected: (4, 4) ijk_to_canonical, where the head was followed to in this frame; None after a loss.
        """
        frame = _clean(frame)
        run = Run()
        fan, alignment, _ = locate(
            frame, None, run, allow_low_confidence=self._allow_low_confidence, any_content=self._any_content
        )
        if expected is not None:
            pose = steadied(alignment.ras_to_canonical @ frame.ijk_to_ras, expected)
            alignment = in_pose(alignment, frame.ijk_to_ras, pose)
        template = Template.of(frame, alignment, fan)
        return Found(fan, alignment, template, float(alignment.score), tuple(run.messages))

    def follow(self, found: Found, frame: Volume, guess: np.ndarray) -> Followed:
        """Where the head lies in a frame of the same size and spacing; guess: (4, 4) ijk_to_canonical."""
        return follow(found.template, _clean(frame), guess)

    def draw(self, found: Found, frame: Volume, ijk_to_canonical: np.ndarray) -> np.ndarray:
        """The MR-like image in canonical space: (1, 160, 160) float32 in [-1, 1]. Raises Failed."""
        from USMRISynthesisLib.synthesis.multiplane import run_planes

        frame, generator = _clean(frame), self._generator
        matrix = _ras_to_canonical(frame, ijk_to_canonical)
        slices, z_mm = to_canonical(frame.array, frame.ijk_to_ras, matrix)
        seen = to_canonical(found.fan, frame.ijk_to_ras, matrix, order=0)[0] > 0.5
        us = normalise_ultrasound(slices, seen, generator.manifest.input.exponent)
        inside = found.alignment.head_mask(z_mm) & seen
        mr = run_planes(generator, us, z_mm, planes="axial", inside=inside)["axial"]
        if not np.isfinite(mr).all():
            raise Failed(
                "model",
                f"The model {generator.manifest.name!r} gave values that are no numbers.",
                "Try the device cpu; if it happens again, use another model.",
            )
        return mr

    def place(self, found: Found, frame: Volume, ijk_to_canonical: np.ndarray, mr: np.ndarray) -> np.ndarray:
        """The MR-like image on the frame's grid: (1, j, i) int16, 0-1000, 0 outside the head and the fan."""
        alignment = replace(found.alignment, ras_to_canonical=_ras_to_canonical(frame, ijk_to_canonical))
        return mr_on_input_grid(mr, alignment.head_mask(np.zeros(1)), found.fan, frame, alignment)


def _clean(frame: Volume) -> Volume:
    cleaned = without_fill(frame.array)
    return frame if cleaned is frame.array else frame.with_values(cleaned)


def _ras_to_canonical(frame: Volume, ijk_to_canonical: np.ndarray) -> np.ndarray:
    """The head is followed in the picture: a tracked probe's frames lie elsewhere each time."""
    return np.asarray(ijk_to_canonical @ np.linalg.inv(frame.ijk_to_ras))
