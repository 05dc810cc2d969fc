"""Two processes never run one case at the same time: who runs it says so in a file.

    claims = Claims(Path("out/.usmri/claims"))
    if claims.take("a/head.nrrd"):
        ...                            # claims.holds("a/head.nrrd") before the result gets its name
        claims.release("a/head.nrrd")
    claims.close()

A claim is a file of a name that is used once. Who wants a case creates one, and then lists all claims on the case: of
two that come together at least the later one sees the other, and whoever sees another withdraws. So two never hold one
case, whatever the order in which they act; if both withdraw, both come again after a moment of chance.

A claim names its process and is touched again and again. It is stale when its process has ended (same machine), or
when it was not touched for `STALE_S` (another machine, by the clock of the disk); a stale claim counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import threading
import time
from itertools import count
from pathlib import Path

from USMRISynthesisLib.batch.identity import gone, this_process

BEAT_S = 20.0
STALE_S = 300.0
_TRIES, _PAUSE_S = 5, (0.005, 0.05)


class Claims:
    """The claims of one process on the cases of one output folder. Safe for threads."""

    def __init__(self, folder: Path, *, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> None:
        self._folder, self._beat_s, self._stale_s = folder, beat_s, stale_s
        self._token = secrets.token_hex(8)
        self._numbers = count()
        self._held: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self, name: str) -> bool:
        """Claim a case; False where another process, or another thread of this one, has it. Raises OSError."""
        key = _key(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            if key in self._held or any(not self._is_stale(path) for path in self._of(key)):
                return False
            if self._create(key, name):
                return True
            time.sleep(random.uniform(*_PAUSE_S))
        return False

    def _create(self, key: str, name: str) -> bool:
        """Create a claim; whether it is the only one that counts. Else it is gone again."""
        own = self._folder / f"{key}.{self._token}-{next(self._numbers)}"
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.write(descriptor, json.dumps({**this_process(), "name": name}).encode())
        finally:
            os.close(descriptor)
        rest = [path for path in self._of(key) if path != own]
        if any(not self._is_stale(path) for path in rest):
            own.unlink(missing_ok=True)
            return False
        for path in rest:
            path.unlink(missing_ok=True)
        with self._lock:
            self._held[key] = own
            if self._beating is None:
                self._beating = threading.Thread(target=self._beat, name="claims", daemon=True)
                self._beating.start()
        return True

    def holds(self, name: str) -> bool:
        """Whether a case is still claimed by this process: nobody took it over while this one seemed dead."""
        own = self._held.get(_key(name))
        return own is not None and own.exists()

    def release(self, name: str) -> None:
        """Give a claim back; nothing happens where it is not held."""
        with self._lock:
            own = self._held.pop(_key(name), None)
        if own is not None:
            try:
                own.unlink(missing_ok=True)
            except OSError:  # it is stale when this process has ended
                pass

    def close(self) -> None:
        """Give all claims back."""
        self._stop.set()
        with self._lock:
            held, self._held = list(self._held.values()), {}
        for own in held:
            try:
                own.unlink(missing_ok=True)
            except OSError:
                pass

    def _of(self, key: str) -> list[Path]:
        """The claims on a case, whoever's."""
        return list(self._folder.glob(f"{key}.*"))

    def _is_stale(self, path: Path) -> bool:
        ended = gone(_content(path))
        if ended is not None:
            return ended
        try:
            return self._now() - path.stat().st_mtime > self._stale_s
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _now(self) -> float:
        """The time by the clock of the disk: clocks of two machines differ."""
        probe = self._folder / f"clock-{self._token}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_s):
            with self._lock:
                held = list(self._held.values())
            for path in held:
                try:
                    os.utime(path)
                except OSError:
                    continue


def _key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _content(path: Path) -> dict[str, object]:
    """What a claim says; nothing while it is being written, or where it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
