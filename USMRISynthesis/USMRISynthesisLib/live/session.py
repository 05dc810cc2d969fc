"""A live session: pictures come in as they come, and what is shown is made from the newest of them.

    session = LiveSession(Engine())
    session.offer(frame)       # from any thread; a picture that has not been looked at is replaced
    session.step()             # on one thread: works on the newest picture
    session.shown().line       # "live  age 0.08 s  18/s  confidence 0.97"

The head is found by the networks in one frame and followed from there. It is found anew every few seconds, and at once
when the picture changes; that search runs beside the frames. Nothing is shown from before a loss of the head.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.live.mark import burn_in
from USMRISynthesisLib.live.pose import carried_over
from USMRISynthesisLib.live.shown import FROZEN_AFTER_S, Rate, Shown, State

# The key of a picture's metadata under which its source states its time, seconds; as PLUS writes it.
TIMESTAMP = "Timestamp"
Clock = Callable[[], float]
LIFTED = "There is hardly any signal: the probe seems to be lifted."
CHANGED = "The picture has changed: the head is searched for."
RESIZED = "The picture's size has changed: the head is searched for."


class EngineProtocol(Protocol):
    """The work on one frame (`engine.Engine`); tests use their own."""

    def find(self, frame: Volume, expected: np.ndarray | None = None) -> Any: ...

    def follow(self, found: Any, frame: Volume, guess: np.ndarray) -> Any: ...

    def draw(self, found: Any, frame: Volume, ijk_to_canonical: np.ndarray) -> np.ndarray: ...

    def place(self, found: Any, frame: Volume, ijk_to_canonical: np.ndarray, mr: np.ndarray) -> np.ndarray: ...


class RunnerProtocol(Protocol):
    """Runs the search for the head beside the frames; tests use one that runs it at once, or when told."""

    def submit(self, work: Callable[[], Any]) -> Future[Any]: ...

    def close(self) -> None: ...


class BackgroundRunner:
    """One thread, one search at a time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "head search")

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        return self._pool.submit(work)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Settings:
    """How a session behaves.

    median: so many images, aligned in canonical space, make the one that is shown; 1: the newest alone.
    recheck_s: the head is found anew so often. retry_s: after a refusal it is searched for again so soon.
    changed, lost: similarity to the frame in which the head was found. Below the first the head is found anew while
        the image stays; below the second nothing is shown until it is found. In HC18's frames a moved head keeps
        0.98 and another head reaches 0.4.
    lifted: brightness of the head over what it was; below it the probe is taken for lifted.
    mark: draw the mark into the pixels.
    """

    median: int = 1
    recheck_s: float = 3.0
    retry_s: float = 0.3
    changed: float = 0.85
    lost: float = 0.6
    lifted: float = 0.15
    mark: bool = True


@dataclass(frozen=True, eq=False)
class _Frame:
    volume: Volume
    arrived: float


@dataclass(frozen=True, eq=False)
class _Search:
    """A search that runs: for which frame, begun when, and where the head was thought to be in it."""

    future: Future[Any]
    frame: _Frame
    pose: np.ndarray | None


