"""A worker that is played inside the test's own process, one event at a time, in the parts of `scripted_worker.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
from USMRISynthesisLib.io.synthetic import SYNTHETIC
from USMRISynthesisLib.io.volume import Volume


class PlayedWorker:
    """Plays a worker in this process, one event at a time, in the parts of `scripted_worker.py`."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []
        self._handler: Callable[[dict[str, Any]], None] | None = None

    def send(self, request: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> str:
        assert self._handler is None, "two requests at a time"
        self._handler = on_event
        part = request["model"]
        progress = [{"event": "progress", "value": 0.1 * step, "stage": "Synthesising"} for step in range(4)]
        if part == "refuse" or part.startswith("exit") or (part == "foreign" and not request["trust_model"]):
            kind = {"refuse": "extent", "foreign": "consent"}.get(part, "worker-exit")
            self._steps = [
                *progress[:1],
                {
                    "event": "error",
                    "category": "refused" if part != "exit 3" else "failed",
                    "kind": kind,
                    "message": "It did not work.",
                    "remedy": "Try again.",
                },
            ]
        elif part == "slow":
            self._steps = progress * 1000
        else:
            self._steps = [*progress, {"event": "done", "result": self._result(request, part)}]
        qt.QTimer.singleShot(0, self._next)
        return "1"

    def _result(self, request: dict[str, Any], part: str) -> dict[str, Any]:
        if part != "nothing":
            shutil.copy(request["input"], request["output"])
        image = Volume.read(request["input"])
        for key, array in (
            ("confidence", (image.array > 60).astype(np.float32)),
            ("masks", (image.array > 0).astype(np.uint8) + (image.array > 60).astype(np.uint8)),
        ):
            if request.get(key):
                Volume(array, image.ijk_to_ras).write(request[key])
        if request["op"] == "respace":
            return {
                "output": request["output"],
                "consistency": None,
                "provenance": {"notice": SYNTHETIC, "operation": "respace"},
            }
        score = 0.2 if part == "doubt" else 0.9
        return {
            "output": request["output"],
            "confidence": request.get("confidence"),
            "masks": request.get("masks"),
            "ras_to_canonical": request["transform"] or np.eye(4).ravel().tolist(),
            "trusted": score > 0.5,
            "score": score,
            "method": "ellipsoid",
            "provenance": {"notice": SYNTHETIC, "alignment": {"score": score}, "alignment_trusted": score > 0.5},
        }

    def _next(self) -> None:
        if self._handler is None:
            return
        event, handler = self._steps.pop(0), self._handler
        if event["event"] in ("done", "error"):
            self._handler = None
        else:
            qt.QTimer.singleShot(0, self._next)
        handler(event)

    def wait(self, milliseconds: int) -> None:
        slicer.app.processEvents()

    def kill(self) -> None:
        self._handler = None

    def shutdown(self) -> None:
        self.kill()
