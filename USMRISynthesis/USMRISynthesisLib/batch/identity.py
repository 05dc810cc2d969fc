"""Which process this is, in words that another one can read, and whether such a process still runs.

    me = this_process()
    gone(me)                  # False; True once it has ended, None where this machine cannot tell

A process id means nothing on another machine or in another container, and is given again: so the machine, the
container and the moment of the start belong to it.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from typing import Any

from USMRISynthesisLib.worker.owner import is_alive


def machine() -> str:
    """Twelve letters for this machine since its start, and for the container in it."""
    parts = [socket.gethostname()]
    for path, read in (("/proc/sys/kernel/random/boot_id", _text), ("/proc/self/ns/pid", os.readlink)):
        try:
            parts.append(read(path).strip())
        except OSError:
            continue
    return hashlib.sha256("|".join(parts).encode("utf-8", "replace")).hexdigest()[:12]


def started(pid: int) -> str:
    """When a process of this machine began, in the system's own count; empty where that cannot be found out."""
    try:
        return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def this_process() -> dict[str, Any]:
    """This process: host, pid, machine and start."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": machine(), "start": started(os.getpid())}


def gone(process: Mapping[str, Any]) -> bool | None:
    """Whether a process has ended; None where it belongs to another machine, or is not described."""
    pid = process.get("pid")
    if process.get("machine") != machine() or not isinstance(pid, int):
        return None
    return not is_alive(pid) or started(pid) != process.get("start", "")


def _text(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
