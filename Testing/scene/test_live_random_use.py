"""The live run under random use: what is shown is what was sent last or nothing, and a stop leaves nothing behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from factories.live import CHANGED, HEAD, LIFTED, NO_HEAD, number_in, picture
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from played_live_worker import PlayedLiveWorker
from scenery import leftovers
from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisScene.live import run as live_run
from USMRISynthesisScene.live.run import LiveOptions, LiveRun
from USMRISynthesisScene.nodes import nodes

KINDS = (HEAD, HEAD, HEAD, NO_HEAD, LIFTED, CHANGED)
SIZES = ((70, 80), (64, 90))


class LiveUse(RuleBasedStateMachine):
    """Start, stop, pictures of all kinds, answers that come late, a worker that dies, nodes that are deleted."""

    def __init__(self) -> None:
        super().__init__()
        slicer.mrmlScene.Clear(False)
        self.worker = PlayedLiveWorker(eager=False)
        self.ends: list[USMRIError | None] = []
        self.lines: list[str] = []
        self.run = LiveRun(self.worker, self.lines.append, self.ends.append)
        self.number, self.size, self.oldest = 0, SIZES[0], 0
        self.source: Any = None
        self._add_source()

    def _add_source(self) -> None:
        self.source = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Probe image")
        self._show(HEAD, self.size)

    def _show(self, kind: int, size: tuple[int, int]) -> None:
        self.size = size
        self.number += 1
        one = picture(self.number, kind, size)
        slicer.util.updateVolumeFromArray(self.source, one.array)
        self.source.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(one.ijk_to_ras))

    @precondition(lambda self: not self.run.running)
    @rule()
    def start(self) -> None:
        self.oldest = self.number
        self.run.start(self.source, LiveOptions())
        assert self.worker.busy and self.worker.running

    @rule()
    def stop(self) -> None:
        self.run.stop()

    @rule(
        kind=strategies.sampled_from([HEAD, HEAD, HEAD, NO_HEAD, LIFTED, CHANGED]), size=strategies.sampled_from(SIZES)
    )
    def picture_comes(self, kind: int, size: tuple[int, int]) -> None:
        self._show(kind, size)

    @rule()
    def same_picture_comes(self) -> None:
        slicer.util.updateVolumeFromArray(self.source, slicer.util.arrayFromVolume(self.source).copy())

    @precondition(lambda self: self.worker.busy)
    @rule()
    def answer_comes(self) -> None:
        self.worker.answer()

    @precondition(lambda self: self.worker.busy)
    @rule()
    def worker_dies_at_work(self) -> None:
        self.worker.running = False
        self.worker.say({"event": "error", "kind": "worker-exit", "message": "It ended.", "remedy": "Start again."})
        assert not self.run.running and self.ends[-1] is not None

    @precondition(lambda self: self.run.running and not self.worker.busy)
    @rule()
    def worker_dies_at_rest(self) -> None:
        self.worker.running = False
        self.run.tick()
        assert not self.run.running and self.ends[-1] is not None

    @rule()
    def time_passes(self) -> None:
        self.run.tick()

    @rule(on=strategies.booleans())
    def record(self, on: bool) -> None:
        self.run.record(on)

    @rule()
    def source_is_deleted(self) -> None:
        slicer.mrmlScene.RemoveNode(self.source)
        self.run.tick()
        self._add_source()

    @rule()
    def scene_is_closed(self) -> None:
        self.run.stop()  # as the panel does at its beginning
        slicer.mrmlScene.Clear(False)
        self._add_source()

    @invariant()
    def nothing_false_is_shown(self) -> None:
        observed = self.run._observer.node
        assert (observed is self.source) if self.run.running else observed is None
        assert bool(self.run.running) != self.worker.killed or not self.worker.requests
        assert self.run._timer.active == self.run.running
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            if node.GetAttribute(live_run.output.LIVE_ATTRIBUTE) and node.GetImageData() is not None:
                image = slicer.util.arrayFromVolume(node)
                if not self.run.running or node is not self.run.output:
                    assert not image.any()
                elif image.any():
                    assert self.run._sent is not None and image.shape == self.run._sent.array.shape
                    assert self.oldest <= number_in(image) <= self.number
                    assert nodes.is_synthetic(node) and np.isfinite(image).all()
                    assert self.run.line.startswith(("live", "frozen")) and "age" in self.run.line

    def teardown(self) -> None:
        self.run.stop()
        assert leftovers() == []
        slicer.mrmlScene.Clear(False)


def test_random_use_of_the_live_run(host: Any) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(LiveUse, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))
