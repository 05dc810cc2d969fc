"""How many processors and how much memory this process may use, by scheduler, container and machine.

`os.cpu_count()` is the machine's, of which a job on a cluster may have one core in sixty.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from USMRISynthesisLib.errors import Refused

# A worker with its models and one volume; see Testing/benchmarks/speed.py.
WORKER_BYTES = 1 << 30
_ROOT = Path("/")


def bounded(workers: int, cases: int) -> int:
    """How many workers are started: no more than processors, memory or work allow. Raises Refused below 1."""
    if workers < 1:
        raise Refused("workers", f"A batch cannot run with {workers} workers.", "Give 1 or more.")
    free = memory()
    by_memory = workers if free is None else free // WORKER_BYTES
    return max(1, min(workers, processors(), by_memory, cases))


def processors(root: Path = _ROOT) -> int:
    """Processors that this process may use, at least 1: by its affinity, and by its control groups' quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota_v2(folder) for folder in _groups(root, "")] + [
        _quota_v1(folder) for folder in _groups(root, "cpu")
    ]
    return max(1, min([affinity, *(math.floor(one) for one in quotas if one is not None)]))


def memory(root: Path = _ROOT) -> int | None:
    """Bytes that are free for this process; None where that cannot be found out (not Linux)."""
    limits = []
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    pairs = [(folder / "memory.max", folder / "memory.current") for folder in _groups(root, "")]
    pairs += [
        (folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes") for folder in _groups(root, "memory")
    ]
    for most, used in pairs:
        limit, taken = _number(most), _number(used)
        if limit is not None and limit < 1 << 60:  # version 1 writes a huge number for none
            limits.append(max(0, limit - int(taken or 0)))
    return int(min(limits)) if limits else None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and those above it. controller: of version 1; empty: version 2."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        mounts = [f"sys/fs/cgroup/{controllers}", f"sys/fs/cgroup/{controller}"] if controller else ["sys/fs/cgroup"]
        for mount in mounts:
            top = root / mount
            if not top.is_dir():
                continue
            inside = Path(path.lstrip("/"))
            yield from (top / one for one in (inside, *inside.parents))
            break


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
