"""A live worker that is played inside the test's own process, with an engine that draws a picture's number."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from factories.live import HeldRunner, NumberedEngine
from USMRISynthesisLib.errors import USMRIError
from USMRISynthesisLib.live.exchange import LiveExchange
from USMRISynthesisLib.live.session import LiveSession, Settings


class _Exchange(LiveExchange):
    def __init__(self) -> None:
        self.ahead = 0.0  # of the time
        super().__init__(lambda: time.monotonic() + self.ahead)
        self.engine = NumberedEngine()

    def _prepared(self, request: dict[str, Any]) -> LiveSession:
        if self._session is None or request.get("restart"):
            self._session = LiveSession(self.engine, Settings(mark=False), clock=self._clock, runner=HeldRunner())
        return self._session


class PlayedLiveWorker:
    """Answers when `answer` is called, or at once while `eager`."""

    def __init__(self, eager: bool = True) -> None:
        self.eager, self.killed = eager, False
        self.running = True
        self.requests: list[dict[str, Any]] = []
        self.exchange = _Exchange()
        self._handler: Callable[[dict[str, Any]], None] | None = None

    def send(self, request: Mapping[str, Any], on_event: Callable[[dict[str, Any]], None]) -> str:
        assert self._handler is None, "two requests at a time"
        self.requests.append(dict(request))
        self._handler, self.killed, self.running = on_event, False, True
        if self.eager:
            self.answer()
        return str(len(self.requests))

    @property
    def busy(self) -> bool:
        return self._handler is not None

    def answer(self) -> None:
        """Work on the request in flight."""
        try:
            event = {"event": "done", "result": self.exchange.answer(self.requests[-1])}
        except USMRIError as error:
            event = {"event": "error", "kind": error.kind, "message": error.message, "remedy": error.remedy}
        self.say(event)

    def say(self, event: dict[str, Any]) -> None:
        """End the request in flight with this event."""
        handler, self._handler = self._handler, None
        assert handler is not None
        handler(event)

    def wait(self, milliseconds: int) -> None:
        pass

    def kill(self) -> None:
        self._handler, self.killed, self.running = None, True, False

    def shutdown(self) -> None:
        self.kill()
