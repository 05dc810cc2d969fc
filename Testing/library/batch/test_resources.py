"""How many workers a batch starts: by affinity, control groups of both versions and memory, not by the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from USMRISynthesisLib.batch import resources

GB = 1 << 30


def system(root: Path, cgroup: str, files: dict[str, str], available_kb: int = 64 << 20) -> Path:
    """A made-up `/proc` and `/sys`."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    (root / "proc" / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available_kb} kB\n")
    (root / "sys" / "fs" / "cgroup").mkdir(parents=True)
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "count"),
    [
        ("0::/job\n", {"job/cpu.max": "300000 100000\n"}, 3),
        ("0::/job/step\n", {"job/cpu.max": "250000 100000\n", "job/step/cpu.max": "max 100000\n"}, 2),  # above it
        ("0::/job\n", {"job/cpu.max": "50000 100000\n"}, 1),  # half a processor is one
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/job\n", {}, 16),
        (
            "4:cpu,cpuacct:/job\n3:memory:/job\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("", {}, 16),
    ],
)
def test_processors(
    cgroup: str, files: dict[str, str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    assert resources.processors(system(tmp_path, cgroup, files)) == count


@pytest.mark.parametrize(
    ("cgroup", "files", "free"),
    [
        ("0::/job\n", {"job/memory.max": f"{4 * GB}\n", "job/memory.current": f"{GB}\n"}, 3 * GB),
        ("0::/job\n", {"job/memory.max": "max\n"}, 64 * GB),
        (
            "3:memory:/job\n",
            {"memory/job/memory.limit_in_bytes": f"{2 * GB}\n", "memory/job/memory.usage_in_bytes": f"{3 * GB}\n"},
            0,
        ),
        ("3:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 64 * GB),
    ],
)
def test_memory(cgroup: str, files: dict[str, str], free: int, tmp_path: Path) -> None:
    assert resources.memory(system(tmp_path, cgroup, files)) == free


def test_memory_is_unknown_where_the_system_does_not_say(tmp_path: Path) -> None:
    assert resources.memory(tmp_path) is None and resources.processors(tmp_path) >= 1


@pytest.mark.parametrize(("free", "count"), [(None, 8), (64 * GB, 8), (3 * GB + 1, 3), (0, 1)])
def test_workers_are_as_many_as_memory_holds(free: int | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory", lambda: free)
    monkeypatch.setattr(resources, "processors", lambda: 8)
    assert resources.bounded(100, 1000) == count