class LiveSession:
    """See the module. `offer`, `stop`, `lose_source` and `shown` may be called from any thread, `step` from one.

    Attributes:
        offered, dropped, made: pictures that came, those replaced before they were worked on, and images, in all.
    """

    def __init__(
        self,
        engine: EngineProtocol,
        settings: Settings | None = None,
        *,
        clock: Clock = time.monotonic,
        runner: RunnerProtocol | None = None,
    ) -> None:
        self._engine, self._settings, self._clock = engine, settings or Settings(), clock
        self._runner = runner or BackgroundRunner()
        self._lock = threading.Lock()
        self._arrival = threading.Event()
        self.offered = self.dropped = self.made = 0
        self._running = True
        self._epoch = 0
        self._reset(State.WAITING, "No picture has come yet.")

    def _reset(self, state: State, reason: str) -> None:
        """Forget everything; what is being computed belongs to an earlier epoch and is never shown."""
        self._epoch += 1
        self._newest: _Frame | None = None  # not worked on yet: a queue of one
        self._last: _Frame | None = None  # the last one offered that differed from the one before
        self._last_seen = 0.0  # when the last one came, equal or not
        self._found: Any = None
        self._found_at = self._refused_at = -np.inf
        self._pose: np.ndarray | None = None
        self._search: _Search | None = None
        self._history: deque[tuple[np.ndarray, float]] = deque(maxlen=max(1, self._settings.median))
        self._rate = Rate()
        self._shown = Shown(state, reason, self._clock())

    def start(self) -> None:
        """Begin, or begin anew."""
        with self._lock:
            self._running = True
            self._reset(State.WAITING, "No picture has come yet.")

    def stop(self) -> None:
        """Show nothing more, whatever is being computed."""
        with self._lock:
            self._running = False
            self._reset(State.STOPPED, "")
        self._arrival.set()

    def close(self) -> None:
        """Stop, and wait for a search that runs."""
        self.stop()
        self._runner.close()

    def lose_source(self, reason: str) -> None:
        """The pictures' source is gone: show nothing until one comes again."""
        with self._lock:
            if self._running:
                self._reset(State.BLANK, reason)
        self._arrival.set()

    def offer(self, volume: Volume, arrived: float | None = None) -> bool:
        """Hand in a picture; returns whether it was a new one.

        volume: a frame, (1, j, i); it must not be changed afterwards. arrived: on the session's clock; by default now.
        """
        now = self._clock() if arrived is None else arrived
        with self._lock:
            if not self._running:
                return False
            self.offered += 1
            self._last_seen = now
            if self._last is not None and _same(self._last.volume, volume):
                return False
            if self._last is not None and not _same_grid(self._last.volume, volume):
                self._reset(State.SEARCHING, RESIZED)
                self._last_seen = now
            self.dropped += self._newest is not None
            self._newest = self._last = _Frame(volume, now)
        self._arrival.set()
        return True

    @property
    def waiting(self) -> int:
        """Pictures that have not been worked on: 0 or 1."""
        return int(self._newest is not None)

    @property
    def searching(self) -> bool:
        """Whether a search for the head is running beside the frames."""
        return self._search is not None

    def wait(self, timeout_s: float) -> bool:
        """Wait for a new picture, a loss of the source or a stop; returns whether one came."""
        came = self._arrival.wait(timeout_s)
        self._arrival.clear()
        return came

    def shown(self) -> Shown:
        """What is to be shown now."""
        with self._lock:
            now, view, last = self._clock(), self._shown, self._last
            view = replace(view, at=now, rate=self._rate.at(now))
            if view.state is not State.LIVE or last is None or now - last.arrived <= FROZEN_AFTER_S:
                return view
            if now - self._last_seen <= FROZEN_AFTER_S:
                return replace(view, state=State.FROZEN, reason="The picture is frozen.")
            return replace(view, state=State.FROZEN, reason="No new picture comes.")

    def step(self) -> bool:
        """Work on the newest picture; returns whether the view has changed."""
        with self._lock:
            frame, self._newest = self._newest, None
            epoch, last = self._epoch, self._last
        adopted = self._adopt(epoch)
        if frame is None and adopted:
            frame = last
        if frame is None or not self._running:
            return adopted
        if self._found is None:
            self._begin_search(frame, epoch)
            if not self._adopt(epoch) or self._found is None:
                return True
        found, pose = self._found, self._pose
        if found is None or pose is None:
            return True
        followed = self._engine.follow(found, frame.volume, pose)
        if not self._check(followed, frame, epoch):
            return True
        found, pose = self._found, self._pose  # a search that was done at once has replaced them
        if found is None or pose is None or epoch != self._epoch:
            return True
        try:
            mr = self._engine.draw(found, frame.volume, pose)
        except USMRIError as error:
            self._blank(State.BLANK, str(error), epoch)
            return True
        self._publish(found, frame, pose, mr, epoch)
        return True

    def _check(self, followed: Any, frame: _Frame, epoch: int) -> bool:
        """Whether the head is still there; searches for it where that is not sure."""
        settings = self._settings
        if followed.brightness < settings.lifted:
            self._forget(epoch)
            self._blank(State.BLANK, LIFTED, epoch)
            return False
        with self._lock:
            if epoch != self._epoch:
                return False
            self._pose = followed.ijk_to_canonical
            overdue = self._clock() - self._found_at > settings.recheck_s
        if followed.similarity < settings.lost:
            self._forget(epoch)
            self._blank(State.SEARCHING, CHANGED, epoch)
            self._begin_search(frame, epoch)
            return self._adopt(epoch) and self._found is not None
        if followed.similarity < settings.changed or overdue:
            self._begin_search(frame, epoch)
            self._adopt(epoch)
            return self._found is not None
        return True

    def _begin_search(self, frame: _Frame, epoch: int) -> None:
        """Search for the head in a frame, unless a search runs, or one was refused just now."""
        with self._lock:
            early = self._clock() - self._refused_at < self._settings.retry_s
            if epoch != self._epoch or self._search is not None or early:
                return
            if self._found is None and self._shown.state is State.WAITING:
                self._shown = Shown(State.SEARCHING, "The head is searched for.", self._clock())
            pose = self._pose
        future = self._runner.submit(lambda: self._engine.find(frame.volume, pose))
        with self._lock:
            if epoch == self._epoch:
                self._search = _Search(future, frame, pose)

    def _adopt(self, epoch: int) -> bool:
        """Take over what a search has found, if it has ended; returns whether it has."""
        with self._lock:
            search = self._search
            if epoch != self._epoch or search is None or not search.future.done():
                return False
            self._search = None
        try:
            found = search.future.result()
        except USMRIError as error:
            with self._lock:
                self._refused_at = self._clock()
            self._forget(epoch)
            self._blank(State.BLANK, str(error), epoch)
            return True
        with self._lock:
            if epoch == self._epoch:
                moved = carried_over(found.ijk_to_canonical, search.pose, self._pose)
                if self._pose is None or not np.allclose(moved, self._pose):
                    self._history.clear()  # they lie elsewhere in canonical space
                self._found, self._pose, self._found_at = found, moved, self._clock()
        return True

    def _forget(self, epoch: int) -> None:
        with self._lock:
            if epoch == self._epoch:
                self._found = self._pose = None
                self._history.clear()

    def _blank(self, state: State, reason: str, epoch: int) -> None:
        with self._lock:
            if epoch == self._epoch:
                self._shown = Shown(state, reason, self._clock())
                self._rate = Rate()

    def _publish(self, found: Any, frame: _Frame, pose: np.ndarray, mr: np.ndarray, epoch: int) -> None:
        with self._lock:
            if epoch != self._epoch:
                return
            self._history.append((mr, frame.arrived))
            several = [one for one, _ in self._history]
            taken_at = min(arrived for _, arrived in self._history)
        mr = mr if len(several) == 1 else np.median(several, axis=0).astype(np.float32)
        values = self._engine.place(found, frame.volume, pose, mr)
        if self._settings.mark:
            values = burn_in(values)
        with self._lock:
            if epoch != self._epoch:  # stopped, or another picture size, in the middle of it
                return
            self.made += 1
            self._rate.count(self._clock())
            self._shown = Shown(
                State.LIVE,
                "",
                self._clock(),
                mr=values,
                ultrasound=frame.volume.array,
                ijk_to_ras=frame.volume.ijk_to_ras,
                taken_at=taken_at,
                confidence=found.confidence,
                stamp=_stamp(frame.volume),
                number=self.made,
                warnings=found.warnings,
            )


def _stamp(frame: Volume) -> float | None:
    try:
        return float(frame.metadata[TIMESTAMP])
    except (KeyError, ValueError):
        return None


def _same_grid(one: Volume, other: Volume) -> bool:
    """Size, spacing and type; a tracked probe's pictures may lie anywhere."""
    return (
        one.shape == other.shape
        and one.array.dtype == other.array.dtype
        and np.allclose(one.spacing, other.spacing, rtol=1e-3)
    )


def _same(one: Volume, other: Volume) -> bool:
    return one.shape == other.shape and one.array.dtype == other.array.dtype and np.array_equal(one.array, other.array)
