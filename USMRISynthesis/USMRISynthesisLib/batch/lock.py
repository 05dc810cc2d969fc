"""One batch at a time works on a folder: a lock file that names who does.

    lock = FolderLock(Path("out"))      # raises Failed where another process holds it
    ...
    lock.release()

The operating system holds the lock and drops it with the process, however that ends: a killed batch leaves a file but
no lock. Where a disk has no such locks the file's text decides: whether it names a process of this computer that no
longer runs, or one of another computer that has given no sign of life for a day.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from USMRISynthesisLib.errors import Failed

LOCK_FILE = ".usmri-batch.lock"
_STALE_S = 24 * 3600.0
_LENGTH = 1 << 12
_TRIES = 10
_FAR = 1 << 30  # where Windows locks a byte: beyond the text, which stays readable


class FolderLock:
    """Held from its making until `release`."""

    def __init__(self, folder: Path) -> None:
        """Take the lock. Raises Failed (kind "busy") where it is held, OSError where the folder cannot be written."""
        self.path = folder / LOCK_FILE
        self._descriptor: int | None = None
        for _ in range(_TRIES):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            held = _lock(descriptor)
            holder = _read(descriptor)
            if held is None:  # no locks on this disk
                held = holder is None or is_stale(holder, socket.gethostname(), runs=_runs, now=time.time())
            if not held:
                os.close(descriptor)
                raise _busy(folder, holder)
            if _is_at(descriptor, self.path):  # not one that its holder removed while we waited
                _write(descriptor)
                self._descriptor = descriptor
                return
            os.close(descriptor)
        raise _busy(folder, None)

    def touch(self) -> None:
        """A sign of life, for other computers."""
        if self._descriptor is not None:
            try:
                os.utime(self.path)
            except OSError:
                pass

    def release(self) -> None:
        """Give the lock back and remove its file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if os.name != "nt" and _is_at(
                descriptor, self.path
            ):  # removed first: nobody can take a lock that goes away
                self.path.unlink(missing_ok=True)
        except OSError:
            pass
        os.close(descriptor)
        if os.name == "nt":
            try:
                self.path.unlink(missing_ok=True)
            except OSError:  # taken by another one already
                pass


def is_stale(holder: Mapping[str, Any], host: str, *, runs: Any, now: float) -> bool:
    """Whether a lock's text names somebody who is gone.

    Args:
        holder: what the lock file says: "pid", "host", "seen" (seconds since 1970).
        host: the name of this computer.
        runs: says of a process number whether such a process runs here.
        now: seconds since 1970.
    """
    if holder.get("host") == host:
        return not runs(int(holder.get("pid", 0)))
    return now - float(holder.get("seen", 0)) > _STALE_S


def _busy(folder: Path, holder: Mapping[str, Any] | None) -> Failed:
    who = (
        "" if holder is None else f" (process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')})"
    )
    return Failed(
        "busy",
        f"Another batch{who} works on the folder {folder.name}.",
        "Wait until it has ended, or choose another folder for the results.",
    )


def _lock(descriptor: int) -> bool | None:
    """Whether the operating system gave the lock; None where the disk knows no locks."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK) else None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _read(descriptor: int) -> dict[str, Any] | None:
    """What the file says, with its last sign of life; None where it says nothing."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        content = json.loads(os.read(descriptor, _LENGTH))
    except ValueError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("pid"), int):
        return None
    return {**content, "seen": os.fstat(descriptor).st_mtime}


def _write(descriptor: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())
    os.ftruncate(descriptor, len(text))


def _runs(pid: int) -> bool:
    """Whether a process of this number runs on this computer; yes where that cannot be found out."""
    if pid <= 0:
        return False
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, and is another user's
        return True
    return True
