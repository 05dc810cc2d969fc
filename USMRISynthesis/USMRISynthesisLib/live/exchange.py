"""A live session for the worker: one request a picture, the voxels in two files of a folder.

Request (see `worker/serve.py` for the rest)::

    {"id": 1, "op": "live", "folder": PATH,   # "ultrasound.raw" lies there; "mr.raw" is written there
     "size": [rows, columns], "type": "uint8", "grid": [16 numbers, row by row],   # without them: no new picture
     "waited": 0.012,                         # seconds since the picture came
     "restart": false,                        # true: forget what was
     "median": 1, "model": "default", "device": "auto", "trust_model": false, "unreliable": false, "any_content": false}

Answer::

    {"state": "live", "reason": "", "image": true, "taken_s": 0.012, "rate": 18.0, "confidence": 0.97, "number": 7,
     "warnings": [...]}

`taken_s`: how long before the request arrived the oldest picture in the image came. "mr.raw": int16, rows x columns,
without the mark, which whoever shows the image draws or writes. One request at a time, so that neither file is read
while it is written.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from USMRISynthesisLib.errors import Failed
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.live.session import Clock, LiveSession, Settings

ULTRASOUND, MR = "ultrasound.raw", "mr.raw"
_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
_MOST_PIXELS = 1 << 24


class LiveExchange:
    """Answers requests of the operation "live"; keeps its session between them."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._session: LiveSession | None = None
        self._choices: tuple[Any, ...] = ()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Work on the request's picture. Raises Failed (request, model, device), ConsentNeeded."""
        now = self._clock()
        folder = Path(str(request.get("folder") or ""))
        if not folder.is_absolute() or not folder.is_dir():
            raise Failed("request", "The request has no folder for its images.", "Give it one.")
        session = self._prepared(request)
        if request.get("size") is not None:
            session.offer(_picture(request, folder), now - _seconds(request.get("waited")))
        session.step()
        view = session.shown()
        if view.mr is not None:
            view.mr.tofile(folder / MR)
        return {
            "state": view.state.value,
            "reason": view.reason,
            "image": view.mr is not None,
            "taken_s": None if view.taken_at is None else now - view.taken_at,
            "rate": view.rate,
            "confidence": view.confidence,
            "number": view.number,
            "warnings": list(view.warnings),
        }

    def _prepared(self, request: dict[str, Any]) -> LiveSession:
        """The session, made anew where the request has other choices or asks for it."""
        from USMRISynthesisLib.live.engine import Engine, use_one_thread

        median = 1 if request.get("median") is None else request["median"]
        if not isinstance(median, int) or isinstance(median, bool) or not 1 <= median <= 15:
            raise Failed("request", "The field 'median' of the request is not 1 to 15.", "Correct it, or leave it out.")
        trusted = request.get("trust_model") is True
        choices = (
            str(request.get("model") or "default"), str(request.get("device") or "auto"), trusted,
            request.get("unreliable") is True, request.get("any_content") is True, median,
        )  # fmt: skip
        if self._session is None or choices != self._choices or request.get("restart") is True:
            if self._session is not None:
                self._session.close()
                self._session = None
            model, device, _, unreliable, any_content, _ = choices
            use_one_thread()
            engine = Engine(
                model,
                device,
                consent=lambda sha256, name: trusted,
                allow_low_confidence=unreliable,
                any_content=any_content,
            )
            self._session, self._choices = (
                LiveSession(engine, Settings(median=median, mark=False), clock=self._clock),
                choices,
            )
        return self._session


def _picture(request: dict[str, Any], folder: Path) -> Volume:
    """The picture in the folder. Raises Failed."""
    try:
        rows, columns = (int(n) for n in request["size"])
        kind = str(request["type"])
        grid = np.asarray(request["grid"], dtype=np.float64).reshape(4, 4)
        if kind not in _TYPES or rows <= 0 or columns <= 0 or rows * columns > _MOST_PIXELS:
            raise ValueError
        array = np.fromfile(folder / ULTRASOUND, dtype=kind)
        return Volume(array.reshape(1, rows, columns), grid)
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise Failed(
            "request", "The picture of a live request cannot be read.", "Give its size, type and grid as they are."
        ) from error


def _seconds(value: object) -> float:
    """A time that has passed; 0 where none is given."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
    return float(value) if good else 0.0  # type: ignore[arg-type]
