"""A recorded sequence as a source: its frames come at the times at which they were taken.

with Replay(Path("sweep.igs.mha"), session.offer, session.lose_source, loop=True) as replay:
    replay.wait()
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.reading import count_frames
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.live.session import TIMESTAMP

# Where a file states no times.
USUAL_RATE = 20.0
_MOST_BYTES = 2 << 30


@dataclass(frozen=True, eq=False)
class Recording:
    """frames: as volumes of one slice. times: seconds from the first, growing."""

    frames: tuple[Volume, ...]
    times: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Frames a second."""
        return (len(self.times) - 1) / self.times[-1] if len(self.times) > 1 else USUAL_RATE


def read_recording(path: Path, *, rate: float | None = None, pixel_size_mm: float | None = None) -> Recording:
    """All frames of a file. Frames that are marked as invalid are left out.

    rate: frames a second, instead of the file's own times. Raises Refused.
    """
    if rate is not None and not 0 < rate < 1000:
        raise Refused("rate", f"A rate of {rate:g} frames a second cannot be replayed.", "Give one from 1 to 100.")
    frames: list[Volume] = []
    count, size = count_frames(path), 0
    for number in range(count):
        try:
            frame = Volume.read(path, frame=number if count > 1 else None, pixel_size_mm=pixel_size_mm)
        except Refused as error:
            if error.kind == "frame-status":
                continue
            raise
        if not frame.is_frame:
            raise Refused("frames", f"{path.name} holds volumes, not frames.", "Give a sequence of 2D frames.")
        size += frame.array.nbytes
        if size > _MOST_BYTES:
            raise Refused("size", f"{path.name} is too long to be replayed.", "Cut it to a shorter sequence.")
        frames.append(frame)
    if not frames:
        raise Refused("frames", f"{path.name} holds no valid frame.", "Choose another recording.")
    times = _times(frames, rate)
    # The times of the recording are long past: the frames go without them.
    return Recording(tuple(frame.with_values(frame.array) for frame in frames), tuple(times))


def _times(frames: list[Volume], rate: float | None) -> list[float]:
    stated = [] if rate is not None else [_number(frame.metadata.get(TIMESTAMP, "")) for frame in frames]
    known = [time for time in stated if time is not None]
    if len(known) < 2 or len(known) < len(frames) or any(b <= a for a, b in pairwise(known)):
        return [n / (rate or USUAL_RATE) for n in range(len(frames))]
    return [time - known[0] for time in known]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class Replay:
    """Offers a recording's frames on a thread of its own, and says so when it has ended."""

    def __init__(
        self,
        recording: Recording,
        offer: Callable[[Volume], object],
        lost: Callable[[str], object],
        *,
        loop: bool = False,
    ) -> None:
        self._recording, self._offer, self._lost, self._loop = recording, offer, lost, loop
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    def __enter__(self) -> Replay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        frames, times = self._recording.frames, self._recording.times
        last = times[-1] - times[-2] if len(times) > 1 else 1 / USUAL_RATE
        while True:
            began = time.monotonic()
            for frame, due in zip(frames, times, strict=True):
                if self._ending.wait(max(0.0, began + due - time.monotonic())):
                    return
                self._offer(frame)
            if self._ending.wait(last):
                return
            if not self._loop:
                self._lost("The recording has ended.")
                return
