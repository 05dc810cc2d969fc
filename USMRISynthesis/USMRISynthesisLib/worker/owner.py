"""Whether another process lives, and a call when it ends: a worker must not outlive the program it works for.

The end of standard input says the same in ordinary use, but not where another process holds the pipe open.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable

_POLL_S = 0.5
_SYNCHRONIZE = 0x00100000  # the right to wait for a process (Windows)
_TIMED_OUT = 0x00000102
_ACCESS_DENIED = 5


def is_alive(pid: int) -> bool:
    """Whether there is a process of this id, be it another user's. One that has ended and waits for its parent to
    hear of it counts as ended where the system says so (Linux)."""
    if pid <= 0:
        return False
    if sys.platform == "win32":
        return _windows_wait(pid, 0)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists and is not ours
        pass
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[:1] not in ([b"Z"], [b"X"])
    except OSError:
        return True


def when_gone(pid: int, then: Callable[[], None]) -> None:
    """Call `then` once, on a thread of its own, when the process has ended; at once where it has already."""

    def wait() -> None:
        _wait_for_end(pid)
        then()

    threading.Thread(target=wait, name="owner", daemon=True).start()


def _wait_for_end(pid: int) -> None:
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError:  # an older kernel, or one that forbids it
            pass
        else:
            select.select([descriptor], [], [])
            os.close(descriptor)
            return
    if sys.platform == "win32":
        while _windows_wait(pid, 60_000):
            pass
        return
    # A parent that dies is replaced by another one, whatever its old id is used for later.
    parent = os.getppid()
    while is_alive(pid) and not (pid == parent != os.getppid()):
        time.sleep(_POLL_S)


def _windows_wait(pid: int, milliseconds: int) -> bool:
    """Wait that long for the end of a process; whether it still lives."""
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(_SYNCHRONIZE, False, pid)
    if not handle:
        living: bool = ctypes.get_last_error() == _ACCESS_DENIED  # type: ignore[attr-defined,unused-ignore]
        if living and milliseconds:
            time.sleep(_POLL_S)
        return living
    try:
        waited: int = kernel.WaitForSingleObject(ctypes.c_void_p(handle), milliseconds)
        return waited == _TIMED_OUT
    finally:
        kernel.CloseHandle(ctypes.c_void_p(handle))
