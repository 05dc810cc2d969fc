"""Web pages of one file: data that cannot become markup, and a policy that names the page's own script and style."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with each @NAME@ replaced; what is put in is not searched. No other at sign may stand in it."""
    parts = template.split("@")
    return "".join(values[part] if number % 2 else part for number, part in enumerate(parts))


def as_data(value: object) -> str:
    """JSON that ends no script element, whatever the texts in it. Raises ValueError for NaN."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def source_hash(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def held_text(name: str, content: bytes) -> str:
    """An element that holds bytes for the script, as base64, without their being parsed."""
    return f'<script type="text/plain" id="{name}">{base64.b64encode(content).decode("ascii")}</script>\n'
