"""Networks converted for another runtime, kept in the user's cache folder by the hash of their weights.

    content = cached(key, make)

A file is written beside its place and then renamed, so that several processes at once never read half of one. It
carries the hash of what it holds: a damaged one is made again. Where nothing can be written the conversion is done in
each process. The folder can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE_DIR_VARIABLE = "USMRI_CACHE_DIR"
KEPT = 12  # files; the oldest go when another one is written
_MAGIC = b"usmri-converted-1\n"
_SUFFIX = ".converted"

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """The user's cache folder for this product (not created); USMRI_CACHE_DIR overrides it."""
    given = os.environ.get(CACHE_DIR_VARIABLE)
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "USMRISynthesis" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "USMRISynthesis"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "usmri-synthesis"


def cached(key: str, make: Callable[[], bytes]) -> bytes:
    """The bytes that are kept under this key, or those that `make` returns, which are then kept.

    key: letters, digits, dots and hyphens; it names all that the content depends on. Raises ValueError for another one,
    and what `make` raises; an unusable cache folder is no error.
    """
    if not re.fullmatch(r"[A-Za-z0-9.-]+", key):
        raise ValueError(f"not a key: {key!r}")
    path = cache_dir() / f"{key}{_SUFFIX}"
    content = _read(path)
    if content is None:
        content = make()
        _write(path, content)
    return content


def drop(key: str) -> None:
    """Delete what is kept under this key, if it can be."""
    with contextlib.suppress(OSError):
        (cache_dir() / f"{key}{_SUFFIX}").unlink()


def _read(path: Path) -> bytes | None:
    """The content of a file that is whole, else None."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + 32
    content = stored[start:]
    if stored[:start] != _MAGIC + hashlib.sha256(content).digest():
        _log.info("A converted network in the cache is damaged or of another version; it is made again.")
        return None
    return content


def _write(path: Path, content: bytes) -> None:
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".part", dir=path.parent)
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(content).digest() + content)
        os.replace(part, path)
        _keep_newest(path.parent)
    except OSError as error:
        _log.info("The converted network cannot be kept (%s).", error.strerror)
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink()


def _keep_newest(folder: Path) -> None:
    """Delete the oldest files beyond KEPT; another process may delete them at the same time."""
    ages: list[tuple[float, Path]] = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            ages.append((path.stat().st_mtime, path))
    for _, path in sorted(ages, reverse=True)[KEPT:]:
        with contextlib.suppress(OSError):
            path.unlink()
