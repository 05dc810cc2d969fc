"""How a long piece of work talks to whoever started it. One definition each; standard library only.

def show(value: float, stage: str) -> None: ...
synthesize(volume, progress=show, cancel=stop.is_set, log=lambda level, text: print(text))
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with a share of the whole, 0-1, and the stage that begins there or is under way."""

Share = Callable[[float], None]
"""Progress within one stage: called with the share of the stage that is done, 0-1."""

Cancel = Callable[[], bool]
"""Called again and again while the work runs; True ends it with `Cancelled`."""

Log = Callable[[str, str], None]
"""Called with a level, "info" or "warning", and a sentence for the user."""

Consent = Callable[[str, str], bool]
"""Called with (sha256, name) before code that did not come with the product is run; True lets it run."""
