"""One case, from its claim to its line in the ledger: the same code whichever process runs it, and where.

    line = attempt(session, case, worker)

`worker` is a `WorkerProcess`, or anything with its `request`: what crashes there takes no other case along.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from USMRISynthesisLib.batch import quality
from USMRISynthesisLib.batch.cases import Case
from USMRISynthesisLib.batch.ledger import SKIPPED, thumbnail_of
from USMRISynthesisLib.batch.session import FATAL, Session
from USMRISynthesisLib.errors import Cancelled, Failed, USMRIError, memory_shortage
from USMRISynthesisLib.io.volume import Volume
from USMRISynthesisLib.synthesis.result import Synthesis

HELD = "held"
_LEAST_FREE = 16 << 20  # bytes, besides twice the input: less is a full disk
_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The case was cancelled, or came to what would befall every other case as well.

    Attributes:
        line: of the ledger.
        error: for the user.
    """

    def __init__(self, line: dict[str, Any], error: USMRIError) -> None:
        super().__init__(line, error)  # both, so that it survives pickling
        self.line, self.error = line, error


class Requests(Protocol):
    """What a worker is to a batch."""

    def request(
        self,
        op: str,
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Send a request and wait for its result. Raises USMRIError."""


def attempt(
    session: Session,
    case: Case,
    worker: Requests,
    *,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Run a case unless it is done, or another process works on it; the ledger's line ("kind" HELD in the latter case).

    Whatever is wrong with the case is in the line. Raises Stopped where nothing shall go on.
    """
    if not session.take(case):
        return {"name": case.name, "state": SKIPPED, "kind": HELD, "message": "Another process works on it."}
    try:
        if session.is_done(case):
            return session.keep(case)
        try:
            _check_space(session, case)
            fields = session.request(case)
            reliability = session.staged(case).with_suffix(".reliability.nrrd")
            if session.plan.figures:
                fields["reliability"] = str(reliability)
            result = worker.request(str(fields.pop("op")), on_event=on_event, cancel=cancel, **fields)
            figures = _figures(session, case, result, reliability) if session.plan.figures else {}
            return session.done(case, result, figures)
        except Exception as error:
            known = _as_sentence(error)
            line = {**session.failed(case, known), "cancelled": isinstance(known, Cancelled)}
            if known.kind in FATAL or isinstance(known, Cancelled):
                raise Stopped(line, known) from error
            return line
        finally:
            for part in session.staging.glob(f"{session.staged(case).name.partition('.')[0]}*"):
                part.unlink(missing_ok=True)
    finally:
        session.release(case)


def _figures(session: Session, case: Case, result: Mapping[str, Any], reliability: Path) -> dict[str, Any]:
    """ "quality" and "thumbnail" of the ledger's line; empty where a figure cannot be had: no case fails for it."""
    if not reliability.is_file():
        return {}
    try:
        image = Volume.read(case.source, frame=case.frame, series=case.series)
        mr, seen = Volume.read(session.staged(case)), Volume.read(reliability)
        # The header's text does not carry all 16 digits of a matrix; the input's own does.
        made = Synthesis(
            Volume(mr.array, image.ijk_to_ras, mr.metadata),
            np.array(result["ras_to_canonical"]).reshape(4, 4),
            Volume(seen.array, image.ijk_to_ras),
            dict(result["provenance"]),
        )
        figures: dict[str, Any] = {"quality": {**quality.measure(made), "trusted": made.trusted}}
        picture = thumbnail_of(session.plan.output, case.name)
        picture.parent.mkdir(parents=True, exist_ok=True)
        quality.thumbnail(made, image, picture)
        return {**figures, "thumbnail": picture.relative_to(session.plan.output).as_posix()}
    except Exception as error:
        _log.warning("a result's figures could not be had", exc_info=error)
        return {}


def _check_space(session: Session, case: Case) -> None:
    """Raise Failed on a full disk before minutes of work, not after them."""
    try:
        needed = _LEAST_FREE + 2 * sum(path.stat().st_size for path in case.files)
        free = shutil.disk_usage(session.plan.output).free
    except OSError:  # whoever reads or writes says why
        return
    if free < needed:
        raise Failed(
            "write",
            f"The disk of the folder {session.plan.output.name} is full.",
            "Free space, and run the batch again; it goes on where it stopped.",
        )


def _as_sentence(error: Exception) -> USMRIError:
    """Any error of a case as one for its line."""
    if isinstance(error, USMRIError):
        return error
    if short := memory_shortage(error):
        return short
    _log.warning("a case came to an unexpected end", exc_info=error)
    return Failed(
        "internal",
        f"An unexpected fault stopped it ({type(error).__name__}).",
        "Try it alone with `usmri synthesize --verbose`, and report what that prints.",
    )
