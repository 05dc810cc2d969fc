"""A thread that works on the newest picture of a session and hands on every view.

with LiveLoop(session, show):        # show(Shown), on the loop's thread
    session.offer(frame)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from USMRISynthesisLib.errors import Failed, USMRIError
from USMRISynthesisLib.live.session import LiveSession
from USMRISynthesisLib.live.shown import Shown

log = logging.getLogger(__name__)

# A view that only grows older is handed on so often.
TICK_S = 0.25
_SEARCH_TICK_S = 0.01


class LiveLoop:
    """Steps a session until it is closed.

    Attributes:
        error: what ended the loop before its time, or None.
    """

    def __init__(self, session: LiveSession, show: Callable[[Shown], None]) -> None:
        self._session, self._show = session, show
        self._ending = threading.Event()
        self.error: USMRIError | None = None
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def __enter__(self) -> LiveLoop:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """End after the picture in hand, whose image is not shown."""
        self._ending.set()
        self._session.stop()
        self._thread.join()
        self._session.close()

    def _run(self) -> None:
        idle = 0.0
        try:
            while not self._ending.is_set():
                wait = _SEARCH_TICK_S if self._session.searching else TICK_S
                came = self._session.wait(wait)
                changed = self._session.step()
                idle = TICK_S if came or changed else idle + wait
                if idle >= TICK_S and not self._ending.is_set():
                    idle = 0.0
                    self._show(self._session.shown())
        except USMRIError as error:
            self.error = error
        except Exception as error:
            log.exception("the live loop has failed")
            self.error = Failed(
                "internal",
                f"An unexpected fault stopped the live synthesis ({type(error).__name__}).",
                "Start it again; if it happens again, report it with the log.",
            )
