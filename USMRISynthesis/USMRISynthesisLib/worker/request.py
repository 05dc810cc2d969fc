"""One line of text becomes a request whose fields have the right types, or a sentence that says why not.

Pure functions: whatever bytes arrive, the answer is a dictionary or a `Failed` of kind "request".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from USMRISynthesisLib.errors import Failed

Request = dict[str, Any]
MAX_LINE = 1 << 20  # bytes; requests have paths and sixteen numbers

_TEXT = ("input", "output", "reliability", "confidence", "masks", "model", "device", "planes", "axis", "series")
_WHOLE = ("frame", "region")
_PATHS = ("input", "output", "reliability", "confidence", "masks", "model")
_YES_OR_NO = ("compress", "trust_model", "allow_low_confidence", "unreliable", "any_content", "consistency")


def lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a stream, one by one as they come; None for one of more than `MAX_LINE` bytes, which is skipped."""
    while line := stream.readline(MAX_LINE):
        if line.endswith(b"\n") or len(line) < MAX_LINE:
            yield line
            continue
        while rest := stream.readline(MAX_LINE):
            if rest.endswith(b"\n"):
                break
        yield None


def parse(line: bytes | None) -> Request:
    """The JSON object in a line.

    Raises:
        Failed: the line is too long, no JSON object, or holds NaN or an infinite number.
    """
    if line is None:
        raise Failed("request", f"A line of more than {MAX_LINE} bytes was received.", "Send shorter requests.")
    try:
        request = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        raise Failed(
            "request", "A line that is not a request was received.", "Requests are JSON objects, one a line."
        ) from error
    if not isinstance(request, dict):
        raise Failed("request", "A line that is not a request was received.", "Requests are JSON objects, one a line.")
    return request


def identity_of(request: Request) -> str | int | float:
    """The request's id. Raises Failed where there is none that an answer could carry."""
    identity = request.get("id")
    if isinstance(identity, bool) or not isinstance(identity, (str, int, float)) or not _is_finite(identity):
        raise Failed("request", "A request without an id was received.", "Give every request an id, text or a number.")
    return identity


def check_fields(request: Request) -> None:
    """Raise Failed for a known field that has another type than it should; null is the same as leaving it out."""
    for name in _TEXT:
        value = request.get(name)
        if value is not None and not isinstance(value, str):
            raise _wrong(name, "text")
    for name in _PATHS:
        if isinstance(request.get(name), str) and not _is_path(request[name]):
            raise _wrong(name, "a path that this system can open")
    for name in _YES_OR_NO:
        if request.get(name) is not None and not isinstance(request[name], bool):
            raise _wrong(name, "true or false")
    for name in _WHOLE:
        value = request.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise _wrong(name, "a whole number")
    for name in ("spacing", "pixel_size"):
        value = request.get(name)
        if value is not None and not is_number(value):
            raise _wrong(name, "a number of millimetres")
    reliability_path(request)


def reliability_path(request: Request) -> str | None:
    """Where to write the reliability map, if it is wanted. Raises Failed where the field's two names differ."""
    new, former = request.get("reliability"), request.get("confidence")
    if new and former and new != former:
        raise Failed("request", "The fields 'reliability' and 'confidence' name two files.", "Give one of the two.")
    return new or former


def is_number(value: object) -> bool:
    """Whether this is a finite number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value)


def _wrong(name: str, wanted: str) -> Failed:
    return Failed("request", f"The field {name!r} of the request is not {wanted}.", "Correct it, or leave it out.")


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _is_finite(value: object) -> bool:
    try:
        return not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
