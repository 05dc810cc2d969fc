"""The progress line of a run: the stage, the percentage and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from slicer.i18n import tr as _

_MIN_SECONDS = 1.5  # before that, the speed of a stage is not known
_MIN_SHARE = 0.02


class ProgressText:
    """Turns progress reports into one line.

    The time left is estimated from the speed of the current stage only, because short stages would distort it.

        progress = ProgressText()
        progress.line(0.45, "Synthesising")     # "Synthesising: 45 %, about 40 s left"
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._began = (0.0, 0.0)  # time, value

    def line(self, value: float, stage: str) -> str:
        now = self._clock()
        if stage != self._stage:
            self._stage, self._began = stage, (now, value)
        seconds, share = now - self._began[0], value - self._began[1]
        text = _("{stage}: {percent} %").format(stage=stage, percent=round(100 * value)) if stage else ""
        if text and value < 1 and seconds >= _MIN_SECONDS and share >= _MIN_SHARE:
            text += ", " + time_left(seconds / share * (1 - value))
        return text


def time_left(seconds: float) -> str:
    """The time left as text, rounded to what an estimate supports."""
    if seconds < 8:
        return _("a few seconds left")
    if seconds < 55:
        return _("about {n} s left").format(n=round(seconds / 10) * 10 or 10)
    return _("about {n} min left").format(n=max(1, round(seconds / 60)))
