"""Stand-ins for a live session's surroundings: a clock to set, an engine that knows its pictures, a held search."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from USMRISynthesisLib.errors import Refused
from USMRISynthesisLib.io.volume import Volume

HEAD, NO_HEAD, LIFTED, CHANGED = range(4)
SHAPE = (6, 8)


class Clock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def picture(number: int, kind: int = HEAD, shape: tuple[int, int] = SHAPE, spacing: float = 0.4) -> Volume:
    """A frame that holds its own number and what it shows."""
    array = np.zeros((1, *shape), dtype=np.uint16)
    array[0, 0, :2] = number, kind
    return Volume(array, np.diag([-spacing, -spacing, 1.0, 1.0]))


def number_in(mr: np.ndarray) -> int:
    """The number of the picture that an image of the `NumberedEngine` was made from."""
    return int(mr[0, -1, -1])


@dataclass(frozen=True, eq=False)
class _Found:
    ijk_to_canonical: np.ndarray
    confidence: float = 0.9
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Followed:
    ijk_to_canonical: np.ndarray
    similarity: float
    brightness: float


class NumberedEngine:
    """Draws the picture's number; `during` is called once in the middle of the next drawing."""

    def __init__(self) -> None:
        self.searches: list[int] = []
        self.drawn: list[int] = []
        self.during: Callable[[], Any] | None = None

    def find(self, frame: Volume, expected: np.ndarray | None = None) -> _Found:
        number, kind = frame.array[0, 0, :2]
        self.searches.append(int(number))
        if kind != HEAD:
            raise Refused("content", f"Picture {number} shows no brain.", "Move the probe.")
        return _Found(np.eye(4))

    def follow(self, found: _Found, frame: Volume, guess: np.ndarray) -> _Followed:
        kind = frame.array[0, 0, 1]
        return _Followed(guess, {HEAD: 0.97, CHANGED: 0.3}.get(int(kind), 0.7), 0.02 if kind == LIFTED else 1.0)

    def draw(self, found: _Found, frame: Volume, ijk_to_canonical: np.ndarray) -> np.ndarray:
        during, self.during = self.during, None
        if during is not None:
            during()
        self.drawn.append(int(frame.array[0, 0, 0]))
        return np.full((1, 4, 4), frame.array[0, 0, 0], dtype=np.float32)

    def place(self, found: _Found, frame: Volume, ijk_to_canonical: np.ndarray, mr: np.ndarray) -> np.ndarray:
        values = np.zeros(frame.shape, dtype=np.int16)
        values[0, -1, -1] = mr[0, 0, 0]
        return values


class HeldRunner:
    """Runs a search when it is told to, or at once while `held` is False."""

    def __init__(self, held: bool = False) -> None:
        self.held = held
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, work))
        if not self.held:
            self.release()
        return future

    def release(self) -> None:
        """Run what waits."""
        waiting, self._waiting = self._waiting, []
        for future, work in waiting:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        self._waiting.clear()
