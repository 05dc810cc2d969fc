"""JSON that every reader takes: a number that is none becomes null, where Python would write NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(content: Any, *, indent: int | None = None) -> str:
    """`json.dumps` in ASCII. NaN and infinity become null, keys become text, what JSON does not know its `str`."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False, default=_plain)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's; anything else as text."""
    return _finite(value.tolist()) if hasattr(value, "tolist") else str(value)
