"""What a live view shows at a moment, and what it says about it. No torch here: Slicer uses it too."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np

# Without a new picture for so long, the picture is called frozen.
FROZEN_AFTER_S = 0.5
_RATE_WINDOW_S = 2.0


class State(str, Enum):
    """What the view shows. An image is there in LIVE and FROZEN only."""

    STOPPED = "stopped"
    WAITING = "waiting"
    SEARCHING = "searching"
    LIVE = "live"
    FROZEN = "frozen"
    BLANK = "blank"


@dataclass(frozen=True, eq=False)
class Shown:
    """One view.

    Attributes:
        state, reason: what is shown, and why in one sentence; empty while it is live.
        mr: (1, j, i) int16, 0-1000, on the grid of its ultrasound frame; None where nothing is shown.
        ultrasound, ijk_to_ras: the frame it was made from, (1, j, i), and (4, 4) its grid; None without `mr`.
        taken_at: when the oldest picture in `mr` arrived, seconds of the session's clock; None without `mr`.
        at: when this view was made, on the same clock.
        rate: MR-like images a second, over the last two seconds.
        confidence: 0-1, that the head was found right; None without `mr`.
        stamp: the source's own time of the newest picture in `mr`, where it states one.
        number: of the image, from 1; it grows by one with each. 0 without `mr`.
        warnings: sentences about the frame in which the head was found.
    """

    state: State
    reason: str
    at: float
    mr: np.ndarray | None = None
    ultrasound: np.ndarray | None = None
    ijk_to_ras: np.ndarray | None = None
    taken_at: float | None = None
    rate: float = 0.0
    confidence: float | None = None
    stamp: float | None = None
    number: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def age_s(self) -> float | None:
        """Seconds since the oldest picture in the image arrived; None without an image."""
        return None if self.taken_at is None else max(0.0, self.at - self.taken_at)

    @property
    def line(self) -> str:
        """State, age, rate, confidence and reason in one line."""
        return line_of(self.state, self.reason, self.age_s, self.rate, self.confidence)


def line_of(state: str, reason: str, age_s: float | None, rate: float, confidence: float | None) -> str:
    """ "live  age 0.08 s  18/s  confidence 0.97", or "blank: Hardly any signal ..."."""
    word = State(state).value
    if age_s is None:
        return f"{word}: {reason}" if reason else word
    parts = [word, f"age {age_s:.2f} s" if age_s < 10 else f"age {age_s:.0f} s", f"{rate:.0f}/s"]
    if confidence is not None:
        parts.append(f"confidence {confidence:.2f}")
    return "  ".join([*parts, *([reason] if reason else [])])


class Rate:
    """Events a second over the last two seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=200)

    def count(self, now: float) -> None:
        self._times.append(now)

    def at(self, now: float) -> float:
        """Events in the window over its length, or over the time since the first event where that is shorter."""
        recent = [time for time in self._times if now - time <= _RATE_WINDOW_S]
        if len(recent) < 2:
            return 0.0
        if len(recent) < len(self._times):
            return len(recent) / _RATE_WINDOW_S
        return (len(recent) - 1) / max(now - recent[0], 1e-3)
